//! The identity law: a process of the host, for every resource that nothing on its cgroup's
//! path limits, is shown the host's own file.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

#[allow(dead_code, reason = "each test uses its part")]
mod fixtures;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use fixtures::{Fixture, NAMES};
use lxcfs_rs::container::{Subject, Who};
use lxcfs_rs::files::{ProcFile, Row, TABLE, TREES, row_of};
use lxcfs_rs::vfs::{Attr, Kind, Request, Unique, Vfs};

#[test]
fn a_reader_of_whom_nothing_is_known_gets_the_hosts_bytes() {
    for name in NAMES {
        let fixture = Fixture::named(name);
        let who = Who { reader: None, subject: Subject::Unknown };
        for row in TABLE {
            let host = fs::read(fixture.root.join(row.path)).unwrap();
            assert_eq!(fixture.show(row.file, &who).unwrap(), host, "{name} {}", row.path);
        }
    }
}

#[test]
fn a_process_of_the_host_gets_the_hosts_bytes() {
    for name in NAMES {
        let fixture = Fixture::named(name);
        let pid = fixture.host_process();
        let subject = Subject::Host(fixture.container(pid).unwrap());
        let who = Who { reader: Some(pid), subject };
        for row in TABLE {
            let host = fs::read(fixture.root.join(row.path)).unwrap();
            assert_eq!(fixture.show(row.file, &who).unwrap(), host, "{name} {}", row.path);
        }
    }
}

#[test]
fn they_get_the_hosts_trees() {
    for name in NAMES {
        let fixture = Fixture::named(name);
        let pid = fixture.host_process();
        let subject = Subject::Host(fixture.container(pid).unwrap());
        for who in
            [Who { reader: Some(pid), subject }, Who { reader: None, subject: Subject::Unknown }]
        {
            for tree in TREES {
                let shown = fixtures::show_tree(&fixture.collector(), tree, &who).unwrap();
                let host = listing(&fixture.root.join(tree.path));
                assert_eq!(shown.lines().count(), host.len(), "{name}");
                for (shown, host) in shown.lines().zip(host) {
                    assert_eq!(shown, host, "{name}");
                }
            }
        }
    }
}

/// Everything in a directory in the form of [`fixtures::show_tree`].
fn listing(top: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            lines.push(if path.is_symlink() {
                format!("{name} -> {}", fs::read_link(path).unwrap().display())
            } else if path.is_dir() {
                left.push(path);
                format!("{name}/")
            } else {
                let text = fs::read_to_string(path).unwrap();
                format!("{name}: {}", text.trim_end_matches('\n').replace('\n', "\\n"))
            });
        }
    }
    lines.sort();
    lines
}

/// A process of the host in a cgroup with limits is shown these, and for all else the host.
#[test]
fn a_limit_counts_for_its_own_resource_alone() {
    for name in NAMES {
        let fixture = Fixture::named(name);
        let pid = fixture.init_of("c1");
        let who =
            Who { reader: Some(pid), subject: Subject::Host(fixture.container(pid).unwrap()) };
        let expected = |file| {
            fs::read_to_string(fixture.root.join("expected/c1").join(row_of(file).path)).unwrap()
        };
        let host = |file| fs::read_to_string(fixture.root.join(row_of(file).path)).unwrap();
        let show = |file| String::from_utf8(fixture.show(file, &who).unwrap()).unwrap();
        use ProcFile::{Diskstats, Loadavg, Slabinfo, Uptime};
        for file in [Uptime, Loadavg, Diskstats, Slabinfo] {
            assert_eq!(show(file), host(file), "{name} {file:?}");
        }
        for file in [ProcFile::Meminfo, ProcFile::Swaps, ProcFile::Cpuinfo, ProcFile::CpuOnline] {
            assert_eq!(show(file), expected(file), "{name} {file:?}");
        }
        // Memory by its limit, but disks are the host's.
        let host_lines = host(ProcFile::Vmstat);
        let expected_lines = expected(ProcFile::Vmstat);
        let vmstat = host_lines
            .lines()
            .zip(expected_lines.lines())
            .map(|(host, expected)| if host.starts_with("pgpg") { host } else { expected });
        assert_eq!(show(ProcFile::Vmstat).lines().collect::<Vec<_>>(), vmstat.collect::<Vec<_>>());
        // Two CPUs of two, and a quota of one and a half: no limit that shows. Else the cgroup's
        // CPUs, but the machine's own boot time.
        let limited = expected(ProcFile::CpuOnline) != host(ProcFile::CpuOnline);
        let stat = if limited { expected(ProcFile::Stat) } else { host(ProcFile::Stat) };
        let btime =
            |text: &str| text.lines().find(|line| line.starts_with("btime ")).unwrap().to_owned();
        let stat = stat.replace(&btime(&stat), &btime(&host(ProcFile::Stat)));
        assert_eq!(show(ProcFile::Stat), stat, "{name}");
    }
}

