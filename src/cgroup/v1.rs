//! File names and quirks of cgroup v1, `Documentation/admin-guide/cgroup-v1/`.

use std::os::fd::AsFd as _;

use crate::cpulist::CpuSet;
use crate::error::Result;
use crate::units::{Bytes, Limit, Nsec};

use super::dir::{CgroupDir, nothing_if_gone};
use super::format::{Bandwidth, device_operations, flat_keyed, parse_number};
use super::stats::{
    Activity, CpuUsage, Cpuset, HugetlbLevel, Io, IoCounts, Memory, MemoryEvents, MemoryStat,
    Resource, Room, Swap, SwapLimit, tighten,
};
use super::taskstats::{TaskStates, Taskstats};

const NUMBER: &str = "a number";

pub(super) fn limit_files(resource: Resource) -> &'static [&'static str] {
    match resource {
        Resource::Memory => &[
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.memsw.usage_in_bytes",
        ],
        Resource::Cpu => &["cpu.cfs_quota_us", "cpu.cfs_period_us"],
        Resource::Cpuset => &["cpuset.effective_cpus", MEMS],
    }
}

fn number(dir: &CgroupDir, file: &str) -> Result<Option<Bytes>> {
    Ok(dir.read_value(file, parse_number, NUMBER)?.map(Bytes))
}

/// Where v1 prints "no limit" as a huge number (PAGE_COUNTER_MAX pages in bytes), anything
/// that is at least `binding`, the size of what it could limit, is none.
fn limit_below(value: u64, binding: Bytes) -> Limit<Bytes> {
    if Bytes(value) >= binding { Limit::Max } else { Limit::At(Bytes(value)) }
}

/// `memory.stat`: the hierarchical `total_*` keys, and the limits folded over the ancestors.
struct StatFile {
    stat: MemoryStat,
    swap: Bytes,
    memory_limit: Option<u64>,
    memsw_limit: Option<u64>,
}

fn parse_memory_stat(text: &[u8]) -> StatFile {
    let mut stat = MemoryStat::default();
    let mut swap = Bytes(0);
    let mut memory_limit = None;
    let mut memsw_limit = None;
    // The same keys without a prefix, which are first, leave out what is below the cgroup.
    let start = memchr::memmem::find(text, b"hierarchical_").unwrap_or(0);
    for (key, value) in flat_keyed(&text[start..]) {
        let field = match key {
            "total_cache" => &mut stat.file,
            "total_swapcached" => &mut stat.swapcached,
            "total_active_anon" => &mut stat.active_anon,
            "total_inactive_anon" => &mut stat.inactive_anon,
            "total_active_file" => &mut stat.active_file,
            "total_inactive_file" => &mut stat.inactive_file,
            "total_unevictable" => &mut stat.unevictable,
            "total_dirty" => &mut stat.file_dirty,
            "total_writeback" => &mut stat.file_writeback,
            "total_rss" => &mut stat.anon,
            "total_mapped_file" => &mut stat.file_mapped,
            "total_shmem" => &mut stat.shmem,
            "total_rss_huge" => &mut stat.anon_thp,
            "total_swap" => &mut swap,
            "hierarchical_memory_limit" => {
                memory_limit = Some(value);
                continue;
            }
            "hierarchical_memsw_limit" => {
                memsw_limit = Some(value);
                continue;
            }
            _ => continue,
        };
        *field = Bytes(value);
    }
    StatFile { stat, swap, memory_limit, memsw_limit }
}

