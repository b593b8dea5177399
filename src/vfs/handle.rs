//! Open files: the seq_file rule.
//!
//! A kernel file made by `single_open()` is rendered when it is read from offset 0, or from an
//! offset where the last read did not end; a reader that goes on gets the rest of what was
//! rendered for its first read. So does ours.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::Result;

use super::Slice;

/// How many open files have a place of their own. Past that a file opens all the same, but
/// every read of it renders anew.
const MOST_HANDLES: usize = 65_536;

/// How many bytes of snapshots are kept for readers that have read a part. Past that the next
/// read renders anew: a container that opens files, reads a little of each and goes no further
/// must not fill the daemon's memory.
const MOST_BYTES: usize = 64 << 20;

/// The handle of a file that has no place in the table.
const STATELESS: u64 = 0;

/// All open files.
#[derive(Debug)]
pub(super) struct Handles {
    /// In the upper half of every number: a handle that an earlier daemon gave out never means
    /// one of ours by accident.
    generation: u64,
    table: Mutex<Table>,
    /// How many bytes the handles keep.
    kept: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    open: HashMap<u64, Arc<Handle>>,
}

/// One open file.
#[derive(Debug, Default)]
struct Handle {
    position: Mutex<Position>,
}

/// Where the last read of a handle ended, and what was rendered for it.
#[derive(Debug, Default)]
struct Position {
    /// 0 where no read goes on.
    offset: u64,
    /// None at the file's end: all that is left of the snapshot then is that it has ended.
    kept: Option<Kept>,
}

/// A snapshot that counts as kept as long as this exists.
#[derive(Debug)]
struct Kept {
    snapshot: Arc<Vec<u8>>,
    counter: Arc<AtomicUsize>,
}

impl Kept {
    /// None where too much is kept already.
    fn new(snapshot: &Arc<Vec<u8>>, counter: &Arc<AtomicUsize>) -> Option<Kept> {
        let kept = Kept { snapshot: Arc::clone(snapshot), counter: Arc::clone(counter) };
        let before = counter.fetch_add(snapshot.capacity(), Ordering::Relaxed);
        (before + snapshot.capacity() <= MOST_BYTES).then_some(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.snapshot.capacity(), Ordering::Relaxed);
    }
}

