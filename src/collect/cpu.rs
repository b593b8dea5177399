//! The CPUs of a container, and what they did.
//!
//! What a container may not use is *possible, but not present*: to a program it is a machine
//! with empty sockets. So the CPUs shown keep their physical numbers, unless it is told otherwise.

use std::str::FromStr;

use crate::cgroup::format::Bandwidth;
use crate::cgroup::stats::tightest;
use crate::cpulist::{CpuIds, CpuSet, Present};
use crate::error::{self, Result};
use crate::facts::{CpuTimes, Facts};
use crate::history::Step;
use crate::history::cpu::Counters;
use crate::kernel::{Controller, Kernel};
use crate::procfs::stat;
use crate::units::Nsec;

use super::{Collector, Scope};

/// A container's CPUs.
pub(super) struct Cpus {
    /// Those that it is shown.
    pub(super) present: Present,
    /// Whether that is another list than the host's of those online.
    pub(super) limited: bool,
}

/// How many CPUs a quota is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuCount {
    /// quota / period, rounded up.
    #[default]
    Ceil,
    /// Rounded down, but at least one.
    Floor,
    /// Rounded to the nearest, the half up, but at least one.
    Round,
    /// As many as the cpuset has: quotas do not count.
    Cpuset,
}

impl FromStr for CpuCount {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<CpuCount, Self::Err> {
        match text {
            "ceil" => Ok(CpuCount::Ceil),
            "floor" => Ok(CpuCount::Floor),
            "round" => Ok(CpuCount::Round),
            "cpuset" => Ok(CpuCount::Cpuset),
            _ => Err("expected ceil, floor, round or cpuset"),
        }
    }
}

impl CpuCount {
    /// How many CPUs a bandwidth pays for; none where it does not count.
    fn of(self, Bandwidth { quota, period }: Bandwidth) -> Option<usize> {
        let count = match self {
            CpuCount::Ceil => quota.div_ceil(period),
            CpuCount::Floor => quota / period,
            CpuCount::Round => quota / period + u64::from(quota % period >= period.div_ceil(2)),
            CpuCount::Cpuset => return None,
        };
        Some(usize::try_from(count.max(1)).unwrap_or(usize::MAX))
    }
}

impl Collector {
    pub(super) fn cpuinfo(&self, scope: &Scope<'_>) -> Result<Option<Facts>> {
        let cpus = self.cpus(scope)?;
        if !cpus.limited {
            return Ok(None);
        }
        let host = self.kernel.proc.shared("cpuinfo")?;
        Ok(Some(Facts::Cpuinfo { host, present: cpus.present }))
    }

    pub(super) fn cpu_online(&self, scope: &Scope<'_>) -> Result<Option<Facts>> {
        let cpus = self.cpus(scope)?;
        Ok(cpus.limited.then_some(Facts::CpuList { cpus: cpus.present.numbers() }))
    }

    /// What the container's CPUs did; none where the host's counters are the truth: for a
    /// process of the host whose CPUs are not limited, and where there is no cgroup to count in.
    pub(super) fn cpu_times(&self, scope: &Scope<'_>, now: Nsec) -> Result<Option<CpuTimes>> {
        let cpus = self.cpus(scope)?;
        if scope.is_host && !cpus.limited {
            return Ok(None);
        }
        let levels = scope.levels(&self.kernel, Controller::Cpuacct)?;
        let Some(usage_dir) = levels.dirs.first() else { return Ok(None) };
        self.history.of(scope.container).update(|record| {
            if let Some(times) = record.cpu.within_tick(now, &cpus.present) {
                return Ok(Step::Same(Some(times)));
            }
            let Some(usage) = levels.version.cpu_usage(usage_dir)? else {
                return Ok(Step::Same(None));
            };
            let counters = Counters {
                time: now,
                user: usage.user,
                nice: usage.nice,
                system: usage.system,
                throttled: throttled(&self.kernel, scope)?,
                per_cpu: usage.per_cpu,
            };
            Ok(Step::Changed(Some(record.cpu.update(counters, &cpus.present))))
        })
    }

    /// The idle time of the container's CPUs, in ticks; none as of [`Collector::cpu_times`].
    pub(super) fn idle(&self, scope: &Scope<'_>, now: Nsec) -> Result<Option<u64>> {
        // What is remembered must still be this container's.
        scope.levels(&self.kernel, Controller::Cpuacct)?;
        let remembered = self.history.of(scope.container);
        match remembered.update(|record| Ok(Step::Same(record.cpu.idle_within_tick(now))))? {
            Some(idle) => Ok(Some(idle)),
            None => Ok(self.cpu_times(scope, now)?.map(|times| times.total.idle)),
        }
    }

