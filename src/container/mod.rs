//! Who is asking: from a thread id to the cgroups of the container that its reader sees.

pub mod boundary;
mod cache;
mod held;
pub mod init;
mod inside;
mod known;
mod listing;
pub mod thread;
mod time;

pub use cache::Resolver;
pub use time::Clock;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::cgroup::dir::{CgroupDir, CgroupId, nothing_if_gone};
use crate::cgroup::layout::Version;
use crate::cgroup::moves::Standing;
use crate::cgroup::path::Membership;
use crate::error::{Error, Result};
use crate::kernel::{Controller, Kernel};
use crate::units::Nsec;

/// The reader of a file and the machine that it is shown.
#[derive(Clone, Debug)]
pub struct Who {
    /// The reader's thread group as the daemon numbers it; none where it is not visible to
    /// the daemon or has ended.
    pub reader: Option<u32>,
    /// What it is shown.
    pub subject: Subject,
}

impl Who {
    /// The cgroups that bound what the reader is shown; none where nothing is known of it.
    #[must_use]
    pub fn container(&self) -> Option<&Arc<Container>> {
        match &self.subject {
            Subject::Unknown => None,
            Subject::Host(container) | Subject::Container(container) => Some(container),
        }
    }
}

/// What a reader is shown.
#[derive(Clone, Debug)]
pub enum Subject {
    /// Nothing is known of the reader: the host's file.
    Unknown,
    /// A process of the host in this cgroup: the host's file for every resource that the
    /// cgroup does not limit.
    Host(Arc<Container>),
    /// A container: its own machine, limited or not.
    Container(Arc<Container>),
}

/// A hierarchy's cgroup that bounds a container: where it is, and which it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Root {
    /// The path as the daemon's /proc/PID/cgroup spells it.
    path: Vec<u8>,
    /// Which cgroup was there when the path was found out.
    id: CgroupId,
}

/// What tells one container from any other since the machine booted: its cgroups, by
/// hierarchy; none where a hierarchy serves no controller or does not show the cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity(Arc<[Option<CgroupId>]>);

/// The cgroups that bound a container, by hierarchy: where they were when it was first seen,
/// and which they are. By this a later daemon knows it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots(Vec<Option<Root>>);

impl Roots {
    /// Which container it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity(self.0.iter().map(|root| root.as_ref().map(|root| root.id)).collect())
    }

    /// Whether the cgroups are still where they were. One that was renamed meanwhile is not.
    #[must_use]
    pub fn is_there(&self, kernel: &Kernel) -> bool {
        self.0.len() == kernel.hierarchies.len()
            && self.0.iter().enumerate().all(|(hierarchy, root)| {
                root.as_ref().is_none_or(|root| {
                    id_at(kernel, hierarchy, &root.path).is_ok_and(|found| found == Some(root.id))
                })
            })
    }
}

/// A set of cgroups, one in each hierarchy, that bound a container.
///
/// It never comes to mean another container: a hierarchy's directories are opened when something
/// is first asked of them, if they are still those of the cgroup found first, and stay these,
/// whatever becomes of their paths.
#[derive(Debug)]
pub struct Container {
    roots: Roots,
    identity: Identity,
    /// By hierarchy: what was opened of it.
    opened: Vec<OnceLock<Opened>>,
    /// How many directories that is, all opened.
    depth: usize,
    /// CLOCK_BOOTTIME when the container began.
    pub birth: Nsec,
    /// How many pid namespaces below the daemon's its processes are numbered: the place in
    /// `NSpid` of the number that the container itself knows.
    pub pid_level: usize,
    /// The clock of its processes.
    pub clock: Clock,
}

/// A hierarchy's directories of a container.
#[derive(Debug)]
struct Opened {
    /// The cgroup and its ancestors, without the hierarchy's root.
    dirs: Vec<CgroupDir>,
    /// That the cgroup is where it was.
    standing: Standing,
}

/// How many directories of containers are open, in all.
static DIRECTORIES: AtomicUsize = AtomicUsize::new(0);

