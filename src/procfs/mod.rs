//! The host's `/proc` and the few files of `/sys` beside it: one reader ([`ProcRoot`],
//! [`sysfs::SysRoot`]), and one pure parser per kernel file.

pub mod diskstats;
pub mod meminfo;
pub mod mountinfo;
pub mod process;
mod shared;
pub mod stat;
pub mod sysfs;

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::sys::file;

use meminfo::Meminfo;
use mountinfo::Mount;
use rustix::io::Errno;
pub use shared::Text;
use shared::{Shared, SharedFile};

/// A mounted procfs, or a captured one. The only code that opens `/proc`.
#[derive(Debug)]
pub struct ProcRoot {
    dir: OwnedFd,
    path: PathBuf,
    shared: Shared,
    meminfo: SharedFile<Meminfo>,
}

/// The identity of a namespace: the inode number behind `/proc/PID/ns/*`, `namespaces(7)`.
///
/// The kernel reuses these numbers: one is worth remembering only while a descriptor of the
/// namespace is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NsId(pub u64);

/// The namespaces that tell containers apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Process ids.
    Pid,
    /// Cgroup roots; Linux 4.6.
    Cgroup,
    /// Mounts.
    Mount,
    /// Offsets of CLOCK_BOOTTIME and CLOCK_MONOTONIC; Linux 5.6.
    Time,
    /// The time namespace that children will be in.
    TimeForChildren,
}

impl Namespace {
    /// The name below `/proc/PID/ns`.
    fn name(self) -> &'static str {
        match self {
            Namespace::Pid => "pid",
            Namespace::Cgroup => "cgroup",
            Namespace::Mount => "mnt",
            Namespace::Time => "time",
            Namespace::TimeForChildren => "time_for_children",
        }
    }
}

impl ProcRoot {
    /// Opens the procfs mounted at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no such directory.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = file::open_directory(path).map_err(|error| Error::io("open", path, error))?;
        let (shared, meminfo) = Default::default();
        Ok(ProcRoot { dir, path: path.to_owned(), shared, meminfo })
    }

    /// The path of `name`, for messages.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads the file `name` (`cpuinfo`, `diskstats`) whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        file::read_at(&self.dir, name).map_err(|error| Error::io("read", self.path(name), error))
    }

    /// Reads the file `name`, which the kernel renders as one record: `meminfo`, `stat` and all
    /// that is needed of a process (`1/cgroup`).
    ///
    /// # Errors
    /// [`Error::Io`]; ENOENT and ESRCH where the process has ended.
    pub fn read_record(&self, name: &str) -> Result<Vec<u8>> {
        file::read_record_at(&self.dir, name)
            .map_err(|error| Error::io("read", self.path(name), error))
    }

    /// As [`ProcRoot::read`], but the text may have been read for another reader, at most 10 ms
    /// ago: for what tells of the machine only.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn shared(&self, name: &str) -> Result<Text> {
        self.shared
            .read_at(&self.dir, name, |file| file::reread(file))
            .map_err(|error| Error::io("read", self.path(name), error))
    }

    /// As [`ProcRoot::read_record`], but shared as [`ProcRoot::shared`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn shared_record(&self, name: &str) -> Result<Text> {
        self.shared
            .read_at(&self.dir, name, |file| file::reread_record(file))
            .map_err(|error| Error::io("read", self.path(name), error))
    }

    /// What `meminfo` says, shared as [`ProcRoot::shared`].
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn meminfo(&self) -> Result<Arc<Meminfo>> {
        const NAME: &str = "meminfo";
        self.meminfo
            .read_at(&self.dir, NAME, |file| file::reread_record(file), Meminfo::parse)
            .map_err(|error| Error::io("read", self.path(NAME), error))
    }

    /// Opens the file `name`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_file(&self, name: &str) -> Result<OwnedFd> {
        file::open_at(&self.dir, name).map_err(|error| Error::io("open", self.path(name), error))
    }

    /// Opens the file `name` for reading and writing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open_to_write(&self, name: &str) -> Result<OwnedFd> {
        file::open_to_write_at(&self.dir, name)
            .map_err(|error| Error::io("open", self.path(name), error))
    }

    /// The namespace of one kind that `process` (a pid or `self`) is in.
    ///
    /// # Errors
    /// [`Error::Io`] where the process has ended or the kernel has no such namespace;
    /// [`Error::Malformed`] for a link of another form than `kind:[inode]`.
    pub fn namespace(&self, process: impl std::fmt::Display, kind: Namespace) -> Result<NsId> {
        let name = link_name(process, kind);
        let mut space = [0_u8; 64];
        let length = rustix::fs::readlinkat_raw(&self.dir, name.as_str(), &mut space[..])
            .map_err(|error| Error::io("read", self.path(&name), error))?;
        let link = &space[..length];
        parse_namespace_link(link)
            .ok_or_else(|| Error::malformed(self.path(&name), 0, link, "kind:[inode]"))
    }

    /// The link by which [`ProcRoot::namespace`] finds a process's namespace, held open for
    /// [`namespace_of`].
    ///
    /// # Errors
    /// [`Error::Io`] where the process has ended.
    pub fn open_namespace(&self, process: u32, kind: Namespace) -> Result<OwnedFd> {
        let name = link_name(process, kind);
        file::open_link_at(&self.dir, &name)
            .map_err(|error| Error::io("open", self.path(&name), error))
    }

    /// The id of the mount that a file open in this process lies on, which is nobody else's as long
    /// as it is open.
    ///
    /// # Errors
    /// What reading its fdinfo answers; [`Error::Malformed`] before Linux 3.15.
    pub fn mount_id(&self, file: impl AsFd) -> Result<u64> {
        let name = format!("self/fdinfo/{}", file.as_fd().as_raw_fd());
        let text = self.read(&name)?;
        mountinfo::parse_mount_id(&text).ok_or_else(|| {
            Error::malformed(self.path(&name), 0, &text, "a line \"mnt_id: NUMBER\"")
        })
    }

    /// The mount that a file open in this process lies on.
    ///
    /// # Errors
    /// As [`ProcRoot::mount_id`]; ENOENT for a mount that is not in this mount namespace.
    pub fn mount_of(&self, file: impl AsFd) -> Result<Mount> {
        let id = self.mount_id(&file)?;
        let mut mounts = mountinfo::parse(&self.read("self/mountinfo")?).into_iter();
        mounts.find(|mount| mount.id == id).ok_or_else(|| {
            let file = format!("self/fd/{}", file.as_fd().as_raw_fd());
            Error::io("find the mount of", self.path(&file), Errno::NOENT)
        })
    }

    /// The names of all processes, ascending.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn processes(&self) -> Result<Vec<u32>> {
        self.numbers(".")
    }

    /// The numbers of a process's threads, ascending; one that has ended, but has not been
    /// waited for, is still listed.
    ///
    /// # Errors
    /// [`Error::Io`] where the process has ended.
    pub fn threads(&self, process: u32) -> Result<Vec<u32>> {
        self.numbers(&format!("{process}/task"))
    }

    /// The names in a directory that are numbers, ascending.
    fn numbers(&self, directory: &str) -> Result<Vec<u32>> {
        let listing = file::open_at(&self.dir, directory)
            .and_then(|dir| Ok(rustix::fs::Dir::read_from(dir)?))
            .map_err(|error| Error::io("list", self.path(directory), error))?;
        let mut pids: Vec<u32> = listing
            .filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok())
            .collect();
        pids.sort_unstable();
        Ok(pids)
    }
}

