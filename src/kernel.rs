//! One host, live or captured: its `/proc`, its `/sys` and its cgroup hierarchies.

use std::path::{Path, PathBuf};

use crate::cgroup::dir::CgroupDir;
use crate::cgroup::layout::{Layout, Version};
use crate::cgroup::moves::Moves;
use crate::error::Result;
use crate::procfs::ProcRoot;
use crate::procfs::sysfs::SysRoot;

/// The controllers that the files are rendered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the kernel's own names")]
pub enum Controller {
    Memory,
    Cpu,
    Cpuacct,
    Cpuset,
    Blkio,
    Hugetlb,
    Freezer,
    /// Pressure stall information: no controller, but what every cgroup of the unified hierarchy
    /// has, beside v1 ones too; Linux 4.20.
    Psi,
}

impl Controller {
    /// All of them.
    pub const ALL: [Controller; 8] = [
        Controller::Memory,
        Controller::Cpu,
        Controller::Cpuacct,
        Controller::Cpuset,
        Controller::Blkio,
        Controller::Hugetlb,
        Controller::Freezer,
        Controller::Psi,
    ];

    /// Its v1 name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Cpu => "cpu",
            Controller::Cpuacct => "cpuacct",
            Controller::Cpuset => "cpuset",
            Controller::Blkio => "blkio",
            Controller::Hugetlb => "hugetlb",
            Controller::Freezer => "freezer",
            Controller::Psi => "psi",
        }
    }
}

/// A mounted hierarchy, open at its root.
#[derive(Debug)]
pub struct Mounted {
    /// Which interface it speaks.
    pub version: Version,
    /// Its controllers as /proc/PID/cgroup spells them, sorted; empty for v2.
    pub controllers: Vec<String>,
    /// Its root directory.
    pub root: CgroupDir,
    /// Whether any controller of [`Controller`] is on it.
    pub serves: bool,
}

/// A host. Everything is found below one root directory, so that a captured tree
/// (`tests/fixtures`) is read by the same code as the machine itself.
#[derive(Debug)]
pub struct Kernel {
    /// `/proc`.
    pub proc: ProcRoot,
    /// `/sys`.
    pub sys: SysRoot,
    /// All cgroup hierarchies.
    pub hierarchies: Vec<Mounted>,
    /// What moved in them.
    pub moves: Moves,
    layout: Layout,
    controllers: [Option<usize>; Controller::ALL.len()],
}

impl Kernel {
    /// Opens the host whose root directory is `root`: `/`, or a captured tree.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] where `/proc`, `/sys` or a hierarchy cannot be opened.
    pub fn open(root: &Path) -> Result<Kernel> {
        let proc = ProcRoot::open(&root.join("proc"))?;
        let sys = SysRoot::open(&root.join("sys"))?;
        let mountinfo = proc.read("self/mountinfo")?;
        let below = |path: &Path| -> PathBuf { root.join(path.strip_prefix("/").unwrap_or(path)) };
        let mut layout = Layout::parse(&mountinfo, b"");
        if let Some(unified) = layout.unified_mount() {
            let dir = CgroupDir::open_root(&below(&unified.mount_point))?;
            let listed = dir.read("cgroup.controllers")?.unwrap_or_default();
            layout = Layout::parse(&mountinfo, &listed);
        }
        let controllers = Controller::ALL.map(|controller| layout.controller(controller.name()));
        let mut hierarchies = Vec::with_capacity(layout.hierarchies.len());
        for (index, hierarchy) in layout.hierarchies.iter().enumerate() {
            hierarchies.push(Mounted {
                version: hierarchy.version,
                controllers: hierarchy.controllers.clone(),
                root: CgroupDir::open_root(&below(&hierarchy.mount_point))?,
                serves: controllers.contains(&Some(index)),
            });
        }
        let moves = Moves::default();
        let kernel = Kernel { proc, sys, hierarchies, moves, layout, controllers };
        if let Some(memory) = kernel.hierarchy_of(Controller::Memory) {
            let Mounted { version, root, .. } = &kernel.hierarchies[memory];
            version.is_hierarchical(root)?;
        }
        Ok(kernel)
    }

    /// The index in [`Kernel::hierarchies`] of the one that has a controller.
    #[must_use]
    pub fn hierarchy_of(&self, controller: Controller) -> Option<usize> {
        self.controllers[controller as usize]
    }

    /// The path below a hierarchy's root of the cgroup that /proc/PID/cgroup calls `path`;
    /// none where the mount does not show it.
    #[must_use]
    pub fn relative<'a>(&self, hierarchy: usize, path: &'a [u8]) -> Option<&'a [u8]> {
        self.layout.hierarchies[hierarchy].relative(path)
    }
}
