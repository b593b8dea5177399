//! The filesystem in our own types, without FUSE: names, attributes, handles, reads.
//!
//! Inode numbers are constants of [`crate::files`], nothing is counted or allocated for a
//! lookup, and a handle is only a hint: so a later daemon can serve what an earlier one opened.

mod handle;

use std::ffi::OsStr;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use crate::collect::{Collector, load};
use crate::container::{Resolver, Subject, Who};
use crate::error::{self, Error, Result};
use crate::files::{DIRECTORIES, Directory, Row, TABLE};
use crate::history::{History, store::Store};
use crate::kernel::Kernel;
use crate::render::render;

use handle::Handles;

/// A stable inode number.
pub type Ino = u64;

/// `st_size` of every file. With 0, which /proc has, sendfile(2) returns nothing on Linux 6.5
/// and later, where it must fail instead, so that its user falls back to read(2).
const FILE_SIZE: u64 = 4096;

/// How often a reader is looked at whose cgroup is removed while it is looked at.
const ATTEMPTS: u32 = 4;

/// A file or a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
}

/// What stat(2) shows of an inode; owner root, times constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// File or directory.
    pub kind: Kind,
    /// Permission bits.
    pub perm: u16,
    /// `st_size`: constant for files, 0 for directories.
    pub size: u64,
    /// Link count.
    pub nlink: u32,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Inode number.
    pub ino: Ino,
    /// File or directory.
    pub kind: Kind,
    /// Name; `.` and `..` included.
    pub name: &'static str,
}

/// The bytes that a read returns: a part of a snapshot, without copying it.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The whole rendered file.
    pub snapshot: Arc<Vec<u8>>,
    /// The part asked for.
    pub range: Range<usize>,
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.snapshot[self.range.clone()]
    }
}

/// What an inode number stands for.
enum Node {
    Directory(&'static Directory),
    File(&'static Row),
}

impl Node {
    fn of(ino: Ino) -> Result<Node> {
        let directory = DIRECTORIES.iter().find(|directory| directory.ino == ino);
        let file = TABLE.iter().find(|row| row.ino == ino);
        let node = directory.map(Node::Directory).or(file.map(Node::File));
        node.ok_or(Error::NotFound)
    }

    fn directory(ino: Ino) -> Result<&'static Directory> {
        match Node::of(ino)? {
            Node::Directory(directory) => Ok(directory),
            Node::File(_) => Err(Error::NotADirectory),
        }
    }

    fn file(ino: Ino) -> Result<&'static Row> {
        match Node::of(ino)? {
            Node::Directory(_) => Err(Error::IsADirectory),
            Node::File(row) => Ok(row),
        }
    }

    fn attr(&self) -> Attr {
        match self {
            Node::Directory(directory) => Attr {
                ino: directory.ino,
                kind: Kind::Directory,
                perm: directory.mode,
                size: 0,
                nlink: 2,
            },
            Node::File(row) => Attr {
                ino: row.ino,
                kind: Kind::Regular,
                perm: row.mode,
                size: FILE_SIZE,
                nlink: 1,
            },
        }
    }
}

/// The nodes directly in a directory, with their names.
fn children(directory: &Directory) -> impl Iterator<Item = (&'static str, Node)> {
    let name_in = move |path: &'static str| {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        (parent == directory.path && !name.is_empty()).then_some(name)
    };
    let directories =
        DIRECTORIES.iter().filter_map(move |row| Some((name_in(row.path)?, Node::Directory(row))));
    let files = TABLE.iter().filter_map(move |row| Some((name_in(row.path)?, Node::File(row))));
    directories.chain(files)
}

/// The filesystem of one host.
#[derive(Debug)]
pub struct Vfs {
    resolver: Resolver,
    collector: Collector,
    handles: Handles,
}

impl Vfs {
    /// The filesystem that shows readers of `kernel` their containers, and goes on from
    /// `history`.
    ///
    /// # Errors
    /// [`Error::Io`] where the daemon cannot read its own namespaces.
    pub fn new(kernel: Arc<Kernel>, history: History) -> Result<Vfs> {
        let resolver = Resolver::new(Arc::clone(&kernel))?;
        resolver.remember_births(history.births());
        let collector = Collector::new(kernel, resolver.own_time_namespace(), history);
        Ok(Vfs { resolver, collector, handles: Handles::new() })
    }

