//! The directories of /sys that are served as a whole.
//!
//! What is in them depends on the host and on the reader, so there is no table of it. A node's
//! number is made of what the kernel's own sysfs calls it: the inode number there, and the number
//! of the member (`cpu3`) that it is in. From that alone it is found again, also by a daemon that
//! never looked it up: by a walk through that one member, or through what is outside of all of
//! them. Paths that were found are remembered, which changes nothing but the time it takes.
//!
//! No link is ever followed: a link's text is handed out, and leads where the reader's own
//! system says. So every path is one of real directories below the tree's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::files::{DIRECTORIES, TREES, Tree};
use crate::kernel::Kernel;
use crate::procfs::sysfs::{Kind, Name, Status};

use super::Ino;

/// Tells a node of a tree from the inode numbers of [`crate::files`]. Below bit 63, for readdir
/// offsets are signed.
const MARK: u64 = 1 << 62;
/// Where the number of the tree is.
const TREE_SHIFT: u32 = 61;
/// Where the member is: its number and one, or 0 for what is in none.
const MEMBER_SHIFT: u32 = 44;
/// The member of a CPU beyond any that a kernel is built for does not fit.
const MOST_MEMBERS: u32 = 1 << 16;
/// The rest: an inode number of sysfs, which counts from 1.
const INO_MASK: u64 = (1 << MEMBER_SHIFT) - 1;

/// How many paths are remembered; the tree of a large machine has some 100 for each CPU.
const MOST_PATHS: usize = 1 << 17;

/// A node of a tree.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) tree: &'static Tree,
    pub(super) ino: Ino,
    /// The number of the member that it is, or is in.
    pub(super) member: Option<u32>,
    /// Its path below the tree's; empty for the tree itself.
    pub(super) path: Arc<str>,
}

impl Place {
    /// Its path below /sys.
    pub(super) fn below_sys(&self) -> String {
        self.tree.below_sys(&self.path)
    }

    /// Its last name.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    fn child(&self, name: &Name) -> Place {
        let is_root = self.path.is_empty();
        let is_member = is_root && name.kind == Kind::Directory;
        let number = is_member.then(|| self.tree.number_of(&name.name)).flatten();
        let member = number.filter(|number| *number < MOST_MEMBERS).or(self.member);
        let path = if is_root { name.name.clone() } else { format!("{}/{}", self.path, name.name) };
        Place {
            tree: self.tree,
            ino: number_of(self.tree, member, name.ino),
            member,
            path: path.into(),
        }
    }
}

/// The number of a node.
fn number_of(tree: &Tree, member: Option<u32>, ino: u64) -> Ino {
    let member = member.map_or(0, |member| u64::from(member) + 1);
    MARK | (tree.tree as u64) << TREE_SHIFT | member << MEMBER_SHIFT | (ino & INO_MASK)
}

/// All trees of one host.
#[derive(Debug)]
pub(super) struct Trees {
    kernel: Arc<Kernel>,
    paths: Mutex<HashMap<Ino, Arc<str>>>,
}

impl Trees {
    pub(super) fn new(kernel: Arc<Kernel>) -> Trees {
        Trees { kernel, paths: Mutex::default() }
    }

    /// The tree whose root has this number.
    pub(super) fn root(ino: Ino) -> Option<Place> {
        let directory = DIRECTORIES.iter().find(|directory| directory.ino == ino)?;
        let tree = TREES.iter().find(|tree| tree.path == directory.path)?;
        Some(Place { tree, ino, member: None, path: "".into() })
    }

    /// The node of this number.
    pub(super) fn place(&self, ino: Ino) -> Result<Place> {
        if ino & MARK == 0 {
            return Err(Error::NotFound);
        }
        let tree = TREES.get(usize::from(ino >> TREE_SHIFT & 1 == 1)).ok_or(Error::NotFound)?;
        let member = (ino & !MARK & !(1 << TREE_SHIFT)) >> MEMBER_SHIFT;
        let member = u32::try_from(member).ok().and_then(|member| member.checked_sub(1));
        let known = self.paths.lock().get(&ino).cloned();
        match known {
            Some(path) => Ok(Place { tree, ino, member, path }),
            None => self.search(tree, member, ino).ok_or(Error::NotFound),
        }
    }

