//! The one table of served files. The filesystem's tree, what is rendered, what the runtime
//! mounts where, and the container engines' flags all come from it.

use std::ffi::OsString;
use std::path::Path;

/// A served file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the variants are the kernel's file names")]
pub enum ProcFile {
    Cpuinfo,
    Diskstats,
    Loadavg,
    Meminfo,
    Stat,
    Swaps,
    Uptime,
    CpuOnline,
    Slabinfo,
    Vmstat,
    PressureCpu,
    PressureIo,
    PressureMemory,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The file.
    pub file: ProcFile,
    /// Its inode number; never changes, so that a descriptor means the same to every release.
    pub ino: u64,
    /// Its path below the mountpoint, and below `/` in a container.
    pub path: &'static str,
    /// Its permission bits, the kernel's own.
    pub mode: u16,
    /// Whether runc, and so Docker, lets it be mounted with `-v`: it has a list of what may be
    /// mounted inside of /proc.
    pub docker: bool,
}

/// All served files.
pub const TABLE: &[Row] = &[
    row(ProcFile::Cpuinfo, 16, "proc/cpuinfo"),
    row(ProcFile::Diskstats, 17, "proc/diskstats"),
    row(ProcFile::Loadavg, 18, "proc/loadavg"),
    row(ProcFile::Meminfo, 19, "proc/meminfo"),
    row(ProcFile::Stat, 20, "proc/stat"),
    row(ProcFile::Swaps, 21, "proc/swaps"),
    row(ProcFile::Uptime, 22, "proc/uptime"),
    row(ProcFile::CpuOnline, 23, "sys/devices/system/cpu/online"),
    Row { mode: 0o400, ..row(ProcFile::Slabinfo, 24, "proc/slabinfo") },
    Row { docker: false, ..row(ProcFile::Vmstat, 25, "proc/vmstat") },
    pressure(ProcFile::PressureCpu, 26, "proc/pressure/cpu"),
    pressure(ProcFile::PressureIo, 27, "proc/pressure/io"),
    pressure(ProcFile::PressureMemory, 28, "proc/pressure/memory"),
];

const fn row(file: ProcFile, ino: u64, path: &'static str) -> Row {
    Row { file, ino, path, mode: 0o444, docker: true }
}

/// Written to set a trigger.
const fn pressure(file: ProcFile, ino: u64, path: &'static str) -> Row {
    Row { file, ino, path, mode: 0o666, docker: false }
}

/// A directory of the tree.
#[derive(Clone, Copy, Debug)]
pub struct Directory {
    /// Its inode number; never changes.
    pub ino: u64,
    /// Its path below the mountpoint; empty for the root.
    pub path: &'static str,
    /// Its permission bits, those of the kernel's directory of that path.
    pub mode: u16,
}

/// All directories, each after its parent.
pub const DIRECTORIES: &[Directory] = &[
    Directory { ino: 1, path: "", mode: 0o755 },
    Directory { ino: 2, path: "proc", mode: 0o555 },
    Directory { ino: 3, path: "sys", mode: 0o555 },
    Directory { ino: 4, path: "sys/devices", mode: 0o755 },
    Directory { ino: 5, path: "sys/devices/system", mode: 0o755 },
    Directory { ino: 6, path: "sys/devices/system/cpu", mode: 0o755 },
    Directory { ino: 7, path: "sys/devices/system/node", mode: 0o755 },
    Directory { ino: 8, path: "proc/pressure", mode: 0o555 },
];

/// A directory of /sys that is served as a whole: the host's own files, of which a reader is
/// shown those of its machine.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// Which one.
    pub tree: SysTree,
    /// Its path below the mountpoint, one of [`DIRECTORIES`]; files of [`TABLE`] in it stay
    /// files of the table.
    pub path: &'static str,
    /// What the directories in it are called, before a number, of which a reader is shown
    /// those that its machine has.
    pub member: &'static str,
}

impl Tree {
    /// The path below /sys of `path` in the tree.
    #[must_use]
    pub fn below_sys(&self, path: &str) -> String {
        let root = self.path.strip_prefix("sys/").unwrap_or(self.path);
        if path.is_empty() { root.to_owned() } else { format!("{root}/{path}") }
    }

    /// The number of the member that `name` is: 3 of `cpu3`.
    #[must_use]
    pub fn number_of(&self, name: &str) -> Option<u32> {
        number_after(self.member, name)
    }
}

