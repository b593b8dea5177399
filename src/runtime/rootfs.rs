//! The root filesystem of a container: a directory as it is, or a throw-away overlay over the
//! host's root; pivot_root(2); the kernel's filesystems in it; the nodes of /dev.
//!
//! The new root needs no directory to be prepared in: it is mounted on top of `/`, where no
//! path of a running process leads (a lookup starts *at* the root and does not climb what is
//! mounted over it), and entered by its descriptor.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::fs::{AtFlags, CWD, Gid, StatxFlags, Uid, chmodat, chownat, mkdirat, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount, mount_remount,
    move_mount, open_tree, unmount,
};
use rustix::process::{chdir, fchdir, pivot_root};

use super::mountinfo;
use crate::cgroup::apply::Cgroups;
use crate::cgroup::layout::Version;
use crate::error::{Error, Result};

/// Mount flags of every filesystem in which no program and no device has any business.
const INERT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What a container writes to where its root is read-only for want of an overlay.
const WRITABLE_WITHOUT_OVERLAY: &[&str] = &["/tmp", "/run", "/var/tmp"];

/// Filesystems that hold a host's files although /proc/filesystems calls them `nodev`.
const NODEV_BUT_LOCAL: &[&str] = &["zfs", "virtiofs"];

/// The directories whose contents are the kernel's or die with the boot: a container has its
/// own, and what the host mounts there is no part of the root filesystem.
const NOT_COPIED: &[&str] = &["/proc", "/sys", "/dev", "/run"];

/// The file that names lookups begin with; resolv.conf(5).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A file to write into the new root.
#[derive(Debug)]
struct Written {
    path: PathBuf,
    contents: Vec<u8>,
}

/// A new root filesystem: mounted, not yet entered.
#[derive(Debug)]
pub struct Root {
    handle: OwnedFd,
    /// What the host has in one of [`NOT_COPIED`] and a copy of its root cannot do without.
    written: Option<Written>,
    /// Mounts to make read-only as soon as they are entered, by their path in the new root.
    read_only: Vec<PathBuf>,
    /// Whether the root itself is one of them.
    needs_writable_places: bool,
}

/// Mounts `dir`, with all that is mounted below it, as the new root.
///
/// # Errors
/// What open_tree(2) and move_mount(2) answer.
pub fn mount_directory(dir: &Path) -> Result<Root> {
    let handle = clone_mounts(dir)?;
    attach_over_root(&handle)?;
    Ok(Root { handle, written: None, read_only: Vec::new(), needs_writable_places: false })
}

/// Mounts a throw-away copy of the host's root as the new root: overlays whose upper layers
/// lie on a tmpfs that only this mount namespace has.
///
/// Every local filesystem that the host mounts below its root gets an overlay of its own, and
/// a mounted file (a container's `/etc/resolv.conf`) is bound read-only. Where the kernel
/// refuses an overlay (its lower layer is a stack of overlays already, or FAT) the filesystem
/// is bound read-only instead.
///
/// # Errors
/// What the mount calls answer.
pub fn mount_copy_of_host() -> Result<Root> {
    let root = Path::new("/");
    let layers = mount_layers()?;
    let overlaid = overlay(root, &layers, 0);
    let needs_writable_places = overlaid.is_err();
    let mut read_only = Vec::new();
    let handle = overlaid.or_else(|error| {
        log::warn!("{error}; the container gets the host's root read-only");
        read_only.push(root.to_owned());
        clone_mount(root)
    })?;
    let mut copies = Vec::new();
    for (index, place) in local_mounts()?.into_iter().enumerate() {
        let (copy, is_overlay) = copy_of(&place, &layers, index + 1)?;
        copies.push((copy, is_overlay, place));
    }
    // The overlays hold their layers by themselves.
    unmount_layers(&layers)?;

    attach_over_root(&handle)?;
    for (copy, is_overlay, place) in copies {
        match attach(&copy, &handle, place.strip_prefix(root).unwrap_or(&place)) {
            // It lies below a mount that is no part of the copy.
            Err(error) if error.is_gone() => continue,
            attached => attached?,
        }
        if !is_overlay {
            read_only.push(place);
        }
    }
    Ok(Root { handle, written: resolver(), read_only, needs_writable_places })
}

