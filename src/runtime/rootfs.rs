//! The root filesystem of a container: a directory as it is, or a throw-away overlay over the
//! host's root; pivot_root(2).
//!
//! The new root needs no directory to be prepared in: it is mounted on top of `/`, where no
//! path of a running process leads (a lookup starts *at* the root and does not climb what is
//! mounted over it), and entered by its descriptor.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, StatxFlags, Uid, chmodat, chownat, mkdirat, statx};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::{chdir, fchdir, pivot_root};

use super::mountpoint::{self, Kind};
use super::mounts::{self, INERT, attach_to, new_filesystem};
use super::users::Namespace;
use crate::error::{Error, Result};
use crate::procfs::mountinfo;
use crate::sys::mount::set_attributes;

/// What a container writes to where its root is read-only for want of an overlay.
const WRITABLE_WITHOUT_OVERLAY: &[&str] = &["/tmp", "/run", "/var/tmp"];

/// Filesystems that hold a host's files although /proc/filesystems calls them `nodev`.
const NODEV_BUT_LOCAL: &[&str] = &["zfs", "virtiofs"];

/// The directories whose contents are the kernel's or die with the boot: a container has its
/// own, and what the host mounts there is no part of the root filesystem.
const NOT_COPIED: &[&str] = &["/proc", "/sys", "/dev", "/run"];

/// A tmpfs that holds what a new root is made of. It is mounted on top of `/` and has no path.
#[derive(Debug)]
pub struct Scratch(OwnedFd);

impl Scratch {
    /// Mounts it.
    ///
    /// # Errors
    /// What the mount calls answer.
    pub fn mount() -> Result<Scratch> {
        let tmpfs = new_filesystem("tmpfs", &[("mode", "0755")], MountAttrFlags::empty())
            .map_err(|error| Error::io("mount", "tmpfs", error))?;
        mounts::attach_over_root(&tmpfs)?;
        Ok(Scratch(tmpfs))
    }

    /// Its top directory.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Detaches it: it would come along, on top of the old root. What was made of it holds it.
    ///
    /// # Errors
    /// What umount(2) answers.
    pub fn detach(self) -> Result<()> {
        fchdir(&self.0)
            .and_then(|()| unmount(".", UnmountFlags::DETACH))
            .map_err(|errno| Error::io("detach", "the tmpfs that bears the new root", errno))
    }
}

/// A new root filesystem, not attached anywhere yet.
#[derive(Debug)]
pub struct Root {
    mount: OwnedFd,
    /// What is mounted in it, by its path there.
    parts: Vec<(OwnedFd, PathBuf)>,
    /// Whether it is read-only where a container expects to write.
    needs_writable_places: bool,
}

/// The directory `dir`, with all that is mounted below it, as the new root.
///
/// # Errors
/// What open_tree(2) answers.
pub fn directory(dir: &Path, users: Option<&Namespace>) -> Result<Root> {
    let mount = mounts::clone_all(dir)?;
    if let Some(users) = users {
        users.map_files(&mount, dir)?;
    }
    Ok(Root { mount, parts: Vec::new(), needs_writable_places: false })
}

/// A throw-away copy of the host's root: overlays whose upper layers lie on `scratch`, which
/// only this mount namespace has.
///
/// Every local filesystem that the host mounts below its root gets an overlay of its own, and
/// a mounted file (a container's `/etc/resolv.conf`) is bound read-only. Where the kernel
/// refuses an overlay (its lower layer is a stack of overlays already, or FAT) the filesystem
/// is bound read-only instead.
///
/// # Errors
/// What the mount calls answer.
pub fn copy_of_host(scratch: &Scratch, users: Option<&Namespace>) -> Result<Root> {
    let root = Path::new("/");
    let overlaid = overlay(root, scratch, 0, users);
    let needs_writable_places = overlaid.is_err();
    let mount = overlaid.or_else(|error| {
        log::warn!("{error}; the container gets the host's root read-only");
        read_only_clone(root)
    })?;
    let mut parts = Vec::new();
    for (index, place) in local_mounts()?.into_iter().enumerate() {
        parts.push((copy_of(&place, scratch, index + 1, users)?, place));
    }
    Ok(Root { mount, parts, needs_writable_places })
}

