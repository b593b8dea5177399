//! Damaged kernel files: every prefix of what was captured, flipped bytes, empty and missing
//! files, NULs, huge numbers, endless lines. No parser may panic; and what a reader is shown
//! may become poorer, but never empty, never a number that wrapped around, and never a machine
//! with more free than it has.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

#[allow(dead_code, reason = "each test uses its part")]
mod fixtures;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use fixtures::{Copy, Fixture, NAMES, root_of};
use lxcfs_rs::cgroup::{format, layout, path};
use lxcfs_rs::container::{Subject, Who};
use lxcfs_rs::cpulist::CpuSet;
use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::files::{ProcFile, TABLE, TREES, row_of};
use lxcfs_rs::procfs::{diskstats, meminfo, mountinfo, process, stat};
use lxcfs_rs::render::render;
use lxcfs_rs::units::Nsec;

/// What is flipped in a byte: the lowest bit makes one digit another; 0x10 a digit of a blank
/// and a control character of a digit; 0x80 leaves ASCII, and UTF-8 with it; 0xff all of it.
const MASKS: [u8; 4] = [0x01, 0x10, 0x80, 0xff];

/// Texts that are no kernel file's at all.
fn foreign_texts() -> Vec<Vec<u8>> {
    let mut texts: Vec<Vec<u8>> = [
        "",
        "\n",
        " ",
        "\n\n\n",
        "\0",
        "\0\0\0\n",
        "-1\n",
        "-\n",
        "0\n",
        "max\n",
        "max",
        "0 0\n",
        "1 0\n",
        "18446744073709551615\n",
        "18446744073709551616\n",
        "9223372036854775807\n",
        "18446744073709551615 18446744073709551615\n",
        "max 0\n",
        "4294967296\n",
        ":\n",
        "::\n",
        "0:::\n",
        "0::/\n",
        "a:b\n",
        ":: /\n",
        "0-4294967295\n",
        "4294967295\n",
        "65535\n",
        "1-0\n",
        ",,,\n",
        "0-\n",
        "8:0\n",
        "8:0 Read\n",
        "8:0 Read 18446744073709551615\n",
        "4294967296:4294967296 rbytes=18446744073709551615\n",
        "key\n",
        "key \n",
        " key 1\n",
        "MemTotal:\n",
        "MemTotal: kB\n",
        "MemTotal: -1 kB\n",
        "MemTotal: 18446744073709551615 kB\n",
        "cpu\n",
        "cpu \n",
        "cpu0\n",
        "processor\n",
        "processor :\n",
        "processor\t: 99999999999\n",
        "1 (\n",
        "1 ) R\n",
        ")\n",
        "boottime -9223372036854775808 -9223372036854775808\n",
        "boottime 9223372036854775807 9223372036854775807\n",
        "\u{fffd}\u{1f980}\n",
        "1 2 3 4 5 6 - cgroup\n",
        "1 2 3 4 5 6 - cgroup x rw,memory\n",
        " - \n",
        "\\",
        "\\04\\777\\",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    texts.push(b"\xff\xfe\x80\n".to_vec());
    texts.push(vec![b'9'; 1 << 14]);
    texts.push(vec![b'a'; 1 << 14]);
    texts.push(vec![b' '; 1 << 14]);
    texts.push(vec![0; 1 << 14]);
    texts.push(b"1\n".repeat(1 << 12));
    texts.push(b"cpu0 18446744073709551615 ".repeat(1 << 9));
    texts
}

/// A captured text in every way damaged, each `stride`th place.
fn damaged(text: &[u8], stride: usize) -> impl Iterator<Item = Vec<u8>> {
    let prefixes = (0..text.len()).step_by(stride).map(|end| text[..end].to_vec());
    let flips = (0..text.len()).step_by(stride).flat_map(move |at| {
        MASKS.into_iter().map(move |mask| {
            let mut flipped = text.to_vec();
            flipped[at] ^= mask;
            flipped
        })
    });
    prefixes.chain(flips)
}

/// Numbers grown to the most that 64 bits hold, one at a time.
fn with_huge_numbers(text: &[u8], most: usize) -> Vec<Vec<u8>> {
    let is_start =
        |at: usize| text[at].is_ascii_digit() && (at == 0 || !text[at - 1].is_ascii_alphanumeric());
    let starts: Vec<usize> = (0..text.len()).filter(|&at| is_start(at)).collect();
    let stride = (starts.len() / most).max(1);
    let mut texts = Vec::new();
    for &start in starts.iter().step_by(stride) {
        let digits = text[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        for huge in ["18446744073709551615", "9223372036854775807", "99999999999999999999"] {
            let rest = &text[start + digits..];
            texts.push([&text[..start], huge.as_bytes(), rest].concat());
        }
    }
    texts
}

// --- parsers ---------------------------------------------------------------

type Parser = fn(&[u8]);

/// Every parser, and the captured files that it is for.
fn parsers() -> Vec<(Parser, &'static [&'static str])> {
    vec![
        (
            |text| {
                ignore(meminfo::Meminfo::parse(text.to_vec()));
                for line in text.split(|&byte| byte == b'\n').map(String::from_utf8_lossy) {
                    ignore(meminfo::parse_line(&line));
                }
            },
            &["proc/meminfo"],
        ),
        (
            |text| {
                assert!(stat::cpu_columns(text) <= 10);
                ignore(stat::boot_time(text));
            },
            &["proc/stat"],
        ),
        (
            |text| {
                ignore(diskstats::parse(text));
                ignore(diskstats::Device::parse(&String::from_utf8_lossy(text)));
            },
            &["proc/diskstats"],
        ),
        (|text| ignore(process::parse_stat(text)), &["proc/PID/stat"]),
        (
            |text| ignore((process::parse_thread_group(text), process::parse_ns_pids(text))),
            &["proc/PID/status"],
        ),
        (|text| ignore(process::parse_boottime_offset(text)), &["proc/PID/timens_offsets"]),
        (
            |text| {
                let memberships = path::parse_memberships(text, Path::new("cgroup"));
                for membership in memberships.unwrap_or_default() {
                    ignore(path::is_at_or_below(&membership.path, b"/a"));
                    ignore(path::is_at_or_below(b"/", &membership.path));
                }
            },
            &["proc/PID/cgroup", "cgroupns/PID/cgroup"],
        ),
        (
            |text| {
                ignore(mountinfo::unescape(text));
                ignore((mountinfo::parse(text), mountinfo::parse_mount_id(text)));
                for controllers in [b"cpu io memory", text] {
                    let layout = layout::Layout::parse(text, controllers);
                    ignore((layout.unified_mount(), layout.controller("cpuacct")));
                    for hierarchy in &layout.hierarchies {
                        ignore(hierarchy.relative(&hierarchy.mount_root));
                        ignore(hierarchy.relative(b"/a/../b"));
                    }
                }
            },
            &["proc/self/mountinfo"],
        ),
        (
            |text| {
                let Some(cpus) = CpuSet::parse(text) else { return };
                assert_eq!(CpuSet::parse(cpus.to_string().as_bytes()), Some(cpus));
            },
            &["sys/devices/system/cpu/online"],
        ),
        (
            |text| {
                ignore((format::parse_number(text), format::parse_limit(text)));
                ignore(format::parse_cpu_max(text));
                ignore(format::flat_keyed(text).count());
                ignore(format::device_operations(text).count());
                format::device_keyed(text).for_each(|(_, pairs)| ignore(pairs.count()));
            },
            &["CGROUP/memory.stat", "CGROUP/io.stat", "CGROUP/cpu.max", "CGROUP/memory.current"],
        ),
    ]
}

/// A parser's answer, which only has to come.
fn ignore<T>(answer: T) {
    std::hint::black_box(answer);
}

#[test]
fn no_parser_panics() {
    let foreign = foreign_texts();
    for (parse, paths) in parsers() {
        foreign.iter().for_each(|text| parse(text));
        for name in NAMES {
            let pid = Fixture::named(name).init_of("c1").to_string();
            for path in paths {
                let path = path.replace("PID", &pid);
                let path = path.replace("CGROUP", "sys/fs/cgroup/lxcfs-fixture/c2");
                // The v1 hosts have none of the v2 files.
                let Ok(text) = fs::read(root_of(name).join(path)) else { continue };
                parse(&text);
                damaged(&text, 1 + text.len() / 512).for_each(|text| parse(&text));
                with_huge_numbers(&text, 50).iter().for_each(|text| parse(text));
            }
        }
    }
}

// --- whole runs ------------------------------------------------------------

/// Which files depend on an input, by how its path begins and what it is called.
fn reached_from(path: &str) -> Vec<ProcFile> {
    use ProcFile::{
        CpuOnline, Cpuinfo, Diskstats, Loadavg, Meminfo, Slabinfo, Stat, Swaps, Uptime, Vmstat,
    };
    let name = path.rsplit('/').next().unwrap();
    let all = || TABLE.iter().map(|row| row.file).collect();
    match name {
        _ if path.starts_with("sys/kernel/mm/") => vec![Meminfo, Vmstat],
        "meminfo" => vec![Meminfo, Swaps, Vmstat],
        "vmstat" => vec![Vmstat],
        "slabinfo" | "memory.kmem.slabinfo" => vec![Slabinfo],
        "swaps" => vec![Swaps],
        "cpuinfo" => vec![Cpuinfo],
        "diskstats" => vec![Diskstats, Vmstat],
        "online" => vec![Cpuinfo, CpuOnline, Stat, Uptime],
        "overcommit_ratio" | "overcommit_kbytes" => vec![Meminfo],
        "timens_offsets" => vec![Stat, Uptime],
        "stat" | "status" => vec![Stat, Loadavg],
        "tasks" | "cgroup.threads" | "cgroup.events" | "freezer.state" => vec![Stat, Loadavg],
        _ if name.starts_with("memory.") => vec![Meminfo, Swaps, Vmstat],
        _ if name.starts_with("hugetlb.") => vec![Meminfo],
        _ if name.starts_with("blkio.") || name == "io.stat" => vec![Diskstats, Vmstat],
        _ if name.starts_with("cpuacct.") || name.starts_with("cpu.stat") => vec![Stat, Uptime],
        _ if name.starts_with("cpu") => vec![Cpuinfo, CpuOnline, Stat],
        _ => all(),
    }
}

/// The files that a read in container c1 depends on.
fn inputs(fixture: &Fixture) -> Vec<String> {
    const CGROUP_FILES: &[&str] = &[
        // v1
        "blkio.bfq.io_service_bytes_recursive",
        "blkio.bfq.io_serviced_recursive",
        "blkio.throttle.io_service_bytes_recursive",
        "blkio.throttle.io_serviced_recursive",
        "cpu.cfs_period_us",
        "cpu.cfs_quota_us",
        "cpuacct.stat",
        "cpuacct.usage_all",
        "cpuset.effective_cpus",
        "freezer.state",
        "hugetlb.2MB.limit_in_bytes",
        "hugetlb.2MB.usage_in_bytes",
        "memory.kmem.slabinfo",
        "memory.kmem.usage_in_bytes",
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.memsw.usage_in_bytes",
        "memory.usage_in_bytes",
        "memory.use_hierarchy",
        "tasks",
        // v2
        "cgroup.events",
        "cgroup.threads",
        "cpu.max",
        "cpuset.cpus.effective",
        "hugetlb.2MB.current",
        "hugetlb.2MB.max",
        "io.stat",
        "memory.current",
        "memory.max",
        "memory.swap.current",
        "memory.swap.max",
        // both
        "cgroup.procs",
        "cpu.stat",
        "cpu.stat.local",
        "memory.stat",
    ];
    let mut found: Vec<String> =
        ["cpuinfo", "diskstats", "meminfo", "slabinfo", "stat", "swaps", "vmstat"]
            .map(|name| format!("proc/{name}"))
            .into();
    found.push("proc/sys/vm/overcommit_ratio".into());
    found.push("proc/sys/vm/overcommit_kbytes".into());
    found.push("sys/devices/system/cpu/online".into());
    found.push("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages".into());
    found.push("sys/kernel/mm/transparent_hugepage/hpage_pmd_size".into());
    let pid = fixture.init_of("c1");
    for name in ["stat", "status", "timens_offsets"] {
        found.push(format!("proc/{pid}/{name}"));
    }
    for membership in fixture.boundary(pid) {
        let mounted = fixture
            .kernel
            .hierarchies
            .iter()
            .find(|mounted| mounted.serves && mounted.controllers == membership.controllers);
        let Some(mounted) = mounted else { continue };
        let top = mounted.root.path().strip_prefix(&fixture.root).unwrap();
        for level in
            Path::new(std::str::from_utf8(&membership.path).unwrap().trim_start_matches('/'))
                .ancestors()
        {
            for name in CGROUP_FILES {
                found.push(top.join(level).join(name).to_str().unwrap().to_owned());
            }
        }
    }
    found.retain(|path| fixture.root.join(path).exists());
    found
}

/// One fixture being damaged, file by file.
struct Run {
    copy: Copy,
    fixture: Fixture,
    pid: u32,
    who: Who,
}

impl Run {
    fn of(name: &str) -> Run {
        let copy = Copy::of(name);
        let fixture = copy.open().unwrap();
        let pid = fixture.init_of("c1");
        let who = fixture.reader(pid);
        Run { copy, fixture, pid, who }
    }

    /// Shows `files` while the input `path` reads as `text`, none being a missing file.
    fn check(&self, path: &str, text: Option<&[u8]>, files: &[ProcFile]) {
        match text {
            Some(text) => self.copy.write(path, text),
            None => fs::remove_file(self.copy.root().join(path)).unwrap(),
        }
        // As a daemon that has read nothing yet: one that has holds files open, and what they said.
        let fixture = self.copy.open().unwrap();
        let collector = fixture.collector();
        let find = || fixture.container(self.pid);
        let container = find();
        for &file in files {
            let own = row_of(file).path;
            let collected = match &container {
                Ok(container) => {
                    let subject = Subject::Container(Arc::clone(container));
                    let who = Who { reader: Some(self.pid), subject };
                    collector.collect(file, &who, fixture.now)
                }
                Err(_) => Err(find().unwrap_err()),
            };
            let shown = collected.map(render);
            let excerpt = || {
                let text = text.map(|text| String::from_utf8_lossy(&text[..text.len().min(3000)]));
                format!("{own} with {path} = {text:?}")
            };
            match shown {
                // The kernel counts none for this container, or not any more.
                Err(error) if own.contains("pressure") && error.errno() == libc::EOPNOTSUPP => {}
                // Nothing counts what the container's CPUs did: what the machine's did.
                Ok(shown) if text.is_none() && shown == self.hosts(file) => {}
                Ok(shown) => self.check_text(file, &shown, text.unwrap_or_default(), &excerpt),
                Err(error) => assert!(
                    text.is_none() && may_fail_without(path, own, &error),
                    "{}: {error}",
                    excerpt()
                ),
            }
        }
    }

    fn hosts(&self, file: ProcFile) -> Vec<u8> {
        fs::read(self.copy.root().join(row_of(file).path)).unwrap_or_default()
    }

    fn check_text(&self, file: ProcFile, shown: &[u8], damaged: &[u8], what: &dyn Fn() -> String) {
        let host = self.hosts(file);
        if file != ProcFile::Diskstats && !host.is_empty() {
            assert!(!shown.is_empty(), "empty: {}", what());
        }
        let text = String::from_utf8_lossy(shown);
        // A number that wrapped around is near 2^64, and still above 2^53 as kB.
        let may_be_huge = has_long_number(damaged) || has_long_number(&host);
        assert!(may_be_huge || !has_long_number(shown), "huge: {}\n{text}", what());
        let may_be_negative = !is_numeric(file) || damaged.contains(&b'-');
        assert!(may_be_negative || !shown.contains(&b'-'), "negative: {}\n{text}", what());
        match file {
            ProcFile::Meminfo => {
                let value = |label: &str| {
                    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
                    line.split_ascii_whitespace().next()?.parse::<u64>().ok()
                };
                for (part, whole) in [
                    ("MemFree:", "MemTotal:"),
                    ("MemAvailable:", "MemTotal:"),
                    ("SwapFree:", "SwapTotal:"),
                    ("HugePages_Free:", "HugePages_Total:"),
                ] {
                    let (Some(part), Some(whole)) = (value(part), value(whole)) else { continue };
                    assert!(part <= whole, "more than there is: {}\n{text}", what());
                }
                assert!(value("MemTotal:").is_none_or(|total| total > 0), "{}\n{text}", what());
            }
            ProcFile::Stat => self.check_stat(&text, what),
            ProcFile::Uptime => {
                let up = text.split(' ').next().unwrap().replace('.', "").parse::<u64>().unwrap();
                assert!(may_be_huge || up <= self.fixture.now.ticks(), "{}\n{text}", what());
            }
            ProcFile::Cpuinfo
            | ProcFile::Diskstats
            | ProcFile::Loadavg
            | ProcFile::Slabinfo
            | ProcFile::Swaps
            | ProcFile::Vmstat
            | ProcFile::CpuOnline
            | ProcFile::PressureCpu
            | ProcFile::PressureIo
            | ProcFile::PressureMemory => {}
        }
    }

    /// No CPU ran for longer than the container is old, and the first line is their sum.
    fn check_stat(&self, text: &str, what: &dyn Fn() -> String) {
        let columns = |line: &str| -> Option<Vec<u64>> {
            let (name, numbers) = line.split_once(' ')?;
            let is_cpu = name.starts_with("cpu");
            is_cpu.then(|| {
                numbers.split_ascii_whitespace().map(|number| number.parse().unwrap()).collect()
            })
        };
        let lines: Vec<Vec<u64>> = text.lines().map_while(columns).collect();
        assert!(lines.len() >= 2, "no CPU: {}\n{text}", what());
        for line in &lines[1..] {
            let sum: u64 = line.iter().sum();
            assert!(sum <= self.fixture.now.ticks(), "too long: {}\n{text}", what());
        }
        for (column, total) in lines[0].iter().enumerate() {
            let sum: u64 = lines[1..].iter().map(|line| line[column]).sum();
            assert_eq!(sum, *total, "no sum: {}\n{text}", what());
        }
    }
}

/// What is right to fail where an input is missing: the host's own file; what a reader that has
/// ended left behind, after which it is looked for anew; a cgroup that is gone, of which the
/// first sign is that it has no cgroup.procs.
fn may_fail_without(path: &str, own: &str, error: &Error) -> bool {
    let of_meminfo = own == "proc/swaps" || own == "proc/vmstat";
    let of_diskstats = own == "proc/vmstat";
    let is_own = path == own
        || (of_meminfo && path == "proc/meminfo")
        || (of_diskstats && path == "proc/diskstats");
    let is_readers = path.ends_with("/timens_offsets") && error.is_gone();
    is_own || is_readers || (path.ends_with("cgroup.procs") && matches!(error, Error::Gone { .. }))
}

fn is_numeric(file: ProcFile) -> bool {
    use ProcFile::{Loadavg, Meminfo, Stat, Uptime, Vmstat};
    matches!(file, Meminfo | Stat | Uptime | Loadavg | Vmstat)
}

/// Whether there is a run of digits that could be 2^53 or more.
fn has_long_number(text: &[u8]) -> bool {
    const DIGITS_OF_2_53: usize = 16;
    text.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() >= DIGITS_OF_2_53)
}

