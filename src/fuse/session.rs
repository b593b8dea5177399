//! A FUSE session from mount to unmount.
//!
//! fuser insists on reading the kernel's INIT from the descriptor it is given, and the kernel
//! sends INIT once in a connection's life. So this module mounts and reads INIT itself, plays
//! it to fuser over a socket pair, and then puts the real device in the socket's place.
//! Whoever holds a [`Connection`] can do the last two steps again: that is all that a
//! successor of a dead daemon needs.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use fuser::{Config, SessionACL};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::Adapter;
use super::mountpoint::{Claim, Mounted, unmount};
use super::notify::notify;
use super::pidfile::Pidfile;
use crate::error::{Error, Result};
use crate::files::source_at;
use crate::sys::descriptors;
use crate::sys::fuse::{Answer, ask_in_child, replace_descriptor};
use crate::vfs::Vfs;

const DEVICE: &str = "/dev/fuse";

/// Inode of the initial pid namespace in nsfs: `PROC_PID_INIT_INO`, include/linux/proc_ns.h.
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// The signals that end the daemon. SIGHUP is one of them, as its default action would leave
/// a dead mount behind when a terminal is closed.
const END: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// As lxcfs's reload.
const RELOAD: Signal = Signal::SIGUSR1;

/// As lxcfs's: turns off and on that readers are shown their containers.
const TOGGLE: Signal = Signal::SIGUSR2;

/// Where and how to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory to mount on; made where it is missing.
    pub mountpoint: PathBuf,
    /// Whether the directory may have files in it, which the mount hides.
    pub nonempty: bool,
    /// Worker threads; by default one per online CPU, at least 2 and at most 4.
    pub workers: Option<NonZeroUsize>,
    /// A file that holds the daemon's pid from readiness to the end.
    pub pidfile: Option<PathBuf>,
}

/// A FUSE connection to the kernel: everything that a session is started, or resumed, from.
#[derive(Debug)]
pub struct Connection {
    /// /dev/fuse; blocking, as fuser would spin otherwise.
    pub device: OwnedFd,
    /// The kernel's INIT request.
    pub init_request: Vec<u8>,
    /// What the kernel was answered; none as long as it waits for it.
    pub init_reply: Option<Vec<u8>>,
}

/// Serves until a signal of `END` comes or the filesystem is unmounted by someone else.
/// SIGUSR2 turns off and on that readers are shown their containers; SIGUSR1, lxcfs's reload,
/// turns it on.
///
/// Must be called before the process has a second thread: it blocks those signals, which
/// threads inherit, so `vfs` makes the filesystem, for the mount point it is given, only then. `ready` is called when the mount
/// answers. After the return worker threads may still run, for readers that hold files through
/// other mounts; the process is to end, and they with it.
///
/// # Errors
/// What keeps it from starting, and a connection that broke while still mounted.
pub fn serve(
    options: &Options,
    vfs: impl FnOnce(&Path) -> Result<Vfs>,
    ready: impl FnOnce(),
) -> Result<()> {
    require_root()?;
    require_initial_pid_namespace(Path::new("/proc/self/ns/pid"))?;
    let signals = block_signals()?;
    descriptors::raise_limit();
    let mountpoint = absolute(&options.mountpoint)?;
    let pidfile = options.pidfile.as_deref().map(absolute).transpose()?;
    // The working directory must not keep a filesystem busy, ours least of all.
    std::env::set_current_dir("/").map_err(|error| Error::io("change to", "/", error))?;

    let claim = Claim::new(&mountpoint, options.nonempty)?;
    let mut pidfile = pidfile.as_deref().map(Pidfile::lock).transpose()?;
    let vfs = Arc::new(vfs(claim.path())?);
    let workers = options.workers.map_or_else(default_workers, NonZeroUsize::get);

    let connection = connect(claim.path())?;
    let mounted = Mounted::new(claim)?;
    let session = Session::start(connection, Arc::clone(&vfs), workers)?;
    expect_answer(mounted.path())?;

    if let Some(pidfile) = &mut pidfile {
        pidfile.write()?;
    }
    let place = mounted.path().display();
    log::info!("serving {place} with {workers} workers");
    let pid = std::process::id();
    notify(&format!("READY=1\nSTATUS=Serving {place}\nMAINPID={pid}\n"));
    ready();

    let end = session.wait(&signals, |signal| obey(&vfs, signal));
    notify("STOPPING=1\n");
    match end? {
        End::Signal(signal) => log::info!("{signal}: unmounting {place}"),
        End::Connection if mounted.is_in_place() => {
            let line = format!("{place}: the FUSE connection was aborted");
            return Err(Error::Refused(line));
        }
        End::Connection => log::info!("{place}: unmounted by someone else"),
    }
    Ok(())
}

