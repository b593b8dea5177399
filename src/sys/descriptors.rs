//! How many descriptors the process may hold, getrlimit(2).

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most that it may hold now.
#[must_use]
pub fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// Raises the limit as far as anybody may raise his own. The usual soft limit of 1024 is for
/// programs that use select(2).
pub fn raise_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // Refused is no harm: less is held then.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
