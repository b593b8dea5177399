//! The grammar of `/proc/PID/mountinfo`, as far as the runtime asks.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use crate::cgroup::layout::unescape;

/// One mount; `proc(5)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The mount's id, `STATX_MNT_ID` of whatever lies on it.
    pub id: u64,
    /// Where it is mounted, seen from the reader's root.
    pub mount_point: PathBuf,
    /// The filesystem's type, with the subtype of a FUSE filesystem (`fuse.lxcfs`).
    pub fs_type: String,
}

/// Parses the text of a mountinfo file, in its order. Lines of another form are passed over.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let separator = line.windows(3).position(|window| window == b" - ")?;
    let mut fields = line[..separator].split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.nth(3)?)));
    let fs_type = line[separator + 3..].split(|&byte| byte == b' ').next()?;
    let fs_type = String::from_utf8(fs_type.to_vec()).ok()?;
    Some(Mount { id, mount_point, fs_type })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn ids_places_and_types() {
        let text = b"27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            broken line\n\
            36 27 0:31 /x /a\\040b rw shared:1 master:2 - fuse.lxcfs lxcfs rw,user_id=0\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].id, 27);
        assert_eq!(mounts[0].mount_point, Path::new("/"));
        assert_eq!(mounts[0].fs_type, "ext4");
        assert_eq!(mounts[1].mount_point, Path::new("/a b"));
        assert_eq!(mounts[1].fs_type, "fuse.lxcfs");
    }

    #[test]
    fn every_prefix_is_harmless() {
        let line = b"36 27 0:31 /x /a\\040b rw shared:1 - fuse.lxcfs lxcfs rw";
        for end in 0..line.len() {
            let _ = parse(&line[..end]);
        }
    }
}
