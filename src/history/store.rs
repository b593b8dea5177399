//! Where the records outlive the daemon: a file for each container in a directory that only one
//! daemon at a time uses.
//!
//! A record is written before the reply that it is behind is sent, in turn to one of two places
//! of its file, each with a checksum: whatever moment the daemon is killed at, one of the two is
//! whole and knows all that was ever shown. The directory lies below /run, so nothing here needs
//! to outlive the machine; identities and times count from its boot and are worth nothing after.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crc::{CRC_32_ISCSI, Crc};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::Record;
use crate::error::{self, Error, Result};
use crate::procfs::ProcRoot;

/// Changes with every change of what is written. A record of another version is as none.
const VERSION: u32 = 1;

/// Where in its file a record's second place begins, and so how long a record may be. The file
/// has a hole before it, which costs nothing.
const PLACE: u64 = 1 << 20;

/// How long a daemon may take to end that has unmounted.
const PATIENCE: Duration = Duration::from_secs(5);

const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What a file begins with. Read alone first: what follows depends on the version.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    version: u32,
    /// `/proc/sys/kernel/random/boot_id`.
    boot: String,
    /// Of two places the later written has the greater.
    sequence: u64,
}

/// The directory of the records of one mount point.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    boot: String,
    /// Names for new files.
    next: AtomicU64,
    /// Held as long as this daemon is the one that writes here.
    _lock: Flock<File>,
}

/// The file of one container; removed with [`Slot::remove`] alone.
#[derive(Debug)]
pub(super) struct Slot {
    path: PathBuf,
    /// None where it is opened for each writing.
    file: Option<File>,
    boot: String,
    sequence: u64,
    /// Whether writing fails, which is reported once.
    is_broken: bool,
}

impl Store {
    /// Opens, or makes, the directory for the daemon that serves at `mountpoint`, below the
    /// runtime directory `runtime`.
    ///
    /// # Errors
    /// The directory that cannot be made; [`Error::Refused`] where another daemon uses it.
    pub fn open(runtime: &Path, mountpoint: &Path, proc: &ProcRoot) -> Result<Store> {
        let boot = proc.read_record("sys/kernel/random/boot_id")?;
        let boot = String::from_utf8_lossy(&boot).trim().to_owned();
        let path = runtime.join("history").join(escape(mountpoint));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| Error::io("mkdir", &path, error))?;
        let directory = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
        let lock = lock(directory, &path)?;
        Ok(Store { path, boot, next: AtomicU64::new(0), _lock: lock })
    }

    /// All records of this boot with their files; any other file is removed.
    ///
    /// # Errors
    /// The directory that cannot be read.
    pub(super) fn load(&self) -> Result<Vec<(Record, Slot)>> {
        let failed = |error| Error::io("read", &self.path, error);
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            if let Some(number) = number {
                self.next.fetch_max(number.saturating_add(1), Ordering::Relaxed);
            }
            match self.load_file(&path) {
                Ok(Some(found)) if number.is_some() => records.push(found),
                Ok(_) => remove(&path),
                Err(error) => {
                    error::report(&error);
                    remove(&path);
                }
            }
        }
        Ok(records)
    }

    fn load_file(&self, path: &Path) -> Result<Option<(Record, Slot)>> {
        let failed = |error| Error::io("read", path, error);
        let file = File::options().read(true).write(true).open(path).map_err(failed)?;
        let mut latest: Option<(u64, Record)> = None;
        for place in 0..2 {
            let mut bytes = vec![0; usize::try_from(PLACE).unwrap_or(0)];
            let length = file.read_at(&mut bytes, place * PLACE).map_err(failed)?;
            let Some((sequence, record)) = self.decode(&bytes[..length]) else { continue };
            if latest.as_ref().is_none_or(|(known, _)| sequence > *known) {
                latest = Some((sequence, record));
            }
        }
        Ok(latest.map(|(sequence, record)| {
            let (path, boot) = (path.to_owned(), self.boot.clone());
            (record, Slot { path, file: Some(file), boot, sequence, is_broken: false })
        }))
    }

    fn decode(&self, bytes: &[u8]) -> Option<(u64, Record)> {
        let (head, _) = postcard::take_from_bytes::<Head>(bytes).ok()?;
        if head.version != VERSION || head.boot != self.boot {
            return None;
        }
        let (whole, _) =
            postcard::take_from_bytes_crc32::<(Head, Record)>(bytes, CHECKSUM.digest()).ok()?;
        Some((head.sequence, whole.1))
    }

    /// A file for a new container; none where none can be made, which is reported.
    pub(super) fn slot(&self) -> Option<Slot> {
        let path = self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let opened = File::options().write(true).create_new(true).mode(0o600).open(&path);
        match opened {
            Ok(file) => {
                let boot = self.boot.clone();
                Some(Slot { path, file: Some(file), boot, sequence: 0, is_broken: false })
            }
            Err(error) => {
                error::report(&Error::io("create", &path, error));
                None
            }
        }
    }
}

