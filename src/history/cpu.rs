//! The record behind `/proc/stat`: what a container's CPUs have shown so far, and what the
//! next reading makes of it. Pure.
//!
//! A formula over the counters alone goes backwards: usage is spread over CPUs that come and
//! go, is sampled, and runs ahead of wall time in bursts. So each shown CPU owns a stretch of
//! wall time, of which every tick is given out exactly once, to one column.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cpulist::Present;
use crate::units::{NSEC_PER_TICK, Nsec};

/// The columns that are measured; the rest of a CPU's time is idle.
const USER: usize = 0;
const NICE: usize = 1;
const SYSTEM: usize = 2;
const STEAL: usize = 3;
const MEASURED: usize = 4;

/// A container's counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// CLOCK_BOOTTIME.
    pub time: Nsec,
    /// In user mode, without nice.
    pub user: Nsec,
    /// In user mode at a positive nice value.
    pub nice: Nsec,
    /// In the kernel.
    pub system: Nsec,
    /// Throttled, summed over physical CPUs.
    pub throttled: Nsec,
    /// How much each physical CPU ran, where the kernel tells: weights only.
    pub per_cpu: Vec<(u32, Nsec)>,
}

/// What one CPU has shown, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// In user mode, without nice.
    pub user: u64,
    /// In user mode at a positive nice value.
    pub nice: u64,
    /// In the kernel.
    pub system: u64,
    /// Neither of the others.
    pub idle: u64,
    /// Throttled.
    pub steal: u64,
}

impl std::ops::AddAssign for Shown {
    fn add_assign(&mut self, other: Shown) {
        self.user += other.user;
        self.nice += other.nice;
        self.system += other.system;
        self.idle += other.idle;
        self.steal += other.steal;
    }
}

/// One CPU's part of the record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cpu {
    /// For how long it has been present.
    wall: Nsec,
    /// How many of the ticks of `wall` have been given out.
    emitted: u64,
    /// Measured time that is not given out yet, by column.
    pending: [Nsec; MEASURED],
    /// What has been given out.
    shown: Shown,
}

/// What is remembered of a container between two readings of `/proc/stat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    last: Counters,
    /// Time used that the present CPUs had no room for, by column but for steal.
    debt: [Nsec; STEAL],
    /// Every CPU that was ever present, by the number by which it was shown: so a line of the file
    /// goes on from what it was, whichever CPU it is of.
    cpus: BTreeMap<u32, Cpu>,
}

/// A container's CPUs as `/proc/stat` shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuTimes {
    /// The `cpu` line: the CPUs shown and those that were taken away.
    pub total: Shown,
    /// The `cpuN` lines.
    pub cpus: Vec<(u32, Shown)>,
}

impl Record {
    /// The record of a container that began at `birth`, before its first reading.
    #[must_use]
    pub fn new(birth: Nsec) -> Record {
        let last = Counters { time: birth, ..Counters::default() };
        Record { last, debt: [Nsec(0); STEAL], cpus: BTreeMap::new() }
    }

    /// What is shown at the moment `time` whatever the counters say: as long as no tick of one of
    /// the `present` CPUs has come to completion, what was shown last. None where one has.
    #[must_use]
    pub fn within_tick(&self, time: Nsec, present: &Present) -> Option<CpuTimes> {
        let elapsed = time - self.last.time;
        let is_within =
            |number| self.cpus.get(&number).is_some_and(|cpu| cpu.is_within_tick(elapsed));
        present.numbers().iter().all(is_within).then(|| self.times(present))
    }

    /// The idle time of all CPUs, in ticks, that is shown at the moment `time`, whatever the counters
    /// say and whichever CPUs are present: as long as no tick has come to completion of any that
    /// was shown. None where one has.
    #[must_use]
    pub fn idle_within_tick(&self, time: Nsec) -> Option<u64> {
        let elapsed = time - self.last.time;
        let mut cpus = self.cpus.values();
        let is_known = !self.cpus.is_empty() && cpus.all(|cpu| cpu.is_within_tick(elapsed));
        is_known.then(|| self.cpus.values().map(|cpu| cpu.shown.idle).sum())
    }

