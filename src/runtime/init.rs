//! A container's first process: how it comes to be, and what its parent does meanwhile.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Pid, sethostname};

use super::cgroupview::CgroupView;
use super::confinement::Confinement;
use super::die_with::{self, Parent};
use super::kernelfs::KernelFilesystems;
use super::mountpoint::{self, Kind};
use super::names::{self, Names};
use super::namespaces::Network;
use super::procview::View;
use super::report::{self, Report};
use super::rootfs;
use super::spec::Spec;
use super::supervise::{self, Signals};
use super::terminal::{self, Pty, Session, Streams};
use super::users::{Namespace, Users};
use super::{command, namespaces, user, volumes};
use crate::cgroup::apply::Cgroups;
use crate::error::{Error, InStep as _, Result};
use crate::sys::process::{self, Child};

/// A container's first process, running its command.
#[derive(Debug)]
pub struct Init {
    child: Child,
    /// To the process, until it has become the command.
    channel: OwnedFd,
    /// Of its terminal, if it has one.
    master: Option<OwnedFd>,
}

/// A first process that has become its command.
#[derive(Debug)]
pub struct Running {
    child: Child,
    session: Session,
}

/// What the first process needs to become one.
struct Birth<'a> {
    spec: &'a Spec,
    id: &'a str,
    cgroups: &'a Cgroups,
    view: &'a View,
    confinement: &'a Confinement,
    users: Option<&'a Namespace>,
    parent: &'a Parent,
    streams: &'a Streams,
}

impl Init {
    /// Starts a container's first process, and waits until all is ready for the command.
    ///
    /// # Errors
    /// The step that failed. No process is left.
    pub fn start(
        spec: &Spec,
        id: &str,
        cgroups: &Cgroups,
        view: &View,
        confinement: &Confinement,
        streams: &Streams,
    ) -> Result<Init> {
        let (channel, of_child) = report::channel()?;
        let parent = die_with::this_process()?;
        namespaces::start_clocks_at_zero().in_step("time namespace")?;
        let users = match spec.users {
            Users::Host => None,
            Users::Own(map) => Some(&Namespace::new(map).in_step("--userns")?),
        };
        let parent = &parent;
        let birth = Birth { spec, id, cgroups, view, confinement, users, parent, streams };
        let born_into = namespaces::born_into(spec.network);
        let child = process::clone_into(born_into, cgroups.unified(), move || {
            let Err(error) = birth.become_command(&of_child);
            supervise::tell(&of_child, &error)
        })
        .map_err(|error| Error::io("clone3", "the container's first process", error))?;

        let mut init = Init { child, channel, master: None };
        if let Err(error) = namespaces::share_own_clocks().in_step("time namespace") {
            return Err(init.abandon(error));
        }
        match report::read_with(&init.channel) {
            Ok((Report::Ready, master)) => {
                init.master = master;
                Ok(init)
            }
            other => Err(init.failed(spec, other.map(|(report, _)| report))),
        }
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.child.pid
    }

    /// Has it become the command, with its streams copied.
    ///
    /// # Errors
    /// [`Error::NotExecuted`] where the command could not be executed. No process is left.
    pub fn execute(mut self, spec: &Spec, streams: Streams) -> Result<Running> {
        let session = match streams.start(self.master.take()) {
            Ok(session) => session,
            Err(error) => return Err(self.abandon(error)),
        };
        report::write(&self.channel, &Report::Ready);
        match report::read(&self.channel) {
            Ok(Report::Ended) => Ok(Running { child: self.child, session }),
            other => Err(self.failed(spec, other)),
        }
    }

    /// Ends a first process that did not become the command; returns why it did not.
    fn failed(self, spec: &Spec, report: Result<Report>) -> Error {
        let error = supervise::why(report, &spec.process.command);
        self.abandon(error)
    }

    /// Kills it because of `error`.
    #[must_use]
    pub fn abandon(self, error: Error) -> Error {
        match supervise::end(&self.child.pidfd) {
            Ok(()) => error,
            Err(undoing) => Error::Undoing { source: Box::new(error), undoing: Box::new(undoing) },
        }
    }
}

impl Running {
    /// Passes signals on to the command until it ends; returns the exit status that tells how.
    ///
    /// # Errors
    /// As [`supervise::wait`].
    pub fn wait(self, signals: &Signals, view: &View) -> Result<u8> {
        let mut is_lost = false;
        supervise::wait(&self.child.pidfd, signals, self.session, || {
            if !is_lost && view.is_lost() {
                is_lost = true;
                log::warn!("the container's own lxcfs-rs ended: its files are gone");
            }
        })
    }
}

