//! The standard streams of a process in a container, and the terminal that they may be.
//!
//! No terminal of the caller's is ever a container's: without `-t` a stream that is one is
//! replaced by a pipe, with `-t` all three by a terminal of the container's own, and this
//! process copies between the two. A stream that is a file or a directory is replaced by a pipe
//! too: by /proc/self/fd a container could open it anew, to write or to look around. Pipes and
//! sockets are handed on as they are.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::{self, JoinHandle};

use nix::sys::signal::{SigSet, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fcntl_setfl, fstat, fstatfs, openat2};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{getpid, ioctl_tiocsctty, kill_process, setsid};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize,
};

use super::spec::Attach;
use crate::error::{Error, Result};

/// What a process on a terminal of ours has as TERM, as in Docker: what every system knows.
pub const TERM: &str = "xterm";

/// A terminal in a container: what is written to one end is read from the other.
#[derive(Debug)]
pub struct Pty {
    /// The end of who watches it.
    pub master: OwnedFd,
    /// The end of the programs on it.
    pub peer: OwnedFd,
}

impl Pty {
    /// Makes a terminal in the container that was entered; pts(4).
    ///
    /// The path is the container's to change, so what is found there has to be the real thing.
    ///
    /// # Errors
    /// [`Error::Refused`] where it is not; what opening it answers.
    pub fn open() -> Result<Pty> {
        const PATH: &str = "/dev/pts/ptmx";
        const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1; // linux/magic.h
        const MULTIPLEXER: (u32, u32) = (5, 2);
        let failed = |errno: rustix::io::Errno| Error::io("open", PATH, errno);
        // Should it be a pipe, it is not waited for.
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let master =
            openat2(CWD, PATH, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS).map_err(failed)?;
        let device = fstat(&master).map_err(failed)?.st_rdev;
        let fs_type = fstatfs(&master).map_err(failed)?.f_type;
        let number = (rustix::fs::major(device), rustix::fs::minor(device));
        if number != MULTIPLEXER || fs_type != DEVPTS_SUPER_MAGIC {
            return Err(Error::Refused(format!("{PATH}: not the terminal multiplexer")));
        }
        fcntl_setfl(&master, OFlags::empty()).map_err(failed)?;
        unlockpt(&master).map_err(failed)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let peer = ioctl_tiocgptpeer(&master, flags).map_err(failed)?;
        Ok(Pty { master, peer })
    }
}

/// What is read here is written there.
#[derive(Debug)]
struct Copy {
    from: OwnedFd,
    to: OwnedFd,
}

/// The streams that a process is to have: decided, and made as far as they can be before it is
/// there.
#[derive(Debug)]
pub struct Streams {
    attach: Attach,
    /// What standard input, output and error become; none for the caller's.
    ends: [Option<OwnedFd>; 3],
    input: Option<Copy>,
    outputs: Vec<Copy>,
}

/// Whether a stream of the caller's is not to be the container's.
fn is_copied(stream: impl AsFd) -> bool {
    let Ok(found) = fstat(&stream) else { return false };
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Fifo | FileType::Socket => false,
        FileType::CharacterDevice => isatty(&stream),
        FileType::RegularFile
        | FileType::Directory
        | FileType::Symlink
        | FileType::BlockDevice
        | FileType::Unknown => true,
    }
}

impl Streams {
    /// Decides, by what the caller's streams are.
    ///
    /// # Errors
    /// [`Error::Refused`] where a terminal is wanted and standard input, to be read, is none.
    pub fn prepare(attach: Attach) -> Result<Streams> {
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let mut streams =
            Streams { attach, ends: [None, None, None], input: None, outputs: Vec::new() };
        if attach.terminal {
            if attach.input && !isatty(&stdin) {
                return Err(Error::Refused("-t: the input device is not a TTY".to_owned()));
            }
            return Ok(streams);
        }
        if !attach.input {
            let null = File::open("/dev/null");
            let null = null.map_err(|error| Error::io("open", "/dev/null", error))?;
            streams.ends[0] = Some(null.into());
        } else if is_copied(&stdin) {
            let (from, to) = pipe()?;
            streams.ends[0] = Some(from);
            streams.input = Some(Copy { from: duplicate(stdin.as_fd())?, to });
        }
        let outputs = [(1, stdout.as_fd()), (2, stderr.as_fd())];
        for (number, stream) in outputs.into_iter().filter(|(_, stream)| is_copied(stream)) {
            let (from, to) = pipe()?;
            streams.ends[number] = Some(to);
            streams.outputs.push(Copy { from, to: duplicate(stream)? });
        }
        Ok(streams)
    }

    /// Whether the process gets a terminal, which [`Pty::open`] makes.
    #[must_use]
    pub fn has_terminal(&self) -> bool {
        self.attach.terminal
    }

    /// The descriptors that [`Streams::take`] needs.
    pub fn ends(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ends.iter().flatten().map(AsFd::as_fd)
    }

