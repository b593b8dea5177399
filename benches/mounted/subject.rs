//! Who is measured, and how each is started and stopped.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use rustix::process::set_parent_process_death_signal;

use crate::daemon::{Activity, Footprint};
use crate::options::{self, Kind, Plan};
use crate::reader::Bind;
use crate::{daemon, floor, stop};

/// How long a daemon may take to mount, and to end after SIGTERM. Far more than any needs.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at something that nothing announces.
const POLL: Duration = Duration::from_millis(5);

/// The directory of a run. Only files and empty directories are ever removed from it, but for our
/// daemon's runtime directory: a mount that is still there must not be descended into.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let template = std::env::temp_dir().join("lxcfs-rs-mounted-XXXXXX");
        let path = nix::unistd::mkdtemp(&template)
            .with_context(|| format!("{}: making it", template.display()))?;
        Ok(Self { path })
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What our daemon remembers; nothing is mounted there.
        let _ = std::fs::remove_dir_all(self.path.join("run"));
        for entry in std::fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let path = entry.path();
            if std::fs::remove_file(&path).is_err() {
                let _ = std::fs::remove_dir(&path);
            }
        }
        if let Err(error) = std::fs::remove_dir(&self.path) {
            eprintln!("mounted: {}: left behind: {error}", self.path.display());
        }
    }
}

/// One column of the tables.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) kind: Kind,
    pub(crate) version: String,
    daemon: Option<Daemon>,
}

impl Subject {
    /// What is mounted over the files of a container; nothing over the kernel's own.
    pub(crate) fn binds(&self, files: &[options::File]) -> Vec<Bind> {
        if self.daemon.is_none() {
            return Vec::new();
        }
        let bind = |&file: &options::File| Bind { source: self.path(file), target: file.path() };
        files.iter().map(bind).collect()
    }

    /// Where everybody has `file` who has not mounted anything.
    pub(crate) fn path(&self, file: options::File) -> PathBuf {
        let Some(daemon) = &self.daemon else { return file.path() };
        match self.kind {
            Kind::Floor => daemon.mount_point.join(floor::NAME),
            Kind::LxcfsRs | Kind::Lxcfs | Kind::Kernel => {
                daemon.mount_point.join("proc").join(file.name())
            }
        }
    }

    /// The process that answers; none for the kernel's file.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.daemon.as_ref().map(Daemon::serving)
    }

    /// What all processes of the daemon hold.
    pub(crate) fn footprint(&self) -> Result<Option<Footprint>> {
        self.daemon.as_ref().map(|daemon| daemon::footprint(&daemon.processes())).transpose()
    }

    /// What all processes of the daemon have done so far.
    pub(crate) fn activity(&self) -> Result<Option<Activity>> {
        self.daemon.as_ref().map(|daemon| daemon::activity(&daemon.processes())).transpose()
    }
}

/// Starts the plan's subjects, one after the other, each on a mount point of its own.
pub(crate) fn start(plan: &Plan, scratch: &Scratch) -> Result<Vec<Subject>> {
    install("strace")?;
    plan.subjects.iter().map(|&kind| start_one(kind, plan, scratch)).collect()
}

fn start_one(kind: Kind, plan: &Plan, scratch: &Scratch) -> Result<Subject> {
    let mount_point = scratch.path.join(kind.name());
    let (version, command) = match kind {
        Kind::LxcfsRs => {
            let mut command = daemon_command(&plan.lxcfs_rs)?;
            // As many as the floor has, whatever either would choose.
            command.args(["serve", "--workers", &plan.workers.to_string()]).arg(&mount_point);
            command.arg("--runtime-dir").arg(scratch.path.join("run"));
            command.args((!plan.psi_triggers).then_some("--read-only"));
            (first_line(Command::new(&plan.lxcfs_rs).arg("--version"))?, command)
        }
        Kind::Lxcfs => {
            install("lxcfs")?;
            let mut command = daemon_command("lxcfs")?;
            command.args(["-f", "-l", "--enable-cfs", "--enable-pidfd", "-p"]);
            // Two lxcfs with one pidfile: the second deletes the first one's.
            command.arg(scratch.path.join("lxcfs.pid")).arg(&mount_point);
            let version = first_line(Command::new("lxcfs").arg("--version"))?;
            (format!("lxcfs {}", version.trim_matches('"')), command)
        }
        Kind::Floor => {
            let mut command = daemon_command(std::env::current_exe()?)?;
            command.arg("constant").arg(&mount_point).arg(plan.workers.to_string());
            command.args(plan.psi_triggers.then_some("--writable"));
            (format!("fuser, {} workers, {} bytes", plan.workers, floor::SIZE), command)
        }
        Kind::Kernel => {
            return Ok(Subject { kind, version: String::new(), daemon: None });
        }
    };
    let log = scratch.path.join(format!("{}.log", kind.name()));
    let daemon = Daemon::start(command, mount_point, log)
        .with_context(|| format!("{}: starting its daemon", kind.name()))?;
    Ok(Subject { kind, version, daemon: Some(daemon) })
}

