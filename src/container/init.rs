//! The init of a pid namespace, as the daemon numbers processes.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use super::held::Holds;
use super::thread::to_pid;
use crate::error::{Error, Result};
use crate::procfs::{Namespace, NsId, ProcRoot, process};
use crate::sys::identity;

/// A pid namespace and its init, both pinned: the namespace's number is not reused while its
/// descriptor is held, and the init's pid is known to be its own while the pidfd says alive.
#[derive(Debug)]
pub struct Init {
    /// The namespace.
    pub namespace: NsId,
    /// The init's thread group in the daemon's pid namespace.
    pub pid: u32,
    /// That of the pid namespace around it, once it was looked up; none where that is the
    /// daemon's own. It ends after this one, and keeps its number until then.
    pub(super) around: OnceLock<Option<(NsId, u32)>>,
    pub(super) pidfd: Arc<OwnedFd>,
    namespace_fd: OwnedFd,
}

impl Holds for Init {
    fn descriptors(&self) -> usize {
        2
    }
}

impl Init {
    /// The init of the pid namespace that `process` is in.
    ///
    /// # Errors
    /// [`Error::Gone`] where the process or the namespace's init has ended.
    pub fn of(proc: &ProcRoot, process: u32) -> Result<Init> {
        Init::of_namespace(proc, proc.open_file(&format!("{process}/ns/pid"))?)
    }

    /// The init of an open pid namespace.
    ///
    /// # Errors
    /// [`Error::Gone`] where it has ended.
    pub fn of_namespace(proc: &ProcRoot, namespace_fd: OwnedFd) -> Result<Init> {
        let namespace = namespace_number(proc, &namespace_fd)?;
        let pid = match by_ioctl(&namespace_fd) {
            Some(found) => found?,
            None => by_scan(proc, namespace)?,
        };
        let pidfd = to_pid(pid)
            .and_then(|pid| identity::process(pid).ok())
            .ok_or_else(|| gone(namespace))?;
        // The number may have passed to another process before the pidfd was opened.
        let is_its = match by_ioctl(&namespace_fd) {
            // A namespace has one init in its life, which had the number before and after.
            Some(again) => again? == pid,
            // Another process is not in the namespace, whose processes all end with its init.
            None => proc.namespace(pid, Namespace::Pid)? == namespace && identity::is_alive(&pidfd),
        };
        if !is_its {
            return Err(gone(namespace));
        }
        let (around, pidfd) = (OnceLock::new(), Arc::new(pidfd));
        Ok(Init { namespace, pid, around, namespace_fd, pidfd })
    }

    /// Whether it is still the running init of its namespace.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        identity::is_alive(&self.pidfd)
    }

    /// The pid namespace around this one; none where that is the daemon's own.
    ///
    /// # Errors
    /// What fstat(2) answers.
    pub fn namespace_around(&self, proc: &ProcRoot, own: NsId) -> Result<Option<(NsId, OwnedFd)>> {
        let Ok(around) = identity::namespace_parent(&self.namespace_fd) else { return Ok(None) };
        let number = namespace_number(proc, &around)?;
        Ok((number != own).then_some((number, around)))
    }
}

/// The number of an open namespace.
pub(super) fn namespace_number(proc: &ProcRoot, namespace: &OwnedFd) -> Result<NsId> {
    rustix::fs::fstat(namespace)
        .map(|stat| NsId(stat.st_ino))
        .map_err(|error| Error::io("stat", proc.path("PID/ns"), error))
}

fn gone(namespace: NsId) -> Error {
    Error::Gone { what: format!("the init of pid namespace {}", namespace.0) }
}

/// Asks the kernel; none where it is older than 6.11 and has no such question.
pub fn by_ioctl(namespace: &OwnedFd) -> Option<Result<u32>> {
    match identity::namespace_init(namespace) {
        Ok(pid) => Some(Ok(pid)),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            Some(Err(Error::Gone { what: "the init of a pid namespace".to_owned() }))
        }
        Err(_) => None,
    }
}

/// Looks for it among all processes: the one in the namespace whose `NSpid` there is 1. For
/// kernels before 6.11; the cost is one pass over `/proc` for each new pid namespace.
///
/// # Errors
/// [`Error::Gone`] where no process is the namespace's init.
pub fn by_scan(proc: &ProcRoot, namespace: NsId) -> Result<u32> {
    const INIT: u32 = 1;
    proc.processes()?
        .into_iter()
        .find(|&pid| {
            proc.namespace(pid, Namespace::Pid).is_ok_and(|found| found == namespace)
                && proc
                    .read_record(&format!("{pid}/status"))
                    .ok()
                    .and_then(|status| process::parse_ns_pids(&status))
                    .is_some_and(|pids| pids.last() == Some(&INIT))
        })
        .ok_or_else(|| gone(namespace))
}
