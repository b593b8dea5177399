//! What of the host's files a container has in its root: `--volume`.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use super::mountpoint::{self, Kind};
use super::mounts;
use crate::error::{Error, InStep as _, Result};

/// A directory or a file of the host's, mounted in the container with all that is mounted below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// On the host.
    pub source: PathBuf,
    /// In the container; neither `.` nor `..` is in it, and it is not `/`.
    pub target: PathBuf,
    /// Whether the container may only read it.
    pub is_read_only: bool,
}

/// Parses `SOURCE:TARGET`, both absolute, with `:ro` or `:rw` behind it.
///
/// # Errors
/// What was expected, for a person.
pub fn parse(text: &str) -> Result<Volume, String> {
    let expected = || "expected SOURCE:TARGET or SOURCE:TARGET:ro, both absolute paths".to_owned();
    let fields: Vec<&str> = text.split(':').collect();
    let (source, target, is_read_only) = match fields[..] {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => return Err(expected()),
    };
    let source = PathBuf::from(source);
    let target = Path::new(target);
    if !source.is_absolute() || !target.is_absolute() {
        return Err(expected());
    }
    let target = without_dots(target);
    if target == Path::new("/") {
        return Err("the target cannot be the container's root".to_owned());
    }
    Ok(Volume { source, target, is_read_only })
}

/// The path that a shell's user means by `a/../b`.
fn without_dots(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    clean
}

/// Whether the volumes can be had together.
///
/// # Errors
/// The source that is not there, or the target that two have.
pub fn check(volumes: &[Volume]) -> Result<()> {
    for (index, Volume { source, target, .. }) in volumes.iter().enumerate() {
        std::fs::metadata(source).map_err(|error| Error::io("open", source, error))?;
        if volumes[..index].iter().any(|other| other.target == *target) {
            let target = target.display();
            return Err(Error::Refused(format!("{target}: more than one is to be mounted there")));
        }
    }
    Ok(())
}

/// Volumes, opened as mounts that are attached nowhere yet.
#[derive(Debug)]
pub struct Opened(Vec<(OwnedFd, Kind, PathBuf)>);

/// Opens the volumes, before the root changes.
///
/// # Errors
/// The source that could not be opened.
pub fn open(volumes: &[Volume]) -> Result<Opened> {
    let mut opened = Vec::new();
    for Volume { source, target, is_read_only } in volumes {
        let mount = mounts::clone_all(source)?;
        if *is_read_only {
            mounts::restrict(&mount, mounts::READ_ONLY, source)?;
        }
        let kind = Kind::of(&mount).map_err(|error| Error::io("stat", source, error))?;
        opened.push((mount, kind, target.clone()));
    }
    // What is mounted in another is mounted after it, in whichever order they were named.
    opened.sort_by_key(|(_, _, target)| target.components().count());
    Ok(Opened(opened))
}

impl Opened {
    /// Attaches them in the root that was entered.
    ///
    /// # Errors
    /// The target that cannot be one.
    pub fn attach(&self) -> Result<()> {
        for (mount, kind, target) in &self.0 {
            let place = mountpoint::find_or_make(target, *kind).in_step("--volume")?;
            place.refuse_in_proc(target).in_step("--volume")?;
            mounts::attach_to(mount, &place.file, target).in_step("--volume")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(source: &str, target: &str, is_read_only: bool) -> Volume {
        Volume { source: source.into(), target: target.into(), is_read_only }
    }

    #[test]
    fn sources_targets_and_modes() {
        assert_eq!(parse("/a:/b"), Ok(volume("/a", "/b", false)));
        assert_eq!(parse("/a:/b:rw"), Ok(volume("/a", "/b", false)));
        assert_eq!(parse("/:/b/../c/./d/:ro"), Ok(volume("/", "/c/d", true)));
        for text in ["", ":", "/a", "a:/b", "/a:b", "/a:", ":/b", "/a:/b:x", "/a:/b:", "/a:/b:ro:x"]
        {
            assert!(parse(text).unwrap_err().starts_with("expected SOURCE:TARGET"), "{text}");
        }
        for text in ["/a:/", "/a:/b/..", "/a:/../.."] {
            assert!(parse(text).unwrap_err().contains("container's root"), "{text}");
        }
    }

    #[test]
    fn volumes_that_cannot_be() {
        assert!(check(&[volume("/etc", "/a", false), volume("/etc", "/b", true)]).is_ok());
        let error = check(&[volume("/no/such", "/a", false)]).unwrap_err().to_string();
        assert_eq!(error, "/no/such: cannot open: No such file or directory");
        let twice = [volume("/etc", "/a", false), volume("/", "/a", false)];
        assert!(check(&twice).unwrap_err().to_string().starts_with("/a: more than one"));
    }
}
