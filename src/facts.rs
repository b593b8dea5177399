//! What a file is rendered from: plain data, handed from [`crate::collect`] to
//! [`crate::render`].

use std::sync::Arc;

pub use crate::cgroup::stats::{IoCounts, MemoryEvents, MemoryStat};
pub use crate::cpulist::{CpuSet, Present};
pub use crate::history::cpu::{CpuTimes, Shown};
pub use crate::procfs::Text;
pub use crate::procfs::diskstats::Line as DiskLine;
pub use crate::procfs::lines;
pub use crate::procfs::meminfo::{Line as MeminfoLine, Meminfo, parse_line as parse_meminfo_line};
use crate::units::{Bytes, Nsec};

/// The facts behind one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Facts {
    /// The host's file is the truth for this reader.
    Verbatim(Vec<u8>),
    /// The cgroup has a file of this form itself: pressure, and v1's slabinfo.
    Own(Vec<u8>),
    /// `/proc/meminfo`.
    Meminfo {
        /// The host's file: its lines and their order.
        host: Arc<Meminfo>,
        /// The container's memory.
        memory: Memory,
    },
    /// `/proc/vmstat`.
    Vmstat {
        /// The host's file: its lines and their order.
        host: Text,
        /// The container's memory.
        memory: Memory,
        /// What happened in it.
        events: MemoryEvents,
        /// What it read from disks and wrote to them; none for a process of the host.
        io: Option<IoCounts>,
        /// How large the pages are that are counted.
        pages: PageSizes,
    },
    /// `/proc/slabinfo` of a container for which nobody counts.
    SlabinfoHeader {
        /// The host's file: its header.
        host: Text,
    },
    /// `/proc/swaps`.
    Swaps {
        /// The host's file: its header.
        host: Text,
        /// `SwapTotal` of the same container.
        total: Bytes,
        /// `SwapTotal` − `SwapFree`.
        used: Bytes,
    },
    /// `/proc/cpuinfo`.
    Cpuinfo {
        /// The host's file.
        host: Text,
        /// The container's CPUs.
        present: Present,
    },
    /// `/proc/stat`.
    Stat {
        /// The host's file: the lines that are the host's, and the order.
        host: Text,
        /// How many numbers a `cpu` line has.
        columns: usize,
        /// The container's CPU times.
        times: CpuTimes,
        /// `btime`; none where the host's line has no number.
        boot_time: Option<u64>,
        /// The container's tasks.
        tasks: Tasks,
    },
    /// `/proc/uptime`.
    Uptime {
        /// Since the container began.
        up: Nsec,
        /// Idle time, summed over CPUs.
        idle: Nsec,
    },
    /// `/proc/loadavg`.
    Loadavg {
        /// The three averages, in hundredths.
        averages: [u64; 3],
        /// The container's tasks.
        tasks: Tasks,
    },
    /// `/proc/diskstats`.
    Diskstats {
        /// The disks that the container used, in the host's order.
        disks: Vec<(DiskLine, IoCounts)>,
    },
    /// A list of CPUs: `/sys/devices/system/cpu/online` and others.
    CpuList {
        /// These.
        cpus: CpuSet,
    },
    /// A bit map of CPUs: `/sys/devices/system/cpu/cpu*/topology/core_cpus` and others.
    CpuMap {
        /// The host's file: its CPUs, and how wide it is.
        host: Vec<u8>,
        /// The container's CPUs.
        present: Present,
    },
    /// `/sys/devices/system/node/node*/meminfo`.
    NodeMeminfo {
        /// The host's file: its lines and their order.
        host: Vec<u8>,
        /// The container's memory on this node.
        memory: Memory,
    },
    /// `/sys/devices/system/node/node*/distance`.
    Distances {
        /// The host's file: one line, a number for each of its nodes.
        host: Vec<u8>,
        /// Which of them are of nodes that the container has, counted from 0.
        kept: Vec<usize>,
    },
    /// `/sys/devices/system/cpu/smt/active`.
    SmtActive(bool),
}

/// A container's tasks at the load sampler's last pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tasks {
    /// Running or runnable (state R).
    pub running: u64,
    /// In uninterruptible sleep (state D).
    pub blocked: u64,
    /// All threads.
    pub total: u64,
    /// The highest process id seen, as the container numbers them.
    pub last_pid: u32,
}

/// What a page is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageSizes {
    /// An ordinary one.
    pub page: Bytes,
    /// A transparent huge one; 0 where the kernel has none.
    pub transparent_huge: Bytes,
}

/// A container's memory: one computation behind `meminfo` and `swaps`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// `MemTotal`: the tightest limit, at most the host's memory, at least one page.
    pub total: Bytes,
    /// `MemFree`: what may still be charged.
    pub free: Bytes,
    /// `MemAvailable`: that and what could be reclaimed.
    pub available: Bytes,
    /// What is used, by kind.
    pub stat: MemoryStat,
    /// `SwapTotal`; at least what is used.
    pub swap_total: Bytes,
    /// `SwapFree`.
    pub swap_free: Bytes,
    /// Swap in use.
    pub swap_used: Bytes,
    /// `HugePages_Total`, of the default size.
    pub huge_pages_total: u64,
    /// `HugePages_Free`, of the default size.
    pub huge_pages_free: u64,
    /// `Hugetlb`: huge pages of all sizes.
    pub hugetlb: Bytes,
    /// `CommitLimit`.
    pub commit_limit: Bytes,
    /// `Committed_AS`.
    pub committed: Bytes,
    /// `CmaTotal`, the host's.
    pub cma_total: Bytes,
}
