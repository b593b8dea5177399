//! The control socket of a daemon: what `status` and `upgrade` ask, and by which a new daemon
//! takes the connection over.
//!
//! A message is one JSON document; descriptors go along where a connection is handed over. Both
//! sides say which version of this they speak; fields are only ever added, each with a default.

use std::fs::DirBuilder;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::{PeerCredentials, ReceiveTimeout, SendTimeout};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    connect, getsockopt, listen, sendmsg, setsockopt, socket,
};
use nix::sys::time::TimeVal;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::handover::{Handed, State};
use super::mountpoint::resolve;
use crate::error::{Error, Result};
use crate::history::store::escape;
use crate::sys::{descriptors, identity};
use crate::vfs::kept::Counted;

/// Changes only where a message comes to mean something else. Others are refused.
const VERSION: u32 = 1;

/// More than any message.
const MOST: usize = 64 << 10;

/// How long the daemon waits for a message of who has connected: nothing else is done meanwhile. He
/// sends it at once, but where every CPU is wanted he may have none between the two.
const DAEMONS_PATIENCE: Duration = Duration::from_secs(1);

/// How long the daemon's answer may take: it may start a program first.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long nobody may listen: a daemon that goes on as another program does so for a moment.
const RETRY: Duration = Duration::from_secs(3);

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// What it has counted.
    Status,
    /// To go on as the program at this path.
    Upgrade(PathBuf),
    /// To hand the connection over.
    TakeOver,
    /// That the connection was taken over, and is in use.
    Taken,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    version: u32,
    ask: Ask,
}

/// What is asked by a message; none where it is not understood.
#[must_use]
pub fn parse_request(text: &[u8]) -> Option<Ask> {
    match serde_json::from_slice(text) {
        Ok(Request { version: VERSION, ask }) => Some(ask),
        _ => None,
    }
}

/// The answer.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reply {
    pub(super) version: u32,
    /// Why it was not done.
    pub(super) error: Option<String>,
    /// The version of the program that answers.
    pub(super) program: String,
    pub(super) status: Option<serde_json::Value>,
    pub(super) state: Option<State>,
}

/// What a daemon says of itself.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Status {
    pub(super) mountpoint: PathBuf,
    pub(super) version: &'static str,
    /// The keeper's process id.
    pub(super) pid: u32,
    /// The worker's; none between two.
    pub(super) worker_pid: Option<i32>,
    /// Whether readers are shown their containers, and not the host's files.
    pub(super) shows_containers: bool,
    #[serde(flatten)]
    pub(super) counted: Counted,
}

impl Reply {
    /// Parses what a daemon answers, whichever version of it.
    ///
    /// # Errors
    /// serde_json's.
    pub fn parse(text: &[u8]) -> serde_json::Result<Reply> {
        serde_json::from_slice(text)
    }

    pub(super) fn done() -> Reply {
        let program = env!("CARGO_PKG_VERSION").to_owned();
        Reply { version: VERSION, program, ..Reply::default() }
    }

    pub(super) fn refused(error: &Error) -> Reply {
        Reply { error: Some(error.to_string()), ..Reply::done() }
    }
}

/// The directory of the socket of the daemon that serves at `mountpoint`.
fn directory_of(runtime_dir: &Path, mountpoint: &Path) -> PathBuf {
    runtime_dir.join("control").join(escape(mountpoint))
}

/// The socket's address: by a descriptor of its directory, whose path may be longer than an
/// address can be.
fn address(directory: &OwnedFd) -> nix::Result<UnixAddr> {
    UnixAddr::new(format!("/proc/self/fd/{}/socket", directory.as_raw_fd()).as_str())
}

fn open_directory(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

fn new_socket() -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
}

/// The listening end.
#[derive(Debug)]
pub(super) struct Control {
    socket: OwnedFd,
    directory: PathBuf,
    /// Whether another daemon's socket may be there by now.
    is_left: bool,
}

