//! What is fuzzed: everything that parses, and the filesystem as FUSE calls it. Each target takes
//! any bytes, and panics where something is wrong.
//!
//! `fuzz/run` lets libFuzzer make them up; `tests/corpora.rs` takes those in `fuzz/corpora`.
#![allow(clippy::unwrap_used, reason = "a target is to panic")]

#[allow(dead_code, reason = "a part of it is used")]
#[path = "../tests/fixtures/mod.rs"]
mod fixtures;

use std::ffi::OsStr;
use std::fs;
use std::hint::black_box;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use fixtures::{Copy, NAMES};
use lxcfs_rs::cgroup::{format, layout, path, taskstats};
use lxcfs_rs::cpulist::{CpuIds, CpuSet, Present};
use lxcfs_rs::files::{TABLE, TREES};
use lxcfs_rs::fuse::State;
use lxcfs_rs::fuse::connection::check_init;
use lxcfs_rs::fuse::control::{self, Reply};
use lxcfs_rs::history::History;
use lxcfs_rs::history::store::Store;
use lxcfs_rs::kernel::Kernel;
use lxcfs_rs::procfs::{
    ProcRoot, diskstats, lines, meminfo, mountinfo, parse_namespace_link, process, stat,
};
use lxcfs_rs::render::render as rendered;
use lxcfs_rs::runtime::state::Record;
use lxcfs_rs::runtime::{
    capabilities, confinement, limits, names, namespaces, spec, user, users, volumes,
};
use lxcfs_rs::vfs::kept::Kept;
use lxcfs_rs::vfs::{Request, Unique, Vfs, Waiter};

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by the names of their corpora.
pub const TARGETS: &[(&str, Target)] = &[
    ("cgroup", cgroup),
    ("control", control),
    ("cpulist", cpulist),
    ("handover", handover),
    ("history", history),
    ("kept", kept),
    ("procfs", procfs),
    ("render", render),
    ("runtime", runtime),
    ("vfs", vfs),
];

/// Files of /proc: every parser takes every text.
pub fn procfs(text: &[u8]) {
    black_box(meminfo::Meminfo::parse(text.to_vec()).lines().count());
    for line in lines(text) {
        let line = String::from_utf8_lossy(line);
        black_box((meminfo::parse_line(&line), diskstats::Device::parse(&line)));
    }
    black_box((stat::cpu_columns(text), stat::online_cpus(text), stat::boot_time(text)));
    black_box(diskstats::parse(text));
    black_box((process::parse_stat(text), process::parse_thread_group(text)));
    black_box((process::parse_state(text), process::parse_effective_capabilities(text)));
    black_box((process::parse_ns_pids(text), process::parse_boottime_offset(text)));
    black_box(process::parse_voluntary_switches(text));
    black_box((mountinfo::parse(text), mountinfo::parse_mount_id(text)));
    black_box((parse_namespace_link(text), namespaces::offset_of("boottime", text)));
    assert!(mountinfo::unescape(text).len() <= text.len());
}

/// Files of cgroups, what of mountinfo tells where they are, and what netlink tells of them.
pub fn cgroup(text: &[u8]) {
    black_box((format::parse_number(text), format::parse_limit(text)));
    black_box((format::parse_cpu_max(text), format::parse_some_total(text)));
    black_box((format::flat_keyed(text).count(), format::device_operations(text).count()));
    for (device, pairs) in format::device_keyed(text) {
        black_box((device, pairs.count()));
    }
    for membership in path::parse_memberships(text, Path::new("cgroup")).unwrap_or_default() {
        assert!(path::is_at_or_below(&membership.path, &membership.path));
        black_box(path::is_at_or_below(b"/a", &membership.path));
    }
    let sequence = text.get(8..).and_then(|rest| rest.first_chunk().copied());
    drop(black_box(taskstats::decode(text, sequence.map_or(0, u32::from_ne_bytes), 3)));
    black_box((taskstats::parse_family(text), taskstats::parse_states(text)));
    let (first, second) = text.split_at(text.len() / 2);
    for (mounts, controllers) in [(text, b"cpu io memory".as_slice()), (first, second)] {
        let layout = layout::Layout::parse(mounts, controllers);
        black_box((layout.unified_mount(), layout.controller("cpuacct")));
        for hierarchy in &layout.hierarchies {
            black_box((hierarchy.relative(&hierarchy.mount_root), hierarchy.relative(second)));
        }
    }
}

