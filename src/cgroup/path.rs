//! The grammar of `/proc/PID/cgroup`, and the paths it names.

use crate::error::{Error, Result};
use std::path::Path;

/// One line of `/proc/PID/cgroup`: `hierarchy-id:controllers:path` (`cgroups(7)`).
///
/// Paths are bytes: whoever may make cgroups may give them any name but `.`, `..` and one with
/// a slash or a newline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// v1: the hierarchy's controllers, sorted, `name=systemd` included; v2: empty.
    pub controllers: Vec<String>,
    /// The cgroup's path, seen from the reader's cgroup namespace: starts with `/`, and with
    /// `/..` where it lies outside of that namespace's root. A cgroup that was removed keeps
    /// its path, and the kernel appends ` (deleted)`.
    pub path: Vec<u8>,
}

/// Parses the text of `/proc/PID/cgroup`, whose path is `file` for messages.
///
/// # Errors
/// [`Error::Malformed`] for a line without two colons, with a controller's name that is not
/// UTF-8, or whose path is not absolute.
pub fn parse_memberships(text: &[u8], file: &Path) -> Result<Vec<Membership>> {
    let mut memberships = Vec::new();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let malformed =
            || Error::malformed(file, index + 1, line, "hierarchy-id:controllers:/path");
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (Some(_id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            return Err(malformed());
        };
        if !path.starts_with(b"/") {
            return Err(malformed());
        }
        let controllers = std::str::from_utf8(controllers).map_err(|_| malformed())?;
        let mut controllers: Vec<String> =
            controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        controllers.sort_unstable();
        memberships.push(Membership { controllers, path: path.to_owned() });
    }
    Ok(memberships)
}

/// Whether the cgroup `path` is `ancestor` or lies below it.
#[must_use]
pub fn is_at_or_below(path: &[u8], ancestor: &[u8]) -> bool {
    let ancestor = if ancestor == b"/" { b"" } else { ancestor };
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_v2_and_named_lines() {
        let text = b"11:cpuset:/docker/a\n4:cpu,cpuacct:/x:y\n1:name=systemd:/\n0::/../b\n";
        let lines = parse_memberships(text, Path::new("p")).unwrap();
        assert_eq!(lines[0].controllers, ["cpuset"]);
        assert_eq!(lines[1].controllers, ["cpu", "cpuacct"]);
        assert_eq!(lines[1].path, b"/x:y");
        assert_eq!(lines[2].controllers, ["name=systemd"]);
        assert!(lines[3].controllers.is_empty());
        assert_eq!(lines[3].path, b"/../b");
    }

    #[test]
    fn other_forms_are_refused_with_their_line() {
        for bad in ["0::/a\nx", "0::/a\n0:cpu", "0::/a\n0::a", "0::/a\n\u{0}"] {
            let error = parse_memberships(bad.as_bytes(), Path::new("p")).unwrap_err();
            assert!(error.to_string().starts_with("p: line 2:"), "{error}");
        }
        assert!(parse_memberships(b"0:\xff:/\n", Path::new("p")).is_err());
    }

    #[test]
    fn a_cgroup_may_have_any_name() {
        let lines = parse_memberships(b"0::/a\xff/:b\n", Path::new("p")).unwrap();
        assert_eq!(lines[0].path, b"/a\xff/:b");
    }

    #[test]
    fn below_means_by_whole_names() {
        assert!(is_at_or_below(b"/a/b", b"/a"));
        assert!(is_at_or_below(b"/a", b"/a"));
        assert!(is_at_or_below(b"/a", b"/"));
        assert!(is_at_or_below(b"/", b"/"));
        assert!(!is_at_or_below(b"/ab", b"/a"));
        assert!(!is_at_or_below(b"/", b"/a"));
    }
}
