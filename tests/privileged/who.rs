//! Who is asking, through the real filesystem: every test reads as somebody and asserts whose
//! machine it was shown. The containers are told apart by their memory limits.
//!
//! Needs root in the initial pid namespace, /dev/fuse, cgroup v1 hierarchies, util-linux,
//! python3 and losetup.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lxcfs_rs::collect::load::boottime;
use lxcfs_rs::container::{Resolver, Subject, init, thread};
use lxcfs_rs::kernel::{Controller, Kernel};
use lxcfs_rs::procfs::{Namespace, ProcRoot, process};
use lxcfs_rs::units::Nsec;
use nix::sched::CloneFlags;

use crate::byhand::{FILES, Group, MIB, Plan, Program, Reader, eventually, full, mem};
use crate::daemon::{Place, Served, serve, start_telling};

/// How many short containers a test of reuse makes.
fn many() -> u64 {
    if full() { 20_000 } else { 500 }
}

/// A limit that no other number below a million gives.
fn limit(number: u64) -> u64 {
    16 * MIB + number * 4096
}

fn host_total() -> u64 {
    mem(&fs::read_to_string("/proc/meminfo").unwrap(), "MemTotal")
}

fn proc_root() -> ProcRoot {
    ProcRoot::open(Path::new("/proc")).unwrap()
}

/// When a process started, by CLOCK_BOOTTIME, to the tick.
fn start_time(pid: u32) -> Nsec {
    process::parse_stat(&fs::read(format!("/proc/{pid}/stat")).unwrap()).unwrap().start_time
}

/// A cgroup with a memory limit, and with CPU accounting, without which uptime is the host's.
fn accounted(limit: u64) -> Group {
    let group = Group::new(&["memory", "cpu", "cpuacct"]);
    group.set("memory.limit_in_bytes", limit);
    group
}

/// `/proc/uptime`'s first number, in nanoseconds.
fn uptime(text: &str) -> Nsec {
    let (seconds, hundredths) = text.split(' ').next().unwrap().split_once('.').unwrap();
    let number = |text: &str| text.parse::<u64>().unwrap();
    Nsec(number(seconds) * Nsec::PER_SEC + number(hundredths) * (Nsec::PER_SEC / 100))
}

/// What `reader` is shown as its uptime must be the age of something that began at `birth`.
#[track_caller]
fn assert_age(reader: &mut Reader, birth: Nsec) {
    let earliest = boottime() - birth;
    let shown = uptime(&reader.read("uptime"));
    let latest = boottime() - birth;
    // uptime is cut to hundredths.
    assert!(shown + Nsec(10_000_000) >= earliest && shown <= latest, "{shown:?}, since {birth:?}");
}

/// Returns at a moment that start times tell from all before.
fn next_tick() {
    let now = boottime();
    eventually("the next tick", || boottime() - now > Nsec(20_000_000));
}

// ---- the rule

#[test]
fn all_of_a_container_see_its_root() {
    let served = Served::new();
    let group = accounted(limit(1));
    let sub = group.below("sub");
    sub.set("memory.limit_in_bytes", limit(0));
    let mut init = Plan::container(&group).start(&served.place);
    assert_eq!(init.total(), limit(1));
    // A child; one in a sub-cgroup; docker exec; nsenter, with the host's cgroup; the same with
    // the container's cgroup alone.
    let mut child = Plan::entering(&init).in_group(&group).start(&served.place);
    let mut deep = Plan::entering(&init).in_group(&sub).start(&served.place);
    let mut entered = Plan::entering(&init).start(&served.place);
    let mut by_cgroup =
        Plan::host().entering_pid_namespace(&init).in_group(&sub).start(&served.place);
    for reader in [&mut child, &mut deep, &mut entered, &mut by_cgroup] {
        assert_eq!(reader.total(), limit(1));
    }
    let birth = start_time(init.pid);
    for reader in [&mut init, &mut child, &mut deep, &mut entered] {
        assert_age(reader, birth);
    }
}

#[test]
fn a_container_is_as_old_as_its_init_whatever_was_in_its_cgroup_before() {
    let served = Served::new();
    let group = accounted(limit(1));
    let _before = Plan::host().in_group(&group).start(&served.place);
    let began = boottime();
    eventually("the next second", || boottime() - began > Nsec(Nsec::PER_SEC));
    let mut init = Plan::container(&group).start(&served.place);
    let birth = start_time(init.pid);
    assert_age(&mut init, birth);
}

#[test]
fn without_a_cgroup_namespace_too() {
    let served = Served::new();
    let group = Group::limited(limit(1));
    let sub = group.below("sub");
    sub.set("memory.limit_in_bytes", limit(0));
    let mut init =
        Plan::host().pid_namespace().mount_namespace().in_group(&group).start(&served.place);
    let mount = CloneFlags::CLONE_NEWNS;
    let entering = || Plan::host().entering_pid_namespace(&init).enter(&init, "mnt", mount);
    let mut deep = entering().in_group(&sub).start(&served.place);
    let mut entered = entering().start(&served.place);
    for reader in [&mut init, &mut deep, &mut entered] {
        assert_eq!(reader.total(), limit(1));
    }
}

#[test]
fn who_only_shares_the_pid_namespace_sees_his_own() {
    let served = Served::new();
    let (group, other) = (Group::limited(limit(1)), Group::limited(limit(2)));
    let mut init = Plan::container(&group).start(&served.place);
    let sharing = || Plan::host().entering_pid_namespace(&init).mount_namespace();
    // nsenter --pid; --pid=container:… with the host's cgroup namespace, and with its own.
    let mut alone =
        Plan::host().entering_pid_namespace(&init).in_group(&other).start(&served.place);
    let mut v1 = sharing().in_group(&other).start(&served.place);
    let mut v2 = sharing().in_group(&other).cgroup_namespace().start(&served.place);
    let mut unlimited = sharing().start(&served.place);
    for reader in [&mut alone, &mut v1, &mut v2] {
        assert_eq!(reader.total(), limit(2));
    }
    assert_eq!(unlimited.total(), host_total());
    assert_eq!(init.total(), limit(1));
}