/// The memory domain of a container: on v1 its own cgroup, since every cgroup of the
/// hierarchy accounts. `host_total` is the machine's memory, at and above which a limit is none.
pub(super) fn memory(levels: &[CgroupDir], host_total: Bytes) -> Result<Option<Memory>> {
    let Some(domain) = levels.first() else { return Ok(None) };
    let Some(usage) = number(domain, "memory.usage_in_bytes")? else {
        domain.check_exists()?;
        return Ok(None);
    };
    let text = domain.read("memory.stat")?.unwrap_or_default();
    let mut file = parse_memory_stat(&text);
    // All kernel memory of the cgroup; which of it is slab v1 does not tell.
    file.stat.slab_unreclaimable =
        number(domain, "memory.kmem.usage_in_bytes")?.unwrap_or_default();
    // Folded by the kernel over the cgroup and all its ancestors, shown or not: where there is
    // none, no level has one.
    let folded = file.memory_limit.map(|value| limit_below(value, host_total));
    let folded_memsw = file.memsw_limit.map(|value| limit_below(value, UNLIMITED));
    let mut limits = vec![folded.unwrap_or_default()];
    let mut rooms = Vec::new();
    let mut swap_limits: Vec<_> = folded_memsw.into_iter().collect();
    let mut swap_rooms = Vec::new();
    for (index, dir) in levels.iter().enumerate() {
        if folded == Some(Limit::Max) && folded_memsw == Some(Limit::Max) {
            break;
        }
        if index > 0 && !is_hierarchical(dir)? {
            break;
        }
        let limit = match folded {
            // In the place of its own, which is no less: MemTotal is not more than this.
            Some(folded) if index == 0 || folded == Limit::Max => folded,
            _ => number(dir, "memory.limit_in_bytes")?
                .map_or(Limit::Max, |value| limit_below(value.0, host_total)),
        };
        limits.push(limit);
        if let Some(limit) = limit.finite() {
            let (usage, stat) = if index == 0 {
                (usage, file.stat)
            } else {
                let usage = number(dir, "memory.usage_in_bytes")?.unwrap_or_default();
                let text = dir.read("memory.stat")?.unwrap_or_default();
                (usage, parse_memory_stat(&text).stat)
            };
            rooms.push(Room { free: limit - usage, reclaimable: stat.reclaimable() });
        }
        if folded_memsw == Some(Limit::Max) {
            continue;
        }
        let Some(memsw) = number(dir, "memory.memsw.limit_in_bytes")? else { continue };
        let memsw_limit = limit_below(memsw.0, UNLIMITED);
        swap_limits.push(memsw_limit);
        if let Some(limit) = memsw_limit.finite() {
            let usage = number(dir, "memory.memsw.usage_in_bytes")?.unwrap_or_default();
            swap_rooms.push(limit - usage);
        }
    }
    let swap = (!swap_limits.is_empty()).then(|| Swap {
        limit: SwapLimit::MemoryAndSwap(tighten(swap_limits)),
        used: file.swap,
        rooms: swap_rooms,
    });
    let events = MemoryEvents { text, prefix: "total_" };
    Ok(Some(Memory { limit: tighten(limits), usage, stat: file.stat, rooms, swap, events }))
}

/// Half of what a v1 counter can hold. "No limit" is i64::MAX rounded down to whole pages,
/// whose size differs; no machine has a limit anywhere near.
const UNLIMITED: Bytes = Bytes(1 << 62);

/// Whether an ancestor's limits bind its descendants: always since Linux 5.11, which fixed
/// `memory.use_hierarchy` to 1; before, where it is 1.
pub(super) fn is_hierarchical(dir: &CgroupDir) -> Result<bool> {
    dir.is_hierarchical(|dir| {
        Ok(dir.read_value("memory.use_hierarchy", parse_number, NUMBER)? != Some(0))
    })
}

/// Huge pages of the size that the kernel calls `size` (`2MB`); none without the controller.
pub(super) fn hugetlb(dir: &CgroupDir, size: &str) -> Result<Option<HugetlbLevel>> {
    let Some(usage) = number(dir, &format!("hugetlb.{size}.usage_in_bytes"))? else {
        return Ok(None);
    };
    let limit = number(dir, &format!("hugetlb.{size}.limit_in_bytes"))?
        .map_or(Limit::Max, |value| limit_below(value.0, UNLIMITED));
    Ok(Some(HugetlbLevel { limit, usage }))
}

