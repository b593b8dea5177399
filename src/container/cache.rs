//! The resolver, and what it remembers between reads.
//!
//! Pids, namespace numbers and cgroup paths are all reused by the kernel. So every entry holds
//! what pins it: a namespace's descriptor, its init's pidfd, a cgroup's own id; and an entry
//! whose pin has come loose is dropped, never served.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;

use super::boundary::{NamespaceRoot, namespace_root, without_init_scope};
use super::held::{Held, Holds};
use super::init::{Init, namespace_number};
use super::inside::Inside;
use super::known::{Known, Seen};
use super::listing::Listing;
use super::thread::{self, Thread, to_pid};
use super::{Container, Identity, Root, Roots, Subject, Who, id_at};
use crate::cgroup::dir::nothing_if_gone;
use crate::cgroup::path::{Membership, is_at_or_below};
use crate::error::{self, Error, Result};
use crate::kernel::{Controller, Kernel};
use crate::procfs::{Namespace, NsId, process};
use crate::sys::{descriptors, identity};
use crate::units::Nsec;

/// How many directories of containers' cgroups are open at most: one per level of each hierarchy
/// that something was asked of, on v1 up to two dozen for a container.
const MOST_DIRECTORIES: usize = 32_768;
/// How many containers are remembered at most.
const MOST_CONTAINERS: usize = 4_096;
/// How many descriptors the remembered namespaces of one kind hold at most: two each.
const MOST_FOR_NAMESPACES: usize = 8_192;
/// How many the remembered readers hold at most: two each, or as many as eight.
const MOST_FOR_READERS: usize = 16_384;
/// How many descriptors the daemon holds that has been asked nothing.
const OWN_FILES: usize = 64;
/// How many numbers of threads are remembered that have read once: who reads again is worth being
/// remembered himself. More than there may be places for readers: one that takes turns with all of
/// the others is not forgotten in between.
const MOST_NUMBERS: usize = 16_384;
/// How many births are remembered: more than containers, since a birth must never change.
const MOST_BIRTHS: usize = 8192;
/// How often at most what has ended is looked for, to be forgotten. A namespace that is held
/// keeps its cgroups half alive in the kernel.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// For how long at most one reader does so: thousands of containers take some tens of milliseconds.
const SWEEP_FOR: Duration = Duration::from_millis(1);
/// How often a process is looked at that is moved while it is looked at: on a busy machine the
/// daemon may lose its CPU in each of the first ten.
const ATTEMPTS: usize = 100;

/// By hierarchy: a process's cgroup as the daemon spells it; none where the hierarchy serves no
/// controller.
type Paths = Vec<Option<Vec<u8>>>;

/// Finds out who is asking.
#[derive(Debug)]
pub struct Resolver {
    kernel: Arc<Kernel>,
    own: OwnNamespaces,
    /// Whether the kernel lacks PIDFD_GET_INFO, so that thread groups are read from /proc.
    without_pidfd_info: AtomicBool,
    unknown: AtomicU64,
    /// By the numbers of their threads.
    readers: Held<u32, Known>,
    /// The numbers of threads that have read.
    numbers: Mutex<LruCache<u32, ()>>,
    inits: Held<NsId, Init>,
    inside: Inside,
    boundaries: Held<NsId, Boundary>,
    containers: Held<Identity, Container>,
    /// Of containers, open.
    most_directories: usize,
    /// How many descriptors all that is remembered may hold.
    most_together: usize,
    births: Mutex<LruCache<Identity, Nsec>>,
    /// Containers that were found ended, until [`Resolver::take_ended`].
    ended: Mutex<Vec<Identity>>,
    sweep: Mutex<Sweep>,
}

/// The look for what has ended, which goes through all that is remembered, each read a part.
#[derive(Debug)]
struct Sweep {
    /// When the last one was over.
    ended: Instant,
    /// Not looked at yet, of each kind.
    readers: Vec<u32>,
    inits: Vec<NsId>,
    boundaries: Vec<NsId>,
    containers: Vec<Identity>,
}

