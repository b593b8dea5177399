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
