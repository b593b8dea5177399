"""/proc/pressure on pure cgroup v2: the container's own, and triggers on it."""

import time

from guest.container import Container
from guest.host import MOUNTPOINT, PATIENCE, Daemon, equal, output, read

RESOURCES = ("cpu", "io", "memory")

SPIN = ("taskset", "-c", "0", "python3", "-c", "while True: pass")

# Sets a trigger, says so, and says what poll(2) tells.
WAIT = """
import os, select, sys
file = os.open(sys.argv[1], os.O_RDWR | os.O_NONBLOCK)
os.write(file, b"some 1000000 2000000\\0")
poller = select.poll()
poller.register(file, select.POLLPRI)
print("set", flush=True)
sys.stdin.readline()
print(poller.poll(int(sys.argv[2])), flush=True)
"""


def served(resource):
    return f"{MOUNTPOINT}/proc/pressure/{resource}"


def totals(text):
    return [int(line.rsplit("total=", 1)[1]) for line in text.splitlines()]


def waiting(container, milliseconds):
    process = container.start("python3", "-c", WAIT, served("cpu"), str(milliseconds), stdin=-1)
    equal("the trigger", process.stdout.readline(), "set\n")
    return process


def fired(process):
    """What poll(2) told; POLLPRI is 2."""
    answer, _ = process.communicate("\n", timeout=PATIENCE)
    return ", 2)]" in answer


def test_each_file_is_the_cgroups_own():
    with Daemon(), Container("own/c") as container:
        spinning = [container.start(*SPIN) for _ in range(3)]
        deadline = time.monotonic() + PATIENCE
        while totals(container.read("cpu.pressure"))[0] < 1000000:
            assert time.monotonic() < deadline, "no stall of a second"
        for resource in RESOURCES:
            before = totals(container.read(f"{resource}.pressure"))
            shown = totals(container.output("cat", served(resource)))
            after = totals(container.read(f"{resource}.pressure"))
            equal("lines", len(shown), len(before))
            for low, total, high in zip(before, shown, after):
                assert low <= total <= high, f"{resource}: shown {total}, kernel's {low} to {high}"
            host = totals(read(f"/proc/pressure/{resource}"))
            shown = totals(read(served(resource)))
            assert all(low <= total for low, total in zip(host, shown)), resource
        for process in spinning:
            process.kill()


def test_a_trigger_fires_on_the_containers_own_stall_alone():
    with Daemon(), Container("busy/c") as busy, Container("calm/c") as calm:
        neighbour, own = waiting(calm, 0), waiting(busy, PATIENCE * 1000)
        spinning = [busy.start(*SPIN) for _ in range(3)]
        assert fired(own), "the container's own stall"
        assert not fired(neighbour), "a neighbour's stall"
        for process in spinning:
            process.kill()


WINDOWS = """
import os, sys
for window in (400000, 500000, 1000000, 2000000, 3000000, 10000000, 10000001):
    file = os.open(sys.argv[1], os.O_RDWR)
    try:
        print(window, os.write(file, b"some 100000 %d\\0" % window))
    except OSError as error:
        print(window, error.errno)
"""


def test_short_windows_take_the_capability_that_the_kernel_asks_for():
    limited = ("setpriv", "--inh-caps", "-sys_resource", "--bounding-set", "-sys_resource")
    with Daemon(), Container("windows/c") as container:
        for before in ((), limited):
            for resource in RESOURCES:
                command = (*before, "python3", "-c", WINDOWS)
                expected = output(*command, f"/proc/pressure/{resource}")
                equal(f"{resource} on the host", output(*command, served(resource)), expected)
                equal(f"{resource} inside", container.output(*command, served(resource)), expected)
