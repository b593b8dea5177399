//! Load averages as the kernel computes them, `kernel/sched/loadavg.c`. Pure.

use serde::{Deserialize, Serialize};

use crate::units::Nsec;

/// Bits after the binary point of the kernel's fixed-point numbers.
const SHIFT: u32 = 11;
/// 1.0 in that form.
const FIXED_1: u64 = 1 << SHIFT;
/// How long one step of the averages takes.
pub const STEP: Nsec = Nsec(5 * Nsec::PER_SEC);
/// 1/exp(5s/1min), 1/exp(5s/5min) and 1/exp(5s/15min) in fixed point.
const DECAY: [u64; 3] = [1884, 2014, 2037];

/// The 1-, 5- and 15-minute averages in fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadAverage {
    averages: [u64; 3],
    /// When the averages were last stepped, by CLOCK_BOOTTIME.
    stepped: Nsec,
}

impl LoadAverage {
    /// The averages of a container that is looked at for the first time: as if it had always
    /// had `active` tasks runnable or in uninterruptible sleep.
    #[must_use]
    pub fn first(active: u64, now: Nsec) -> LoadAverage {
        LoadAverage { averages: [active.saturating_mul(FIXED_1); 3], stepped: now }
    }

    /// Steps the averages to `now`, `active` having been the count for all the time since.
    /// Time that does not fill a step stays for the next call.
    pub fn advance(&mut self, active: u64, now: Nsec) {
        let steps = (now - self.stepped).0 / STEP.0;
        if steps == 0 {
            return;
        }
        self.stepped = self.stepped + Nsec(steps * STEP.0);
        let active = active.saturating_mul(FIXED_1);
        for (average, decay) in self.averages.iter_mut().zip(DECAY) {
            *average = step(*average, power(decay, steps), active);
        }
    }

    /// The averages as hundredths, rounded as `/proc/loadavg` rounds them.
    #[must_use]
    pub fn hundredths(&self) -> [u64; 3] {
        self.averages.map(|average| {
            let rounded = average.saturating_add(FIXED_1 / 200);
            let fraction = ((rounded & (FIXED_1 - 1)) * 100) >> SHIFT;
            (rounded >> SHIFT) * 100 + fraction
        })
    }
}

/// One step of one average: `calc_load()`.
fn step(average: u64, decay: u64, active: u64) -> u64 {
    let weighted =
        u128::from(average) * u128::from(decay) + u128::from(active) * u128::from(FIXED_1 - decay);
    let rounding = if active >= average { u128::from(FIXED_1 - 1) } else { 0 };
    u64::try_from((weighted + rounding) >> SHIFT).unwrap_or(u64::MAX)
}

/// A fixed-point number to an integer power: `fixed_power_int()`, by squaring, each product
/// rounded to the nearest.
fn power(base: u64, exponent: u64) -> u64 {
    let mut result = FIXED_1;
    let (mut base, mut exponent) = (base, exponent);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = (result * base + (1 << (SHIFT - 1))) >> SHIFT;
        }
        exponent >>= 1;
        base = (base * base + (1 << (SHIFT - 1))) >> SHIFT;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Nsec {
        Nsec(count * Nsec::PER_SEC)
    }

    #[test]
    fn the_first_sample_sets_all_three() {
        assert_eq!(LoadAverage::first(3, seconds(7)).hundredths(), [300, 300, 300]);
        assert_eq!(LoadAverage::first(0, seconds(7)).hundredths(), [0, 0, 0]);
    }

    #[test]
    fn one_step_by_hand() {
        let mut load = LoadAverage::first(0, seconds(0));
        load.advance(1, seconds(5));
        // (0·1884 + 2048·(2048−1884) + 2047) / 2048 = 164.99… → 164; (164+10)·100/2048 = 8
        // (… 2048·34 …) → 34; 44·100/2048 = 2.  (… 2048·11 …) → 11; 21·100/2048 = 1.
        assert_eq!(load.hundredths(), [8, 2, 1]);
    }

    #[test]
    fn time_that_fills_no_step_is_kept() {
        let mut load = LoadAverage::first(0, seconds(0));
        load.advance(1, seconds(4));
        assert_eq!(load.hundredths(), [0, 0, 0]);
        load.advance(1, seconds(8));
        let mut other = LoadAverage::first(0, seconds(0));
        other.advance(1, seconds(5));
        assert_eq!(load.hundredths(), other.hundredths());
        load.advance(1, seconds(10));
        other.advance(1, seconds(10));
        assert_eq!(load, other);
    }

    #[test]
    fn many_steps_at_once_are_as_many_single_ones() {
        let mut once = LoadAverage::first(0, seconds(0));
        once.advance(4, seconds(60));
        // After one minute at 4: 4·(1 − 1/e) = 2.53; the kernel's decay constants give 2.53.
        assert_eq!(once.hundredths()[0], 253);
        let mut down = LoadAverage::first(4, seconds(0));
        down.advance(0, seconds(60));
        assert_eq!(down.hundredths()[0], 147);
        down.advance(0, seconds(86_400));
        assert_eq!(down.hundredths(), [0, 0, 0]);
    }
}
