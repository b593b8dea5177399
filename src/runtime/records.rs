//! The records of the containers that run on this host, and their names.
//!
//! In /run/lxcfs-rs/containers a container has the file `ID`, its record, and where it was given a name
//! the link `NAME` to it. Both are made while its cgroups are locked and removed before these
//! are unlocked: the lock on its cgroups ([`apply::sweep`]) tells whether their owner lives.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::state::{Record, is_id, short};
use crate::cgroup::apply;
use crate::cgroup::layout::Layout;
use crate::error::{Error, Result};

/// Where the records are: gone with the boot, as the containers are.
const DIRECTORY: &str = "/run/lxcfs-rs/containers";

/// Of the name of a record that is being written.
const UNFINISHED: &str = ".new";

/// How often what another runtime took away in the same moment is made anew.
const ATTEMPTS: usize = 100;

/// Between two attempts to get a name.
const MOMENT: Duration = Duration::from_millis(2);

/// The directory of the records.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
}

/// What there is of one container among the records, until [`Entry::remove`].
#[derive(Debug)]
pub struct Entry<'a> {
    records: &'a Records,
    id: &'a str,
    name: Option<&'a str>,
}

impl Records {
    /// Those of this host.
    #[must_use]
    pub fn of_host() -> Records {
        Records { dir: DIRECTORY.into() }
    }

    /// Takes a name for the container `id`, whose cgroups are locked. Of two runtimes that want
    /// the same name one gets it.
    ///
    /// # Errors
    /// [`Error::Refused`] where another container has the name.
    pub fn claim<'a>(
        &'a self,
        layout: &Layout,
        id: &'a str,
        name: Option<&'a str>,
    ) -> Result<Entry<'a>> {
        let entry = Entry { records: self, id, name };
        let Some(name) = name else { return Ok(entry) };
        let link = self.dir.join(name);
        for attempt in 1..=ATTEMPTS {
            match self.in_directory(|| symlink(id, &link)) {
                Ok(()) => return Ok(entry),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io("make", &link, error)),
            }
            // Unless it was given up just now.
            let Ok(owner) = fs::read_link(&link) else { continue };
            let owner = owner.to_string_lossy();
            if !apply::is_owned(layout, &owner) {
                self.forget(&owner);
                continue;
            }
            let record = read(&self.dir.join(owner.as_ref()));
            if attempt == ATTEMPTS || record.is_ok_and(|record| record.runtime.open().is_ok()) {
                let owner = short(&owner);
                let line = format!("--name {name}: the container {owner} has this name already");
                return Err(Error::Refused(line));
            }
            // It only starts, or who sweeps it away has its lock for a moment.
            thread::sleep(MOMENT);
        }
        Err(Error::io("make", &link, io::Error::from(ErrorKind::AlreadyExists)))
    }

    /// Does what needs the directory, which another runtime removes when it leaves it empty.
    fn in_directory<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let mut done = act();
        for _ in 1..ATTEMPTS {
            if !done.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
                break;
            }
            DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
            done = act();
        }
        done
    }

    /// The containers that run, the oldest first. What a dead runtime left is removed, and what
    /// is no record is passed over with a word.
    ///
    /// # Errors
    /// What reading the directory answers.
    pub fn living(&self, layout: &Layout) -> Result<Vec<Record>> {
        if let Err(error) = apply::sweep(layout, |id| self.forget(id)) {
            log::warn!("what an earlier run left: {error}");
        }
        let mut living = Vec::new();
        for name in self.names()? {
            let path = self.dir.join(&name);
            let owner = match fs::read_link(&path) {
                Ok(target) => target.into_os_string(),
                // Not a link; one that is gone needs no word.
                Err(error) if error.kind() != ErrorKind::NotFound => name.clone(),
                Err(_) => continue,
            };
            let owner = owner.to_string_lossy();
            let id = owner.strip_suffix(UNFINISHED).unwrap_or(&owner);
            if !is_id(id) {
                log::warn!("{}: not a record of a container, passed over", path.display());
            } else if !apply::is_owned(layout, id) {
                self.forget(id);
            } else if name == *id {
                match read(&path) {
                    Err(error) if error.is_gone() => {}
                    Err(error) => log::warn!("{error}; passed over"),
                    Ok(record) if is_swept_away(&path, &record) => {}
                    Ok(record) => living.push(record),
                }
            }
        }
        living.sort_by_key(|record: &Record| record.created);
        Ok(living)
    }

    /// The running container that `wanted` means: its name, its id, or the first digits of that.
    ///
    /// # Errors
    /// [`Error::Refused`] where none or more than one is meant.
    pub fn find(&self, layout: &Layout, wanted: &str) -> Result<Record> {
        let mut living = self.living(layout)?;
        let exact = living.iter().position(|record| record.id == wanted);
        let exact = exact.or_else(|| living.iter().position(|record| record.name == wanted));
        if let Some(index) = exact {
            return Ok(living.swap_remove(index));
        }
        let is_meant = |record: &Record| !wanted.is_empty() && record.id.starts_with(wanted);
        let mut meant: Vec<Record> = living.into_iter().filter(is_meant).collect();
        match (meant.pop(), meant.len()) {
            (Some(record), 0) => Ok(record),
            (Some(_), others) => {
                let count = others + 1;
                Err(Error::Refused(format!("{wanted}: {count} containers have such an id")))
            }
            (None, _) => Err(Error::Refused(format!("{wanted}: no such container runs"))),
        }
    }

    /// Removes all that there is of the container `id`.
    pub fn forget(&self, id: &str) {
        for name in self.names().unwrap_or_default() {
            let path = self.dir.join(name);
            if fs::read_link(&path).is_ok_and(|target| target == Path::new(id)) {
                remove(&path);
            }
        }
        remove(&self.dir.join(format!("{id}{UNFINISHED}")));
        remove(&self.dir.join(id));
        let _ = fs::remove_dir(&self.dir);
    }

    fn names(&self) -> Result<Vec<OsString>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| Error::io("read", &self.dir, error))?,
        };
        Ok(entries.flatten().map(|entry| entry.file_name()).collect())
    }
}

