//! A container that runs already: what is mounted in it, and how that is changed from outside.
//!
//! It may be hostile, and its filesystems may hang. So this process only reads the kernel's text
//! of its mounts. Whatever looks at a file there is done by a child, which is given up after a
//! while, holds no descriptor that it does not need, and enters nothing but the mount namespace:
//! in the container's pid namespace it is nobody. No link is followed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, WaitOptions, fchdir, pidfd_send_signal, waitpid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::procfs::mountinfo::{self, Mount};
use crate::procfs::{NsId, ProcRoot};
use crate::sys::fuse::wait_readable;
use crate::sys::process::Child;
use crate::sys::{identity, process};

/// How long a filesystem may keep a child of ours waiting.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long reading the mounts may take. Of each in a high stack the kernel goes all the way down
/// to tell its place.
const READING: Duration = Duration::from_secs(1);

/// How long a child that was killed may take to end.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// The mount namespace and the root of a process, held open: they stay the same ones whatever
/// becomes of the process and its number.
#[derive(Debug)]
pub struct Target {
    /// The process, when it was found.
    pub pid: u32,
    /// Which mount namespace it is in.
    pub namespace: NsId,
    namespace_file: OwnedFd,
    root: OwnedFd,
    mountinfo: File,
}

impl Target {
    /// That of process `pid`.
    ///
    /// # Errors
    /// [`Error::Gone`] where it has ended; what opening its files answers.
    pub fn of(pid: u32) -> Result<Target> {
        let gone = || Error::Gone { what: format!("process {pid}") };
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let pidfd = match identity::process(number) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(gone()),
            opened => opened.map_err(|error| Error::io("open", process_file(pid, ""), error))?,
        };
        let opened = Target::open(pid);
        // Afterwards: then all that was opened is of the process that the descriptor is of.
        if identity::is_alive(&pidfd) { opened } else { Err(gone()) }
    }

    fn open(pid: u32) -> Result<Target> {
        let open = |name: &str, flags: OFlags| {
            let path = process_file(pid, name);
            rustix::fs::open(&path, flags | OFlags::CLOEXEC, Mode::empty())
                .map_err(|errno| Error::io("open", path, errno))
        };
        let namespace_file = open("ns/mnt", OFlags::RDONLY)?;
        let status = rustix::fs::fstat(&namespace_file)
            .map_err(|errno| Error::io("stat", process_file(pid, "ns/mnt"), errno))?;
        Ok(Target {
            pid,
            namespace: NsId(status.st_ino),
            namespace_file,
            root: open("root", OFlags::PATH | OFlags::DIRECTORY)?,
            mountinfo: open("mountinfo", OFlags::RDONLY)?.into(),
        })
    }

    /// Refuses the mount namespace of the host's own processes, in which a mount would be for
    /// all of them.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn refuse_host(&self) -> Result<()> {
        if !host_namespaces()?.contains(&self.namespace) {
            return Ok(());
        }
        let pid = self.pid;
        Err(Error::Refused(format!("process {pid}: in no container: it has the host's mounts")))
    }

    /// What is mounted there, as far as it is `wanted`.
    ///
    /// # Errors
    /// What reading its mountinfo answers.
    pub fn mounts(&self, wanted: impl Fn(&Mount) -> bool) -> Result<Vec<Mount>> {
        let mut found = Vec::new();
        self.each_mount(|mount| found.extend(wanted(&mount).then_some(mount)))?;
        Ok(found)
    }

    /// The mounts of lxcfs there, whichever daemon's, which nothing else is mounted on.
    ///
    /// # Errors
    /// As [`Target::mounts`].
    pub fn lxcfs_mounts(&self) -> Result<Vec<Mount>> {
        /// Far more than what belongs into a container; a descriptor for each may be needed.
        const MOST: usize = 256;
        let mut found: BTreeMap<u64, Mount> = BTreeMap::new();
        self.each_mount(|mount| {
            // What is mounted on another comes after it.
            let below = found.get(&mount.parent);
            if below.is_some_and(|below| below.mount_point == mount.mount_point) {
                found.remove(&mount.parent);
            }
            if is_lxcfs(&mount) && found.len() < MOST {
                found.insert(mount.id, mount);
            }
        })?;
        Ok(found.into_values().collect())
    }

    /// One line is held at a time: there may be very many.
    fn each_mount(&self, mut take: impl FnMut(Mount)) -> Result<()> {
        let failed = |error| Error::io("read", process_file(self.pid, "mountinfo"), error);
        let deadline = Instant::now() + READING;
        (&self.mountinfo).rewind().map_err(failed)?;
        for line in BufReader::new(&self.mountinfo).split(b'\n') {
            if Instant::now() > deadline {
                return Err(failed(io::ErrorKind::TimedOut.into()));
            }
            mountinfo::parse_line(&line.map_err(failed)?).into_iter().for_each(&mut take);
        }
        Ok(())
    }

    /// Has a child do what may wait for a filesystem, and returns what that returns. Of this
    /// process's descriptors it has none. To be called by a process of one thread.
    ///
    /// # Errors
    /// What `act` answers; [`Error::Refused`] where it takes too long.
    pub fn visit<T: Serialize + DeserializeOwned>(
        &self,
        act: impl FnOnce(&Visit<'_>) -> Result<T>,
    ) -> Result<T> {
        let failed = |op| move |error: io::Error| Error::io(op, process_file(self.pid, ""), error);
        let (answers, answer) = io::pipe().map_err(failed("make a pipe for"))?;

        let target = [self.namespace_file.as_fd(), self.root.as_fd(), self.mountinfo.as_fd()];
        let kept = [&target[..], &[answer.as_fd()]].concat();
        let child = process::fork(|| {
            let done = process::close_all_but(&kept)
                .map_err(failed("close descriptors for"))
                .and_then(|()| act(&Visit::new(self)?));
            let done: Result<T, String> = done.map_err(|error| error.to_string());
            let told = serde_json::to_vec(&done).map_err(io::Error::from);
            u8::from(told.and_then(|text| (&answer).write_all(&text)).is_err())
        })
        .map_err(failed("fork to look into"))?;
        drop(answer);
        let text = read_for(PATIENCE, answers.into()).map_err(failed("look into"))?;
        end(&child).map_err(failed("end the look into"))?;
        let Some(text) = text else {
            let pid = self.pid;
            return Err(Error::Refused(format!(
                "process {pid}: a filesystem among its mounts does not answer"
            )));
        };
        let told: Result<T, String> = serde_json::from_slice(&text)
            .map_err(|error| failed("look into")(io::Error::from(error)))?;
        told.map_err(Error::Refused)
    }
}