// --- live: this process is one of the host, as far as it can see -----------

/// What the served file says to this thread.
fn by(tid: u32) -> Request {
    Request { unique: Unique(2), tid }
}

fn served(vfs: &Vfs, file: ProcFile) -> String {
    let tid = rustix::thread::gettid().as_raw_pid().unsigned_abs();
    let text = vfs.read(row_of(file).ino, 0, by(tid), 0, 1 << 24, true).unwrap();
    String::from_utf8(text.to_vec()).unwrap()
}

fn kernels(row: &Row) -> String {
    fs::read_to_string(Path::new("/").join(row.path)).unwrap()
}

/// A line with each number replaced, and the numbers.
fn numbers(line: &str) -> (String, Vec<f64>) {
    let mut shape = String::new();
    let mut found = Vec::new();
    for word in line.split_inclusive([' ', '\t', '/']) {
        match word.trim_end_matches([' ', '\t', '/']).parse() {
            Ok(number) => found.push(number),
            // A number that grows takes the place of one.
            Err(_) if word == " " => {}
            Err(_) => shape.push_str(word),
        }
    }
    (shape, found)
}

/// Asserts that the served file has the lines of the kernel's, in their order, and that each
/// number of a line that `counts` is between two readings of the kernel's file.
fn assert_between(file: ProcFile, counts: impl Fn(&str) -> bool) {
    // The kernel's own iowait and idle go back at times, by a tick: such a moment passes.
    const ATTEMPTS: usize = 5;
    let found: Vec<String> = (0..ATTEMPTS).map_while(|_| not_between(file, &counts)).collect();
    assert!(found.len() < ATTEMPTS, "{found:#?}");
}

/// A number that is not between two readings.
fn not_between(file: ProcFile, counts: &impl Fn(&str) -> bool) -> Option<String> {
    let vfs = Vfs::of_machine().unwrap();
    let row = row_of(file);
    let before = kernels(row);
    let shown = served(&vfs, file);
    let after = kernels(row);
    assert_eq!(shown.lines().count(), before.lines().count(), "{}", row.path);
    for ((before, shown), after) in before.lines().zip(shown.lines()).zip(after.lines()) {
        let ((shape, low), (shown_shape, middle), (_, high)) =
            (numbers(before), numbers(shown), numbers(after));
        assert_eq!(shown_shape, shape, "{}", row.path);
        assert_eq!(middle.len(), low.len(), "{}: {shown}", row.path);
        if !counts(shown) {
            continue;
        }
        for ((low, middle), high) in low.iter().zip(&middle).zip(&high) {
            if low <= high && !(low <= middle && middle <= high) {
                return Some(format!("{}: {before:?} {shown:?} {after:?}", row.path));
            }
        }
    }
    None
}

/// Whether the kernel's cgroup files, read the plain way, limit this process's memory or CPUs.
fn is_limited() -> bool {
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut limits = Vec::new();
    for mount in mounts.lines() {
        let (before, after) = mount.split_once(" - ").unwrap();
        if !after.starts_with("cgroup") {
            continue;
        }
        let mount_point = before.split(' ').nth(4).unwrap();
        for line in memberships.lines() {
            let path = line.splitn(3, ':').nth(2).unwrap();
            for level in Path::new(path).ancestors() {
                let level = level.strip_prefix("/").unwrap();
                for name in ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max"]
                    .iter()
                    .chain(&["memory.swap.max", "cpu.max", "cpu.cfs_quota_us", "cpuset.cpus"])
                    .chain(&["cpuset.cpus.effective"])
                {
                    let file = Path::new(mount_point).join(level).join(name);
                    if let Ok(text) = fs::read_to_string(file) {
                        limits.push((*name, text.trim().to_owned()));
                    }
                }
            }
        }
    }
    let online = kernels(row_of(ProcFile::CpuOnline));
    limits.iter().any(|(name, value)| match *name {
        "cpu.max" => !value.starts_with("max"),
        "cpu.cfs_quota_us" => value != "-1",
        "cpuset.cpus" | "cpuset.cpus.effective" => !value.is_empty() && value != online.trim(),
        // v1 prints no limit as a number of 19 digits.
        _ => value != "max" && value.len() < 19,
    })
}

