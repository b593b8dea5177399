//! The resolver, and what it remembers between reads.
//!
//! Pids, namespace numbers and cgroup paths are all reused by the kernel. So every entry holds
//! what pins it: a namespace's descriptor, its init's pidfd, a cgroup's own id; and an entry
//! whose pin has come loose is dropped, never served.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

use super::boundary::{namespace_root, without_init_scope};
use super::init::{Init, to_pid};
use super::{Container, Identity, Root, Subject, Who, identity as identity_of, roots_at};
use crate::cgroup::path::{Membership, is_at_or_below, parse_memberships};
use crate::error::{self, Error, Result};
use crate::kernel::{Controller, Kernel};
use crate::procfs::{Namespace, NsId, process};
use crate::sys::identity;
use crate::units::Nsec;

/// How many containers are remembered. Each holds a directory per hierarchy and level.
const MOST_CONTAINERS: usize = 512;
/// How many births are remembered: more than containers, since a birth must never change.
const MOST_BIRTHS: usize = 8192;

/// By hierarchy: a process's cgroup as the daemon spells it; none where the hierarchy serves no
/// controller.
type Paths = Vec<Option<String>>;

/// By hierarchy: the cgroup that bounds a process; none where the hierarchy serves no controller
/// or our mount of it does not show the cgroup.
type Roots = Vec<Option<Root>>;

/// Finds out who is asking.
#[derive(Debug)]
pub struct Resolver {
    kernel: Arc<Kernel>,
    own: OwnNamespaces,
    /// Whether the kernel lacks PIDFD_GET_INFO, so that thread groups are read from /proc.
    without_pidfd_info: AtomicBool,
    unknown: AtomicU64,
    inits: Mutex<LruCache<NsId, Arc<Init>>>,
    boundaries: Mutex<LruCache<NsId, Arc<Boundary>>>,
    containers: Mutex<LruCache<Identity, Arc<Container>>>,
    births: Mutex<LruCache<Identity, Nsec>>,
}

/// The daemon's own namespaces.
#[derive(Debug)]
struct OwnNamespaces {
    pid: NsId,
    cgroup: Option<NsId>,
    /// None before Linux 5.6.
    time: Option<NsId>,
}

/// A cgroup namespace's roots.
#[derive(Debug)]
struct Boundary {
    /// Keeps the namespace's number from being reused.
    _namespace: OwnedFd,
    /// The process by which it was found: what ended with it need not be remembered.
    found_by: OwnedFd,
    /// By hierarchy; none where the namespace's root bounds nothing there.
    roots: Vec<Option<Root>>,
}

impl Resolver {
    /// A resolver with nothing remembered.
    ///
    /// # Errors
    /// [`Error::Io`] where the daemon cannot read its own namespaces.
    pub fn new(kernel: Arc<Kernel>) -> Result<Resolver> {
        let own = OwnNamespaces {
            pid: kernel.proc.namespace("self", Namespace::Pid)?,
            cgroup: kernel.proc.namespace("self", Namespace::Cgroup).ok(),
            time: kernel.proc.namespace("self", Namespace::Time).ok(),
        };
        let capacity = |most: usize| NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Ok(Resolver {
            kernel,
            own,
            without_pidfd_info: AtomicBool::new(false),
            unknown: AtomicU64::new(0),
            inits: Mutex::new(LruCache::new(capacity(MOST_CONTAINERS))),
            boundaries: Mutex::new(LruCache::new(capacity(MOST_CONTAINERS))),
            containers: Mutex::new(LruCache::new(capacity(MOST_CONTAINERS))),
            births: Mutex::new(LruCache::new(capacity(MOST_BIRTHS))),
        })
    }

    /// The daemon's own time namespace; none before Linux 5.6.
    #[must_use]
    pub fn own_time_namespace(&self) -> Option<NsId> {
        self.own.time
    }

    /// How many readers could not be resolved: not visible to the daemon, or gone.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Who thread `tid`, in the daemon's pid namespace, is; 0 is a thread that is not visible
    /// there. A reader about whom nothing can be found out is shown the host's files.
    #[must_use]
    pub fn resolve(&self, tid: u32) -> Who {
        match self.find(tid) {
            Ok(who) => who,
            Err(error) => {
                self.unknown.fetch_add(1, Ordering::Relaxed);
                if tid != 0 && !error.is_gone() {
                    error::report(&error);
                }
                Who { reader: None, subject: Subject::Unknown }
            }
        }
    }

