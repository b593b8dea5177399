//! Mounts that are made first and attached later: open_tree(2), fsopen(2), move_mount(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::error::{Error, Result};
use crate::sys::mount::set_attributes;

/// The attributes of every mount in which no program and no device has any business.
pub const INERT: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID
    .union(MountAttrFlags::MOUNT_ATTR_NODEV)
    .union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Nothing may be written.
pub const READ_ONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;

/// Makes a filesystem, not attached anywhere yet; fsopen(2). An error carries the kernel's own
/// explanation where it gave one.
///
/// # Errors
/// What fsconfig(2) and fsmount(2) answer.
pub fn new_filesystem(
    fs_type: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
    let made = fsconfig_set_string(&context, "source", fs_type)
        .and_then(|()| {
            options.iter().try_for_each(|(key, value)| fsconfig_set_string(&context, *key, *value))
        })
        .and_then(|()| fsconfig_create(&context))
        .and_then(|()| fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes));
    made.map_err(|errno| {
        let error = io::Error::from(errno);
        match kernel_message(&context) {
            Some(message) => io::Error::new(error.kind(), message),
            None => error,
        }
    })
}

/// The first message in the log of a filesystem context: `e overlay: …`.
fn kernel_message(context: &OwnedFd) -> Option<String> {
    let mut buffer = [0_u8; 512];
    let length = rustix::io::read(context, &mut buffer).ok()?;
    let text = String::from_utf8_lossy(buffer.get(..length)?).trim_end().to_owned();
    Some(text.strip_prefix("e ").map_or(text.clone(), str::to_owned))
}

/// A second mount of the file or directory that `place` is open of, without what is mounted
/// below, not attached anywhere yet; `path` is what messages call it.
///
/// # Errors
/// What open_tree(2) answers.
pub fn clone_open(place: impl AsFd, path: &Path) -> Result<OwnedFd> {
    clone_with(place, Path::new(""), OpenTreeFlags::AT_EMPTY_PATH, path)
}

/// The same with what is mounted below.
///
/// # Errors
/// What open_tree(2) answers.
pub fn clone_all_open(place: impl AsFd, path: &Path) -> Result<OwnedFd> {
    clone_with(
        place,
        Path::new(""),
        OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_RECURSIVE,
        path,
    )
}

/// A second mount of the file `name` below the directory `dir`, not attached anywhere yet.
///
/// # Errors
/// What open_tree(2) answers.
pub fn clone_at(dir: impl AsFd, name: &Path) -> Result<OwnedFd> {
    clone_with(dir, name, OpenTreeFlags::empty(), name)
}

/// A second mount of what is mounted at `place`, without what is mounted below, not attached
/// anywhere yet.
///
/// # Errors
/// What open_tree(2) answers.
pub fn clone(place: &Path) -> Result<OwnedFd> {
    clone_with(CWD, place, OpenTreeFlags::empty(), place)
}

/// A second mount of what is mounted at `place` and below, not attached anywhere yet.
///
/// # Errors
/// What open_tree(2) answers.
pub fn clone_all(place: &Path) -> Result<OwnedFd> {
    clone_with(CWD, place, OpenTreeFlags::AT_RECURSIVE, place)
}

fn clone_with(dir: impl AsFd, name: &Path, flags: OpenTreeFlags, path: &Path) -> Result<OwnedFd> {
    let flags = flags | OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    open_tree(dir, name, flags).map_err(|errno| Error::io("clone", path, errno))
}

/// Sets attributes of a mount, and of those below it; `place` is what messages call it.
///
/// # Errors
/// What mount_setattr(2) answers.
pub fn restrict(mount: &OwnedFd, attributes: MountAttrFlags, place: &Path) -> Result<()> {
    set_attributes(mount, attributes, true)
        .map_err(|error| Error::io("set attributes of the mount", place, error))
}

/// Attaches a mount on top of all that is mounted on `/`.
///
/// # Errors
/// What move_mount(2) answers.
pub fn attach_over_root(mount: &OwnedFd) -> Result<()> {
    move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| Error::io("attach the new root to", "/", errno))
}

/// Attaches a mount at `place` below the directory `root`.
///
/// # Errors
/// What move_mount(2) answers.
pub fn attach_below(mount: &OwnedFd, root: impl AsFd, place: &Path) -> Result<()> {
    move_mount(mount, "", root, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| Error::io("attach a mount to", place, errno))
}

/// Attaches a mount to the file or directory `target`, which messages call `place`.
///
/// # Errors
/// What move_mount(2) answers: ENOTDIR where one of both is a directory.
pub fn attach_to(mount: &OwnedFd, target: impl AsFd, place: &Path) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
        .map_err(|errno| Error::io("attach a mount to", place, errno))
}