impl Slot {
    /// Writes `record`. Where that fails, it is reported, and only the daemon's successor will
    /// miss it.
    pub(super) fn write(&mut self, record: &Record) {
        let sequence = self.sequence + 1;
        let head = Head { version: VERSION, boot: self.boot.clone(), sequence };
        let encoded = postcard::to_allocvec_crc32(&(head, record), CHECKSUM.digest());
        let written = match encoded {
            Ok(bytes) if bytes.len() as u64 <= PLACE => {
                self.write_at(&bytes, (sequence % 2) * PLACE)
            }
            Ok(_) => Err(io::ErrorKind::FileTooLarge.into()),
            Err(error) => Err(io::Error::other(error)),
        };
        match written {
            Ok(()) => self.sequence = sequence,
            // The next is written to the same place: the other is whole.
            Err(error) if !self.is_broken => {
                self.is_broken = true;
                error::report(&Error::io("write", &self.path, error));
            }
            Err(_) => {}
        }
    }

    fn write_at(&self, bytes: &[u8], place: u64) -> io::Result<()> {
        match &self.file {
            Some(file) => file.write_all_at(bytes, place),
            None => File::options().write(true).open(&self.path)?.write_all_at(bytes, place),
        }
    }

    /// Keeps the file open no longer than it is written.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// Removes the file.
    pub(super) fn remove(self) {
        remove(&self.path);
    }
}

/// Locks the directory. A daemon that is about to end has unmounted already, but still holds it:
/// its last words count.
fn lock(mut directory: File, path: &Path) -> Result<Flock<File>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                directory = unlocked;
                std::thread::sleep(PATIENCE / 250);
            }
            Err((_, Errno::EWOULDBLOCK)) => {
                let path = path.display();
                return Err(Error::Refused(format!("{path}: in use by another daemon")));
            }
            Err((_, errno)) => return Err(Error::io("lock", path, errno)),
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        error::report(&Error::io("remove", path, error));
    }
}

