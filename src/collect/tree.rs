//! The directories of /sys that are served as a whole: which part of one a reader's machine
//! has, and what its files say.

use crate::container::Who;
use crate::cpulist::{CpuIds, CpuSet, Present};
use crate::error::{self, Error, Result};
use crate::facts::Facts;
use crate::files::{SysTree, Tree, number_after};

use super::{Collector, Scope};

/// Where the tree of CPUs is, below /sys.
const CPU: &str = "devices/system/cpu";

/// Names that a container's machine does not have: how often the host's CPUs, and with that all
/// its tenants, ran hot (Docker covers them in containers too).
const NOT_IN_CONTAINERS: &[&str] = &["thermal_throttle"];

/// Whether every reader has what has this name, apart from the members and what is in them.
#[must_use]
pub fn everybody_has(name: &str) -> bool {
    !NOT_IN_CONTAINERS.contains(&name)
}

/// The part of a tree that a reader is shown.
#[derive(Clone, Debug)]
pub struct Part {
    tree: SysTree,
    /// The members that it has; none where it has all.
    pub(super) members: Option<CpuSet>,
    /// The CPUs that it has; none where it has all.
    pub(super) cpus: Option<Present>,
    is_host: bool,
}

impl Part {
    fn whole(tree: SysTree) -> Part {
        Part { tree, members: None, cpus: None, is_host: true }
    }

    /// Whether it has what is at `path` in the tree.
    #[must_use]
    pub fn has(&self, tree: &Tree, path: &str) -> bool {
        let mut names = path.split('/');
        let member = names.next().and_then(|name| tree.number_of(name));
        let known = self.is_host || path.split('/').all(everybody_has);
        let below = match (self.tree, names.next()) {
            // Links to the node's CPUs; and to the host's memory, and its huge pages.
            (SysTree::Node, Some(name)) if member.is_some() => {
                let is_hosts = name == "hugepages" || number_after("memory", name).is_some();
                let has_cpu =
                    |cpus: &Present| number_after("cpu", name).is_none_or(|cpu| cpus.contains(cpu));
                self.cpus.as_ref().is_none_or(has_cpu) && (self.is_host || !is_hosts)
            }
            (SysTree::Cpu | SysTree::Node, _) => true,
        };
        let has_member = |members: &CpuSet| member.is_none_or(|member| members.contains(member));
        known && self.members.as_ref().is_none_or(has_member) && below
    }

    /// What the host calls what this reader calls `name` in the directory at `directory`; none for
    /// a CPU that it does not have.
    #[must_use]
    pub fn host_name(&self, tree: &Tree, directory: &str, name: &str) -> Option<String> {
        match (cpu_of(tree, directory, name), &self.cpus) {
            (Some(number), Some(cpus)) => cpus.physical(number).map(|cpu| format!("cpu{cpu}")),
            _ => Some(name.to_owned()),
        }
    }

    /// The other way round.
    #[must_use]
    pub fn shown_name(&self, tree: &Tree, directory: &str, name: &str) -> Option<String> {
        match (cpu_of(tree, directory, name), &self.cpus) {
            (Some(cpu), Some(cpus)) => cpus.number_of(cpu).map(|number| format!("cpu{number}")),
            _ => Some(name.to_owned()),
        }
    }

    /// Where the link at `path` in the tree leads, which on the host is `target`.
    #[must_use]
    pub fn shown_target(&self, tree: &Tree, path: &str, target: Vec<u8>) -> Vec<u8> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let shown = self.shown_name(tree, directory, name);
        match (target.strip_suffix(name.as_bytes()), shown) {
            (Some(start), Some(shown)) => [start, shown.as_bytes()].concat(),
            _ => target,
        }
    }
}

/// The number of the CPU that is called `name` in a directory: one, or a node's link to one.
fn cpu_of(tree: &Tree, directory: &str, name: &str) -> Option<u32> {
    let has_cpus = match tree.tree {
        SysTree::Cpu => directory.is_empty(),
        SysTree::Node => tree.number_of(directory).is_some(),
    };
    number_after("cpu", name).filter(|_| has_cpus)
}

impl Collector {
    /// The part of `tree` that `who` is shown.
    ///
    /// # Errors
    /// [`Error::Gone`] where the reader's cgroup has been removed; [`Error::Io`] where the
    /// host's CPUs cannot be told.
    pub fn part(&self, tree: SysTree, who: &Who) -> Result<Part> {
        let Some(scope) = Scope::of(who) else { return Ok(Part::whole(tree)) };
        let part = self.part_of(tree, &scope)?;
        scope.check(&self.kernel)?;
        Ok(part)
    }

