//! The floor: a filesystem of one constant file, which costs what FUSE and fuser cost.
//!
//! Everything that spares a request is done as in our daemon: direct I/O, attributes and
//! entries that never expire, FLUSH answered ENOSYS once. What is left of a read is OPEN, READ,
//! the READ that says EOF, and RELEASE.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen,
    Request, SessionACL,
};

/// The one file, in the root of the mount.
pub(crate) const NAME: &str = "constant";
/// About the size of a /proc/meminfo.
pub(crate) const SIZE: usize = 1500;

const INODE: INodeNo = INodeNo(2);
const TTL: Duration = Duration::from_secs(3600);

/// Serves until it is unmounted or killed.
pub(crate) fn serve(mount_point: &Path, workers: usize, writable: bool) -> Result<()> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("constant".into()),
        MountOption::Subtype("constant".into()),
        if writable { MountOption::RW } else { MountOption::RO },
    ];
    config.acl = SessionACL::All;
    config.n_threads = Some(workers);
    let mut content = vec![b'x'; SIZE];
    content[SIZE - 1] = b'\n';
    fuser::mount(Constant { content }, mount_point, &config)
        .with_context(|| format!("{}: mounting the constant file", mount_point.display()))
}

struct Constant {
    content: Vec<u8>,
}

impl Filesystem for Constant {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // A refusal leaves fuser's default, which is fine as well.
        let _ = config.set_max_write(1 << 16);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent != INodeNo::ROOT || name != NAME {
            return reply.error(Errno::ENOENT);
        }
        reply.entry(&TTL, &attributes(INODE), Generation(0));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attributes(ino));
    }

    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.content.get(offset..));
        let rest = rest.unwrap_or_default();
        reply.data(&rest[..rest.len().min(size as usize)]);
    }
}

fn attributes(ino: INodeNo) -> FileAttr {
    let is_root = ino == INodeNo::ROOT;
    FileAttr {
        ino,
        size: if is_root { 0 } else { SIZE as u64 },
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: if is_root { FileType::Directory } else { FileType::RegularFile },
        perm: if is_root { 0o555 } else { 0o444 },
        nlink: if is_root { 2 } else { 1 },
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
