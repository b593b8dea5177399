//! What the containers of a real Docker see through bind mounts of a daemon's files.
//!
//! Needs what [`crate::engine`] needs. Figures are compared with the kernel's own counters, read
//! before and after; times with the kernel's clock.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{SysconfVar, sysconf};

use crate::daemon::{Guarded, Place, start};
use crate::engine::{self, Engine, IMAGE, hierarchy_of};

const MIB: u64 = 1 << 20;

/// What is mounted into a container from below the daemon's mountpoint.
const MOUNTS: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/sys/devices/system/cpu",
    "/sys/devices/system/node",
];
/// Files that a container finds there.
const FILES: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    ONLINE,
];
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Reads for us inside a container: one line `HOW PATH` is answered by a length and that many
/// bytes. Nothing in a container changes while it waits, so what it reads can be compared with
/// the cgroup's files to the byte.
const AGENT: &str = r#"
import errno, mmap, os, shutil, signal, sys
kept = {}

def whole(fd):
    text = b''
    while chunk := os.pread(fd, 65536, len(text)):
        text += chunk
    return text

def read(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return whole(fd)
    finally:
        os.close(fd)

def keep(path):
    if path not in kept:
        kept[path] = os.open(path, os.O_RDONLY)
    return whole(kept[path])

def copyfile(path):
    shutil.copyfile(path, '/tmp/copy')
    return read('/tmp/copy')

def sendfile(path):
    fd = os.open(path, os.O_RDONLY)
    out = os.open('/tmp/copy', os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        while os.sendfile(out, fd, None, 4096):
            pass
        return whole(out)
    finally:
        os.close(fd)
        os.close(out)

def output(child):
    read_end, write_end = os.pipe()
    if (pid := os.fork()) == 0:
        os.dup2(write_end, 1)
        os.close(read_end)
        child()
        os._exit(0)
    os.close(write_end)
    text = b''
    while chunk := os.read(read_end, 65536):
        text += chunk
    os.close(read_end)
    status = os.waitpid(pid, 0)[1]
    return text if status == 0 else b'error: %d' % os.waitstatus_to_exitcode(status)

def map(path):
    def child():
        fd = os.open(path, os.O_RDONLY)
        try:
            mapped = mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)
        except OSError as error:
            os._exit(error.errno)
        os.write(1, mapped[:].rstrip(b'\0'))
    return output(child)

def busybox(path):
    return output(lambda: os.execvp('busybox', ['busybox', 'cat', path]))

for line in sys.stdin:
    how, path = line.split()
    try:
        text = globals()[how](path)
    except OSError as error:
        text = b'error: ' + errno.errorcode[error.errno].encode()
    os.write(1, b'%d\n' % len(text) + text)
"#;

/// Docker and a daemon.
pub(crate) struct Stage {
    _daemon: Guarded,
    place: Place,
    engine: Arc<Engine>,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let engine = Engine::shared();
        let place = Place::new();
        let daemon = start(&place);
        Stage { _daemon: daemon, place, engine }
    }

    /// The arguments of `docker run` that mount all files.
    fn mounts(&self, mode: &str) -> Vec<String> {
        let mount = |path: &&str| {
            let source = self.place.file(path.trim_start_matches('/'));
            format!("--volume={}:{path}{mode}", source.display())
        };
        MOUNTS.iter().map(mount).collect()
    }

    /// `docker run OPTIONS … IMAGE COMMAND`, with all files mounted.
    fn run(&self, options: &[&str], command: &[&str]) -> Command {
        let mounts = self.mounts(":ro");
        let mut arguments = vec!["run", "--network=none"];
        arguments.extend(mounts.iter().map(String::as_str));
        arguments.extend(options.iter().chain(&[IMAGE]).chain(command));
        self.engine.docker(&arguments)
    }

    fn start(&self, options: &[&str], command: &[&str]) -> Container<'_> {
        let container = Container { stage: self, name: container_name() };
        let mut all = vec!["--detach", "--name", &container.name];
        all.extend(options);
        succeed(self.run(&all, command));
        container
    }

    /// Where the daemon serves.
    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.place.mountpoint()
    }

    /// `docker ARGUMENTS`.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Command {
        self.engine.docker(arguments)
    }

    /// A container that does nothing.
    pub(crate) fn idle(&self, options: &[&str]) -> Container<'_> {
        self.start(options, &["sleep", "infinity"])
    }
}

fn container_name() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("test-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A command's output; it must succeed.
#[track_caller]
fn succeed(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "{command:?}: {status}: {errors}");
    String::from_utf8(stdout).unwrap()
}

/// Removed at the end of its test.
pub(crate) struct Container<'a> {
    stage: &'a Stage,
    pub(crate) name: String,
}

impl Container<'_> {
    /// `docker exec OPTIONS CONTAINER COMMAND`.
    fn exec_as(&self, options: &[&str], command: &[&str]) -> String {
        let mut arguments = vec!["exec"];
        arguments.extend(options.iter().chain(&[self.name.as_str()]).chain(command));
        succeed(self.stage.engine.docker(&arguments))
    }

    pub(crate) fn exec(&self, command: &[&str]) -> String {
        self.exec_as(&[], command)
    }

    fn agent(&self) -> Agent {
        let exec = ["exec", "--interactive", &self.name, "python3", "-c", AGENT];
        Agent::start(self.stage.engine.docker(&exec))
    }

    fn update(&self, options: &[&str]) {
        let mut arguments = vec!["update"];
        arguments.extend(options.iter().chain(&[self.name.as_str()]));
        self.stage.engine.output(&arguments);
    }

    fn inspect(&self, format: &str) -> String {
        let text = self.stage.engine.output(&["inspect", "--format", format, &self.name]);
        text.trim_end().to_owned()
    }

    /// The first process, as the host numbers it.
    fn pid(&self) -> i32 {
        self.inspect("{{.State.Pid}}").parse().unwrap()
    }

    fn cgroup(&self, controller: &str) -> Cgroup {
        Cgroup::of(self.pid(), controller)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let arguments = ["rm", "--force", "--volumes", &self.name];
        let removed = self.stage.engine.docker(&arguments).output();
        if !removed.is_ok_and(|output| output.status.success()) {
            eprintln!("{} was not removed", self.name);
        }
    }
}