/// Lists of CPUs.
pub fn cpulist(text: &[u8]) {
    let Some(cpus) = CpuSet::parse(text) else { return };
    assert_eq!(CpuSet::parse(cpus.to_string().as_bytes()), Some(cpus.clone()));
    assert_eq!(cpus.iter().count(), cpus.len());
    let half = cpus.first(cpus.len() / 2);
    assert_eq!(half.len() + cpus.difference(&half).len(), cpus.len());
    for ids in [CpuIds::Physical, CpuIds::Compact] {
        let present = Present::new(cpus.clone(), ids);
        assert_eq!(present.numbers().len(), cpus.len());
        for cpu in cpus.iter().take(1000) {
            let number = present.number_of(cpu).unwrap();
            assert_eq!(present.physical(number), Some(cpu));
        }
    }
}

/// What is asked at the control socket, and what is answered.
pub fn control(text: &[u8]) {
    black_box(control::parse_request(text));
    drop(black_box(Reply::parse(text)));
}

/// The state that another program hands over.
pub fn handover(text: &[u8]) {
    drop(black_box(check_init(text)));
    let Ok(state) = State::parse(text) else { return };
    // It may come from any program; what this one understood of it, it passes on.
    assert_eq!(State::parse(&state.to_text().unwrap()).unwrap(), state);
}

/// What the runtime reads: the record of a container, the container's own /etc/passwd and
/// /etc/group, and its command line.
pub fn runtime(text: &[u8]) {
    if let Ok(record) = Record::parse(text) {
        assert_eq!(Record::parse(&record.text().unwrap()), Ok(record));
    }
    let (passwd, group) = text.split_at(text.len() / 2);
    let argument = String::from_utf8_lossy(lines(text).next().unwrap_or_default());
    for who in ["", "a", "0", "a:a", ":0", &*argument] {
        drop(black_box((user::find(who, passwd, group), user::find(who, text, text))));
    }
    drop(black_box((limits::parse_memory(&argument), limits::parse_memory_swap(&argument))));
    drop(black_box((limits::parse_cpus(&argument), limits::parse_cpuset(&argument))));
    drop(black_box((limits::parse_cpu_quota(&argument), limits::parse_cpu_period(&argument))));
    drop(black_box((limits::parse_pids(&argument), users::parse(&argument))));
    drop(black_box((capabilities::parse(&argument), confinement::parse_option(&argument))));
    drop(black_box((volumes::parse(&argument), namespaces::parse_network(&argument))));
    drop(black_box((names::parse_hostname(&argument), spec::parse_name(&argument))));
    drop(black_box((
        spec::parse_directory(&argument),
        spec::parse_variable(argument.into_owned().into()),
    )));
}

/// A machine of which only the boot is known, and a runtime directory.
static BOOTED: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let random = directory.path().join("proc/sys/kernel/random");
    fs::create_dir_all(&random).unwrap();
    fs::write(random.join("boot_id"), "one\n").unwrap();
    directory
});

/// A record of a container, of which the checksum is right.
pub fn history(record: &[u8]) {
    const MOST: usize = 1 << 20;
    const CHECKSUM: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);
    let record = &record[..record.len().min(MOST - size_of::<u32>())];
    let base = BOOTED.path();
    let proc = ProcRoot::open(&base.join("proc")).unwrap();
    let kernel = Kernel::open(&fixtures::root_of("unified-6.1")).unwrap();
    let store = Store::open(&base.join("run"), Path::new("/x"), &proc).unwrap();
    let file = base.join("run/history/x/7");
    let whole = [record, &CHECKSUM.checksum(record).to_le_bytes()].concat();
    fs::write(&file, whole).unwrap();
    for (_, birth) in History::open(store, &kernel).unwrap().births() {
        black_box(birth);
    }
    let _ = fs::remove_file(file);
}

