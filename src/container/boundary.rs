//! Which cgroup is the boundary of a process: the root of its cgroup namespace where it has
//! one of its own, else its own cgroup. Pure functions over paths.

/// What a process tells about the root of its cgroup namespace in one hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceRoot<T> {
    /// It is this cgroup.
    At(T),
    /// It is the hierarchy's own root, which bounds nothing.
    Top,
    /// Nothing: the process is outside of it.
    Unknown,
}

/// The root of the cgroup namespace of a process whose cgroup is `abs` as the daemon sees it
/// and `rel` as the process itself sees it. Unknown where `rel` leads upwards, and where the
/// two do not fit.
#[must_use]
pub fn namespace_root<'a>(abs: &'a [u8], rel: &[u8]) -> NamespaceRoot<&'a [u8]> {
    if rel == b"/.." || rel.starts_with(b"/../") {
        return NamespaceRoot::Unknown;
    }
    let root = if rel == b"/" { Some(abs) } else { abs.strip_suffix(rel) };
    match root {
        None => NamespaceRoot::Unknown,
        Some(b"" | b"/") => NamespaceRoot::Top,
        Some(root) => NamespaceRoot::At(root),
    }
}

/// The boundary of a process without a cgroup namespace of its own: its cgroup, but for
/// systemd's habit of sitting in a leaf of its own.
#[must_use]
pub fn without_init_scope(abs: &[u8]) -> &[u8] {
    match abs.strip_suffix(b"/init.scope") {
        Some(b"") => b"/",
        Some(root) => root,
        None => abs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_root_is_what_the_inside_does_not_see() {
        use NamespaceRoot::At;
        assert_eq!(namespace_root(b"/docker/a", b"/"), At(&b"/docker/a"[..]));
        assert_eq!(namespace_root(b"/docker/a/b", b"/b"), At(&b"/docker/a"[..]));
        assert_eq!(namespace_root(b"/docker/a/init.scope", b"/init.scope"), At(&b"/docker/a"[..]));
        assert_eq!(namespace_root(b"/x/..y", b"/..y"), At(&b"/x"[..]));
    }

    #[test]
    fn what_bounds_nothing_or_does_not_fit() {
        use NamespaceRoot::{Top, Unknown};
        assert_eq!(namespace_root(b"/", b"/"), Top);
        assert_eq!(namespace_root(b"/b", b"/b"), Top);
        assert_eq!(namespace_root(b"/other", b"/../other"), Unknown);
        assert_eq!(namespace_root(b"/", b"/.."), Unknown);
        assert_eq!(namespace_root(b"/docker/a", b"/c"), Unknown);
        // For a daemon that is itself outside of what it sees.
        assert_eq!(namespace_root(b"/../../other", b"/../other"), Unknown);
        assert_eq!(namespace_root(b"/../..", b"/.."), Unknown);
    }

    #[test]
    fn one_init_scope_is_removed() {
        assert_eq!(without_init_scope(b"/docker/a/init.scope"), b"/docker/a");
        assert_eq!(without_init_scope(b"/init.scope"), b"/");
        assert_eq!(without_init_scope(b"/a/init.scope/init.scope"), b"/a/init.scope");
        assert_eq!(without_init_scope(b"/a/xinit.scope"), b"/a/xinit.scope");
        assert_eq!(without_init_scope(b"/a"), b"/a");
    }
}
