//! What a worker may do: it answers whoever reads, so it gives up whatever answering does not
//! take.
//!
//! Of capabilities it has those of [`EFFECTIVE`], and can raise those of [`RAISED`] for the moments
//! that take them. Of system calls it has [`ALLOWED`] and [`ALLOWED_IF`]. The others fail, EPERM or
//! ENOSYS, and do not kill: a C library or a kernel of an operator's that lets a worker make a call
//! which nobody saw in a test would end it with each request anew, and after the fifth its readers
//! get errors. Only a call in the way of another architecture is fatal: no library makes one.
//!
//! The keeper has all of root's rights. It reads no request; and what it gave up, no newer program
//! that it is replaced with could get back.
//!
//! No Landlock: the kernel lets nobody who is confined by it see the namespaces of others
//! (`hook_ptrace_access_check()`), and by them readers are told apart.

use std::collections::BTreeMap;
use std::io;

use rustix::thread::{CapabilitySet, set_no_new_privs};

use crate::sys::seccomp::{Abis, Condition, Filter, Is, NEW_NAMESPACES, Verdict};
use crate::sys::{capabilities, fuse, identity};

/// To see the namespaces of all processes; and cgroups whose owner lets nobody in.
const EFFECTIVE: CapabilitySet = CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH);

/// To enter a cgroup namespace, which tells a container's root (`Resolver`); and for pressure
/// triggers: in cgroups that belong to others than root, and with short windows for writers that
/// may have them (`Collector::set_trigger`).
const RAISED: CapabilitySet =
    CapabilitySet::SYS_ADMIN.union(CapabilitySet::DAC_OVERRIDE).union(CapabilitySet::SYS_RESOURCE);

/// Calls of a worker. Those of more than one architecture or C library stand together.
#[rustfmt::skip] // one name a line is no table
const ALLOWED: &[&[&str]] = &[
    // Requests and answers, and the kernel's files.
    &[
        "read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "close", "fstat",
        "newfstatat", "stat", "lstat", "statx", "readlink", "readlinkat", "getdents64", "access",
        "faccessat", "faccessat2", "dup3", "fcntl", "flock", "unlink", "unlinkat",
    ],
    // Waiting.
    &[
        "poll", "ppoll", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2",
        "nanosleep", "clock_nanosleep", "timerfd_settime", "restart_syscall",
    ],
    // Memory and threads.
    &[
        "brk", "munmap", "mremap", "madvise", "exit", "exit_group", "futex", "set_robust_list",
        "get_robust_list", "rseq", "set_tid_address", "sched_yield", "sched_getaffinity", "sigaltstack",
        "rt_sigprocmask", "rt_sigaction", "rt_sigreturn", "membarrier", "getcpu",
    ],
    // Who it is, what it may do, and when.
    &[
        "getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid", "capget", "capset",
        "getcwd", "uname", "clock_gettime", "clock_getres", "gettimeofday", "time", "getrandom",
    ],
    // Readers, and the kernel's count of tasks.
    &["pidfd_open", "connect", "sendto", "recvfrom", "getsockname", "getsockopt"],
];

/// Calls that it may make in one way.
const ALLOWED_IF: &[(&str, &[Condition])] = &[
    // Nothing is emptied, and no file is without a name.
    ("open", &[at(1, Is::Without(EMPTIES))]),
    ("openat", &[at(2, Is::Without(EMPTIES))]),
    // No memory is executed that was not when the program started.
    ("mmap", &[at(2, Is::Without(EXECUTABLE))]),
    ("mprotect", &[at(2, Is::Without(EXECUTABLE))]),
    // Threads, but no processes and no namespaces.
    (
        "clone",
        &[at(0, Is::With(libc::CLONE_THREAD.cast_unsigned())), at(0, Is::Without(NEW_NAMESPACES))],
    ),
    ("setns", &[at(1, Is::Within(&[only(libc::CLONE_NEWCGROUP.cast_unsigned())]))]),
    // By which more workers shake hands.
    ("socketpair", &[at(0, Is::Within(&[only(libc::AF_UNIX.cast_unsigned())]))]),
    (
        "socket",
        &[
            at(0, Is::Within(&[only(libc::AF_NETLINK.cast_unsigned())])),
            at(2, Is::Within(&[only(libc::NETLINK_GENERIC.cast_unsigned())])),
        ],
    ),
    ("prctl", &[at(0, Is::Within(&[only(libc::PR_SET_NAME.cast_unsigned())]))]),
    // Its own.
    ("prlimit64", &[at(0, Is::Within(&[only(0)]))]),
    (
        "ioctl",
        &[at(
            1,
            Is::Within(&[
                request(identity::NS_GET_PARENT),
                request(identity::NS_GET_TGID_FROM_PIDNS),
                request(fuse::FUSE_DEV_IOC_CLONE),
                request(identity::PIDFD_GET_INFO),
            ]),
        )],
    ),
];

const EMPTIES: u32 = (libc::O_TRUNC | (libc::O_TMPFILE & !libc::O_DIRECTORY)).cast_unsigned();

const EXECUTABLE: u32 = libc::PROT_EXEC.cast_unsigned();