#[test]
fn live_counters_lie_between_two_of_the_kernels() {
    // No cgroup limits these.
    assert_between(ProcFile::Uptime, |_| true);
    assert_between(ProcFile::Diskstats, |_| false);
    assert_between(ProcFile::Loadavg, |_| false);
    // Of the others the law tells only where nothing limits this test itself.
    if is_limited() {
        return;
    }
    assert_between(ProcFile::Stat, |line| !line.starts_with("procs_"));
    assert_between(ProcFile::Swaps, |_| false);
    assert_between(ProcFile::Vmstat, |_| false);
    assert_between(ProcFile::CpuOnline, |_| true);
    assert_between(ProcFile::Cpuinfo, |line| !line.starts_with("cpu MHz"));
    assert_between(ProcFile::Meminfo, |line| {
        let constant = ["MemTotal", "SwapTotal", "CommitLimit", "VmallocTotal", "Hugepagesize"];
        constant.iter().any(|label| line.starts_with(label))
    });
}

/// What a path is, as its directory's listing and a lookup of it say.
fn look_up(vfs: &Vfs, path: &str) -> Attr {
    let tid = rustix::thread::gettid().as_raw_pid().unsigned_abs();
    let find = |parent: u64, name: &str| {
        let attr = vfs.lookup(parent, OsStr::new(name), tid).unwrap();
        let entries = vfs.readdir(parent, tid).unwrap();
        let listed = entries.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!((listed.ino, listed.kind), (attr.ino, attr.kind), "{path}");
        assert_eq!(vfs.getattr(attr.ino).unwrap(), attr, "{path}");
        attr
    };
    path.split('/').fold(vfs.getattr(1).unwrap(), |attr, name| find(attr.ino, name))
}

#[test]
fn live_trees_are_the_kernels() {
    if is_limited() {
        return;
    }
    let vfs = Vfs::of_machine().unwrap();
    let tid = rustix::thread::gettid().as_raw_pid().unsigned_abs();
    for tree in TREES {
        let mut left = vec![(tree.path.to_owned(), look_up(&vfs, tree.path))];
        let mut files = 0;
        while let Some((path, attr)) = left.pop() {
            let place = Path::new("/").join(&path);
            let metadata = fs::symlink_metadata(&place).unwrap();
            assert_eq!(u32::from(attr.perm), metadata.permissions().mode() & 0o7777, "{path}");
            match attr.kind {
                Kind::Directory => {
                    let mut offsets = Vec::new();
                    let mut names = Vec::new();
                    for entry in vfs.readdir(attr.ino, tid).unwrap() {
                        offsets.push(entry.offset);
                        if entry.name != "." && entry.name != ".." {
                            let name = OsStr::new(&entry.name);
                            let child = vfs.lookup(attr.ino, name, tid).unwrap();
                            assert_eq!((child.ino, child.kind), (entry.ino, entry.kind));
                            left.push((format!("{path}/{}", entry.name), child));
                            names.push(entry.name);
                        }
                    }
                    assert!(offsets.is_sorted_by(|a, b| a < b), "{path}: {offsets:?}");
                    names.sort();
                    let mut kernels: Vec<String> = fs::read_dir(&place)
                        .unwrap()
                        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                        .collect();
                    kernels.sort();
                    assert_eq!(names, kernels, "{path}");
                }
                Kind::Symlink => {
                    let target = fs::read_link(&place).unwrap();
                    assert_eq!(
                        vfs.readlink(attr.ino, tid).unwrap(),
                        target.as_os_str().as_encoded_bytes()
                    );
                }
                Kind::Regular => {
                    files += 1;
                    let answer = |result: std::io::Result<Vec<u8>>| {
                        result.map_err(|error| error.raw_os_error().unwrap())
                    };
                    let before = answer(fs::read(&place));
                    let shown = vfs.read(attr.ino, 0, by(tid), 0, 1 << 20, true);
                    let shown = shown.map(|text| text.to_vec()).map_err(|error| error.errno());
                    let after = answer(fs::read(&place));
                    let public = attr.perm & 0o444 == 0o444;
                    if !public {
                        assert_eq!(shown, Err(libc::EACCES), "{path}");
                    } else if before == after {
                        assert_eq!(shown, before, "{path}");
                    }
                }
            }
        }
        assert!(files > 10, "{}: {files}", tree.path);
    }
}
