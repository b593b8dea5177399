//! The table of lines: every line that a known kernel prints is in one row of it, rendering does
//! what it says, and README.md prints it.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

#[allow(dead_code, reason = "each test uses its part")]
mod fixtures;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use fixtures::{Fixture, NAMES};
use lxcfs_rs::facts::{CpuSet, Facts, Meminfo};
use lxcfs_rs::files::{TABLE, TREES};
use lxcfs_rs::render::{Origin, ROWS, Row, render, source_of};

/// The specification's list: the figures of the host's that a container is shown.
const FIGURES: &[(&str, &[&str])] = &[
    (
        "proc/meminfo",
        &["VmallocTotal", "CmaTotal", "Hugepagesize", "HardwareCorrupted", "DirectMap*"],
    ),
    ("proc/vmstat", &["nr_dirty_threshold", "nr_dirty_background_threshold"]),
    ("proc/stat", &["intr", "ctxt", "processes", "softirq"]),
    ("proc/cpuinfo", &["cpu MHz", "cpu MHz *", "bogomips", "bogomips per cpu", "BogoMIPS"]),
];

/// And the texts: headers, what is written on a CPU, the rest of the directories of CPUs and nodes.
const TEXTS: &[(&str, &str)] = &[
    ("proc/swaps", "Filename"),
    ("proc/slabinfo", "slabinfo - version, # name*"),
    (
        "proc/cpuinfo",
        "vendor_id, processor *, cpu family, model, model name, stepping, microcode, cache size, physical id, \
         core id, apicid, initial apicid, fpu, fpu_exception, cpuid level, wp, flags, vmx flags, \
         bugs, TLB size, clflush size, cache_alignment, address sizes, power management, Features, \
         CPU implementer, CPU architecture, CPU variant, CPU part, CPU revision, Hardware, \
         Revision, Serial, Model, cpu, clock, revision, timebase, platform, machine, motherboard, \
         firmware, MMU, hart, isa, hart isa, mmu, uarch, mvendorid, marchid, mimpid, features, \
         facilities, max thread id, cache0, cache1, cache2, cache3, cache4, cache5, cache6, cache7, \
         version, identification, book id, drawer id, dedicated, address",
    ),
];

/// A file of the running kernel's, or of a captured one's.
struct Served {
    /// Below `/`.
    path: String,
    text: String,
}

/// The served files of the host below `root`, but for those that only the host has.
fn served(root: &Path) -> Vec<Served> {
    let mut paths: Vec<PathBuf> = TABLE.iter().map(|row| PathBuf::from(row.path)).collect();
    let mut left: Vec<PathBuf> = TREES.iter().map(|tree| PathBuf::from(tree.path)).collect();
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(root.join(&directory)).into_iter().flatten().flatten() {
            let (kind, path) = (entry.file_type().unwrap(), directory.join(entry.file_name()));
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() {
                paths.push(path);
            }
        }
    }
    // Without root, and where a CPU goes, some cannot be read; the kernel may lack others.
    let read = |path: PathBuf| {
        let text = fs::read(root.join(&path)).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        Some(Served { path: path.to_str().unwrap().to_owned(), text })
    };
    paths.into_iter().filter_map(read).collect()
}

fn known_hosts() -> Vec<Served> {
    let mut files: Vec<Served> =
        NAMES.iter().flat_map(|name| served(&fixtures::root_of(name))).collect();
    for architecture in ["arm64", "s390x", "ppc64", "riscv64"] {
        let text = fs::read_to_string(fixtures::root_of("cpuinfo").join(architecture)).unwrap();
        files.push(Served { path: "proc/cpuinfo".to_owned(), text });
    }
    files.extend(served(Path::new("/")));
    files
}

#[test]
fn every_line_of_the_known_kernels_and_of_the_running_one_is_in_a_row() {
    let mut missing = BTreeSet::new();
    let mut found = 0;
    for Served { path, text } in known_hosts() {
        // A file of a directory has its row also where it is empty.
        let lines = text.lines().filter(|line| !line.is_empty());
        let lines = lines.chain(text.is_empty().then_some(""));
        for line in lines.filter(|line| !path.starts_with("proc") || !line.is_empty()) {
            match source_of(&path, line) {
                Some(_) => found += 1,
                None => drop(missing.insert(format!("{path}: {line}"))),
            }
        }
    }
    assert!(found > 4000, "{found}");
    let missing: Vec<String> = missing.into_iter().collect();
    assert!(missing.is_empty(), "no row of src/render/sources.rs has\n{}", missing.join("\n"));
}

