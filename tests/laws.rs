//! Laws that hold whatever a container's cgroups say, as long as they say what a kernel can:
//! a level's usage is that of the levels in it, and more; limits are anything.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

#[allow(dead_code, reason = "each test uses its part")]
mod fixtures;

use std::collections::BTreeMap;

use fixtures::{Copy, Fixture};
use lxcfs_rs::container::Who;
use lxcfs_rs::files::ProcFile;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const PAGE: u64 = 4096;
/// How v1 prints that there is no limit.
const UNLIMITED: u64 = i64::MAX as u64 / PAGE * PAGE;

/// What the processes of one cgroup alone use: bytes, in whole pages but for the slabs.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    active_anon: u64,
    inactive_anon: u64,
    active_file: u64,
    inactive_file: u64,
    /// Of inactive_anon.
    shmem: u64,
    slab_reclaimable: u64,
    slab_unreclaimable: u64,
    /// Charged in advance, and counted in no kind.
    stock: u64,
    swap: u64,
}

impl Use {
    fn and(&self, other: &Use) -> Use {
        Use {
            active_anon: self.active_anon + other.active_anon,
            inactive_anon: self.inactive_anon + other.inactive_anon,
            active_file: self.active_file + other.active_file,
            inactive_file: self.inactive_file + other.inactive_file,
            shmem: self.shmem + other.shmem,
            slab_reclaimable: self.slab_reclaimable + other.slab_reclaimable,
            slab_unreclaimable: self.slab_unreclaimable + other.slab_unreclaimable,
            stock: self.stock + other.stock,
            swap: self.swap + other.swap,
        }
    }

    /// Without slabs, which v1 counts by themselves.
    fn pages(&self) -> u64 {
        self.active_anon + self.inactive_anon + self.active_file + self.inactive_file + self.stock
    }

    fn slab(&self) -> u64 {
        (self.slab_reclaimable + self.slab_unreclaimable).next_multiple_of(PAGE)
    }

    fn anon(&self) -> u64 {
        self.active_anon + self.inactive_anon - self.shmem
    }

    fn file(&self) -> u64 {
        self.active_file + self.inactive_file + self.shmem
    }
}

/// A cgroup: what is used in it beside the next one below, and its limits.
#[derive(Clone, Debug)]
struct Level {
    own: Use,
    memory: Option<u64>,
    swap: Option<u64>,
}

fn pages() -> impl Strategy<Value = u64> {
    // More than the captured machines have: up to 1.5 GiB, often little.
    prop_oneof![Just(0), 0..100_u64, 0..400_000_u64].prop_map(|pages| pages * PAGE)
}

fn level() -> impl Strategy<Value = Level> {
    let slabs = (0..50_000_000_u64, 0..50_000_000_u64);
    let lists = (pages(), pages(), pages(), pages(), 0..=100_u64);
    let limit = || prop_oneof![2 => Just(None), 3 => pages().prop_map(Some)];
    (lists, slabs, 0..64_u64, pages(), limit(), limit()).prop_map(
        |(lists, slabs, stock, swap, memory, swap_limit)| Level {
            own: Use {
                active_anon: lists.0,
                inactive_anon: lists.1,
                active_file: lists.2,
                inactive_file: lists.3,
                shmem: lists.1 / PAGE * lists.4 / 100 * PAGE,
                slab_reclaimable: slabs.0,
                slab_unreclaimable: slabs.1,
                stock: stock * PAGE,
                swap,
            },
            memory,
            swap: swap_limit,
        },
    )
}

/// The levels of a container, its own first.
fn levels(count: usize) -> impl Strategy<Value = Vec<Level>> {
    (prop::collection::vec(level(), count), any::<bool>()).prop_map(|(mut levels, is_shared)| {
        for level in levels.iter_mut().skip(1).filter(|_| !is_shared) {
            (level.memory, level.swap) = (None, None);
        }
        levels
    })
}

/// A captured host whose container c1 has the levels `directories`.
struct Host {
    copy: Copy,
    fixture: Fixture,
    who: Who,
    directories: &'static [&'static str],
    is_v2: bool,
    has_swap: bool,
}

