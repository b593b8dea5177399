"""The daemon on pure cgroup v2, read from containers made by hand. What is
expected comes from the kernel's own files, by the rules of the README."""

import json
import re
import subprocess
import time

from guest.container import Container
from guest.host import (CGROUPS, CPU, MOUNTPOINT, ONLINE, PATIENCE, PROC_FILES, Daemon, close_to, equal, kib, output,
                        pairs, read, uptime)

MIB = 1 << 20
TICK = 1 / 100  # USER_HZ

# meminfo's line: the keys of memory.stat whose sum it is.
FROM_MEMORY_STAT = {
    "Cached": ["file"],
    "SwapCached": ["swapcached"],
    "Active": ["active_anon", "active_file"],
    "Inactive": ["inactive_anon", "inactive_file"],
    "Active(anon)": ["active_anon"],
    "Inactive(anon)": ["inactive_anon"],
    "Active(file)": ["active_file"],
    "Inactive(file)": ["inactive_file"],
    "Unevictable": ["unevictable"],
    "Dirty": ["file_dirty"],
    "Writeback": ["file_writeback"],
    "AnonPages": ["anon"],
    "Mapped": ["file_mapped"],
    "Shmem": ["shmem"],
    "KReclaimable": ["slab_reclaimable"],
    "SReclaimable": ["slab_reclaimable"],
    "SUnreclaim": ["slab_unreclaimable"],
    "Slab": ["slab_reclaimable", "slab_unreclaimable"],
    "KernelStack": ["kernel_stack"],
    "PageTables": ["pagetables"],
    "Percpu": ["percpu"],
    "VmallocUsed": ["vmalloc"],
    "AnonHugePages": ["anon_thp"],
    "ShmemHugePages": ["shmem_thp"],
    "FileHugePages": ["file_thp"],
}
ZERO = ("Buffers", "Mlocked", "NFS_Unstable", "Bounce", "WritebackTmp", "VmallocChunk")
THE_HOSTS = ("VmallocTotal", "Hugepagesize", "DirectMap4k", "DirectMap2M", "DirectMap1G")

# Touches anonymous memory and page cache, says so, and keeps them.
USES_MEMORY = """
import os, signal, tempfile
held = bytearray(%d << 20)
held[::4096] = b'1' * len(held[::4096])
with tempfile.NamedTemporaryFile(dir='/') as file:
    file.write(b'2' * (%d << 20))
    file.flush()
    os.fsync(file.fileno())
    print('ready', flush=True)
    signal.pause()
"""


def using_memory(container, anonymous, cached, cgroup=None):
    process = container.start("python3", "-c", USES_MEMORY % (anonymous, cached), cgroup=cgroup)
    assert process.stdout.readline() == "ready\n"
    return process


def limit(text):
    """A v2 limit in bytes, None for max."""
    return None if text.strip() == "max" else int(text)


