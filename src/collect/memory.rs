//! The memory of a container: `meminfo`, `swaps`, `vmstat` and `slabinfo`.

use crate::cgroup::stats::{self, HugetlbLevel, SwapLimit, tighten};
use crate::error::Result;
use crate::facts::{Facts, Memory, MemoryEvents, PageSizes};
use crate::kernel::{Controller, Kernel};
use crate::procfs::meminfo::Meminfo;
use crate::units::{Bytes, Limit};

use super::{Collector, Scope};

/// What containers are shown of swap: all that is there, unless told otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwapView {
    /// A machine without swap.
    pub hidden: bool,
    /// A machine without compressed swap, zswap.
    pub zswap_hidden: bool,
}

impl SwapView {
    /// Takes out of `domain` what is not shown.
    fn apply(self, domain: &mut stats::Memory) {
        if self.hidden {
            domain.swap = None;
            domain.stat.swapcached = Bytes(0);
        }
        if self.hidden || self.zswap_hidden {
            domain.stat.zswap = Bytes(0);
            domain.stat.zswapped = Bytes(0);
        }
    }
}

impl Collector {
    pub(super) fn meminfo(&self, scope: &Scope<'_>) -> Result<Option<Facts>> {
        let host = self.kernel.proc.meminfo()?;
        let memory = self.memory(scope, &host)?;
        Ok(memory.map(|memory| Facts::Meminfo { host, memory }))
    }

    pub(super) fn swaps(&self, scope: &Scope<'_>) -> Result<Option<Facts>> {
        let machine = self.kernel.proc.meminfo()?;
        let (total, free) = if machine.swap_total == Bytes(0) {
            // Nobody has any: a cgroup need only be there.
            scope.levels(&self.kernel, Controller::Memory)?;
            (Bytes(0), Bytes(0))
        } else {
            let Some(memory) = self.memory(scope, &machine)? else { return Ok(None) };
            (memory.swap_total, memory.swap_free)
        };
        let host = self.kernel.proc.shared("swaps")?;
        Ok(Some(Facts::Swaps { host, total, used: total - free }))
    }

    pub(super) fn vmstat(&self, scope: &Scope<'_>) -> Result<Option<Facts>> {
        let machine = self.kernel.proc.meminfo()?;
        let Some((memory, events)) = self.memory_and_events(scope, &machine)? else {
            return Ok(None);
        };
        Ok(Some(Facts::Vmstat {
            host: self.kernel.proc.shared("vmstat")?,
            memory,
            events,
            io: self.io(scope)?,
            pages: self.page_sizes(),
        }))
    }

    pub(super) fn page_sizes(&self) -> PageSizes {
        let transparent_huge = self.kernel.sys.transparent_huge_page_size().unwrap_or_default();
        PageSizes { page: page(), transparent_huge }
    }

    pub(super) fn slabinfo(&self, scope: &Scope<'_>) -> Result<Option<Facts>> {
        if scope.is_host {
            return Ok(None);
        }
        let levels = scope.levels(&self.kernel, Controller::Memory)?;
        if let Some(dir) = levels.dirs.first() {
            let own = levels.version.slabinfo(dir)?.unwrap_or_default();
            if !own.is_empty() {
                return Ok(Some(Facts::Own(own)));
            }
        }
        Ok(Some(Facts::SlabinfoHeader { host: self.kernel.proc.shared("slabinfo")? }))
    }

    /// The container's memory; none where the host's is the truth.
    pub(super) fn memory(&self, scope: &Scope<'_>, host: &Meminfo) -> Result<Option<Memory>> {
        Ok(self.memory_and_events(scope, host)?.map(|(memory, _)| memory))
    }

    /// The container's memory, and what happened in it; none where the host's is the truth.
    fn memory_and_events(
        &self,
        scope: &Scope<'_>,
        host: &Meminfo,
    ) -> Result<Option<(Memory, MemoryEvents)>> {
        let levels = scope.levels(&self.kernel, Controller::Memory)?;
        let Some(mut domain) = levels.version.memory(levels.dirs, host.mem_total)? else {
            return Ok(None);
        };
        if scope.is_host && !domain.is_limited() {
            return Ok(None);
        }
        self.swap.apply(&mut domain);
        let huge_pages = huge_pages(&self.kernel, scope, host)?;
        let overcommit = Overcommit::read(&self.kernel);
        Ok(Some((model(host, &domain, &huge_pages, overcommit), domain.events)))
    }
}

/// The smallest memory a machine can have: ps dies of SIGFPE where MemTotal is 0.
fn page() -> Bytes {
    Bytes(rustix::param::page_size() as u64)
}