/// Removes a file that may be gone; one that resists is told.
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            log::warn!("{}", Error::io("remove", path, error));
        }
        _ => {}
    }
}

/// Whether it is no runtime that has the container's lock but who sweeps it away, which first removes
/// its record, at `path`. A runtime that is not found may be one of another pid namespace.
fn is_swept_away(path: &Path, record: &Record) -> bool {
    for _ in 0..ATTEMPTS {
        if record.runtime.open().is_ok() {
            return false;
        }
        if !path.exists() {
            return true;
        }
        thread::sleep(MOMENT);
    }
    false
}

fn read(path: &Path) -> Result<Record> {
    let text = fs::read(path).map_err(|error| Error::io("read", path, error))?;
    Record::parse(&text)
        .map_err(|why| Error::Refused(format!("{}: not a record: {why}", path.display())))
}

impl Entry<'_> {
    /// Writes the record: whoever reads it sees all of it or none.
    ///
    /// # Errors
    /// What writing and renaming the file answer.
    pub fn publish(&self, record: &Record) -> Result<()> {
        let dir = &self.records.dir;
        let path = dir.join(self.id);
        let unfinished = dir.join(format!("{}{UNFINISHED}", self.id));
        let text = record.text()?;
        self.records
            .in_directory(|| {
                fs::write(&unfinished, &text)?;
                fs::rename(&unfinished, &path)
            })
            .map_err(|error| {
                let _ = fs::remove_file(&unfinished);
                Error::io("write", &path, error)
            })
    }

    /// Removes the record and the name.
    ///
    /// # Errors
    /// What could not be removed.
    pub fn remove(self) -> Result<()> {
        let dir = &self.records.dir;
        let mut result = Ok(());
        for name in self.name.into_iter().chain([self.id]) {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    result = result.and(Err(Error::io("remove", &path, error)));
                }
                _ => {}
            }
        }
        // Not empty while another container is known there.
        let _ = fs::remove_dir(dir);
        result
    }
}
