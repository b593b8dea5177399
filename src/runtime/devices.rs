//! The host's devices, for a container that may use them.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{Gid, Uid, chown};

use super::mountpoint::{self, Kind};
use crate::error::{Error, Result};

const DEV: &str = "/dev";

/// What of /dev a container always has of its own.
const OWN: &[&str] = &["console", "fd", "mqueue", "ptmx", "pts", "shm"];

/// A device node of the host's.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    kind: SFlag,
    mode: u32,
    owner: (u32, u32),
    number: u64,
}

/// The nodes in the host's /dev; to be asked before the root changes.
///
/// # Errors
/// The directory that could not be read.
pub fn of_host() -> Result<Vec<Device>> {
    let mut devices = Vec::new();
    let mut directories = vec![PathBuf::from(DEV)];
    while let Some(directory) = directories.pop() {
        let failed = |error| Error::io("read", &directory, error);
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if OWN.iter().any(|name| path == Path::new(DEV).join(name)) {
                continue;
            }
            // Devices come and go.
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            let kind = found.file_type();
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_char_device() || kind.is_block_device() {
                devices.push(Device {
                    path,
                    kind: if kind.is_block_device() { SFlag::S_IFBLK } else { SFlag::S_IFCHR },
                    mode: found.mode() & 0o7777,
                    owner: (found.uid(), found.gid()),
                    number: found.rdev(),
                });
            }
        }
    }
    Ok(devices)
}

/// Makes the nodes, in the root that was entered, where there is nothing of their name.
///
/// # Errors
/// The node that could not be made.
pub fn make(devices: &[Device]) -> Result<()> {
    for device in devices {
        let Device { path, kind, mode, owner, number } = device;
        if fs::symlink_metadata(path).is_ok() {
            continue;
        }
        if let Some(directory) = path.parent() {
            mountpoint::find_or_make(directory, Kind::Directory)?;
        }
        mknod(path, *kind, Mode::from_bits_truncate(*mode), *number)
            .and_then(|()| chown(path, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1))))
            .map_err(|errno| Error::io("mknod", path, errno))?;
    }
    Ok(())
}
