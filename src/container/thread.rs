//! The thread that reads, and the process that it belongs to.

use std::os::fd::OwnedFd;

use rustix::process::Pid;

use crate::error::{Error, Result};
use crate::procfs::{ProcRoot, process};
use crate::sys::identity;

/// A reading thread, pinned: as long as it is alive, its number, its process's, and those of
/// the inits of its pid namespaces, which outlive all processes in them, are their own.
#[derive(Debug)]
pub struct Thread {
    /// The thread group.
    pub group: u32,
    /// Of the thread, or where the kernel has none such of its group; none where it has none.
    pidfd: Option<OwnedFd>,
    /// Whether that ends with the thread.
    is_its_own: bool,
}

impl Thread {
    /// Whether a later thread of its number is known not to be it.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.pidfd.is_some() && self.is_its_own
    }

    /// Whether neither it nor its group had ended. True where the kernel has no pidfds: a
    /// thread that waits for our answer cannot end, and only one that does not wait may.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.pidfd.as_ref().is_none_or(identity::is_alive)
    }
}

fn gone(tid: u32) -> Error {
    Error::Gone { what: format!("thread {tid}") }
}

/// A pid as the system calls take it.
pub(super) fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

/// Asks the kernel; none where it is older than 6.13 and has no such question.
pub fn by_pidfd(tid: u32) -> Option<Result<Thread>> {
    let Some(pid) = to_pid(tid) else { return Some(Err(gone(tid))) };
    match identity::thread_group(pid) {
        Ok((group, pidfd)) => Some(Ok(Thread { group, pidfd: Some(pidfd), is_its_own: true })),
        Err(error) => match error.raw_os_error() {
            Some(libc::ESRCH) => Some(Err(gone(tid))),
            Some(libc::EINVAL | libc::ENOTTY | libc::ENOSYS) => None,
            _ => Some(Err(Error::io("open a pidfd of", format!("thread {tid}"), error))),
        },
    }
}

/// Reads it from `/proc/TID/status`.
///
/// # Errors
/// [`Error::Gone`], or [`Error::Io`] with ENOENT or ESRCH, where there is no such thread.
pub fn by_status(proc: &ProcRoot, tid: u32) -> Result<Thread> {
    to_pid(tid).ok_or_else(|| gone(tid))?;
    let name = format!("{tid}/status");
    let status = proc.read_record(&name)?;
    let group = process::parse_thread_group(&status)
        .ok_or_else(|| Error::malformed(proc.path(&name), 0, &status, "a line Tgid"))?;
    let pidfd = to_pid(group).and_then(|group| identity::process(group).ok());
    Ok(Thread { group, pidfd, is_its_own: group == tid })
}
