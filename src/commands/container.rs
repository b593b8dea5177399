//! Which running process is meant by an argument PID|CONTAINER.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::runtime;
use lxcfs_rs::runtime::target::Target;

/// As many characters of its id as tell a container from all others, as Docker prints them.
const ENOUGH: usize = 12;

/// The container that `what` means: the number of a process in it; a name, id or beginning of
/// one of ours; the id of another's or at least 12 digits of it; or a directory of its cgroup's
/// path.
pub(super) fn find(what: &str) -> Result<Target> {
    if let Ok(pid) = what.parse()
        && Path::new("/proc").join(what).exists()
    {
        return Target::of(pid);
    }
    if let Some(target) = find_ours(what)? {
        return Ok(target);
    }
    let pid = first_process(what)?.ok_or_else(|| {
        Error::Refused(format!(
            "'{what}': no process has this number or is in a cgroup of this name; expected a pid, \
             a container's id, or a directory of its cgroup's path"
        ))
    })?;
    let target = Target::of(pid)?;
    // The number may have become another's meanwhile.
    if names_in_cgroup(what, pid).is_empty() {
        return Err(Error::Gone { what: format!("process {pid}") });
    }
    Ok(target)
}

/// One that `lxcfs-rs run` has started.
fn find_ours(what: &str) -> Result<Option<Target>> {
    let mut records = runtime::list()?;
    if let Some(exact) = records.iter().position(|record| record.id == what || record.name == what)
    {
        records = vec![records.swap_remove(exact)];
    } else {
        records.retain(|record| record.id.starts_with(what));
    }
    let [record] = records.as_slice() else {
        return match records.len() {
            0 => Ok(None),
            count => Err(several(what, count)),
        };
    };
    let target = u32::try_from(record.init.pid).ok().map(Target::of).transpose()?;
    // Still the process that was recorded, and so it was when its files were opened.
    record.init.open()?;
    Ok(target)
}

/// The process with the lowest number in a cgroup that `container` names; one that does not
/// have the host's mounts, as those have which look after a container from outside.
pub(super) fn first_process(container: &str) -> Result<Option<u32>> {
    let listing = fs::read_dir("/proc").map_err(|error| Error::io("list", "/proc", error))?;
    let pids = listing.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let mut ids = BTreeSet::new();
    let mut found: Vec<u32> = Vec::new();
    for pid in pids {
        let names = names_in_cgroup(container, pid);
        if !names.is_empty() {
            ids.extend(names);
            found.push(pid);
        }
    }
    if ids.len() > 1 {
        return Err(several(container, ids.len()));
    }
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    let hosts = namespace("1");
    let has_hosts_mounts = |pid: u32| namespace(&pid.to_string()) == hosts;
    Ok(found.into_iter().min_by_key(|&pid| (has_hosts_mounts(pid), pid)))
}

/// What in the path of a process's cgroups `container` names: itself, or the ids of which it is
/// enough.
fn names_in_cgroup(container: &str, pid: u32) -> BTreeSet<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).filter_map(|name| named_by(container, name)).collect()
}

/// What `container` names in a directory's name: all of it, or the id in it: `docker-ID.scope`.
fn named_by(container: &str, directory: &str) -> Option<String> {
    if directory == container {
        return Some(container.to_owned());
    }
    if container.len() < ENOUGH || !directory.contains(container) {
        return None;
    }
    let id = directory.split(|letter: char| !letter.is_ascii_hexdigit());
    let id = id.into_iter().find(|part| part.contains(container));
    Some(id.unwrap_or(directory).to_owned())
}

fn several(what: &str, count: usize) -> Error {
    Error::Refused(format!("{what}: {count} containers have such an id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_what_engines_make_of_it() {
        let id = "3f2a".repeat(16);
        let named = |directory: &str| named_by(&id[..12], directory);
        for directory in
            ["ID", "docker-ID.scope", "cri-containerd-ID.scope", "libpod-conmon-ID.scope"]
        {
            assert_eq!(named(&directory.replace("ID", &id)), Some(id.clone()), "{directory}");
        }
        assert_eq!(named("docker"), None);
        assert_eq!(named_by(&id[..11], &id), None);
        assert_eq!(named_by("pod", "pod"), Some("pod".to_owned()));
        assert_eq!(named_by("pod", "pod1"), None);
        assert_eq!(named_by("no-hexadecimal", "x-no-hexadecimal"), Some("x-no-hexadecimal".into()));
    }

    #[test]
    fn who_is_nowhere() {
        assert_eq!(first_process("no such container").unwrap(), None);
    }
}