#[test]
fn the_innermost_of_nested_containers() {
    let served = Served::new();
    let group = accounted(limit(2));
    let inner_group = group.below("inner");
    inner_group.set("memory.limit_in_bytes", limit(1));
    let mut outer = Plan::container(&group).start(&served.place);
    next_tick();
    let nested = || Plan::entering(&outer).pid_namespace();
    let plan = nested().mount_namespace().in_group(&inner_group).cgroup_namespace();
    let mut inner = plan.start(&served.place);
    assert_eq!(inner.total(), limit(1));
    let birth = start_time(inner.pid);
    assert_age(&mut inner, birth);
    let mut deeper = Plan::entering(&inner).start(&served.place);
    assert_eq!(deeper.total(), limit(1));
    // On v1 an engine in a container makes no cgroup namespaces: that of the outer one, which
    // its containers are in, does not bound them.
    let plan = nested().mount_namespace().in_group(&inner_group);
    let mut without = plan.start(&served.place);
    assert_eq!(without.total(), limit(1));
    assert_eq!(Plan::entering(&without).start(&served.place).total(), limit(1));
    // Beside it in its pid namespace, as of a pod that shares one.
    let beside_group = group.below("beside");
    beside_group.set("memory.limit_in_bytes", limit(0));
    let beside = Plan::host()
        .entering_pid_namespace(&without)
        .enter(&without, "cgroup", CloneFlags::CLONE_NEWCGROUP)
        .mount_namespace()
        .in_group(&beside_group);
    assert_eq!(beside.start(&served.place).total(), limit(0));
    // One that has a pid namespace, and no cgroup of its own, is the outer container.
    let mut sharing = nested().mount_namespace().in_group(&group).start(&served.place);
    assert_eq!(sharing.total(), limit(2));
    assert_age(&mut sharing, start_time(outer.pid));
    let birth = start_time(outer.pid);
    assert_age(&mut outer, birth);
}

#[test]
fn a_limit_above_is_the_innermosts_too() {
    let served = Served::new();
    let group = Group::limited(limit(1));
    let inner = group.below("inner");
    inner.set("memory.limit_in_bytes", limit(9));
    assert_eq!(Plan::container(&inner).start(&served.place).total(), limit(1));
}

#[test]
fn a_cgroup_namespace_is_a_container_also_in_the_hosts_pid_namespace() {
    let served = Served::new();
    let group = accounted(limit(1));
    let sub = group.below("sub");
    sub.set("memory.limit_in_bytes", limit(0));
    let mut reader = Plan::host().in_group(&group).cgroup_namespace().start(&served.place);
    assert_eq!(reader.total(), limit(1));
    let birth = start_time(reader.pid);
    assert_age(&mut reader, birth);
    sub.take(reader.pid);
    assert_eq!(reader.total(), limit(1));
}

#[test]
fn a_reader_that_unshares_its_cgroup_namespace_later() {
    let served = Served::new();
    let group = Group::limited(limit(2));
    let sub = group.below("sub");
    sub.set("memory.limit_in_bytes", limit(1));
    let mut init =
        Plan::host().pid_namespace().mount_namespace().in_group(&group).start(&served.place);
    let mut child = Plan::entering(&init).in_group(&sub).start(&served.place);
    assert_eq!((init.total(), child.total()), (limit(2), limit(2)));
    child.unshare_cgroup();
    assert_eq!((init.total(), child.total()), (limit(2), limit(1)));
    // And an init: as LXC's, which is in its cgroup before its namespace is made.
    init.unshare_cgroup();
    sub.take(init.pid);
    assert_eq!(init.total(), limit(2));
}

/// What is remembered of a cgroup namespace bounds only those who are below it.
#[test]
fn outside_of_its_cgroup_namespace_a_process_sees_its_own() {
    let served = Served::new();
    let (group, other) = (Group::limited(limit(1)), Group::limited(limit(2)));
    let mut inside = Plan::host().in_group(&group).cgroup_namespace().start(&served.place);
    let cgroup = CloneFlags::CLONE_NEWCGROUP;
    let entering = || Plan::host().enter(&inside, "cgroup", cgroup).in_group(&other);
    // Whoever is the first to ask.
    let mut first = entering().start(&served.place);
    assert_eq!(first.total(), limit(2));
    let mut second = entering().start(&served.place);
    assert_eq!((inside.total(), first.total(), second.total()), (limit(1), limit(2), limit(2)));
    // Moved out, and back.
    other.take(inside.pid);
    assert_eq!(inside.total(), limit(2));
    group.take(inside.pid);
    group.take(first.pid);
    assert_eq!((inside.total(), first.total()), (limit(1), limit(1)));
}

#[test]
fn hierarchies_may_have_different_paths() {
    let served = Served::new();
    let memory = Group::limited(limit(1));
    let cpu = Group::new(&["cpu", "cpuacct"]);
    cpu.set("cpu.cfs_quota_us", 50_000);
    let mut init = Plan::host()
        .pid_namespace()
        .mount_namespace()
        .in_group(&memory)
        .in_group(&cpu)
        .cgroup_namespace()
        .start(&served.place);
    let sub = cpu.below("sub");
    let mut moved = Plan::entering(&init).in_group(&memory).in_group(&sub).start(&served.place);
    for reader in [&mut init, &mut moved] {
        assert_eq!(reader.total(), limit(1));
        assert_eq!(reader.read("online"), "0\n");
    }
}

#[test]
fn a_process_of_the_host_in_a_limited_cgroup() {
    let served = Served::new();
    let group = Group::limited(limit(1));
    let mut reader = Plan::host().in_group(&group).start(&served.place);
    assert_eq!(reader.total(), limit(1));
    let before = uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let shown = uptime(&reader.read("uptime"));
    let after = uptime(&fs::read_to_string("/proc/uptime").unwrap());
    assert!(before <= shown && shown <= after, "{before:?} {shown:?} {after:?}");
    let last = |text: String| text.trim().rsplit(' ').next().unwrap().parse::<u32>().unwrap();
    let before = last(fs::read_to_string("/proc/loadavg").unwrap());
    let shown = last(reader.read("loadavg"));
    // The host's last pid, which wraps once in a while.
    assert!(shown >= before || shown < before / 2, "{before} {shown}");
}

