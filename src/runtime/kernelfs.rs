//! The kernel's filesystems in a container's root, and the nodes of its /dev.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, makedev, mkdirat,
    mknodat, openat2, symlinkat,
};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::mounts::{self, INERT, READ_ONLY, attach_to, new_filesystem};
use super::users::{self, Namespace};
use crate::error::{Error, Result};

/// What a container may do in /sys and to its own cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Look.
    ReadOnly,
    /// Write too, as far as its capabilities go.
    Writable,
}

impl Access {
    /// The attributes of such a mount.
    #[must_use]
    pub fn attributes(self) -> MountAttrFlags {
        match self {
            Access::ReadOnly => INERT | READ_ONLY,
            Access::Writable => INERT,
        }
    }
}

/// The mounts on /proc, /sys and /dev. Whatever is done in them goes by these descriptors:
/// their mount points lie in a directory that another container may have as its root too, and
/// move elsewhere meanwhile.
#[derive(Debug)]
pub struct KernelFilesystems {
    proc: OwnedFd,
    sys: OwnedFd,
    dev: OwnedFd,
}

impl KernelFilesystems {
    /// Mounts them in the root that was entered.
    ///
    /// # Errors
    /// The mount that failed, or the mount point that is no directory.
    /// With `users`, what is made here is their root's.
    pub fn mount(access: Access, users: Option<&Namespace>) -> Result<KernelFilesystems> {
        if let Some(users) = users {
            users.make_files_as_root_inside();
        }
        let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID;
        let noexec = MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let proc = mount_at_root("proc", "/proc", &[], INERT)?;
        let sys = mount_at_root("sysfs", "/sys", &[], access.attributes())?;
        let dev = mount_at_root("tmpfs", "/dev", &[("mode", "755"), ("size", "65536k")], nosuid)?;
        let mounted = KernelFilesystems { proc, sys, dev };
        const TTY: u32 = 5; // every system's group of terminals
        let group = users.map_or(TTY, |users| users.outside(TTY)).to_string();
        let pts = [("ptmxmode", "0666"), ("mode", "0620"), ("gid", group.as_str())];
        let shm = [("mode", "1777"), ("size", "65536k")];
        mounted.mount_in_dev("devpts", "pts", &pts, nosuid | noexec)?;
        mounted.mount_in_dev("tmpfs", "shm", &shm, INERT)?;
        mounted.mount_in_dev("mqueue", "mqueue", &[], INERT)?;
        users::make_files_as_host();
        mounted.make_nodes(users)?;
        Ok(mounted)
    }

    fn mount_in_dev(
        &self,
        fs_type: &str,
        name: &str,
        options: &[(&str, &str)],
        attributes: MountAttrFlags,
    ) -> Result<()> {
        let place = &Path::new("/dev").join(name);
        mkdirat(&self.dev, name, 0o755.into()).map_err(|errno| Error::io("mkdir", place, errno))?;
        let mount = new_filesystem(fs_type, options, attributes)
            .map_err(|error| Error::io("mount", place, error))?;
        self.attach(&mount, place)
    }

    /// Opens a place in one of them, by its path in the container. No link is followed.
    ///
    /// # Errors
    /// What openat2(2) answers.
    pub fn open(&self, place: &Path) -> Result<OwnedFd> {
        let roots = [("/proc", &self.proc), ("/sys", &self.sys), ("/dev", &self.dev)];
        let below = roots.into_iter().find_map(|(path, root)| {
            let below = place.strip_prefix(path).ok()?;
            Some((root, below))
        });
        let opened = below.ok_or(Errno::XDEV).and_then(|(root, below)| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            openat2(root, below, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
        });
        opened.map_err(|errno| Error::io("open", place, errno))
    }

    /// Attaches a mount at a place in one of them.
    ///
    /// # Errors
    /// What openat2(2) and move_mount(2) answer.
    pub fn attach(&self, mount: &OwnedFd, place: &Path) -> Result<()> {
        attach_to(mount, self.open(place)?.as_fd(), place)
    }

    /// Puts a terminal at /dev/console; console(4).
    ///
    /// # Errors
    /// What making the file and mounting the terminal on it answer.
    pub fn attach_console(&self, terminal: &OwnedFd) -> Result<()> {
        let place = Path::new("/dev/console");
        mknodat(&self.dev, "console", FileType::RegularFile, 0o600.into(), 0)
            .map_err(|errno| Error::io("make", place, errno))?;
        self.attach(&mounts::clone_open(terminal, place)?, place)
    }

    /// Makes the nodes and links in /dev that every program may expect; `null(4)` and the rest.
    fn make_nodes(&self, users: Option<&Namespace>) -> Result<()> {
        const NODES: &[(&str, u32, u32)] = &[
            ("null", 1, 3),
            ("zero", 1, 5),
            ("full", 1, 7),
            ("random", 1, 8),
            ("urandom", 1, 9),
            ("tty", 5, 0),
        ];
        const LINKS: &[(&str, &str)] = &[
            ("/proc/self/fd", "fd"),
            ("/proc/self/fd/0", "stdin"),
            ("/proc/self/fd/1", "stdout"),
            ("/proc/self/fd/2", "stderr"),
            ("/proc/kcore", "core"),
            ("pts/ptmx", "ptmx"),
        ];
        let dev = Path::new("/dev");
        for (name, major, minor) in NODES {
            let number = makedev(*major, *minor);
            mknodat(&self.dev, *name, FileType::CharacterDevice, 0o666.into(), number)
                .map_err(|errno| Error::io("mknod", dev.join(name), errno))?;
            if let Some(users) = users {
                let (uid, gid) = (Uid::from_raw(users.outside(0)), Gid::from_raw(users.outside(0)));
                chownat(&self.dev, *name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|errno| Error::io("chown", dev.join(name), errno))?;
            }
        }
        for (target, name) in LINKS {
            symlinkat(*target, &self.dev, *name)
                .map_err(|errno| Error::io("symlink", dev.join(name), errno))?;
        }
        Ok(())
    }
}

/// Mounts a new filesystem at `place` in the root that was entered, which is made a directory
/// where it does not exist. A link there would lead it where the root's owner likes.
fn mount_at_root(
    fs_type: &str,
    place: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd> {
    match mkdirat(CWD, place, 0o755.into()) {
        Ok(()) | Err(Errno::EXIST | Errno::ROFS) => {}
        Err(errno) => return Err(Error::io("mkdir", place, errno)),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target =
        openat2(CWD, place, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(|errno| {
            match errno {
                Errno::LOOP | Errno::NOTDIR => {
                    Error::Refused(format!("{place}: not a directory to mount {fs_type} on"))
                }
                _ => Error::io("open", place, errno),
            }
        })?;
    let mount = new_filesystem(fs_type, options, attributes)
        .map_err(|error| Error::io("mount", place, error))?;
    attach_to(&mount, target.as_fd(), Path::new(place))?;
    Ok(mount)
}
