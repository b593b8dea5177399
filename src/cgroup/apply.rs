//! Cgroups of our own: made on every hierarchy, limited, joined and removed again. Also on those of v1
//! that have no controller, `name=systemd` for one: a container that has none of its own there would
//! make its cgroups in the host's.
//!
//! A container's cgroup is `/lxcfs-rs/ID` below what each hierarchy's mount shows at its top:
//! the hierarchy's root on a host, the container's own cgroup inside a container, so that a
//! nested container is bounded by both.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::devices::{self, DeviceAccess};
use super::layout::{Hierarchy, Layout, Version};
use super::limits::{Limits, Write, writes};
use super::path::Membership;
use crate::error::{Error, Result};
use crate::sys::bpf::attach_device_program;
use crate::sys::fuse::replace_descriptor;

/// The directory below each hierarchy's top that holds the cgroups of all containers.
pub const PARENT: &str = "lxcfs-rs";

/// The v2 controllers that are switched on for our cgroups where the host has them: those that
/// limit, and those whose counters the files show.
const V2_CONTROLLERS: &[&str] = &["cpuset", "cpu", "io", "memory", "hugetlb", "pids"];

/// How long a cgroup whose tasks are all dead may stay busy before that is an error.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a directory is made anew that another `run` removed as empty in the same moment.
const MKDIR_ATTEMPTS: usize = 100;

/// One cgroup of a container, on one hierarchy.
#[derive(Debug)]
struct Cgroup {
    version: Version,
    /// Where the hierarchy is mounted.
    mount_point: PathBuf,
    /// v1: the hierarchy's controllers; v2: none.
    controllers: Vec<String>,
    /// The cgroup's directory.
    dir: PathBuf,
}

impl Cgroup {
    fn of(hierarchy: &Hierarchy, dir: PathBuf) -> Cgroup {
        Cgroup {
            version: hierarchy.version,
            mount_point: hierarchy.mount_point.clone(),
            controllers: hierarchy.controllers.clone(),
            dir,
        }
    }
}

/// A container's cgroups on all hierarchies; exist until [`Cgroups::remove`].
#[derive(Debug)]
pub struct Cgroups {
    made: Vec<Cgroup>,
    /// The directory of the first, which is made before and removed after all others, with its
    /// flock(2). The kernel drops it with the runtime, however that ends: what has no lock has
    /// no owner ([`sweep`]).
    lock: Option<Flock<File>>,
    /// The directory on cgroup2.
    unified: Option<File>,
}

/// One of a container's cgroups, as the container's own view of the hierarchies needs it.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The interface of its hierarchy.
    pub version: Version,
    /// Where the host has the hierarchy mounted.
    pub mount_point: &'a Path,
    /// v1: its controllers.
    pub controllers: &'a [String],
    /// The cgroup's directory.
    pub dir: &'a Path,
}

/// The hierarchies, the same one first for everybody: by its lock it is told whether a container's
/// runtime lives, and who runs elsewhere may have them mounted in another order.
fn in_order(layout: &Layout) -> Vec<&Hierarchy> {
    let mut hierarchies: Vec<&Hierarchy> = layout.hierarchies.iter().collect();
    hierarchies.sort_by_key(|hierarchy| &hierarchy.controllers);
    hierarchies
}

/// The directory of the container `id` on a hierarchy.
fn dir_of(hierarchy: &Hierarchy, id: &str) -> PathBuf {
    hierarchy.mount_point.join(PARENT).join(id)
}

impl Cgroups {
    /// Makes the cgroup `lxcfs-rs/ID` on every hierarchy of `layout` and sets `limits`.
    ///
    /// # Errors
    /// The first that failed; what was made before is removed again.
    pub fn create(layout: &Layout, id: &str, limits: &Limits) -> Result<Cgroups> {
        let mut cgroups = Cgroups { made: Vec::new(), lock: None, unified: None };
        // A v1 hierarchy does it where there is one.
        let has_device_program =
            limits.devices == DeviceAccess::Usual && layout.controller("devices").is_none();
        for hierarchy in in_order(layout) {
            let controllers = match hierarchy.version {
                Version::V1 => &hierarchy.controllers,
                Version::V2 => &layout.unified_controllers,
            };
            let writes = writes(hierarchy.version, controllers, limits);
            if let Err(source) = cgroups.add(hierarchy, id, &writes, has_device_program) {
                let Err(undoing) = cgroups.remove() else { return Err(source) };
                return Err(Error::Undoing {
                    source: Box::new(source),
                    undoing: Box::new(undoing),
                });
            }
        }
        Ok(cgroups)
    }