impl Sweep {
    /// One that is over.
    fn new() -> Sweep {
        Sweep {
            ended: Instant::now(),
            readers: Vec::new(),
            inits: Vec::new(),
            boundaries: Vec::new(),
            containers: Vec::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.readers.is_empty()
            && self.inits.is_empty()
            && self.boundaries.is_empty()
            && self.containers.is_empty()
    }
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
    _namespace: Arc<OwnedFd>,
    /// The process by which it was found: when that has ended it need not be remembered.
    found_by: Option<Arc<OwnedFd>>,
    /// By hierarchy.
    roots: Vec<NamespaceRoot<Root>>,
}

impl Boundary {
    /// Whether it bounds its processes in every hierarchy.
    fn is_everywhere(&self) -> bool {
        self.roots.iter().all(|root| matches!(root, NamespaceRoot::At(_)))
    }
}

impl Holds for Boundary {
    fn descriptors(&self) -> usize {
        2
    }
}

/// The task that is asked about a process, and the cgroup namespace it is in.
#[derive(Clone, Copy, Debug)]
struct Speaker {
    tid: u32,
    /// None before Linux 4.6.
    cgroup_namespace: Option<NsId>,
    /// Whether it is only that of whatever is around the process's container, and so does not
    /// bound it: as of a container in a container, on v1 by Docker's default.
    is_inherited: bool,
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
        let files = descriptors::limit();
        let most = |most| NonZeroUsize::new(most).unwrap_or(NonZeroUsize::MIN);
        Ok(Resolver {
            kernel,
            own,
            without_pidfd_info: AtomicBool::new(false),
            unknown: AtomicU64::new(0),
            readers: Held::at_most(MOST_FOR_READERS),
            numbers: Mutex::new(LruCache::new(most(MOST_NUMBERS))),
            inits: Held::at_most((files / 16).min(MOST_FOR_NAMESPACES)),
            inside: Inside::default(),
            boundaries: Held::at_most((files / 16).min(MOST_FOR_NAMESPACES)),
            containers: Held::at_most(MOST_CONTAINERS),
            most_directories: (files / 4).min(MOST_DIRECTORIES),
            // The rest is for triggers, records of what was shown, and the work of a moment.
            most_together: files.saturating_sub(OWN_FILES) / 16 * 11,
            births: Mutex::new(LruCache::new(most(MOST_BIRTHS))),
            ended: Mutex::new(Vec::new()),
            sweep: Mutex::new(Sweep::new()),
        })
    }

    /// Starts the thread by which readers are found out about, which else comes with the first of
    /// them. It has the rights of the calling one.
    pub fn start(&self) {
        if let Err(error) = self.inside.start(&self.kernel.proc) {
            error::report(&error);
        }
    }

    /// Takes over when containers began that an earlier daemon found out: it stands for ever.
    pub fn remember_births(&self, births: impl IntoIterator<Item = (Identity, Nsec)>) {
        let mut known = self.births.lock();
        for (identity, birth) in births {
            known.put(identity, birth);
        }
    }

    /// The containers that were found ended since this was last asked.
    #[must_use]
    pub fn take_ended(&self) -> Vec<Identity> {
        std::mem::take(&mut *self.ended.lock())
    }

    /// The daemon's own time namespace; none before Linux 5.6.
    #[must_use]
    pub fn own_time_namespace(&self) -> Option<NsId> {
        self.own.time
    }