/// A copy of what is mounted at `place`, not attached anywhere yet, and whether it is an
/// overlay.
fn copy_of(place: &Path, layers: &OwnedFd, index: usize) -> Result<(OwnedFd, bool)> {
    let is_dir = fs::metadata(place).is_ok_and(|found| found.is_dir());
    if is_dir {
        match overlay(place, layers, index) {
            Ok(overlay) => return Ok((overlay, true)),
            Err(error) => log::info!("{error}; the container gets it read-only"),
        }
    }
    Ok((clone_mount(place)?, false))
}

impl Root {
    /// Makes it this process's root, and everything of the old one unreachable.
    ///
    /// # Errors
    /// What pivot_root(2) answers: EINVAL where the host's root is the initial ramfs.
    pub fn enter(self) -> Result<()> {
        fchdir(&self.handle).map_err(|errno| Error::io("enter", "/", errno))?;
        // pivot_root(2): with "." for both, the old root comes to lie on top of the new one,
        // from where it is detached without ever having had a name.
        pivot_root(".", ".").map_err(|errno| Error::io("pivot_root", "/", errno))?;
        unmount(".", UnmountFlags::DETACH)
            .map_err(|errno| Error::io("detach the old root", "/", errno))?;
        chdir("/").map_err(|errno| Error::io("chdir", "/", errno))?;
        for place in &self.read_only {
            make_read_only(place)?;
        }
        if self.needs_writable_places {
            for place in WRITABLE_WITHOUT_OVERLAY {
                if Path::new(place).is_dir() {
                    mount_new(
                        "tmpfs",
                        place,
                        MountFlags::NODEV | MountFlags::NOSUID,
                        c"mode=1777",
                    )?;
                }
            }
        }
        if let Some(Written { path, contents }) = &self.written {
            let written = path.parent().map_or(Ok(()), fs::create_dir_all);
            written
                .and_then(|()| fs::write(path, contents))
                .map_err(|error| Error::io("write", path, error))?;
        }
        Ok(())
    }
}

/// The host's resolv.conf, where that is a link into /run, as systemd-resolved, NetworkManager
/// and resolvconf make it.
fn resolver() -> Option<Written> {
    let path = fs::canonicalize(RESOLV_CONF).ok()?;
    if !path.starts_with("/run") {
        return None;
    }
    let contents = fs::read(&path).ok()?;
    Some(Written { path, contents })
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

/// Mounts the tmpfs that bears the upper layers.
fn mount_layers() -> Result<OwnedFd> {
    let layers = new_filesystem("tmpfs", &[("mode", "0755")], MountAttrFlags::empty())
        .map_err(|error| Error::io("mount", "tmpfs", error))?;
    attach_over_root(&layers)?;
    Ok(layers)
}

/// Detaches the tmpfs again: it would come along, on top of the old root.
fn unmount_layers(layers: &OwnedFd) -> Result<()> {
    fchdir(layers)
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .map_err(|errno| Error::io("detach", "the tmpfs of the upper layers", errno))
}

/// Makes an overlay over the directory `lower`, not attached anywhere yet. Its other layers
/// are the directories of number `index` in `layers`.
fn overlay(lower: &Path, layers: &OwnedFd, index: usize) -> Result<OwnedFd> {
    let failed = |error: io::Error| Error::io("overlay", lower, error);
    let like = fs::metadata(lower).map_err(failed)?;
    let upper = format!("upper{index}");
    let work = format!("work{index}");
    for dir in [&upper, &work] {
        mkdirat(layers, dir, 0o700.into()).map_err(|errno| failed(errno.into()))?;
    }
    // The root of an overlay shows its upper layer's owner and mode.
    let owner = (Some(Uid::from_raw(like.uid())), Some(Gid::from_raw(like.gid())));
    chownat(layers, &upper, owner.0, owner.1, AtFlags::empty())
        .and_then(|()| chmodat(layers, &upper, (like.mode() & 0o7777).into(), AtFlags::empty()))
        .map_err(|errno| failed(errno.into()))?;

    // Relative to the working directory: the tmpfs has no path.
    fchdir(layers).map_err(|errno| failed(errno.into()))?;
    let lower = escape_layer(lower);
    let options = [("lowerdir", lower.as_str()), ("upperdir", &upper), ("workdir", &work)];
    new_filesystem("overlay", &options, MountAttrFlags::empty()).map_err(failed)
}

/// A path as overlayfs wants it, which separates its lower layers by colons.
fn escape_layer(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:")
}

/// Makes a filesystem, not attached anywhere yet; fsopen(2). An error carries the kernel's own
/// explanation where it gave one.
fn new_filesystem(
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

fn clone_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC
}

/// A second mount of what is mounted at `place`, without what is mounted below, not attached
/// anywhere yet.
fn clone_mount(place: &Path) -> Result<OwnedFd> {
    open_tree(CWD, place, clone_flags()).map_err(|errno| Error::io("clone", place, errno))
}

/// A second mount of what is mounted at `place` and below, not attached anywhere yet.
pub(super) fn clone_mounts(place: &Path) -> Result<OwnedFd> {
    let flags = clone_flags() | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, place, flags).map_err(|errno| Error::io("clone", place, errno))
}

