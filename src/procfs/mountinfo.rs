//! The grammar of `/proc/PID/mountinfo`, `proc_pid_mountinfo(5)`, and of the one line of
//! `/proc/PID/fdinfo/FD` that leads to it.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

/// The device number of a superblock: every bind mount of it has the same, and no other
/// superblock as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    major: u32,
    minor: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, `STATX_MNT_ID` of whatever lies on it; reused once it is gone.
    pub id: u64,
    /// The id of the mount that it is mounted on.
    pub parent: u64,
    /// Its superblock.
    pub device: Device,
    /// What of its filesystem it shows: `/`, or of a bind mount the directory or file.
    pub root: Vec<u8>,
    /// Where it is mounted, seen from the reader's root.
    pub mount_point: PathBuf,
    /// Whether the mount is read-only, whatever its superblock is.
    pub is_read_only: bool,
    /// `shared:N`: what is mounted on it shows on all of its peer group N.
    pub peer_group: Option<u64>,
    /// `master:N`: what is mounted on peer group N shows here.
    pub master: Option<u64>,
    /// The filesystem's type, with the subtype of a FUSE filesystem (`fuse.lxcfs`).
    pub fs_type: String,
    /// What it was mounted from, as whoever mounted it called that.
    pub source: Vec<u8>,
    /// The superblock's options.
    pub super_options: String,
}

impl Mount {
    /// Whether it is a FUSE filesystem, of whatever subtype.
    #[must_use]
    pub fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type.starts_with("fuse.")
    }
}

/// Parses the text of a mountinfo file, in its order. Lines of another form are passed over.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

/// Parses one line, without its end.
#[must_use]
pub fn parse_line(line: &[u8]) -> Option<Mount> {
    let separator = line.windows(3).position(|window| window == b" - ")?;
    let mut fields = line[..separator].split(|&byte| byte == b' ');
    let mut tail = line[separator + 3..].split(|&byte| byte == b' ');
    let mut mount = Mount {
        id: number(fields.next()?)?,
        parent: number(fields.next()?)?,
        device: parse_device(fields.next()?)?,
        root: unescape(fields.next()?),
        mount_point: PathBuf::from(OsString::from_vec(unescape(fields.next()?))),
        is_read_only: fields.next()?.split(|&byte| byte == b',').any(|option| option == b"ro"),
        peer_group: None,
        master: None,
        fs_type: String::from_utf8_lossy(tail.next()?).into_owned(),
        source: unescape(tail.next()?),
        super_options: String::from_utf8_lossy(tail.next()?).into_owned(),
    };
    for field in fields {
        if let Some(group) = field.strip_prefix(b"shared:") {
            mount.peer_group = number(group);
        } else if let Some(group) = field.strip_prefix(b"master:") {
            mount.master = number(group);
        }
    }
    Some(mount)
}

fn parse_device(field: &[u8]) -> Option<Device> {
    let colon = field.iter().position(|&byte| byte == b':')?;
    Some(Device { major: number(&field[..colon])?, minor: number(&field[colon + 1..])? })
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// Undoes the octal escapes (`\040` for a blank) that the kernel's mangle() makes of blanks,
/// tabs, newlines and backslashes.
#[must_use]
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        plain.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    plain
}

/// The mount that an open file lies on: the value of `mnt_id:` in the text of
/// /proc/PID/fdinfo/FD (Linux 3.15), proc_pid_fdinfo(5).
#[must_use]
pub fn parse_mount_id(fdinfo: &[u8]) -> Option<u64> {
    let value =
        fdinfo.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"mnt_id:"))?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_a_line_says() {
        let text = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            broken line\n\
            36 27 0:31 /x\\011y /a\\040b\\134 ro,nosuid shared:1 master:2 - fuse.lxcfs lxcfs@/a\\040b rw,user_id=0\n";
        let [first, second] = parse(text).try_into().unwrap();
        assert_eq!((first.id, first.parent), (27, 1));
        assert_eq!(first.mount_point, Path::new("/"));
        assert_eq!((first.peer_group, first.master), (None, None));
        assert!(!first.is_read_only && !first.is_fuse());
        assert_eq!(second.device.to_string(), "0:31");
        assert_eq!(second.root, b"/x\ty");
        assert_eq!(second.mount_point, Path::new("/a b\\"));
        assert_eq!((second.peer_group, second.master), (Some(1), Some(2)));
        assert_eq!(
            (second.fs_type.as_str(), second.super_options.as_str()),
            ("fuse.lxcfs", "rw,user_id=0")
        );
        assert_eq!(second.source, b"lxcfs@/a b");
        assert!(second.is_read_only && second.is_fuse());
    }

    #[test]
    fn every_prefix_is_harmless() {
        let line = b"36 27 0:31 /x /a\\040b rw shared:1 - fuse.lxcfs lxcfs rw";
        for end in 0..line.len() {
            let _ = parse(&line[..end]);
        }
    }

    #[test]
    fn a_broken_escape_stays() {
        assert_eq!(unescape(b"/a\\040b\\134"), b"/a b\\");
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\999\\011"), b"\\999\t");
        assert_eq!(unescape(b"\\"), b"\\");
    }

    #[test]
    fn the_mount_of_an_open_file() {
        assert_eq!(parse_mount_id(b"pos:\t0\nflags:\t012\nmnt_id:\t29\nino:\t1\n"), Some(29));
        assert_eq!(parse_mount_id(b"pos:\t0\n"), None);
    }
}
