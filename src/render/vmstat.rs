//! `/proc/vmstat`: the host's lines in the host's order, each with the container's value.

use std::collections::BTreeMap;

use crate::facts::{IoCounts, Memory, MemoryEvents, PageSizes};
use crate::units::Bytes;

use super::{Origin, SAME, lines};

/// Where a line's value comes from.
enum Source {
    /// The host's own: a constant of the machine.
    Host,
    /// Memory of the container's, in pages.
    Pages(fn(&Memory) -> Bytes),
    /// Memory of the container's, in transparent huge pages.
    HugePages(fn(&Memory) -> Bytes),
    /// Memory of the container's, in kB.
    Kib(fn(&Memory) -> Bytes),
    /// What went to or from the container's disks, in kB; the host's for a process of the host.
    Io(fn(&IoCounts) -> u64),
    /// memory.stat's key of the same name; 0 where this kernel's has no such key.
    Event,
    /// No cgroup counts it: the kernel's work for the whole machine.
    Nothing,
}

use Source::{Event, Host, HugePages, Io, Kib, Nothing, Pages};

/// Every line that a known kernel prints, in its order. A line that is not here, which a future
/// kernel may print, is shown as 0.
const LINES: &[(&str, Source)] = &[
    ("nr_free_pages", Pages(|memory| memory.free)),
    ("nr_free_pages_blocks", Nothing),
    ("nr_zone_inactive_anon", Pages(|memory| memory.stat.inactive_anon)),
    ("nr_zone_active_anon", Pages(|memory| memory.stat.active_anon)),
    ("nr_zone_inactive_file", Pages(|memory| memory.stat.inactive_file)),
    ("nr_zone_active_file", Pages(|memory| memory.stat.active_file)),
    ("nr_zone_unevictable", Pages(|memory| memory.stat.unevictable)),
    ("nr_zone_write_pending", Pages(|memory| memory.stat.file_dirty + memory.stat.file_writeback)),
    ("nr_mlock", Nothing),
    ("nr_bounce", Nothing),
    ("nr_zspages", Nothing),
    ("nr_free_cma", Pages(|memory| memory.cma_total)),
    ("numa_hit", Nothing),
    ("numa_miss", Nothing),
    ("numa_foreign", Nothing),
    ("numa_interleave", Nothing),
    ("numa_local", Nothing),
    ("numa_other", Nothing),
    ("nr_inactive_anon", Pages(|memory| memory.stat.inactive_anon)),
    ("nr_active_anon", Pages(|memory| memory.stat.active_anon)),
    ("nr_inactive_file", Pages(|memory| memory.stat.inactive_file)),
    ("nr_active_file", Pages(|memory| memory.stat.active_file)),
    ("nr_unevictable", Pages(|memory| memory.stat.unevictable)),
    ("nr_slab_reclaimable", Pages(|memory| memory.stat.slab_reclaimable)),
    ("nr_slab_unreclaimable", Pages(|memory| memory.stat.slab_unreclaimable)),
    ("nr_isolated_anon", Nothing),
    ("nr_isolated_file", Nothing),
    ("workingset_nodes", Nothing),
    ("workingset_refault_anon", Event),
    ("workingset_refault_file", Event),
    ("workingset_activate_anon", Event),
    ("workingset_activate_file", Event),
    ("workingset_restore_anon", Event),
    ("workingset_restore_file", Event),
    ("workingset_nodereclaim", Event),
    ("nr_anon_pages", Pages(|memory| memory.stat.anon)),
    ("nr_mapped", Pages(|memory| memory.stat.file_mapped)),
    ("nr_file_pages", Pages(|memory| memory.stat.file + memory.stat.swapcached)),
    ("nr_dirty", Pages(|memory| memory.stat.file_dirty)),
    ("nr_writeback", Pages(|memory| memory.stat.file_writeback)),
    ("nr_writeback_temp", Nothing),
    ("nr_shmem", Pages(|memory| memory.stat.shmem)),
    ("nr_shmem_hugepages", HugePages(|memory| memory.stat.shmem_thp)),
    ("nr_shmem_pmdmapped", Nothing),
    ("nr_file_hugepages", HugePages(|memory| memory.stat.file_thp)),
    ("nr_file_pmdmapped", Nothing),
    ("nr_anon_transparent_hugepages", HugePages(|memory| memory.stat.anon_thp)),
    ("nr_vmscan_write", Nothing),
    ("nr_vmscan_immediate_reclaim", Nothing),
    ("nr_dirtied", Nothing),
    ("nr_written", Nothing),
    ("nr_throttled_written", Nothing),
    ("nr_kernel_misc_reclaimable", Nothing),
    ("nr_foll_pin_acquired", Nothing),
    ("nr_foll_pin_released", Nothing),
    ("nr_kernel_stack", Kib(|memory| memory.stat.kernel_stack)),
    ("nr_page_table_pages", Pages(|memory| memory.stat.pagetables)),
    ("nr_sec_page_table_pages", Pages(|memory| memory.stat.sec_pagetables)),
    ("nr_iommu_pages", Nothing),
    ("nr_swapcached", Pages(|memory| memory.stat.swapcached)),
    ("pgpromote_success", Event),
    ("pgpromote_candidate", Nothing),
    ("pgpromote_candidate_nrl", Nothing),
    ("pgdemote_kswapd", Event),
    ("pgdemote_direct", Event),
    ("pgdemote_khugepaged", Event),
    ("pgdemote_proactive", Event),
    ("nr_hugetlb", Nothing),
    ("nr_balloon_pages", Nothing),
    ("nr_kernel_file_pages", Nothing),
    ("nr_dirty_threshold", Host),
    ("nr_dirty_background_threshold", Host),
    ("nr_memmap_pages", Nothing),
    ("nr_memmap_boot_pages", Nothing),
    ("pgpgin", Io(|io| io.rbytes)),
    ("pgpgout", Io(|io| io.wbytes)),
    ("pswpin", Event),
    ("pswpout", Event),
    ("pgalloc_dma", Nothing),
    ("pgalloc_dma32", Nothing),
    ("pgalloc_normal", Nothing),
    ("pgalloc_movable", Nothing),
    ("pgalloc_device", Nothing),
    ("allocstall_dma", Nothing),
    ("allocstall_dma32", Nothing),
    ("allocstall_normal", Nothing),
    ("allocstall_movable", Nothing),
    ("allocstall_device", Nothing),
    ("pgskip_dma", Nothing),
    ("pgskip_dma32", Nothing),
    ("pgskip_normal", Nothing),
    ("pgskip_movable", Nothing),
    ("pgskip_device", Nothing),
    ("pgfree", Nothing),
    ("pgactivate", Event),
    ("pgdeactivate", Event),
    ("pglazyfree", Event),
    ("pgfault", Event),
    ("pgmajfault", Event),
    ("pglazyfreed", Event),
    ("pgrefill", Event),
    ("pgreuse", Nothing),
    ("pgsteal_kswapd", Event),
    ("pgsteal_direct", Event),
    ("pgsteal_khugepaged", Event),
    ("pgsteal_proactive", Event),
    ("pgscan_kswapd", Event),
    ("pgscan_direct", Event),
    ("pgscan_khugepaged", Event),
    ("pgscan_proactive", Event),
    ("pgscan_direct_throttle", Nothing),
    ("pgscan_anon", Nothing),
    ("pgscan_file", Nothing),
    ("pgsteal_anon", Nothing),
    ("pgsteal_file", Nothing),
    ("zone_reclaim_success", Nothing),
    ("zone_reclaim_failed", Nothing),
    ("pginodesteal", Nothing),
    ("slabs_scanned", Nothing),
    ("kswapd_inodesteal", Nothing),
    ("kswapd_low_wmark_hit_quickly", Nothing),
    ("kswapd_high_wmark_hit_quickly", Nothing),
    ("pageoutrun", Nothing),
    ("pgrotated", Nothing),
    ("drop_pagecache", Nothing),
    ("drop_slab", Nothing),
    ("oom_kill", Nothing),
    ("numa_pte_updates", Event),
    ("numa_huge_pte_updates", Nothing),
    ("numa_hint_faults", Event),
    ("numa_hint_faults_local", Nothing),
    ("numa_pages_migrated", Event),
    ("pgmigrate_success", Nothing),
    ("pgmigrate_fail", Nothing),
    ("thp_migration_success", Nothing),
    ("thp_migration_fail", Nothing),
    ("thp_migration_split", Nothing),
    ("compact_migrate_scanned", Nothing),
    ("compact_free_scanned", Nothing),
    ("compact_isolated", Nothing),
    ("compact_stall", Nothing),
    ("compact_fail", Nothing),
    ("compact_success", Nothing),
    ("compact_daemon_wake", Nothing),
    ("compact_daemon_migrate_scanned", Nothing),
    ("compact_daemon_free_scanned", Nothing),
    ("htlb_buddy_alloc_success", Nothing),
    ("htlb_buddy_alloc_fail", Nothing),
    ("unevictable_pgs_culled", Nothing),
    ("unevictable_pgs_scanned", Nothing),
    ("unevictable_pgs_rescued", Nothing),
    ("unevictable_pgs_mlocked", Nothing),
    ("unevictable_pgs_munlocked", Nothing),
    ("unevictable_pgs_cleared", Nothing),
    ("unevictable_pgs_stranded", Nothing),
    ("thp_fault_alloc", Event),
    ("thp_fault_fallback", Nothing),
    ("thp_fault_fallback_charge", Nothing),
    ("thp_collapse_alloc", Event),
    ("thp_collapse_alloc_failed", Nothing),
    ("thp_file_alloc", Nothing),
    ("thp_file_fallback", Nothing),
    ("thp_file_fallback_charge", Nothing),
    ("thp_file_mapped", Nothing),
    ("thp_split_page", Nothing),
    ("thp_split_page_failed", Nothing),
    ("thp_deferred_split_page", Nothing),
    ("thp_underused_split_page", Nothing),
    ("thp_split_pmd", Nothing),
    ("thp_scan_exceed_none_pte", Nothing),
    ("thp_scan_exceed_swap_pte", Nothing),
    ("thp_scan_exceed_share_pte", Nothing),
    ("thp_split_pud", Nothing),
    ("thp_zero_page_alloc", Nothing),
    ("thp_zero_page_alloc_failed", Nothing),
    ("thp_swpout", Event),
    ("thp_swpout_fallback", Event),
    ("balloon_inflate", Nothing),
    ("balloon_deflate", Nothing),
    ("balloon_migrate", Nothing),
    ("swap_ra", Nothing),
    ("swap_ra_hit", Nothing),
    ("swpin_zero", Event),
    ("swpout_zero", Event),
    ("ksm_swpin_copy", Nothing),
    ("cow_ksm", Nothing),
    ("zswpin", Event),
    ("zswpout", Event),
    ("zswpwb", Event),
    ("direct_map_level2_splits", Nothing),
    ("direct_map_level3_splits", Nothing),
    ("direct_map_level2_collapses", Nothing),
    ("direct_map_level3_collapses", Nothing),
    ("nr_unstable", Nothing),
];

