"""Eight CPUs in two sockets: which of them a container sees."""

from guest.container import Container
from guest.host import BINARY, ONLINE, Daemon, equal, output
from guest.serve import check_cpus, processors, stat_cpus


def test_run_shows_the_first_cpus_of_its_set():
    arguments = [BINARY, "run", "--cpus", "2.5", "--cpuset-cpus", "2-6", "--", "cat"]
    equal("online", output(*arguments, f"/{ONLINE}"), "2-4\n")
    equal("cpuinfo", processors(output(*arguments, "/proc/cpuinfo")), [2, 3, 4])
    equal("stat", stat_cpus(output(*arguments, "/proc/stat")), [2, 3, 4])


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
