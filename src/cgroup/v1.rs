//! File names and quirks of cgroup v1, `Documentation/admin-guide/cgroup-v1/`.

use crate::cpulist::CpuSet;
use crate::error::Result;
use crate::units::{Bytes, Limit, Nsec};

use super::dir::CgroupDir;
use super::format::{Bandwidth, device_operations, flat_keyed, parse_number};
use super::stats::{
    CpuUsage, Cpuset, HugetlbLevel, Io, IoCounts, Memory, MemoryStat, Room, Swap, SwapLimit,
    tighten,
};

const NUMBER: &str = "a number";

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
    for (key, value) in flat_keyed(text) {
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
    let mut file = parse_memory_stat(&domain.read("memory.stat")?.unwrap_or_default());
    // All kernel memory of the cgroup; which of it is slab v1 does not tell.
    file.stat.slab_unreclaimable =
        number(domain, "memory.kmem.usage_in_bytes")?.unwrap_or_default();
    let mut limits =
        vec![file.memory_limit.map_or(Limit::Max, |value| limit_below(value, host_total))];
    let mut rooms = Vec::new();
    let mut swap_limits = Vec::new();
    let mut swap_rooms = Vec::new();
    for (index, dir) in levels.iter().enumerate() {
        if index > 0 && !is_hierarchical(dir)? {
            break;
        }
        let limit = number(dir, "memory.limit_in_bytes")?
            .map_or(Limit::Max, |value| limit_below(value.0, host_total));
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
        let Some(memsw) = number(dir, "memory.memsw.limit_in_bytes")? else { continue };
        let memsw_limit = limit_below(memsw.0, UNLIMITED);
        swap_limits.push(memsw_limit);
        if let Some(limit) = memsw_limit.finite() {
            let usage = number(dir, "memory.memsw.usage_in_bytes")?.unwrap_or_default();
            swap_rooms.push(limit - usage);
        }
    }
    swap_limits.extend(file.memsw_limit.map(|value| limit_below(value, UNLIMITED)));
    let swap = (!swap_limits.is_empty()).then(|| Swap {
        limit: SwapLimit::MemoryAndSwap(tighten(swap_limits)),
        used: file.swap,
        rooms: swap_rooms,
    });
    Ok(Some(Memory { limit: tighten(limits), usage, stat: file.stat, rooms, swap }))
}

/// Half of what a v1 counter can hold. "No limit" is i64::MAX rounded down to whole pages,
/// whose size differs; no machine has a limit anywhere near.
const UNLIMITED: Bytes = Bytes(1 << 62);

/// Whether an ancestor's limits bind its descendants: always since Linux 5.11, which fixed
/// `memory.use_hierarchy` to 1; before, where it is 1.
fn is_hierarchical(dir: &CgroupDir) -> Result<bool> {
    Ok(dir.read_value("memory.use_hierarchy", parse_number, NUMBER)? != Some(0))
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

/// The file that lists a cgroup's threads.
pub(super) const THREADS: &str = "tasks";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::diskstats::Device;

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
        let bytes = b"7:0 Read 4096\n7:0 Write 512\n7:0 Total 4608\n8:0 Read 0\nTotal 4608\n";
        let ios = b"7:0 Read 2\n7:0 Write 1\n7:0 Discard 9\nTotal 12\n";
        let counts = IoCounts { rbytes: 4096, wbytes: 512, rios: 2, wios: 1, dios: 9, dbytes: 0 };
        assert_eq!(parse_blkio(bytes, ios), [(Device { major: 7, minor: 0 }, counts)]);
    }
}