/// The one computation behind all lines.
fn model(
    host: &Meminfo,
    domain: &stats::Memory,
    huge_pages: &HugePages,
    overcommit: Overcommit,
) -> Memory {
    let total = domain.limit.or_at_most(host.mem_total).max(page());
    let own = total - domain.usage;
    let reclaimable = domain.stat.reclaimable();
    let rooms = domain.rooms.iter();
    let free = rooms.clone().fold(own, |least, room| least.min(room.free));
    let available = rooms
        .fold(own + reclaimable, |least, room| least.min(room.free + room.reclaimable))
        .min(total);
    let (swap_total, swap_free, swap_used) = swap(host, domain.swap.as_ref(), total);
    Memory {
        total,
        free,
        available,
        stat: domain.stat,
        swap_total,
        swap_free,
        swap_used,
        huge_pages_total: huge_pages.total,
        huge_pages_free: huge_pages.free,
        hugetlb: huge_pages.all_sizes,
        commit_limit: overcommit.limit(total, huge_pages.all_sizes) + swap_total,
        committed: domain.stat.anon + domain.stat.shmem + swap_used,
        cma_total: host.cma_total,
    }
}

/// `SwapTotal`, `SwapFree` and swap in use.
fn swap(host: &Meminfo, swap: Option<&stats::Swap>, mem_total: Bytes) -> (Bytes, Bytes, Bytes) {
    let Some(swap) = swap else { return (Bytes(0), Bytes(0), Bytes(0)) };
    let limited = match swap.limit {
        SwapLimit::Swap(limit) => limit.or_at_most(host.swap_total),
        SwapLimit::MemoryAndSwap(Limit::Max) => host.swap_total,
        SwapLimit::MemoryAndSwap(Limit::At(limit)) => (limit - mem_total).min(host.swap_total),
    };
    let total = limited.max(swap.used);
    let free = swap.rooms.iter().fold(total - swap.used, |least, room| least.min(*room));
    (total, free, swap.used)
}

/// How much memory programs may promise themselves, `Documentation/mm/overcommit-accounting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Overcommit {
    /// `vm.overcommit_ratio`, percent.
    ratio: u64,
    /// `vm.overcommit_kbytes`; 0 where the ratio counts.
    kbytes: Bytes,
}

impl Overcommit {
    /// Reads both sysctls; one that is missing is the kernel's default.
    fn read(kernel: &Kernel) -> Overcommit {
        const DEFAULT_RATIO: u64 = 50;
        let number = |name| {
            let text = kernel.proc.shared_record(name).ok()?;
            crate::cgroup::format::parse_number(&text)
        };
        Overcommit {
            ratio: number("sys/vm/overcommit_ratio").unwrap_or(DEFAULT_RATIO),
            kbytes: Bytes::from_kib(number("sys/vm/overcommit_kbytes").unwrap_or(0)),
        }
    }

    /// `vm_commit_limit()` without swap, which counts in whole pages.
    fn limit(self, total: Bytes, hugetlb: Bytes) -> Bytes {
        let pages = |amount: Bytes| amount.0 / page().0;
        let allowed = if self.kbytes == Bytes(0) {
            let share = u128::from(pages(total - hugetlb)) * u128::from(self.ratio) / 100;
            u64::try_from(share).unwrap_or(u64::MAX)
        } else {
            pages(self.kbytes.min(total))
        };
        Bytes(allowed.saturating_mul(page().0))
    }
}

/// A container's huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct HugePages {
    /// Of the default size.
    total: u64,
    /// Of the default size.
    free: u64,
    /// Bytes in huge pages of any size.
    all_sizes: Bytes,
}

/// For each size: as many as the host has and the limits over the levels allow.
fn huge_pages(kernel: &Kernel, scope: &Scope<'_>, host: &Meminfo) -> Result<HugePages> {
    let mut found = HugePages::default();
    if host.hugetlb == Some(Bytes(0)) {
        return Ok(found);
    }
    for (size, host_pages) in kernel.sys.huge_pages() {
        // Of none nobody has any, whatever the limit.
        if host_pages == 0 {
            continue;
        }
        let levels = scope.levels(kernel, Controller::Hugetlb)?;
        let name = size_name(size);
        let mut per_level = Vec::with_capacity(levels.dirs.len());
        for dir in levels.dirs {
            per_level.extend(levels.version.hugetlb(dir, &name)?);
        }
        let (total, free) = fold_huge_pages(&per_level, size, host_pages);
        found.all_sizes = found.all_sizes + Bytes(total.saturating_mul(size.0));
        if size == host.huge_page_size {
            found.total = total;
            found.free = free;
        }
    }
    Ok(found)
}

