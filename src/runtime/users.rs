//! A container's own users: a user namespace, in which its root is nobody on the host;
//! user_namespaces(7).
//!
//! The container is built by the host's root and entered last: the namespace owns none of the
//! others, so that capabilities in it act on files and processes alone. The files of its root
//! filesystem are shown with its users' numbers by id-mapped mounts, mount_setattr(2).

use std::fs::{self, File};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Uid, pause, setfsgid, setfsuid};
use rustix::process::{Signal, pidfd_send_signal};

use super::die_with;
use crate::error::{Error, Result};
use crate::sys::mount::set_id_map;
use crate::sys::process;

/// Which numbers of the host's a container's users and groups are: those from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// The number that 0 is on the host.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// Parses `host`, for no namespace, or `0:FIRST:COUNT`.
///
/// # Errors
/// What was expected, for a person.
pub fn parse(text: &str) -> Result<Users, String> {
    let expected = || "expected host, or 0:FIRST:COUNT such as 0:100000:65536".to_owned();
    if text == "host" {
        return Ok(Users::Host);
    }
    let fields: Vec<u32> = text
        .split(':')
        .map(|field| field.parse().map_err(|_| expected()))
        .collect::<Result<_, _>>()?;
    match fields[..] {
        // The last number of all is none.
        // The host's root is not to be any of them.
        [0, first, count] if first > 0 && count > 0 && first.checked_add(count).is_some() => {
            Ok(Users::Own(Map { first, count }))
        }
        _ => Err(expected()),
    }
}

/// Whose users a container has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Users {
    /// The host's.
    #[default]
    Host,
    /// Its own.
    Own(Map),
}

/// A user namespace that no process is in yet.
#[derive(Debug)]
pub struct Namespace {
    handle: OwnedFd,
    map: Map,
}

impl Namespace {
    /// Makes one with the map.
    ///
    /// # Errors
    /// What clone3(2) answers, and the writes to uid_map and gid_map.
    pub fn new(map: Map) -> Result<Namespace> {
        // A namespace comes with a process in it, here one that does nothing. It must not outlive
        // this one, nor keep the lock of a container whose runtime is gone.
        let parent = die_with::this_process()?;
        let child = process::clone_into(CloneFlags::CLONE_NEWUSER, None, || {
            if process::close_all_but(&[parent.as_fd()]).is_ok() && parent.watch().is_ok() {
                loop {
                    pause();
                }
            }
            1
        })
        .map_err(|error| Error::io("clone3", "a user namespace", error))?;
        let made = Self::of_process(child.pid, map);
        let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        waitpid(child.pid, None)
            .map_err(|errno| Error::io("wait for", "the first in a user namespace", errno))?;
        made
    }

    fn of_process(pid: nix::unistd::Pid, map: Map) -> Result<Namespace> {
        let line = format!("0 {} {}", map.first, map.count);
        for file in ["uid_map", "gid_map"] {
            let path = format!("/proc/{pid}/{file}");
            fs::write(&path, &line).map_err(|error| Error::io("write", &path, error))?;
        }
        let path = format!("/proc/{pid}/ns/user");
        let handle = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
        Ok(Namespace { handle: handle.into(), map })
    }

    /// Shows the files of a mount, and of those below it, with the numbers that they have inside:
    /// what is the host's root's is the container's root's. `place` is what messages call it.
    ///
    /// # Errors
    /// EINVAL: its filesystem cannot (overlayfs is one, and tmpfs before Linux 6.3).
    pub fn map_files(&self, mount: &OwnedFd, place: &Path) -> Result<()> {
        set_id_map(mount, self.handle.as_fd())
            .map_err(|error| Error::io("map the owners of", place, error))
    }

    /// The number on the host of a user or group inside; root's where it has none.
    #[must_use]
    pub fn outside(&self, inside: u32) -> u32 {
        self.map.first + if inside < self.map.count { inside } else { 0 }
    }

    /// Has this process make files as the container's root, until [`make_files_as_host`].
    pub fn make_files_as_root_inside(&self) {
        setfsgid(Gid::from_raw(self.map.first));
        setfsuid(Uid::from_raw(self.map.first));
    }

    /// Has this process be in it, its root's rights and all.
    ///
    /// # Errors
    /// What setns(2) answers.
    pub fn enter(&self) -> Result<()> {
        setns(&self.handle, CloneFlags::CLONE_NEWUSER)
            .map_err(|errno| Error::io("setns", "the user namespace", errno))
    }
}

/// Has this process make files as what it is.
pub fn make_files_as_host() {
    setfsuid(Uid::effective());
    setfsgid(Gid::effective());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_or_a_range() {
        assert_eq!(parse("host"), Ok(Users::Host));
        let map = Map { first: 100_000, count: 65_536 };
        assert_eq!(parse("0:100000:65536"), Ok(Users::Own(map)));
        assert!(parse("0:4294967294:1").is_ok());
        for text in [
            "",
            "private",
            "0",
            "0:1",
            "1:100000:65536",
            "0:100000:0",
            "0:4294967295:1",
            "0:1:4294967295",
            "0:-1:2",
            "0:1:2:3",
            "0:x:1",
        ] {
            assert!(parse(text).unwrap_err().starts_with("expected host"), "{text}");
        }
    }
}