/// What must be before a container is looked into.
///
/// # Errors
/// [`Error::Refused`] where root is needed.
pub fn prepare() -> Result<()> {
    super::require_root()?;
    process::notice_children().map_err(|error| Error::io("block signals of", "/proc/self", error))
}

/// Whether it is a mount of lxcfs or ours.
#[must_use]
pub fn is_lxcfs(mount: &Mount) -> bool {
    mount.fs_type == "fuse.lxcfs"
}

/// The processes whose mounts are the host's: its first, and who asks.
const HOST: [&str; 2] = ["1", "self"];

/// The mount namespaces of the host.
///
/// # Errors
/// What stat(2) answers.
pub fn host_namespaces() -> Result<Vec<NsId>> {
    of_host("ns/mnt", "stat", |path| Ok(NsId(fs::metadata(path)?.ino())))
}

/// The peer groups that the host's mounts are in, or follow.
///
/// # Errors
/// What reading their mountinfo answers.
pub fn host_peer_groups() -> Result<BTreeSet<u64>> {
    let mounts = of_host("mountinfo", "read", |path| Ok(mountinfo::parse(&fs::read(path)?)))?;
    let groups = |mount: Mount| [mount.peer_group, mount.master];
    Ok(mounts.into_iter().flatten().flat_map(groups).flatten().collect())
}

/// What a file of each of the host's processes tells. Those of the first one are not for a root
/// who has fewer capabilities.
fn of_host<T>(
    name: &str,
    op: &'static str,
    tell: impl Fn(&Path) -> io::Result<T>,
) -> Result<Vec<T>> {
    let mut told = Vec::new();
    for process in HOST {
        let path = process_file(process, name);
        match tell(&path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            found => told.push(found.map_err(|error| Error::io(op, path, error))?),
        }
    }
    Ok(told)
}

fn process_file(process: impl std::fmt::Display, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{process}")).join(name)
}

