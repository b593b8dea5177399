//! Workers that hang in code of ours: on a lock that nobody lets go of, in a loop without an end.
//!
//! The keeper watches. A thread of the worker might hang like the others: nearly whatever it does
//! takes the allocator's lock. The two share some words, [`Progress`], in which each thread says
//! when it begins and ends a request. Nobody wakes up while nobody reads: whoever begins a request
//! while nobody watches sets a timer; when that expires, the keeper looks, and sets it again as
//! long as it finds somebody busy.
//!
//! Who waits for a kernel file does not hang: the next worker would have to wait for it too, and
//! others are answered meanwhile (`relief.rs`). Nor does one that gets no CPU, or that somebody
//! stopped. What hangs is a thread which, at look after look, waits for a lock in the same request,
//! while nobody who may hold that does anything; or one that has used more CPU time than any
//! request takes.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use nix::unistd::Pid;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::procfs::process::{parse_stat, parse_voluntary_switches};
use crate::sys::shared::Shared;
use crate::units::Nsec;

/// From one look to the next, in seconds.
const EVERY: i64 = 1;

/// At how many looks in a row a thread has to be found at the same lock: with the second before
/// the first of them no reader waits for five seconds.
const LOOKS: u32 = 4;

/// CPU time of one request, as far as the looks have seen it, that is too much: a loop that has a CPU
/// to itself has used three seconds between the first and the fourth. Without the kernel's share: a
/// container with hundreds of thousands of threads may keep that busy for as long, counting them.
const MOST_CPU: Nsec = Nsec(5 * Nsec::PER_SEC / 2);

/// How many threads answer requests beside the workers that were asked for: those of `relief.rs`
/// and `fair.rs`. More are not watched.
const MORE_THREADS: usize = 64;

/// Words of a thread: a cache line, as each writes its own all the time.
const PLACE: usize = 8;

// The layout, in words: a place for what all share, and one for each thread.
const TAKEN_AT: usize = 0;
const IS_WATCHED_AT: usize = 1;

/// Its thread's number, in a thread's place.
const TID_AT: usize = 0;
/// How many requests the thread has begun and ended; odd while it is at one.
const TURN_AT: usize = 1;

thread_local! {
    /// The place of this thread; none before its first request.
    static OWN: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Which thread of a worker is at which request, and the timer that has the keeper look.
#[derive(Debug)]
pub(super) struct Progress {
    memory: Shared,
    timer: OwnedFd,
}

/// A request that a thread is at.
#[derive(Debug)]
pub(super) struct Turn<'a>(Option<&'a AtomicU64>);

impl Progress {
    /// For so many workers, none of which has had a request. timerfd_create(2), Linux 2.6.27.
    ///
    /// # Errors
    /// What memfd_create(2), mmap(2) and timerfd_create(2) answer.
    pub(super) fn new(workers: usize) -> io::Result<Progress> {
        let places = 1 + workers.saturating_add(MORE_THREADS);
        let memory = Shared::new(c"lxcfs-rs-progress", places.saturating_mul(PLACE))?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Progress { memory, timer })
    }

    /// This thread begins a request, which ends with the result.
    pub(super) fn begin(&self) -> Turn<'_> {
        let own = OWN.get().unwrap_or_else(|| self.take_place());
        let turn = self.word(own, TURN_AT);
        if let Some(turn) = turn {
            turn.fetch_add(1, SeqCst);
            self.watch();
        }
        Turn(turn)
    }

    fn take_place(&self) -> usize {
        let taken = self.memory.words()[TAKEN_AT].fetch_add(1, Relaxed);
        let own = usize::try_from(taken).unwrap_or(usize::MAX).saturating_add(1);
        if let Some(tid) = self.word(own, TID_AT) {
            tid.store(
                rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs().into(),
                Release,
            );
        }
        OWN.set(Some(own));
        own
    }

    fn word(&self, place: usize, at: usize) -> Option<&AtomicU64> {
        self.memory.words().get(place.checked_mul(PLACE)? + at)
    }

    fn is_watched(&self) -> &AtomicU64 {
        &self.memory.words()[IS_WATCHED_AT]
    }

    /// Has the keeper look, where it does not anyway.
    fn watch(&self) {
        let is_watched = self.is_watched();
        if is_watched.load(SeqCst) == 0 && is_watched.swap(1, SeqCst) == 0 {
            self.set_timer();
        }
    }

    fn set_timer(&self) {
        let nothing = Timespec { tv_sec: 0, tv_nsec: 0 };
        let once =
            Itimerspec { it_interval: nothing, it_value: Timespec { tv_sec: EVERY, tv_nsec: 0 } };
        // It can fail for no timer that there is.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
    }

    /// Sets the timer again while somebody is at a request; else the next one who is does.
    fn go_on(&self) {
        // Expired, it is readable until it is set or read.
        let _ = rustix::io::read(&self.timer, &mut [0; 8]);
        if self.is_busy() {
            self.set_timer();
            return;
        }
        self.is_watched().store(0, SeqCst);
        // One who has begun meanwhile took it for watched.
        if self.is_busy() {
            self.watch();
        }
    }

    fn is_busy(&self) -> bool {
        self.turns().any(|(_, turn)| is_at_request(turn))
    }

    /// The threads that have had a request, and how many each has begun and ended.
    fn turns(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        let places = self.memory.words().chunks_exact(PLACE).skip(1);
        places.map_while(|place| {
            let tid = u32::try_from(place[TID_AT].load(Acquire)).ok()?;
            (tid != 0).then(|| (tid, place[TURN_AT].load(SeqCst)))
        })
    }
}

