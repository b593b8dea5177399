//! The filesystem in our own types, without FUSE: names, attributes, handles, reads.

use std::ffi::OsStr;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::error::{Error, Result};

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

// STAND-IN of branch `session`, for its own tests; the lead's src/vfs/mod.rs replaces it wholly.

/// The filesystem.
#[derive(Debug, Default)]
pub struct Vfs {}

/// Parent, inode, name; a constant text makes it a file.
const STAND_IN: &[(Ino, Ino, &str, Option<&str>)] = &[
    (1, 2, "proc", None),
    (1, 3, "sys", None),
    (3, 4, "devices", None),
    (4, 5, "system", None),
    (5, 6, "cpu", None),
    (6, 7, "online", Some("0-1\n")),
    (2, 10, "meminfo", Some("MemTotal:         262144 kB\nMemFree:          131072 kB\n")),
    (2, 11, "uptime", Some("1.00 1.00\n")),
];

impl Vfs {
    fn attr(ino: Ino, text: Option<&str>) -> Attr {
        match text {
            None => Attr { ino, kind: Kind::Directory, perm: 0o555, size: 0, nlink: 2 },
            Some(_) => Attr { ino, kind: Kind::Regular, perm: 0o444, size: 4096, nlink: 1 },
        }
    }
    fn text(ino: Ino) -> Result<Option<&'static str>> {
        if ino == 1 {
            return Ok(None);
        }
        let row = STAND_IN.iter().find(|row| row.1 == ino);
        row.map(|row| row.3).ok_or(Error::NotFound)
    }
    /// Finds `name` in the directory `parent`.
    ///
    /// # Errors
    /// NotFound, NotADirectory.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Attr> {
        let row = STAND_IN.iter().find(|row| row.0 == parent && row.2 == name);
        row.map(|row| Self::attr(row.1, row.3)).ok_or(Error::NotFound)
    }
    /// Attributes of an inode.
    ///
    /// # Errors
    /// NotFound.
    pub fn getattr(&self, ino: Ino) -> Result<Attr> {
        Ok(Self::attr(ino, Self::text(ino)?))
    }
    /// All entries of a directory.
    ///
    /// # Errors
    /// NotFound, NotADirectory.
    pub fn readdir(&self, ino: Ino) -> Result<Vec<Entry>> {
        if Self::text(ino)?.is_some() {
            return Err(Error::NotADirectory);
        }
        let parent = STAND_IN.iter().find(|row| row.1 == ino).map_or(1, |row| row.0);
        let mut entries = vec![
            Entry { ino, kind: Kind::Directory, name: "." },
            Entry { ino: parent, kind: Kind::Directory, name: ".." },
        ];
        entries.extend(STAND_IN.iter().filter(|row| row.0 == ino).map(|row| Entry {
            ino: row.1,
            kind: Self::attr(row.1, row.3).kind,
            name: row.2,
        }));
        Ok(entries)
    }
    /// Opens a file; `flags` as open(2). Returns the handle.
    ///
    /// # Errors
    /// ReadOnly, IsADirectory, NotFound.
    pub fn open(&self, ino: Ino, flags: i32) -> Result<u64> {
        if Self::text(ino)?.is_none() {
            return Err(Error::IsADirectory);
        }
        let write = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0;
        if write { Err(Error::ReadOnly) } else { Ok(0) }
    }
    /// Reads for thread `tid` (0: not visible). `owned` is false for a fill of the page cache.
    ///
    /// # Errors
    /// PageCacheFill and whatever the pipeline meets.
    pub fn read(
        &self,
        ino: Ino,
        _fh: u64,
        _tid: u32,
        offset: u64,
        size: u32,
        owned: bool,
    ) -> Result<Slice> {
        if !owned {
            return Err(Error::PageCacheFill);
        }
        let snapshot: Arc<[u8]> = Self::text(ino)?.ok_or(Error::IsADirectory)?.as_bytes().into();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(snapshot.len());
        let end = start.saturating_add(size as usize).min(snapshot.len());
        Ok(Slice { snapshot, range: start..end })
    }
    /// Ends a handle.
    pub fn release(&self, _fh: u64) {}
}
