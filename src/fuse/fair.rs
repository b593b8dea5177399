//! Whoever asks most waits, where there is not enough for all.
//!
//! The kernel hands requests out in the order in which they came: those of one container with many
//! readers that do nothing else would be answered before the one of another. So where others have
//! asked lately, a container has half of the workers. What it asks beyond that is put aside, and so
//! is what it asks while something of it waits there; threads of their own answer that, of each
//! container one request at a time. A worker has then only taken it from the queue, which is a
//! matter of microseconds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;

use parking_lot::{Condvar, Mutex};
use rustix::time::{ClockId, clock_gettime};

use super::relief::{self, Load};
use crate::error::{self, Error, Result};

/// How many threads answer what was put aside, unless all of them are held up.
const LANES: usize = 2;

/// What they are called.
const LANE: &str = "aside";

/// How many containers are told apart. Two of the same bucket count as one.
const BUCKETS: usize = 1024;

/// How many threads' containers are known at a time.
const THREADS: usize = 1024;

/// How long it is known of a thread which container it is in, in milliseconds.
const KNOWN: u64 = 16_384;

/// For how long others count that have asked, in milliseconds: most of those who read the files
/// every now and then do so more often.
const LATELY: u64 = 10_000;

/// How many requests may be put aside; each holds its reader. Past that they are not.
const MOST_ASIDE: usize = 4096;

/// What is left of a request.
type Rest = Box<dyn FnOnce() + Send>;

/// Who has how much.
#[derive(Debug)]
pub(super) struct Fairness {
    /// How many requests of each bucket workers are answering.
    answering: [AtomicU32; BUCKETS],
    /// A time (upper 48 bits), and the bucket that was then the last one to ask.
    last: AtomicU64,
    /// The same, of the last one that was not that.
    other: AtomicU64,
    /// A thread (upper half), and the period and the bucket (16 bits each) that were found out.
    threads: Box<[AtomicU64]>,
    aside: Arc<Aside>,
    /// Whether there are threads that answer what was put aside; none before there is any.
    has_lanes: OnceLock<bool>,
}

/// A request that a worker is to answer, until it has; of a container that is known.
#[derive(Debug)]
pub(super) struct Admitted<'a>(Option<&'a AtomicU32>);

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        if let Some(answering) = self.0 {
            answering.fetch_sub(1, Relaxed);
        }
    }
}

impl Fairness {
    pub(super) fn new() -> Fairness {
        Fairness {
            answering: [const { AtomicU32::new(0) }; BUCKETS],
            last: AtomicU64::new(0),
            other: AtomicU64::new(0),
            threads: (0..THREADS).map(|_| AtomicU64::new(0)).collect(),
            aside: Arc::new(Aside::new()),
            has_lanes: OnceLock::new(),
        }
    }

    /// Whether one of the workers is to answer a request of the thread `tid`, whose container has
    /// the number that `container` tells; else the bucket in which it is to be put aside.
    ///
    /// That the thread may be in another container by now makes a wrong place in the queue, and
    /// nothing else.
    pub(super) fn admit(
        &self,
        tid: u32,
        load: &Load,
        container: impl FnOnce() -> u64,
    ) -> std::result::Result<Admitted<'_>, usize> {
        let now = milliseconds();
        // Where only this worker has something to do, who asks need not be found out.
        let container = (load.busy() > 1).then_some(container);
        let Some(bucket) = self.bucket(tid, now, container) else { return Ok(Admitted(None)) };
        let have_others_asked = self.note(bucket, now);
        let answering = &self.answering[bucket];
        let admitted = Admitted(Some(answering));
        let before = answering.fetch_add(1, Relaxed) as usize;
        let is_behind = self.aside.waiting[bucket].load(Relaxed) > 0;
        if have_others_asked && (is_behind || before >= load.workers() / 2) {
            return Err(bucket);
        }
        Ok(admitted)
    }

    /// Takes note of who asks; whether others have lately.
    fn note(&self, bucket: usize, now: u64) -> bool {
        let is_another = |asked: u64| asked & 0xffff != bucket as u64;
        let is_lately = |asked: u64| now.saturating_sub(asked >> 16) < LATELY;
        let last = self.last.load(Relaxed);
        let this = now << 16 | bucket as u64;
        if last != this {
            self.last.store(this, Relaxed);
        }
        if is_another(last) {
            self.other.store(last, Relaxed);
            return is_lately(last);
        }
        let other = self.other.load(Relaxed);
        is_another(other) && is_lately(other)
    }

    /// None where it is not known, and is not to be found out by `container`.
    fn bucket(&self, tid: u32, now: u64, container: Option<impl FnOnce() -> u64>) -> Option<usize> {
        let period = (now / KNOWN) & 0xffff;
        let place = &self.threads[tid as usize % THREADS];
        let known = place.load(Relaxed);
        let bucket = if known >> 16 == u64::from(tid) << 16 | period {
            known & 0xffff
        } else {
            let bucket = container?() % BUCKETS as u64;
            place.store(u64::from(tid) << 32 | period << 16 | bucket, Relaxed);
            bucket
        };
        usize::try_from(bucket).ok().filter(|bucket| *bucket < BUCKETS)
    }

    /// Puts the rest of a request of `bucket` aside; gives it back where there is no room. It says
    /// when it is [answered](Self::answered), whoever does it.
    pub(super) fn put_aside(&self, bucket: usize, rest: Rest) -> Option<Rest> {
        self.aside.waiting[bucket].fetch_add(1, Relaxed);
        if !self.has_lanes.get_or_init(|| self.start_lanes()) {
            return Some(rest);
        }
        let mut queues = self.aside.queues.lock();
        if queues.count >= MOST_ASIDE {
            return Some(rest);
        }
        let is_next = queues.put(bucket, rest);
        drop(queues);
        if is_next {
            self.aside.more.notify_one();
        }
        None
    }

    /// A request of `bucket` waits no longer.
    pub(super) fn answered(&self, bucket: usize) {
        self.aside.waiting[bucket].fetch_sub(1, Relaxed);
    }

    fn start_lanes(&self) -> bool {
        let aside = Arc::clone(&self.aside);
        let more = move || aside.start(relief::RELIEF);
        let started = self.aside.start(LANES).and_then(|()| {
            let failed = |error| Error::io("start", "a thread", error);
            relief::watch(LANE, Arc::clone(&self.aside.lanes), more).map_err(failed)
        });
        started.inspect_err(error::report).is_ok()
    }
}