#[test]
fn rows_without_names_are_of_files_that_have_none() {
    let all: Vec<&str> =
        ROWS.iter().filter(|row| row.names().is_empty()).map(|row| row.file).collect();
    assert_eq!(
        all,
        [
            "proc/swaps",
            "proc/slabinfo",
            "proc/uptime",
            "proc/loadavg",
            "proc/diskstats",
            "proc/pressure/*"
        ]
    );
}

#[test]
fn every_line_has_a_source_on_both_versions() {
    for row in ROWS {
        let Origin::Cgroup { v2, .. } = row.origin else { continue };
        assert!(!v2.is_empty(), "{} {:?}", row.file, row.names());
    }
    let words = |path: &str, line: &str| {
        [false, true].map(|is_v1| source_of(path, line).unwrap().words(is_v1))
    };
    let expected = [
        ("proc/meminfo", "AnonPages: 1 kB", "memory.stat: anon", "memory.stat total_*: rss"),
        (
            "proc/meminfo",
            "SwapTotal: 1 kB",
            "least memory.swap.max over the levels; the host's where it is less",
            "least memory.memsw.limit_in_bytes over the levels, less MemTotal; the host's where it \
             is less",
        ),
        ("proc/meminfo", "Percpu: 1 kB", "memory.stat: percpu", "0: not counted on cgroup v1"),
        ("proc/meminfo", "Bounce: 1 kB", "0: no cgroup counts it", "0: no cgroup counts it"),
        ("proc/meminfo", "DirectMap4k: 1 kB", "the host's", "the host's"),
        (
            "proc/vmstat",
            "pgfault 1",
            "memory.stat, 0 without the key: pgfault",
            "memory.stat total_*, 0 without the key: pgfault",
        ),
        (
            "sys/devices/system/node/node3/meminfo",
            "Node 3 Dirty: 1 kB",
            "the lines of meminfo, spread as the host's memory is: file_dirty",
            "the lines of meminfo, spread as the host's memory is: dirty",
        ),
        (
            "sys/devices/system/node/node0/vmstat",
            "numa_hit 1",
            "0: no cgroup counts it",
            "0: no cgroup counts it",
        ),
    ];
    for (path, line, v2, v1) in expected {
        assert_eq!(words(path, line), [v2, v1], "{path} {line}");
    }
    assert!(source_of("proc/meminfo", "NotYetInvented: 1 kB").is_none());
    assert!(source_of("proc/nothing", "MemTotal: 1 kB").is_none());
}

#[test]
fn the_hosts_lines_are_those_that_the_specification_lists() {
    let mut listed = BTreeSet::new();
    for (file, names) in FIGURES {
        listed.extend(names.iter().map(|name| (*file, *name)));
    }
    for (file, names) in TEXTS {
        listed.extend(names.split(", ").map(|name| (*file, name)));
    }
    let hosts = || ROWS.iter().filter(|row| row.origin == Origin::Host);
    let of_files = hosts().filter(|row| row.file.starts_with("proc"));
    let told = of_files.flat_map(|row| row.names().into_iter().map(|name| (row.file, name)));
    assert_eq!(told.collect::<BTreeSet<_>>(), listed);
    // The rest of the directories is the host's text.
    let directories = hosts().filter(|row| !row.file.starts_with("proc")).map(|row| row.file);
    assert!(directories.eq(TREES.iter().map(|tree| tree.path)));
}

/// Puts what `change` makes of it in the place of the host's text in the facts behind a file that
/// is rendered from it line by line; all CPUs are to be shown. None for other facts.
fn change_host(facts: &mut Facts, change: impl FnOnce(&[u8]) -> Vec<u8>) -> Option<()> {
    match facts {
        Facts::Cpuinfo { host, present } => {
            *present = CpuSet::from_iter(0..64).into();
            *host = change(host).into();
        }
        Facts::NodeMeminfo { host, .. } => *host = change(host),
        Facts::Meminfo { host, .. } => {
            *host = Meminfo::parse(change(host.text().as_bytes())).into();
        }
        Facts::Vmstat { host, .. }
        | Facts::SlabinfoHeader { host }
        | Facts::Swaps { host, .. }
        | Facts::Stat { host, .. } => *host = change(host).into(),
        Facts::Verbatim(_)
        | Facts::Own(_)
        | Facts::Uptime { .. }
        | Facts::Loadavg { .. }
        | Facts::Diskstats { .. }
        | Facts::CpuList { .. }
        | Facts::CpuMap { .. }
        | Facts::Distances { .. }
        | Facts::SmtActive(_) => return None,
    }
    Some(())
}

