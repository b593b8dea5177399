//! System calls of the FUSE session that nix, rustix and std offer no safe form of.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

/// Makes `descriptor` refer to what `replacement` refers to, close-on-exec; what it referred
/// to before is closed. See dup3(2).
///
/// # Errors
/// What dup3 answers.
pub fn replace_descriptor(descriptor: BorrowedFd, replacement: BorrowedFd) -> io::Result<()> {
    // SAFETY: dup3(2) touches no memory. Both descriptors are open, as they are borrowed, and
    // `descriptor` stays open, so its owner closes exactly one descriptor as before.
    let done =
        unsafe { libc::dup3(replacement.as_raw_fd(), descriptor.as_raw_fd(), libc::O_CLOEXEC) };
    Errno::result(done)?;
    Ok(())
}

/// `_IOR(229, 0, uint32_t)`, include/uapi/linux/fuse.h.
pub const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;

/// Another descriptor of the connection of `device`, with requests of its own: those that are
/// read by it fail when it is closed. FUSE_DEV_IOC_CLONE, Linux 4.2.
///
/// # Errors
/// What open(2) of /dev/fuse and the ioctl answer.
pub fn clone_device(device: BorrowedFd) -> io::Result<OwnedFd> {
    let clone = std::fs::File::options().read(true).write(true).open("/dev/fuse")?;
    let source: u32 = device.as_raw_fd().cast_unsigned();
    // SAFETY: both descriptors are open; the request reads a u32, which outlives the call.
    let done = unsafe { libc::ioctl(clone.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const source) };
    Errno::result(done)?;
    Ok(clone.into())
}

/// What a child process was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The attributes.
    Present,
    /// This errno.
    Failed(i32),
    /// No answer in time.
    None,
}

/// Asks the filesystem at `path` for its attributes in a forked child, and waits at most
/// `patience` for the answer. The question is statx(2) with AT_STATX_FORCE_SYNC (Linux 4.11):
/// to stat(2) the kernel replies for a dead daemon as long as it may keep the attributes.
///
/// A FUSE daemon that took a request and never answers makes its reader sleep where not even
/// SIGKILL reaches it; a thread of ours would then keep this process from ever ending.
/// The child is killed and, where it can be, reaped. It holds none of this process's
/// descriptors: a pipe left open in one that sleeps for ever would keep its reader waiting, and
/// the connection's own, open in who waits for its answer, would keep that from ever ending.
///
/// # Errors
/// What fork, pidfd_open (Linux 5.3) or poll answer.
pub fn ask_in_child(path: &CStr, patience: Duration) -> io::Result<Answer> {
    /// More descriptors than [`super::descriptors::raise_limit`] lets a process have.
    const OPEN_MAX: i32 = 1 << 20;
    let flags = libc::AT_STATX_FORCE_SYNC;
    // SAFETY: fork(2). Until _exit the child calls async-signal-safe functions only
    // (signal-safety(7)): close, bare system calls, and _exit. It allocates nothing and drops
    // nothing.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: close_range(2) (Linux 5.9), close(2), statx(2) and _exit(2). The child uses
        // no descriptor. `path` is NUL-terminated, and `found` is a place for a whole
        // `struct statx`, for which all zeroes is a valid value; errno is this thread's.
        unsafe {
            if libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) != 0 {
                (0..OPEN_MAX).for_each(|descriptor| {
                    libc::close(descriptor);
                });
            }
            let mut found: libc::statx = std::mem::zeroed();
            let failed = libc::statx(
                libc::AT_FDCWD,
                path.as_ptr(),
                flags,
                libc::STATX_BASIC_STATS,
                &raw mut found,
            ) != 0;
            libc::_exit(if failed { *libc::__errno_location() } else { 0 });
        }
    }
    let child = Pid::from_raw(Errno::result(child)?).ok_or(Errno::ESRCH)?;
    let pidfd = rustix::process::pidfd_open(child, PidfdFlags::empty())?;
    let ended = wait_readable(pidfd.as_fd(), patience)?;
    if !ended {
        rustix::process::pidfd_send_signal(&pidfd, Signal::KILL)?;
        wait_readable(pidfd.as_fd(), Duration::from_millis(200))?;
        rustix::process::waitpid(Some(child), WaitOptions::NOHANG)?;
        return Ok(Answer::None);
    }
    let Some((_, status)) = rustix::process::waitpid(Some(child), WaitOptions::empty())? else {
        return Ok(Answer::None);
    };
    Ok(match status.exit_status() {
        Some(0) => Answer::Present,
        Some(errno) => Answer::Failed(errno),
        None => Answer::None,
    })
}

/// Whether `descriptor` becomes readable within `patience`.
///
/// # Errors
/// What poll(2) answers.
pub fn wait_readable(descriptor: BorrowedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor, PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_is_replaced() {
        let (old, _gone) = UnixStream::pair().unwrap();
        let (new, mut peer) = UnixStream::pair().unwrap();
        replace_descriptor(old.as_fd(), new.as_fd()).unwrap();
        drop(new);
        (&old).write_all(b"x").unwrap();
        let mut byte = [0];
        peer.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_child_asks() {
        let patience = Duration::from_secs(60);
        assert_eq!(ask_in_child(c"/", patience).unwrap(), Answer::Present);
        let answer = ask_in_child(c"/nowhere/at/all", patience).unwrap();
        assert_eq!(answer, Answer::Failed(libc::ENOENT));
    }
}
