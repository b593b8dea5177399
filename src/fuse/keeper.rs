//! The process that holds the connection, so that it outlives the workers which serve it.
//!
//! It never reads a request. It starts a worker, a fork of its own, and another one as soon as
//! that has ended, however it did; the next one goes on with everything that the one before had
//! open. Where no worker comes to life it gives the connection up rather than let readers wait,
//! and mounts afresh.

use std::io::{self, Read as _, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::connection::Connection;
use super::control::{
    Ask, Control, Peer, Reply, Status, is_orphaned, process_that_serves, take_over,
};
use super::daemon::{END, Keeping, Mended, Options, RELOAD, TOGGLE, next_signal};
use super::handover::{FdStore, Handed, Program, State, is_over};
use super::hang::{Progress, Watch};
use super::mountpoint::{Claim, Mounted};
use super::notify::notify;
use super::pidfile::Pidfile;
use super::privilege;
use super::session::{Session, expect_answer};
use crate::error::{self, Error, Result};
use crate::sys::process;
use crate::vfs::kept::{Counter, Kept};

/// How long a reader may wait for a worker to come. Then the connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a worker has to live for its end to be no sign that the next one will end as well.
const PROVEN: Duration = Duration::from_secs(1);

/// How many workers in a row may crash before they have proven themselves. There is a request
/// that they cannot bear, and it would be sent to the next one too.
const MOST_CRASHES: u32 = 5;

/// How long a worker has to live for its end in a hang to be no sign that the next one will hang as
/// well, at the same request, which is sent to it again. Far longer than it takes to notice one.
const PROVEN_NOT_TO_HANG: Duration = Duration::from_secs(60);

/// How many workers in a row may hang before that.
const MOST_HANGS: u32 = 2;

/// Between two workers that do not become ready; twice as long each time.
const FIRST_DELAY: Duration = Duration::from_millis(10);
const LONGEST_DELAY: Duration = Duration::from_secs(1);

/// How long after a look through the containers, for mounts whose daemon has ended, the next one
/// comes, as long as there is something to look for.
const HEAL_EVERY: Duration = Duration::from_secs(60);

/// Exit status of a healer that need not be followed by another one, and of any other.
const NOTHING_TO_HEAL: u8 = 0;
const LOOK_AGAIN: u8 = 1;

/// What a worker sends that is ready; else it sends why it is not.
const READY: &[u8] = b"\0";

/// Exit status of a worker whose connection has ended.
const CONNECTION_ENDED: u8 = 0;

/// Exit status of a worker that failed.
const FAILED: u8 = 1;

/// A process that answers requests.
#[derive(Debug)]
struct Worker {
    pid: Pid,
    pidfd: OwnedFd,
    /// Where it says that it is ready; none once it has.
    report: Option<io::PipeReader>,
    started: Instant,
    progress: Arc<Progress>,
    watch: Watch,
    /// Whether it was found to hang, and is killed.
    hangs: bool,
}

impl Worker {
    fn is_ready(&self) -> bool {
        self.report.is_none()
    }
}

/// How it went with the workers so far.
#[derive(Debug, Default)]
struct Luck {
    /// Workers in a row that did not become ready.
    failures: u32,
    /// Workers in a row that crashed soon after.
    crashes: u32,
    /// Workers in a row that hung.
    hangs: u32,
    /// Since when there is none that is ready.
    waiting_since: Option<Instant>,
    /// When to start the next one.
    next_start: Option<Instant>,
}

/// The keeper.
#[derive(Debug)]
pub(super) struct Keeper<'a> {
    options: &'a Options,
    keeping: &'a Keeping<'a>,
    signals: &'a SignalFd,
    program: Program,
    /// None while it is given up.
    connection: Option<Connection>,
    kept: Arc<Kept>,
    mounted: Mounted,
    pidfile: Option<Pidfile>,
    control: Option<Control>,
    store: FdStore,
    worker: Option<Worker>,
    luck: Luck,
    /// Processes that mend mounts in containers.
    healers: Vec<Pid>,
    /// When to start the next one. New containers mount what is alive: once nothing was found
    /// that is dead, or will be when another daemon ends, nobody looks again.
    next_heal: Option<Instant>,
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// For good.
    Finally,
    /// Another daemon had taken over, and has ended: nobody serves.
    ButNeeded,
}