/// A running [`AGENT`].
struct Agent {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    _docker: Guarded,
}

impl Agent {
    fn start(mut docker: Command) -> Agent {
        docker.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut docker = Guarded(docker.spawn().unwrap());
        let requests = docker.0.stdin.take().unwrap();
        let answers = BufReader::new(docker.0.stdout.take().unwrap());
        let mut agent = Agent { requests, answers, _docker: docker };
        assert_eq!(agent.read("/proc/self/comm"), "python3\n");
        agent
    }

    #[track_caller]
    fn ask(&mut self, how: &str, path: &str) -> String {
        self.requests.write_all(format!("{how} {path}\n").as_bytes()).unwrap();
        let mut length = String::new();
        self.answers.read_line(&mut length).unwrap();
        let length =
            length.trim_end().parse().unwrap_or_else(|_| panic!("{how} {path}: no answer"));
        let mut text = vec![0; length];
        self.answers.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[track_caller]
    fn read(&mut self, path: &str) -> String {
        self.ask("read", path)
    }

    /// Again from the start of a descriptor that it opened at its first such read.
    #[track_caller]
    fn kept(&mut self, path: &str) -> String {
        self.ask("keep", path)
    }
}

/// A cgroup's directory.
struct Cgroup {
    directory: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    fn of(pid: i32, controller: &str) -> Cgroup {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let fields = text.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
        let of = |wanted: &str| {
            let mut lines = fields.clone();
            let line = lines.find(|line| line[1].split(',').any(|name| name == wanted))?;
            Some(line[2].trim_start_matches('/').to_owned())
        };
        let (path, is_v2) =
            of(controller).map_or_else(|| (of("").unwrap(), true), |path| (path, false));
        Cgroup { directory: hierarchy_of(controller).join(path), is_v2 }
    }

    /// A file that v1 and v2 name differently.
    #[track_caller]
    fn read(&self, v1: &str, v2: &str) -> String {
        let path = self.directory.join(if self.is_v2 { v2 } else { v1 });
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[track_caller]
    fn number(&self, v1: &str, v2: &str) -> u64 {
        self.read(v1, v2).trim_end().parse().unwrap()
    }

    fn memory_usage(&self) -> u64 {
        self.number("memory.usage_in_bytes", "memory.current")
    }

    /// How long processes ran, and how long they were held back by the quota.
    fn ran_and_throttled(&self) -> (Duration, Duration) {
        let stat = numbers(&self.read("cpu.stat", "cpu.stat"));
        if self.is_v2 {
            let usec = |key| Duration::from_micros(stat[key]);
            return (usec("usage_usec"), usec("throttled_usec"));
        }
        // The two controllers may sit on one hierarchy or on two.
        let below = self.directory.strip_prefix(hierarchy_of("cpu")).unwrap();
        let usage = hierarchy_of("cpuacct").join(below).join("cpuacct.usage");
        let usage = fs::read_to_string(usage).unwrap().trim_end().parse().unwrap();
        (Duration::from_nanos(usage), Duration::from_nanos(stat["throttled_time"]))
    }
}

/// Lines `NAME NUMBER …`, also with a colon.
fn numbers(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| {
        let (name, rest) = line.split_once(|c: char| c == ':' || c.is_whitespace())?;
        Some((name.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
    });
    lines.collect()
}

/// A line of meminfo, kB.
#[track_caller]
fn kib(meminfo: &str, label: &str) -> u64 {
    numbers(meminfo).get(label).copied().unwrap_or_else(|| panic!("no {label} in:\n{meminfo}"))
}

#[track_caller]
fn mem_total(meminfo: &str) -> u64 {
    kib(meminfo, "MemTotal")
}

fn cpuinfo_count(cpuinfo: &str) -> usize {
    cpuinfo.lines().filter(|line| line.starts_with("processor")).count()
}

/// The lines `cpuN` of stat.
fn stat_cpus(stat: &str) -> Vec<&str> {
    let names = stat.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| name.starts_with("cpu") && *name != "cpu").collect()
}

/// The columns of the line `cpu`, ticks.
#[derive(Clone, Copy, Debug)]
struct Times([u64; 10]);

impl Times {
    #[track_caller]
    fn of(stat: &str) -> Times {
        let line = stat.lines().next().unwrap();
        let columns: Vec<u64> = line
            .strip_prefix("cpu ")
            .unwrap_or_else(|| panic!("{line}"))
            .split_whitespace()
            .map(|number| number.parse().unwrap())
            .collect();
        Times(columns.try_into().unwrap_or_else(|_| panic!("{line}: expected ten columns")))
    }

    #[track_caller]
    fn since(self, earlier: Times) -> Times {
        let differences = std::array::from_fn(|column| {
            self.0[column].checked_sub(earlier.0[column]).unwrap_or_else(|| {
                panic!("column {column} went backwards: {earlier:?}, then {self:?}")
            })
        });
        Times(differences)
    }

    fn total(self) -> u64 {
        self.0.iter().sum()
    }

    /// user, nice and system.
    fn busy(self) -> u64 {
        self.0[..3].iter().sum()
    }

    fn idle(self) -> u64 {
        self.0[3]
    }

    fn steal(self) -> u64 {
        self.0[7]
    }

