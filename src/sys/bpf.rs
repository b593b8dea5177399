//! Programs that decide what a cgroup may do; bpf(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

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

    /// Skips so many instructions where a register has another value.
    #[must_use]
    pub fn skip_if_not_equal(register: u8, value: i32, skipped: i16) -> Instruction {
        Instruction::new(0x55, register, 0, skipped, value)
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
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;

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

    /// The same for `BPF_PROG_ATTACH`.
    #[repr(C)]
    struct Attach {
        target_fd: RawFd,
        attach_bpf_fd: RawFd,
        attach_type: u32,
        attach_flags: u32,
    }

    let load = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr().addr() as u64,
        license: c"Dual MIT/GPL".as_ptr().addr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    let loaded = bpf(BPF_PROG_LOAD, &load)?;
    let loaded = RawFd::try_from(loaded).map_err(io::Error::other)?;
    // SAFETY: BPF_PROG_LOAD made a new descriptor, close-on-exec and ours alone.
    let loaded = unsafe { OwnedFd::from_raw_fd(loaded) };
    let attach = Attach {
        target_fd: cgroup.as_fd().as_raw_fd(),
        attach_bpf_fd: loaded.as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &attach).map(drop)
}

/// bpf(2). `attributes` is the beginning of `union bpf_attr` that belongs to `command`; what it
/// points to must live as long.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: both commands read so many bytes of `attributes`, and what its pointers point to:
    // instructions of the given count, and a string. They write to none of it.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
