"""Eight CPUs in two sockets, each a memory node: which of them a container sees."""

import json
import re
import subprocess

from guest.container import Container
from guest.host import BINARY, CPU, NODE, ONLINE, Daemon, equal, output, read
from guest.laws import SPIN, reported, while_the_kernel_counts
from guest.serve import check_cpus, processors, stat_cpus


def test_run_shows_the_first_cpus_of_its_set():
    arguments = [BINARY, "run", "--cpus", "2.5", "--cpuset-cpus", "2-6", "--", "cat"]
    equal("online", output(*arguments, f"/{ONLINE}"), "2-4\n")
    equal("cpuinfo", processors(output(*arguments, "/proc/cpuinfo")), [2, 3, 4])
    equal("stat", stat_cpus(output(*arguments, "/proc/stat")), [2, 3, 4])


# Prints what the tree and those who ask it say.
READERS = f"""
import glob, json, os, subprocess
def read(name):
    with open('/{CPU}/' + name) as file:
        return file.read().strip()
def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
names = ('online', 'offline', 'possible', 'present', 'smt/active') + tuple(
    f'cpu{{cpu}}/{{name}}' for cpu in (2, 4) for name in (
        'topology/core_siblings_list', 'topology/core_siblings', 'topology/package_cpus', 'topology/core_id',
        'topology/thread_siblings_list', 'cache/index3/shared_cpu_list', 'cache/index3/shared_cpu_map'))
shown = {{name: read(name) for name in names}}
shown['directories'] = sorted(glob.glob('/{CPU}/cpu[0-9]*'))
shown['python'] = os.cpu_count()
shown['getconf'] = output('getconf', '_NPROCESSORS_ONLN')
shown['nproc'] = output('nproc')
shown['nproc --all'] = output('nproc', '--all')
shown['lscpu'] = [word for word in output('lscpu', '--parse=CPU,SOCKET') if word[0].isdigit()]
print(json.dumps(shown))
"""


def test_the_tree_and_its_readers_show_a_machine_of_three_cpus():
    arguments = [BINARY, "run", "--cpus", "2.5", "--cpuset-cpus", "2-6", "--"]
    shown = json.loads(output(*arguments, "python3", "-c", READERS))
    expected = {
        # CPUs 0 to 3 are the first socket's, 4 to 7 the second's.
        "online": "2-4", "present": "2-4", "possible": "0-7", "offline": "0-1,5-7", "smt/active": "0",
        "cpu2/topology/core_siblings_list": "2-3", "cpu2/topology/core_siblings": "0c",
        "cpu2/topology/package_cpus": "0c", "cpu2/topology/core_id": "2",
        "cpu2/topology/thread_siblings_list": "2",
        "cpu2/cache/index3/shared_cpu_list": "2-3", "cpu2/cache/index3/shared_cpu_map": "0c",
        "cpu4/topology/core_siblings_list": "4", "cpu4/topology/core_siblings": "10",
        "cpu4/topology/package_cpus": "10", "cpu4/topology/core_id": "0",
        "cpu4/topology/thread_siblings_list": "4",
        "cpu4/cache/index3/shared_cpu_list": "4", "cpu4/cache/index3/shared_cpu_map": "10",
        "directories": [f"/{CPU}/cpu{cpu}" for cpu in (2, 3, 4)],
        "python": 3, "getconf": ["3"], "lscpu": ["2,0", "3,0", "4,1"],
        # These ask the kernel: where it may run, and how many CPUs are possible.
        "nproc": ["5"], "nproc --all": ["8"],
    }
    for name, value in expected.items():
        equal(name, shown[name], value)


