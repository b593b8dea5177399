//! A container's first process: how it comes to be, and what its parent does meanwhile.

use std::convert::Infallible;
use std::env;
use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stdin, getpgrp, getpid, sethostname, setpgid, tcgetpgrp, tcsetpgrp};
use rustix::process::pidfd_send_signal;

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
use super::users::{Namespace, Users};
use super::{command, namespaces, volumes};
use crate::cgroup::apply::Cgroups;
use crate::error::{Error, InStep as _, Result};
use crate::sys::process::{self, Child};

/// `docker run`'s exit status for whatever is not the command's.
pub const STATUS_OF_RUNTIME: u8 = 125;

/// Added to the number of the signal that ended a command.
const STATUS_OF_SIGNAL: i32 = 128;

/// The signals that are passed on to the container's first process.
const FORWARDED: &[Signal] = &[
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// After so many requests to end, the container is killed. A first process that installs no
/// handler does not even notice SIGTERM and SIGINT; Docker gives up at the same count.
const PATIENCE: u32 = 3;

/// The signals that the runtime waits for. They stay blocked while it sets up and takes down,
/// so that none of them ends it half-way.
#[derive(Debug)]
pub struct Signals {
    set: SigSet,
}

impl Signals {
    /// Blocks them.
    ///
    /// # Errors
    /// What sigprocmask(2) answers.
    pub fn block() -> Result<Signals> {
        let mut set = SigSet::empty();
        FORWARDED.iter().for_each(|&signal| set.add(signal));
        set.add(Signal::SIGCHLD);
        let mut blocked = set;
        // So that the terminal can be given back by a process in its background.
        blocked.add(Signal::SIGTTOU);
        process::notice_children()
            .and_then(|()| blocked.thread_block().map_err(io::Error::from))
            .map_err(|error| Error::io("block signals of", "/proc/self", error))?;
        Ok(Signals { set })
    }
}

/// The terminal that this process has the foreground of.
#[derive(Clone, Copy, Debug)]
struct Terminal {
    /// 0, 1 or 2.
    stream: u8,
    foreground: Pid,
}

impl Terminal {
    fn find() -> Option<Terminal> {
        let foreground = getpgrp();
        (0..3)
            .map(|stream| Terminal { stream, foreground })
            .find(|terminal| terminal.is_foreground(foreground))
    }

    fn is_foreground(self, group: Pid) -> bool {
        let found = match self.stream {
            0 => tcgetpgrp(io::stdin()),
            1 => tcgetpgrp(io::stdout()),
            _ => tcgetpgrp(io::stderr()),
        };
        found == Ok(group)
    }

    /// Whether standard input is a terminal that another process group has the foreground of.
    fn is_input_anothers() -> bool {
        tcgetpgrp(io::stdin()).is_ok_and(|foreground| foreground != getpgrp())
    }

    /// Makes `group` the one that reads from it and that ^C is for.
    fn give_to(self, group: Pid) -> nix::Result<()> {
        match self.stream {
            0 => tcsetpgrp(io::stdin(), group),
            1 => tcsetpgrp(io::stdout(), group),
            _ => tcsetpgrp(io::stderr(), group),
        }
    }
}

/// A container's first process, running its command.
#[derive(Debug)]
pub struct Init {
    child: Child,
    terminal: Option<Terminal>,
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
    terminal: Option<Terminal>,
    is_in_background: bool,
}

impl Init {
    /// Starts a container's first process and waits until it has become the command.
    ///
    /// # Errors
    /// [`Error::NotExecuted`] where the command could not be executed, and the step that
    /// failed otherwise. No process is left.
    pub fn start(spec: &Spec, id: &str, cgroups: &Cgroups, view: &View) -> Result<Init> {
        let (reports, reporter) = report::channel()?;
        let parent = die_with::this_process()?;
        namespaces::start_clocks_at_zero().in_step("time namespace")?;
        // Both are asked here: a new pid namespace has no numbers for the groups out here.
        let terminal = Terminal::find();
        let is_in_background = Terminal::is_input_anothers();
        let confinement = &Confinement::plan(&spec.confinement)?;
        let users = match spec.users {
            Users::Host => None,
            Users::Own(map) => Some(&Namespace::new(map).in_step("--userns")?),
        };
        let born_into = namespaces::born_into(spec.network);
        let birth = Birth {
            spec,
            id,
            cgroups,
            view,
            confinement,
            users,
            parent: &parent,
            terminal,
            is_in_background,
        };
        let child = process::clone_into(born_into, cgroups.unified(), move || {
            let Err(error) = birth.become_command();
            let status = if let Error::NotExecuted { status, .. } = error {
                status
            } else {
                STATUS_OF_RUNTIME
            };
            report::write(&reporter, &Report::Failed { status, text: error.to_string() });
            status
        })
        .map_err(|error| Error::io("clone3", "the container's first process", error))?;

        let init = Init { child, terminal };
        match report::read(&reports) {
            Ok(Report::Ready | Report::Ended) => Ok(init),
            Ok(Report::Failed { status, text }) => {
                init.reap()?;
                Err(if status == STATUS_OF_RUNTIME {
                    Error::Refused(text)
                } else {
                    let command =
                        spec.process.command.first().map(|name| name.display().to_string());
                    let command = command.unwrap_or_default();
                    let reason = text.strip_prefix(&format!("{command}: "));
                    let reason = reason.unwrap_or(&text).to_owned();
                    Error::NotExecuted { command, reason, status }
                })
            }
            Err(error) => {
                let _ = pidfd_send_signal(&init.child.pidfd, rustix::process::Signal::KILL);
                init.reap()?;
                Err(error)
            }
        }
    }

    /// Passes signals on to the command until it ends; returns the exit status that tells how.
    ///
    /// # Errors
    /// What waitpid(2) answers.
    pub fn wait(self, signals: &Signals, view: &View) -> Result<u8> {
        let mut requests = 0;
        let mut is_lost = false;
        loop {
            let signal =
                signals.set.wait().map_err(|errno| Error::io("wait for", "signals", errno))?;
            if signal == Signal::SIGCHLD {
                match waitpid(self.child.pid, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::StillAlive) if view.is_lost() && !is_lost => {
                        is_lost = true;
                        log::warn!("the container's own lxcfs-rs ended: its files are gone");
                    }
                    Ok(WaitStatus::StillAlive) => {}
                    Ok(status) => return Ok(self.ended(status)),
                    Err(errno) => return Err(Error::io("wait for", "the command", errno)),
                }
                continue;
            }
            if matches!(signal, Signal::SIGTERM | Signal::SIGINT) {
                requests += 1;
            }
            let signal = if requests < PATIENCE { signal } else { Signal::SIGKILL };
            // It is not reaped yet, so its number is still its own.
            let _ = nix::sys::signal::kill(self.child.pid, signal);
        }
    }

    /// Waits for a first process that is about to end.
    fn reap(self) -> Result<()> {
        let status = waitpid(self.child.pid, None)
            .map_err(|errno| Error::io("wait for", "the first process", errno))?;
        self.ended(status);
        Ok(())
    }

    /// Takes the terminal back.
    fn ended(self, status: WaitStatus) -> u8 {
        if let Some(terminal) = self.terminal {
            // It may be another's by now, or hung up; neither is for us to complain about.
            let _ = terminal.give_to(terminal.foreground);
        }
        exit_status(status)
    }
}

