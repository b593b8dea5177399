//! Typed quantities with saturating arithmetic. No I/O.
//!
//! Kernel counters race with each other: a usage exceeds its limit for a
//! moment, a sum of per-CPU counters runs ahead of its total. So no
//! subtraction here can wrap, and none is fallible.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// An amount of memory in bytes, as the cgroup files count it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Bytes(pub u64);

impl Bytes {
    /// An amount given in kibibytes, the unit that `/proc/meminfo` calls `kB`.
    #[must_use]
    pub fn from_kib(kib: u64) -> Self {
        Bytes(kib.saturating_mul(1024))
    }

    /// Whole kibibytes, rounded down as the kernel does.
    #[must_use]
    pub fn kib(self) -> u64 {
        self.0 / 1024
    }
}

impl Add for Bytes {
    type Output = Bytes;
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }
}

impl Sub for Bytes {
    type Output = Bytes;
    fn sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(iter: I) -> Bytes {
        iter.fold(Bytes(0), Add::add)
    }
}

/// A span of time or of CPU time in nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Nsec(pub u64);

impl Nsec {
    /// Nanoseconds in one second.
    pub const PER_SEC: u64 = 1_000_000_000;

    /// A span given in microseconds, the unit of cgroup v2's `cpu.stat`.
    #[must_use]
    pub fn from_usec(usec: u64) -> Self {
        Nsec(usec.saturating_mul(1000))
    }

    /// A span given in ticks of [`USER_HZ`].
    #[must_use]
    pub fn from_ticks(ticks: u64) -> Self {
        Nsec(ticks.saturating_mul(NSEC_PER_TICK))
    }

    /// Whole ticks of [`USER_HZ`], rounded down.
    #[must_use]
    pub fn ticks(self) -> u64 {
        self.0 / NSEC_PER_TICK
    }
}

impl Add for Nsec {
    type Output = Nsec;
    fn add(self, other: Nsec) -> Nsec {
        Nsec(self.0.saturating_add(other.0))
    }
}

impl Sub for Nsec {
    type Output = Nsec;
    fn sub(self, other: Nsec) -> Nsec {
        Nsec(self.0.saturating_sub(other.0))
    }
}

/// A span of time in microseconds, the unit of the kernel's CPU bandwidth limits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Usec(pub u64);

/// Ticks per second in which the kernel reports times to user space.
///
/// `USER_HZ` is 100 on every architecture that Linux still supports but alpha,
/// where it is 1024; `include/asm-generic/param.h`.
pub const USER_HZ: u64 = 100;

/// Length of one tick of [`USER_HZ`].
pub const NSEC_PER_TICK: u64 = Nsec::PER_SEC / USER_HZ;

/// A limit of one cgroup: none (`max`, or a v1 value too large to bind), or a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "Option<T>", into = "Option<T>")]
#[serde(bound(serialize = "T: Copy + Serialize"))]
pub enum Limit<T> {
    /// No limit.
    #[default]
    Max,
    /// At most this much.
    At(T),
}

impl<T> From<Option<T>> for Limit<T> {
    fn from(value: Option<T>) -> Limit<T> {
        value.map_or(Limit::Max, Limit::At)
    }
}

impl<T> From<Limit<T>> for Option<T> {
    fn from(limit: Limit<T>) -> Option<T> {
        match limit {
            Limit::Max => None,
            Limit::At(value) => Some(value),
        }
    }
}

impl<T: Ord + Copy> Limit<T> {
    /// The tighter of two limits.
    #[must_use]
    pub fn tighten(self, other: Limit<T>) -> Limit<T> {
        match (self, other) {
            (Limit::Max, limit) | (limit, Limit::Max) => limit,
            (Limit::At(a), Limit::At(b)) => Limit::At(a.min(b)),
        }
    }

    /// The limit's value where it is below `ceiling`, else `ceiling`.
    #[must_use]
    pub fn or_at_most(self, ceiling: T) -> T {
        match self {
            Limit::Max => ceiling,
            Limit::At(value) => value.min(ceiling),
        }
    }

    /// The value of a finite limit.
    #[must_use]
    pub fn finite(self) -> Option<T> {
        match self {
            Limit::Max => None,
            Limit::At(value) => Some(value),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Max => f.write_str("max"),
            Limit::At(value) => value.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subtraction_never_wraps() {
        assert_eq!(Bytes(1) - Bytes(2), Bytes(0));
        assert_eq!(Bytes(u64::MAX) + Bytes(1), Bytes(u64::MAX));
        assert_eq!(Nsec(1) - Nsec(2), Nsec(0));
        assert_eq!(Nsec(7) + Nsec(3), Nsec(10));
    }

    #[test]
    fn conversions_round_down() {
        assert_eq!(Bytes(2047).kib(), 1);
        assert_eq!(Bytes::from_kib(3), Bytes(3072));
        assert_eq!(Nsec(19_999_999).ticks(), 1);
        assert_eq!(Nsec::from_ticks(3), Nsec(30_000_000));
        assert_eq!(Nsec::from_usec(3), Nsec(3000));
        assert_eq!([Bytes(1), Bytes(2)].into_iter().sum::<Bytes>(), Bytes(3));
    }

    #[test]
    fn the_tighter_limit_wins() {
        assert_eq!(Limit::At(5).tighten(Limit::At(3)), Limit::At(3));
        assert_eq!(Limit::At(5).tighten(Limit::Max), Limit::At(5));
        assert_eq!(Limit::Max.tighten(Limit::At(5)), Limit::At(5));
        assert_eq!(Limit::<u64>::Max.or_at_most(4), 4);
        assert_eq!(Limit::At(9).or_at_most(4), 4);
        assert_eq!(Limit::At(3).or_at_most(4), 3);
        assert_eq!(Limit::At(3).finite(), Some(3));
        assert_eq!(Limit::<u64>::Max.finite(), None);
        assert_eq!(format!("{} {}", Limit::<u64>::Max, Limit::At(3)), "max 3");
    }
}