fn damage_every_input_of(name: &str) {
    let run = Run::of(name);
    let foreign = foreign_texts();
    let all: Vec<ProcFile> = TABLE.iter().map(|row| row.file).collect();
    for path in inputs(&run.fixture) {
        let text = fs::read(root_of(name).join(&path)).unwrap();
        let reached = reached_from(&path);
        // An ancestor's files are read by the same code as the cgroup's own: samples will do.
        let is_ancestors = path.starts_with("sys/fs/cgroup/") && !path.contains("/c1/");
        let (every, stride) = if is_ancestors { (5, 100) } else { (1, 1 + text.len() / 80) };
        run.check(&path, None, &all);
        for text in foreign.iter().step_by(every) {
            run.check(&path, Some(text), &reached);
        }
        for text in with_huge_numbers(&text, 12) {
            run.check(&path, Some(&text), &reached);
        }
        for text in damaged(&text, stride) {
            run.check(&path, Some(&text), &reached);
        }
        run.check(&path, Some(&text), &all);
    }
}

#[test]
fn damaged_hybrid() {
    damage_every_input_of(NAMES[0]);
}

#[test]
fn damaged_legacy() {
    damage_every_input_of(NAMES[1]);
}

#[test]
fn damaged_unified() {
    damage_every_input_of(NAMES[2]);
}

