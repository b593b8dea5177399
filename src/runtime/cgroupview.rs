//! A container's view of its own cgroups, at /sys/fs/cgroup.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{mkdirat, symlinkat};

use super::kernelfs::{Access, KernelFilesystems};
use super::mounts::{self, INERT, attach_below, new_filesystem, restrict};
use crate::cgroup::apply::Cgroups;
use crate::cgroup::layout::Version;
use crate::error::{Error, Result};

/// A container's cgroups, cloned from the host's mounts before the root changes.
#[derive(Debug)]
pub struct CgroupView {
    hierarchies: Vec<HierarchyView>,
}

#[derive(Debug)]
struct HierarchyView {
    mount: OwnedFd,
    version: Version,
    /// The name of the directory below /sys/fs/cgroup: the host's.
    name: PathBuf,
    /// Further names by which its controllers are found.
    links: Vec<String>,
}

/// Where everyone looks for cgroups.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";

impl CgroupView {
    /// Clones, of every hierarchy, the directory of the container's cgroup.
    ///
    /// # Errors
    /// What open_tree(2) answers.
    pub fn open(cgroups: &Cgroups) -> Result<CgroupView> {
        let mut hierarchies = Vec::new();
        for place in cgroups.places() {
            let mount = mounts::clone(place.dir)?;
            let name = place.mount_point.file_name().map(PathBuf::from).unwrap_or_default();
            let links = place
                .controllers
                .iter()
                .filter(|controller| Path::new(controller) != name)
                .filter(|controller| !controller.starts_with("name="))
                .cloned()
                .collect();
            hierarchies.push(HierarchyView { mount, version: place.version, name, links });
        }
        Ok(CgroupView { hierarchies })
    }

    /// Attaches them where the container looks for them: cgroup2 alone at
    /// /sys/fs/cgroup itself, several hierarchies below it by their names on the host.
    ///
    /// # Errors
    /// The mount that failed.
    pub fn attach(&self, kernel: &KernelFilesystems, access: Access) -> Result<()> {
        let root = Path::new(CGROUP_ROOT);
        if let [only] = self.hierarchies.as_slice()
            && only.version == Version::V2
        {
            restrict(&only.mount, access.attributes(), root)?;
            return kernel.attach(&only.mount, root);
        }
        let parent = new_filesystem("tmpfs", &[("mode", "755")], INERT)
            .map_err(|error| Error::io("mount", root, error))?;
        kernel.attach(&parent, root)?;
        for hierarchy in &self.hierarchies {
            let place = root.join(&hierarchy.name);
            mkdirat(&parent, &hierarchy.name, 0o755.into())
                .map_err(|errno| Error::io("mkdir", &place, errno))?;
            attach_below(&hierarchy.mount, &parent, &hierarchy.name)?;
            for link in &hierarchy.links {
                symlinkat(&hierarchy.name, &parent, link)
                    .map_err(|errno| Error::io("symlink", root.join(link), errno))?;
            }
        }
        restrict(&parent, access.attributes(), root)
    }
}