/// A wait status as a shell reports it.
fn exit_status(status: WaitStatus) -> u8 {
    let status = match status {
        WaitStatus::Exited(_, status) => status,
        WaitStatus::Signaled(_, signal, _) => STATUS_OF_SIGNAL + signal as i32,
        // Of these waitpid(2) tells only whom it was asked for.
        WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive => return STATUS_OF_RUNTIME,
    };
    u8::try_from(status).unwrap_or(STATUS_OF_RUNTIME)
}

impl Birth<'_> {
    /// The steps from a new process to the container's command.
    fn become_command(&self) -> Result<Infallible> {
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

        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        self.take_terminal()?;
        process::reset_signals()
            .and_then(|()| process::close_all_on_exec())
            .map_err(|error| Error::io("prepare", "the command's process", error))?;
        let term = self.terminal.map(|_| env::var_os("TERM").unwrap_or_else(|| "xterm".into()));
        let defaults = command::defaults(hostname, term.as_deref());
        if let Some(users) = self.users {
            users.enter().in_step("--userns")?;
        }
        let user = command::enter(&self.spec.process, self.confinement)?;
        self.parent.watch()?;
        command::execute(&self.spec.process, &defaults, &user)
    }

    /// Makes the command a process group of its own, which has the terminal's foreground if
    /// the runtime had it: so ^C reaches the command once, not a second time through us.
    fn take_terminal(&self) -> Result<()> {
        let failed = |errno: Errno| Error::io("take", "the terminal", errno);
        if self.is_in_background {
            // A read would be answered by SIGTTIN, which a first process neither stops at nor
            // dies of: it would try again for ever. Shells give a job in the background this.
            let null = fs::File::open("/dev/null");
            let null = null.map_err(|error| Error::io("open", "/dev/null", error))?;
            dup2_stdin(null).map_err(failed)?;
        }
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(failed)?;
        match self.terminal {
            Some(terminal) => terminal.give_to(getpid()).map_err(failed),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_as_a_shell_reports_them() {
        let pid = Pid::from_raw(1);
        assert_eq!(exit_status(WaitStatus::Exited(pid, 0)), 0);
        assert_eq!(exit_status(WaitStatus::Exited(pid, 255)), 255);
        assert_eq!(exit_status(WaitStatus::Signaled(pid, Signal::SIGKILL, false)), 137);
        assert_eq!(exit_status(WaitStatus::Signaled(pid, Signal::SIGSEGV, true)), 139);
    }
}
