//! The filesystem in our own types, without FUSE: names, attributes, handles, reads.
//!
//! Inode numbers are constants of [`crate::files`], or in the directories of /sys that are served
//! as a whole the host's own; no lookups are counted, and a handle is only a hint: so a later
//! daemon can serve what an earlier one opened.

pub mod explain;
mod handle;
pub mod kept;
mod tree;
mod triggers;

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use crate::collect::pressure::Pressure;
use crate::collect::tree::{Part, everybody_has};
use crate::collect::{Collector, CpuCount, SwapView, UpSince, load};
use crate::container::{Resolver, Subject, Who};
use crate::cpulist::CpuIds;
use crate::error::{self, Error, Result};
use crate::files::{DIRECTORIES, Directory, Row, TABLE};
use crate::history::{History, store::Store};
use crate::kernel::Kernel;
use crate::procfs::sysfs::Status;
use crate::render::render;

use handle::Handles;
use kept::{Counter, Kept};
use tree::{Place, Trees};
use triggers::Triggers;

pub use crate::procfs::sysfs::Kind;
pub use handle::Unique;
pub use triggers::{Fired, Waiter};

/// A stable inode number.
pub type Ino = u64;

/// `st_size` of every file. With 0, which /proc has, sendfile(2) returns nothing on Linux 6.5
/// and later, where it must fail instead, so that its user falls back to read(2).
const FILE_SIZE: u64 = 4096;

/// How much of what is written is looked at, as the kernel's `psi_write()` does.
pub const LONGEST_TRIGGER: usize = 32;

/// How often a reader is looked at whose cgroup is removed while it is looked at.
const ATTEMPTS: u32 = 8;

/// What stat(2) shows of an inode; owner root, times constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub perm: u16,
    /// `st_size`: constant for files, 0 for directories.
    pub size: u64,
    /// Link count.
    pub nlink: u32,
    /// Whether every reader has it, under this name, as long as the filesystem lives.
    pub fixed: bool,
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Inode number.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Name; `.` and `..` included.
    pub name: String,
    /// Where a listing goes on that ended with this entry: entries are in ascending order of
    /// it, and each keeps its own whatever comes and goes beside it.
    pub offset: u64,
}

impl Entry {
    fn new(ino: Ino, kind: Kind, name: &str) -> Entry {
        let offset = match name {
            "." => 1,
            ".." => 2,
            _ => ino + 2,
        };
        Entry { ino, kind, name: name.to_owned(), offset }
    }
}

/// The bytes that a read returns.
#[derive(Clone, Debug)]
pub struct Slice {
    /// What was rendered, or kept.
    pub text: Vec<u8>,
    /// The part asked for.
    pub range: Range<usize>,
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.text[self.range.clone()]
    }
}

/// Who asks, and which time.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// The request's number.
    pub unique: Unique,
    /// The thread of the daemon's pid namespace; 0 is one not visible there.
    pub tid: u32,
}

