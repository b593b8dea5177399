//! Whoever reads most waits, where there is not enough for all.
//!
//! The kernel hands requests out in the order in which they came. A container with many readers that
//! do nothing else would have others wait for all of them. So while every worker is busy, reads are
//! counted by container, and those of one that has had far more than its share are put aside, for
//! threads of their own, which take them in turn from each container.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// How many threads answer what was put aside: as many as there are workers at least.
const LANES: usize = 2;

/// How many containers are told apart. Two of the same bucket are counted as one.
const BUCKETS: usize = 64;

/// How many threads' containers are known at a time.
const THREADS: usize = 1024;

/// How long reads are counted together, in milliseconds.
const WINDOW: u64 = 64;

/// How many reads in a window are nothing.
const FEW: u32 = 16;

/// How many reads may be put aside; each holds its reader. Past that they are not.
const MOST_ASIDE: usize = 4096;

/// What is left of a request.
type Rest = Box<dyn FnOnce() + Send>;

/// Who has had how much.
#[derive(Debug)]
pub(super) struct Fairness {
    start: Instant,
    window: AtomicU64,
    /// Reads in this window, by bucket.
    reads: [AtomicU32; BUCKETS],
    total: AtomicU32,
    /// How many buckets had reads in the window before.
    active: AtomicU32,

    /// A thread (upper half), and the bucket and the window (lower) in which that was found out.
    threads: Box<[AtomicU64]>,
    aside: Arc<Aside>,
}

impl Fairness {
    pub(super) fn new() -> Fairness {
        Fairness {
            start: Instant::now(),
            window: AtomicU64::new(0),
            reads: [const { AtomicU32::new(0) }; BUCKETS],
            total: AtomicU32::new(0),
            active: AtomicU32::new(0),
            threads: (0..THREADS).map(|_| AtomicU64::new(0)).collect(),
            aside: Arc::new(Aside::new()),
        }
    }

    /// Counts a read of the thread `tid`, whose container has the number that `container` tells.
    /// Some where the container has had far more than its share: its bucket.
    ///
    /// That the thread may be in another container by now makes a wrong place in the queue, and
    /// nothing else.
    pub(super) fn exceeds(&self, tid: u32, container: impl FnOnce() -> u64) -> Option<usize> {
        let window = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(0) / WINDOW;
        self.turn_to(window);
        let bucket = self.bucket(tid, window, container);
        let reads = self.reads.get(bucket)?.fetch_add(1, Relaxed) + 1;
        let total = self.total.fetch_add(1, Relaxed) + 1;
        let active = self.active.load(Relaxed);
        // Half more than its share.
        let is_far = active > 1 && u64::from(reads) * u64::from(active) * 2 > u64::from(total) * 3;
        // Behind those of its own that wait already.
        let waits = active > 1 && self.aside.waiting.get(bucket)?.load(Relaxed) > 0;
        (waits || reads > FEW && is_far).then_some(bucket)
    }

    fn turn_to(&self, window: u64) {
        let before = self.window.load(Relaxed);
        if before == window
            || self.window.compare_exchange(before, window, Relaxed, Relaxed).is_err()
        {
            return;
        }
        let counted = self.reads.iter().filter(|reads| reads.swap(0, Relaxed) > 0).count();
        self.total.store(0, Relaxed);
        self.active.store(u32::try_from(counted).unwrap_or(u32::MAX), Relaxed);
    }

    fn bucket(&self, tid: u32, window: u64, container: impl FnOnce() -> u64) -> usize {
        // Some seconds.
        let period = window >> 8 & 0xff_ffff;
        let Some(place) = self.threads.get(tid as usize % THREADS) else { return 0 };
        let known = place.load(Relaxed);
        if known >> 32 == u64::from(tid) && known >> 8 & 0xff_ffff == period {
            return (known & 0xff) as usize % BUCKETS;
        }
        let bucket = container() % BUCKETS as u64;
        place.store(u64::from(tid) << 32 | period << 8 | bucket, Relaxed);
        usize::try_from(bucket).unwrap_or(0)
    }

