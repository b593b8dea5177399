//! The levels of a reader's container and their limits, to be told by `explain`.

use crate::cgroup::layout::Version;
use crate::cgroup::stats::{Resource, tightest};
use crate::container::{Container, Subject, Who};
use crate::error::Result;
use crate::kernel::Controller;

use super::Collector;

/// What a reader is shown, and what bounds it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Bounds {
    /// `container`, `host` for a process of the host, `unknown`.
    pub subject: &'static str,
    /// By resource, nearest first.
    pub levels: Vec<Level>,
}

/// A cgroup that bounds a reader's use of a resource.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Level {
    /// `memory`, `cpu` or `cpuset`.
    pub controller: &'static str,
    /// `v1` or `v2`.
    pub version: &'static str,
    /// Its path, as in /proc/PID/cgroup.
    pub path: String,
    /// Its limits and its use.
    pub files: Vec<LevelFile>,
}

/// One file of a level.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LevelFile {
    /// `memory.max`.
    pub name: &'static str,
    /// What it says.
    pub value: String,
    /// Whether of all levels it is this one that decides.
    pub decides: bool,
}

/// A v1 limit from here on is none.
const UNLIMITED: u64 = 1 << 62;

impl Collector {
    /// What bounds `who`.
    ///
    /// # Errors
    /// As reading the cgroups' files.
    pub fn bounds(&self, who: &Who) -> Result<Bounds> {
        let (container, subject) = match &who.subject {
            Subject::Unknown => return Ok(Bounds { subject: "unknown", levels: Vec::new() }),
            Subject::Host(container) => (container, "host"),
            Subject::Container(container) => (container, "container"),
        };
        let mut all = Vec::new();
        for (resource, controller) in [
            (Resource::Memory, Controller::Memory),
            (Resource::Cpu, Controller::Cpu),
            (Resource::Cpuset, Controller::Cpuset),
        ] {
            let mut levels = self.levels_of(container, resource, controller)?;
            match resource {
                Resource::Memory => mark_least(&mut levels),
                Resource::Cpu => self.mark_tightest(container, &mut levels)?,
                Resource::Cpuset => mark_nearest(&mut levels),
            }
            all.extend(levels);
        }
        container.check_exists()?;
        Ok(Bounds { subject, levels: all })
    }

    fn levels_of(
        &self,
        container: &Container,
        resource: Resource,
        controller: Controller,
    ) -> Result<Vec<Level>> {
        let levels = container.levels(&self.kernel, controller)?;
        let path = container.path(&self.kernel, controller);
        let paths = path.into_iter().flat_map(|path| path.ancestors());
        let mut found = Vec::new();
        for (dir, path) in levels.dirs.iter().zip(paths) {
            let mut files = Vec::new();
            for name in levels.version.limit_files(resource) {
                let Some(text) = dir.read(name)? else { continue };
                let value = String::from_utf8_lossy(&text).trim().to_owned();
                files.push(LevelFile { name, value, decides: false });
            }
            found.push(Level {
                controller: controller.name(),
                version: match levels.version {
                    Version::V1 => "v1",
                    Version::V2 => "v2",
                },
                path: path.display().to_string(),
                files,
            });
        }
        Ok(found)
    }

    fn mark_tightest(&self, container: &Container, found: &mut [Level]) -> Result<()> {
        let levels = container.levels(&self.kernel, Controller::Cpu)?;
        let mut bandwidths = Vec::with_capacity(levels.dirs.len());
        for dir in levels.dirs {
            bandwidths.push(levels.version.bandwidth(dir)?);
        }
        let least = tightest(bandwidths.iter().copied());
        let place = bandwidths.iter().position(|one| one.is_some() && *one == least);
        if let Some(file) = place.and_then(|place| found.get_mut(place)?.files.first_mut()) {
            file.decides = true;
        }
        Ok(())
    }
}

/// Of each file that holds a limit, the least number.
fn mark_least(levels: &mut [Level]) {
    for name in
        ["memory.max", "memory.swap.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
    {
        let files = levels.iter_mut().flat_map(|level| level.files.iter_mut());
        let limits = files.filter(|file| file.name == name).filter_map(|file| {
            let value = file.value.parse().ok().filter(|value: &u64| *value < UNLIMITED)?;
            Some((value, file))
        });
        if let Some((_, file)) = limits.min_by_key(|(value, _)| *value) {
            file.decides = true;
        }
    }
}

/// Of each file the first that says something.
fn mark_nearest(levels: &mut [Level]) {
    let mut decided: Vec<&str> = Vec::new();
    for file in levels.iter_mut().flat_map(|level| level.files.iter_mut()) {
        if !file.value.is_empty() && !decided.contains(&file.name) {
            file.decides = true;
            decided.push(file.name);
        }
    }
}
