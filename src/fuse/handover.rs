//! How a connection gets from one program to another: by exec(2), by systemd's file descriptor
//! store, or over the control socket.
//!
//! It is the same each time: the connection's descriptor, the memory that outlives workers, and
//! a [`State`] in JSON, of which a program takes what it knows. So an older one can follow a newer
//! one; and what it cannot make use of, it does without.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::connection::{Connection, check_init};
use super::notify;
use crate::error::{self, Error, Result};
use crate::sys::descriptors;
use crate::vfs::kept::Kept;

/// Tells the program that this process becomes by exec(2) where its descriptors are. To one that
/// is only asked whether it would be fit for that, `probe`.
pub(super) const VARIABLE: &str = "LXCFS_RS_HANDOVER";

/// What a probe says.
pub(super) const PROBE: &str = "probe";

/// What systemd knows the descriptors by: the state, the device, what outlives a worker.
const NAMES: [&str; 3] = ["lxcfs-rs-state", "lxcfs-rs-device", "lxcfs-rs-memory"];

/// What systemd passes descriptors by, sd_listen_fds(3).
pub(super) const LISTEN: [&str; 3] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// What has to be known of a connection. Fields are only ever added, each with a default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// The version of the program that wrote this.
    pub(super) program: String,
    pub(super) mountpoint: PathBuf,
    /// `major:minor` of the superblock.
    pub(super) superblock: String,
    /// The directories that were made for the mount point, outermost first.
    pub(super) created: Vec<PathBuf>,
    pub(super) init_request: Vec<u8>,
    pub(super) init_reply: Vec<u8>,
    /// The worker that still runs, a child of this process; for exec(2) alone.
    pub(super) worker: Option<i32>,
}

/// A connection that came from another program.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) state: State,
    pub(super) device: OwnedFd,
    pub(super) memory: OwnedFd,
    /// Who asked for it, and waits to hear that it is done.
    pub(super) asker: Option<OwnedFd>,
}

impl Handed {
    /// What this process was started with: by itself, or by systemd.
    pub(super) fn inherited() -> Option<Handed> {
        match std::env::var(VARIABLE) {
            Ok(numbers) => Handed::by_exec(&numbers),
            Err(_) => Handed::by_systemd(),
        }
    }

    fn by_exec(numbers: &str) -> Option<Handed> {
        let mut descriptors = numbers.split(',').map(|number| {
            let number = number.parse::<RawFd>().ok()?;
            descriptors::inherited(number).ok()
        });
        let mut next = || descriptors.next().flatten();
        let handed = (next(), next(), next(), next());
        let (Some(state), Some(device), Some(memory), asker) = handed else {
            log::warn!("{VARIABLE}={numbers}: no three descriptors; starting afresh");
            return None;
        };
        Handed::new(state, device, memory, asker)
    }

    /// sd_listen_fds_with_names(3). The store may hold what an earlier connection left: the last
    /// of each name counts.
    fn by_systemd() -> Option<Handed> {
        /// SD_LISTEN_FDS_START.
        const FIRST: RawFd = 3;
        let [pid, count, names] = LISTEN.map(|name| std::env::var(name).unwrap_or_default());
        if pid.parse() != Ok(std::process::id()) {
            return None;
        }
        let count = count.parse::<RawFd>().ok()?;
        let passed: Vec<(&str, Option<OwnedFd>)> = (FIRST..FIRST.checked_add(count)?)
            .map(|number| descriptors::inherited(number).ok())
            .zip(names.split(':'))
            .map(|(descriptor, name)| (name, descriptor))
            .collect();
        let mut found = NAMES.map(|_| None);
        for (name, descriptor) in passed {
            if let Some(place) = NAMES.iter().position(|known| *known == name) {
                found[place] = descriptor;
            }
        }
        let [Some(state), Some(device), Some(memory)] = found else { return None };
        Handed::new(state, device, memory, None)
    }

    fn new(
        state: OwnedFd,
        device: OwnedFd,
        memory: OwnedFd,
        asker: Option<OwnedFd>,
    ) -> Option<Handed> {
        let state = State::read(File::from(state)).inspect_err(error::report).ok()?;
        Some(Handed { state, device, memory, asker })
    }