/// Since the machine has started, a few more or less.
fn milliseconds() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// What was put aside.
struct Aside {
    queues: Mutex<Queues>,
    more: Condvar,
    /// How many of each bucket are not answered yet.
    waiting: [AtomicU32; BUCKETS],
    lanes: Arc<Load>,
}

impl std::fmt::Debug for Aside {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Aside")
    }
}

impl Aside {
    fn new() -> Aside {
        let waiting = [const { AtomicU32::new(0) }; BUCKETS];
        let lanes = Arc::new(Load::new(LANES, None));
        Aside { queues: Mutex::default(), more: Condvar::new(), waiting, lanes }
    }

    /// Starts so many threads that answer.
    fn start(self: &Arc<Self>, count: usize) -> Result<()> {
        for _ in 0..count {
            let aside = Arc::clone(self);
            let thread = thread::Builder::new().name(LANE.to_owned());
            thread
                .spawn(move || aside.answer())
                .map_err(|error| Error::io("start", "a thread", error))?;
        }
        Ok(())
    }

    fn answer(&self) {
        let mut queues = self.queues.lock();
        loop {
            let Some((bucket, rest)) = queues.take() else {
                self.more.wait(&mut queues);
                continue;
            };
            drop(queues);
            let answering = self.lanes.begin();
            rest();
            drop(answering);
            queues = self.queues.lock();
            queues.end(bucket);
        }
    }
}

/// A queue for each bucket that has one.
#[derive(Default)]
struct Queues {
    count: usize,
    /// Of those of which nothing is being answered; the first is next.
    idle: VecDeque<(usize, VecDeque<Rest>)>,
    /// Of the others.
    busy: Vec<(usize, VecDeque<Rest>)>,
}

impl Queues {
    /// Whether one more thread has now something to do.
    fn put(&mut self, bucket: usize, rest: Rest) -> bool {
        self.count += 1;
        let mut queues = self.busy.iter_mut().chain(&mut self.idle);
        if let Some((_, queue)) = queues.find(|(known, _)| *known == bucket) {
            queue.push_back(rest);
            return false;
        }
        self.idle.push_back((bucket, VecDeque::from([rest])));
        true
    }

    /// What is next. Until it [ends](Self::end) nothing else of its bucket is.
    fn take(&mut self) -> Option<(usize, Rest)> {
        let (bucket, mut queue) = self.idle.pop_front()?;
        let rest = queue.pop_front()?;
        self.count -= 1;
        self.busy.push((bucket, queue));
        Some((bucket, rest))
    }

