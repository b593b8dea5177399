//! The end of a container on demand.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};

use super::records::Records;
use crate::error::{Error, Result};

/// How long the runtime may take to remove what there is of a container whose processes ended.
const CLEANUP: Duration = Duration::from_secs(30);

/// Asks the first process of the container that `wanted` means to end (SIGTERM), kills it after
/// `patience`, and returns when there is nothing left of the container.
///
/// # Errors
/// [`Error::Refused`] where no container is meant, or its runtime does not end.
pub fn stop(wanted: &str, patience: Duration) -> Result<()> {
    super::require_root()?;
    let record = Records::of_host().find(&super::read_layout()?, wanted)?;
    let runtime = if_alive(record.runtime.open())?;
    if let Some(init) = if_alive(record.init.open())? {
        send(&init, Signal::TERM)?;
        if !ends_within(&init, patience)? {
            send(&init, Signal::KILL)?;
        }
    }
    match runtime {
        Some(runtime) if !ends_within(&runtime, CLEANUP)? => Err(Error::Refused(format!(
            "{wanted}: its runtime, process {}, does not end",
            record.runtime.pid
        ))),
        _ => Ok(()),
    }
}

fn if_alive(opened: Result<OwnedFd>) -> Result<Option<OwnedFd>> {
    match opened {
        Err(error) if error.is_gone() => Ok(None),
        opened => opened.map(Some),
    }
}

fn send(process: &OwnedFd, signal: Signal) -> Result<()> {
    match pidfd_send_signal(process, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::io("send a signal to", "the first process", errno)),
    }
}

/// Whether a process ends within `patience`.
fn ends_within(process: impl AsFd, patience: Duration) -> Result<bool> {
    let deadline = Instant::now().checked_add(patience);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        match poll(&mut ended, left.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::io("poll", "a pidfd", errno)),
            Ok(count) => return Ok(count > 0),
        }
    }
}
