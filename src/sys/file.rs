//! Small kernel files, read whole.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// How much is asked for at once. procfs and cgroupfs render a whole file into one read of at
/// least a page; 16 KiB covers all but /proc/cpuinfo and /proc/stat of large machines.
const CHUNK: usize = 16 * 1024;

/// Opens `name` below the directory `dir` for reading.
///
/// # Errors
/// What openat(2) answers.
pub fn open_at(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Opens the directory `name` below `dir` as a place to look up names from (O_PATH).
/// An empty `name` means `dir` itself.
///
/// # Errors
/// What openat(2) answers; symbolic links in the last component are not followed.
pub fn open_directory_at(dir: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let name = if name.is_empty() { "." } else { name };
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Reads an open file from its position to its end.
///
/// # Errors
/// What read(2) answers, but for EINTR, after which it goes on.
pub fn read_to_end(file: impl AsFd) -> io::Result<Vec<u8>> {
    let file = file.as_fd();
    let mut text = Vec::with_capacity(CHUNK);
    loop {
        if text.capacity() - text.len() < CHUNK / 4 {
            text.reserve(text.capacity());
        }
        match rustix::io::read(file, rustix::buffer::spare_capacity(&mut text)) {
            Ok(0) => return Ok(text),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reads an open file again from its start to its end.
///
/// # Errors
/// What lseek(2) or read(2) answers.
pub fn reread(file: impl AsFd) -> io::Result<Vec<u8>> {
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    read_to_end(file)
}

/// Opens, reads and closes `name` below `dir`.
///
/// # Errors
/// What openat(2) or read(2) answers.
pub fn read_at(dir: impl AsFd, name: &str) -> io::Result<Vec<u8>> {
    read_to_end(open_at(dir, name)?)
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
        let dir = open_directory_at(rustix::fs::CWD, directory.to_str().unwrap()).unwrap();
        let read = read_at(&dir, &name);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.unwrap(), text);
        let error = read_at(&dir, &name).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
