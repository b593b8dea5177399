//! Gathers the facts behind a file for one reader. No formatting.
//!
//! For each resource the question is the same: is the reader in a container, or in a cgroup of
//! the host that limits the resource? If neither, the host's file is the truth.

mod cpu;
mod disk;
pub mod levels;
pub mod load;
mod memory;
mod node;
pub mod pressure;
pub mod tasks;
pub mod tree;

pub use cpu::CpuCount;
pub use memory::SwapView;

use std::cell::Cell;
use std::str::FromStr;
use std::sync::Arc;

use crate::container::{Container, Levels, Subject, Who};
use crate::cpulist::CpuIds;
use crate::error::Result;
use crate::facts::Facts;
use crate::files::ProcFile;
use crate::history::History;
use crate::kernel::{Controller, Kernel};
use crate::procfs::{NsId, stat};
use crate::units::Nsec;

/// Everything that facts are gathered from.
#[derive(Debug)]
pub struct Collector {
    /// The host.
    pub kernel: Arc<Kernel>,
    /// What earlier reads have shown.
    pub history: History,
    /// What the containers' tasks are doing.
    pub sampler: load::Sampler,
    /// The daemon's own time namespace; none before Linux 5.6.
    pub own_time: Option<NsId>,
    /// How many CPUs a quota is.
    pub cpu_count: CpuCount,
    /// What containers are shown of swap.
    pub swap: SwapView,
    /// By which numbers a container's CPUs are shown.
    pub cpu_ids: CpuIds,
    /// Since when a container is up.
    pub up_since: UpSince,
}

/// Since when a container without a time namespace of its own is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpSince {
    /// Since its first process started.
    #[default]
    Container,
    /// Since the host booted, from which the start times of its processes count.
    Host,
}

impl FromStr for UpSince {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<UpSince, Self::Err> {
        match text {
            "container" => Ok(UpSince::Container),
            "host" => Ok(UpSince::Host),
            _ => Err("expected container or host"),
        }
    }
}

/// A reader's container, and whether a resource that it does not limit is the host's.
struct Scope<'a> {
    container: &'a Arc<Container>,
    is_host: bool,
    /// The hierarchies that were asked, a bit for each.
    asked: Cell<u64>,
}

impl<'a> Scope<'a> {
    /// None where nothing is known of the reader.
    fn of(who: &'a Who) -> Option<Scope<'a>> {
        let (container, is_host) = match &who.subject {
            Subject::Unknown => return None,
            Subject::Host(container) => (container, true),
            Subject::Container(container) => (container, false),
        };
        Some(Scope { container, is_host, asked: Cell::new(0) })
    }

    /// As [`Container::levels`]; [`Scope::check`] then is about their hierarchy too.
    fn levels(&self, kernel: &Kernel, controller: Controller) -> Result<Levels<'a>> {
        if let Some(hierarchy) = kernel.hierarchy_of(controller) {
            self.asked.set(self.asked.get() | 1 << hierarchy);
        }
        self.container.levels(kernel, controller)
    }

    /// Fails unless the container's cgroups, in every hierarchy that was asked, are what they
    /// were when the reader was found to be in them. Only now: a cgroup that is removed between
    /// two of its files would have no limit.
    fn check(&self, kernel: &Kernel) -> Result<()> {
        (0..kernel.hierarchies.len())
            .filter(|hierarchy| self.asked.get() & 1 << hierarchy != 0)
            .try_for_each(|hierarchy| self.container.check_is_there(kernel, hierarchy))
    }
}

impl Collector {
    /// A collector that goes on from `history`.
    #[must_use]
    pub fn new(kernel: Arc<Kernel>, own_time: Option<NsId>, history: History) -> Collector {
        let sampler = load::Sampler::new(Arc::clone(&kernel));
        let (cpu_count, cpu_ids, up_since, swap) = Default::default();
        Collector { kernel, history, sampler, own_time, cpu_count, cpu_ids, up_since, swap }
    }

    /// The facts behind `file` for `who` at CLOCK_BOOTTIME `now`.
    ///
    /// # Errors
    /// [`crate::error::Error::Gone`] where the reader's cgroup has been removed;
    /// [`crate::error::Error::Io`] where the host's own file can't be read.
    pub fn collect(&self, file: ProcFile, who: &Who, now: Nsec) -> Result<Facts> {
        let Some(scope) = Scope::of(who) else { return self.verbatim(file) };
        let facts = match file {
            ProcFile::Meminfo => self.meminfo(&scope)?,
            ProcFile::Swaps => self.swaps(&scope)?,
            ProcFile::Cpuinfo => self.cpuinfo(&scope)?,
            ProcFile::CpuOnline => self.cpu_online(&scope)?,
            ProcFile::Stat => self.stat(&scope, who.reader, now)?,
            ProcFile::Uptime => self.uptime(&scope, who.reader, now)?,
            ProcFile::Loadavg => self.loadavg(&scope, now)?,
            ProcFile::Diskstats => self.diskstats(&scope)?,
            ProcFile::Slabinfo => self.slabinfo(&scope)?,
            ProcFile::Vmstat => self.vmstat(&scope)?,
            ProcFile::PressureCpu | ProcFile::PressureIo | ProcFile::PressureMemory => {
                self.pressure(&scope, file)?
            }
        };
        scope.check(&self.kernel)?;
        match facts {
            Some(facts) => Ok(facts),
            None => self.verbatim(file),
        }
    }