/// Attaches a mount on top of all that is mounted on `/`.
fn attach_over_root(mount: &OwnedFd) -> Result<()> {
    move_mount(mount, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| Error::io("attach the new root to", "/", errno))
}

/// Attaches a mount at `place` below the directory `root`.
fn attach(mount: &OwnedFd, root: impl AsFd, place: &Path) -> Result<()> {
    move_mount(mount, "", root, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|errno| Error::io("attach a mount to", place, errno))
}

/// Makes the mount at `place` read-only.
fn make_read_only(place: &Path) -> Result<()> {
    mount_remount(place, MountFlags::BIND | MountFlags::RDONLY, c"")
        .map_err(|errno| Error::io("make read-only", place, errno))
}

/// Attaches the mount `source` at `target` in the new root.
pub(super) fn attach_over(source: &OwnedFd, target: &Path) -> Result<()> {
    attach(source, CWD, target)
}

/// Attaches the mount `source` at `target` in the new root, as a read-only file or directory
/// in which no program and no device has any business.
pub(super) fn attach_inert(source: &OwnedFd, target: &Path) -> Result<()> {
    attach(source, CWD, target)?;
    make_inert(target, Access::ReadOnly)
}

fn make_inert(place: &Path, access: Access) -> Result<()> {
    mount_remount(place, MountFlags::BIND | INERT | access.flag(), c"")
        .map_err(|errno| Error::io("remount", place, errno))
}

/// What a container may do in /sys and to its own cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look.
    ReadOnly,
    /// Write too, as far as its capabilities go.
    Writable,
}

impl Access {
    fn flag(self) -> MountFlags {
        match self {
            Access::ReadOnly => MountFlags::RDONLY,
            Access::Writable => MountFlags::empty(),
        }
    }
}

/// Mounts the kernel's filesystems on /proc, /sys and /dev of the root that was entered.
///
/// # Errors
/// The mount that failed, or the mount point that is no directory.
pub fn mount_kernel_filesystems(access: Access) -> Result<()> {
    mount_new("proc", "/proc", INERT, c"")?;
    mount_new("sysfs", "/sys", INERT | access.flag(), c"")?;
    mount_new("tmpfs", "/dev", MountFlags::NOSUID, c"mode=755,size=65536k")?;
    mount_new(
        "devpts",
        "/dev/pts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        c"newinstance,ptmxmode=0666,mode=0620,gid=5",
    )?;
    mount_new("tmpfs", "/dev/shm", INERT, c"mode=1777,size=65536k")?;
    mount_new("mqueue", "/dev/mqueue", INERT, c"")?;
    make_nodes()
}

/// Makes the directory, and those above it, in the root that was entered.
///
/// # Errors
/// What mkdir(2) answers.
pub fn make_directory(directory: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(directory)
        .map_err(|error| Error::io("mkdir", directory, error))
}