    /// Puts the rest of a request of `bucket` aside; gives it back where there is no room.
    pub(super) fn put_aside(&self, bucket: usize, rest: Rest) -> Option<Rest> {
        let mut queues = self.aside.queues.lock();
        if queues.count >= MOST_ASIDE {
            return Some(rest);
        }
        queues.count += 1;
        if let Some(waiting) = self.aside.waiting.get(bucket) {
            waiting.fetch_add(1, Relaxed);
        }
        queues.put(bucket, rest);
        drop(queues);
        self.aside.more.notify_one();
        None
    }

    /// Starts the threads that answer what was put aside.
    pub(super) fn start(&self) -> std::io::Result<()> {
        for _ in 0..LANES {
            let aside = Arc::clone(&self.aside);
            thread::Builder::new().name("aside".to_owned()).spawn(move || aside.answer())?;
        }
        Ok(())
    }
}

/// What was put aside.
struct Aside {
    queues: Mutex<Queues>,
    more: Condvar,
    /// How many of each bucket are not answered yet.
    waiting: [AtomicU32; BUCKETS],
}

impl std::fmt::Debug for Aside {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Aside")
    }
}

impl Aside {
    fn new() -> Aside {
        let waiting = [const { AtomicU32::new(0) }; BUCKETS];
        Aside { queues: Mutex::default(), more: Condvar::new(), waiting }
    }

    fn answer(&self) {
        loop {
            let mut queues = self.queues.lock();
            let (bucket, rest) = loop {
                match queues.take() {
                    Some(first) => break first,
                    None => self.more.wait(&mut queues),
                }
            };
            drop(queues);
            rest();
            if let Some(waiting) = self.waiting.get(bucket) {
                waiting.fetch_sub(1, Relaxed);
            }
        }
    }
}

/// A queue for each bucket that has one; the first is next.
#[derive(Default)]
struct Queues {
    count: usize,
    by_bucket: VecDeque<(usize, VecDeque<Rest>)>,
}

impl Queues {
    fn put(&mut self, bucket: usize, rest: Rest) {
        match self.by_bucket.iter_mut().find(|(known, _)| *known == bucket) {
            Some((_, queue)) => queue.push_back(rest),
            None => self.by_bucket.push_back((bucket, VecDeque::from([rest]))),
        }
    }

    fn take(&mut self) -> Option<(usize, Rest)> {
        let (bucket, mut queue) = self.by_bucket.pop_front()?;
        let rest = queue.pop_front()?;
        self.count -= 1;
        if !queue.is_empty() {
            self.by_bucket.push_back((bucket, queue));
        }
        Some((bucket, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_reads_far_more_than_others_exceeds_its_share() {
        let fairness = Fairness::new();
        let read = |tid, container: u64| fairness.exceeds(tid, || container);
        // Alone it may have everything.
        for _ in 0..1000 {
            assert_eq!(read(7, 1), None);
        }
        // In the next window there are two.
        fairness.turn_to(1 << 40);
        read(7, 1);
        read(8, 2);
        fairness.turn_to(2 << 40);
        fairness
            .window
            .store(u64::try_from(fairness.start.elapsed().as_millis()).unwrap() / WINDOW, Relaxed);
        fairness.active.store(2, Relaxed);
        let exceeded = (0..100).filter(|_| read(7, 1).is_some()).count();
        assert!(exceeded > 50, "{exceeded}");
        assert_eq!(read(8, 2), None);
    }

    #[test]
    fn what_is_put_aside_is_taken_in_turn() {
        let done = Arc::new(Mutex::new(Vec::new()));
        let mut queues = Queues::default();
        for (bucket, name) in [(1, 'a'), (1, 'b'), (1, 'c'), (2, 'x'), (2, 'y'), (3, '1')] {
            let done = Arc::clone(&done);
            queues.count += 1;
            queues.put(bucket, Box::new(move || done.lock().push(name)));
        }
        while let Some((_, rest)) = queues.take() {
            rest();
        }
        assert_eq!(*done.lock(), ['a', 'x', '1', 'b', 'y', 'c']);
        assert_eq!(queues.count, 0);
    }

    #[test]
    fn past_the_bound_nothing_is_put_aside() {
        let fairness = Fairness::new();
        for _ in 0..MOST_ASIDE {
            assert!(fairness.put_aside(1, Box::new(|| ())).is_none());
        }
        assert!(fairness.put_aside(1, Box::new(|| ())).is_some());
    }
}