/// A copy of what is mounted at `place`, not attached anywhere yet.
fn copy_of(
    place: &Path,
    scratch: &Scratch,
    index: usize,
    users: Option<&Namespace>,
) -> Result<OwnedFd> {
    if fs::metadata(place).is_ok_and(|found| found.is_dir()) {
        match overlay(place, scratch, index, users) {
            Ok(overlay) => return Ok(overlay),
            Err(error) => log::info!("{error}; the container gets it read-only"),
        }
    }
    read_only_clone(place)
}

fn read_only_clone(place: &Path) -> Result<OwnedFd> {
    let mount = mounts::clone(place)?;
    mounts::restrict(&mount, mounts::READ_ONLY, place)?;
    Ok(mount)
}

impl Root {
    /// Makes it this process's root, and everything of the old one unreachable.
    ///
    /// # Errors
    /// What pivot_root(2) answers: EINVAL where the host's root is the initial ramfs.
    pub fn enter(&self) -> Result<()> {
        let root = Path::new("/");
        mounts::attach_over_root(&self.mount)?;
        for (part, place) in &self.parts {
            let below = place.strip_prefix(root).unwrap_or(place);
            match mounts::attach_below(part, &self.mount, below) {
                // It lies below a mount that is no part of the copy.
                Err(error) if error.is_gone() => continue,
                attached => attached?,
            }
        }
        fchdir(&self.mount).map_err(|errno| Error::io("enter", root, errno))?;
        // pivot_root(2): with "." for both, the old root comes to lie on top of the new one,
        // from where it is detached without ever having had a name.
        pivot_root(".", ".").map_err(|errno| Error::io("pivot_root", root, errno))?;
        unmount(".", UnmountFlags::DETACH)
            .map_err(|errno| Error::io("detach the old root", root, errno))?;
        chdir("/").map_err(|errno| Error::io("chdir", root, errno))?;
        if self.needs_writable_places {
            let places = WRITABLE_WITHOUT_OVERLAY.iter().map(Path::new);
            for place in places.filter(|place| place.is_dir()) {
                let target = mountpoint::find_or_make(place, Kind::Directory)?;
                let attributes = INERT.difference(MountAttrFlags::MOUNT_ATTR_NOEXEC);
                let tmpfs = new_filesystem("tmpfs", &[("mode", "1777")], attributes)
                    .map_err(|error| Error::io("mount", place, error))?;
                attach_to(&tmpfs, &target.file, place)?;
            }
        }
        Ok(())
    }

    /// Has the root filesystem, but nothing that was mounted since, be read-only.
    ///
    /// # Errors
    /// What mount_setattr(2) answers.
    pub fn make_read_only(&self) -> Result<()> {
        for mount in self.parts.iter().map(|(part, _)| part).chain([&self.mount]) {
            set_attributes(mount, mounts::READ_ONLY, false)
                .map_err(|error| Error::io("make read-only", "/", error))?;
        }
        Ok(())
    }
}

/// The local filesystems, and the files, that the host has mounted below its root, where they
/// can be seen; outer ones first.
fn local_mounts() -> Result<Vec<PathBuf>> {
    let read = |path: &str| fs::read(path).map_err(|error| Error::io("read", path, error));
    let types = block_types(&read("/proc/filesystems")?);
    let mut places: Vec<PathBuf> = mountinfo::parse(&read("/proc/self/mountinfo")?)
        .into_iter()
        .filter(|mount| is_part_of_root(mount, &types))
        .filter(is_visible)
        .map(|mount| mount.mount_point)
        .collect();
    places.sort_unstable();
    places.dedup();
    Ok(places)
}

/// The filesystem types that live on a block device, from the text of /proc/filesystems.
fn block_types(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text)
        .lines()
        .filter_map(|line| line.strip_prefix('\t'))
        .map(str::to_owned)
        .collect()
}

/// Whether a mount belongs into a copy of the host's root.
fn is_part_of_root(mount: &mountinfo::Mount, block_types: &[String]) -> bool {
    let local =
        block_types.contains(&mount.fs_type) || NODEV_BUT_LOCAL.contains(&mount.fs_type.as_str());
    local
        && mount.mount_point != Path::new("/")
        && !NOT_COPIED.iter().any(|dir| mount.mount_point.starts_with(dir))
}

/// Whether a mount can be reached at its place: nothing is mounted over it, or over a
/// directory above it.
fn is_visible(mount: &mountinfo::Mount) -> bool {
    statx(CWD, &mount.mount_point, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)
        .is_ok_and(|found| found.stx_mnt_id == mount.id)
}

