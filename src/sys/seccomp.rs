//! System call filters: programs that the kernel asks before each call; seccomp(2).
//!
//! A filter says what becomes of the calls that it names. Of the others it is asked for nothing
//! that a program would not survive: those that are older than the newest it names answer EPERM,
//! so that a program tells it from a kernel that lacks the call; all that is newer answers ENOSYS,
//! for which programs have a fall-back.
//!
//! The program is a binary search over the calls' numbers, for each ABI of the architecture.

use std::collections::BTreeMap;
use std::io;

use libc::sock_filter;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Allow,
    /// EPERM.
    Refuse,
    /// The call is unknown: ENOSYS.
    Hide,
    /// Made where all of these hold, else refused.
    If(&'static [Condition]),
}

/// What an argument has to be. Only its low half is seen: for those that the kernel takes as an
/// int, or looks at no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which one, from 0 on.
    pub argument: u32,
    /// What it has to be.
    pub is: Is,
}

/// What an argument has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Is {
    /// With none of these bits.
    Without(u32),
    /// With one of these bits at least.
    With(u32),
    /// In one of these ranges, by first and last, which ascend.
    Within(&'static [(u32, u32)]),
}

/// The flags of clone(2) that make a namespace; its first argument has them.
pub const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();

/// Which calls are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abis {
    /// Those of all ABIs in which a program may call this architecture's kernel.
    All,
    /// Those of this program's own; another one is fatal.
    Own,
}

/// A filter, ready to be installed.
#[derive(Debug)]
pub struct Filter {
    program: Vec<sock_filter>,
}

impl Filter {
    /// The filter by these rules; none on an architecture whose calls are not known.
    #[must_use]
    pub fn new(rules: &BTreeMap<&'static str, Verdict>, abis: Abis) -> Option<Filter> {
        let judged = match abis {
            Abis::All => ABIS,
            Abis::Own => ABIS.get(..1)?,
        };
        (!judged.is_empty()).then(|| Filter::over(judged, rules))
    }

    fn over(abis: &[Abi], rules: &BTreeMap<&'static str, Verdict>) -> Filter {
        let mut program = vec![load(OFFSET_OF_ARCH)];
        for abi in abis {
            let mut body = vec![load(OFFSET_OF_NUMBER)];
            body.extend(search(&ranges(&abi.calls(), rules)));
            program.push(jump(libc::BPF_JEQ, abi.audit, 1, 0));
            program.push(skip(body.len()));
            program.append(&mut body);
        }
        program.push(answer(libc::SECCOMP_RET_KILL_PROCESS));
        Filter { program }
    }

    /// Puts this thread, and all that it starts and executes, under the filter. That takes
    /// `CAP_SYS_ADMIN` or no_new_privs.
    ///
    /// # Errors
    /// What seccomp(2) answers.
    pub fn install(&self) -> io::Result<()> {
        install(&self.program)
    }
}

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

/// Gives a verdict, which ends the program.
fn judge(verdict: Verdict) -> Vec<sock_filter> {
    let conditions = match verdict {
        Verdict::Allow | Verdict::If([]) => return vec![answer(libc::SECCOMP_RET_ALLOW)],
        Verdict::Refuse => return vec![answer(REFUSED)],
        Verdict::Hide => return vec![answer(HIDDEN)],
        Verdict::If([first, others @ ..]) => (first, Verdict::If(others)),
    };
    let (Condition { argument, is }, rest) = conditions;
    let mut program = vec![load(offset_of_argument(*argument))];
    match *is {
        Is::Without(bits) => {
            program.extend([jump(libc::BPF_JSET, bits, 0, 1), answer(REFUSED)]);
            program.extend(judge(rest));
        }
        Is::With(bits) => {
            program.extend([jump(libc::BPF_JSET, bits, 1, 0), answer(REFUSED)]);
            program.extend(judge(rest));
        }
        Is::Within(allowed) => program.extend(search(&within(allowed, rest))),
    }
    program
}

/// The verdicts over all values, `inside` for those in `allowed`.
fn within(allowed: &[(u32, u32)], inside: Verdict) -> Vec<(u32, Verdict)> {
    let mut ranges = vec![(0, Verdict::Refuse)];
    for (first, last) in allowed {
        // Two starts at one value leave the first an empty range.
        ranges.push((*first, inside));
        ranges.extend(last.checked_add(1).map(|after| (after, Verdict::Refuse)));
    }
    ranges
}

const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
const HIDDEN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();

// struct seccomp_data, linux/seccomp.h.
const OFFSET_OF_NUMBER: u32 = 0;
const OFFSET_OF_ARCH: u32 = 4;
/// The arguments, of 64 bits each.
const OFFSET_OF_ARGUMENTS: u32 = 16;
const OFFSET_OF_LOW_HALF: u32 = if cfg!(target_endian = "little") { 0 } else { 4 };

