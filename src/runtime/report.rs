//! What a child and its parent tell each other while the child sets up: that it is ready, that
//! it may go on, or why it failed. A descriptor may go along.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};

use crate::error::{Error, Result};
use crate::sys::descriptors;

/// What came through the channel.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// The child reached its goal and says so; or its parent has it go on.
    Ready,
    /// It failed.
    Failed {
        /// The exit status that tells it best.
        status: u8,
        /// One line for a person.
        text: String,
    },
    /// The channel was closed without a word: the other has become another program, or is dead.
    Ended,
}

/// What stands for [`Report::Ready`]: no failure has this status.
const READY: u8 = 0;

/// A pair of sockets that exec(2) closes: one for the parent, one for the child.
///
/// # Errors
/// What socketpair(2) answers.
pub fn channel() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|errno| Error::io("make", "a pair of sockets", errno))
}

/// Writes a report. Another that is gone needs none, so a failure is passed over.
pub fn write(channel: impl AsFd, report: &Report) {
    write_with(channel, report, None);
}

/// Writes a report and, with it, a descriptor; unix(7).
pub fn write_with(channel: impl AsFd, report: &Report, descriptor: Option<&OwnedFd>) {
    let message = match report {
        Report::Ended => return,
        Report::Ready => vec![READY],
        Report::Failed { status, text } => {
            let mut message = vec![*status];
            message.extend_from_slice(text.as_bytes());
            message.truncate(LONGEST);
            message
        }
    };
    let sent = [IoSlice::new(&message)];
    let descriptors = descriptor.map(|descriptor| [descriptor.as_raw_fd()]);
    let rights = descriptors.as_ref().map(|each| ControlMessage::ScmRights(each));
    let channel = channel.as_fd().as_raw_fd();
    let flags = MsgFlags::MSG_NOSIGNAL;
    let _ = sendmsg::<()>(channel, &sent, rights.as_slice(), flags, None);
}

/// The longest report.
const LONGEST: usize = 4096;

/// Waits for a report.
///
/// # Errors
/// What recvmsg(2) answers.
pub fn read(channel: impl AsFd) -> Result<Report> {
    read_with(channel).map(|(report, _)| report)
}

/// Waits for a report and the descriptor that may come with it.
///
/// # Errors
/// What recvmsg(2) answers.
pub fn read_with(channel: impl AsFd) -> Result<(Report, Option<OwnedFd>)> {
    let mut buffer = [0_u8; LONGEST];
    let (length, descriptors) = descriptors::receive(channel.as_fd(), &mut buffer)
        .map_err(|error| Error::io("read", "a child's report", error))?;
    let report = match buffer.get(..length).and_then(<[u8]>::split_first) {
        None => Report::Ended,
        Some((&READY, _)) => Report::Ready,
        Some((&status, text)) => {
            Report::Failed { status, text: String::from_utf8_lossy(text).into_owned() }
        }
    };
    Ok((report, descriptors.into_iter().next()))
}

/// Tells the other that this side is ready, and waits until it may go on.
///
/// # Errors
/// [`Error::Gone`] where the other has ended.
pub fn meet(channel: impl AsFd, descriptor: Option<&OwnedFd>) -> Result<()> {
    write_with(&channel, &Report::Ready, descriptor);
    match read(&channel)? {
        Report::Ready => Ok(()),
        Report::Failed { .. } | Report::Ended => {
            Err(Error::Gone { what: "the runtime".to_owned() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Read as _, Write as _};

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

    #[test]
    fn a_descriptor_goes_along() {
        let (reader, writer) = channel().unwrap();
        let (mut from, to) = io::pipe().unwrap();
        write_with(&writer, &Report::Ready, Some(&to.into()));
        let (report, descriptor) = read_with(&reader).unwrap();
        assert_eq!(report, Report::Ready);
        std::fs::File::from(descriptor.unwrap()).write_all(b"x").unwrap();
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        assert_eq!(text, "x");
    }

    #[test]
    fn who_is_ready_waits_for_the_other() {
        let (parent, child) = channel().unwrap();
        write(&parent, &Report::Ready);
        meet(&child, None).unwrap();
        assert_eq!(read(&parent).unwrap(), Report::Ready);
        drop(parent);
        assert!(meet(&child, None).unwrap_err().is_gone());
    }
}