    fn add(
        &mut self,
        hierarchy: &Hierarchy,
        id: &str,
        writes: &[Write],
        has_device_program: bool,
    ) -> Result<()> {
        let dir = dir_of(hierarchy, id);
        if self.lock.is_none() {
            self.lock = Some(make_locked(hierarchy, &dir)?);
        } else {
            make(hierarchy, &dir)?;
        }
        self.made.push(Cgroup::of(hierarchy, dir.clone()));
        for step in writes {
            match write(&dir.join(step.file), &step.value) {
                Err(error) if step.optional && error.errno() == libc::ENOENT => {}
                written => written?,
            }
        }
        if hierarchy.version == Version::V2 {
            let handle = File::open(&dir).map_err(|error| Error::io("open", &dir, error))?;
            if has_device_program {
                attach_device_program(&handle, &devices::v2_program())
                    .map_err(|error| Error::io("limit the devices of", &dir, error))?;
            }
            self.unified = Some(handle);
        }
        Ok(())
    }

    /// The cgroup on cgroup2, for clone3(2) to start a child in.
    #[must_use]
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling thread, its process's only one, into the v1 cgroups.
    ///
    /// By `tasks`, not `cgroup.procs`: a thread that moves itself alone spares the kernel its
    /// system-wide lock of fork and exit, whose price is an RCU grace period per hierarchy.
    ///
    /// # Errors
    /// The hierarchy that refused: ENOSPC for a cpuset without CPUs or memory nodes.
    pub fn join(&self) -> Result<()> {
        for cgroup in &self.made {
            if cgroup.version == Version::V1 {
                write(&cgroup.dir.join("tasks"), "0")?;
            }
        }
        Ok(())
    }

    /// The cgroups of the running container `id`, whose first process is in those of `init`, to
    /// join them; they remain its runtime's.
    ///
    /// # Errors
    /// The directory on cgroup2 that could not be opened.
    pub fn of_running(layout: &Layout, id: &str, init: &[Membership]) -> Result<Cgroups> {
        let mut cgroups = Cgroups { made: Vec::new(), lock: None, unified: None };
        for hierarchy in in_order(layout) {
            let mut dir = dir_of(hierarchy, id);
            if hierarchy.version == Version::V2 {
                dir = where_processes_may_be(dir, id, init)?;
                let handle = File::open(&dir).map_err(|error| Error::io("open", &dir, error))?;
                cgroups.unified = Some(handle);
            }
            cgroups.made.push(Cgroup::of(hierarchy, dir));
        }
        Ok(cgroups)
    }

    /// Lets go of the lock in a child of the runtime, whose copy of the descriptor would hold
    /// it for as long as the child lives after the runtime was killed.
    ///
    /// # Errors
    /// What dup3(2) answers.
    pub fn leave_lock(&self) -> Result<()> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let null = File::open("/dev/null");
        let null = null.map_err(|error| Error::io("open", "/dev/null", error))?;
        replace_descriptor(lock.as_fd(), null.as_fd())
            .map_err(|error| Error::io("let go of", "the lock of the cgroups", error))
    }

    /// Where the cgroups are.
    pub fn places(&self) -> impl Iterator<Item = Place<'_>> {
        self.made.iter().map(|cgroup| Place {
            version: cgroup.version,
            mount_point: &cgroup.mount_point,
            controllers: &cgroup.controllers,
            dir: &cgroup.dir,
        })
    }

    /// Removes the cgroups, with whatever cgroups were made below them, and the directory
    /// above them where it holds no other container. A process that is still in one is killed.
    ///
    /// # Errors
    /// The first that could not be removed; the others are removed nevertheless.
    pub fn remove(self) -> Result<()> {
        remove_all(self.made.iter().rev().map(|cgroup| cgroup.dir.as_path()))
    }
}

