//! File names and quirks of cgroup v2, `Documentation/admin-guide/cgroup-v2.rst`.

use crate::cpulist::CpuSet;
use crate::error::Result;
use crate::units::{Bytes, Limit, Nsec};

use super::dir::CgroupDir;
use super::format::{
    Bandwidth, device_keyed, flat_keyed, parse_cpu_max, parse_limit, parse_number, parse_some_total,
};
use super::stats::{
    Activity, CpuUsage, Cpuset, HugetlbLevel, Io, IoCounts, Memory, MemoryEvents, MemoryStat,
    Resource, Room, Swap, SwapLimit, tighten,
};

/// What these files hold, for messages.
const NUMBER: &str = "a number";
const LIMIT: &str = "a number or max";

pub(super) fn limit_files(resource: Resource) -> &'static [&'static str] {
    match resource {
        Resource::Memory => {
            &["memory.max", "memory.current", "memory.swap.max", "memory.swap.current"]
        }
        Resource::Cpu => &["cpu.max"],
        Resource::Cpuset => &["cpuset.cpus.effective", MEMS],
    }
}

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
    let text = domain.read("memory.stat")?.unwrap_or_default();
    let stat = parse_memory_stat(&text);
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
    let events = MemoryEvents { text, prefix: "" };
    Ok(Memory { limit: tighten(limits), usage, stat, rooms, swap: swap(levels)?, events })
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

/// The memory nodes that tasks of a cgroup may use.
pub(super) const MEMS: &str = "cpuset.mems.effective";

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

/// CPU time used, from `cpu.stat`, and waited for, from `cpu.pressure`: 4.20, and not where PSI is
/// switched off.
pub(super) fn activity(dir: &CgroupDir) -> Result<Option<Activity>> {
    let Some(text) = dir.read("cpu.stat")? else { return Ok(None) };
    let usage = flat_keyed(&text).find(|(key, _)| *key == "usage_usec");
    let Some((_, usage)) = usage else { return Ok(None) };
    let pressure = dir.read("cpu.pressure")?.unwrap_or_default();
    let waited = parse_some_total(&pressure).unwrap_or(0);
    Ok(Some(Activity { usage: Nsec::from_usec(usage), waited: Nsec::from_usec(waited) }))
}

/// The file that lists a cgroup's threads.
pub(super) const THREADS: &str = "cgroup.threads";

#[cfg(test)]
mod tests {
    use super::super::dir::made_of;
    use super::*;
    use crate::procfs::diskstats::Device;

    #[test]
    fn every_key_of_memory_stat() {
        let text = b"anon 1\nfile 2\nkernel 99\nkernel_stack 3\npagetables 4\nsec_pagetables 5\n\
            percpu 6\nvmalloc 7\nshmem 8\nzswap 9\nzswapped 10\nfile_mapped 11\nfile_dirty 12\n\
            file_writeback 13\nswapcached 14\nanon_thp 15\nfile_thp 16\nshmem_thp 17\n\
            inactive_anon 18\nactive_anon 19\ninactive_file 20\nactive_file 21\n\
            unevictable 22\nslab_reclaimable 23\nslab_unreclaimable 24\nslab 47\n";
        let expected = MemoryStat {
            anon: Bytes(1),
            file: Bytes(2),
            kernel_stack: Bytes(3),
            pagetables: Bytes(4),
            sec_pagetables: Bytes(5),
            percpu: Bytes(6),
            vmalloc: Bytes(7),
            shmem: Bytes(8),
            zswap: Bytes(9),
            zswapped: Bytes(10),
            file_mapped: Bytes(11),
            file_dirty: Bytes(12),
            file_writeback: Bytes(13),
            swapcached: Bytes(14),
            anon_thp: Bytes(15),
            file_thp: Bytes(16),
            shmem_thp: Bytes(17),
            inactive_anon: Bytes(18),
            active_anon: Bytes(19),
            inactive_file: Bytes(20),
            active_file: Bytes(21),
            unevictable: Bytes(22),
            slab_reclaimable: Bytes(23),
            slab_unreclaimable: Bytes(24),
        };
        assert_eq!(parse_memory_stat(text), expected);
    }

    #[test]
    fn the_domain_is_the_nearest_level_that_accounts() {
        let (_top, dirs) = made_of(&[
            &[
                ("memory.current", "3000\n"),
                ("memory.max", "9000\n"),
                ("memory.stat", "active_file 50\n"),
                ("memory.swap.current", "200\n"),
                ("memory.swap.max", "300\n"),
            ],
            &[
                ("memory.current", "1000\n"),
                ("memory.max", "7000\n"),
                ("memory.stat", "inactive_file 60\nanon 5\n"),
                ("memory.swap.current", "70\n"),
                ("memory.swap.max", "400\n"),
            ],
            // Its controller is not enabled here.
            &[("cgroup.procs", ""), ("memory.max", "1\n")],
        ]);
        let found = memory(&dirs).unwrap().unwrap();
        assert_eq!((found.limit, found.usage), (Limit::At(Bytes(7000)), Bytes(1000)));
        assert_eq!(found.stat.anon, Bytes(5));
        let room = |free, reclaimable| Room { free: Bytes(free), reclaimable: Bytes(reclaimable) };
        assert_eq!(found.rooms, [room(6000, 60), room(6000, 50)]);
        let swap = found.swap.unwrap();
        assert_eq!(swap.limit, SwapLimit::Swap(Limit::At(Bytes(300))));
        assert_eq!((swap.used, swap.rooms), (Bytes(70), vec![Bytes(330), Bytes(100)]));
    }

