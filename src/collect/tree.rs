//! The directories of /sys that are served as a whole: which part of one a reader's machine
//! has, and what its files say.

use crate::container::{Subject, Who};
use crate::cpulist::CpuSet;
use crate::error::{self, Error, Result};
use crate::facts::Facts;
use crate::files::{SysTree, Tree};

use super::Collector;

/// Where the tree of CPUs is, below /sys.
const CPU: &str = "devices/system/cpu";

/// Names that a container's machine does not have: how often the host's CPUs, and with that all
/// its tenants, ran hot. Docker covers them in containers too.
const NOT_IN_CONTAINERS: &[&str] = &["thermal_throttle"];

/// Whether every reader has what has this name, apart from the members and what is in them.
#[must_use]
pub fn everybody_has(name: &str) -> bool {
    !NOT_IN_CONTAINERS.contains(&name)
}

/// The part of a tree that a reader is shown.
#[derive(Clone, Debug)]
pub struct Part {
    /// The members that it has; none where it has all.
    members: Option<CpuSet>,
    is_host: bool,
}

impl Part {
    /// Whether it has the member of this number: `cpu3`.
    #[must_use]
    pub fn has(&self, member: u32) -> bool {
        self.members.as_ref().is_none_or(|members| members.contains(member))
    }

    /// Whether it has files and directories of this name, apart from the members.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        self.is_host || everybody_has(name)
    }
}

impl Collector {
    /// The part of `tree` that `who` is shown.
    ///
    /// # Errors
    /// [`Error::Gone`] where the reader's cgroup has been removed; [`Error::Io`] where the
    /// host's CPUs cannot be told.
    pub fn part(&self, tree: SysTree, who: &Who) -> Result<Part> {
        let (container, is_host) = match &who.subject {
            Subject::Unknown => return Ok(Part { members: None, is_host: true }),
            Subject::Host(container) => (container, true),
            Subject::Container(container) => (container, false),
        };
        let members = match tree {
            SysTree::Cpu => {
                let cpus = self.cpus(container)?;
                (cpus.limited || !is_host).then_some(cpus.present)
            }
        };
        container.check_exists()?;
        Ok(Part { members, is_host })
    }

    /// The facts behind the file at `path` of a tree for `who`.
    ///
    /// # Errors
    /// As [`Collector::part`]; [`Error::Passed`] with what the kernel answers for the file, ENODEV
    /// for one of a member that the reader does not have.
    pub fn tree_file(&self, tree: &Tree, path: &str, who: &Who) -> Result<Facts> {
        let part = self.part(tree.tree, who)?;
        let names: Vec<&str> = path.split('/').collect();
        let member = names.first().and_then(|name| tree.number_of(name));
        if member.is_some_and(|member| !part.has(member))
            || !names.iter().all(|name| part.has_name(name))
        {
            return Err(Error::passed(libc::ENODEV));
        }
        let host = |path: &str| self.kernel.sys.read_public(&tree.below_sys(path));
        let text = host(path)?;
        let Some(present) = part.members else { return Ok(Facts::Verbatim(text)) };
        Ok(match tree.tree {
            SysTree::Cpu => self.cpu_file(&names, text, present)?,
        })
    }

    /// A file of the tree of CPUs; `host` is what the host says.
    fn cpu_file(&self, names: &[&str], host: Vec<u8>, present: CpuSet) -> Result<Facts> {
        Ok(match names {
            ["present"] => Facts::CpuList { cpus: present },
            ["enabled"] => among(names, host, &present),
            ["offline"] => {
                match CpuSet::parse(&self.kernel.sys.read(&format!("{CPU}/possible"))?) {
                    Some(possible) => Facts::CpuList { cpus: possible.difference(&present) },
                    None => Facts::Verbatim(host),
                }
            }
            ["smt", "active"] => Facts::SmtActive(self.has_shared_core(&present)),
            // What a CPU shares with others. By the names' ends, for that tells the form.
            [_, "topology", name] | [_, "cache", _, name] => {
                if name.ends_with("_list") {
                    among(names, host, &present)
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
    fn has_shared_core(&self, present: &CpuSet) -> bool {
        present.iter().any(|cpu| {
            let threads = format!("{CPU}/cpu{cpu}/topology/thread_siblings_list");
            let text = self.kernel.sys.read_public(&threads).unwrap_or_default();
            CpuSet::parse(&text).is_some_and(|threads| threads.intersection(present).len() > 1)
        })
    }
}

/// A list of CPUs without those that are not present.
fn among(names: &[&str], host: Vec<u8>, present: &CpuSet) -> Facts {
    match CpuSet::parse(&host) {
        Some(cpus) => Facts::CpuList { cpus: cpus.intersection(present) },
        None => {
            let expected = "a cpulist such as 0-3,7";
            error::report(&Error::malformed(names.join("/"), 1, &host, expected));
            Facts::Verbatim(host)
        }
    }
}
