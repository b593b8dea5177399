//! The memory nodes of a container: `/sys/devices/system/node`.
//!
//! No limit is one of a node, so the memory is spread over the container's nodes as the host's
//! is: each has its share of every amount.

use crate::cpulist::CpuSet;
use crate::error::Result;
use crate::facts::{Facts, IoCounts, Memory, MemoryEvents};
use crate::kernel::Controller;
use crate::procfs::meminfo::parse_line;
use crate::units::Bytes;

use super::tree::{Part, among};
use super::{Collector, Scope};

/// Where the tree of nodes is, below /sys.
const NODE: &str = "devices/system/node";

impl Collector {
    /// The nodes whose memory the container may use; none where these are all, for a process
    /// of the host.
    pub(super) fn nodes(&self, scope: &Scope<'_>) -> Result<Option<CpuSet>> {
        let Some(online) = self.node_list("online") else { return Ok(None) };
        let levels = scope.levels(&self.kernel, Controller::Cpuset)?;
        let mut usable = None;
        for dir in levels.dirs {
            usable = levels.version.mems(dir)?;
            if usable.is_some() {
                break;
            }
        }
        let nodes = usable.map(|usable| usable.intersection(&online));
        let nodes = nodes.filter(|nodes| !nodes.is_empty()).unwrap_or_else(|| online.clone());
        Ok((!scope.is_host || nodes != online).then_some(nodes))
    }

    /// A file of the tree of nodes; `host` is what the host says.
    pub(super) fn node_file(
        &self,
        names: &[&str],
        host: Vec<u8>,
        part: &Part,
        scope: &Scope<'_>,
    ) -> Result<Facts> {
        match (names, &part.members, &part.cpus) {
            (["possible"], _, _) => {}
            (["has_cpu"], _, Some(cpus)) => {
                let has_cpu = |node: &u32| {
                    let own = self.node_list(&format!("node{node}/cpulist")).unwrap_or_default();
                    own.iter().any(|cpu| cpus.contains(cpu))
                };
                let nodes = CpuSet::parse(&host).unwrap_or_default();
                let nodes = nodes.iter().filter(has_cpu).collect::<CpuSet>();
                let shown = part.members.as_ref().map(|members| members.intersection(&nodes));
                return Ok(Facts::CpuList { cpus: shown.unwrap_or(nodes) });
            }
            ([name], Some(nodes), _) if *name == "online" || name.starts_with("has_") => {
                return Ok(among(names, host, |all| all.intersection(nodes)));
            }
            ([_, "cpulist"], _, Some(cpus)) => {
                return Ok(among(names, host, |all| cpus.among(all)));
            }
            ([_, "cpumap"], _, Some(cpus)) => {
                return Ok(Facts::CpuMap { host, present: cpus.clone() });
            }
            ([_, "distance"], Some(nodes), _) => {
                let online = self.node_list("online").unwrap_or_default();
                let places = online.iter().enumerate();
                let kept = places.filter(|(_, node)| nodes.contains(*node)).map(|(at, _)| at);
                return Ok(Facts::Distances { host, kept: kept.collect() });
            }
            ([node, name @ ("meminfo" | "vmstat" | "numastat")], nodes, _) => {
                let machine = self.kernel.proc.meminfo()?;
                let Some(memory) = self.memory(scope, &machine)? else {
                    return Ok(Facts::Verbatim(host));
                };
                let memory = self.share(&memory, node, nodes.as_ref());
                if *name == "meminfo" {
                    return Ok(Facts::NodeMeminfo { host, memory });
                }
                // No cgroup counts events for each node in a way that outlasts a change of nodes.
                let events = MemoryEvents::default();
                let io = Some(IoCounts::default());
                let host = host.into();
                return Ok(Facts::Vmstat { host, memory, events, io, pages: self.page_sizes() });
            }
            _ => {}
        }
        Ok(Facts::Verbatim(host))
    }

