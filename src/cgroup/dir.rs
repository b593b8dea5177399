//! A cgroup directory, held open: the only code that reads cgroup files.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::error::{self, Error, Result};
use crate::sys::file;

/// Which cgroup a directory is, for as long as the kernel runs: kernfs numbers its nodes
/// without reuse (a 64-bit id in `st_ino`), and each hierarchy is a device of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CgroupId {
    device: u64,
    node: u64,
}

/// An open cgroup directory. It never comes to mean another cgroup: once the cgroup is
/// removed, every file in it is absent, also when a new one takes its path.
#[derive(Debug)]
pub struct CgroupDir {
    fd: OwnedFd,
    path: PathBuf,
    /// Those of its files that were read.
    files: file::Kept,
    is_hierarchical: OnceLock<bool>,
    /// Once it was asked for.
    id: OnceLock<CgroupId>,
}

impl CgroupDir {
    /// Opens the directory at `path`, the root of a hierarchy.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_root(path: &Path) -> Result<Self> {
        let fd = file::open_directory(path).map_err(|error| Error::io("open", path, error))?;
        Ok(CgroupDir::opened(fd, path.to_owned()))
    }

    fn opened(fd: OwnedFd, path: PathBuf) -> Self {
        let (is_hierarchical, id) = (OnceLock::new(), OnceLock::new());
        CgroupDir { fd, path, files: file::Kept::default(), is_hierarchical, id }
    }

    /// Opens the directory `name`, which may have several components, below this one.
    ///
    /// # Errors
    /// [`Error::Io`]; ENOENT where the cgroup has been removed.
    pub fn open_below(&self, name: impl AsRef<OsStr>) -> Result<Self> {
        let name = name.as_ref();
        let path = if name.is_empty() { self.path.clone() } else { self.path.join(name) };
        let fd = file::open_directory_at(&self.fd, name)
            .map_err(|error| Error::io("open", &path, error))?;
        let below = CgroupDir::opened(fd, path);
        if let Some(true) = self.is_hierarchical.get() {
            let _ = below.is_hierarchical.set(true);
        }
        Ok(below)
    }

    /// The path it was opened at, for messages and `explain`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads a file of the cgroup that is no list (see [`CgroupDir::read_list`]); none where the
    /// cgroup does not have it: its controller is not enabled here, the kernel is older, or the
    /// cgroup has been removed (see [`CgroupDir::exists`]).
    ///
    /// # Errors
    /// [`Error::Gone`] where the cgroup was removed in mid-read; else [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.answer("read", name, self.files.read_record_at(&self.fd, name))
    }

    /// Reads one of the files that list processes or threads, one id a line, which the kernel
    /// renders piece by piece; none as of [`CgroupDir::read`].
    ///
    /// # Errors
    /// As [`CgroupDir::read`].
    pub fn read_list(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.answer("read", name, file::read_at(&self.fd, name))
    }

    /// Whether the cgroup, which has others below it, binds them too: what `ask` said first. It
    /// cannot change as long as there are any; and where it does, so do all below it.
    ///
    /// # Errors
    /// That of `ask`.
    pub fn is_hierarchical(&self, ask: impl FnOnce(&Self) -> Result<bool>) -> Result<bool> {
        if let Some(&known) = self.is_hierarchical.get() {
            return Ok(known);
        }
        let found = ask(self)?;
        Ok(*self.is_hierarchical.get_or_init(|| found))
    }

    /// Closes the files that were not read since this was last called.
    pub fn close_unused(&self) {
        self.files.close_unused();
    }

    fn answer<T>(&self, op: &'static str, name: &str, answer: io::Result<T>) -> Result<Option<T>> {
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(None),
                // A controller that the cgroup has but can't answer for (io without a policy,
                // `cgroup.procs` of a threaded cgroup) is one it doesn't have.
                Some(libc::EOPNOTSUPP) => Ok(None),
                Some(libc::ENODEV) => Err(self.gone()),
                _ => Err(Error::io(op, self.path.join(name), error)),
            },
        }
    }

    /// Opens a file of the cgroup for reading and writing; none as of [`CgroupDir::read`].
    ///
    /// # Errors
    /// As [`CgroupDir::read`].
    pub fn open_to_write(&self, name: &str) -> Result<Option<OwnedFd>> {
        self.answer("open", name, file::open_to_write_at(&self.fd, name))
    }

    /// Reads a file that holds one value, and parses it; none where it is absent, and where
    /// `parse` refuses the text, which is reported.
    ///
    /// # Errors
    /// As [`CgroupDir::read`].
    pub fn read_value<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&[u8]) -> Option<T>,
        expected: &'static str,
    ) -> Result<Option<T>> {
        let Some(text) = self.read(name)? else { return Ok(None) };
        let value = parse(&text);
        if value.is_none() {
            error::report(&Error::malformed(self.path.join(name), 1, &text, expected));
        }
        Ok(value)
    }

    /// Whether the cgroup still exists: every cgroup of either version has `cgroup.procs`.
    #[must_use]
    pub fn exists(&self) -> bool {
        rustix::fs::accessat(
            &self.fd,
            "cgroup.procs",
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty(),
        )
        .is_ok()
    }

    /// Fails where the cgroup no longer exists.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn check_exists(&self) -> Result<()> {
        if self.exists() { Ok(()) } else { Err(self.gone()) }
    }

    fn gone(&self) -> Error {
        Error::Gone { what: format!("cgroup {}", self.path.display()) }
    }

    /// Which cgroup it is.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn id(&self) -> Result<CgroupId> {
        if let Some(&known) = self.id.get() {
            return Ok(known);
        }
        let found = self.stat("", rustix::fs::AtFlags::EMPTY_PATH)?;
        Ok(*self.id.get_or_init(|| found))
    }

    /// Which cgroup is at `name` below this one just now.
    ///
    /// # Errors
    /// [`Error::Io`]; ENOENT where there is none.
    pub fn id_below(&self, name: impl AsRef<OsStr>) -> Result<CgroupId> {
        let name = name.as_ref();
        if name.is_empty() {
            return self.id();
        }
        self.stat(name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
    }

    fn stat(&self, name: impl AsRef<OsStr>, flags: rustix::fs::AtFlags) -> Result<CgroupId> {
        let name = name.as_ref();
        let stat = rustix::fs::statat(&self.fd, name, flags)
            .map_err(|error| Error::io("stat", self.path.join(name), error))?;
        Ok(CgroupId { device: stat.st_dev, node: stat.st_ino })
    }

    /// A descriptor of the directory that can be read, and handed to the kernel: the one that is
    /// held is good for looking up names only.
    ///
    /// # Errors
    /// [`Error::Io`]; ENOENT where the cgroup has been removed.
    pub fn open_itself(&self) -> Result<OwnedFd> {
        file::open_at(&self.fd, ".").map_err(|error| Error::io("open", &self.path, error))
    }

    /// The names of the cgroups directly below.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn children(&self) -> Result<Vec<OsString>> {
        let listing = rustix::fs::Dir::read_from(self.open_itself()?)
            .map_err(|error| Error::io("list", &self.path, error))?;
        let mut names = Vec::new();
        for entry in listing {
            let entry = entry.map_err(|error| Error::io("list", &self.path, error))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let is_directory = entry.file_type() == rustix::fs::FileType::Directory;
            if is_directory && name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }
}

