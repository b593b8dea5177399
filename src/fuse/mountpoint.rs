//! Where the filesystem is mounted: finding a fit directory, mounting, unmounting.

use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{Error, Result};
use crate::procfs::ProcRoot;
use crate::procfs::mountinfo::{Device, Mount};
use crate::sys::fuse::{Answer, ask_in_child};

/// How long a FUSE daemon may take to answer a stat before it counts as live, but hung.
const PATIENCE: Duration = Duration::from_secs(5);

/// A directory that is fit to be mounted on, and reserved for that until this is dropped.
///
/// Directories that were made for it are removed again when it is dropped; one that another
/// start reserves is left to that.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    created: Vec<PathBuf>,
    /// Locked, so that of two starts at the same time one sees the other; none once mounted.
    directory: Option<OwnedFd>,
}

impl Claim {
    /// Reserves `path`: makes it where it is missing, takes dead FUSE mounts away from it, and
    /// refuses it where a live daemon serves it or, unless `nonempty`, something else is in it.
    /// One that `is_ending` says is about to end is waited for.
    pub(super) fn new(
        path: &Path,
        nonempty: bool,
        is_ending: impl Fn(&Path) -> bool,
    ) -> Result<Self> {
        let created = create(path)?;
        let path = remove_dead_mounts(path, is_ending)?;
        let directory = open_directory(&path, OFlags::RDONLY)?;
        lock(&directory, &path)?;
        // Not before: whoever holds the lock needs the directories, also those that we made.
        let mut claim = Claim { path, created, directory: None };
        // Another start may have come and gone between the first look and the lock.
        refuse_live_mount(&claim.path)?;
        if !nonempty {
            refuse_full(&claim.path)?;
        }
        claim.directory = Some(directory);
        Ok(claim)
    }

    /// The directory, absolute and without symbolic links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        for directory in self.created.iter().rev() {
            // Whoever has put something there meanwhile keeps the directory.
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Our filesystem on its mountpoint; unmounted when dropped.
#[derive(Debug)]
pub(super) struct Mounted {
    claim: Claim,
    device: Device,
    /// Whether it stays mounted.
    is_left: bool,
}

impl Mounted {
    /// Takes note of the filesystem that was just mounted on the claim.
    pub(super) fn new(mut claim: Claim) -> Result<Self> {
        claim.directory = None;
        let (_, mount) = mount_of(claim.path())?;
        Ok(Mounted { device: mount.device, claim, is_left: false })
    }

    /// The filesystem of an earlier daemon, if it still is what a reader finds at `mountpoint`.
    pub(super) fn adopt(mountpoint: &Path, device: &str, created: Vec<PathBuf>) -> Option<Self> {
        let (path, Mount { device: found, mount_point, .. }) = mount_of(mountpoint).ok()?;
        let is_it = found.to_string() == device && path == mount_point;
        is_it.then(|| {
            let claim = Claim { path, created, directory: None };
            Mounted { claim, device: found, is_left: false }
        })
    }

    /// The mountpoint.
    pub(super) fn path(&self) -> &Path {
        self.claim.path()
    }

    /// The superblock.
    pub(super) fn superblock(&self) -> Device {
        self.device
    }

    /// The directories that were made for it, outermost first.
    pub(super) fn created(&self) -> &[PathBuf] {
        &self.claim.created
    }

    /// Has `mount` put a new filesystem in the place of this one, whose connection is over.
    pub(super) fn replace<T>(&mut self, mount: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        if self.is_in_place() {
            unmount(self.path())?;
        }
        let made = mount(self.path())?;
        self.device = mount_of(self.path())?.1.device;
        Ok(made)
    }

    /// Leaves the filesystem mounted.
    pub(super) fn leave(&mut self) {
        self.is_left = true;
        self.claim.created.clear();
    }

    /// Unmounts the filesystem, unless it is left.
    pub(super) fn unmount(&mut self) {
        if std::mem::replace(&mut self.is_left, true) {
            return;
        }
        if !self.is_in_place() {
            log::info!("{}: no longer mounted there, nothing to unmount", self.path().display());
            return;
        }
        if let Err(error) = unmount(self.path()) {
            log::error!("{error}");
        }
    }

