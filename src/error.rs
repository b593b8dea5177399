//! The one error type of the read path and of the runtime.
//!
//! It says which file, what was found and what was expected, and becomes an
//! errno in exactly one exhaustive match.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use log::Level;
use parking_lot::Mutex;

/// Shorthand for a result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whatever can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path failed.
    #[error("{}: cannot {op}: {}", path.display(), describe(source))]
    Io {
        /// What was attempted, as a verb: `open`, `read`, `mount`.
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// A kernel file does not have the form that its documentation promises.
    #[error("{}: line {line}: found {found:?}, expected {expected}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its line, counted from 1; 0 where the file as a whole is meant.
        line: usize,
        /// What stands there, shortened.
        found: String,
        /// What was expected there.
        expected: &'static str,
    },
    /// The process, or the cgroup, that was asked about has ended.
    #[error("{what} is gone")]
    Gone {
        /// What ended.
        what: String,
    },
    /// A name that this filesystem does not have.
    #[error("no such file")]
    NotFound,
    /// A directory operation on a file.
    #[error("not a directory")]
    NotADirectory,
    /// A file operation on a directory.
    #[error("is a directory")]
    IsADirectory,
    /// A read-only file was opened for writing.
    #[error("opened for writing, but the file is read-only")]
    ReadOnly,
    /// What the kernel answers for a file that is passed on as it is, or would answer; for a
    /// pressure trigger too.
    #[error("{}", describe(.0))]
    Passed(io::Error),
    /// A read that fills the page cache, which all containers share.
    #[error("sendfile and mmap are refused: their page cache is shared by all containers")]
    PageCacheFill,
    /// The code answering a request panicked; a defect of ours.
    #[error("a request handler panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
    /// A condition of the machine or of the command line that a person must mend.
    #[error("{0}")]
    Refused(String),
    /// One step of a longer sequence failed.
    #[error("{step}: {source}")]
    Step {
        /// The step, as the reader of the message knows it.
        step: &'static str,
        /// Why it failed.
        source: Box<Error>,
    },
    /// Something failed, and then undoing what had been done before it failed too.
    #[error("{source}; then {undoing}")]
    Undoing {
        /// What failed first.
        source: Box<Error>,
        /// What failed while undoing.
        undoing: Box<Error>,
    },
    /// The command of a container could not be executed.
    #[error("{command}: {reason}")]
    NotExecuted {
        /// The command as it was given.
        command: String,
        /// Why not.
        reason: String,
        /// The exit status that tells it: 127 not found, 126 found but not executable.
        status: u8,
    },
}

/// Names the step of a sequence in which an error arose.
pub trait InStep {
    /// The same result, with `step` put before an error's message.
    #[must_use]
    fn in_step(self, step: &'static str) -> Self;
}

impl<T> InStep for Result<T> {
    fn in_step(self, step: &'static str) -> Self {
        self.map_err(|source| Error::Step { step, source: Box::new(source) })
    }
}

/// The kernel's words for an I/O error, without Rust's "(os error N)".
fn describe(source: &io::Error) -> String {
    match source.raw_os_error() {
        Some(code) => nix::errno::Errno::from_raw(code).desc().to_owned(),
        None => source.to_string(),
    }
}

impl Error {
    /// Wraps a failed system call on `path`.
    pub fn io(op: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Error::Io { op, path: path.as_ref().to_owned(), source: source.into() }
    }

    /// A malformed kernel file; `found` is shortened to what a log line bears.
    pub fn malformed(
        path: impl AsRef<Path>,
        line: usize,
        found: &[u8],
        expected: &'static str,
    ) -> Self {
        const MOST: usize = 80;
        let shown = &found[..found.len().min(MOST)];
        Error::Malformed {
            path: path.as_ref().to_owned(),
            line,
            found: String::from_utf8_lossy(shown).into_owned(),
            expected,
        }
    }