/// The CPU bandwidth of one level; none without a quota (−1) or without the controller.
pub(super) fn bandwidth(dir: &CgroupDir) -> Result<Option<Bandwidth>> {
    let quota = dir.read_value("cpu.cfs_quota_us", parse_quota, "microseconds or -1")?;
    let Some(Some(quota)) = quota else { return Ok(None) };
    let period = dir.read_value("cpu.cfs_period_us", parse_number, NUMBER)?;
    Ok(period.filter(|&period| period > 0).map(|period| Bandwidth { quota, period }))
}

/// `cpu.cfs_quota_us`: a number, or −1 for none.
fn parse_quota(text: &[u8]) -> Option<Option<u64>> {
    if text.trim_ascii() == b"-1" {
        return Some(None);
    }
    parse_number(text).map(Some)
}

/// The CPUs that tasks of one level may run on: `cpuset.effective_cpus` (3.17), before that
/// `cpuset.cpus`, which then held the effective ones.
pub(super) fn cpuset(dir: &CgroupDir) -> Result<Cpuset> {
    const EXPECTED: &str = "a cpulist";
    let effective = dir.read_value("cpuset.effective_cpus", CpuSet::parse, EXPECTED)?;
    let cpus = match effective {
        Some(cpus) => Some(cpus),
        None => dir.read_value("cpuset.cpus", CpuSet::parse, EXPECTED)?,
    };
    Ok(cpus.filter(|cpus| !cpus.is_empty()))
}

/// The memory nodes that tasks of a cgroup may use; Linux 3.17.
pub(super) const MEMS: &str = "cpuset.effective_mems";

/// CPU time used: `cpuacct.stat` for the totals, in ticks, and `cpuacct.usage_all` (4.8) for
/// where it was used.
pub(super) fn cpu_usage(dir: &CgroupDir) -> Result<Option<CpuUsage>> {
    let Some(text) = dir.read("cpuacct.stat")? else { return Ok(None) };
    let mut usage = CpuUsage::default();
    for (key, ticks) in flat_keyed(&text) {
        match key {
            "user" => usage.user = Nsec::from_ticks(ticks),
            "system" => usage.system = Nsec::from_ticks(ticks),
            _ => {}
        }
    }
    usage.per_cpu = parse_usage_all(&dir.read("cpuacct.usage_all")?.unwrap_or_default());
    Ok(Some(usage))
}

/// `cpuacct.usage_all`: a header, then lines `cpu user system` in nanoseconds.
fn parse_usage_all(text: &[u8]) -> Vec<(u32, Nsec)> {
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
            let cpu = words.next()?.parse().ok()?;
            let user = Nsec(parse_number(words.next()?.as_bytes())?);
            let system = Nsec(parse_number(words.next()?.as_bytes())?);
            Some((cpu, user + system))
        })
        .collect()
}

/// CPU time for which tasks were ready but throttled by a quota, summed over CPUs; see v2.
pub(super) fn throttled(dir: &CgroupDir) -> Result<Nsec> {
    let text = match dir.read("cpu.stat.local")? {
        Some(text) => Some(text),
        None => dir.read("cpu.stat")?,
    };
    let text = text.unwrap_or_default();
    let nsec = flat_keyed(&text).find(|(key, _)| *key == "throttled_time");
    Ok(Nsec(nsec.map_or(0, |(_, value)| value)))
}

/// I/O counts: per device those of the bfq scheduler where it counts any, else those of the
/// throttle layer. On Linux 5.18 to 6.4 and from 6.10 the latter count only after a throttle
/// rule was once set for the disk.
pub(super) fn io(dir: &CgroupDir) -> Result<Option<Io>> {
    let mut devices: Io = Vec::new();
    let mut any_file = false;
    for source in ["blkio.bfq", "blkio.throttle"] {
        let bytes = dir.read(&format!("{source}.io_service_bytes_recursive"))?;
        let ios = dir.read(&format!("{source}.io_serviced_recursive"))?;
        any_file |= bytes.is_some();
        let counted = parse_blkio(&bytes.unwrap_or_default(), &ios.unwrap_or_default());
        for (device, counts) in counted {
            if !devices.iter().any(|(known, _)| *known == device) {
                devices.push((device, counts));
            }
        }
    }
    Ok(any_file.then_some(devices))
}

