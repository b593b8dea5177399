//! The daemon as a whole, from its options to its end: alone, for one container of the
//! runtime's own, or as a keeper with a worker.

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{io, num::NonZeroUsize};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::connection::{Connection, DEVICE};
use super::handover::{self, Handed};
use super::keeper::{Ended, Keeper};
use super::mountpoint::{Claim, Mounted};
use super::session::{Session, default_workers, expect_answer};
use crate::error::{Error, Result};
use crate::sys::descriptors;
use crate::vfs::Vfs;
use crate::vfs::kept::Kept;

/// Inode of the initial pid namespace in nsfs: `PROC_PID_INIT_INO`, include/linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The signals that end the daemon. SIGHUP is one of them, as its default action would leave
/// a dead mount behind when a terminal is closed.
pub(super) const END: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// As lxcfs's reload: goes on as the program that is now at this one's path.
pub(super) const RELOAD: Signal = Signal::SIGUSR1;

/// As lxcfs's: turns off and on that readers are shown their containers.
pub(super) const TOGGLE: Signal = Signal::SIGUSR2;

/// Where and how to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory to mount on; made where it is missing.
    pub mountpoint: PathBuf,
    /// Whether the directory may have files in it, which the mount hides.
    pub nonempty: bool,
    /// Whether to mount read-only, without pressure's triggers, as is done anyway where the kernel
    /// has no pressure. What another daemon has mounted stays as it is.
    pub read_only: bool,
    /// Worker threads; by default one per online CPU, at least 2 and at most 4.
    pub workers: Option<NonZeroUsize>,
    /// A file that holds the daemon's pid from readiness to the end.
    pub pidfile: Option<PathBuf>,
}

impl Options {
    pub(super) fn workers(&self) -> usize {
        self.workers.map_or_else(default_workers, NonZeroUsize::get)
    }

    /// Mounts as they say.
    pub(super) fn connect(&self, mountpoint: &Path) -> Result<Connection> {
        // A kernel without PSI has no such file; with psi=0 it has none either, or one that cannot
        // be read.
        let has_pressure = std::fs::read("/proc/pressure/cpu").is_ok();
        Connection::new(mountpoint, self.read_only || !has_pressure)
    }
}

/// How a daemon that is kept goes on where another one was.
#[derive(Debug)]
pub struct Keeping<'a> {
    /// Where its control socket is, and what outlives it.
    pub runtime_dir: PathBuf,
    /// Whether to take the connection over from a daemon that serves the mount point already.
    pub take_over: bool,
    /// The filesystem of a worker that goes on with what is kept.
    pub vfs: &'a dyn MakeVfs,
    /// Mends what containers have mounted of a connection that is no more.
    pub heal: fn(&Path) -> Result<Mended>,
}

/// What became of dead mounts in containers.
#[derive(Clone, Debug, Default)]
pub struct Mended {
    /// How many live again.
    pub healed: u64,
    /// Those that do not, a line for each.
    pub left: Vec<String>,
    /// How many would be mended were they not another daemon's, which lives.
    pub others: u64,
}

/// Makes a worker's filesystem, for the mount point it is given.
pub trait MakeVfs: std::fmt::Debug {
    /// Makes it.
    ///
    /// # Errors
    /// As [`Vfs::of_machine`].
    fn make(&self, mountpoint: &Path, kept: Arc<Kept>) -> Result<Vfs>;
}

/// Whether this program is only asked if it could start in the place of one that runs.
#[must_use]
pub fn is_probe() -> bool {
    std::env::var_os(handover::VARIABLE).is_some_and(|value| value == handover::PROBE)
}

/// Serves until a signal of `END` comes or the filesystem is unmounted by someone else, by a
/// worker that may be killed and replaced at any moment.
///
/// Must be called before the process has a second thread.
///
/// # Errors
/// What keeps it from starting.
pub fn keep(options: &Options, keeping: &Keeping<'_>) -> Result<()> {
    let signals = prepare(&[Signal::SIGCHLD, RELOAD, TOGGLE])?;
    let options = absolute(options)?;
    // The working directory must not keep a filesystem busy, ours least of all.
    std::env::set_current_dir("/").map_err(|error| Error::io("change to", "/", error))?;
    let mut handed = Handed::inherited();
    while Keeper::start(&options, keeping, &signals, handed.take())?.run()? == Ended::ButNeeded {
        log::warn!("whoever had taken over has ended; serving again");
    }
    Ok(())
}

