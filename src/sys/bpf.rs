//! Programs in the kernel: those that decide what a cgroup may do, and one that counts; bpf(2).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use super::shared::Shared;

/// One instruction, `struct bpf_insn` of linux/bpf.h;
/// `Documentation/bpf/standardization/instruction-set.rst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    code: u8,
    /// The destination in one half, the source in the other.
    registers: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    fn new(code: u8, to: u8, from: u8, offset: i16, value: i32) -> Instruction {
        let registers =
            if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        Instruction { code, registers, offset, value }
    }

    /// Loads 32 bits from `offset` behind the address in `from`.
    #[must_use]
    pub fn load_u32(to: u8, from: u8, offset: i16) -> Instruction {
        Instruction::new(0x61, to, from, offset, 0)
    }

    /// Loads 64 bits from `offset` behind the address in `from`.
    #[must_use]
    pub fn load_u64(to: u8, from: u8, offset: i16) -> Instruction {
        Instruction::new(0x79, to, from, offset, 0)
    }

    /// Copies a register.
    #[must_use]
    pub fn copy(to: u8, from: u8) -> Instruction {
        Instruction::new(0xbf, to, from, 0, 0)
    }

    /// Sets a register.
    #[must_use]
    pub fn set(to: u8, value: i32) -> Instruction {
        Instruction::new(0xb7, to, 0, 0, value)
    }

    /// Keeps, of the lower 32 bits, those that `value` has.
    #[must_use]
    pub fn and(to: u8, value: i32) -> Instruction {
        Instruction::new(0x54, to, 0, 0, value)
    }

    /// Shifts the lower 32 bits to the right.
    #[must_use]
    pub fn shift_right(to: u8, bits: i32) -> Instruction {
        Instruction::new(0x74, to, 0, 0, bits)
    }

    /// Skips so many instructions where a register has the value.
    #[must_use]
    pub fn skip_if_equal(register: u8, value: i32, skipped: i16) -> Instruction {
        Instruction::new(0x15, register, 0, skipped, value)
    }

    /// Skips so many instructions where two registers have the same lower 32 bits. Linux 5.1.
    #[must_use]
    pub fn skip_if_same_u32(register: u8, other: u8, skipped: i16) -> Instruction {
        Instruction::new(0x1e, register, other, skipped, 0)
    }

    /// Sets register 0 to the number of the process that runs, and in its lower 32 bits that of its
    /// thread; the call leaves nothing in registers 1 to 5.
    #[must_use]
    pub fn get_current_pid_tgid() -> Instruction {
        Instruction::new(0x85, 0, 0, 0, 14)
    }

    /// Skips so many instructions where a register has another value.
    #[must_use]
    pub fn skip_if_not_equal(register: u8, value: i32, skipped: i16) -> Instruction {
        Instruction::new(0x55, register, 0, skipped, value)
    }

    /// Sets a register to the address of the first value of the array `map`: two instructions.
    fn address_of_value(to: u8, map: &OwnedFd) -> [Instruction; 2] {
        const BPF_PSEUDO_MAP_VALUE: u8 = 2;
        [
            Instruction::new(0x18, to, BPF_PSEUDO_MAP_VALUE, 0, map.as_raw_fd()),
            Instruction::new(0, 0, 0, 0, 0),
        ]
    }

    /// Adds a register to the 64 bits at the address in `to`, whoever else does at the time.
    fn add_u64_at(to: u8, from: u8) -> Instruction {
        Instruction::new(0xdb, to, from, 0, 0)
    }

    /// Ends the program; register 0 is its answer.
    #[must_use]
    pub fn exit() -> Instruction {
        Instruction::new(0x95, 0, 0, 0, 0)
    }

    /// Operation code, destination, source, offset and value.
    #[must_use]
    pub fn parts(self) -> (u8, u8, u8, i16, i32) {
        let (high, low) = (self.registers >> 4, self.registers & 0xf);
        let (to, from) = if cfg!(target_endian = "little") { (low, high) } else { (high, low) };
        (self.code, to, from, self.offset, self.value)
    }
}