    /// Walks to the node `ino` through the member that it is in.
    fn search(&self, tree: &'static Tree, member: Option<u32>, ino: Ino) -> Option<Place> {
        let root = DIRECTORIES.iter().find(|directory| directory.path == tree.path)?;
        let mut left = vec![Place { tree, ino: root.ino, member: None, path: "".into() }];
        while let Some(directory) = left.pop() {
            for (place, kind) in self.list(&directory).unwrap_or_default() {
                if place.ino == ino {
                    return Some(place);
                }
                if kind == Kind::Directory && place.member == member {
                    left.push(place);
                }
            }
        }
        None
    }

    /// What is in a directory.
    pub(super) fn list(&self, directory: &Place) -> Result<Vec<(Place, Kind)>> {
        let names = self.kernel.sys.list(&directory.below_sys())?;
        let places: Vec<(Place, Kind)> =
            names.iter().map(|name| (directory.child(name), name.kind)).collect();
        let mut paths = self.paths.lock();
        for (place, _) in &places {
            remember(&mut paths, place);
        }
        Ok(places)
    }

    /// What is called `name` in a directory.
    pub(super) fn lookup(&self, directory: &Place, name: &str) -> Result<(Place, Status)> {
        // Names come from the kernel one by one; these it resolves itself.
        if matches!(name, "" | "." | "..") || name.contains('/') {
            return Err(Error::NotFound);
        }
        // Else a path through a link would lead out of the tree.
        if self.status(directory)?.kind != Kind::Directory {
            return Err(Error::NotADirectory);
        }
        let path = directory.child(&Name { name: name.to_owned(), ino: 0, kind: Kind::Regular });
        let status = self.kernel.sys.status(&path.below_sys())?;
        let found = Name { name: name.to_owned(), ino: status.ino, kind: status.kind };
        let place = directory.child(&found);
        remember(&mut self.paths.lock(), &place);
        Ok((place, status))
    }

    /// What is at a place now.
    pub(super) fn status(&self, place: &Place) -> Result<Status> {
        self.kernel.sys.status(&place.below_sys())
    }

    /// Where the link at a place leads.
    pub(super) fn read_link(&self, place: &Place) -> Result<Vec<u8>> {
        self.kernel.sys.read_link(&place.below_sys())
    }

    /// The number of the directory that a place is in.
    pub(super) fn parent(&self, place: &Place) -> Result<Ino> {
        let root = DIRECTORIES.iter().find(|directory| directory.path == place.tree.path);
        let Some((parent, _)) = place.path.rsplit_once('/') else {
            return Ok(root.map_or(place.ino, |root| root.ino));
        };
        let status = self.kernel.sys.status(&place.tree.below_sys(parent))?;
        Ok(number_of(place.tree, place.member, status.ino))
    }
}

