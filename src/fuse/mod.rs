//! The adapter between FUSE and [`Vfs`]: it translates, and decides nothing about the files.
//!
//! What the kernel is told here, and why:
//!
//! * Every open is direct I/O. One inode serves every container, so a page cache would hand
//!   one container's bytes to another. sendfile and mmap fill that cache all the same; their
//!   reads are known by the missing lock owner.
//! * Nothing but FLUSH is ever answered ENOSYS. For most requests the kernel takes ENOSYS as
//!   "never ask again" for the whole connection; for FLUSH that saves a round trip per close.
//! * Attributes are the same for every reader, so the kernel may keep them, and so are names that
//!   every reader has at all times. Directory entries are shared by all readers: a name that only
//!   some have, or that the host may lose, is looked up every time, also one that is not there.
//! * The kernel checks permissions (`default_permissions`); `Request::uid` is -1 for every
//!   request once idmapped mounts are allowed, and must not be used.
//! * Inode numbers are constants, their generation is 0 and lookups are not counted: whoever
//!   takes over the connection understands every request that the kernel still holds.
//!
//! A daemon is a [`daemon`] from its start to its end; in it a keeper (`keeper.rs`) holds the
//! [`connection`], and a worker, its child, runs a [`session`] with few rights (`privilege.rs`). How a connection gets to another
//! program is in `handover.rs`, what a daemon can be asked in [`control`], and how it is noticed that a worker hangs
//! in `hang.rs`.

pub mod connection;
pub mod control;
pub mod daemon;
mod fair;
mod handover;
mod hang;
mod keeper;
mod mountpoint;
mod notify;
mod pidfile;
mod privilege;
mod relief;
pub mod session;

pub use handover::State;

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fair::Fairness;
use relief::Load;

use crate::error::{self, Error, Result};
use crate::vfs::kept::Counter;
use crate::vfs::{self, Attr, Fired, Kind, LONGEST_TRIGGER, Unique, Vfs, Waiter};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

/// How long the kernel may keep a name and its attributes.
const LIFETIME: Duration = Duration::from_secs(3600);

/// The longest write. There are none, but it also sizes the buffer that every reader of the
/// connection must bring, this daemon's successors included.
const MAX_WRITE: u32 = 64 << 10;

/// Answers the kernel's requests from a [`Vfs`].
#[derive(Clone, Debug)]
pub struct Adapter {
    vfs: Arc<Vfs>,
    load: Arc<Load>,
    fairness: Arc<Fairness>,
}

impl Adapter {
    fn new(vfs: Arc<Vfs>, load: Arc<Load>, fairness: Arc<Fairness>) -> Self {
        Adapter { vfs, load, fairness }
    }

    /// Has `reply` answer a request of the thread `tid`; later where its container has more than its
    /// share of the workers.
    fn answer<T: 'static>(
        &self,
        tid: u32,
        question: impl FnOnce(&Vfs) -> Result<T> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let answering = self.load.begin();
        // Whose container is not found out is put aside with others of that kind, at worst.
        let container = || guarded(|| Ok(self.vfs.container_number(tid))).unwrap_or_default();
        let admitted = self.fairness.admit(tid, &self.load, container);
        let bucket = match admitted {
            Err(bucket) => bucket,
            Ok(admitted) => {
                let answer = self.ask(question);
                // First: who has the answer may ask again before this thread goes on.
                drop((answering, admitted));
                return reply(answer);
            }
        };
        self.vfs.kept().count(Counter::PutAside);
        let adapter = self.clone();
        let rest = Box::new(move || {
            let turn = adapter.load.turn();
            let answer = adapter.ask(question);
            adapter.fairness.answered(bucket);
            drop(turn);
            reply(answer);
        });
        let given_back = self.fairness.put_aside(bucket, rest);
        drop(answering);
        if let Some(rest) = given_back {
            rest();
        }
    }

    /// Asks the Vfs; a failure is logged and becomes an errno.
    fn ask<T>(&self, question: impl FnOnce(&Vfs) -> Result<T>) -> Result<T, Errno> {
        guarded(|| question(&self.vfs)).map_err(|error| {
            if !matches!(error, Error::NotFound) {
                self.vfs.kept().count(Counter::Errors);
            }
            error::report(&error);
            Errno::from_i32(error.errno())
        })
    }
}