    /// Drops what is remembered of a container whose cgroup turned out to be gone, so that the
    /// next [`Resolver::resolve`] looks afresh.
    pub fn forget(&self, container: &Container) {
        self.containers.lock().pop(&container.identity());
        drop_where(&self.boundaries, |boundary| {
            let same = |(a, b): (&Option<Root>, &Option<Root>)| a.is_some() && a == b;
            boundary.roots.iter().zip(&container.roots).any(same)
        });
    }

    fn find(&self, tid: u32) -> Result<Who> {
        let reader = self.thread_group(tid)?;
        let pid_namespace = self.kernel.proc.namespace(reader, Namespace::Pid)?;
        let cgroup_namespace = self.cgroup_namespace(reader)?;
        let init = if pid_namespace == self.own.pid {
            None
        } else {
            Some(self.init(reader, pid_namespace)?)
        };
        let Some(init) = init else {
            let container = self.container_of(reader, cgroup_namespace, None)?;
            let subject = if cgroup_namespace == self.own.cgroup {
                Subject::Host(container)
            } else {
                Subject::Container(container)
            };
            return Ok(Who { reader: Some(reader), subject });
        };
        let container = if self.sees_as_init(reader, cgroup_namespace, &init)? {
            let namespace = self.cgroup_namespace(init.pid)?;
            self.container_of(init.pid, namespace, Some(&init))?
        } else {
            self.container_of(reader, cgroup_namespace, Some(&init))?
        };
        Ok(Who { reader: Some(reader), subject: Subject::Container(container) })
    }

    /// Whether a reader is in the container of its pid namespace's init, and not in one of its
    /// own that merely shares the pid namespace.
    fn sees_as_init(&self, reader: u32, namespace: Option<NsId>, init: &Init) -> Result<bool> {
        if reader == init.pid {
            return Ok(true);
        }
        if namespace != self.own.cgroup && namespace != self.cgroup_namespace(init.pid)? {
            return Ok(false);
        }
        let proc = &self.kernel.proc;
        if proc.namespace(reader, Namespace::Mount)?
            == proc.namespace(init.pid, Namespace::Mount)?
        {
            return Ok(true);
        }
        let roots = self.roots(init.pid, self.cgroup_namespace(init.pid)?)?;
        let paths = self.paths(&self.memberships(reader)?);
        Ok(paths.iter().zip(&roots).all(|(path, root)| match (path, root) {
            (Some(path), Some(root)) => is_at_or_below(path, &root.path),
            (None, Some(_)) => false,
            (_, None) => true,
        }))
    }

    /// The thread group of a thread.
    fn thread_group(&self, tid: u32) -> Result<u32> {
        let gone = || Error::Gone { what: format!("thread {tid}") };
        let pid = to_pid(tid).ok_or_else(gone)?;
        if !self.without_pidfd_info.load(Ordering::Relaxed) {
            match identity::thread_group(pid) {
                Ok(tgid) => return Ok(tgid),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(gone()),
                Err(_) => self.without_pidfd_info.store(true, Ordering::Relaxed),
            }
        }
        let name = format!("{tid}/status");
        let status = self.kernel.proc.read_record(&name)?;
        process::parse_thread_group(&status).ok_or_else(|| {
            Error::malformed(self.kernel.proc.path(&name), 0, &status, "a line Tgid")
        })
    }

    /// A process's cgroup namespace; none before Linux 4.6.
    fn cgroup_namespace(&self, pid: u32) -> Result<Option<NsId>> {
        if self.own.cgroup.is_none() {
            return Ok(None);
        }
        self.kernel.proc.namespace(pid, Namespace::Cgroup).map(Some)
    }

    /// The init of the pid namespace `namespace`, which `reader` is in.
    fn init(&self, reader: u32, namespace: NsId) -> Result<Arc<Init>> {
        let known = self.inits.lock().get(&namespace).cloned();
        if let Some(init) = known {
            if init.is_alive() {
                return Ok(init);
            }
            self.inits.lock().pop(&namespace);
        }
        let init = Arc::new(Init::of(&self.kernel.proc, reader)?);
        drop_where(&self.inits, |init| !init.is_alive());
        self.inits.lock().put(init.namespace, Arc::clone(&init));
        Ok(init)
    }