#[test]
fn a_process_of_the_host_without_limits_sees_the_hosts_files() {
    let served = Served::new();
    let group = Group::new(&["memory", "cpu", "cpuacct", "cpuset"]);
    let mut reader = Plan::host().in_group(&group).start(&served.place);
    for (file, of_host) in [
        ("cpuinfo", "/proc/cpuinfo"),
        ("swaps", "/proc/swaps"),
        ("online", "/sys/devices/system/cpu/online"),
    ] {
        let moving = |text: String| {
            let lines = text.lines().filter(|line| !line.starts_with("cpu MHz"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let expected = moving(fs::read_to_string(of_host).unwrap());
        assert_eq!(moving(reader.read(file)), expected, "{file}");
    }
    for file in ["meminfo", "stat", "diskstats"] {
        let names = |text: &str| -> Vec<String> {
            let words = text.lines().map(|line| {
                let words: Vec<&str> = line.split_ascii_whitespace().collect();
                words[..words.len().min(if file == "diskstats" { 3 } else { 1 })].join(" ")
            });
            words.collect()
        };
        let of_host = fs::read_to_string(format!("/proc/{file}")).unwrap();
        assert_eq!(names(&reader.read(file)), names(&of_host), "{file}");
    }
    assert_eq!(reader.total(), host_total());
}

#[test]
fn one_init_scope_is_not_the_boundary() {
    let served = Served::new();
    let group = Group::limited(limit(3));
    let scope = group.below("init.scope");
    scope.set("memory.limit_in_bytes", limit(2));
    let deeper = scope.below("init.scope");
    deeper.set("memory.limit_in_bytes", limit(1));
    let mut reader = Plan::host().in_group(&scope).start(&served.place);
    assert_eq!(reader.total(), limit(3));
    deeper.take(reader.pid);
    assert_eq!(reader.total(), limit(2));
}

/// Threads, by a program that has some: `$1` is the mountpoint.
const THREADS: &str = r#"
import ctypes, os, sys, threading
def total():
    with open(sys.argv[1] + '/proc/meminfo') as file:
        return int(file.readline().split()[1])
def tell():
    print(os.getpid(), threading.get_native_id(), total(), flush=True)
def tell_last():
    state = ''
    while state != 'Z':
        with open(f'/proc/self/task/{os.getpid()}/stat') as file:
            state = file.read().rsplit(')', 1)[1].split()[0]
    tell()
    os._exit(0)
thread = threading.Thread(target=tell)
thread.start()
thread.join()
threading.Thread(target=tell_last).start()
ctypes.CDLL(None).syscall(60, 0)    # exit(2): this thread alone
"#;

/// Whose main thread has ended has no namespaces to be seen, and the v1 cgroup `/`.
#[test]
fn threads_see_what_their_process_does_even_without_its_main_thread() {
    let served = Served::new();
    let group = Group::limited(64 * MIB);
    let script = served.place.base.join("threads");
    fs::write(&script, THREADS).unwrap();
    let expected = 64 * MIB / 1024;
    for namespaces in ["", "unshare --cgroup", "unshare --pid --mount-proc --fork --cgroup"] {
        let program =
            format!("{} exec {namespaces} python3 {} \"$1\"", group.join(), script.display());
        let output = Program::start(&served.place, &program).output();
        assert_eq!(output.lines().count(), 2, "{namespaces}: {output}");
        for line in output.lines() {
            let words: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            assert_ne!(words[0], words[1], "{namespaces}: the main thread");
            assert_eq!(words[2], expected, "{namespaces}: {output}");
        }
    }
}

#[test]
fn a_time_namespace_shifts_uptime_and_btime() {
    let served = Served::new();
    let group = Group::new(&["memory", "cpu", "cpuacct"]);
    let btime = |text: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix("btime ")).unwrap();
        line.parse().unwrap()
    };
    let host_btime = btime(&fs::read_to_string("/proc/stat").unwrap());
    let cat = "cat \"$1/proc/uptime\" && grep btime \"$1/proc/stat\"";
    // As new as the container, and far older than the host.
    for offset in [-i64::try_from(boottime().0 / Nsec::PER_SEC).unwrap(), 100_000] {
        let script = format!(
            "{} exec unshare --pid --mount --fork --time --boottime {offset} \
             sh -ec 'cat \"$1/proc/uptime\"; grep btime \"$1/proc/stat\"' sh \"$1\"",
            group.join()
        );
        let before = boottime();
        let output = Program::start(&served.place, &script).output();
        let after = boottime();
        let shifted = |now: Nsec| i128::from(now.0) + i128::from(offset) * 1_000_000_000;
        let shown = i128::from(uptime(&output).0);
        assert!(shown + 10_000_000 >= shifted(before) && shown <= shifted(after), "{output}");
        let expected = host_btime.cast_signed() - offset;
        assert!((btime(&output).cast_signed() - expected).abs() <= 1, "{output}, of {host_btime}");
    }
    let script = format!(
        "{} exec unshare --pid --mount --fork sh -ec '{}' sh \"$1\"",
        group.join(),
        cat.replace('\'', "")
    );
    let output = Program::start(&served.place, &script).output();
    assert!(uptime(&output) < Nsec(120 * Nsec::PER_SEC), "{output}");
    assert!(btime(&output).abs_diff(host_btime) <= 1, "{output}, of {host_btime}");
}

// ---- two ways to find out the same

#[test]
fn both_lookups_of_an_init_agree() {
    let place = Place::new();
    let proc = proc_root();
    let own = proc.namespace("self", Namespace::Pid).unwrap();
    let outer = Plan::host().pid_namespace().start(&place);
    let inner = Plan::host().entering_pid_namespace(&outer).pid_namespace().start(&place);
    let another = Plan::host().pid_namespace().start(&place);
    let member = Plan::host().entering_pid_namespace(&inner).start(&place);
    for (reader, expected) in
        [(&outer, outer.pid), (&inner, inner.pid), (&another, another.pid), (&member, inner.pid)]
    {
        let namespace: OwnedFd = reader.namespace("pid");
        let number = proc.namespace(reader.pid, Namespace::Pid).unwrap();
        assert_eq!(init::by_ioctl(&namespace).unwrap().unwrap(), expected);
        assert_eq!(init::by_scan(&proc, number).unwrap(), expected);
        let found = init::Init::of(&proc, reader.pid).unwrap();
        assert_eq!((found.pid, found.namespace), (expected, number));
        assert!(found.is_alive());
    }
    let found = init::Init::of(&proc, inner.pid).unwrap();
    let (number, above) = found.namespace_around(&proc, own).unwrap().unwrap();
    let above = init::Init::of_namespace(&proc, above).unwrap();
    assert_eq!((above.namespace, above.pid), (number, outer.pid));
    assert!(above.namespace_around(&proc, own).unwrap().is_none());

    let namespace = inner.namespace("pid");
    let number = found.namespace;
    drop((member, inner));
    assert!(!found.is_alive());
    assert!(init::by_ioctl(&namespace).unwrap().unwrap_err().is_gone());
    assert!(init::by_scan(&proc, number).unwrap_err().is_gone());
}

#[test]
fn both_lookups_of_a_process_agree() {
    let proc = proc_root();
    let place = Place::new();
    let mut checked = 0;
    let mut check = |tid: u32, group: u32| {
        let by_status = thread::by_status(&proc, tid).unwrap();
        assert!(by_status.is_alive());
        assert_eq!(by_status.group, group);
        if let Some(by_pidfd) = thread::by_pidfd(tid) {
            let by_pidfd = by_pidfd.unwrap();
            assert!(by_pidfd.is_alive());
            assert_eq!(by_pidfd.group, group);
        }
        checked += 1;
    };
    let own = std::process::id();
    check(own, own);
    let own_thread = || nix::unistd::gettid().as_raw().cast_unsigned();
    assert_ne!(own_thread(), own, "tests run in threads");
    check(own_thread(), own);
    let reader = Plan::host().pid_namespace().start(&place);
    check(reader.pid, reader.pid);
    assert_eq!(checked, 3);

    // A thread ends with its process alive.
    let held = std::thread::spawn({
        let proc = proc_root();
        move || {
            let tid = own_thread();
            [thread::by_status(&proc, tid).unwrap(), thread::by_pidfd(tid).unwrap().unwrap()]
        }
    });
    let held = held.join().unwrap();
    eventually("the end of a thread that was joined", || {
        held.iter().all(|thread| !thread.is_alive())
    });

    let held = [
        thread::by_status(&proc, reader.pid).unwrap(),
        thread::by_pidfd(reader.pid).unwrap().unwrap(),
    ];
    let pid = reader.pid;
    drop(reader);
    assert!(held.iter().all(|thread| !thread.is_alive()));
    assert!(thread::by_status(&proc, pid).unwrap_err().is_gone());
    assert!(thread::by_pidfd(pid).unwrap().unwrap_err().is_gone());
    for bad in [0, u32::MAX] {
        assert!(thread::by_status(&proc, bad).unwrap_err().is_gone());
        assert!(thread::by_pidfd(bad).unwrap().unwrap_err().is_gone());
    }
}

/// The cgroup that a resolver of this process finds, and when it says that it began.
fn resolved(resolver: &Resolver, kernel: &Kernel, pid: u32) -> (String, Nsec) {
    let who = resolver.resolve(pid).unwrap();
    let (Subject::Container(container) | Subject::Host(container)) = who.subject else {
        panic!("unknown")
    };
    (
        container.path(kernel, Controller::Memory).unwrap().to_str().unwrap().to_owned(),
        container.birth,
    )
}

#[test]
fn a_birth_is_never_changed() {
    let place = Place::new();
    let kernel = Arc::new(Kernel::open(Path::new("/")).unwrap());
    let resolver = Resolver::new(Arc::clone(&kernel)).unwrap();
    let group = Group::limited(limit(1));
    let first = Plan::host().in_group(&group).cgroup_namespace().start(&place);
    next_tick();
    let second = Plan::host().enter(&first, "cgroup", CloneFlags::CLONE_NEWCGROUP);
    let second = second.in_group(&group).start(&place);
    let birth = start_time(first.pid);
    // The oldest in the cgroup, whoever asks, also when it has ended.
    assert_eq!(resolved(&resolver, &kernel, second.pid), (group.path.clone(), birth));
    drop(first);
    assert_eq!(resolved(&resolver, &kernel, second.pid), (group.path.clone(), birth));
    let container = resolver.resolve(second.pid).unwrap();
    if let Subject::Container(container) = container.subject {
        resolver.forget(&container);
    }
    assert_eq!(resolved(&resolver, &kernel, second.pid), (group.path.clone(), birth));
}

// ---- reuse

/// New containers whose init has the number of the one before.
#[test]
fn a_reused_pid_is_another_container() {
    let served = Served::new();
    let mut last: Option<u32> = None;
    let mut reused = 0;
    for number in 1..=many() {
        let group = Group::limited(limit(number));
        let plan = Plan::container(&group);
        let plan = if let Some(last) = last { plan.numbered(last) } else { plan };
        let mut init = plan.start(&served.place);
        reused += u64::from(last == Some(init.pid));
        last = Some(init.pid);
        assert_eq!(init.total(), limit(number), "pid {}", init.pid);
        let mut child = Plan::entering(&init).start(&served.place);
        assert_eq!(child.total(), limit(number), "pid {}", child.pid);
    }
    println!("{reused} of {} inits had the pid of the one before", many());
    assert!(reused > many() / 4, "only {reused}: the test shows little");
}

/// New containers that, but for what the daemon holds, would get the last one's namespaces.
#[test]
fn a_reused_namespace_is_another_container() {
    let served = Served::new();
    let mut seen = std::collections::HashSet::new();
    let mut reused = 0;
    for number in 1..=many() {
        let group = Group::limited(limit(number));
        // A cgroup namespace that is remembered pins more than itself.
        let plan = if number % 8 < 4 {
            Plan::container(&group)
        } else {
            Plan::host().pid_namespace().mount_namespace().in_group(&group)
        };
        let mut init = plan.start(&served.place);
        for name in ["pid", "cgroup"] {
            let link = fs::read_link(format!("/proc/{}/ns/{name}", init.pid)).unwrap();
            reused += u64::from(!seen.insert(link));
        }
        // Every other one is not looked at, and so not held.
        if number % 2 == 0 {
            assert_eq!(init.total(), limit(number));
        }
    }
    println!("{reused} namespace numbers of {} were used before", 2 * many());
    assert!(reused > many() / 4, "only {reused}: the test shows little");
}

/// The same path again and again, for one reader that goes on and for new ones.
#[test]
fn a_reused_cgroup_path_is_another_container() {
    let served = Served::new();
    let refuge = Group::limited(limit(0));
    let mut group = Group::limited(limit(1));
    let mut reader = Plan::host().pid_namespace().mount_namespace().start(&served.place);
    reader.keep("meminfo");
    for number in 2..=many() {
        group.take(reader.pid);
        let expected = limit(number - 1);
        assert_eq!(mem(&reader.part(0, 65_536).unwrap(), "MemTotal"), expected);
        let mut other = Plan::container(&group).start(&served.place);
        assert_eq!(other.total(), expected);
        drop(other);
        refuge.take(reader.pid);
        // Sometimes it is only seen again in the new cgroup.
        if number % 3 == 0 {
            assert_eq!(mem(&reader.part(0, 65_536).unwrap(), "MemTotal"), limit(0));
        }
        group.replace(limit(number));
    }
}

/// A cgroup takes another name, and a new one takes its name.
#[test]
fn a_renamed_cgroup_is_the_same_and_the_new_one_at_its_path_is_not() {
    let served = Served::new();
    let pid = std::process::id();
    for (number, own_namespace) in
        (0..many() / 10).flat_map(|n| [(2 * n, false), (2 * n + 1, true)])
    {
        // Both before the readers, which end first then, also in a test that fails.
        let mut old = Group::limited(limit(2 * number + 1));
        let mut new = Group::limited(limit(2 * number + 2));
        let path = old.path.clone();
        let plan = if own_namespace {
            Plan::container(&old)
        } else {
            Plan::host().pid_namespace().mount_namespace().in_group(&old)
        };
        let mut first = plan.start(&served.place);
        first.keep("meminfo");
        let read = |reader: &mut Reader| mem(&reader.part(0, 65_536).unwrap(), "MemTotal");
        assert_eq!(read(&mut first), limit(2 * number + 1));
        old.rename(&format!("lxcfs-rs-test-{pid}-renamed-{number}"));
        // Unless it is read now, the old path is what is remembered when it leads elsewhere.
        let is_read_meanwhile = number % 4 < 2;
        if is_read_meanwhile {
            assert_eq!(read(&mut first), limit(2 * number + 1));
        }
        // At the old path, by renaming as well: a Group makes its own.
        new.rename(path.trim_start_matches('/'));
        if is_read_meanwhile {
            assert_eq!(read(&mut first), limit(2 * number + 1));
        }
        let mut second = Plan::container(&new).start(&served.place);
        assert_eq!(second.total(), limit(2 * number + 2));
        if is_read_meanwhile {
            assert_eq!(read(&mut first), limit(2 * number + 1));
        }
        // The first moves to where the path that was remembered of it leads now.
        new.take(first.pid);
        assert_eq!(
            (read(&mut first), second.total()),
            (limit(2 * number + 2), limit(2 * number + 2))
        );
    }
}

/// An ancestor is renamed, and another takes its path and limits what it has not.
#[test]
fn a_renamed_ancestor_still_limits() {
    let served = Served::new();
    let mut outer = Group::limited(limit(1));
    let path = outer.path.clone();
    let inner = outer.below("inner");
    let mut init = Plan::container(&inner).start(&served.place);
    assert_eq!(init.total(), limit(1));
    std::mem::forget(inner);
    outer.rename(&format!("{}-renamed", path.trim_start_matches('/')));
    let mut other = Group::limited(limit(2));
    other.rename(path.trim_start_matches('/'));
    assert_eq!(init.total(), limit(1));
    outer.set("memory.limit_in_bytes", limit(3));
    assert_eq!(init.total(), limit(3));
    let mut member = Plan::entering(&init).start(&served.place);
    assert_eq!(member.total(), limit(3));
}

// ---- always now

#[test]
fn a_move_and_a_limit_show_in_the_next_read() {
    let served = Served::new();
    let (one, two) = (Group::limited(limit(1)), Group::limited(limit(2)));
    for own_namespace in [false, true] {
        let plan = Plan::host().pid_namespace().mount_namespace().in_group(&one);
        let plan = if own_namespace { plan.cgroup_namespace() } else { plan };
        let mut init = plan.start(&served.place);
        let mut member = Plan::entering(&init).start(&served.place);
        init.keep("meminfo");
        member.keep("meminfo");
        let init_pid = init.pid;
        let mut both_see = |expected: u64| {
            for reader in [&mut init, &mut member] {
                let shown = mem(&reader.part(0, 65_536).unwrap(), "MemTotal");
                assert_eq!(shown, expected, "own namespace: {own_namespace}");
            }
        };
        both_see(limit(1));
        one.set("memory.limit_in_bytes", limit(3));
        both_see(limit(3));
        one.set("memory.limit_in_bytes", limit(1));
        two.take(init_pid);
        both_see(limit(2));
    }
}

#[test]
fn a_cgroup_removed_in_mid_read() {
    let served = Served::new();
    let (one, two) = (Group::limited(limit(1)), Group::limited(limit(2)));
    for own_namespace in [false, true] {
        let group = one.below("removed");
        group.set("memory.limit_in_bytes", limit(0));
        let plan = Plan::host().pid_namespace().mount_namespace().in_group(&group);
        let plan = if own_namespace { plan.cgroup_namespace() } else { plan };
        let mut init = plan.start(&served.place);
        init.keep("meminfo");
        let first = init.part(0, 100).unwrap();
        two.take(init.pid);
        group.remove();
        let rest = init.part(100, 65_536).unwrap();
        let whole = format!("{first}{rest}");
        assert_eq!(mem(&whole, "MemTotal"), limit(0));
        assert_eq!(
            whole.lines().count(),
            fs::read_to_string("/proc/meminfo").unwrap().lines().count()
        );
        assert!(whole.ends_with(" kB\n"), "{whole}");
        assert_eq!(mem(&init.part(0, 65_536).unwrap(), "MemTotal"), limit(2));
    }
}

/// Readers, while their cgroups come and go under them: of a thousand answers none is the
/// host's, and none another container's.
#[test]
fn a_removal_at_any_moment_shows_no_other_machine() {
    let served = Served::new();
    let mut groups = [Group::limited(limit(1)), Group::limited(limit(2))];
    let mut init =
        Plan::host().pid_namespace().mount_namespace().in_group(&groups[0]).start(&served.place);
    let pid = init.pid;
    let known = AtomicU64::new(2);
    let stop = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let (mut shown, mut gone) = (0, 0);
            init.keep("meminfo");
            while stop.load(Ordering::SeqCst) == 0 {
                match init.part(0, 65_536) {
                    Ok(text) => {
                        let total = mem(&text, "MemTotal");
                        let newest = known.load(Ordering::SeqCst);
                        assert!((1..=newest).any(|number| limit(number) == total), "{total}");
                        shown += 1;
                    }
                    Err(errno) => {
                        assert_eq!(errno, libc::ESRCH);
                        gone += 1;
                    }
                }
            }
            (shown, gone)
        });
        for round in 0..10 * many() {
            let number = 3 + round;
            known.store(number, Ordering::SeqCst);
            let (from, to) = if round % 2 == 0 { (0, 1) } else { (1, 0) };
            groups[to].take(pid);
            groups[from].replace(limit(number));
            if reading.is_finished() {
                break;
            }
        }
        stop.store(1, Ordering::SeqCst);
        let (shown, gone) = reading.join().unwrap();
        println!("{shown} reads, {gone} of a cgroup that was gone");
        assert!(shown > 0);
    });
}

