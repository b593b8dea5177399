//! Options of the daemon that change what a container's machine looks like: `--cpu-ids compact` and
//! `--uptime host`; and the file that has them.
//!
//! Needs what [`crate::who`] needs, two CPUs, and util-linux and procps.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::byhand::{Group, Program};
use crate::daemon::{Guarded, PROGRAM, Place, serve, start_telling};

const CPU: &str = "/sys/devices/system/cpu";

fn start(place: &Place, options: [&str; 2]) -> Guarded {
    let mut command = serve(&place.mountpoint());
    command.args(options);
    start_telling(place, command).0
}

/// In cgroups of its own, on these CPUs.
fn on_cpus(cpus: &str) -> Group {
    let group = Group::new(&["memory", "cpu", "cpuacct", "cpuset"]);
    group.set("cpuset.cpus", cpus);
    group
}

/// A script that is a container's first process, with our files over the kernel's.
fn container(place: &Place, group: &Group, script: &str) -> Program {
    let mount = "mount -t proc proc /proc; cd \"$1\"; \
        for file in proc/cpuinfo proc/stat proc/uptime sys/devices/system/cpu \
        sys/devices/system/node; do mount --bind $file /$file; done; cd /";
    let start = format!(
        "{} exec unshare --pid --fork --kill-child --mount --cgroup sh -ec '{mount}; {script}' sh \"$1\"",
        group.join()
    );
    Program::start(place, &start)
}

#[test]
fn programs_count_a_containers_cpus_from_0_on() {
    let place = Place::new();
    let _daemon = start(&place, ["--cpu-ids", "compact"]);
    let group = on_cpus("1");
    for (program, expected) in [
        ("getconf _NPROCESSORS_ONLN", "1"),
        ("lscpu --parse=CPU,CORE,SOCKET | grep -v ^#", "0,0,0"),
        ("lscpu | grep -c \"^On-line CPU(s) list: *0$\"", "1"),
        ("lscpu | grep -c \"^NUMA node0 CPU(s): *0$\"", "1"),
        // What htop, top and mpstat draw a line for.
        ("grep -o \"^cpu[0-9]*\" /proc/stat | tr \"\\n\" \" \"", "cpu cpu0 "),
        ("grep ^processor /proc/cpuinfo", "processor\t: 0"),
        ("ls -d /sys/devices/system/cpu/cpu[0-9]*", "/sys/devices/system/cpu/cpu0"),
        ("cat /sys/devices/system/cpu/present", "0"),
        ("cat /sys/devices/system/cpu/cpu0/topology/package_cpus", "1"),
        ("readlink /sys/devices/system/node/node0/cpu0", "../../cpu/cpu0"),
        ("test -e /sys/devices/system/cpu/cpu1 || echo none", "none"),
        // The kernel goes by its own.
        ("grep ^Cpus_allowed_list: /proc/self/status", "Cpus_allowed_list:\t1"),
    ] {
        let output = container(&place, &group, program).output();
        assert_eq!(output.trim_end_matches('\n'), expected, "{program}");
    }
}

/// What tells a CPU from others, by the host's own files.
fn host_cpu(cpu: u32) -> String {
    let directory = Path::new(CPU).join(format!("cpu{cpu}"));
    let core = fs::read_to_string(directory.join("topology/core_id")).unwrap();
    format!("{} {}", core.trim(), u8::from(directory.join("online").exists()))
}

#[test]
fn a_number_is_another_cpu_in_another_container() {
    let place = Place::new();
    let _daemon = start(&place, ["--cpu-ids", "compact"]);
    let (one, both) = (on_cpus("1"), on_cpus("0-1"));
    // The kernel remembers names for all of them, so both ask at the same time.
    let script = |cpus: &str| {
        format!(
            "for round in $(seq 100); do for cpu in {cpus}; do \
             has=0; cd {CPU}/cpu$cpu; test -e online && has=1; \
             echo $cpu $(cat {CPU}/cpu$cpu/topology/core_id) $has $(cat topology/core_cpus_list); \
             done; done"
        )
    };
    let of_one = container(&place, &one, &script("0"));
    let of_both = container(&place, &both, &script("0 1"));
    let threads = |cpu: u32| {
        let path = format!("{CPU}/cpu{cpu}/topology/core_cpus_list");
        fs::read_to_string(path).unwrap().trim().to_owned()
    };
    let expected_of_one = format!("0 {} 0\n", host_cpu(1));
    let expected_of_both: String =
        (0..2).map(|cpu| format!("{cpu} {} {}\n", host_cpu(cpu), threads(cpu))).collect();
    assert_eq!(of_one.output(), expected_of_one.repeat(100));
    assert_eq!(of_both.output(), expected_of_both.repeat(100));
}

