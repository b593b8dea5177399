//! The system calls that a container may make, as a program for the kernel to ask.
//!
//! The choice is that of Docker's default profile: what is listed here is allowed, everything
//! else answers as [`crate::sys::seccomp`] says: EPERM. ENOSYS has `clone3`, whose flags no filter
//! can see (C libraries then fall back to `clone`).

use std::collections::BTreeMap;

use rustix::thread::CapabilitySet;

use crate::error::{Error, Result};
use crate::sys::seccomp::{Abis, Condition, Filter, Is, NEW_NAMESPACES, Verdict};

/// Calls that every container may make. A name that an ABI does not have is no call of its.
#[rustfmt::skip] // one name a line is no table
const ALLOWED: &[&[&str]] = &[
    // Files: by name,
    &[
        "access", "chdir", "chmod", "chown", "chown32", "creat", "execve", "execveat",
        "faccessat", "faccessat2", "fchmodat", "fchmodat2", "fchownat", "fstatat64",
        "futimesat", "getcwd", "lchown", "lchown32", "link", "linkat", "listmount", "lstat",
        "lstat64", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at",
        "newfstatat", "open", "openat", "openat2", "readlink", "readlinkat", "rename",
        "renameat", "renameat2", "rmdir", "stat", "stat64", "statfs", "statfs64",
        "statmount", "statx", "symlink", "symlinkat", "truncate", "truncate64", "umask",
        "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes",
    ],
    // by descriptor,
    &[
        "_llseek", "arm_fadvise64_64", "arm_sync_file_range", "close", "close_range",
        "copy_file_range", "dup", "dup2", "dup3", "fadvise64", "fadvise64_64", "fallocate",
        "fchdir", "fchmod", "fchown", "fchown32", "fcntl", "fcntl64", "fdatasync", "flock",
        "fstat", "fstat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64",
        "getdents", "getdents64", "ioctl", "lseek", "pipe", "pipe2", "pread64", "preadv",
        "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readv",
        "sendfile", "sendfile64", "splice", "sync", "sync_file_range", "syncfs", "tee",
        "vmsplice", "write", "writev",
    ],
    // and their extended attributes.
    &[
        "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat",
        "lgetxattr", "listxattr", "listxattrat", "llistxattr", "lremovexattr", "lsetxattr",
        "removexattr", "removexattrat", "setxattr", "setxattrat",
    ],
    // Waiting for files, and being told of them.
    &[
        "_newselect", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
        "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd",
        "eventfd2", "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1",
        "inotify_rm_watch", "io_cancel", "io_destroy", "io_getevents", "io_pgetevents",
        "io_pgetevents_time64", "io_setup", "io_submit", "poll", "ppoll", "ppoll_time64",
        "pselect6", "pselect6_time64", "select",
    ],
    // Memory.
    &[
        "brk", "cacheflush", "cachestat", "madvise", "map_shadow_stack", "membarrier",
        "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2", "mlockall", "mmap",
        "mmap2", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap",
        "pkey_alloc", "pkey_free", "pkey_mprotect", "remap_file_pages",
    ],
    // Processes and threads. Since Linux 4.8 a tracer cannot lead its tracee past a filter.
    &[
        "arch_prctl", "breakpoint", "exit", "exit_group", "fork", "futex", "futex_requeue",
        "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "get_robust_list",
        "get_thread_area", "getcpu", "getpgid", "getpgrp", "getpid", "getppid", "getrusage",
        "getsid", "gettid", "modify_ldt", "pidfd_open", "prctl", "process_mrelease",
        "process_vm_readv", "process_vm_writev", "ptrace", "restart_syscall", "rseq",
        "set_robust_list", "set_thread_area", "set_tid_address", "set_tls", "setpgid",
        "setsid", "times", "uretprobe", "vfork", "wait4", "waitid", "waitpid",
    ],
    // Who they are and what they may do.
    &[
        "capget", "capset", "getegid", "getegid32", "geteuid", "geteuid32", "getgid",
        "getgid32", "getgroups", "getgroups32", "getresgid", "getresgid32", "getresuid",
        "getresuid32", "getuid", "getuid32", "landlock_add_rule", "landlock_create_ruleset",
        "landlock_restrict_self", "seccomp", "setfsgid", "setfsgid32", "setfsuid",
        "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setregid",
        "setregid32", "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid",
        "setreuid32", "setuid", "setuid32",
    ],
    // What they may use.
    &[
        "getpriority", "getrlimit", "ioprio_get", "ioprio_set", "prlimit64",
        "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
        "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
        "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr",
        "sched_setparam", "sched_setscheduler", "sched_yield", "setpriority", "setrlimit",
        "sysinfo", "ugetrlimit", "uname",
    ],
    // Signals.
    &[
        "kill", "pause", "pidfd_send_signal", "rt_sigaction", "rt_sigpending",
        "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend",
        "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo", "sigaltstack",
        "signalfd", "signalfd4", "sigprocmask", "sigreturn", "tgkill", "tkill",
    ],
    // Time. Setting it takes CAP_SYS_TIME as well.
    &[
        "adjtimex", "alarm", "clock_adjtime", "clock_adjtime64", "clock_getres",
        "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
        "clock_nanosleep_time64", "getitimer", "gettimeofday", "nanosleep", "setitimer",
        "time", "timer_create", "timer_delete", "timer_getoverrun", "timer_gettime",
        "timer_gettime64", "timer_settime", "timer_settime64", "timerfd_create",
        "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
    ],
    // Sockets. What `socketcall` creates no filter can see: its arguments lie in memory.
    &[
        "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt",
        "listen", "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "send",
        "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketcall",
        "socketpair",
    ],
    // System V and POSIX IPC, which the ipc namespace divides.
    &[
        "ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive",
        "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64", "mq_unlink",
        "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop",
        "semtimedop_time64", "shmat", "shmctl", "shmdt", "shmget",
    ],
    // Randomness.
    &["getrandom"],
];