// ---- the figures, on cgroup v1

/// Amounts that the kernel batches per CPU differ by this between two readings.
const SLACK: u64 = 8 * MIB;

#[track_caller]
fn assert_near(what: &str, shown: u64, expected: u64) {
    assert!(shown.abs_diff(expected) <= SLACK, "{what}: {shown}, expected about {expected}");
}

/// Fills memory and page cache, and reads meminfo with all that in use.
fn meminfo_in_use(served: &Served, group: &Group, anon: u64, cache: u64) -> (String, Vec<u64>) {
    let files = |name: &str| group.dir("memory").join(name).display().to_string();
    let script = format!(
        "{} exec unshare --pid --mount --fork --cgroup python3 -c \"
import os, sys
anon = bytearray(b'x') * {anon}
with open(sys.argv[2], 'wb') as file:
    file.write(b'y' * {cache})
    file.flush()
    os.fsync(file.fileno())
print(open(sys.argv[1] + '/proc/meminfo').read())
print(open('{}').read())
print(open('{}').read())
\" \"$1\" {}",
        group.join(),
        files("memory.usage_in_bytes"),
        files("memory.stat"),
        served.place.base.join("cache").display(),
    );
    let output = Program::start(&served.place, &script).output();
    let (meminfo, rest) = output.split_once("\n\n").unwrap();
    let (usage, stat) = rest.split_once("\n\n").unwrap();
    let key = |name: &str| -> u64 {
        let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    };
    let keys = ["total_cache", "total_rss", "total_active_file", "total_inactive_file"].map(key);
    let mut numbers = vec![usage.trim().parse().unwrap()];
    numbers.extend(keys);
    (meminfo.to_owned(), numbers)
}

