//! What the first read of a container costs the daemon, in system calls, and what the next ones do
//! without: strace(1) over all threads of the worker.
//!
//! Needs what [`crate::who`] needs, strace, and Linux 6.13, which tells of processes by pidfd.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use lxcfs_rs::cgroup::moves::Moves;
use nix::sys::signal::Signal;

use crate::byhand::{Group, MIB, Plan, eventually, mem};
use crate::daemon::{Guarded, Served, worker_of};

/// So many there may be beyond FUSE's own, in a container two levels below the roots of the
/// hierarchies, with a limit of memory.
const MOST: usize = 60;

/// The hierarchies in which engines make cgroups that tell something.
const HIERARCHIES: [&str; 7] =
    ["memory", "cpu", "cpuacct", "cpuset", "blkio", "freezer", "unified"];

/// strace, attached to all threads of a process.
struct Trace {
    strace: Guarded,
    log: PathBuf,
}

impl Trace {
    fn of(served: &Served) -> Trace {
        let worker = worker_of(served.daemon.pid());
        let log = served.place.base.join("strace");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-y", "-s", "0", "-p", &worker.to_string(), "-o"]).arg(&log);
        let strace = Guarded(command.stderr(Stdio::null()).spawn().unwrap());
        eventually("strace attaches", || {
            fs::read_dir(format!("/proc/{worker}/task")).unwrap().all(|thread| {
                let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
                !status.contains("\nTracerPid:\t0\n")
            })
        });
        Trace { strace, log }
    }

    /// The calls, those that began in one line and ended in another as two.
    fn calls(self) -> Vec<String> {
        let Trace { strace, log } = self;
        strace.signal(Signal::SIGINT);
        strace.end();
        let text = fs::read_to_string(log).unwrap();
        let lines = text.lines().filter_map(|line| Some(line.split_once(' ')?.1.trim_start()));
        lines.map(str::to_owned).collect()
    }

    /// The calls from the one on by which the worker finds out about the thread `reader`, without
    /// those on /dev/fuse.
    fn calls_for(self, reader: u32) -> Vec<String> {
        let begins = |line: &String| line.starts_with(|first: char| first.is_ascii_alphabetic());
        let first = format!("pidfd_open({reader},");
        // A build with debug assertions asks before it closes; and who sees to it that no request
        // waits for long (`relief.rs`) looks as often as time passes.
        let is_other = |line: &String| {
            ["</dev/fuse>", "F_GETFD", "clock_nanosleep(", "restart_syscall("]
                .iter()
                .any(|word| line.contains(word))
        };
        let lines = self.calls().into_iter().filter(begins);
        lines.skip_while(|line| !line.starts_with(&first)).filter(|line| !is_other(line)).collect()
    }
}

#[test]
fn the_first_read_of_a_container_takes_few_system_calls() {
    let served = Served::new();
    let engine = Group::new(&HIERARCHIES);
    let calls = |number: u64| {
        let limit = MIB * (16 + number);
        let group = engine.below(&number.to_string());
        group.set("memory.limit_in_bytes", limit);
        let init = Plan::container(&group).start(&served.place);
        let mut child = Plan::entering(&init).in_group(&group).start(&served.place);
        let trace = Trace::of(&served);
        assert_eq!(mem(&child.try_read("meminfo").unwrap(), "MemTotal"), limit);
        trace.calls_for(child.pid)
    };
    // By the first one the daemon opens files that it needs for all.
    calls(0);
    let counted: Vec<Vec<String>> = (1..=5).map(calls).collect();
    for calls in &counted {
        let makes_one =
            |call: &&String| ["clone", "fork", "vfork"].iter().any(|name| call.starts_with(name));
        assert_eq!(calls.iter().find(makes_one), None, "a thread or a process");
    }
    // Whatever else a worker does meanwhile only adds to them.
    let least = counted.iter().min_by_key(|calls| calls.len()).unwrap();
    assert!((20..=MOST).contains(&least.len()), "{}:\n{}", least.len(), least.join("\n"));
}

/// How often the readers below are read for.
const READS: usize = 100;

#[test]
fn who_is_known_is_looked_for_again_only_after_something_has_moved() {
    let served = Served::new();
    let (group, other) = (Group::limited(16 * MIB), Group::limited(17 * MIB));
    let mut reader = Plan::container(&group).start(&served.place);
    assert_eq!(reader.total(), 16 * MIB);
    let trace = Trace::of(&served);
    for _ in 0..READS {
        assert_eq!(mem(&reader.try_read("meminfo").unwrap(), "MemTotal"), 16 * MIB);
    }
    let listing = format!("</proc/{}/cgroup>", reader.pid);
    let calls = trace.calls();
    let looks = calls.iter().filter(|call| call.starts_with("pread64(") && call.contains(&listing));
    let looks = looks.count();
    // Other tests move processes at the same time.
    let is_counted = Moves::default().count().is_ok();
    assert_eq!(looks < READS, is_counted, "{looks} looks at {listing}");
    // And it is: no move escapes.
    for (group, limit) in [(&other, 17 * MIB), (&group, 16 * MIB)].into_iter().cycle().take(READS) {
        group.take(reader.pid);
        assert_eq!(mem(&reader.try_read("meminfo").unwrap(), "MemTotal"), limit);
    }
}

/// Reads, also when a thread of its own has moved away, and once more as what that executes, by
/// the same number and in the thread's cgroup: prints MemTotal of the last two times.
const EXECUTES_BY_A_THREAD: &str = "
import os, sys, threading
meminfo, tasks = sys.argv[1:3]
def total():
    return open(meminfo).readline().split()[1]
def move_and_execute():
    with open(tasks, 'w') as file:
        file.write(str(threading.get_native_id()))
    moved.set()
    was_read.wait()
    os.execv(sys.executable, [sys.executable, '-c', 'print(open(\"' + meminfo + '\").readline().split()[1])'])
moved, was_read = threading.Event(), threading.Event()
[total() for _ in range(3)]
threading.Thread(target=move_and_execute).start()
moved.wait()
print([total() for _ in range(3)][2], flush=True)
was_read.set()
";

#[test]
fn whoever_executes_by_a_thread_is_where_that_was() {
    let served = Served::new();
    let (group, other) = (Group::limited(160 * MIB), Group::limited(170 * MIB));
    let shell = format!("{} exec python3 -c \"$0\" \"$@\"", group.join());
    let mut command = Command::new("sh");
    command.args(["-c", &shell, EXECUTES_BY_A_THREAD]);
    command
        .arg(served.place.mountpoint().join("proc/meminfo"))
        .arg(other.dir("memory").join("tasks"));
    let output = command.output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let expected = format!("{}\n{}\n", 160 * 1024, 170 * 1024);
    assert_eq!(shown, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
