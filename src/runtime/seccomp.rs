//! The system calls that a container may make, as a program for the kernel to ask; seccomp(2).
//!
//! The choice is that of Docker's default profile: what is listed here is allowed, everything
//! else answers EPERM, so that a program tells it from a kernel that lacks the call. ENOSYS
//! have `clone3`, whose flags no filter can see (C libraries then fall back to `clone`), and
//! every call that is newer than the list, for which programs have a fall-back too.
//!
//! The program is a binary search over the calls' numbers, for each ABI of the architecture.

use std::collections::BTreeMap;

use libc::sock_filter;
use rustix::thread::CapabilitySet;

use crate::error::{Error, Result};
use crate::sys::seccomp::install;

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

/// The flags of clone(2) that make a namespace; its first argument has them.
const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();

/// The execution domains that personality(2) may set: Linux's own, with the old 32-bit address
/// layout (`PER_LINUX32`), with the name of an old kernel (`UNAME26`), both; and the question.
const PERSONALITIES: &[u32] = &[0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The address families, by first and last, that socket(2) may use. Not among them are those
/// that the kernel gave up, `AF_ALG` (the kernel's ciphers, a wide and needless way in) and
/// `AF_VSOCK` (it reaches the machine's hypervisor, which no namespace divides).
const FAMILIES: &[(u32, u32)] =
    &[(0, 11), (13, 18), (21, 22), (24, 24), (26, 33), (35, 36), (39, 39), (41, 45)];

/// The names of one ABI's calls, and how the kernel tells it from others.
struct Abi {
    /// `AUDIT_ARCH_…` of linux/audit.h.
    audit: u32,
    calls: fn() -> Vec<(u32, &'static str)>,
    /// Calls that no table of numbers has.
    private: &'static [(u32, &'static str)],
}

impl Abi {
    fn calls(&self) -> Vec<(u32, &'static str)> {
        let mut calls = (self.calls)();
        calls.extend(self.private);
        calls
    }
}

macro_rules! abi {
    ($audit:literal, $table:ident, $private:expr) => {
        Abi {
            audit: $audit,
            calls: || {
                let number = |call: syscalls::$table::Sysno| u32::try_from(call.id()).ok();
                syscalls::$table::Sysno::iter()
                    .filter_map(|call| Some((number(call)?, call.name())))
                    .collect()
            },
            private: $private,
        }
    };
}

/// The ABIs in which a program may call this architecture's kernel. (x32 is not one of them: no
/// distribution's kernel has it switched on, and its numbers are beyond all that are listed.)
const ABIS: &[Abi] = if cfg!(target_arch = "x86_64") {
    OF_X86
} else if cfg!(target_arch = "aarch64") {
    OF_ARM
} else {
    &[]
};

const OF_X86: &[Abi] = &[abi!(0xc000_003e, x86_64, &[]), abi!(0x4000_0003, x86, &[])];

const OF_ARM: &[Abi] = &[
    abi!(0xc000_00b7, aarch64, &[]),
    // asm/unistd.h of arm.
    abi!(
        0x4000_0028,
        arm,
        &[(0xf_0001, "breakpoint"), (0xf_0002, "cacheflush"), (0xf_0005, "set_tls")]
    ),
];

/// Where the calls begin that only 32-bit ARM has (`__ARM_NR_BASE`).
const PRIVATE_CALLS: u32 = 0xf_0000;

/// A filter, ready to be installed.
#[derive(Debug)]
pub struct Filter {
    program: Vec<sock_filter>,
}

impl Filter {
    /// The filter for a container that is granted `capabilities`.
    ///
    /// # Errors
    /// [`Error::Refused`] on an architecture whose calls are not known.
    pub fn new(capabilities: CapabilitySet) -> Result<Filter> {
        if ABIS.is_empty() {
            return Err(Error::Refused(
                "no seccomp profile for this architecture: --security-opt seccomp=unconfined \
                 runs the container without"
                    .to_owned(),
            ));
        }
        Ok(Filter::over(ABIS, capabilities))
    }

    fn over(abis: &[Abi], capabilities: CapabilitySet) -> Filter {
        let rules = rules(capabilities);
        let mut program = vec![load(OFFSET_OF_ARCH)];
        for abi in abis {
            let mut body = vec![load(OFFSET_OF_NUMBER)];
            body.extend(search(&ranges(&abi.calls(), &rules)));
            program.push(jump(libc::BPF_JEQ, abi.audit, 1, 0));
            program.push(skip(body.len()));
            program.append(&mut body);
        }
        program.push(answer(libc::SECCOMP_RET_KILL_PROCESS));
        Filter { program }
    }