#[test]
fn meminfo_is_the_cgroups_arithmetic() {
    let served = Served::new();
    let group = Group::limited(200 * MIB);
    group.set("memory.memsw.limit_in_bytes", 300 * MIB);
    let (text, numbers) = meminfo_in_use(&served, &group, 50 * MIB, 40 * MIB);
    let [usage, cache, rss, active_file, inactive_file] = numbers[..] else { panic!() };
    assert!(usage >= 90 * MIB && cache >= 30 * MIB && rss >= 50 * MIB, "{numbers:?}");
    assert_eq!(mem(&text, "MemTotal"), 200 * MIB);
    assert_near("MemFree", mem(&text, "MemFree"), 200 * MIB - usage);
    let reclaimable = active_file + inactive_file;
    assert_near("MemAvailable", mem(&text, "MemAvailable"), 200 * MIB - usage + reclaimable);
    assert_near("Cached", mem(&text, "Cached"), cache);
    assert_near("AnonPages", mem(&text, "AnonPages"), rss);
    assert_eq!(mem(&text, "Buffers"), 0);
    // No swap on the host; else min(host, memsw - memory).
    let host = fs::read_to_string("/proc/meminfo").unwrap();
    assert_eq!(mem(&text, "SwapTotal"), mem(&host, "SwapTotal").min(100 * MIB));
    let labels = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    assert_eq!(labels(&text), labels(&host));
}