impl Opened {
    fn new(dirs: Vec<CgroupDir>) -> Opened {
        DIRECTORIES.fetch_add(dirs.len(), Ordering::Relaxed);
        Opened { dirs, standing: Standing::default() }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        DIRECTORIES.fetch_sub(self.dirs.len(), Ordering::Relaxed);
    }
}

fn open_directories() -> usize {
    DIRECTORIES.load(Ordering::Relaxed)
}

impl Container {
    /// The container that is bounded by the cgroups which `memberships` name, whatever is at
    /// these paths just now: it began at `birth`, and its processes are numbered `pid_level`
    /// pid namespaces below the daemon's.
    ///
    /// # Errors
    /// [`Error::Io`] with ENOENT where one of the cgroups does not exist.
    pub fn at(
        kernel: &Kernel,
        memberships: &[Membership],
        birth: Nsec,
        pid_level: usize,
    ) -> Result<Container> {
        let paths = paths(kernel, memberships).into_iter().enumerate();
        let roots = paths
            .map(|(hierarchy, path)| {
                let Some(path) = path else { return Ok(None) };
                Ok(id_at(kernel, hierarchy, &path)?.map(|id| Root { path, id }))
            })
            .collect::<Result<_>>()?;
        Ok(Container { birth, pid_level, ..Container::of(kernel, Roots(roots)) })
    }

    /// The container of `roots`; when it began is not known yet.
    fn of(kernel: &Kernel, roots: Roots) -> Container {
        let depth =
            roots.0.iter().enumerate().filter_map(|(hierarchy, root)| {
                Some(names(kernel, hierarchy, root.as_ref()?).count())
            });
        Container {
            identity: roots.identity(),
            depth: depth.sum(),
            opened: roots.0.iter().map(|_| OnceLock::new()).collect(),
            roots,
            birth: Nsec(0),
            pid_level: 0,
            clock: Clock::default(),
        }
    }

    /// Opens the directories of one hierarchy.
    ///
    /// # Errors
    /// [`Error::Gone`] where another cgroup is at the path by now, or none.
    fn open(&self, kernel: &Kernel, hierarchy: usize) -> Result<Vec<CgroupDir>> {
        let Some(root) = &self.roots.0[hierarchy] else { return Ok(Vec::new()) };
        let gone = || Error::Gone { what: format!("cgroup {}", root.path.escape_ascii()) };
        let top = &kernel.hierarchies[hierarchy].root;
        let mut dirs: Vec<CgroupDir> = Vec::new();
        // Each from the one above, so that they are the ancestors of the last, whatever is
        // renamed or made anew at their paths meanwhile.
        for name in names(kernel, hierarchy, root) {
            let opened = dirs.last().unwrap_or(top).open_below(name);
            dirs.push(opened.map_err(|error| if error.is_gone() { gone() } else { error })?);
        }
        dirs.reverse();
        if dirs.first().unwrap_or(top).id()? != root.id {
            return Err(gone());
        }
        Ok(dirs)
    }

