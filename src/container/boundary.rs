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
pub fn namespace_root<'a>(abs: &'a str, rel: &str) -> NamespaceRoot<&'a str> {
    if rel == "/.." || rel.starts_with("/../") {
        return NamespaceRoot::Unknown;
    }
    let root = if rel == "/" { Some(abs) } else { abs.strip_suffix(rel) };
    match root {
        None => NamespaceRoot::Unknown,
        Some("" | "/") => NamespaceRoot::Top,
        Some(root) => NamespaceRoot::At(root),
    }
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
        use NamespaceRoot::At;
        assert_eq!(namespace_root("/docker/a", "/"), At("/docker/a"));
        assert_eq!(namespace_root("/docker/a/b", "/b"), At("/docker/a"));
        assert_eq!(namespace_root("/docker/a/init.scope", "/init.scope"), At("/docker/a"));
        assert_eq!(namespace_root("/x/..y", "/..y"), At("/x"));
    }

    #[test]
    fn what_bounds_nothing_or_does_not_fit() {
        use NamespaceRoot::{Top, Unknown};
        assert_eq!(namespace_root("/", "/"), Top);
        assert_eq!(namespace_root("/b", "/b"), Top);
        assert_eq!(namespace_root("/other", "/../other"), Unknown);
        assert_eq!(namespace_root("/", "/.."), Unknown);
        assert_eq!(namespace_root("/docker/a", "/c"), Unknown);
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
