//! More workers where all are held up.
//!
//! A worker that waits for a kernel file, which may take its time, answers nobody else. When all of
//! them do, nobody would be answered: so others are started then, up to a bound.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

use memchr::memmem;
use parking_lot::Mutex;

use super::hang::{Progress, Turn};
use crate::error::{self, Result};
use crate::procfs::process::parse_stat;

/// How long all workers may be busy without one of them getting done.
const PATIENCE: Duration = Duration::from_millis(50);

/// How many workers are started at a time.
pub(super) const RELIEF: usize = 2;

/// How many there are at most. What then blocks still is the kernel as a whole.
const MOST_WORKERS: usize = 32;

/// How busy the workers are.
#[derive(Debug, Default)]
pub(super) struct Load {
    workers: AtomicUsize,
    busy: AtomicUsize,
    done: AtomicU64,
    /// Whether somebody sees to it.
    is_watched: AtomicBool,
    watch: Mutex<Option<Thread>>,
    /// Where a keeper is told of every request.
    progress: Option<Arc<Progress>>,
}

/// A request that a worker is at.
#[derive(Debug)]
pub(super) struct Answering<'a> {
    load: &'a Load,
    _turn: Option<Turn<'a>>,
}

impl Load {
    /// So many workers, all idle.
    pub(super) fn new(workers: usize, progress: Option<Arc<Progress>>) -> Load {
        Load { workers: AtomicUsize::new(workers), progress, ..Load::default() }
    }

    /// This thread, which is no worker, is at a request.
    pub(super) fn turn(&self) -> Option<Turn<'_>> {
        self.progress.as_deref().map(Progress::begin)
    }

    /// A worker has something to do.
    pub(super) fn begin(&self) -> Answering<'_> {
        let busy = self.busy.fetch_add(1, Ordering::SeqCst) + 1;
        if busy >= self.workers.load(Ordering::Relaxed)
            && !self.is_watched.swap(true, Ordering::SeqCst)
            && let Some(watch) = &*self.watch.lock()
        {
            watch.unpark();
        }
        Answering { load: self, _turn: self.turn() }
    }

    /// How many workers have something to do.
    pub(super) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub(super) fn workers(&self) -> usize {
        self.workers.load(Ordering::Relaxed)
    }

    fn is_full(&self) -> bool {
        self.busy.load(Ordering::SeqCst) >= self.workers.load(Ordering::Relaxed)
    }

    /// Waits until all workers, threads with names of that beginning, are held up; whether there may
    /// be more.
    fn wait_for_need(&self, name: &str) -> bool {
        loop {
            while !self.is_watched.load(Ordering::SeqCst) {
                thread::park();
            }
            let done = self.done.load(Ordering::SeqCst);
            thread::sleep(PATIENCE);
            if !self.is_full() {
                self.is_watched.store(false, Ordering::SeqCst);
                // One that has become busy meanwhile has told nobody.
                self.is_watched.fetch_or(self.is_full(), Ordering::SeqCst);
            } else if self.done.load(Ordering::SeqCst) == done && !runs(name) {
                return self.workers.load(Ordering::Relaxed) + RELIEF <= MOST_WORKERS;
            }
        }
    }
}

/// Whether a worker runs, or would if there were a CPU for it: more of them would be of no help.
fn runs(name: &str) -> bool {
    let name = format!("({name}");
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return false };
    threads.flatten().any(|thread| {
        let stat = fs::read(thread.path().join("stat")).unwrap_or_default();
        memmem::find(&stat, name.as_bytes()).is_some()
            && parse_stat(&stat).is_some_and(|stat| stat.state == b'R')
    })
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.load.done.fetch_add(1, Ordering::SeqCst);
        self.load.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Starts a thread that has `start` start [`RELIEF`] workers whenever all, whose names begin with
/// `name`, are held up.
pub(super) fn watch(
    name: &'static str,
    load: Arc<Load>,
    start: impl Fn() -> Result<()> + Send + 'static,
) -> std::io::Result<()> {
    let for_thread = Arc::clone(&load);
    let watching = move || {
        while for_thread.wait_for_need(name) {
            let workers = for_thread.workers.fetch_add(RELIEF, Ordering::Relaxed) + RELIEF;
            match start() {
                Ok(()) => log::warn!("all `{name}` threads are held up: now there are {workers}"),
                Err(error) => error::report(&error),
            }
        }
        log::error!("all of {MOST_WORKERS} `{name}` threads are held up");
    };
    let thread = thread::Builder::new().name("relief".to_owned()).spawn(watching)?;
    *load.watch.lock() = Some(thread.thread().clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn workers_come_when_all_are_held_up_and_only_then() {
        let load = Arc::new(Load::new(2, None));
        let (started, starts) = channel();
        watch("fuser", Arc::clone(&load), move || {
            started.send(()).unwrap();
            Ok(())
        })
        .unwrap();
        let first = load.begin();
        assert!(starts.recv_timeout(4 * PATIENCE).is_err());
        let second = load.begin();
        starts.recv().unwrap();
        // Two of four.
        assert!(starts.recv_timeout(4 * PATIENCE).is_err());
        let (_third, _fourth) = (load.begin(), load.begin());
        starts.recv().unwrap();
        drop((first, second));
        assert!(starts.recv_timeout(4 * PATIENCE).is_err());
        // There is a bound.
        let busy: Vec<_> = (0..MOST_WORKERS).map(|_| load.begin()).collect();
        assert_eq!(starts.iter().count(), (MOST_WORKERS - 6) / RELIEF);
        drop(busy);
    }
}
