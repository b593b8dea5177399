//! The mini-runtime: one container from its specification to its exit status.
//!
//! [`run`] is the sequence. Every step is a function of the module that it belongs to; what a
//! step makes is undone by the function that called it, in the opposite order, and a failure
//! to undo is reported beside what went wrong before.
//!
//! ```text
//! lxcfs-rs run ── fork ──> its own daemon, only where none serves the host:
//!      │                   own mount namespace, host's pid namespace
//!      └── clone3 ───────> first process: pid, mount, uts, ipc, time, maybe net namespaces; on
//!                          cgroup2 born into its cgroup; joins the v1 cgroups; cgroup
//!                          namespace; root, /proc, our files, volumes; maybe user namespace;
//!                          confined; exec
//! ```
//! Both children die with the runtime. While it runs it is known to others by a record
//! ([`records`]): to `ps`, [`mod@stop`] and [`mod@exec`].
//!
//! Containers of any engine that run already get the files by [`mod@attach`], and get them back by
//! [`mod@heal`] when their daemon has ended; both by way of a [`target`].

pub mod attach;
pub mod capabilities;
pub mod cgroupview;
pub mod command;
pub mod confinement;
pub mod devices;
pub mod die_with;
pub mod exec;
pub mod heal;
pub mod init;
pub mod kernelfs;
pub mod limits;
pub mod masks;
pub mod mountpoint;
pub mod mounts;
pub mod names;
pub mod namespaces;
pub mod procview;
pub mod program;
pub mod records;
pub mod report;
pub mod rootfs;
pub mod seccomp;
pub mod served;
pub mod spec;
pub mod state;
pub mod stop;
pub mod supervise;
pub mod target;
pub mod terminal;
pub mod user;
pub mod users;
pub mod volumes;

use std::fs;
use std::path::Path;

use crate::cgroup::apply::{self, Cgroups};
use crate::cgroup::layout::Layout;
use crate::cpulist::CpuSet;
use crate::error::{Error, InStep as _, Result};
use confinement::{Confinement, Decided};
use init::Init;
use nix::unistd::Pid;
use procview::{Serve, View};
use records::{Entry, Records};
use spec::Spec;
use state::{Pin, Record};
use supervise::Signals;
use terminal::Streams;
use users::Users;

/// How a container ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status of its command; 128 + n where signal n ended it.
    pub status: u8,
    /// What could not be removed afterwards.
    pub left: Option<Error>,
}

/// Runs a container from its start to its end. Its files come from the daemon that serves at
/// `mountpoint`, or from one of its own that runs `serve`.
///
/// # Errors
/// The first step that failed; everything before it is undone. [`Error::NotExecuted`] where
/// everything succeeded but the command's execution.
pub fn run(spec: &Spec, mountpoint: &Path, serve: Serve<'_>) -> Result<Ended> {
    let (spec, layout) = check(spec)?;
    let signals = Signals::block()?;
    let view = View::find_or_start(mountpoint, serve).in_step("/proc view")?;
    let ended = run_with_view(&spec, &layout, &view, &signals);
    settle(ended, view.end().in_step("end of the container's own lxcfs-rs"))
}

fn run_with_view(spec: &Spec, layout: &Layout, view: &View, signals: &Signals) -> Result<Ended> {
    let records = Records::of_host();
    if let Err(error) = apply::sweep(layout, |id| records.forget(id)) {
        log::warn!("what an earlier run left: {error}");
    }
    let id = state::new_id()?;
    let cgroups = Cgroups::create(layout, &id, &spec.limits).in_step("cgroups")?;
    let ended = records.claim(layout, &id, spec.name.as_deref()).and_then(|entry| {
        let ended = run_in_cgroups(spec, &id, &cgroups, &entry, view, signals);
        settle(ended, entry.remove())
    });
    settle(ended, cgroups.remove().in_step("removal of the cgroups"))
}