    /// The filesystem that shows readers of the running machine their containers. What it
    /// remembers of them ends with it.
    ///
    /// # Errors
    /// [`Error::Io`] where /proc, /sys or a cgroup hierarchy cannot be opened.
    pub fn of_machine() -> Result<Vfs> {
        Vfs::new(Arc::new(Kernel::open(Path::new("/"))?), History::in_memory())
    }

    /// The same, but what it remembers is kept below the directory `runtime` for the next one
    /// that serves at `mountpoint`.
    ///
    /// # Errors
    /// As [`Vfs::of_machine`]. Where nothing can be kept, that is reported.
    pub fn of_machine_kept_in(runtime: &Path, mountpoint: &Path) -> Result<Vfs> {
        let kernel = Arc::new(Kernel::open(Path::new("/"))?);
        let kept = Store::open(runtime, mountpoint, &kernel.proc)
            .and_then(|store| History::open(store, &kernel));
        let history = kept.unwrap_or_else(|error| {
            error::report(&error);
            History::in_memory()
        });
        Vfs::new(kernel, history)
    }

    /// Finds `name` in the directory `parent`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`].
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Attr> {
        children(Node::directory(parent)?)
            .find(|(child, _)| name == *child)
            .map(|(_, node)| node.attr())
            .ok_or(Error::NotFound)
    }