fn remember(paths: &mut HashMap<Ino, Arc<str>>, place: &Place) {
    // What is left of directories that the host has lost since makes room.
    if paths.len() >= MOST_PATHS {
        paths.clear();
    }
    paths.entry(place.ino).or_insert_with(|| Arc::clone(&place.path));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    /// A host with a few files of its own below /sys/devices/system/cpu.
    fn host() -> (tempfile::TempDir, Trees) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::create_dir_all(root.join("proc/self")).unwrap();
        fs::write(root.join("proc/self/mountinfo"), "").unwrap();
        let cpu = root.join("sys/devices/system/cpu");
        for member in ["cpu0/topology", "cpu0/cache/index0", "cpu1/topology", "cpu70000", "smt"] {
            fs::create_dir_all(cpu.join(member)).unwrap();
        }
        for file in ["possible", "smt/active", "cpu0/cache/index0/size", "cpu1/topology/core_id"] {
            fs::write(cpu.join(file), "1\n").unwrap();
        }
        fs::create_dir_all(root.join("sys/bus/cpu")).unwrap();
        fs::write(root.join("sys/bus/cpu/uevent"), "secret").unwrap();
        symlink("../../../../bus/cpu", cpu.join("cpu0/subsystem")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, cpu.join("cpu0/pipe"), 0o644.into()).unwrap();
        let kernel = Arc::new(Kernel::open(Path::new(root)).unwrap());
        (directory, Trees::new(kernel))
    }

    fn root() -> Place {
        let directory = DIRECTORIES.iter().find(|directory| directory.path == TREES[0].path);
        Trees::root(directory.unwrap().ino).unwrap()
    }

    fn everything(trees: &Trees) -> Vec<(Place, Kind)> {
        let mut found = Vec::new();
        let mut left = vec![root()];
        while let Some(directory) = left.pop() {
            for (place, kind) in trees.list(&directory).unwrap() {
                if kind == Kind::Directory {
                    left.push(place.clone());
                }
                found.push((place, kind));
            }
        }
        found
    }

    fn find(trees: &Trees, path: &str) -> Result<Place> {
        path.split('/')
            .try_fold(root(), |place, name| trees.lookup(&place, name).map(|(place, _)| place))
    }

    #[test]
    fn a_daemon_that_never_looked_it_up_knows_every_node() {
        let (directory, trees) = host();
        let found = everything(&trees);
        assert_eq!(found.len(), 13);
        for (place, kind) in found {
            // One that knows nothing, each time.
            let kernel = Arc::new(Kernel::open(directory.path()).unwrap());
            let later = Trees::new(kernel);
            let same = later.place(place.ino).unwrap();
            assert_eq!((&same.path, same.member), (&place.path, place.member));
            assert_eq!(later.status(&same).unwrap().kind, kind);
            assert_eq!(find(&trees, &place.path).unwrap().ino, place.ino);
            assert!(place.ino < 1 << 63);
        }
        for unknown in [0, 3, MARK, MARK | 5, MARK | 1 << TREE_SHIFT | 5, u64::MAX] {
            assert!(trees.place(unknown).is_err(), "{unknown:x}");
        }
    }

    #[test]
    fn members_are_the_directories_with_a_number() {
        let (_directory, trees) = host();
        let member = |path| find(&trees, path).unwrap().member;
        assert_eq!(member("cpu0"), Some(0));
        assert_eq!(member("cpu1/topology/core_id"), Some(1));
        assert_eq!(member("smt/active"), None);
        // No kernel has it; it is nobody's.
        assert_eq!(member("cpu70000"), None);
    }

    #[test]
    fn the_directory_above_has_the_number_that_a_lookup_gives() {
        let (_directory, trees) = host();
        let parent = |path| trees.parent(&find(&trees, path).unwrap()).unwrap();
        assert_eq!(parent("cpu0"), root().ino);
        assert_eq!(parent("smt/active"), find(&trees, "smt").unwrap().ino);
        assert_eq!(parent("cpu0/cache/index0"), find(&trees, "cpu0/cache").unwrap().ino);
    }

    #[test]
    fn nothing_leads_out_and_nothing_can_block() {
        let (_directory, trees) = host();
        let errno = |path| find(&trees, path).unwrap_err().errno();
        assert_eq!(errno("cpu0/pipe"), libc::ENOENT);
        assert_eq!(errno("cpu0/subsystem/uevent"), libc::ENOTDIR);
        assert_eq!(errno("cpu0/.."), libc::ENOENT);
        assert_eq!(errno("possible/x"), libc::ENOTDIR);
        for name in ["", "../node", "cpu0/topology", "/", &"x".repeat(300)] {
            assert_eq!(trees.lookup(&root(), name).unwrap_err().errno(), libc::ENOENT, "{name}");
        }
        let link = find(&trees, "cpu0/subsystem").unwrap();
        assert_eq!(trees.read_link(&link).unwrap(), b"../../../../bus/cpu");
        assert_eq!(trees.list(&link).unwrap_err().errno(), libc::ENOTDIR);
        assert_eq!(
            trees.kernel.sys.read_public(&link.below_sys()).unwrap_err().errno(),
            libc::ELOOP
        );
    }
}