/// Mounts the filesystem on a directory and reads the kernel's INIT.
///
/// # Errors
/// What opening /dev/fuse, mounting and reading answer.
pub fn connect(mountpoint: &Path) -> Result<Connection> {
    let mut device = OpenOptions::new().read(true).write(true).open(DEVICE).map_err(no_device)?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let source = source_at(mountpoint);
    mount(Some(source.as_os_str()), mountpoint, Some("fuse.lxcfs"), flags, Some(data.as_str()))
        .map_err(|error| Error::io("mount fuse.lxcfs on", mountpoint, error))?;

    let init_request = read_init(&mut device).inspect_err(|_| {
        // The first error is the one to report.
        let _ = unmount(mountpoint);
    })?;
    Ok(Connection { device: device.into(), init_request, init_reply: None })
}

/// Reads the one INIT of the connection's life, <linux/fuse.h>: `fuse_in_header`, then
/// `fuse_init_in`, which starts with the major version.
fn read_init(device: &mut impl Read) -> Result<Vec<u8>> {
    /// FUSE_MIN_READ_BUFFER: the kernel refuses a read into less.
    const LEAST: usize = 8192;
    const FUSE_INIT: u32 = 26;
    const MAJOR: u32 = 7;
    let mut request = vec![0; LEAST];
    let length = device.read(&mut request).map_err(|error| Error::io("read", DEVICE, error))?;
    request.truncate(length);
    let word = |offset: usize| {
        let bytes = request.get(offset..offset + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    if (word(4), word(40)) != (Some(FUSE_INIT), Some(MAJOR)) {
        return Err(Error::malformed(DEVICE, 0, &request, "an INIT request of FUSE 7"));
    }
    Ok(request)
}

/// What ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// A signal asked for it.
    Signal(Signal),
    /// The kernel ended the connection: the last mount is gone, or it was aborted.
    Connection,
}

/// Worker threads that answer the requests of a connection.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    thread: JoinHandle<io::Result<()>>,
    /// Becomes readable (its end is closed) when the thread ends.
    ended: OwnedFd,
}

impl Session {
    /// Starts to answer the requests of `connection`.
    ///
    /// # Errors
    /// What the handshake with fuser and starting threads answer.
    pub fn start(mut connection: Connection, vfs: Arc<Vfs>, workers: usize) -> Result<Self> {
        let failed = |op| move |error: io::Error| Error::io(op, DEVICE, error);
        let (kernel, stand_in) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .map_err(|error| failed("start a session on")(error.into()))?;
        let mut kernel = std::fs::File::from(kernel);

        kernel.write_all(&connection.init_request).map_err(failed("replay INIT of"))?;
        let session =
            fuser::Session::from_fd(Adapter::new(vfs), stand_in, SessionACL::All, config(workers))
                .map_err(failed("start a session on"))?;
        let mut reply = vec![0; 4096];
        let length = kernel.read(&mut reply).map_err(failed("take the answer to INIT of"))?;
        reply.truncate(length);
        if connection.init_reply.is_none() {
            let mut device =
                std::fs::File::from(connection.device.try_clone().map_err(failed("duplicate"))?);
            device.write_all(&reply).map_err(failed("answer INIT of"))?;
            connection.init_reply = Some(reply);
        }
        replace_descriptor(session.as_fd(), connection.device.as_fd())
            .map_err(failed("hand over"))?;

        let (ended, ends) = io::pipe().map_err(failed("watch"))?;
        let thread = std::thread::Builder::new()
            .name("session".to_owned())
            .spawn(move || {
                let _ends_with_this_thread = ends;
                session.run()
            })
            .map_err(failed("start a thread for"))?;
        Ok(Session { connection, thread, ended: ended.into() })
    }

