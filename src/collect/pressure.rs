//! Pressure stall information, Documentation/accounting/psi.rst: what a container's tasks waited
//! for, and triggers that tell when they wait too long.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::thread::CapabilitySet;

use crate::cgroup::dir::CgroupDir;
use crate::container::{Identity, Who};
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::files::ProcFile;
use crate::kernel::Controller;
use crate::procfs::process;
use crate::sys::capabilities;

use super::{Collector, Scope};

/// A file of pressure.
#[derive(Clone, Copy, Debug)]
pub struct Pressure {
    /// In /proc.
    host: &'static str,
    /// In a cgroup.
    cgroup: &'static str,
}

impl Pressure {
    /// What is behind `file`; none where that is no file of pressure.
    #[must_use]
    pub fn of(file: ProcFile) -> Option<Pressure> {
        let (host, cgroup) = match file {
            ProcFile::PressureCpu => ("pressure/cpu", "cpu.pressure"),
            ProcFile::PressureIo => ("pressure/io", "io.pressure"),
            ProcFile::PressureMemory => ("pressure/memory", "memory.pressure"),
            ProcFile::Cpuinfo
            | ProcFile::Diskstats
            | ProcFile::Loadavg
            | ProcFile::Meminfo
            | ProcFile::Stat
            | ProcFile::Swaps
            | ProcFile::Uptime
            | ProcFile::CpuOnline
            | ProcFile::Slabinfo
            | ProcFile::Vmstat => return None,
        };
        Some(Pressure { host, cgroup })
    }
}

/// The kernel has no pressure of this cgroup: a v1 hierarchy, a kernel without PSI, or
/// `cgroup.pressure` switched off.
fn none() -> Error {
    Error::passed(libc::EOPNOTSUPP)
}

impl Collector {
    /// The container's own pressure; the host's for a process of the host, as a limit shows in
    /// its counters like any other cause.
    pub(super) fn pressure(&self, scope: &Scope<'_>, file: ProcFile) -> Result<Option<Facts>> {
        let Some(file) = Pressure::of(file).filter(|_| !scope.is_host) else { return Ok(None) };
        let dir = self.own_pressure(scope)?.ok_or_else(none)?;
        match dir.read(file.cgroup)? {
            Some(text) => Ok(Some(Facts::Own(text))),
            // A cgroup that is removed has no files either.
            None => Err(dir.check_exists().err().unwrap_or_else(none)),
        }
    }

    /// The host's own file, which a kernel without PSI does not have.
    pub(super) fn host_pressure(&self, file: ProcFile) -> Result<Vec<u8>> {
        let file = Pressure::of(file).ok_or_else(none)?;
        self.kernel.proc.read_record(file.host).map_err(|error| match error.errno() {
            libc::ENOENT | libc::EOPNOTSUPP => none(),
            _ => error,
        })
    }

    /// Sets a trigger on the pressure of the machine that `who` is shown, as write(2) of `text`
    /// to the kernel's own file does it: the descriptor to poll.
    ///
    /// # Errors
    /// [`Error::Passed`]: EINVAL for a text that is no trigger, and for a window that takes
    /// CAP_SYS_RESOURCE from a writer without; EOPNOTSUPP where there is no pressure.
    pub fn set_trigger(
        &self,
        file: Pressure,
        who: &Who,
        text: &[u8],
    ) -> Result<(Identity, OwnedFd)> {
        let scope = Scope::of(who).ok_or_else(none)?;
        let dir = self.own_pressure(&scope)?;
        // The kernel goes by the capabilities of whoever opened the file, which may belong to
        // another user than root.
        let closely = CapabilitySet::SYS_RESOURCE;
        let mut with = CapabilitySet::DAC_OVERRIDE;
        let mut without = CapabilitySet::empty();
        if self.may_watch_closely(who)? { &mut with } else { &mut without }.insert(closely);
        let open = || self.open_trigger(file, dir, scope.is_host);
        let trigger = capabilities::acting(with, without, open).map_err(|error| {
            Error::io("change capabilities of", self.kernel.proc.path("thread-self"), error)
        })??;
        rustix::io::write(&trigger, text).map_err(|errno| Error::passed(errno.raw_os_error()))?;
        scope.check(&self.kernel)?;
        Ok((scope.container.identity().clone(), trigger))
    }

    /// The cgroup that counts the pressure of this container alone. Beside v1 controllers an
    /// engine may leave all of its containers in one cgroup of the unified hierarchy, its own: so
    /// there it must be at or below the container's in a hierarchy that the engine does manage.
    fn own_pressure<'a>(&self, scope: &Scope<'a>) -> Result<Option<&'a CgroupDir>> {
        let (kernel, container) = (&self.kernel, scope.container);
        let dir = scope.levels(kernel, Controller::Psi)?.dirs.first();
        let Some(path) = container.path(kernel, Controller::Psi) else { return Ok(None) };
        let is_own = |controller| {
            kernel.hierarchy_of(controller) == kernel.hierarchy_of(Controller::Psi)
                || container
                    .path(kernel, controller)
                    .is_some_and(|own| own != Path::new("/") && path.starts_with(own))
        };
        Ok(dir.filter(|_| is_own(Controller::Memory) || is_own(Controller::Cpu)))
    }

    fn open_trigger(
        &self,
        file: Pressure,
        own: Option<&CgroupDir>,
        is_host: bool,
    ) -> Result<OwnedFd> {
        if is_host {
            return self.kernel.proc.open_to_write(file.host);
        }
        let dir = own.ok_or_else(none)?;
        dir.open_to_write(file.cgroup)?.ok_or_else(none)
    }

    /// Whether a writer may have windows of any length: they cost a kernel thread.
    fn may_watch_closely(&self, who: &Who) -> Result<bool> {
        let Some(reader) = who.reader else { return Ok(false) };
        let status = self.kernel.proc.read_record(&format!("{reader}/status"))?;
        let effective = process::parse_effective_capabilities(&status).unwrap_or(0);
        Ok(CapabilitySet::from_bits_retain(effective).contains(CapabilitySet::SYS_RESOURCE))
    }
}