    /// The container's cgroup and its ancestors, nearest first, in the hierarchy that has
    /// `controller`; empty where that is the hierarchy's root, or the host lacks the controller.
    ///
    /// The files of a cgroup that is removed are absent, which else means "no limit": so what
    /// was read here counts only if [`Container::check_is_there`], or [`Container::check_exists`],
    /// is content afterwards.
    ///
    /// # Errors
    /// [`Error::Gone`] where the cgroup is not there any more, and nothing was asked of it before.
    pub fn levels(&self, kernel: &Kernel, controller: Controller) -> Result<Levels<'_>> {
        let Some(hierarchy) = kernel.hierarchy_of(controller) else {
            return Ok(Levels { version: Version::V2, dirs: &[] });
        };
        let opened = match self.opened[hierarchy].get() {
            Some(opened) => opened,
            None => {
                let opened = Opened::new(self.open(kernel, hierarchy)?);
                self.opened[hierarchy].get_or_init(|| opened)
            }
        };
        Ok(Levels { version: kernel.hierarchies[hierarchy].version, dirs: &opened.dirs })
    }

    /// Whether it has a cgroup of its own in the hierarchy that has `controller`.
    #[must_use]
    pub fn is_in(&self, kernel: &Kernel, controller: Controller) -> bool {
        let Some(hierarchy) = kernel.hierarchy_of(controller) else { return false };
        let root = self.roots.0[hierarchy].as_ref();
        root.is_some_and(|root| names(kernel, hierarchy, root).next().is_some())
    }

    /// Fails unless all of its cgroups that something was asked of still exist.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn check_exists(&self) -> Result<()> {
        let mut dirs = self.opened.iter().filter_map(|opened| opened.get()?.dirs.first());
        dirs.try_for_each(CgroupDir::check_exists)
    }

    /// Fails unless its cgroup in one hierarchy is still where it was, so that a process that is
    /// still at the same path is still in it. Only v1 renames cgroups.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub fn check_is_there(&self, kernel: &Kernel, hierarchy: usize) -> Result<()> {
        let Some(opened) = self.opened[hierarchy].get() else { return Ok(()) };
        let Some(dir) = opened.dirs.first() else { return Ok(()) };
        opened.standing.confirm(&kernel.moves, || self.look_for(dir, kernel, hierarchy))
    }

    fn look_for(&self, dir: &CgroupDir, kernel: &Kernel, hierarchy: usize) -> Result<()> {
        let root = self.roots.0[hierarchy].as_ref();
        let Some(root) = root.filter(|_| kernel.hierarchies[hierarchy].version == Version::V1)
        else {
            return dir.check_exists();
        };
        let found = id_at(kernel, hierarchy, &root.path).or_else(nothing_if_gone)?;
        if found == Some(root.id) {
            return Ok(());
        }
        Err(Error::Gone { what: format!("cgroup {}", dir.path().display()) })
    }

    /// Closes what has not been read of it since this was last called.
    pub(super) fn close_unused(&self) {
        let dirs = self.opened.iter().filter_map(OnceLock::get).flat_map(|opened| &opened.dirs);
        dirs.for_each(CgroupDir::close_unused);
    }

    /// How many directories it has open at most, once each hierarchy was asked something.
    #[must_use]
    pub fn most_directories(&self) -> usize {
        self.depth
    }

    /// Which container it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The cgroups that it was opened from.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The path of its cgroup in the hierarchy that has `controller`.
    #[must_use]
    pub fn path(&self, kernel: &Kernel, controller: Controller) -> Option<&Path> {
        let root = self.roots.0[kernel.hierarchy_of(controller)?].as_ref()?;
        Some(Path::new(OsStr::from_bytes(&root.path)))
    }
}

impl held::Holds for Container {
    /// One, whatever it has opened: that is counted for all containers together, by
    /// [`open_directories`].
    fn descriptors(&self) -> usize {
        1
    }
}

/// By hierarchy: the cgroup that one line of /proc/PID/cgroup names; none where the hierarchy
/// serves no controller.
fn paths(kernel: &Kernel, memberships: &[Membership]) -> Vec<Option<Vec<u8>>> {
    kernel
        .hierarchies
        .iter()
        .map(|hierarchy| {
            let same = |line: &&Membership| line.controllers == hierarchy.controllers;
            let line = memberships.iter().find(same).filter(|_| hierarchy.serves)?;
            Some(line.path.clone())
        })
        .collect()
}

/// The names that lead from a hierarchy's root to one of its cgroups.
fn names<'a>(kernel: &Kernel, hierarchy: usize, root: &'a Root) -> impl Iterator<Item = &'a OsStr> {
    let path = kernel.relative(hierarchy, &root.path).unwrap_or_default();
    let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    names.map(OsStr::from_bytes)
}

/// Which cgroup is at a path of a hierarchy just now; none where our mount does not show the
/// place, which then bounds nothing that can be read.
fn id_at(kernel: &Kernel, hierarchy: usize, path: &[u8]) -> Result<Option<CgroupId>> {
    let Some(below) = kernel.relative(hierarchy, path) else { return Ok(None) };
    kernel.hierarchies[hierarchy].root.id_below(OsStr::from_bytes(below)).map(Some)
}

/// A cgroup and its ancestors without the hierarchy's root, nearest first.
#[derive(Clone, Copy, Debug)]
pub struct Levels<'a> {
    /// The interface that the hierarchy speaks.
    pub version: Version,
    /// The directories.
    pub dirs: &'a [CgroupDir],
}
