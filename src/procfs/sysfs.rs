//! The few files of `/sys` that tell the machine's size.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::Dir;

use crate::cpulist::CpuSet;
use crate::error::{Error, Result};
use crate::procfs::diskstats::Device;
use crate::sys::file;
use crate::units::Bytes;

/// A mounted sysfs, or a captured one.
#[derive(Debug)]
pub struct SysRoot {
    dir: OwnedFd,
    path: PathBuf,
    /// Fixed when the kernel boots.
    huge_page_sizes: Vec<Bytes>,
}

/// Where the kernel tells its huge page sizes.
const HUGEPAGES: &str = "kernel/mm/hugepages";

/// The names `hugepages-*kB`, as sizes in ascending order.
fn huge_page_sizes(sys: &OwnedFd) -> Vec<Bytes> {
    let listing = file::open_at(sys, HUGEPAGES).and_then(|dir| Ok(Dir::read_from(dir)?));
    let Ok(listing) = listing else { return Vec::new() };
    let size = |entry: rustix::io::Result<rustix::fs::DirEntry>| {
        let entry = entry.ok()?;
        let name = entry.file_name().to_str().ok()?;
        let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some(Bytes::from_kib(kib))
    };
    let mut sizes: Vec<Bytes> = listing.filter_map(size).collect();
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
        Ok(SysRoot { dir, path: path.to_owned(), huge_page_sizes })
    }

    /// Reads the file `name`, relative to the root, whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        file::read_record_at(&self.dir, name)
            .map_err(|error| Error::io("read", self.path.join(name), error))
    }

    /// The CPUs that run: `devices/system/cpu/online`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Malformed`] for text that is no cpulist, or an empty one.
    pub fn online_cpus(&self) -> Result<CpuSet> {
        const NAME: &str = "devices/system/cpu/online";
        let text = self.read(NAME)?;
        CpuSet::parse(&text).filter(|cpus| !cpus.is_empty()).ok_or_else(|| {
            Error::malformed(self.path.join(NAME), 1, &text, "a cpulist such as 0-3,7")
        })
    }

    /// The huge page sizes that the kernel has, each with how many pages there are:
    /// `kernel/mm/hugepages/hugepages-*kB/nr_hugepages`. Empty without CONFIG_HUGETLBFS.
    #[must_use]
    pub fn huge_pages(&self) -> Vec<(Bytes, u64)> {
        let pages = |size: &Bytes| {
            let name = format!("{HUGEPAGES}/hugepages-{}kB/nr_hugepages", size.kib());
            let count = std::str::from_utf8(&self.read(&name).ok()?).ok()?.trim().parse().ok()?;
            Some((*size, count))
        };
        self.huge_page_sizes.iter().filter_map(pages).collect()
    }

    /// Whether a block device is a partition: `dev/block/MAJOR:MINOR/partition` exists.
    #[must_use]
    pub fn is_partition(&self, device: Device) -> bool {
        let name = format!("dev/block/{device}/partition");
        rustix::fs::accessat(
            &self.dir,
            name.as_str(),
            rustix::fs::Access::EXISTS,
            rustix::fs::AtFlags::empty(),
        )
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