impl AsFd for Progress {
    /// The timer.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.0 {
            turn.fetch_add(1, SeqCst);
        }
    }
}

fn is_at_request(turn: u64) -> bool {
    turn % 2 == 1
}

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It runs, or would if there were a CPU for it.
    Runs,
    /// It waits in futex(2): for a lock, or to be woken by another thread.
    WaitsForLock,
    /// It waits in another call, until something happens or a signal comes.
    Waits,
    /// The kernel holds it up, or somebody has stopped it.
    IsHeld,
}

/// A thread of a worker, whatever it is for.
#[derive(Clone, Copy, Debug)]
struct Thread {
    tid: u32,
    doing: Doing,
    /// CPU time, without the kernel's share.
    cpu: Nsec,
    /// How often it has begun to wait.
    waits: u64,
}

/// The threads of a process that are there now.
fn threads_of(pid: Pid) -> Vec<Thread> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    threads.flatten().filter_map(|thread| read_thread(&thread.path())).collect()
}

/// By `/proc/PID/task/TID/stat`, `status` and `wchan`, which is the kernel function that it waits in; `0`
/// for none, or where the kernel does not say: then nobody is known to wait for a lock.
fn read_thread(directory: &Path) -> Option<Thread> {
    let tid = directory.file_name()?.to_str()?.parse().ok()?;
    let stat = parse_stat(&fs::read(directory.join("stat")).ok()?)?;
    let doing = match stat.state {
        b'R' => Doing::Runs,
        // futex_wait_queue_me, futex_wait_queue, futex_do_wait: by the kernel's age.
        b'S' if fs::read(directory.join("wchan")).is_ok_and(|name| name.starts_with(b"futex_")) => {
            Doing::WaitsForLock
        }
        b'S' => Doing::Waits,
        _ => Doing::IsHeld,
    };
    let waits = parse_voluntary_switches(&fs::read(directory.join("status")).ok()?)?;
    Some(Thread { tid, doing, cpu: stat.user, waits })
}

/// Why a worker is taken to hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hang {
    tid: u32,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    AtLock,
    InLoop,
}

impl fmt::Display for Hang {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.how {
            How::AtLock => "waits for a lock that nobody lets go of",
            How::InLoop => "does not come to the end of a request",
        };
        write!(out, "thread {} {what}", self.tid)
    }
}

/// A thread that was at a request when somebody looked.
#[derive(Clone, Copy, Debug)]
struct Seen {
    turn: u64,
    /// How often it was found at this request.
    looks: u32,
    /// How often in a row it was found at one lock: it had not run since the look before.
    at_lock: u32,
    /// What its thread had used at the first look, and at the last.
    cpu_at_first: Nsec,
    cpu: Nsec,
    /// At the last look.
    waits: u64,
}

/// What the keeper has seen of a worker's threads.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: HashMap<u32, Seen>,
}

impl Watch {
    /// Looks at the worker `pid`, whose timer has expired.
    pub(super) fn look(&mut self, progress: &Progress, pid: Pid) -> Option<Hang> {
        let turns: HashMap<u32, u64> = progress.turns().collect();
        progress.go_on();
        if !turns.values().any(|&turn| is_at_request(turn)) {
            self.seen.clear();
            return None;
        }
        self.judge(&turns, &threads_of(pid))
    }