    fn memberships(&self, pid: u32) -> Result<Vec<Membership>> {
        let name = format!("{pid}/cgroup");
        parse_memberships(&self.kernel.proc.read_record(&name)?, &self.kernel.proc.path(&name))
    }

    /// The paths of the hierarchies that serve a controller.
    fn paths(&self, memberships: &[Membership]) -> Paths {
        super::paths(&self.kernel, memberships)
    }

    /// The cgroups that bound process `pid`, whose cgroup namespace is `namespace`.
    fn roots(&self, pid: u32, namespace: Option<NsId>) -> Result<Roots> {
        let Some(namespace) = namespace.filter(|_| namespace != self.own.cgroup) else {
            return self.own_roots(pid);
        };
        let known = self.boundaries.lock().get(&namespace).cloned();
        let boundary = match known {
            Some(boundary) => boundary,
            None => self.find_boundary(pid, namespace)?,
        };
        if boundary
            .roots
            .iter()
            .zip(&self.kernel.hierarchies)
            .all(|(root, hierarchy)| root.is_some() || !hierarchy.serves)
        {
            return Ok(boundary.roots.clone());
        }
        let own = self.own_roots(pid)?;
        Ok(boundary.roots.iter().zip(own).map(|(root, own)| root.clone().or(own)).collect())
    }

    /// A process's own cgroups, without systemd's leaf.
    fn own_roots(&self, pid: u32) -> Result<Roots> {
        let paths = self.paths(&self.memberships(pid)?).into_iter();
        let paths = paths.map(|path| Some(without_init_scope(&path?).to_owned()));
        roots_at(&self.kernel, paths.collect())
    }

    /// Compares what the daemon and the inside of the namespace see of a process's cgroups.
    fn find_boundary(&self, pid: u32, namespace: NsId) -> Result<Arc<Boundary>> {
        const ATTEMPTS: usize = 10;
        let gone = || Error::Gone { what: format!("process {pid}") };
        let found_by = to_pid(pid).and_then(|pid| identity::process(pid).ok()).ok_or_else(gone)?;
        let namespace_fd = self.kernel.proc.open_file(&format!("{pid}/ns/cgroup"))?;
        let stat = rustix::fs::fstat(&namespace_fd).map_err(|_| gone())?;
        if NsId(stat.st_ino) != namespace {
            return Err(gone());
        }
        for _ in 0..ATTEMPTS {
            let abs = self.memberships(pid)?;
            let rel = self.memberships_inside(pid, &namespace_fd)?;
            // A process that is moved between the readings would be given a wrong boundary.
            if self.memberships(pid)? != abs {
                continue;
            }
            let roots = self
                .paths(&abs)
                .into_iter()
                .zip(self.paths(&rel))
                .enumerate()
                .map(|(hierarchy, (abs, rel))| {
                    let (abs, rel) = (abs?, rel?);
                    let path = namespace_root(&abs, &rel)?.to_owned();
                    let id = self.id_at(hierarchy, &path).ok()?;
                    Some(Root { path, id })
                })
                .collect();
            let boundary = Arc::new(Boundary { _namespace: namespace_fd, found_by, roots });
            drop_where(&self.boundaries, |known| !identity::is_alive(&known.found_by));
            self.boundaries.lock().put(namespace, Arc::clone(&boundary));
            return Ok(boundary);
        }
        Err(Error::Refused(format!("process {pid} is moved between cgroups all the time")))
    }

    /// `/proc/PID/cgroup` as a reader inside of the cgroup namespace sees it. The kernel shows
    /// it by the namespace of the thread that reads, and a thread can't leave a namespace
    /// without trace: so a thread of its own reads, and ends.
    fn memberships_inside(&self, pid: u32, namespace: &OwnedFd) -> Result<Vec<Membership>> {
        std::thread::scope(|scope| {
            let read = scope.spawn(|| {
                let kind = nix::sched::CloneFlags::CLONE_NEWCGROUP;
                nix::sched::setns(namespace.as_fd(), kind).map_err(|error| {
                    Error::io("enter", self.kernel.proc.path(&format!("{pid}/ns/cgroup")), error)
                })?;
                self.memberships(pid)
            });
            read.join().unwrap_or_else(|_| {
                Err(Error::Panicked { message: "reading in a cgroup namespace".to_owned() })
            })
        })
    }