/// Calls that come with a capability.
const ALLOWED_WITH: &[(CapabilitySet, &[&str])] = &[
    (CapabilitySet::DAC_READ_SEARCH, &["open_by_handle_at"]),
    (
        CapabilitySet::SYS_ADMIN,
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "lsm_get_self_attr",
            "lsm_list_modules",
            "lsm_set_self_attr",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    (CapabilitySet::SYS_BOOT, &["reboot"]),
    (CapabilitySet::SYS_CHROOT, &["chroot"]),
    (CapabilitySet::SYS_MODULE, &["delete_module", "finit_module", "init_module"]),
    (CapabilitySet::SYS_PACCT, &["acct"]),
    (CapabilitySet::SYS_PTRACE, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (CapabilitySet::SYS_RAWIO, &["ioperm", "iopl"]),
    (CapabilitySet::SYS_TIME, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (CapabilitySet::SYS_TTY_CONFIG, &["vhangup"]),
    (
        CapabilitySet::SYS_NICE,
        &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"],
    ),
    (CapabilitySet::SYSLOG, &["syslog"]),
    (CapabilitySet::BPF, &["bpf"]),
    (CapabilitySet::PERFMON, &["perf_event_open"]),
];

/// The execution domains that personality(2) may set: Linux's own, with the old 32-bit address
/// layout (`PER_LINUX32`), with the name of an old kernel (`UNAME26`), both; and the question.
const PERSONALITIES: &[(u32, u32)] =
    &[(0, 0), (0x8, 0x8), (0x2_0000, 0x2_0000), (0x2_0008, 0x2_0008), (0xffff_ffff, 0xffff_ffff)];

/// The address families, by first and last, that socket(2) may use. Not among them are those
/// that the kernel gave up, `AF_ALG` (the kernel's ciphers, a wide and needless way in) and
/// `AF_VSOCK` (it reaches the machine's hypervisor, which no namespace divides).
const FAMILIES: &[(u32, u32)] =
    &[(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];

/// The filter for a container that is granted `capabilities`.
///
/// # Errors
/// [`Error::Refused`] on an architecture whose calls are not known.
pub fn filter(capabilities: CapabilitySet) -> Result<Filter> {
    Filter::new(&rules(capabilities), Abis::All).ok_or_else(|| {
        Error::Refused(
            "no seccomp profile for this architecture: --security-opt seccomp=unconfined runs the \
             container without"
                .to_owned(),
        )
    })
}

/// Calls that are judged by their first argument.
const FIRST_ARGUMENT: &[(&str, &[Condition])] = &[
    ("personality", &[Condition { argument: 0, is: Is::Within(PERSONALITIES) }]),
    ("socket", &[Condition { argument: 0, is: Is::Within(FAMILIES) }]),
    ("clone", &[Condition { argument: 0, is: Is::Without(NEW_NAMESPACES) }]),
];

/// What becomes of each call that is named in a list, for a container with `capabilities`.
fn rules(capabilities: CapabilitySet) -> BTreeMap<&'static str, Verdict> {
    let mut rules = BTreeMap::new();
    for name in ALLOWED.iter().copied().flatten() {
        rules.insert(*name, Verdict::Allow);
    }
    rules.extend(FIRST_ARGUMENT.iter().map(|(name, is)| (*name, Verdict::If(is))));
    rules.insert("clone3", Verdict::Hide);
    for (capability, names) in ALLOWED_WITH {
        if capabilities.contains(*capability) {
            rules.extend(names.iter().map(|name| (*name, Verdict::Allow)));
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seccomp::tests::{ALLOW, HIDDEN, REFUSED, asked, calls_of_all};
    use std::collections::BTreeSet;

    fn of(capabilities: CapabilitySet) -> Filter {
        filter(capabilities).unwrap()
    }

    #[test]
    fn every_name_is_a_call_of_some_abi() {
        let known: BTreeSet<_> = calls_of_all().into_iter().collect();
        let unknown: Vec<_> =
            rules(CapabilitySet::all()).into_keys().filter(|name| !known.contains(name)).collect();
        assert_eq!(unknown, [""; 0]);
    }

    #[test]
    fn no_name_stands_twice() {
        let mut seen = BTreeSet::new();
        for name in ALLOWED.iter().copied().flatten() {
            assert!(seen.insert(name), "{name}");
        }
    }

    #[test]
    fn new_namespaces_take_sys_admin() {
        let (bare, admin) = (of(CapabilitySet::empty()), of(CapabilitySet::SYS_ADMIN));
        for abi in 0..2 {
            for (name, argument, without, with) in [
                ("clone3", 0, HIDDEN, ALLOW),
                ("clone", libc::SIGCHLD as u64, ALLOW, ALLOW),
                ("clone", libc::CLONE_NEWUSER as u64, REFUSED, ALLOW),
                ("clone", (libc::CLONE_NEWNS | libc::SIGCHLD) as u64, REFUSED, ALLOW),
                ("unshare", 0, REFUSED, ALLOW),
                ("setns", 0, REFUSED, ALLOW),
                ("mount", 0, REFUSED, ALLOW),
                ("keyctl", 0, REFUSED, REFUSED),
                ("pivot_root", 0, REFUSED, REFUSED),
                ("io_uring_setup", 0, REFUSED, REFUSED),
                ("kexec_load", 0, REFUSED, REFUSED),
                ("ptrace", 0, ALLOW, ALLOW),
            ] {
                assert_eq!(
                    asked(&bare, abi, name, &[argument]),
                    without,
                    "{abi} {name} {argument:x}"
                );
                assert_eq!(
                    asked(&admin, abi, name, &[argument]),
                    with,
                    "{abi} {name} {argument:x}"
                );
            }
        }
    }

    #[test]
    fn arguments_are_judged_by_their_low_half() {
        let filter = of(CapabilitySet::empty());
        for (family, expected) in [
            (libc::AF_UNIX, ALLOW),
            (libc::AF_INET6, ALLOW),
            (11, ALLOW),
            (12, REFUSED),
            (13, ALLOW),
            (libc::AF_NETLINK, ALLOW),
            (libc::AF_PACKET, ALLOW),
            (libc::AF_ALG, REFUSED),
            (39, ALLOW),
            (libc::AF_VSOCK, REFUSED),
            (41, ALLOW),
            (45, ALLOW),
            (46, REFUSED),
        ] {
            let family = u64::from(family.cast_unsigned());
            assert_eq!(asked(&filter, 0, "socket", &[family]), expected, "{family}");
            // The kernel does not see the high half either.
            assert_eq!(asked(&filter, 0, "socket", &[family | 1 << 32]), expected, "{family}");
        }
        for (persona, expected) in [
            (0, ALLOW),
            (1, REFUSED),
            (7, REFUSED),
            (8, ALLOW),
            (9, REFUSED),
            (0x2_0000, ALLOW),
            (0x2_0001, REFUSED),
            (0x2_0008, ALLOW),
            (0x4_0000, REFUSED), // ADDR_NO_RANDOMIZE
            (0xffff_fffe, REFUSED),
            (0xffff_ffff, ALLOW),
        ] {
            assert_eq!(asked(&filter, 0, "personality", &[persona]), expected, "{persona:x}");
        }
    }
}
