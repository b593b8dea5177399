//! Children that do not outlive the runtime, however it ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open, set_parent_process_death_signal};

use crate::error::{Error, Result};

/// The process that children are to die with, as it was before they were born.
#[derive(Debug)]
pub struct Parent {
    pidfd: OwnedFd,
}

/// This process, to be watched by the children that it is about to have.
///
/// # Errors
/// What pidfd_open(2) answers.
pub fn this_process() -> Result<Parent> {
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty())
        .map_err(|errno| Error::io("open a pidfd of", "/proc/self", errno))?;
    Ok(Parent { pidfd })
}

impl AsFd for Parent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Parent {
    /// Has the kernel kill this process, a child, when its parent ends; `PR_SET_PDEATHSIG` of
    /// prctl(2). Exec(2) of a set-user-ID program undoes it.
    ///
    /// # Errors
    /// [`Error::Gone`] where the parent has ended already.
    pub fn watch(&self) -> Result<()> {
        set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|errno| Error::io("set PDEATHSIG of", "/proc/self", errno))?;
        // Too late for the signal where it ended before. Its number is no help: a child in a
        // new pid namespace sees 0 in any case.
        let mut parent = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let ended = poll(&mut parent, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
            .map_err(|errno| Error::io("poll", "the parent's pidfd", errno))?;
        if ended > 0 { Err(Error::Gone { what: "the runtime".to_owned() }) } else { Ok(()) }
    }
}
