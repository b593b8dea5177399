//! The file of this program, which no container may write to.
//!
//! A process that is about to execute a container's command is executed from this program's
//! file. A hostile container has it execute that file again, by a command that is a link to
//! /proc/self/exe, opens /proc/PID/exe and, once nothing executes it any more, writes to it: to
//! what root on the host executes next (CVE-2019-5736). So the program that enters containers
//! is executed by way of a mount of its own, of that file alone, that is read-only.

use std::convert::Infallible;
use std::env;
use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::fcntl::AtFlags;
use nix::unistd::execveat;
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::thread::set_name;

use super::mounts;
use crate::error::{Error, Result};

/// The link to the file that this process is executed from.
const PROGRAM: &str = "/proc/self/exe";

/// Returns at once where this process is executed from a file that nobody can write to by way
/// of the process. Otherwise it executes the program anew, with the same arguments, from such.
///
/// # Errors
/// What open_tree(2), mount_setattr(2) and execveat(2) answer.
pub fn protect(arguments: &[OsString]) -> Result<()> {
    let found = statvfs(PROGRAM).map_err(|errno| Error::io("look at", PROGRAM, errno))?;
    if found.f_flag.contains(StatVfsMountFlags::RDONLY) {
        // Older kernels name a process by the number of the descriptor that it is executed from.
        let _ = set_name(c"lxcfs-rs");
        return Ok(());
    }
    // Without it there is no container to come.
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program = mounts::clone(Path::new(PROGRAM))?;
    mounts::restrict(&program, mounts::READ_ONLY, Path::new(PROGRAM))?;
    match execute(&program, arguments) {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}

fn execute(program: &OwnedFd, arguments: &[OsString]) -> Result<Infallible> {
    // Nothing that came by execve(2) has a NUL byte in it.
    let strings = |texts: &mut dyn Iterator<Item = OsString>| -> Vec<CString> {
        texts.filter_map(|text| CString::new(text.as_bytes()).ok()).collect()
    };
    let arguments = strings(&mut arguments.iter().cloned());
    let variables = strings(&mut env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    }));
    execveat(program, c"", &arguments, &variables, AtFlags::AT_EMPTY_PATH)
        .map_err(|errno| Error::io("execute", PROGRAM, errno))
}