#[test]
fn a_siblings_use_takes_from_what_both_share() {
    let served = Served::new();
    let outer = Group::limited(200 * MIB);
    let (one, two) = (outer.below("one"), outer.below("two"));
    one.set("memory.limit_in_bytes", 190 * MIB);
    let script = format!(
        "{} exec python3 -c \"
import sys
held = bytearray(b'x') * {}
sys.stdout.write('.')
sys.stdout.flush()
while True: sys.stdin.read() or __import__('time').sleep(600)
\"",
        two.join(),
        50 * MIB
    );
    let _sibling = Program::start(&served.place, &script);
    eventually("the sibling's memory", || two.number("memory.usage_in_bytes") >= 50 * MIB);
    let mut reader = Plan::container(&one).start(&served.place);
    let text = reader.read("meminfo");
    let room = 200 * MIB - outer.number("memory.usage_in_bytes");
    assert_eq!(mem(&text, "MemTotal"), 190 * MIB);
    assert!(room < 150 * MIB);
    assert_near("MemFree", mem(&text, "MemFree"), room);
    assert!(mem(&text, "MemAvailable") <= room + SLACK + outer.key("memory.stat", "total_cache"));
}

/// The numbers of a `cpu` line.
fn columns(text: &str, label: &str) -> Vec<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(' ')).unwrap();
    line.split_ascii_whitespace().map(|word| word.parse().unwrap()).collect()
}

