//! How many descriptors the process may hold, getrlimit(2); and those that come from others.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

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

/// How many descriptors are held at most that only spare an open(2). Each also holds the kernel's
/// buffer for its file, a page.
const MOST_SPARE: usize = 16_384;
/// Their share of all.
const SHARE_SPARE: usize = 8;
/// So many of that share are left to those without which nothing goes, where there are few.
const LEFT: usize = 64;

/// Asked for once: a new container's first read takes a dozen places.
static MOST: LazyLock<usize> =
    LazyLock::new(|| (limit() / SHARE_SPARE).saturating_sub(LEFT).min(MOST_SPARE));

/// How many are held.
static SPARE: AtomicUsize = AtomicUsize::new(0);

/// How many descriptors are held that only spare an open(2).
#[must_use]
pub fn spare() -> usize {
    SPARE.load(Ordering::Relaxed)
}

/// A place for a descriptor that only spares an open(2), free again when this is dropped.
#[derive(Debug)]
pub struct Place(());

impl Place {
    /// None where all are taken.
    #[must_use]
    pub fn take() -> Option<Place> {
        let place = Place(());
        (SPARE.fetch_add(1, Ordering::Relaxed) < *MOST).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        SPARE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads one message, and the descriptors that came with it, from a unix(7) socket. They are
/// close-on-exec from the first moment.
///
/// # Errors
/// What recvmsg(2) answers.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = loop {
        match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            received => break received?,
        }
    };
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            for number in received {
                // SAFETY: recvmsg(2) made this descriptor for this call, and nobody else has it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
    }
    Ok((message.bytes, descriptors))
}

/// Takes a descriptor that this process was started with, by the number that it was told; from
/// now on it is close-on-exec. Each is taken once.
///
/// # Errors
/// EBADF where there is none.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(2) of a descriptor that may not exist; F_SETFD touches no memory.
    nix::errno::Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and whoever started this process left it to the one that is told its
    // number; no other part of this program knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Another descriptor for the same, that a program which this process becomes has too.
///
/// # Errors
/// What fcntl(2) answers.
pub fn for_exec(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_DUPFD(3))?;
    // SAFETY: fcntl(2) made this descriptor for this call, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