#[test]
fn processes_are_as_old_as_they_are_where_the_container_is_up_since_the_host_booted() {
    let place = Place::new();
    let _daemon = start(&place, ["--uptime", "host"]);
    let begun = Instant::now();
    let script = "cut -d. -f1 /proc/uptime; ps -o etimes= -p 1";
    let up = || fs::read_to_string("/proc/uptime").unwrap();
    let seconds = |text: &str| text.split(['.', '\n']).next().unwrap().parse::<u64>().unwrap();
    let before = seconds(&up());
    let output = container(&place, &on_cpus("0-1"), script).output();
    let (uptime, age) = output.split_once('\n').unwrap();
    assert!((before..=seconds(&up())).contains(&seconds(uptime)), "{output}");
    // By the clock's seconds, of which one may have begun.
    assert!(seconds(age.trim()) <= begun.elapsed().as_secs() + 1, "{output}");
}

/// A file with these options, and where the daemon of `place` is.
struct File<'a> {
    place: &'a Place,
    path: PathBuf,
}

impl File<'_> {
    fn new(place: &Place) -> File<'_> {
        File { place, path: place.base.join("lxcfs-rs.toml") }
    }

    fn runtime_dir(&self) -> PathBuf {
        self.place.base.join("run")
    }

    fn write(&self, mountpoint: &Path, options: &str) {
        let run = self.runtime_dir();
        let text = format!("mountpoint = {mountpoint:?}\nruntime-dir = {run:?}\n{options}\n");
        fs::write(&self.path, text).unwrap();
    }

    fn serve(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg("--config").arg(&self.path).env_remove("RUST_LOG");
        command.stderr(Stdio::piped());
        command
    }

    fn upgrade(&self) -> Output {
        let mut command = Command::new(PROGRAM);
        command.arg("upgrade").arg(self.place.mountpoint());
        command.arg("--runtime-dir").arg(self.runtime_dir()).output().unwrap()
    }
}

#[test]
fn an_upgrade_reads_the_file_again() {
    let place = Place::new();
    let group = on_cpus("1");
    let shown = || container(&place, &group, &format!("cat {CPU}/present")).output();
    let file = File::new(&place);
    file.write(&place.mountpoint(), "cpu-ids = 'compact'");
    let (daemon, socket, _) = start_telling(&place, file.serve());
    assert_eq!(shown(), "0\n");

    file.write(&place.mountpoint(), "cpu-ids = 'physical'");
    let Output { status, stderr, .. } = file.upgrade();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    assert_eq!(shown(), "1\n");

    file.write(&place.mountpoint(), "cpu-ids = 'mine'");
    let Output { status, stderr, .. } = file.upgrade();
    let line = String::from_utf8(stderr).unwrap();
    let said = format!("{}: line 3: cpu-ids = 'mine': found \"mine\"", file.path.display());
    assert_eq!((status.code(), line.lines().count()), (Some(1), 1), "{line}");
    assert!(line.contains(&said), "{line}");
    assert_eq!(shown(), "1\n");

    // Containers have the files of the old one.
    let elsewhere = place.base.join("elsewhere");
    file.write(&elsewhere, "cpu-ids = 'compact'");
    let wait_until_ready = || {
        let mut message = [0; 4096];
        while !message.starts_with(b"READY=1") {
            socket.recv(&mut message).unwrap();
        }
    };
    // The first is of the first upgrade.
    wait_until_ready();
    daemon.signal(Signal::SIGUSR1);
    wait_until_ready();
    assert_eq!(shown(), "0\n");
    assert!(!elsewhere.exists());

    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.end();
    assert!(status.success(), "{log}");
    let warning = format!(
        "still serving {}: a stop and a start make it {}",
        place.mountpoint().display(),
        elsewhere.display()
    );
    assert!(log.contains(&warning), "{log}");
    assert!(!place.mountpoint().exists());
}

#[test]
fn a_file_that_is_wrong_or_missing_is_a_wrong_command_line() {
    let place = Place::new();
    let file = File::new(&place);
    let refused = |said: &str| {
        let Output { status, stderr, .. } = file.serve().output().unwrap();
        let line = format!("lxcfs-rs: {}: {said}\n", file.path.display());
        assert_eq!((status.code(), String::from_utf8(stderr).unwrap()), (Some(2), line));
    };
    refused("cannot read: No such file or directory");
    file.write(&place.mountpoint(), "workers = 'x'");
    refused("line 3: workers = 'x': invalid type: string \"x\", expected a nonzero usize");
    assert!(!place.mountpoint().exists());
}
