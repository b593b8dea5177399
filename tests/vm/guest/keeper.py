"""Workers that are killed and programs that are replaced, on a kernel that
cannot send a request again: only what is being answered just then may fail."""

import errno
import json
import os
import random
import select
import shutil
import signal
import tempfile
import time

from guest.container import Container
from guest.host import BINARY, MOUNTPOINT, PATIENCE, Daemon, equal, kib, output, read

KILLS = 100 if os.environ.get("LXCFS_RS_FULL") else 15
MIB = 1 << 20

# Reads by path and on a descriptor that is kept, in small pieces, until its
# input ends; then prints how many reads there were, and each error's number.
READER = """
import os, select, sys
limit, errors, reads = sys.argv[1], [], 0
kept = os.open('/proc/meminfo', os.O_RDONLY)
def by_path():
    with open('/proc/meminfo', 'rb', buffering=300) as file:
        return file.read()
def by_kept():
    text = b''
    while part := os.pread(kept, 300, len(text)):
        text += part
    return text
print('reading', flush=True)
while not select.select([0], [], [], 0)[0]:
    for read in by_path, by_kept:
        try:
            text = read()
        except OSError as error:
            errors.append(error.errno)
            continue
        reads += 1
        first = text.split(b'\\n')[0].split()
        if first != [b'MemTotal:', limit.encode(), b'kB'] or text.count(b'MemTotal:') != 1 or text[-1:] != b'\\n':
            sys.exit(f'read {text!r}')
print(reads, errors, flush=True)
"""

# Sets a trigger, waits for it, and prints what poll(2) tells.
WAITER = """
import os, select, sys
file = os.open(sys.argv[1], os.O_RDWR)
os.write(file, b"some 1900000 2000000\\0")
poll = select.poll()
poll.register(file, select.POLLPRI)
print("waits", flush=True)
print([events for _, events in poll.poll(int(sys.argv[2]))], flush=True)
"""


def status():
    return json.loads(output(BINARY, "status", "--json"))


def await_worker(resumes):
    """The worker once so many have gone on: one that is killed before it is ready has not."""
    deadline = time.monotonic() + PATIENCE
    while (found := status())["resumes"] != resumes:
        assert time.monotonic() < deadline, f"resumes: shown {found['resumes']}, expected {resumes}"
    return found["worker_pid"]


def readers(containers):
    started = [c.start("python3", "-c", READER, str(limit // 1024), stdin=-1) for c, limit in containers]
    for reader in started:
        equal("a reader", reader.stdout.readline(), "reading\n")
    return started


def end(reader):
    """The errors that it saw."""
    text, _ = reader.communicate("\n", timeout=PATIENCE)
    equal("a reader's end", reader.returncode, 0)
    reads, errors = text.split(" ", 1)
    assert int(reads) > 0, "nothing was read"
    return json.loads(errors)


def limited(name, limit):
    return Container(name, {name: {"memory.max": limit}})


def test_only_what_is_being_answered_fails_with_a_worker():
    with Daemon() as daemon, limited("k1", 100 * MIB) as first, limited("k2", 200 * MIB) as second:
        started = readers([(first, 100 * MIB), (second, 200 * MIB)])
        worker = status()["worker_pid"]
        for number in range(KILLS):
            time.sleep(random.random() / 5)
            os.kill(worker, signal.SIGKILL)
            worker = await_worker(number + 1)
        for reader in started:
            errors = end(reader)
            print(f"# {KILLS} kills: {len(errors)} reads failed")
            assert set(errors) <= {errno.ECONNABORTED}, errors
            assert len(errors) <= 2 * KILLS, errors
        equal("resumes", status()["resumes"], KILLS)
        equal("reconnections", status()["reconnections"], 0)
        equal("the keeper", daemon.process.poll(), None)


def test_another_program_goes_on():
    with tempfile.TemporaryDirectory() as directory, Daemon() as daemon, limited("k1", 100 * MIB) as container:
        other = shutil.copy(BINARY, f"{directory}/other")
        [reader] = readers([(container, 100 * MIB)])
        for program in (other, BINARY, other):
            output(BINARY, "upgrade", "--program", program)
            equal("the program", os.readlink(f"/proc/{daemon.process.pid}/exe"), program)
        errors = end(reader)
        assert set(errors) <= {errno.ECONNABORTED}, errors
        equal("upgrades", status()["upgrades"], 3)
        # What is mounted must not be the program's that is about to be removed.
        output(BINARY, "upgrade", "--program", BINARY)


def test_who_waits_for_pressure_is_woken():
    with Daemon(), limited("k1", 100 * MIB) as container:
        path = f"{MOUNTPOINT}/proc/pressure/cpu"
        waiter = container.start("python3", "-c", WAITER, path, str(PATIENCE * 1000))
        equal("a waiter", waiter.stdout.readline(), "waits\n")
        # It is asleep once the kernel has asked for it.
        deadline = time.monotonic() + PATIENCE
        while status()["triggers"] != 1 or "poll" not in read(f"/proc/{waiting_thread(container)}/wchan"):
            assert time.monotonic() < deadline, "it does not wait"
        worker = status()["worker_pid"]
        os.kill(worker, signal.SIGKILL)
        text, _ = waiter.communicate(timeout=PATIENCE)
        events = json.loads(text)[0]
        assert events & select.POLLERR, events


def waiting_thread(container):
    """The newest process in it."""
    return max(int(pid) for pid in container.read("cgroup.procs").split())


def test_a_killed_keeper_is_followed_by_one_that_heals():
    with Daemon() as daemon, limited("k1", 100 * MIB) as container:
        equal("MemTotal", kib(container.output("cat", "/proc/meminfo"))["MemTotal"], 102400)
        daemon.restart(signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while container.start("cat", "/proc/meminfo").communicate()[0] == "":
            assert time.monotonic() < deadline, "it is not healed"
        equal("MemTotal", kib(container.output("cat", "/proc/meminfo"))["MemTotal"], 102400)