    /// Takes in a reading of the counters while `present` are the container's CPUs, and tells
    /// what to show.
    pub fn update(&mut self, now: Counters, present: &Present) -> CpuTimes {
        let first = self.cpus.is_empty();
        let elapsed = now.time - self.last.time;
        let room = Nsec(elapsed.0.saturating_mul(present.len() as u64));
        let used = [
            now.user - self.last.user + self.debt[USER],
            now.nice - self.last.nice + self.debt[NICE],
            now.system - self.last.system + self.debt[SYSTEM],
        ];
        let given = scale_to(used, room);
        // Usage that ran ahead of wall time is shown as soon as there is room; but what a
        // container used beyond its CPUs before it was first looked at (it had more then, or
        // its birth is younger than its cgroup) belongs nowhere.
        self.debt = [Nsec(0); STEAL];
        if !first {
            self.debt = std::array::from_fn(|column| used[column] - given[column]);
        }
        let throttled = now.throttled - self.last.throttled;
        let busy = given.into_iter().fold(Nsec(0), std::ops::Add::add);
        let steal = Nsec(throttled.0.min((room - busy).0));
        let weights = self.weights(&now, present);
        let shares = spread(busy.0, &weights, &vec![elapsed.0; weights.len()]);
        // Where the container runs, it is throttled.
        let left: Vec<u64> = shares.iter().map(|share| elapsed.0 - share).collect();
        let steals = spread(steal.0, &weights, &left);
        let mut passed = 0;
        for (index, number) in present.numbers().iter().enumerate() {
            let cpu = self.cpus.entry(number).or_default();
            cpu.wall = cpu.wall + elapsed;
            for (pending, given) in cpu.pending.iter_mut().zip(given) {
                // Differences of running totals, so that nothing is lost in rounding.
                let part = portion(given.0, passed + shares[index], busy.0)
                    - portion(given.0, passed, busy.0);
                *pending = *pending + Nsec(part);
            }
            cpu.pending[STEAL] = cpu.pending[STEAL] + Nsec(steals[index]);
            passed += shares[index];
            cpu.emit();
        }
        self.last = Counters {
            time: now.time.max(self.last.time),
            user: now.user.max(self.last.user),
            nice: now.nice.max(self.last.nice),
            system: now.system.max(self.last.system),
            throttled: now.throttled.max(self.last.throttled),
            per_cpu: now.per_cpu,
        };
        self.times(present)
    }

    /// How much each present CPU ran since the last reading, as far as the kernel tells.
    fn weights(&self, now: &Counters, present: &Present) -> Vec<u64> {
        let at = |counters: &Counters, cpu: u32| {
            counters
                .per_cpu
                .iter()
                .find(|(number, _)| *number == cpu)
                .map_or(Nsec(0), |(_, run)| *run)
        };
        present.iter().map(|cpu| (at(now, cpu) - at(&self.last, cpu)).0).collect()
    }

    fn times(&self, present: &Present) -> CpuTimes {
        let shown = present.numbers();
        let mut times = CpuTimes::default();
        for (&number, cpu) in &self.cpus {
            times.total += cpu.shown;
            if shown.contains(number) {
                times.cpus.push((number, cpu.shown));
            }
        }
        times
    }
}

impl Cpu {
    /// Whether no tick comes to completion in so much more wall time.
    fn is_within_tick(&self, elapsed: Nsec) -> bool {
        (self.wall + elapsed).ticks() == self.emitted
    }

    /// Gives out the ticks of wall time that have come to completion: to the measured columns
    /// as far as they have whole ticks, the rest to idle.
    fn emit(&mut self) {
        let mut available = self.wall.ticks() - self.emitted;
        self.emitted += available;
        let mut taken = [0; MEASURED];
        for (column, pending) in self.pending.iter_mut().enumerate() {
            taken[column] = pending.ticks().min(available);
            available -= taken[column];
            *pending = *pending - Nsec(taken[column] * NSEC_PER_TICK);
        }
        self.shown += Shown {
            user: taken[USER],
            nice: taken[NICE],
            system: taken[SYSTEM],
            steal: taken[STEAL],
            idle: available,
        };
    }
}

