//! What a container's tasks are doing: counted at its first reading and then, as long as
//! somebody reads, every five seconds by a thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};

use crate::cgroup::taskstats::Taskstats;
use crate::container::{Container, Identity};
use crate::error::{self, Result};
use crate::facts::Tasks;
use crate::history::load::{LoadAverage, STEP};
use crate::history::{History, Remembered};
use crate::kernel::Kernel;
use crate::sys::descriptors;
use crate::units::Nsec;

use super::tasks::Count;

/// After a pass the thread rests for so many times the CPU time that it took: sampling never
/// takes more than half a percent of one core.
const COST_SHARE: u64 = 200;
/// But no less than a step of the averages.
const LEAST_PAUSE: Nsec = STEP;
/// A container that nobody has asked about for so long is no longer sampled: twice as long as
/// the slowest average remembers.
const FORGET_AFTER: Nsec = Nsec(30 * 60 * Nsec::PER_SEC);
/// How many descriptors the sampled containers hold at most; further ones get no averages
/// beyond their first count.
const MOST_DESCRIPTORS: usize = 16_384;

/// A container's load at the last pass.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// The averages.
    pub load: LoadAverage,
    /// The counts.
    pub tasks: Tasks,
    /// When somebody last asked.
    asked: Nsec,
}

#[derive(Debug)]
struct Watched {
    container: Arc<Container>,
    /// Where the averages outlive the daemon.
    remembered: Arc<Remembered>,
    /// Locked while it is counted, by the thread alone.
    count: Arc<Mutex<Count>>,
    sample: Sample,
}

/// Counts the tasks of the containers that are read.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kernel: Arc<Kernel>,
    state: Mutex<State>,
    /// Rung when the sampler is dropped.
    stop: Condvar,
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<Identity, Watched>,
    /// Whether the thread runs: it ends when nobody reads any more.
    running: bool,
    stopped: bool,
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shared.state.lock().stopped = true;
        self.shared.stop.notify_all();
    }
}

impl Sampler {
    /// A sampler that watches nothing yet, and has no thread.
    #[must_use]
    pub fn new(kernel: Arc<Kernel>) -> Sampler {
        let state = Mutex::new(State::default());
        Sampler { shared: Arc::new(Shared { kernel, state, stop: Condvar::new() }) }
    }

    /// The container's load as of the last pass; the first time it is counted now, and from
    /// then on watched. Averages that `history` knows go on, as if what is counted now had been
    /// so ever since.
    ///
    /// # Errors
    /// [`crate::error::Error::Gone`] where the cgroup has been removed.
    pub fn watch(
        &self,
        history: &History,
        container: &Arc<Container>,
        now: Nsec,
    ) -> Result<Sample> {
        let identity = container.identity();
        if let Some(watched) = self.shared.state.lock().watched.get_mut(identity) {
            watched.sample.asked = now;
            return Ok(watched.sample);
        }
        let count = Count::first(&self.shared.kernel, container)?;
        let tasks = count.tasks();
        let remembered = history.of(container);
        let load = remembered.sample_load(tasks.running + tasks.blocked, now);
        let sample = Sample { load, tasks, asked: now };
        let most = (descriptors::limit() / 4).min(MOST_DESCRIPTORS);
        let mut state = self.shared.state.lock();
        let held: usize =
            state.watched.values().map(|watched| watched.container.most_directories()).sum();
        if held + container.most_directories() <= most {
            let (container, count) = (Arc::clone(container), Arc::new(Mutex::new(count)));
            let watched = Watched { container, remembered, count, sample };
            state.watched.entry(identity.clone()).or_insert(watched);
        }
        if !state.running {
            state.running = true;
            let shared = Arc::downgrade(&self.shared);
            let thread = std::thread::Builder::new().name("load".into());
            if let Err(error) = thread.spawn(move || run(&shared)) {
                state.running = false;
                error::report(&error::Error::io(
                    "start the load sampler's thread",
                    self.shared.kernel.proc.path("self/task"),
                    error,
                ));
            }
        }
        Ok(sample)
    }
}

