//! Where every line of every file comes from: THE table of lines. What is rendered number by
//! number takes its values from it, `explain` its words, and README.md its table.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use foldhash::fast::FixedState;

use crate::facts::{IoCounts, Memory, MemoryStat, PageSizes};
use crate::units::Bytes;

use Lines::{AsIn, Events, Made, Named};
use Origin::{Cgroup, Host, Nothing};

/// Lines of a file that come from the same place.
#[derive(Debug)]
pub struct Row {
    /// The file below `/`; or a directory that is served as a whole, whose files stand for lines.
    /// In it and in the lines' names `*` is any text without a slash.
    pub file: &'static str,
    /// What README.md calls the lines where it does not name them all.
    pub title: &'static str,
    /// Where they come from.
    pub origin: Origin,
    lines: Lines,
}

/// Where a line comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is the host's.
    Host,
    /// No cgroup counts anything of its kind: 0.
    Nothing,
    /// It is the container's.
    Cgroup {
        /// What it is made of on cgroup v2.
        v2: &'static str,
        /// What it is made of on v1, where that differs.
        v1: &'static str,
        /// What of it is the host's.
        host: &'static str,
    },
}

/// The lines of a row.
#[derive(Debug)]
enum Lines {
    /// These, separated by commas; without any, all that no row above names.
    Named(&'static str),
    /// memory.stat's keys of these names; 0 where this kernel's has no such key.
    Events(&'static str),
    /// Each by a rule of its own.
    Made(&'static [Line]),
    /// Those of another file that are made of memory; its other lines are 0 here.
    AsIn(&'static str),
}

/// A line, its value, and what of the row's origin it is made of, on cgroup v2 and on v1.
#[derive(Clone, Copy, Debug)]
struct Line {
    name: &'static str,
    value: Value,
    keys: [&'static str; 2],
}

/// What a line's number is.
#[derive(Clone, Copy, Debug)]
enum Value {
    Host,
    Zero,
    Kib(fn(&Memory) -> Bytes),
    Pages(fn(&Memory) -> Bytes),
    TransparentHugePages(fn(&Memory) -> Bytes),
    /// As it is: huge pages of the default size.
    Count(fn(&Memory) -> u64),
    /// What went to or from the container's disks, in kB; the host's for a process of the host.
    Io(fn(&IoCounts) -> u64),
    Event,
}

/// The words for v1 where they are those for v2.
const SAME: &str = "";
/// The words for v1 where it counts nothing of the kind.
const ZERO: &str = "0";

const MEMORY_STAT: Origin = of("`memory.stat`", "`memory.stat` `total_*`");
const MEMORY_STAT_OF_V2: Origin = of("`memory.stat`", ZERO);
const IN_PAGES: Origin = of("the lines of meminfo, in pages", SAME);
const PRESENT: Origin = of(
    "the first n CPUs of `cpuset.cpus.effective`, n = least quota/period of `cpu.max`, rounded up",
    "the first n CPUs of `cpuset.effective_cpus`, n = least `cpu.cfs_quota_us`/`_period_us`, \
     rounded up",
);
const OF_PRESENT: Origin = of("the host's, of the present CPUs", SAME);
const TASKS: Origin = of("the tasks of the cgroup and all below it, as last counted", SAME);

pub(super) const MEMINFO: &str = "proc/meminfo";
pub(super) const VMSTAT: &str = "proc/vmstat";
const CPUINFO: &str = "proc/cpuinfo";
pub(super) const STAT: &str = "proc/stat";
const CPU: &str = "sys/devices/system/cpu";
const NODE: &str = "sys/devices/system/node";
pub(super) const NODE_MEMINFO: &str = "sys/devices/system/node/node*/meminfo";
const NODE_VMSTAT: &str = "sys/devices/system/node/node*/vmstat";

/// All lines that a known kernel prints. One that is in no row is 0 in `meminfo`, `vmstat` and
/// `stat`; a new text of `cpuinfo` and of the directories is the machine's, and stays.
pub const ROWS: &[Row] = &[
    row(
        MEMINFO,
        partly_hosts(
            "least `memory.max` over the levels",
            "least `memory.limit_in_bytes` over the levels",
            "where it is less",
        ),
        Made(&[kib("MemTotal", |memory| memory.total, "", "")]),
    ),
    row(
        MEMINFO,
        of(
            "least `memory.max` − `memory.current` over the levels",
            "least `memory.limit_in_bytes` − `memory.usage_in_bytes` over the levels",
        ),
        Made(&[kib("MemFree", |memory| memory.free, "", "")]),
    ),
    row(
        MEMINFO,
        of(
            "the same, each with `active_file`, `inactive_file`, `slab_reclaimable` of `memory.stat`",
            "the same, each with `total_active_file`, `total_inactive_file` of `memory.stat`",
        ),
        Made(&[kib("MemAvailable", |memory| memory.available, "", "")]),
    ),
    row(
        MEMINFO,
        partly_hosts(
            "least `memory.swap.max` over the levels",
            "least `memory.memsw.limit_in_bytes` over the levels, less MemTotal",
            "where it is less",
        ),
        Made(&[kib("SwapTotal", |memory| memory.swap_total, "", "")]),
    ),
    row(
        MEMINFO,
        of(
            "SwapTotal − `memory.swap.current`, at most the least room over the levels",
            "SwapTotal − `total_swap` of `memory.stat`, at most the least room over the levels",
        ),
        Made(&[kib("SwapFree", |memory| memory.swap_free, "", "")]),
    ),
    Row {
        title: "Cached, SwapCached, Active…, Inactive…, Unevictable, Dirty, Writeback, AnonPages, \
                Mapped, Shmem, AnonHugePages",
        ..row(
            MEMINFO,
            MEMORY_STAT,
            Made(&[
                kib("Cached", |memory| memory.stat.file, "file", "cache"),
                kib("SwapCached", |memory| memory.stat.swapcached, "swapcached", SAME),
                kib(
                    "Active",
                    |memory| memory.stat.active_anon + memory.stat.active_file,
                    "active_anon + active_file",
                    SAME,
                ),
                kib(
                    "Inactive",
                    |memory| memory.stat.inactive_anon + memory.stat.inactive_file,
                    "inactive_anon + inactive_file",
                    SAME,
                ),
                kib("Active(anon)", |memory| memory.stat.active_anon, "active_anon", SAME),
                kib("Inactive(anon)", |memory| memory.stat.inactive_anon, "inactive_anon", SAME),
                kib("Active(file)", |memory| memory.stat.active_file, "active_file", SAME),
                kib("Inactive(file)", |memory| memory.stat.inactive_file, "inactive_file", SAME),
                kib("Unevictable", |memory| memory.stat.unevictable, "unevictable", SAME),
                kib("Dirty", |memory| memory.stat.file_dirty, "file_dirty", "dirty"),
                kib(
                    "Writeback",
                    |memory| memory.stat.file_writeback,
                    "file_writeback",
                    "writeback",
                ),
                kib("AnonPages", |memory| memory.stat.anon, "anon", "rss"),
                kib("Mapped", |memory| memory.stat.file_mapped, "file_mapped", "mapped_file"),
                kib("Shmem", |memory| memory.stat.shmem, "shmem", SAME),
                kib("AnonHugePages", |memory| memory.stat.anon_thp, "anon_thp", "rss_huge"),
            ]),
        )
    },
    row(
        MEMINFO,
        of("`memory.stat`", "`memory.kmem.usage_in_bytes`"),
        Made(&[
            kib("Slab", slab, "slab_reclaimable + slab_unreclaimable", ""),
            kib("SUnreclaim", |memory| memory.stat.slab_unreclaimable, "slab_unreclaimable", ""),
        ]),
    ),
    row(
        MEMINFO,
        MEMORY_STAT_OF_V2,
        Made(&[
            kib("KReclaimable", |memory| memory.stat.slab_reclaimable, "slab_reclaimable", ""),
            kib("SReclaimable", |memory| memory.stat.slab_reclaimable, "slab_reclaimable", ""),
            kib("KernelStack", |memory| memory.stat.kernel_stack, "kernel_stack", ""),
            kib("PageTables", |memory| memory.stat.pagetables, "pagetables", ""),
            kib("SecPageTables", |memory| memory.stat.sec_pagetables, "sec_pagetables", ""),
            kib("VmallocUsed", |memory| memory.stat.vmalloc, "vmalloc", ""),
            kib("Percpu", |memory| memory.stat.percpu, "percpu", ""),
            kib("ShmemHugePages", |memory| memory.stat.shmem_thp, "shmem_thp", ""),
            kib("FileHugePages", |memory| memory.stat.file_thp, "file_thp", ""),
            kib("Zswap", |memory| memory.stat.zswap, "zswap", ""),
            kib("Zswapped", |memory| memory.stat.zswapped, "zswapped", ""),
        ]),
    ),
    row(
        MEMINFO,
        partly_hosts(
            "least `hugetlb.*.max` over the levels",
            "least `hugetlb.*.limit_in_bytes` over the levels",
            "where it is less",
        ),
        Made(&[
            count("HugePages_Total", |memory| memory.huge_pages_total),
            kib("Hugetlb", |memory| memory.hugetlb, "huge pages of every size", SAME),
        ]),
    ),
    row(
        MEMINFO,
        of(
            "HugePages_Total − `hugetlb.*.current`, at most the least room over the levels",
            "HugePages_Total − `hugetlb.*.usage_in_bytes`, at most the least room over the levels",
        ),
        Made(&[count("HugePages_Free", |memory| memory.huge_pages_free)]),
    ),
    row(
        MEMINFO,
        of("the lines above, and `vm.overcommit_*`", SAME),
        Made(&[
            kib(
                "CommitLimit",
                |memory| memory.commit_limit,
                "(MemTotal − Hugetlb) by overcommit_ratio, or overcommit_kbytes, + SwapTotal",
                SAME,
            ),
            kib("Committed_AS", |memory| memory.committed, "AnonPages + Shmem + swap in use", SAME),
        ]),
    ),
    row(
        MEMINFO,
        Host,
        Named("VmallocTotal, CmaTotal, Hugepagesize, HardwareCorrupted, DirectMap*"),
    ),
    // The contiguous area is the hardware's, and its use is the host's.
    row(MEMINFO, of("CmaTotal", SAME), Made(&[kib("CmaFree", |memory| memory.cma_total, "", "")])),
    row(
        MEMINFO,
        Nothing,
        Named(
            "Buffers, Mlocked, NFS_Unstable, Bounce, WritebackTmp, VmallocChunk, ShmemPmdMapped, \
             FilePmdMapped, Unaccepted, Balloon, HugePages_Rsvd, HugePages_Surp, Quicklists, \
             EarlyMemtestBad, GPUActive, GPUReclaim",
        ),
    ),
    Row { title: "its header", ..row("proc/swaps", Host, Named("Filename")) },
    Row {
        title: "one line `none … virtual`",
        ..row("proc/swaps", of("SwapTotal and SwapFree of meminfo", SAME), Named(""))
    },
    Row {
        title: "nr_free_pages, nr_anon_pages, nr_mapped, nr_dirty, nr_shmem and other kinds of \
                memory",
        ..row(
            VMSTAT,
            IN_PAGES,
            Made(&[
                pages("nr_free_pages", |memory| memory.free, "MemFree"),
                pages("nr_free_cma", |memory| memory.cma_total, "CmaFree"),
                pages("nr_zone_inactive_anon", |memory| memory.stat.inactive_anon, INACTIVE_ANON),
                pages("nr_zone_active_anon", |memory| memory.stat.active_anon, ACTIVE_ANON),
                pages("nr_zone_inactive_file", |memory| memory.stat.inactive_file, INACTIVE_FILE),
                pages("nr_zone_active_file", |memory| memory.stat.active_file, ACTIVE_FILE),
                pages("nr_zone_unevictable", |memory| memory.stat.unevictable, "Unevictable"),
                pages(
                    "nr_zone_write_pending",
                    |memory| memory.stat.file_dirty + memory.stat.file_writeback,
                    "Dirty + Writeback",
                ),
                pages("nr_inactive_anon", |memory| memory.stat.inactive_anon, INACTIVE_ANON),
                pages("nr_active_anon", |memory| memory.stat.active_anon, ACTIVE_ANON),
                pages("nr_inactive_file", |memory| memory.stat.inactive_file, INACTIVE_FILE),
                pages("nr_active_file", |memory| memory.stat.active_file, ACTIVE_FILE),
                pages("nr_unevictable", |memory| memory.stat.unevictable, "Unevictable"),
                pages("nr_slab_reclaimable", |memory| memory.stat.slab_reclaimable, "SReclaimable"),
                pages(
                    "nr_slab_unreclaimable",
                    |memory| memory.stat.slab_unreclaimable,
                    "SUnreclaim",
                ),
                pages("nr_anon_pages", |memory| memory.stat.anon, "AnonPages"),
                pages("nr_mapped", |memory| memory.stat.file_mapped, "Mapped"),
                pages(
                    "nr_file_pages",
                    |memory| memory.stat.file + memory.stat.swapcached,
                    "Cached + SwapCached",
                ),
                pages("nr_dirty", |memory| memory.stat.file_dirty, "Dirty"),
                pages("nr_writeback", |memory| memory.stat.file_writeback, "Writeback"),
                pages("nr_shmem", |memory| memory.stat.shmem, "Shmem"),
                pages("nr_page_table_pages", |memory| memory.stat.pagetables, "PageTables"),
                pages(
                    "nr_sec_page_table_pages",
                    |memory| memory.stat.sec_pagetables,
                    "SecPageTables",
                ),
                pages("nr_swapcached", |memory| memory.stat.swapcached, "SwapCached"),
            ]),
        )
    },
    row(
        VMSTAT,
        of("the lines of meminfo, in huge pages", SAME),
        Made(&[
            huge("nr_shmem_hugepages", |memory| memory.stat.shmem_thp, "ShmemHugePages"),
            huge("nr_file_hugepages", |memory| memory.stat.file_thp, "FileHugePages"),
            huge("nr_anon_transparent_hugepages", |memory| memory.stat.anon_thp, "AnonHugePages"),
        ]),
    ),
    row(
        VMSTAT,
        of("KernelStack of meminfo, in kB", SAME),
        Made(&[kib("nr_kernel_stack", |memory| memory.stat.kernel_stack, "", "")]),
    ),
    row(
        VMSTAT,
        of("the bytes of diskstats / 1024", SAME),
        Made(&[io("pgpgin", |io| io.rbytes), io("pgpgout", |io| io.wbytes)]),
    ),
    Row {
        title: "pgfault, pgmajfault, `pgscan_*`, `pgsteal_*`, `workingset_*`, `pswp*`, `zswp*`, \
                some of `thp_*` and `numa_*`",
        ..row(
            VMSTAT,
            of("`memory.stat`, 0 without the key", "`memory.stat` `total_*`, 0 without the key"),
            Events(
                "workingset_refault_anon, workingset_refault_file, workingset_activate_anon, \
                 workingset_activate_file, workingset_restore_anon, workingset_restore_file, \
                 workingset_nodereclaim, pgpromote_success, pgdemote_kswapd, pgdemote_direct, \
                 pgdemote_khugepaged, pgdemote_proactive, pswpin, pswpout, pgactivate, \
                 pgdeactivate, pglazyfree, pgfault, pgmajfault, pglazyfreed, pgrefill, \
                 pgsteal_kswapd, pgsteal_direct, pgsteal_khugepaged, pgsteal_proactive, \
                 pgscan_kswapd, pgscan_direct, pgscan_khugepaged, pgscan_proactive, \
                 numa_pte_updates, numa_hint_faults, numa_pages_migrated, thp_fault_alloc, \
                 thp_collapse_alloc, thp_swpout, thp_swpout_fallback, swpin_zero, swpout_zero, \
                 zswpin, zswpout, zswpwb",
            ),
        )
    },
    row(VMSTAT, Host, Named("nr_dirty_threshold, nr_dirty_background_threshold")),
    Row {
        title: "the kernel's work for the whole machine: numa_hit…, `pgalloc_*`, `compact_*`, …",
        ..row(
            VMSTAT,
            Nothing,
            Named(
                "nr_free_pages_blocks, nr_mlock, nr_bounce, nr_zspages, numa_hit, numa_miss, \
                 numa_foreign, numa_interleave, numa_local, numa_other, nr_isolated_anon, \
                 nr_isolated_file, workingset_nodes, nr_writeback_temp, nr_shmem_pmdmapped, \
                 nr_file_pmdmapped, nr_vmscan_write, nr_vmscan_immediate_reclaim, nr_dirtied, \
                 nr_written, nr_throttled_written, nr_kernel_misc_reclaimable, \
                 nr_foll_pin_acquired, nr_foll_pin_released, nr_iommu_pages, \
                 pgpromote_candidate, pgpromote_candidate_nrl, nr_hugetlb, nr_balloon_pages, \
                 nr_kernel_file_pages, nr_memmap_pages, nr_memmap_boot_pages, pgalloc_dma, \
                 pgalloc_dma32, pgalloc_normal, pgalloc_movable, pgalloc_device, allocstall_dma, \
                 allocstall_dma32, allocstall_normal, allocstall_movable, allocstall_device, \
                 pgskip_dma, pgskip_dma32, pgskip_normal, pgskip_movable, pgskip_device, pgfree, \
                 pgreuse, pgscan_direct_throttle, pgscan_anon, pgscan_file, pgsteal_anon, \
                 pgsteal_file, zone_reclaim_success, zone_reclaim_failed, pginodesteal, \
                 slabs_scanned, kswapd_inodesteal, kswapd_low_wmark_hit_quickly, \
                 kswapd_high_wmark_hit_quickly, pageoutrun, pgrotated, drop_pagecache, \
                 drop_slab, oom_kill, numa_huge_pte_updates, numa_hint_faults_local, \
                 pgmigrate_success, pgmigrate_fail, thp_migration_success, thp_migration_fail, \
                 thp_migration_split, compact_migrate_scanned, compact_free_scanned, \
                 compact_isolated, compact_stall, compact_fail, compact_success, \
                 compact_daemon_wake, compact_daemon_migrate_scanned, \
                 compact_daemon_free_scanned, htlb_buddy_alloc_success, htlb_buddy_alloc_fail, \
                 unevictable_pgs_culled, unevictable_pgs_scanned, unevictable_pgs_rescued, \
                 unevictable_pgs_mlocked, unevictable_pgs_munlocked, unevictable_pgs_cleared, \
                 unevictable_pgs_stranded, thp_fault_fallback, thp_fault_fallback_charge, \
                 thp_collapse_alloc_failed, thp_file_alloc, thp_file_fallback, \
                 thp_file_fallback_charge, thp_file_mapped, thp_split_page, \
                 thp_split_page_failed, thp_deferred_split_page, thp_underused_split_page, \
                 thp_split_pmd, thp_scan_exceed_none_pte, thp_scan_exceed_swap_pte, \
                 thp_scan_exceed_share_pte, thp_split_pud, thp_zero_page_alloc, \
                 thp_zero_page_alloc_failed, balloon_inflate, balloon_deflate, balloon_migrate, \
                 swap_ra, swap_ra_hit, ksm_swpin_copy, cow_ksm, direct_map_level2_splits, \
                 direct_map_level3_splits, direct_map_level2_collapses, \
                 direct_map_level3_collapses, nr_unstable",
            ),
        )
    },
    Row { title: "its header", ..row("proc/slabinfo", Host, Named("slabinfo - version, # name*")) },
    Row {
        title: "a line for each cache",
        ..row("proc/slabinfo", of("none", "`memory.kmem.slabinfo`"), Named(""))
    },
    Row {
        title: "processor (s390x: cpu number), and a block for each",
        ..row(CPUINFO, PRESENT, Named("processor, cpu number"))
    },
    row(
        CPUINFO,
        of("counted over the CPUs shown", SAME),
        Named("siblings, cpu cores, # processors"),
    ),
    row(CPUINFO, Host, Named("cpu MHz, cpu MHz *, bogomips, bogomips per cpu, BogoMIPS")),
    Row {
        title: "vendor_id, model name, flags and all else that the CPUs are",
        ..row(
            CPUINFO,
            Host,
            Named(
                "vendor_id, processor *, cpu family, model, model name, stepping, microcode, cache size, \
                 physical id, core id, apicid, initial apicid, fpu, fpu_exception, cpuid level, \
                 wp, flags, vmx flags, bugs, TLB size, clflush size, cache_alignment, \
                 address sizes, power management, Features, CPU implementer, CPU architecture, \
                 CPU variant, CPU part, CPU revision, Hardware, Revision, Serial, Model, cpu, \
                 clock, revision, timebase, platform, machine, motherboard, firmware, MMU, hart, \
                 isa, hart isa, mmu, uarch, mvendorid, marchid, mimpid, features, facilities, \
                 max thread id, cache0, cache1, cache2, cache3, cache4, cache5, cache6, cache7, \
                 version, identification, book id, drawer id, dedicated, address",
            ),
        )
    },
    Row {
        title: "cpu lines",
        ..row(
            STAT,
            partly_hosts(
                "`cpu.stat` user, nice, system; `throttled_usec` as steal",
                "`cpuacct.stat`, `cpuacct.usage_all`; `throttled_time` of `cpu.stat` as steal",
                "number of columns",
            ),
            Named("cpu*"),
        )
    },
    row(STAT, TASKS, Named("procs_running, procs_blocked")),
    row(STAT, of("the host's, less what the reader's time namespace adds", SAME), Named("btime")),
    row(STAT, Host, Named("intr, ctxt, processes, softirq")),
    row(
        "proc/uptime",
        of(
            "the reader's time namespace, else since the container's first process; idle of \
             stat's cpu line",
            SAME,
        ),
        Named(""),
    ),
    row(
        "proc/loadavg",
        of(
            "the tasks of the cgroup and all below it, averaged as the kernel does; sampled only \
             for who reads it",
            SAME,
        ),
        Named(""),
    ),
    row(
        "proc/diskstats",
        partly_hosts(
            "`io.stat`, whole disks",
            "`blkio.bfq.*_recursive`, else `blkio.throttle.*_recursive`, whole disks",
            "names",
        ),
        Named(""),
    ),
    row(
        "proc/pressure/*",
        of(
            "`*.pressure`, and triggers on it",
            "none: opening fails with EOPNOTSUPP, unless the container has a cgroup in a cgroup2 \
             hierarchy beside v1's",
        ),
        Named(""),
    ),
    Row {
        title: "online, present, `cpuN/`",
        ..row(CPU, of("as the blocks of cpuinfo", SAME), Named("online, present"))
    },
    row(CPU, of("possible − present", SAME), Named("offline")),
    row(CPU, of("1 where two present CPUs share a core", SAME), Named("smt/active")),
    Row {
        title: "enabled, `topology/*_cpus`, `*_siblings`, `cache/*/shared_cpu_*`",
        ..row(
            CPU,
            OF_PRESENT,
            Named(
                "enabled, cpu*/topology/*_cpus, cpu*/topology/*_cpus_list, \
                 cpu*/topology/*_siblings, cpu*/topology/*_siblings_list, \
                 cpu*/cache/*/shared_cpu_map, cpu*/cache/*/shared_cpu_list",
            ),
        )
    },
    Row {
        title: "all else: possible, kernel_max, isolated, nohz_full, vulnerabilities, cpuidle, \
                cpufreq, …",
        ..row(
            CPU,
            Host,
            Named(
                "possible, kernel_max, isolated, nohz_full, housekeeping, modalias, uevent, \
                 crash_hotplug, smt/control, vulnerabilities/*, cpuidle/*, cpufreq/*, \
                 cpufreq/*/*, cpufreq/*/*/*, intel_pstate/*, amd_pstate/*, hotplug/*, power/*, \
                 microcode/*, cpu*/uevent, cpu*/online, cpu*/cpu_capacity, cpu*/regs/*/*, \
                 cpu*/acpi_cppc/*, cpu*/cpuidle/*/*, cpu*/cpuidle/*/*/*, cpu*/hotplug/*, \
                 cpu*/power/*, cpu*/microcode/*, cpu*/thermal_throttle/*, cpu*/topology/*_id, \
                 cpu*/topology/ppin, cpu*/cache/uevent, cpu*/cache/*/coherency_line_size, \
                 cpu*/cache/*/id, cpu*/cache/*/level, cpu*/cache/*/number_of_sets, \
                 cpu*/cache/*/physical_line_partition, cpu*/cache/*/size, cpu*/cache/*/type, \
                 cpu*/cache/*/uevent, cpu*/cache/*/ways_of_associativity, \
                 cpu*/cache/*/allocation_policy, cpu*/cache/*/write_policy, cpu*/cache/*/power/*",
            ),
        )
    },
    Row {
        title: "`nodeN/`, online, `has_*`",
        ..row(
            NODE,
            of("the nodes of `cpuset.mems.effective`", "the nodes of `cpuset.effective_mems`"),
            Named("online, has_*"),
        )
    },
    Row {
        title: "`nodeN/cpulist`, cpumap, `cpuN`",
        ..row(NODE, OF_PRESENT, Named("node*/cpulist, node*/cpumap"))
    },
    row(NODE, of("the host's, of the nodes shown", SAME), Named("node*/distance")),
    Row {
        title: "all else",
        ..row(
            NODE,
            Host,
            Named(
                "possible, uevent, power/*, node*/uevent, node*/power/*, node*/hugepages/*/*, \
                 node*/access*/*/*, node*/memory_side_cache/*/*, node*/memory_failure/*",
            ),
        )
    },
    row(
        NODE_MEMINFO,
        SPREAD,
        Made(&[
            kib("MemUsed", |memory| memory.total - memory.free, "MemTotal − MemFree", SAME),
            kib(
                "FilePages",
                // With what is in the swap cache, as the kernel counts it.
                |memory| memory.stat.file + memory.stat.swapcached,
                "Cached + SwapCached",
                SAME,
            ),
        ]),
    ),
    Row { title: "and the lines of meminfo", ..row(NODE_MEMINFO, SPREAD, AsIn(MEMINFO)) },
    Row { title: "kinds of memory; the rest 0", ..row(NODE_VMSTAT, SPREAD, AsIn(VMSTAT)) },
    row(
        "sys/devices/system/node/node*/numastat",
        Nothing,
        Named("numa_hit, numa_miss, numa_foreign, interleave_hit, local_node, other_node"),
    ),
];

const SPREAD: Origin = of("the lines of meminfo, spread as the host's memory is", SAME);
const ACTIVE_ANON: &str = "Active(anon)";
const INACTIVE_ANON: &str = "Inactive(anon)";
const ACTIVE_FILE: &str = "Active(file)";
const INACTIVE_FILE: &str = "Inactive(file)";

/// The sum of its parts as they are shown: v2 counts them in bytes, the machine in pages.
fn slab(memory: &Memory) -> Bytes {
    let MemoryStat { slab_reclaimable, slab_unreclaimable, .. } = memory.stat;
    Bytes::from_kib(slab_reclaimable.kib() + slab_unreclaimable.kib())
}

const fn row(file: &'static str, origin: Origin, lines: Lines) -> Row {
    Row { file, title: "", origin, lines }
}

const fn of(v2: &'static str, v1: &'static str) -> Origin {
    partly_hosts(v2, v1, "")
}

const fn partly_hosts(v2: &'static str, v1: &'static str, host: &'static str) -> Origin {
    Cgroup { v2, v1, host }
}

const fn kib(
    name: &'static str,
    amount: fn(&Memory) -> Bytes,
    v2: &'static str,
    v1: &'static str,
) -> Line {
    Line { name, value: Value::Kib(amount), keys: [v2, v1] }
}

const fn count(name: &'static str, count: fn(&Memory) -> u64) -> Line {
    Line { name, value: Value::Count(count), keys: [""; 2] }
}

const fn pages(name: &'static str, amount: fn(&Memory) -> Bytes, key: &'static str) -> Line {
    Line { name, value: Value::Pages(amount), keys: [key, SAME] }
}

const fn huge(name: &'static str, amount: fn(&Memory) -> Bytes, key: &'static str) -> Line {
    Line { name, value: Value::TransparentHugePages(amount), keys: [key, SAME] }
}

const fn io(name: &'static str, bytes: fn(&IoCounts) -> u64) -> Line {
    Line { name, value: Value::Io(bytes), keys: [""; 2] }
}

impl Row {
    /// The names of its lines; none where it has all that no row above names.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.lines().into_iter().map(|line| line.name).filter(|name| !name.is_empty()).collect()
    }

    fn lines(&self) -> Vec<Line> {
        let named = |names: &'static str, value: Value, is_key: bool| {
            let line =
                move |name| Line { name, value, keys: [if is_key { name } else { "" }, SAME] };
            names.split(", ").map(line).collect()
        };
        let value = if self.origin == Host { Value::Host } else { Value::Zero };
        match self.lines {
            Named(names) => named(names, value, false),
            Events(names) => named(names, Value::Event, true),
            Made(lines) => lines.to_vec(),
            AsIn(file) => ROWS.iter().filter(|row| row.file == file).flat_map(Row::lines).collect(),
        }
    }
}

/// Where one line comes from.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its row's.
    pub origin: Origin,
    line: Line,
}

impl Source {
    /// In words, on cgroup v1 or on v2.
    #[must_use]
    pub fn words(&self, is_v1: bool) -> String {
        let (v2, v1, host) = match self.origin {
            Host => return "the host's".to_owned(),
            Nothing => return "0: no cgroup counts it".to_owned(),
            Cgroup { v2, v1, host } => (v2, v1, host),
        };
        let chosen = |v2: &'static str, v1: &'static str| if is_v1 && v1 != SAME { v1 } else { v2 };
        let mut words = chosen(v2, v1).replace('`', "");
        if words == ZERO {
            return "0: not counted on cgroup v1".to_owned();
        }
        let [key_v2, key_v1] = self.line.keys;
        for (before, more) in [(": ", chosen(key_v2, key_v1)), ("; the host's ", host)] {
            if !more.is_empty() {
                words.push_str(before);
                words.push_str(more);
            }
        }
        words
    }
}

/// Every line of a file.
#[derive(Default)]
struct Index {
    /// Asked for every line of every reading; what is in it is fixed, so its hash can be too.
    named: HashMap<&'static str, Source, FixedState>,
    /// Those with a star in their name, and those without a name.
    fitting: Vec<Source>,
}

impl Index {
    /// Where the line called `name` comes from; none for one that is in no row.
    fn source(&self, name: &str) -> Option<&Source> {
        let fits_name = |known: &str| known.is_empty() || fits(known, name);
        let fitting = || self.fitting.iter().find(|source| fits_name(source.line.name));
        self.named.get(name).or_else(fitting)
    }
}

/// By file.
static INDICES: LazyLock<HashMap<&'static str, Index>> = LazyLock::new(|| {
    let mut indices: HashMap<_, Index> = HashMap::new();
    for row in ROWS {
        let index = indices.entry(row.file).or_default();
        for line in row.lines() {
            let source = Source { origin: origin_in(row, line.value), line };
            if line.name.is_empty() || line.name.contains('*') {
                index.fitting.push(source);
            } else {
                index.named.entry(line.name).or_insert(source);
            }
        }
    }
    indices
});

