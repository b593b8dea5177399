//! Our files in a container's /proc and /sys: from a daemon that serves this host already, or
//! from one of the container's own that nobody else sees and that ends with it.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::wait::waitpid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, OpenTreeFlags, mount, open_tree};
use rustix::process::{Signal, pidfd_send_signal};

use super::kernelfs::KernelFilesystems;
use super::mounts::{INERT, READ_ONLY, restrict};
use super::report::{self, Report};
use super::{die_with, namespaces};
use crate::error::{Error, Result};
use crate::files;
use crate::procfs::mountinfo::{self, Mount};
use crate::sys::fuse::{Answer, ask_in_child};
use crate::sys::process::{self, Child};

/// One bind mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The file or directory that is shown.
    pub source: PathBuf,
    /// The one that it covers.
    pub target: PathBuf,
    /// Whether it is written to.
    pub is_written: bool,
}

/// The bind mounts that put the files served at `mountpoint` into a container.
#[must_use]
pub fn plan(mountpoint: &Path) -> Vec<Bind> {
    let bind = |mount: files::Mount| Bind {
        source: mountpoint.join(mount.path),
        target: Path::new("/").join(mount.path),
        is_written: mount.is_written,
    };
    files::mounts().map(bind).collect()
}

/// Serves the filesystem at a directory until it is killed, and calls the function it is given
/// once it is mounted there.
pub type Serve<'a> = &'a dyn Fn(&Path, Box<dyn FnOnce()>) -> Result<()>;

/// Where a container's files come from.
#[derive(Debug)]
pub enum View {
    /// From the daemon that is mounted at this directory.
    Shared(PathBuf),
    /// From the daemon that serves the container which this is run in: it tells them apart.
    Outer,
    /// From a daemon of its own.
    Own(Daemon),
}

/// A daemon that serves one container, in a mount namespace of its own.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// What it reports: that it is ready, or why not.
    reports: OwnedFd,
}

/// Directories of which every system has one, to hide behind a tmpfs in the daemon's mount
/// namespace: it serves below, and what it writes to /run vanishes with it.
const PLACES: &[&str] = &["/run", "/tmp"];

/// The daemon's mount point below the tmpfs.
const MOUNT_POINT: &str = "lxcfs";

impl View {
    /// The daemon that serves at `mountpoint`, or, where none does, a new one that runs
    /// `serve`. The latter may not be ready yet: [`View::wait`].
    ///
    /// # Errors
    /// What fork(2) answers.
    pub fn find_or_start(mountpoint: &Path, serve: Serve<'_>) -> Result<View> {
        let served = served_places()?;
        let is_served = |place: &Path| served.iter().any(|served| served == place);
        if is_served(mountpoint) && answers(&mountpoint.join("proc/meminfo"))? {
            return Ok(View::Shared(mountpoint.to_owned()));
        }
        let meminfo = Path::new("/proc/meminfo");
        if is_served(meminfo) && answers(meminfo)? {
            return Ok(View::Outer);
        }
        Ok(View::Own(Daemon::start(serve)?))
    }

    /// Waits until the files can be opened.
    ///
    /// # Errors
    /// Why the container's own daemon could not start.
    pub fn wait(&self) -> Result<()> {
        let View::Own(daemon) = self else { return Ok(()) };
        match report::read(&daemon.reports)? {
            Report::Ready => Ok(()),
            Report::Failed { text, .. } => Err(Error::Refused(text)),
            Report::Ended => Err(Error::Refused("it ended before it served anything".to_owned())),
        }
    }

    /// Opens the files, to be attached after the root has changed. To be called in the
    /// container's mount namespace, whose propagation has stopped.
    ///
    /// # Errors
    /// The file that could not be opened. One that a shared daemon of another version does
    /// not have is left out.
    pub fn open(&self) -> Result<Files> {
        match self {
            View::Shared(mountpoint) => open_files(plan(mountpoint), true),
            View::Outer => {
                let served = served_places()?;
                let mut binds = plan(Path::new("/"));
                binds.retain(|bind| served.contains(&bind.source));
                open_files(binds, true)
            }
            View::Own(daemon) => namespaces::in_mount_namespace_of(daemon.child.pid, || {
                open_files(plan(&place()?.join(MOUNT_POINT)), false)
            }),
        }
    }

    /// Whether the container's own daemon has ended before its time.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let View::Own(daemon) = self else { return false };
        let mut ended = [PollFd::new(&daemon.child.pidfd, PollFlags::IN)];
        poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0)
    }

    /// Ends the container's own daemon, if it has one.
    ///
    /// # Errors
    /// What waitpid(2) answers.
    pub fn end(self) -> Result<()> {
        let View::Own(daemon) = self else { return Ok(()) };
        // It has nothing to save, and its mount, its connection and its tmpfs end with it.
        let _ = pidfd_send_signal(&daemon.child.pidfd, Signal::KILL);
        waitpid(daemon.child.pid, None)
            .map_err(|errno| Error::io("wait for", "the container's lxcfs-rs", errno))?;
        Ok(())
    }
}

/// How long the host's daemon may take to answer before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(5);

