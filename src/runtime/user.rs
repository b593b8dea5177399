//! Who a container's process is: `--user`, looked up in the container's own /etc/passwd and
//! /etc/group; passwd(5), group(5).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;

use nix::unistd::{Gid, Uid, fchown, setgroups, setresgid, setresuid};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// The largest number that Docker takes for a user or a group.
const ID_MAX: u32 = i32::MAX.cast_unsigned();

/// A user as the kernel knows one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    uid: u32,
    gid: u32,
    /// The groups beside that one.
    groups: Vec<u32>,
    /// The home directory, for `HOME`.
    pub home: OsString,
}

/// Looks up `USER`, `USER:GROUP` or `:GROUP` in the root that was entered, each a name or a
/// number; the empty text is root.
///
/// # Errors
/// [`Error::Refused`] for a name that is not there.
pub fn look_up(text: &str) -> Result<User> {
    find(text, &read("/etc/passwd")?, &read("/etc/group")?)
        .map_err(|reason| Error::Refused(format!("--user {text}: {reason}")))
}

/// Reads a file of the container's, which may be anything; nothing where it is not there.
fn read(path: &str) -> Result<Vec<u8>> {
    const LONGEST: u64 = 16 << 20;
    // A FIFO must not keep this process waiting, nor a link in /proc lead out of the container.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let failed = |error: io::Error| Error::io("read", path, error);
    let file = match openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        opened => File::from(opened.map_err(|errno| failed(errno.into()))?),
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() || found.len() > LONGEST {
        return Err(Error::Refused(format!(
            "{path}: expected a regular file of at most {} MiB in the container",
            LONGEST >> 20
        )));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// As [`look_up`], in the texts of the two files.
///
/// # Errors
/// What is not there, for a person.
pub fn find(text: &str, passwd: &[u8], group: &[u8]) -> Result<User, String> {
    let (user, wanted_group) = text.split_once(':').unwrap_or((text, ""));
    // Nobody is called root's number: a line of that name would be another user's.
    let is_wanted = |fields: &Vec<&[u8]>| match user {
        "" => number(fields[2]) == Some(0),
        _ => is_called(fields, user),
    };
    let entry = lines(passwd, 4).find(is_wanted);
    let mut found = User { uid: 0, gid: 0, groups: Vec::new(), home: "/".into() };
    match &entry {
        Some(fields) => {
            found.uid = number(fields[2]).ok_or("its uid in /etc/passwd is no number")?;
            found.gid = number(fields[3]).ok_or("its gid in /etc/passwd is no number")?;
            if let Some(home) = fields.get(5).filter(|home| !home.is_empty()) {
                found.home = OsStr::from_bytes(home).to_owned();
            }
        }
        None if user.is_empty() => {}
        None => {
            found.uid =
                number(user.as_bytes()).ok_or_else(|| missing(user, "user", "/etc/passwd"))?
        }
    }
    if !wanted_group.is_empty() {
        let entry = lines(group, 3).find(|fields| is_called(fields, wanted_group));
        found.gid = match entry {
            Some(fields) => number(fields[2]).ok_or("its gid in /etc/group is no number")?,
            None => number(wanted_group.as_bytes())
                .ok_or_else(|| missing(wanted_group, "group", "/etc/group"))?,
        };
    } else if let Some(fields) = entry {
        let is_member =
            |members: &[u8]| members.split(|&byte| byte == b',').any(|m| m == fields[0]);
        let groups = lines(group, 4).filter(|group| is_member(group[3]));
        found.groups = groups.filter_map(|group| number(group[2])).collect();
    }
    Ok(found)
}

fn missing(name: &str, kind: &str, file: &str) -> String {
    if name.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("expected a number up to {ID_MAX}")
    } else {
        format!("the container's {file} has no {kind} {name}")
    }
}

/// The fields of each line that has so many, or more.
fn lines(text: &[u8], fields: usize) -> impl Iterator<Item = Vec<&[u8]>> {
    text.split(|&byte| byte == b'\n')
        .map(|line| line.trim_ascii().split(|&byte| byte == b':').collect::<Vec<_>>())
        .filter(move |line| line.len() >= fields)
}

/// Whether a line is of this name or number, which stand first and third in both files.
fn is_called(fields: &[&[u8]], name: &str) -> bool {
    fields[0] == name.as_bytes()
        || number(fields[2]).is_some_and(|own| number(name.as_bytes()) == Some(own))
}

/// The number of a user or group. To setresuid(2) the largest of all is no number: it would
/// leave this process as it is.
fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|&id| id <= ID_MAX)
}