    /// The connection, for whoever is to go on after this process.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Waits for a signal that `obey` calls the end, or for the end of the connection.
    ///
    /// # Errors
    /// What the worker threads ended with, where that is no clean end.
    pub fn wait(self, signals: &SignalFd, obey: impl Fn(Signal) -> ControlFlow<()>) -> Result<End> {
        loop {
            let mut ready = [
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.ended.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(Error::io("wait for", DEVICE, error)),
            }
            if ready[1].any() == Some(true) {
                break;
            }
            let signal = signals.read_signal().map_err(|error| {
                Error::Refused(format!("cannot read a signal: {}", error.desc()))
            })?;
            let number = signal.and_then(|info| i32::try_from(info.ssi_signo).ok());
            if let Some(signal) = number.and_then(|number| Signal::try_from(number).ok())
                && obey(signal).is_break()
            {
                return Ok(End::Signal(signal));
            }
        }
        match self.thread.join() {
            Ok(Ok(())) => Ok(End::Connection),
            Ok(Err(error)) => Err(Error::io("answer requests of", DEVICE, error)),
            Err(_) => Err(Error::Refused("the session's thread panicked".to_owned())),
        }
    }
}

/// Does what a signal asks for, where that is not to end.
fn obey(vfs: &Vfs, signal: Signal) -> ControlFlow<()> {
    if END.contains(&signal) {
        return ControlFlow::Break(());
    }
    let shows = signal == RELOAD || !vfs.shows_containers();
    vfs.show_containers(shows);
    if shows {
        log::info!("{signal}: readers are shown their containers");
    } else {
        log::warn!("{signal}: all readers are shown the host's files, until the next {TOGGLE}");
    }
    ControlFlow::Continue(())
}

fn config(workers: usize) -> Config {
    let mut config = Config::default();
    config.acl = SessionACL::All;
    config.n_threads = Some(workers);
    // One shared descriptor: a request that a killed daemon had taken is then not lost, but
    // can be sent again (FUSE_NOTIFY_RESEND, Linux 6.9) to its successor.
    config.clone_fd = false;
    config
}

/// One worker per CPU; more than four cost wake-ups and bring nothing, and with a single one
/// a slow read would hold up every other reader.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, 4)
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

fn no_device(error: io::Error) -> Error {
    let missing = [libc::ENOENT, libc::ENODEV, libc::ENXIO].map(Some);
    if !missing.contains(&error.raw_os_error()) {
        return Error::io("open", DEVICE, error);
    }
    Error::Refused(format!("{DEVICE}: no such device; load its module with `modprobe fuse`"))
}

/// Blocks the signals that are obeyed in this thread and its children; they are read from the
/// result.
fn block_signals() -> Result<SignalFd> {
    let refused =
        |error: Errno| Error::Refused(format!("cannot watch for signals: {}", error.desc()));
    let signals = SigSet::from_iter(END.into_iter().chain([RELOAD, TOGGLE]));
    signals.thread_block().map_err(refused)?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(refused)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("find", path, error))
}

/// The first answer shows that the kernel took the reply to INIT and that workers run.
///
/// It is a child that asks, without the connection's descriptor. Should this process be killed
/// just when a worker has taken the request, one of its own threads that waits for the answer
/// would sleep for ever, and by that hold the descriptor whose end would wake it.
fn expect_answer(mountpoint: &Path) -> Result<()> {
    /// Workers of a busy machine may be late; none is as late as this.
    const PATIENCE: Duration = Duration::from_secs(60);
    let failed = |error: io::Error| Error::io("get a first answer from", mountpoint, error);
    let name =
        CString::new(mountpoint.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    match ask_in_child(&name, PATIENCE).map_err(failed)? {
        Answer::Present => Ok(()),
        Answer::Failed(errno) => Err(failed(io::Error::from_raw_os_error(errno))),
        Answer::None => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_init_of_fuse_7_is_taken() {
        let mut init = vec![0; 104];
        init[4..8].copy_from_slice(&26_u32.to_ne_bytes());
        init[40..44].copy_from_slice(&7_u32.to_ne_bytes());
        assert_eq!(read_init(&mut init.as_slice()).unwrap(), init);
        for length in 0..44 {
            assert!(read_init(&mut &init[..length]).is_err());
        }
        init[40] = 8;
        assert!(read_init(&mut init.as_slice()).is_err());
    }

    #[test]
    fn a_child_pid_namespace_is_refused() {
        let error = require_initial_pid_namespace(Path::new("/proc/self/ns/uts")).unwrap_err();
        assert!(error.to_string().contains("expected the initial pid namespace"), "{error}");
    }

    #[test]
    fn a_missing_device_names_the_module() {
        let line = no_device(io::Error::from_raw_os_error(libc::ENOENT)).to_string();
        assert_eq!(line, "/dev/fuse: no such device; load its module with `modprobe fuse`");
        let line = no_device(io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert_eq!(line, "/dev/fuse: cannot open: Permission denied");
    }

    #[test]
    fn workers() {
        assert!((2..=4).contains(&default_workers()));
    }
}
