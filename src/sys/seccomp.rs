//! Installs a system call filter; seccomp(2).

use std::io;

/// Has the calling thread, and all that it becomes and starts, ask `program` before each
/// system call. Nothing takes it off again.
///
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW` (Linux 4.17) leaves the thread's speculation settings
/// alone, which before Linux 5.16 every filter made slow.
///
/// # Errors
/// EACCES: neither `CAP_SYS_ADMIN` nor no_new_privs. EINVAL: not a valid program.
pub fn install(program: &[libc::sock_filter]) -> io::Result<()> {
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