/// Joins a pair of blkio files; devices without any count are left out.
fn parse_blkio(bytes: &[u8], ios: &[u8]) -> Io {
    let mut devices: Io = Vec::new();
    for (text, is_bytes) in [(bytes, true), (ios, false)] {
        for (device, operation, value) in device_operations(text) {
            let index =
                devices.iter().position(|(known, _)| *known == device).unwrap_or_else(|| {
                    devices.push((device, IoCounts::default()));
                    devices.len() - 1
                });
            let counts = &mut devices[index].1;
            match (operation, is_bytes) {
                ("Read", true) => counts.rbytes = value,
                ("Write", true) => counts.wbytes = value,
                ("Discard", true) => counts.dbytes = value,
                ("Read", false) => counts.rios = value,
                ("Write", false) => counts.wios = value,
                ("Discard", false) => counts.dios = value,
                _ => {}
            }
        }
    }
    devices.retain(|(_, counts)| *counts != IoCounts::default());
    devices
}

/// Whether the cgroup is frozen: `freezer.state`.
pub(super) fn is_frozen(dir: &CgroupDir) -> Result<bool> {
    let state = dir.read("freezer.state")?.unwrap_or_default();
    Ok(state.trim_ascii() == b"FROZEN")
}

/// CPU time used, to the nanosecond, from `cpuacct.usage`.
pub(super) fn activity(dir: &CgroupDir) -> Result<Option<Activity>> {
    let usage = dir.read_value("cpuacct.usage", parse_number, NUMBER)?;
    Ok(usage.map(|usage| Activity { usage: Nsec(usage), waited: Nsec(0) }))
}

/// CGROUPSTATS; none where the kernel refuses. A cgroup that goes away meanwhile has no tasks.
pub(super) fn task_states(
    dir: &CgroupDir,
    taskstats: &mut Taskstats,
) -> Result<Option<TaskStates>> {
    let Some(itself) = dir.open_itself().map(Some).or_else(nothing_if_gone)? else {
        return Ok(Some(TaskStates::default()));
    };
    match taskstats.states(itself.as_fd()) {
        Ok(states) => Ok(Some(states)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Some(TaskStates::default())),
        Err(_) => Ok(None),
    }
}

/// The file that lists a cgroup's threads.
pub(super) const THREADS: &str = "tasks";

#[cfg(test)]
mod tests {
    use super::super::dir::made_of;
    use super::*;
    use crate::procfs::diskstats::Device;

    const HOST: Bytes = Bytes(1_000_000);
    const NO_LIMIT: &str = "9223372036854771712\n";

    #[test]
    fn every_key_of_memory_stat() {
        let text = b"cache 99\nhierarchical_memory_limit 15\nhierarchical_memsw_limit 16\n\
            total_cache 1\ntotal_rss 2\ntotal_rss_huge 3\ntotal_shmem 4\n\
            total_mapped_file 5\ntotal_dirty 6\ntotal_writeback 7\ntotal_swap 8\n\
            total_inactive_anon 9\ntotal_active_anon 10\ntotal_inactive_file 11\n\
            total_active_file 12\ntotal_unevictable 13\ntotal_swapcached 14\n";
        let found = parse_memory_stat(text);
        let stat = MemoryStat {
            file: Bytes(1),
            anon: Bytes(2),
            anon_thp: Bytes(3),
            shmem: Bytes(4),
            file_mapped: Bytes(5),
            file_dirty: Bytes(6),
            file_writeback: Bytes(7),
            inactive_anon: Bytes(9),
            active_anon: Bytes(10),
            inactive_file: Bytes(11),
            active_file: Bytes(12),
            unevictable: Bytes(13),
            swapcached: Bytes(14),
            ..MemoryStat::default()
        };
        assert_eq!(found.stat, stat);
        assert_eq!(
            (found.swap, found.memory_limit, found.memsw_limit),
            (Bytes(8), Some(15), Some(16))
        );
    }