impl Control {
    /// Listens, in the place of whoever did before.
    pub(super) fn listen(runtime_dir: &Path, mountpoint: &Path) -> Result<Control> {
        let path = directory_of(runtime_dir, mountpoint);
        let failed = |op| {
            let path = path.join("socket");
            move |errno: Errno| Error::io(op, path, errno)
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| Error::io("mkdir", &path, error))?;
        let directory = open_directory(&path).map_err(|errno| Error::io("open", &path, errno))?;
        let socket = new_socket().map_err(failed("make"))?;
        let _ = std::fs::remove_file(path.join("socket"));
        bind(socket.as_raw_fd(), &address(&directory).map_err(failed("bind"))?)
            .map_err(failed("bind"))?;
        listen(&socket, Backlog::new(16).unwrap_or(Backlog::MAXCONN))
            .map_err(failed("listen on"))?;
        Ok(Control { socket, directory: path, is_left: false })
    }

    /// What somebody asks, and where to answer. None where he is not root, or says nothing that
    /// is understood; then he has been told.
    pub(super) fn accept(&self) -> Option<(Ask, Peer)> {
        let socket = accept4(self.socket.as_raw_fd(), SockFlag::SOCK_CLOEXEC).ok()?;
        let peer = Peer { socket: descriptors::inherited(socket).ok()? };
        let refuse = |line: String| {
            log::warn!("control socket: {line}");
            peer.answer(&Reply::refused(&Error::Refused(line)), &[]);
        };
        peer.wait_at_most(DAEMONS_PATIENCE).ok()?;
        let user = getsockopt(&peer.socket, PeerCredentials).ok()?.uid();
        if user != 0 {
            refuse(format!("asked by user {user}; expected root"));
            return None;
        }
        let (text, _) = peer.receive().ok()?;
        match parse_request(&text) {
            Some(ask) => Some((ask, peer)),
            None => {
                let text = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
                refuse(format!("found {text:?}, expected a request of version {VERSION}"));
                None
            }
        }
    }

    /// Leaves the place to another daemon, which listens there by now.
    pub(super) fn leave(mut self) {
        self.is_left = true;
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if !self.is_left {
            // Whoever looks for it finds nobody in either case.
            let _ = std::fs::remove_file(self.directory.join("socket"));
            let _ = std::fs::remove_dir(&self.directory);
        }
    }
}

/// The other side of a connection to the control socket.
#[derive(Debug)]
pub(super) struct Peer {
    socket: OwnedFd,
}

impl Peer {
    /// One that this program was handed.
    pub(super) fn of(socket: OwnedFd) -> Peer {
        Peer { socket }
    }

    pub(super) fn into_descriptor(self) -> OwnedFd {
        self.socket
    }

    fn wait_at_most(&self, patience: Duration) -> io::Result<()> {
        let micros = i64::try_from(patience.as_micros()).unwrap_or(i64::MAX);
        let time = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
        setsockopt(&self.socket, ReceiveTimeout, &time)?;
        setsockopt(&self.socket, SendTimeout, &time)?;
        Ok(())
    }

    fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        let mut text = vec![0; MOST];
        let (length, descriptors) = descriptors::receive(self.socket.as_fd(), &mut text)?;
        text.truncate(length);
        Ok((text, descriptors))
    }

    fn send(&self, text: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers: Vec<RawFd> = descriptors.iter().map(|it| it.as_raw_fd()).collect();
        let control = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &control[..0] } else { &control };
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.socket.as_raw_fd(), &[IoSlice::new(text)], control, flags, None)?;
        Ok(())
    }

    /// The process. It is still the one as long as it sends messages.
    pub(super) fn process(&self) -> io::Result<OwnedFd> {
        let number = getsockopt(&self.socket, PeerCredentials)?.pid();
        // 0 is not visible here.
        let number = rustix::process::Pid::from_raw(number).ok_or(Errno::ESRCH)?;
        identity::process(number)
    }

    /// Answers. Whoever has gone away is not told.
    pub(super) fn answer(&self, reply: &Reply, descriptors: &[BorrowedFd<'_>]) {
        let sent = serde_json::to_vec(reply)
            .map_err(io::Error::from)
            .and_then(|text| self.send(&text, descriptors));
        if let Err(error) = sent {
            log::warn!("control socket: cannot answer: {error}");
        }
    }

    /// Whether the daemon that took the connection over says so before the patience ends.
    pub(super) fn has_taken(&self, patience: Duration) -> bool {
        self.wait_at_most(patience).is_ok()
            && self.receive().is_ok_and(|(text, _)| {
                serde_json::from_slice::<Request>(&text)
                    .is_ok_and(|request| request.ask == Ask::Taken)
            })
    }

    /// Tells the daemon that handed the connection over that it is in use.
    pub(super) fn tell_taken(&self) {
        let request = Request { version: VERSION, ask: Ask::Taken };
        let sent = serde_json::to_vec(&request)
            .map_err(io::Error::from)
            .and_then(|text| self.send(&text, &[]));
        if let Err(error) = sent {
            log::warn!("cannot tell the daemon before that it is relieved: {error}");
        }
    }

    /// Asks, and returns the answer.
    fn ask(&self, ask: Ask) -> io::Result<(Reply, Vec<OwnedFd>)> {
        self.wait_at_most(PATIENCE)?;
        self.send(&serde_json::to_vec(&Request { version: VERSION, ask })?, &[])?;
        let (text, descriptors) = self.receive()?;
        if text.is_empty() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok((Reply::parse(&text)?, descriptors))
    }
}

/// Connects to the daemon that serves at `mountpoint`; none where there is none.
fn connect_to(runtime_dir: &Path, mountpoint: &Path) -> io::Result<Option<Peer>> {
    let directory = match open_directory(&directory_of(runtime_dir, mountpoint)) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        opened => opened?,
    };
    let socket = new_socket()?;
    match connect(socket.as_raw_fd(), &address(&directory)?) {
        Err(Errno::ENOENT | Errno::ECONNREFUSED) => Ok(None),
        connected => connected.map(|()| Some(Peer { socket })).map_err(io::Error::from),
    }
}

/// Whether a daemon served at `mountpoint` that has ended without taking leave.
pub(super) fn is_orphaned(runtime_dir: &Path, mountpoint: &Path) -> bool {
    let socket = directory_of(runtime_dir, mountpoint).join("socket");
    socket.exists() && matches!(connect_to(runtime_dir, mountpoint), Ok(None))
}

/// The daemon that serves at `mountpoint`; none where there is none.
pub(super) fn process_that_serves(
    runtime_dir: &Path,
    mountpoint: &Path,
) -> io::Result<Option<OwnedFd>> {
    let Some(peer) = connect_to(runtime_dir, mountpoint)? else { return Ok(None) };
    let process = peer.process()?;
    peer.ask(Ask::Status)?;
    Ok(Some(process))
}

/// Asks the daemon that serves at `mountpoint`, which one may be just being replaced.
fn ask(runtime_dir: &Path, mountpoint: &Path, ask: &Ask) -> Result<Reply> {
    let mountpoint = &resolve(mountpoint)?;
    let place = mountpoint.display();
    let failed = |error| Error::io("ask the daemon of", mountpoint, error);
    let deadline = Instant::now() + RETRY;
    let peer = loop {
        if let Some(peer) = connect_to(runtime_dir, mountpoint).map_err(failed)? {
            break peer;
        }
        if Instant::now() > deadline {
            let at = directory_of(runtime_dir, mountpoint).join("socket");
            let at = at.display();
            return Err(Error::Refused(format!(
                "{place}: no daemon answers (looked for {at}); is it running, with this \
                 --runtime-dir?"
            )));
        }
        std::thread::sleep(RETRY / 100);
    };
    let (reply, _) = peer.ask(ask.clone()).map_err(failed)?;
    match reply.error {
        Some(error) => Err(Error::Refused(error)),
        None => Ok(reply),
    }
}