    fn percent(self, ticks: u64) -> f64 {
        100.0 * ticks as f64 / self.total() as f64
    }
}

fn ticks_per_second() -> f64 {
    sysconf(SysconfVar::CLK_TCK).unwrap().unwrap() as f64
}

/// The kernel's time since boot, seconds.
fn boottime() -> f64 {
    Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap()).as_secs_f64()
}

/// When a process started, seconds since boot, rounded down to a tick.
fn start_time(pid: i32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Field 22; the command's name before the last parenthesis is field 2.
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks: f64 = after_name.split_whitespace().nth(22 - 3).unwrap().parse().unwrap();
    ticks / ticks_per_second()
}

/// Both fields of uptime, seconds.
#[track_caller]
fn uptime_fields(uptime: &str) -> (f64, f64) {
    let (up, idle) = uptime.trim_end().split_once(' ').unwrap_or_else(|| panic!("{uptime}"));
    (up.parse().unwrap(), idle.parse().unwrap())
}

/// Asserts that what `read` says is the time since `start`, seconds since boot.
#[track_caller]
fn assert_up_since(start: f64, read: impl FnOnce() -> String) {
    // Start times are rounded to a tick, uptime to a hundredth.
    const ROUNDING: f64 = 0.03;
    let before = boottime() - start - ROUNDING;
    let (up, _) = uptime_fields(&read());
    let after = boottime() - start + ROUNDING;
    assert!((before..=after).contains(&up), "up {up}, expected {before} to {after}");
}

/// Calls `attempt` until it returns something.
#[track_caller]
fn repeat<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not so in three minutes");
    }
}