impl User {
    /// Whether it is root, who keeps capabilities.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Makes a terminal, which the user is on, the user's.
    ///
    /// # Errors
    /// What fchown(2) answers.
    pub fn own(&self, terminal: impl AsFd) -> Result<()> {
        fchown(terminal, Some(Uid::from_raw(self.uid)), None)
            .map_err(|errno| Error::io("chown", "/dev/pts", errno))
    }

    /// Has this process be the user.
    ///
    /// # Errors
    /// [`Error::Refused`] for a number that its user namespace does not have; what setgroups(2),
    /// setresgid(2) and setresuid(2) answer.
    pub fn assume(&self) -> Result<()> {
        let failed = |errno| {
            if errno == nix::Error::EINVAL {
                return Error::Refused(format!(
                    "--user: {}:{} or one of its groups is none of the container's: see --userns",
                    self.uid, self.gid
                ));
            }
            Error::io("set the user of", "/proc/self", errno)
        };
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        let groups: Vec<Gid> =
            [self.gid].iter().chain(&self.groups).copied().map(Gid::from_raw).collect();
        setgroups(&groups).map_err(failed)?;
        setresgid(gid, gid, gid).map_err(failed)?;
        setresuid(uid, uid, uid).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"# comment\nroot:x:0:0:root:/root:/bin/sh\nx:short\n\
        daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\nhomeless:x:7:8:::\n9:x:20:21::/n:\n";
    const GROUP: &[u8] = b"root:x:0:\ndaemon:x:1:\nmail:x:8:a,daemon\ngames:x:60:daemon,b\n\
        broken:x:y:daemon\n30:x:31:\n";

    #[track_caller]
    fn found(text: &str) -> (u32, u32, Vec<u32>, String) {
        let User { uid, gid, groups, home } = find(text, PASSWD, GROUP).unwrap();
        (uid, gid, groups, home.into_string().unwrap())
    }

    /// As Docker 20.10 has it for such files.
    #[test]
    fn names_and_numbers() {
        let user = |uid, gid, groups: &[u32], home: &str| (uid, gid, groups.to_vec(), home.into());
        for (text, expected) in [
            ("", user(0, 0, &[], "/root")),
            ("root", user(0, 0, &[], "/root")),
            ("1000", user(1000, 0, &[], "/")),
            ("1000:2000", user(1000, 2000, &[], "/")),
            ("1000:", user(1000, 0, &[], "/")),
            (":5", user(0, 5, &[], "/root")),
            ("daemon", user(1, 1, &[8, 60], "/usr/sbin")),
            ("1", user(1, 1, &[8, 60], "/usr/sbin")),
            ("daemon:mail", user(1, 8, &[], "/usr/sbin")),
            ("daemon:1", user(1, 1, &[], "/usr/sbin")),
            ("homeless", user(7, 8, &[], "/")),
            ("2147483647", user(2_147_483_647, 0, &[], "/")),
            // A name may look like a number.
            ("9:30", user(20, 31, &[], "/n")),
        ] {
            assert_eq!(found(text), expected, "{text}");
        }
        assert_eq!(find("", b"", b"").unwrap().home, "/");
        // Fields may be missing at the end.
        let short = find("b", b"b:x:5:6\n", b"c:x:9\nd:x:8:b\n").unwrap();
        assert_eq!((short.uid, short.gid, short.groups, short.home), (5, 6, vec![8], "/".into()));
        assert_eq!(find("0:c", b"", b"c:x:9\n").unwrap().gid, 9);
    }

    #[test]
    fn what_is_not_there() {
        for (text, expected) in [
            ("nosuch", "/etc/passwd has no user nosuch"),
            ("-1", "has no user -1"),
            ("0:nosuch", "/etc/group has no group nosuch"),
            ("0:1:2", "has no group 1:2"),
            ("2147483648", "expected a number up to 2147483647"),
            ("0:4294967295", "expected a number up to"),
            ("99999999999", "expected a number up to"),
        ] {
            let error = find(text, PASSWD, GROUP).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
