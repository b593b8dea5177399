"""A container made by hand: a cgroup, namespaces, and the daemon's files bound
over /proc's."""

import json
import os
import subprocess

from guest.host import CGROUPS, CPU, MOUNTPOINT, NODE, PATIENCE, PROC_FILES

CONTROLLERS = "+cpu +cpuset +memory +io +pids +hugetlb"

# Reads the files around a read of the first until they agree, and prints what it
# read. So the first is compared with figures of its own moment. Counters of
# events are no figures of a moment: the reader's own faults move them.
STEADY = """
import json, sys
EVENTS = ('pg', 'workingset', 'thp_')
def read(path):
    with open(path) as file:
        return file.read()
def figures(files):
    return [[line for line in text.splitlines() if not line.startswith(EVENTS)] for text in files.values()]
shown, sources = sys.argv[1], sys.argv[2:]
for _ in range(1000):
    before = {path: read(path) for path in sources}
    text = read(shown)
    after = {path: read(path) for path in sources}
    if figures(before) == figures(after):
        print(json.dumps([text, before]))
        sys.exit()
sys.exit('the files never stood still: ' + str([path for path in sources if before[path] != after[path]]))
"""


class Container:
    """`path` is the container's root below the cgroup mount; `limits` are
    {cgroup: {file: value}} for it, its ancestors and what lies below it."""

    def __init__(self, path, limits=None, time_namespace=True, propagation="private"):
        self.path = path
        self.made = []
        self.init = None
        self.launcher = None
        self.time_namespace = time_namespace
        self.propagation = propagation
        for cgroup in self._with_ancestors({path, *(limits or {})}):
            self._make(cgroup, (limits or {}).get(cgroup, {}))

    @staticmethod
    def _with_ancestors(cgroups):
        found = set()
        for cgroup in cgroups:
            parts = cgroup.split("/")
            found |= {"/".join(parts[:n]) for n in range(1, len(parts) + 1)}
        return sorted(found)

    def _make(self, cgroup, values):
        parent = os.path.dirname(cgroup)
        # The container's own subtree gets its controllers once its init has left.
        if parent and not self._inside(parent):
            self.write(parent, "cgroup.subtree_control", CONTROLLERS)
        os.mkdir(f"{CGROUPS}/{cgroup}")
        self.made.append(cgroup)
        if not self._inside(parent):
            for name, value in values.items():
                self.write(cgroup, name, value)

    def _inside(self, cgroup):
        return cgroup == self.path or cgroup.startswith(self.path + "/")

    def write(self, cgroup, name, value):
        with open(f"{CGROUPS}/{cgroup}/{name}", "w", encoding="ascii") as file:
            file.write(str(value))

    def read(self, name, cgroup=None):
        with open(f"{CGROUPS}/{cgroup or self.path}/{name}", encoding="ascii") as file:
            return file.read()

    def __enter__(self):
        binds = [f"mount --bind {MOUNTPOINT}/proc/{name} /proc/{name}" for name in (*PROC_FILES, "slabinfo", "vmstat")]
        binds.append(f"mount --bind {MOUNTPOINT}/{CPU} /{CPU}")
        binds.append(f"mount --bind {MOUNTPOINT}/{NODE} /{NODE}")
        script = "\n".join(["set -e", *binds, "echo ready", "exec sleep infinity"])
        time = []
        if self.time_namespace:
            with open("/proc/uptime", encoding="ascii") as uptime:
                seconds = int(float(uptime.read().split()[0]))
            time = ["--time", "--boottime", f"-{seconds}", "--monotonic", f"-{seconds}"]
        try:
            self.launcher = subprocess.Popen(
                self._entering(self.path) + ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts",
                                             "--ipc", "--cgroup", "--mount-proc", "--propagation", self.propagation, *time,
                                             "--", "sh", "-c", script],
                stdout=subprocess.PIPE, text=True)
            said = self.launcher.stdout.readline()
            assert said == "ready\n", f"the container's init said {said!r}"
            with open(f"/proc/{self.launcher.pid}/task/{self.launcher.pid}/children", encoding="ascii") as children:
                self.init = int(children.read())
            # Only the container's own processes shall be in its cgroup.
            self.write("system", "cgroup.procs", self.launcher.pid)
        except BaseException:
            self.__exit__()
            raise
        return self

    def move(self, cgroup, values):
        """Moves the container's processes to a cgroup below its root, as a
        service manager inside does, and limits that one."""
        for pid in self.read("cgroup.procs").split():
            self.write(cgroup, "cgroup.procs", pid)
        self.write(self.path, "cgroup.subtree_control", CONTROLLERS)
        for name, value in values.items():
            self.write(cgroup, name, value)

    def _entering(self, cgroup):
        return ["sh", "-c", f'echo $$ >{CGROUPS}/{cgroup}/cgroup.procs && exec "$@"', "-"]

    def start(self, *command, cgroup=None, **options):
        """A command inside, as `docker exec` starts it; its Popen."""
        entry = ["nsenter", "--target", str(self.init), "--all", "--"]
        return subprocess.Popen(self._entering(cgroup or self.path) + entry + list(command),
                                stdout=subprocess.PIPE, text=True, **options)

    def output(self, *command, cgroup=None):
        process = self.start(*command, cgroup=cgroup)
        text, _ = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, f"{command} in the container: status {process.returncode}"
        return text

    def steady(self, shown, *sources, cgroup=None):
        """The text of `shown` as read inside, and the files it came from,
        which did not change around the read: {path: text}."""
        return json.loads(self.output("python3", "-c", STEADY, shown, *sources, cgroup=cgroup))

    def __exit__(self, *_):
        if self.launcher:
            self.launcher.kill()
            self.launcher.wait()
        for cgroup in reversed(self.made):
            directory = f"{CGROUPS}/{cgroup}"
            with open(f"{directory}/cgroup.kill", "w", encoding="ascii") as kill:
                kill.write("1")
            # The kernel says by this file that the last process has gone.
            while "populated 1" in self.read("cgroup.events", cgroup):
                pass
            os.rmdir(directory)