const fn at(argument: u32, is: Is) -> Condition {
    Condition { argument, is }
}

const fn only(value: u32) -> (u32, u32) {
    (value, value)
}

/// One request of ioctl(2).
#[allow(clippy::cast_possible_truncation, reason = "the kernel takes an unsigned int")]
const fn request(number: libc::c_ulong) -> (u32, u32) {
    only(number as u32)
}

fn rules() -> BTreeMap<&'static str, Verdict> {
    let plain = ALLOWED.iter().copied().flatten().map(|name| (*name, Verdict::Allow));
    let judged = ALLOWED_IF.iter().map(|(name, conditions)| (*name, Verdict::If(conditions)));
    // Its flags no filter can see; C libraries then fall back to clone.
    plain.chain(judged).chain([("clone3", Verdict::Hide)]).collect()
}

/// Gives up, for this thread and those that it starts, whatever a worker does not need. Where the
/// kernel, or whoever started the daemon, does not let it, it serves all the same.
pub(super) fn give_up() {
    let note = |what: &str, done: io::Result<()>| {
        if let Err(error) = done {
            log::debug!("worker: {what}: {error}");
        }
    };
    // First, as it takes one.
    note("capabilities stay within reach", capabilities::bound_to(CapabilitySet::empty()));
    note("it may gain rights", set_no_new_privs(true).map_err(io::Error::from));
    note("it keeps its capabilities", keep_capabilities());
    match Filter::new(&rules(), Abis::Own) {
        Some(filter) => note("its system calls are not filtered", filter.install()),
        None => log::debug!("worker: the system calls of this architecture are not known"),
    }
}

fn keep_capabilities() -> io::Result<()> {
    let available = capabilities::available()?;
    let effective = EFFECTIVE.intersection(available);
    capabilities::keep(effective.union(RAISED.intersection(available)), effective)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp::tests::{ALLOW, HIDDEN, REFUSED, asked, calls_of_all};

    #[test]
    fn every_name_is_a_call_and_stands_once() {
        let known = calls_of_all();
        let plain = ALLOWED.iter().copied().flatten().copied();
        let names: Vec<&str> = plain.chain(ALLOWED_IF.iter().map(|(name, _)| *name)).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(known.contains(name), "{name}");
            assert!(!names[..index].contains(name), "{name}");
        }
    }

    #[test]
    fn what_a_worker_never_does_is_refused() {
        let Some(filter) = Filter::new(&rules(), Abis::Own) else { return };
        let thread = (libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND) as u64;
        let directory = (libc::O_DIRECTORY | libc::O_PATH) as u64;
        for (name, arguments, expected) in [
            ("execve", [0; 3], REFUSED),
            ("execveat", [0; 3], REFUSED),
            ("mount", [0; 3], REFUSED),
            ("ptrace", [0; 3], REFUSED),
            ("bpf", [0; 3], REFUSED),
            ("open_by_handle_at", [0; 3], REFUSED),
            ("kill", [0; 3], REFUSED),
            ("tgkill", [0; 3], REFUSED),
            ("renameat", [0; 3], REFUSED),
            ("clone3", [0; 3], HIDDEN),
            ("openat2", [0; 3], REFUSED),
            ("read", [0; 3], ALLOW),
            ("clone", [libc::SIGCHLD as u64, 0, 0], REFUSED),
            ("clone", [thread, 0, 0], ALLOW),
            ("clone", [thread | libc::CLONE_NEWNS as u64, 0, 0], REFUSED),
            ("setns", [0, 0, 0], REFUSED),
            ("setns", [0, libc::CLONE_NEWNS as u64, 0], REFUSED),
            ("setns", [0, libc::CLONE_NEWCGROUP as u64, 0], ALLOW),
            ("socket", [16, 3, 16], ALLOW),
            ("socket", [16, 3, 0], REFUSED),
            ("socket", [2, 1, 0], REFUSED),
            ("socket", [1, 1, 0], REFUSED),
            ("openat", [0, 0, directory], ALLOW),
            ("openat", [0, 0, (libc::O_RDWR | libc::O_NONBLOCK) as u64], ALLOW),
            ("openat", [0, 0, (libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL) as u64], ALLOW),
            ("openat", [0, 0, (libc::O_WRONLY | libc::O_TRUNC) as u64], REFUSED),
            ("openat", [0, 0, (libc::O_RDWR | libc::O_TMPFILE) as u64], REFUSED),
            ("mmap", [0, 0, 3], ALLOW),
            ("mmap", [0, 0, 7], REFUSED),
            ("mprotect", [0, 0, 5], REFUSED),
            ("prlimit64", [0; 3], ALLOW),
            ("prlimit64", [1, 0, 0], REFUSED),
            ("prctl", [15, 0, 0], ALLOW),
            ("prctl", [4, 0, 0], REFUSED),
            ("ioctl", [0, 0xb702, 0], ALLOW),
            ("ioctl", [0, 0x5412, 0], REFUSED), // TIOCSTI
        ] {
            assert_eq!(asked(&filter, 0, name, &arguments), expected, "{name} {arguments:x?}");
        }
    }
}
