//! A further process in a running container.
//!
//! ```text
//! lxcfs-rs exec ── clone3 ──> on cgroup2 born into the container's cgroup; joins the v1 cgroups
//!      │                      and the namespaces; terminal; confined
//!      │                           └── clone: sibling ─┐
//!      └─────────────────────────> the container's pid namespace; exec
//! ```
//! What the container can see is no more than it may see. The process in between is a member
//! of its namespaces but of the pid namespace, so it is in nobody's /proc there. Its sibling,
//! which is, has given up everything by then: it has the container's capabilities, no
//! descriptor of the host's, cannot be traced without `CAP_SYS_PTRACE`, and is executed from a
//! file that cannot be written to ([`super::program`]). Both die with this process.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::sched::CloneFlags;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Pid, Uid, setfsgid, setfsuid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::confinement::Confinement;
use super::die_with::{self, Parent};
use super::records::Records;
use super::report::{self, Report};
use super::spec::{Attach, Process};
use super::state::Record;
use super::supervise::{self, Signals};
use super::terminal::{self, Pty, Streams};
use super::user::{self, User};
use super::{command, namespaces};
use crate::cgroup::apply::Cgroups;
use crate::cgroup::path::{Membership, parse_memberships};
use crate::error::{Error, InStep as _, Result};
use crate::sys::process::{self, Child};

/// What is to be executed where.
#[derive(Clone, Debug)]
pub struct Request {
    /// The container: its name, its id, or the beginning of that.
    pub container: String,
    /// The process. What it does not say is as in the container's first.
    pub process: Process,
    /// Its standard streams.
    pub attach: Attach,
    /// Whether it has all capabilities.
    pub is_privileged: bool,
}

/// What a process needs to become the command.
struct Joining<'a> {
    init: &'a OwnedFd,
    namespaces: CloneFlags,
    cgroups: &'a Cgroups,
    confinement: &'a Confinement,
    process: &'a Process,
    defaults: &'a [OsString],
    streams: &'a Streams,
    parent: &'a Parent,
}

/// Executes a command in a running container and waits for its end; returns its exit status.
///
/// # Errors
/// [`Error::NotExecuted`] where only the command's execution failed.
pub fn exec(request: &Request) -> Result<u8> {
    super::require_root()?;
    let streams = Streams::prepare(request.attach)?;
    // What is born in the container from this process is not for it to look into.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|errno| Error::io("set dumpable of", "/proc/self", errno))?;
    let layout = super::read_layout()?;
    let record = Records::of_host().find(&layout, &request.container)?;
    let init = record.init.open()?;
    let pid = Pid::from_raw(record.init.pid);
    let namespaces = namespaces::of_process(pid)?;
    let cgroups =
        Cgroups::of_running(&layout, &record.id, &memberships(pid)?).in_step("cgroups")?;
    let confinement = Confinement::new(record.confinement)?;
    let confinement =
        if request.is_privileged { confinement.with_all_capabilities()? } else { confinement };
    let term = streams.has_terminal().then(|| OsStr::new(terminal::TERM));
    let joining = Joining {
        init: &init,
        namespaces,
        cgroups: &cgroups,
        confinement: &confinement,
        process: &process_in(&record, &request.process),
        defaults: &command::defaults(OsStr::new(&record.hostname), term),
        streams: &streams,
        parent: &die_with::this_process()?,
    };
    let signals = Signals::block()?;
    let started = joining.start()?;
    let command = &request.process.command;
    // Should it fail, what waits for leave to go on ends with this process.
    let session = streams.start(started.master)?;
    report::write(&started.channel, &Report::Ready);
    let (report, child) = report::read_with(&started.channel)?;
    supervise::reap(&started.between.pidfd)?;
    let child = match (report, child) {
        (Report::Ready, Some(child)) => child,
        (report, _) => return Err(supervise::why(Ok(report), command)),
    };
    match report::read(&started.of_command) {
        Ok(Report::Ended) => {}
        other => {
            supervise::end(&child)?;
            return Err(supervise::why(other, command));
        }
    }
    supervise::wait(&child, &signals, session, || ())
}

/// The cgroups that a process is in.
fn memberships(pid: Pid) -> Result<Vec<Membership>> {
    let file = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read(&file).map_err(|error| Error::io("read", &file, error))?;
    parse_memberships(&text, &file)
}

/// A process over what the container's first has.
fn process_in(record: &Record, wanted: &Process) -> Process {
    let mut environment: Vec<OsString> = record.environment.iter().map(OsString::from).collect();
    environment.extend(wanted.environment.iter().cloned());
    let directory = wanted.directory.clone();
    let user = if wanted.user.is_empty() { &record.user } else { &wanted.user };
    Process {
        command: wanted.command.clone(),
        environment,
        directory: directory.or_else(|| record.directory.as_ref().map(PathBuf::from)),
        user: user.clone(),
    }
}

/// The process in between, which is ready.
struct Started {
    between: Child,
    /// To it.
    channel: OwnedFd,
    /// To the process that it starts.
    of_command: OwnedFd,
    /// Of the terminal, if there is one.
    master: Option<OwnedFd>,
}

impl Joining<'_> {
    fn start(&self) -> Result<Started> {
        let (channel, to_parent) = report::channel()?;
        let (of_command, by_command) = report::channel()?;
        let flags = CloneFlags::empty();
        let between = process::clone_into(flags, self.cgroups.unified(), move || {
            let Err(error) = self.join(&to_parent, &by_command) else { return 0 };
            supervise::tell(&to_parent, &error)
        })
        .map_err(|error| Error::io("clone3", "a process in the container's cgroup", error))?;
        match report::read_with(&channel) {
            Ok((Report::Ready, master)) => Ok(Started { between, channel, of_command, master }),
            other => {
                supervise::end(&between.pidfd)?;
                let report = other.map(|(report, _)| report);
                Err(supervise::why(report, &self.process.command))
            }
        }
    }

    /// The process in between: joins the container and starts the one that is the command.
    fn join(&self, channel: &OwnedFd, by_command: &OwnedFd) -> Result<()> {
        self.parent.watch()?;
        let mut kept = vec![channel.as_fd(), by_command.as_fd(), self.init.as_fd()];
        kept.push(self.parent.as_fd());
        kept.extend(self.streams.ends());
        process::close_all_but(&kept)
            .map_err(|error| Error::io("close", "the host's descriptors", error))?;
        self.cgroups.join().in_step("cgroups")?;
        namespaces::join(self.init, self.namespaces)?;
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        // In the container's user namespace, if it has one: the terminal is its root's.
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
        let pty = if self.streams.has_terminal() { Some(Pty::open()?) } else { None };
        if let Some(pty) = &pty {
            user::look_up(&self.process.user)?.own(&pty.peer)?;
        }
        let user = command::enter(self.process, self.confinement)?;
        report::meet(channel, pty.as_ref().map(|pty| &pty.master))?;
        let child = process::clone_sibling(|| {
            let Err(error) = self.become_command(pty.as_ref(), &user);
            supervise::tell(by_command, &error)
        })
        .map_err(|error| Error::io("clone", "a process in the container", error))?;
        report::write_with(channel, &Report::Ready, Some(&child));
        Ok(())
    }

    fn become_command(&self, pty: Option<&Pty>, user: &User) -> Result<Infallible> {
        self.parent.watch()?;
        self.streams.take(pty)?;
        process::reset_signals()
            .map_err(|error| Error::io("prepare", "the command's process", error))?;
        command::execute(self.process, self.defaults, user)
    }
}