/// The words of a line, of which the last number is one that no line has.
fn altered(line: &str) -> Vec<String> {
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    match words.iter_mut().rev().find(|word| word.bytes().all(|byte| byte.is_ascii_digit())) {
        Some(number) => "987654321".clone_into(number),
        None => words.push("987654321".to_owned()),
    }
    words
}

fn check_that_host_lines_follow_the_host(path: &str, mut facts: Facts) -> usize {
    let mut host = String::new();
    let changed = change_host(&mut facts, |text| {
        host = String::from_utf8(text.to_vec()).unwrap();
        text.to_vec()
    });
    if changed.is_none() {
        return 0;
    }
    for (place, line) in host.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
        let altered = altered(line);
        let mut lines: Vec<&str> = host.lines().collect();
        let joined = altered.join(" ");
        lines[place] = &joined;
        let mut facts = facts.clone();
        change_host(&mut facts, |_| (lines.join("\n") + "\n").into_bytes()).unwrap();
        let shown = String::from_utf8(render(facts)).unwrap();
        let follows = shown.lines().any(|line| line.split_whitespace().eq(&altered));
        let is_hosts = source_of(path, line).unwrap().origin == Origin::Host;
        assert_eq!(follows, is_hosts, "{path}: {line}");
    }
    1
}

#[test]
fn the_hosts_lines_follow_the_host_and_no_others() {
    let mut checked = 0;
    for name in NAMES {
        let fixture = Fixture::named(name);
        for container in ["c1", "c2"] {
            let who = fixture.reader(fixture.init_of(container));
            let collector = fixture.collector();
            for row in TABLE.iter().filter(|row| !row.path.contains("pressure")) {
                let facts = collector.collect(row.file, &who, fixture.now).unwrap();
                checked += check_that_host_lines_follow_the_host(row.path, facts);
            }
            for tree in TREES {
                for Served { path, .. } in served(&fixture.root) {
                    let below = path.strip_prefix(tree.path).and_then(|path| path.get(1..));
                    let Some(below) = below.filter(|_| !TABLE.iter().any(|row| row.path == path))
                    else {
                        continue;
                    };
                    let Ok(facts) = collector.tree_file(tree, below, &who) else { continue };
                    let is_hosts = source_of(&path, "").map(|source| source.origin == Origin::Host);
                    let is_passed_on = matches!(facts, Facts::Verbatim(_));
                    assert_eq!(is_passed_on, is_hosts.unwrap_or(false), "{name} {path}");
                    checked += check_that_host_lines_follow_the_host(&path, facts);
                }
            }
        }
    }
    for architecture in ["arm64", "s390x", "ppc64", "riscv64"] {
        let host = fs::read(fixtures::root_of("cpuinfo").join(architecture)).unwrap().into();
        let facts = Facts::Cpuinfo { host, present: CpuSet::default().into() };
        checked += check_that_host_lines_follow_the_host("proc/cpuinfo", facts);
    }
    // meminfo, vmstat, stat and swaps, and meminfo, vmstat and numastat of a node.
    assert!(checked >= NAMES.len() * 2 * 7, "{checked}");
}

/// The table as README.md prints it.
fn printed() -> String {
    let mut text = "| file | cgroup v2 | cgroup v1 | the host's |\n|---|---|---|---|\n".to_owned();
    let mut file = "";
    for row in ROWS {
        let path = if row.file == file { String::new() } else { format!("`{}` ", row.file) };
        file = row.file;
        let [v2, v1, host] = match row.origin {
            Origin::Host => ["", "", "all"],
            Origin::Nothing => ["0", "0", ""],
            Origin::Cgroup { v2, v1, host } => [v2, if v1.is_empty() { "same" } else { v1 }, host],
        };
        text.push_str(&format!("| {path}{} | {v2} | {v1} | {host} |\n", lines_of(row)));
    }
    text.replace(" |  |", " | |").replace("  |", " |")
}

fn lines_of(row: &Row) -> String {
    let in_code = |name: &str| {
        if name.contains(['*', '#']) { format!("`{name}`") } else { name.to_owned() }
    };
    match row.title {
        "" => row.names().into_iter().map(in_code).collect::<Vec<_>>().join(", "),
        title => title.to_owned(),
    }
}

#[test]
fn readme_prints_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let start = readme.find("| file | cgroup v2 |").unwrap();
    let end = start + readme[start..].find("\n\n").unwrap() + 1;
    if std::env::var_os("UPDATE_README").is_some() {
        fs::write(&path, readme[..start].to_owned() + &printed() + &readme[end..]).unwrap();
        return;
    }
    let is_same = readme[start..end] == printed();
    assert!(is_same, "not the table of src/render/sources.rs: UPDATE_README=1 cargo test readme");
}