/// The thread: pauses and passes until nobody reads any more.
fn run(shared: &Weak<Shared>) {
    // A kernel without it has the tasks' files.
    let mut taskstats = Taskstats::open().ok();
    let mut pause = LEAST_PAUSE;
    while let Some(shared) = shared.upgrade() {
        if !shared.rest(pause) {
            return;
        }
        let began = cpu_time();
        if !shared.pass(boottime(), taskstats.as_mut()) {
            return;
        }
        // Not by the clock: a machine with much to do would keep us from looking at it.
        pause = pause_after(cpu_time() - began);
    }
}

impl Shared {
    /// Waits; whether there is to be another pass.
    fn rest(&self, pause: Nsec) -> bool {
        let mut state = self.state.lock();
        if !state.stopped {
            self.stop.wait_for(&mut state, Duration::from_nanos(pause.0));
        }
        !state.stopped
    }

    /// Counts every watched container at the time `now`, and forgets those that are gone or that
    /// nobody asks about; whether any is left.
    fn pass(&self, now: Nsec, mut taskstats: Option<&mut Taskstats>) -> bool {
        let watched: Vec<_> = self
            .state
            .lock()
            .watched
            .iter()
            .map(|(identity, watched)| {
                let (container, count) =
                    (Arc::clone(&watched.container), Arc::clone(&watched.count));
                (identity.clone(), container, Arc::clone(&watched.remembered), count)
            })
            .collect();
        let mut look = |container: &Container, remembered: &Remembered, count: &mut Count| {
            count.look(&self.kernel, container, taskstats.as_deref_mut())?;
            let tasks = count.tasks();
            Ok((tasks, remembered.sample_load(tasks.running + tasks.blocked, now)))
        };
        let counted: Vec<(_, Result<_>)> = watched
            .into_iter()
            .map(|(identity, container, remembered, count)| {
                (identity, look(&container, &remembered, &mut count.lock()))
            })
            .collect();
        let mut state = self.state.lock();
        for (identity, counted) in counted {
            let Some(watched) = state.watched.get_mut(&identity) else { continue };
            match counted {
                Ok((tasks, load)) if now - watched.sample.asked < FORGET_AFTER => {
                    watched.sample.tasks = tasks;
                    watched.sample.load = load;
                }
                _ => drop(state.watched.remove(&identity)),
            }
        }
        state.running = !state.watched.is_empty();
        state.running
    }
}

/// How long to wait after a pass that took `cost` of CPU time.
fn pause_after(cost: Nsec) -> Nsec {
    Nsec(cost.0.saturating_mul(COST_SHARE)).max(LEAST_PAUSE)
}

/// CLOCK_BOOTTIME.
#[must_use]
pub fn boottime() -> Nsec {
    clock(ClockId::Boottime)
}

/// The CPU time that this thread has used.
fn cpu_time() -> Nsec {
    clock(ClockId::ThreadCPUTime)
}

