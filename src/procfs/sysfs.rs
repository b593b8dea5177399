//! The few files of `/sys` that tell the machine's size.

use std::path::{Path, PathBuf};

use crate::cpulist::CpuSet;
use crate::error::{Error, Result};
use crate::procfs::diskstats::Device;
use crate::sys::file;
use crate::units::Bytes;

/// A mounted sysfs, or a captured one.
#[derive(Debug)]
pub struct SysRoot {
    dir: std::os::fd::OwnedFd,
    path: PathBuf,
}

impl SysRoot {
    /// Opens the sysfs mounted at `path`.
    ///
    /// # Errors
    /// [`Error::Io`] where there is no such directory.
    pub fn open(path: &Path) -> Result<Self> {
        let dir = rustix::fs::open(
            path,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|error| Error::io("open", path, error))?;
        Ok(SysRoot { dir, path: path.to_owned() })
    }

    /// Reads the file `name`, relative to the root, whole.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        file::read_at(&self.dir, name)
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

    /// The huge page sizes that the kernel has, `kernel/mm/hugepages/hugepages-*kB`, each with
    /// how many pages there are (`nr_hugepages`). Empty without CONFIG_HUGETLBFS.
    #[must_use]
    pub fn huge_pages(&self) -> Vec<(Bytes, u64)> {
        const DIRECTORY: &str = "kernel/mm/hugepages";
        let Ok(dir) = file::open_at(&self.dir, DIRECTORY) else { return Vec::new() };
        let Ok(listing) = rustix::fs::Dir::read_from(&dir) else { return Vec::new() };
        let mut sizes: Vec<(Bytes, u64)> = listing
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let name = entry.file_name().to_str().ok()?;
                let kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
                let count = self.read(&format!("{DIRECTORY}/{name}/nr_hugepages")).ok()?;
                let count = std::str::from_utf8(&count).ok()?.trim().parse().ok()?;
                Some((Bytes::from_kib(kib), count))
            })
            .collect();
        sizes.sort_unstable();
        sizes
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
