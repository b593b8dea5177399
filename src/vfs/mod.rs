//! The filesystem in our own types, without FUSE: names, attributes, handles, reads.

use std::ffi::OsStr;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::error::Result;

/// A stable inode number; compile-time constants, so that a resumed session means the same.
pub type Ino = u64;

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
    /// `st_size`: 4096 for every file (VIEWS law 5), 0 for a directory.
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

/// The bytes a read returns: a part of a snapshot, without copying it.
#[derive(Clone, Debug)]
pub struct Slice {
    /// The whole rendered file.
    pub snapshot: Arc<[u8]>,
    /// The part asked for.
    pub range: Range<usize>,
}

impl Deref for Slice {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.snapshot[self.range.clone()]
    }
}

/// The filesystem.
#[derive(Debug, Default)]
pub struct Vfs {}

impl Vfs {
    /// Finds `name` in the directory `parent`.
    ///
    /// # Errors
    /// NotFound, NotADirectory.
    pub fn lookup(&self, _parent: Ino, _name: &OsStr) -> Result<Attr> {
        Err(crate::error::Error::NotFound)
    }
    /// Attributes of an inode.
    ///
    /// # Errors
    /// NotFound.
    pub fn getattr(&self, _ino: Ino) -> Result<Attr> {
        Err(crate::error::Error::NotFound)
    }
    /// All entries of a directory.
    ///
    /// # Errors
    /// NotFound, NotADirectory.
    pub fn readdir(&self, _ino: Ino) -> Result<Vec<Entry>> {
        Err(crate::error::Error::NotFound)
    }
    /// Opens a file; `flags` as open(2). Returns the handle.
    ///
    /// # Errors
    /// ReadOnly, IsADirectory, NotFound.
    pub fn open(&self, _ino: Ino, _flags: i32) -> Result<u64> {
        Err(crate::error::Error::NotFound)
    }
    /// Reads for thread `tid` (0: not visible). `owned` is false for a fill of the page cache.
    ///
    /// # Errors
    /// PageCacheFill and whatever the pipeline meets.
    pub fn read(
        &self,
        _ino: Ino,
        _fh: u64,
        _tid: u32,
        _offset: u64,
        _size: u32,
        _owned: bool,
    ) -> Result<Slice> {
        Err(crate::error::Error::NotFound)
    }
    /// Ends a handle.
    pub fn release(&self, _fh: u64) {}
}
