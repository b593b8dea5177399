//! How the load sampler counts, by the kernel's own counters and by the tasks' files.
//!
//! Needs what [`crate::who`] needs, and a kernel with CONFIG_TASKSTATS.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use lxcfs_rs::cgroup::path::parse_memberships;
use lxcfs_rs::cgroup::taskstats::Taskstats;
use lxcfs_rs::collect::tasks::Count;
use lxcfs_rs::container::Container;
use lxcfs_rs::facts::Tasks;
use lxcfs_rs::history::load::LoadAverage;
use lxcfs_rs::kernel::Kernel;
use lxcfs_rs::procfs::process;
use lxcfs_rs::units::Nsec;

use crate::byhand::{Group, Plan, Program, Reader, eventually, full};
use crate::daemon::{Place, Served};

/// Waits for its child, which vfork(2) made, in state D until somebody writes to the FIFO.
const VFORKS: &str = "import os, sys
print('python', flush=True)
redirected = [(os.POSIX_SPAWN_OPEN, 0, sys.argv[1], os.O_RDONLY, 0)]
os.posix_spawn('/bin/true', ['true'], {}, file_actions=redirected)";

fn state(pid: u32) -> Option<u8> {
    Some(process::parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)?.state)
}

fn spin(readers: &mut [Reader]) {
    readers.iter_mut().for_each(Reader::spin);
    for reader in readers {
        eventually("spinning", || state(reader.pid) == Some(b'R'));
    }
}

#[test]
fn the_kernels_count_and_the_task_files_agree() {
    let place = Place::new();
    let group = Group::new(&["memory", "cpu", "cpuacct", "freezer"]);
    let sub = group.below("sub");
    let idle = Plan::host().in_group(&group).start(&place);
    let mut busy = [&group, &sub].map(|group| Plan::host().in_group(group).start(&place));
    spin(&mut busy);
    let fifo = place.base.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("{} exec python3 -c \"{VFORKS}\" {}", sub.join(), fifo.display());
    let mut waiting = Program::start(&place, &script);
    // Who starts it may be a script, that has children of its own.
    assert_eq!(waiting.line(), "python\n");
    let child = || {
        let children = format!("/proc/{0}/task/{0}/children", waiting.pid());
        fs::read_to_string(children).unwrap().trim().parse().ok()
    };
    eventually("one that waits for its child, which waits for a writer", || {
        state(waiting.pid()) == Some(b'D') && child().and_then(state) == Some(b'S')
    });
    let threads = || {
        let lists = [&group, &sub].map(|group| group.get_at("cpuacct", "tasks"));
        lists.concat().lines().map(|line| line.parse().unwrap()).collect::<Vec<u32>>()
    };
    let are = |states: &str| {
        let mut found: Vec<u8> = threads().into_iter().filter_map(state).collect();
        found.sort_unstable();
        found == states.as_bytes()
    };
    eventually("two that run, one that waits for its child, and two that sleep", || are("DRRSS"));

    let kernel = Kernel::open(Path::new("/")).unwrap();
    let path = format!("/proc/{}/cgroup", idle.pid);
    let memberships = parse_memberships(&fs::read(&path).unwrap(), Path::new(&path)).unwrap();
    let container = Container::at(&kernel, &memberships, Nsec(0), 0).unwrap();
    let mut taskstats = Taskstats::open().unwrap();
    let counts = |tasks: Tasks| (tasks.running, tasks.blocked, tasks.total);
    let mut count = Count::first(&kernel, &container).unwrap();
    assert_eq!(counts(count.tasks()), (2, 1, 5));
    // The kernel counts what is in the one cgroup, and of D not this kind.
    let directory = File::open(sub.dir("cpuacct")).unwrap();
    let states = taskstats.states(directory.as_fd()).unwrap();
    assert_eq!((states.running, states.uninterruptible, states.io_wait), (1, 0, 0));
    let mut look = || {
        count.look(&kernel, &container, Some(&mut taskstats)).unwrap();
        counts(count.tasks())
    };
    assert_eq!(look(), (2, 1, 5));
    let another = Plan::host().in_group(&sub).start(&place);
    eventually("another that sleeps", || state(another.pid) == Some(b'S'));
    assert_eq!(look(), (2, 1, 6));
    OpenOptions::new().write(true).open(&fifo).unwrap();
    eventually("none that waits", || are("RRSS"));
    assert_eq!(look(), (2, 0, 4));
    // Frozen ones are in state D, before Linux 6.1 for CGROUPSTATS too.
    group.set("freezer.state", "FROZEN");
    eventually("frozen", || group.get("freezer.state") == "FROZEN\n");
    assert_eq!(look(), (0, 0, 4));
    group.set("freezer.state", "THAWED");
    eventually("two that run again", || look() == (2, 0, 4));
}

/// What the averages may be, and when that is, in seconds.
type Possible = Vec<(LoadAverage, u64)>;

/// What they may be when something else is shown: later, if `counts` are what may have been
/// counted, and as `shown`.
fn later(possible: &Possible, counts: std::ops::RangeInclusive<u64>, shown: [u64; 3]) -> Possible {
    // The longest that a pass of a few threads can keep away on a machine with much to do.
    const STEPS: u64 = 24;
    let step = |&(load, at): &(LoadAverage, u64), count, steps| {
        let (mut load, at) = (load, at + steps * 5);
        load.advance(count, Nsec(at * Nsec::PER_SEC));
        (load, at)
    };
    let stepped = possible.iter().flat_map(|from| {
        let counts = counts.clone();
        counts.flat_map(move |count| (1..=STEPS).map(move |steps| step(from, count, steps)))
    });
    stepped.filter(|(load, _)| load.hundredths() == shown).collect()
}

fn averages(reader: &mut Reader) -> [u64; 3] {
    let text = reader.read("loadavg");
    let words: Vec<u64> =
        text.split(' ').take(3).map(|word| word.replace('.', "").parse().unwrap()).collect();
    words.try_into().unwrap()
}

#[test]
fn a_container_that_begins_idle_steps_to_three() {
    let served = Served::new();
    let group = Group::new(&["memory", "cpu", "cpuacct"]);
    let init = Plan::container(&group).start(&served.place);
    eventually("idle", || state(init.pid) == Some(b'S'));
    let mut reader = Plan::entering(&init).start(&served.place);
    assert_eq!(averages(&mut reader), [0; 3]);
    let mut possible = vec![(LoadAverage::first(0, Nsec(0)), 0)];
    let mut busy = [(); 3].map(|()| Plan::entering(&init).in_group(&group).start(&served.place));
    spin(&mut busy);
    // A pass that began before may have found fewer.
    let mut shown = [0; 3];
    let mut changes = 0;
    let is_full = full();
    let patience = Instant::now() + Duration::from_secs(if is_full { 1200 } else { 300 });
    while if is_full { shown[0] < 280 } else { changes < 3 } {
        assert!(Instant::now() < patience, "{shown:?} after {changes} changes");
        std::thread::sleep(Duration::from_millis(50));
        let now = averages(&mut reader);
        if now == shown {
            continue;
        }
        let counts = if changes < 2 { 0..=3 } else { 3..=3 };
        possible = later(&possible, counts, now);
        assert!(!possible.is_empty(), "from {shown:?} no step leads to {now:?}");
        (shown, changes) = (now, changes + 1);
    }
    println!("{shown:?} after {changes} changes");
    assert!(shown[0] <= 320 && shown[0] > shown[1] && shown[1] > shown[2], "{shown:?}");
}
