//! What a container is to be, and the spellings in which a person says so (Docker's).

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::confinement;
use super::namespaces::Network;
use super::state;
use super::users::Users;
use super::volumes::Volume;
use crate::cgroup::limits::Limits;

/// A container to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What it is to be called, besides its id.
    pub name: Option<String>,
    /// What it may use.
    pub limits: Limits,
    /// Its root directory, used as it is; none for a throw-away copy of the host's root.
    pub rootfs: Option<PathBuf>,
    /// Whether its root filesystem is read-only.
    pub is_read_only: bool,
    /// What it has of the host's files.
    pub volumes: Vec<Volume>,
    /// Its host name; empty for the first digits of its id.
    pub hostname: String,
    /// Its network.
    pub network: Network,
    /// Its users.
    pub users: Users,
    /// What it may do.
    pub confinement: confinement::Asked,
    /// Its first process.
    pub process: Process,
    /// The standard streams of that.
    pub attach: Attach,
}

/// What the standard streams of a process are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    /// Whether it reads the caller's standard input; else there is nothing to read.
    pub input: bool,
    /// Whether they are a terminal of the container's.
    pub terminal: bool,
}

impl Spec {
    /// The host name of the container `id`.
    #[must_use]
    pub fn hostname<'a>(&'a self, id: &'a str) -> &'a OsStr {
        OsStr::new(if self.hostname.is_empty() { state::short(id) } else { &self.hostname })
    }
}

/// A process to start in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Variables of its environment, `NAME=VALUE`, over those that each process has there; a
    /// `NAME` alone takes that variable away.
    pub environment: Vec<OsString>,
    /// Its working directory in the container, absolute; none for `/`.
    pub directory: Option<PathBuf>,
    /// Who it is, for [`super::user::look_up`].
    pub user: String,
}

/// Parses a variable of the environment: `NAME=VALUE`, or a `NAME` that has the value that it
/// has here.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_variable(text: OsString) -> Result<OsString, String> {
    let name_length = text.as_bytes().iter().position(|&byte| byte == b'=');
    match name_length.unwrap_or(text.len()) {
        0 => Err("expected NAME=VALUE, or the NAME of a variable".to_owned()),
        length if length < text.len() => Ok(text),
        _ => Ok(match env::var_os(&text) {
            Some(value) => [text.as_os_str(), "=".as_ref(), &value].into_iter().collect(),
            None => text,
        }),
    }
}

/// Parses a directory in the container.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_directory(text: &str) -> Result<PathBuf, String> {
    let directory = PathBuf::from(text);
    if directory.is_absolute() {
        Ok(directory)
    } else {
        Err("expected an absolute path in the container".to_owned())
    }
}

/// Parses a container's name, by Docker's rule.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_name(text: &str) -> Result<String, String> {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    match text.as_bytes() {
        [first, rest @ ..]
            if first.is_ascii_alphanumeric()
                && !rest.is_empty()
                && rest.iter().all(|&byte| is_inner(byte)) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected two or more of a-z A-Z 0-9 _ . - that begin with a letter or a digit"
            .to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_with_a_value_or_the_callers() {
        let parse = |text: &str| parse_variable(text.into());
        assert_eq!(parse("A=b=c"), Ok("A=b=c".into()));
        assert_eq!(parse("A="), Ok("A=".into()));
        let own = env::var_os("PATH").unwrap();
        assert_eq!(parse("PATH"), Ok(["PATH=".into(), own].into_iter().collect()));
        assert_eq!(parse("NOT_SET_HERE"), Ok("NOT_SET_HERE".into()));
        for text in ["", "=x"] {
            assert!(parse(text).unwrap_err().starts_with("expected"), "{text}");
        }
    }

    #[test]
    fn names() {
        for text in ["web", "a1", "0.", "A_b-c.D", "9-"] {
            assert_eq!(parse_name(text), Ok(text.to_owned()));
        }
        for text in ["", "a", "-a", ".a", "_a", "a/b", "a b", "..", "ü1", "aü"] {
            assert!(parse_name(text).unwrap_err().starts_with("expected"), "{text}");
        }
    }
}