#[test]
fn cpusets_and_quotas_agree_in_all_files() {
    let served = Served::new();
    let group = Group::new(&["memory", "cpu", "cpuacct", "cpuset"]);
    let mut init = Plan::container(&group).start(&served.place);
    let mut shown = |expected: &str| {
        assert_eq!(init.read("online"), format!("{expected}\n"));
        let cpuinfo = init.read("cpuinfo");
        let processors = cpuinfo.lines().filter_map(|line| line.strip_prefix("processor\t: "));
        let processors: Vec<&str> = processors.collect();
        let stat = init.read("stat");
        let cpus: Vec<&str> = stat
            .lines()
            .filter_map(|line| line.split(' ').next()?.strip_prefix("cpu"))
            .filter(|number| !number.is_empty())
            .collect();
        let expected: Vec<&str> = if expected == "0-1" { vec!["0", "1"] } else { vec![expected] };
        assert_eq!((processors, cpus), (expected.clone(), expected));
    };
    assert!(std::thread::available_parallelism().unwrap().get() >= 2, "two CPUs are needed");
    shown("0-1");
    group.set("cpuset.cpus", "1");
    shown("1");
    group.set("cpuset.cpus", "0-1");
    group.set("cpu.cfs_quota_us", 50_000);
    shown("0");
    group.set("cpu.cfs_quota_us", 150_000);
    shown("0-1");
    group.set("cpu.cfs_quota_us", -1);
    shown("0-1");
}

/// By the kernel's own counters, as this machine may be too busy to give what a quota allows.
#[test]
fn a_busy_loop_shows_its_use_and_the_wait_for_its_quota_as_steal() {
    let served = Served::new();
    let group = Group::new(&["memory", "cpu", "cpuacct"]);
    group.set("cpu.cfs_quota_us", 20_000);
    let idle = Group::new(&["memory", "cpu", "cpuacct"]);
    let mut init = Plan::container(&group).start(&served.place);
    let mut neighbour = Plan::container(&idle).start(&served.place);
    let mut counters = || {
        let ticks = |nsec: u64| nsec / 10_000_000;
        let used = ticks(group.number("cpuacct.usage"));
        let waited = ticks(group.key("cpu.stat", "throttled_time"));
        (
            columns(&init.read("stat"), "cpu "),
            columns(&neighbour.read("stat"), "cpu "),
            used,
            waited,
        )
    };
    let first = counters();
    let mut spinner = Plan::host().in_group(&group).start(&served.place);
    spinner.spin();
    eventually("throttling", || {
        group.key("cpu.stat", "throttled_time") > 2 * Nsec::PER_SEC
            && group.number("cpuacct.usage") > Nsec::PER_SEC / 2
    });
    let last = counters();
    let gained: Vec<u64> = first.0.iter().zip(&last.0).map(|(first, last)| last - first).collect();
    let all: u64 = gained.iter().sum();
    let (used, waited) = (last.2 - first.2, last.3 - first.3);
    // user, nice, system, idle, iowait, irq, softirq, steal; between the readings time passes.
    let busy = gained[0] + gained[1] + gained[2];
    println!("of {all} ticks busy {busy}, used {used}; steal {}, throttled {waited}", gained[7]);
    let near = |shown: u64, counted: u64| shown.abs_diff(counted) <= 5 + all / 10;
    assert!(near(busy, used), "{gained:?}, used {used}");
    assert!(near(gained[7], waited.min(all - busy)), "{gained:?}, throttled {waited}");
    let busy: u64 = (0..3).map(|column| last.1[column] - first.1[column]).sum();
    assert!(busy <= 20, "the idle neighbour: {first:?} {last:?}");
}

#[test]
fn the_first_loadavg_is_the_count_of_now() {
    let served = Served::new();
    let group = Group::new(&["memory", "cpu", "cpuacct"]);
    let sub = group.below("sub");
    let init = Plan::container(&group).start(&served.place);
    let mut busy: Vec<Reader> =
        (0..3).map(|_| Plan::entering(&init).in_group(&sub).start(&served.place)).collect();
    busy.iter_mut().for_each(Reader::spin);
    for reader in &busy {
        let stat = format!("/proc/{}/stat", reader.pid);
        let state = || process::parse_stat(&fs::read(&stat).unwrap()).unwrap().state;
        eventually("spinning", || state() == b'R');
    }
    // By a reader that is not in the cgroup: one that is may still be on its way to sleep when
    // the daemon counts.
    let mut reader = Plan::entering(&init).start(&served.place);
    let text = reader.read("loadavg");
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    assert_eq!(words[..3], ["3.00", "3.00", "3.00"], "{text}");
    assert_eq!(words[3], "3/4", "{text}");
    assert_eq!(words[4], "4", "the last pid of the container's own: {text}");
}

/// A loop device of the test's own.
pub(crate) struct Loop(pub(crate) String);