/// A command that [becomes](become_daemon) `program`, in a process group of its own: a
/// terminal's ^C goes to the whole foreground group, and daemons end after the readers.
pub(crate) fn daemon_command(program: impl AsRef<OsStr>) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("daemon").arg(program).process_group(0);
    Ok(command)
}

/// Replaces this process by a daemon that hears signals, which the measuring process keeps
/// blocked, and that gets SIGTERM should that process die without running its guards.
pub(crate) fn become_daemon(program: &OsStr, arguments: &[OsString]) -> Result<()> {
    set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    SigSet::all().thread_unblock()?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| program.display().to_string())
}

/// Installs the program, whose package has its name, unless it is there.
fn install(program: &str) -> Result<()> {
    let runs = || {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    };
    if runs() {
        return Ok(());
    }
    eprintln!("mounted: no {program} here: apt-get install {program}");
    let status = Command::new("apt-get")
        .args(["install", "-y", "--no-install-recommends", program])
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null())
        .status();
    ensure!(
        status.is_ok_and(|status| status.success()) && runs(),
        "{program} is not installed and `apt-get install {program}` failed (apt-get update first?)"
    );
    Ok(())
}

/// The first line that a command prints, on either stream: lxcfs writes its version to stderr.
pub(crate) fn first_line(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{:?}", command.get_program()))?;
    let all = [output.stdout, output.stderr].concat();
    let all = String::from_utf8_lossy(&all);
    Ok(all.lines().next().unwrap_or_default().trim().to_owned())
}

/// A running daemon and its mount.
#[derive(Debug)]
struct Daemon {
    child: Child,
    mount_point: PathBuf,
}

impl Daemon {
    fn start(mut command: Command, mount_point: PathBuf, log: PathBuf) -> Result<Self> {
        std::fs::create_dir(&mount_point).with_context(|| mount_point.display().to_string())?;
        let output = File::create(&log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut daemon = Self { child, mount_point };
        daemon.wait_for_mount().with_context(|| {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            format!("it said {:?}", said.trim_end())
        })?;
        Ok(daemon)
    }

    fn wait_for_mount(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            stop::check()?;
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended before it had mounted ({status})");
            }
            if is_mounted(&self.mount_point) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "no mount after {} s", PATIENCE.as_secs());
            std::thread::sleep(POLL);
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The process that answers: of ours the worker, the keeper's child.
    fn serving(&self) -> Pid {
        let keeper = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children"));
        let children = children.unwrap_or_default();
        let worker = children.split(' ').find(|child| {
            std::fs::read_to_string(format!("/proc/{child}/comm"))
                .is_ok_and(|name| name.trim_end() == "lxcfs-rs-worker")
        });
        worker.and_then(|worker| worker.parse().ok()).map_or(keeper, Pid::from_raw)
    }

    fn processes(&self) -> Vec<Pid> {
        let mut processes = vec![self.pid(), self.serving()];
        processes.dedup();
        processes
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(self.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            eprintln!("mounted: {}: its daemon ignored SIGTERM", self.mount_point.display());
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        while is_mounted(&self.mount_point) {
            if let Err(error) = umount2(&self.mount_point, MntFlags::MNT_DETACH) {
                eprintln!("mounted: {}: left mounted: {error}", self.mount_point.display());
                return;
            }
        }
    }
}

/// Whether mountinfo has `path` as a mount point. The paths here have no blanks to unescape.
fn is_mounted(path: &Path) -> bool {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mountinfo.lines().any(|line| line.split(' ').nth(4).map(Path::new) == Some(path))
}