/// What a constant inode number stands for.
enum Node {
    Directory(&'static Directory),
    File(&'static Row),
}

impl Node {
    fn of(ino: Ino) -> Option<Node> {
        let directory = DIRECTORIES.iter().find(|directory| directory.ino == ino);
        let file = TABLE.iter().find(|row| row.ino == ino);
        directory.map(Node::Directory).or(file.map(Node::File))
    }

    fn attr(&self) -> Attr {
        match self {
            Node::Directory(directory) => Attr {
                ino: directory.ino,
                kind: Kind::Directory,
                perm: directory.mode,
                size: 0,
                nlink: 2,
                fixed: true,
            },
            Node::File(row) => Attr {
                ino: row.ino,
                kind: Kind::Regular,
                perm: row.mode,
                size: FILE_SIZE,
                nlink: 1,
                fixed: true,
            },
        }
    }
}

fn attr_of(place: &Place, status: Status) -> Attr {
    let (size, nlink) = match status.kind {
        Kind::Directory => (0, 2),
        Kind::Regular => (FILE_SIZE, 1),
        Kind::Symlink => (0, 1),
    };
    let Status { kind, mode, .. } = status;
    Attr { ino: place.ino, kind, perm: mode, size, nlink, fixed: false }
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
    trees: Trees,
    triggers: Triggers,
    kept: Arc<Kept>,
}

impl Vfs {
    /// The filesystem that shows readers of `kernel` their containers, and goes on from
    /// `history` and with the files that are open in `kept`.
    ///
    /// # Errors
    /// [`Error::Io`] where the daemon cannot read its own namespaces.
    pub fn new(kernel: Arc<Kernel>, history: History, kept: Arc<Kept>) -> Result<Vfs> {
        let resolver = Resolver::new(Arc::clone(&kernel))?;
        resolver.remember_births(history.births());
        let trees = Trees::new(Arc::clone(&kernel));
        let triggers = Triggers::new(Arc::clone(&kept));
        let collector = Collector::new(kernel, resolver.own_time_namespace(), history);
        let handles = Handles::new(Arc::clone(&kept));
        Ok(Vfs { resolver, collector, handles, trees, triggers, kept })
    }

    /// The filesystem that shows readers of the running machine their containers. What it
    /// remembers of them ends with it.
    ///
    /// # Errors
    /// [`Error::Io`] where /proc, /sys or a cgroup hierarchy cannot be opened.
    pub fn of_machine() -> Result<Vfs> {
        let kernel = Arc::new(Kernel::open(Path::new("/"))?);
        Vfs::new(kernel, History::in_memory(), Arc::new(Kept::new()?))
    }

    /// The same, but what it remembers is kept below the directory `runtime` for the next one
    /// that serves at `mountpoint`.
    ///
    /// # Errors
    /// As [`Vfs::of_machine`]. Where nothing can be kept, that is reported.
    pub fn of_machine_kept_in(runtime: &Path, mountpoint: &Path, kept: Arc<Kept>) -> Result<Vfs> {
        let kernel = Arc::new(Kernel::open(Path::new("/"))?);
        let opened = Store::open(runtime, mountpoint, &kernel.proc)
            .and_then(|store| History::open(store, &kernel));
        let history = opened.unwrap_or_else(|error| {
            error::report(&error);
            History::in_memory()
        });
        Vfs::new(kernel, history, kept)
    }

    /// As [`Resolver::start`].
    pub fn start(&self) {
        self.resolver.start();
    }

    /// Has the kernel count what moves in its cgroups: as long as nothing does, readers that are
    /// known need not be looked for there. It takes the rights of [`Moves::count`]; without, each
    /// read looks.
    ///
    /// [`Moves::count`]: crate::cgroup::moves::Moves::count
    pub fn count_moves(&self) {
        if let Err(error) = self.collector.kernel.moves.count() {
            log::info!("the kernel does not count what moves in cgroups: {error}");
        }
    }

    /// The same, with another rule for how many CPUs a quota is.
    #[must_use]
    pub fn with_cpu_count(mut self, cpu_count: CpuCount) -> Vfs {
        self.collector.cpu_count = cpu_count;
        self
    }

    /// The same, with other numbers for a container's CPUs.
    #[must_use]
    pub fn with_cpu_ids(mut self, cpu_ids: CpuIds) -> Vfs {
        self.collector.cpu_ids = cpu_ids;
        self
    }

    /// The same, with containers that are up since another time.
    #[must_use]
    pub fn with_up_since(mut self, up_since: UpSince) -> Vfs {
        self.collector.up_since = up_since;
        self
    }

    /// The same, with another view of swap.
    #[must_use]
    pub fn with_swap(mut self, swap: SwapView) -> Vfs {
        self.collector.swap = swap;
        self
    }

    /// Finds `name` in the directory `parent` for the thread `tid` of the daemon's pid
    /// namespace; 0 is one not visible there.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`].
    pub fn lookup(&self, parent: Ino, name: &OsStr, tid: u32) -> Result<Attr> {
        let directory = match Node::of(parent) {
            Some(Node::File(_)) => return Err(Error::NotADirectory),
            Some(Node::Directory(directory)) => {
                let child = children(directory).find(|(child, _)| name == *child);
                if let Some((_, node)) = child {
                    return Ok(node.attr());
                }
                Trees::root(parent).ok_or(Error::NotFound)?
            }
            None => self.trees.place(parent)?,
        };
        let name = name.to_str().ok_or(Error::NotFound)?;
        let is_member = directory.tree.number_of(name).is_some() || directory.member.is_some();
        if !is_member && everybody_has(name) {
            let (place, status) = self.trees.lookup(&directory, name)?;
            return Ok(attr_of(&place, status));
        }
        // What only some have: whoever has not is not to learn that it is there.
        let part = self.part(&directory, tid)?;
        let name = part.host_name(directory.tree, &directory.path, name).ok_or(Error::NotFound)?;
        let (place, status) = self.trees.lookup(&directory, &name)?;
        if is_in(&part, &place) { Ok(attr_of(&place, status)) } else { Err(Error::NotFound) }
    }

    /// Attributes of an inode, which are the same for every reader that has it.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        if let Some(node) = Node::of(ino) {
            return Ok(node.attr());
        }
        let place = self.trees.place(ino)?;
        Ok(attr_of(&place, self.trees.status(&place)?))
    }

