//! `/proc/meminfo`: the host's lines in the host's order, each with the container's value.

use std::fmt::Write as _;

use crate::facts::{Memory, parse_meminfo_line};
use crate::units::Bytes;

use super::{Origin, SAME, lines};

/// Where a line's value comes from.
pub(super) enum Source {
    /// The host's own: a constant of the hardware.
    Host,
    /// An amount of the container's, printed in kB; and in words what it is made of, on cgroup
    /// v2 and on v1.
    Amount(fn(&Memory) -> Bytes, &'static str, &'static str),
    /// A number of huge pages of the container's; and what it is made of.
    Pages(fn(&Memory) -> u64, &'static str, &'static str),
    /// Nothing of its kind is counted for a container.
    Nothing,
}

use Source::{Amount, Host, Nothing, Pages};

/// Every line that a known kernel prints, in its order, but for [`is_direct_map`]'s. A line that
/// is not here, which a future kernel may print, is shown as 0.
const LINES: &[(&str, Source)] = &[
    (
        "MemTotal",
        Amount(
            |memory| memory.total,
            "least memory.max over the levels, at most the host's",
            "least memory.limit_in_bytes over the levels, at most the host's",
        ),
    ),
    (
        "MemFree",
        Amount(
            |memory| memory.free,
            "least memory.max - memory.current over the levels",
            "least memory.limit_in_bytes - memory.usage_in_bytes over the levels",
        ),
    ),
    (
        "MemAvailable",
        Amount(
            |memory| memory.available,
            "as MemFree, and active_file, inactive_file, slab_reclaimable of memory.stat",
            "as MemFree, and total_active_file, total_inactive_file of memory.stat",
        ),
    ),
    ("Buffers", Nothing),
    ("Cached", Amount(|memory| memory.stat.file, "memory.stat file", "memory.stat total_cache")),
    (
        "SwapCached",
        Amount(
            |memory| memory.stat.swapcached,
            "memory.stat swapcached",
            "memory.stat total_swapcached",
        ),
    ),
    (
        "Active",
        Amount(
            |memory| memory.stat.active_anon + memory.stat.active_file,
            "memory.stat active_anon + active_file",
            "memory.stat total_active_anon + total_active_file",
        ),
    ),
    (
        "Inactive",
        Amount(
            |memory| memory.stat.inactive_anon + memory.stat.inactive_file,
            "memory.stat inactive_anon + inactive_file",
            "memory.stat total_inactive_anon + total_inactive_file",
        ),
    ),
    (
        "Active(anon)",
        Amount(
            |memory| memory.stat.active_anon,
            "memory.stat active_anon",
            "memory.stat total_active_anon",
        ),
    ),
    (
        "Inactive(anon)",
        Amount(
            |memory| memory.stat.inactive_anon,
            "memory.stat inactive_anon",
            "memory.stat total_inactive_anon",
        ),
    ),
    (
        "Active(file)",
        Amount(
            |memory| memory.stat.active_file,
            "memory.stat active_file",
            "memory.stat total_active_file",
        ),
    ),
    (
        "Inactive(file)",
        Amount(
            |memory| memory.stat.inactive_file,
            "memory.stat inactive_file",
            "memory.stat total_inactive_file",
        ),
    ),
    (
        "Unevictable",
        Amount(
            |memory| memory.stat.unevictable,
            "memory.stat unevictable",
            "memory.stat total_unevictable",
        ),
    ),
    ("Mlocked", Nothing),
    (
        "SwapTotal",
        Amount(
            |memory| memory.swap_total,
            "least memory.swap.max over the levels, at most the host's",
            "least memory.memsw.limit_in_bytes over the levels less MemTotal, at most the host's",
        ),
    ),
    (
        "SwapFree",
        Amount(
            |memory| memory.swap_free,
            "SwapTotal - memory.swap.current, at most the least room over the levels",
            "SwapTotal - memory.stat total_swap, at most the least room over the levels",
        ),
    ),
    ("Zswap", Amount(|memory| memory.stat.zswap, "memory.stat zswap", "not counted on cgroup v1")),
    (
        "Zswapped",
        Amount(|memory| memory.stat.zswapped, "memory.stat zswapped", "not counted on cgroup v1"),
    ),
    (
        "Dirty",
        Amount(
            |memory| memory.stat.file_dirty,
            "memory.stat file_dirty",
            "memory.stat total_dirty",
        ),
    ),
    (
        "Writeback",
        Amount(
            |memory| memory.stat.file_writeback,
            "memory.stat file_writeback",
            "memory.stat total_writeback",
        ),
    ),
    ("AnonPages", Amount(|memory| memory.stat.anon, "memory.stat anon", "memory.stat total_rss")),
    (
        "Mapped",
        Amount(
            |memory| memory.stat.file_mapped,
            "memory.stat file_mapped",
            "memory.stat total_mapped_file",
        ),
    ),
    ("Shmem", Amount(|memory| memory.stat.shmem, "memory.stat shmem", "memory.stat total_shmem")),
    (
        "KReclaimable",
        Amount(
            |memory| memory.stat.slab_reclaimable,
            "memory.stat slab_reclaimable",
            "not counted on cgroup v1",
        ),
    ),
    (
        "Slab",
        Amount(
            |memory| memory.stat.slab_reclaimable + memory.stat.slab_unreclaimable,
            "memory.stat slab_reclaimable + slab_unreclaimable",
            "memory.kmem.usage_in_bytes",
        ),
    ),
    (
        "SReclaimable",
        Amount(
            |memory| memory.stat.slab_reclaimable,
            "memory.stat slab_reclaimable",
            "not counted on cgroup v1",
        ),
    ),
    (
        "SUnreclaim",
        Amount(
            |memory| memory.stat.slab_unreclaimable,
            "memory.stat slab_unreclaimable",
            "memory.kmem.usage_in_bytes",
        ),
    ),
    (
        "KernelStack",
        Amount(
            |memory| memory.stat.kernel_stack,
            "memory.stat kernel_stack",
            "not counted on cgroup v1",
        ),
    ),
    (
        "PageTables",
        Amount(
            |memory| memory.stat.pagetables,
            "memory.stat pagetables",
            "not counted on cgroup v1",
        ),
    ),
    (
        "SecPageTables",
        Amount(
            |memory| memory.stat.sec_pagetables,
            "memory.stat sec_pagetables",
            "not counted on cgroup v1",
        ),
    ),
    ("NFS_Unstable", Nothing),
    ("Bounce", Nothing),
    ("WritebackTmp", Nothing),
    (
        "CommitLimit",
        Amount(
            |memory| memory.commit_limit,
            "MemTotal - Hugetlb by vm.overcommit_ratio or vm.overcommit_kbytes, + SwapTotal",
            SAME,
        ),
    ),
    ("Committed_AS", Amount(|memory| memory.committed, "AnonPages + Shmem + swap in use", SAME)),
    ("VmallocTotal", Host),
    (
        "VmallocUsed",
        Amount(|memory| memory.stat.vmalloc, "memory.stat vmalloc", "not counted on cgroup v1"),
    ),
    ("VmallocChunk", Nothing),
    (
        "Percpu",
        Amount(|memory| memory.stat.percpu, "memory.stat percpu", "not counted on cgroup v1"),
    ),
    ("HardwareCorrupted", Host),
    (
        "AnonHugePages",
        Amount(|memory| memory.stat.anon_thp, "memory.stat anon_thp", "memory.stat total_rss_huge"),
    ),
    (
        "ShmemHugePages",
        Amount(|memory| memory.stat.shmem_thp, "memory.stat shmem_thp", "not counted on cgroup v1"),
    ),
    ("ShmemPmdMapped", Nothing),
    (
        "FileHugePages",
        Amount(|memory| memory.stat.file_thp, "memory.stat file_thp", "not counted on cgroup v1"),
    ),
    ("FilePmdMapped", Nothing),
    ("CmaTotal", Host),
    // Equal to CmaTotal: the contiguous area is the hardware's, and its use is the host's.
    ("CmaFree", Host),
    ("Unaccepted", Nothing),
    ("Balloon", Nothing),
    (
        "HugePages_Total",
        Pages(
            |memory| memory.huge_pages_total,
            "least hugetlb.*.max over the levels, at most the host's",
            "least hugetlb.*.limit_in_bytes over the levels, at most the host's",
        ),
    ),
    (
        "HugePages_Free",
        Pages(
            |memory| memory.huge_pages_free,
            "HugePages_Total less hugetlb.*.current, at most the least room",
            "HugePages_Total less hugetlb.*.usage_in_bytes, at most the least room",
        ),
    ),
    ("HugePages_Rsvd", Nothing),
    ("HugePages_Surp", Nothing),
    ("Hugepagesize", Host),
    ("Hugetlb", Amount(|memory| memory.hugetlb, "huge pages of every size", SAME)),
];

