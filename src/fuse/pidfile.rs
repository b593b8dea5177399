//! A pid file that belongs to one running daemon.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Error, Result};

/// A lock for writing on all of a file, fcntl(2).
#[allow(
    clippy::cast_possible_truncation,
    reason = "both constants fit, by the C type of the field"
)]
const WHOLE_FILE: libc::flock = libc::flock {
    l_type: libc::F_WRLCK as libc::c_short,
    l_whence: libc::SEEK_SET as libc::c_short,
    l_start: 0,
    l_len: 0,
    l_pid: 0,
};

/// A pid file, locked until it is dropped, and then removed. The lock is fcntl(2)'s for writing,
/// as lxcfs's, so that of the two one sees the other, and that nobody has it who may only read.
///
/// Who cannot get the lock leaves the file alone, so that the loser of two starts does not
/// take away the winner's.
#[derive(Debug)]
pub(super) struct Pidfile {
    path: PathBuf,
    file: File,
}

impl Pidfile {
    /// Takes the file, creating it where it is missing; its old text goes.
    pub(super) fn lock(path: &Path) -> Result<Self> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .custom_flags(libc::O_NONBLOCK)
                .open(path)
                .map_err(|error| Error::io("open the pid file", path, error))?;
            let found = file.metadata().map_err(|error| Error::io("stat", path, error))?;
            if !found.is_file() {
                let line = format!("{}: the pid file is not a regular file", path.display());
                return Err(Error::Refused(line));
            }
            // Of the open file, not of the process: that one would be lost with any close(2).
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&WHOLE_FILE)) {
                Ok(_) => {}
                Err(Errno::EAGAIN | Errno::EACCES) => return Err(held(path)),
                Err(error) => return Err(Error::io("lock", path, error)),
            }
            let pidfile = Pidfile { path: path.to_owned(), file };
            // Its last owner may have removed it between our open and our lock; what we hold
            // would then be a file without a name.
            if pidfile.is_at_its_path() {
                pidfile.clear()?;
                return Ok(pidfile);
            }
        }
    }

    /// Takes the file as soon as the daemon before lets go of it.
    pub(super) fn lock_soon(path: &Path) -> Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match Pidfile::lock(path) {
                Err(Error::Refused(_)) if Instant::now() < deadline => {
                    std::thread::sleep(PATIENCE / 500);
                }
                locked => return locked,
            }
        }
    }

    /// Writes this process's pid.
    pub(super) fn write(&mut self) -> Result<()> {
        let done = self.file.write_all_at(own_pid().as_bytes(), 0);
        done.map_err(|error| Error::io("write", &self.path, error))
    }

    /// Takes the old text out, unless it is the pid of this process already: whoever started it
    /// (start-stop-daemon) has written that, and may read it at any time.
    fn clear(&self) -> Result<()> {
        let mut text = [0; 32];
        if self.file.read_at(&mut text, 0).is_ok_and(|n| text[..n] == *own_pid().as_bytes()) {
            return Ok(());
        }
        self.file.set_len(0).map_err(|error| Error::io("truncate", &self.path, error))
    }

    fn is_at_its_path(&self) -> bool {
        let identity = |metadata: io::Result<std::fs::Metadata>| {
            metadata.ok().map(|found| (found.dev(), found.ino()))
        };
        let here = identity(std::fs::symlink_metadata(&self.path));
        // A symbolic link to the file is as good as the file; removing takes the link away.
        let there = identity(std::fs::metadata(&self.path));
        let ours = identity(self.file.metadata());
        ours.is_some() && (here == ours || there == ours)
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        if self.is_at_its_path() {
            // A file that cannot be removed holds a stale pid and no lock: the next start takes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn own_pid() -> String {
    format!("{}\n", std::process::id())
}

fn held(path: &Path) -> Error {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let owner = match text.trim() {
        "" => String::new(),
        pid => format!(" (pid {pid})"),
    };
    Error::Refused(format!("{}: the pid file is held by another daemon{owner}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("lxcfs-rs-{name}-{}", std::process::id()))
    }

    #[test]
    fn the_loser_leaves_it_alone() {
        let path = path("pidfile");
        let mut winner = Pidfile::lock(&path).unwrap();
        winner.write().unwrap();
        let error = Pidfile::lock(&path).unwrap_err().to_string();
        assert!(error.contains("held by another daemon (pid "), "{error}");
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(winner);
        assert!(!path.exists());
    }

    #[test]
    fn only_its_own_is_removed() {
        let path = path("foreign");
        let pidfile = Pidfile::lock(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another's").unwrap();
        drop(pidfile);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "another's");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_stale_one_is_taken_over() {
        let path = path("stale");
        std::fs::write(&path, "4194304999\n").unwrap();
        let mut pidfile = Pidfile::lock(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
        pidfile.write().unwrap();
        drop(pidfile);
        assert!(Pidfile::lock(Path::new("/dev/null")).is_err());
    }

    #[test]
    fn what_start_stop_daemon_wrote_is_there_all_the_time() {
        let path = path("made");
        let own = format!("{}\n", std::process::id());
        std::fs::write(&path, &own).unwrap();
        let mut pidfile = Pidfile::lock(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), own);
        pidfile.write().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), own);
    }
}