/// Makes an overlay over the directory `lower`, not attached anywhere yet. Its other layers
/// are the directories of number `index` in `scratch`.
fn overlay(
    lower: &Path,
    scratch: &Scratch,
    index: usize,
    users: Option<&Namespace>,
) -> Result<OwnedFd> {
    let failed = |error: io::Error| Error::io("overlay", lower, error);
    let like = fs::metadata(lower).map_err(failed)?;
    let layers = scratch.directory();
    let upper = format!("upper{index}");
    let work = format!("work{index}");
    for dir in [&upper, &work] {
        mkdirat(layers, dir, 0o700.into()).map_err(|errno| failed(errno.into()))?;
    }
    // The root of an overlay shows its upper layer's owner and mode.
    let outside = |id: u32| users.map_or(id, |users| users.outside(id));
    let owner =
        (Some(Uid::from_raw(outside(like.uid()))), Some(Gid::from_raw(outside(like.gid()))));
    chownat(layers, &upper, owner.0, owner.1, AtFlags::empty())
        .and_then(|()| chmodat(layers, &upper, (like.mode() & 0o7777).into(), AtFlags::empty()))
        .map_err(|errno| failed(errno.into()))?;

    // Relative to the working directory: the tmpfs has no path.
    fchdir(layers).map_err(|errno| failed(errno.into()))?;
    let lower = match users {
        None => escape_layer(lower),
        Some(users) => {
            let name = format!("lower{index}");
            let mapped = mounts::clone(lower)?;
            users.map_files(&mapped, lower)?;
            mkdirat(layers, &name, 0o700.into()).map_err(|errno| failed(errno.into()))?;
            mounts::attach_below(&mapped, layers, Path::new(&name))?;
            name
        }
    };
    let options = [("lowerdir", lower.as_str()), ("upperdir", &upper), ("workdir", &work)];
    new_filesystem("overlay", &options, MountAttrFlags::empty()).map_err(failed)
}

/// A path as overlayfs wants it, which separates its lower layers by colons.
fn escape_layer(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:")
}

/// Whether `dir` can be a container's root.
///
/// # Errors
/// [`Error::Io`] where it is not there, [`Error::Refused`] where it is no directory or the
/// host's own root.
pub fn check(dir: &Path) -> Result<PathBuf> {
    let absolute = fs::canonicalize(dir).map_err(|error| Error::io("open", dir, error))?;
    if !absolute.is_dir() {
        return Err(Error::Refused(format!("{}: not a directory", dir.display())));
    }
    if absolute.components().eq([Component::RootDir]) {
        return Err(Error::Refused(
            "/: the host's own root; without --rootfs the container gets a copy of it".to_owned(),
        ));
    }
    Ok(absolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_with_a_block_device() {
        let types =
            block_types(b"nodev\tsysfs\nnodev\ttmpfs\n\text4\n\tsquashfs\nnodev\toverlay\n");
        assert_eq!(types, ["ext4", "squashfs"]);
    }

    #[test]
    fn what_belongs_into_a_copy() {
        let types = ["ext4".to_owned()];
        let part = |place: &str, fs_type: &str| {
            let line = format!("2 1 8:1 / {place} rw - {fs_type} none rw");
            is_part_of_root(&mountinfo::parse_line(line.as_bytes()).unwrap(), &types)
        };
        assert!(part("/home", "ext4"));
        assert!(part("/srv", "zfs"));
        assert!(part("/running", "ext4"));
        for (place, fs_type) in [
            ("/", "ext4"),
            ("/run/media/x", "ext4"),
            ("/dev/disk", "ext4"),
            ("/tmp", "tmpfs"),
            ("/var/lib/docker/overlay2/x/merged", "overlay"),
            ("/var/lib/lxcfs", "fuse.lxcfs"),
        ] {
            assert!(!part(place, fs_type), "{place} {fs_type}");
        }
    }

    #[test]
    fn layers_are_separated_by_colons() {
        assert_eq!(escape_layer(Path::new("/a:b\\c")), "/a\\:b\\\\c");
    }

    #[test]
    fn roots_that_are_none() {
        assert!(check(Path::new("/no/such")).unwrap_err().is_gone());
        assert!(check(Path::new("/proc/self/status")).unwrap_err().to_string().contains("not a"));
        assert!(check(Path::new("/..")).unwrap_err().to_string().contains("own root"));
    }
}