/// Has `program` decide which devices the processes of `cgroup`, a directory of cgroup2, and of
/// those below it may open or make nodes of, besides what the programs above say. It goes with
/// the cgroup. Linux 4.15.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN in the first user namespace; EINVAL where the kernel has no
/// `CONFIG_CGROUP_BPF`.
pub fn attach_device_program(cgroup: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;

    /// The beginning of `union bpf_attr` for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target_fd: RawFd,
        attach_bpf_fd: RawFd,
        attach_type: u32,
        attach_flags: u32,
    }

    let loaded = load(BPF_PROG_TYPE_CGROUP_DEVICE, program)?;
    let attach = Attach {
        target_fd: cgroup.as_fd().as_raw_fd(),
        attach_bpf_fd: loaded.as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

/// How often the kernel has passed some of its tracepoints. It counts in memory that it shares
/// with whoever asks, so that asking is no system call.
#[derive(Debug)]
pub struct Passes {
    count: Shared,
    /// The program is at its tracepoints as long as these are open.
    _links: Vec<OwnedFd>,
}

impl Passes {
    /// How many instructions a condition skips for a pass that is not to count.
    pub const NOT_COUNTED: i16 = 4;

    /// Counts from now on at all of `tracepoints`, by their names in
    /// /sys/kernel/tracing/events/SYSTEM, those together that have the same condition: what to run
    /// first, with the address of the tracepoint's arguments, of 64 bits each, in register 1.
    /// Linux 5.5.
    ///
    /// # Errors
    /// EPERM without CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN, and before Linux 5.11 where no more
    /// memory may be locked; ENOENT for a tracepoint that the kernel has not; EINVAL on older kernels.
    pub fn of(tracepoints: &[(&[&CStr], &[Instruction])]) -> io::Result<Passes> {
        const BPF_PROG_TYPE_RAW_TRACEPOINT: u32 = 17;
        let map = array_of_one()?;
        let [first, second] = Instruction::address_of_value(1, &map);
        let count = [first, second, Instruction::set(2, 1), Instruction::add_u64_at(1, 2)];
        let end = [Instruction::set(0, 0), Instruction::exit()];
        let mut links = Vec::new();
        for (names, condition) in tracepoints {
            let program = [condition, &count[..], &end[..]].concat();
            let program = load(BPF_PROG_TYPE_RAW_TRACEPOINT, &program)?;
            for name in *names {
                links.push(open_tracepoint(name, &program)?);
            }
        }
        Ok(Passes { _links: links, count: Shared::map(map, 1)? })
    }

    /// How often until now.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.words().first().map_or(0, |count| count.load(Ordering::Acquire))
    }
}

/// A map of one 64-bit value, which can be mapped as memory.
fn array_of_one() -> io::Result<OwnedFd> {
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    const BPF_F_MMAPABLE: u32 = 1 << 10;

    /// The beginning of `union bpf_attr` for `BPF_MAP_CREATE`.
    #[repr(C)]
    struct Create {
        map_type: u32,
        key_size: u32,
        value_size: u32,
        max_entries: u32,
        map_flags: u32,
    }

    let create = Create {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size: 8,
        max_entries: 1,
        map_flags: BPF_F_MMAPABLE,
    };
    new_descriptor(BPF_MAP_CREATE, &create)
}

/// Has `program` run whenever the kernel passes a tracepoint, as long as what this returns is open.
fn open_tracepoint(name: &CStr, program: &OwnedFd) -> io::Result<OwnedFd> {
    const BPF_RAW_TRACEPOINT_OPEN: libc::c_int = 17;

    /// The beginning of `union bpf_attr` for `BPF_RAW_TRACEPOINT_OPEN`.
    #[repr(C)]
    struct Open {
        name: u64,
        prog_fd: RawFd,
        _padding: u32,
    }

    let open =
        Open { name: name.as_ptr().addr() as u64, prog_fd: program.as_raw_fd(), _padding: 0 };
    new_descriptor(BPF_RAW_TRACEPOINT_OPEN, &open)
}

fn load(kind: u32, program: &[Instruction]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;

    /// The beginning of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }

    let load = Load {
        prog_type: kind,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr().addr() as u64,
        license: c"Dual MIT/GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    new_descriptor(BPF_PROG_LOAD, &load)
}

/// [`bpf`] with a command that makes a descriptor.
fn new_descriptor<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let made = RawFd::try_from(bpf(command, attributes)?).map_err(io::Error::other)?;
    // SAFETY: the command made a new descriptor, close-on-exec and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(made) })
}

/// bpf(2). `attributes` is the beginning of `union bpf_attr` that belongs to `command`; what it
/// points to must live as long.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the commands of this module read so many bytes of `attributes`, and what its pointers
    // point to: instructions of the given count, and a string. They write to none of it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn passes_of_tracepoints_are_counted_where_the_condition_holds() {
        // Who may not, or has an older kernel, cannot have anything counted.
        let Ok(forks) = Passes::of(&[(&[c"sched_process_fork"], &[])]) else { return };
        let never = [
            Instruction::get_current_pid_tgid(),
            Instruction::skip_if_same_u32(0, 0, Passes::NOT_COUNTED),
        ];
        let none = Passes::of(&[(&[c"sched_process_fork"], &never)]).unwrap();
        let before = forks.count();
        thread::spawn(|| ()).join().unwrap();
        assert!(forks.count() > before);
        assert_eq!(none.count(), 0);
        let error = Passes::of(&[(&[c"no_such_tracepoint"], &[])]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