    /// The errno that a reader gets to see.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Error::Io { source, .. } | Error::Passed(source) => {
                source.raw_os_error().unwrap_or(libc::EIO)
            }
            Error::Malformed { .. }
            | Error::PageCacheFill
            | Error::Panicked { .. }
            | Error::Refused(_) => libc::EIO,
            Error::Gone { .. } => libc::ESRCH,
            Error::NotFound => libc::ENOENT,
            Error::NotADirectory => libc::ENOTDIR,
            Error::IsADirectory => libc::EISDIR,
            Error::ReadOnly => libc::EACCES,
            Error::NotExecuted { .. } => libc::ENOEXEC,
            Error::Step { source, .. } | Error::Undoing { source, .. } => source.errno(),
        }
    }

    /// How loudly it is logged: what a reader can cause at will stays quiet.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Error::Panicked { .. } => Level::Error,
            Error::Io { .. }
            | Error::Malformed { .. }
            | Error::Refused(_)
            | Error::NotExecuted { .. } => Level::Warn,
            Error::Step { source, .. } | Error::Undoing { source, .. } => source.level(),
            Error::Gone { .. }
            | Error::NotFound
            | Error::NotADirectory
            | Error::IsADirectory
            | Error::ReadOnly
            | Error::Passed(_)
            | Error::PageCacheFill => Level::Debug,
        }
    }

    /// Whether the kernel said that the thing asked about does not exist (any more). Not what
    /// is passed on: that is the answer.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        !matches!(self, Error::Passed(_))
            && matches!(self.errno(), libc::ENOENT | libc::ESRCH | libc::ENODEV)
    }

    /// The kernel's answer `errno` for a file that is passed on.
    #[must_use]
    pub fn passed(errno: i32) -> Self {
        Error::Passed(io::Error::from_raw_os_error(errno))
    }
}

/// How many different messages are logged: far more than a healthy daemon has in its life.
const MOST_LOGGED: usize = 512;

static LOGGED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
static REPORTED: AtomicU64 = AtomicU64::new(0);

/// Counts an error that a reader could not cause at will, and logs any the first time that its
/// text is seen, so that no container can flood the log.
pub fn report(error: &Error) {
    if error.level() <= Level::Warn {
        REPORTED.fetch_add(1, Ordering::Relaxed);
    }
    if !log::log_enabled!(error.level()) {
        return;
    }
    if let Some(line) = admit(&mut LOGGED.lock(), error.to_string()) {
        log::log!(error.level(), "{line}");
    }
}

/// The line to log: the message where it is new, and a last word where there were too many.
fn admit(logged: &mut BTreeSet<String>, message: String) -> Option<String> {
    if logged.len() > MOST_LOGGED || logged.contains(&message) {
        return None;
    }
    let last = logged.len() == MOST_LOGGED;
    logged.insert(message.clone());
    Some(if last {
        format!("{MOST_LOGGED} different errors logged; no more will be")
    } else {
        message
    })
}

/// How many errors [`report`] has counted.
#[must_use]
pub fn reported() -> u64 {
    REPORTED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_clear_line() {
        let error = Error::io("open", "/x/y", io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.to_string(), "/x/y: cannot open: No such file or directory");
        assert_eq!(error.errno(), libc::ENOENT);
        assert!(error.is_gone());
        let error = Error::malformed("/x", 3, b"abc", "a number");
        assert_eq!(error.to_string(), "/x: line 3: found \"abc\", expected a number");
        assert_eq!(error.errno(), libc::EIO);
    }

    #[test]
    fn a_step_is_named_before_its_error() {
        let failed = || Err::<(), _>(Error::io("mkdir", "/x", io::Error::from_raw_os_error(13)));
        let error = failed().in_step("cgroups").unwrap_err();
        assert_eq!(error.to_string(), "cgroups: /x: cannot mkdir: Permission denied");
        assert_eq!(error.errno(), libc::EACCES);
        let undoing = Box::new(failed().unwrap_err());
        let error = Error::Undoing { source: Box::new(error), undoing };
        assert_eq!(
            error.to_string(),
            "cgroups: /x: cannot mkdir: Permission denied; then /x: cannot mkdir: Permission denied"
        );
    }

    #[test]
    fn each_message_is_logged_once_and_not_without_end() {
        let mut logged = BTreeSet::new();
        assert_eq!(admit(&mut logged, "a".into()), Some("a".into()));
        assert_eq!(admit(&mut logged, "a".into()), None);
        let lines = (0..10_000).filter_map(|n| admit(&mut logged, format!("m{n}"))).count();
        assert_eq!(lines, MOST_LOGGED);
        assert_eq!(logged.len(), MOST_LOGGED + 1);
    }
}
