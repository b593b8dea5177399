//! Attributes of mounts; mount_setattr(2), which neither nix, rustix nor libc wraps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::mount::MountAttrFlags;

/// Sets attributes of a mount that open_tree(2) or fsmount(2) made, and with `recursive` of all
/// that is mounted below it. Linux 5.12.
///
/// # Errors
/// EINVAL: not the root of a mount. ENOSYS on an older kernel.
pub fn set_attributes(
    mount: impl AsFd,
    attributes: MountAttrFlags,
    recursive: bool,
) -> io::Result<()> {
    // SAFETY: mount_attr is plain integers, for which all zeroes is "nothing to change".
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = u64::from(attributes.bits());
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: mount_setattr(2) reads the empty string and so many bytes of `change`, and writes
    // to neither; both outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of_val(&change),
        )
    };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
