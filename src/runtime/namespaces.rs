//! The namespaces of a container: all but the user's.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};
use nix::time::{ClockId, clock_gettime};
use rustix::mount::{MountPropagationFlags, mount_change};

use crate::error::{Error, Result};
use crate::sys::net::start_loopback;

/// The network that a container is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// One of its own, with a loopback interface alone.
    None,
}

/// Parses the name of a network.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_network(text: &str) -> Result<Network, String> {
    match text {
        "host" => Ok(Network::Host),
        "none" => Ok(Network::None),
        _ => Err("expected host or none".to_owned()),
    }
}

/// The namespaces that a container's first process is born into. The time namespace comes from
/// [`start_clocks_at_zero`] before, the cgroup namespace from [`enter_cgroup`] after.
#[must_use]
pub fn born_into(network: Network) -> CloneFlags {
    let always = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    match network {
        Network::Host => always,
        Network::None => always | CloneFlags::CLONE_NEWNET,
    }
}

/// Sets a network of one's own going, with the rules that Docker's networks have: who is not
/// root may open any port and send pings.
///
/// # Errors
/// What the ioctl and the writes below /proc/sys/net answer.
pub fn start_network() -> Result<()> {
    const RULES: &[(&str, &str)] = &[
        ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
        ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
    ];
    start_loopback().map_err(|error| Error::io("start", "lo", error))?;
    RULES.iter().try_for_each(|(path, value)| {
        fs::write(path, value).map_err(|error| Error::io("write", path, error))
    })
}

/// nix has no name for it.
const CLONE_NEWTIME: CloneFlags = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);

/// Whether this kernel has every kind of namespace that a container needs.
///
/// # Errors
/// [`Error::Refused`] names the first one that is missing.
pub fn check() -> Result<()> {
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time_for_children", "uts"] {
        let path = Path::new("/proc/self/ns").join(kind);
        if fs::symlink_metadata(&path).is_err() {
            let kind = kind.trim_end_matches("_for_children");
            return Err(Error::Refused(format!(
                "{}: this kernel has no {kind} namespaces",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Gives the children of this process a time namespace in which `CLOCK_BOOTTIME` starts at 0
/// now, and `CLOCK_MONOTONIC` with it: the container is a machine that was just booted, and
/// the two clocks of such a machine differ by nothing.
///
/// Offsets are those to the host's clocks, while this process may be in a time namespace too.
///
/// # Errors
/// What unshare(2) or the write to timens_offsets answers; time_namespaces(7).
pub fn start_clocks_at_zero() -> Result<()> {
    const OFFSETS: &str = "/proc/self/timens_offsets";
    unshare(CLONE_NEWTIME).map_err(|errno| Error::io("unshare", "/proc/self/ns/time", errno))?;
    let inherited = fs::read(OFFSETS).map_err(|error| Error::io("read", OFFSETS, error))?;
    let mut offsets = String::new();
    for (name, clock) in
        [("boottime", ClockId::CLOCK_BOOTTIME), ("monotonic", ClockId::CLOCK_MONOTONIC)]
    {
        let (own_sec, own_nsec) = offset_of(name, &inherited).ok_or_else(|| {
            Error::malformed(OFFSETS, 0, &inherited, "a line of each clock: name, sec, nsec")
        })?;
        let now = clock_gettime(clock).map_err(|errno| Error::io("read", name, errno))?;
        let (sec, nsec) = (own_sec - now.tv_sec(), own_nsec - now.tv_nsec());
        // The nanoseconds positive, as the kernel wants them. An offset may not take a clock
        // below 0, and does not: it goes on while this is written.
        let (sec, nsec) = if nsec < 0 { (sec - 1, nsec + NSEC_PER_SEC) } else { (sec, nsec) };
        offsets.push_str(&format!("{name} {sec} {nsec}\n"));
    }
    fs::write(OFFSETS, offsets).map_err(|error| Error::io("write", OFFSETS, error))
}

const NSEC_PER_SEC: i64 = 1_000_000_000;

/// The offset of a clock, in seconds and nanoseconds, by the text of a timens_offsets file.
#[must_use]
pub fn offset_of(clock: &str, text: &[u8]) -> Option<(i64, i64)> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some(clock) {
            return None;
        }
        Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    })
}

/// Has later children of this process share its own clocks again. Older kernels, 6.1 is one,
/// start no thread (EINVAL) in a process whose children get others.
///
/// # Errors
/// What setns(2) answers.
pub fn share_own_clocks() -> Result<()> {
    const OWN: &str = "/proc/self/ns/time";
    let own = File::open(OWN).map_err(|error| Error::io("open", OWN, error))?;
    setns(own, CLONE_NEWTIME).map_err(|errno| Error::io("setns", OWN, errno))
}

/// Makes the cgroups that this process is in the roots of its cgroup namespace.
///
/// # Errors
/// What unshare(2) answers.
pub fn enter_cgroup() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWCGROUP)
        .map_err(|errno| Error::io("unshare", "/proc/self/ns/cgroup", errno))
}