/// Mounts a new filesystem at `target`, which is made a directory where it does not exist.
pub(super) fn mount_new(
    fs_type: &str,
    target: impl AsRef<Path>,
    flags: MountFlags,
    options: &CStr,
) -> Result<()> {
    let target = target.as_ref();
    match fs::symlink_metadata(target) {
        // A link would lead the mount to a place that the root's owner chose.
        Ok(found) if !found.is_dir() => {
            let target = target.display();
            return Err(Error::Refused(format!("{target}: not a directory to mount {fs_type} on")));
        }
        Ok(_) => {}
        Err(_) => fs::DirBuilder::new()
            .mode(0o755)
            .create(target)
            .map_err(|error| Error::io("mkdir", target, error))?,
    }
    mount(fs_type, target, fs_type, flags, options)
        .map_err(|errno| Error::io("mount", target, errno))
}

/// Makes the nodes and links in /dev that every program may expect; `null(4)` and the rest.
fn make_nodes() -> Result<()> {
    const NODES: &[(&str, u64, u64)] = &[
        ("/dev/null", 1, 3),
        ("/dev/zero", 1, 5),
        ("/dev/full", 1, 7),
        ("/dev/random", 1, 8),
        ("/dev/urandom", 1, 9),
        ("/dev/tty", 5, 0),
    ];
    const LINKS: &[(&str, &str)] = &[
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
        ("/proc/kcore", "/dev/core"),
        ("pts/ptmx", "/dev/ptmx"),
    ];
    for (path, major, minor) in NODES {
        mknod(*path, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(*major, *minor))
            .map_err(|errno| Error::io("mknod", path, errno))?;
    }
    for (target, link) in LINKS {
        symlink(target, link).map_err(|error| Error::io("symlink", link, error))?;
    }
    Ok(())
}

/// A container's cgroups, cloned from the host's mounts before the root changes.
#[derive(Debug)]
pub struct CgroupView {
    hierarchies: Vec<HierarchyView>,
}

#[derive(Debug)]
struct HierarchyView {
    mount: OwnedFd,
    version: Version,
    /// The name of the directory below /sys/fs/cgroup: the host's.
    name: PathBuf,
    /// Further names by which its controllers are found.
    links: Vec<String>,
}

/// Where everyone looks for cgroups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

impl CgroupView {
    /// Clones, of every hierarchy, the directory of the container's cgroup.
    ///
    /// # Errors
    /// What open_tree(2) answers.
    pub fn open(cgroups: &Cgroups) -> Result<CgroupView> {
        let mut hierarchies = Vec::new();
        for place in cgroups.places() {
            let mount = clone_mount(place.dir)?;
            let name = place.mount_point.file_name().map(PathBuf::from).unwrap_or_default();
            let links = place
                .controllers
                .iter()
                .filter(|controller| Path::new(controller) != name)
                .cloned()
                .collect();
            hierarchies.push(HierarchyView { mount, version: place.version, name, links });
        }
        Ok(CgroupView { hierarchies })
    }

    /// Attaches them where the container looks for them: cgroup2 alone at
    /// /sys/fs/cgroup itself, several hierarchies below it by their names on the host.
    ///
    /// # Errors
    /// The mount that failed.
    pub fn attach(&self, access: Access) -> Result<()> {
        let root = Path::new(CGROUP_ROOT);
        if let [only] = self.hierarchies.as_slice()
            && only.version == Version::V2
        {
            attach(&only.mount, CWD, root)?;
            return make_inert(root, access);
        }
        mount_new("tmpfs", CGROUP_ROOT, INERT, c"mode=755")?;
        for hierarchy in &self.hierarchies {
            let place = root.join(&hierarchy.name);
            fs::create_dir(&place).map_err(|error| Error::io("mkdir", &place, error))?;
            attach(&hierarchy.mount, CWD, &place)?;
            make_inert(&place, access)?;
            for link in &hierarchy.links {
                let link = root.join(link);
                symlink(&hierarchy.name, &link)
                    .map_err(|error| Error::io("symlink", &link, error))?;
            }
        }
        make_inert(root, access)
    }
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
            let mount =
                mountinfo::Mount { id: 1, mount_point: place.into(), fs_type: fs_type.into() };
            is_part_of_root(&mount, &types)
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