    fn judge(&mut self, turns: &HashMap<u32, u64>, threads: &[Thread]) -> Option<Hang> {
        let before = std::mem::take(&mut self.seen);
        for thread in threads {
            let Some(&turn) = turns.get(&thread.tid).filter(|turn| is_at_request(**turn)) else {
                continue;
            };
            let same = before.get(&thread.tid).filter(|seen| seen.turn == turn);
            self.seen.insert(thread.tid, Seen::next(same, turn, thread));
        }
        threads.iter().find_map(|thread| {
            let tid = thread.tid;
            let seen = self.seen.get(&tid)?;
            if seen.cpu - seen.cpu_at_first >= MOST_CPU {
                return Some(Hang { tid, how: How::InLoop });
            }
            let hangs = seen.at_lock >= LOOKS
                && !threads.iter().any(|other| self.may_let_go(turns, other, seen.at_lock));
            hangs.then_some(Hang { tid, how: How::AtLock })
        })
    }

    /// Whether a thread may hold a lock for which another one has waited at so many looks, and may
    /// let go of it.
    fn may_let_go(&self, turns: &HashMap<u32, u64>, thread: &Thread, looks: u32) -> bool {
        match turns.get(&thread.tid) {
            // Between two requests no lock is held.
            Some(_) => {
                self.seen.get(&thread.tid).is_some_and(|seen| seen.looks >= looks)
                    && thread.doing != Doing::WaitsForLock
            }
            // It answers no requests. Such threads wait most of the time, holding no lock.
            None => matches!(thread.doing, Doing::Runs | Doing::IsHeld),
        }
    }
}