/// What is wanted of the kernel, at the connection's start; whoever goes on with the connection
/// must want the same.
fn negotiate(config: &mut KernelConfig) {
    // Answered with the nearest possible value; any is right for a filesystem without writes.
    let _ = config.set_max_write(MAX_WRITE);
    // Parallel lookups; and idmapped bind mounts (Linux 6.12), which pods with a user
    // namespace of their own make of our files.
    for wanted in [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_ALLOW_IDMAP] {
        if config.add_capabilities(wanted).is_err() {
            log::debug!("this kernel does not offer {wanted:?}");
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        negotiate(config);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (tid, name) = (request.pid(), name.to_owned());
        let question = move |vfs: &Vfs| vfs.lookup(parent.0, &name, tid);
        self.answer(tid, question, |answer| match answer {
            // An unknown name is a plain error: an entry of inode 0 would be remembered.
            Err(errno) => reply.error(errno),
            Ok(attr) => {
                let lifetime = if attr.fixed { LIFETIME } else { Duration::ZERO };
                let shown = file_attr(&attr);
                reply.entry_with_ttls(&LIFETIME, &lifetime, &shown, Generation(0));
            }
        });
    }

    fn forget(&self, _: &Request, _: INodeNo, _: u64) {}

    fn getattr(&self, request: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let question = move |vfs: &Vfs| vfs.getattr(ino.0);
        self.answer(request.pid(), question, |answer| match answer {
            Err(errno) => reply.error(errno),
            Ok(attr) => reply.attr(&LIFETIME, &file_attr(&attr)),
        });
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let tid = request.pid();
        let question = move |vfs: &Vfs| vfs.readlink(ino.0, tid);
        self.answer(tid, question, |answer| match answer {
            Err(errno) => reply.error(errno),
            Ok(target) => reply.data(&target),
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let request = whose(request);
        let question = move |vfs: &Vfs| vfs.open(ino.0, flags.0, request);
        self.answer(request.tid, question, |answer| match answer {
            Err(errno) => reply.error(errno),
            Ok(fh) => reply.opened(FileHandle(fh), FopenFlags::FOPEN_DIRECT_IO),
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let owned = lock_owner.is_some();
        let request = whose(request);
        let question = move |vfs: &Vfs| vfs.read(ino.0, fh.0, request, offset, size, owned);
        self.answer(request.tid, question, |answer| match answer {
            Err(errno) => reply.error(errno),
            Ok(slice) => reply.data(&slice),
        });
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // Whose it is the kernel does not tell. It drops the answer; close(2) has long returned.
        let _answering = self.load.begin();
        let _ = self.ask(|vfs| {
            vfs.release(fh.0);
            Ok(())
        });
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let tid = request.pid();
        let question = move |vfs: &Vfs| vfs.readdir(ino.0, tid);
        self.answer(tid, question, move |answer| {
            let entries = match answer {
                Err(errno) => return reply.error(errno),
                Ok(entries) => entries,
            };
            for entry in entries.iter().filter(|entry| entry.offset > offset) {
                let kind = file_type(entry.kind);
                if reply.add(INodeNo(entry.ino), entry.offset, kind, &entry.name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(0, 0, 0, 0, 0, 4096, 255, 4096);
    }

    /// Always readable and writable, as the kernel's /proc files are.
    fn poll(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        notifier: PollNotifier,
        _: PollEvents,
        flags: PollFlags,
        reply: ReplyPoll,
    ) {
        let waiter = flags.contains(PollFlags::FUSE_POLL_SCHEDULE_NOTIFY).then(|| {
            // Nobody waits any more where the kernel does not know the handle.
            Waiter::new(notifier.handle().0, move || drop(notifier.notify()))
        });
        let events = PollEvents::POLLIN
            | PollEvents::POLLOUT
            | PollEvents::POLLRDNORM
            | PollEvents::POLLWRNORM;
        let question = move |vfs: &Vfs| Ok(vfs.poll(ino.0, fh.0, waiter));
        self.answer(request.pid(), question, move |answer| match answer {
            Err(errno) => reply.error(errno),
            Ok(None | Some(Fired::No)) => reply.poll(events),
            Ok(Some(Fired::Yes)) => reply.poll(events | PollEvents::POLLPRI),
            Ok(Some(Fired::Never)) => {
                reply.poll(events | PollEvents::POLLPRI | PollEvents::POLLERR);
            }
        });
    }

    fn lseek(&self, _: &Request, _: INodeNo, _: FileHandle, _: i64, _: i32, reply: ReplyLseek) {
        // Only SEEK_DATA and SEEK_HOLE come here, which seq_lseek() refuses.
        reply.error(Errno::EINVAL);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::EINVAL);
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.error(Errno::EINVAL);
    }

    /// Truncating is writing; owner, mode and times are fixed. The kernel's /proc lets root
    /// change them, for every process of the machine at once; nobody may do that to ours.
    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(if size.is_some() { Errno::EACCES } else { Errno::EPERM });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: u64,
        text: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let tid = request.pid();
        // No longer than MAX_WRITE.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        let trigger = text[..text.len().min(LONGEST_TRIGGER)].to_vec();
        let question = move |vfs: &Vfs| vfs.write(ino.0, fh.0, tid, &trigger);
        self.answer(tid, question, move |answer| match answer {
            Err(errno) => reply.error(errno),
            Ok(()) => reply.written(length),
        });
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::EOPNOTSUPP);
    }

    fn listxattr(&self, _: &Request, _: INodeNo, size: u32, reply: ReplyXattr) {
        if size == 0 { reply.size(0) } else { reply.data(&[]) }
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EOPNOTSUPP);
    }

    // In /proc a new name fails in its lookup, hence ENOENT; a removal with EPERM.

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::ENOENT);
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn rename(
        &self,
        request: &Request,
        _: INodeNo,
        _: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (tid, new_name) = (request.pid(), new_name.to_owned());
        let question = move |vfs: &Vfs| vfs.lookup(new_parent.0, &new_name, tid);
        self.answer(tid, question, |target| reply.error(target.err().unwrap_or(Errno::EPERM)));
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }
}

fn whose(request: &Request) -> vfs::Request {
    vfs::Request { unique: Unique(request.unique().0), tid: request.pid() }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::Regular => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        // /proc says 1024; more saves stdio, which reads by it, a round trip or two.
        blksize: 4096,
        flags: 0,
    }
}

thread_local! {
    /// Whether this thread is inside [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// What the panic hook heard of the last panic inside it, with its place in the source.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `call`; a panic in it becomes [`Error::Panicked`], and the thread lives on.
fn guarded<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    keep_panics();
    GUARDED.set(true);
    // The Vfs is used on after a panic. Its locks do not poison; a figure it remembers may be
    // one step behind, which is better than no figures for every container.
    let outcome = panic::catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(false);
    outcome.unwrap_or_else(|_| {
        let message = PANIC.take().unwrap_or_default();
        Err(Error::Panicked { message })
    })
}

/// Has panics inside [`guarded`] kept for their one log line instead of written to stderr
/// every time; others go where they went before.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                return previous(info);
            }
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            PANIC.set(Some(format!("{} ({place})", text.unwrap_or("no message"))));
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Level;

    #[test]
    fn a_panic_becomes_eio_and_the_thread_lives_on() {
        let error = guarded::<()>(|| panic!("entry {} missing", 7)).unwrap_err();
        assert_eq!(error.errno(), libc::EIO);
        assert_eq!(error.level(), Level::Error);
        let text = error.to_string();
        assert!(text.contains("entry 7 missing (src/fuse/mod.rs:"), "{text}");
        assert_eq!(guarded(|| Ok(5)).unwrap(), 5);
        assert!(matches!(guarded::<()>(|| Err(Error::NotFound)), Err(Error::NotFound)));
    }

    #[test]
    fn attributes() {
        let attr =
            Attr { ino: 9, kind: Kind::Regular, perm: 0o444, size: 4096, nlink: 1, fixed: true };
        let shown = file_attr(&attr);
        assert_eq!((shown.ino, shown.size, shown.perm), (INodeNo(9), 4096, 0o444));
        assert_eq!((shown.kind, shown.uid, shown.gid), (FileType::RegularFile, 0, 0));
    }
}