impl Host {
    fn new(name: &str, directories: &'static [&'static str]) -> Host {
        let copy = Copy::of(name);
        let fixture = copy.open().unwrap();
        let who = fixture.reader(fixture.init_of("c1"));
        let is_v2 = name == "unified-6.1";
        let has_swap = name != "hybrid-6.18";
        Host { copy, fixture, who, directories, is_v2, has_swap }
    }

    fn set(&self, levels: &[Level]) {
        let mut used = Use::default();
        let swap = |used: u64| if self.has_swap { used } else { 0 };
        let least = |limits: &mut dyn Iterator<Item = Option<u64>>| limits.flatten().min();
        for (index, (level, directory)) in levels.iter().zip(self.directories).enumerate() {
            used = used.and(&Use { swap: swap(level.own.swap), ..level.own });
            let from_here = &levels[index..];
            let memory = least(&mut from_here.iter().map(|level| level.memory));
            let both = least(&mut from_here.iter().map(memory_and_swap));
            let files = if self.is_v2 {
                files_v2(level, &used)
            } else {
                files_v1(level, &used, memory, both)
            };
            for (name, text) in files {
                let path = format!("{directory}/{name}");
                // What the kernel does not have it does not get.
                if self.copy.root().join(&path).exists() {
                    self.copy.write(&path, text.as_bytes());
                }
            }
        }
    }

    fn show(&self, file: ProcFile) -> String {
        String::from_utf8(self.fixture.show(file, &self.who).unwrap()).unwrap()
    }

    fn show_all(&self) -> [String; 3] {
        [ProcFile::Meminfo, ProcFile::Swaps, ProcFile::Vmstat].map(|file| self.show(file))
    }
}

fn files_v2(level: &Level, used: &Use) -> Vec<(&'static str, String)> {
    let limit = |limit: Option<u64>| limit.map_or("max\n".to_owned(), |limit| format!("{limit}\n"));
    let stat = format!(
        "anon {}\nfile {}\nshmem {}\nactive_anon {}\ninactive_anon {}\nactive_file {}\n\
         inactive_file {}\nslab_reclaimable {}\nslab_unreclaimable {}\npgfault 5\n",
        used.anon(),
        used.file(),
        used.shmem,
        used.active_anon,
        used.inactive_anon,
        used.active_file,
        used.inactive_file,
        used.slab_reclaimable,
        used.slab_unreclaimable,
    );
    vec![
        ("memory.max", limit(level.memory)),
        ("memory.current", format!("{}\n", used.pages() + used.slab())),
        ("memory.swap.max", limit(level.swap)),
        ("memory.swap.current", format!("{}\n", used.swap)),
        ("memory.stat", stat),
    ]
}

/// v1's limit of both, which is never below that of memory.
fn memory_and_swap(level: &Level) -> Option<u64> {
    Some(level.memory? + level.swap?)
}

fn files_v1(
    level: &Level,
    used: &Use,
    memory: Option<u64>,
    both: Option<u64>,
) -> Vec<(&'static str, String)> {
    let limit = |limit: Option<u64>| format!("{}\n", limit.unwrap_or(UNLIMITED));
    let stat = format!(
        "cache 1\nhierarchical_memory_limit {}hierarchical_memsw_limit {}total_cache {}\n\
         total_rss {}\ntotal_shmem {}\ntotal_swap {}\ntotal_active_anon {}\n\
         total_inactive_anon {}\ntotal_active_file {}\ntotal_inactive_file {}\ntotal_pgfault 5\n",
        limit(memory),
        limit(both),
        used.file(),
        used.anon(),
        used.shmem,
        used.swap,
        used.active_anon,
        used.inactive_anon,
        used.active_file,
        used.inactive_file,
    );
    let usage = used.pages() + used.slab();
    vec![
        ("memory.limit_in_bytes", limit(level.memory)),
        ("memory.usage_in_bytes", format!("{usage}\n")),
        ("memory.kmem.usage_in_bytes", format!("{}\n", used.slab())),
        ("memory.memsw.limit_in_bytes", limit(memory_and_swap(level))),
        ("memory.memsw.usage_in_bytes", format!("{}\n", usage + used.swap)),
        ("memory.stat", stat),
    ]
}