/// Where a line comes from that a row has from another file, whatever it is there.
fn origin_in(row: &Row, value: Value) -> Origin {
    match (&row.lines, value) {
        (AsIn(_), Value::Host) => Host,
        (AsIn(_), Value::Zero | Value::Io(_) | Value::Event) => Nothing,
        _ => row.origin,
    }
}

/// Where the line called `name` in `file` of the table comes from; none for one that is in no
/// row.
pub(super) fn source_in(file: &str, name: &str) -> Option<&'static Source> {
    INDICES.get(file)?.source(name)
}

/// Where a line of the file at `path` below `/` comes from; none for one that is in no row: none
/// that a known kernel prints.
#[must_use]
pub fn source_of(path: &str, line: &str) -> Option<&'static Source> {
    ROWS.iter().find_map(|row| {
        let below = path.strip_prefix(row.file).and_then(|below| below.strip_prefix('/'));
        match below {
            Some(below) => source_in(row.file, below),
            None if fits(row.file, path) => source_in(row.file, name_of(line)),
            None => None,
        }
    })
}

/// What a line is called: what stands before its colon, or its first word.
fn name_of(line: &str) -> &str {
    let Some((name, _)) = line.split_once(':') else {
        return line.split_ascii_whitespace().next().unwrap_or_default();
    };
    // `Node 0 MemTotal:       13199572 kB`
    let of_node = name.strip_prefix("Node ").and_then(|name| name.split_once(' '));
    of_node.map_or(name, |(_, name)| name).trim_end()
}

