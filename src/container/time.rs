//! The reader's clock: a time namespace shifts CLOCK_BOOTTIME.

use crate::error::Result;
use crate::procfs::{Namespace, NsId, ProcRoot, process};

/// What the time namespace of `reader` adds to CLOCK_BOOTTIME, in nanoseconds; none where it is
/// the daemon's own (`own`), where the kernel has no time namespaces, or where the reader's
/// children are in another one than itself: the kernel tells the children's offsets alone.
///
/// # Errors
/// [`crate::error::Error::Io`] where the reader has ended.
pub fn boottime_offset(proc: &ProcRoot, own: Option<NsId>, reader: u32) -> Result<Option<i128>> {
    let Some(own) = own else { return Ok(None) };
    let time = proc.namespace(reader, Namespace::Time)?;
    if time == own || proc.namespace(reader, Namespace::TimeForChildren)? != time {
        return Ok(None);
    }
    let text = proc.read_record(&format!("{reader}/timens_offsets"))?;
    Ok(process::parse_boottime_offset(&text))
}