impl AsFd for ProcRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The lines of a kernel file, without their newlines; what follows the last one is a line too.
pub fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr::memchr_iter(b'\n', text).chain([text.len()]);
    ends.scan(0, |start, end| Some(&text[std::mem::replace(start, end + 1)..end]))
}

fn link_name(process: impl std::fmt::Display, kind: Namespace) -> String {
    format!("{process}/ns/{}", kind.name())
}

/// The namespace to which a link leads that [`ProcRoot::open_namespace`] opened; none where its
/// process has ended, whatever has its number by now.
#[must_use]
pub fn namespace_of(link: impl AsFd) -> Option<NsId> {
    let mut space = [0_u8; 64];
    let length = rustix::fs::readlinkat_raw(link, "", &mut space[..]).ok()?;
    parse_namespace_link(&space[..length])
}

/// The inode number in a link like `pid:[4026531836]`.
#[must_use]
pub fn parse_namespace_link(link: &[u8]) -> Option<NsId> {
    let link = std::str::from_utf8(link).ok()?;
    let number = link.split_once(":[")?.1.strip_suffix(']')?;
    number.parse().ok().map(NsId)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespace_links() {
        assert_eq!(parse_namespace_link(b"pid:[4026531836]"), Some(NsId(4_026_531_836)));
        for bad in ["pid:[x]", "pid:[1", "pid", ""] {
            assert_eq!(parse_namespace_link(bad.as_bytes()), None);
        }
    }

    #[test]
    fn this_process_is_in_proc() {
        let proc = ProcRoot::open(Path::new("/proc")).unwrap();
        let pid = std::process::id();
        assert!(proc.processes().unwrap().contains(&pid));
        assert!(proc.threads(pid).unwrap().contains(&pid));
        assert_eq!(
            proc.namespace("self", Namespace::Pid).unwrap(),
            proc.namespace(pid, Namespace::Pid).unwrap()
        );
        assert_eq!(proc.mount_of(&proc).unwrap().fs_type, "proc");
        assert!(proc.read("self/nothing").unwrap_err().is_gone());
        assert_eq!(proc.path("self"), Path::new("/proc/self"));
        let error = ProcRoot::open(Path::new("/proc/version")).unwrap_err();
        assert_eq!(error.errno(), libc::ENOTDIR);
    }
}
