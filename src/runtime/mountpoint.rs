//! The place in the new root that a path of the command line means, to mount something on.
//!
//! A path is followed by descriptors, one name at a time, so that no link leads out of the
//! root, not even one that another container changes meanwhile.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, mkdirat, openat, readlinkat,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::files;

/// What is to be mounted, and what is made where there is nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else.
    File,
}

impl Kind {
    /// The kind of an open file.
    ///
    /// # Errors
    /// What fstat(2) answers.
    pub fn of(file: &OwnedFd) -> std::io::Result<Kind> {
        let found = FileType::from_raw_mode(fstat(file)?.st_mode);
        Ok(if found == FileType::Directory { Kind::Directory } else { Kind::File })
    }
}

/// How many links one path may lead over: the kernel's own number, path_resolution(7).
const LINKS_MAX: usize = 40;

/// How often a name is made that someone else removes.
const ATTEMPTS: usize = 16;

/// A place that was found.
#[derive(Debug)]
pub struct Place {
    /// Opened with O_PATH.
    pub file: OwnedFd,
    /// Whether it is /proc or lies in it, whatever is mounted on it already.
    is_in_proc: bool,
}

/// Opens the place `path` in the root that was entered, and makes what of it is missing.
///
/// # Errors
/// [`Error::Refused`] for a place of the other kind, or one to be made in /proc, and what
/// openat(2) and mkdirat(2) answer.
pub fn find_or_make(path: &Path, kind: Kind) -> Result<Place> {
    let failed = |op: &'static str| move |errno: Errno| Error::io(op, path, errno);
    let open_root = || openat(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    // From the root to where the path has led so far.
    let mut levels = vec![open_root().map_err(failed("open"))?];
    let mut rest: VecDeque<OsString> = names(path).collect();
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            levels.truncate(levels.len().saturating_sub(1).max(1));
            continue;
        }
        let Some(above) = levels.last() else { break };
        let kind = if rest.is_empty() { kind } else { Kind::Directory };
        let found = open_or_make(above, &name, kind, path)?;
        let status = fstat(&found).map_err(failed("stat"))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
            levels.push(found);
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(failed("follow")(Errno::LOOP));
        }
        let target = readlinkat(&found, "", Vec::new()).map_err(failed("follow"))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            levels.truncate(1);
        }
        for name in names(&target).collect::<Vec<_>>().into_iter().rev() {
            rest.push_front(name);
        }
    }
    let mut is_in_proc = false;
    for level in &levels {
        is_in_proc |= is_proc(level, path)?;
    }
    let file = levels.pop().ok_or_else(|| failed("open")(Errno::NOENT))?;
    let found_kind = Kind::of(&file).map_err(|error| Error::io("stat", path, error))?;
    if found_kind != kind {
        let article = if kind == Kind::Directory { "not a" } else { "a" };
        return Err(Error::Refused(format!("{}: {article} directory there", path.display())));
    }
    Ok(Place { file, is_in_proc })
}

/// The names of a path, `..` among them.
fn names(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    })
}

/// Opens `name` below the directory `above`; a link is opened itself.
fn open_or_make(above: &OwnedFd, name: &OsString, kind: Kind, path: &Path) -> Result<OwnedFd> {
    let failed = |op: &'static str, errno: Errno| Error::io(op, path, errno);
    for _ in 0..ATTEMPTS {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(above, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {}
            opened => return opened.map_err(|errno| failed("open", errno)),
        }
        if is_proc(above, path)? {
            return Err(in_proc(path));
        }
        let made = match kind {
            Kind::Directory => mkdirat(above, name, 0o755.into()),
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                openat(above, name, flags, 0o755.into()).map(drop)
            }
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("make", errno)),
        }
    }
    Err(failed("make", Errno::NOENT))
}

impl Place {
    /// Refuses a place in /proc: a mount there would hide what the kernel, or we, say. Allowed
    /// are the files that engines let be mounted on, as a way to what we do.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn refuse_in_proc(&self, path: &Path) -> Result<()> {
        let of_engines = || files::TABLE.iter().filter(|row| row.docker).map(|row| row.path);
        if self.is_in_proc && !of_engines().any(|file| path == Path::new("/").join(file)) {
            return Err(in_proc(path));
        }
        Ok(())
    }
}

fn is_proc(place: &OwnedFd, path: &Path) -> Result<bool> {
    let found = fstatfs(place).map_err(|errno| Error::io("look at", path, errno))?;
    Ok(found.f_type == PROC_SUPER_MAGIC)
}

fn in_proc(path: &Path) -> Error {
    Error::Refused(format!("{}: in /proc, where nothing can be made or mounted", path.display()))
}
