//! Processes: clone3(2), fork(2), close_range(2) and signal(2), for the runtime.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// The exit status of a child whose code panicked: "anything of ours" for `docker run`.
const PANICKED: u8 = 125;

/// A child process that was started here and not waited for yet.
#[derive(Debug)]
pub struct Child {
    /// Its process id, seen from this process's pid namespace.
    pub pid: nix::unistd::Pid,
    /// Refers to it and to no later process of the same number; readable once it ended.
    pub pidfd: OwnedFd,
}

/// Starts a child as fork(2) does, in the new namespaces `flags` (`CLONE_NEW…`) and, with
/// `cgroup` (a directory of cgroup2), in that cgroup from its first instruction on. The child
/// runs `child` and ends with the status it returns; it never returns to the caller.
///
/// clone3(2); `CLONE_INTO_CGROUP` since Linux 5.7.
///
/// # Errors
/// What clone3(2) answers: EBUSY for a cgroup with controllers for its children, ENOSYS where
/// a seccomp filter hides the call.
pub fn clone_into(
    flags: nix::sched::CloneFlags,
    cgroup: Option<BorrowedFd<'_>>,
    child: impl FnOnce() -> u8,
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    // SAFETY: clone_args is plain integers, for which all zeroes is "not asked for".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags.bits().cast_unsigned()) | flag(libc::CLONE_PIDFD);
    args.pidfd = std::ptr::from_mut(&mut pidfd).addr() as u64;
    args.exit_signal = flag(libc::SIGCHLD);
    if let Some(cgroup) = cgroup {
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000; // linux/sched.h
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = flag(cgroup.as_raw_fd());
    }
    // SAFETY: clone3(2) with neither CLONE_VM nor a stack is fork(2): the child gets a copy of
    // the address space, so that no memory is shared. `args` and `pidfd` outlive the call. The
    // callers have one thread, so that no lock is held by a thread which the child lacks.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut args), size_of_val(&args))
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => end_with(child),
        pid => {
            let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
            // SAFETY: CLONE_PIDFD stored a new descriptor, close-on-exec and ours alone.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Child { pid: nix::unistd::Pid::from_raw(pid), pidfd })
        }
    }
}

/// Starts a child by the C library's own fork(2), for code that goes on to start threads.
/// The child runs `child` and ends with the status it returns.
///
/// # Errors
/// What fork(2) and pidfd_open(2) answer.
pub fn fork(child: impl FnOnce() -> u8) -> io::Result<Child> {
    // SAFETY: the callers have one thread, so that the child may do all that they may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => end_with(child),
        nix::unistd::ForkResult::Parent { child: pid } => {
            let by_number = rustix::process::Pid::from_raw(pid.as_raw())
                .ok_or(io::Error::from_raw_os_error(libc::ESRCH))?;
            let pidfd =
                rustix::process::pidfd_open(by_number, rustix::process::PidfdFlags::empty())?;
            Ok(Child { pid, pidfd })
        }
    }
}

/// Starts a child of this process's parent, a sibling, as fork(2) does. The child runs `child`
/// and ends with the status it returns. Returns its pidfd, for the parent; clone(2) with
/// `CLONE_PARENT`, and `CLONE_PIDFD` (Linux 5.2).
///
/// Not by clone3(2), which a container's filter hides.
///
/// # Errors
/// What clone(2) answers: EAGAIN where the cgroup may have no more processes.
pub fn clone_sibling(child: impl FnOnce() -> u8) -> io::Result<OwnedFd> {
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_PARENT | libc::CLONE_PIDFD;
    // SAFETY: clone(2) with neither CLONE_VM nor a stack is fork(2), see `clone_into`. The
    // third argument is where CLONE_PIDFD stores, and outlives the call; the others are unused.
    // The callers have one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => end_with(child),
        // SAFETY: CLONE_PIDFD stored a new descriptor, close-on-exec and ours alone.
        _ => Ok(unsafe { OwnedFd::from_raw_fd(pidfd) }),
    }
}

/// Has this process killed when `parent`, which forked it, ends; prctl(2), PR_SET_PDEATHSIG.
///
/// # Errors
/// ESRCH where it has ended already.
pub fn end_with_parent(parent: nix::unistd::Pid) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // It may have ended before that was said.
    if nix::unistd::getppid() != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(())
}

/// Closes every descriptor above standard error but those in `kept`; close_range(2), Linux 5.9.
/// For a child that neither uses the others nor returns to their owners.
///
/// # Errors
/// ENOSYS on an older kernel.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    let mut first: RawFd = 3;
    for last in kept.into_iter().map(|kept| kept - 1).chain([RawFd::MAX]) {
        if first <= last {
            // SAFETY: close_range(2) touches no memory. That descriptors close behind their
            // owners' backs is what callers are told: nothing uses or closes them any more.
            let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            if result == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        first = last.saturating_add(2).max(first);
    }
    Ok(())
}

/// Runs what a child is for and ends it, whatever happens: its copy of the parent's stack
/// must not be unwound, or the parent's destructors would run twice.
fn end_with(child: impl FnOnce() -> u8) -> ! {
    let status = catch_unwind(AssertUnwindSafe(child)).unwrap_or(PANICKED);
    // SAFETY: _exit(2) ends the process without running exit handlers or destructors.
    unsafe { libc::_exit(i32::from(status)) }
}

/// A non-negative C int as a field of `clone_args`.
fn flag(value: i32) -> u64 {
    u64::from(value.cast_unsigned())
}

/// Has the kernel keep ended children until they are waited for, even where the program that
/// started this one ignored SIGCHLD.
///
/// # Errors
/// What signal(2) answers.
pub fn notice_children() -> io::Result<()> {
    // SAFETY: SIG_DFL installs no handler.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives every signal its default action and blocks none, as a freshly booted machine's first
/// process finds them; exec(2) would pass on what this process ignores.
///
/// # Errors
/// What sigprocmask(2) answers.
pub fn reset_signals() -> io::Result<()> {
    /// `_NSIG`, asm-generic/signal.h.
    const SIGNALS: i32 = 64;
    /// Longer than any architecture's `struct sigaction`.
    const DEFAULT: [u64; 8] = [0; 8];
    for signal in 1..=SIGNALS {
        // Not by signal(3), which keeps its hands off the two numbers that the C library uses.
        // SAFETY: rt_sigaction(2) with an all-zero action is SIG_DFL and installs no handler.
        // It refuses SIGKILL and SIGSTOP, which cannot be anything else.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                DEFAULT.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn only_what_is_kept_stays_open() {
        let files: Vec<std::fs::File> =
            (0..5).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let (kept, others): (Vec<_>, Vec<_>) =
            files.iter().enumerate().partition(|(number, _)| number % 2 == 1);
        let child = fork(|| {
            let kept: Vec<BorrowedFd> = kept.iter().rev().map(|(_, file)| file.as_fd()).collect();
            if close_all_but(&kept).is_err() {
                return 1;
            }
            let is_open = |file: &std::fs::File| {
                // SAFETY: fcntl(2) with F_GETFD only asks.
                unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) != -1 }
            };
            let are_right = is_open(&files[1])
                && is_open(&files[3])
                && !others.iter().any(|(_, file)| is_open(file));
            if are_right { 0 } else { 2 }
        });
        let status = nix::sys::wait::waitpid(child.unwrap().pid, None).unwrap();
        assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
    }
}