/// What happened.
enum Event {
    Signal(Signal),
    WorkerReports,
    WorkerEnded,
    WorkerIsBusy,
    Asked,
    Time,
}

impl<'a> Keeper<'a> {
    /// Mounts, or goes on with what another program has mounted, which may have been `handed` to
    /// this process, and serves.
    pub(super) fn start(
        options: &'a Options,
        keeping: &'a Keeping<'a>,
        signals: &'a SignalFd,
        mut handed: Option<Handed>,
    ) -> Result<Keeper<'a>> {
        let program = Program::own()?;
        let store = FdStore::of_environment();
        let mut before = None;
        if handed.is_none() && keeping.take_over {
            let taken = take_over(&keeping.runtime_dir, &options.mountpoint)?;
            if let Some((connection, peer)) = taken {
                handed = Some(connection);
                before = Some(peer);
            }
        }
        let worker = handed.as_ref().and_then(|handed| handed.state.worker);
        let asker = handed.as_mut().and_then(|handed| handed.asker.take()).map(Peer::of);
        let counts_as_upgrade = worker.is_some() || before.is_some();
        let adopted = handed.and_then(|handed| adopt(handed, &options.mountpoint));
        let goes_on = adopted.is_some();
        let (connection, kept, mounted, pidfile) = match adopted {
            Some((connection, kept, mounted)) => (connection, kept, mounted, None),
            None => {
                // A worker outlives its keeper for a moment.
                let is_ending = |mountpoint: &Path| is_orphaned(&keeping.runtime_dir, mountpoint);
                let claim = Claim::new(&options.mountpoint, options.nonempty, is_ending)?;
                let pidfile = options.pidfile.as_deref().map(Pidfile::lock).transpose()?;
                let kept = Arc::new(Kept::new()?);
                let connection = options.connect(claim.path())?;
                (connection, kept, Mounted::new(claim)?, pidfile)
            }
        };
        let mut keeper = Keeper {
            options,
            keeping,
            signals,
            program,
            connection: Some(connection),
            kept,
            mounted,
            pidfile,
            control: None,
            store,
            worker: None,
            luck: Luck::default(),
            healers: Vec::new(),
            next_heal: Some(Instant::now() + HEAL_EVERY),
        };
        if let Some(pid) = worker {
            end_worker(Pid::from_raw(pid));
        }
        match keeper.start_first_worker() {
            // Readers of what was taken over are not to lose it: perhaps the next one starts.
            Err(error) if goes_on => {
                error::report(&error);
                keeper.fail();
            }
            started => started?,
        }
        if goes_on {
            keeper.kept.count(if counts_as_upgrade { Counter::Upgrades } else { Counter::Resumes });
        } else {
            expect_answer(keeper.mounted.path())?;
            keeper.heal();
        }
        keeper.become_the_one(before, asker)?;
        Ok(keeper)
    }

    /// Tells everybody that this is the daemon now.
    fn become_the_one(&mut self, before: Option<Peer>, asker: Option<Peer>) -> Result<()> {
        if let Some(before) = before {
            before.tell_taken();
        }
        if self.pidfile.is_none()
            && let Some(path) = &self.options.pidfile
        {
            self.pidfile = Some(Pidfile::lock_soon(path)?);
        }
        if let Some(pidfile) = &mut self.pidfile {
            pidfile.write()?;
        }
        let control = Control::listen(&self.keeping.runtime_dir, self.mounted.path());
        // It serves all the same: only nobody can ask it.
        self.control = control.inspect_err(error::report).ok();
        self.put_in_store();
        let place = self.mounted.path().display();
        log::info!("serving {place} with {} workers", self.options.workers());
        let pid = std::process::id();
        notify(&format!("READY=1\nSTATUS=Serving {place}\nMAINPID={pid}\n"));
        if let Some(asker) = asker {
            asker.answer(&Reply::done(), &[]);
        }
        Ok(())
    }

    /// Serves until a signal ends it, the filesystem is unmounted by someone else, or another
    /// daemon has taken over.
    pub(super) fn run(mut self) -> Result<Ended> {
        loop {
            self.start_worker_if_due();
            let next = match self.wait()? {
                Event::Signal(signal) => self.obey(signal),
                Event::WorkerReports => self.hear_worker(),
                Event::WorkerEnded => self.follow_worker(),
                Event::WorkerIsBusy => self.look_at_worker(),
                Event::Asked => self.answer(),
                Event::Time => {
                    self.give_up_if_in_vain();
                    if self.is_heal_due() {
                        self.heal();
                    }
                    ControlFlow::Continue(())
                }
            };
            if let ControlFlow::Break(ended) = next {
                return Ok(ended);
            }
        }
    }

    fn wait(&self) -> Result<Event> {
        let timeout = self.deadline().map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, so that it is due then.
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        let report = self.worker.as_ref().and_then(|worker| worker.report.as_ref());
        let pidfd = self.worker.as_ref().map(|worker| &worker.pidfd);
        let progress = self.worker.as_ref().map(|worker| worker.progress.as_fd());
        // In the order in which they are looked at: a report before the end that follows it.
        let sources: [Option<BorrowedFd>; 5] = [
            report.map(AsFd::as_fd),
            pidfd.map(AsFd::as_fd),
            Some(self.signals.as_fd()),
            progress,
            self.control.as_ref().map(AsFd::as_fd),
        ];
        let mut ready: Vec<PollFd> =
            sources.iter().flatten().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        match poll(&mut ready, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(Event::Time),
            Ok(_) => {}
            Err(error) => return Err(Error::io("wait for", "a worker", error)),
        }
        let mut ready = ready.iter().map(|fd| fd.any() == Some(true));
        let [reports, ended, signal, busy, asked] =
            sources.map(|source| source.is_some() && ready.next() == Some(true));
        Ok(match (reports, ended, signal, busy, asked) {
            (true, ..) => Event::WorkerReports,
            (_, true, ..) => Event::WorkerEnded,
            (_, _, true, ..) => next_signal(self.signals)?.map_or(Event::Time, Event::Signal),
            (.., true, _) => Event::WorkerIsBusy,
            (.., true) => Event::Asked,
            _ => Event::Time,
        })
    }

    /// When something is to be done though nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let start = self.luck.next_start.filter(|_| self.worker.is_none());
        // A connection that was given up lets nobody wait.
        let patience = self.luck.waiting_since.map(|since| since + PATIENCE);
        let has_starting = self.worker.as_ref().is_some_and(|worker| !worker.is_ready());
        let patience = patience.filter(|_| self.connection.is_some() || has_starting);
        [start, patience, self.next_heal].into_iter().flatten().min()
    }

    fn obey(&mut self, signal: Signal) -> ControlFlow<Ended> {
        if END.contains(&signal) {
            self.end(signal);
            return ControlFlow::Break(Ended::Finally);
        }
        if signal == RELOAD {
            log::info!("{signal}: readers are shown their containers, by a newer program");
            self.kept.show_host(false);
            let Err(error) = self.upgrade(&Program::at(self.program.path()), None);
            error::report(&error);
        } else if signal == TOGGLE {
            self.toggle();
        } else {
            // SIGCHLD. The worker's end is seen by its pidfd.
            self.healers.retain(|pid| match waitpid(*pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => true,
                ended => {
                    let nothing = i32::from(NOTHING_TO_HEAL);
                    if matches!(ended, Ok(WaitStatus::Exited(_, status)) if status == nothing) {
                        self.next_heal = None;
                    }
                    false
                }
            });
        }
        ControlFlow::Continue(())
    }

    fn toggle(&self) {
        let shows_host = !self.kept.shows_host();
        self.kept.show_host(shows_host);
        if shows_host {
            log::warn!("{TOGGLE}: all readers are shown the host's files, until the next {TOGGLE}");
        } else {
            log::info!("{TOGGLE}: readers are shown their containers");
        }
    }

    /// Ends because a signal says so. What systemd keeps goes on, with the next one, or ends with
    /// the service.
    fn end(&mut self, signal: Signal) {
        notify("STOPPING=1\n");
        let place = self.mounted.path().display();
        if self.store.is_there() {
            log::info!("{signal}: leaving {place} to the next start");
            self.mounted.leave();
        } else {
            log::info!("{signal}: unmounting {place}");
        }
    }

    // Workers.

    fn start_worker_if_due(&mut self) {
        let is_due = self.luck.next_start.is_none_or(|start| start <= Instant::now());
        if self.worker.is_some() || !is_due {
            return;
        }
        if let Err(error) = self.start_worker() {
            error::report(&error);
            self.fail();
        }
    }

    fn start_worker(&mut self) -> Result<()> {
        self.luck.next_start = None;
        self.luck.waiting_since.get_or_insert_with(Instant::now);
        if self.connection.is_none() {
            self.connect_anew()?;
        }
        let failed = |error| Error::io("start", "a worker", error);
        let (report, reports) = io::pipe().map_err(failed)?;
        let parent = nix::unistd::getpid();
        let progress = Arc::new(Progress::new(self.options.workers()).map_err(failed)?);
        let child = process::fork(|| self.work(reports, &progress, parent)).map_err(failed)?;
        self.worker = Some(Worker {
            pid: child.pid,
            pidfd: child.pidfd,
            report: Some(report),
            started: Instant::now(),
            progress,
            watch: Watch::default(),
            hangs: false,
        });
        Ok(())
    }

    /// The worker: returns its exit status.
    fn work(&self, mut report: io::PipeWriter, progress: &Arc<Progress>, parent: Pid) -> u8 {
        let Some(connection) = &self.connection else { return FAILED };
        let session = match self.session(connection, &report, progress, parent) {
            Ok(session) => session,
            Err(error) => {
                // Whoever reads it may be gone.
                let line = error.to_string();
                let _ = report.write_all(&line.as_bytes()[..line.len().min(libc::PIPE_BUF)]);
                return FAILED;
            }
        };
        let _ = report.write_all(READY);
        drop(report);
        match session.run() {
            Ok(()) => CONNECTION_ENDED,
            Err(error) => {
                error::report(&error);
                FAILED
            }
        }
    }

    fn session(
        &self,
        connection: &Connection,
        report: &io::PipeWriter,
        progress: &Arc<Progress>,
        parent: Pid,
    ) -> Result<Session> {
        let failed = |error: io::Error| Error::io("start", "a worker", error);
        process::end_with_parent(parent).map_err(failed)?;
        let kept = [connection.device.as_fd(), report.as_fd(), progress.as_fd()];
        process::close_all_but(&kept).map_err(failed)?;
        rustix::thread::set_name(c"lxcfs-rs-worker").map_err(|errno| failed(errno.into()))?;
        let vfs = self.keeping.vfs.make(self.mounted.path(), Arc::clone(&self.kept))?;
        let (vfs, progress) = (Arc::new(vfs), Some(Arc::clone(progress)));
        vfs.count_moves();
        let session = Session::watched(connection, vfs, self.options.workers(), progress)?;
        // Before it has a second thread, and before it has read a request.
        privilege::give_up();
        Ok(session)
    }

    /// Starts a worker, and waits until it is ready: what keeps the first one keeps the daemon.
    fn start_first_worker(&mut self) -> Result<()> {
        self.start_worker()?;
        let Some(report) = self.worker.as_mut().and_then(|worker| worker.report.take()) else {
            return Ok(());
        };
        match read_report(report) {
            Ok(()) => {
                self.luck = Luck::default();
                Ok(())
            }
            Err(line) => {
                if let Some(worker) = self.worker.take() {
                    end_worker(worker.pid);
                }
                Err(Error::Refused(line))
            }
        }
    }

    fn hear_worker(&mut self) -> ControlFlow<Ended> {
        let Some(worker) = &mut self.worker else { return ControlFlow::Continue(()) };
        let Some(report) = worker.report.take() else { return ControlFlow::Continue(()) };
        match read_report(report) {
            Ok(()) => {
                let since = self.luck.waiting_since.take();
                let stall = since.map_or(0, |since| since.elapsed().as_millis());
                log::info!("worker {} goes on after {stall} ms", worker.pid);
                self.luck.failures = 0;
                self.kept.count(Counter::Resumes);
            }
            Err(line) => {
                log::error!("worker {}: {line}", worker.pid);
                end_worker(worker.pid);
                self.worker = None;
                self.fail();
            }
        }
        ControlFlow::Continue(())
    }

    /// Looks whether a worker that has something to do hangs, and ends one that does.
    fn look_at_worker(&mut self) -> ControlFlow<Ended> {
        let Some(worker) = &mut self.worker else { return ControlFlow::Continue(()) };
        if let Some(hang) = worker.watch.look(&worker.progress, worker.pid)
            && !worker.hangs
        {
            log::error!("worker {} hangs: {hang}", worker.pid);
            self.kept.count(Counter::Hangs);
            worker.hangs = true;
            // Gone already is as well.
            let _ = nix::sys::signal::kill(worker.pid, Signal::SIGKILL);
        }
        ControlFlow::Continue(())
    }

    /// Sees to what comes after a worker.
    fn follow_worker(&mut self) -> ControlFlow<Ended> {
        let Some(worker) = self.worker.take() else { return ControlFlow::Continue(()) };
        let status = waitpid(worker.pid, None);
        if self.connection.as_ref().is_some_and(is_over) {
            if !self.mounted.is_in_place() {
                log::info!("{}: unmounted by someone else", self.mounted.path().display());
                return ControlFlow::Break(Ended::Finally);
            }
            log::warn!("{}: the connection was aborted", self.mounted.path().display());
            self.give_up();
        }
        let was_killed = matches!(status, Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)));
        log::warn!("worker {} ended ({})", worker.pid, describe(&status));
        if !worker.is_ready() {
            self.fail();
            return ControlFlow::Continue(());
        }
        self.luck.waiting_since = Some(Instant::now());
        let is_crash = !was_killed && worker.started.elapsed() < PROVEN;
        self.luck.crashes = if is_crash { self.luck.crashes + 1 } else { 0 };
        if self.luck.crashes >= MOST_CRASHES {
            log::error!("{MOST_CRASHES} workers crashed in a row; giving their requests up");
            self.luck.crashes = 0;
            self.give_up();
        }
        let hangs_again = worker.hangs && worker.started.elapsed() < PROVEN_NOT_TO_HANG;
        self.luck.hangs = if hangs_again { self.luck.hangs + 1 } else { u32::from(worker.hangs) };
        if self.luck.hangs >= MOST_HANGS {
            log::error!("{MOST_HANGS} workers in a row hung; giving their requests up");
            self.luck.hangs = 0;
            self.give_up();
        }
        ControlFlow::Continue(())
    }

    /// A worker did not become ready: the next one waits.
    fn fail(&mut self) {
        let delay = FIRST_DELAY.saturating_mul(1 << self.luck.failures.min(16));
        self.luck.next_start = Some(Instant::now() + delay.min(LONGEST_DELAY));
        self.luck.failures += 1;
        // One that was made for this worker lets nobody wait for the next one.
        if self.luck.waiting_since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            self.give_up();
        }
    }

    fn give_up_if_in_vain(&mut self) {
        let waits = self.luck.waiting_since.filter(|since| since.elapsed() >= PATIENCE);
        if waits.is_none() {
            return;
        }
        if let Some(worker) = self.worker.take_if(|worker| !worker.is_ready()) {
            log::error!("worker {} does not become ready", worker.pid);
            end_worker(worker.pid);
            self.fail();
        }
        self.give_up();
    }

    /// Ends the connection: whoever waits gets an error.
    fn give_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            log::error!("{}: connection given up", self.mounted.path().display());
            self.store.clear();
            drop(connection);
        }
    }

    /// Mounts afresh.
    fn connect_anew(&mut self) -> Result<()> {
        let connection = self.mounted.replace(|mountpoint| self.options.connect(mountpoint))?;
        // No handle of the connection before means anything in this one.
        let kept = Kept::new()?;
        kept.go_on_counting(&self.kept);
        kept.count(Counter::Reconnections);
        self.kept = Arc::new(kept);
        self.connection = Some(connection);
        self.put_in_store();
        log::warn!("{}: mounted afresh", self.mounted.path().display());
        self.heal();
        Ok(())
    }

    fn is_heal_due(&self) -> bool {
        self.next_heal.is_some_and(|due| due <= Instant::now())
    }

    /// Has a child mend what containers have mounted of connections that are no more.
    fn heal(&mut self) {
        // What begins while a daemon does may have mounted what was dead still.
        let was_due = self.is_heal_due();
        self.next_heal = Some(Instant::now() + HEAL_EVERY);
        if !self.healers.is_empty() {
            // It has not come to its end since: another one would not either.
            return;
        }
        let parent = nix::unistd::getpid();
        let heal = || {
            // It must not hold a connection that it asks.
            let done = process::end_with_parent(parent)
                .and_then(|()| process::close_all_but(&[]))
                .map_err(|error| Error::io("start", "a healer", error))
                .and_then(|()| (self.keeping.heal)(self.mounted.path()));
            match done {
                Ok(Mended { healed, left, others }) => {
                    if healed > 0 {
                        log::info!("healed {healed} mounts in containers");
                        self.kept.add(Counter::Healed, healed);
                    }
                    let is_news = self.kept.get(Counter::Dead) != left.len() as u64;
                    self.kept.set(Counter::Dead, left.len() as u64);
                    left.iter().filter(|_| is_news).for_each(|line| log::warn!("{line}"));
                    let is_over = was_due && healed == 0 && left.is_empty() && others == 0;
                    if is_over { NOTHING_TO_HEAL } else { LOOK_AGAIN }
                }
                Err(error) => {
                    error::report(&error);
                    LOOK_AGAIN
                }
            }
        };
        match process::fork(heal) {
            Ok(child) => self.healers.push(child.pid),
            Err(error) => error::report(&Error::io("start", "a healer", error)),
        }
    }

    fn put_in_store(&self) {
        let Some(connection) = &self.connection else { return };
        let put = self.store.put(&self.state(connection), connection, &self.kept);
        if let Err(error) = put {
            error::report(&error);
        }
    }

    // Other programs.

    fn state(&self, connection: &Connection) -> State {
        State {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            mountpoint: self.mounted.path().to_owned(),
            superblock: self.mounted.superblock().to_string(),
            created: self.mounted.created().to_vec(),
            init_request: connection.init_request.clone(),
            init_reply: connection.init_reply.clone(),
            worker: None,
        }
    }

    fn answer(&mut self) -> ControlFlow<Ended> {
        let asked = self.control.as_ref().and_then(Control::accept);
        let Some((ask, peer)) = asked else { return ControlFlow::Continue(()) };
        match ask {
            Ask::Status => peer.answer(&self.status(), &[]),
            Ask::Upgrade(path) => {
                let peer = peer.into_descriptor();
                let Err(error) = self.upgrade(&Program::at(&path), Some(&peer));
                log::warn!("{error}");
                Peer::of(peer).answer(&Reply::refused(&error), &[]);
            }
            Ask::TakeOver => return self.hand_over(&peer),
            Ask::Taken => log::warn!("told of a hand-over that is none"),
        }
        ControlFlow::Continue(())
    }

    fn status(&self) -> Reply {
        let status = Status {
            mountpoint: self.mounted.path().to_owned(),
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            worker_pid: self.worker.as_ref().map(|worker| worker.pid.as_raw()),
            shows_containers: !self.kept.shows_host(),
            counted: self.kept.counted(),
        };
        Reply { status: serde_json::to_value(status).ok(), ..Reply::done() }
    }

    /// Goes on as another program; returns only where that cannot be.
    fn upgrade(
        &self,
        program: &Program,
        asker: Option<&OwnedFd>,
    ) -> Result<std::convert::Infallible> {
        let connection = self.connection.as_ref().ok_or_else(no_connection)?;
        program.probe()?;
        log::info!("going on as {}", program.path().display());
        let worker = self.worker.as_ref().map(|worker| worker.pid.as_raw());
        let state = State { worker, ..self.state(connection) };
        program.replace_this(&state, connection, &self.kept, asker)
    }

    /// Hands the connection over to another daemon, and ends when that serves; where daemons
    /// take over from each other it stands by: whoever started this one would start it again.
    fn hand_over(&mut self, peer: &Peer) -> ControlFlow<Ended> {
        let Some(connection) = &self.connection else {
            peer.answer(&Reply::refused(&no_connection()), &[]);
            return ControlFlow::Continue(());
        };
        // Before it says that it has taken over: then the number is its own.
        let successor = match peer.process() {
            Ok(successor) => successor,
            Err(error) => {
                let error = Error::io("see", "the process that takes over", error);
                peer.answer(&Reply::refused(&error), &[]);
                return ControlFlow::Continue(());
            }
        };
        if let Some(worker) = self.worker.take() {
            end_worker(worker.pid);
        }
        let reply = Reply { state: Some(self.state(connection)), ..Reply::done() };
        peer.answer(&reply, &[connection.device.as_fd(), self.kept.as_fd()]);
        if !peer.has_taken(PATIENCE) {
            log::error!("whoever was to take over does not; going on");
            self.luck.waiting_since = Some(Instant::now());
            return ControlFlow::Continue(());
        }
        log::info!("{}: another daemon has taken over", self.mounted.path().display());
        self.store.clear();
        self.mounted.leave();
        self.pidfile = None;
        self.connection = None;
        if let Some(control) = self.control.take() {
            control.leave();
        }
        if !self.keeping.take_over {
            return ControlFlow::Break(Ended::Finally);
        }
        notify("STATUS=Another daemon has taken over\n");
        let ended = self.stand_by(successor);
        ControlFlow::Break(ended.inspect_err(error::report).unwrap_or(Ended::Finally))
    }

    /// Does nothing until a signal ends this daemon, or all that came after it have ended.
    fn stand_by(&self, mut successor: OwnedFd) -> Result<Ended> {
        loop {
            let mut ready = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(successor.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(Error::io("wait for", "whoever took over", error)),
            }
            let [signal, ended] = ready.map(|fd| fd.any() == Some(true));
            if signal && next_signal(self.signals)?.is_some_and(|signal| END.contains(&signal)) {
                return Ok(Ended::Finally);
            }
            if ended {
                match process_that_serves(&self.keeping.runtime_dir, self.mounted.path()) {
                    Ok(Some(other)) => successor = other,
                    Ok(None) => return Ok(Ended::ButNeeded),
                    // There is one, which just ends, or has no time for us.
                    Err(_) => std::thread::sleep(FIRST_DELAY),
                }
            }
        }
    }
}

