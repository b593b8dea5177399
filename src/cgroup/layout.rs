//! Where each controller lives on this host, decided from `mountinfo` text.
//!
//! A host is *legacy* (v1 hierarchies only), *hybrid* (v1 hierarchies and a
//! cgroup2 mount beside them) or *unified* (cgroup2 alone). No code asks for
//! the kind as a whole: the question is always "where is controller X".

use super::path::is_at_or_below;
use crate::procfs::mountinfo::{self, Mount};
use std::path::PathBuf;

/// Which of the two cgroup interfaces a hierarchy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// One hierarchy per controller set; `Documentation/admin-guide/cgroup-v1`.
    V1,
    /// The unified hierarchy; `Documentation/admin-guide/cgroup-v2.rst`.
    V2,
}

/// One mounted cgroup hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The interface it speaks.
    pub version: Version,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The cgroup that the mount shows at its top: `/` unless it is a bind mount or was
    /// made in a cgroup namespace.
    pub mount_root: Vec<u8>,
    /// v1: its controllers, `name=systemd` included, as /proc/PID/cgroup spells them.
    /// v2: empty; which controllers it has is in `cgroup.controllers`.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// The path below the mount point of a cgroup that /proc/PID/cgroup calls `cgroup`;
    /// none where the mount does not show it. Has no leading slash.
    #[must_use]
    pub fn relative<'a>(&self, cgroup: &'a [u8]) -> Option<&'a [u8]> {
        if !is_at_or_below(cgroup, &self.mount_root) {
            return None;
        }
        let root = if self.mount_root == b"/" { 0 } else { self.mount_root.len() };
        let below = &cgroup[root..];
        let below = below.strip_prefix(b"/").unwrap_or(below);
        // A path that leaves the namespace's root ("/../x") is not below any mount of ours.
        (!below.split(|&byte| byte == b'/').any(|name| name == b"..")).then_some(below)
    }
}

/// The names of the two generations for the controllers that differ.
const V2_NAMES: &[(&str, &str)] = &[("blkio", "io"), ("cpuacct", "cpu")];

/// All cgroup hierarchies of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// In the order of mountinfo; each hierarchy once.
    pub hierarchies: Vec<Hierarchy>,
    /// What the cgroup2 root's `cgroup.controllers` lists; empty without cgroup2.
    pub unified_controllers: Vec<String>,
}

impl Layout {
    /// Reads the layout from the text of `/proc/self/mountinfo` (`proc(5)`: mount id, parent,
    /// major:minor, root, mount point, options, optional fields, `-`, type, source, super
    /// options) and of the cgroup2 root's `cgroup.controllers`. Lines of another form and
    /// other filesystems are passed over.
    ///
    /// A hierarchy that is mounted more than once counts where it is mounted at its top,
    /// else where it is mounted first.
    #[must_use]
    pub fn parse(mountinfo: &[u8], unified_controllers: &[u8]) -> Layout {
        let mut layout = Layout {
            hierarchies: Vec::new(),
            unified_controllers: String::from_utf8_lossy(unified_controllers)
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect(),
        };
        for found in mountinfo::parse(mountinfo).into_iter().filter_map(hierarchy) {
            let known = layout.hierarchies.iter_mut().find(|known| {
                known.version == found.version && known.controllers == found.controllers
            });
            match known {
                None => layout.hierarchies.push(found),
                Some(known) if known.mount_root != b"/" && found.mount_root == b"/" => {
                    *known = found
                }
                Some(_) => {}
            }
        }
        layout
    }

    /// The mount point of cgroup2, whose `cgroup.controllers` [`Layout::parse`] asks for.
    #[must_use]
    pub fn unified_mount(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.version == Version::V2)
    }

    /// The index in [`Layout::hierarchies`] of the one that has `controller`, by its v1 name
    /// (`memory`, `cpu`, `cpuacct`, `cpuset`, `blkio`, `hugetlb`, `freezer`, `pids`).
    ///
    /// A controller bound to a v1 hierarchy is never available on v2 at the same time. On v2
    /// `cpuacct` is part of every cgroup's `cpu.stat`, `freezer` and `psi` (which v1 has not) of
    /// its core files, so for these the cgroup2 mount answers where v1 has none, whatever it
    /// lists.
    #[must_use]
    pub fn controller(&self, controller: &str) -> Option<usize> {
        let on_v1 = self.hierarchies.iter().position(|hierarchy| {
            hierarchy.version == Version::V1
                && hierarchy.controllers.iter().any(|name| name == controller)
        });
        if on_v1.is_some() {
            return on_v1;
        }
        let v2_name =
            V2_NAMES.iter().find(|(v1, _)| *v1 == controller).map_or(controller, |(_, v2)| *v2);
        let listed = self.unified_controllers.iter().any(|name| name == v2_name);
        let implicit = matches!(controller, "cpuacct" | "freezer" | "psi");
        if !listed && !implicit {
            return None;
        }
        self.hierarchies.iter().position(|hierarchy| hierarchy.version == Version::V2)
    }
}

