//! The reader's clock: a time namespace shifts CLOCK_BOOTTIME.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use super::init::namespace_number;
use crate::error::Result;
use crate::procfs::{Namespace, NsId, ProcRoot, process};
use crate::sys::descriptors::Place;

/// The clock of a container's processes.
#[derive(Debug, Default)]
pub struct Clock {
    /// The first time namespace that one of them was found in.
    shifted: OnceLock<Shifted>,
}

/// A time namespace with a process in it, whose offset the kernel no longer changes.
#[derive(Debug)]
struct Shifted {
    namespace: NsId,
    /// Keep the namespace's number from being reused.
    _pin: (OwnedFd, Place),
    offset: i128,
}

impl Clock {
    /// What the time namespace of `reader` adds to CLOCK_BOOTTIME, in nanoseconds; none where it
    /// is the daemon's own (`own`), where the kernel has no time namespaces, or where the reader's
    /// children are in another one than itself, and its own was not known before: the kernel
    /// tells the children's offsets alone.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] where the reader has ended.
    pub fn boottime_offset(
        &self,
        proc: &ProcRoot,
        own: Option<NsId>,
        reader: u32,
    ) -> Result<Option<i128>> {
        let Some(own) = own else { return Ok(None) };
        let time = proc.namespace(reader, Namespace::Time)?;
        if time == own {
            return Ok(None);
        }
        if let Some(known) = self.shifted.get().filter(|known| known.namespace == time) {
            return Ok(Some(known.offset));
        }
        let is_childrens =
            || Result::Ok(proc.namespace(reader, Namespace::TimeForChildren)? == time);
        if !is_childrens()? {
            return Ok(None);
        }
        let pin = open(proc, reader, time);
        let text = proc.read_record(&format!("{reader}/timens_offsets"))?;
        // Asked again: the children's may have become another one while it was read.
        if !is_childrens()? {
            return Ok(None);
        }
        let offset = process::parse_boottime_offset(&text);
        if let (Some(pin), Some(offset)) = (pin, offset) {
            self.shifted.get_or_init(|| Shifted { namespace: time, _pin: pin, offset });
        }
        Ok(offset)
    }
}

/// The time namespace of a process, if it is `namespace`, and if it may be held.
fn open(proc: &ProcRoot, process: u32, namespace: NsId) -> Option<(OwnedFd, Place)> {
    let place = Place::take()?;
    let opened = proc.open_file(&format!("{process}/ns/time")).ok()?;
    (namespace_number(proc, &opened).ok()? == namespace).then_some((opened, place))
}
