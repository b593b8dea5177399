//! The files that tell a container's name and how to look up others': /etc/hostname, /etc/hosts
//! and /etc/resolv.conf.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::fchown;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};

use super::mountpoint::{self, Kind};
use super::mounts;
use super::namespaces::Network;
use super::rootfs::Scratch;
use super::users::Namespace;
use crate::error::{Error, Result};

/// Where lookups begin; hosts(5) and resolv.conf(5).
const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// All that has a name in a network of one's own.
const HOSTS_ALONE: &[u8] = b"127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Checks a host name: sethostname(2) takes 64 bytes.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_hostname(text: &str) -> Result<String, String> {
    const HOST_NAME_MAX: usize = 64;
    if text.len() > HOST_NAME_MAX || text.contains('\n') {
        return Err(format!("expected a name of at most {HOST_NAME_MAX} bytes"));
    }
    Ok(text.to_owned())
}

/// What the files are to say.
#[derive(Debug)]
pub struct Contents(Vec<(&'static str, Vec<u8>)>);

/// Decides it, before anything is mounted over the host's root, by which a path with `..` in it
/// would lead elsewhere: what the host says where its network is shared. A file that the host
/// does not have is left as it is.
#[must_use]
pub fn decide(hostname: &OsStr, network: Network) -> Contents {
    let hosts = match network {
        Network::Host => fs::read(HOSTS).ok(),
        Network::None => Some(HOSTS_ALONE.to_vec()),
    };
    let files = [
        ("/etc/hostname", Some([hostname.as_bytes(), b"\n"].concat())),
        (HOSTS, hosts),
        (RESOLV_CONF, fs::read(RESOLV_CONF).ok()),
    ];
    Contents(files.into_iter().filter_map(|(place, text)| Some((place, text?))).collect())
}

/// The files, as mounts that are attached nowhere yet.
#[derive(Debug)]
pub struct Names(Vec<(OwnedFd, PathBuf)>);

impl Names {
    /// Writes the files.
    ///
    /// # Errors
    /// What open(2), write(2) and open_tree(2) answer.
    pub fn write(
        contents: &Contents,
        scratch: &Scratch,
        users: Option<&Namespace>,
    ) -> Result<Names> {
        let mut mounts = Vec::new();
        for (place, text) in &contents.0 {
            let place = Path::new(place);
            let name = Path::new(place.file_name().unwrap_or_default());
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(scratch.directory(), name, flags, Mode::from_raw_mode(0o644))
                .map_err(std::io::Error::from)
                .and_then(|file| {
                    let owner = users.map(|users| users.outside(0));
                    fchown(&file, owner, owner)?;
                    fs::File::from(file).write_all(text)
                })
                .map_err(|error| Error::io("write", place, error))?;
            mounts.push((mounts::clone_at(scratch.directory(), name)?, place.to_owned()));
        }
        Ok(Names(mounts))
    }

    /// Attaches them in the root that was entered, where it has an /etc.
    ///
    /// # Errors
    /// The file that cannot be mounted on.
    pub fn attach(&self) -> Result<()> {
        if !Path::new("/etc").is_dir() {
            return Ok(());
        }
        for (mount, place) in &self.0 {
            match mountpoint::find_or_make(place, Kind::File) {
                Ok(found) => {
                    found.refuse_in_proc(place)?;
                    mounts::attach_to(mount, &found.file, place)?;
                }
                Err(error) if error.errno() == libc::EROFS => log::info!("{error}: left out"),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has nothing written to them.
    ///
    /// # Errors
    /// What mount_setattr(2) answers.
    pub fn make_read_only(&self) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|(mount, place)| mounts::restrict(mount, mounts::READ_ONLY, place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_takes() {
        for name in ["", "a", "a.b", "a b", &"a".repeat(64)] {
            assert_eq!(parse_hostname(name), Ok(name.to_owned()));
        }
        for name in ["a\n", &"a".repeat(65)] {
            assert!(parse_hostname(name).unwrap_err().starts_with("expected"), "{name}");
        }
    }
}
