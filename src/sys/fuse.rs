//! System calls of the FUSE session that nix, rustix and std offer no safe form of.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
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
    /// What was asked for.
    Present,
    /// This errno.
    Failed(i32),
    /// No answer in time.
    None,
}

impl Answer {
    /// No answer as an error that says so; as any other what was answered instead.
    ///
    /// # Errors
    /// Unless it is [`Answer::Present`].
    pub fn into_result(self) -> io::Result<()> {
        match self {
            Answer::Present => Ok(()),
            Answer::Failed(errno) => Err(io::Error::from_raw_os_error(errno)),
            Answer::None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

/// Asks the filesystem at `path` for its attributes, and reads it to its end where that is a file,
/// in a forked child; waits at most `patience` for the answer. For an empty file that is ENODATA.
///
/// A FUSE daemon that took a request and never answers makes its reader sleep where not even
/// SIGKILL reaches it; a thread of ours would then keep this process from ever ending.
/// The child is killed and, where it can be, reaped. It holds none of this process's
/// descriptors: a pipe left open in one that sleeps for ever would keep its reader waiting, and
/// the connection's own, open in who waits for its answer, would keep that from ever ending.
///
/// # Errors
/// What fork, pidfd_open (Linux 5.3) or poll answer.
pub fn ask_in_child(path: &Path, patience: Duration) -> io::Result<Answer> {
    /// More descriptors than [`super::descriptors::raise_limit`] lets a process have.
    const OPEN_MAX: i32 = 1 << 20;
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: fork(2). Until _exit the child calls async-signal-safe functions only
    // (signal-safety(7)): close, bare system calls, and _exit. It allocates nothing and drops
    // nothing.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: close_range(2) (Linux 5.9), close(2) and _exit(2). The child uses no descriptor
        // but its own.
        unsafe {
            if libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) != 0 {
                (0..OPEN_MAX).for_each(|descriptor| {
                    libc::close(descriptor);
                });
            }
            libc::_exit(ask(&path));
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

/// What a child asks: the errno that it is answered, or 0. For the attributes by statx(2) with
/// AT_STATX_FORCE_SYNC (Linux 4.11): to stat(2) the kernel replies for a dead daemon as long as it
/// may keep them.
fn ask(path: &CStr) -> i32 {
    let (flags, wanted) = (libc::AT_STATX_FORCE_SYNC, libc::STATX_BASIC_STATS);
    let mut text = [0_u8; 4096];
    let mut is_empty = true;
    // SAFETY: statx(2), open(2) and read(2). `path` is NUL-terminated, `found` is a place for a whole
    // `struct statx`, for which all zeroes is a valid value, and `text` is as long as it is said to be.
    unsafe {
        let mut found: libc::statx = std::mem::zeroed();
        if libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, wanted, &raw mut found) != 0 {
            return Errno::last_raw();
        }
        if u32::from(found.stx_mode) & libc::S_IFMT != libc::S_IFREG {
            return 0;
        }
        let file = libc::open(path.as_ptr(), libc::O_RDONLY);
        if file == -1 {
            return Errno::last_raw();
        }
        loop {
            match libc::read(file, text.as_mut_ptr().cast(), text.len()) {
                0 => return if is_empty { libc::ENODATA } else { 0 },
                -1 => return Errno::last_raw(),
                _ => is_empty = false,
            }
        }
    }
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
        let ask = |path: &str| ask_in_child(Path::new(path), patience).unwrap();
        assert_eq!(ask("/"), Answer::Present);
        assert_eq!(ask("/proc/self/stat"), Answer::Present);
        assert_eq!(ask("/nowhere/at/all"), Answer::Failed(libc::ENOENT));
        let empty = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(ask(empty.path().to_str().unwrap()), Answer::Failed(libc::ENODATA));
        let error = Answer::Failed(libc::ENODATA).into_result().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODATA));
        assert_eq!(Answer::None.into_result().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