/// Reads a pipe to its end; none where that takes too long.
fn read_for(patience: Duration, pipe: OwnedFd) -> io::Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + patience;
    let mut pipe = File::from(pipe);
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if !wait_readable(pipe.as_fd(), deadline.saturating_duration_since(Instant::now()))? {
            return Ok(None);
        }
        match pipe.read(&mut buffer)? {
            0 => return Ok(Some(text)),
            length => text.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Ends a child, if it can be ended: not while it waits for a filesystem that has its request.
fn end(child: &Child) -> io::Result<()> {
    if !wait_readable(child.pidfd.as_fd(), LAST_MOMENT)? {
        pidfd_send_signal(&child.pidfd, Signal::KILL)?;
        wait_readable(child.pidfd.as_fd(), LAST_MOMENT)?;
    }
    waitpid(Pid::from_raw(child.pid.as_raw()), WaitOptions::NOHANG)?;
    Ok(())
}

/// A child of ours that looks at a target.
#[derive(Debug)]
pub struct Visit<'a> {
    target: &'a Target,
    /// The host's /proc, its working directory.
    pub proc: ProcRoot,
}

/// What a reader finds at some place.
#[derive(Debug)]
pub struct Top {
    /// It, opened with O_PATH.
    pub file: OwnedFd,
    /// The mount that it lies on.
    pub mount: Mount,
}

impl<'a> Visit<'a> {
    fn new(target: &'a Target) -> Result<Visit<'a>> {
        let proc = ProcRoot::open(Path::new("/proc"))?;
        fchdir(&proc).map_err(|errno| Error::io("enter", "/proc", errno))?;
        Ok(Visit { target, proc })
    }

    /// Goes on in the target's mount namespace, in which alone its mounts can be changed.
    ///
    /// # Errors
    /// What setns(2) answers.
    pub fn enter(&self) -> Result<()> {
        let failed =
            |error: io::Error| Error::io("enter", process_file(self.target.pid, "ns/mnt"), error);
        setns(&self.target.namespace_file, CloneFlags::CLONE_NEWNS)
            .map_err(|errno| failed(errno.into()))?;
        // It has made the new root the working directory.
        fchdir(&self.proc).map_err(|errno| failed(errno.into()))
    }

    /// Opens what is at `place`, a path from the target's root; none where there is nothing.
    ///
    /// # Errors
    /// What openat2(2) answers: ELOOP for a link on the way.
    pub fn open(&self, place: &Path) -> Result<Option<OwnedFd>> {
        let below = place.strip_prefix("/").unwrap_or(place);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        match openat2(&self.target.root, below, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            opened => Ok(Some(opened.map_err(|errno| Error::io("open", place, errno))?)),
        }
    }

    /// What is at each of `places`, as [`Visit::open`] finds it, and the mounts that it lies on.
    ///
    /// # Errors
    /// What reading the mounts answers.
    pub fn tops(&self, places: &[&Path]) -> Result<Vec<Result<Option<Top>>>> {
        let mut opened = Vec::new();
        for place in places {
            opened.push(match self.open(place) {
                Ok(Some(file)) => Ok(Some((self.proc.mount_id(&file)?, file))),
                other => other.map(|_| None),
            });
        }
        let ids: BTreeSet<u64> = opened.iter().flatten().flatten().map(|(id, _)| *id).collect();
        // Afterwards: what is open keeps its mount, and that its number.
        let mounts = self.target.mounts(|mount| ids.contains(&mount.id))?;
        // One that was unmounted in this moment is not among them.
        let top = |(id, file)| {
            let mount = mounts.iter().find(|mount| mount.id == id)?.clone();
            Some(Top { file, mount })
        };
        Ok(opened.into_iter().map(|found| Ok(found?.and_then(top))).collect())
    }

    /// The mount of this id.
    ///
    /// # Errors
    /// As [`Target::mounts`].
    pub fn mount(&self, id: u64) -> Result<Option<Mount>> {
        Ok(self.target.mounts(|mount| mount.id == id)?.pop())
    }

    /// Unmounts the mount whose root `file` is, at once from all that see it.
    ///
    /// # Errors
    /// What umount2(2) answers: EINVAL for a mount that came with a copy of a more privileged
    /// namespace's mounts.
    pub fn unmount(&self, file: &OwnedFd) -> Result<(), Errno> {
        // By the host's /proc: the target's need not have this process.
        unmount(format!("self/fd/{}", file.as_raw_fd()), UnmountFlags::DETACH)
    }
}