/// Numbers taken from the front of the bytes; 0 at their end.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// Small ones, powers of two with their neighbours, and any.
    fn number(&mut self) -> u64 {
        let kind = self.byte();
        match kind {
            0..=127 => u64::from(kind),
            128..=191 => 1 << (kind - 128),
            192..=223 => (1_u64 << (2 * (kind - 192))).wrapping_sub(1),
            224..=239 => u64::from(self.byte()) << 8 | u64::from(self.byte()),
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte())),
        }
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

static HOST: LazyLock<Copy> = LazyLock::new(|| Copy::of("hybrid-6.18"));

fn kernel() -> Arc<Kernel> {
    static KERNEL: LazyLock<Arc<Kernel>> =
        LazyLock::new(|| Arc::new(Kernel::open(&HOST.root()).unwrap()));
    Arc::clone(&KERNEL)
}

/// Handles that the filesystem gave, and numbers that it did not.
fn handle(numbers: &mut Numbers, given: &[u64]) -> u64 {
    let which = numbers.byte();
    given.get(usize::from(which)).copied().unwrap_or_else(|| numbers.number())
}

/// What the kernel may ask for of a container's, in any order.
fn ask(vfs: &Vfs, numbers: &mut Numbers) {
    let mut given = Vec::new();
    let mut known: Vec<u64> = TABLE.iter().map(|row| row.ino).collect();
    while !numbers.is_over() {
        let what = numbers.byte();
        let which = usize::from(numbers.byte());
        let ino = known.get(which).copied().unwrap_or_else(|| numbers.number());
        let tid = [0, std::process::id(), u32::MAX][which % 3];
        let unique = Unique(numbers.number() | u64::from(what & 0x80) << 56);
        let request = Request { unique, tid };
        match what & 0x7f {
            0..30 => {
                if let Ok(fh) = vfs.open(ino, i32::from(numbers.byte() % 4), request) {
                    given.push(fh);
                }
            }
            30..70 => {
                let fh = handle(numbers, &given);
                let offset = numbers.number();
                let size = u32::try_from(numbers.number() & 0x1f_ffff).unwrap();
                if let Ok(slice) = vfs.read(ino, fh, request, offset, size, which % 16 != 15) {
                    assert!(slice.len() <= size as usize);
                }
            }
            70..80 => vfs.release(handle(numbers, &given)),
            80..90 => {
                let length = usize::from(numbers.byte()).min(numbers.0.len());
                let (name, rest) = numbers.0.split_at(length);
                numbers.0 = rest;
                if let Ok(attr) = vfs.lookup(ino, OsStr::from_bytes(name), tid) {
                    known.push(attr.ino);
                }
            }
            90..95 => {
                if let Ok(entries) = vfs.readdir(ino, tid) {
                    assert!(entries.is_sorted_by_key(|entry| entry.offset));
                    known.extend(entries.iter().map(|entry| entry.ino));
                }
            }
            95..100 => drop(black_box(vfs.getattr(ino))),
            100..105 => drop(black_box(vfs.readlink(ino, tid))),
            105..115 => {
                let length = usize::from(numbers.byte() % 64).min(numbers.0.len());
                let (text, rest) = numbers.0.split_at(length);
                numbers.0 = rest;
                drop(black_box(vfs.write(ino, handle(numbers, &given), tid, text)));
            }
            115..122 => {
                let waiter = Waiter::new(numbers.number(), || ());
                black_box(vfs.poll(ino, handle(numbers, &given), Some(waiter)));
            }
            _ => drop(black_box(vfs.take_lost_waiters())),
        }
    }
}