    fn part_of(&self, tree: SysTree, scope: &Scope<'_>) -> Result<Part> {
        let is_host = scope.is_host;
        let cpus = self.cpus(scope)?;
        let cpus = (cpus.limited || !is_host).then_some(cpus.present);
        let members = match tree {
            SysTree::Cpu => cpus.as_ref().map(|cpus| cpus.iter().collect()),
            SysTree::Node => self.nodes(scope)?,
        };
        Ok(Part { tree, members, cpus, is_host })
    }

    /// The facts behind the file at `path` of a tree for `who`.
    ///
    /// # Errors
    /// As [`Collector::part`]; [`Error::Passed`] with what the kernel answers for the file, ENODEV
    /// for one of a member that the reader does not have.
    pub fn tree_file(&self, tree: &Tree, path: &str, who: &Who) -> Result<Facts> {
        let host = || self.kernel.sys.read_public(&tree.below_sys(path));
        let Some(scope) = Scope::of(who) else { return host().map(Facts::Verbatim) };
        let part = self.part_of(tree.tree, &scope)?;
        if !part.has(tree, path) {
            scope.check(&self.kernel)?;
            return Err(Error::passed(libc::ENODEV));
        }
        let text = host()?;
        let names: Vec<&str> = path.split('/').collect();
        let facts = match tree.tree {
            SysTree::Cpu => self.cpu_file(&names, text, part.cpus)?,
            SysTree::Node => self.node_file(&names, text, &part, &scope)?,
        };
        scope.check(&self.kernel)?;
        Ok(facts)
    }

    /// A file of the tree of CPUs; `host` is what the host says.
    fn cpu_file(&self, names: &[&str], host: Vec<u8>, present: Option<Present>) -> Result<Facts> {
        let Some(present) = present else { return Ok(Facts::Verbatim(host)) };
        Ok(match names {
            ["present"] => Facts::CpuList { cpus: present.numbers() },
            ["enabled"] => among(names, host, |cpus| present.among(cpus)),
            // The host's own numbers would be those of other CPUs here.
            ["isolated" | "nohz_full" | "housekeeping"] if present.ids() == CpuIds::Compact => {
                match CpuSet::parse(&host) {
                    Some(cpus) => Facts::CpuList { cpus: present.among(&cpus) },
                    // `(null)` where there are none.
                    None => Facts::Verbatim(host),
                }
            }
            ["offline"] => {
                match CpuSet::parse(&self.kernel.sys.read(&format!("{CPU}/possible"))?) {
                    Some(possible) => {
                        Facts::CpuList { cpus: possible.difference(&present.numbers()) }
                    }
                    None => Facts::Verbatim(host),
                }
            }
            ["smt", "active"] => Facts::SmtActive(self.has_shared_core(&present)),
            // What a CPU shares with others. By the names' ends, for that tells the form.
            [_, "topology", name] | [_, "cache", _, name] => {
                if name.ends_with("_list") {
                    among(names, host, |cpus| present.among(cpus))
                } else if ["_siblings", "_cpus", "_map"].iter().any(|end| name.ends_with(end)) {
                    Facts::CpuMap { host, present }
                } else {
                    Facts::Verbatim(host)
                }
            }
            _ => Facts::Verbatim(host),
        })
    }

    /// Whether two of the CPUs are threads of one core.
    fn has_shared_core(&self, present: &Present) -> bool {
        present.iter().any(|cpu| {
            let threads = format!("{CPU}/cpu{cpu}/topology/thread_siblings_list");
            let text = self.kernel.sys.read_public(&threads).unwrap_or_default();
            CpuSet::parse(&text).is_some_and(|threads| present.among(&threads).len() > 1)
        })
    }
}

/// A list of CPUs or nodes as `shown`.
pub(super) fn among(names: &[&str], host: Vec<u8>, shown: impl FnOnce(&CpuSet) -> CpuSet) -> Facts {
    match CpuSet::parse(&host) {
        Some(all) => Facts::CpuList { cpus: shown(&all) },
        None => {
            let expected = "a list such as 0-3,7";
            error::report(&Error::malformed(names.join("/"), 1, &host, expected));
            Facts::Verbatim(host)
        }
    }
}
