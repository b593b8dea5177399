//! A daemon of the tests' own, on a mountpoint of its own.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::io::Read;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::byhand::eventually;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_lxcfs-rs");

/// A directory of one test, with a mountpoint in it that does not exist yet.
pub(crate) struct Place {
    pub(crate) base: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = std::env::temp_dir().canonicalize().unwrap();
        let base = base.join(format!("lxcfs-rs-session-{}-{number}", std::process::id()));
        std::fs::create_dir(&base).unwrap();
        Place { base }
    }

    /// With a blank, which mountinfo escapes.
    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.base.join("mount point")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.mountpoint().join(name)
    }

    pub(crate) fn meminfo(&self) -> PathBuf {
        self.file("proc/meminfo")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let lazily = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        while umount2(&self.mountpoint(), lazily).is_ok() {}
        let _ = std::fs::remove_dir_all(&self.base);
    }
}

/// A child that is killed and reaped at the end of its test.
pub(crate) struct Guarded(pub(crate) Child);

impl Guarded {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.0.id()).unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        let mut log = String::new();
        if let Some(stderr) = &mut self.0.stderr {
            stderr.read_to_string(&mut log).unwrap();
        }
        (self.0.wait().unwrap(), log)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let said = self.0.stderr.take().map(said_by_now).unwrap_or_default();
        // A worker that ended so would not be missed: the next one goes on for it.
        let is_defect = ["AddressSanitizer", "panicked at"].iter().any(|word| said.contains(word));
        assert!(!is_defect || std::thread::panicking(), "{said}");
    }
}

/// What is in a pipe, whoever still has its other end.
fn said_by_now(mut pipe: ChildStderr) -> String {
    let mut said = Vec::new();
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    // That there is no more for now is an error.
    let _ = pipe.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

pub(crate) fn serve(mountpoint: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("serve").arg(mountpoint).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command.arg("--runtime-dir").arg(mountpoint.with_file_name("run"));
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Kills the worker of the daemon `pid`, and waits until there is another one.
#[track_caller]
pub(crate) fn replace_worker(pid: Pid) {
    let worker = worker_of(pid);
    kill(worker, Signal::SIGKILL).unwrap();
    eventually("another worker", || worker_of(pid) != worker);
}

/// The worker of the daemon `pid`, once it has one.
pub(crate) fn worker_of(pid: Pid) -> Pid {
    let parent_of = |process: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        let (_, rest) = stat.split_once("(lxcfs-rs-worker) ")?;
        rest.split(' ').nth(1)?.parse::<i32>().ok()
    };
    for _ in 0..12_000 {
        let processes = std::fs::read_dir("/proc").unwrap();
        let names = processes.filter_map(|process| process.ok()?.file_name().into_string().ok());
        let mut numbers = names.filter(|name| name.parse::<i32>().is_ok());
        if let Some(worker) = numbers.find(|name| parent_of(name) == Some(pid.as_raw())) {
            return Pid::from_raw(worker.parse().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("no worker");
}

/// Starts `command` and returns once it has said READY=1; gives its messages from then on.
pub(crate) fn start_telling(
    place: &Place,
    mut command: Command,
) -> (Guarded, UnixDatagram, String) {
    let path = place.base.join("notify");
    let _ = std::fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    let mut child = Guarded(command.env("NOTIFY_SOCKET", &path).spawn().unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut message = [0; 4096];
    // Two minutes of 200 ms each.
    for _ in 0..600 {
        if let Ok(length) = socket.recv(&mut message) {
            let text = String::from_utf8_lossy(&message[..length]).into_owned();
            socket.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
            return (child, socket, text);
        }
        if child.0.try_wait().unwrap().is_some() {
            let (status, log) = child.end();
            panic!("the daemon ended before it was ready: {status}\n{log}");
        }
    }
    panic!("the daemon does not become ready");
}

pub(crate) fn start(place: &Place) -> Guarded {
    start_telling(place, serve(&place.mountpoint())).0
}

/// A place with a daemon.
pub(crate) struct Served {
    pub(crate) daemon: Guarded,
    pub(crate) place: Place,
}

impl Served {
    pub(crate) fn new() -> Served {
        let place = Place::new();
        Served { daemon: start(&place), place }
    }

    fn worker(&self) -> Pid {
        worker_of(self.daemon.pid())
    }

    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.worker())).unwrap().count()
    }

    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.worker())).unwrap().count()
    }

    /// In kB.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.worker())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}
