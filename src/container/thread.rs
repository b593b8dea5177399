//! The thread that reads, and the process that it belongs to.

use std::os::fd::OwnedFd;

use rustix::process::Pid;

use crate::error::{Error, Result};
use crate::procfs::{ProcRoot, process};
use crate::sys::{file, identity};

/// A reading thread, pinned: as long as it is alive, its number, its process's, and those of
/// the inits of its pid namespaces, which outlive all processes in them, are their own.
#[derive(Debug)]
pub struct Thread {
    /// The thread group.
    pub group: u32,
    pin: Pin,
}

/// What ends with a thread, and never comes to stand for another one.
#[derive(Debug)]
enum Pin {
    /// Of the thread; before Linux 6.13 of the process whose first one it is.
    Pidfd(OwnedFd),
    /// Its /proc/TID/comm, which everybody may read as long as there is a thread to read it of.
    Comm(OwnedFd),
}

impl Thread {
    /// Whether it had not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match &self.pin {
            Pin::Pidfd(pidfd) => identity::is_alive(pidfd),
            Pin::Comm(comm) => file::reread_record(comm).is_ok(),
        }
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
        Ok((group, pidfd)) => Some(Ok(Thread { group, pin: Pin::Pidfd(pidfd) })),
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
    let pid = to_pid(tid).ok_or_else(|| gone(tid))?;
    // First, so that what is read by number is of this one, if it is alive in the end. There is no
    // pidfd for another thread than a first one.
    let pin = match identity::process(pid) {
        Ok(pidfd) => Pin::Pidfd(pidfd),
        Err(_) => Pin::Comm(proc.open_file(&format!("{tid}/comm"))?),
    };
    let name = format!("{tid}/status");
    let status = proc.read_record(&name)?;
    let group = process::parse_thread_group(&status)
        .ok_or_else(|| Error::malformed(proc.path(&name), 0, &status, "a line Tgid"))?;
    Ok(Thread { group, pin })
}