pub(super) fn render(
    host: &[u8],
    memory: &Memory,
    events: &MemoryEvents,
    io: Option<&IoCounts>,
    sizes: PageSizes,
) -> Vec<u8> {
    let events: BTreeMap<&str, u64> = events.iter().collect();
    let mut text = String::with_capacity(host.len());
    let mut sources = Sources { next: 0 };
    for line in lines(host) {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(parse_line) else {
            continue;
        };
        let value = match sources.of(name) {
            Host => value,
            Pages(amount) => count(amount(memory), sizes.page),
            HugePages(amount) => count(amount(memory), sizes.transparent_huge),
            Kib(amount) => amount(memory).kib(),
            Io(amount) => io.map_or(value, |io| Bytes(amount(io)).kib()),
            Event => events.get(name).copied().unwrap_or(0),
            Nothing => 0,
        };
        text.push_str(&format!("{name} {value}\n"));
    }
    // Not one line of the form that /proc/vmstat has: better the host's than an empty file.
    if text.is_empty() { host.to_vec() } else { text.into_bytes() }
}

/// Finds lines of [`LINES`], which are asked for in about its order.
struct Sources {
    next: usize,
}

impl Sources {
    fn of(&mut self, name: &str) -> &'static Source {
        let places = (self.next..LINES.len()).chain(0..self.next);
        let Some(place) = places.into_iter().find(|&place| LINES[place].0 == name) else {
            return &Nothing;
        };
        self.next = place + 1;
        &LINES[place].1
    }
}

