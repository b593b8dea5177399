//! Control groups: which hierarchy has a controller, and what its files say.
//!
//! [`layout`], [`path`] and [`mod@format`] are pure; [`dir`] does all reading of files, and
//! [`taskstats`] and [`moves`] ask what no file tells; `v1` and `v2` know
//! file names and quirks, and neither knows the other. Above this module nobody tells the
//! versions apart: [`Version`]'s methods choose.

pub mod apply;
pub mod devices;
pub mod dir;
pub mod format;
pub mod layout;
pub mod limits;
pub mod moves;
pub mod path;
pub mod stats;
pub mod taskstats;
mod v1;
mod v2;

use crate::cpulist::CpuSet;
use crate::error::Result;
use crate::units::{Bytes, Nsec};

use dir::CgroupDir;
use format::Bandwidth;
use layout::Version;
use stats::{Activity, CpuUsage, Cpuset, HugetlbLevel, Io, Memory, Resource};
use taskstats::{TaskStates, Taskstats};

/// The readers of a cgroup's files. `levels` is a cgroup and its ancestors, nearest first,
/// without the hierarchy's root; a controller that is not enabled answers none.
impl Version {
    /// The memory domain of `levels[0]`; none where no level accounts memory. `host_total`
    /// is the machine's memory: a v1 limit that large is none.
    ///
    /// # Errors
    /// [`crate::error::Error::Gone`] where the cgroup has been removed; I/O and malformed
    /// files.
    pub fn memory(self, levels: &[CgroupDir], host_total: Bytes) -> Result<Option<Memory>> {
        match self {
            Version::V1 => v1::memory(levels, host_total),
            Version::V2 => v2::memory(levels),
        }
    }

    /// Whether the limits of memory of a cgroup that has others below it bind these too. Asked of
    /// a hierarchy's root, it need be asked of no other cgroup there where they do.
    ///
    /// # Errors
    /// As [`CgroupDir::read_value`].
    pub fn is_hierarchical(self, dir: &CgroupDir) -> Result<bool> {
        match self {
            Version::V1 => v1::is_hierarchical(dir),
            Version::V2 => Ok(true),
        }
    }

    /// Huge pages of one size at one level.
    ///
    /// # Errors
    /// As [`CgroupDir::read_value`].
    pub fn hugetlb(self, dir: &CgroupDir, size: &str) -> Result<Option<HugetlbLevel>> {
        match self {
            Version::V1 => v1::hugetlb(dir, size),
            Version::V2 => v2::hugetlb(dir, size),
        }
    }

    /// The names of the files that tell a cgroup's limits of a resource, and its use of it.
    #[must_use]
    pub fn limit_files(self, resource: Resource) -> &'static [&'static str] {
        match self {
            Version::V1 => v1::limit_files(resource),
            Version::V2 => v2::limit_files(resource),
        }
    }

    /// The slab caches of the cgroup in the form of `/proc/slabinfo`: v1's
    /// `memory.kmem.slabinfo`, which is empty since Linux 5.9.
    ///
    /// # Errors
    /// As [`CgroupDir::read`].
    pub fn slabinfo(self, dir: &CgroupDir) -> Result<Option<Vec<u8>>> {
        match self {
            Version::V1 => dir.read_list("memory.kmem.slabinfo"),
            Version::V2 => Ok(None),
        }
    }

    /// The CPU bandwidth limit of one level.
    ///
    /// # Errors
    /// As [`CgroupDir::read_value`].
    pub fn bandwidth(self, dir: &CgroupDir) -> Result<Option<Bandwidth>> {
        match self {
            Version::V1 => v1::bandwidth(dir),
            Version::V2 => v2::bandwidth(dir),
        }
    }

    /// The CPUs that tasks of one level may run on.
    ///
    /// # Errors
    /// As [`CgroupDir::read_value`].
    pub fn cpuset(self, dir: &CgroupDir) -> Result<Cpuset> {
        match self {
            Version::V1 => v1::cpuset(dir),
            Version::V2 => v2::cpuset(dir),
        }
    }

    /// The memory nodes that tasks of one level may use.
    ///
    /// # Errors
    /// As [`CgroupDir::read_value`].
    pub fn mems(self, dir: &CgroupDir) -> Result<Cpuset> {
        let file = match self {
            Version::V1 => v1::MEMS,
            Version::V2 => v2::MEMS,
        };
        let nodes = dir.read_value(file, CpuSet::parse, "a list of nodes")?;
        Ok(nodes.filter(|nodes| !nodes.is_empty()))
    }

    /// CPU time used by the cgroup and all below it.
    ///
    /// # Errors
    /// As [`CgroupDir::read`].
    pub fn cpu_usage(self, dir: &CgroupDir) -> Result<Option<CpuUsage>> {
        match self {
            Version::V1 => v1::cpu_usage(dir),
            Version::V2 => v2::cpu_usage(dir),
        }
    }

    /// CPU time for which the cgroup's tasks were throttled, summed over CPUs.
    ///
    /// # Errors
    /// As [`CgroupDir::read`].
    pub fn throttled(self, dir: &CgroupDir) -> Result<Nsec> {
        match self {
            Version::V1 => v1::throttled(dir),
            Version::V2 => v2::throttled(dir),
        }
    }

    /// I/O counts by device.
    ///
    /// # Errors
    /// As [`CgroupDir::read`].
    pub fn io(self, dir: &CgroupDir) -> Result<Option<Io>> {
        match self {
            Version::V1 => v1::io(dir),
            Version::V2 => v2::io(dir),
        }
    }

    /// Whether the cgroup is frozen, by itself or by an ancestor.
    ///
    /// # Errors
    /// As [`CgroupDir::read`].
    pub fn is_frozen(self, dir: &CgroupDir) -> Result<bool> {
        match self {
            Version::V1 => v1::is_frozen(dir),
            Version::V2 => v2::is_frozen(dir),
        }
    }

    /// What stands still while no task of the cgroup or below it runs, or waits to; none where the
    /// hierarchy does not count it.
    ///
    /// # Errors
    /// As [`CgroupDir::read_value`].
    pub fn activity(self, dir: &CgroupDir) -> Result<Option<Activity>> {
        match self {
            Version::V1 => v1::activity(dir),
            Version::V2 => v2::activity(dir),
        }
    }

    /// What the cgroup's own tasks are doing, by the kernel's own count; none where it does not
    /// count: on v2.
    ///
    /// # Errors
    /// As [`CgroupDir::open_itself`].
    pub fn task_states(
        self,
        dir: &CgroupDir,
        taskstats: &mut Taskstats,
    ) -> Result<Option<TaskStates>> {
        match self {
            Version::V1 => v1::task_states(dir, taskstats),
            Version::V2 => Ok(None),
        }
    }

    /// The name of the file that lists a cgroup's own threads, one id a line.
    #[must_use]
    pub fn threads_file(self) -> &'static str {
        match self {
            Version::V1 => v1::THREADS,
            Version::V2 => v2::THREADS,
        }
    }
}