impl CgroupDir {
    /// Shows this cgroup and all below it to `visit`. No more are open at a time than lie above
    /// one another: whoever may make cgroups may make very many.
    ///
    /// # Errors
    /// That of `visit`, and [`Error::Io`]. A cgroup that goes away meanwhile is passed over.
    pub fn walk(&self, visit: &mut impl FnMut(&CgroupDir) -> Result<()>) -> Result<()> {
        let children_of = |dir: &CgroupDir| dir.children().or_else(nothing_if_gone);
        visit(self)?;
        let mut levels = vec![(self.open_below("")?, children_of(self)?.into_iter())];
        while let Some((dir, children)) = levels.last_mut() {
            let Some(name) = children.next() else {
                levels.pop();
                continue;
            };
            match dir.open_below(name) {
                Ok(child) => {
                    visit(&child)?;
                    let children = children_of(&child)?.into_iter();
                    levels.push((child, children));
                }
                Err(error) => nothing_if_gone(error)?,
            }
        }
        Ok(())
    }
}

/// For walks over the cgroups below one: what one that is gone holds is nothing.
///
/// # Errors
/// `error`, unless it says that the cgroup has been removed.
pub fn nothing_if_gone<T: Default>(error: Error) -> Result<T> {
    if error.is_gone() { Ok(T::default()) } else { Err(error) }
}