    /// All entries of a directory for the thread `tid`.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`].
    pub fn readdir(&self, ino: Ino, tid: u32) -> Result<Vec<Entry>> {
        let mut entries = vec![Entry::new(ino, Kind::Directory, ".")];
        let tree = match Node::of(ino) {
            Some(Node::File(_)) => return Err(Error::NotADirectory),
            Some(Node::Directory(directory)) => {
                let parent_path = directory.path.rsplit_once('/').map_or("", |(parent, _)| parent);
                let parent = DIRECTORIES.iter().find(|other| other.path == parent_path);
                let parent = parent.map_or(ino, |parent| parent.ino);
                entries.push(Entry::new(parent, Kind::Directory, ".."));
                entries.extend(children(directory).map(|(name, node)| {
                    let Attr { ino, kind, .. } = node.attr();
                    Entry::new(ino, kind, name)
                }));
                Trees::root(ino)
            }
            None => {
                let place = self.trees.place(ino)?;
                entries.push(Entry::new(self.trees.parent(&place)?, Kind::Directory, ".."));
                Some(place)
            }
        };
        if let Some(directory) = tree {
            let part = self.part(&directory, tid)?;
            if !is_in(&part, &directory) {
                return Err(Error::NotFound);
            }
            let listed = |name: &str| entries.iter().any(|entry| entry.name == name);
            let found = self.trees.list(&directory)?;
            let seen = found.iter().filter(|(place, _)| is_in(&part, place));
            let named = seen.filter_map(|(place, kind)| {
                let name = part.shown_name(place.tree, &directory.path, place.name())?;
                (!listed(&name)).then(|| Entry::new(place.ino, *kind, &name))
            });
            let more: Vec<Entry> = named.collect();
            entries.extend(more);
        }
        entries.sort_unstable_by_key(|entry| entry.offset);
        Ok(entries)
    }

    /// Where a link leads for the thread `tid`.
    ///
    /// # Errors
    /// [`Error::Passed`]: EINVAL for what is no link.
    pub fn readlink(&self, ino: Ino, tid: u32) -> Result<Vec<u8>> {
        if Node::of(ino).is_some() {
            return Err(Error::passed(libc::EINVAL));
        }
        let place = self.trees.place(ino)?;
        let target = self.trees.read_link(&place)?;
        Ok(self.part(&place, tid)?.shown_target(place.tree, &place.path, target))
    }

