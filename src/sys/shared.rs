//! Memory that others have too: a memfd, which outlives the process, or what the kernel itself
//! writes to, mapped.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};

/// Neither shrinks, which would turn an access into SIGBUS, nor grows.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Memory of a descriptor, mapped as words that any number of threads and processes may use at a
/// time.
#[derive(Debug)]
pub struct Shared {
    words: NonNull<AtomicU64>,
    count: usize,
    descriptor: OwnedFd,
}

// SAFETY: the mapping belongs to this value alone, is unmapped by its drop alone, and is only
// ever lent as atomics.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// So many words, all 0, which take memory only once they are written to. `name` shows in
    /// /proc/PID/maps. memfd_create(2), Linux 3.17.
    ///
    /// # Errors
    /// What memfd_create(2), ftruncate(2) and mmap(2) answer.
    pub fn new(name: &CStr, count: usize) -> io::Result<Shared> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = rustix::fs::memfd_create(name, flags)?;
        rustix::fs::ftruncate(&memfd, (count * size_of::<u64>()) as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SEALS)?;
        Shared::map(memfd, count)
    }

    /// The words that [`Shared::new`] made, in this process or another.
    ///
    /// # Errors
    /// `InvalidInput` for what is no such memory, or of another size; what mmap(2) answers.
    pub fn open(memfd: OwnedFd, count: usize) -> io::Result<Shared> {
        let length = rustix::fs::fstat(&memfd)?.st_size;
        let seals = rustix::fs::fcntl_get_seals(&memfd)?;
        if usize::try_from(length) != Ok(count * size_of::<u64>()) || !seals.contains(SEALS) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Shared::map(memfd, count)
    }

    /// The words of `descriptor`, which has at least so many and never comes to have fewer.
    pub(super) fn map(descriptor: OwnedFd, count: usize) -> io::Result<Shared> {
        // SAFETY: mmap(2) at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                count * size_of::<u64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                descriptor.as_raw_fd(),
                0,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Shared { words, count, descriptor })
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, holds `count` words and lives as long as `self`;
        // every bit pattern is a valid AtomicU64, and others change it atomically alone.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping of this value, which nobody can use any more.
        unsafe { libc::munmap(self.words.as_ptr().cast(), self.count * size_of::<u64>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn one_memory_by_two_mappings() {
        let first = Shared::new(c"test", 1024).unwrap();
        let memfd = first.as_fd().try_clone_to_owned().unwrap();
        let second = Shared::open(memfd, 1024).unwrap();
        first.words()[1023].store(7, Relaxed);
        assert_eq!(second.words()[1023].load(Relaxed), 7);
        drop(first);
        assert_eq!(second.words().len(), 1024);
        assert_eq!(second.words()[0].load(Relaxed), 0);
    }

    #[test]
    fn other_files_are_refused() {
        let memory = Shared::new(c"test", 1024).unwrap();
        let memfd = || memory.as_fd().try_clone_to_owned().unwrap();
        assert!(Shared::open(memfd(), 1023).is_err());
        let unsealed = rustix::fs::memfd_create(c"test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&unsealed, 8192).unwrap();
        assert!(Shared::open(unsealed, 1024).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(Shared::open(file.into(), 1024).is_err());
        assert!(rustix::fs::ftruncate(memfd(), 0).is_err());
    }
}