impl Birth<'_> {
    /// The steps from a new process to the container's command.
    fn become_command(&self, channel: &OwnedFd) -> Result<Infallible> {
        let pty = self.build()?;
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        self.streams.take(pty.as_ref())?;
        process::reset_signals()
            .map_err(|error| Error::io("prepare", "the command's process", error))?;
        let term = pty.as_ref().map(|_| OsStr::new(terminal::TERM));
        let defaults = command::defaults(self.spec.hostname(self.id), term);
        if let Some(users) = self.users {
            users.enter().in_step("--userns")?;
        }
        self.close_what_is_the_hosts(channel, pty.as_ref())?;
        if let Some(pty) = &pty {
            user::look_up(&self.spec.process.user)?.own(&pty.peer)?;
        }
        let user = command::enter(&self.spec.process, self.confinement)?;
        report::meet(channel, pty.as_ref().map(|pty| &pty.master))?;
        self.parent.watch()?;
        command::execute(&self.spec.process, &defaults, &user)
    }

    /// Makes all that the container finds, and enters it; returns its terminal, if it has one.
    fn build(&self) -> Result<Option<Pty>> {
        self.cgroups.leave_lock().in_step("cgroups")?;
        self.parent.watch()?;
        umask(Mode::empty());
        self.cgroups.join().in_step("cgroups")?;
        namespaces::enter_cgroup().in_step("cgroup namespace")?;
        let hostname = self.spec.hostname(self.id);
        sethostname(hostname).map_err(|errno| Error::io("sethostname", "uts namespace", errno))?;
        namespaces::stop_propagation().in_step("mount namespace")?;

        let files = self.view.open().in_step("/proc view")?;
        let cgroup_view = CgroupView::open(self.cgroups).in_step("/sys/fs/cgroup")?;
        let devices = self.confinement.devices().in_step("devices")?;
        let volumes = volumes::open(&self.spec.volumes).in_step("--volume")?;
        let names = names::decide(hostname, self.spec.network);
        let scratch = rootfs::Scratch::mount().in_step("root filesystem")?;
        let names = Names::write(&names, &scratch, self.users).in_step("host names")?;
        let root = match &self.spec.rootfs {
            Some(dir) => rootfs::directory(dir, self.users),
            None => rootfs::copy_of_host(&scratch, self.users),
        };
        let root = root.in_step("root filesystem")?;
        scratch.detach().and_then(|()| root.enter()).in_step("root filesystem")?;
        let access = self.confinement.access();
        let kernel = KernelFilesystems::mount(access, self.users).in_step("root filesystem")?;
        cgroup_view.attach(&kernel, access).in_step("/sys/fs/cgroup")?;
        files.apply(&kernel).in_step("/proc view")?;
        if self.spec.network == Network::None {
            namespaces::start_network().in_step("network")?;
        }
        self.confinement.arrange(&kernel, &devices)?;
        if let Some(users) = self.users {
            users.make_files_as_root_inside();
        }
        names.attach().in_step("host names")?;
        volumes.attach()?;
        if let Some(directory) = &self.spec.process.directory {
            mountpoint::find_or_make(directory, Kind::Directory).in_step("working directory")?;
        }
        if self.spec.is_read_only {
            root.make_read_only().and_then(|()| names.make_read_only()).in_step("--read-only")?;
        }

        self.make_terminal(&kernel).in_step("terminal")
    }

    /// From here on paths are looked up that the container's files make: its users' files, its
    /// command's, an interpreter's. One that is a link to /proc/self/fd must find no directory
    /// of the host's, so it is not enough that exec(2) would close them.
    fn close_what_is_the_hosts(&self, channel: &OwnedFd, pty: Option<&Pty>) -> Result<()> {
        let mut kept = vec![channel.as_fd(), self.parent.as_fd()];
        kept.extend(pty.iter().flat_map(|pty| [pty.master.as_fd(), pty.peer.as_fd()]));
        process::close_all_but(&kept)
            .map_err(|error| Error::io("close", "the host's descriptors", error))
    }

    /// Makes the terminal that was asked for, and puts it where a machine has its console.
    fn make_terminal(&self, kernel: &KernelFilesystems) -> Result<Option<Pty>> {
        if !self.streams.has_terminal() {
            return Ok(None);
        }
        let pty = Pty::open()?;
        kernel.attach_console(&pty.peer)?;
        Ok(Some(pty))
    }
}