    /// Which cgroup is at a path of a hierarchy just now.
    fn id_at(&self, hierarchy: usize, path: &str) -> Result<crate::cgroup::dir::CgroupId> {
        let below = self.kernel.relative(hierarchy, path).unwrap_or_default();
        self.kernel.hierarchies[hierarchy].root.id_below(below)
    }

    /// The container whose boundary is that of process `pid`.
    fn container_of(
        &self,
        pid: u32,
        namespace: Option<NsId>,
        init: Option<&Init>,
    ) -> Result<Arc<Container>> {
        let roots = self.roots(pid, namespace)?;
        let identity = identity_of(&roots);
        if let Some(container) = self.containers.lock().get(&identity) {
            return Ok(Arc::clone(container));
        }
        let mut container = Container::open(&self.kernel, roots)?;
        let status = self.kernel.proc.read_record(&format!("{pid}/status"))?;
        let pids = process::parse_ns_pids(&status).unwrap_or_default();
        container.pid_level = pids.len().saturating_sub(1);
        let known = self.births.lock().get(&identity).copied();
        container.birth = match known {
            Some(birth) => birth,
            None => self.birth(pid, &identity, init, &container)?,
        };
        self.births.lock().put(identity.clone(), container.birth);
        let container = Arc::new(container);
        drop_where(&self.containers, |known| !known.exists());
        self.containers.lock().put(identity, Arc::clone(&container));
        Ok(container)
    }

    /// When a container began: the start of the init of the outermost pid namespace whose init
    /// is in it; where no pid namespace is its own, that of its oldest process.
    fn birth(
        &self,
        pid: u32,
        identity: &Identity,
        init: Option<&Init>,
        container: &Container,
    ) -> Result<Nsec> {
        let mut outermost = None;
        let mut inner: Option<Init>;
        let mut current = init;
        while let Some(init) = current {
            let namespace = self.cgroup_namespace(init.pid)?;
            if identity_of(&self.roots(init.pid, namespace)?) == *identity {
                outermost = Some(init.pid);
            }
            inner = init.parent(&self.kernel.proc, self.own.pid)?;
            current = inner.as_ref();
        }
        match outermost {
            Some(init) => self.start_time(init),
            None => self.oldest_start(pid, container),
        }
    }

    fn start_time(&self, pid: u32) -> Result<Nsec> {
        let name = format!("{pid}/stat");
        let text = self.kernel.proc.read_record(&name)?;
        let stat = process::parse_stat(&text).ok_or_else(|| {
            Error::malformed(self.kernel.proc.path(&name), 1, &text, "pid (comm) state …")
        })?;
        Ok(stat.start_time)
    }

    /// The earliest start among the processes of a container's cgroup and those below it; in a
    /// hierarchy's root, where everything else is too, the machine's own start.
    fn oldest_start(&self, pid: u32, container: &Container) -> Result<Nsec> {
        let mut dirs = Vec::new();
        for controller in Controller::ALL {
            let levels = container.levels(&self.kernel, controller)?;
            if let Some(dir) = levels.dirs.first() {
                dirs.push(dir.open_below("")?);
                break;
            }
        }
        if dirs.is_empty() {
            return Ok(Nsec(0));
        }
        let mut oldest = self.start_time(pid)?;
        while let Some(dir) = dirs.pop() {
            let listed = dir.read_list("cgroup.procs")?.unwrap_or_default();
            for line in String::from_utf8_lossy(&listed).lines() {
                let start = line.parse().ok().and_then(|pid| self.start_time(pid).ok());
                oldest = start.map_or(oldest, |start| oldest.min(start));
            }
            for name in dir.children()? {
                dirs.extend(dir.open_below(&name).ok());
            }
        }
        Ok(oldest)
    }
}

/// Removes the entries that `condition` picks.
fn drop_where<K, V>(cache: &Mutex<LruCache<K, Arc<V>>>, condition: impl Fn(&V) -> bool)
where
    K: std::hash::Hash + Eq + Clone,
{
    let mut cache = cache.lock();
    let keys: Vec<K> =
        cache.iter().filter(|(_, value)| condition(value)).map(|(key, _)| key.clone()).collect();
    for key in keys {
        cache.pop(&key);
    }
}