    /// Opens a file; `flags` as of open(2). Returns the handle.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for writing to what is only read, [`Error::IsADirectory`],
    /// [`Error::NotFound`]; [`Error::Passed`] with EOPNOTSUPP for pressure where the kernel
    /// counts none.
    pub fn open(&self, ino: Ino, flags: i32, request: Request) -> Result<u64> {
        let Request { unique, tid } = request;
        if self.getattr(ino)?.kind == Kind::Directory {
            return Err(Error::IsADirectory);
        }
        if let Some((row, _)) = pressure(ino) {
            self.render(row, tid)?;
            return Ok(self.handles.open(unique));
        }
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            return Err(Error::ReadOnly);
        }
        Ok(self.handles.open(unique))
    }

    /// Reads `size` bytes at `offset`.
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
        request: Request,
        offset: u64,
        size: u32,
        owned: bool,
    ) -> Result<Slice> {
        let Request { unique, tid } = request;
        let node = Node::of(ino);
        if matches!(node, Some(Node::Directory(_))) {
            return Err(Error::IsADirectory);
        }
        if !owned {
            return Err(Error::PageCacheFill);
        }
        let read = self.handles.read(fh, unique, offset, size, || match node {
            Some(Node::File(row)) => self.render(row, tid),
            Some(Node::Directory(_)) | None => self.render_place(&self.trees.place(ino)?, tid),
        });
        if read.is_ok() {
            self.kept.count(Counter::Reads);
        }
        read
    }

    /// Writes to a handle for the thread `tid`; what is written can only be a pressure trigger, of
    /// which no more than [`LONGEST_TRIGGER`] bytes count. All are taken.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] for a file that is not written; else as
    /// [`Collector::set_trigger`], [`Error::Passed`] with EBUSY where the handle has a trigger
    /// already, and with ENOMEM where its container has too many.
    pub fn write(&self, ino: Ino, fh: u64, tid: u32, text: &[u8]) -> Result<()> {
        let (_, pressure) = pressure(ino).ok_or(Error::ReadOnly)?;
        // As the kernel does in /proc: a short text whose last byte is the NUL of a C string,
        // whatever it was.
        let mut trigger = text[..text.len().min(LONGEST_TRIGGER)].to_vec();
        *trigger.last_mut().ok_or_else(|| Error::passed(libc::EINVAL))? = 0;
        if !self.handles.is_open(fh) {
            return Err(Error::passed(libc::ENOMEM));
        }
        let (container, descriptor) = self.with_reader(tid, |who| {
            if let Some(container) = who.container() {
                self.triggers.check_room(fh, container.identity())?;
            }
            self.collector.set_trigger(pressure, who, &trigger)
        })?;
        self.triggers.add(fh, container, descriptor)
    }

    /// What poll(2) on a handle has to tell beyond that it is readable and writable; none for a
    /// file without triggers. `waiter` is woken when it has fired.
    pub fn poll(&self, ino: Ino, fh: u64, waiter: Option<Waiter>) -> Option<Fired> {
        pressure(ino)?;
        if let Some(waiter) = &waiter {
            self.handles.keep_waiter(fh, waiter.number());
        }
        Some(self.triggers.poll(fh, waiter))
    }

    /// The kernel's numbers of those who wait for triggers that ended with an earlier worker:
    /// woken, they ask again, and learn that there is none.
    #[must_use]
    pub fn take_lost_waiters(&self) -> Vec<u64> {
        self.handles.take_waiters()
    }

    /// A number of the container that the thread `tid` is in, the same for all of its threads;
    /// another one may have it too. 0 where nothing is known of the thread.
    #[must_use]
    pub fn container_number(&self, tid: u32) -> u64 {
        let who = self.resolver.resolve(tid).ok();
        let identity = who.as_ref().and_then(Who::container).map(|container| container.identity());
        let mut hasher = DefaultHasher::new();
        identity.map_or(0, |identity| {
            identity.hash(&mut hasher);
            hasher.finish()
        })
    }

    /// What outlives this worker.
    #[must_use]
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Ends a handle.
    pub fn release(&self, fh: u64) {
        self.triggers.release(fh);
        self.handles.release(fh);
        // Here, as nobody waits for this.
        self.kept.set(Counter::Containers, self.resolver.remembered() as u64);
    }

    /// The file's text as the thread `tid` sees it.
    fn render(&self, row: &Row, tid: u32) -> Result<Vec<u8>> {
        let collect = |who: &Who| self.collector.collect(row.file, who, load::boottime());
        self.with_reader(tid, collect).map(render)
    }

    fn render_place(&self, place: &Place, tid: u32) -> Result<Vec<u8>> {
        let collect = |who: &Who| self.collector.tree_file(place.tree, &place.path, who);
        self.with_reader(tid, collect).map(render)
    }

    /// The part of a place's tree that the thread `tid` is shown.
    fn part(&self, place: &Place, tid: u32) -> Result<Part> {
        self.with_reader(tid, |who| self.collector.part(place.tree.tree, who))
    }

    /// Answers a question about what the thread `tid` is shown.
    fn with_reader<T>(&self, tid: u32, ask: impl Fn(&Who) -> Result<T>) -> Result<T> {
        if self.kept.shows_host() {
            return ask(&Who { reader: None, subject: Subject::Unknown });
        }
        let mut attempts = 1..=ATTEMPTS;
        loop {
            let who = self.resolver.resolve(tid)?;
            self.collector.history.forget(&self.resolver.take_ended());
            if matches!(who.subject, Subject::Unknown) {
                self.kept.count(Counter::Fallbacks);
            }
            match ask(&who) {
                // Remembered, and removed since: look once more who is asking.
                Err(error) if error.is_gone() && attempts.next() != Some(ATTEMPTS) => {
                    if let Some(container) = who.container() {
                        self.resolver.forget(container);
                    }
                }
                answer => return answer,
            }
        }
    }
}

/// The pressure file of an inode number, if it is one's.
fn pressure(ino: Ino) -> Option<(&'static Row, Pressure)> {
    let row = TABLE.iter().find(|row| row.ino == ino)?;
    Some((row, Pressure::of(row.file)?))
}