    /// Attributes of an inode.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        Ok(Node::of(ino)?.attr())
    }

    /// All entries of a directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`].
    pub fn readdir(&self, ino: Ino) -> Result<Vec<Entry>> {
        let directory = Node::directory(ino)?;
        let parent_path = directory.path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let parent = DIRECTORIES.iter().find(|other| other.path == parent_path);
        let parent = parent.map_or(ino, |parent| parent.ino);
        let mut entries = vec![
            Entry { ino, kind: Kind::Directory, name: "." },
            Entry { ino: parent, kind: Kind::Directory, name: ".." },
        ];
        entries.extend(children(directory).map(|(name, node)| {
            let Attr { ino, kind, .. } = node.attr();
            Entry { ino, kind, name }
        }));
        Ok(entries)
    }

    /// Opens a file; `flags` as of open(2). Returns the handle.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for anything but reading, [`Error::IsADirectory`],
    /// [`Error::NotFound`].
    pub fn open(&self, ino: Ino, flags: i32) -> Result<u64> {
        Node::file(ino)?;
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            return Err(Error::ReadOnly);
        }
        Ok(self.handles.open())
    }

    /// Reads for the thread `tid` of the daemon's pid namespace; 0 is one not visible there.
    /// `owned` is false for a fill of the page cache, which all containers share.
    ///
    /// # Errors
    /// [`Error::PageCacheFill`]; [`Error::Gone`] where the reader's cgroup has been removed;
    /// [`Error::IsADirectory`], [`Error::NotFound`]; [`Error::Io`] where the host's own file
    /// cannot be read.
    pub fn read(
        &self,
        ino: Ino,
        fh: u64,
        tid: u32,
        offset: u64,
        size: u32,
        owned: bool,
    ) -> Result<Slice> {
        let row = Node::file(ino)?;
        if !owned {
            return Err(Error::PageCacheFill);
        }
        self.handles.read(fh, offset, size, || self.render(row, tid))
    }

    /// Ends a handle.
    pub fn release(&self, fh: u64) {
        self.handles.release(fh);
    }

    /// The file's text as the thread `tid` sees it.
    fn render(&self, row: &Row, tid: u32) -> Result<Vec<u8>> {
        let mut attempts = 1..=ATTEMPTS;
        loop {
            let who = self.resolver.resolve(tid);
            self.collector.history.forget(&self.resolver.take_ended());
            match self.collector.collect(row.file, &who, load::boottime()) {
                // Remembered, and removed since: look once more who is asking.
                Err(error) if error.is_gone() && attempts.next() != Some(ATTEMPTS) => {
                    self.forget(&who);
                }
                facts => return Ok(render(facts?)),
            }
        }
    }

    fn forget(&self, who: &Who) {
        match &who.subject {
            Subject::Unknown => {}
            Subject::Host(container) | Subject::Container(container) => {
                self.resolver.forget(container);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vfs() -> Vfs {
        Vfs::of_machine().unwrap()
    }

    fn find(vfs: &Vfs, path: &str) -> Result<Attr> {
        path.split('/')
            .try_fold(vfs.getattr(1).unwrap(), |attr, name| vfs.lookup(attr.ino, OsStr::new(name)))
    }

    #[test]
    fn every_file_of_the_table_is_found_listed_and_readable() {
        let vfs = vfs();
        for row in TABLE {
            let attr = find(&vfs, row.path).unwrap();
            assert_eq!((attr.ino, attr.kind, attr.perm), (row.ino, Kind::Regular, row.mode));
            assert_eq!(vfs.getattr(row.ino).unwrap(), attr);
            assert_eq!(attr.size, 4096);
            let (parent, name) = row.path.rsplit_once('/').unwrap();
            let entries = vfs.readdir(find(&vfs, parent).unwrap().ino).unwrap();
            assert!(entries.iter().any(|entry| entry.name == name && entry.ino == row.ino));
            let fh = vfs.open(row.ino, libc::O_RDONLY | libc::O_CLOEXEC).unwrap();
            let tid = rustix::thread::gettid().as_raw_pid().unsigned_abs();
            let text = vfs.read(row.ino, fh, tid, 0, 1 << 20, true).unwrap();
            assert_eq!(text.last(), Some(&b'\n'), "{}", row.path);
            assert!(vfs.read(row.ino, fh, tid, text.len() as u64, 4096, true).unwrap().is_empty());
            vfs.release(fh);
        }
    }

    #[test]
    fn directories() {
        let vfs = vfs();
        let root = vfs.readdir(1).unwrap();
        let names: Vec<_> = root.iter().map(|entry| (entry.name, entry.ino)).collect();
        assert_eq!(names, [(".", 1), ("..", 1), ("proc", 2), ("sys", 3)]);
        let cpu = find(&vfs, "sys/devices/system/cpu").unwrap();
        assert_eq!((cpu.kind, cpu.perm, cpu.size, cpu.nlink), (Kind::Directory, 0o755, 0, 2));
        let parent = vfs.readdir(cpu.ino).unwrap().remove(1);
        assert_eq!(
            (parent.name, parent.ino),
            ("..", find(&vfs, "sys/devices/system").unwrap().ino)
        );
    }

    #[test]
    fn what_does_not_exist_and_what_is_not_allowed() {
        let vfs = vfs();
        let errno = |result: Result<Attr>| result.unwrap_err().errno();
        assert_eq!(errno(find(&vfs, "proc/nothing")), libc::ENOENT);
        assert_eq!(errno(find(&vfs, "proc/meminfo/x")), libc::ENOTDIR);
        assert_eq!(errno(vfs.lookup(1, OsStr::new(""))), libc::ENOENT);
        assert_eq!(errno(vfs.getattr(999)), libc::ENOENT);
        let meminfo = find(&vfs, "proc/meminfo").unwrap().ino;
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
            assert_eq!(vfs.open(meminfo, flags).unwrap_err().errno(), libc::EACCES);
        }
        assert_eq!(vfs.open(2, libc::O_RDONLY).unwrap_err().errno(), libc::EISDIR);
        assert_eq!(vfs.readdir(meminfo).unwrap_err().errno(), libc::ENOTDIR);
        assert_eq!(vfs.read(meminfo, 0, 0, 0, 10, false).unwrap_err().errno(), libc::EIO);
        assert_eq!(vfs.read(2, 0, 0, 0, 10, true).unwrap_err().errno(), libc::EISDIR);
    }

    #[test]
    fn a_reader_that_is_not_visible_gets_the_hosts_file_and_is_counted() {
        let vfs = vfs();
        let cpuinfo = find(&vfs, "proc/cpuinfo").unwrap().ino;
        assert_eq!(vfs.resolver.unknown(), 0);
        let text = vfs.read(cpuinfo, 0, 0, 0, 1 << 20, true).unwrap();
        let count = |text: &str| text.lines().filter(|line| line.starts_with("processor")).count();
        let host = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        assert_eq!(count(std::str::from_utf8(&text).unwrap()), count(&host));
        assert_eq!(vfs.resolver.unknown(), 1);
    }
}