    /// The connection, if it still is one, and what was kept.
    pub(super) fn into_connection(self) -> Option<(Connection, Arc<Kept>)> {
        let Handed { state, device, memory, .. } = self;
        if let Err(error) = check_init(&state.init_request) {
            error::report(&error);
            return None;
        }
        let State { init_request, init_reply, program, .. } = state;
        let connection = Connection { device, init_request, init_reply };
        if is_over(&connection) {
            log::warn!("the connection of {program} has ended");
            return None;
        }
        let kept = Kept::open(memory).map(Ok).unwrap_or_else(|| {
            log::warn!("what {program} remembers of open files is not understood");
            Kept::new()
        });
        Some((connection, Arc::new(kept.inspect_err(error::report).ok()?)))
    }
}

impl State {
    fn read(file: File) -> Result<State> {
        /// More than any state.
        const MOST: usize = 1 << 20;
        let name = "the state of the daemon before";
        let failed = |error| Error::io("read", name, error);
        let mut text = vec![0; MOST];
        let length = file.read_at(&mut text, 0).map_err(failed)?;
        State::parse(&text[..length])
    }

    /// Takes what is known of a state, whichever program wrote it.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is no JSON document.
    pub fn parse(text: &[u8]) -> Result<State> {
        let name = "the state of the daemon before";
        serde_json::from_slice(text).map_err(|_| Error::malformed(name, 0, text, "a JSON document"))
    }

    /// As another program is given it.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn to_text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self)
            .map_err(|error| Error::io("write", "the daemon's state", std::io::Error::from(error)))
    }

    fn to_memfd(&self) -> Result<OwnedFd> {
        let failed = |error: std::io::Error| Error::io("write", "the daemon's state", error);
        let memfd = rustix::fs::memfd_create(c"lxcfs-rs-state", MemfdFlags::CLOEXEC);
        let mut file = File::from(memfd.map_err(|errno| failed(errno.into()))?);
        file.write_all(&self.to_text()?).map_err(failed)?;
        Ok(file.into())
    }
}

