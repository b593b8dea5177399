//! The limited containers: cgroups made by the measuring process, namespaces entered by a
//! re-exec of it, which then starts the reader as the first process inside.

use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lxcfs_rs::cgroup::layout::{Hierarchy, Layout, Version};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::Serialize;

/// `memory.max` and `memory.limit_in_bytes`.
const MEMORY_LIMIT: &str = "314572800";
/// What MemTotal must then say in the container.
pub(crate) const MEM_TOTAL: &str = "307200 kB";
/// How many CPUs a container's cpuset has, if the host has as many.
const CPUS: usize = 2;
const CPU_PERIOD_USEC: usize = 100_000;
/// How long a cgroup may keep the tasks of a reader that was killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much CPU time a container is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Quota {
    /// Twice what it can use: a limit that must be read and folded, but never throttles. Exactly
    /// what it can use does throttle now and then.
    Ample,
    OneCpu,
    Unlimited,
}

impl Quota {
    /// Per period, of a container that has so many CPUs; none for no limit.
    fn usec(self, cpus: usize) -> Option<usize> {
        match self {
            Quota::Ample => Some(cpus * 2 * CPU_PERIOD_USEC),
            Quota::OneCpu => Some(CPU_PERIOD_USEC),
            Quota::Unlimited => None,
        }
    }
}

/// The host's hierarchies, with the controllers in use that containers need; those that were not
/// are left so when dropped.
#[derive(Debug)]
pub(crate) struct Cgroups {
    layout: Layout,
    /// cgroup2's root and the controllers that were enabled below it for this run.
    enabled: Option<(PathBuf, Vec<&'static str>)>,
}

impl Cgroups {
    pub(crate) fn open() -> Result<Self> {
        let layout = layout()?;
        layout.controller("memory").context("no memory controller on this host")?;
        let mut cgroups = Self { layout, enabled: None };
        let unified = |hierarchy: &&Hierarchy| hierarchy.version == Version::V2;
        if let Some(unified) = cgroups.layout.hierarchies.iter().find(unified) {
            let root = unified.mount_point.clone();
            cgroups.enable(&root).with_context(|| root.display().to_string())?;
        }
        Ok(cgroups)
    }

    fn enable(&mut self, root: &Path) -> Result<()> {
        let before = read(root, "cgroup.subtree_control")?;
        let available = &self.layout.unified_controllers;
        let wanted = ["cpu", "cpuset", "memory", "io"].into_iter().filter(|controller| {
            available.iter().any(|name| name == controller)
                && !before.split_whitespace().any(|name| name == *controller)
        });
        let (_, enabled) = self.enabled.insert((root.to_owned(), Vec::new()));
        for controller in wanted {
            write(root, "cgroup.subtree_control", &format!("+{controller}"))?;
            enabled.push(controller);
        }
        Ok(())
    }

    /// A container whose cgroups have this run's number and that name.
    pub(crate) fn container(&self, name: &str, quota: Quota) -> Result<Container> {
        let mut container = Container { cgroups: Vec::new(), cpu: None };
        let name = format!("bench-mounted-{}-{name}", std::process::id());
        for hierarchy in &self.layout.hierarchies {
            match hierarchy.version {
                Version::V1 => container.add_v1(hierarchy, &name, quota),
                Version::V2 => {
                    container.add_v2(hierarchy, &name, quota, &self.layout.unified_controllers)
                }
            }
            .with_context(|| format!("{}: a cgroup in it", hierarchy.mount_point.display()))?;
        }
        Ok(container)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let Some((root, controllers)) = &self.enabled else { return };
        for controller in controllers {
            if let Err(error) = write(root, "cgroup.subtree_control", &format!("-{controller}")) {
                eprintln!("mounted: {error:#}");
            }
        }
    }
}

/// A container's cgroups, one in each hierarchy, removed when dropped.
#[derive(Debug)]
pub(crate) struct Container {
    cgroups: Vec<PathBuf>,
    /// The cgroup that has the CPU quota.
    cpu: Option<PathBuf>,
}

impl Container {
    fn add_v1(&mut self, hierarchy: &Hierarchy, name: &str, quota: Quota) -> Result<()> {
        let cgroup = self.make(&hierarchy.mount_point, name)?;
        let has = |controller: &str| hierarchy.controllers.iter().any(|name| name == controller);
        if has("memory") {
            write(&cgroup, "memory.limit_in_bytes", MEMORY_LIMIT)?;
        }
        if has("cpu") {
            let cpus = first_cpus(&hierarchy.mount_point.join("cpuset.cpus"))?.len();
            if let Some(quota) = quota.usec(cpus) {
                write(&cgroup, "cpu.cfs_period_us", &CPU_PERIOD_USEC.to_string())?;
                write(&cgroup, "cpu.cfs_quota_us", &quota.to_string())?;
            }
            self.cpu = Some(cgroup.clone());
        }
        if has("cpuset") {
            // A v1 cpuset starts empty and takes no task before it has CPUs and memory nodes.
            let nodes = read(&hierarchy.mount_point, "cpuset.mems")?;
            let cpus = first_cpus(&hierarchy.mount_point.join("cpuset.cpus"))?;
            write(&cgroup, "cpuset.cpus", &cpus.join(","))?;
            write(&cgroup, "cpuset.mems", nodes.trim_end())?;
        }
        Ok(())
    }

