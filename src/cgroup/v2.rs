//! File names and quirks of cgroup v2, `Documentation/admin-guide/cgroup-v2.rst`.

use crate::cpulist::CpuSet;
use crate::error::Result;
use crate::units::{Bytes, Limit, Nsec};

use super::dir::CgroupDir;
use super::format::{
    Bandwidth, device_keyed, flat_keyed, parse_cpu_max, parse_limit, parse_number,
};
use super::stats::{
    CpuUsage, Cpuset, HugetlbLevel, Io, IoCounts, Memory, MemoryStat, Room, Swap, SwapLimit,
    tighten,
};

/// What these files hold, for messages.
const NUMBER: &str = "a number";
const LIMIT: &str = "a number or max";

fn number(dir: &CgroupDir, file: &str) -> Result<Option<Bytes>> {
    Ok(dir.read_value(file, parse_number, NUMBER)?.map(Bytes))
}

fn limit(dir: &CgroupDir, file: &str) -> Result<Limit<Bytes>> {
    let value = dir.read_value(file, parse_limit, LIMIT)?.unwrap_or_default();
    Ok(value.finite().map_or(Limit::Max, |value| Limit::At(Bytes(value))))
}

/// Parses `memory.stat`.
pub(super) fn parse_memory_stat(text: &[u8]) -> MemoryStat {
    let mut stat = MemoryStat::default();
    for (key, value) in flat_keyed(text) {
        let field = match key {
            "file" => &mut stat.file,
            "swapcached" => &mut stat.swapcached,
            "active_anon" => &mut stat.active_anon,
            "inactive_anon" => &mut stat.inactive_anon,
            "active_file" => &mut stat.active_file,
            "inactive_file" => &mut stat.inactive_file,
            "unevictable" => &mut stat.unevictable,
            "file_dirty" => &mut stat.file_dirty,
            "file_writeback" => &mut stat.file_writeback,
            "anon" => &mut stat.anon,
            "file_mapped" => &mut stat.file_mapped,
            "shmem" => &mut stat.shmem,
            "slab_reclaimable" => &mut stat.slab_reclaimable,
            "slab_unreclaimable" => &mut stat.slab_unreclaimable,
            "kernel_stack" => &mut stat.kernel_stack,
            "pagetables" => &mut stat.pagetables,
            "sec_pagetables" => &mut stat.sec_pagetables,
            "percpu" => &mut stat.percpu,
            "vmalloc" => &mut stat.vmalloc,
            "anon_thp" => &mut stat.anon_thp,
            "shmem_thp" => &mut stat.shmem_thp,
            "file_thp" => &mut stat.file_thp,
            "zswap" => &mut stat.zswap,
            "zswapped" => &mut stat.zswapped,
            _ => continue,
        };
        *field = Bytes(value);
    }
    stat
}

/// The memory domain of a container, `levels` being its cgroup and the ancestors below the
/// root: the nearest level with `memory.current`. None where no level has it.
pub(super) fn memory(levels: &[CgroupDir]) -> Result<Option<Memory>> {
    for (index, dir) in levels.iter().enumerate() {
        let Some(usage) = number(dir, "memory.current")? else {
            dir.check_exists()?;
            continue;
        };
        return memory_domain(&levels[index..], usage).map(Some);
    }
    Ok(None)
}

fn memory_domain(levels: &[CgroupDir], usage: Bytes) -> Result<Memory> {
    let domain = &levels[0];
    let stat = parse_memory_stat(&domain.read("memory.stat")?.unwrap_or_default());
    let mut limits = Vec::with_capacity(levels.len());
    let mut rooms = Vec::new();
    for (index, dir) in levels.iter().enumerate() {
        let limit = limit(dir, "memory.max")?;
        limits.push(limit);
        let Some(limit) = limit.finite() else { continue };
        let (usage, stat) = if index == 0 {
            (usage, stat)
        } else {
            let usage = number(dir, "memory.current")?.unwrap_or_default();
            (usage, parse_memory_stat(&dir.read("memory.stat")?.unwrap_or_default()))
        };
        rooms.push(Room { free: limit - usage, reclaimable: stat.reclaimable() });
    }
    Ok(Memory { limit: tighten(limits), usage, stat, rooms, swap: swap(levels)? })
}

