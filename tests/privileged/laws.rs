//! What must hold for a container's files whatever happens: beside it, or to it. What is read is
//! judged by `tests/vm/guest/observer.py`, as on cgroup v2.
//!
//! Needs root, /dev/fuse, cgroup v1 hierarchies, util-linux, python3, losetup and stress-ng.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::byhand::{Group, MIB, Plan, Program, Reader, eventually, full};
use crate::daemon::{Guarded, Place, Served, start};
use crate::who::Loop;

/// For how long is observed: `short`, or `long` with `tests/run --full`.
fn lasting(short: u64, long: u64) -> Duration {
    Duration::from_secs(if full() { long } else { short })
}

/// A running observer.py, in the namespaces of a container and in none of its cgroups: what it
/// uses is not the container's.
struct Observer {
    process: Guarded,
    says: BufReader<ChildStdout>,
}

impl Observer {
    fn start(what: &str, init: &Reader, place: &Place, account: &[String]) -> Observer {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/guest/observer.py");
        let mut command = Command::new("nsenter");
        command.args(["--target", &init.pid.to_string(), "--pid", "--mount", "--cgroup", "--"]);
        command.args(["python3", script, what]).arg(place.mountpoint()).args(account);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Guarded(command.spawn().unwrap());
        let says = BufReader::new(process.0.stdout.take().unwrap());
        let mut observer = Observer { process, says };
        let first = observer.line();
        assert!(first.starts_with("ready"), "{first}");
        observer
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// What has moved that may not.
    fn look(&mut self) -> String {
        writeln!(self.process.0.stdin.as_mut().unwrap(), ".").unwrap();
        self.line()
    }

    /// Whether it has said what is wrong.
    fn has_ended(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_some()
    }

    /// What it says when nothing more is asked of it.
    fn end(mut self) -> String {
        drop(self.process.0.stdin.take());
        let mut text = String::new();
        self.says.read_to_string(&mut text).unwrap();
        text.trim_end().to_owned()
    }
}

fn accounted() -> Group {
    Group::new(&["memory", "cpu", "cpuacct", "cpuset", "blkio", "freezer", "unified"])
}

/// Uses a CPU, memory, the page cache of the directory `$2`, and the disk `$3` past it.
const LOAD: &str = "
stress-ng --quiet --cpu 1 --vm 1 --vm-bytes 100M --hdd 1 --hdd-bytes 16M --temp-path \"$2\" &
while :; do
    dd if=/dev/zero of=\"$3\" bs=64k count=64 oflag=direct 2>/dev/null
    dd if=\"$3\" of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null
done";

/// What its cgroup transferred to and from all disks.
fn transferred(group: &Group) -> u64 {
    let text = group.get("blkio.throttle.io_service_bytes_recursive");
    text.lines().find_map(|line| line.strip_prefix("Total ")).unwrap().parse().unwrap()
}

#[test]
fn beside_a_busy_container_nothing_of_an_idle_one_moves() {
    let served = Served::new();
    let disk = Loop::new(&served.place.base.join("disk"));
    let number = fs::read_to_string(disk.0.replace("/dev/", "/sys/block/") + "/dev").unwrap();
    let (busy, idle) = (accounted(), accounted());
    for (group, size) in [(&busy, 200), (&idle, 100)] {
        group.set("memory.limit_in_bytes", size * MIB);
        group.set("cpu.cfs_quota_us", 150_000);
        // Throttling counts only once there was a rule for the disk.
        for limit in [1 << 30, 0] {
            let rule = format!("{} {limit}", number.trim());
            group.set("blkio.throttle.read_bps_device", rule);
        }
    }
    let (busy_init, idle_init) =
        (Plan::container(&busy).start(&served.place), Plan::container(&idle).start(&served.place));
    // Something to see of each kind.
    let script = format!("{} dd if={} of=/dev/null count=9 iflag=direct", idle.join(), disk.0);
    Program::start(&served.place, &script).output();
    // Whatever that charged and nobody uses.
    idle.set("memory.force_empty", 0);
    let state = format!("/proc/{}/stat", idle_init.pid);
    eventually("asleep", || fs::read_to_string(&state).unwrap().contains(") S "));

    let account = |name: &str| idle.dir("memory").join(name).display().to_string();
    let account =
        ["memory.usage_in_bytes", "memory.kmem.usage_in_bytes", "memory.stat"].map(account);
    let mut observer = Observer::start("neighbour", &idle_init, &served.place, &account);
    let mut other = Observer::start("neighbour", &busy_init, &served.place, &[]);
    // The first look is what later ones are compared with.
    observer.look();
    other.look();
    let load = format!(
        "{} set -- \"$1\" '{}' '{}'; exec unshare --pid --fork --kill-child sh -c '{LOAD}' sh \"$@\"",
        busy.join(),
        served.place.base.display(),
        disk.0
    );
    let load = Program::start(&served.place, &load);
    eventually("busy", || {
        busy.number("cpuacct.usage") > 1_000_000_000
            && busy.number("memory.usage_in_bytes") > 100 * MIB
            && transferred(&busy) > 32 * MIB
    });
    let (began, mut looks) = (Instant::now(), 0);
    while began.elapsed() < lasting(8, 30) || looks < 3 {
        let found = observer.look();
        looks += usize::from(found == "ok");
        assert!(found == "ok" || found == "again", "{found}");
        sleep(Duration::from_millis(200));
    }
    // The same eyes see what moved in the other one.
    let found = other.look();
    for file in ["stat", "meminfo", "vmstat", "diskstats"] {
        assert!(found.contains(&format!("\"proc/{file}: ")), "{file}: {found}");
    }
    drop(load);
    let found = observer.look();
    assert!(found == "ok" || found == "again", "{found}");
}

/// A small generator of pseudo-random numbers (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn new() -> Random {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let seed = u64::from(now.subsec_nanos()) | 1;
        println!("seed {seed}");
        Random(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.below(all.len() as u64)).unwrap()]
    }
}

