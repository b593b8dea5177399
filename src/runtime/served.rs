//! The daemon whose files are put into running containers, and which of the other mounts of lxcfs
//! are dead.

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::mounts;
use super::target::{Target, is_lxcfs};
use crate::error::{Error, Result};
use crate::procfs::ProcRoot;
use crate::procfs::mountinfo::{Device, Mount};
use crate::sys::file;
use crate::sys::fuse::{Answer, ask_in_child};

/// How long the daemon may take to answer before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(5);

/// The file that stands for all.
const EXAMPLE: &str = "proc/meminfo";

/// The filesystem of a daemon that answers. Nothing of it is held open: it can be unmounted.
#[derive(Debug)]
pub struct Served {
    mountpoint: PathBuf,
    /// Its superblock.
    pub device: Device,
    /// Of its mounts.
    source: Vec<u8>,
}

impl Served {
    /// What is served at `mountpoint`, where a file of it can be read to its end.
    ///
    /// # Errors
    /// [`Error::Refused`] where nothing is served; what the reader is answered, or that it is not
    /// within five seconds.
    pub fn at(mountpoint: &Path) -> Result<Served> {
        let place = mountpoint.display();
        let mount = match mount_at(mountpoint) {
            Err(error) if error.is_gone() => {
                Err(Error::Refused(format!("{place}: no such directory")))
            }
            found => found,
        }?;
        if !is_lxcfs(&mount) {
            return Err(Error::Refused(format!(
                "{place}: found {}, expected lxcfs to be mounted there; start `lxcfs-rs serve`",
                mount.fs_type
            )));
        }
        let meminfo = mountpoint.join(EXAMPLE);
        ask_in_child(&meminfo, PATIENCE)
            .and_then(Answer::into_result)
            .map_err(|error| Error::io("read", &meminfo, error))?;
        Ok(Served { mountpoint: mountpoint.to_owned(), device: mount.device, source: mount.source })
    }

    /// Whether a dead mount was of a daemon of this mountpoint. lxcfs's are taken for those of its
    /// usual one.
    #[must_use]
    pub fn succeeds(&self, dead: &Mount) -> bool {
        dead.source == self.source
    }

    /// A mount of `path` below the mountpoint, attached nowhere yet; none where it is not served.
    /// To be called in the mount namespace of the mountpoint.
    ///
    /// # Errors
    /// What openat2(2), open_tree(2) and mount_setattr(2) answer.
    pub fn mount_of(&self, path: &Path, attributes: MountAttrFlags) -> Result<Option<OwnedFd>> {
        let place = self.mountpoint.join(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = file::open_directory(&self.mountpoint)
            .map_err(|error| Error::io("open", &self.mountpoint, error))?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = match openat2(&directory, path, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            opened => opened.map_err(|errno| Error::io("open", &place, errno))?,
        };
        let mount = mounts::clone_open(&file, &place)?;
        mounts::restrict(&mount, attributes, &place)?;
        Ok(Some(mount))
    }
}

/// The superblock of lxcfs at `mountpoint`, alive or not; none where there is none.
///
/// # Errors
/// What looking at it answers.
pub fn device_at(mountpoint: &Path) -> Result<Option<Device>> {
    match mount_at(mountpoint) {
        Err(error) if error.is_gone() => Ok(None),
        found => Ok(found.map(|mount| is_lxcfs(&mount).then_some(mount.device))?),
    }
}

/// The file by whose lock those take turns who change the mounts of running containers. Nobody
/// but root can open it: a container could keep locked what it can open.
const TURNS: &str = "/run/lxcfs-rs/turns";

/// The right to change the mounts of running containers, until this is dropped: two at once
/// would mount the same file twice.
#[derive(Debug)]
pub struct Turn {
    /// Of the open file, flock(2): a child of ours that hangs does not have it open.
    _locked: File,
}

impl Turn {
    /// Waits for it.
    ///
    /// # Errors
    /// What opening and locking the file answers.
    pub fn take() -> Result<Turn> {
        let failed = |op| move |error: io::Error| Error::io(op, TURNS, error);
        let directory = Path::new(TURNS).parent().unwrap_or(Path::new("/"));
        let made = DirBuilder::new().recursive(true).create(directory);
        made.map_err(failed("make the directory of"))?;
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(TURNS).map_err(failed("open"))?;
        file.lock().map_err(failed("lock"))?;
        Ok(Turn { _locked: file })
    }
}

/// The mount that a directory lies on. Its filesystem is not asked.
fn mount_at(directory: &Path) -> Result<Mount> {
    let opened =
        file::open_directory(directory).map_err(|error| Error::io("open", directory, error))?;
    ProcRoot::open(Path::new("/proc"))?.mount_of(&opened)
}

/// Which superblocks of lxcfs have lost their daemon. Each is asked once.
#[derive(Debug, Default)]
pub struct Deaths {
    known: HashMap<Device, bool>,
}

impl Deaths {
    /// Knows that of `served` to live.
    #[must_use]
    pub fn but(served: Option<Device>) -> Deaths {
        Deaths { known: served.into_iter().map(|device| (device, false)).collect() }
    }

    /// Whether the daemon of `mount`, one of [`Target::lxcfs_mounts`] of `target`, is dead.
    pub fn is_dead(&mut self, target: &Target, mount: &Mount) -> bool {
        if let Some(&is_dead) = self.known.get(&mount.device) {
            return is_dead;
        }
        // A user's filesystem of this name might answer root by keeping it waiting.
        let is_roots = |option: &str| mount.super_options.split(',').any(|found| found == option);
        if !is_roots("user_id=0") || !is_roots("allow_other") {
            return false;
        }
        match ask(target, mount) {
            Ok(Some(is_dead)) => {
                self.known.insert(mount.device, is_dead);
                is_dead
            }
            // Another mount hides it, and tells nothing of it.
            Ok(None) => false,
            Err(error) => {
                log::warn!("{:?}: {error}", mount.mount_point);
                self.known.insert(mount.device, false);
                false
            }
        }
    }
}

/// Whether the daemon of a mount is dead, which only a question to the filesystem tells; none
/// where the mount cannot be reached.
fn ask(target: &Target, mount: &Mount) -> Result<Option<bool>> {
    target.visit(|visit| {
        let found = visit.open(&mount.mount_point).unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        });
        let Some(file) = found else { return Ok(None) };
        if visit.proc.mount_id(&file)? != mount.id {
            return Ok(None);
        }
        // To stat(2) the kernel replies for a dead daemon as long as it may keep the attributes.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
        let answer = statx(&file, "", flags, StatxFlags::BASIC_STATS);
        Ok(Some(matches!(answer, Err(Errno::NOTCONN | Errno::CONNABORTED))))
    })
}
