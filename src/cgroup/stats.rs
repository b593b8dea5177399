//! What a cgroup's files say, in types that know neither version.

use serde::{Deserialize, Serialize};

use crate::cpulist::CpuSet;
use crate::procfs::diskstats::Device;
use crate::units::{Bytes, Limit, Nsec};

use super::format::{Bandwidth, flat_keyed};

/// The memory that a cgroup and all below it use, by kind: `memory.stat`. A key that the
/// kernel does not print is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are memory.stat's own keys, named as v2 names them")]
pub struct MemoryStat {
    pub file: Bytes,
    pub swapcached: Bytes,
    pub active_anon: Bytes,
    pub inactive_anon: Bytes,
    pub active_file: Bytes,
    pub inactive_file: Bytes,
    pub unevictable: Bytes,
    pub file_dirty: Bytes,
    pub file_writeback: Bytes,
    pub anon: Bytes,
    pub file_mapped: Bytes,
    pub shmem: Bytes,
    pub slab_reclaimable: Bytes,
    pub slab_unreclaimable: Bytes,
    pub kernel_stack: Bytes,
    pub pagetables: Bytes,
    pub sec_pagetables: Bytes,
    pub percpu: Bytes,
    pub vmalloc: Bytes,
    pub anon_thp: Bytes,
    pub shmem_thp: Bytes,
    pub file_thp: Bytes,
    pub zswap: Bytes,
    pub zswapped: Bytes,
}

impl MemoryStat {
    /// The same kinds, each amount changed by `change`.
    #[must_use]
    pub fn map(&self, change: impl Fn(Bytes) -> Bytes) -> MemoryStat {
        MemoryStat {
            file: change(self.file),
            swapcached: change(self.swapcached),
            active_anon: change(self.active_anon),
            inactive_anon: change(self.inactive_anon),
            active_file: change(self.active_file),
            inactive_file: change(self.inactive_file),
            unevictable: change(self.unevictable),
            file_dirty: change(self.file_dirty),
            file_writeback: change(self.file_writeback),
            anon: change(self.anon),
            file_mapped: change(self.file_mapped),
            shmem: change(self.shmem),
            slab_reclaimable: change(self.slab_reclaimable),
            slab_unreclaimable: change(self.slab_unreclaimable),
            kernel_stack: change(self.kernel_stack),
            pagetables: change(self.pagetables),
            sec_pagetables: change(self.sec_pagetables),
            percpu: change(self.percpu),
            vmalloc: change(self.vmalloc),
            anon_thp: change(self.anon_thp),
            shmem_thp: change(self.shmem_thp),
            file_thp: change(self.file_thp),
            zswap: change(self.zswap),
            zswapped: change(self.zswapped),
        }
    }

    /// What the kernel can take back without swapping.
    #[must_use]
    pub fn reclaimable(&self) -> Bytes {
        self.active_file + self.inactive_file + self.slab_reclaimable
    }
}

/// One limited level on the way from a container's memory domain up to the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What may still be charged: limit − usage.
    pub free: Bytes,
    /// What could be reclaimed at this level.
    pub reclaimable: Bytes,
}

/// How a hierarchy limits swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapLimit {
    /// v2 `memory.swap.max`: swap alone.
    Swap(Limit<Bytes>),
    /// v1 `memory.memsw.limit_in_bytes`: memory and swap together.
    MemoryAndSwap(Limit<Bytes>),
}

impl SwapLimit {
    /// The limit's value, whatever it counts.
    #[must_use]
    pub fn limit(self) -> Limit<Bytes> {
        match self {
            SwapLimit::Swap(limit) | SwapLimit::MemoryAndSwap(limit) => limit,
        }
    }
}

/// Swap as the memory domain accounts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swap {
    /// The tightest limit over the levels.
    pub limit: SwapLimit,
    /// Swap in use by the domain and all below it.
    pub used: Bytes,
    /// At each limited level, what may still be swapped out.
    pub rooms: Vec<Bytes>,
}

/// A container's memory domain: the nearest level that accounts memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The tightest limit over the domain and its ancestors.
    pub limit: Limit<Bytes>,
    /// What the domain uses.
    pub usage: Bytes,
    /// What it uses, by kind.
    pub stat: MemoryStat,
    /// The domain and those of its ancestors that have a limit.
    pub rooms: Vec<Room>,
    /// None where the kernel does not account swap per cgroup.
    pub swap: Option<Swap>,
    /// What happened in it.
    pub events: MemoryEvents,
}

/// The counters of events among memory.stat's keys, which have the names of `/proc/vmstat`'s
/// lines: `pgfault`, `workingset_refault_anon`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryEvents {
    /// memory.stat.
    pub text: Vec<u8>,
    /// What stands before the names: v1's `total_`, which counts all cgroups below too.
    pub prefix: &'static str,
}

impl MemoryEvents {
    /// All of them by name; and other keys, in bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let named = |(key, value): (_, u64)| Some((str::strip_prefix(key, self.prefix)?, value));
        flat_keyed(&self.text).filter_map(named)
    }
}