    /// The first n of the CPUs that the container may use.
    pub(super) fn cpus(&self, scope: &Scope<'_>) -> Result<Cpus> {
        let online = online(&self.kernel)?;
        let levels = scope.levels(&self.kernel, Controller::Cpuset)?;
        let mut usable = None;
        for dir in levels.dirs {
            usable = levels.version.cpuset(dir)?;
            if usable.is_some() {
                break;
            }
        }
        let levels = scope.levels(&self.kernel, Controller::Cpu)?;
        let mut bandwidths = Vec::with_capacity(levels.dirs.len());
        for dir in levels.dirs {
            bandwidths.push(levels.version.bandwidth(dir)?);
        }
        let paid = tightest(bandwidths).and_then(|bandwidth| self.cpu_count.of(bandwidth));
        // Who administers the host needs its numbers.
        let ids = if scope.is_host { CpuIds::Physical } else { self.cpu_ids };
        Ok(present(&online, usable.as_ref(), paid, ids))
    }
}

/// For how long the container was throttled.
fn throttled(kernel: &Kernel, scope: &Scope<'_>) -> Result<Nsec> {
    let levels = scope.levels(kernel, Controller::Cpu)?;
    levels.dirs.first().map_or(Ok(Nsec(0)), |dir| levels.version.throttled(dir))
}

/// The CPUs that run, by sysfs; without it, or where it says nothing of use, by `/proc/stat`.
fn online(kernel: &Kernel) -> Result<CpuSet> {
    let error = match kernel.sys.online_cpus() {
        Ok(online) => return Ok(online),
        Err(error) => error,
    };
    let online = stat::online_cpus(&kernel.proc.shared_record("stat")?);
    if online.is_empty() {
        return Err(error);
    }
    error::report(&error);
    Ok(online)
}

/// Of the `usable` CPUs that are `online`, the first ones: as many as are paid for.
fn present(online: &CpuSet, usable: Option<&CpuSet>, paid: Option<usize>, ids: CpuIds) -> Cpus {
    let narrowed = usable.map(|usable| usable.intersection(online));
    // A set whose CPUs are all offline is one that the kernel is about to widen.
    let usable = narrowed.filter(|cpus| !cpus.is_empty()).unwrap_or_else(|| online.clone());
    let present = Present::new(usable.first(paid.unwrap_or(usize::MAX)), ids);
    Cpus { limited: present.numbers() != *online, present }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(text: &str) -> CpuSet {
        CpuSet::parse(text.as_bytes()).unwrap()
    }

    fn shown(online: &str, usable: Option<&str>, quota: Option<(u64, u64)>) -> (String, bool) {
        let paid = quota.and_then(|(quota, period)| CpuCount::Ceil.of(Bandwidth { quota, period }));
        let found = present(&cpus(online), usable.map(cpus).as_ref(), paid, CpuIds::Physical);
        (found.present.numbers().to_string(), found.limited)
    }

    #[test]
    fn a_machine_with_gaps_that_shows_none_is_not_the_hosts() {
        let limited = |online, ids| present(&cpus(online), None, None, ids).limited;
        assert!(limited("0-2,4", CpuIds::Compact) && !limited("0-2,4", CpuIds::Physical));
        assert!(!limited("0-3", CpuIds::Compact));
    }

    #[test]
    fn without_limits_all_that_run() {
        assert_eq!(shown("0-2,4", None, None), ("0-2,4".into(), false));
        assert_eq!(shown("0-3", Some("0-3"), None), ("0-3".into(), false));
        assert_eq!(shown("0-3", None, Some((800_000, 100_000))), ("0-3".into(), false));
    }

    #[test]
    fn a_quota_pays_for_the_first_ones_rounded_up() {
        assert_eq!(shown("0-7", Some("2-6"), Some((250_000, 100_000))), ("2-4".into(), true));
        assert_eq!(shown("0-3", None, Some((50_000, 100_000))), ("0".into(), true));
        assert_eq!(shown("0-3", None, Some((0, 100_000))), ("0".into(), true));
        assert_eq!(shown("0-3", None, Some((200_000, 100_000))), ("0-1".into(), true));
        assert_eq!(shown("0-3", None, Some((200_001, 100_000))), ("0-2".into(), true));
    }

    #[test]
    fn quotas_are_rounded_as_told() {
        let counts = |text: &str| {
            let rule: CpuCount = text.parse().unwrap();
            [0, 49, 50, 149, 150, 200].map(|quota| rule.of(Bandwidth { quota, period: 100 }))
        };
        assert_eq!(counts("ceil"), [1, 1, 1, 2, 2, 2].map(Some));
        assert_eq!(counts("floor"), [1, 1, 1, 1, 1, 2].map(Some));
        assert_eq!(counts("round"), [1, 1, 1, 1, 2, 2].map(Some));
        assert_eq!(counts("cpuset"), [None; 6]);
        // A period that has no half.
        let odd = Bandwidth { quota: 4, period: 3 };
        assert_eq!(CpuCount::Round.of(odd), Some(1));
        assert_eq!("up".parse::<CpuCount>(), Err("expected ceil, floor, round or cpuset"));
    }

    #[test]
    fn only_cpus_that_run() {
        assert_eq!(
            shown("0-2,4-5,7", Some("2-6"), Some((250_000, 100_000))),
            ("2,4-5".into(), true)
        );
        assert_eq!(shown("0-1", Some("4"), None), ("0-1".into(), false));
    }
}