    /// The host's own file.
    fn verbatim(&self, file: ProcFile) -> Result<Facts> {
        let proc = &self.kernel.proc;
        let text = match file {
            // It counts nothing, and the kernel takes its time to make it.
            ProcFile::Cpuinfo => proc.shared("cpuinfo").map(Arc::unwrap_or_clone),
            ProcFile::Diskstats => proc.read("diskstats"),
            ProcFile::Loadavg => proc.read_record("loadavg"),
            ProcFile::Meminfo => proc.read_record("meminfo"),
            ProcFile::Stat => proc.read_record("stat"),
            ProcFile::Slabinfo => proc.read("slabinfo"),
            ProcFile::Swaps => proc.read("swaps"),
            ProcFile::Uptime => proc.read_record("uptime"),
            ProcFile::Vmstat => proc.read("vmstat"),
            ProcFile::CpuOnline => self.kernel.sys.read("devices/system/cpu/online"),
            ProcFile::PressureCpu | ProcFile::PressureIo | ProcFile::PressureMemory => {
                self.host_pressure(file)
            }
        };
        text.map(Facts::Verbatim)
    }

    fn stat(&self, scope: &Scope<'_>, reader: Option<u32>, now: Nsec) -> Result<Option<Facts>> {
        let Some(times) = self.cpu_times(scope, now)? else { return Ok(None) };
        let host = self.kernel.proc.shared_record("stat")?;
        let tasks = self.sampler.watch(&self.history, scope.container, now)?.tasks;
        let offset = self.boottime_offset(scope, reader)?.unwrap_or(0);
        let boot_time = stat::boot_time(&host).map(|host| earlier_by(host, offset));
        Ok(Some(Facts::Stat { columns: stat::cpu_columns(&host), host, times, boot_time, tasks }))
    }

    fn uptime(&self, scope: &Scope<'_>, reader: Option<u32>, now: Nsec) -> Result<Option<Facts>> {
        if scope.is_host {
            return Ok(None);
        }
        let up = match self.boottime_offset(scope, reader)? {
            Some(offset) => Nsec(u64::try_from(i128::from(now.0) + offset).unwrap_or(0)),
            None => match self.up_since {
                UpSince::Container => now - scope.container.birth,
                UpSince::Host => now,
            },
        };
        let Some(idle) = self.idle(scope, now)? else { return Ok(None) };
        Ok(Some(Facts::Uptime { up, idle: Nsec::from_ticks(idle) }))
    }

    fn loadavg(&self, scope: &Scope<'_>, now: Nsec) -> Result<Option<Facts>> {
        let controller = tasks::task_controller(&self.kernel, scope.container);
        let Some(controller) = controller.filter(|_| !scope.is_host) else { return Ok(None) };
        // What is asked is asked between readings; but it must still be this container's.
        scope.levels(&self.kernel, controller)?;
        let sample = self.sampler.watch(&self.history, scope.container, now)?;
        Ok(Some(Facts::Loadavg { averages: sample.load.hundredths(), tasks: sample.tasks }))
    }

    /// What the reader's time namespace adds to CLOCK_BOOTTIME; none for a reader of the
    /// host, and where it has no time namespace of its own.
    fn boottime_offset(&self, scope: &Scope<'_>, reader: Option<u32>) -> Result<Option<i128>> {
        let Some(reader) = reader.filter(|_| !scope.is_host) else { return Ok(None) };
        scope.container.clock.boottime_offset(&self.kernel.proc, self.own_time, reader)
    }
}

/// A wall-clock second of the host as a reader sees it whose CLOCK_BOOTTIME has `offset`
/// nanoseconds added: its machine booted that much earlier.
fn earlier_by(second: u64, offset: i128) -> u64 {
    let offset_seconds = offset.div_euclid(i128::from(Nsec::PER_SEC));
    u64::try_from(i128::from(second) - offset_seconds).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_runs_for_less_long_booted_later() {
        assert_eq!(earlier_by(1000, -400 * i128::from(Nsec::PER_SEC)), 1400);
        assert_eq!(earlier_by(1000, 400 * i128::from(Nsec::PER_SEC)), 600);
        assert_eq!(earlier_by(1000, -1), 1001);
        assert_eq!(earlier_by(1, i128::from(u64::MAX)), 0);
    }
}
