"""The virtual machine itself is what the other groups take it for."""

import os
import subprocess

from guest.host import CGROUPS, output, read, uptime


def test_cgroup2_is_the_only_hierarchy():
    kinds = [line.split(" - ")[1].split()[0] for line in read("/proc/self/mountinfo").splitlines()]
    assert kinds.count("cgroup2") == 1 and "cgroup" not in kinds, kinds


def test_controllers_are_enabled_for_children():
    enabled = set(read(f"{CGROUPS}/cgroup.subtree_control").split())
    missing = {"cpu", "cpuset", "memory", "io", "pids", "hugetlb"} - enabled
    assert not missing, f"not enabled: {missing}"


def test_pressure_is_accounted():
    assert read("/proc/pressure/cpu").startswith("some ")


def test_time_namespace_has_its_own_boottime():
    before = uptime()
    inside = float(output("unshare", "--time", "--boottime", "86400", "--fork", "cat", "/proc/uptime").split()[0])
    after = uptime()
    assert before + 86400 <= inside <= after + 86400, (before, inside, after)


def test_overlay_can_be_mounted():
    script = """
        mkdir /tmp/upper /tmp/work /tmp/merged
        mount -t overlay overlay -o lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work /tmp/merged
        echo changed >/tmp/merged/etc/hostname
        cat /tmp/upper/etc/hostname
    """
    assert output("unshare", "--mount", "sh", "-ec", script) == "changed\n"


def test_fuse_device_exists():
    os.close(os.open("/dev/fuse", os.O_RDWR))


def test_swap_is_on():
    assert len(read("/proc/swaps").splitlines()) == 2


def test_memory_limit_is_enforced():
    group = f"{CGROUPS}/enforced"
    os.mkdir(group)
    try:
        for name, value in (("memory.max", "20M"), ("memory.swap.max", "0")):
            with open(f"{group}/{name}", "w", encoding="ascii") as file:
                file.write(value)
        script = f"echo $$ >{group}/cgroup.procs; exec python3 -c 'bytearray(64 << 20)'"
        assert subprocess.run(["sh", "-c", script], check=False).returncode == -9
    finally:
        os.rmdir(group)