/// The number that follows `prefix` in a name and is all of the rest: 3 of `cpu3`. `cpu03` is
/// nobody's name.
#[must_use]
pub fn number_after(prefix: &str, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// A directory of /sys that is served as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysTree {
    /// `/sys/devices/system/cpu`.
    Cpu,
    /// `/sys/devices/system/node`; CONFIG_NUMA.
    Node,
}

/// All trees.
pub const TREES: &[Tree] = &[
    Tree { tree: SysTree::Cpu, path: "sys/devices/system/cpu", member: "cpu" },
    Tree { tree: SysTree::Node, path: "sys/devices/system/node", member: "node" },
];

/// Where the daemon serves unless it is told otherwise.
pub const MOUNTPOINT: &str = "/var/lib/lxcfs";

/// What mountinfo shows as the source of our filesystem, and of every bind mount of it: `lxcfs`,
/// as of lxcfs's, or with the mountpoint where that is another one. So the mounts of a daemon
/// that has ended are known to be its own.
#[must_use]
pub fn source_at(mountpoint: &Path) -> OsString {
    let mut source = OsString::from("lxcfs");
    if mountpoint != Path::new(MOUNTPOINT) {
        source.push("@");
        source.push(mountpoint);
    }
    source
}

/// What is mounted into a container, at the same path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The path below the mountpoint.
    pub path: &'static str,
    /// Whether it is written to.
    pub is_written: bool,
    /// As [`Row::docker`].
    pub docker: bool,
    /// Whether it is a directory.
    pub is_tree: bool,
}

/// What is mounted into a container: every tree, and every file outside of them.
pub fn mounts() -> impl Iterator<Item = Mount> {
    let outside = |row: &&Row| !TREES.iter().any(|tree| Path::new(row.path).starts_with(tree.path));
    let file = |row: &Row| Mount {
        path: row.path,
        is_written: row.mode & 0o222 != 0,
        docker: row.docker,
        is_tree: false,
    };
    let tree =
        |tree: &Tree| Mount { path: tree.path, is_written: false, docker: true, is_tree: true };
    TABLE.iter().filter(outside).map(file).chain(TREES.iter().map(tree))
}

/// The row of a file.
#[must_use]
pub fn row_of(file: ProcFile) -> &'static Row {
    // The table's order is that of the enum, which a test holds.
    &TABLE[file as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn inode_numbers_and_paths_are_unique_and_in_known_directories() {
        let inos: BTreeSet<u64> =
            TABLE.iter().map(|row| row.ino).chain(DIRECTORIES.iter().map(|dir| dir.ino)).collect();
        assert_eq!(inos.len(), TABLE.len() + DIRECTORIES.len());
        for row in TABLE {
            let parent = row.path.rsplit_once('/').unwrap().0;
            assert!(DIRECTORIES.iter().any(|dir| dir.path == parent), "{}", row.path);
        }
    }

    #[test]
    fn trees_are_directories_and_mounted_as_a_whole() {
        for tree in TREES {
            assert!(DIRECTORIES.iter().any(|dir| dir.path == tree.path), "{}", tree.path);
        }
        let mounts: BTreeSet<&str> = mounts().map(|mount| mount.path).collect();
        assert!(mounts.contains("proc/meminfo") && mounts.contains("sys/devices/system/cpu"));
        assert!(!mounts.contains("sys/devices/system/cpu/online"));
        let cpu = &TREES[0];
        assert_eq!(cpu.below_sys(""), "devices/system/cpu");
        assert_eq!(cpu.below_sys("cpu1/online"), "devices/system/cpu/cpu1/online");
        assert_eq!((cpu.number_of("cpu12"), cpu.number_of("cpu0")), (Some(12), Some(0)));
        for other in ["cpufreq", "cpu", "cpu-1", "cpu99999999999", "cpu00", "cpu01", "node1"] {
            assert_eq!(cpu.number_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_source_tells_the_mountpoint() {
        assert_eq!(source_at(Path::new(MOUNTPOINT)), "lxcfs");
        assert_eq!(source_at(Path::new("/a b")), "lxcfs@/a b");
    }

    #[test]
    fn rows_are_found_by_their_file() {
        for row in TABLE {
            assert_eq!(row_of(row.file).ino, row.ino);
        }
    }
}