    #[test]
    fn without_limits_without_swap_without_the_cgroup() {
        let (_top, dirs) = made_of(&[&[
            ("memory.current", "5\n"),
            ("memory.max", "max\n"),
            ("memory.swap.current", "6\n"),
            ("memory.swap.max", "max\n"),
        ]]);
        let found = memory(&dirs).unwrap().unwrap();
        assert_eq!((found.limit, found.rooms), (Limit::Max, vec![]));
        let expected = Swap { limit: SwapLimit::Swap(Limit::Max), used: Bytes(6), rooms: vec![] };
        assert_eq!(found.swap, Some(expected));
        let (_top, dirs) = made_of(&[&[("memory.current", "5\n")]]);
        assert_eq!(memory(&dirs).unwrap().unwrap().swap, None);
        let (_top, dirs) = made_of(&[&[("cgroup.procs", "")]]);
        assert_eq!(memory(&dirs).unwrap(), None);
        let (_top, dirs) = made_of(&[&[]]);
        assert_eq!(memory(&dirs).unwrap_err().errno(), libc::ESRCH);
    }

    #[test]
    fn huge_pages() {
        let (_top, dirs) = made_of(&[&[
            ("hugetlb.2MB.current", "4\n"),
            ("hugetlb.2MB.max", "16\n"),
            ("hugetlb.1GB.current", "0\n"),
            ("hugetlb.1GB.max", "max\n"),
        ]]);
        let level = |size| hugetlb(&dirs[0], size).unwrap();
        let expected = HugetlbLevel { limit: Limit::At(Bytes(16)), usage: Bytes(4) };
        assert_eq!(level("2MB"), Some(expected));
        assert_eq!(level("1GB"), Some(HugetlbLevel { limit: Limit::Max, usage: Bytes(0) }));
        assert_eq!(level("64KB"), None);
    }

    #[test]
    fn cpus() {
        let (_top, dirs) = made_of(&[
            &[],
            &[("cpu.max", "max 100000\n"), ("cpuset.cpus.effective", "\n")],
            &[("cpu.max", "5 10\n"), ("cpuset.cpus.effective", "1-2\n")],
        ]);
        assert_eq!(bandwidth(&dirs[0]).unwrap(), Some(Bandwidth { quota: 5, period: 10 }));
        assert_eq!(bandwidth(&dirs[1]).unwrap(), None);
        assert_eq!(bandwidth(&dirs[2]).unwrap(), None);
        assert_eq!(cpuset(&dirs[0]).unwrap(), CpuSet::parse(b"1-2"));
        assert_eq!(cpuset(&dirs[1]).unwrap(), None);
        assert_eq!(cpuset(&dirs[2]).unwrap(), None);
    }

    #[test]
    fn nice_time_is_part_of_user_time() {
        let (_top, dirs) = made_of(&[
            &[],
            &[("cpu.stat.local", "throttled_usec 9\n"), ("cpu.stat", "throttled_usec 5\n")],
            &[(
                "cpu.stat",
                "usage_usec 99\nuser_usec 7\nsystem_usec 3\nnice_usec 2\nthrottled_usec 5\n",
            )],
        ]);
        let expected = CpuUsage {
            user: Nsec(5000),
            nice: Nsec(2000),
            system: Nsec(3000),
            per_cpu: Vec::new(),
        };
        assert_eq!(cpu_usage(&dirs[0]).unwrap(), Some(expected));
        assert_eq!(throttled(&dirs[0]).unwrap(), Nsec(5000));
        assert_eq!(throttled(&dirs[1]).unwrap(), Nsec(9000));
        assert_eq!(cpu_usage(&dirs[2]).unwrap(), None);
        assert_eq!(throttled(&dirs[2]).unwrap(), Nsec(0));
    }

    #[test]
    fn io_counts() {
        let text = "8:16 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 other=7\n8:0 \n\
                    7:0 rbytes=0 wbytes=0\n";
        let (_top, dirs) = made_of(&[&[], &[("io.stat", text)]]);
        let counts = IoCounts { rbytes: 1, wbytes: 2, rios: 3, wios: 4, dbytes: 5, dios: 6 };
        let expected = vec![(Device { major: 8, minor: 16 }, counts)];
        assert_eq!(io(&dirs[0]).unwrap(), Some(expected));
        assert_eq!(io(&dirs[1]).unwrap(), None);
    }

    #[test]
    fn activity_is_cpu_time_used_and_waited_for() {
        let (_top, dirs) = made_of(&[
            &[("cpu.stat", "user_usec 7\n"), ("cpu.pressure", "")],
            &[("cpu.stat", "usage_usec 6\nuser_usec 7\n")],
            &[
                ("cpu.stat", "usage_usec 6\n"),
                ("cpu.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"),
            ],
            &[],
        ]);
        let expected = |waited| Some(Activity { usage: Nsec(6000), waited: Nsec(waited) });
        let found: Vec<_> = dirs.iter().map(|dir| activity(dir).unwrap()).collect();
        assert_eq!(found, [None, expected(5000), expected(0), None]);
    }

    #[test]
    fn frozen_is_only_what_says_so() {
        let of = |files: &[(&str, &str)]| {
            let (_top, dirs) = made_of(&[files]);
            is_frozen(&dirs[0]).unwrap()
        };
        assert!(of(&[("cgroup.events", "populated 1\nfrozen 1\n")]));
        assert!(!of(&[("cgroup.events", "populated 1\nfrozen 0\n")]));
        assert!(!of(&[]));
    }
}