/// `part` of `whole`, of an amount; 0 of 0.
fn portion(amount: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    let portion = u128::from(amount) * u128::from(part) / u128::from(whole);
    u64::try_from(portion).unwrap_or(u64::MAX)
}

/// Scales amounts down, in proportion, so that their sum fits into `room`.
fn scale_to(amounts: [Nsec; STEAL], room: Nsec) -> [Nsec; STEAL] {
    let sum = amounts.into_iter().fold(Nsec(0), std::ops::Add::add);
    if sum <= room {
        return amounts;
    }
    amounts.map(|amount| Nsec(portion(amount.0, room.0, sum.0)))
}

/// Spreads `amount` over places, of which each holds its `room`, by their weights as far as they
/// hold, and what then is left, or has no weight, evenly over those with room. The shares sum to
/// `amount` where that fits.
fn spread(amount: u64, weights: &[u64], rooms: &[u64]) -> Vec<u64> {
    let mut shares = vec![0; weights.len()];
    let mut left = amount;
    fill(&mut shares, &mut left, weights, rooms);
    // Each round fills at least one place, or spreads all that is left.
    for _ in 0..=weights.len() {
        let open = shares.iter().zip(rooms).map(|(share, room)| u64::from(share < room));
        let open: Vec<u64> = open.collect();
        fill(&mut shares, &mut left, &open, rooms);
    }
    // What integer division left over: less than one nanosecond for each place.
    for (share, room) in shares.iter_mut().zip(rooms) {
        let extra = left.min(room - *share);
        *share += extra;
        left -= extra;
    }
    shares
}