/// A path as one file name, that no other path has: `/var/lib/lxcfs` is `var-lib-lxcfs`, and
/// what is neither a letter, a digit, `_` nor `.` its hexadecimal number.
pub fn escape(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let mut name = String::with_capacity(bytes.len());
    for (index, &byte) in bytes.iter().enumerate() {
        match byte {
            b'/' if index == 0 => {}
            b'/' => name.push('-'),
            b'.' if name.is_empty() => name.push_str("\\x2e"),
            b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => name.push(char::from(byte)),
            _ => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::load::LoadAverage;
    use crate::units::Nsec;

    const MOUNTPOINT: &str = "/var/lib/lxcfs";

    /// A runtime directory, and a /proc that tells of a boot.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new() -> Machine {
            let machine = Machine(tempfile::tempdir().unwrap());
            machine.boot("one");
            machine
        }

        fn boot(&self, id: &str) {
            let dir = self.0.path().join("proc/sys/kernel/random");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("boot_id"), format!("{id}\n")).unwrap();
        }

        fn open(&self) -> Result<Store> {
            let proc = ProcRoot::open(&self.0.path().join("proc")).unwrap();
            Store::open(&self.0.path().join("run"), Path::new(MOUNTPOINT), &proc)
        }

        fn loaded(&self) -> Vec<Record> {
            self.open().unwrap().load().unwrap().into_iter().map(|(record, _)| record).collect()
        }

        fn files(&self) -> Vec<PathBuf> {
            let dir = fs::read_dir(self.0.path().join("run/history/var-lib-lxcfs")).unwrap();
            dir.map(|entry| entry.unwrap().path()).collect()
        }
    }

    fn record(active: u64) -> Record {
        let load = Some(LoadAverage::first(active, Nsec(5)));
        Record { load, ..Record::for_test(Nsec(7)) }
    }

    #[test]
    fn the_last_that_was_written_is_found_again() {
        let machine = Machine::new();
        let store = machine.open().unwrap();
        for last in 1..=3 {
            let mut slot = store.slot().unwrap();
            (1..=last).for_each(|active| slot.write(&record(active)));
        }
        drop(store);
        let mut loads: Vec<_> =
            machine.loaded().into_iter().map(|found| found.load.unwrap().hundredths()[0]).collect();
        loads.sort_unstable();
        assert_eq!(loads, [100, 200, 300]);
        // A later one has a name of its own.
        machine.open().unwrap().load().unwrap();
        let store = machine.open().unwrap();
        store.load().unwrap();
        store.slot().unwrap().write(&record(9));
        drop(store);
        assert_eq!(machine.loaded().len(), 4);
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_the_one_before() {
        let machine = Machine::new();
        let store = machine.open().unwrap();
        let mut slot = store.slot().unwrap();
        (1..=4).for_each(|active| slot.write(&record(active)));
        drop(store);
        let path = machine.files().remove(0);
        let whole = fs::read(&path).unwrap();
        // The fourth lies in the first place, the third in the second.
        let length = whole.len() - usize::try_from(PLACE).unwrap();
        for index in 0..length {
            let mut torn = whole.clone();
            torn[index] ^= 0x10;
            fs::write(&path, &torn).unwrap();
            assert_eq!(machine.loaded(), [record(3)], "byte {index}");
        }
        for end in 0..length {
            let mut torn = whole.clone();
            torn[end..length].fill(0);
            fs::write(&path, &torn).unwrap();
            let found = machine.loaded();
            assert!(found == [record(3)] || torn == whole, "from byte {end}: {found:?}");
        }
        fs::write(&path, &whole[..length]).unwrap();
        assert_eq!(machine.loaded(), [record(4)]);
    }

    #[test]
    fn what_is_none_of_ours_is_removed() {
        let machine = Machine::new();
        let store = machine.open().unwrap();
        store.slot().unwrap().write(&record(1));
        drop(store);
        let path = machine.files().remove(0);
        let whole = fs::read(&path).unwrap();
        for name in ["7", "junk"] {
            fs::write(path.with_file_name(name), "not a record").unwrap();
        }
        fs::write(path.with_file_name("copy"), &whole).unwrap();
        assert_eq!(machine.loaded(), [record(1)]);
        assert_eq!(machine.files(), std::slice::from_ref(&path));
        // The first is written to the second place, and its first byte is the version.
        let mut later = whole.clone();
        later[usize::try_from(PLACE).unwrap()] += 1;
        fs::write(&path, &later).unwrap();
        assert_eq!(machine.loaded(), []);
        assert!(machine.files().is_empty());
        fs::write(&path, &whole).unwrap();
        machine.boot("two");
        assert_eq!(machine.loaded(), []);
        assert!(machine.files().is_empty());
    }

    #[test]
    fn only_one_at_a_time() {
        let machine = Machine::new();
        let first = machine.open().unwrap();
        assert!(machine.open().unwrap_err().to_string().contains("in use by another daemon"));
        drop(first);
        machine.open().unwrap();
    }

    #[test]
    fn names_differ_where_paths_do() {
        let name = |path: &str| escape(Path::new(path));
        assert_eq!(name("/var/lib/lxcfs"), "var-lib-lxcfs");
        assert_eq!(name("/a b/c-d"), "a\\x20b-c\\x2dd");
        assert_eq!(name("/.."), "\\x2e.");
        assert_ne!(name("/a/b"), name("/a-b"));
    }
}