#[test]
fn damaged_manycpu() {
    damage_every_input_of(NAMES[3]);
}

/// Files of the trees: what is damaged stays a text, and never lists a CPU that the host's text
/// and the container's do not.
#[test]
fn damaged_trees() {
    for (name, cpu) in [("hybrid-6.18", "cpu1"), ("manycpu-6.1", "cpu4")] {
        let run = Run::of(name);
        let collector = run.fixture.collector();
        let tree = &TREES[0];
        for path in [
            "offline",
            "possible",
            "smt/active",
            &format!("{cpu}/topology/core_siblings"),
            &format!("{cpu}/topology/core_siblings_list"),
            &format!("{cpu}/topology/thread_siblings_list"),
            &format!("{cpu}/cache/index3/shared_cpu_map"),
        ] {
            let place = format!("{}/{path}", tree.path);
            let captured = fs::read(root_of(name).join(&place)).unwrap();
            for text in foreign_texts().into_iter().chain(damaged(&captured, 1)) {
                run.copy.write(&place, &text);
                for shown in [path, "offline", "smt/active"] {
                    let facts = collector.tree_file(tree, shown, &run.who).unwrap();
                    let shown_text = render(facts);
                    assert!(shown != path || text.is_empty() || !shown_text.is_empty(), "{path}");
                }
                if path.ends_with("_siblings") || path.ends_with("_map") {
                    let map = render(collector.tree_file(tree, path, &run.who).unwrap());
                    assert_eq!(map.len(), text.len(), "{path}");
                }
            }
            run.copy.write(&place, &captured);
        }
    }
}

