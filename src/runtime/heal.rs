//! Dead mounts of lxcfs in running containers, replaced by living ones.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::attach::replace;
use super::mounts::{INERT, READ_ONLY};
use super::served::{Deaths, Served, Turn};
use super::target::{self, Target, Visit, host_namespaces};
use crate::error::{Error, Result};
use crate::procfs::mountinfo::Mount;
use crate::procfs::{Namespace, NsId, ProcRoot};

/// What became of the dead mounts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Healed {
    /// How many mount namespaces were looked at.
    pub namespaces: usize,
    /// What lives again.
    pub healed: Vec<Place>,
    /// What is dead still.
    pub left: Vec<Place>,
    /// How many mounts were found that would have been healed, did not another daemon still serve
    /// them.
    #[serde(skip)]
    pub others: usize,
}

/// A place at which a dead mount was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// A process of the mount namespace.
    pub pid: u32,
    /// The path from that process's root; what is not UTF-8 has the replacement character.
    pub path: String,
    /// Why it is dead still; empty where it is not.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

/// Replaces the dead mounts of lxcfs, files and whole trees, in all mount namespaces of this
/// machine by those of the daemon at `mountpoint`: those of daemons that served there before, at
/// the usual mountpoint of lxcfs too. Others' are left to their successors. What processes hold
/// open of the dead ones stays dead.
///
/// Cheap where nothing is dead: the text of the mounts of each namespace is read once. To be
/// called by a process of one thread.
///
/// # Errors
/// [`Error::Refused`] where nobody serves at `mountpoint`, and what listing processes answers.
pub fn heal(mountpoint: &Path) -> Result<Healed> {
    target::prepare()?;
    let mut healing = Healing::new(mountpoint, Whose::Own)?;
    for pids in namespaces()?.into_values() {
        // Whose first process has just ended, others may live in.
        if let Some(target) = pids.into_iter().find_map(|pid| Target::of(pid).ok())
            && let Err(error) = healing.look_into(&target)
        {
            log::warn!("{error}");
        }
    }
    Ok(healing.healed)
}

/// Replaces all dead mounts of lxcfs in the mount namespaces of `targets`, whichever daemon's.
///
/// # Errors
/// [`Error::Refused`] where nobody serves at `mountpoint`; what looking into one answers.
pub fn heal_in(mountpoint: &Path, targets: &[Target]) -> Result<Healed> {
    target::prepare()?;
    let mut healing = Healing::new(mountpoint, Whose::All)?;
    targets.iter().try_for_each(|target| healing.look_into(target))?;
    Ok(healing.healed)
}

/// The processes of each mount namespace.
fn namespaces() -> Result<BTreeMap<NsId, Vec<u32>>> {
    let proc = ProcRoot::open(Path::new("/proc"))?;
    let mut found: BTreeMap<NsId, Vec<u32>> = BTreeMap::new();
    for pid in proc.processes()? {
        // One that has ended has none any more.
        if let Ok(namespace) = proc.namespace(pid, Namespace::Mount) {
            found.entry(namespace).or_default().push(pid);
        }
    }
    Ok(found)
}

/// Which dead mounts are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Those that the daemon succeeds.
    Own,
    /// Of any daemon.
    All,
}

struct Healing {
    served: Served,
    /// Held until the end.
    _turn: Turn,
    whose: Whose,
    deaths: Deaths,
    /// In which whole trees are the mountpoints of daemons, which replace them themselves.
    hosts: Vec<NsId>,
    healed: Healed,
}

impl Healing {
    fn new(mountpoint: &Path, whose: Whose) -> Result<Healing> {
        let turn = Turn::take()?;
        let served = Served::at(mountpoint)?;
        let (hosts, healed) = (host_namespaces()?, Healed::default());
        let deaths = Deaths::default();
        Ok(Healing { served, _turn: turn, whose, deaths, hosts, healed })
    }

    fn look_into(&mut self, target: &Target) -> Result<()> {
        self.healed.namespaces += 1;
        let mut mounts = target.lxcfs_mounts()?;
        let is_hosts = self.hosts.contains(&target.namespace);
        mounts.retain(|mount| !(is_hosts && mount.root == b"/"));
        mounts.retain(|mount| self.whose == Whose::All || self.served.succeeds(mount));
        mounts.retain(|mount| mount.device != self.served.device);
        let others = mounts.len();
        mounts.retain(|mount| self.deaths.is_dead(target, mount));
        self.healed.others += others - mounts.len();
        if mounts.is_empty() {
            return Ok(());
        }
        let pid = target.pid;
        let place = |mount: &Mount, why| {
            let path = mount.mount_point.to_string_lossy().into_owned();
            Place { pid, path, why }
        };
        let told = target.visit(|visit| revive(visit, &self.served, &mounts));
        let told =
            told.unwrap_or_else(|error| vec![Outcome::Left(error.to_string()); mounts.len()]);
        for (mount, outcome) in mounts.iter().zip(told) {
            match outcome {
                Outcome::Healed => self.healed.healed.push(place(mount, String::new())),
                Outcome::Left(why) => self.healed.left.push(place(mount, why)),
                Outcome::Hidden => {}
            }
        }
        Ok(())
    }
}

/// What became of one dead mount.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Outcome {
    Healed,
    /// Why not.
    Left(String),
    /// Nobody finds it at its place any more.
    Hidden,
}

/// In the order of `mounts`, each of them dead.
fn revive(visit: &Visit<'_>, served: &Served, mounts: &[Mount]) -> Result<Vec<Outcome>> {
    let mut living = Vec::new();
    for mount in mounts {
        let attributes = if mount.is_read_only { INERT | READ_ONLY } else { INERT };
        living.push(served.mount_of(shown_by(mount), attributes));
    }
    visit.enter()?;
    let places: Vec<&Path> = mounts.iter().map(|mount| mount.mount_point.as_path()).collect();
    let tops = visit.tops(&places)?;
    let outcomes = mounts.iter().zip(living).zip(tops).map(|((dead, living), top)| {
        let place = &dead.mount_point;
        let done = living.and_then(|living| {
            let Some(top) = top?.filter(|top| top.mount.id == dead.id) else {
                return Ok(Outcome::Hidden);
            };
            let Some(living) = living else {
                let root = shown_by(dead).display();
                return Err(Error::Refused(format!("/{root}: not served")));
            };
            replace(visit, &living, place, &top)?;
            Ok(Outcome::Healed)
        });
        done.unwrap_or_else(|error| Outcome::Left(error.to_string()))
    });
    Ok(outcomes.collect())
}

/// The path of what a bind mount shows, from its filesystem's root.
fn shown_by(mount: &Mount) -> &Path {
    // The kernel may have found the dead daemon's name to be no more.
    let root = mount.root.strip_suffix(b"//deleted").unwrap_or(&mount.root);
    Path::new(OsStr::from_bytes(root.strip_prefix(b"/").unwrap_or(root)))
}
