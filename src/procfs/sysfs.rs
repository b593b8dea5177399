//! `/sys`: the few files that tell the machine's size, and the directories that are passed on.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::cpulist::CpuSet;
use crate::error::{Error, Result};
use crate::procfs::diskstats::Device;
use crate::procfs::shared::{Shared, Text};
use crate::sys::file;
use crate::units::Bytes;

/// A mounted sysfs, or a captured one.
#[derive(Debug)]
pub struct SysRoot {
    dir: OwnedFd,
    path: PathBuf,
    /// Fixed when the kernel boots: each with the file that tells how many pages there are.
    huge_page_sizes: Vec<(Bytes, String)>,
    shared: Shared,
}

/// What a name in /sys stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    Regular,
    /// A symbolic link.
    Symlink,
}

impl Kind {
    /// None for what /sys does not have: a FIFO or a device, which may block.
    fn of(kind: FileType) -> Option<Kind> {
        match kind {
            FileType::Directory => Some(Kind::Directory),
            FileType::RegularFile => Some(Kind::Regular),
            FileType::Symlink => Some(Kind::Symlink),
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => None,
        }
    }
}

/// What is at a path, without following a link that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Inode number. Of sysfs: not used for anything else before 2^31 more have been given out.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
}

/// One name of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: String,
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
}

/// Where the kernel tells its huge page sizes.
const HUGEPAGES: &str = "kernel/mm/hugepages";

/// The names `hugepages-*kB`, as sizes in ascending order, each with its `nr_hugepages`.
fn huge_page_sizes(sys: &OwnedFd) -> Vec<(Bytes, String)> {
    let listing = file::open_at(sys, HUGEPAGES).and_then(|dir| Ok(Dir::read_from(dir)?));
    let Ok(listing) = listing else { return Vec::new() };
    let size = |entry: rustix::io::Result<rustix::fs::DirEntry>| {
        let entry = entry.ok()?;
        let name = entry.file_name().to_str().ok()?;
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some((Bytes::from_kib(kib), format!("{HUGEPAGES}/{name}/nr_hugepages")))
    };
    let mut sizes: Vec<(Bytes, String)> = listing.filter_map(size).collect();
    sizes.sort_unstable();
    sizes
}

