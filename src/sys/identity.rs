//! Who a thread is: thread groups, pid namespaces and their inits, by pidfd and nsfs ioctls.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags};

/// `_IO(0xb7, 2)`, ioctl_nsfs(2), Linux 4.9: a descriptor of the parent pid namespace.
pub const NS_GET_PARENT: libc::c_ulong = 0xb702;
/// `_IOR(0xb7, 7, int)`, include/uapi/linux/nsfs.h, Linux 6.11: the thread group, in the
/// caller's pid namespace, of a pid in the given one. The pid is passed by value.
pub const NS_GET_TGID_FROM_PIDNS: libc::c_ulong = 0x8004_b707;
/// `_IOWR(0xff, 11, struct pidfd_info)` with the structure's first 64 bytes, Linux 6.13.
pub const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
/// Of include/uapi/linux/pidfd.h: a pidfd of a thread, not of its group; Linux 6.9.
const PIDFD_THREAD: u32 = libc::O_EXCL as u32;

/// The first version of `struct pidfd_info`, include/uapi/linux/pidfd.h.
#[repr(C)]
#[derive(Default)]
struct PidfdInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

const _: () = assert!(size_of::<PidfdInfo>() == 64);

/// The thread-group id of thread `tid`, both in the caller's pid namespace, and a descriptor
/// that stands for the thread.
///
/// # Errors
/// ESRCH: no such thread. EINVAL or ENOTTY: the kernel is older than 6.13.
pub fn thread_group(tid: Pid) -> io::Result<(u32, OwnedFd)> {
    let pidfd = rustix::process::pidfd_open(tid, PidfdFlags::from_bits_retain(PIDFD_THREAD))?;
    let mut info = PidfdInfo::default();
    // SAFETY: pidfd is open, and PIDFD_GET_INFO writes at most the 64 bytes that its request
    // number encodes into `info`, which has that size and only integer fields.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((info.tgid, pidfd))
}

/// The thread group, as the caller's pid namespace numbers it, that is the init of the pid
/// namespace open as `namespace`.
///
/// # Errors
/// ESRCH: the init has ended or is not visible to the caller. EINVAL or ENOTTY: the kernel is
/// older than 6.11.
pub fn namespace_init(namespace: impl AsFd) -> io::Result<u32> {
    const INIT: libc::c_ulong = 1;
    // SAFETY: the request takes an integer by value and touches no memory of ours.
    let result =
        unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_TGID_FROM_PIDNS, INIT) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The parent of the pid namespace open as `namespace`.
///
/// # Errors
/// EPERM: the parent is outside of the caller's own pid namespace (or there is none).
pub fn namespace_parent(namespace: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument and touches no memory of ours.
    let result = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_PARENT) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a non-negative result is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// A descriptor that stands for the process `pid` whatever becomes of the number.
///
/// # Errors
/// ESRCH: no such process.
pub fn process(pid: Pid) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Whether the process, or thread, behind a pidfd still runs (a pidfd turns readable at its
/// end).
#[must_use]
pub fn is_alive(pidfd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut fds, Some(&now)), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threads_group_is_its_process() {
        let own = std::process::id();
        let found = std::thread::spawn(|| thread_group(rustix::thread::gettid())).join().unwrap();
        match found {
            Ok((tgid, _)) => assert_eq!(tgid, own),
            // Kernels before 6.13 have no such call.
            Err(error) => assert!(matches!(
                error.raw_os_error(),
                Some(libc::EINVAL | libc::ENOTTY | libc::ENOENT)
            )),
        }
    }

    #[test]
    fn a_pidfd_tells_life_from_death() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pidfd = process(Pid::from_child(&child)).unwrap();
        assert!(is_alive(&pidfd));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(&pidfd));
    }
}