/// What the daemon at `mountpoint` says of itself, as a JSON object: by the daemon's program,
/// which may be newer or older than this one.
///
/// # Errors
/// [`Error::Refused`] where none answers.
pub fn status(runtime_dir: &Path, mountpoint: &Path) -> Result<serde_json::Value> {
    Ok(ask(runtime_dir, mountpoint, &Ask::Status)?.status.unwrap_or_default())
}

/// Has the daemon at `mountpoint` go on as `program`. Returns the version of it.
///
/// # Errors
/// [`Error::Refused`] where none answers, or the program would not start; then the daemon goes
/// on as it is.
pub fn upgrade(runtime_dir: &Path, mountpoint: &Path, program: &Path) -> Result<String> {
    Ok(ask(runtime_dir, mountpoint, &Ask::Upgrade(program.to_owned()))?.program)
}

/// Takes the connection over from the daemon that serves at `mountpoint`, and returns it with
/// whom to tell that it is in use; none where there is no daemon.
///
/// # Errors
/// What the daemon refuses.
pub(super) fn take_over(runtime_dir: &Path, mountpoint: &Path) -> Result<Option<(Handed, Peer)>> {
    let failed = |error| Error::io("take over", mountpoint, error);
    let Some(peer) = connect_to(runtime_dir, mountpoint).map_err(failed)? else {
        return Ok(None);
    };
    let (reply, descriptors) = peer.ask(Ask::TakeOver).map_err(failed)?;
    if let Some(error) = reply.error {
        return Err(Error::Refused(error));
    }
    let mut descriptors = descriptors.into_iter();
    let (Some(state), Some(device), Some(memory)) =
        (reply.state, descriptors.next(), descriptors.next())
    else {
        return Err(failed(io::ErrorKind::InvalidData.into()));
    };
    Ok(Some((Handed { state, device, memory, asker: None }, peer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is on the wire stays as it is: daemons of other versions read it.
    #[test]
    fn requests() {
        let text = |ask| serde_json::to_string(&Request { version: VERSION, ask }).unwrap();
        assert_eq!(text(Ask::Status), r#"{"version":1,"ask":"status"}"#);
        assert_eq!(text(Ask::TakeOver), r#"{"version":1,"ask":"take-over"}"#);
        assert_eq!(
            text(Ask::Upgrade("/bin/x".into())),
            r#"{"version":1,"ask":{"upgrade":"/bin/x"}}"#
        );
        let newer = r#"{"version":1,"program":"9","wonders":1,"state":{"init_request":[1]}}"#;
        let reply: Reply = serde_json::from_str(newer).unwrap();
        assert_eq!(reply.state.unwrap().init_request, [1]);
    }

    #[test]
    fn nobody_listens() {
        let base = tempfile::tempdir().unwrap();
        assert!(connect_to(base.path(), Path::new("/m")).unwrap().is_none());
        let control = Control::listen(base.path(), Path::new("/m")).unwrap();
        assert!(connect_to(base.path(), Path::new("/m")).unwrap().is_some());
        drop(control);
        assert!(connect_to(base.path(), Path::new("/m")).unwrap().is_none());
        assert!(std::fs::read_dir(base.path().join("control")).unwrap().next().is_none());
    }

    #[test]
    fn a_long_path_has_a_socket_too() {
        let base = tempfile::tempdir().unwrap();
        let runtime = base.path().join("x".repeat(200));
        let _control = Control::listen(&runtime, Path::new("/m")).unwrap();
        assert!(connect_to(&runtime, Path::new("/m")).unwrap().is_some());
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_word() {
        let base = tempfile::tempdir().unwrap();
        let control = Control::listen(base.path(), Path::new("/m")).unwrap();
        for text in ["", "{", r#"{"version":2,"ask":"status"}"#, r#"{"version":1,"ask":"dance"}"#] {
            let peer = connect_to(base.path(), Path::new("/m")).unwrap().unwrap();
            peer.send(text.as_bytes(), &[]).unwrap();
            // Without root even more is refused.
            assert!(control.accept().is_none(), "{text}");
            let (reply, _) = peer.receive().unwrap();
            let reply: Reply = serde_json::from_slice(&reply).unwrap();
            assert!(reply.error.is_some());
        }
    }
}
