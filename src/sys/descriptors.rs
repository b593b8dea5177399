//! How many descriptors the process may hold, getrlimit(2); and those that come from others.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most that it may hold now.
#[must_use]
pub fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Raises the limit as far as anybody may raise his own. The usual soft limit of 1024 is for
/// programs that use select(2).
pub fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Refused is no harm: less is held then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Reads one message, and the descriptor that came with it, from a unix(7) socket. It is
/// close-on-exec from the first moment.
///
/// # Errors
/// What recvmsg(2) answers.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            received => break received?,
        }
    };
    let mut descriptor = None;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            for number in received {
                // SAFETY: recvmsg(2) made this descriptor for this call, and nobody else has it.
                descriptor = Some(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    Ok((message.bytes, descriptor))
}
