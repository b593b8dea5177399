//! What a container may use, and the files of a new cgroup that say so. Nothing is written here.

use serde::{Deserialize, Serialize};

use super::devices::{self, DeviceAccess};
use super::layout::{Layout, Version};
use crate::cpulist::CpuSet;
use crate::error::{Error, Result};
use crate::units::{Bytes, Limit, Usec};

/// The period of a CPU bandwidth limit: the kernel's default, and Docker's.
pub const CPU_PERIOD: Usec = Usec(100_000);

/// What a container may use beyond what the cgroups above it allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory.
    pub memory: Limit<Bytes>,
    /// Memory and swap together, where memory is limited.
    pub memory_and_swap: MemoryAndSwap,
    /// CPU time per [`CPU_PERIOD`]; not beside the two that follow.
    pub cpus: Limit<Usec>,
    /// CPU time per period.
    pub cpu_quota: Limit<Usec>,
    /// The period; none for [`CPU_PERIOD`].
    pub cpu_period: Option<Usec>,
    /// The CPUs it may run on.
    pub cpuset_cpus: Option<CpuSet>,
    /// Processes and threads.
    pub pids: Limit<u64>,
    /// Devices.
    pub devices: DeviceAccess,
}

/// A limit of memory and swap together, as `docker run` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryAndSwap {
    /// Twice the memory.
    #[default]
    Twice,
    /// This much.
    Asked(Limit<Bytes>),
}

/// One write into a file of a new cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The file's name.
    pub file: &'static str,
    /// What is written.
    pub value: String,
    /// Whether a kernel may lack the file (swap accounting switched off).
    pub optional: bool,
}

impl Write {
    fn new(file: &'static str, value: impl ToString) -> Self {
        Write { file, value: value.to_string(), optional: false }
    }

    fn optional(file: &'static str, value: impl ToString) -> Self {
        Write { optional: true, ..Write::new(file, value) }
    }
}

/// The writes, in their order, that set `limits` in a new cgroup of a hierarchy of `version`
/// that has `controllers` (by the names of that version).
///
/// Each hierarchy sets what it has; [`Limits::check`] finds what none has.
#[must_use]
pub fn writes(version: Version, controllers: &[String], limits: &Limits) -> Vec<Write> {
    let has = |name: &str| controllers.iter().any(|controller| controller == name);
    let mut writes = Vec::new();
    if let Limit::At(memory) = limits.memory
        && has("memory")
    {
        let both = match limits.memory_and_swap {
            MemoryAndSwap::Twice => Limit::At(memory + memory),
            MemoryAndSwap::Asked(both) => both,
        };
        match version {
            // memory+swap may never be below memory: the limit that is to be the lower first.
            Version::V1 => {
                writes.push(Write::new("memory.limit_in_bytes", memory.0));
                if let Limit::At(both) = both {
                    writes.push(Write::optional("memory.memsw.limit_in_bytes", both.0));
                }
            }
            Version::V2 => {
                writes.push(Write::new("memory.max", memory.0));
                if let Limit::At(both) = both {
                    writes.push(Write::optional("memory.swap.max", (both - memory).0));
                }
            }
        }
    }
    if let Some((quota, period)) = limits.bandwidth()
        && has("cpu")
    {
        match version {
            Version::V1 => {
                writes.push(Write::new("cpu.cfs_period_us", period.0));
                if let Limit::At(quota) = quota {
                    writes.push(Write::new("cpu.cfs_quota_us", quota.0));
                }
            }
            Version::V2 => {
                let quota = quota.finite().map_or("max".to_owned(), |quota| quota.0.to_string());
                writes.push(Write::new("cpu.max", format!("{quota} {}", period.0)));
            }
        }
    }
    if let Some(cpus) = limits.cpuset_cpus.as_ref().filter(|_| has("cpuset")) {
        writes.push(Write::new("cpuset.cpus", cpus));
    }
    if let Limit::At(pids) = limits.pids
        && has("pids")
    {
        writes.push(Write::new("pids.max", pids));
    }
    if limits.devices == DeviceAccess::Usual && version == Version::V1 && has("devices") {
        let rules = devices::v1_writes().into_iter();
        writes.extend(rules.map(|(file, value)| Write::new(file, value)));
    }
    writes
}

impl Limits {
    /// The CPU time per period, and the period, if either was asked for.
    fn bandwidth(&self) -> Option<(Limit<Usec>, Usec)> {
        let quota = self.cpus.tighten(self.cpu_quota);
        let is_asked = quota != Limit::Max || self.cpu_period.is_some();
        is_asked.then(|| (quota, self.cpu_period.unwrap_or(CPU_PERIOD)))
    }