/// One round of [`spread`]: hands out `left` by `weights`, no place above its room.
fn fill(shares: &mut [u64], left: &mut u64, weights: &[u64], rooms: &[u64]) {
    let total = weights.iter().fold(0_u64, |sum, weight| sum.saturating_add(*weight));
    let amount = *left;
    for ((share, weight), room) in shares.iter_mut().zip(weights).zip(rooms) {
        let extra = portion(amount, *weight, total).min(room - *share).min(*left);
        *share += extra;
        *left -= extra;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpulist::{CpuIds, CpuSet};
    use proptest::prelude::*;

    const TICK: u64 = NSEC_PER_TICK;
    const SECOND: u64 = Nsec::PER_SEC;

    fn cpus(text: &str) -> Present {
        CpuSet::parse(text.as_bytes()).unwrap().into()
    }

    fn at(time: u64, user: u64, system: u64, throttled: u64) -> Counters {
        Counters {
            time: Nsec(time),
            user: Nsec(user),
            system: Nsec(system),
            throttled: Nsec(throttled),
            ..Counters::default()
        }
    }

    #[test]
    fn the_first_reading_accounts_for_the_whole_life() {
        let mut record = Record::new(Nsec(10 * SECOND));
        // 10 s alive on 2 CPUs; 4 s user, 2 s system, 1 s throttled.
        let times = record.update(at(20 * SECOND, 4 * SECOND, 2 * SECOND, SECOND), &cpus("1-2"));
        let one = Shown { user: 200, system: 100, steal: 50, idle: 650, nice: 0 };
        assert_eq!(times.cpus, [(1, one), (2, one)]);
        assert_eq!(times.total, Shown { user: 400, system: 200, steal: 100, idle: 1300, nice: 0 });
    }

    #[test]
    fn what_was_used_beyond_the_cpus_before_the_first_reading_is_forgotten() {
        let mut record = Record::new(Nsec(0));
        // 3 s of user and 1 s of system time in 1 s on one CPU: scaled to 0.75 and 0.25.
        let times = record.update(at(SECOND, 3 * SECOND, SECOND, 0), &cpus("0"));
        assert_eq!(times.total, Shown { user: 75, system: 25, ..Shown::default() });
        let times = record.update(at(2 * SECOND, 3 * SECOND, SECOND, 0), &cpus("0"));
        assert_eq!(times.total, Shown { user: 75, system: 25, idle: 100, ..Shown::default() });
    }

    #[test]
    fn within_a_tick_nothing_new_is_shown() {
        let mut record = Record::new(Nsec(0));
        assert_eq!(record.within_tick(Nsec(0), &cpus("0")), None);
        assert_eq!(record.idle_within_tick(Nsec(0)), None);
        let times = record.update(at(SECOND + TICK / 2, SECOND / 2, 0, 0), &cpus("0"));
        let last = SECOND + TICK - 1;
        assert_eq!(record.within_tick(Nsec(last), &cpus("0")), Some(times.clone()));
        assert_eq!(record.within_tick(Nsec(last + 1), &cpus("0")), None);
        assert_eq!(record.within_tick(Nsec(last), &cpus("0-1")), None);
        // Of 1.005 s 0.5 were used.
        assert_eq!(record.idle_within_tick(Nsec(last)), Some(50));
        assert_eq!(record.idle_within_tick(Nsec(last + 1)), None);
        assert_eq!(record.update(at(last, SECOND, 0, 0), &cpus("0")), times);
    }

    #[test]
    fn what_runs_ahead_of_wall_time_is_shown_later() {
        let mut record = Record::new(Nsec(0));
        record.update(at(SECOND, 0, 0, 0), &cpus("0"));
        // 1.5 s used in 1 s: 0.5 s is owed, and paid in the next second.
        let times = record.update(at(2 * SECOND, 3 * SECOND / 2, 0, 0), &cpus("0"));
        assert_eq!((times.total.user, times.total.idle), (100, 100));
        let times = record.update(at(3 * SECOND, 3 * SECOND / 2, 0, 0), &cpus("0"));
        assert_eq!((times.total.user, times.total.idle), (150, 150));
    }

    #[test]
    fn throttling_is_steal_within_what_is_left() {
        let mut record = Record::new(Nsec(0));
        record.update(at(SECOND, 0, 0, 0), &cpus("0"));
        let times = record.update(at(2 * SECOND, SECOND / 2, 0, 3 * SECOND), &cpus("0"));
        assert_eq!(times.total, Shown { user: 50, steal: 50, idle: 100, ..Shown::default() });
        // The excess is dropped, not owed.
        let times = record.update(at(3 * SECOND, SECOND / 2, 0, 3 * SECOND), &cpus("0"));
        assert_eq!(times.total, Shown { user: 50, steal: 50, idle: 200, ..Shown::default() });
    }

    #[test]
    fn nice_has_its_column() {
        let mut record = Record::new(Nsec(0));
        let mut now = at(SECOND, SECOND / 4, 0, 0);
        now.nice = Nsec(SECOND / 2);
        let times = record.update(now, &cpus("0"));
        assert_eq!(times.total, Shown { user: 25, nice: 50, idle: 25, ..Shown::default() });
    }

    #[test]
    fn weights_place_the_work_and_overflow_goes_to_the_others() {
        let mut record = Record::new(Nsec(0));
        let mut now = at(SECOND, 6 * SECOND / 10, 0, 0);
        now.per_cpu = vec![(0, Nsec(1)), (1, Nsec(2))];
        let times = record.update(now, &cpus("0-1"));
        assert_eq!(times.cpus[0].1.user, 20);
        assert_eq!(times.cpus[1].1.user, 40);
        // 1.5 s in 1 s, all of it by CPU 1: that holds 1 s, the rest lands on CPU 0.
        let mut now = at(2 * SECOND, 21 * SECOND / 10, 0, 0);
        now.per_cpu = vec![(0, Nsec(1)), (1, Nsec(9))];
        let times = record.update(now, &cpus("0-1"));
        assert_eq!(times.cpus[0].1.user, 20 + 50);
        assert_eq!(times.cpus[1].1.user, 40 + 100);
    }

    #[test]
    fn throttling_goes_where_the_work_went_as_far_as_there_is_room() {
        let mut record = Record::new(Nsec(0));
        let mut now = at(SECOND, 6 * SECOND / 10, 0, 9 * SECOND / 10);
        now.per_cpu = vec![(0, Nsec(1)), (1, Nsec(2))];
        let times = record.update(now, &cpus("0-1"));
        // 0.3 and 0.6 s by weight; CPU 1 was busy for 0.4 s and holds all of its part.
        assert_eq!(times.cpus[0].1, Shown { user: 20, steal: 30, idle: 50, ..Shown::default() });
        assert_eq!(times.cpus[1].1, Shown { user: 40, steal: 60, ..Shown::default() });
    }

    #[test]
    fn a_cpu_taken_away_stays_in_the_total_and_continues_when_it_returns() {
        let mut record = Record::new(Nsec(0));
        let before = record.update(at(SECOND, SECOND, 0, 0), &cpus("0-1"));
        assert_eq!(before.cpus[1].1, Shown { user: 50, idle: 50, ..Shown::default() });
        let without = record.update(at(2 * SECOND, SECOND, 0, 0), &cpus("0"));
        assert_eq!(without.cpus.len(), 1);
        assert_eq!(without.total.user, 100);
        assert_eq!(without.total.idle, 200);
        let again = record.update(at(3 * SECOND, SECOND, 0, 0), &cpus("0-2"));
        assert_eq!(again.cpus[1].1, Shown { user: 50, idle: 150, ..Shown::default() });
        assert_eq!(again.cpus[2].1, Shown { idle: 100, ..Shown::default() });
    }

    #[test]
    fn a_line_goes_on_when_another_cpu_takes_its_number() {
        let compact = |text: &str| Present::new(cpus(text).numbers(), CpuIds::Compact);
        let mut record = Record::new(Nsec(0));
        let mut now = at(SECOND, SECOND / 2, 0, 0);
        now.per_cpu = vec![(2, Nsec(1)), (5, Nsec(0))];
        let times = record.update(now, &compact("2,5"));
        let (busy, idle) = (
            Shown { user: 50, idle: 50, ..Shown::default() },
            Shown { idle: 100, ..Shown::default() },
        );
        assert_eq!(times.cpus, [(0, busy), (1, idle)]);
        // Number 0 is of CPU 5 now.
        let times = record.update(at(2 * SECOND, SECOND / 2, 0, 0), &compact("5"));
        assert_eq!(times.cpus, [(0, Shown { user: 50, idle: 150, ..Shown::default() })]);
        // And by its own number a CPU shows what was shown by that.
        let times = record.update(at(3 * SECOND, SECOND / 2, 0, 0), &cpus("0-1"));
        assert_eq!(times.cpus[0].1, Shown { user: 50, idle: 250, ..Shown::default() });
        assert_eq!(times.cpus[1].1, Shown { idle: 200, ..Shown::default() });
    }

    #[test]
    fn counters_that_fall_back_do_not_count_twice() {
        let mut record = Record::new(Nsec(0));
        record.update(at(SECOND, SECOND / 2, 0, 0), &cpus("0"));
        record.update(at(2 * SECOND, SECOND / 4, 0, 0), &cpus("0"));
        let times = record.update(at(3 * SECOND, SECOND / 2, 0, 0), &cpus("0"));
        assert_eq!((times.total.user, times.total.idle), (50, 250));
        // Nor does time that stands still or falls back.
        assert_eq!(record.update(at(SECOND, SECOND / 2, 0, 0), &cpus("0")), times);
    }

    /// What passes between two readings: increments of the counters, the CPUs at the second, and
    /// whether another daemon makes it.
    #[derive(Clone, Debug)]
    struct Step {
        passed: Counters,
        present: &'static str,
        restarted: bool,
    }

    fn step() -> impl Strategy<Value = Step> {
        let elapsed = prop_oneof![Just(0), 0..TICK, 0..3 * TICK, 0..100 * SECOND];
        let passed = elapsed.prop_flat_map(|elapsed| {
            // Tick-sampled counters are still, and run ahead, of any number of CPUs.
            let used = 0..=elapsed.saturating_mul(8) + TICK;
            let per_cpu = prop::collection::vec(0..=elapsed, 0..6);
            (Just(elapsed), used.clone(), used.clone(), used.clone(), used, per_cpu)
        });
        let present =
            prop::sample::select(vec!["0", "0-1", "1-3", "0-3", "5", "0-5", "0-5", "0-5"]);
        let restarted = prop::bool::weighted(0.05);
        (passed, present, restarted).prop_map(|(passed, present, restarted)| {
            let (time, user, nice, system, throttled, per_cpu) = passed;
            let passed = Counters {
                nice: Nsec(nice),
                per_cpu: (0..).zip(per_cpu.into_iter().map(Nsec)).collect(),
                ..at(time, user, system, throttled)
            };
            Step { passed, present, restarted }
        })
    }

    /// The counters after a step.
    fn advanced(before: &Counters, passed: &Counters) -> Counters {
        let ran = |cpu: u32| {
            let known = before.per_cpu.iter().find(|(number, _)| *number == cpu);
            known.map_or(Nsec(0), |(_, ran)| *ran)
        };
        Counters {
            time: before.time + passed.time,
            user: before.user + passed.user,
            nice: before.nice + passed.nice,
            system: before.system + passed.system,
            throttled: before.throttled + passed.throttled,
            per_cpu: passed.per_cpu.iter().map(|&(cpu, more)| (cpu, ran(cpu) + more)).collect(),
        }
    }

    fn columns(shown: &Shown) -> [u64; 5] {
        [shown.user, shown.nice, shown.system, shown.idle, shown.steal]
    }

    fn through_a_file(record: &Record) -> Record {
        postcard::from_bytes(&postcard::to_allocvec(record).unwrap()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256, failure_persistence: None, ..ProptestConfig::default()
        })]

        #[test]
        fn the_laws_hold_for_any_course_of_events(
            birth in 0..SECOND,
            steps in prop::collection::vec(step(), 1..100),
        ) {
            let mut now = at(birth, 0, 0, 0);
            let mut record = Record::new(now.time);
            // What each CPU has shown that was ever present.
            let mut last: BTreeMap<u32, Shown> = BTreeMap::new();
            for Step { passed, present, restarted } in steps {
                now = advanced(&now, &passed);
                if restarted {
                    record = through_a_file(&record);
                }
                let without_reading = record.within_tick(now.time, &cpus(present));
                let idle = record.idle_within_tick(now.time);
                let times = record.update(now.clone(), &cpus(present));
                prop_assert!(without_reading.is_none_or(|foretold| foretold == times));
                prop_assert!(idle.is_none_or(|idle| idle == times.total.idle));
                prop_assert_eq!(times.cpus.len(), cpus(present).len());
                for &(number, shown) in &times.cpus {
                    let before = last.insert(number, shown).unwrap_or_default();
                    let back = columns(&shown).iter().zip(columns(&before)).any(|(a, b)| *a < b);
                    prop_assert!(!back, "cpu{number}: {before:?}, then {shown:?}");
                    let sum = |shown: &Shown| columns(shown).iter().sum::<u64>();
                    let gained = (sum(&shown) - sum(&before)) * TICK;
                    prop_assert!(gained.abs_diff(passed.time.0) < TICK, "cpu{number}: {gained}");
                }
                let mut all = Shown::default();
                last.values().for_each(|shown| all += *shown);
                prop_assert_eq!(all, times.total);
                let shown = [all.user, all.nice, all.system, all.steal].map(Nsec::from_ticks);
                let counted = [now.user, now.nice, now.system, now.throttled];
                let has_more = shown.iter().zip(counted).any(|(shown, counted)| *shown > counted);
                prop_assert!(!has_more, "{shown:?} of {counted:?}");
            }
        }
    }

    #[test]
    fn spreading_loses_nothing_and_overfills_nobody() {
        assert_eq!(spread(10, &[0, 0, 0], &[100; 3]), [4, 3, 3]);
        assert_eq!(spread(10, &[1, 1], &[4; 2]), [4, 4]);
        assert_eq!(spread(90, &[9, 1], &[50; 2]), [50, 40]);
        assert_eq!(spread(90, &[1, 1, 2], &[10, 50, 35]), [10, 45, 35]);
        assert_eq!(spread(0, &[5], &[50]), [0]);
        assert_eq!(spread(7, &[], &[]), [0_u64; 0]);
    }
}
