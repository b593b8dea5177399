//! Our files in a container that runs already: put over the kernel's, and taken away again.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};

use super::mounts::{INERT, READ_ONLY, attach_to};
use super::served::{Deaths, Served, Turn, device_at};
use super::target::{self, Target, Top, Visit, host_peer_groups, is_lxcfs};
use crate::error::{Error, Result};
use crate::files;
use crate::procfs::mountinfo::Device;

/// Puts `wanted` of the files that are served at `mountpoint` into a container; returns where.
/// What is there already stays, and so does another living daemon's; dead mounts of lxcfs are
/// replaced. A file that the daemon or the kernel does not have is left out.
///
/// # Errors
/// What keeps one of them from it: then all is as before, but without the dead mounts.
pub fn attach(target: &Target, mountpoint: &Path, wanted: &[files::Mount]) -> Result<Vec<PathBuf>> {
    target::prepare()?;
    target.refuse_host()?;
    let _turn = Turn::take()?;
    let served = Served::at(mountpoint)?;
    let dead = dead_devices(target, Some(served.device))?;
    let shared = host_peer_groups()?;
    target.visit(|visit| {
        let mut ours = Vec::new();
        for file in wanted {
            let attributes = if file.is_written { INERT } else { INERT | READ_ONLY };
            match served.mount_of(Path::new(file.path), attributes)? {
                Some(mount) => ours.push((mount, file)),
                None => log::info!("/{}: the daemon does not have it", file.path),
            }
        }
        visit.enter()?;
        let places: Vec<PathBuf> = ours.iter().map(|(_, file)| place_of(file)).collect();
        let tops = visit.tops(&places.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
        let mut chosen = Vec::new();
        let mut missing = 0;
        for (((mount, _), place), top) in ours.into_iter().zip(places).zip(tops) {
            match look(visit, &place, top?, served.device, &dead, &shared)? {
                Found::Missing => {
                    log::info!("{}: the container has no such file", place.display());
                    missing += 1;
                }
                Found::Ours => log::info!("{}: there already", place.display()),
                Found::Foreign(what) => log::warn!("{}: {what}, left alone", place.display()),
                Found::Kernels(top) | Found::Dead(top) => chosen.push((mount, place, top)),
            }
        }
        if missing == wanted.len() {
            let pid = target.pid;
            return Err(Error::Refused(format!("process {pid}: has none of the files to cover")));
        }
        cover(visit, chosen)
    })
}

/// Takes our files, and dead ones of lxcfs, out of a container, so that the kernel's show
/// again; returns from where.
///
/// # Errors
/// What keeps one of them there.
pub fn detach(target: &Target, mountpoint: &Path) -> Result<Vec<PathBuf>> {
    target::prepare()?;
    target.refuse_host()?;
    let _turn = Turn::take()?;
    let ours = device_at(mountpoint)?;
    let mut all = Vec::new();
    // One may lie on another.
    loop {
        let mut devices = dead_devices(target, None)?;
        devices.extend(ours);
        let found = target.visit(|visit| uncover(visit, &devices))?;
        if found.is_empty() {
            return Ok(all);
        }
        all.extend(found);
    }
}

/// The superblocks of the dead mounts of lxcfs at places of ours.
fn dead_devices(target: &Target, served: Option<Device>) -> Result<Vec<Device>> {
    let mut deaths = Deaths::but(served);
    let mut mounts = target.lxcfs_mounts()?;
    mounts.retain(|mount| files::mounts().any(|file| mount.mount_point == place_of(&file)));
    mounts.retain(|mount| deaths.is_dead(target, mount));
    Ok(mounts.into_iter().map(|mount| mount.device).collect())
}

fn place_of(file: &files::Mount) -> PathBuf {
    Path::new("/").join(file.path)
}

/// What is at the place of a file.
enum Found {
    /// Nothing.
    Missing,
    /// The file that is to be there.
    Ours,
    /// The kernel's.
    Kernels(Top),
    /// A dead daemon's.
    Dead(Top),
    /// Something else.
    Foreign(String),
}

fn look(
    visit: &Visit<'_>,
    place: &Path,
    top: Option<Top>,
    ours: Device,
    dead: &[Device],
    host: &BTreeSet<u64>,
) -> Result<Found> {
    let Some(top) = top else { return Ok(Found::Missing) };
    let kernels = if place.starts_with("/proc") { "proc" } else { "sysfs" };
    let mount = &top.mount;
    if is_lxcfs(mount) && mount.device == ours {
        return Ok(Found::Ours);
    }
    let is_dead = is_lxcfs(mount) && dead.contains(&mount.device);
    if !is_dead && mount.fs_type != kernels {
        let fs_type = &mount.fs_type;
        return Ok(Found::Foreign(match is_lxcfs(mount) {
            true => "another daemon's file".to_owned(),
            false => format!("a file of {fs_type}"),
        }));
    }
    let below = if is_dead { visit.mount(mount.parent)? } else { Some(mount.clone()) };
    if let Some(group) = below.and_then(|mount| mount.peer_group)
        && host.contains(&group)
    {
        return Err(Error::Refused(format!(
            "{}: what is mounted there shows on the host too (peer group {group}); make the \
             container's mounts private first",
            place.display()
        )));
    }
    Ok(if is_dead { Found::Dead(top) } else { Found::Kernels(top) })
}

/// Attaches the mounts, all or none.
fn cover(visit: &Visit<'_>, places: Vec<(OwnedFd, PathBuf, Top)>) -> Result<Vec<PathBuf>> {
    let mut covered: Vec<(OwnedFd, PathBuf)> = Vec::new();
    for (mount, place, top) in places {
        let done = if is_lxcfs(&top.mount) {
            replace(visit, &mount, &place, &top)
        } else {
            attach_to(&mount, &top.file, &place)
        };
        if let Err(error) = done {
            for (mount, _) in covered.iter().rev() {
                // The first error is the one to report.
                let _ = visit.unmount(mount);
            }
            return Err(error);
        }
        covered.push((mount, place));
    }
    Ok(covered.into_iter().map(|(_, place)| place).collect())
}

/// Has `mount` take the place of a dead one.
///
/// # Errors
/// What move_mount(2) and umount2(2) answer.
pub(super) fn replace(visit: &Visit<'_>, mount: &OwnedFd, place: &Path, dead: &Top) -> Result<()> {
    let unmounted = |errno| Error::io("unmount the dead filesystem on", place, errno);
    // Linux 6.5: first below, so that no reader finds the host's file meanwhile.
    let beneath = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
        | MoveMountFlags::MOVE_MOUNT_BENEATH;
    if move_mount(mount, "", &dead.file, "", beneath).is_ok() {
        return visit.unmount(&dead.file).map_err(unmounted);
    }
    match visit.unmount(&dead.file) {
        // It came with a copy of a more privileged namespace's mounts, and can only be covered.
        Ok(()) | Err(Errno::INVAL) => {}
        Err(errno) => return Err(unmounted(errno)),
    }
    let gone = || Error::io("find what is below", place, Errno::NOENT);
    let below = visit.open(place)?.ok_or_else(gone)?;
    attach_to(mount, &below, place)
}

/// Unmounts what is on top at the places of the files, where that is of one of `devices`.
fn uncover(visit: &Visit<'_>, devices: &[Device]) -> Result<Vec<PathBuf>> {
    visit.enter()?;
    let places: Vec<PathBuf> = files::mounts().map(|file| place_of(&file)).collect();
    let tops = visit.tops(&places.iter().map(PathBuf::as_path).collect::<Vec<_>>())?;
    let mut found = Vec::new();
    for (place, top) in places.into_iter().zip(tops) {
        let Some(Top { file, mount }) = top? else { continue };
        // On top, and not only in a tree that is mounted as a whole.
        let is_there = mount.mount_point == place;
        if is_lxcfs(&mount) && devices.contains(&mount.device) && is_there {
            visit.unmount(&file).map_err(|errno| Error::io("unmount", &place, errno))?;
            found.push(place);
        }
    }
    Ok(found)
}
