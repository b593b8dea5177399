//! The disks that a container used: `diskstats`.

use crate::cgroup::stats::Io;
use crate::error::Result;
use crate::facts::{DiskLine, Facts, IoCounts};
use crate::kernel::Controller;
use crate::procfs::diskstats;

use super::{Collector, Scope};

impl Collector {
    pub(super) fn diskstats(&self, scope: &Scope<'_>) -> Result<Option<Facts>> {
        Ok(self.disks(scope)?.map(|disks| Facts::Diskstats { disks }))
    }

    /// What the container read and wrote, over all of its disks; none for a process of the host.
    pub(super) fn io(&self, scope: &Scope<'_>) -> Result<Option<IoCounts>> {
        if scope.is_host {
            return Ok(None);
        }
        // A disk that the host has no more keeps its part of the sum.
        let counted = self.counted(scope)?.unwrap_or_default();
        Ok(Some(counted.iter().fold(IoCounts::default(), |sum, (_, counts)| IoCounts {
            rbytes: sum.rbytes.saturating_add(counts.rbytes),
            wbytes: sum.wbytes.saturating_add(counts.wbytes),
            ..sum
        })))
    }

    /// A disk limits nothing that its counters would show, so a process of the host always
    /// sees the host's.
    fn disks(&self, scope: &Scope<'_>) -> Result<Option<Vec<(DiskLine, IoCounts)>>> {
        if scope.is_host {
            return Ok(None);
        }
        let Some(counted) = self.counted(scope)? else { return Ok(None) };
        if counted.is_empty() {
            return Ok(Some(Vec::new()));
        }
        let host = self.kernel.proc.shared("diskstats")?;
        let disks = diskstats::parse(&host)
            .into_iter()
            .filter_map(|line| {
                let (_, counts) = counted.iter().find(|(device, _)| *device == line.device)?;
                (!self.kernel.sys.is_partition(line.device)).then_some((line, *counts))
            })
            .collect();
        Ok(Some(disks))
    }

    /// What the container's cgroup counts, and ever counted, by device; none where it has none.
    fn counted(&self, scope: &Scope<'_>) -> Result<Option<Io>> {
        let levels = scope.levels(&self.kernel, Controller::Blkio)?;
        let Some(dir) = levels.dirs.first() else { return Ok(None) };
        let counted = self.history.of(scope.container).update(|record| {
            Ok(record.disk.update(&levels.version.io(dir)?.unwrap_or_default()))
        })?;
        Ok(Some(counted))
    }
}