/// Lines of meminfo, and the keys of memory.stat on v1 and on v2 that make them up.
type MemoryLine = (&'static str, &'static [&'static str], &'static [&'static str]);
const MEMORY_LINES: &[MemoryLine] = &[
    ("Buffers", &[], &[]),
    ("Cached", &["total_cache"], &["file"]),
    ("Active", &["total_active_anon", "total_active_file"], &["active_anon", "active_file"]),
    (
        "Inactive",
        &["total_inactive_anon", "total_inactive_file"],
        &["inactive_anon", "inactive_file"],
    ),
    ("Active(anon)", &["total_active_anon"], &["active_anon"]),
    ("Inactive(anon)", &["total_inactive_anon"], &["inactive_anon"]),
    ("Active(file)", &["total_active_file"], &["active_file"]),
    ("Inactive(file)", &["total_inactive_file"], &["inactive_file"]),
    ("Unevictable", &["total_unevictable"], &["unevictable"]),
    ("Dirty", &["total_dirty"], &["file_dirty"]),
    ("Writeback", &["total_writeback"], &["file_writeback"]),
    ("AnonPages", &["total_rss"], &["anon"]),
    ("Mapped", &["total_mapped_file"], &["file_mapped"]),
    ("Shmem", &["total_shmem"], &["shmem"]),
    ("SReclaimable", &[], &["slab_reclaimable"]),
    ("AnonHugePages", &["total_rss_huge"], &["anon_thp"]),
];

/// meminfo, read between two readings of the cgroup's own files that say the same, and what they
/// say: usage, memory.stat, and the kernel's memory that cannot be reclaimed.
fn steady_memory(container: &Container, agent: &mut Agent) -> (String, Memory) {
    let cgroup = container.cgroup("memory");
    let read = || Memory {
        is_v2: cgroup.is_v2,
        usage: cgroup.memory_usage(),
        unreclaimable: if cgroup.is_v2 {
            numbers(&cgroup.read("", "memory.stat"))["slab_unreclaimable"]
        } else {
            cgroup.number("memory.kmem.usage_in_bytes", "")
        },
        stat: numbers(&cgroup.read("memory.stat", "memory.stat")),
    };
    repeat("the container's memory does not change", || {
        let before = read();
        let meminfo = agent.kept("/proc/meminfo");
        (read() == before).then_some((meminfo, before))
    })
}

#[derive(PartialEq)]
struct Memory {
    is_v2: bool,
    usage: u64,
    unreclaimable: u64,
    stat: BTreeMap<String, u64>,
}

impl Memory {
    fn sum(&self, keys_v1: &[&str], keys_v2: &[&str]) -> u64 {
        let keys = if self.is_v2 { keys_v2 } else { keys_v1 };
        keys.iter().map(|key| self.stat[*key]).sum()
    }

    /// Every line that can be worked out by hand; there is no limit above the container's.
    fn assert_shown(&self, meminfo: &str, total: u64) {
        let reclaimable = self.sum(
            &["total_active_file", "total_inactive_file"],
            &["active_file", "inactive_file", "slab_reclaimable"],
        );
        let free = total - self.usage;
        assert_eq!(mem_total(meminfo), total / 1024);
        assert_eq!(kib(meminfo, "MemFree"), free / 1024);
        assert_eq!(kib(meminfo, "MemAvailable"), (free + reclaimable).min(total) / 1024);
        for (label, v1, v2) in MEMORY_LINES {
            assert_eq!(kib(meminfo, label), self.sum(v1, v2) / 1024, "{label}");
        }
        assert_eq!(kib(meminfo, "SUnreclaim"), self.unreclaimable / 1024);
    }
}

/// Swap by the rule: at most the host's and at most what the limit adds to the memory.
fn swap_total(container: &Container, limit: u64) -> u64 {
    let host = kib(&fs::read_to_string("/proc/meminfo").unwrap(), "SwapTotal");
    let cgroup = container.cgroup("memory");
    let name = if cgroup.is_v2 { "memory.swap.max" } else { "memory.memsw.limit_in_bytes" };
    if cgroup.directory.join(name).exists() { host.min(limit / 1024) } else { 0 }
}

#[test]
fn the_machine_is_as_large_as_the_limits() {
    let stage = Stage::new();
    let container = stage.idle(&["-m=300m", "--memory-swap=500m", "--cpus=0.5"]);
    // Something of each kind to count: the page cache, shared memory, and the agent's own.
    container.exec(&["dd", "if=/dev/zero", "of=/tmp/file", "bs=1M", "count=20"]);
    container.exec(&["dd", "if=/dev/zero", "of=/dev/shm/file", "bs=1M", "count=10"]);
    let mut agent = container.agent();

    let (meminfo, memory) = steady_memory(&container, &mut agent);
    memory.assert_shown(&meminfo, 300 * MIB);
    // The kernel's own counts lag behind by a batch per CPU.
    assert!(kib(&meminfo, "Cached") >= 20 * 1024, "{meminfo}");
    assert!(kib(&meminfo, "Shmem") >= 5 * 1024, "{meminfo}");
    let host = fs::read_to_string("/proc/meminfo").unwrap();
    let labels = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    assert_eq!(labels(&meminfo), labels(&host));

    let swap = swap_total(&container, 200 * MIB);
    assert_eq!(kib(&meminfo, "SwapTotal"), swap);
    let swaps = agent.read("/proc/swaps");
    let lines: Vec<Vec<&str>> =
        swaps.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["Filename", "Type", "Size", "Used", "Priority"]);
    let used = swap - kib(&meminfo, "SwapFree");
    let expected = [["none", "virtual", &swap.to_string(), &used.to_string(), "0"]];
    assert_eq!(&lines[1..], if swap > 0 { &expected[..] } else { &[] });

    let cpuinfo = agent.read("/proc/cpuinfo");
    assert_eq!(cpuinfo_count(&cpuinfo), 1, "{cpuinfo}");
    let online = agent.read(ONLINE);
    assert_eq!(stat_cpus(&agent.read("/proc/stat")), [format!("cpu{}", online.trim_end())]);
}

#[test]
fn uptime_is_the_containers_age() {
    let stage = Stage::new();
    let container = stage.idle(&["-m=300m", "--cpus=0.5"]);
    let mut agent = container.agent();
    let start = start_time(container.pid());
    assert_up_since(start, || agent.read("/proc/uptime"));

    // Docker's own opinion, by the wall clock, which may be set: so with a second to spare.
    let seconds = |date: &str| -> f64 {
        let mut command = Command::new("date");
        command.args(["--date", date, "+%s.%N"]);
        succeed(command).trim_end().parse().unwrap()
    };
    let created = seconds(&container.inspect("{{.Created}}"));
    let started = seconds(&container.inspect("{{.State.StartedAt}}"));
    let earliest = seconds("now") - started - 1.0;
    let (up, _) = uptime_fields(&agent.read("/proc/uptime"));
    let latest = seconds("now") - created + 1.0;
    assert!((earliest..=latest).contains(&up), "up {up}, expected {earliest} to {latest}");

    // One CPU: what was idle in stat is idle in uptime, and all columns make up the age.
    let before = Times::of(&agent.read("/proc/stat"));
    let (up, idle) = uptime_fields(&agent.read("/proc/uptime"));
    let after = Times::of(&agent.read("/proc/stat"));
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second();
    assert!((seconds(before.idle()) - 0.01..=seconds(after.idle()) + 0.01).contains(&idle));
    assert!((seconds(before.total()) - 0.03..=seconds(after.total()) + 0.03).contains(&up));
}

#[test]
fn the_usual_programs_agree() {
    let stage = Stage::new();
    let container = stage.idle(&["-m=300m", "--memory-swap=500m", "--cpus=0.5"]);
    let free = container.exec(&["free", "-k"]);
    assert_eq!(numbers(&free)["Mem"], 300 * 1024, "{free}");
    assert_eq!(numbers(&free)["Swap"], swap_total(&container, 200 * MIB), "{free}");
    assert_eq!(numbers(&container.exec(&["free", "-m"]))["Mem"], 300);

    let top = container.exec(&["top", "-b", "-n1"]);
    assert!(top.contains("MiB Mem :    300.0 total"), "{top}");
    assert!(top.contains("load average:"), "{top}");
    let up = container.exec(&["uptime", "--pretty"]);
    assert!(up.starts_with("up ") && !up.contains("day"), "{up}");
    let vmstat = container.exec(&["vmstat"]);
    assert_eq!(vmstat.lines().count(), 3, "{vmstat}");
    let node = container.exec(&["head", "-1", "/sys/devices/system/node/node0/meminfo"]);
    assert_eq!(node.trim_end(), format!("Node 0 MemTotal:       {:8} kB", 300 * 1024));
    let slabinfo = container.exec(&["cat", "/proc/slabinfo"]);
    assert!(slabinfo.starts_with("slabinfo - version: ") && slabinfo.lines().count() == 2);

    let ps = container.exec(&["ps", "-e", "-o", "pid,pcpu,pmem,etimes,comm"]);
    let init = ps.lines().find(|line| line.ends_with("sleep")).unwrap_or_else(|| panic!("{ps}"));
    assert_eq!(init.split_whitespace().next(), Some("1"));

    // No more processes than the container has, and no disk that the host has not.
    let loadavg = container.exec(&["cat", "/proc/loadavg"]);
    let tasks = loadavg.split(' ').nth(3).unwrap().split_once('/').unwrap();
    assert!(tasks.1.parse::<u32>().unwrap() < 10, "{loadavg}");
    let host = fs::read_to_string("/proc/diskstats").unwrap();
    let names = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().nth(2).unwrap().to_owned()).collect()
    };
    let diskstats = container.exec(&["cat", "/proc/diskstats"]);
    assert!(names(&diskstats).iter().all(|name| names(&host).contains(name)), "{diskstats}");
}

