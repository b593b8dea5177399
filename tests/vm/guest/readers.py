"""What the programs that people look at machines with make of a container's
files on cgroup v2, by the numbers that they print."""

from guest.container import Container
from guest.host import BINARY, Daemon, equal, output

# MemTotal is 307200 kB; of four CPUs number 1 alone is present.
LIMITS = {"box": {"memory.max": 300 << 20, "memory.swap.max": 64 << 20, "cpuset.cpus": 1}}

SCRAPE = r"""
import subprocess, time, urllib.request
subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
address = "127.0.0.1:19100"
exporter = subprocess.Popen(["prometheus-node-exporter", "--web.listen-address=" + address],
                            stderr=subprocess.DEVNULL)
while exporter.poll() is None:
    try:
        print(urllib.request.urlopen(f"http://{address}/metrics").read().decode())
        break
    except OSError:
        time.sleep(0.1)
exporter.kill()
"""


def check(table):
    with Daemon(), Container("box", LIMITS) as box:
        for script, expected in table:
            equal(script, box.output("sh", "-c", script).rstrip(), expected)


def test_memory():
    check([
        ("free -k | awk 'NR > 1 {print $1, $2}'", "Mem: 307200\nSwap: 65536"),
        ("free -m | awk '/^Mem/ {print ($4 > 200), ($7 > 200), ($3 < 100)}'", "1 1 1"),
        ("vmstat -s | awk '/K total/ {print $1, $4}'", "307200 memory\n65536 swap"),
        ("top -b -n1 | grep -o 'Mem : *[0-9.]* total'", "Mem :    300.0 total"),
        ("top -b -n1 | grep -o 'Swap: *[0-9.]* total'", "Swap:     64.0 total"),
        ("busybox top -b -n1 | awk 'NR == 1 {print $2 + $4}'", "307200"),
        ("python3 -c 'import psutil; print(psutil.virtual_memory().total, psutil.swap_memory().total)'",
         "314572800 67108864"),
        ("node -p 'os.totalmem() + \" \" + (os.freemem() < os.totalmem())'", "314572800 true"),
    ])


def test_cpus():
    check([
        ("getconf _NPROCESSORS_ONLN", "1"),
        ("python3 -c 'import psutil; print(psutil.cpu_count(), len(psutil.cpu_times(percpu=True)))'", "1 1"),
        ("node -p 'os.cpus().length'", "1"),
        ("lscpu --parse=CPU | grep -v ^#", "1"),
        ("lscpu | awk -F': *' '/^(CPU.s.|On-line CPU)/ {print $2}'", "1\n1"),
        ("mpstat -P ALL | awk 'NR == 1 {print $(NF - 1)} $NF ~ /[0-9]/ {print $2}'", "(1\nall\n1"),
        ("iostat -c | awk 'NR == 1 {print $(NF - 1), $NF}'", "(1 CPU)"),
        ("top -b -n1 -1 | grep -c '^%Cpu'", "1"),
        # By the files alone.
        ("java -XX:-UseContainerSupport -XX:+PrintFlagsFinal -version 2>&1 | awk '$2 == \"UseSerialGC\" {print $4}'",
         "true"),
    ])


def test_a_jvm_reads_the_cgroup_and_comes_to_the_same():
    script = "java -XshowSettings:system -version 2>&1 | grep -oE '(Memory Limit|CPU Count): .*'"
    shown = output(BINARY, "run", "-m", "300m", "--cpuset-cpus", "1", "--", "sh", "-c", script)
    equal("java", shown, "CPU Count: 1\nMemory Limit: 300.00M\n")


def test_time_and_disks():
    check([
        # With a time namespace everything begins with the container.
        ("python3 -c 'import psutil, time; print(0 <= time.time() - psutil.boot_time() < 3600)'", "True"),
        ("ps -o etimes= -p 1 | awk '{print ($1 < 3600)}'", "1"),
        # The disk that its programs were read from, and no other.
        ("iostat -d -p ALL | awk 'NR > 3 && NF {print $1}'", "vda"),
        ("vmstat -d | awk 'NR > 2 {print $1}'", "vda"),
    ])


def test_node_exporter():
    with Daemon(), Container("box", LIMITS) as box:
        lines = [line.rsplit(" ", 1) for line in box.output("python3", "-c", SCRAPE).splitlines()
                 if line and not line.startswith("#")]
    samples = {name: float(value) for name, value in lines}
    equal("memory", samples["node_memory_MemTotal_bytes"], 300 << 20)
    equal("swap", samples["node_memory_SwapTotal_bytes"], 64 << 20)
    age = samples["node_time_seconds"] - samples["node_boot_time_seconds"]
    assert 0 <= age < 3600, age
    busy = {name for name, value in samples.items() if name.startswith("node_cpu_seconds_total") and value > 0}
    assert busy and all('cpu="1"' in name for name in busy), busy
    for collector in ("cpu", "diskstats", "loadavg", "meminfo", "stat", "vmstat", "pressure"):
        equal(collector, samples[f'node_scrape_collector_success{{collector="{collector}"}}'], 1)
