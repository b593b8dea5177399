"""`lxcfs-rs run` on pure cgroup v2, with the daemon it brings itself."""

import json
import os
import re
import subprocess
import time

from guest.host import BINARY, CGROUPS, ONLINE, PATIENCE, PROC_FILES, close_to, equal, kib, read, uptime


def run(*arguments):
    return subprocess.run([BINARY, "run", *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)


def output(*arguments):
    done = run(*arguments)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
    return done.stdout


def test_free_shows_the_limit():
    free = output("-m", "256m", "--cpus", "1", "--", "free", "-m")
    equal("total of free -m", free.splitlines()[1].split()[1], "256")


def test_every_file_is_ours():
    mounts = output("-m", "256m", "--cpus", "1", "--", "cat", "/proc/self/mountinfo")
    for target in [f"/proc/{name}" for name in PROC_FILES]:
        assert re.search(rf" {target} .* - fuse\.lxcfs ", mounts), f"{target} is not mounted"
    script = f"for file in {' '.join(PROC_FILES)}; do echo \"== $file\"; cat /proc/$file; done; echo '== online'; cat /{ONLINE}"
    shown = dict(re.findall(r"^== (\w+)\n(.*?)(?=^== |\Z)", output("-m", "256m", "--cpus", "1", "--", "sh", "-c", script),
                            re.MULTILINE | re.DOTALL))
    meminfo = kib(shown["meminfo"])
    equal("MemTotal", meminfo["MemTotal"], 256 * 1024)
    assert len(re.findall("^processor", shown["cpuinfo"], re.MULTILINE)) == 1, shown["cpuinfo"]
    assert re.findall(r"^cpu\d*", shown["stat"], re.MULTILINE) == ["cpu", "cpu0"], shown["stat"]
    equal("online", shown["online"], "0\n")
    assert float(shown["uptime"].split()[0]) < uptime()
    assert re.fullmatch(r"\d+\.\d\d \d+\.\d\d \d+\.\d\d \d+/\d+ \d+\n", shown["loadavg"]), shown["loadavg"]
    header, *swaps = shown["swaps"].splitlines(True)
    equal("swaps", header, read("/proc/swaps").splitlines(True)[0])
    equal("size of swap", [int(line.split()[2]) for line in swaps],
          [meminfo["SwapTotal"]] if meminfo["SwapTotal"] else [])
    disks = {line.split()[2] for line in read("/proc/diskstats").splitlines()}
    assert {line.split()[2] for line in shown["diskstats"].splitlines()} <= disks


def test_clocks_agree():
    script = """
import json, re, subprocess, time
shown = float(open('/proc/uptime').read().split()[0])
btime = int(re.search(r'btime (\d+)', open('/proc/stat').read())[1])
now = time.time()
boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
ps = subprocess.run(['ps', '-o', 'etimes=,lstart=', '-p', '1'], capture_output=True, text=True).stdout
print(json.dumps([shown, btime, now, boottime, ps]))
"""
    before = time.time()
    shown, btime, now, boottime, ps = json.loads(output("--", "python3", "-c", script))
    lasted = time.time() - before
    # The machine is older than the container: its own clock would not do.
    assert shown <= lasted, (shown, lasted)
    assert 0 <= boottime - shown <= lasted, (boottime, shown)
    # Whole seconds, of the boot and of the offset.
    close_to("btime", btime, now - boottime, slack=2)
    age, started = ps.split(maxsplit=1)
    assert 0 <= int(age) <= lasted + 1, (age, lasted)
    close_to("start of process 1", time.mktime(time.strptime(started.strip())), before, slack=lasted + 2)


def test_half_a_cpu_is_half_busy_and_half_stolen():
    script = """
import os, time
def columns():
    with open('/proc/stat') as file:
        return [int(field) for field in file.readline().split()[1:]]
child = os.fork()
while child == 0:
    pass
first, total = columns(), 0
while total < 500:
    time.sleep(0.2)
    change = [b - a for a, b in zip(first, columns())]
    total = sum(change)
os.kill(child, 9)
print((change[0] + change[1] + change[2]) / total, change[7] / total)
"""
    busy, steal = map(float, output("--cpus", "0.5", "--", "python3", "-c", script).split())
    assert 0.4 <= busy <= 0.6, (busy, steal)
    assert steal >= 0.25, (busy, steal)


def test_status_is_the_commands():
    for status in (0, 1, 42):
        equal("status", run("--", "sh", "-c", f"exit {status}").returncode, status)
    equal("status of a missing command", run("--", "/no/such/command").returncode, 127)
    equal("status of a command that cannot run", run("--", "/etc/passwd").returncode, 126)


def test_bad_arguments_get_one_line_and_125():
    for arguments in (["--no-such-flag", "--", "true"], ["-m", "12q", "--", "true"],
                      ["--rootfs", "/no/such/directory", "--", "true"]):
        done = run(*arguments)
        assert done.returncode == 125, (arguments, done.returncode)
        assert done.stderr.strip(), arguments


def test_nothing_is_left():
    def state():
        cgroups = [directory for directory, _, _ in os.walk(CGROUPS)]
        processes = [read(f"/proc/{pid}/comm") for pid in os.listdir("/proc") if pid.isdigit()
                     and os.path.exists(f"/proc/{pid}/exe") and os.readlink(f"/proc/{pid}/exe") == BINARY]
        return read("/proc/mounts"), cgroups, sorted(os.listdir("/run")), processes

    output("-m", "64m", "--", "true")
    before = state()
    for _ in range(10):
        output("-m", "64m", "--cpus", "1", "--", "true")
        run("-m", "64m", "--", "sh", "-c", "sleep 1000 & exit 3")
    for then, now in zip(before, state()):
        assert now == then, now


def program(*arguments):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_exec_ps_and_stop():
    command = [BINARY, "run", "--name", "guest", "-m", "64m", "--", "sh", "-c", "echo ready; exec sleep 1000"]
    runtime = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        equal("what it prints", runtime.stdout.readline(), "ready\n")
        record, = json.loads(program("ps", "--json").stdout)
        equal("name and limit", (record["name"], record["limits"]["memory"]), ("guest", 64 << 20))
        # Born into its cgroup, and a member of its namespaces.
        script = "cat /proc/self/cgroup; grep MemTotal /proc/meminfo; readlink /proc/self/ns/pid /proc/1/ns/pid; echo $PPID"
        done = program("exec", "guest", "sh", "-c", script)
        equal("status", (done.returncode, done.stderr), (0, ""))
        cgroup, total, own, first, parent = done.stdout.splitlines()
        equal("cgroup", cgroup, "0::/")
        equal("MemTotal", total.split()[1], str(64 * 1024))
        equal("pid namespace", own, first)
        equal("parent", parent, "0")
        equal("terminal", program("exec", "-t", "guest", "tty").stdout, "/dev/pts/0\n")
        equal("status", program("exec", "guest", "sh", "-c", "exit 7").returncode, 7)
        inside = read(f"{CGROUPS}/lxcfs-rs/{record['id']}/cgroup.procs").split()
        equal("its processes", inside, [str(record["pid"])])
        equal("stop", program("stop", "-t", "1", "guest").stdout, "guest\n")
        equal("status", runtime.wait(PATIENCE), 137)
    finally:
        runtime.kill()
        runtime.wait()
    equal("ps", program("ps", "-q").stdout, "")
    assert not os.path.exists(f"{CGROUPS}/lxcfs-rs")


def test_exec_where_the_container_has_cgroups_of_its_own():
    script = """cd /sys/fs/cgroup && mkdir a && echo 1 >a/cgroup.procs && echo +pids >cgroup.subtree_control &&
        echo ready && exec sleep 1000"""
    command = [BINARY, "run", "--name", "own", "--privileged", "-m", "64m", "--", "sh", "-c", script]
    runtime = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        equal("what it prints", runtime.stdout.readline(), "ready\n")
        done = program("exec", "own", "sh", "-c", "cat /proc/self/cgroup; grep MemTotal /proc/meminfo")
        equal("status", (done.returncode, done.stderr), (0, ""))
        cgroup, total = done.stdout.splitlines()
        equal("cgroup", cgroup, "0::/a")
        equal("MemTotal", total.split()[1], str(64 * 1024))
    finally:
        program("stop", "-t", "0", "own")
        runtime.kill()
        runtime.wait()
    equal("ps", program("ps", "-q").stdout, "")


# One service, which writes down what it sees and where it is.
SYSTEMD = """
cat >/etc/systemd/system/probe.service <<END
[Unit]
DefaultDependencies=no
[Service]
MemoryMax=50M
StandardOutput=null
StandardError=null
ExecStart=sh -c 'grep MemTotal /proc/meminfo >/run/new; cat /proc/self/cgroup >>/run/new; mv /run/new /run/seen; exec sleep 1000'
END
exec /lib/systemd/systemd --unit=probe.service --log-target=null --show-status=0
"""


def test_below_systemd_the_container():
    command = [BINARY, "run", "--name", "systemd", "--privileged", "-m", "200m", "--network", "none",
               "-e", "container=other", "--", "sh", "-c", SYSTEMD]
    runtime = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while program("exec", "systemd", "test", "-e", "/run/seen").returncode:
            assert time.monotonic() < deadline and runtime.poll() is None, "the service has not written"
        seen = program("exec", "systemd", "cat", "/run/seen").stdout.splitlines()
        equal("MemTotal of the service", seen[0].split()[1], str(200 * 1024))
        equal("its cgroup", seen[1:], ["0::/system.slice/probe.service"])
        done = program("exec", "systemd", "sh", "-c", "grep MemTotal /proc/meminfo; cat /proc/1/cgroup /proc/self/cgroup")
        equal("status", (done.returncode, done.stderr), (0, ""))
        total, first, own = done.stdout.splitlines()
        equal("MemTotal", total.split()[1], str(200 * 1024))
        # No process may be in the container's root, where controllers are on for its slices.
        equal("cgroups", (first, own), ("0::/init.scope", "0::/init.scope"))
    finally:
        program("stop", "-t", "0", "systemd")
        runtime.kill()
        runtime.wait()
    equal("ps", program("ps", "-q").stdout, "")