#[test]
fn programs_count_the_cpus_that_the_container_has() {
    let stage = Stage::new();
    // The programs of this machine, which runs the same Debian as the image.
    let container = stage.idle(&["--cpuset-cpus=1", "--volume=/usr:/usr:ro"]);
    for (program, expected) in [
        ("getconf _NPROCESSORS_ONLN", "1"),
        ("python3 -c 'import os; print(os.cpu_count())'", "1"),
        (
            "python3 -c 'import psutil; print(psutil.cpu_count(), len(psutil.cpu_times(percpu=True)))'",
            "1 1",
        ),
        ("python3 -c 'import psutil; print(psutil.cpu_count(logical=False))'", "1"),
        ("node -e 'console.log(os.cpus().length)'", "1"),
        // Cores and sockets it counts itself.
        ("lscpu --parse=CPU,CORE,SOCKET | grep -v ^#", "1,0,0"),
        ("lscpu | grep -c '^On-line CPU(s) list: *1$'", "1"),
        ("lscpu | grep -c '^NUMA node0 CPU(s): *1$'", "1"),
        ("ls -d /sys/devices/system/cpu/cpu[0-9]*", "/sys/devices/system/cpu/cpu1"),
        ("cat /sys/devices/system/cpu/present", "1"),
        // The place of the bit, not the count.
        ("cat /sys/devices/system/cpu/cpu1/topology/package_cpus", "2"),
        // Those that are possible.
        (
            "nproc --all",
            &fs::read_dir("/sys/devices/system/cpu")
                .unwrap()
                .filter(|entry| {
                    let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
                    name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok())
                })
                .count()
                .to_string(),
        ),
    ] {
        assert_eq!(container.exec(&["sh", "-c", program]).trim_end(), expected, "{program}");
    }
    let rest =
        container.exec(&["sh", "-c", "cd /sys/devices/system/cpu; cat vulnerabilities/meltdown"]);
    assert_eq!(
        rest,
        fs::read_to_string("/sys/devices/system/cpu/vulnerabilities/meltdown").unwrap()
    );
    // Nothing leads out of it but what the container's own /sys has.
    let links = "readlink /sys/devices/system/cpu/cpu1/subsystem";
    assert_eq!(container.exec(&["sh", "-c", links]), "../../../../bus/cpu\n");
    let absent =
        "stat /sys/devices/system/cpu/cpu0 2>&1; echo x 2>&1 >/sys/devices/system/cpu/smt/control";
    let said = container.exec(&["sh", "-c", &format!("{absent}; true")]);
    assert!(said.contains("cpu0': No such file"), "{said}");
}

#[test]
fn explain_tells_what_a_container_sees_and_why() {
    let stage = Stage::new();
    let container = stage.idle(&["-m=300m", "--cpus=0.5"]);
    let explain = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lxcfs-rs"));
        command.arg("explain").args(arguments);
        succeed(command)
    };
    let id = container.inspect("{{.Id}}");
    let pid = container.pid().to_string();
    let memory = format!("/{}: memory.limit_in_bytes 314572800*,", id.trim_end());
    for arguments in [&[&id[..12], "meminfo"][..], &["--pid", &pid, "/proc/meminfo"]] {
        let told = explain(arguments);
        assert!(told.starts_with(&format!("process {pid}: container\n")), "{told}");
        assert!(told.contains(&memory), "{told}");
        let total = told.lines().find(|line| line.starts_with("MemTotal:")).unwrap();
        let words = "least memory.limit_in_bytes over the levels; the host's where it is less";
        assert!(total.contains(" 307200 kB") && total.ends_with(words), "{total}");
        let buffers = told.lines().find(|line| line.starts_with("Buffers:")).unwrap();
        assert!(buffers.ends_with("# 0: no cgroup counts it"), "{buffers}");
    }
    let host = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    assert_eq!(
        explain(&["--diff", &id[..12], "/sys/devices/system/cpu/online"]),
        format!("--- host /sys/devices/system/cpu/online\n+++ shown\n-{host}+0\n")
    );
    let json = explain(&["--json", "--pid", &pid, "/sys/devices/system/cpu/present"]);
    for part in ["\"subject\": \"container\"", "\"text\": \"0\"", "\"cpu.cfs_quota_us\""] {
        assert!(json.contains(part), "{part}: {json}");
    }
}

#[test]
fn two_containers_side_by_side_have_their_own_cpus() {
    let stage = Stage::new();
    let both: Vec<Container<'_>> =
        ["--cpuset-cpus=0", "--cpuset-cpus=1"].iter().map(|cpus| stage.idle(&[cpus])).collect();
    // Names are remembered by the kernel for all of them, so each asks in turn, and again.
    for _ in 0..5 {
        for (own, container) in both.iter().enumerate() {
            for cpu in 0..2 {
                let found =
                    format!("cat /sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list 2>&1");
                let said = container.exec(&["sh", "-c", &format!("{found}; true")]);
                let expected = if cpu == own {
                    said == format!("{cpu}\n")
                } else {
                    said.contains("No such file or directory")
                };
                assert!(expected, "container {own}, CPU {cpu}: {said}");
            }
            let listed = container.exec(&["ls", "/sys/devices/system/cpu"]);
            let members: Vec<&str> = listed
                .lines()
                .filter(|name| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok()))
                .collect();
            assert_eq!(members, [format!("cpu{own}")]);
        }
    }
}

/// Does `work` until the container spent half of the time it took running and about as much held
/// back, by the kernel's own counters: on a machine that is too busy it gets less than its quota.
fn at_half_a_cpu<T>(container: &Container, mut work: impl FnMut() -> T) -> T {
    let cgroup = container.cgroup("cpu");
    repeat("the container gets its quota", || {
        let (ran, throttled) = cgroup.ran_and_throttled();
        let begin = Instant::now();
        let result = work();
        let elapsed = begin.elapsed();
        let (ran_after, throttled_after) = cgroup.ran_and_throttled();
        let share = |time: Duration| time.as_secs_f64() / elapsed.as_secs_f64();
        let shares = (share(ran_after - ran), share(throttled_after - throttled));
        ((0.48..0.52).contains(&shares.0) && shares.1 > 0.44).then_some(result)
    })
}