def expected_meminfo(levels, files, host):
    """The lines that follow from the cgroup's files; levels from the container's
    root upwards, files as {path: text}, all in kB."""
    def of(level, name):
        return files[f"{CGROUPS}/{level}/memory.{name}"]

    def reclaimable(level):
        stat = pairs(of(level, "stat"))
        return stat["active_file"] + stat["inactive_file"] + stat["slab_reclaimable"]

    subject = levels[0]
    limits = {level: limit(of(level, "max")) for level in levels}
    limited = [level for level in levels if limits[level] is not None]
    total = min([host["MemTotal"] * 1024] + [limits[level] for level in limited])
    own = max(0, total - int(of(subject, "current")))
    room = {level: max(0, limits[level] - int(of(level, "current"))) for level in limited}
    free = min([own, *room.values()])
    available = min([total, own + reclaimable(subject)] + [room[level] + reclaimable(level) for level in limited])

    swap_limits = {level: limit(of(level, "swap.max")) for level in levels}
    swap_limited = [level for level in levels if swap_limits[level] is not None]
    swap_used = int(of(subject, "swap.current"))
    swap_total = max(swap_used, min([host["SwapTotal"] * 1024] + [swap_limits[level] for level in swap_limited]))
    swap_free = max(0, min([swap_total - swap_used]
                           + [swap_limits[level] - int(of(level, "swap.current")) for level in swap_limited]))

    stat = pairs(of(subject, "stat"))
    lines = {name: sum(stat.get(key, 0) for key in keys) for name, keys in FROM_MEMORY_STAT.items()}
    lines |= {"MemTotal": total, "MemFree": free, "MemAvailable": available,
              "SwapTotal": swap_total, "SwapFree": swap_free,
              "Committed_AS": stat["anon"] + stat["shmem"] + swap_used}
    lines = {name: value // 1024 for name, value in lines.items()}
    return lines | {name: 0 for name in ZERO} | {name: host[name] for name in THE_HOSTS}


def check_meminfo(container, levels, cgroup=None):
    sources = [f"{CGROUPS}/{level}/memory.{name}"
               for level in levels for name in ("max", "current", "stat", "swap.max", "swap.current")]
    text, files = container.steady("/proc/meminfo", *sources, cgroup=cgroup)
    host_text = read("/proc/meminfo")
    shown, host = kib(text), kib(host_text)
    assert list(shown) == list(host), "the lines or their order are not the host's"
    for ours, theirs in zip(text.splitlines(), host_text.splitlines()):
        assert re.sub(r" *\d+", " N", ours) == re.sub(r" *\d+", " N", theirs), ours
        assert len(ours) == len(theirs), f"width of {ours!r}"
    for name, value in expected_meminfo(levels, files, host).items():
        if name in host:
            # Sums may be rounded once or part by part. And who reads memory.stat has the kernel's
            # buffers for that file open, in kB of the slab: the daemon's are not the container's.
            close_to(name, shown[name], value, slack=8 if name in ("Slab", "SUnreclaim") else 1)
    return shown


def test_meminfo_follows_from_the_cgroups_files():
    with Daemon(), Container("meminfo/c", {"meminfo/c": {"memory.max": 300 * MIB}}) as container:
        process = using_memory(container, anonymous=50, cached=40)
        shown = check_meminfo(container, ["meminfo/c", "meminfo"])
        equal("MemTotal", shown["MemTotal"], 300 * 1024)
        assert shown["AnonPages"] >= 50 * 1024 and shown["Cached"] >= 40 * 1024, shown
        process.kill()


def test_limits_of_ancestors_hold_and_those_below_do_not():
    limits = {"outer": {"memory.max": 500 * MIB}, "outer/pod": {"memory.max": 600 * MIB}}
    with Daemon(), Container("outer/pod/c", limits | {"outer/pod/c/app": {}}) as container:
        container.move("outer/pod/c/app", {"memory.max": 400 * MIB})
        process = using_memory(container, anonymous=30, cached=20, cgroup="outer/pod/c/app")
        shown = check_meminfo(container, ["outer/pod/c", "outer/pod", "outer"], cgroup="outer/pod/c/app")
        equal("MemTotal", shown["MemTotal"], 500 * 1024)
        process.kill()


def test_a_sibling_takes_from_a_shared_limit():
    limits = {"shared": {"memory.max": 200 * MIB}}
    with Daemon(), Container("shared/c", limits | {"shared/sibling": {}}) as container:
        process = using_memory(container, anonymous=80, cached=10, cgroup="shared/sibling")
        shown = check_meminfo(container, ["shared/c", "shared"])
        assert shown["MemFree"] <= 120 * 1024, shown
        assert shown["AnonPages"] < 80 * 1024, shown
        process.kill()


def test_a_container_without_limits_sees_the_machine_minus_its_own_use():
    with Daemon(), Container("free/c") as container:
        shown = check_meminfo(container, ["free/c", "free"])
        equal("MemTotal", shown["MemTotal"], kib(read("/proc/meminfo"))["MemTotal"])


def test_swap_in_use():
    limits = {"swapping/c": {"memory.max": 40 * MIB, "memory.swap.max": 100 * MIB}}
    with Daemon(), Container("swapping/c", limits) as container:
        process = using_memory(container, anonymous=70, cached=1)
        shown = check_meminfo(container, ["swapping/c", "swapping"])
        equal("SwapTotal", shown["SwapTotal"], 100 * 1024)
        assert shown["SwapFree"] < 75 * 1024, shown
        swaps, files = container.steady("/proc/swaps", f"{CGROUPS}/swapping/c/memory.swap.current")
        used = int(files[f"{CGROUPS}/swapping/c/memory.swap.current"]) // 1024
        line = f"none{' ' * 36}virtual\t\t102400\t\t{used}\t\t0\n"
        equal("swaps", swaps, read("/proc/swaps").splitlines(True)[0] + line)
        process.kill()


def test_vmstat_and_slabinfo_are_of_the_containers_memory():
    with Daemon(), Container("vmstat/c", {"vmstat/c": {"memory.max": 200 * MIB}}) as container:
        process = using_memory(container, anonymous=30, cached=5)
        directory = f"{CGROUPS}/vmstat/c"
        text, files = container.steady("/proc/vmstat", f"{directory}/memory.current", f"{directory}/memory.stat")
        host = read("/proc/vmstat")
        shown = pairs(text)
        assert list(shown) == list(pairs(host)), "the lines or their order are not the host's"
        stat = pairs(files[f"{directory}/memory.stat"])
        equal("free", shown["nr_free_pages"], (200 * MIB - int(files[f"{directory}/memory.current"])) // 4096)
        for name, key in (("nr_anon_pages", "anon"), ("nr_mapped", "file_mapped"), ("nr_shmem", "shmem"),
                          ("nr_slab_reclaimable", "slab_reclaimable"), ("nr_active_file", "active_file")):
            equal(name, shown[name], stat[key] // 4096)
        assert shown["pgfault"] > 0, shown
        equal("what is counted for the machine alone", shown["pgfree"] + shown["numa_hit"], 0)
        before = pairs(container.output("cat", "/proc/vmstat"))
        # The neighbours' faults are none of its own; each reading is some.
        subprocess.run(["python3", "-c", "bytearray(200 << 20)"], check=True)
        after = pairs(container.output("cat", "/proc/vmstat"))
        grown = {name: after[name] - before[name] for name in after if after[name] < before[name] and not name.startswith("nr_")}
        equal("counters that went back", grown, {})
        assert after["pgfault"] - before["pgfault"] < 5000, (before["pgfault"], after["pgfault"])
        node = container.output("cat", f"/{CPU}/../node/node0/meminfo").splitlines()
        equal("the node's memory", node[0].split()[-2:], [str(200 * 1024), "kB"])
        header = "".join(read("/proc/slabinfo").splitlines(True)[:2])
        equal("slabinfo", container.output("cat", "/proc/slabinfo"), header)
        process.kill()


def test_swaps_without_swap_is_the_header():
    with Daemon(), Container("noswap/c", {"noswap/c": {"memory.swap.max": 0}}) as container:
        equal("swaps", container.output("cat", "/proc/swaps"), read("/proc/swaps").splitlines(True)[0])


def test_a_new_limit_shows_in_the_next_read_of_a_kept_descriptor():
    script = """
import sys
with open('/proc/meminfo') as file:
    for _ in sys.stdin:
        file.seek(0)
        print(file.read().split()[1], flush=True)
"""
    with Daemon(), Container("kept/c", {"kept/c": {"memory.max": 200 * MIB}}) as container:
        reader = container.start("python3", "-uc", script, stdin=subprocess.PIPE)
        for size in (200, 300, 250):
            container.write("kept/c", "memory.max", size * MIB)
            reader.stdin.write("\n")
            reader.stdin.flush()
            equal("MemTotal", int(reader.stdout.readline()), size * 1024)
        reader.stdin.close()


def processors(cpuinfo):
    return [int(number) for number in re.findall(r"^processor\s*: (\d+)$", cpuinfo, re.MULTILINE)]


def stat_cpus(stat):
    return [int(number) for number in re.findall(r"^cpu(\d+) ", stat, re.MULTILINE)]


def check_cpus(container, online, numbers):
    equal("online", container.output("cat", f"/{ONLINE}"), online + "\n")
    equal("cpuinfo", processors(container.output("cat", "/proc/cpuinfo")), numbers)
    equal("stat", stat_cpus(container.output("cat", "/proc/stat")), numbers)
    equal("present", container.output("cat", f"/{CPU}/present"), online + "\n")
    names = container.output("ls", f"/{CPU}").split()
    equal("directories", sorted(int(name[3:]) for name in names if name[3:].isdigit()), numbers)


def test_cpus_are_the_first_of_the_cpuset_that_the_quota_allows():
    limits = {"cpus": {"cpuset.cpus": "1-3"}, "cpus/c": {"cpu.max": "150000 100000"}}
    with Daemon(), Container("cpus/c", limits) as container:
        check_cpus(container, "1-2", [1, 2])
        container.write("cpus/c", "cpu.max", "max 100000")
        check_cpus(container, "1-3", [1, 2, 3])
        container.write("cpus", "cpu.max", "50000 100000")
        check_cpus(container, "1", [1])


# Prints what the kernel counted and what was shown meanwhile, while one task of
# the container wants a whole CPU.
HALF_A_CPU = """
import json, os, sys
def usage():
    with open(sys.argv[1]) as file:
        return dict(line.split() for line in file)
def shown():
    with open('/proc/stat') as file:
        return [int(field) for field in file.readline().split()[1:]]
child = os.fork()
while child == 0:
    pass
while usage()['nr_throttled'] == '0':
    pass
first = (usage(), shown())
while sum(shown()) - sum(first[1]) < 500:
    os.stat('/')
last = (usage(), shown())
os.kill(child, 9)
print(json.dumps([first, last]))
"""


def test_stat_tells_use_and_waiting_at_half_a_cpu():
    with Daemon(), Container("half/c", {"half/c": {"cpu.max": "50000 100000"}}) as container:
        equal("stat", stat_cpus(container.output("cat", "/proc/stat")), [0])
        first, last = json.loads(container.output("python3", "-c", HALF_A_CPU, f"{CGROUPS}/half/c/cpu.stat"))
        used, throttled = ((int(last[0][key]) - int(first[0][key])) / 1e6 / TICK
                           for key in ("usage_usec", "throttled_usec"))
        user, nice, system, idle, _, _, _, steal = [b - a for a, b in zip(first[1], last[1])][:8]
        active, total = user + nice + system, user + nice + system + idle + steal
        # A pair of readings may lie one throttled period apart.
        close_to("user+system in ticks", active, used, slack=25)
        close_to("steal in ticks", steal, min(throttled, total - active), slack=25)
        assert 0.4 <= active / total <= 0.6, (active, total)


def test_stat_never_goes_backwards():
    script = """
import sys
last = {}
for _ in range(400):
    with open('/proc/stat') as file:
        for line in file:
            if not line.startswith('cpu'):
                break
            name, *fields = line.split()
            now = list(map(int, fields))
            if any(b < a for a, b in zip(last.get(name, now), now)):
                sys.exit(f'{name}: {last[name]} -> {now}')
            last[name] = now
"""
    with Daemon(), Container("backwards/c", {"backwards/c": {"cpu.max": "150000 100000"}}) as container:
        busy = [container.start("sh", "-c", "while :; do (:); done") for _ in range(2)]
        readers = [container.start("python3", "-c", script, stderr=subprocess.PIPE) for _ in range(2)]
        for reader in readers:
            _, error = reader.communicate(timeout=PATIENCE)
            equal("findings", error, "")
        for process in busy:
            process.kill()


def test_stat_of_an_idle_container_is_idle():
    with Daemon(), Container("idle/c") as container, Container("noisy/c") as noisy:
        busy = noisy.start("sh", "-c", "while :; do :; done")
        script = """
import time
def columns():
    with open('/proc/stat') as file:
        return [int(field) for field in file.readline().split()[1:]]
first, passed = columns(), 0
while passed < 1000:
    time.sleep(0.2)
    change = [b - a for a, b in zip(first, columns())]
    passed = sum(change)
print(change[3] / passed)
"""
        idle = float(container.output("python3", "-c", script))
        assert idle >= 0.9, f"idle share {idle}"
        busy.kill()


def test_uptime_is_the_boottime_of_the_time_namespace():
    script = """
import time
clock = lambda: time.clock_gettime(time.CLOCK_BOOTTIME)
before = clock()
shown = float(open('/proc/uptime').read().split()[0])
after = clock()
print(before, shown, after)
"""
    with Daemon(), Container("time/c") as container:
        before, shown, after = map(float, container.output("python3", "-c", script).split())
        assert before - 0.02 <= shown <= after + 0.02, (before, shown, after)
        assert shown < uptime() - 1


def test_btime_is_the_kernels_for_the_readers_time_namespace():
    # A second mount of proc shows the kernel's own file.
    script = "mount -t proc proc /mnt && grep btime /mnt/stat && grep btime /proc/stat"
    with Daemon(), Container("btime/c") as container:
        kernels, shown = container.output("unshare", "--mount", "sh", "-c", script).splitlines()
        equal("btime", shown, kernels)
        assert shown not in read("/proc/stat"), shown


def test_uptime_without_a_time_namespace_is_the_containers_age():
    with Daemon(), Container("age/c", time_namespace=False) as container:
        started = int(read(f"/proc/{container.init}/stat").rpartition(")")[2].split()[19]) * TICK
        before = uptime()
        shown = float(container.output("cat", "/proc/uptime").split()[0])
        after = uptime()
        assert before - started - 0.02 <= shown <= after - started + 0.02, (before - started, shown, after - started)


def test_loadavg_counts_the_containers_own_tasks():
    with Daemon(), Container("load/c") as container, Container("other/c") as other:
        processes = [other.start("sh", "-c", "while :; do :; done") for _ in range(2)]
        text = container.output("cat", "/proc/loadavg")
        assert re.fullmatch(r"\d+\.\d\d \d+\.\d\d \d+\.\d\d \d+/\d+ \d+\n", text), text
        assert float(text.split()[0]) < 1, text
        processes += [container.start("sh", "-c", "while :; do :; done") for _ in range(2)]
        deadline = time.monotonic() + PATIENCE
        while float(container.output("cat", "/proc/loadavg").split()[0]) < 0.2:
            assert time.monotonic() < deadline, "two busy tasks never showed"
            time.sleep(1)
        for process in processes:
            process.kill()


def test_the_first_loadavg_is_the_count_of_now():
    with Daemon(), Container("busy/c") as container:
        processes = [container.start("sh", "-c", "while :; do :; done") for _ in range(3)]
        deadline = time.monotonic() + PATIENCE

        def running():
            tids = container.read("cgroup.threads").split()
            states = [read(f"/proc/{tid}/stat").rpartition(")")[2].split()[0] for tid in tids]
            return states.count("R")

        while running() != 3:
            assert time.monotonic() < deadline, "three never ran"
        # By one that is not in the cgroup, and so not counted.
        text = container.output("cat", "/proc/loadavg", cgroup="system")
        assert text.split()[:3] == ["3.00", "3.00", "3.00"], text
        for process in processes:
            process.kill()


def test_diskstats_are_the_containers_own():
    with Daemon(), Container("disk/c") as container:
        container.output("sh", "-c", "dd if=/dev/zero of=/disk-test bs=1M count=8 oflag=direct 2>&1; sync; "
                         "dd if=/disk-test of=/dev/null bs=1M iflag=direct 2>&1; rm /disk-test")
        text, files = container.steady("/proc/diskstats", f"{CGROUPS}/disk/c/io.stat")
        shown = {line.split()[2]: line.split() for line in text.splitlines()}
        host = {line.split()[2]: line.split() for line in read("/proc/diskstats").splitlines()}
        for line in files[f"{CGROUPS}/disk/c/io.stat"].splitlines():
            device, *values = line.split()
            values = {key: int(value) for key, value in (value.split("=") for value in values)}
            if not any(values.values()):
                continue
            name = next(name for name, fields in host.items() if ":".join(fields[:2]) == device)
            fields = shown[name]
            assert len(fields) == len(host[name]), fields
            expected = [values["rios"], values["rbytes"] // 512, values["wios"], values["wbytes"] // 512]
            equal(name, [int(fields[n]) for n in (3, 5, 7, 9)], expected)
        assert int(shown["vda"][9]) * 512 >= 8 * MIB, text


def difference(name):
    """What the host's process is shown between two readings of the kernel's file that neither had."""
    before = read(f"/proc/{name}")
    shown = read(f"{MOUNTPOINT}/proc/{name}")
    after = read(f"/proc/{name}")
    skeletons = [re.sub(r"\d+(\.\d+)?", "N", re.sub(" +", " ", text)) for text in (before, shown, after)]
    if not skeletons[0] == skeletons[1] == skeletons[2]:
        return f"{name}: {shown}"
    for then, ours, now in zip(before.splitlines(), shown.splitlines(), after.splitlines()):
        if then == now and ours != then:
            return f"{name}: {ours!r}, the host's is {then!r}"
    return None


def test_a_process_of_the_host_sees_the_hosts_files():
    with Daemon():
        for name in PROC_FILES:
            # A number that goes up and down, as that of running tasks, may differ for a moment.
            found = [difference(name)]
            while found[-1] and len(found) < 20:
                found.append(difference(name))
            assert found[-1] is None, found[-1]
        equal("online", read(f"{MOUNTPOINT}/{ONLINE}"), read(f"/{ONLINE}"))


COPIES = """
import mmap, os, shutil, subprocess, sys
own, other = sys.argv[1:]
def judge(how, text):
    total = text.split(b'MemTotal:')[1].split()[0].decode() if b'MemTotal:' in text else None
    if total not in (own, None) or other.encode() in text:
        print(how, text[:80])
for _ in range(30):
    judge('busybox cat', subprocess.run(['busybox', 'cat', '/proc/meminfo'], capture_output=True).stdout)
    try:
        shutil.copyfile('/proc/meminfo', '/tmp/copy-' + own)
        judge('copyfile', open('/tmp/copy-' + own, 'rb').read())
    except OSError as error:
        pass
    source = os.open('/proc/meminfo', os.O_RDONLY)
    target = os.open('/tmp/sent-' + own, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        os.sendfile(target, source, 0, 4096)
    except OSError:
        pass
    judge('sendfile', os.pread(target, 4096, 0))
    os.close(source)
    os.close(target)
    child = os.fork()
    if child == 0:
        # A fault in this mapping may end the process with SIGBUS.
        try:
            with open('/proc/meminfo', 'rb') as file, mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ) as mapping:
                judge('mmap', mapping[:])
                sys.stdout.flush()
        except (OSError, ValueError):
            pass
        os._exit(0)
    os.waitpid(child, 0)
print('done')
"""


def test_no_way_of_reading_gives_another_containers_bytes():
    sizes = {"left/c": 201, "right/c": 302}
    with Daemon(), \
            Container("left/c", {"left/c": {"memory.max": 201 * MIB}}) as left, \
            Container("right/c", {"right/c": {"memory.max": 302 * MIB}}) as right:
        own, other = (str(size * 1024) for size in sizes.values())
        readers = [left.start("python3", "-c", COPIES, own, other), right.start("python3", "-c", COPIES, other, own)]
        for reader in readers:
            said, _ = reader.communicate(timeout=PATIENCE)
            equal("a reader's findings", said, "done\n")
        for container, total in ((left, own), (right, other)):
            equal("busybox cat", container.output("busybox", "cat", "/proc/meminfo").split()[1], total)


def test_the_daemon_leaves_no_mount():
    before = output("cat", "/proc/mounts")
    with Daemon():
        assert f" {MOUNTPOINT} fuse.lxcfs " in read("/proc/mounts")
    equal("mounts", read("/proc/mounts"), before)