impl Loop {
    pub(crate) fn new(file: &Path) -> Loop {
        fs::File::create(file).unwrap().set_len(64 * MIB).unwrap();
        let output =
            Command::new("losetup").arg("--find").arg("--show").arg(file).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Loop(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[test]
fn diskstats_are_the_containers_own_sectors() {
    let served = Served::new();
    let disk = Loop::new(&served.place.base.join("disk"));
    let name = disk.0.trim_start_matches("/dev/");
    let device = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
    let device = device.trim();
    let (group, other) = (Group::new(&["memory", "blkio"]), Group::new(&["memory", "blkio"]));
    // Throttling counts only once there was a rule for the disk.
    group.set("blkio.throttle.read_bps_device", format!("{device} 1073741824"));
    group.set("blkio.throttle.read_bps_device", format!("{device} 0"));
    let script = |group: &Group, blocks: u64| {
        format!(
            "{} exec unshare --pid --mount --fork sh -ec '
dd if={} of=/dev/null bs=64k count={blocks} iflag=direct 2>/dev/null
dd if=/dev/zero of={} bs=64k count=1 oflag=direct 2>/dev/null
cat \"$1/proc/diskstats\"' sh \"$1\"",
            group.join(),
            disk.0,
            disk.0
        )
    };
    for (group, blocks) in [(&group, 32), (&other, 3)] {
        let output = Program::start(&served.place, &script(group, blocks)).output();
        let host = fs::read_to_string("/proc/diskstats").unwrap();
        let line = output.lines().find(|line| line.contains(&format!(" {name} ")));
        let words: Vec<&str> = line.expect(&output).split_ascii_whitespace().collect();
        let host_words = host.lines().next().unwrap().split_ascii_whitespace().count();
        assert_eq!(words.len(), host_words);
        assert_eq!((words[5], words[9]), (&*(blocks * 128).to_string(), "128"), "{output}");
        assert_eq!((words[3], words[7]), (&*blocks.to_string(), "1"), "{output}");
    }
}

// ---- many at once

/// Eight readers in four containers read all files while limits change.
#[test]
fn many_readers_never_see_another_machine_and_nothing_grows() {
    const CONTAINERS: u64 = 4;
    let reads = if full() { 200_000 } else { 20_000 };
    let served = Served::new();
    let groups: Vec<Group> = (0..CONTAINERS).map(|_| accounted(limit(0))).collect();
    let mut readers = Vec::new();
    for group in &groups {
        let init = Plan::container(group).start(&served.place);
        let member = Plan::entering(&init).start(&served.place);
        // In the order in which they end: an init waits for all of its namespace.
        readers.push((member, init));
    }
    // In each container one limit of its own, out of ten, is set at any time.
    let of_container = |container: u64, round: u64| limit(1 + container * 10 + round % 10);
    for (container, group) in (0..).zip(&groups) {
        group.set("memory.limit_in_bytes", of_container(container, 0));
    }
    let read_all = |reader: &mut Reader, container: u64, times: u64| {
        for _ in 0..times {
            for file in FILES {
                let text = reader.read(file);
                assert!(text.ends_with('\n') || text.is_empty(), "{file}: {text}");
                if file == "proc/meminfo" {
                    let total = mem(&text, "MemTotal");
                    let own = (0..10).any(|round| of_container(container, round) == total);
                    assert!(own, "container {container} is shown {total}");
                }
            }
        }
    };
    for (container, (member, init)) in (0..).zip(&mut readers) {
        read_all(init, container, 20);
        read_all(member, container, 20);
    }
    let before = (served.descriptors(), served.resident());
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (container, (member, init)) in (0..).zip(&mut readers) {
            let times = reads / 8 / FILES.len() as u64;
            running.push(scope.spawn(move || read_all(init, container, times)));
            running.push(scope.spawn(move || read_all(member, container, times)));
        }
        let groups = &groups;
        let done = &done;
        scope.spawn(move || {
            for round in 0.. {
                if done.load(Ordering::SeqCst) == 1 {
                    break;
                }
                for (container, group) in (0..).zip(groups) {
                    group.set("memory.limit_in_bytes", of_container(container, round));
                }
                // A limit costs the kernel far more than a read.
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let failed = running.into_iter().filter_map(|thread| thread.join().err()).count();
        done.store(1, Ordering::SeqCst);
        assert_eq!(failed, 0);
    });
    let after = (served.descriptors(), served.resident());
    println!("descriptors and kB before {before:?}, after {after:?}");
    assert!(after.1 <= before.1 + 2048, "kB: {before:?} {after:?}");
    // At any moment it has those open that were used lately.
    eventually("no more descriptors than before", || {
        readers[0].1.read("proc/meminfo");
        served.descriptors() <= before.0
    });
}

/// Containers by far more than the descriptors that a daemon may have: each sees its own all
/// the same.
#[test]
fn few_descriptors_are_enough_for_many_containers() {
    let place = Place::new();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256 && exec \"$@\"", "sh"]);
    let program = serve(&place.mountpoint());
    command.arg(program.get_program()).args(program.get_args());
    command.env_remove("RUST_LOG").stdin(Stdio::null()).stderr(Stdio::piped());
    let served = Served { daemon: start_telling(&place, command).0, place };
    let all = ["memory", "cpu", "cpuacct", "cpuset", "blkio", "freezer"];
    let mut containers = Vec::new();
    for number in 0..60 {
        let group = Group::new(&all);
        group.set("memory.limit_in_bytes", limit(number));
        let init = Plan::container(&group).start(&served.place);
        containers.push((init, group));
    }
    for _ in 0..3 {
        for (number, (init, _)) in (0..).zip(&mut containers) {
            for file in FILES {
                init.read(file);
            }
            assert_eq!(init.total(), limit(number));
        }
    }
    println!("{} descriptors for {} containers", served.descriptors(), containers.len());
    assert!(served.descriptors() < 256);
}

/// What the daemon remembers of containers that have ended it forgets, and lets the kernel
/// forget: a namespace that is held keeps its cgroups.
#[test]
fn what_has_ended_is_forgotten() {
    let served = Served::new();
    let live = Group::limited(limit(0));
    let mut reader = Plan::container(&live).start(&served.place);
    // Who reads again is remembered himself.
    for _ in 0..3 {
        reader.total();
    }
    let before = served.descriptors();
    for number in 1..=50 {
        let group = Group::limited(limit(number));
        let mut init = Plan::container(&group).start(&served.place);
        assert_eq!(init.total(), limit(number));
    }
    eventually("as few descriptors as before", || {
        assert_eq!(reader.total(), limit(0));
        served.descriptors() <= before
    });
}