    /// Whether our filesystem is what a reader finds at the mountpoint.
    pub(super) fn is_in_place(&self) -> bool {
        mount_of(self.path())
            .is_ok_and(|(path, mount)| path == mount.mount_point && mount.device == self.device)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Unmounts what is on top at `path`; detaches it where files in it are still open.
pub(super) fn unmount(path: &Path) -> Result<()> {
    let plain = umount2(path, MntFlags::UMOUNT_NOFOLLOW);
    let done = match plain {
        Err(Errno::EBUSY) => umount2(path, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH),
        _ => plain,
    };
    done.map_err(|error| Error::io("unmount", path, error))
}

/// Makes `path` and its missing parents; returns what it made, outermost first.
fn create(path: &Path) -> Result<Vec<PathBuf>> {
    let missing: Vec<&Path> = path
        .ancestors()
        // Not by stat(2): a hung filesystem that is mounted there would not answer.
        .take_while(|part| {
            rustix::fs::open(*part, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
                .is_err_and(|error| error == rustix::io::Errno::NOENT)
        })
        .collect();
    let mut created = Vec::new();
    for part in missing.into_iter().rev() {
        match std::fs::DirBuilder::new().mode(0o755).create(part) {
            Ok(()) => created.push(part.to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io("create the mountpoint", part, error)),
        }
    }
    Ok(created)
}

/// Unmounts every dead FUSE filesystem stacked on `path`; returns the path without symbolic links.
fn remove_dead_mounts(path: &Path, is_ending: impl Fn(&Path) -> bool) -> Result<PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (resolved, mount) = mount_of(path)?;
        match is_dead_fuse(&resolved, &mount) {
            Ok(true) => {}
            Ok(false) => return Ok(resolved),
            Err(_) if is_ending(&resolved) && Instant::now() < deadline => {
                std::thread::sleep(PATIENCE / 1000);
                continue;
            }
            Err(error) => return Err(error),
        }
        log::warn!("{}: replacing a dead {} mount", resolved.display(), mount.fs_type);
        umount2(&resolved, MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH)
            .map_err(|error| Error::io("unmount the dead filesystem on", &resolved, error))?;
    }
}

fn refuse_live_mount(path: &Path) -> Result<()> {
    let (resolved, mount) = mount_of(path)?;
    is_dead_fuse(&resolved, &mount).map(|_| ())
}

/// Whether `mount` is a dead FUSE filesystem mounted on `path`; a live one is an error.
fn is_dead_fuse(path: &Path, mount: &Mount) -> Result<bool> {
    if !mount.is_fuse() || mount.mount_point != path {
        return Ok(false);
    }
    let answer = ask_in_child(path, PATIENCE).map_err(|error| Error::io("look at", path, error))?;
    // The connection has ended: closed by its daemon's death, or aborted by an administrator.
    if matches!(answer, Answer::Failed(libc::ENOTCONN | libc::ECONNABORTED)) {
        return Ok(true);
    }
    let state =
        if answer == Answer::None { "live daemon that does not answer" } else { "live daemon" };
    Err(Error::Refused(format!(
        "{}: in use by a {state} ({}); stop it first or choose another mountpoint",
        path.display(),
        mount.fs_type,
    )))
}

fn lock(directory: &OwnedFd, path: &Path) -> Result<()> {
    match rustix::fs::flock(directory, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Refused(format!(
            "{}: another daemon is just starting here; choose another mountpoint",
            path.display()
        ))),
        // A filesystem without locks only loses the guard against two starts in one instant.
        _ => Ok(()),
    }
}

fn refuse_full(path: &Path) -> Result<()> {
    let mut entries =
        std::fs::read_dir(path).map_err(|error| Error::io("list the mountpoint", path, error))?;
    let Some(entry) = entries.next() else { return Ok(()) };
    let entry = entry.map_err(|error| Error::io("list the mountpoint", path, error))?;
    Err(Error::Refused(format!(
        "{}: the mountpoint is not empty ({}); empty it or choose another one",
        path.display(),
        entry.file_name().display(),
    )))
}

fn open_directory(path: &Path, access: OFlags) -> Result<OwnedFd> {
    let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(directory) => Ok(directory),
        Err(rustix::io::Errno::NOTDIR) => {
            Err(Error::Refused(format!("{}: the mountpoint is not a directory", path.display())))
        }
        Err(error) => Err(Error::io("open the mountpoint", path, error)),
    }
}

/// The path of a directory as a daemon that serves there knows it: absolute and without symbolic
/// links; whether the daemon lives makes no difference.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    mount_of(path).map(|(resolved, _)| resolved)
}

/// The path of the directory without symbolic links, and the mount that it lies in.
///
/// O_PATH sends no request to a filesystem, so a dead or hung one does no harm.
fn mount_of(path: &Path) -> Result<(PathBuf, Mount)> {
    let directory = open_directory(path, OFlags::PATH)?;
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let resolved = std::fs::read_link(&link).map_err(|error| Error::io("read", &link, error))?;
    let proc = ProcRoot::open(Path::new("/proc"))?;
    Ok((resolved, proc.mount_of(&directory)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_this_test_has_a_mount() {
        let (resolved, mount) = mount_of(&std::env::temp_dir()).unwrap();
        assert!(resolved.starts_with(&mount.mount_point));
    }

    #[test]
    fn what_was_made_is_removed() {
        let base = std::env::temp_dir().join(format!("lxcfs-rs-claim-{}", std::process::id()));
        let claim = Claim::new(&base.join("a/b"), false, |_| false).unwrap();
        assert!(claim.path().is_dir());
        let second = Claim::new(&base.join("a/b"), false, |_| false).unwrap_err().to_string();
        assert!(second.contains("just starting"), "{second}");
        drop(claim);
        assert!(!base.exists());
    }

    #[test]
    fn a_full_directory_and_a_file_are_refused() {
        let base = std::env::temp_dir().join(format!("lxcfs-rs-full-{}", std::process::id()));
        std::fs::create_dir(&base).unwrap();
        std::fs::write(base.join("file"), "").unwrap();
        let error = Claim::new(&base, false, |_| false).unwrap_err().to_string();
        assert!(error.contains("not empty (file)"), "{error}");
        assert!(Claim::new(&base, true, |_| false).is_ok());
        let error = Claim::new(&base.join("file"), true, |_| false).unwrap_err().to_string();
        assert!(error.contains("not a directory"), "{error}");
        std::fs::remove_dir_all(&base).unwrap();
    }
}
