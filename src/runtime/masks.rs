//! The places in /proc and /sys that tell of the host or act on it although no namespace
//! divides them: hidden, or made read-only. The lists are Docker's.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::kernelfs::KernelFilesystems;
use super::mountpoint::Kind;
use super::mounts::{self, INERT, READ_ONLY};
use crate::error::{Error, Result};

/// Hidden: they show the host's memory, keys, timers, devices or power.
const HIDDEN: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only: a write to them reaches the host's kernel.
const NOT_WRITABLE: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Covers all of them.
///
/// # Errors
/// The mount that failed. A place that this kernel does not have needs no cover.
pub fn cover(kernel: &KernelFilesystems) -> Result<()> {
    for place in NOT_WRITABLE {
        cover_if_there(kernel, Path::new(place), read_only)?;
    }
    for place in HIDDEN {
        cover_if_there(kernel, Path::new(place), nothing)?;
    }
    Ok(())
}

/// What a place, which is open, is covered by.
type Cover = fn(&KernelFilesystems, &OwnedFd, &Path) -> Result<OwnedFd>;

fn cover_if_there(kernel: &KernelFilesystems, place: &Path, cover: Cover) -> Result<()> {
    match kernel.open(place) {
        Ok(found) => mounts::attach_to(&cover(kernel, &found, place)?, &found, place),
        Err(error) if error.is_gone() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Itself, with what is mounted below it, which would be uncovered otherwise.
fn read_only(_kernel: &KernelFilesystems, place: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let itself = mounts::clone_all_open(place, path)?;
    mounts::restrict(&itself, INERT | READ_ONLY, path)?;
    Ok(itself)
}

/// An empty directory over a directory, and over a file one that is always empty.
fn nothing(kernel: &KernelFilesystems, place: &OwnedFd, path: &Path) -> Result<OwnedFd> {
    let failed = |error| Error::io("cover", path, error);
    match Kind::of(place).map_err(failed)? {
        Kind::Directory => mounts::new_filesystem("tmpfs", &[], READ_ONLY).map_err(failed),
        Kind::File => {
            let null = Path::new("/dev/null");
            mounts::clone_open(kernel.open(null)?, null)
        }
    }
}