/// The places at which one of our filesystems, or a file of it, is mounted on top.
fn served_places() -> Result<Vec<PathBuf>> {
    const MOUNTINFO: &str = "/proc/self/mountinfo";
    let text = fs::read(MOUNTINFO).map_err(|error| Error::io("read", MOUNTINFO, error))?;
    let mounts = mountinfo::parse(&text);
    let is_on_top = |(index, mount): &(usize, &Mount)| {
        mounts[index + 1..].iter().all(|later| later.mount_point != mount.mount_point)
    };
    let served = mounts.iter().enumerate().filter(is_on_top);
    let served = served.filter(|(_, mount)| mount.fs_type == "fuse.lxcfs");
    Ok(served.map(|(_, mount)| mount.mount_point.clone()).collect())
}

/// Whether the daemon that serves the file `meminfo` answers.
fn answers(meminfo: &Path) -> Result<bool> {
    let answer =
        ask_in_child(meminfo, PATIENCE).map_err(|error| Error::io("read", meminfo, error))?;
    if answer != Answer::Present {
        log::warn!("{}: the daemon there does not answer, bringing one", meminfo.display());
    }
    Ok(answer == Answer::Present)
}

impl Daemon {
    fn start(serve: Serve<'_>) -> Result<Daemon> {
        let (reports, reporter) = report::channel()?;
        let parent = die_with::this_process()?;
        let child = process::fork(move || {
            let reporter = Rc::new(reporter);
            let ready = Rc::clone(&reporter);
            let ready = Box::new(move || report::write(&*ready, &Report::Ready));
            let served = parent.watch().and_then(|()| serve_in_private(serve, ready));
            if let Err(error) = served {
                report::write(&*reporter, &Report::Failed { status: 1, text: error.to_string() });
                return 1;
            }
            0
        })
        .map_err(|error| Error::io("fork", "the container's lxcfs-rs", error))?;
        Ok(Daemon { child, reports })
    }
}

/// The body of a container's own daemon.
fn serve_in_private(serve: Serve<'_>, ready: Box<dyn FnOnce()>) -> Result<()> {
    // Its own session: the terminal's signals are for the container.
    nix::unistd::setsid().map_err(|errno| Error::io("setsid", "/proc/self", errno))?;
    process::reset_signals().map_err(|error| Error::io("reset signals of", "/proc/self", error))?;
    let null = fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Error::io("open", "/dev/null", error))?;
    nix::unistd::dup2_stdin(&null)
        .and_then(|()| nix::unistd::dup2_stdout(&null))
        .map_err(|errno| Error::io("duplicate", "/dev/null", errno))?;

    namespaces::enter_mount()?;
    let place = place()?;
    mount("lxcfs-rs", &place, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
        .map_err(|errno| Error::io("mount", &place, errno))?;
    let mountpoint = place.join(MOUNT_POINT);
    fs::create_dir(&mountpoint).map_err(|error| Error::io("mkdir", &mountpoint, error))?;
    serve(&mountpoint, ready)
}

fn place() -> Result<PathBuf> {
    PLACES.iter().map(PathBuf::from).find(|place| place.is_dir()).ok_or_else(|| {
        Error::Refused(format!("none of {} is a directory to serve at", PLACES.join(", ")))
    })
}

/// A container's files, opened as mounts that are attached nowhere yet.
#[derive(Debug)]
pub struct Files {
    mounts: Vec<(OwnedFd, PathBuf)>,
}

fn open_files(binds: Vec<Bind>, may_lack: bool) -> Result<Files> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mut mounts = Vec::new();
    for bind in binds {
        match open_tree(CWD, &bind.source, flags) {
            Ok(mount) => {
                let attributes = if bind.is_written { INERT } else { INERT | READ_ONLY };
                restrict(&mount, attributes, &bind.target)?;
                mounts.push((mount, bind.target));
            }
            Err(rustix::io::Errno::NOENT) if may_lack => {
                log::info!("{}: not there, the host's shows instead", bind.source.display());
            }
            Err(errno) => return Err(Error::io("clone", &bind.source, errno)),
        }
    }
    Ok(Files { mounts })
}

impl Files {
    /// Attaches the files over the kernel's.
    ///
    /// # Errors
    /// The mount that failed. A file that this kernel does not have is not added to it.
    pub fn apply(&self, kernel: &KernelFilesystems) -> Result<()> {
        for (mount, target) in &self.mounts {
            match kernel.attach(mount, target) {
                Err(error) if error.is_gone() => {
                    log::info!("{}: this kernel has no such file", target.display());
                }
                attached => attached?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_covers_the_kernels_of_its_own_path() {
        let binds = plan(Path::new("/var/lib/lxcfs"));
        let is_written = |path: &str| {
            binds.iter().find(|bind| bind.target == Path::new(path)).unwrap().is_written
        };
        assert!(!is_written("/proc/meminfo") && is_written("/proc/pressure/io"));
        for Bind { source, target, .. } in &binds {
            let served = target.strip_prefix("/").unwrap();
            assert_eq!(source, &Path::new("/var/lib/lxcfs").join(served));
        }
    }
}
