"""The guest as its root user sees it, and the daemon under test."""

import os
import signal
import socket
import subprocess
import tempfile

CGROUPS = "/sys/fs/cgroup"
MOUNTPOINT = "/var/lib/lxcfs"
BINARY = "/payload/lxcfs-rs"
PROC_FILES = ("meminfo", "cpuinfo", "stat", "uptime", "diskstats", "swaps", "loadavg")
CPU = "sys/devices/system/cpu"
NODE = "sys/devices/system/node"
ONLINE = f"{CPU}/online"
# Generous, because emulated code is slow; reached only by what hangs.
PATIENCE = 300


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def output(*command):
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, f"{command[0]}: status {done.returncode}: {done.stderr}"
    return done.stdout


def uptime():
    return float(read("/proc/uptime").split()[0])


def kib(meminfo):
    """/proc/meminfo's text as {line: number}, in the order of its lines."""
    return {line.split(":")[0]: int(line.split()[1]) for line in meminfo.splitlines()}


def pairs(text):
    """A file of `key value` lines, such as memory.stat."""
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


def equal(what, shown, expected):
    assert shown == expected, f"{what}: shown {shown!r}, expected {expected!r}"


def close_to(what, shown, expected, slack=0):
    assert abs(shown - expected) <= slack, f"{what}: shown {shown}, expected {expected} ± {slack}"


class Daemon:
    """`lxcfs-rs serve`, from its word that it is ready until it has ended."""

    def __enter__(self):
        os.makedirs(MOUNTPOINT, exist_ok=True)
        self.directory = tempfile.TemporaryDirectory()
        address = f"{self.directory.name}/notify"
        self.ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ready.bind(address)
        self.ready.settimeout(PATIENCE)
        environment = {**os.environ, "NOTIFY_SOCKET": address, "RUST_LOG": "warn"}
        self.process = subprocess.Popen([BINARY, "serve", MOUNTPOINT], env=environment)
        try:
            while b"READY=1" not in self.ready.recv(4096):
                pass
        except BaseException:
            self.__exit__()
            raise
        return self

    def restart(self, number):
        """Ends it with this signal and starts another in its place."""
        self.process.send_signal(number)
        self.process.wait(PATIENCE)
        self.ready.close()
        self.directory.cleanup()
        self.__enter__()

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if os.path.ismount(MOUNTPOINT):
            subprocess.run(["umount", "-l", MOUNTPOINT], check=False)
        self.ready.close()
        self.directory.cleanup()
