"""The flags of `lxcfs-rs run` on pure cgroup v2, checked against the cgroup's
files; on v1 the privileged tier compares them with Docker's."""

from guest.host import equal
from guest.run import output, run

MIB = 1 << 20


def files(flags, *names):
    """What the files of the container's cgroup say, one string each."""
    script = "cd /sys/fs/cgroup; for file; do cat $file; done"
    return output(*flags, "--", "sh", "-c", script, "sh", *names).splitlines()


def test_limits_stand_in_the_cgroups_files():
    unlimited = ["max", "max"]
    for flags, name, expected in (
            (["-m", "64m"], "memory.max memory.swap.max", [str(64 * MIB)] * 2),
            (["-m", "1.5g"], "memory.max memory.swap.max", [str(1536 * MIB)] * 2),
            (["-m", "0"], "memory.max memory.swap.max", unlimited),
            (["-m", "64m", "--memory-swap", "64m"], "memory.max memory.swap.max", [str(64 * MIB), "0"]),
            (["-m", "64m", "--memory-swap", "100m"], "memory.max memory.swap.max", [str(64 * MIB), str(36 * MIB)]),
            (["-m", "64m", "--memory-swap", "-1"], "memory.max memory.swap.max", [str(64 * MIB), "max"]),
            (["--memory-swap", "-1"], "memory.max memory.swap.max", unlimited),
            (["--cpus", "0.5"], "cpu.max", ["50000 100000"]),
            (["--cpu-quota", "50000"], "cpu.max", ["50000 100000"]),
            (["--cpu-quota", "-1"], "cpu.max", ["max 100000"]),
            (["--cpu-period", "50000"], "cpu.max", ["max 50000"]),
            (["--cpu-quota", "1000", "--cpu-period", "1000"], "cpu.max", ["1000 1000"]),
            (["--cpuset-cpus", "0,2"], "cpuset.cpus cpuset.cpus.effective", ["0,2"] * 2),
            (["--pids-limit", "5"], "pids.max", ["5"]),
            (["--pids-limit", "-1"], "pids.max", ["max"])):
        equal(f"{name} with {flags}", files(flags, *name.split()), expected)


def test_one_process_may_not_fork():
    done = run("--pids-limit", "1", "--", "sh", "-c", "true & wait")
    assert done.returncode == 2 and "Cannot fork" in done.stderr, (done.returncode, done.stderr)