/// The hierarchy that is mounted, if it is a cgroup mount.
fn hierarchy(mount: Mount) -> Option<Hierarchy> {
    let (version, controllers) = match mount.fs_type.as_str() {
        "cgroup" => (Version::V1, v1_controllers(&mount.super_options)),
        "cgroup2" => (Version::V2, Vec::new()),
        _ => return None,
    };
    let Mount { mount_point, root, .. } = mount;
    Some(Hierarchy { version, mount_point, mount_root: root, controllers })
}

/// The controllers among a v1 mount's super options, which also hold flags.
fn v1_controllers(options: &str) -> Vec<String> {
    const FLAGS: &[&str] =
        &["rw", "ro", "noprefix", "xattr", "clone_children", "cpuset_v2_mode", "none", "all"];
    let mut names: Vec<String> = options
        .split(',')
        .filter(|option| !FLAGS.contains(option) && !option.starts_with("release_agent="))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn hybrid_answers_per_controller() {
        let layout = Layout::parse(HYBRID.as_bytes(), b"io pids\n");
        let at = |name: &str| {
            layout.controller(name).map(|index| layout.hierarchies[index].mount_point.clone())
        };
        assert_eq!(at("memory"), Some(PathBuf::from("/sys/fs/cgroup/memory")));
        assert_eq!(at("cpuacct"), Some(PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(at("blkio"), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(at("pids"), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(at("freezer"), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(at("cpuset"), None);
        assert_eq!(layout.hierarchies[2].controllers, ["name=systemd"]);
        assert_eq!(layout.unified_mount().unwrap().version, Version::V2);
    }

    #[test]
    fn unified_has_what_it_lists() {
        let layout = Layout::parse(
            b"24 23 0:21 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            b"cpuset cpu io memory hugetlb pids",
        );
        for name in ["cpuset", "cpu", "cpuacct", "blkio", "memory", "hugetlb", "freezer"] {
            assert_eq!(layout.controller(name), Some(0), "{name}");
        }
        assert_eq!(layout.controller("devices"), None);
    }

    #[test]
    fn a_mount_at_the_top_wins_over_a_bind() {
        let text = "1 2 0:1 /docker/a /mnt/x rw - cgroup cgroup rw,memory\n\
                    1 2 0:1 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    1 2 0:1 /docker/b /mnt/y rw - cgroup cgroup rw,memory\n";
        let layout = Layout::parse(text.as_bytes(), b"");
        assert_eq!(layout.hierarchies.len(), 1);
        assert_eq!(layout.hierarchies[0].mount_root, b"/");
    }

    #[test]
    fn of_equals_the_first_mount_counts() {
        let text = "1 2 0:1 /a /mnt/x rw - cgroup cgroup rw,cpu\n\
                    1 2 0:1 /b /mnt/y rw - cgroup cgroup rw,cpu\n\
                    1 2 0:2 / /mnt/z rw - cgroup2 cgroup2 rw\n\
                    1 2 0:2 / /mnt/u rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(text.as_bytes(), b"");
        let mount_points: Vec<_> =
            layout.hierarchies.iter().map(|found| found.mount_point.to_str().unwrap()).collect();
        assert_eq!(mount_points, ["/mnt/x", "/mnt/z"]);
    }

    #[test]
    fn flags_among_the_options_are_no_controllers() {
        let line = "1 2 0:1 / /x rw - cgroup cgroup rw,xattr,clone_children,cpuset_v2_mode,\
                    noprefix,release_agent=/bin/x,memory,cpuset\n";
        let layout = Layout::parse(line.as_bytes(), b"");
        assert_eq!(layout.hierarchies[0].controllers, ["cpuset", "memory"]);
    }

    #[test]
    fn paths_are_taken_relative_to_the_mount() {
        let mut hierarchy = Layout::parse(HYBRID.as_bytes(), b"").hierarchies.remove(1);
        assert_eq!(hierarchy.relative(b"/docker/a"), Some(&b"docker/a"[..]));
        assert_eq!(hierarchy.relative(b"/"), Some(&b""[..]));
        assert_eq!(hierarchy.relative(b"/../a"), None);
        hierarchy.mount_root = b"/docker".into();
        assert_eq!(hierarchy.relative(b"/docker/a"), Some(&b"a"[..]));
        assert_eq!(hierarchy.relative(b"/docker"), Some(&b""[..]));
        assert_eq!(hierarchy.relative(b"/dockerish"), None);
        assert_eq!(hierarchy.relative(b"/other"), None);
    }
}