/// `LABEL NUMBER` lines, also with a colon.
fn numbers(text: &str) -> BTreeMap<&str, u64> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            Some((words.next()?.trim_end_matches(':'), words.next()?.parse().ok()?))
        })
        .collect()
}

fn check_laws(
    [meminfo, swaps, vmstat]: &[String; 3],
    host: &Host,
) -> std::result::Result<(), TestCaseError> {
    let kib = numbers(meminfo);
    let machine = std::fs::read_to_string(host.copy.root().join("proc/meminfo")).unwrap();
    let machine = numbers(&machine);
    prop_assert!(kib["MemTotal"] > 0 && kib["MemTotal"] <= machine["MemTotal"], "{meminfo}");
    for (part, whole) in [
        ("MemFree", "MemTotal"),
        ("MemAvailable", "MemTotal"),
        ("SwapFree", "SwapTotal"),
        ("HugePages_Free", "HugePages_Total"),
    ] {
        prop_assert!(kib[part] <= kib[whole], "{part} of {whole}: {meminfo}");
    }
    for (whole, parts) in [
        ("Slab", ["SReclaimable", "SUnreclaim"]),
        ("Active", ["Active(anon)", "Active(file)"]),
        ("Inactive", ["Inactive(anon)", "Inactive(file)"]),
    ] {
        let sum: u64 = parts.iter().map(|part| kib[part]).sum();
        prop_assert_eq!(kib[whole], sum, "{} of {}", whole, meminfo);
    }
    let (total, free) = (kib["SwapTotal"], kib["SwapFree"]);
    prop_assert!(host.has_swap || total == 0, "{meminfo}");
    let lines: Vec<Vec<&str>> =
        swaps.lines().skip(1).map(|line| line.split_ascii_whitespace().collect()).collect();
    let (size, used) = (total.to_string(), (total - free).to_string());
    let expected = [vec!["none", "virtual", &size, &used, "0"]];
    prop_assert_eq!(&lines[..], if total > 0 { &expected[..] } else { &[] }, "{}", meminfo);
    let pages = numbers(vmstat);
    for (own, label) in [
        ("nr_free_pages", "MemFree"),
        ("nr_anon_pages", "AnonPages"),
        ("nr_shmem", "Shmem"),
        ("nr_active_file", "Active(file)"),
    ] {
        prop_assert_eq!(pages[own] * (PAGE / 1024), kib[label], "{}", own);
    }
    Ok(())
}

fn laws_of_memory(name: &str, directories: &'static [&'static str]) {
    let host = Host::new(name, directories);
    let configuration =
        ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() };
    let laws = |mut levels: Vec<Level>| {
        host.set(&levels);
        let shown = host.show_all();
        check_laws(&shown, &host)?;
        // No neighbour: of what others use only that counts which a shared limit bounds.
        if levels[1..].iter().all(|level| (level.memory, level.swap) == (None, None)) {
            levels[1..].iter_mut().for_each(|level| level.own = Use::default());
            host.set(&levels);
            prop_assert_eq!(host.show_all(), shown);
        }
        Ok(())
    };
    let outcome = TestRunner::new(configuration).run(&levels(directories.len()), laws);
    outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn memory_on_v2() {
    laws_of_memory(
        "unified-6.1",
        &[
            "sys/fs/cgroup/lxcfs-fixture/pod/c1",
            "sys/fs/cgroup/lxcfs-fixture/pod",
            "sys/fs/cgroup/lxcfs-fixture",
        ],
    );
}

#[test]
fn memory_on_v1_with_swap() {
    laws_of_memory(
        "legacy-6.1",
        &["sys/fs/cgroup/memory/lxcfs-fixture/c1", "sys/fs/cgroup/memory/lxcfs-fixture"],
    );
}

#[test]
fn memory_on_v1_without_swap() {
    laws_of_memory(
        "hybrid-6.18",
        &["sys/fs/cgroup/memory/lxcfs-fixture/c1", "sys/fs/cgroup/memory/lxcfs-fixture"],
    );
}