/// Whether a text is as `pattern`, in which a star is any text without a slash.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(before) else { return false };
    let until = rest.find('/').unwrap_or(rest.len());
    (0..=until).any(|end| rest.is_char_boundary(end) && fits(after, &rest[end..]))
}

/// What the lines of a file are made from that is rendered number by number.
pub(super) struct Numbers<'a> {
    index: Option<&'static Index>,
    pub(super) memory: &'a Memory,
    pub(super) events: BTreeMap<&'a str, u64>,
    /// None for a process of the host.
    pub(super) io: Option<&'a IoCounts>,
    pub(super) pages: PageSizes,
}

impl Numbers<'_> {
    /// Of a `file` whose lines are made of memory alone.
    pub(super) fn in_file<'a>(file: &str, memory: &'a Memory) -> Numbers<'a> {
        let (index, pages) = (INDICES.get(file), PageSizes::default());
        Numbers { index, memory, events: BTreeMap::new(), io: None, pages }
    }

    /// The number of a line, which on the host is `host`. A line that is in no row, which a
    /// future kernel may print, is 0.
    pub(super) fn of(&self, name: &str, host: u64) -> u64 {
        let count = |amount: Bytes, size: Bytes| amount.0.checked_div(size.0).unwrap_or(0);
        let source = self.index.and_then(|index| index.source(name));
        match source.map_or(Value::Zero, |source| source.line.value) {
            Value::Host => host,
            Value::Zero => 0,
            Value::Kib(amount) => amount(self.memory).kib(),
            Value::Pages(amount) => count(amount(self.memory), self.pages.page),
            Value::TransparentHugePages(amount) => {
                count(amount(self.memory), self.pages.transparent_huge)
            }
            Value::Count(count) => count(self.memory),
            Value::Io(bytes) => self.io.map_or(host, |io| Bytes(bytes(io)).kib()),
            Value::Event => self.events.get(name).copied().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_in_one_row() {
        let lines: Vec<(&str, &str)> = ROWS
            .iter()
            .flat_map(|row| row.names().into_iter().map(|name| (row.file, name)))
            .collect();
        for (place, (file, name)) in lines.iter().enumerate() {
            let mut others = lines.iter().enumerate().filter(|(other, _)| *other != place);
            let twice = others.find(|(_, (of, pattern))| of == file && fits(pattern, name));
            assert!(twice.is_none(), "{file}: {name} {twice:?}");
        }
    }

    #[test]
    fn stars_are_any_text_without_a_slash() {
        for (pattern, text) in
            [("a", "a"), ("*", ""), ("a*", "ab"), ("*/b*c", "x/bcc"), ("*é*", "é")]
        {
            assert!(fits(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "ab"), ("a*", "a/b"), ("*/b", "b"), ("a*c", "ab")] {
            assert!(!fits(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn names_of_lines() {
        let named = [
            ("Active(anon):       1428 kB", "Active(anon)"),
            ("Node 10 MemTotal:       13199572 kB", "MemTotal"),
            ("model name\t: A: B", "model name"),
            ("nr_free_pages 9", "nr_free_pages"),
            ("Filename\t\t\t\tType", "Filename"),
            ("", ""),
        ];
        for (line, name) in named {
            assert_eq!(name_of(line), name);
        }
    }
}
