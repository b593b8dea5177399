//! What a reader sees, and why: the same pipeline, with the words for it.

use std::ffi::OsStr;

use crate::collect::levels::Bounds;
use crate::collect::load;
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::files::TABLE;
use crate::kernel::Controller;
use crate::render::{render, source_of};

use super::{Kind, Node, Vfs};

/// A file as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explained {
    /// Its path below `/`.
    pub path: String,
    /// Its lines.
    pub lines: Vec<Line>,
    /// The host's.
    #[serde(skip)]
    pub host: String,
}

/// A line, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// The line.
    pub text: String,
    /// In words.
    pub source: String,
}

impl Vfs {
    /// What bounds the process `pid`.
    ///
    /// # Errors
    /// As reading its cgroups' files.
    pub fn bounds(&self, pid: u32) -> Result<Bounds> {
        self.with_reader(pid, |who| self.collector.bounds(who))
    }

    /// The file at `path` below the root as the process `pid` sees it.
    ///
    /// # Errors
    /// As [`Vfs::lookup`] and [`Vfs::read`].
    pub fn explain(&self, path: &str, pid: u32) -> Result<Explained> {
        let facts = self.facts(path, pid)?;
        // The host may have none where the cgroup has one.
        let host = self.facts(path, 0).map(render).unwrap_or_default();
        let host = String::from_utf8_lossy(&host).into_owned();
        let version_of = |controller| {
            let hierarchy = self.collector.kernel.hierarchy_of(controller);
            hierarchy.map(|hierarchy| self.collector.kernel.hierarchies[hierarchy].version)
        };
        let is_v1 = version_of(controller_of(&facts)) == Some(crate::cgroup::layout::Version::V1);
        let is_hosts = matches!(facts, Facts::Verbatim(_));
        let text = String::from_utf8_lossy(&render(facts)).into_owned();
        let lines = text.lines().map(|line| Line {
            text: line.to_owned(),
            source: match source_of(path, line) {
                _ if is_hosts || line.is_empty() => "the host's".to_owned(),
                Some(source) => source.words(is_v1),
                None => "a line that this version does not know".to_owned(),
            },
        });
        Ok(Explained { path: path.to_owned(), lines: lines.collect(), host })
    }

    fn facts(&self, path: &str, pid: u32) -> Result<Facts> {
        if let Some(row) = TABLE.iter().find(|row| row.path == path) {
            let now = load::boottime();
            return self.with_reader(pid, |who| self.collector.collect(row.file, who, now));
        }
        let root = self.getattr(ROOT)?;
        let found = path
            .split('/')
            .try_fold(root, |attr, name| self.lookup(attr.ino, OsStr::new(name), pid))?;
        if found.kind != Kind::Regular || Node::of(found.ino).is_some() {
            return Err(Error::IsADirectory);
        }
        let place = self.trees.place(found.ino)?;
        self.with_reader(pid, |who| self.collector.tree_file(place.tree, &place.path, who))
    }
}

/// The root directory's inode number.
const ROOT: u64 = 1;

/// The controller whose version words are chosen by.
fn controller_of(facts: &Facts) -> Controller {
    match facts {
        Facts::Meminfo { .. }
        | Facts::NodeMeminfo { .. }
        | Facts::Vmstat { .. }
        | Facts::SlabinfoHeader { .. }
        | Facts::Swaps { .. } => Controller::Memory,
        Facts::Diskstats { .. } => Controller::Blkio,
        Facts::Cpuinfo { .. }
        | Facts::CpuList { .. }
        | Facts::CpuMap { .. }
        | Facts::Distances { .. }
        | Facts::SmtActive(_) => Controller::Cpuset,
        Facts::Stat { .. } | Facts::Uptime { .. } => Controller::Cpuacct,
        Facts::Loadavg { .. } | Facts::Verbatim(_) | Facts::Own(_) => Controller::Cpu,
    }
}