/// Serves without a keeper, and without anything that outlives it, until a signal of `END` comes
/// or the filesystem is unmounted by someone else.
///
/// Must be called before the process has a second thread: it blocks those signals, which
/// threads inherit, so `vfs` makes the filesystem only then. `ready` is called when the mount
/// answers. After the return worker threads may still run, for readers that hold files through
/// other mounts; the process is to end, and they with it.
///
/// # Errors
/// What keeps it from starting, and a connection that broke while still mounted.
pub fn serve(
    options: &Options,
    vfs: impl FnOnce() -> Result<Vfs>,
    ready: impl FnOnce(),
) -> Result<()> {
    let signals = prepare(&[])?;
    let options = absolute(options)?;
    std::env::set_current_dir("/").map_err(|error| Error::io("change to", "/", error))?;
    let claim = Claim::new(&options.mountpoint, options.nonempty, |_| false)?;
    let vfs = Arc::new(vfs()?);

    let connection = options.connect(claim.path())?;
    let mounted = Mounted::new(claim)?;
    let session = Session::new(&connection, vfs, options.workers())?;
    let failed = |op| move |error: io::Error| Error::io(op, DEVICE, error);
    // Becomes readable, its end is closed, when the thread ends.
    let (ended, ends) = io::pipe().map_err(failed("watch"))?;
    let thread = std::thread::Builder::new()
        .name("session".to_owned())
        .spawn(move || {
            let _ends_with_this_thread = ends;
            session.run()
        })
        .map_err(failed("start a thread for"))?;
    expect_answer(mounted.path())?;
    ready();

    let place = mounted.path().display();
    if let ControlFlow::Break(signal) = wait(&signals, ended.as_fd())? {
        log::info!("{signal}: unmounting {place}");
        return Ok(());
    }
    match thread.join() {
        Ok(ended) => ended?,
        Err(_) => return Err(Error::Refused("the session's thread panicked".to_owned())),
    }
    if mounted.is_in_place() {
        return Err(Error::Refused(format!("{place}: the FUSE connection was aborted")));
    }
    log::info!("{place}: unmounted by someone else");
    Ok(())
}

/// Waits for a signal, which breaks, or for `ended`.
fn wait(signals: &SignalFd, ended: std::os::fd::BorrowedFd) -> Result<ControlFlow<Signal>> {
    loop {
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended, PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(Error::io("wait for", DEVICE, error)),
        }
        if ready[1].any() == Some(true) {
            return Ok(ControlFlow::Continue(()));
        }
        if let Some(signal) = next_signal(signals)? {
            return Ok(ControlFlow::Break(signal));
        }
    }
}

/// The signal that has come.
pub(super) fn next_signal(signals: &SignalFd) -> Result<Option<Signal>> {
    let signal = signals
        .read_signal()
        .map_err(|error| Error::Refused(format!("cannot read a signal: {}", error.desc())))?;
    let number = signal.and_then(|info| i32::try_from(info.ssi_signo).ok());
    Ok(number.and_then(|number| Signal::try_from(number).ok()))
}

/// What any daemon needs: root, the host's pid namespace, its signals, descriptors.
fn prepare(more: &[Signal]) -> Result<SignalFd> {
    require_root()?;
    require_initial_pid_namespace(Path::new("/proc/self/ns/pid"))?;
    descriptors::raise_limit();
    block_signals(more)
}

/// The options with absolute paths.
fn absolute(options: &Options) -> Result<Options> {
    let absolute =
        |path: &PathBuf| std::path::absolute(path).map_err(|error| Error::io("find", path, error));
    Ok(Options {
        mountpoint: absolute(&options.mountpoint)?,
        pidfile: options.pidfile.as_ref().map(absolute).transpose()?,
        ..options.clone()
    })
}

fn require_root() -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Refused("mounting takes root's rights; run it as root".to_owned()))
}

/// FUSE numbers the readers in the pid namespace of whoever mounts; from a child namespace
/// most of them would have no number at all.
fn require_initial_pid_namespace(namespace: &Path) -> Result<()> {
    let found =
        std::fs::metadata(namespace).map_err(|error| Error::io("stat", namespace, error))?;
    if found.ino() == INITIAL_PID_NAMESPACE {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{}: found pid:[{}], expected the initial pid namespace pid:[{INITIAL_PID_NAMESPACE}], as \
         readers elsewhere could not be told apart; start it on the host (in a pod: hostPID)",
        namespace.display(),
        found.ino(),
    )))
}

/// Blocks the signals that are obeyed in this thread and its children; they are read from the
/// result.
fn block_signals(more: &[Signal]) -> Result<SignalFd> {
    let refused =
        |error: Errno| Error::Refused(format!("cannot watch for signals: {}", error.desc()));
    let signals = SigSet::from_iter(END.iter().chain(more).copied());
    signals.thread_block().map_err(refused)?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_pid_namespace_is_refused() {
        let error = require_initial_pid_namespace(Path::new("/proc/self/ns/uts")).unwrap_err();
        assert!(error.to_string().contains("expected the initial pid namespace"), "{error}");
    }
}
