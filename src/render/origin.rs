//! Where the lines of a file come from, in words: what `explain` tells.

use std::borrow::Cow;

use crate::facts::Facts;

use super::{meminfo, vmstat};

/// Where a line comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is the host's.
    Host,
    /// No cgroup counts anything of its kind: 0.
    Nothing,
    /// It is the container's.
    Cgroup {
        /// What it is made of on cgroup v2.
        v2: Cow<'static, str>,
        /// What it is made of on v1.
        v1: Cow<'static, str>,
    },
}

/// The words for v1 where they are those for v2.
pub(super) const SAME: &str = "";

impl Origin {
    pub(super) fn made_of(v2: &'static str, v1: &'static str) -> Origin {
        let v1 = if v1 == SAME { v2 } else { v1 };
        Origin::Cgroup { v2: v2.into(), v1: v1.into() }
    }
}

const PRESENT: (&str, &str) = (
    "the first of cpuset.cpus.effective, as many as the least cpu.max pays for",
    "the first of cpuset.effective_cpus, as many as the least cpu.cfs_quota_us pays for",
);

/// Where a line of the file that is rendered from `facts` comes from; none for one that no known
/// kernel prints.
#[must_use]
pub fn origin(facts: &Facts, line: &str) -> Option<Origin> {
    let (present_v2, present_v1) = PRESENT;
    let present = || Origin::made_of(present_v2, present_v1);
    let tasks = || Origin::made_of("the tasks of the cgroup and all below it", SAME);
    Some(match facts {
        Facts::Verbatim(_) => Origin::Host,
        Facts::Own(_) => Origin::made_of("the cgroup's own file of this kind", SAME),
        Facts::Meminfo { .. } => return meminfo::origin(line),
        Facts::NodeMeminfo { .. } => Origin::made_of(
            "the line of meminfo, spread over the nodes as the host's memory is",
            SAME,
        ),
        Facts::Vmstat { .. } => return vmstat::origin(line),
        Facts::SlabinfoHeader { .. } => Origin::Host,
        Facts::Swaps { .. } if line.starts_with("Filename") => Origin::Host,
        Facts::Swaps { .. } => Origin::made_of("SwapTotal and SwapFree of meminfo", SAME),
        Facts::Cpuinfo { .. } => match line.split(':').next().unwrap_or_default().trim_end() {
            "processor" | "cpu number" => present(),
            "siblings" | "cpu cores" | "# processors" => {
                Origin::made_of("counted over the CPUs that are shown", SAME)
            }
            _ => Origin::Host,
        },
        Facts::CpuList { .. } => Origin::made_of(
            "by the CPUs that are shown, as in cpuinfo, or the nodes of the cpuset",
            SAME,
        ),
        Facts::CpuMap { .. } => {
            Origin::made_of("the host's, without the CPUs that are not shown", SAME)
        }
        Facts::Distances { .. } => Origin::made_of("the host's, of the nodes that are shown", SAME),
        Facts::SmtActive(_) => {
            Origin::made_of("whether two of the CPUs that are shown share a core", SAME)
        }
        Facts::Stat { boot_time, .. } => match line.split(' ').next().unwrap_or_default() {
            "procs_running" | "procs_blocked" => tasks(),
            "btime" if boot_time.is_some() => {
                Origin::made_of("the host's, moved by the reader's time namespace", SAME)
            }
            key if key.starts_with("cpu") => Origin::made_of(
                "cpu.stat user_usec, nice_usec, system_usec; throttled_usec as steal",
                "cpuacct.stat and cpuacct.usage_all; throttled_time of cpu.stat as steal",
            ),
            _ => Origin::Host,
        },
        Facts::Uptime { .. } => Origin::made_of(
            "the reader's time namespace, else since the container began; idle of stat's cpu line",
            SAME,
        ),
        Facts::Loadavg { .. } => tasks(),
        Facts::Diskstats { .. } => {
            Origin::made_of("io.stat", "blkio.bfq.*_recursive or blkio.throttle.*_recursive")
        }
    })
}