/// The cgroup2 directory of a container that a further process may join: its own, but where the
/// container has switched controllers on for the cgroups that it made below, no process may be in
/// there ("no internal processes", cgroups(7)); then that of its first.
fn where_processes_may_be(dir: PathBuf, id: &str, init: &[Membership]) -> Result<PathBuf> {
    let control = dir.join("cgroup.subtree_control");
    let enabled = fs::read(&control).map_err(|error| Error::io("read", &control, error))?;
    if enabled.trim_ascii().is_empty() {
        return Ok(dir);
    }
    let own = format!("/{PARENT}/{id}/");
    let below = init.iter().find(|line| line.controllers.is_empty()).and_then(|line| {
        let at = line.path.windows(own.len()).position(|part| part == own.as_bytes())?;
        Some(OsStr::from_bytes(&line.path[at + own.len()..]))
    });
    Ok(match below {
        Some(below) => dir.join(below),
        None => dir,
    })
}

/// Whether the runtime that made the cgroups of the container `id` still lives.
#[must_use]
pub fn is_owned(layout: &Layout, id: &str) -> bool {
    let Some(&first) = in_order(layout).first() else { return false };
    let Ok(handle) = File::open(dir_of(first, id)) else { return false };
    let locked = Flock::lock(handle, FlockArg::LockSharedNonblock);
    matches!(locked, Err((_, Errno::EWOULDBLOCK)))
}

/// Removes the cgroups of containers whose runtime was killed before it could. What else there
/// is of such a container, by its id, `forget` removes first: its cgroups, which tell that it
/// is to be swept away, are the last of it.
///
/// # Errors
/// The first that could not be removed; the others are removed nevertheless.
pub fn sweep(layout: &Layout, forget: impl Fn(&str)) -> Result<()> {
    let mut result = Ok(());
    let hierarchies = in_order(layout);
    let Some(first) = hierarchies.first() else { return result };
    for dir in children(&first.mount_point.join(PARENT)) {
        let Some(id) = dir.file_name().and_then(OsStr::to_str) else { continue };
        // Gone already, or its owner lives.
        let Ok(handle) = File::open(&dir) else { continue };
        let Ok(_lock) = Flock::lock(handle, FlockArg::LockExclusiveNonblock) else { continue };
        log::debug!("{}: its runtime is gone, removing it", dir.display());
        forget(id);
        let dirs: Vec<PathBuf> =
            hierarchies.iter().rev().map(|hierarchy| dir_of(hierarchy, id)).collect();
        result = result.and(remove_all(dirs.iter().map(PathBuf::as_path)));
    }
    for hierarchy in &hierarchies {
        // It had not come to hold anything; or it holds something.
        let _ = fs::remove_dir(hierarchy.mount_point.join(PARENT));
    }
    result
}

/// Removes the cgroups `dirs` of one container.
fn remove_all<'a>(dirs: impl Iterator<Item = &'a Path>) -> Result<()> {
    let mut result = Ok(());
    for dir in dirs {
        let removed = remove_tree(dir, Instant::now() + REMOVAL_TIMEOUT);
        if let Some(parent) = dir.parent() {
            // Not empty while another container has its cgroup here.
            let _ = fs::remove_dir(parent);
        }
        result = result.and(removed);
    }
    result
}

/// Makes a cgroup's directory and those above it.
fn make(hierarchy: &Hierarchy, dir: &Path) -> Result<()> {
    let mut made = make_levels(hierarchy, dir);
    for _ in 1..MKDIR_ATTEMPTS {
        // A container that ended just now took the empty parent with it: ENOENT, or ENODEV by
        // a descriptor.
        if !made.as_ref().is_err_and(Error::is_gone) {
            break;
        }
        made = make_levels(hierarchy, dir);
    }
    made
}

/// Makes a cgroup's directory and takes its lock.
fn make_locked(hierarchy: &Hierarchy, dir: &Path) -> Result<Flock<File>> {
    for _ in 0..MKDIR_ATTEMPTS {
        make(hierarchy, dir)?;
        // Between mkdir and flock it has no owner: it may be swept away in that moment.
        let Ok(handle) = File::open(dir) else { continue };
        let lock = Flock::lock(handle, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::io("lock", dir, errno))?;
        let locked = lock.metadata().map_err(|error| Error::io("stat", dir, error))?;
        if fs::metadata(dir).is_ok_and(|found| found.ino() == locked.ino()) {
            return Ok(lock);
        }
    }
    Err(Error::io("lock", dir, Errno::ENOENT))
}

