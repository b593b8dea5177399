"""Reads the files below a daemon's mountpoint, in the container that it is started in, and says
what is wrong with them. Both tiers run it:
    observer.py neighbour MOUNTPOINT ACCOUNT…
        at each line of its standard input, a directory below MOUNTPOINT, says what has moved
        there since the first that may not. ACCOUNT are the kernel's own files of what the
        container uses.
    observer.py laws MOUNTPOINT
        reads until its standard input ends, and checks the laws.
It says "ready" first, and "ok" where nothing is wrong.
"""

import errno
import json
import os
import re
import select
import sys
import time

TICK = 1 / os.sysconf("SC_CLK_TCK")

# Lines that are the host's, whatever moves them there: file, beginning of the line.
HOSTS = [
    ("proc/stat", r"(intr|ctxt|processes|softirq) "),
    ("proc/cpuinfo", r"(cpu MHz|bogomips)\b"),
    ("proc/meminfo", r"(VmallocTotal|CmaTotal|CmaFree|Hugepagesize|HardwareCorrupted|DirectMap\w+):"),
    ("proc/vmstat", r"nr_dirty(_background)?_threshold "),
    # Of the host's text: what its CPUs do, not which they are.
    (r"sys/devices/system/cpu/(cpu\d+/)?(cpuidle|cpufreq|power)/.*", r""),
]


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def clock():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


# --- neighbour


def all_files(mountpoint, below):
    """The text of each file, or the error that reading it is."""
    found = {}
    for directory, _, names, at in os.fwalk(f"{mountpoint}/{below}"):
        for name in names:
            found[os.path.relpath(f"{directory}/{name}", mountpoint)] = text_of(name, at)
    return found


def text_of(name, at):
    try:
        with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=at), encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        return os.readlink(name, dir_fd=at) if error.errno == errno.ELOOP else errno.errorcode[error.errno]


def may_move(path, before, after, passed):
    """Whether a line of a file may be another one `passed` seconds, at least and at most, later."""
    for place, pattern in HOSTS:
        if re.fullmatch(place, path) and re.match(pattern, before) and re.match(pattern, after):
            return True
    least, most = passed[0] - 2 * TICK, passed[1] + 2 * TICK
    if path == "proc/stat" and before.startswith("cpu"):
        old, new = before.split(), after.split()
        same = [word for column, word in enumerate(new) if column != 4]
        if same != [word for column, word in enumerate(old) if column != 4]:
            return False
        # Idle for as long as it lasted: each CPU, and their sum for all of them.
        idle = (int(new[4]) - int(old[4])) * TICK
        return idle >= least if old[0] == "cpu" else least <= idle <= most
    if path == "proc/uptime":
        up, idle = ((float(b) - float(a)) for a, b in zip(before.split(), after.split()))
        return least <= up <= most and idle >= least
    if path == "proc/loadavg":
        # The averages fall while nothing runs.
        old, new = before.split(), after.split()
        return old[3:] == new[3:] and all(float(b) <= float(a) for a, b in zip(old[:3], new[:3]))
    if path.startswith("proc/pressure/"):
        # The averages follow the total, up to two seconds late.
        return re.sub(r"avg\d+=\S+", "", before) == re.sub(r"avg\d+=\S+", "", after)
    return False


def moved(before, after, passed):
    """Lines that differ and may not, as `FILE: LINE -> LINE`."""
    found = [f"{path}: there and not there" for path in sorted(before.keys() ^ after.keys())]
    for path in sorted(before.keys() & after.keys()):
        old, new = before[path].splitlines(), after[path].splitlines()
        if len(old) != len(new):
            found.append(f"{path}: {len(old)} lines, then {len(new)}")
        for one, other in zip(old, new):
            if one != other and not may_move(path, one, other, passed):
                found.append(f"{path}: {one!r} -> {other!r}")
    return found


def neighbour(mountpoint, *account):
    def look(below):
        while True:
            started = clock()
            before, files, ended = {path: read(path) for path in account}, all_files(mountpoint, below), clock()
            used = {path: read(path) for path in account}
            if used == before:
                return used, files, started, ended

    print("ready", flush=True)
    account_then, files_then, started, ended = look(sys.stdin.readline().strip())
    print("first", flush=True)
    # The container does nothing; but what the kernel has charged in advance it takes back when
    # others run, and what has ended it forgets late.
    patience = 10
    for line in sys.stdin:
        below = line.strip()
        account_now, files_now, started_now, ended_now = look(below)
        if account_now != account_then and patience:
            patience -= 1
            account_then, files_then, started, ended = look(".")
            print("again", flush=True)
            continue
        before = {path: text for path, text in files_then.items() if below in (".", path[:len(below)])}
        findings = moved(before, files_now, (started_now - ended, ended_now - started))
        print(json.dumps(findings) if findings else "ok", flush=True)


# --- laws

# Reading while no daemon is there: not connected, cut off, not mounted.
NOBODY = (errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT)
# vmstat's counters of events; its other lines are figures of the moment.
EVENTS = ("pg", "psw", "workingset_", "thp_")
IN_FLIGHT = 11
ROUNDING = 1e-6


class Broken(Exception):
    """A law does not hold."""


def holds(law, *figures):
    if not law:
        raise Broken(" ".join(map(str, figures)))