impl SysRoot {
    /// Opens the sysfs mounted at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no such directory.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = file::open_directory(path).map_err(|error| Error::io("open", path, error))?;
        let huge_page_sizes = huge_page_sizes(&dir);
        Ok(SysRoot { dir, path: path.to_owned(), huge_page_sizes, shared: Shared::default() })
    }

    /// Reads the file `name`, relative to the root, whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        file::read_record_at(&self.dir, name)
            .map_err(|error| Error::io("read", self.path.join(name), error))
    }

    /// As [`SysRoot::read`], but the text may have been read for another reader, at most 10 ms
    /// ago.
    fn shared(&self, name: &str) -> Result<Text> {
        self.shared
            .read_at(&self.dir, name, |file| file::reread_record(file))
            .map_err(|error| Error::io("read", self.path.join(name), error))
    }

    /// What is at `path`, relative to the root. Nothing is opened.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for what is neither file nor directory nor link;
    /// [`Error::Passed`].
    pub fn status(&self, path: &str) -> Result<Status> {
        let found = match rustix::fs::statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NAMETOOLONG) => return Err(Error::NotFound),
            Err(errno) => return Err(Error::Passed(errno.into())),
        };
        let kind = Kind::of(FileType::from_raw_mode(found.st_mode)).ok_or(Error::NotFound)?;
        let mode = u16::try_from(found.st_mode & 0o777).unwrap_or(0);
        Ok(Status { ino: found.st_ino, kind, mode })
    }

    /// What is in the directory `path`, relative to the root, without `.` and `..`.
    ///
    /// # Errors
    /// [`Error::Passed`].
    pub fn list(&self, path: &str) -> Result<Vec<Name>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let listing = rustix::fs::openat(&self.dir, path, flags, Mode::empty())
            .and_then(Dir::new)
            .map_err(|errno| Error::Passed(errno.into()))?;
        let name = |entry: rustix::io::Result<rustix::fs::DirEntry>| {
            let entry = entry.ok()?;
            let name = entry.file_name().to_str().ok()?.to_owned();
            let kind = Kind::of(entry.file_type())?;
            (name != "." && name != "..").then_some(Name { name, ino: entry.ino(), kind })
        };
        Ok(listing.filter_map(name).collect())
    }

    /// Where the link `path`, relative to the root, leads: its text.
    ///
    /// # Errors
    /// [`Error::Passed`].
    pub fn read_link(&self, path: &str) -> Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(&self.dir, path, Vec::new());
        Ok(target.map_err(|errno| Error::Passed(errno.into()))?.into_bytes())
    }

    /// Reads the file `path`, relative to the root, to pass it on: one that everybody may read.
    /// What only root may is secret, or does something: `crash_notes` is an address,
    /// `cpuinfo_cur_freq` interrupts the CPU, `probe` and `release` plug one.
    ///
    /// # Errors
    /// [`Error::Passed`]: EACCES for what not everybody may read, and what the kernel answers.
    pub fn read_public(&self, path: &str) -> Result<Vec<u8>> {
        let status = self.status(path)?;
        match status.kind {
            Kind::Regular if status.mode & 0o444 == 0o444 => {}
            Kind::Regular => return Err(Error::passed(libc::EACCES)),
            Kind::Directory => return Err(Error::IsADirectory),
            Kind::Symlink => return Err(Error::passed(libc::ELOOP)),
        }
        file::read_plain_at(&self.dir, path).map_err(Error::Passed)
    }

    /// The CPUs that run: `devices/system/cpu/online`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for text that is no cpulist, or an empty one.
    pub fn online_cpus(&self) -> Result<CpuSet> {
        const NAME: &str = "devices/system/cpu/online";
        let text = self.shared(NAME)?;
        CpuSet::parse(&text).filter(|cpus| !cpus.is_empty()).ok_or_else(|| {
            Error::malformed(self.path.join(NAME), 1, &text, "a cpulist such as 0-3,7")
        })
    }

    /// The huge page sizes that the kernel has, each with how many pages there are:
    /// `kernel/mm/hugepages/hugepages-*kB/nr_hugepages`. Empty without CONFIG_HUGETLBFS.
    #[must_use]
    pub fn huge_pages(&self) -> Vec<(Bytes, u64)> {
        let pages = |(size, name): &(Bytes, String)| {
            let text = self.shared(name).ok()?;
            Some((*size, std::str::from_utf8(&text).ok()?.trim().parse().ok()?))
        };
        self.huge_page_sizes.iter().filter_map(pages).collect()
    }

    /// How large a transparent huge page is: `kernel/mm/transparent_hugepage/hpage_pmd_size`
    /// (Linux 4.10); none without CONFIG_TRANSPARENT_HUGEPAGE.
    #[must_use]
    pub fn transparent_huge_page_size(&self) -> Option<Bytes> {
        let text = self.shared("kernel/mm/transparent_hugepage/hpage_pmd_size").ok()?;
        std::str::from_utf8(&text).ok()?.trim().parse().ok().map(Bytes)
    }

    /// Whether a block device is a partition: `dev/block/MAJOR:MINOR/partition` exists.
    #[must_use]
    pub fn is_partition(&self, device: Device) -> bool {
        let name = format!("dev/block/{device}/partition");
        rustix::fs::accessat(&self.dir, name.as_str(), rustix::fs::Access::EXISTS, AtFlags::empty())
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sys(files: &[(&str, &str)]) -> (tempfile::TempDir, SysRoot) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let sys = SysRoot::open(root.path()).unwrap();
        (root, sys)
    }

    #[test]
    fn cpus_that_run() {
        const ONLINE: &str = "devices/system/cpu/online";
        let (_root, some) = sys(&[(ONLINE, "0-2,5\n")]);
        assert_eq!(some.online_cpus().unwrap(), [0, 1, 2, 5].into_iter().collect());
        for text in ["\n", "", "x\n"] {
            let (_root, none) = sys(&[(ONLINE, text)]);
            assert!(none.online_cpus().unwrap_err().to_string().contains("a cpulist"), "{text:?}");
        }
        let (_root, absent) = sys(&[]);
        assert_eq!(absent.online_cpus().unwrap_err().errno(), libc::ENOENT);
    }

    #[test]
    fn partitions_and_whole_disks() {
        let (_root, sys) =
            sys(&[("dev/block/8:1/partition", "1\n"), ("dev/block/8:0/size", "9\n")]);
        assert!(sys.is_partition(Device { major: 8, minor: 1 }));
        assert!(!sys.is_partition(Device { major: 8, minor: 0 }));
        assert!(!sys.is_partition(Device { major: 8, minor: 2 }));
    }
}