/// Makes a hierarchy's levels down to `dir`, ready to take tasks. Repeating it does no harm.
fn make_levels(hierarchy: &Hierarchy, dir: &Path) -> Result<()> {
    let parent = hierarchy.mount_point.join(PARENT);
    let cpuset = hierarchy.controllers.iter().any(|name| name == "cpuset");
    let mut above = hierarchy.mount_point.as_path();
    for level in [parent.as_path(), dir] {
        if hierarchy.version == Version::V2 {
            delegate_controllers(above)?;
        }
        match fs::create_dir(level) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(|error| Error::io("mkdir", level, error))?,
        }
        if cpuset {
            inherit_cpuset(above, level)?;
        }
        above = level;
    }
    Ok(())
}

/// The cgroup that holds what stood in a cgroup which is to have controllers for its children.
const MOVED: &str = "init";

/// Moves the processes of the v2 cgroup `dir`, if any, into one below, where they may stay: a
/// cgroup with processes of its own switches no controller on for its children, but for the
/// hierarchy's root. Such is the cgroup of a container in which another is made.
fn move_own_processes(dir: &Path) -> Result<()> {
    let procs = dir.join("cgroup.procs");
    let list = fs::read_to_string(&procs).map_err(|error| Error::io("read", &procs, error))?;
    if list.is_empty() {
        return Ok(());
    }
    let below = dir.join(MOVED);
    match fs::create_dir(&below) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(|error| Error::io("mkdir", &below, error))?,
    }
    for pid in list.lines() {
        match write(&below.join("cgroup.procs"), pid) {
            // It has ended.
            Err(error) if error.errno() == libc::ESRCH => {}
            written => written?,
        }
    }
    Ok(())
}

/// Switches on for the children of the v2 cgroup `dir` the controllers that it has and that we
/// use. They stay on for the root: others may have come to rely on them.
///
/// One that is refused (`cpu` beside real-time tasks, any in a cgroup with tasks of its own) is
/// missing in the container's cgroup, and a limit that needs it then fails.
fn delegate_controllers(dir: &Path) -> Result<()> {
    let words = |file: &str| -> Result<Vec<String>> {
        let path = dir.join(file);
        let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, error))?;
        Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
    };
    let available = words("cgroup.controllers")?;
    let enabled = words("cgroup.subtree_control")?;
    let is_in = |list: &[String], name: &str| list.iter().any(|other| other == name);
    let missing: Vec<_> = V2_CONTROLLERS
        .iter()
        .filter(|name| is_in(&available, name) && !is_in(&enabled, name))
        .collect();
    // The hierarchy's root has no such file.
    if !missing.is_empty() && dir.join("cgroup.type").exists() {
        move_own_processes(dir)?;
    }
    for name in missing {
        match write(&dir.join("cgroup.subtree_control"), &format!("+{name}")) {
            // The cgroup is gone, not the controller.
            Err(error) if error.is_gone() => return Err(error),
            Err(error) => log::warn!("{error} (+{name})"),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Gives the new v1 cpuset `dir` the CPUs and memory nodes of `above`: it starts without any,
/// and no task may enter it before it has some.
fn inherit_cpuset(above: &Path, dir: &Path) -> Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = dir.join(file);
        let read =
            |path: &Path| fs::read_to_string(path).map_err(|error| Error::io("read", path, error));
        if read(&own)?.trim().is_empty() {
            write(&own, read(&above.join(file))?.trim())?;
        }
    }
    Ok(())
}

/// Writes a cgroup file in one write(2), as the kernel wants it.
fn write(path: &Path, value: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|error| Error::io("write", path, error))
}

/// Removes a cgroup and all below it. A cgroup is busy until its last task, though dead, is
/// out of it, which nothing but trying tells on v1.
fn remove_tree(dir: &Path, deadline: Instant) -> Result<()> {
    const LONGEST_PAUSE: Duration = Duration::from_millis(20);
    let mut pause = Duration::from_micros(50);
    loop {
        let error = match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => error,
        };
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() >= deadline {
            return Err(Error::io("rmdir", dir, error));
        }
        kill_all(dir);
        for child in children(dir) {
            remove_tree(&child, deadline)?;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Kills what is in a cgroup. Whatever of it fails shows when the cgroup stays busy.
fn kill_all(dir: &Path) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process that this pid namespace does not show, and would mean ourselves.
    let pids = text.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &i32| pid > 0);
    for pid in pids {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // On v1 a frozen task does not even die.
    let freezer = dir.join("freezer.state");
    if freezer.exists() {
        let _ = write(&freezer, "THAWED");
    }
}

/// The cgroups directly below one; none where it is gone.
fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
