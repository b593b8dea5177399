"""The package under a systemd that has booted the machine: installed, restarted,
upgraded, stopped, removed. The kernel is older than 6.9: a read that is being
answered while the worker ends fails with ECONNABORTED, and no other."""

import errno
import glob
import json
import os
import signal
import subprocess
import time

from guest.container import Container
from guest.docker import TOTAL, Engine
from guest.host import CGROUPS, MOUNTPOINT, PATIENCE, equal, output, read

UNIT = "lxcfs-rs.service"
FIRST, SECOND = (glob.glob(f"/payload/lxcfs-rs_{version}_*.deb") for version in ("0.0.1", "0.0.2"))

# Reads until there is a file /tmp/stop, by opening and by what was opened at the
# start; then prints how often, and how it failed.
READER = """
import json, os, sys
total, reads, failed = sys.argv[1], 0, []
kept = os.open('/proc/meminfo', os.O_RDONLY)
def fresh():
    with open('/proc/meminfo') as file:
        return file.read()
def again():
    return os.pread(kept, 65536, 0).decode()
print('ready', flush=True)
while not os.path.exists('/tmp/stop'):
    for act in (fresh, again):
        try:
            text = act()
            if text.split()[1] != total:
                failed.append(text[:100])
        except OSError as error:
            failed.append(error.errno)
        reads += 1
print(json.dumps([reads, failed]))
"""


def eventually(what, done):
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"{what}: not so after {PATIENCE} s"
        time.sleep(0.1)


def shown(name):
    return output("systemctl", "show", "--value", f"--property={name}", UNIT).strip()


def main_pid():
    return int(shown("MainPID"))


def worker():
    pid = main_pid()
    children = read(f"/proc/{pid}/task/{pid}/children").split()
    workers = [child for child in children if read(f"/proc/{child}/comm").strip() == "lxcfs-rs-worker"]
    return int(workers[0]) if workers else None


def is_serving():
    return shown("ActiveState") == "active" and worker() is not None


def kill(pid):
    """One of the daemon's processes; returns when another one is in its place."""
    before = main_pid(), worker()
    os.kill(pid, signal.SIGKILL)
    eventually("another process", lambda: is_serving() and worker() != before[1])


def first_line(container):
    """Of meminfo; or the errno."""
    script = "try: print(open('/proc/meminfo').readline().split()[1])\nexcept OSError as error: print(error.errno)"
    return container.output("python3", "-c", script).strip()


def test_installed_it_serves():
    os.makedirs(f"{CGROUPS}/system", exist_ok=True)
    assert os.path.getsize(FIRST[0]) <= 5 << 20, "the package is larger than 5 MB"
    output("dpkg", "--install", *FIRST)
    equal("the service", output("systemctl", "is-active", UNIT), "active\n")
    equal("it is enabled", output("systemctl", "is-enabled", UNIT), "enabled\n")
    equal("warnings", output("systemd-analyze", "verify", "--man=no", UNIT), "")


def test_docker_with_the_printed_flags():
    with Engine("/docker") as docker:
        flags = output("lxcfs-rs", "print", "docker").split()
        equal("MemTotal", docker("run", "--network=none", "--security-opt=apparmor=unconfined", "--memory=300m", *flags, "box", "sh", "-c", TOTAL), "307200\n")


def test_restarts_kills_and_upgrades_lose_nothing():
    containers = [Container(f"reader{number}", {f"reader{number}": {"memory.max": (100 + number) << 20}}) for number in range(4)]
    started = []
    try:
        for number, container in enumerate(containers):
            started.append(container.__enter__())
            container.reader = container.start("python3", "-c", READER, str((100 + number) << 10))
            equal("reader", container.reader.stdout.readline(), "ready\n")
        before = main_pid()
        output("dpkg", "--install", *SECOND)
        equal("main process after the upgrade", main_pid(), before)
        equal("program", os.readlink(f"/proc/{before}/exe"), "/usr/bin/lxcfs-rs")
        eventually("it serves", is_serving)
        for _ in range(3):
            output("systemctl", "restart", UNIT)
            kill(worker())
            kill(main_pid())
        with open("/tmp/stop", "w", encoding="ascii"):
            pass
        for container in containers:
            text, _ = container.reader.communicate(timeout=PATIENCE)
            reads, failed = json.loads(text)
            assert reads > 0 and set(failed) <= {errno.ECONNABORTED}, f"of {reads} reads failed {failed}"
            print(f"# {reads} reads, {len(failed)} of them aborted", flush=True)
        status = json.loads(output("lxcfs-rs", "status", "--json"))
        equal("connections made anew", status["reconnections"], 0)

        output("systemctl", "stop", UNIT)
        for container in containers:
            equal("after a stop", first_line(container), str(errno.ENOTCONN))
        output("systemctl", "start", UNIT)
        for number, container in enumerate(containers):
            eventually("it is healed", lambda: first_line(container) == str((100 + number) << 10))
    finally:
        for container in started:
            container.__exit__()


def test_removed_nothing_is_left():
    files = [path for path in output("dpkg", "--listfiles", "lxcfs-rs").split("\n") if os.path.isfile(path)]
    assert "/usr/bin/lxcfs-rs" in files and "/usr/bin/lxcfs" in files, files
    output("dpkg", "--purge", "lxcfs-rs")
    equal("files", [path for path in files if os.path.lexists(path)], [])
    equal("mounts", [line for line in read("/proc/self/mounts").splitlines() if "lxcfs" in line], [])
    for path in (MOUNTPOINT, "/run/lxcfs-rs", f"/etc/systemd/system/multi-user.target.wants/{UNIT}"):
        assert not os.path.lexists(path), path
    equal("processes", subprocess.run(["pgrep", "lxcfs"], capture_output=True, text=True, check=False).stdout, "")
    output("systemctl", "daemon-reload")
    equal("unit", shown("LoadState"), "not-found")