fn offset_of_argument(index: u32) -> u32 {
    OFFSET_OF_ARGUMENTS + 8 * index + OFFSET_OF_LOW_HALF
}

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

/// Has the calling thread, and all that it becomes and starts, ask `program` before each
/// system call. Nothing takes it off again.
///
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW` (Linux 4.17) leaves the thread's speculation settings
/// alone, which before Linux 5.16 every filter made slow.
///
/// # Errors
/// EACCES: neither `CAP_SYS_ADMIN` nor no_new_privs. EINVAL: not a valid program.
fn install(program: &[sock_filter]) -> io::Result<()> {
    let length =
        u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let fprog = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: seccomp(2) copies `len` instructions from `filter` and writes to neither; both
    // outlive the call, and the kernel checks the program before it takes it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const fprog,
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    pub(crate) const REFUSED: u32 = super::REFUSED;
    pub(crate) const HIDDEN: u32 = super::HIDDEN;

    /// What the kernel's interpreter answers, as far as our programs use it.
    fn run(program: &[sock_filter], arch: u32, number: u32, arguments: &[u64]) -> u32 {
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
                        16.. if k % 8 == 0 => {
                            let argument = arguments.get((k as usize - 16) / 8).copied();
                            (argument.unwrap_or(0) & 0xffff_ffff) as u32
                        }
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

    /// The answer to a call by its name, in the first or second ABI; what is not given of its
    /// arguments is 0.
    pub(crate) fn asked(filter: &Filter, abi: usize, name: &str, arguments: &[u64]) -> u32 {
        let calls = ABIS[abi].calls();
        let (number, _) = calls.into_iter().find(|(_, known)| *known == name).unwrap();
        run(&filter.program, ABIS[abi].audit, number, arguments)
    }

    /// The names of all calls that are known.
    pub(crate) fn calls_of_all() -> Vec<&'static str> {
        OF_X86.iter().chain(OF_ARM).flat_map(Abi::calls).map(|(_, name)| name).collect()
    }

    const RULES: &[(&str, Verdict)] = &[
        ("read", Verdict::Allow),
        ("clone", Verdict::If(&[Condition { argument: 0, is: Is::Without(6) }])),
        ("clone3", Verdict::Hide),
        ("ptrace", Verdict::Refuse),
        (
            "socket",
            Verdict::If(&[
                Condition { argument: 0, is: Is::Within(&[(2, 3), (16, 16)]) },
                Condition { argument: 1, is: Is::With(0x18) },
                Condition { argument: 2, is: Is::Without(1) },
            ]),
        ),
    ];

    /// Every number of every ABI has the verdict that its name's rule says.
    #[test]
    fn the_program_says_what_the_rules_say() {
        let rules: BTreeMap<_, _> = RULES.iter().copied().collect();
        for abis in [OF_X86, OF_ARM, &OF_X86[..1]] {
            let filter = Filter::over(abis, &rules);
            for abi in abis {
                let calls: BTreeMap<u32, &str> = abi.calls().into_iter().collect();
                let newest = calls.iter().find(|(_, name)| **name == "clone3").unwrap();
                let private = PRIVATE_CALLS..PRIVATE_CALLS + 10;
                for number in (0..1000).chain(private).chain([0x4000_0000, u32::MAX]) {
                    let expected = match calls.get(&number).copied() {
                        Some("read" | "clone") => ALLOW,
                        // Without a bit that it is to have.
                        Some("socket") => REFUSED,
                        _ if number >= *newest.0 => HIDDEN,
                        _ => REFUSED,
                    };
                    let found = run(&filter.program, abi.audit, number, &[]);
                    assert_eq!(found, expected, "{number} {:?}", calls.get(&number));
                }
            }
            assert_eq!(run(&filter.program, 0x1234, 0, &[]), libc::SECCOMP_RET_KILL_PROCESS);
        }
    }

    #[test]
    fn all_conditions_have_to_hold() {
        let rules = RULES.iter().copied().collect();
        let Some(filter) = Filter::new(&rules, Abis::Own) else { return };
        for (arguments, expected) in [
            ([2, 8, 0], ALLOW),
            ([3, 16, 6], ALLOW),
            ([16, 0x18, 2], ALLOW),
            ([1 << 32 | 16, 0x18, 2], ALLOW),
            ([1, 8, 0], REFUSED),
            ([4, 8, 0], REFUSED),
            ([15, 8, 0], REFUSED),
            ([17, 8, 0], REFUSED),
            ([2, 0, 0], REFUSED),
            ([2, 0x27, 0], REFUSED),
            ([2, 8, 1], REFUSED),
        ] {
            assert_eq!(asked(&filter, 0, "socket", &arguments), expected, "{arguments:?}");
        }
    }
}