    fn end(&mut self, bucket: usize) {
        let place = self.busy.iter().position(|(busy, _)| *busy == bucket);
        let Some(place) = place else { return };
        let (_, queue) = self.busy.swap_remove(place);
        if !queue.is_empty() {
            self.idle.push_back((bucket, queue));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_half_of_the_workers_where_there_are_others() {
        let (fairness, load) = (Fairness::new(), Load::new(4, None));
        let _two_are_busy = (load.begin(), load.begin());
        let ask = |tid, container: u64| fairness.admit(tid, &load, || container);
        // Alone it may have everything.
        let all: Vec<_> = (0..4).map(|_| ask(7, 1).unwrap()).collect();
        let _other = ask(8, 2).unwrap();
        assert_eq!(ask(7, 1).unwrap_err(), 1);
        drop(all);
        let _half = (ask(7, 1).unwrap(), ask(9, 1).unwrap());
        assert_eq!(ask(7, 1).unwrap_err(), 1);
        assert!(ask(8, 2).is_ok());
    }

    #[test]
    fn behind_what_was_put_aside_all_else_of_its_container_is() {
        let (fairness, load) = (Fairness::new(), Load::new(2, None));
        let _two_are_busy = (load.begin(), load.begin());
        let ask = |tid, container: u64| fairness.admit(tid, &load, || container);
        assert!(ask(8, 2).is_ok() && ask(7, 1).is_ok());
        fairness.aside.waiting[1].store(1, Relaxed);
        assert_eq!(ask(7, 1).unwrap_err(), 1);
        assert!(ask(8, 2).is_ok());
        fairness.answered(1);
        assert!(ask(7, 1).is_ok());
    }

    #[test]
    fn who_asked_long_ago_does_not_count() {
        let fairness = Fairness::new();
        let now = 1 << 30;
        assert!(!fairness.note(1, now));
        assert!(fairness.note(2, now + LATELY - 1));
        assert!(fairness.note(1, now + LATELY));
        for later in 0..LATELY - 1 {
            assert!(fairness.note(1, now + LATELY + later), "{later}");
        }
        assert!(!fairness.note(1, now + 2 * LATELY - 1));
        assert!(fairness.note(3, now + 2 * LATELY));
    }

    #[test]
    fn who_asks_is_found_out_where_others_are_being_answered_and_kept_for_a_while() {
        let (fairness, load) = (Fairness::new(), Load::new(2, None));
        assert!(fairness.admit(7, &load, || unreachable!()).unwrap().0.is_none());
        let found = |tid, now, container: Option<u64>| {
            fairness.bucket(tid, now, container.map(|number| move || number))
        };
        assert_eq!(found(7, KNOWN, Some(5)), Some(5));
        assert_eq!(found(7, 2 * KNOWN - 1, None), Some(5));
        assert_eq!(found(7, 2 * KNOWN, None), None);
        let same_place = 7 + u32::try_from(THREADS).unwrap();
        assert_eq!(found(same_place, KNOWN, None), None);
    }

    #[test]
    fn what_is_put_aside_is_taken_in_turn_and_one_of_each_at_a_time() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut queues = Queues::default();
        let put = |queues: &mut Queues, bucket, name| {
            let done = Arc::clone(&done);
            queues.put(bucket, Box::new(move || done.lock().push(name)))
        };
        let news = [(1, 'a'), (1, 'b'), (1, 'c'), (2, 'x'), (2, 'y'), (3, '1')]
            .map(|(bucket, name)| put(&mut queues, bucket, name));
        assert_eq!(news, [true, false, false, true, false, true]);
        let mut taken = Vec::new();
        while let Some((bucket, rest)) = queues.take() {
            rest();
            taken.push(bucket);
        }
        assert_eq!(taken, [1, 2, 3]);
        assert!(!put(&mut queues, 3, '2'));
        for bucket in [3, 1, 2] {
            queues.end(bucket);
        }
        while let Some((bucket, rest)) = queues.take() {
            rest();
            queues.end(bucket);
        }
        assert_eq!(*done.lock(), ['a', 'x', '1', '2', 'b', 'y', 'c']);
        assert_eq!(queues.count, 0);
    }

    #[test]
    fn past_the_bound_nothing_is_put_aside() {
        let fairness = Fairness::new();
        let (answered, answers) = std::sync::mpsc::channel();
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock();
        let rest = || -> Rest {
            let (gate, answered) = (Arc::clone(&gate), answered.clone());
            Box::new(move || {
                drop(gate.lock());
                answered.send(()).unwrap();
            })
        };
        // One of them is taken, or none yet.
        let refused = (0..MOST_ASIDE + 2).filter(|_| fairness.put_aside(1, rest()).is_some());
        assert!((1..=2).contains(&refused.count()));
        drop(closed);
        assert_eq!(answers.iter().take(MOST_ASIDE).count(), MOST_ASIDE);
        assert!(fairness.put_aside(1, rest()).is_none());
    }
}