    /// How many containers are remembered now.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.containers.len()
    }

    /// How many readers could not be resolved: not visible to the daemon, or gone.
    #[must_use]
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Ordering::Relaxed)
    }

    /// Who thread `tid`, in the daemon's pid namespace, is; 0 is a thread that is not visible
    /// there. One that is not, or has ended, is shown the host's files.
    ///
    /// # Errors
    /// Why nothing can be found out about a reader who is there: to him the host's files could
    /// be another machine's.
    pub fn resolve(&self, tid: u32) -> Result<Who> {
        match self.find(tid) {
            Err(error) if tid == 0 || error.is_gone() => {
                self.unknown.fetch_add(1, Ordering::Relaxed);
                Ok(Who { reader: None, subject: Subject::Unknown })
            }
            found => found,
        }
    }

    /// Drops what is remembered of a container one of whose cgroups turned out to be gone, or to
    /// be elsewhere, so that the next [`Resolver::resolve`] looks afresh.
    pub fn forget(&self, container: &Container) {
        self.containers.forget(container.identity());
        if container.check_exists().is_err() {
            self.ended.lock().push(container.identity().clone());
        }
    }

    fn find(&self, tid: u32) -> Result<Who> {
        self.sweep();
        self.containers.forget_while(|| super::open_directories() > self.most_directories);
        self.readers.forget_while(|| self.readers.descriptors() > self.most_for_readers());
        if let Some(who) = self.recall(tid) {
            return Ok(who);
        }
        let thread = self.thread(tid)?;
        for _ in 0..ATTEMPTS {
            let mut seen = Seen::default();
            let found = self.find_process(thread.group, &mut seen);
            // All was asked by number. A reader that waits for our answer keeps its own and
            // those of its inits; one that does not, as in asynchronous I/O, may have ended.
            if !thread.is_alive() {
                return Err(Error::Gone { what: format!("thread {tid}") });
            }
            match found {
                // Of one that is alive only a cgroup can be gone that it was in: it was moved.
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
                Ok(who) => {
                    self.remember(tid, thread, &who, seen);
                    return Ok(who);
                }
            }
        }
        Err(moved(thread.group))
    }

    /// The last answer about a thread, if it would be the same now.
    fn recall(&self, tid: u32) -> Option<Who> {
        let known = self.readers.get(&tid)?;
        // It is another one by now where the first turned out to be gone, or elsewhere.
        let container = self.containers.get(known.identity());
        let who = container.and_then(|container| known.who(container));
        let who = who.filter(|_| known.is_unchanged(&self.kernel.moves));
        if who.is_none() {
            self.readers.forget(&tid);
        }
        who
    }

    /// Keeps the answer about a thread that has read before.
    fn remember(&self, tid: u32, thread: Thread, who: &Who, seen: Seen) {
        if self.numbers.lock().put(tid, ()).is_none() {
            return;
        }
        // Whoever cannot be remembered is found out about again.
        if let Ok(Some(known)) = Known::new(&self.kernel.proc, tid, thread, who, seen) {
            self.readers.put_beside(tid, Arc::new(known), self.most_for_readers());
        }
    }

    /// How many descriptors the remembered readers may hold: those that nothing else does.
    fn most_for_readers(&self) -> usize {
        let namespaces = self.inits.descriptors() + self.boundaries.descriptors();
        let files = super::open_directories() + descriptors::spare();
        self.most_together.saturating_sub(namespaces + files)
    }

    fn find_process(&self, process: u32, seen: &mut Seen) -> Result<Who> {
        let reader = self.speaker(process, seen)?;
        let subject = self.subject(process, reader, seen)?;
        Ok(Who { reader: Some(reader.tid), subject })
    }

    fn subject(&self, process: u32, reader: Speaker, seen: &mut Seen) -> Result<Subject> {
        let pid_namespace = self.kernel.proc.namespace(process, Namespace::Pid)?;
        if pid_namespace == self.own.pid {
            let container = self.container_of(reader, None, seen)?;
            return Ok(if reader.cgroup_namespace == self.own.cgroup {
                Subject::Host(container)
            } else {
                Subject::Container(container)
            });
        }
        let init = self.init(process, pid_namespace)?;
        let init_speaker =
            self.init_speaker(&init, (process == init.pid).then_some(reader), seen)?;
        let is_same = reader.cgroup_namespace == init_speaker.cgroup_namespace;
        let is_inherited = reader.is_inherited || (is_same && init_speaker.is_inherited);
        let reader = Speaker { is_inherited, ..reader };
        let bounded = if self.sees_as_init(reader, init_speaker, &init, seen)? {
            init_speaker
        } else {
            reader
        };
        Ok(Subject::Container(self.container_of(bounded, Some(&init), seen)?))
    }

    /// Whether a reader is in the container of its pid namespace's `init`, for which `speaker`
    /// speaks, and not in one of its own that merely shares the pid namespace.
    fn sees_as_init(
        &self,
        reader: Speaker,
        speaker: Speaker,
        init: &Init,
        seen: &mut Seen,
    ) -> Result<bool> {
        if reader.tid == speaker.tid {
            return Ok(true);
        }
        if reader.cgroup_namespace != self.own.cgroup
            && reader.cgroup_namespace != speaker.cgroup_namespace
        {
            return Ok(false);
        }
        let mut mounts = |tid| {
            let found = self.kernel.proc.namespace(tid, Namespace::Mount)?;
            seen.namespace(tid, Namespace::Mount, found);
            Result::Ok(found)
        };
        if mounts(reader.tid)? == mounts(speaker.tid)? {
            return Ok(true);
        }
        let roots = self.roots(speaker, Some(init), seen)?;
        let listing = Listing::open(&self.kernel.proc, reader.tid)?;
        let text = listing.read()?;
        let paths = self.paths(&listing.parse(&text)?);
        seen.listing(reader.tid, text);
        Ok(paths.iter().zip(&roots.0).all(|(path, root)| match (path, root) {
            (Some(path), Some(root)) => is_at_or_below(path, &root.path),
            (None, Some(_)) => false,
            (_, None) => true,
        }))
    }

    /// The thread that reads, and its process.
    fn thread(&self, tid: u32) -> Result<Thread> {
        if !self.without_pidfd_info.load(Ordering::Relaxed) {
            match thread::by_pidfd(tid) {
                Some(found) => return found,
                None => self.without_pidfd_info.store(true, Ordering::Relaxed),
            }
        }
        thread::by_status(&self.kernel.proc, tid)
    }

    /// Whom to ask about a process: its leader; or where that has ended and other threads go
    /// on (pthread_exit(3) in `main`), and the kernel no longer tells its namespaces and calls
    /// its v1 cgroups `/`, one of those.
    fn speaker(&self, process: u32, seen: &mut Seen) -> Result<Speaker> {
        let mut speaker = |tid| {
            let cgroup_namespace = self.cgroup_namespace(tid)?;
            if let Some(found) = cgroup_namespace {
                seen.namespace(tid, Namespace::Cgroup, found);
            }
            let is_inherited = cgroup_namespace == self.own.cgroup;
            Ok(Speaker { tid, cgroup_namespace, is_inherited })
        };
        match speaker(process) {
            Err(error) if Error::is_gone(&error) => {
                let threads = self.kernel.proc.threads(process)?;
                threads.into_iter().find_map(|tid| speaker(tid).ok()).ok_or(error)
            }
            found => found,
        }
    }

    /// As [`Resolver::speaker`] of the init of a pid namespace, where that is not `known`.
    fn init_speaker(
        &self,
        init: &Init,
        known: Option<Speaker>,
        seen: &mut Seen,
    ) -> Result<Speaker> {
        let speaker = match known {
            Some(known) => known,
            None => self.speaker(init.pid, seen)?,
        };
        let Some((_, around)) = self.init_around(init)? else { return Ok(speaker) };
        let around = self.speaker(around, seen)?;
        let is_inherited = speaker.cgroup_namespace == around.cgroup_namespace;
        Ok(Speaker { is_inherited: speaker.is_inherited || is_inherited, ..speaker })
    }

    /// A task's cgroup namespace; none before Linux 4.6.
    fn cgroup_namespace(&self, tid: u32) -> Result<Option<NsId>> {
        if self.own.cgroup.is_none() {
            return Ok(None);
        }
        self.kernel.proc.namespace(tid, Namespace::Cgroup).map(Some)
    }

    /// The init of the pid namespace `namespace`, which `reader` is in.
    fn init(&self, reader: u32, namespace: NsId) -> Result<Arc<Init>> {
        match self.known_init(namespace) {
            Some(init) => Ok(init),
            None => Ok(self.remember_init(Init::of(&self.kernel.proc, reader)?)),
        }
    }

    fn known_init(&self, namespace: NsId) -> Option<Arc<Init>> {
        let init = self.inits.get(&namespace)?;
        if !init.is_alive() {
            self.inits.forget(&namespace);
            return None;
        }
        Some(init)
    }

    fn remember_init(&self, init: Init) -> Arc<Init> {
        let init = Arc::new(init);
        self.inits.put(init.namespace, Arc::clone(&init));
        init
    }

    /// The pid namespace around that of `init`, and the init of it; none where that is the
    /// daemon's own.
    fn init_around(&self, init: &Init) -> Result<Option<(NsId, u32)>> {
        if let Some(known) = init.around.get() {
            return Ok(*known);
        }
        let proc = &self.kernel.proc;
        let around = match init.namespace_around(proc, self.own.pid)? {
            None => None,
            Some((namespace, descriptor)) => {
                let around = match self.known_init(namespace) {
                    Some(known) => known,
                    None => self.remember_init(Init::of_namespace(proc, descriptor)?),
                };
                Some((namespace, around.pid))
            }
        };
        Ok(*init.around.get_or_init(|| around))
    }

    /// Forgets what has ended, if that was not done just now; what takes longer, the next readers
    /// go on with.
    fn sweep(&self) {
        let Some(mut sweep) = self.sweep.try_lock() else { return };
        let now = Instant::now();
        if sweep.is_over() {
            if now.duration_since(sweep.ended) < SWEEP_EVERY {
                return;
            }
            *sweep = Sweep {
                ended: now,
                readers: self.readers.keys(),
                inits: self.inits.keys(),
                boundaries: self.boundaries.keys(),
                containers: self.containers.keys(),
            };
        }
        let up = || now.elapsed() > SWEEP_FOR;
        self.readers.forget_where(&mut sweep.readers, up, |known| {
            !known.was_asked() || !known.is_unchanged(&self.kernel.moves)
        });
        self.inits.forget_where(&mut sweep.inits, up, |init| !init.is_alive());
        self.boundaries.forget_where(&mut sweep.boundaries, up, |known| {
            !known.found_by.as_ref().is_some_and(identity::is_alive)
        });
        let ended = self.containers.forget_where(&mut sweep.containers, up, |known| {
            known.close_unused();
            known.check_exists().is_err()
        });
        self.ended.lock().extend(ended);
        sweep.ended = Instant::now();
    }

    /// The paths of the hierarchies that serve a controller.
    fn paths(&self, memberships: &[Membership]) -> Paths {
        super::paths(&self.kernel, memberships)
    }

    /// The cgroups that bound a process; `init` is that of its pid namespace, if that is known.
    fn roots(&self, speaker: Speaker, init: Option<&Init>, seen: &mut Seen) -> Result<Roots> {
        let Speaker { tid, cgroup_namespace, is_inherited } = speaker;
        // Held over the readings: it never comes to tell of another process.
        let listing = Listing::open(&self.kernel.proc, tid)?;
        let namespace = cgroup_namespace.filter(|_| !is_inherited);
        for _ in 0..ATTEMPTS {
            let before = listing.read()?;
            let paths = self.paths(&listing.parse(&before)?);
            let known = namespace.and_then(|namespace| self.known_boundary(namespace, &paths));
            let is_settled = known.as_ref().is_some_and(|known| known.is_everywhere());
            let found = match namespace.filter(|_| known.is_none()) {
                Some(namespace) => Some(self.find_boundary(&listing, namespace, &paths, init)?),
                None => None,
            };
            let roots = self.roots_at(&paths, known.as_deref().or(found.as_ref()));
            // A process that is moved meanwhile may have left the paths to others, and be given a
            // wrong boundary; the roots of one that is known are not found by its paths.
            if (is_settled && roots.is_ok()) || listing.read()? == before {
                if let (Some(namespace), Some(found)) = (namespace, found) {
                    self.remember_boundary(namespace, found);
                }
                seen.listing(tid, before);
                return roots;
            }
        }
        Err(moved(tid))
    }

    /// What bounds a process whose cgroups are at `paths`: the root of its cgroup namespace
    /// where that is known, else its own cgroup, without systemd's leaf.
    fn roots_at(&self, paths: &Paths, boundary: Option<&Boundary>) -> Result<Roots> {
        paths
            .iter()
            .enumerate()
            .map(|(hierarchy, path)| {
                let Some(path) = path else { return Ok(None) };
                if let Some(NamespaceRoot::At(root)) = boundary.map(|known| &known.roots[hierarchy])
                {
                    return Ok(Some(root.clone()));
                }
                let path = without_init_scope(path);
                Ok(id_at(&self.kernel, hierarchy, path)?
                    .map(|id| Root { path: path.to_owned(), id }))
            })
            .collect::<Result<_>>()
            .map(Roots)
    }

    /// What is remembered of a cgroup namespace that a process is in whose cgroups are at `paths`.
    ///
    /// It counts only for a process that is below those roots: one that was moved out, or has
    /// entered the namespace from outside, is not bounded by them.
    fn known_boundary(&self, namespace: NsId, paths: &Paths) -> Option<Arc<Boundary>> {
        self.boundaries.get(&namespace).filter(|known| self.is_below(paths, known))
    }

    fn remember_boundary(&self, namespace: NsId, found: Boundary) {
        if found.roots.iter().all(|root| !matches!(root, NamespaceRoot::Unknown)) {
            self.boundaries.put(namespace, Arc::new(found));
        }
    }

    /// Whether all cgroups of a process at `paths` are at or below the roots, which are still
    /// where they were.
    fn is_below(&self, paths: &Paths, boundary: &Boundary) -> bool {
        paths.iter().zip(&boundary.roots).enumerate().all(|(hierarchy, (path, root))| {
            match (path, root) {
                (Some(path), NamespaceRoot::At(root)) => {
                    is_at_or_below(path, &root.path)
                        && id_at(&self.kernel, hierarchy, &root.path).ok() == Some(Some(root.id))
                }
                (None, _) | (_, NamespaceRoot::Top) => true,
                (_, NamespaceRoot::Unknown) => false,
            }
        })
    }

    /// Compares where the daemon and the inside of the namespace see a process's cgroups: `paths`
    /// is where the daemon does.
    fn find_boundary(
        &self,
        listing: &Listing,
        namespace: NsId,
        paths: &Paths,
        init: Option<&Init>,
    ) -> Result<Boundary> {
        let proc = &self.kernel.proc;
        let pid = listing.pid;
        let found_by = match init.filter(|init| init.pid == pid) {
            Some(init) => Some(Arc::clone(&init.pidfd)),
            None => to_pid(pid).and_then(|pid| identity::process(pid).ok()).map(Arc::new),
        };
        let descriptor = Arc::new(proc.open_file(&format!("{pid}/ns/cgroup"))?);
        if namespace_number(proc, &descriptor)? != namespace {
            return Err(Error::Gone { what: format!("process {pid}") });
        }
        let inside = self.inside.read(proc, listing, &descriptor)?;
        let inside = self.paths(&listing.parse(&inside)?);
        let roots = paths
            .iter()
            .zip(&inside)
            .enumerate()
            .map(|(hierarchy, paths)| {
                let (Some(abs), Some(rel)) = paths else { return NamespaceRoot::Top };
                match namespace_root(abs, rel) {
                    NamespaceRoot::Top => NamespaceRoot::Top,
                    NamespaceRoot::Unknown => NamespaceRoot::Unknown,
                    NamespaceRoot::At(path) => match id_at(&self.kernel, hierarchy, path) {
                        Ok(Some(id)) => NamespaceRoot::At(Root { path: path.to_owned(), id }),
                        Ok(None) => NamespaceRoot::Top,
                        Err(_) => NamespaceRoot::Unknown,
                    },
                }
            })
            .collect();
        Ok(Boundary { _namespace: descriptor, found_by, roots })
    }

    /// The container whose boundary is that of a process; `init` is that of the reader's pid
    /// namespace.
    fn container_of(
        &self,
        speaker: Speaker,
        init: Option<&Init>,
        seen: &mut Seen,
    ) -> Result<Arc<Container>> {
        let roots = self.roots(speaker, init, seen)?;
        let identity = roots.identity();
        if let Some(container) = self.containers.get(&identity) {
            return Ok(container);
        }
        let mut container = Container::of(&self.kernel, roots);
        let (outermost, pid_level) = self.outermost_init(speaker, &identity, init)?;
        container.pid_level = pid_level;
        container.birth = self.birth(&identity, outermost, speaker.tid, &container)?;
        let container = Arc::new(container);
        self.containers.put(identity, Arc::clone(&container));
        Ok(container)
    }

    /// The init of the outermost pid namespace whose init is in the container of `speaker`, and
    /// how many namespaces below the daemon's that one is. Where no pid namespace is the
    /// container's own there is none, and that of `speaker` counts, whose init is `init`.
    fn outermost_init(
        &self,
        speaker: Speaker,
        identity: &Identity,
        init: Option<&Init>,
    ) -> Result<(Option<u32>, usize)> {
        let (mut outermost, mut inner, mut all) = (None, 0, 0);
        let mut around: Arc<Init>;
        let mut current = init;
        while let Some(init) = current {
            if init.pid == speaker.tid || self.is_init_in(init, identity)? {
                (outermost, inner) = (Some(init.pid), all);
            }
            all += 1;
            let Some((namespace, pid)) = self.init_around(init)? else { break };
            around = self.init(pid, namespace)?;
            current = Some(&around);
        }
        Ok((outermost, all - inner))
    }

    fn is_init_in(&self, init: &Init, identity: &Identity) -> Result<bool> {
        // What a container was found by when it was new does not change it.
        let seen = &mut Seen::default();
        let speaker = self.init_speaker(init, None, seen)?;
        Ok(self.roots(speaker, Some(init), seen)?.identity() == *identity)
    }

    /// When a container began: the start of its `outermost` init; where no pid namespace is its
    /// own, that of its oldest process. What was found first stands for ever.
    fn birth(
        &self,
        identity: &Identity,
        outermost: Option<u32>,
        tid: u32,
        container: &Container,
    ) -> Result<Nsec> {
        if let Some(&birth) = self.births.lock().get(identity) {
            return Ok(birth);
        }
        let birth = match outermost {
            Some(init) => self.start_time(init)?,
            None => self.oldest_start(tid, container)?,
        };
        Ok(*self.births.lock().get_or_insert(identity.clone(), || birth))
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
        let mut own = Controller::ALL.into_iter();
        let own = own.find(|controller| container.is_in(&self.kernel, *controller));
        let Some(controller) = own else { return Ok(Nsec(0)) };
        let levels = container.levels(&self.kernel, controller)?;
        let Some(dir) = levels.dirs.first() else { return Ok(Nsec(0)) };
        let mut oldest = self.start_time(pid)?;
        dir.walk(&mut |dir| {
            // A cgroup that goes away meanwhile has no processes.
            let listed = dir.read_list("cgroup.procs").or_else(nothing_if_gone)?;
            for line in String::from_utf8_lossy(&listed.unwrap_or_default()).lines() {
                let start = line.parse().ok().and_then(|pid| self.start_time(pid).ok());
                oldest = start.map_or(oldest, |start| oldest.min(start));
            }
            Ok(())
        })?;
        Ok(oldest)
    }
}

fn moved(pid: u32) -> Error {
    Error::Refused(format!("process {pid} is moved between cgroups all the time"))
}