fn run_in_cgroups(
    spec: &Spec,
    id: &str,
    cgroups: &Cgroups,
    entry: &Entry<'_>,
    view: &View,
    signals: &Signals,
) -> Result<Ended> {
    view.wait().in_step("the container's own lxcfs-rs")?;
    let streams = Streams::prepare(spec.attach)?;
    let confinement = Confinement::new(Decided::of(&spec.confinement)?)?;
    let init = Init::start(spec, id, cgroups, view, &confinement, &streams)?;
    // Known from before the command begins: what it starts by its container's name finds it.
    let recorded = record(spec, id, &confinement, &init).and_then(|record| entry.publish(&record));
    if let Err(error) = recorded.in_step("record") {
        return Err(init.abandon(error));
    }
    let running = init.execute(spec, streams)?;
    // With its first process every other process of a pid namespace is gone.
    let status = running.wait(signals, view)?;
    Ok(Ended { status, left: None })
}

fn record(spec: &Spec, id: &str, confinement: &Confinement, init: &Init) -> Result<Record> {
    let (init, runtime) = (Pin::of(init.pid())?, Pin::of(Pid::this())?);
    Ok(Record::new(id, spec, confinement.decided(), init, runtime))
}

/// The containers that run, the oldest first. What killed runtimes left is removed.
///
/// # Errors
/// [`Error::Refused`] where root is needed; what reading the records answers.
pub fn list() -> Result<Vec<Record>> {
    require_root()?;
    Records::of_host().living(&read_layout()?)
}

fn require_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(Error::Refused("root is needed to make and enter namespaces and cgroups".to_owned()))
    }
}

/// Joins the result of what was done with the result of undoing it.
fn settle(done: Result<Ended>, undone: Result<()>) -> Result<Ended> {
    let Err(undoing) = undone else { return done };
    match done {
        Ok(Ended { status, left: None }) => Ok(Ended { status, left: Some(undoing) }),
        Ok(Ended { status, left: Some(earlier) }) => {
            Ok(Ended { status, left: Some(both(earlier, undoing)) })
        }
        Err(source) => Err(both(source, undoing)),
    }
}

fn both(source: Error, undoing: Error) -> Error {
    Error::Undoing { source: Box::new(source), undoing: Box::new(undoing) }
}

/// Finds what would make a later step fail, before anything is made.
fn check(spec: &Spec) -> Result<(Spec, Layout)> {
    require_root()?;
    if spec.process.command.is_empty() {
        return Err(Error::Refused("no command to run".to_owned()));
    }
    namespaces::check()?;
    if spec.users != Users::Host && spec.confinement.is_privileged() {
        return Err(Error::Refused(
            "--userns: a privileged container has the host's users".to_owned(),
        ));
    }
    Decided::of(&spec.confinement)?;
    let mut spec = spec.clone();
    spec.rootfs = match &spec.rootfs {
        Some(dir) => Some(rootfs::check(dir).in_step("--rootfs")?),
        None => None,
    };
    volumes::check(&spec.volumes).in_step("--volume")?;
    let layout = read_layout()?;
    spec.limits.check(&layout)?;
    let online = read_online()?;
    limits::check(&spec.limits, &online).map_err(Error::Refused)?;
    Ok((spec, layout))
}

fn read_layout() -> Result<Layout> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let mountinfo = fs::read(MOUNTINFO).map_err(|error| Error::io("read", MOUNTINFO, error))?;
    let layout = Layout::parse(&mountinfo, b"");
    let Some(unified) = layout.unified_mount() else { return Ok(layout) };
    let path = unified.mount_point.join("cgroup.controllers");
    let controllers = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
    Ok(Layout::parse(&mountinfo, &controllers))
}

fn read_online() -> Result<CpuSet> {
    const ONLINE: &str = "/sys/devices/system/cpu/online";
    let text = fs::read(ONLINE).map_err(|error| Error::io("read", ONLINE, error))?;
    CpuSet::parse(&text).ok_or_else(|| Error::malformed(ONLINE, 1, &text, "a list of CPUs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_undoing_are_told_and_the_status_stays() {
        let left = || Err(Error::Refused("cgroup busy".into()));
        let ended = settle(Ok(Ended { status: 3, left: None }), left()).unwrap();
        assert_eq!(ended.status, 3);
        assert_eq!(ended.left.unwrap().to_string(), "cgroup busy");
        let error = settle(Err(Error::Refused("no root".into())), left()).unwrap_err();
        assert_eq!(error.to_string(), "no root; then cgroup busy");
        assert!(settle(Ok(Ended { status: 0, left: None }), Ok(())).unwrap().left.is_none());
    }
}