impl Drop for Keeper<'_> {
    fn drop(&mut self) {
        // While there is still somebody to answer.
        self.mounted.unmount();
        if let Some(worker) = self.worker.take() {
            end_worker(worker.pid);
        }
    }
}

fn adopt(handed: Handed, mountpoint: &Path) -> Option<(Connection, Arc<Kept>, Mounted)> {
    let State { superblock, created, program, mountpoint: before, .. } = handed.state.clone();
    let at = |place: &Path| Mounted::adopt(place, &superblock, created.clone());
    // Containers have the files of the one before, wherever the next one is to be.
    let elsewhere = || {
        at(&before).inspect(|mounted| {
            let (before, wanted) = (mounted.path().display(), mountpoint.display());
            log::warn!("still serving {before}: a stop and a start make it {wanted}");
        })
    };
    let Some(mut mounted) = at(mountpoint).or_else(elsewhere) else {
        log::warn!("{}: what {program} had mounted is not there", mountpoint.display());
        return None;
    };
    let Some((connection, kept)) = handed.into_connection() else {
        // It is dead now, and replaced.
        mounted.leave();
        return None;
    };
    Some((connection, kept, mounted))
}

fn no_connection() -> Error {
    Error::Refused("the daemon has just no connection; try again".to_owned())
}

/// Ends a worker, which has nothing to finish, and waits until it is gone.
fn end_worker(pid: Pid) {
    // Gone already is as well.
    let _ = nix::sys::signal::kill(pid, Signal::SIGKILL);
    let _ = waitpid(pid, None);
}

/// What a worker says: that it is ready, or why it is not.
fn read_report(mut report: io::PipeReader) -> Result<(), String> {
    // It comes in one piece. The end need not come: children of the worker may hold the pipe.
    let mut said = [0; libc::PIPE_BUF];
    match report.read(&mut said) {
        Ok(length) if said[..length] == *READY => Ok(()),
        Ok(0) => Err("ended before it was ready".to_owned()),
        Ok(length) => Err(String::from_utf8_lossy(&said[..length]).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn describe(status: &nix::Result<WaitStatus>) -> String {
    match status {
        Ok(WaitStatus::Exited(_, status)) => format!("status {status}"),
        Ok(WaitStatus::Signaled(_, signal, _)) => signal.to_string(),
        _ => "unknown".to_owned(),
    }
}