/// Gives this process a mount namespace of its own, a copy of the one it is in.
///
/// # Errors
/// What unshare(2) answers, and as [`stop_propagation`].
pub fn enter_mount() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| Error::io("unshare", "/proc/self/ns/mnt", errno))?;
    stop_propagation()
}

/// Keeps every mount of this process's mount namespace to itself: none made here shows on the
/// host, and none made on the host shows here.
///
/// # Errors
/// What mount(2) answers.
pub fn stop_propagation() -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| Error::io("make private", "/", errno))
}

/// The namespaces that process `pid` has and this process has not.
///
/// # Errors
/// [`Error::Gone`] where the process has ended; what readlink(2) answers.
pub fn of_process(pid: nix::unistd::Pid) -> Result<CloneFlags> {
    const KINDS: &[(&str, CloneFlags)] = &[
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("mnt", CloneFlags::CLONE_NEWNS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("time", CLONE_NEWTIME),
        ("user", CloneFlags::CLONE_NEWUSER),
        ("uts", CloneFlags::CLONE_NEWUTS),
    ];
    let link = |process: &str, kind: &str| {
        let path = format!("/proc/{process}/ns/{kind}");
        fs::read_link(&path).map_err(|error| Error::io("read", path, error))
    };
    let mut flags = CloneFlags::empty();
    for (kind, flag) in KINDS {
        if link(&pid.to_string(), kind)? != link("self", kind)? {
            flags |= *flag;
        }
    }
    Ok(flags)
}

/// Makes this process, which has one thread, a member of these namespaces of the process behind
/// `pidfd`; of its pid namespace its later children. Linux 5.8.
///
/// # Errors
/// What setns(2) answers: ESRCH where the process has ended.
pub fn join(pidfd: impl AsFd, flags: CloneFlags) -> Result<()> {
    setns(pidfd, flags).map_err(|errno| Error::io("setns", "the container's namespaces", errno))
}

/// Runs `act` in the mount namespace of process `pid`, with that namespace's root as root and
/// working directory, which also remain afterwards.
///
/// # Errors
/// What setns(2) answers, and what `act` does.
pub fn in_mount_namespace_of<T>(
    pid: nix::unistd::Pid,
    act: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let enter = |path: &str| {
        File::open(path)
            .map_err(|error| Error::io("open", path, error))
            .map(|file| (file, path.to_owned()))
    };
    let own = enter("/proc/self/ns/mnt")?;
    let other = enter(&format!("/proc/{pid}/ns/mnt"))?;
    let set = |(file, path): &(File, String)| {
        setns(file, CloneFlags::CLONE_NEWNS).map_err(|errno| Error::io("setns", path, errno))
    };
    set(&other)?;
    let result = act();
    set(&own)?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_as_the_kernel_writes_them() {
        let text = b"monotonic           0         0\nboottime         -86401 999000000\n";
        assert_eq!(offset_of("monotonic", text), Some((0, 0)));
        assert_eq!(offset_of("boottime", text), Some((-86_401, 999_000_000)));
        assert_eq!(offset_of("boot", text), None);
        assert_eq!(offset_of("monotonic", b"monotonic x 0\n"), None);
    }
}
