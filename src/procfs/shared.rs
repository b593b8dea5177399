//! Texts of the machine that every container's are made from, read once for all readers of a
//! moment.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};

use crate::sys::file;

/// How old a text may be. Nothing that a container is limited to is among them.
const SHARED_FOR: Duration = Duration::from_millis(10);

/// A kernel file's text, shared by those who were shown it.
pub type Text = Arc<Vec<u8>>;

/// Reads a file that is open already from its start: [`file::reread`] or
/// [`file::reread_record`].
pub(super) type Read = fn(&OwnedFd) -> io::Result<Vec<u8>>;

/// The files, by their names, and their last texts.
#[derive(Debug, Default)]
pub(super) struct Shared {
    files: RwLock<Vec<Named>>,
}

type Named = (Box<str>, Arc<SharedFile<Vec<u8>>>);

impl Shared {
    /// The text of `name` below `dir`, no older than [`SHARED_FOR`]. The names are the program's
    /// own: there are few.
    ///
    /// # Errors
    /// What openat(2) or pread(2) answers.
    pub(super) fn read_at(&self, dir: impl AsFd, name: &str, read: Read) -> io::Result<Text> {
        self.file(name).read_at(dir, name, read, |text| text)
    }

    fn file(&self, name: &str) -> Arc<SharedFile<Vec<u8>>> {
        let known = |files: &[Named]| {
            files.iter().find(|(known, _)| **known == *name).map(|(_, file)| Arc::clone(file))
        };
        if let Some(file) = known(&self.files.read()) {
            return file;
        }
        let mut files = self.files.write();
        known(&files).unwrap_or_else(|| {
            let file = Arc::<SharedFile<_>>::default();
            files.push((name.into(), Arc::clone(&file)));
            file
        })
    }
}

/// A file, held open, and what was last made of its text.
#[derive(Debug)]
pub(super) struct SharedFile<T> {
    descriptor: OnceLock<OwnedFd>,
    /// When it was read, and what it said. Locked while it is read: who comes meanwhile waits for
    /// the same text.
    last: Mutex<Option<(Instant, Arc<T>)>>,
}

impl<T> Default for SharedFile<T> {
    fn default() -> Self {
        SharedFile { descriptor: OnceLock::new(), last: Mutex::new(None) }
    }
}

impl<T> SharedFile<T> {
    /// What `parse` makes of the text of this file, which is `name` below `dir`; no older than
    /// [`SHARED_FOR`].
    ///
    /// # Errors
    /// What openat(2) or pread(2) answers.
    pub(super) fn read_at(
        &self,
        dir: impl AsFd,
        name: &str,
        read: Read,
        parse: fn(Vec<u8>) -> T,
    ) -> io::Result<Arc<T>> {
        let mut last = self.last.lock();
        let now = Instant::now();
        if let Some((read_at, parsed)) = &*last
            && now.duration_since(*read_at) < SHARED_FOR
        {
            return Ok(Arc::clone(parsed));
        }
        let descriptor = match self.descriptor.get() {
            Some(descriptor) => descriptor,
            None => {
                let opened = file::open_at(dir, name)?;
                self.descriptor.get_or_init(|| opened)
            }
        };
        let parsed = Arc::new(parse(read(descriptor)?));
        *last = Some((now, Arc::clone(&parsed)));
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_shared_for_a_moment_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let fd = file::open_directory(dir.path()).unwrap();
        let shared = Shared::default();
        let read = || shared.read_at(&fd, "file", |file| file::reread(file));
        assert_eq!(read().unwrap_err().raw_os_error(), Some(libc::ENOENT));
        std::fs::write(dir.path().join("file"), "one").unwrap();
        let began = Instant::now();
        let one = read().unwrap();
        assert_eq!(**one, *b"one");
        std::fs::write(dir.path().join("file"), "two").unwrap();
        let again = read().unwrap();
        if began.elapsed() < SHARED_FOR {
            assert!(Arc::ptr_eq(&one, &again));
        }
        // What becomes of the text of a file that has changed: it is replaced in the end.
        while **read().unwrap() != *b"two" {
            assert!(began.elapsed() < Duration::from_secs(60));
        }
    }
}