/// What a line is made of.
pub(super) fn origin(line: &str) -> Option<Origin> {
    let name = line.split(' ').next()?;
    let (_, source) = LINES.iter().find(|(known, _)| *known == name)?;
    Some(match source {
        Host => Origin::Host,
        Pages(_) => Origin::made_of("meminfo's memory of this kind, in pages", SAME),
        HugePages(_) => Origin::made_of("meminfo's memory of this kind, in huge pages", SAME),
        Kib(_) => Origin::made_of("meminfo's memory of this kind, in kB", SAME),
        Io(_) => Origin::made_of(
            "bytes of all disks in io.stat / 1024",
            "bytes of all disks in blkio.* / 1024",
        ),
        Event => Origin::Cgroup {
            v2: format!("memory.stat {name}").into(),
            v1: format!("memory.stat total_{name}").into(),
        },
        Nothing => Origin::Nothing,
    })
}

fn count(amount: Bytes, size: Bytes) -> u64 {
    amount.0.checked_div(size.0).unwrap_or(0)
}

fn parse_line(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(' ')?;
    Some((name, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::MemoryStat;

    const SIZES: PageSizes = PageSizes { page: Bytes(4096), transparent_huge: Bytes(2 << 20) };

    fn shown(host: &str, events: &str, io: Option<&IoCounts>) -> String {
        let stat = MemoryStat {
            file: Bytes(8192),
            swapcached: Bytes(4096),
            anon_thp: Bytes(6 << 20),
            kernel_stack: Bytes(16384),
            ..MemoryStat::default()
        };
        let memory = Memory { free: Bytes(40960), stat, ..Memory::default() };
        let events = MemoryEvents { text: events.into(), prefix: "total_" };
        String::from_utf8(render(host.as_bytes(), &memory, &events, io, SIZES)).unwrap()
    }

    #[test]
    fn each_line_in_its_unit() {
        let host = "nr_free_pages 9\nnr_file_pages 9\nnr_anon_transparent_hugepages 9\n\
                    nr_kernel_stack 9\nnr_dirty_threshold 9\npgpgin 9\npgpgout 9\npgfault 9\n\
                    numa_hit 9\nnot_yet_invented 9\n";
        let io = IoCounts { rbytes: 3000, wbytes: 2048, ..IoCounts::default() };
        // memory.stat's own pgpgin counts something else.
        let events = "pgfault 1\ntotal_pgfault 5\ntotal_pgpgin 77\n";
        assert_eq!(
            shown(host, events, Some(&io)),
            "nr_free_pages 10\nnr_file_pages 3\nnr_anon_transparent_hugepages 3\n\
             nr_kernel_stack 16\nnr_dirty_threshold 9\npgpgin 2\npgpgout 2\npgfault 5\n\
             numa_hit 0\nnot_yet_invented 0\n"
        );
        assert_eq!(shown("pgpgin 9\npgfault 9\n", "", None), "pgpgin 9\npgfault 0\n");
    }

    #[test]
    fn a_text_of_another_form_stays() {
        assert_eq!(shown("a: b\n", "", None), "a: b\n");
    }

    #[test]
    fn every_line_of_a_known_kernel_is_known_and_found_in_any_order() {
        for text in [
            include_str!("../../tests/fixtures/hybrid-6.18/proc/vmstat"),
            include_str!("../../tests/fixtures/unified-6.1/proc/vmstat"),
        ] {
            let names: Vec<&str> = text.lines().map(|line| parse_line(line).unwrap().0).collect();
            for name in &names {
                assert_eq!(LINES.iter().filter(|(known, _)| known == name).count(), 1, "{name}");
            }
            let mut sources = Sources { next: 0 };
            for name in names.iter().chain(names.iter().rev()) {
                sources.of(name);
                assert_eq!(LINES[sources.next - 1].0, *name);
            }
        }
    }
}