def test_a_file_of_a_cpu_that_goes_is_of_no_device_and_a_new_one_is_found():
    name = f"/{CPU}/cpu3/topology/core_siblings_list"
    script = f"""
import os, sys
kept = os.open('{name}', os.O_RDONLY)
def read(descriptor):
    try:
        return os.pread(descriptor, 100, 0).decode().strip()
    except OSError as error:
        return os.strerror(error.errno)
for line in sys.stdin:
    try:
        fresh = read(os.open('{name}', os.O_RDONLY))
    except OSError as error:
        fresh = os.strerror(error.errno)
    print(read(kept), fresh, sep='/', flush=True)
"""
    with Daemon(), Container("many/c", {"many/c": {"cpuset.cpus": "2-6"}}) as container:
        reader = container.start("python3", "-c", script, stdin=subprocess.PIPE)

        def says():
            reader.stdin.write("read\n")
            reader.stdin.flush()
            return reader.stdout.readline().strip()

        equal("at first", says(), "2-3/2-3")
        try:
            switch(3, "0")
            equal("offline", says(), "No such device/No such file or directory")
        finally:
            switch(3, "1")
        equal("back", says().split("/")[1], "2-3")
        container.write("many/c", "cpuset.cpus", "3")
        equal("one left", says().split("/")[1], "3")
        container.write("many/c", "cpuset.cpus", "2")
        equal("taken away", says(), "No such device/No such file or directory")
        reader.stdin.close()
        reader.wait()


def test_the_nodes_of_its_mems_share_its_memory():
    def node_memory():
        text = container.output("sh", "-c", f"cat /{NODE}/node*/meminfo")
        found = re.findall(r"^Node (\d) (MemTotal|MemFree|MemUsed): *(\d+) kB$", text, re.MULTILINE)
        return {(int(node), label): int(value) for node, label, value in found}

    def lists(*names):
        return [container.output("cat", f"/{NODE}/{name}").strip() for name in names]

    limits = {"nodes/c": {"memory.max": 200 << 20, "cpuset.cpus": "2-6"}}
    with Daemon(), Container("nodes/c", limits) as container:
        equal("lists", lists("online", "has_memory", "has_cpu", "node0/cpulist", "node1/cpulist"),
              ["0-1", "0-1", "0-1", "2-3", "4-6"])
        memory = node_memory()
        equal("total", memory[0, "MemTotal"] + memory[1, "MemTotal"], 200 * 1024)
        # A quarter and three quarters, less what the kernel keeps of each.
        assert 2 < memory[1, "MemTotal"] / memory[0, "MemTotal"] < 5, memory
        for node in (0, 1):
            equal("used", memory[node, "MemUsed"], memory[node, "MemTotal"] - memory[node, "MemFree"])
        equal("lscpu", re.findall(r"NUMA node(\d) CPU\(s\): *(\S+)", container.output("lscpu")),
              [("0", "2,3"), ("1", "4-6")])
        host_distance = read(f"/{NODE}/node1/distance").split()
        equal("distances", lists("node1/distance"), [" ".join(host_distance)])
        container.write("nodes/c", "cpuset.mems", "1")
        equal("total of one", node_memory()[1, "MemTotal"], 200 * 1024)
        equal("lists of one", lists("online", "has_memory", "possible", "node1/distance"),
              ["1", "1", "0-1", host_distance[1]])
        equal("directories", container.output("sh", "-c", f"cd /{NODE} && echo node[0-9]*"), "node1\n")


def test_cpus_that_go_offline_are_passed_over():
    limits = {"many/c": {"cpuset.cpus": "2-6", "cpu.max": "250000 100000"}}
    with Daemon(), Container("many/c", limits) as container:
        check_cpus(container, "2-4", [2, 3, 4])
        try:
            switch(3, "0")
            check_cpus(container, "2,4-5", [2, 4, 5])
            switch(6, "0")
            check_cpus(container, "2,4-5", [2, 4, 5])
            switch(5, "0")
            check_cpus(container, "2,4", [2, 4])
        finally:
            for cpu in (3, 5, 6):
                switch(cpu, "1")
        check_cpus(container, "2-4", [2, 3, 4])


def switch(cpu, state):
    with open(f"/sys/devices/system/cpu/cpu{cpu}/online", "w", encoding="ascii") as file:
        file.write(state)


def test_a_container_without_limits_has_every_cpu():
    with Daemon(), Container("all/c") as container:
        check_cpus(container, "0-7", list(range(8)))


def test_programs_report_two_full_cpus():
    with Daemon(), Container("two/c", {"two/c": {"cpu.max": "200000 100000"}}) as container:
        loops = [container.start(*SPIN) for _ in range(3)]
        shown = while_the_kernel_counts(container, 2, lambda: reported(container, 4))
        equal("CPUs", len(shown["mpstat"]), 2)
        for program, cpus in shown.items():
            for busy, stolen in cpus:
                assert busy >= 95, (program, busy, stolen)
        for loop in loops:
            loop.kill()
