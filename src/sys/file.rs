//! Small kernel files, read whole.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;
use rustix::fs::{Mode, OFlags};

use super::descriptors::Place;

/// How much is asked for at once. Larger than what the kernel renders into one read of almost
/// any file; /proc/cpuinfo and /proc/stat of large machines take several.
const CHUNK: usize = 64 * 1024;

thread_local! {
    /// Reading happens here, and what was read is copied to a vector of its size. A buffer for
    /// each read would have the allocator map and unmap its heap all the time.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Opens `name` below the directory `dir` for reading.
///
/// # Errors
/// What openat(2) answers.
pub fn open_at(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens `name` below the directory `dir` for reading and writing, never to wait.
///
/// # Errors
/// What openat(2) answers.
pub fn open_to_write_at(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens the directory at `path` as a place to look up names from (O_PATH).
///
/// # Errors
/// What open(2) answers.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the directory `name` below `dir` as a place to look up names from (O_PATH).
/// An empty `name` means `dir` itself.
///
/// # Errors
/// What openat(2) answers; symbolic links in the last component are not followed.
pub fn open_directory_at(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let name = if name.is_empty() { OsStr::new(".") } else { name };
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens the symbolic link `name` below `dir` itself (O_PATH), to be read again and again.
///
/// # Errors
/// What openat(2) answers.
pub fn open_link_at(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Reads `file` from its start until `is_whole` says of the last read's length that
/// nothing can follow.
fn read(file: impl AsFd, is_whole: impl Fn(usize) -> bool) -> io::Result<Vec<u8>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut text = Vec::new();
        loop {
            let length = match rustix::io::pread(&file, &mut buffer[..], text.len() as u64) {
                Ok(length) => length,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            text.extend_from_slice(&buffer[..length]);
            if is_whole(length) {
                return Ok(text);
            }
        }
    })
}

/// Reads a file of one record (see [`read_record_at`]) that is open already, again from its
/// start.
///
/// # Errors
/// What pread(2) answers.
pub fn reread_record(file: impl AsFd) -> io::Result<Vec<u8>> {
    read(file, |length| length < CHUNK)
}

/// Reads a file of any kind that is open already, again from its start.
///
/// # Errors
/// What pread(2) answers.
pub fn reread(file: impl AsFd) -> io::Result<Vec<u8>> {
    read(file, |length| length == 0)
}

/// Opens, reads and closes the file `name` below `dir`, of any kind.
///
/// # Errors
/// What openat(2) or read(2) answers.
pub fn read_at(dir: impl AsFd, name: &str) -> io::Result<Vec<u8>> {
    read(open_at(dir, name)?, |length| length == 0)
}

/// Opens, reads and closes the file `name` below `dir`, which the kernel renders as one record:
/// what `single_open()` made, a sysctl, a sysfs attribute or a cgroup file that is no list. A
/// record that fits into the buffer comes whole from the first read, so none is made to see
/// its end.
///
/// # Errors
/// What openat(2) or read(2) answers.
pub fn read_record_at(dir: impl AsFd, name: &str) -> io::Result<Vec<u8>> {
    read(open_at(dir, name)?, |length| length < CHUNK)
}

/// As [`read_record_at`]; but it follows no link in the last component, and does not wait for
/// a writer where there is a FIFO.
///
/// # Errors
/// What openat(2) or read(2) answers.
pub fn read_plain_at(dir: impl AsFd, name: &str) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    read(rustix::fs::openat(dir, name, flags, Mode::empty())?, |length| length < CHUNK)
}

/// Files of one directory of kernel files, kept open so that each further reading is one call.
#[derive(Debug, Default)]
pub struct Kept {
    files: RwLock<Vec<(Box<str>, Arc<KeptFile>)>>,
}

#[derive(Debug)]
struct KeptFile {
    descriptor: OwnedFd,
    /// Since [`Kept::close_unused`].
    was_used: AtomicBool,
    _place: Place,
}

impl Kept {
    /// As [`read_record_at`]. A file that was removed, and maybe made anew, since it was opened is
    /// looked up again.
    ///
    /// # Errors
    /// As [`read_record_at`].
    pub fn read_record_at(&self, dir: impl AsFd, name: &str) -> io::Result<Vec<u8>> {
        if let Some(file) = self.get(name) {
            file.was_used.store(true, Ordering::Relaxed);
            match reread_record(&file.descriptor) {
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => self.forget(&file),
                answer => return answer,
            }
        }
        let descriptor = open_at(dir, name)?;
        let text = reread_record(&descriptor)?;
        self.keep(name, descriptor);
        Ok(text)
    }

    /// Closes those that were not read since the last time.
    pub fn close_unused(&self) {
        let mut files = self.files.write();
        let (used, unused) =
            files.drain(..).partition(|(_, file)| file.was_used.swap(false, Ordering::Relaxed));
        *files = used;
        drop(files);
        // Closing takes its time, which nobody else should wait for.
        drop::<Vec<_>>(unused);
    }

    fn get(&self, name: &str) -> Option<Arc<KeptFile>> {
        let files = self.files.read();
        files.iter().find(|(known, _)| **known == *name).map(|(_, file)| Arc::clone(file))
    }

    fn keep(&self, name: &str, descriptor: OwnedFd) {
        let Some(place) = Place::take() else { return };
        let file = KeptFile { descriptor, was_used: AtomicBool::new(true), _place: place };
        let mut files = self.files.write();
        if files.iter().all(|(known, _)| **known != *name) {
            files.push((name.into(), Arc::new(file)));
        }
    }

    fn forget(&self, file: &Arc<KeptFile>) {
        self.files.write().retain(|(_, known)| !Arc::ptr_eq(known, file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_longer_than_a_chunk_are_whole() {
        let directory = std::env::temp_dir();
        let name = format!("lxcfs-rs-read-{}", std::process::id());
        let path = directory.join(&name);
        let text: Vec<u8> = (0..251).cycle().take(5 * CHUNK + 7).collect();
        std::fs::File::create(&path).unwrap().write_all(&text).unwrap();
        let dir = open_directory_at(rustix::fs::CWD, directory.as_os_str()).unwrap();
        let read = read_at(&dir, &name);
        let record = read_record_at(&dir, &name);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.unwrap(), text);
        assert_eq!(record.unwrap(), text);
        let error = read_at(&dir, &name).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