/// Total and free pages of one size; `levels` nearest first.
fn fold_huge_pages(levels: &[HugetlbLevel], size: Bytes, host_pages: u64) -> (u64, u64) {
    let pages = |bytes: Bytes| bytes.0 / size.0.max(1);
    let limit = tighten(levels.iter().map(|level| level.limit));
    let total = limit.finite().map_or(host_pages, |limit| pages(limit).min(host_pages));
    let used = levels.first().map_or(0, |level| pages(level.usage));
    let rooms = levels.iter().filter_map(|level| Some(pages(level.limit.finite()? - level.usage)));
    (total, rooms.fold(total.saturating_sub(used), u64::min))
}

/// The size as hugetlb's file names spell it, `mem_fmt()` of `mm/hugetlb_cgroup.c`.
fn size_name(size: Bytes) -> String {
    let units = [(30, "GB"), (20, "MB")];
    match units.iter().find(|(shift, _)| size.0 >= 1 << shift) {
        Some((shift, unit)) => format!("{}{unit}", size.0 >> shift),
        None => format!("{}KB", size.kib()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::stats::{MemoryStat, Room, Swap};

    const MIB: u64 = 1 << 20;

    fn host() -> Meminfo {
        let text = "MemTotal: 1024000 kB\nSwapTotal: 524288 kB\nHugepagesize: 2048 kB\n";
        Meminfo::parse(text.into())
    }

    fn domain(limit: Limit<Bytes>, usage: u64) -> stats::Memory {
        stats::Memory {
            limit,
            usage: Bytes(usage * MIB),
            stat: MemoryStat {
                anon: Bytes(10 * MIB),
                shmem: Bytes(5 * MIB),
                active_file: Bytes(20 * MIB),
                inactive_file: Bytes(4 * MIB),
                slab_reclaimable: Bytes(MIB),
                ..MemoryStat::default()
            },
            rooms: Vec::new(),
            swap: None,
            events: MemoryEvents::default(),
        }
    }

    fn run(domain: &stats::Memory) -> Memory {
        let overcommit = Overcommit { ratio: 50, kbytes: Bytes(0) };
        model(&host(), domain, &HugePages::default(), overcommit)
    }

    #[test]
    fn without_a_limit_the_machine_is_the_hosts_with_own_usage() {
        let memory = run(&domain(Limit::Max, 100));
        assert_eq!(memory.total, Bytes(1000 * MIB));
        assert_eq!(memory.free, Bytes(900 * MIB));
        assert_eq!(memory.available, Bytes(925 * MIB));
        assert_eq!((memory.swap_total, memory.swap_free), (Bytes(0), Bytes(0)));
        assert_eq!(memory.commit_limit, Bytes(500 * MIB));
        assert_eq!(memory.committed, Bytes(15 * MIB));
    }

    #[test]
    fn the_tightest_room_over_the_levels_counts() {
        let mut limited = domain(Limit::At(Bytes(400 * MIB)), 100);
        limited.rooms = vec![
            Room { free: Bytes(300 * MIB), reclaimable: Bytes(25 * MIB) },
            Room { free: Bytes(7 * MIB), reclaimable: Bytes(50 * MIB) },
        ];
        let memory = run(&limited);
        assert_eq!(memory.total, Bytes(400 * MIB));
        assert_eq!(memory.free, Bytes(7 * MIB));
        assert_eq!(memory.available, Bytes(57 * MIB));
    }

    #[test]
    fn usage_beyond_the_limit_and_a_limit_of_nothing() {
        let memory = run(&domain(Limit::At(Bytes(50 * MIB)), 60));
        assert_eq!((memory.free, memory.available), (Bytes(0), Bytes(25 * MIB)));
        let memory = run(&domain(Limit::At(Bytes(0)), 0));
        assert_eq!((memory.total, memory.free), (page(), page()));
        // Reclaimable memory beyond the limit makes no more available than there is.
        let memory = run(&domain(Limit::At(Bytes(20 * MIB)), 19));
        assert_eq!(memory.available, Bytes(20 * MIB));
    }

    #[test]
    fn a_machine_without_swap() {
        let mut shown = domain(Limit::Max, 100);
        shown.swap = Some(Swap {
            limit: SwapLimit::Swap(Limit::Max),
            used: Bytes(30 * MIB),
            rooms: Vec::new(),
        });
        let some = Bytes(MIB);
        (shown.stat.swapcached, shown.stat.zswap, shown.stat.zswapped) = (some, some, some);
        let swap = |view: SwapView| {
            let mut domain = shown.clone();
            view.apply(&mut domain);
            let memory = run(&domain);
            let stat = memory.stat;
            ([memory.swap_total, memory.swap_free, stat.swapcached], [stat.zswap, stat.zswapped])
        };
        let (none, all) = (Bytes(0), [Bytes(512 * MIB), Bytes(482 * MIB), some]);
        assert_eq!(swap(SwapView::default()), (all, [some; 2]));
        let zswap_hidden = true;
        assert_eq!(swap(SwapView { zswap_hidden, hidden: false }), (all, [none; 2]));
        for zswap_hidden in [false, true] {
            assert_eq!(swap(SwapView { hidden: true, zswap_hidden }), ([none; 3], [none; 2]));
        }
    }

    #[test]
    fn swap_by_itself() {
        let mut limited = domain(Limit::At(Bytes(200 * MIB)), 100);
        limited.swap = Some(Swap {
            limit: SwapLimit::Swap(Limit::At(Bytes(100 * MIB))),
            used: Bytes(30 * MIB),
            rooms: vec![Bytes(70 * MIB), Bytes(8 * MIB)],
        });
        let memory = run(&limited);
        assert_eq!((memory.swap_total, memory.swap_free), (Bytes(100 * MIB), Bytes(8 * MIB)));
        assert_eq!(memory.committed, Bytes(45 * MIB));
        assert_eq!(memory.commit_limit, Bytes(200 * MIB));
        limited.swap =
            Some(Swap { limit: SwapLimit::Swap(Limit::Max), used: Bytes(12 * MIB), rooms: vec![] });
        let memory = run(&limited);
        assert_eq!((memory.swap_total, memory.swap_free), (Bytes(512 * MIB), Bytes(500 * MIB)));
        limited.swap = Some(Swap {
            limit: SwapLimit::Swap(Limit::At(Bytes(0))),
            used: Bytes(12 * MIB),
            rooms: vec![Bytes(0)],
        });
        let memory = run(&limited);
        assert_eq!((memory.swap_total, memory.swap_free), (Bytes(12 * MIB), Bytes(0)));
    }

    #[test]
    fn swap_together_with_memory() {
        let mut limited = domain(Limit::At(Bytes(300 * MIB)), 100);
        let mut swap = Swap {
            limit: SwapLimit::MemoryAndSwap(Limit::At(Bytes(500 * MIB))),
            used: Bytes(10 * MIB),
            rooms: vec![Bytes(390 * MIB)],
        };
        limited.swap = Some(swap.clone());
        let memory = run(&limited);
        assert_eq!((memory.swap_total, memory.swap_free), (Bytes(200 * MIB), Bytes(190 * MIB)));
        swap.limit = SwapLimit::MemoryAndSwap(Limit::Max);
        swap.rooms = vec![];
        limited.swap = Some(swap.clone());
        let memory = run(&limited);
        assert_eq!((memory.swap_total, memory.swap_free), (Bytes(512 * MIB), Bytes(502 * MIB)));
        swap.limit = SwapLimit::MemoryAndSwap(Limit::At(Bytes(2000 * MIB)));
        limited.swap = Some(swap);
        assert_eq!(run(&limited).swap_total, Bytes(512 * MIB));
    }

    #[test]
    fn commit_limit_by_ratio_or_by_size() {
        let pages = |count: u64| Bytes(count * page().0);
        let ratio = Overcommit { ratio: 80, kbytes: Bytes(0) };
        assert_eq!(ratio.limit(pages(1000), pages(100)), pages(720));
        assert_eq!(ratio.limit(pages(1001), pages(100)), pages(720));
        assert_eq!(ratio.limit(pages(1), pages(2)), pages(0));
        let fixed = Overcommit { ratio: 80, kbytes: pages(600) + Bytes(1) };
        assert_eq!(fixed.limit(pages(1000), pages(100)), pages(600));
        assert_eq!(fixed.limit(pages(500), pages(100)), pages(500));
        let all = Overcommit { ratio: u64::MAX, kbytes: Bytes(0) };
        assert_eq!(all.limit(pages(1000), pages(0)), Bytes(u64::MAX));
    }

    #[test]
    fn huge_pages_by_limit_and_usage() {
        let size = Bytes(2 * MIB);
        let level = |limit, usage: u64| HugetlbLevel { limit, usage: Bytes(usage * MIB) };
        assert_eq!(fold_huge_pages(&[], size, 16), (16, 16));
        assert_eq!(fold_huge_pages(&[level(Limit::Max, 4)], size, 16), (16, 14));
        let limited = level(Limit::At(Bytes(8 * MIB)), 2);
        assert_eq!(fold_huge_pages(&[limited], size, 16), (4, 3));
        assert_eq!(fold_huge_pages(&[limited], size, 3), (3, 2));
        let full = level(Limit::At(Bytes(10 * MIB)), 10);
        assert_eq!(fold_huge_pages(&[limited, full], size, 16), (4, 0));
    }

    #[test]
    fn size_names_are_the_kernels() {
        assert_eq!(size_name(Bytes(2 * MIB)), "2MB");
        assert_eq!(size_name(Bytes(1 << 30)), "1GB");
        assert_eq!(size_name(Bytes(64 * 1024)), "64KB");
    }
}