fn clock(id: ClockId) -> Nsec {
    let now = clock_gettime(id);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Nsec::from_usec(seconds.saturating_mul(1_000_000))
        + Nsec(u64::try_from(now.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::path::parse_memberships;
    use std::path::Path;

    /// A host of one container, `/c`, in which the threads 7, 8 and 9 (1, 5 and 2 inside, as
    /// after the host's numbers began anew) are in the given states, and thread 9 in a cgroup
    /// below.
    struct Host {
        directory: tempfile::TempDir,
        sampler: Sampler,
        history: History,
        container: Arc<Container>,
    }

    impl Host {
        fn with(states: [char; 3]) -> Host {
            let directory = tempfile::tempdir().unwrap();
            let write = |path: &str, text: &str| {
                let path = directory.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            };
            write("proc/self/mountinfo", "1 2 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
            write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
            for (cgroup, threads) in [("c", "7\n8\n"), ("c/below", "9\n10\n")] {
                write(&format!("sys/fs/cgroup/{cgroup}/cgroup.procs"), "");
                write(&format!("sys/fs/cgroup/{cgroup}/cgroup.threads"), threads);
            }
            write("sys/fs/cgroup/c/cgroup.events", "frozen 0\n");
            let kernel = Arc::new(Kernel::open(directory.path()).unwrap());
            let memberships = parse_memberships(b"0::/c\n", Path::new("cgroup")).unwrap();
            let container = Arc::new(Container::at(&kernel, &memberships, Nsec(0), 1).unwrap());
            let (sampler, history) = (Sampler::new(kernel), History::in_memory());
            let host = Host { directory, sampler, history, container };
            host.set(states);
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        fn set(&self, states: [char; 3]) {
            for ((tid, inner), state) in [(7, 1), (8, 5), (9, 2)].into_iter().zip(states) {
                let status = format!("State:\t{state} (x)\nTgid:\t{tid}\nNSpid:\t{tid}\t{inner}\n");
                self.write(&format!("proc/{tid}/status"), &status);
                let stat = format!("{tid} (x) {state} {}\n", "0 ".repeat(19));
                self.write(&format!("proc/{tid}/task/{tid}/stat"), &stat);
            }
        }

        fn watch(&self, asked: Nsec) -> Sample {
            self.sampler.watch(&self.history, &self.container, asked).unwrap()
        }
    }

    fn at(seconds: u64) -> Nsec {
        Nsec(seconds * Nsec::PER_SEC)
    }

    #[test]
    fn threads_of_the_whole_subtree_are_counted() {
        let sample = Host::with(['R', 'D', 'S']).watch(at(0));
        let tasks = Tasks { running: 1, blocked: 1, total: 3, last_pid: 5 };
        assert_eq!(sample.tasks, tasks);
        assert_eq!(sample.load.hundredths(), [200; 3]);
        let sample = Host::with(['R', 'S', 'R']).watch(at(0));
        assert_eq!((sample.tasks.running, sample.tasks.blocked), (2, 0));
    }

    #[test]
    fn what_is_frozen_is_no_load() {
        let host = Host::with(['R', 'D', 'S']);
        host.write("sys/fs/cgroup/c/cgroup.events", "frozen 1\n");
        let sample = host.watch(at(0));
        assert_eq!(sample.tasks, Tasks { running: 0, blocked: 0, total: 3, last_pid: 5 });
        assert_eq!(sample.load.hundredths(), [0; 3]);
    }

    #[test]
    fn a_pass_moves_the_averages_by_the_time_that_went_by() {
        let host = Host::with(['R', 'S', 'S']);
        host.watch(at(0));
        host.set(['S', 'S', 'S']);
        std::fs::remove_dir_all(host.directory.path().join("proc/9")).unwrap();
        // Between passes nothing is counted.
        assert_eq!(host.watch(at(0)).load.hundredths(), [100; 3]);
        assert!(host.sampler.shared.pass(at(60), None));
        let sample = host.watch(at(60));
        // 1/e of one in the first minute's average.
        assert_eq!(sample.load.hundredths()[0], 37);
        // The last number stays the highest that was seen.
        assert_eq!(sample.tasks, Tasks { running: 0, blocked: 0, total: 2, last_pid: 5 });
        host.set(['D', 'R', 'S']);
        assert!(host.sampler.shared.pass(at(65), None));
        assert_eq!(host.watch(at(65)).tasks.running, 1);
    }

    #[test]
    fn where_nothing_ran_nothing_is_looked_at_but_every_twelfth_time() {
        let host = Host::with(['R', 'D', 'S']);
        let ran = |usec| host.write("sys/fs/cgroup/c/cpu.stat", &format!("usage_usec {usec}\n"));
        let waited = |usec| {
            let text = format!("some avg10=0.00 avg60=0.00 avg300=0.00 total={usec}\n");
            host.write("sys/fs/cgroup/c/cpu.pressure", &text);
        };
        let counts = || {
            let Tasks { running, blocked, .. } = host.watch(at(0)).tasks;
            (running, blocked)
        };
        let pass = || assert!(host.sampler.shared.pass(at(0), None));
        ran(5);
        waited(5);
        assert_eq!(counts(), (1, 1));
        // What is so without any of them having run can't be: whoever looked would see it.
        host.set(['S', 'S', 'S']);
        for _ in 1..12 {
            pass();
            assert_eq!(counts(), (1, 1));
        }
        pass();
        assert_eq!(counts(), (0, 0));
        host.set(['R', 'R', 'D']);
        ran(6);
        pass();
        assert_eq!(counts(), (2, 1));
        host.set(['R', 'R', 'R']);
        waited(6);
        pass();
        assert_eq!(counts(), (3, 0));
        host.set(['S', 'S', 'S']);
        pass();
        assert_eq!(counts(), (3, 0));
        // Nobody tells any more: each is looked at.
        host.write("sys/fs/cgroup/c/cpu.stat", "");
        pass();
        assert_eq!(counts(), (0, 0));
    }

    #[test]
    fn new_threads_are_met() {
        let host = Host::with(['S', 'S', 'S']);
        let last = || host.watch(at(0)).tasks;
        assert_eq!((last().total, last().last_pid), (3, 5));
        // The host's number of one that had ended before it was looked at, taken anew.
        host.write("proc/10/status", "State:\tR (x)\nTgid:\t10\nNSpid:\t10\t9\n");
        assert!(host.sampler.shared.pass(at(0), None));
        assert_eq!(last(), Tasks { running: 1, blocked: 0, total: 4, last_pid: 9 });
    }

    #[test]
    fn what_nobody_asks_about_or_what_is_gone_is_forgotten() {
        let host = Host::with(['R', 'S', 'S']);
        host.watch(at(0));
        assert!(host.sampler.shared.pass(FORGET_AFTER - Nsec(1), None));
        assert!(host.sampler.shared.state.lock().running);
        // Somebody asks, and the time begins anew.
        host.watch(FORGET_AFTER - Nsec(1));
        assert!(host.sampler.shared.pass(FORGET_AFTER, None));
        let host = Host::with(['R', 'S', 'S']);
        host.watch(at(0));
        assert!(!host.sampler.shared.pass(FORGET_AFTER, None));
        assert!(!host.sampler.shared.state.lock().running);
        let host = Host::with(['R', 'S', 'S']);
        host.watch(at(0));
        std::fs::remove_file(host.directory.path().join("sys/fs/cgroup/c/cgroup.procs")).unwrap();
        assert!(!host.sampler.shared.pass(at(5), None));
        assert!(host.sampler.watch(&host.history, &host.container, at(5)).unwrap_err().is_gone());
    }

    #[test]
    fn dropped_it_ends_its_thread() {
        let host = Host::with(['S', 'S', 'S']);
        host.watch(boottime());
        let shared = Arc::downgrade(&host.sampler.shared);
        assert!(host.sampler.shared.state.lock().running);
        drop(host);
        let patience = std::time::Instant::now() + Duration::from_secs(60);
        while shared.strong_count() > 0 {
            assert!(std::time::Instant::now() < patience, "the thread lives on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_dear_pass_is_followed_by_a_long_pause() {
        assert_eq!(pause_after(Nsec(1_000_000)), Nsec(5 * Nsec::PER_SEC));
        assert_eq!(pause_after(Nsec(100_000_000)), Nsec(20 * Nsec::PER_SEC));
    }

    #[test]
    fn boottime_goes_on() {
        let first = boottime();
        assert!(first > Nsec(0) && boottime() >= first);
    }
}