/// What a daemon reads once, when it starts: it starts, or it says why it doesn't.
#[test]
fn damaged_at_the_start() {
    for name in NAMES {
        let copy = Copy::of(name);
        let path = "proc/self/mountinfo";
        let text = fs::read(root_of(name).join(path)).unwrap();
        let begin = text.windows(6).position(|window| window == b"cgroup").unwrap_or(0);
        let open = |text: &[u8]| -> Result<()> {
            copy.write(path, text);
            let fixture = copy.open()?;
            let Ok(container) = fixture.container(fixture.init_of("c1")) else { return Ok(()) };
            let subject = Subject::Container(container);
            let who = Who { reader: None, subject };
            for row in TABLE.iter().filter(|row| !row.path.contains("pressure")) {
                let shown = fixture.show(row.file, &who)?;
                assert!(!shown.is_empty() || row.file == ProcFile::Diskstats, "{}", row.path);
            }
            Ok(())
        };
        for text in foreign_texts() {
            drop(open(&text));
        }
        for text in damaged(&text[begin..], 7) {
            drop(open(&[&text[..], b"\n"].concat()));
        }
        open(&text).unwrap();
    }
}

/// Counters that fall back, stand still and run away, reading after reading.
#[test]
fn counters_that_go_mad() {
    for name in ["hybrid-6.18", "unified-6.1"] {
        let run = Run::of(name);
        let usage: Vec<String> = inputs(&run.fixture)
            .into_iter()
            .filter(|path| path.contains("/cpu.stat") || path.contains("/cpuacct."))
            .collect();
        let collector = run.fixture.collector();
        let mut before: Vec<u64> = Vec::new();
        for round in 0..200_u64 {
            for path in &usage {
                let text = fs::read_to_string(root_of(name).join(path)).unwrap();
                let factor = [1, 0, 3, 1 << 20, 1 << 40][usize::try_from(round).unwrap() % 5];
                let grown = text.split_inclusive([' ', '\n']).map(|word| {
                    let (number, end) = word.split_at(word.len() - 1);
                    number.parse::<u64>().map_or(word.to_owned(), |number| {
                        format!("{}{end}", number.saturating_mul(factor))
                    })
                });
                run.copy.write(path, grown.collect::<String>().as_bytes());
            }
            let now = run.fixture.now + Nsec(round * Nsec::PER_SEC / 7);
            let facts = collector.collect(ProcFile::Stat, &run.who, now).unwrap();
            let text = String::from_utf8(render(facts)).unwrap();
            let shown: Vec<u64> = text
                .lines()
                .take_while(|line| line.starts_with("cpu"))
                .flat_map(|line| line.split_ascii_whitespace().skip(1))
                .map(|word| word.parse().unwrap())
                .collect();
            let back = before.iter().zip(&shown).find(|(before, shown)| before > shown);
            assert_eq!(back, None, "{name}, round {round}: {text}");
            assert!(text.lines().nth(1).unwrap().len() < 100, "{text}");
            before = shown;
        }
    }
}