    /// Puts this process, and all that it executes, under the filter. That takes
    /// `CAP_SYS_ADMIN` or no_new_privs.
    ///
    /// # Errors
    /// What seccomp(2) answers.
    pub fn install(&self) -> Result<()> {
        install(&self.program)
            .map_err(|error| Error::io("install a seccomp filter for", "/proc/self", error))
    }
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Allow,
    Refuse,
    /// The call is unknown.
    Hide,
    /// Allowed with none of these bits in the first argument.
    WithoutBits(u32),
    /// Allowed with a first argument that is one of these.
    Among(&'static [u32]),
    /// Allowed with a first argument in one of these ranges.
    Within(&'static [(u32, u32)]),
}

/// What becomes of each call that is named in a list, for a container with `capabilities`.
fn rules(capabilities: CapabilitySet) -> BTreeMap<&'static str, Verdict> {
    let mut rules = BTreeMap::new();
    for name in ALLOWED.iter().copied().flatten() {
        rules.insert(*name, Verdict::Allow);
    }
    rules.insert("personality", Verdict::Among(PERSONALITIES));
    rules.insert("socket", Verdict::Within(FAMILIES));
    rules.insert("clone", Verdict::WithoutBits(NEW_NAMESPACES));
    rules.insert("clone3", Verdict::Hide);
    for (capability, names) in ALLOWED_WITH {
        if capabilities.contains(*capability) {
            rules.extend(names.iter().map(|name| (*name, Verdict::Allow)));
        }
    }
    rules
}

/// The verdicts over all numbers, each from its number to the next one's.
fn ranges(
    calls: &[(u32, &'static str)],
    rules: &BTreeMap<&'static str, Verdict>,
) -> Vec<(u32, Verdict)> {
    let known: BTreeMap<u32, Verdict> =
        calls.iter().filter_map(|(number, name)| Some((*number, *rules.get(name)?))).collect();
    let newest = known.range(..PRIVATE_CALLS).next_back().map_or(0, |(number, _)| *number);
    let between = |number: u32| if number <= newest { Verdict::Refuse } else { Verdict::Hide };
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let mut next = 0;
    for (number, verdict) in known {
        if number > next {
            push(&mut ranges, next, between(next));
        }
        push(&mut ranges, number, verdict);
        next = number + 1;
    }
    push(&mut ranges, next, between(next));
    ranges
}

fn push(ranges: &mut Vec<(u32, Verdict)>, start: u32, verdict: Verdict) {
    if ranges.last().is_none_or(|(_, last)| *last != verdict) {
        ranges.push((start, verdict));
    }
}

/// Finds the range that the loaded number lies in, and gives its verdict.
fn search(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    match ranges {
        [] => vec![answer(REFUSED)],
        [(_, verdict)] => judge(*verdict),
        _ => {
            let (below, above) = ranges.split_at(ranges.len() / 2);
            let (start, _) = above[0];
            let (below, above) = (search(below), search(above));
            // A conditional jump reaches only so far: it jumps over one that reaches further.
            let mut program = vec![jump(libc::BPF_JGE, start, 0, 1), skip(below.len())];
            program.extend(below);
            program.extend(above);
            program
        }
    }
}

/// Gives a verdict, which ends the program. The kernel takes the low half of an argument alone
/// in all calls that are judged by one.
fn judge(verdict: Verdict) -> Vec<sock_filter> {
    let allowed_if = |values: Vec<(u32, Verdict)>| {
        let mut program = vec![load(OFFSET_OF_ARGUMENT)];
        program.extend(search(&values));
        program
    };
    match verdict {
        Verdict::Allow => vec![answer(libc::SECCOMP_RET_ALLOW)],
        Verdict::Refuse => vec![answer(REFUSED)],
        Verdict::Hide => vec![answer(HIDDEN)],
        Verdict::WithoutBits(bits) => vec![
            load(OFFSET_OF_ARGUMENT),
            jump(libc::BPF_JSET, bits, 0, 1),
            answer(REFUSED),
            answer(libc::SECCOMP_RET_ALLOW),
        ],
        Verdict::Among(values) => allowed_if(allowing(values.iter().map(|&value| (value, value)))),
        Verdict::Within(ranges) => allowed_if(allowing(ranges.iter().copied())),
    }
}

/// The verdicts over all values, of which those in `allowed`, ascending, are allowed.
fn allowing(allowed: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, Verdict)> {
    let mut ranges = vec![(0, Verdict::Refuse)];
    for (first, last) in allowed {
        // Two starts at one value leave the first an empty range.
        ranges.push((first, Verdict::Allow));
        ranges.extend(last.checked_add(1).map(|after| (after, Verdict::Refuse)));
    }
    ranges
}

const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
const HIDDEN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

// struct seccomp_data, linux/seccomp.h.
const OFFSET_OF_NUMBER: u32 = 0;
const OFFSET_OF_ARCH: u32 = 4;
/// The low half of the first argument.
const OFFSET_OF_ARGUMENT: u32 = if cfg!(target_endian = "little") { 16 } else { 20 };

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

/// Skips so many instructions.
fn skip(count: usize) -> sock_filter {
    // No program that the kernel takes has more than 4096.
    instruction(libc::BPF_JMP | libc::BPF_JA, u32::try_from(count).unwrap_or(u32::MAX), 0, 0)
}

/// Skips as many instructions as the comparison's outcome says.
fn jump(comparison: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_K | comparison, value, if_true, if_false)
}

fn answer(action: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0, 0)
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    // Every operation code is below 0x100.
    sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    /// What the kernel's interpreter answers, as far as our programs use it.
    fn run(program: &[sock_filter], arch: u32, number: u32, argument: u64) -> u32 {
        let mut loaded = 0;
        let mut next = 0;
        loop {
            let sock_filter { code, jt, jf, k } = program[next];
            next += 1;
            let choose = |outcome: bool| usize::from(if outcome { jt } else { jf });
            match u32::from(code) {
                0x20 => {
                    loaded = match k {
                        0 => number,
                        4 => arch,
                        16 => (argument & 0xffff_ffff) as u32,
                        _ => panic!("load from {k}"),
                    }
                }
                0x05 => next += k as usize,
                0x15 => next += choose(loaded == k),
                0x35 => next += choose(loaded >= k),
                0x45 => next += choose(loaded & k != 0),
                0x06 => return k,
                code => panic!("instruction {code:#x}"),
            }
        }
    }

    /// The answer to a call by its name, in the first or second ABI.
    fn asked(filter: &Filter, abi: usize, name: &str, argument: u64) -> u32 {
        let calls = ABIS[abi].calls();
        let (number, _) = calls.into_iter().find(|(_, known)| *known == name).unwrap();
        run(&filter.program, ABIS[abi].audit, number, argument)
    }

    fn of(capabilities: CapabilitySet) -> Filter {
        Filter::new(capabilities).unwrap()
    }

    #[test]
    fn every_name_is_a_call_of_some_abi() {
        let known: BTreeSet<_> =
            OF_X86.iter().chain(OF_ARM).flat_map(Abi::calls).map(|(_, name)| name).collect();
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

    /// Every number of every ABI has the verdict that its name's rule says.
    #[test]
    fn the_program_says_what_the_rules_say() {
        for (abis, capabilities) in [
            (OF_X86, CapabilitySet::empty()),
            (OF_X86, CapabilitySet::all()),
            (OF_ARM, CapabilitySet::empty()),
            (OF_ARM, CapabilitySet::all()),
        ] {
            let rules = rules(capabilities);
            let filter = Filter::over(abis, capabilities);
            assert!(filter.program.len() < 4096, "{}", filter.program.len());
            for abi in abis {
                let calls: BTreeMap<u32, &str> = abi.calls().into_iter().collect();
                let listed = calls.iter().filter(|(_, name)| rules.contains_key(*name));
                let newest =
                    listed.map(|(number, _)| *number).filter(|&n| n < PRIVATE_CALLS).max().unwrap();
                let private = PRIVATE_CALLS..PRIVATE_CALLS + 10;
                for number in (0..1000).chain(private).chain([0x4000_0000, u32::MAX]) {
                    let rule = calls.get(&number).and_then(|name| rules.get(name));
                    let expected = match rule {
                        None if number > newest => HIDDEN,
                        None => REFUSED,
                        Some(Verdict::Hide) => HIDDEN,
                        // The argument is 0.
                        Some(_) => ALLOW,
                    };
                    let found = run(&filter.program, abi.audit, number, 0);
                    assert_eq!(found, expected, "{number} {:?}", calls.get(&number));
                }
            }
        }
    }

    #[test]
    fn new_namespaces_take_sys_admin() {
        let (bare, admin) = (of(CapabilitySet::empty()), of(CapabilitySet::SYS_ADMIN));
        for abi in 0..ABIS.len() {
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
                assert_eq!(asked(&bare, abi, name, argument), without, "{abi} {name} {argument:x}");
                assert_eq!(asked(&admin, abi, name, argument), with, "{abi} {name} {argument:x}");
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
            assert_eq!(asked(&filter, 0, "socket", family), expected, "{family}");
            // The kernel does not see the high half either.
            assert_eq!(asked(&filter, 0, "socket", family | 1 << 32), expected, "{family}");
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
            assert_eq!(asked(&filter, 0, "personality", persona), expected, "{persona:x}");
        }
    }

    #[test]
    fn another_abi_is_fatal() {
        let filter = of(CapabilitySet::empty());
        assert_eq!(run(&filter.program, 0x1234, 0, 0), libc::SECCOMP_RET_KILL_PROCESS);
    }
}
