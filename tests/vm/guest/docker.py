"""A real Docker on pure cgroup v2: who is asking, by each way that leads into a
container. Containers have busybox alone."""

import os
import subprocess
import time

from guest.host import CGROUPS, CPU, MOUNTPOINT, PATIENCE, Daemon, equal, output

TOTAL = "awk 'NR == 1 {print $2}' /proc/meminfo"
FILES = [f"--volume={MOUNTPOINT}/{path}:/{path}:ro"
         for path in ("proc/meminfo", "proc/cpuinfo", "proc/stat", "proc/uptime", "proc/loadavg", CPU)]


class Engine:
    """dockerd and an image, from start to end; `directory` is all that it uses."""

    def __init__(self, directory):
        self.directory = directory
        self.docker = ["docker", f"--host=unix://{directory}/socket"]

    def __enter__(self):
        os.makedirs(f"{self.directory}/root/bin")
        self.log = open(f"{self.directory}/log", "w", encoding="utf-8")
        self.process = self.dockerd()
        try:
            deadline = time.monotonic() + PATIENCE
            while subprocess.run([*self.docker, "version"], capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline, self.said()
                # It gives its containerd 15 seconds to start, which is little where code is emulated.
                if self.process.poll() is not None:
                    self.process = self.dockerd()
                time.sleep(0.2)
            output("cp", "/bin/busybox", f"{self.directory}/root/bin/busybox")
            output("chroot", f"{self.directory}/root", "/bin/busybox", "--install", "-s", "/bin")
            output("sh", "-c", f"tar -C {self.directory}/root -c . | {' '.join(self.docker)} import - box")
        except BaseException:
            self.__exit__()
            raise
        return self

    def dockerd(self):
        return subprocess.Popen(
            ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=overlay2",
             "--exec-opt=native.cgroupdriver=cgroupfs",
             f"--data-root={self.directory}/data", f"--exec-root={self.directory}/state",
             f"--pidfile={self.directory}/pid", f"--host=unix://{self.directory}/socket"],
            stdout=self.log, stderr=self.log)

    def said(self):
        with open(f"{self.directory}/log", encoding="utf-8") as log:
            return log.read()[-1000:]

    def __call__(self, *arguments):
        return output(*self.docker, *arguments)

    def start(self, name, *options):
        self("run", "--detach", "--network=none", f"--name={name}", *FILES, *options, "box", "sleep", "100000")

    def exec(self, name, script):
        return self("exec", name, "sh", "-c", script)

    def total(self, name):
        return self.exec(name, TOTAL)

    def __exit__(self, *_):
        listed = subprocess.run([*self.docker, "ps", "--all", "--quiet"], capture_output=True, text=True, check=False)
        for container in listed.stdout.split():
            subprocess.run([*self.docker, "rm", "--force", container], capture_output=True, check=False)
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.log.close()


def test_limits_and_every_way_in():
    with Daemon(), Engine("/docker") as docker:
        for cgroupns in ("private", "host"):
            name = f"limited-{cgroupns}"
            docker.start(name, "--memory=300m", "--cpus=1.5", "--cpuset-cpus=1-3", f"--cgroupns={cgroupns}")
            pid = docker("inspect", "--format={{.State.Pid}}", name).strip()
            equal("exec", docker.total(name), "307200\n")
            equal("CPUs", docker.exec(name, f"grep ^processor /proc/cpuinfo | cut -d: -f2; cat /{CPU}/online"),
                  " 1\n 2\n1-2\n")
            equal("age", docker.exec(name, "awk '{print ($1 < 600)}' /proc/uptime"), "1\n")
            equal("loadavg", docker.exec(name, "awk '{print NF}' /proc/loadavg"), "5\n")
            # With all of its namespaces and the host's cgroup; without the cgroup namespace.
            enter = ["nsenter", "--target", pid, "--mount", "--pid"]
            equal("nsenter", output(*enter, "--cgroup", "/bin/sh", "-c", TOTAL), "307200\n")
            equal("nsenter", output(*enter, "/bin/sh", "-c", TOTAL), "307200\n")
            docker("update", "--memory=250m", "--memory-swap=500m", name)
            equal("update", docker.total(name), "256000\n")

            # In its pid namespace, and in the host's, a container is still its own.
            for pid_namespace in (f"container:{name}", "host"):
                for own in ("private", "host"):
                    docker.start("other", "--memory=200m", f"--pid={pid_namespace}", f"--cgroupns={own}")
                    equal(f"--pid={pid_namespace} --cgroupns={own}", docker.total("other"), "204800\n")
                    docker("rm", "--force", "other")
            equal("beside it", docker.total(name), "256000\n")


def print_inner_totals():
    """In a container: what those of a Docker in it are shown."""
    # As its image does it: a cgroup with processes has no controllers for those below it.
    os.mkdir(f"{CGROUPS}/init")
    output("sh", "-c", f"for pid in $(cat {CGROUPS}/cgroup.procs); do echo $pid >{CGROUPS}/init/cgroup.procs; done; true")
    with open(f"{CGROUPS}/cgroup.subtree_control", "w", encoding="ascii") as file:
        file.write("+cpu +cpuset +memory +io +pids")
    with Engine("/inner") as docker:
        for cgroupns in ("private", "host"):
            print(docker("run", "--network=none", *FILES, "--memory=100m", f"--cgroupns={cgroupns}", "box",
                         "sh", "-c", TOTAL), end="")


def test_docker_in_docker_is_the_innermost():
    with Daemon(), Engine("/outer") as docker:
        os.makedirs("/inner")
        docker.start("outer", "--memory=400m", "--privileged", "--volume=/usr:/usr:ro", "--volume=/lib:/lib:ro",
                     "--volume=/lib64:/lib64:ro", "--volume=/sbin:/sbin:ro", "--volume=/inner:/inner",
                     "--volume=/payload:/payload:ro", f"--volume={MOUNTPOINT}:{MOUNTPOINT}:ro", "--volume=/etc:/etc:ro")
        shown = docker("exec", "outer", "/usr/bin/python3", "-c", "import sys; sys.path.insert(0, '/payload')\n"
                       "from guest.docker import print_inner_totals; print_inner_totals()")
        equal("the inner ones", shown, "102400\n102400\n")
        equal("the outer one", docker.total("outer"), "409600\n")


def test_a_service_of_the_host_with_a_limit():
    limited = f"{CGROUPS}/limited.service"
    os.mkdir(limited)
    try:
        with open(f"{limited}/memory.max", "w", encoding="ascii") as file:
            file.write("150M")
        with Daemon():
            script = f"echo $$ >{limited}/cgroup.procs; head -n1 {MOUNTPOINT}/proc/meminfo"
            equal("MemTotal", output("sh", "-c", script).split()[1], str(150 * 1024))
    finally:
        while os.path.exists(limited):
            try:
                os.rmdir(limited)
            except OSError:
                time.sleep(0.1)
