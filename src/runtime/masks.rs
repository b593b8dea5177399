//! The places in /proc and /sys that tell of the host or act on it although no namespace
//! divides them: hidden, or made read-only. The lists are Docker's.

use std::fs;
use std::path::Path;

use rustix::mount::MountFlags;

use super::rootfs;
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
const READ_ONLY: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Covers all of them in the root that was entered, whose /proc, /sys and /dev are mounted.
///
/// # Errors
/// The mount that failed. A place that this kernel does not have needs no cover.
pub fn cover() -> Result<()> {
    for place in READ_ONLY {
        cover_if_there(Path::new(place), make_read_only)?;
    }
    for place in HIDDEN {
        cover_if_there(Path::new(place), hide)?;
    }
    Ok(())
}

fn cover_if_there(place: &Path, cover: fn(&Path, bool) -> Result<()>) -> Result<()> {
    match fs::symlink_metadata(place) {
        Ok(found) => cover(place, found.is_dir()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io("look at", place, error)),
    }
}

fn make_read_only(place: &Path, _is_dir: bool) -> Result<()> {
    // With what is mounted below it, which would be uncovered otherwise.
    let itself = rootfs::clone_mounts(place)?;
    rootfs::attach_inert(&itself, place)
}

/// Covers a directory by an empty one and a file by one that is always empty.
fn hide(place: &Path, is_dir: bool) -> Result<()> {
    if is_dir {
        return rootfs::mount_new("tmpfs", place, MountFlags::RDONLY, c"");
    }
    let null = rootfs::clone_mounts(Path::new("/dev/null"))?;
    rootfs::attach_over(&null, place)
}