    /// The files of one level; `stat` is its memory.stat.
    fn level<'a>(limit: &'a str, memsw: &'a str, stat: &'a str) -> [(&'a str, &'a str); 6] {
        [
            ("memory.usage_in_bytes", "1000\n"),
            ("memory.limit_in_bytes", limit),
            ("memory.memsw.limit_in_bytes", memsw),
            ("memory.memsw.usage_in_bytes", "1500\n"),
            ("memory.kmem.usage_in_bytes", "30\n"),
            ("memory.stat", stat),
        ]
    }

    #[test]
    fn limits_and_rooms_over_the_levels() {
        let outer = level("8000\n", "9000\n", "total_active_file 50\n");
        let inner = level("7000\n", NO_LIMIT, "total_inactive_file 60\ntotal_swap 70\n");
        let (_top, dirs) = made_of(&[&outer, &inner]);
        let found = memory(&dirs, HOST).unwrap().unwrap();
        assert_eq!((found.limit, found.usage), (Limit::At(Bytes(7000)), Bytes(1000)));
        assert_eq!(found.stat.slab_unreclaimable, Bytes(30));
        let room = |free, reclaimable| Room { free: Bytes(free), reclaimable: Bytes(reclaimable) };
        assert_eq!(found.rooms, [room(6000, 60), room(7000, 50)]);
        let swap = found.swap.unwrap();
        assert_eq!(swap.limit, SwapLimit::MemoryAndSwap(Limit::At(Bytes(9000))));
        assert_eq!((swap.used, swap.rooms), (Bytes(70), vec![Bytes(7500)]));
    }

    #[test]
    fn the_folded_limits_count_where_an_ancestor_is_not_shown() {
        let stat = "hierarchical_memory_limit 5000\nhierarchical_memsw_limit 6000\n";
        let (_top, dirs) = made_of(&[&level(NO_LIMIT, NO_LIMIT, stat)]);
        let found = memory(&dirs, HOST).unwrap().unwrap();
        let room = Room { free: Bytes(4000), reclaimable: Bytes(0) };
        assert_eq!((found.limit, found.rooms), (Limit::At(Bytes(5000)), vec![room]));
        let limit = SwapLimit::MemoryAndSwap(Limit::At(Bytes(6000)));
        assert_eq!(found.swap.unwrap().limit, limit);
    }

    #[test]
    fn a_limit_of_the_machines_size_is_none() {
        let (_top, dirs) = made_of(&[&level("1000000\n", NO_LIMIT, "")]);
        let found = memory(&dirs, HOST).unwrap().unwrap();
        assert_eq!((found.limit, found.rooms), (Limit::Max, vec![]));
        assert_eq!(found.swap.unwrap().limit, SwapLimit::MemoryAndSwap(Limit::Max));
        let (_top, dirs) = made_of(&[&level("999999\n", NO_LIMIT, "")]);
        let found = memory(&dirs, HOST).unwrap().unwrap();
        assert_eq!(found.limit, Limit::At(Bytes(999_999)));
    }

    #[test]
    fn an_ancestor_that_is_not_hierarchical_binds_nobody_below() {
        let mut outer = level("2000\n", "3000\n", "").to_vec();
        let inner = level("7000\n", NO_LIMIT, "");
        outer.push(("memory.use_hierarchy", "1\n"));
        let limit = |outer: &[(&str, &str)], inner: &[(&str, &str)]| {
            let (_top, dirs) = made_of(&[outer, inner]);
            memory(&dirs, HOST).unwrap().unwrap().limit
        };
        assert_eq!(limit(&outer, &inner), Limit::At(Bytes(2000)));
        outer.pop();
        outer.push(("memory.use_hierarchy", "0\n"));
        assert_eq!(limit(&outer, &inner), Limit::At(Bytes(7000)));
        let (top, dirs) = made_of(&[&outer, &inner]);
        let binding = top.path().join("level/memory.use_hierarchy");
        std::fs::write(binding, "1\n").unwrap();
        assert!(is_hierarchical(&dirs[1]).unwrap());
        // Nor is any asked below one that is known to bind.
        std::fs::write(dirs[0].path().join("memory.use_hierarchy"), "0\n").unwrap();
        assert!(is_hierarchical(&dirs[1].open_below("level").unwrap()).unwrap());
        assert!(!is_hierarchical(&dirs[0]).unwrap());
        // The cgroup's own limit binds it in any case.
        assert_eq!(limit(&[], &outer), Limit::At(Bytes(2000)));
    }

    #[test]
    fn without_accounting_or_without_the_cgroup() {
        assert_eq!(memory(&[], HOST).unwrap(), None);
        let (_top, dirs) = made_of(&[&[("cgroup.procs", "")]]);
        assert_eq!(memory(&dirs, HOST).unwrap(), None);
        let (_top, dirs) = made_of(&[&[]]);
        assert_eq!(memory(&dirs, HOST).unwrap_err().errno(), libc::ESRCH);
        let (_top, dirs) = made_of(&[&[("memory.usage_in_bytes", "5\n")]]);
        let found = memory(&dirs, HOST).unwrap().unwrap();
        assert_eq!((found.limit, found.usage, found.swap), (Limit::Max, Bytes(5), None));
    }

    #[test]
    fn huge_pages() {
        let (_top, dirs) = made_of(&[&[
            ("hugetlb.2MB.usage_in_bytes", "4\n"),
            ("hugetlb.2MB.limit_in_bytes", "16\n"),
            ("hugetlb.1GB.usage_in_bytes", "0\n"),
            ("hugetlb.1GB.limit_in_bytes", NO_LIMIT),
        ]]);
        let level = |size| hugetlb(&dirs[0], size).unwrap();
        let expected = HugetlbLevel { limit: Limit::At(Bytes(16)), usage: Bytes(4) };
        assert_eq!(level("2MB"), Some(expected));
        assert_eq!(level("1GB"), Some(HugetlbLevel { limit: Limit::Max, usage: Bytes(0) }));
        assert_eq!(level("64KB"), None);
    }

    #[test]
    fn bandwidths() {
        let of = |quota: &str, period: &str| {
            let files = [("cpu.cfs_quota_us", quota), ("cpu.cfs_period_us", period)];
            let (_top, dirs) = made_of(&[&files]);
            bandwidth(&dirs[0]).unwrap()
        };
        let expected = Bandwidth { quota: 150_000, period: 100_000 };
        assert_eq!(of("150000\n", "100000\n"), Some(expected));
        assert_eq!(of("-1\n", "100000\n"), None);
        assert_eq!(of("150000\n", "0\n"), None);
        let (_top, dirs) = made_of(&[&[]]);
        assert_eq!(bandwidth(&dirs[0]).unwrap(), None);
    }

    #[test]
    fn cpusets_by_kernel() {
        let of = |files: &[(&str, &str)]| {
            let (_top, dirs) = made_of(&[files]);
            cpuset(&dirs[0]).unwrap().map(|cpus| cpus.to_string())
        };
        let both = [("cpuset.effective_cpus", "1-2\n"), ("cpuset.cpus", "0-3\n")];
        assert_eq!(of(&both).as_deref(), Some("1-2"));
        assert_eq!(of(&both[1..]).as_deref(), Some("0-3"));
        assert_eq!(of(&[("cpuset.cpus", "\n")]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn cpu_time() {
        let (_top, dirs) = made_of(&[&[
            ("cpuacct.stat", "user 3\nsystem 4\n"),
            ("cpuacct.usage_all", "cpu user system\n0 7 3\n"),
            ("cpu.stat", "nr_throttled 1\nthrottled_time 5\n"),
        ]]);
        let expected = CpuUsage {
            user: Nsec(30_000_000),
            nice: Nsec(0),
            system: Nsec(40_000_000),
            per_cpu: vec![(0, Nsec(10))],
        };
        assert_eq!(cpu_usage(&dirs[0]).unwrap(), Some(expected));
        assert_eq!(throttled(&dirs[0]).unwrap(), Nsec(5));
        let (_top, dirs) = made_of(&[&[
            ("cpu.stat", "throttled_time 5\n"),
            ("cpu.stat.local", "throttled_time 9\n"),
        ]]);
        assert_eq!(cpu_usage(&dirs[0]).unwrap(), None);
        assert_eq!(throttled(&dirs[0]).unwrap(), Nsec(9));
        let (_top, dirs) = made_of(&[&[]]);
        assert_eq!(throttled(&dirs[0]).unwrap(), Nsec(0));
    }

    #[test]
    fn io_by_the_first_layer_that_counted_a_device() {
        let (_top, dirs) = made_of(&[&[
            ("blkio.bfq.io_service_bytes_recursive", "8:0 Read 512\n7:0 Read 0\nTotal 512\n"),
            ("blkio.bfq.io_serviced_recursive", "8:0 Read 1\n7:0 Read 0\nTotal 1\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 999\n7:0 Write 1024\n"),
            ("blkio.throttle.io_serviced_recursive", "8:0 Read 9\n7:0 Write 2\n"),
        ]]);
        let of_bfq = IoCounts { rbytes: 512, rios: 1, ..IoCounts::default() };
        let of_throttle = IoCounts { wbytes: 1024, wios: 2, ..IoCounts::default() };
        let expected = vec![
            (Device { major: 8, minor: 0 }, of_bfq),
            (Device { major: 7, minor: 0 }, of_throttle),
        ];
        assert_eq!(io(&dirs[0]).unwrap(), Some(expected));
        let (_top, dirs) =
            made_of(&[&[("blkio.throttle.io_service_bytes_recursive", "Total 0\n")]]);
        assert_eq!(io(&dirs[0]).unwrap(), Some(vec![]));
        let (_top, dirs) = made_of(&[&[]]);
        assert_eq!(io(&dirs[0]).unwrap(), None);
    }

    #[test]
    fn frozen_is_only_what_says_so() {
        let of = |files: &[(&str, &str)]| {
            let (_top, dirs) = made_of(&[files]);
            is_frozen(&dirs[0]).unwrap()
        };
        assert!(of(&[("freezer.state", "FROZEN\n")]));
        assert!(!of(&[("freezer.state", "THAWED\n")]));
        assert!(!of(&[("freezer.state", "FREEZING\n")]));
        assert!(!of(&[]));
    }

    #[test]
    fn activity_is_cpu_time_used() {
        let (_top, dirs) = made_of(&[&[], &[("cpuacct.usage", "7000000001\n")]]);
        let expected = Activity { usage: Nsec(7_000_000_001), waited: Nsec(0) };
        assert_eq!(activity(&dirs[0]).unwrap(), Some(expected));
        assert_eq!(activity(&dirs[1]).unwrap(), None);
    }

    #[test]
    fn quotas() {
        assert_eq!(parse_quota(b"-1\n"), Some(None));
        assert_eq!(parse_quota(b"150000\n"), Some(Some(150_000)));
        assert_eq!(parse_quota(b"-2\n"), None);
    }

    #[test]
    fn usage_per_cpu() {
        let text = b"cpu user system\n0 7 3\n1 20 5\nbad 1\n";
        assert_eq!(parse_usage_all(text), [(0, Nsec(10)), (1, Nsec(25))]);
    }

    #[test]
    fn blkio_pairs() {
        let bytes = b"7:0 Read 4096\n7:0 Write 512\n7:0 Discard 64\n7:0 Total 4608\n8:0 Read 0\n";
        let ios = b"7:0 Read 2\n7:0 Write 1\n7:0 Discard 9\nTotal 12\n";
        let counts = IoCounts { rbytes: 4096, wbytes: 512, rios: 2, wios: 1, dios: 9, dbytes: 64 };
        assert_eq!(parse_blkio(bytes, ios), [(Device { major: 7, minor: 0 }, counts)]);
    }
}