/// Whether a reader who is shown this part of a tree has a place.
fn is_in(part: &Part, place: &Place) -> bool {
    part.has(place.tree, &place.path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vfs() -> Vfs {
        Vfs::of_machine().unwrap()
    }

    fn by(tid: u32) -> Request {
        Request { unique: Unique(2), tid }
    }

    fn tid() -> u32 {
        rustix::thread::gettid().as_raw_pid().unsigned_abs()
    }

    fn find(vfs: &Vfs, path: &str) -> Result<Attr> {
        path.split('/').try_fold(vfs.getattr(1).unwrap(), |attr, name| {
            vfs.lookup(attr.ino, OsStr::new(name), tid())
        })
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
            let entries = vfs.readdir(find(&vfs, parent).unwrap().ino, tid()).unwrap();
            assert!(entries.iter().any(|entry| entry.name == name && entry.ino == row.ino));
            let fh = vfs.open(row.ino, libc::O_RDONLY | libc::O_CLOEXEC, by(tid())).unwrap();
            let text = match vfs.read(row.ino, fh, by(tid()), 0, 1 << 20, true) {
                // A daemon is root, which a test need not be.
                Err(error) if row.mode & 0o004 == 0 && error.errno() == libc::EACCES => continue,
                text => text.unwrap(),
            };
            assert_eq!(text.last(), Some(&b'\n'), "{}", row.path);
            assert!(
                vfs.read(row.ino, fh, by(tid()), text.len() as u64, 4096, true).unwrap().is_empty()
            );
            vfs.release(fh);
        }
    }

    #[test]
    fn directories() {
        let vfs = vfs();
        let root = vfs.readdir(1, 0).unwrap();
        let names: Vec<_> = root.iter().map(|entry| (&*entry.name, entry.ino)).collect();
        assert_eq!(names, [(".", 1), ("..", 1), ("proc", 2), ("sys", 3)]);
        let cpu = find(&vfs, "sys/devices/system/cpu").unwrap();
        assert_eq!((cpu.kind, cpu.perm, cpu.size, cpu.nlink), (Kind::Directory, 0o755, 0, 2));
        let parent = vfs.readdir(cpu.ino, 0).unwrap().remove(1);
        assert_eq!(
            (&*parent.name, parent.ino),
            ("..", find(&vfs, "sys/devices/system").unwrap().ino)
        );
    }

    #[test]
    fn what_does_not_exist_and_what_is_not_allowed() {
        let vfs = vfs();
        let errno = |result: Result<Attr>| result.unwrap_err().errno();
        assert_eq!(errno(find(&vfs, "proc/nothing")), libc::ENOENT);
        assert_eq!(errno(find(&vfs, "proc/meminfo/x")), libc::ENOTDIR);
        assert_eq!(errno(vfs.lookup(1, OsStr::new(""), 0)), libc::ENOENT);
        assert_eq!(errno(vfs.getattr(999)), libc::ENOENT);
        let meminfo = find(&vfs, "proc/meminfo").unwrap().ino;
        for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
            assert_eq!(vfs.open(meminfo, flags, by(tid())).unwrap_err().errno(), libc::EACCES);
        }
        assert_eq!(vfs.open(2, libc::O_RDONLY, by(tid())).unwrap_err().errno(), libc::EISDIR);
        assert_eq!(vfs.readdir(meminfo, 0).unwrap_err().errno(), libc::ENOTDIR);
        assert_eq!(vfs.read(meminfo, 0, by(0), 0, 10, false).unwrap_err().errno(), libc::EIO);
        assert_eq!(vfs.read(2, 0, by(0), 0, 10, true).unwrap_err().errno(), libc::EISDIR);
    }

    #[test]
    fn a_reader_that_is_not_visible_gets_the_hosts_file_and_is_counted() {
        let vfs = vfs();
        let cpuinfo = find(&vfs, "proc/cpuinfo").unwrap().ino;
        assert_eq!(vfs.resolver.unknown(), 0);
        let text = vfs.read(cpuinfo, 0, by(0), 0, 1 << 20, true).unwrap();
        let count = |text: &str| text.lines().filter(|line| line.starts_with("processor")).count();
        let host = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        assert_eq!(count(std::str::from_utf8(&text).unwrap()), count(&host));
        assert_eq!(vfs.resolver.unknown(), 1);
    }
}
