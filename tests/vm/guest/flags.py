"""The flags of `lxcfs-rs run` on pure cgroup v2, checked against the cgroup's
files; on v1 the privileged tier compares them with Docker's."""

import os

from guest.host import BINARY, equal
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


def test_only_the_usual_devices_open():
    number = os.stat("/dev/vda").st_rdev
    script = f"""
        mknod /tmp/disk b {os.major(number)} {os.minor(number)} && mknod /tmp/kmsg c 1 11 && echo made
        for device in /tmp/disk /tmp/kmsg /dev/zero /dev/urandom; do
            head -c 1 $device >/dev/null 2>&1 && echo $device opens
        done
        echo 2>/dev/null >/tmp/disk || echo not written
        python3 -c 'import os; print(len(os.openpty()))'
    """
    expected = "made\n/dev/zero opens\n/dev/urandom opens\nnot written\n2\n"
    equal("what opens", output("--", "sh", "-c", script), expected)
    equal("what opens for a privileged one",
          output("--privileged", "--", "sh", "-c", "head -c 1 /dev/vda | wc -c"), "1\n")


def test_root_volumes_and_names():
    os.makedirs("/tmp/volume/sub", exist_ok=True)
    script = "touch /x /mnt/ro/x 2>/dev/null; touch /mnt/rw/x && ls /mnt/rw; hostname; cat /etc/hostname; pwd; echo $A"
    shown = output("--read-only", "-v", "/tmp/volume:/mnt/rw", "-v", "/tmp/volume:/mnt/ro:ro", "-h", "guest.x",
                   "-w", "/srv/new", "-e", "A=b", "--", "sh", "-c", script)
    equal("root, volumes and names", shown, "sub\nx\nguest.x\nguest.x\n/srv/new\nb\n")
    equal("the volume on the host", sorted(os.listdir("/tmp/volume")), ["sub", "x"])
    assert not os.path.exists("/srv/new")


def test_network_of_its_own():
    equal("interfaces", output("--network", "none", "--", "ls", "/sys/class/net"), "lo\n")
    script = "import socket; s = socket.create_server(('127.0.0.1', 1)); socket.create_connection(s.getsockname())"
    output("--network", "none", "-u", "1000", "--", "python3", "-c", script)


def test_users():
    script = "grep -E '^(Uid|Gid|Groups|CapPrm|CapEff|CapBnd)' /proc/self/status | tr '\\n\\t' '; '; echo $HOME"
    shown = output("-u", "1000:2000", "--", "sh", "-c", script)
    equal("user", shown, "Uid: 1000 1000 1000 1000;Gid: 2000 2000 2000 2000;Groups: 2000 ;CapPrm: 0000000000000000;"
          "CapEff: 0000000000000000;CapBnd: 00000000a80425fb;/\n")
    equal("status of an unknown user", run("-u", "nosuch", "--", "true").returncode, 125)


def test_run_in_run_is_bounded_by_both():
    for outer, inner in (("200m", "100m"), ("100m", "200m")):
        shown = output("--privileged", "-m", outer, "--", BINARY, "run", "-m", inner, "--",
                       "sh", "-c", "grep MemTotal /proc/meminfo; cat /sys/fs/cgroup/memory.max; cat /proc/uptime")
        total, limit, uptime = shown.splitlines()
        equal("MemTotal", total.split()[1], str(100 * 1024))
        equal("memory.max", limit, str(int(inner[:-1]) * MIB))
        assert float(uptime.split()[0]) < 60, uptime
    script = f"{BINARY} run --pids-limit 9 -- true && find /sys/fs/cgroup -name 'lxcfs-rs*'; grep MemTotal /proc/meminfo"
    equal("what is left in the outer one, and what it sees then",
          output("--privileged", "-m", "100m", "--", "sh", "-c", script).split(), ["MemTotal:", str(100 * 1024), "kB"])
    hog = [BINARY, "run", "-m", "1g", "--memory-swap", "1g", "--", "python3", "-c", "bytearray(256 << 20)"]
    equal("status of a hog in an outer limit",
          run("--privileged", "-m", "64m", "--memory-swap", "64m", "--", *hog).returncode, 137)


def test_users_of_its_own():
    os.makedirs("/tmp/users", exist_ok=True)
    os.chmod("/tmp/users", 0o777)
    script = "id -u; stat -c %u /root /etc/passwd; touch /root/x /mnt/root && echo made; mknod /tmp/x c 1 3 || echo none"
    shown = output("--userns", "0:100000:65536", "-v", "/tmp/users:/mnt", "--", "sh", "-c", script)
    equal("users", shown, "0\n0\n0\nmade\nnone\n")
    equal("owner on the host", os.stat("/tmp/users/root").st_uid, 100000)