    /// Gives this process, which is to become the command, the streams, in a session of its own:
    /// without a controlling terminal, or with `pty` as that.
    ///
    /// # Errors
    /// What setsid(2), dup2(2) and `TIOCSCTTY` answer.
    pub fn take(&self, pty: Option<&Pty>) -> Result<()> {
        let failed = |op| move |errno: rustix::io::Errno| Error::io(op, "standard streams", errno);
        setsid().map_err(failed("make a session for"))?;
        if let Some(pty) = pty {
            ioctl_tiocsctty(&pty.peer).map_err(failed("take the terminal for"))?;
        }
        let end = |number: usize| {
            pty.map(|pty| pty.peer.as_fd()).or(self.ends[number].as_ref().map(AsFd::as_fd))
        };
        end(0).map_or(Ok(()), dup2_stdin).map_err(failed("duplicate"))?;
        end(1).map_or(Ok(()), dup2_stdout).map_err(failed("duplicate"))?;
        end(2).map_or(Ok(()), dup2_stderr).map_err(failed("duplicate"))
    }

    /// Begins to copy, in threads, between the caller's streams and the process's, of which
    /// `master` is the terminal, if it has one. From now on this process may not fork.
    ///
    /// # Errors
    /// What making threads and setting the terminal's modes answer.
    pub fn start(self, master: Option<OwnedFd>) -> Result<Session> {
        let Streams { attach, ends, mut input, mut outputs } = self;
        // Only the process has them now, so that their end can be seen.
        drop(ends);
        let (done, finished) = pipe()?;
        let mut session = Session { master, raw: None, copies: Vec::new(), finished: None };
        if let Some(master) = &session.master {
            session.resize();
            outputs.push(Copy { from: duplicate(master.as_fd())?, to: duplicate(io::stdout())? });
            if attach.input {
                session.raw = Some(Raw::set()?);
                let to = duplicate(master.as_fd())?;
                input = Some(Copy { from: duplicate(io::stdin())?, to });
            }
        }
        for output in outputs {
            let done = duplicate(done.as_fd())?;
            session.copies.push(in_thread(move || copy_out(output, &done))?);
        }
        if let Some(input) = input {
            // Nobody waits for it: it ends with this process.
            drop(in_thread(move || copy_in(input))?);
        }
        session.finished = Some(finished);
        Ok(session)
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::io("make", "a pipe", errno))
}

fn duplicate(stream: impl AsFd) -> Result<OwnedFd> {
    let copy = stream.as_fd().try_clone_to_owned();
    copy.map_err(|error| Error::io("duplicate", "standard streams", error))
}

fn in_thread(copy: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(copy)
        .map_err(|error| Error::io("start", "a thread", error))
}

/// How much is copied at once: what a terminal buffers, and a page.
const CHUNK: usize = 4096;

/// Copies until there is nothing more to come, or `done` is closed at its other end and there
/// is nothing more now.
fn copy_out(Copy { from, to }: Copy, done: &OwnedFd) {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let (mut from, mut to) = (File::from(from), File::from(to));
    let mut buffer = [0; CHUNK];
    let mut is_over = false;
    let mut is_lost = false;
    loop {
        let mut ready = [PollFd::new(&from, PollFlags::IN), PollFd::new(done, PollFlags::IN)];
        match poll(&mut ready, is_over.then_some(&NOW)) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let (has_more, is_done) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
        if !has_more {
            if is_over {
                return;
            }
            // What came before the end was noticed is looked for once more.
            is_over = is_done;
            continue;
        }
        // A terminal answers EIO when its other end is closed.
        let Ok(length @ 1..) = read(&mut from, &mut buffer) else { return };
        if !is_lost && to.write_all(&buffer[..length]).is_err() {
            // Who watched is gone, as if a line had hung up. What still comes nobody reads.
            is_lost = true;
            let _ = kill_process(getpid(), rustix::process::Signal::HUP);
        }
    }
}

/// Copies until either end is closed.
fn copy_in(Copy { from, to }: Copy) {
    let (mut from, mut to) = (File::from(from), File::from(to));
    let mut buffer = [0; CHUNK];
    while let Ok(length @ 1..) = read(&mut from, &mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

fn read(from: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// The copying while a process runs.
#[derive(Debug)]
pub struct Session {
    master: Option<OwnedFd>,
    raw: Option<Raw>,
    copies: Vec<JoinHandle<()>>,
    /// Open until the process has ended.
    finished: Option<OwnedFd>,
}

impl Session {
    /// Makes the process's terminal, where it has one, as large as the caller's; the kernel
    /// tells the programs on it (SIGWINCH). Returns whether it has one.
    pub fn resize(&self) -> bool {
        let Some(master) = &self.master else { return false };
        let size = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
        if let Ok(size) = size {
            // It fails for a terminal that is hung up, which needs no size.
            let _ = tcsetwinsize(master, size);
        }
        true
    }

    /// Copies what the process wrote last, and gives the terminal its modes back.
    pub fn finish(mut self) {
        drop(self.finished.take());
        for copy in self.copies.drain(..) {
            let _ = copy.join();
        }
    }
}

/// The caller's terminal, passing on every key as it is until this is dropped.
struct Raw {
    before: Termios,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Raw").finish_non_exhaustive()
    }
}

impl Raw {
    /// Of a process in the background the kernel asks to wait for the foreground (SIGTTOU).
    fn set() -> Result<Raw> {
        let failed = |errno: rustix::io::Errno| Error::io("set modes of", "the terminal", errno);
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // From the background as well: nobody else gives it back.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTTOU);
        let _ = stop.thread_block();
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
        let _ = stop.thread_unblock();
    }
}
