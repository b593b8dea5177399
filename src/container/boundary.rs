//! Which cgroup is the boundary of a process: the root of its cgroup namespace where it has
//! one of its own, else its own cgroup. Pure functions over paths.

/// The root of the cgroup namespace of a process whose cgroup is `abs` as the daemon sees it
/// and `rel` as the process itself sees it. None where the process is outside of its
/// namespace's root (`rel` leads upwards), where the two do not fit, or where the root is the
/// hierarchy's own, which bounds nothing.
#[must_use]
pub fn namespace_root<'a>(abs: &'a str, rel: &str) -> Option<&'a str> {
    if rel == "/.." || rel.starts_with("/../") {
        return None;
    }
    let root = if rel == "/" { abs } else { abs.strip_suffix(rel)? };
    (!root.is_empty() && root != "/").then_some(root)
}

/// The boundary of a process without a cgroup namespace of its own: its cgroup, but for
/// systemd's habit of sitting in a leaf of its own.
#[must_use]
pub fn without_init_scope(abs: &str) -> &str {
    match abs.strip_suffix("/init.scope") {
        Some("") => "/",
        Some(root) => root,
        None => abs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_root_is_what_the_inside_does_not_see() {
        assert_eq!(namespace_root("/docker/a", "/"), Some("/docker/a"));
        assert_eq!(namespace_root("/docker/a/b", "/b"), Some("/docker/a"));
        assert_eq!(namespace_root("/docker/a/init.scope", "/init.scope"), Some("/docker/a"));
        assert_eq!(namespace_root("/x/..y", "/..y"), Some("/x"));
    }

    #[test]
    fn what_bounds_nothing_or_does_not_fit() {
        assert_eq!(namespace_root("/other", "/../other"), None);
        assert_eq!(namespace_root("/", "/.."), None);
        assert_eq!(namespace_root("/", "/"), None);
        assert_eq!(namespace_root("/b", "/b"), None);
        assert_eq!(namespace_root("/docker/a", "/c"), None);
    }

    #[test]
    fn one_init_scope_is_removed() {
        assert_eq!(without_init_scope("/docker/a/init.scope"), "/docker/a");
        assert_eq!(without_init_scope("/init.scope"), "/");
        assert_eq!(without_init_scope("/a/init.scope/init.scope"), "/a/init.scope");
        assert_eq!(without_init_scope("/a/xinit.scope"), "/a/xinit.scope");
        assert_eq!(without_init_scope("/a"), "/a");
    }
}
