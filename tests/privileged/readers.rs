//! What the programs that people look at machines with make of a container's files, by the
//! numbers that they print.
//!
//! Needs what [`crate::engine`] needs, tmux, and the programs on this machine, which runs the same
//! Debian as the image: procps, htop, sysstat, util-linux, nodejs, openjdk-17-jre-headless,
//! python3-psutil, prometheus-node-exporter. busybox is the image's.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::collections::BTreeMap;
use std::fs;

use crate::byhand::eventually;
use crate::docker::{Container, Stage};
use crate::terminal::Terminal;

/// Of every container here: MemTotal is 307200 kB, and CPU 1 alone is present.
const LIMITS: [&str; 2] = ["--memory=300m", "--cpuset-cpus=1"];

/// This machine's programs, and what of /etc they need.
const PROGRAMS: [&str; 3] = [
    "--volume=/usr:/usr:ro",
    "--volume=/etc/alternatives:/etc/alternatives:ro",
    "--volume=/etc/java-17-openjdk:/etc/java-17-openjdk:ro",
];

fn idle(stage: &Stage) -> Container<'_> {
    stage.idle(&[&LIMITS[..], &PROGRAMS].concat())
}

#[track_caller]
fn assert_printed(container: &Container<'_>, table: &[(&str, &str)]) {
    for (script, expected) in table {
        let printed = container.exec(&["sh", "-c", script]);
        assert_eq!(printed.trim_end(), *expected, "{script}");
    }
}

#[test]
fn memory() {
    let stage = Stage::new();
    let container = idle(&stage);
    assert_printed(
        &container,
        &[
            ("free -k | awk 'NR > 1 {print $1, $2}'", "Mem: 307200\nSwap: 0"),
            // All but what the container's few processes have.
            ("free -m | awk '/^Mem/ {print ($4 > 200), ($7 > 200), ($3 < 100)}'", "1 1 1"),
            ("vmstat -s | awk '/K total/ {print $1, $4}'", "307200 memory\n0 swap"),
            ("vmstat | awk 'NR == 3 {print ($4 > 200000)}'", "1"),
            ("top -b -n1 | grep -o 'Mem : *[0-9.]* total'", "Mem :    300.0 total"),
            ("top -b -n1 | grep -o 'Swap: *[0-9.]* total'", "Swap:      0.0 total"),
            ("busybox top -b -n1 | awk 'NR == 1 {print $2 + $4}'", "307200"),
            (
                "python3 -c 'import psutil; m = psutil.virtual_memory(); \
                    print(m.total, m.available <= m.total, psutil.swap_memory().total)'",
                "314572800 True 0",
            ),
            ("node -p 'os.totalmem() + \" \" + (os.freemem() < os.totalmem())'", "314572800 true"),
            (
                "java -XshowSettings:system -version 2>&1 | grep -o 'Memory Limit: .*'",
                "Memory Limit: 300.00M",
            ),
        ],
    );
}

#[test]
fn cpus() {
    let stage = Stage::new();
    let container = idle(&stage);
    assert_printed(
        &container,
        &[
            ("getconf _NPROCESSORS_ONLN", "1"),
            ("python3 -c 'import os; print(os.cpu_count())'", "1"),
            (
                "python3 -c 'import psutil; print(psutil.cpu_count(), \
                    psutil.cpu_count(logical=False), len(psutil.cpu_times(percpu=True)))'",
                "1 1 1",
            ),
            ("node -p 'os.cpus().length'", "1"),
            ("java -XshowSettings:system -version 2>&1 | grep -c 'Effective CPU Count: 1$'", "1"),
            // By the files alone, without the JVM's own reading of cgroups.
            (
                "java -XX:-UseContainerSupport -XX:+PrintFlagsFinal -version 2>/dev/null |
                    awk '$2 == \"UseSerialGC\" {print $4}'",
                "true",
            ),
            ("lscpu --parse=CPU,CORE,SOCKET | grep -v ^#", "1,0,0"),
            ("lscpu | awk -F': *' '/^(CPU.s.|On-line CPU|NUMA node0 CPU)/ {print $2}'", "1\n1\n1"),
            // Each for itself, and all.
            (
                "mpstat -P ALL | awk 'NR == 1 {print $(NF - 1)} $NF ~ /[0-9]/ {print $2}'",
                "(1\nall\n1",
            ),
            ("iostat -c | awk 'NR == 1 {print $(NF - 1), $NF}'", "(1 CPU)"),
            ("vmstat 1 2 | awk 'NR == 4 {print ($13 + $14 + $15 + $16 + $17 >= 99)}'", "1"),
            ("top -b -n1 -1 | grep -c '^%Cpu'", "1"),
        ],
    );
}