/// Swap accounting of the domain `levels[0]`; none where the kernel does not account swap.
fn swap(levels: &[CgroupDir]) -> Result<Option<Swap>> {
    let Some(used) = number(&levels[0], "memory.swap.current")? else { return Ok(None) };
    let mut limits = Vec::with_capacity(levels.len());
    let mut rooms = Vec::new();
    for (index, dir) in levels.iter().enumerate() {
        let limit = limit(dir, "memory.swap.max")?;
        limits.push(limit);
        let Some(limit) = limit.finite() else { continue };
        let usage =
            if index == 0 { used } else { number(dir, "memory.swap.current")?.unwrap_or_default() };
        rooms.push(limit - usage);
    }
    Ok(Some(Swap { limit: SwapLimit::Swap(tighten(limits)), used, rooms }))
}

/// Huge pages of the size that the kernel calls `size` (`2MB`); none without the controller.
pub(super) fn hugetlb(dir: &CgroupDir, size: &str) -> Result<Option<HugetlbLevel>> {
    let Some(usage) = number(dir, &format!("hugetlb.{size}.current"))? else { return Ok(None) };
    Ok(Some(HugetlbLevel { limit: limit(dir, &format!("hugetlb.{size}.max"))?, usage }))
}

/// The CPU bandwidth of one level; none without a quota or without the controller.
pub(super) fn bandwidth(dir: &CgroupDir) -> Result<Option<Bandwidth>> {
    Ok(dir.read_value("cpu.max", parse_cpu_max, "quota|max period")?.flatten())
}

/// The CPUs that tasks of one level may run on.
pub(super) fn cpuset(dir: &CgroupDir) -> Result<Cpuset> {
    let cpus = dir.read_value("cpuset.cpus.effective", CpuSet::parse, "a cpulist")?;
    Ok(cpus.filter(|cpus| !cpus.is_empty()))
}

/// CPU time used, from `cpu.stat`, which every cgroup has.
pub(super) fn cpu_usage(dir: &CgroupDir) -> Result<Option<CpuUsage>> {
    let Some(text) = dir.read("cpu.stat")? else { return Ok(None) };
    let mut usage = CpuUsage::default();
    for (key, value) in flat_keyed(&text) {
        match key {
            "user_usec" => usage.user = Nsec::from_usec(value),
            "nice_usec" => usage.nice = Nsec::from_usec(value),
            "system_usec" => usage.system = Nsec::from_usec(value),
            _ => {}
        }
    }
    usage.user = usage.user - usage.nice;
    Ok(Some(usage))
}

/// CPU time for which tasks were ready but throttled by a quota, summed over CPUs.
/// `cpu.stat.local` (6.6) counts throttling by any ancestor's quota; a leaf's `cpu.stat`
/// only its own.
pub(super) fn throttled(dir: &CgroupDir) -> Result<Nsec> {
    let text = match dir.read("cpu.stat.local")? {
        Some(text) => Some(text),
        None => dir.read("cpu.stat")?,
    };
    let text = text.unwrap_or_default();
    let usec = flat_keyed(&text).find(|(key, _)| *key == "throttled_usec");
    Ok(Nsec::from_usec(usec.map_or(0, |(_, value)| value)))
}

/// I/O counts, from `io.stat`; none without the controller.
pub(super) fn io(dir: &CgroupDir) -> Result<Option<Io>> {
    let Some(text) = dir.read("io.stat")? else { return Ok(None) };
    let counts = device_keyed(&text).map(|(device, pairs)| {
        let mut counts = IoCounts::default();
        for (key, value) in pairs {
            match key {
                "rbytes" => counts.rbytes = value,
                "wbytes" => counts.wbytes = value,
                "dbytes" => counts.dbytes = value,
                "rios" => counts.rios = value,
                "wios" => counts.wios = value,
                "dios" => counts.dios = value,
                _ => {}
            }
        }
        (device, counts)
    });
    // A device without any figure is one the kernel lists before its first I/O.
    Ok(Some(counts.filter(|(_, counts)| *counts != IoCounts::default()).collect()))
}

/// Whether all tasks of the cgroup are frozen: `frozen` of `cgroup.events`, 5.2.
pub(super) fn is_frozen(dir: &CgroupDir) -> Result<bool> {
    let text = dir.read("cgroup.events")?.unwrap_or_default();
    Ok(flat_keyed(&text).any(|line| line == ("frozen", 1)))
}

/// The file that lists a cgroup's threads.
pub(super) const THREADS: &str = "cgroup.threads";