/// The filesystem from its start.
pub fn vfs(bytes: &[u8]) {
    let kept = Arc::new(Kept::new().unwrap());
    let vfs = Vfs::new(kernel(), History::in_memory(), kept).unwrap();
    ask(&vfs, &mut Numbers(bytes));
}

/// The filesystem that goes on with a memory in which anything may be.
pub fn kept(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let memory = Kept::new().unwrap().as_fd().try_clone_to_owned().unwrap();
    for _ in 0..numbers.byte() {
        // The heads, the counters, the first slots and the first blocks' followers; else anywhere.
        const FOLLOWERS: u64 = 64 + 65_536 * 8;
        let word = match numbers.byte() {
            near @ 0..=200 => u64::from(near),
            next @ 201..=230 => FOLLOWERS + u64::from(next - 201),
            _ => numbers.number() % (FOLLOWERS + 16_384),
        };
        let value = numbers.number().to_ne_bytes();
        // Not where it would not be this program's any more.
        if word > 1 {
            let at = i64::try_from(word * 8).unwrap();
            nix::sys::uio::pwrite(&memory, &value, at).unwrap();
        }
    }
    let Some(kept) = Kept::open(memory) else { return };
    let vfs = Vfs::new(kernel(), History::in_memory(), Arc::new(kept)).unwrap();
    ask(&vfs, &mut numbers);
}

/// A copy of a captured host, and its files that a container's are made from.
struct Host {
    copy: Copy,
    pid: u32,
    inputs: Vec<(PathBuf, Vec<u8>)>,
}

static HOSTS: LazyLock<Vec<Host>> = LazyLock::new(|| {
    let host = |name: &&str| {
        let copy = Copy::of(name);
        let pid = copy.open().unwrap().init_of("c1");
        let mut inputs = Vec::new();
        let mut left = vec![copy.root().join("proc"), copy.root().join("sys")];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = fs::symlink_metadata(&path).unwrap();
                if kind.is_dir() {
                    left.push(path);
                // Which container it is, the fixture says.
                } else if kind.is_file() && !path.ends_with("cgroup") {
                    let text = fs::read(&path).unwrap();
                    inputs.push((path.strip_prefix(copy.root()).unwrap().to_owned(), text));
                }
            }
        }
        inputs.sort();
        Host { copy, pid, inputs }
    };
    NAMES.iter().map(host).collect()
});

/// The files of a container on a captured host, one or all, of which one input has any text.
pub fn render(bytes: &[u8]) {
    let mut numbers = Numbers(bytes);
    let host = &HOSTS[usize::from(numbers.byte()) % HOSTS.len()];
    let only = usize::from(numbers.byte());
    let one_tree = || {
        let number = only - TABLE.len();
        Some((&TABLE[..0], TREES.get(number..=number)?))
    };
    let one_file = TABLE.get(only..=only).map(|row| (row, &TREES[..0]));
    let (rows, trees) = one_file.or_else(one_tree).unwrap_or((TABLE, TREES));
    let which = usize::from(numbers.byte()) << 8 | usize::from(numbers.byte());
    let (path, captured) = &host.inputs[which % host.inputs.len()];
    let path = path.to_str().unwrap();
    host.copy.write(path, numbers.0);
    // Anew: what a kernel's files say is remembered.
    if let Ok(fixture) = host.copy.open()
        && let Ok(container) = fixture.container(host.pid)
    {
        let subject = lxcfs_rs::container::Subject::Container(container);
        let who = lxcfs_rs::container::Who { reader: Some(host.pid), subject };
        let collector = fixture.collector();
        for row in rows {
            drop(black_box(collector.collect(row.file, &who, fixture.now).map(rendered)));
        }
        for tree in trees {
            for file in ["online", "cpu0/topology/core_siblings", "node0/meminfo"] {
                drop(black_box(collector.tree_file(tree, file, &who).map(rendered)));
            }
        }
    }
    host.copy.write(path, captured);
}
