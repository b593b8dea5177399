"""The package under a systemd that has booted the machine: installed in the place
of lxcfs, restarted, upgraded, stopped, removed. No read fails, but before Linux 6.9
with ECONNABORTED one that is being answered while the worker ends."""

import errno
import glob
import json
import os
import platform
import signal
import subprocess
import time

from guest.container import Container
from guest.docker import TOTAL, Engine
from guest.host import CGROUPS, MOUNTPOINT, PATIENCE, equal, output, read

UNIT = "lxcfs-rs.service"
CONFIGURATION = "/etc/lxcfs-rs.toml"
MAY_FAIL = {errno.ECONNABORTED} if tuple(map(int, platform.release().split(".")[:2])) < (6, 9) else set()
# The guest has no program that would load AppArmor's profile.
UNCONFINED = "--security-opt=apparmor=unconfined"
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


def program():
    return os.readlink(f"/proc/{main_pid()}/exe")


def configure(option):
    """Has the option at the end of the file, in the place of another one."""
    text = read(CONFIGURATION)
    lines = [line for line in text.splitlines() if line.startswith("#") or not line]
    with open(CONFIGURATION, "w", encoding="utf-8") as file:
        file.write("\n".join([*lines, option, ""]))


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


def state(unit):
    return subprocess.run(["systemctl", "is-active", unit], capture_output=True, text=True, check=False).stdout.strip()


def journal():
    """What the service has said."""
    output("journalctl", "--sync")
    return output("journalctl", "--unit", UNIT, "--output=cat")


def served():
    """What is mounted where both serve."""
    return [line.split()[2] for line in read("/proc/self/mounts").splitlines() if line.split()[1] == MOUNTPOINT]


def test_installed_it_takes_the_place_of_lxcfs():
    assert os.path.getsize(FIRST[0]) <= 5 << 20, "the package is larger than 5 MB"
    output("systemctl", "start", "lxcfs")
    with Engine("/docker-of-lxcfs") as docker:
        eventually("lxcfs serves", served)
        docker.start("lxcfs-rs-left", "--memory=300m", UNCONFINED)
        equal("by lxcfs", docker.total("lxcfs-rs-left"), "307200\n")
        output("dpkg", "--install", *FIRST)
        equal("the service", state(UNIT), "active")
        equal("it is enabled", output("systemctl", "is-enabled", UNIT), "enabled\n")
        # It ends with status 1 when it is told to.
        assert state("lxcfs.service") in ("failed", "inactive"), state("lxcfs.service")
        equal("lxcfs", subprocess.run(["pgrep", "-x", "lxcfs"], capture_output=True, text=True, check=False).stdout, "")
        assert not os.path.exists("/usr/share/doc/lxcfs"), "the package of lxcfs is there"
        equal("mounts", served(), ["fuse.lxcfs"])

        def healed():
            command = [*docker.docker, "exec", "lxcfs-rs-left", "sh", "-c", TOTAL]
            return subprocess.run(command, capture_output=True, text=True, check=False).stdout == "307200\n"

        eventually("the container of lxcfs is healed", healed)


def test_systemd_has_nothing_to_say_about_the_unit():
    equal("warnings", output("systemd-analyze", "verify", "--man=no", UNIT), "")
    path = shown("FragmentPath")
    findings = json.loads(output("systemd-analyze", "security", "--offline=true", "--threshold=50", "--json=short", path))
    named = {finding["name"].split("=")[0].split("/")[0] for finding in findings if finding["exposure"] and not finding["set"]}
    equal("what the unit has no word about", sorted(name for name in named if name not in read(path)), [])


def test_restarts_kills_and_upgrades_lose_nothing():
    os.makedirs(f"{CGROUPS}/system", exist_ok=True)
    containers = [Container(f"reader{number}", {f"reader{number}": {"memory.max": (100 + number) << 20}}) for number in range(4)]
    started = []
    try:
        for number, container in enumerate(containers):
            started.append(container.__enter__())
            container.reader = container.start("python3", "-c", READER, str((100 + number) << 10))
            equal("reader", container.reader.stdout.readline(), "ready\n")
        before = main_pid()
        # A restart would end it here.
        configure("workers = 'x'")
        output("dpkg", "--install", *SECOND)
        equal("main process after the upgrade", main_pid(), before)
        assert program().endswith(" (deleted)"), "a program that would not start was started"
        assert read(CONFIGURATION).endswith("workers = 'x'\n"), "the changed configuration was replaced"
        configure("workers = 3")
        output("systemctl", "reload", UNIT)
        equal("main process after the reload", main_pid(), before)
        equal("program", program(), "/usr/bin/lxcfs-rs")
        assert f"serving {MOUNTPOINT} with 3 workers" in journal()
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
            assert reads > 0 and set(failed) <= MAY_FAIL, f"of {reads} reads failed {failed}"
            print(f"# {reads} reads, {len(failed)} of them failed", flush=True)
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


def test_it_does_not_start_over_a_daemon_that_lives():
    output("systemctl", "stop", UNIT)
    output("systemd-run", "--quiet", "--unit=foreign", "/usr/bin/lxcfs", MOUNTPOINT)
    eventually("the other one serves", served)
    assert subprocess.run(["systemctl", "start", UNIT], capture_output=True, check=False).returncode, "it started"
    assert state(UNIT) != "active", "it started then"
    line = f"{MOUNTPOINT}: in use by a live daemon (fuse.lxcfs); stop it first or choose another mountpoint"
    assert line in journal(), "no word of why"
    equal("the other one", state("foreign"), "active")
    assert read(f"{MOUNTPOINT}/proc/meminfo").startswith("MemTotal:")
    # Twenty starts within ten seconds are the last; a slow machine goes on trying.
    output("systemctl", "stop", UNIT, "foreign")
    subprocess.run(["systemctl", "reset-failed", UNIT], capture_output=True, check=False)
    output("systemctl", "start", UNIT)
    equal("mounts", served(), ["fuse.lxcfs"])


def test_docker_with_the_printed_flags():
    with Engine("/docker") as docker:
        flags = output("lxcfs-rs", "print", "docker").split()
        equal("MemTotal", docker("run", "--network=none", UNCONFINED, "--memory=300m", *flags, "box", "sh", "-c", TOTAL), "307200\n")


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