    fn add_v2(
        &mut self,
        hierarchy: &Hierarchy,
        name: &str,
        quota: Quota,
        available: &[String],
    ) -> Result<()> {
        let root = &hierarchy.mount_point;
        let cgroup = self.make(root, name)?;
        let has = |controller: &str| available.iter().any(|name| name == controller);
        if has("memory") {
            write(&cgroup, "memory.max", MEMORY_LIMIT)?;
        }
        let cpus = first_cpus(&root.join("cpuset.cpus.effective"))?;
        if has("cpu") {
            if let Some(quota) = quota.usec(cpus.len()) {
                write(&cgroup, "cpu.max", &format!("{quota} {CPU_PERIOD_USEC}"))?;
            }
            self.cpu = Some(cgroup.clone());
        }
        if has("cpuset") {
            write(&cgroup, "cpuset.cpus", &cpus.join(","))?;
        }
        Ok(())
    }

    fn make(&mut self, root: &Path, name: &str) -> Result<PathBuf> {
        let cgroup = root.join(name);
        std::fs::create_dir(&cgroup).with_context(|| cgroup.display().to_string())?;
        self.cgroups.push(cgroup.clone());
        Ok(cgroup)
    }

    /// A command that runs a reader in the container, with these mounts.
    pub(crate) fn command(&self, mounts: &str) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("container");
        for cgroup in &self.cgroups {
            command.arg("--cgroup").arg(cgroup);
        }
        command.arg(mounts).process_group(0);
        Ok(command)
    }

    /// In how many periods the readers were throttled; none where no file says it.
    pub(crate) fn throttled(&self) -> Option<u64> {
        let stat = read(self.cpu.as_ref()?, "cpu.stat").ok()?;
        stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for cgroup in &self.cgroups {
            if let Err(error) = remove(cgroup, deadline) {
                eprintln!("mounted: {}: left behind: {error}", cgroup.display());
            }
        }
    }
}

/// The last tasks of a cgroup leave it a moment after they were killed.
fn remove(cgroup: &Path, deadline: Instant) -> std::io::Result<()> {
    loop {
        match std::fs::remove_dir(cgroup) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => return result,
        }
    }
}

/// The process between the measuring one and the reader: joins the cgroups, makes the
/// namespaces, waits for the reader and ends as it ended.
pub(crate) fn enter(cgroups: &[PathBuf], mounts: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    for cgroup in cgroups {
        write(cgroup, "cgroup.procs", "0")?;
    }
    // After the move: the namespace's root is the cgroup that its maker is in.
    let namespaces =
        CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    unshare(namespaces).context("unshare")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .context("/: making it private")?;
    let status = Command::new(std::env::current_exe()?)
        .arg("reader")
        .arg(mounts)
        .stdin(Stdio::inherit())
        .status()
        .context("starting the reader")?;
    ensure!(status.success(), "the reader ended with {status}");
    Ok(())
}

fn layout() -> Result<Layout> {
    let mountinfo = std::fs::read("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let mounts = Layout::parse(&mountinfo, b"");
    let Some(unified) = mounts.unified_mount() else { return Ok(mounts) };
    let controllers = read(&unified.mount_point, "cgroup.controllers")?;
    Ok(Layout::parse(&mountinfo, controllers.as_bytes()))
}

/// The first [`CPUS`] of a cpulist file, else of those online where there is no such file.
fn first_cpus(cpulist: &Path) -> Result<Vec<String>> {
    let online = Path::new("/sys/devices/system/cpu/online");
    let path = if cpulist.exists() { cpulist } else { online };
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let mut cpus = Vec::new();
    for range in text.trim_end().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse()?, last.parse()?);
        cpus.extend((first..=last).map(|cpu| cpu.to_string()));
    }
    cpus.truncate(CPUS);
    ensure!(!cpus.is_empty(), "{}: empty, expected CPUs", path.display());
    Ok(cpus)
}

fn read(cgroup: &Path, file: &str) -> Result<String> {
    let path = cgroup.join(file);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn write(cgroup: &Path, file: &str, value: &str) -> Result<()> {
    let path = cgroup.join(file);
    std::fs::write(&path, value).with_context(|| format!("{}: writing {value:?}", path.display()))
}
