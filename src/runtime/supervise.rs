//! What the runtime does while a process of a container runs: it passes signals on, and learns
//! how the process ends.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, pidfd_send_signal, waitid};

use super::report::{self, Report};
use super::terminal::Session;
use crate::error::{Error, Result};
use crate::sys::process;

/// `docker run`'s exit status for whatever is not the command's.
pub const STATUS_OF_RUNTIME: u8 = 125;

/// Added to the number of the signal that ended a command.
const STATUS_OF_SIGNAL: i32 = 128;

/// The signals that are passed on.
const FORWARDED: &[Signal] = &[
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// After so many requests to end, the process is killed. A first process that installs no
/// handler does not even notice SIGTERM and SIGINT; Docker gives up at the same count.
const PATIENCE: u32 = 3;

/// The signals that the runtime waits for. They stay blocked while it sets up and takes down,
/// so that none of them ends it half-way.
#[derive(Debug)]
pub struct Signals {
    set: SigSet,
}

impl Signals {
    /// Blocks them.
    ///
    /// # Errors
    /// What sigprocmask(2) answers.
    pub fn block() -> Result<Signals> {
        let mut set = SigSet::empty();
        FORWARDED.iter().for_each(|&signal| set.add(signal));
        set.add(Signal::SIGCHLD);
        process::notice_children()
            .and_then(|()| set.thread_block().map_err(io::Error::from))
            .map_err(|error| Error::io("block signals of", "/proc/self", error))?;
        Ok(Signals { set })
    }
}

/// Passes signals on to the child behind `pidfd` until it ends, and what it wrote last to the
/// caller; returns the exit status that tells how it ended. Whenever some child of this process
/// ends, or this one, `look` is called.
///
/// # Errors
/// What sigwait(3) and waitid(2) answer.
pub fn wait(
    pidfd: impl AsFd,
    signals: &Signals,
    session: Session,
    mut look: impl FnMut(),
) -> Result<u8> {
    let mut requests = 0;
    loop {
        let signal = signals.set.wait().map_err(|errno| Error::io("wait for", "signals", errno))?;
        if signal == Signal::SIGCHLD {
            if let Some(status) = ended(&pidfd, WaitIdOptions::NOHANG)? {
                session.finish();
                return Ok(status);
            }
            look();
            continue;
        }
        if signal == Signal::SIGWINCH && session.resize() {
            continue;
        }
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT) {
            requests += 1;
        }
        let signal = if requests < PATIENCE { signal } else { Signal::SIGKILL };
        let signal = rustix::process::Signal::from_named_raw(signal as i32);
        // It may end in this moment.
        let _ = signal.map(|signal| pidfd_send_signal(&pidfd, signal));
    }
}

/// Tells the parent, in a child that could not become its command, why; returns the status to
/// end with.
pub fn tell(channel: impl AsFd, error: &Error) -> u8 {
    let status =
        if let Error::NotExecuted { status, .. } = error { *status } else { STATUS_OF_RUNTIME };
    report::write(channel, &Report::Failed { status, text: error.to_string() });
    status
}

/// Why a child did not become `command`, from what it told, or that it told nothing.
#[must_use]
pub fn why(report: Result<Report>, command: &[OsString]) -> Error {
    match report {
        Err(error) => error,
        Ok(Report::Failed { status: STATUS_OF_RUNTIME, text }) => Error::Refused(text),
        Ok(Report::Failed { status, text }) => {
            let (command, reason) = split(text, command.first());
            Error::NotExecuted { command, reason, status }
        }
        Ok(Report::Ready | Report::Ended) => {
            Error::Refused("the process was killed before it became the command".to_owned())
        }
    }
}

/// The message of an [`Error::NotExecuted`] in its two parts again.
fn split(text: String, command: Option<&OsString>) -> (String, String) {
    let command = command.map(|name| name.display().to_string()).unwrap_or_default();
    match text.strip_prefix(&command).and_then(|rest| rest.strip_prefix(": ")) {
        Some(reason) => (command, reason.to_owned()),
        None => text.split_once(": ").map_or_else(
            || (command, text.clone()),
            |(what, reason)| (what.to_owned(), reason.to_owned()),
        ),
    }
}

/// Kills the child behind `pidfd`, unless it has ended, and reaps it.
///
/// # Errors
/// What waitid(2) answers.
pub fn end(pidfd: impl AsFd) -> Result<()> {
    let _ = pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
    reap(pidfd)
}

/// Waits for the end of the child behind `pidfd`.
///
/// # Errors
/// What waitid(2) answers.
pub fn reap(pidfd: impl AsFd) -> Result<()> {
    ended(&pidfd, WaitIdOptions::empty()).map(drop)
}

/// How the child behind `pidfd` ended, as a shell reports it; none while it runs.
fn ended(pidfd: impl AsFd, options: WaitIdOptions) -> Result<Option<u8>> {
    let child = WaitId::PidFd(pidfd.as_fd());
    let options = options | WaitIdOptions::EXITED;
    let status = rustix::io::retry_on_intr(|| waitid(child.clone(), options))
        .map_err(|errno| Error::io("wait for", "the command", errno))?;
    Ok(status.map(|status| exit_status(&status)))
}

fn exit_status(status: &WaitIdStatus) -> u8 {
    let signal = status.terminating_signal().map(|signal| STATUS_OF_SIGNAL + signal);
    let status = status.exit_status().or(signal);
    status.and_then(|status| u8::try_from(status).ok()).unwrap_or(STATUS_OF_RUNTIME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    #[test]
    #[allow(clippy::zombie_processes)] // reaped by its descriptor
    fn statuses_as_a_shell_reports_them() {
        for (script, expected) in
            [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("kill -ABRT $$", 134)]
        {
            let child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            assert_eq!(ended(&pidfd, WaitIdOptions::empty()).unwrap(), Some(expected), "{script}");
        }
    }
}