impl Seen {
    fn next(before: Option<&Seen>, turn: u64, thread: &Thread) -> Seen {
        let &Thread { doing, cpu, waits, .. } = thread;
        let first = Seen { turn, looks: 0, at_lock: 0, cpu_at_first: cpu, cpu, waits };
        let before = before.copied().unwrap_or(first);
        let at_lock = match doing {
            Doing::WaitsForLock if waits == before.waits => before.at_lock + 1,
            Doing::WaitsForLock => 1,
            Doing::Runs | Doing::Waits | Doing::IsHeld => 0,
        };
        Seen { looks: before.looks + 1, at_lock, cpu, waits, ..before }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::sys::fuse::wait_readable;
    use Doing::{IsHeld, Runs, Waits, WaitsForLock};

    /// A thread that has used so many hundredths of a second; and waited as often, as it does then.
    fn thread(&(tid, doing, ticks): &(u32, Doing, u64)) -> Thread {
        Thread { tid, doing, cpu: Nsec::from_ticks(ticks), waits: ticks }
    }

    /// Looks, each a second after the one before, at what these threads do. 10 and 11 answer
    /// requests; 1 is another one.
    fn verdicts(turns: &[(u32, u64)], looks: &[&[(u32, Doing, u64)]]) -> Vec<Option<Hang>> {
        let turns = turns.iter().copied().collect();
        let mut watch = Watch::default();
        let looks = looks.iter().map(|look| look.iter().map(thread).collect::<Vec<_>>());
        looks.map(|threads| watch.judge(&turns, &threads)).collect()
    }

    fn never(turns: &[(u32, u64)], look: &[(u32, Doing, u64)]) {
        assert_eq!(verdicts(turns, &[look; 100]), [None; 100], "{look:?}");
    }

    #[test]
    fn who_waits_for_a_lock_that_nobody_can_let_go_of_hangs() {
        let at_lock = Some(Hang { tid: 10, how: How::AtLock });
        let alone: &[_] = &[(1, Waits, 5), (10, WaitsForLock, 70), (11, Waits, 3)];
        // The other one is between two requests, whatever it does then.
        assert_eq!(verdicts(&[(10, 7), (11, 8)], &[alone; 4]), [None, None, None, at_lock]);
        let beside: &[_] = &[(1, WaitsForLock, 5), (10, WaitsForLock, 70), (11, Runs, 3)];
        assert_eq!(verdicts(&[(10, 7), (11, 8)], &[beside; 4])[3], at_lock);
        // Each for the other.
        let both: &[_] = &[(10, WaitsForLock, 70), (11, WaitsForLock, 3)];
        assert_eq!(verdicts(&[(10, 7), (11, 9)], &[both; 4]), [None, None, None, at_lock]);
    }

    #[test]
    fn who_waits_for_somebody_that_has_something_to_do_does_not() {
        for holder in [Runs, Waits, IsHeld] {
            never(&[(10, 7), (11, 9)], &[(10, WaitsForLock, 70), (11, holder, 3)]);
        }
        for other in [Runs, IsHeld] {
            never(&[(10, 7)], &[(1, other, 5), (10, WaitsForLock, 70)]);
        }
        // He ran in between.
        let waits: [&[_]; 2] = [&[(10, WaitsForLock, 70)], &[(10, WaitsForLock, 71)]];
        assert!(verdicts(&[(10, 7)], &waits.repeat(9)).iter().all(Option::is_none));
    }

    /// One that comes later cannot hold what another one has waited for since before.
    #[test]
    fn others_that_are_busy_let_nobody_hang_unnoticed() {
        let mut watch = Watch::default();
        let threads = |tick| [(10, WaitsForLock, 70), (11, Runs, tick * 50)].map(|it| thread(&it));
        let verdicts = (0..4).map(|look| {
            let turns = HashMap::from([(10, 7), (11, 101 + 2 * look)]);
            watch.judge(&turns, &threads(look)).is_some()
        });
        assert_eq!(verdicts.collect::<Vec<_>>(), [false, false, false, true]);
    }

    #[test]
    fn a_request_that_uses_more_cpu_time_than_any_hangs() {
        let looks: Vec<[_; 1]> = (0..4).map(|second| [(10, Runs, 500 + second * 99)]).collect();
        let looks: Vec<&[_]> = looks.iter().map(|look| &look[..]).collect();
        let in_loop = Some(Hang { tid: 10, how: How::InLoop });
        assert_eq!(verdicts(&[(10, 7)], &looks), [None, None, None, in_loop]);
        // A tenth of a CPU; and at last it was enough.
        let looks: Vec<[_; 1]> = (0..27).map(|second| [(10, Runs, 500 + second * 10)]).collect();
        let looks: Vec<&[_]> = looks.iter().map(|look| &look[..]).collect();
        assert_eq!(verdicts(&[(10, 7)], &looks).iter().position(Option::is_some), Some(25));
        // One request after the other may.
        let mut watch = Watch::default();
        for second in 0..100 {
            let turns = HashMap::from([(10, 1 + 2 * second)]);
            assert_eq!(watch.judge(&turns, &[thread(&(10, Runs, second * 99))]), None);
        }
    }

    #[test]
    fn who_gets_no_cpu_or_waits_for_the_kernel_or_was_stopped_does_not_hang() {
        for doing in [Runs, Waits, IsHeld] {
            never(&[(10, 7)], &[(10, doing, 70)]);
        }
    }

    #[test]
    fn the_timer_is_set_by_the_first_and_only_while_somebody_is_at_something() {
        let progress = Arc::new(Progress::new(1).unwrap());
        let expires =
            |patience| wait_readable(progress.as_fd(), Duration::from_secs(patience)).unwrap();
        let at_a_time = |count: usize| {
            let mine = Arc::clone(&progress);
            // A thread has its place in one worker only.
            std::thread::spawn(move || (0..count).for_each(|_| drop(mine.begin()))).join().unwrap();
        };
        assert!(!expires(0));
        at_a_time(3);
        assert_eq!(progress.turns().map(|(_, turn)| turn).collect::<Vec<_>>(), [6]);
        assert!(expires(60));
        let mut watch = Watch::default();
        let own = nix::unistd::getpid();
        assert_eq!(watch.look(&progress, own), None);
        assert!(!expires(2), "somebody is woken though nobody reads");

        let other = Arc::clone(&progress);
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let (begun, begins) = std::sync::mpsc::channel();
        let busy = std::thread::spawn(move || {
            let _turn = other.begin();
            begun.send(()).unwrap();
            let _ = ends.recv();
        });
        begins.recv().unwrap();
        for _ in 0..2 {
            assert!(expires(60));
            watch.look(&progress, own);
        }
        let looks: Vec<u32> = watch.seen.values().map(|seen| seen.looks).collect();
        assert_eq!(looks, [2]);
        drop(end);
        busy.join().unwrap();
        assert!(expires(60));
        assert_eq!(watch.look(&progress, own), None);
        assert!(watch.seen.is_empty());
        // More than there are places for.
        (0..100).for_each(|_| at_a_time(1));
        assert_eq!(progress.turns().count(), 1 + MORE_THREADS);
    }

    #[test]
    fn what_threads_do() {
        let (end, ends) = std::sync::mpsc::channel::<()>();
        let waiting = std::thread::Builder::new().name("waits-at-lock".to_owned());
        let waiting = waiting.spawn(move || ends.recv()).unwrap();
        let doing = || {
            let threads = threads_of(nix::unistd::getpid());
            threads.iter().any(|thread| {
                let comm = format!("/proc/self/task/{}/comm", thread.tid);
                fs::read(comm).is_ok_and(|name| name == b"waits-at-lock\n")
                    && thread.doing == WaitsForLock
            })
        };
        while !doing() {
            std::thread::yield_now();
        }
        let own = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        let threads = threads_of(nix::unistd::getpid());
        assert!(threads.iter().any(|thread| thread.tid == own && thread.doing == Runs));
        drop(end);
        assert!(waiting.join().unwrap().is_err());
    }
}
