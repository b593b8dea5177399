//! Which devices a container may open: the list that Docker has, for v1's `devices` controller,
//! and as a program for v2, which has no such controller;
//! `Documentation/admin-guide/cgroup-v1/devices.rst`, `Documentation/bpf/prog_cgroup_sysctl.rst`
//! and linux/bpf.h (`BPF_PROG_TYPE_CGROUP_DEVICE`).

use crate::sys::bpf::Instruction;
use serde::{Deserialize, Serialize};

/// Whether any device may be opened, or those alone that tell and do nothing of the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceAccess {
    /// Any.
    #[default]
    Any,
    /// The usual ones: null, zero and their like, terminals, tun. Nodes of others may be made.
    Usual,
}

/// A character device that may be opened.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    major: u32,
    /// None for all.
    minor: Option<u32>,
}

const fn allowed(major: u32, minor: u32) -> Allowed {
    Allowed { major, minor: Some(minor) }
}

/// linux/Documentation/admin-guide/devices.txt has the names.
const USUAL: &[Allowed] = &[
    allowed(1, 3),                       // null
    allowed(1, 5),                       // zero
    allowed(1, 7),                       // full
    allowed(1, 8),                       // random
    allowed(1, 9),                       // urandom
    allowed(5, 0),                       // tty
    allowed(5, 1),                       // console
    allowed(5, 2),                       // ptmx
    allowed(10, 200),                    // net/tun
    Allowed { major: 136, minor: None }, // pts
];

/// The writes, as file and value, that allow a v1 cgroup the usual devices and no other.
#[must_use]
pub fn v1_writes() -> Vec<(&'static str, String)> {
    const ALLOW: &str = "devices.allow";
    let mut writes = vec![("devices.deny", "a".to_owned())];
    writes.extend(["b *:* m", "c *:* m"].map(|rule| (ALLOW, rule.to_owned())));
    writes.extend(USUAL.iter().map(|Allowed { major, minor }| {
        let minor = minor.map_or("*".to_owned(), |minor| minor.to_string());
        (ALLOW, format!("c {major}:{minor} rwm"))
    }));
    writes
}

// struct bpf_cgroup_dev_ctx and its values, linux/bpf.h.
const OFFSET_OF_ACCESS_AND_TYPE: i16 = 0;
const OFFSET_OF_MAJOR: i16 = 4;
const OFFSET_OF_MINOR: i16 = 8;
const ACCESS_MKNOD: i32 = 1;
const TYPE_CHAR: i32 = 2;

// Registers: the answer and the context have theirs by the kernel's convention.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// The program that answers 1 for the usual devices and 0 for any other.
#[must_use]
pub fn v2_program() -> Vec<Instruction> {
    let mut program = vec![
        Instruction::load_u32(TYPE, CONTEXT, OFFSET_OF_ACCESS_AND_TYPE),
        Instruction::copy(ACCESS, TYPE),
        Instruction::and(TYPE, 0xffff),
        Instruction::shift_right(ACCESS, 16),
        Instruction::load_u32(MAJOR, CONTEXT, OFFSET_OF_MAJOR),
        Instruction::load_u32(MINOR, CONTEXT, OFFSET_OF_MINOR),
        Instruction::skip_if_not_equal(ACCESS, ACCESS_MKNOD, 2),
    ];
    program.extend(answer(1));
    program.push(Instruction::skip_if_equal(TYPE, TYPE_CHAR, 2));
    program.extend(answer(0));
    for Allowed { major, minor } in USUAL {
        // Past the comparison of the minor number, and past the answer.
        let skipped = if minor.is_some() { 3 } else { 2 };
        program.push(Instruction::skip_if_not_equal(MAJOR, major.cast_signed(), skipped));
        if let Some(minor) = minor {
            program.push(Instruction::skip_if_not_equal(MINOR, minor.cast_signed(), 2));
        }
        program.extend(answer(1));
    }
    program.extend(answer(0));
    program
}

fn answer(value: i32) -> [Instruction; 2] {
    [Instruction::set(ANSWER, value), Instruction::exit()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel's interpreter answers, as far as our program uses it.
    fn run(program: &[Instruction], access: u32, kind: u32, major: u32, minor: u32) -> u64 {
        let mut registers = [0_u64; 11];
        let mut next = 0_usize;
        loop {
            let (code, to, from, offset, value) = program[next].parts();
            next += 1;
            let to = usize::from(to);
            let skipped = usize::try_from(offset).unwrap();
            match code {
                0x61 => {
                    assert_eq!(from, CONTEXT);
                    registers[to] = match offset {
                        0 => u64::from(access << 16 | kind),
                        4 => u64::from(major),
                        8 => u64::from(minor),
                        _ => panic!("load from {offset}"),
                    }
                }
                0xbf => registers[to] = registers[usize::from(from)],
                0x54 => registers[to] &= u64::from(value.cast_unsigned()),
                0x74 => registers[to] >>= value,
                0xb7 => registers[to] = u64::from(value.cast_unsigned()),
                0x15 if registers[to] == u64::from(value.cast_unsigned()) => next += skipped,
                0x55 if registers[to] != u64::from(value.cast_unsigned()) => next += skipped,
                0x15 | 0x55 => {}
                0x95 => return registers[0],
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_list_does() {
        const READ: u32 = 2;
        const WRITE: u32 = 4;
        const BLOCK: u32 = 1;
        const CHAR: u32 = 2;
        let program = v2_program();
        let mknod = ACCESS_MKNOD.cast_unsigned();
        for (kind, major, minor, expected) in [
            (CHAR, 1, 3, 1),
            (CHAR, 1, 9, 1),
            (CHAR, 1, 1, 0), // mem
            (CHAR, 5, 2, 1),
            (CHAR, 10, 200, 1),
            (CHAR, 10, 229, 0), // fuse
            (CHAR, 136, 0, 1),
            (CHAR, 136, 1_000_000, 1),
            (CHAR, 137, 0, 0),
            (CHAR, 200, 10, 0),
            (BLOCK, 1, 3, 0), // ram3
            (BLOCK, 254, 0, 0),
            (BLOCK, 136, 0, 0),
        ] {
            for access in [READ, WRITE, READ | WRITE, READ | WRITE | mknod] {
                let found = run(&program, access, kind, major, minor);
                assert_eq!(found, expected, "access {access} to {kind} {major}:{minor}");
            }
            assert_eq!(run(&program, mknod, kind, major, minor), 1);
        }
    }

    #[test]
    fn v1_denies_before_it_allows() {
        let writes = v1_writes();
        assert_eq!(writes[0], ("devices.deny", "a".to_owned()));
        assert!(writes.contains(&("devices.allow", "c 1:3 rwm".to_owned())));
        assert!(writes.contains(&("devices.allow", "c 136:* rwm".to_owned())));
        assert_eq!(writes.len(), 13);
    }
}