    /// Whether this host can hold a container to these limits.
    ///
    /// # Errors
    /// [`Error::Refused`] names the controller that is nowhere mounted.
    pub fn check(&self, layout: &Layout) -> Result<()> {
        let needed = [
            (self.memory != Limit::Max, "memory"),
            (self.bandwidth().is_some(), "cpu"),
            (self.cpuset_cpus.is_some(), "cpuset"),
            (self.pids != Limit::Max, "pids"),
        ];
        for (needed, controller) in needed {
            if needed && layout.controller(controller).is_none() {
                return Err(Error::Refused(format!(
                    "this host has no cgroup controller {controller:?} to set the limit with"
                )));
            }
        }
        if self.devices == DeviceAccess::Usual
            && layout.controller("devices").is_none()
            && layout.unified_mount().is_none()
        {
            return Err(Error::Refused(
                "this host has neither the cgroup controller \"devices\" nor cgroup2 to keep a \
                 container off its devices; --privileged runs one without"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn shown(writes: &[Write]) -> Vec<String> {
        let line = |write: &Write| {
            let optional = if write.optional { "?" } else { "" };
            format!("{}{optional}={}", write.file, write.value)
        };
        writes.iter().map(line).collect()
    }

    fn limits() -> Limits {
        Limits {
            memory: Limit::At(Bytes(256 << 20)),
            cpus: Limit::At(Usec(150_000)),
            cpuset_cpus: CpuSet::parse(b"0-1"),
            pids: Limit::At(5),
            ..Limits::default()
        }
    }

    #[test]
    fn v1_sets_memory_before_memory_and_swap() {
        assert_eq!(
            shown(&writes(Version::V1, &names(&["memory"]), &limits())),
            ["memory.limit_in_bytes=268435456", "memory.memsw.limit_in_bytes?=536870912"]
        );
        assert_eq!(
            shown(&writes(Version::V1, &names(&["cpu", "cpuacct"]), &limits())),
            ["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=150000"]
        );
        assert_eq!(
            shown(&writes(Version::V1, &names(&["cpuset"]), &limits())),
            ["cpuset.cpus=0-1"]
        );
        assert_eq!(shown(&writes(Version::V1, &names(&["pids"]), &limits())), ["pids.max=5"]);
        assert!(writes(Version::V1, &names(&["blkio"]), &limits()).is_empty());
    }

    #[test]
    fn v2_sets_what_it_has() {
        assert_eq!(
            shown(&writes(Version::V2, &names(&["cpuset", "cpu", "memory", "pids"]), &limits())),
            [
                "memory.max=268435456",
                "memory.swap.max?=268435456",
                "cpu.max=150000 100000",
                "cpuset.cpus=0-1",
                "pids.max=5"
            ]
        );
        assert!(writes(Version::V2, &[], &limits()).is_empty());
        let all = names(&["cpuset", "cpu", "memory"]);
        assert!(writes(Version::V2, &all, &Limits::default()).is_empty());
    }

    #[test]
    fn swap_and_period_as_they_are_asked_for() {
        let all = names(&["cpu", "memory"]);
        let shown = |version, memory_and_swap, cpu_quota, cpu_period| {
            let memory = Limit::At(Bytes(1000));
            let cpus = Limit::Max;
            let asked = Limits { memory_and_swap, cpu_quota, cpu_period, cpus, memory, ..limits() };
            shown(&writes(version, &all, &asked)).join(" ")
        };
        let (both, quota, period) = (
            MemoryAndSwap::Asked(Limit::At(Bytes(1200))),
            Limit::At(Usec(5000)),
            Some(Usec(20000)),
        );
        assert_eq!(
            shown(Version::V1, both, quota, period),
            "memory.limit_in_bytes=1000 memory.memsw.limit_in_bytes?=1200 \
             cpu.cfs_period_us=20000 cpu.cfs_quota_us=5000"
        );
        assert_eq!(
            shown(Version::V2, both, quota, period),
            "memory.max=1000 memory.swap.max?=200 cpu.max=5000 20000"
        );
        assert_eq!(
            shown(Version::V1, MemoryAndSwap::Asked(Limit::Max), Limit::Max, period),
            "memory.limit_in_bytes=1000 cpu.cfs_period_us=20000"
        );
        assert_eq!(
            shown(Version::V2, MemoryAndSwap::Asked(Limit::Max), Limit::Max, period),
            "memory.max=1000 cpu.max=max 20000"
        );
    }

    #[test]
    fn a_limit_without_its_controller_is_refused() {
        let layout = Layout::parse(b"1 2 0:1 / /m rw - cgroup cgroup rw,memory\n", b"");
        let memory = Limits { memory: Limit::At(Bytes(1 << 30)), ..Limits::default() };
        assert!(memory.check(&layout).is_ok());
        let error = limits().check(&layout).unwrap_err().to_string();
        assert!(error.contains("\"cpu\""), "{error}");
    }
}