impl Handles {
    pub(super) fn new() -> Handles {
        let mut seed = [0_u8; 4];
        // Without the kernel's random numbers all daemons are of one generation, and a handle
        // of an earlier one may get the rest of a snapshot that is another reader's: of the
        // same file, at the same offset. So the process id stands in.
        let seed = match rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()) {
            Ok(_) => u32::from_ne_bytes(seed),
            Err(_) => std::process::id(),
        };
        let generation = u64::from(seed | 1) << 32;
        Handles { generation, table: Mutex::default(), kept: Arc::default() }
    }

    /// A new handle.
    pub(super) fn open(&self) -> u64 {
        let mut table = self.table.lock();
        if table.open.len() >= MOST_HANDLES {
            return STATELESS;
        }
        loop {
            let number = self.generation | table.next;
            table.next = (table.next + 1) & u64::from(u32::MAX);
            if let Entry::Vacant(place) = table.open.entry(number) {
                place.insert(Arc::default());
                return number;
            }
        }
    }

    /// Whether a handle has a place in the table.
    pub(super) fn is_open(&self, number: u64) -> bool {
        self.table.lock().open.contains_key(&number)
    }

    /// Ends a handle.
    pub(super) fn release(&self, number: u64) {
        self.table.lock().open.remove(&number);
    }

    /// Reads `size` bytes at `offset`; `render` makes a new snapshot.
    pub(super) fn read(
        &self,
        number: u64,
        offset: u64,
        size: u32,
        render: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Slice> {
        let handle = self.table.lock().open.get(&number).cloned();
        let kept = handle.as_ref().and_then(|handle| handle.rest(offset));
        let snapshot = match kept {
            Some(snapshot) => snapshot,
            None => Arc::new(render()?),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(snapshot.len());
        let end = start.saturating_add(size as usize).min(snapshot.len());
        if let Some(handle) = handle {
            let reached = offset.saturating_add((end - start) as u64);
            let mut position = handle.position.lock();
            // What was kept must not count beside what is.
            *position = Position::default();
            if end == snapshot.len() {
                position.offset = reached;
            } else if let Some(kept) = Kept::new(&snapshot, &self.kept) {
                *position = Position { offset: reached, kept: Some(kept) };
            }
        }
        Ok(Slice { snapshot, range: start..end })
    }

    #[cfg(test)]
    fn held_bytes(&self, number: u64) -> usize {
        let handle = self.table.lock().open[&number].clone();
        let position = handle.position.lock();
        position.kept.as_ref().map_or(0, |kept| kept.snapshot.len())
    }
}

impl Handle {
    /// What a read at `offset` goes on with: the snapshot, or nothing at its end. None where
    /// the read starts anew.
    fn rest(&self, offset: u64) -> Option<Arc<Vec<u8>>> {
        let position = self.position.lock();
        let goes_on = offset != 0 && offset == position.offset;
        let rest = || position.kept.as_ref().map(|kept| Arc::clone(&kept.snapshot));
        goes_on.then(|| rest().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn read(handles: &Handles, number: u64, offset: u64, size: u32, text: &str) -> String {
        let slice = handles.read(number, offset, size, || Ok(text.as_bytes().to_vec())).unwrap();
        String::from_utf8(slice.to_vec()).unwrap()
    }

    #[test]
    fn a_reader_that_goes_on_gets_the_rest_of_its_snapshot() {
        let handles = Handles::new();
        let file = handles.open();
        assert_eq!(read(&handles, file, 0, 4, "abcdefghij"), "abcd");
        assert_eq!(read(&handles, file, 4, 4, "ABCDEFGHIJ"), "efgh");
        assert_eq!(read(&handles, file, 8, 4, "ABCDEFGHIJ"), "ij");
        assert_eq!(read(&handles, file, 10, 4, "ABCDEFGHIJKLMN"), "");
        assert_eq!(handles.held_bytes(file), 0);
        assert_eq!(read(&handles, file, 0, 4, "ABCDEFGHIJ"), "ABCD");
    }

    #[test]
    fn any_other_offset_renders_anew() {
        let handles = Handles::new();
        let file = handles.open();
        assert_eq!(read(&handles, file, 0, 4, "abcdefghij"), "abcd");
        assert_eq!(read(&handles, file, 3, 4, "ABCDEFGHIJ"), "DEFG");
        assert_eq!(read(&handles, file, 7, 4, "abcdefghij"), "HIJ");
        assert_eq!(read(&handles, file, 99, 4, "abc"), "");
        assert_eq!(read(&handles, file, u64::MAX, 4, "abc"), "");
        assert_eq!(read(&handles, file, 0, 4, "abcdefghij"), "abcd");
        assert_eq!(read(&handles, file, 0, 4, "ABCDEFGHIJ"), "ABCD");
    }

    #[test]
    fn each_handle_has_its_own_place() {
        let handles = Handles::new();
        let (one, two) = (handles.open(), handles.open());
        assert_ne!(one, two);
        read(&handles, one, 0, 2, "abcd");
        read(&handles, two, 0, 2, "ABCD");
        assert_eq!(read(&handles, one, 2, 2, "xxxx"), "cd");
        assert_eq!(read(&handles, two, 2, 2, "xxxx"), "CD");
        handles.release(one);
        assert_eq!(read(&handles, one, 2, 2, "wxyz"), "yz");
    }

    #[test]
    fn an_unknown_handle_renders_and_slices() {
        let handles = Handles::new();
        assert_eq!(read(&handles, 7, 2, 2, "abcd"), "cd");
        let other = Handles::new().open();
        assert_eq!(read(&handles, other, 1, 2, "abcd"), "bc");
    }

    #[test]
    fn a_failed_render_leaves_the_place() {
        let handles = Handles::new();
        let file = handles.open();
        read(&handles, file, 0, 2, "abcd");
        assert!(handles.read(file, 0, 2, || Err(Error::NotFound)).is_err());
        assert_eq!(read(&handles, file, 2, 2, "xxxx"), "cd");
    }

    #[test]
    fn what_is_kept_is_bounded_and_past_that_a_read_renders_anew() {
        const SIZE: usize = 1 << 20;
        let handles = Handles::new();
        let some = |number, offset, byte| {
            let slice = handles.read(number, offset, 10, || Ok(vec![byte; SIZE])).unwrap();
            assert_eq!(slice.len(), 10);
            slice[0]
        };
        let files: Vec<u64> = (0..MOST_BYTES / SIZE).map(|_| handles.open()).collect();
        for &file in &files {
            assert_eq!(some(file, 0, b'a'), b'a');
            assert_eq!(some(file, 0, b'b'), b'b');
        }
        assert_eq!(handles.kept.load(Ordering::Relaxed), MOST_BYTES);
        let late = handles.open();
        some(late, 0, b'a');
        assert_eq!((some(late, 10, b'b'), some(files[0], 10, b'c')), (b'b', b'b'));
        for file in files {
            handles.release(file);
        }
        assert_eq!(handles.kept.load(Ordering::Relaxed), 0);
        some(late, 0, b'a');
        assert_eq!(some(late, 10, b'b'), b'a');
    }

    #[test]
    fn past_the_ceiling_files_open_without_a_place() {
        let handles = Handles::new();
        let last = (0..MOST_HANDLES).map(|_| handles.open()).last().unwrap();
        assert_ne!(last, STATELESS);
        assert_eq!(handles.open(), STATELESS);
        assert_eq!(read(&handles, STATELESS, 2, 2, "abcd"), "cd");
        handles.release(last);
        assert_ne!(handles.open(), STATELESS);
    }
}
