"""What must hold for a container's files on cgroup v2 whatever happens: beside
it, or to it. observer.py, which is started inside, judges what it reads."""

import os
import random
import re
import signal
import subprocess
import time

from guest.container import Container
from guest.host import CGROUPS, MOUNTPOINT, PATIENCE, Daemon, pairs, read

MIB = 1 << 20
OBSERVER = f"{os.path.dirname(os.path.abspath(__file__))}/observer.py"
FULL = "LXCFS_RS_FULL" in os.environ
# Where this program is counted.
OWN_CGROUP = "system"


def lasting(short, full):
    """Until when to observe."""
    return time.monotonic() + (full if FULL else short)


class Observer:
    """A running observer.py."""

    def __init__(self, container, what, *account, **options):
        self.process = container.start("python3", OBSERVER, what, MOUNTPOINT, *account,
                                       stdin=subprocess.PIPE, **options)
        first = self.process.stdout.readline()
        assert first.startswith("ready"), first

    def look(self, below):
        """What has moved there that may not."""
        self.process.stdin.write(f"{below}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self):
        """What it says when nothing more is asked of it."""
        text, _ = self.process.communicate(timeout=PATIENCE)
        return text.strip()


def until(what, done):
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, f"{what}: not so in time"
        time.sleep(0.2)


# Uses CPUs, more memory than it may, so that it swaps, the page cache, and the disk past it.
LOAD = """
stress-ng --quiet --cpu 1 --vm 1 --vm-bytes 130M --hdd 1 --hdd-bytes 16M --temp-path /var/tmp &
while :; do
    dd if=/dev/zero of=/var/tmp/direct bs=64k count=64 oflag=direct 2>/dev/null
    dd if=/var/tmp/direct of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null
done
"""


def transferred(container):
    """Bytes to and from all disks."""
    return sum(int(number) for number in re.findall(r"[rw]bytes=(\d+)", container.read("io.stat")))


def is_busy(container):
    return (pairs(container.read("cpu.stat"))["usage_usec"] > 1e6
            and int(container.read("memory.current")) > 50 * MIB
            and int(container.read("memory.swap.current")) > 10 * MIB
            and transferred(container) > 32 * MIB)


def test_beside_a_busy_container_nothing_of_an_idle_one_moves():
    for_busy = {"busy/c": {"memory.max": 90 * MIB, "cpu.max": "250000 100000"}}
    for_idle = {"idle/c": {"memory.max": 60 * MIB, "memory.swap.max": 0, "cpu.max": "150000 100000"}}
    with Daemon(), Container("busy/c", for_busy) as busy, Container("idle/c", for_idle) as idle:
        # Something to see of each kind.
        idle.output("dd", "if=/dev/vda", "of=/dev/null", "count=9", "iflag=direct", "status=none")
        # Whatever that charged and nobody uses, and what the kernel charged in advance.
        idle.write("idle/c", "memory.high", 0)
        idle.write("idle/c", "memory.high", "max")
        idle.write("idle/c", "memory.swap.max", 30 * MIB)
        until("asleep", lambda: ") S " in read(f"/proc/{idle.init}/stat"))
        account = [f"{CGROUPS}/idle/c/memory.{name}" for name in ("current", "stat", "swap.current")]
        observer = Observer(idle, "neighbour", *account, cgroup=OWN_CGROUP)
        other = Observer(busy, "neighbour", cgroup=OWN_CGROUP)
        observer.look(".")
        other.look("proc")
        load = busy.start("sh", "-c", LOAD)
        until("busy", lambda: is_busy(busy))
        end, looks, below = lasting(8, 30), 0, "proc"
        while below == "proc" or found != "ok":
            # The trees, of hundreds of files, in the end.
            below = "proc" if time.monotonic() < end or looks < 3 else "."
            found = observer.look(below)
            looks += found == "ok"
            assert found in ("ok", "again"), found
        # The same eyes see what moved in the other one.
        found = other.look("proc")
        for file in ("stat", "meminfo", "vmstat", "diskstats", "swaps"):
            assert f'"proc/{file}: ' in found, f"{file}: {found}"
        load.kill()
        observer.end()
        other.end()


# Four processes that now use a CPU, now memory and now nothing.
CHANGING = """
import os, random, sys, time
for worker in range(3):
    if os.fork() == 0:
        break
random.seed(int(sys.argv[1]) + worker)
os.nice(worker)
while True:
    end = time.monotonic() + random.random()
    what = random.randrange(3)
    held = None
    held = bytearray(random.randrange(20 << 20)) if what == 0 else None
    while what == 1 and time.monotonic() < end:
        pass
    time.sleep(max(0, end - time.monotonic()))
"""


def change(chance, container, daemon):
    """Gives the container other limits, or the files another daemon; whether the latter."""
    what = chance.randrange(100)
    if what < 35:
        quota = chance.choice(["max", 20000, 50000, 100000, 130000, 250000, 400000])
        container.write(container.path, "cpu.max", f"{quota} 100000")
    elif what < 60:
        container.write(container.path, "cpuset.cpus", chance.choice(["0", "3", "1-2", "0,2-3", "0-3", "0-3"]))
    elif what < 75:
        container.write(container.path, "memory.max", chance.randrange(48, 200) * MIB)
    elif what < 90:
        container.write(container.path, "memory.swap.max", chance.choice(["max", chance.randrange(140, 300) * MIB]))
    else:
        daemon.restart(chance.choice([signal.SIGKILL, signal.SIGTERM]))
        return True
    return False


def test_the_laws_hold_while_limits_change_and_daemons_end():
    seed = time.time_ns() % 10**9
    print(f"# seed {seed}", flush=True)
    chance = random.Random(seed)
    limits = {"laws/c": {"memory.max": 200 * MIB, "cpuset.cpus": "0-3"}}
    # That sees what later daemons mount: mounts of its own would not be healed yet.
    with Daemon() as daemon, Container("laws/c", limits, propagation="slave") as container:
        load = container.start("python3", "-c", CHANGING, str(seed))
        observer = Observer(container, "laws", cgroup=OWN_CGROUP)
        end, restarts = lasting(8, 60), 0
        while (time.monotonic() < end or restarts < 3) and observer.process.poll() is None:
            restarts += change(chance, container, daemon)
            time.sleep(chance.random())
        said = observer.end()
        load.kill()
        assert said.startswith("ok "), f"seed {seed}: {said}"
        assert int(said.split()[1]) > restarts, f"seed {seed}: {said}, of {restarts} daemons"


SPIN = ("sh", "-c", "while :; do :; done")


def reported(container, seconds):
    """What top and mpstat in the container say of all its CPUs: {program: (busy, stolen)}, in percent of one."""
    interval = str(seconds)
    top = container.output("env", "LC_ALL=C", "top", "-b", "-n2", f"-d{interval}", cgroup=OWN_CGROUP)
    line = [line for line in top.splitlines() if line.startswith("%Cpu(s):")][-1]
    fields = {name: float(value) for value, name in re.findall(r"(-?[\d.]+) (\w\w)\b", line)}
    programs = {"top": [fields]}
    text = container.output("env", "LC_ALL=C", "S_TIME_FORMAT=ISO", "mpstat", "-P", "ALL", interval, "1",
                            cgroup=OWN_CGROUP)
    lines = [line.split() for line in text.splitlines() if line.startswith("Average:")]
    names = [{"%usr": "us", "%nice": "ni", "%sys": "sy", "%steal": "st", "%idle": "id"}.get(name, name)
             for name in lines[0]]
    rows = [dict(zip(names[2:], map(float, words[2:]))) for words in lines[1:] if words[1] != "all"]
    programs["mpstat"] = rows
    for name, cpus in programs.items():
        for cpu in cpus:
            assert all(0 <= value <= 100 for value in cpu.values()), (name, cpu)
    return {name: [(cpu["us"] + cpu["ni"] + cpu["sy"], cpu["st"]) for cpu in cpus] for name, cpus in programs.items()}


def while_the_kernel_counts(container, share, work):
    """Does `work` until the container ran for about `share` of the time that it took, by the
    kernel's own count: on a machine that is too busy it gets less than its quota."""
    def ran():
        return pairs(container.read("cpu.stat"))["usage_usec"] / 1e6

    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        before, began = ran(), time.monotonic()
        result = work()
        found = (ran() - before) / (time.monotonic() - began)
        if abs(found / share - 1) < 0.04:
            return result
    raise AssertionError(f"the container never ran for {share} of the time; last: {found}")


def test_programs_report_half_a_cpu():
    with Daemon(), Container("half/c", {"half/c": {"cpu.max": "50000 100000"}}) as container:
        loop = container.start(*SPIN)
        shown = while_the_kernel_counts(container, 0.5, lambda: reported(container, 4))
        for program, cpus in shown.items():
            (busy, stolen), = cpus
            assert 45 <= busy <= 55, (program, busy, stolen)
            assert stolen >= (100 - busy) * 0.8, (program, busy, stolen)
        loop.kill()