/// Whether the kernel has ended the connection: nobody waits for it any more.
pub(super) fn is_over(connection: &Connection) -> bool {
    let mut ready = [PollFd::new(connection.device.as_fd(), PollFlags::empty())];
    poll(&mut ready, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}

/// systemd's file descriptor store, for this service.
#[derive(Debug)]
pub(super) struct FdStore {
    is_there: bool,
}

impl FdStore {
    /// systemd 254 says in `$FDSTORE` how many descriptors it keeps; for an older one its unit
    /// does.
    pub(super) fn of_environment() -> FdStore {
        let most = std::env::var("FDSTORE").ok().and_then(|most| most.parse::<usize>().ok());
        let is_there = most.is_some_and(|most| most >= NAMES.len())
            && std::env::var_os("NOTIFY_SOCKET").is_some();
        FdStore { is_there }
    }

    /// Whether what is kept here outlives this process.
    pub(super) fn is_there(&self) -> bool {
        self.is_there
    }

    /// Keeps a connection, in the place of whatever was kept.
    pub(super) fn put(&self, state: &State, connection: &Connection, kept: &Kept) -> Result<()> {
        if !self.is_there {
            return Ok(());
        }
        self.clear();
        let state = state.to_memfd()?;
        let descriptors = [state.as_fd(), connection.device.as_fd(), kept.as_fd()];
        for (name, descriptor) in NAMES.iter().zip(descriptors) {
            notify::notify_with(&format!("FDSTORE=1\nFDNAME={name}\n"), Some(descriptor));
        }
        Ok(())
    }

    /// Keeps nothing any more.
    pub(super) fn clear(&self) {
        if self.is_there {
            for name in NAMES {
                notify::notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"));
            }
        }
    }
}

/// How a program is started in the place of this one.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

impl Program {
    /// The one that runs: its path, at which another one may be by the time it is used.
    pub(super) fn own() -> Result<Program> {
        let path =
            std::env::current_exe().map_err(|error| Error::io("find", "/proc/self/exe", error))?;
        Ok(Program { path, arguments: std::env::args_os().collect() })
    }

    /// Another one, called as the one that runs.
    pub(super) fn at(path: &Path) -> Program {
        Program { path: path.to_owned(), arguments: std::env::args_os().collect() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The environment of this process, without what says how it was started.
    fn environment() -> impl Iterator<Item = (OsString, OsString)> {
        std::env::vars_os()
            .filter(|(name, _)| name != VARIABLE && !LISTEN.iter().any(|other| name == other))
    }

    /// Asks the program whether it would understand this command line and could start.
    ///
    /// # Errors
    /// What it says.
    pub(super) fn probe(&self) -> Result<()> {
        use std::os::unix::process::CommandExt as _;
        use std::process::{Command, Stdio};
        let failed = |error| Error::io("start", &self.path, error);
        let (first, rest) = self.arguments.split_first().ok_or(Error::NotFound)?;
        let child = Command::new(&self.path)
            .arg0(first)
            .args(rest)
            .env_clear()
            .envs(Program::environment())
            .env(VARIABLE, PROBE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let pidfd = rustix::process::Pid::from_child(&child);
        let pidfd = crate::sys::identity::process(pidfd).map_err(failed)?;
        let ended = crate::sys::fuse::wait_readable(pidfd.as_fd(), PROBE_PATIENCE);
        if !ended.map_err(failed)? {
            let mut child = child;
            let _ = child.kill().and_then(|()| child.wait());
            let path = self.path.display();
            return Err(Error::Refused(format!("{path}: does not answer; it is not used")));
        }
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().last().unwrap_or_default();
        let line = format!("{}: {}; it is not used: {said}", self.path.display(), output.status);
        Err(Error::Refused(line))
    }

    /// Becomes the program, with a connection.
    ///
    /// # Errors
    /// What execve(2) answers; then nothing has changed.
    pub(super) fn replace_this(
        &self,
        state: &State,
        connection: &Connection,
        kept: &Kept,
        asker: Option<&OwnedFd>,
    ) -> Result<std::convert::Infallible> {
        let failed = |error: std::io::Error| Error::io("execute", &self.path, error);
        let state = state.to_memfd()?;
        // Close-on-exec is of the descriptor, so that these copies alone go along.
        let copies = [
            Some(state.as_fd()),
            Some(connection.device.as_fd()),
            Some(kept.as_fd()),
            asker.map(AsFd::as_fd),
        ];
        let copies = copies.into_iter().flatten().map(descriptors::for_exec);
        let copies = copies.collect::<std::io::Result<Vec<OwnedFd>>>().map_err(failed)?;
        let numbers: Vec<String> = copies.iter().map(|it| it.as_raw_fd().to_string()).collect();
        let handover = (VARIABLE.into(), numbers.join(",").into());
        let environment = Program::environment().chain([handover]).map(|(name, value)| {
            let mut line: OsString = name;
            line.push("=");
            line.push(value);
            c_string(&line)
        });
        let environment: Vec<CString> = environment.collect::<Result<_>>()?;
        let path = c_string(self.path.as_os_str())?;
        let arguments: Vec<CString> =
            self.arguments.iter().map(|word| c_string(word)).collect::<Result<_>>()?;
        // Not by std: that would unblock the signals, and one that comes before the program
        // blocks them again would end it.
        match nix::unistd::execve(&path, &arguments, &environment) {
            Err(errno) => Err(failed(errno.into())),
        }
    }
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).map_err(|error| Error::io("execute", text, error))
}

/// How long a program may take to say whether it could start. As long a worker that ended would
/// wait for its successor.
const PROBE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(4);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_of_another_version_is_understood_as_far_as_it_goes() {
        let state = State {
            program: "0.1.0".to_owned(),
            mountpoint: "/m".into(),
            superblock: "0:45".to_owned(),
            created: vec!["/m".into()],
            init_request: vec![1, 2, 255],
            init_reply: vec![3],
            worker: Some(7),
        };
        assert_eq!(State::read(state.to_memfd().unwrap().into()).unwrap(), state);

        let newer = r#"{"program":"9","superblock":"0:45","wonders":[{}],"worker":null}"#;
        let read: State = serde_json::from_str(newer).unwrap();
        assert_eq!((&*read.program, &*read.superblock, read.worker), ("9", "0:45", None));
        assert!(read.init_request.is_empty());

        let file = rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(file);
        file.write_all(b"\xff\0{").unwrap();
        let error = State::read(file).unwrap_err().to_string();
        assert!(error.contains("expected a JSON document"), "{error}");
    }
}