/// What `top` in a container tells of all CPUs, in percent.
fn by_top(container: &Container) -> Vec<BTreeMap<String, f64>> {
    let text = container.exec_as(&["--env=LC_ALL=C"], &["top", "-b", "-n2", "-d3"]);
    let line = text.lines().rfind(|line| line.starts_with("%Cpu(s):")).unwrap();
    let fields = line.trim_start_matches("%Cpu(s):").split(',').map(|field| {
        let (number, name) = field.trim().split_once(' ').unwrap_or_else(|| panic!("{line}"));
        (name.to_owned(), number.parse().unwrap())
    });
    vec![fields.collect()]
}

/// What `mpstat` tells of all CPUs and of each, by `top`'s names.
fn by_mpstat(container: &Container) -> Vec<BTreeMap<String, f64>> {
    let text = container.exec(&["mpstat", "-o", "JSON", "-P", "ALL", "4", "1"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cpus = json["sysstat"]["hosts"][0]["statistics"][0]["cpu-load"].as_array();
    let name = |name: &str| match name {
        "usr" => "us".to_owned(),
        "nice" => "ni".to_owned(),
        "sys" => "sy".to_owned(),
        "steal" => "st".to_owned(),
        other => other.to_owned(),
    };
    let of = |cpu: &serde_json::Value| -> BTreeMap<String, f64> {
        let fields = cpu.as_object().unwrap().iter();
        fields.filter_map(|(key, value)| Some((name(key), value.as_f64()?))).collect()
    };
    cpus.unwrap_or_else(|| panic!("{text}")).iter().map(of).collect()
}

/// How busy, and how much stolen, by what a program told of one CPU.
fn busy_and_stolen(told: &BTreeMap<String, f64>) -> (f64, f64) {
    assert!(told.values().all(|value| (0.0..=100.0).contains(value)), "{told:?}");
    (told["us"] + told["sy"] + told["ni"], told["st"])
}

#[test]
fn a_busy_loop_is_half_busy_and_half_stolen_and_nobody_elses() {
    let stage = Stage::new();
    // With mpstat, of this machine, which runs the same Debian as the image.
    let options = ["--cpus=0.5", "--volume=/usr:/usr:ro"];
    let busy = stage.start(&options, &["sh", "-c", "while :; do :; done"]);
    let idle = stage.idle(&["--cpus=0.5"]);
    let (mut busy_agent, mut idle_agent) = (busy.agent(), idle.agent());

    let (busy_times, idle_times) = at_half_a_cpu(&busy, || {
        let idle_before = Times::of(&idle_agent.read("/proc/stat"));
        let before = Times::of(&busy_agent.read("/proc/stat"));
        let mut last = before;
        while last.since(before).total() < 300 {
            thread::sleep(Duration::from_millis(100));
            let now = Times::of(&busy_agent.read("/proc/stat"));
            // Checks that no column goes backwards.
            now.since(last);
            last = now;
        }
        let idle_after = Times::of(&idle_agent.read("/proc/stat"));
        (last.since(before), idle_after.since(idle_before))
    });
    let share = busy_times.percent(busy_times.busy());
    assert!((45.0..=55.0).contains(&share), "busy {share} % of {busy_times:?}");
    let rest = busy_times.total() - busy_times.busy();
    assert!(busy_times.steal() * 10 >= rest * 8, "{busy_times:?}");
    assert!(idle_times.total() >= 290, "{idle_times:?}");
    assert!(idle_times.percent(idle_times.busy()) <= 5.0, "{idle_times:?}");
    assert!(idle_times.percent(idle_times.steal()) <= 5.0, "{idle_times:?}");

    for program in [by_top, by_mpstat] {
        let told = at_half_a_cpu(&busy, || program(&busy));
        for one in &told {
            let (share, steal) = busy_and_stolen(one);
            assert!((45.0..=55.0).contains(&share), "{told:?}");
            assert!(steal >= (100.0 - share) * 0.8, "{told:?}");
        }
    }
    // What top itself takes is the container's own.
    let (share, steal) = busy_and_stolen(&by_top(&idle)[0]);
    assert!(share <= 8.0 && steal <= 8.0, "top: {share} % busy, {steal} % stolen");
}

#[test]
fn an_update_shows_in_the_very_next_read() {
    let stage = Stage::new();
    let container = stage.idle(&["-m=300m", "--memory-swap=500m", "--cpus=0.5"]);
    let mut agent = container.agent();
    for (limit, swap) in [(300, 200), (400, 200), (200, 100)] {
        let memory = format!("-m={limit}m");
        container.update(&[&memory, &format!("--memory-swap={}m", limit + swap)]);
        assert_eq!(mem_total(&agent.kept("/proc/meminfo")), limit * 1024);
        let free = numbers(&container.exec(&["free", "-k"]));
        assert_eq!(free["Mem"], limit * 1024);
        assert_eq!(free["Swap"], swap_total(&container, swap * MIB));
        assert_eq!(mem_total(&agent.read("/proc/meminfo")), limit * 1024);
    }
    let host = cpuinfo_count(&fs::read_to_string("/proc/cpuinfo").unwrap());
    for (cpus, count) in [("0.5", 1), ("1.5", 2.min(host)), ("1", 1)] {
        container.update(&["--cpus", cpus]);
        assert_eq!(cpuinfo_count(&agent.kept("/proc/cpuinfo")), count);
        assert_eq!(stat_cpus(&agent.kept("/proc/stat")).len(), count);
        assert_eq!(cpuinfo_count(&agent.read("/proc/cpuinfo")), count);
    }
}

/// What must not differ between two readers of one machine at any two times.
fn lasting(mut read: impl FnMut(&str) -> String) -> Vec<String> {
    let cpuinfo = read("/proc/cpuinfo");
    let lasting = |line: &&str| !line.starts_with("cpu MHz");
    let meminfo = read("/proc/meminfo");
    vec![
        cpuinfo.lines().filter(lasting).collect(),
        stat_cpus(&read("/proc/stat")).concat(),
        format!("{} {}", mem_total(&meminfo), kib(&meminfo, "SwapTotal")),
        read(ONLINE),
        read("/proc/swaps"),
    ]
}

#[test]
fn exec_sees_what_init_sees() {
    let stage = Stage::new();
    let name = container_name();
    let run = ["--interactive", "--name", &name, "-m=300m", "--cpus=0.5"];
    let run = stage.run(&run, &["python3", "-c", AGENT]);
    let mut init = Agent::start(run);
    let container = Container { stage: &stage, name };
    let seen = lasting(|path| init.read(path));
    assert_eq!(seen[2].split(' ').next(), Some("307200"));

    let ways: [(&[&str], &[&str]); 4] = [
        (&[], &["cat"]),
        (&["--user=1000", "--workdir=/tmp"], &["cat"]),
        (&["--user=1000:1000", "--workdir=/proc"], &["sh", "-c", "(cat \"$1\")", "sh"]),
        (&["--env=HOME=/"], &["busybox", "cat"]),
    ];
    for (options, command) in ways {
        let read = |path: &str| container.exec_as(options, &[command, &[path]].concat());
        assert_eq!(lasting(read), seen, "{options:?} {command:?}");
        let before = Times::of(&init.read("/proc/stat"));
        let between = Times::of(&read("/proc/stat"));
        Times::of(&init.read("/proc/stat")).since(between);
        between.since(before);
        let start = start_time(container.pid());
        assert_up_since(start, || read("/proc/uptime"));
    }
}

#[test]
fn in_the_hosts_pid_namespace_its_own_limits() {
    let stage = Stage::new();
    let container = stage.idle(&["--pid=host", "--cgroupns=host", "-m=200m", "--cpus=0.5"]);
    let mut agent = container.agent();
    let (meminfo, memory) = steady_memory(&container, &mut agent);
    memory.assert_shown(&meminfo, 200 * MIB);
    assert_eq!(cpuinfo_count(&agent.read("/proc/cpuinfo")), 1);
    // To the rules it is a process of the host in a limited cgroup.
    assert_up_since(0.0, || agent.read("/proc/uptime"));
}

#[test]
fn in_anothers_pid_namespace_its_own_limits() {
    let stage = Stage::new();
    let other = stage.idle(&["-m=300m", "--cpus=0.5"]);
    let pid = format!("--pid=container:{}", other.name);
    for cgroupns in ["--cgroupns=host", "--cgroupns=private"] {
        let container = stage.idle(&[&pid, cgroupns, "-m=200m", "--cpus=1.5"]);
        let (mut agent, mut other_agent) = (container.agent(), other.agent());
        for _ in 0..3 {
            let (meminfo, memory) = steady_memory(&container, &mut agent);
            memory.assert_shown(&meminfo, 200 * MIB);
            assert_eq!(mem_total(&other_agent.read("/proc/meminfo")), 300 * 1024);
        }
        let host = cpuinfo_count(&fs::read_to_string("/proc/cpuinfo").unwrap());
        assert_eq!(cpuinfo_count(&agent.read("/proc/cpuinfo")), 2.min(host));
        assert_eq!(cpuinfo_count(&other_agent.read("/proc/cpuinfo")), 1);
        assert_up_since(start_time(container.pid()), || agent.read("/proc/uptime"));
        assert_up_since(start_time(other.pid()), || other_agent.read("/proc/uptime"));
    }
}

#[test]
fn in_a_private_cgroup_namespace_the_same() {
    let stage = Stage::new();
    let container = stage.idle(&["--cgroupns=private", "-m=300m", "--cpus=0.5"]);
    let mut agent = container.agent();
    let own = fs::read_link("/proc/self/ns/cgroup").unwrap();
    assert_ne!(fs::read_link(format!("/proc/{}/ns/cgroup", container.pid())).unwrap(), own);
    let (meminfo, memory) = steady_memory(&container, &mut agent);
    memory.assert_shown(&meminfo, 300 * MIB);
    assert_eq!(cpuinfo_count(&agent.read("/proc/cpuinfo")), 1);
    assert_up_since(start_time(container.pid()), || agent.read("/proc/uptime"));
    assert_eq!(numbers(&container.exec(&["free", "-m"]))["Mem"], 300);
}

/// As systemd in a container makes them; their limits are theirs, the machine is the container's.
#[test]
fn below_the_containers_cgroup_the_container() {
    let stage = Stage::new();
    for cgroupns in ["--cgroupns=host", "--cgroupns=private"] {
        let container = stage.idle(&[cgroupns, "-m=300m"]);
        let memory = container.cgroup("memory");
        let mut agent = container.agent();
        // On v2 none but the root may have both processes and children with controllers.
        let below = memory.directory.join("below");
        fs::create_dir(&below).unwrap();
        if !memory.is_v2 {
            fs::write(below.join("memory.limit_in_bytes"), "100M").unwrap();
        }
        let processes = fs::read_to_string(memory.directory.join("cgroup.procs")).unwrap();
        let init = container.pid().to_string();
        for pid in processes.lines().filter(|pid| *pid != init) {
            fs::write(below.join("cgroup.procs"), pid).unwrap();
        }
        assert!(agent.read("/proc/self/cgroup").contains("/below\n"));
        assert_eq!(mem_total(&agent.read("/proc/meminfo")), 300 * 1024);
        assert_eq!(mem_total(&agent.kept("/proc/meminfo")), 300 * 1024);
    }
}

#[test]
fn two_at_once_never_see_the_others_file() {
    let stage = Stage::new();
    let containers = [stage.idle(&["-m=300m"]), stage.idle(&["-m=200m"])];
    let mut agents = containers.each_ref().map(Container::agent);
    let mut clean_errors = 0;
    for _ in 0..200 {
        for how in ["busybox", "copyfile", "sendfile", "map", "read"] {
            for (agent, total) in agents.iter_mut().zip([300 * 1024, 200 * 1024]) {
                let text = agent.ask(how, "/proc/meminfo");
                // -7 is SIGBUS.
                let is_clean_error = text == "error: EIO" || text == "error: -7";
                if is_clean_error && (how == "sendfile" || how == "map") {
                    clean_errors += 1;
                    continue;
                }
                assert_eq!(mem_total(&text), total, "{how}");
                assert!(text.ends_with(" kB\n"), "{how}: the file's end is missing:\n{text}");
            }
        }
    }
    // A page cache that was filled once would have answered some of them.
    assert_eq!(clean_errors, 2 * 2 * 200);
}

#[test]
fn two_at_once_while_both_read() {
    let stage = Stage::new();
    let containers = [stage.idle(&["-m=300m"]), stage.idle(&["-m=200m"])];
    thread::scope(|scope| {
        for (container, total) in containers.iter().zip([300 * 1024, 200 * 1024]) {
            scope.spawn(move || {
                let mut agent = container.agent();
                for round in 0..1000 {
                    let how = ["read", "keep", "copyfile", "busybox"][round % 4];
                    assert_eq!(mem_total(&agent.ask(how, "/proc/meminfo")), total, "{how}");
                }
            });
        }
    });
}

#[test]
fn nothing_can_be_written() {
    let stage = Stage::new();
    for (mode, error) in [("", "Permission denied"), (":ro", "Read-only file system")] {
        let mounts = stage.mounts(mode);
        let mut arguments = vec!["run", "--rm", "--network=none", "-m=300m"];
        arguments.extend(mounts.iter().map(String::as_str));
        arguments.extend([IMAGE, "sh", "-c"]);
        for path in FILES {
            let script = format!("(echo x > {path}) 2>&1; echo status $?; cat {path}");
            let command = stage.engine.docker(&[&arguments[..], &[&script]].concat());
            let text = succeed(command);
            let (said, rest) = text.split_once("status ").unwrap();
            assert!(said.contains(error), "{path}: {said}");
            assert!(rest.starts_with("2\n"), "{path}: {text}");
        }
    }
}

#[test]
fn without_limits_a_machine_of_the_hosts_size_with_its_own_use() {
    let stage = Stage::new();
    let container = stage.idle(&[]);
    let mut agent = container.agent();
    let host = fs::read_to_string("/proc/meminfo").unwrap();
    let (meminfo, memory) = steady_memory(&container, &mut agent);
    memory.assert_shown(&meminfo, mem_total(&host) * 1024);

    let host_cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap();
    let cpus = cpuinfo_count(&host_cpuinfo);
    assert_eq!(cpuinfo_count(&agent.read("/proc/cpuinfo")), cpus);
    let stat = agent.read("/proc/stat");
    let (ran, _) = container.cgroup("cpu").ran_and_throttled();
    assert_eq!(stat_cpus(&stat).len(), cpus);
    let times = Times::of(&stat);
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second();
    assert!(seconds(times.busy()) <= ran.as_secs_f64() + 0.01, "{times:?}, {ran:?}");
    let age = boottime() - start_time(container.pid()) + 0.01;
    let most = (age + 0.03) * cpus as f64;
    assert!(seconds(times.total()) <= most, "{times:?} in {age} s on {cpus} CPUs");
    // On each CPU less than a tick is not told yet.
    assert!(seconds(times.total()) >= most / 2.0, "{times:?} in {age} s on {cpus} CPUs");
    assert_up_since(start_time(container.pid()), || agent.read("/proc/uptime"));
}

#[test]
fn a_new_container_of_the_same_name_is_a_new_one() {
    let stage = Stage::new();
    let name = container_name();
    for round in 0..50 {
        let limit = if round % 2 == 0 { 100 } else { 150 };
        let memory = format!("-m={limit}m");
        let begin = boottime();
        let command = ["cat", "/proc/meminfo", "/proc/uptime"];
        let text = succeed(stage.run(&["--rm", "--name", &name, &memory], &command));
        let longest = boottime() - begin + 0.03;
        assert_eq!(mem_total(&text), limit * 1024);
        let (up, _) = uptime_fields(text.lines().last().unwrap());
        assert!(up <= longest, "round {round}: up {up}, at most {longest}");
    }
}

/// All that tells of an engine, after it.
#[track_caller]
fn assert_nothing_left(cgroup: &str, base: &Path) {
    assert_eq!(engine::cgroups(cgroup), Vec::<PathBuf>::new());
    assert_eq!(engine::mounts_below(base), Vec::<PathBuf>::new());
    assert!(!base.exists());
    let base = base.to_str().unwrap();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        assert!(!arguments.contains(base), "{:?} runs {arguments}", entry.file_name());
    }
}

#[test]
fn an_engine_leaves_nothing_even_after_a_panic_or_its_death() {
    for is_killed in [false, true] {
        let (mut cgroup, mut base, mut sockets) = (String::new(), PathBuf::new(), Vec::new());
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let engine = Engine::start();
            cgroup = engine.cgroup().to_owned();
            base = engine.base().to_owned();
            let name = container_name();
            let run = ["run", "--detach", "--network=none", "--name", &name, IMAGE];
            engine.output(&[&run[..], &["sleep", "infinity"]].concat());
            assert!(engine::processes(&cgroup).len() >= 4);
            assert!(!engine::mounts_below(&base).is_empty());
            sockets = engine.shim_sockets();
            assert!(sockets.len() == 1 && sockets[0].exists(), "{sockets:?}");
            if is_killed {
                kill(engine.dockerd(), Signal::SIGKILL).unwrap();
            }
            panic!("expected by this test");
        }));
        assert_eq!(*outcome.unwrap_err().downcast::<&str>().unwrap(), "expected by this test");
        assert_nothing_left(&cgroup, &base);
        assert!(!sockets[0].exists(), "{sockets:?}");
    }
}
