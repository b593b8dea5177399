//! `/proc/PID/cgroup` of a process, held open: it never comes to tell of another process.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cgroup::path::{Membership, parse_memberships};
use crate::error::{Error, Result};
use crate::procfs::ProcRoot;
use crate::sys::file;

#[derive(Debug)]
pub(super) struct Listing {
    /// The process.
    pub(super) pid: u32,
    pub(super) file: Arc<OwnedFd>,
    /// For messages.
    pub(super) path: PathBuf,
}

impl Listing {
    /// # Errors
    /// [`Error::Io`] where the process has ended.
    pub(super) fn open(proc: &ProcRoot, pid: u32) -> Result<Listing> {
        let name = format!("{pid}/cgroup");
        let file = Arc::new(proc.open_file(&name)?);
        Ok(Listing { pid, file, path: proc.path(&name) })
    }

    /// What it says now.
    ///
    /// # Errors
    /// As [`Listing::open`].
    pub(super) fn read(&self) -> Result<Vec<u8>> {
        file::reread_record(&*self.file).map_err(|error| Error::io("read", &self.path, error))
    }

    /// What it says by `text`.
    ///
    /// # Errors
    /// As [`parse_memberships`].
    pub(super) fn parse(&self, text: &[u8]) -> Result<Vec<Membership>> {
        parse_memberships(text, &self.path)
    }
}
