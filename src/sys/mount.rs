//! Attributes of mounts; mount_setattr(2), which neither nix, rustix nor libc wraps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

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
    change(mount, u64::from(attributes.bits()), 0, recursive)
}

/// Maps the owners of the files in a mount that open_tree(2) made, and in those below it, by
/// the maps of a user namespace.
///
/// # Errors
/// EINVAL: the filesystem cannot, or the mount has been seen already.
pub fn set_id_map(mount: impl AsFd, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let namespace = u64::try_from(namespace.as_raw_fd()).map_err(io::Error::other)?;
    change(mount, libc::MOUNT_ATTR_IDMAP, namespace, true)
}

fn change(
    mount: impl AsFd,
    attributes: u64,
    user_namespace: u64,
    recursive: bool,
) -> io::Result<()> {
    // SAFETY: mount_attr is plain integers, for which all zeroes is "nothing to change".
    let mut change: libc::mount_attr = unsafe { std::mem::zeroed() };
    change.attr_set = attributes;
    change.userns_fd = user_namespace;
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