/// When the host booted: Docker's containers share its clocks.
fn boot_time() -> String {
    let text = fs::read_to_string("/proc/stat").unwrap();
    text.lines().find_map(|line| line.strip_prefix("btime ")).unwrap().to_owned()
}

#[test]
fn time_load_and_disks() {
    let stage = Stage::new();
    let container = idle(&stage);
    assert_printed(
        &container,
        &[
            // Some minutes at most: the container is as young as this test.
            ("uptime | grep -c ' up [0-9]* min'", "1"),
            ("python3 -c 'import psutil; print(int(psutil.boot_time()))'", &boot_time()),
            ("node -p 'os.uptime() < 3600'", "true"),
            ("uptime | grep -o 'load average: .*' | tr -cd .", "..."),
            ("busybox uptime | grep -c 'load average: [0-9.]*, [0-9.]*, [0-9.]*$'", "1"),
            // By default it reads /sys/block, which is the host's.
            ("iostat -d -p ALL | awk 'NR > 3 && NF'", ""),
            ("vmstat -D | awk '{sum += $1} END {print sum}'", "0"),
        ],
    );
}

/// It draws a meter for each CPU number up to the highest that is present.
#[test]
fn htop_draws_its_meters() {
    let stage = Stage::new();
    let container = idle(&stage);
    let terminal = Terminal::new();
    let docker = stage.docker(&["exec", "-it", &container.name, "htop"]);
    let words = [docker.get_program()].into_iter().chain(docker.get_args());
    let line: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    terminal.line(&line.join(" "));
    let expected = ["offline]", "/300M]", "Uptime: 00:0", "Load average: "];
    eventually("its meters", || {
        let screen = terminal.screen();
        expected.iter().all(|text| screen.contains(text))
    });
    terminal.key("F10");
}

/// The samples of prometheus-node-exporter by their names with labels.
fn samples(container: &Container<'_>) -> BTreeMap<String, f64> {
    const SCRAPE: &str = r#"
import subprocess, time, urllib.request
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
"#;
    let text = container.exec(&["python3", "-c", SCRAPE]);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[test]
fn node_exporter_exports_the_container() {
    let stage = Stage::new();
    let container = idle(&stage);
    let samples = samples(&container);
    let value = |name: &str| *samples.get(name).unwrap_or_else(|| panic!("no {name}: {samples:?}"));
    assert_eq!(value("node_memory_MemTotal_bytes"), 314_572_800.0);
    assert!(value("node_memory_MemFree_bytes") > 200e6);
    assert_eq!(value("node_memory_SwapTotal_bytes"), 0.0);
    assert_eq!(value("node_boot_time_seconds"), boot_time().parse::<f64>().unwrap());
    assert!(value("node_load1") < 100.0 && value("node_procs_running") >= 1.0);
    // What is not present it has 0 for.
    let cpu = |number: u32| -> f64 {
        let prefix = format!("node_cpu_seconds_total{{cpu=\"{number}\"");
        samples
            .range(prefix.clone()..)
            .take_while(|(name, _)| name.starts_with(&prefix))
            .map(|(_, value)| value)
            .sum()
    };
    assert_eq!(cpu(0), 0.0);
    assert!(cpu(1) > 0.0 && cpu(1) < 3600.0, "{}", cpu(1));
    assert!(!samples.keys().any(|name| name.starts_with("node_disk_")), "{samples:?}");
    for collector in ["cpu", "diskstats", "loadavg", "meminfo", "stat", "vmstat"] {
        let name = format!("node_scrape_collector_success{{collector=\"{collector}\"}}");
        assert_eq!(value(&name), 1.0, "{collector}");
    }
}