impl Memory {
    /// Whether any level limits memory or swap.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.limit != Limit::Max
            || self.swap.as_ref().is_some_and(|swap| swap.limit.limit() != Limit::Max)
    }
}

/// What a cgroup limits, level by level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Memory and swap.
    Memory,
    /// CPU time.
    Cpu,
    /// Which CPUs and memory nodes.
    Cpuset,
}

/// Huge pages of one size at one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugetlbLevel {
    /// The most that may be used.
    pub limit: Limit<Bytes>,
    /// What is used.
    pub usage: Bytes,
}

/// CPU time that a cgroup and all below it used since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuUsage {
    /// In user mode, without `nice`.
    pub user: Nsec,
    /// In user mode at a positive nice value; 0 before v2's Linux 6.11 and on v1.
    pub nice: Nsec,
    /// In the kernel.
    pub system: Nsec,
    /// v1 `cpuacct.usage_all`: how much each physical CPU ran. Sampled at ticks, so good for
    /// weights only. Empty on v2, which does not tell.
    pub per_cpu: Vec<(u32, Nsec)>,
}

/// What grows whenever a task of a cgroup, or below it, runs or waits to. While it stands still
/// every task stays in the state in which it is, and none begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// CPU time used.
    pub usage: Nsec,
    /// Time for which some task was ready, but did not run; 0 on v1, and where the kernel does
    /// not tell.
    pub waited: Nsec,
}

/// What a cgroup read from and wrote to one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields are io.stat's own keys")]
pub struct IoCounts {
    pub rbytes: u64,
    pub wbytes: u64,
    pub dbytes: u64,
    pub rios: u64,
    pub wios: u64,
    pub dios: u64,
}

/// The I/O counts of all devices that the cgroup has counts for, in the kernel's order.
pub type Io = Vec<(Device, IoCounts)>;

/// Folds the CPU bandwidths over a container and its ancestors into a number of CPUs, as
/// quota/period of the level where that is smallest.
#[must_use]
pub fn tightest(levels: impl IntoIterator<Item = Option<Bandwidth>>) -> Option<Bandwidth> {
    levels.into_iter().flatten().min_by(|a, b| {
        let left = u128::from(a.quota) * u128::from(b.period);
        let right = u128::from(b.quota) * u128::from(a.period);
        left.cmp(&right)
    })
}

/// Folds limits over a container and its ancestors: the smallest wins.
#[must_use]
pub fn tighten<T: Ord + Copy>(levels: impl IntoIterator<Item = Limit<T>>) -> Limit<T> {
    levels.into_iter().fold(Limit::Max, Limit::tighten)
}

/// A cpuset as one level states it; none where the level has no cpuset files, or an empty
/// one, which v1 allows before CPUs are assigned.
pub type Cpuset = Option<CpuSet>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_limit_over_the_levels() {
        assert_eq!(tighten([Limit::At(6), Limit::Max, Limit::At(5)]), Limit::At(5));
        assert_eq!(tighten::<u64>([]), Limit::Max);
    }

    #[test]
    fn limited_is_what_has_a_limit_of_memory_or_of_swap() {
        let memory = |limit, swap| Memory {
            limit,
            usage: Bytes(0),
            stat: MemoryStat::default(),
            rooms: Vec::new(),
            swap,
            events: MemoryEvents::default(),
        };
        let swap = |limit| Some(Swap { limit, used: Bytes(0), rooms: Vec::new() });
        assert!(!memory(Limit::Max, None).is_limited());
        assert!(memory(Limit::At(Bytes(1)), None).is_limited());
        assert!(!memory(Limit::Max, swap(SwapLimit::Swap(Limit::Max))).is_limited());
        assert!(memory(Limit::Max, swap(SwapLimit::Swap(Limit::At(Bytes(1))))).is_limited());
        let both = SwapLimit::MemoryAndSwap(Limit::At(Bytes(1)));
        assert!(memory(Limit::Max, swap(both)).is_limited());
        assert!(memory(Limit::At(Bytes(1)), swap(SwapLimit::Swap(Limit::Max))).is_limited());
    }

    #[test]
    fn the_smallest_fraction_of_cpus() {
        let third = Bandwidth { quota: 1, period: 3 };
        let half = Bandwidth { quota: 50_000, period: 100_000 };
        assert_eq!(tightest([Some(half), None, Some(third)]), Some(third));
        assert_eq!(tightest([Some(third), Some(half)]), Some(third));
        assert_eq!(tightest([None, None]), None);
    }

    #[test]
    fn reclaimable_is_file_pages_and_slab() {
        let stat = MemoryStat {
            file: Bytes(1000),
            active_file: Bytes(1),
            inactive_file: Bytes(20),
            slab_reclaimable: Bytes(300),
            ..MemoryStat::default()
        };
        assert_eq!(stat.reclaimable(), Bytes(321));
    }
}