/// Four processes that now use a CPU, now memory and now nothing, less than any limit of it.
const CHANGING: &str = "
import os, random, sys, time
for worker in range(3):
    if os.fork() == 0:
        break
random.seed(int(sys.argv[1]) + worker)
os.nice(worker)
while True:
    end = time.monotonic() + random.random() / 5
    what = random.randrange(3)
    held = None
    held = bytearray(random.randrange(20 << 20)) if what == 0 else None
    while what == 1 and time.monotonic() < end:
        pass
    time.sleep(max(0, end - time.monotonic()))
";

/// Gives the container other limits, or the files another daemon.
fn change(random: &mut Random, group: &Group, daemon: Guarded, place: &Place) -> (Guarded, bool) {
    match random.below(100) {
        0..40 => {
            let quotas = ["-1", "20000", "50000", "100000", "130000", "200000"];
            group.set("cpu.cfs_quota_us", random.one_of(&quotas));
        }
        40..70 => group.set("cpuset.cpus", random.one_of(&["0", "1", "0-1"])),
        70..95 => {
            let limit = (160 + random.below(200)) * MIB;
            // Less than what is used is refused.
            let file = group.dir("memory").join("memory.limit_in_bytes");
            let _ = fs::write(file, limit.to_string());
        }
        _ => {
            daemon.signal(random.one_of(&[Signal::SIGKILL, Signal::SIGTERM]));
            daemon.end();
            return (start(place), true);
        }
    }
    (daemon, false)
}

#[test]
fn the_laws_hold_while_limits_change_and_daemons_end() {
    assert!(Path::new("/sys/devices/system/cpu/cpu1").exists(), "needs two CPUs");
    let mut random = Random::new();
    let place = Place::new();
    let mut daemon = start(&place);
    let group = accounted();
    // That sees the host's mounts: those of its own would not be healed yet.
    let plan = Plan::host().pid_namespace().in_group(&group).cgroup_namespace();
    let init = plan.start(&place);
    let seed = random.below(1 << 30);
    let load = format!("exec unshare --pid --fork --kill-child python3 - {seed}");
    let script = format!("{} {load} <<'END'\n{CHANGING}\nEND", group.join());
    let _load = Program::start(&place, &script);
    let mut observer = Observer::start("laws", &init, &place, &[]);
    let (began, mut restarts) = (Instant::now(), 0);
    while (began.elapsed() < lasting(8, 60) || restarts < 3) && !observer.has_ended() {
        let restarted;
        (daemon, restarted) = change(&mut random, &group, daemon, &place);
        restarts += u64::from(restarted);
        sleep(Duration::from_millis(random.below(30)));
    }
    let said = observer.end();
    let mut words = said.split(' ');
    assert_eq!(words.next(), Some("ok"), "{said}");
    let reads: u64 = words.next().unwrap().parse().unwrap();
    assert!(reads > restarts, "{said}, of {restarts} daemons");
}