class Laws:
    """What was shown so far."""

    def __init__(self, mountpoint):
        self.mountpoint = mountpoint
        self.reads = self.failures = 0
        self.cpus = {}
        self.total = [0] * 10
        # When each CPU was last shown.
        self.shown_at = {}
        # Asked once: where sysfs has a daemon's file and that daemon has ended, glibc counts the
        # lines of /proc/stat instead, which is a reading that nobody saw.
        self.cpu_count = os.cpu_count() or 1
        # CPUs whose columns are known to the tick. A reading that nobody saw, of uptime or of a
        # daemon that was killed, may have moved those of any.
        self.known = self.every_cpu()
        self.last_reading = self.begun = clock()
        self.counters = {}

    def read(self, name):
        try:
            return read(f"{self.mountpoint}/proc/{name}")
        except OSError as error:
            self.failures += 1
            self.unseen()
            if error.errno not in NOBODY:
                raise
            return None

    def unseen(self):
        self.known = set()
        self.last_reading = clock()

    def never_back(self, name, numbers):
        before = self.counters.get(name, numbers)
        holds(len(before) == len(numbers) and all(b >= a for a, b in zip(before, numbers)),
              f"{name} went back:", before, numbers)
        self.counters[name] = numbers

    def stat(self):
        before = clock()
        text = self.read("stat")
        after = clock()
        if text is None:
            return
        lines = [line.split() for line in text.splitlines() if line.startswith("cpu")]
        rows = {words[0]: [int(word) for word in words[1:]] for words in lines}
        total = rows.pop("cpu")
        is_first = not self.shown_at
        for name, row in rows.items():
            old = self.cpus.get(name, [0] * len(row))
            self.never_back(name, row)
            if not is_first:
                gained = (sum(row) - sum(old)) * TICK
                least = before - self.last_reading - TICK
                most = after - self.shown_at.get(name, self.begun) + TICK
                holds(least - ROUNDING <= gained <= most + ROUNDING, f"{name} gained {gained} of {least} to {most}:", old, row)
            self.cpus[name] = row
            self.shown_at[name] = before
        self.never_back("cpu", total)
        sums = [sum(column) for column in zip(*self.cpus.values())]
        if self.known | rows.keys() >= self.every_cpu():
            holds(sums == total, "no sum:", self.cpus, total)
        else:
            holds(all(b >= a for a, b in zip(sums, total)), "less than the CPUs:", self.cpus, total)
        self.known |= rows.keys()
        self.last_reading = after
        self.total = total
        self.reads += 1

    def every_cpu(self):
        return {f"cpu{number}" for number in range(self.cpu_count)} | self.cpus.keys()

    def uptime(self):
        text = self.read("uptime")
        self.unseen()
        if text is None:
            return
        up, idle = (round(float(word) * 100) for word in text.split())
        self.never_back("uptime", [up, idle])
        holds(idle >= self.total[3], "idle by uptime and stat:", idle, self.total)

    def memory(self):
        for attempt in range(5):
            texts = [self.read(name) for name in ("meminfo", "swaps", "meminfo")]
            if None in texts:
                return
            meminfo, swaps, again = texts
            kib = {line.split(":")[0]: int(line.split()[1]) for line in meminfo.splitlines()}
            for part, whole in (("SwapFree", "SwapTotal"), ("MemFree", "MemTotal"), ("MemAvailable", "MemTotal")):
                holds(kib[part] <= kib[whole], part, kib[part], whole, kib[whole])
            for whole, parts in (("Slab", ("SReclaimable", "SUnreclaim")),
                                 ("Active", ("Active(anon)", "Active(file)")),
                                 ("Inactive", ("Inactive(anon)", "Inactive(file)"))):
                holds(kib[whole] == sum(kib[part] for part in parts), whole, meminfo)
            lines = [line.split() for line in swaps.splitlines()[1:]]
            total, free = kib["SwapTotal"], kib["SwapFree"]
            expected = [["none", "virtual", str(total), str(total - free), "0"]] if total else []
            is_steady = swap_lines(meminfo) == swap_lines(again)
            if lines == expected or not is_steady:
                return
            # Equal before and after is not equal in between, once.
            holds(attempt < 4, "meminfo and swaps:", swaps, meminfo)

    def events(self):
        vmstat, diskstats = self.read("vmstat"), self.read("diskstats")
        if vmstat is None or diskstats is None:
            return
        for line in vmstat.splitlines():
            if line.startswith(EVENTS):
                name, value = line.split()
                self.never_back(name, [int(value)])
        for line in diskstats.splitlines():
            words = line.split()
            del words[IN_FLIGHT]
            self.never_back(f"disk {words[2]}", [int(word) for word in words[3:]])


def swap_lines(meminfo):
    return [line for line in meminfo.splitlines() if line.startswith("Swap")]


def laws(mountpoint):
    checked = Laws(mountpoint)
    rounds = 0
    try:
        # All that the CPUs showed so far, and nothing later.
        checked.stat()
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0.005)[0]:
            checked.stat()
            checked.memory()
            if rounds % 10 == 0:
                checked.uptime()
            if rounds % 10 == 5:
                checked.events()
            rounds += 1
    except Broken as broken:
        print(broken, flush=True)
        return
    print("ok", checked.reads, checked.failures, flush=True)


if __name__ == "__main__":
    {"neighbour": neighbour, "laws": laws}[sys.argv[1]](*sys.argv[2:])
