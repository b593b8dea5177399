#!/usr/bin/env python3
"""kills.py PROGRAM ROUNDS SEED: kills, at random moments, what belongs to a container.

Each round starts a container, kills with SIGKILL its runtime, its first process, another of its
processes, or an exec into it, and then its runtime if that still runs; after the next `ps`
nothing of it may be left. The rounds have cgroups, a /run and mounts of their own, so that
nothing else on the machine sweeps for them. Prints "ok ROUNDS rounds" at the end, and whatever
is wrong. Needs root and util-linux.
"""

import os
import random
import signal
import subprocess
import sys
import time

CGROUPS = "/sys/fs/cgroup"
PATIENCE = 120


def hierarchies():
    """Each mounted cgroup hierarchy: type, mount point, options."""
    with open("/proc/self/mounts") as mounts:
        fields = [line.split() for line in mounts]
    return [(f[2], f[1], f[3]) for f in fields if f[2] in ("cgroup", "cgroup2")]


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read()


def in_own_cgroups(arguments):
    """Runs this script again below cgroups of its own, and removes them."""
    name = f"lxcfs-rs-kills-{os.getpid()}"
    tops = []
    for kind, place, options in hierarchies():
        top = f"{place}/{name}"
        os.mkdir(top)
        tops.append(top)
        for file in ("cpuset.cpus", "cpuset.mems"):
            if kind == "cgroup" and os.path.exists(f"{top}/{file}"):
                write(f"{top}/{file}", read(f"{place}/{file}"))
    pid = os.fork()
    if pid == 0:
        for top in tops:
            write(f"{top}/cgroup.procs", str(os.getpid()))
        command = ["unshare", "--mount", "--cgroup", "--propagation", "private"]
        os.execvp(command[0], command + [sys.executable, __file__, "inside"] + arguments)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for top in tops:
        until("its cgroups are free", lambda: is_removed(top))
    sys.exit(status)


def is_removed(top):
    """Kills what is in a cgroup and below, and removes what is free."""
    for path, _, _ in os.walk(top, topdown=False):
        try:
            for pid in read(f"{path}/cgroup.procs").split():
                kill(int(pid))
            os.rmdir(path)
        except OSError:
            pass
    return not os.path.exists(top)


def until(what, done):
    """Waits for a state; no test depends on how long that takes."""
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not so after {PATIENCE} s")
        time.sleep(0.002)


def isolate():
    """Mounts this cgroup namespace's hierarchies over the machine's, and an empty /run."""
    for kind, place, options in hierarchies():
        if kind == "cgroup2":
            command = ["mount", "-t", "cgroup2", "cgroup2", place]
        else:
            wanted = [option for option in options.split(",") if option not in
                      ("rw", "ro", "nosuid", "nodev", "noexec", "relatime")]
            command = ["mount", "-t", "cgroup", "-o", ",".join(wanted), "cgroup", place]
        subprocess.run(["umount", "--lazy", place], check=True)
        subprocess.run(command, check=True)
        if kind == "cgroup2":
            # A cgroup with processes of its own has no controllers for its children.
            os.mkdir(f"{place}/self")
            write(f"{place}/self/cgroup.procs", str(os.getpid()))
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)


def container_cgroups():
    tops = [f"{place}/lxcfs-rs" for _, place, _ in hierarchies()]
    return [top for top in tops if os.path.exists(top)]


def processes():
    """All that run in these cgroups, but this process; the dead do not run."""
    found = set()
    for _, place, _ in hierarchies():
        for path, _, _ in os.walk(place):
            found.update(int(pid) for pid in read(f"{path}/cgroup.procs").split())
    found.discard(os.getpid())
    found.discard(0)
    return {pid for pid in found if is_running(pid)}


