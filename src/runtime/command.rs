//! How a command is executed in a container: its environment, its working directory, where its
//! program is found, and the exit status that tells why it could not be.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::execve;
use rustix::fs::{CWD, OFlags, ResolveFlags, openat2};
use rustix::process::fchdir;

use super::confinement::Confinement;
use super::spec::Process;
use super::user::{self, User};
use crate::error::{Error, Result};

const STATUS_NOT_EXECUTABLE: u8 = 126;
const STATUS_NOT_FOUND: u8 = 127;

/// Where commands are looked for in a container, as Docker sets it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The environment that each process of a container named `hostname` has, on a terminal that
/// is called `term`.
#[must_use]
pub fn defaults(hostname: &OsStr, term: Option<&OsStr>) -> Vec<OsString> {
    let mut defaults = vec![variable("PATH=", PATH.as_ref()), variable("HOSTNAME=", hostname)];
    defaults.extend(term.map(|term| variable("TERM=", term)));
    defaults
}

/// Makes this process what the command is to be, in the container that was entered: in its
/// directory, confined, and the user that is returned. One who is not root has lost the signal
/// of [`super::die_with`] by it.
///
/// # Errors
/// [`Error::NotExecuted`], or what [`user::look_up`] and [`Confinement::enter`] answer.
pub fn enter(process: &Process, confinement: &Confinement) -> Result<User> {
    let user = user::look_up(&process.user)?;
    let directory = process.directory.as_deref().unwrap_or(Path::new("/"));
    // No path like /proc/self/fd/7, which may lead to a directory of the host's.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat2(CWD, directory, flags, rustix::fs::Mode::empty(), ResolveFlags::NO_MAGICLINKS)
        .and_then(fchdir)
        .map_err(|errno| Error::NotExecuted {
            command: directory.display().to_string(),
            reason: format!(
                "cannot be the working directory: {}",
                Errno::from_raw(errno.raw_os_error()).desc()
            ),
            status: STATUS_NOT_EXECUTABLE,
        })?;
    confinement.enter(&user)?;
    Ok(user)
}

/// Becomes the command as `user`, with the process's environment over `defaults`. Returns only
/// with the reason why not.
///
/// # Errors
/// [`Error::NotExecuted`].
pub fn execute(process: &Process, defaults: &[OsString], user: &User) -> Result<Infallible> {
    let mut environment = overlaid(defaults, &process.environment);
    if !environment.iter().any(|variable| name_of(variable) == b"HOME") {
        environment.push(variable("HOME=", &user.home));
    }
    become_program(&process.command, &environment)
}

/// The variables of `defaults`, of which those of `wanted` replace their like in its place. A
/// wanted name without a value takes the variable away.
fn overlaid(defaults: &[OsString], wanted: &[OsString]) -> Vec<OsString> {
    let mut variables = defaults.to_vec();
    for variable in wanted {
        let place = variables.iter().position(|other| name_of(other) == name_of(variable));
        match (place, variable.as_bytes().contains(&b'=')) {
            (Some(place), true) => variables[place].clone_from(variable),
            (None, true) => variables.push(variable.clone()),
            (Some(place), false) => drop(variables.remove(place)),
            (None, false) => {}
        }
    }
    variables
}

fn variable(name: &str, value: &OsStr) -> OsString {
    [OsStr::new(name), value].into_iter().collect()
}

fn name_of(variable: &OsStr) -> &[u8] {
    variable.as_bytes().split(|&byte| byte == b'=').next().unwrap_or_default()
}

/// Executes the file that a command's name means; returns only with the reason why not.
fn become_program(command: &[OsString], environment: &[OsString]) -> Result<Infallible> {
    let name = command.first().map(OsString::as_os_str).unwrap_or_default();
    let not_executed = |status: u8, reason: &str| Error::NotExecuted {
        command: name.display().to_string(),
        reason: reason.to_owned(),
        status,
    };
    // Nothing that came by execve(2) has a NUL byte in it.
    let strings = |texts: &[OsString]| -> Vec<CString> {
        texts.iter().filter_map(|text| CString::new(text.as_bytes()).ok()).collect()
    };
    let (arguments, variables) = (strings(command), strings(environment));

    let is_path = name.as_bytes().contains(&b'/');
    let mut refusal = None;
    for candidate in candidates(name, path_in(environment)) {
        let Ok(path) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
        let Err(errno) = execve(&path, &arguments, &variables);
        let found = fs::metadata(&candidate);
        let is_dir = found.as_ref().is_ok_and(fs::Metadata::is_dir);
        if found.is_err() && matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
            continue;
        }
        if errno == Errno::ENOENT {
            return Err(not_executed(STATUS_NOT_FOUND, "its interpreter is not there"));
        }
        if is_dir && is_path {
            return Err(not_executed(STATUS_NOT_EXECUTABLE, "is a directory"));
        }
        // A directory of a command's name is no command, unless it was asked for by path.
        if !is_dir {
            refusal = refusal.or(Some(errno));
        }
    }
    Err(match refusal {
        Some(errno) => not_executed(STATUS_NOT_EXECUTABLE, errno.desc()),
        None if is_path => not_executed(STATUS_NOT_FOUND, "no such file in the container"),
        None => not_executed(STATUS_NOT_FOUND, "no such command in the container's PATH"),
    })
}

/// Where an environment says that commands are.
fn path_in(environment: &[OsString]) -> &OsStr {
    let value = environment.iter().find_map(|variable| variable.as_bytes().strip_prefix(b"PATH="));
    OsStr::from_bytes(value.unwrap_or_default())
}

/// The files that a command's name may mean, in order.
fn candidates(name: &OsStr, path: &OsStr) -> Vec<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return vec![PathBuf::from(name)];
    }
    let dirs = path.as_bytes().split(|&byte| byte == b':').filter(|dir| !dir.is_empty());
    dirs.map(|dir| Path::new(OsStr::from_bytes(dir)).join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<OsString> {
        texts.iter().map(OsString::from).collect()
    }

    #[test]
    fn wanted_variables_replace_their_like() {
        let defaults = defaults("h".as_ref(), Some("vt100".as_ref()));
        let path = format!("PATH={PATH}");
        assert_eq!(defaults, strings(&[&path, "HOSTNAME=h", "TERM=vt100"]));
        assert_eq!(
            overlaid(&defaults, &strings(&["A=1", "HOSTNAME=x=y", "A=2", "TERM", "NO", "B="])),
            strings(&[&path, "HOSTNAME=x=y", "A=2", "B="])
        );
    }

    #[test]
    fn names_are_looked_for_and_paths_are_not() {
        assert_eq!(candidates(OsStr::new("./x"), OsStr::new(PATH)), [PathBuf::from("./x")]);
        let found = candidates(OsStr::new("sh"), OsStr::new(PATH));
        assert_eq!(found.len(), 6);
        assert!(found.contains(&PathBuf::from("/bin/sh")));
    }

    #[test]
    fn what_cannot_be_executed() {
        let status =
            |name: &str| match become_program(&[name.into()], &[format!("PATH={PATH}").into()]) {
                Err(Error::NotExecuted { status, reason, .. }) => (status, reason),
                other => panic!("{other:?}"),
            };
        assert_eq!(status("/no/such").0, 127);
        assert_eq!(status("no-such-command").0, 127);
        assert_eq!(status("").0, 127);
        assert_eq!(status("/etc"), (126, "is a directory".to_owned()));
        assert_eq!(status("/etc/passwd").0, 126);
        assert_eq!(status("/etc/passwd/x").0, 127);
    }
}
