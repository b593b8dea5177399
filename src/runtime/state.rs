//! What is known of a container beyond its processes: its record, as plain data.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::os::fd::OwnedFd;

use jiff::Timestamp;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::confinement::Decided;
use super::spec::{Process, Spec};
use crate::cgroup::limits::Limits;
use crate::error::{Error, Result};
use crate::procfs::process;

/// The form of [`Record`]; another form has another number.
const VERSION: u32 = 1;

/// What is known of a running container: what `ps` shows and `exec` needs.
///
/// Texts that are not UTF-8 have the replacement character in them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// 64 hexadecimal digits; the name of its cgroups.
    pub id: String,
    /// What it was called; its short id where it was not.
    pub name: String,
    /// When it began.
    pub created: Timestamp,
    /// Its first process.
    #[serde(flatten)]
    pub init: Pin,
    /// The runtime, which ends after it.
    pub runtime: Pin,
    /// Its command and the arguments.
    pub command: Vec<String>,
    /// The variables that were added to its environment.
    pub environment: Vec<String>,
    /// Its working directory; none for `/`.
    pub directory: Option<String>,
    /// Who it was started as; empty for root.
    pub user: String,
    /// Its host name at first.
    pub hostname: String,
    /// What it may use: memory in bytes, CPU time in microseconds.
    pub limits: Limits,
    /// What it may do.
    pub confinement: Decided,
}

/// A process by a number that a later process may get, and by what tells the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// In the pid namespace that the runtime was started in.
    pub pid: i32,
    /// When it started, in nanoseconds of that namespace's `CLOCK_BOOTTIME`;
    /// `/proc/PID/stat`.
    start_time: u64,
}

impl Record {
    /// The record of a container that begins now.
    #[must_use]
    pub fn new(id: &str, spec: &Spec, confinement: Decided, init: Pin, runtime: Pin) -> Record {
        let Process { command, environment, directory, user } = &spec.process;
        let texts = |texts: &[OsString]| -> Vec<String> {
            texts.iter().map(|text| text.to_string_lossy().into_owned()).collect()
        };
        Record {
            version: VERSION,
            id: id.to_owned(),
            name: spec.name.clone().unwrap_or_else(|| short(id).to_owned()),
            created: Timestamp::now(),
            init,
            runtime,
            command: texts(command),
            environment: texts(environment),
            directory: directory.as_ref().map(|path| path.to_string_lossy().into_owned()),
            user: user.clone(),
            hostname: spec.hostname(id).to_string_lossy().into_owned(),
            limits: spec.limits.clone(),
            confinement,
        }
    }

    /// Parses a record.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(text: &[u8]) -> Result<Record, String> {
        #[derive(Deserialize)]
        struct Any {
            version: u32,
        }
        let Any { version } = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if version != VERSION {
            return Err(format!("has version {version}, expected {VERSION}"));
        }
        serde_json::from_slice(text).map_err(|error| error.to_string())
    }

    /// The record as text.
    ///
    /// # Errors
    /// [`Error::Refused`]: a defect of ours.
    pub fn text(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|error| Error::Refused(format!("record: {error}")))
    }
}

impl Pin {
    /// The process that has the number `pid` now.
    ///
    /// # Errors
    /// [`Error::Gone`] where none has.
    pub fn of(pid: Pid) -> Result<Pin> {
        let path = format!("/proc/{pid}/stat");
        let text = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        let stat = process::parse_stat(&text)
            .ok_or_else(|| Error::malformed(&path, 1, &text, "the fields of proc_pid_stat(5)"))?;
        Ok(Pin { pid: pid.as_raw(), start_time: stat.start_time.0 })
    }

    /// A descriptor of the process, if it is still the one that was meant.
    ///
    /// # Errors
    /// [`Error::Gone`] where it has ended; what pidfd_open(2) answers.
    pub fn open(&self) -> Result<OwnedFd> {
        let gone = || Error::Gone { what: format!("process {}", self.pid) };
        let pid = rustix::process::Pid::from_raw(self.pid).ok_or_else(gone)?;
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Err(gone()),
            opened => opened.map_err(|errno| Error::io("open a pidfd of", "/proc", errno))?,
        };
        // After the descriptor: who has the number then had it when the descriptor was opened.
        match Pin::of(Pid::from_raw(self.pid)) {
            Ok(found) if found == *self => Ok(pidfd),
            Ok(_) => Err(gone()),
            Err(error) if error.is_gone() => Err(gone()),
            Err(error) => Err(error),
        }
    }
}

/// Draws a container's id: 64 hexadecimal digits, as Docker's.
///
/// # Errors
/// What getrandom(2) answers.
pub fn new_id() -> Result<String> {
    let mut random = [0_u8; 32];
    let filled = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Error::io("read", "getrandom(2)", errno))?;
    if filled < random.len() {
        return Err(Error::Refused(format!("getrandom(2) gave {filled} bytes of 32")));
    }
    let mut id = String::with_capacity(64);
    for byte in random {
        // Writing to a String does not fail.
        let _ = write!(id, "{byte:02x}");
    }
    Ok(id)
}

/// Whether a text has the form of an id.
#[must_use]
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first digits of an id, by which people call a container; its host name.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::confinement::Asked;
    use crate::runtime::namespaces::Network;
    use crate::runtime::spec::Attach;
    use crate::runtime::users::Users;

    #[test]
    fn ids_are_64_digits_and_differ() {
        let id = new_id().unwrap();
        assert!(is_id(&id));
        assert_ne!(id, new_id().unwrap());
        assert_eq!(short(&id), &id[..12]);
        for text in ["", &id[1..], &id.to_uppercase().replace(char::is_numeric, "A"), "web"] {
            assert!(!is_id(text), "{text}");
        }
    }

    fn record() -> Record {
        let spec = Spec {
            name: Some("web".to_owned()),
            limits: Limits::default(),
            rootfs: None,
            is_read_only: false,
            volumes: Vec::new(),
            hostname: String::new(),
            network: Network::Host,
            users: Users::Host,
            confinement: Asked::default(),
            process: Process {
                command: vec!["sleep".into(), "1000".into()],
                environment: vec!["A=ü".into()],
                directory: Some("/tmp".into()),
                user: "1000".to_owned(),
            },
            attach: Attach::default(),
        };
        let own = Pin::of(Pid::this()).unwrap();
        Record::new(&new_id().unwrap(), &spec, Decided::of(&Asked::default()).unwrap(), own, own)
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = record();
        assert_eq!(Record::parse(&record.text().unwrap()), Ok(record));
    }

    #[test]
    fn what_is_no_record() {
        let text = String::from_utf8(record().text().unwrap()).unwrap();
        let other = text.replacen("\"version\":1", "\"version\":2", 1);
        assert_ne!(text, other);
        let why = |text: &str| Record::parse(text.as_bytes()).unwrap_err();
        assert_eq!(why(&other), "has version 2, expected 1");
        for text in ["", "{}", "[]", &text[..text.len() / 2], "{\"version\":1}"] {
            assert!(!why(text).contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_pin_tells_a_process_from_a_later_one() {
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pin = Pin::of(Pid::from_raw(i32::try_from(child.id()).unwrap())).unwrap();
        pin.open().unwrap();
        let later = Pin { start_time: pin.start_time + 10_000_000, ..pin };
        assert!(later.open().unwrap_err().is_gone());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(pin.open().unwrap_err().is_gone());
    }
}
