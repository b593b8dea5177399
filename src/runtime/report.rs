//! What a child tells its parent over a pipe, once: that it is ready, or why it failed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::error::{Error, Result};

/// What came through the pipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// The child reached its goal and says so.
    Ready,
    /// It failed.
    Failed {
        /// The exit status that tells it best.
        status: u8,
        /// One line for a person.
        text: String,
    },
    /// The pipe was closed without a word: the child has become another program, or is dead.
    Ended,
}

/// What stands for [`Report::Ready`]: no failure has this status.
const READY: u8 = 0;

/// A pipe that exec(2) closes: the end that reads, the end that writes.
///
/// # Errors
/// What pipe(2) answers.
pub fn channel() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::io("make", "a pipe", errno))
}

/// Writes a report. A parent that is gone needs none, so a failure is passed over.
pub fn write(pipe: impl AsFd, report: &Report) {
    let message = match report {
        Report::Ended => return,
        Report::Ready => vec![READY],
        Report::Failed { status, text } => {
            let mut message = vec![*status];
            message.extend_from_slice(text.as_bytes());
            message
        }
    };
    let _ = rustix::io::retry_on_intr(|| rustix::io::write(&pipe, &message));
}

/// Waits for a report. It is one write(2) of at most `PIPE_BUF` bytes, and so one read(2).
///
/// # Errors
/// What read(2) answers.
pub fn read(pipe: impl AsFd) -> Result<Report> {
    let mut buffer = [0_u8; 4096];
    let length = rustix::io::retry_on_intr(|| rustix::io::read(&pipe, &mut buffer))
        .map_err(|errno| Error::io("read", "a child's report", io::Error::from(errno)))?;
    Ok(match buffer.get(..length).and_then(<[u8]>::split_first) {
        None => Report::Ended,
        Some((&READY, _)) => Report::Ready,
        Some((&status, text)) => {
            Report::Failed { status, text: String::from_utf8_lossy(text).into_owned() }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_report_arrives_as_it_was() {
        for report in [Report::Ready, Report::Failed { status: 127, text: "x: ü".into() }] {
            let (reader, writer) = channel().unwrap();
            write(&writer, &report);
            assert_eq!(read(&reader).unwrap(), report);
            drop(writer);
            assert_eq!(read(&reader).unwrap(), Report::Ended);
        }
    }
}