    /// What of the container's memory is on the node of this name.
    fn share(&self, memory: &Memory, node: &str, nodes: Option<&CpuSet>) -> Memory {
        let nodes = nodes.cloned().or_else(|| self.node_list("online")).unwrap_or_default();
        let sizes: Vec<(bool, u64)> = nodes
            .iter()
            .map(|other| {
                let name = format!("node{other}");
                let text = self.kernel.sys.read(&format!("{NODE}/{name}/meminfo"));
                (name == node, mem_total(&text.unwrap_or_default()))
            })
            .collect();
        let before = sizes.iter().take_while(|(is_it, _)| !is_it).map(|(_, size)| size).sum();
        let own = sizes.iter().find(|(is_it, _)| *is_it).map_or(0, |(_, size)| *size);
        share_of(memory, before, own, sizes.iter().map(|(_, size)| size).sum())
    }

    /// A list of CPUs or nodes in the tree.
    fn node_list(&self, path: &str) -> Option<CpuSet> {
        CpuSet::parse(&self.kernel.sys.read(&format!("{NODE}/{path}")).ok()?)
    }
}

/// `Node 0 MemTotal:       13199572 kB`, in kB; 0 where there is no such line.
fn mem_total(text: &[u8]) -> u64 {
    let lines = text.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let mut found = lines.filter_map(|line| parse_line(line.splitn(3, ' ').nth(2)?));
    found.find(|line| line.label == "MemTotal").map_or(0, |line| line.value)
}

/// The part `own` of `all` of every amount, when `before` have had theirs: so that the parts'
/// sums are the whole.
fn share_of(memory: &Memory, before: u64, own: u64, all: u64) -> Memory {
    if own >= all {
        return *memory;
    }
    let count = |amount: u64| {
        let until = |end: u64| {
            let part = u128::from(amount) * u128::from(end) / u128::from(all);
            u64::try_from(part).unwrap_or(u64::MAX)
        };
        until(before.saturating_add(own)) - until(before)
    };
    let part = |amount: Bytes| Bytes::from_kib(count(amount.kib()));
    Memory {
        total: part(memory.total),
        free: part(memory.free),
        available: part(memory.available),
        stat: memory.stat.map(part),
        swap_total: part(memory.swap_total),
        swap_free: part(memory.swap_free),
        swap_used: part(memory.swap_used),
        huge_pages_total: count(memory.huge_pages_total),
        huge_pages_free: count(memory.huge_pages_free),
        hugetlb: part(memory.hugetlb),
        commit_limit: part(memory.commit_limit),
        committed: part(memory.committed),
        cma_total: part(memory.cma_total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_whole() {
        let stat = crate::facts::MemoryStat { anon: Bytes::from_kib(7), ..Default::default() };
        let whole = Memory {
            total: Bytes::from_kib(100),
            free: Bytes::from_kib(1),
            huge_pages_total: 5,
            stat,
            ..Memory::default()
        };
        for sizes in [[1, 1, 1], [3, 0, 4], [5, 900, 7]] {
            let all = sizes.iter().sum();
            let mut before = 0;
            let mut sum = (Bytes(0), Bytes(0), Bytes(0), 0);
            for own in sizes {
                let part = share_of(&whole, before, own, all);
                sum = (
                    sum.0 + part.total,
                    sum.1 + part.free,
                    sum.2 + part.stat.anon,
                    sum.3 + part.huge_pages_total,
                );
                before += own;
            }
            assert_eq!(sum, (whole.total, whole.free, whole.stat.anon, whole.huge_pages_total));
        }
        assert_eq!(share_of(&whole, 0, 3, 4).total, Bytes::from_kib(75));
        assert_eq!(share_of(&whole, 0, 5, 5), whole);
        assert_eq!(share_of(&whole, 0, 0, 0), whole);
    }

    #[test]
    fn a_nodes_size() {
        assert_eq!(
            mem_total(b"Node 0 MemTotal:       13199572 kB\nNode 0 MemFree: 1 kB\n"),
            13_199_572
        );
        assert_eq!(mem_total(b"Node 0\nMemTotal: 3 kB\n"), 0);
    }
}