def is_running(pid):
    try:
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    try:
        return [int(child) for child in read(f"/proc/{pid}/task/{pid}/children").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid):
    found = []
    for child in children(pid):
        found += [child] + descendants(child)
    return found


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Rounds:
    def __init__(self, program, rounds, seed):
        self.program = program
        self.rounds = rounds
        self.random = random.Random(seed)
        self.mounts = set(read("/proc/self/mountinfo").splitlines())

    def ps(self):
        listed = subprocess.run([self.program, "ps", "-q"], capture_output=True, text=True,
                                stdin=subprocess.DEVNULL)
        assert listed.returncode == 0 and listed.stderr == "", f"ps: {listed}"
        return listed.stdout

    def pause(self, longest):
        """Some moment of what goes on meanwhile: most often an early one."""
        time.sleep(self.random.random() ** 2 * longest)

    def all(self):
        for number in range(self.rounds):
            victim = self.random.choice(["runtime", "first", "other", "descendant", "exec", "execd"])
            try:
                self.round(number, victim)
            except AssertionError as error:
                raise AssertionError(f"round {number}, {victim}: {error}")

    def round(self, number, victim):
        options = self.random.choice([[], ["-t"], ["-m", "64m"]])
        script = "echo ready; sleep 1000 & sleep 1000 & wait"
        command = [self.program, "run", "--name", f"kills-{number}", *options, "--", "sh", "-c", script]
        runtime = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)
        is_up = victim != "runtime" and victim != "descendant"
        if is_up:
            assert runtime.stdout.readline().strip() == b"ready"
            until("it is listed", lambda: self.ps())
        if victim in ("runtime", "descendant"):
            self.pause(0.08)
        if victim == "descendant":
            # Whatever there is: the container's own daemon, a first process that sets up, ...
            alive = descendants(runtime.pid)
            if alive:
                kill(self.random.choice(alive))
                self.pause(0.02)
        elif victim == "first":
            kill(self.first(runtime.pid))
            runtime.wait(PATIENCE)
            assert runtime.returncode == 137, runtime.returncode
        elif victim == "other":
            first = self.first(runtime.pid)
            until("it has children", lambda: children(first))
            kill(self.random.choice(children(first)))
            self.pause(0.02)
            assert self.ps(), "the container ended with its child"
        elif victim in ("exec", "execd"):
            command = [self.program, "exec", f"kills-{number}", "sh", "-c", "sleep 1000 & sleep 1000"]
            execution = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.pause(0.03)
            if victim == "execd":
                for pid in descendants(execution.pid)[:1]:
                    kill(pid)
            if victim == "exec" or self.random.random() < 0.5:
                kill(execution.pid)
            else:
                # The end of the container is the end of what was executed in it.
                kill(self.first(runtime.pid))
                runtime.wait(PATIENCE)
            execution.wait(PATIENCE)
            if runtime.poll() is None:
                assert self.ps(), "the container ended with the exec"
        kill(runtime.pid)
        runtime.wait(PATIENCE)
        runtime.stdout.close()
        self.nothing_is_left()

    def first(self, runtime):
        """The container's first process: it is in another pid namespace."""
        own = os.readlink("/proc/self/ns/pid")
        inside = [pid for pid in children(runtime) if os.readlink(f"/proc/{pid}/ns/pid") != own]
        assert len(inside) == 1, inside
        return inside[0]

    def nothing_is_left(self):
        listed = self.ps()
        assert listed == "", f"ps lists {listed}"
        assert container_cgroups() == [], f"cgroups {container_cgroups()}"
        left = [path for path, _, _ in os.walk("/run")]
        assert set(left) <= {"/run", "/run/lxcfs-rs"}, f"directories {left}"
        # Of those that were copied with the namespace, some may go with their directory, and other
        # tests' daemons give theirs a living filesystem for a dead one.
        mounts = set(read("/proc/self/mountinfo").splitlines()) - self.mounts
        mounts = [mount for mount in mounts if "/lxcfs-rs-session-" not in mount.split()[4]]
        assert not mounts, f"mounts {mounts}"
        # A child of the runtime that was not in the container dies with it, not before it.
        until(f"no process {processes()}", lambda: not processes())


def main():
    arguments = sys.argv[1:]
    if arguments[0] != "inside":
        in_own_cgroups(arguments)
    program, rounds, seed = arguments[1], int(arguments[2]), int(arguments[3])
    print(f"seed {seed}", flush=True)
    isolate()
    Rounds(program, rounds, seed).all()
    print(f"ok {rounds} rounds")


main()