pub(super) fn render(host: &[u8], memory: &Memory) -> Vec<u8> {
    let mut text = String::with_capacity(host.len());
    let cma_total = host_value(host, "CmaTotal");
    for line in lines(host) {
        let Some(line) = std::str::from_utf8(line).ok().and_then(parse_meminfo_line) else {
            continue;
        };
        let (value, kib) = match source_of(line.label) {
            Host if line.label == "CmaFree" => (cma_total, line.kib),
            Host => (line.value, line.kib),
            Amount(amount, ..) => (amount(memory).kib(), true),
            Pages(pages, ..) => (pages(memory), false),
            Nothing => (0, line.kib),
        };
        push_line(&mut text, line.label, value, kib);
    }
    // Not one line of the form that /proc/meminfo has: better the host's than an empty file.
    if text.is_empty() { host.to_vec() } else { text.into_bytes() }
}

pub(super) fn source_of(label: &str) -> &'static Source {
    if is_direct_map(label) {
        return &Host;
    }
    let known = LINES.iter().find(|(known, _)| *known == label);
    known.map_or(&Nothing, |(_, source)| source)
}

/// The sizes of pages by which the kernel maps all memory; which there are is the hardware's.
fn is_direct_map(label: &str) -> bool {
    label.starts_with("DirectMap")
}