impl AsFd for CgroupDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Cgroups made of plain files, for tests: `files` are paths and texts, in cgroups of which each
/// lies in the one before. Answers the cgroups, the innermost first.
#[cfg(test)]
pub(super) fn made_of(levels: &[&[(&str, &str)]]) -> (tempfile::TempDir, Vec<CgroupDir>) {
    let top = tempfile::tempdir().unwrap();
    let mut path = top.path().to_owned();
    let mut dirs = Vec::new();
    for files in levels {
        path.push("level");
        std::fs::create_dir(&path).unwrap();
        for (name, text) in *files {
            std::fs::write(path.join(name), text).unwrap();
        }
        dirs.insert(0, CgroupDir::open_root(&path).unwrap());
    }
    (top, dirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_absent_and_values_that_are_none() {
        let (_top, dirs) = made_of(&[&[("cgroup.procs", ""), ("good", "7\n"), ("bad", "x\n")]]);
        let dir = &dirs[0];
        assert_eq!(dir.read("good").unwrap(), Some(b"7\n".to_vec()));
        assert_eq!(dir.read_list("good").unwrap(), Some(b"7\n".to_vec()));
        assert_eq!(dir.read("missing").unwrap(), None);
        let parse = |text: &[u8]| (text == b"7\n").then_some(7);
        assert_eq!(dir.read_value("good", parse, "a seven").unwrap(), Some(7));
        assert_eq!(dir.read_value("missing", parse, "a seven").unwrap(), None);
        let reported = error::reported();
        assert_eq!(dir.read_value("bad", parse, "a seven").unwrap(), None);
        assert!(error::reported() > reported);
        let error = dir.read("good/x").unwrap_err();
        assert_eq!(error.errno(), libc::ENOTDIR);
        assert!(error.to_string().starts_with(dir.path().to_str().unwrap()), "{error}");
    }

    #[test]
    fn what_the_kernel_may_answer_instead_of_a_text() {
        let (_top, dirs) = made_of(&[&[("cgroup.procs", "")]]);
        let answer = |errno| {
            let refused: io::Result<()> = Err(io::Error::from_raw_os_error(errno));
            dirs[0].answer("read", "io.stat", refused)
        };
        assert_eq!(answer(libc::ENOENT).unwrap(), None);
        assert_eq!(answer(libc::EOPNOTSUPP).unwrap(), None);
        assert_eq!(answer(libc::ENODEV).unwrap_err().errno(), libc::ESRCH);
        assert_eq!(answer(libc::EIO).unwrap_err().errno(), libc::EIO);
    }

    #[test]
    fn a_cgroup_without_processes_file_is_gone() {
        let (top, dirs) = made_of(&[&[("cgroup.procs", "")]]);
        let dir = &dirs[0];
        assert!(dir.exists());
        dir.check_exists().unwrap();
        std::fs::remove_file(top.path().join("level/cgroup.procs")).unwrap();
        assert!(!dir.exists());
        assert_eq!(dir.check_exists().unwrap_err().errno(), libc::ESRCH);
    }

    #[test]
    fn children_are_directories_and_keep_their_identity() {
        let (_top, dirs) = made_of(&[&[("file", "")], &[]]);
        let outer = &dirs[1];
        // Any name is a cgroup's, also one that begins with a dot or is no UTF-8.
        let odd = OsStr::from_bytes(b".\xff");
        std::fs::create_dir(outer.path().join(odd)).unwrap();
        let mut children = outer.children().unwrap();
        children.sort();
        assert_eq!(children, [odd, OsStr::new("level")]);
        assert_eq!(outer.open_below(odd).unwrap().children().unwrap(), [""; 0]);
        let inner = outer.open_below("level").unwrap();
        assert_eq!(inner.path(), dirs[0].path());
        assert_eq!(inner.id().unwrap(), dirs[0].id().unwrap());
        assert_eq!(outer.id_below("level").unwrap(), inner.id().unwrap());
        assert_ne!(outer.id().unwrap(), inner.id().unwrap());
        assert_eq!(outer.open_below("").unwrap().id().unwrap(), outer.id().unwrap());
        assert_eq!(outer.open_below("").unwrap().path(), outer.path());
        assert!(outer.open_below("nothing").unwrap_err().is_gone());
        assert!(outer.id_below("nothing").unwrap_err().is_gone());
    }

    #[test]
    fn only_what_is_gone_is_nothing() {
        assert_eq!(nothing_if_gone::<u32>(Error::Gone { what: "x".into() }).unwrap(), 0);
        assert!(nothing_if_gone::<u32>(Error::NotADirectory).is_err());
    }
}