/// What a line is made of.
pub(super) fn origin(line: &str) -> Option<Origin> {
    let label = line.split(':').next()?;
    if is_direct_map(label) {
        return Some(Origin::Host);
    }
    let (_, source) = LINES.iter().find(|(known, _)| *known == label)?;
    Some(match source {
        Host => Origin::Host,
        Nothing => Origin::Nothing,
        Amount(_, v2, v1) | Pages(_, v2, v1) => Origin::made_of(v2, v1),
    })
}

fn host_value(host: &[u8], label: &str) -> u64 {
    lines(host)
        .filter_map(|line| parse_meminfo_line(std::str::from_utf8(line).ok()?))
        .find(|line| line.label == label)
        .map_or(0, |line| line.value)
}

/// One line in the kernel's layout: the label in 16 columns and the number in 8, but for the
/// counts of huge pages and HardwareCorrupted, whose number stands in the last 5 of those 24.
fn push_line(text: &mut String, label: &str, value: u64, kib: bool) {
    let narrow = label.starts_with("HugePages_") || label == "HardwareCorrupted";
    let (label_width, value_width) = if narrow { (19, 5) } else { (16, 8) };
    let unit = if kib { " kB" } else { "" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{:<label_width$}{value:>value_width$}{unit}", Colon(label));
}

/// A label with its colon, padded as one.
struct Colon<'a>(&'a str);

impl std::fmt::Display for Colon<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&format!("{}:", self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_layout() {
        let host = "\
MemTotal:       24684092 kB
Active(anon):       1428 kB
VmallocTotal:   34359738367 kB
HardwareCorrupted:     4 kB
HugePages_Total:      16
HugePages_Free:    123456
DirectMap4k:       30720 kB
";
        let mut text = String::new();
        for line in host.lines() {
            let line = parse_meminfo_line(line).unwrap();
            push_line(&mut text, line.label, line.value, line.kib);
        }
        assert_eq!(text, host);
    }

    #[test]
    fn a_line_of_another_form_is_left_out_and_a_text_of_another_form_stays() {
        let memory = Memory { free: Bytes(2048), ..Memory::default() };
        let text = render(b"MemTotal: x\nMemFree: 3\n\xff: 3 kB\n", &memory);
        assert_eq!(text, b"MemFree:               2 kB\n");
        assert_eq!(render(b"MemTotal\n", &Memory::default()), b"MemTotal\n");
    }

    #[test]
    fn hardware_stays_and_all_else_is_the_containers() {
        let host = b"MemTotal:       100 kB\nVmallocTotal:   7 kB\nFuture:   5 kB\nCmaTotal:  64 kB\nCmaFree:   3 kB\nHugePages_Rsvd:    2\nDirectMap32M:    9 kB\n";
        let memory = Memory { total: Bytes(2048), ..Memory::default() };
        let text = String::from_utf8(render(host, &memory)).unwrap();
        assert_eq!(
            text,
            "MemTotal:              2 kB\n\
             VmallocTotal:          7 kB\n\
             Future:                0 kB\n\
             CmaTotal:             64 kB\n\
             CmaFree:              64 kB\n\
             HugePages_Rsvd:        0\n\
             DirectMap32M:          9 kB\n"
        );
    }
}
