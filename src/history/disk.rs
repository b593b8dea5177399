//! The record behind `/proc/diskstats`: a counter that the kernel reset continues from the
//! last shown value. Pure.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::cgroup::stats::{Io, IoCounts};
use crate::procfs::diskstats::Device;

use super::Step;

/// What is remembered of a container's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    disks: HashMap<Device, Disk>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Disk {
    /// The last reading.
    raw: IoCounts,
    /// What was shown before the last reset.
    base: IoCounts,
}

impl Record {
    /// Takes in a reading, and tells what to show: for each device the counts since the
    /// container began, and none that was ever shown is lost.
    pub fn update(&mut self, now: &Io) -> Step<Io> {
        let is_known = |(device, raw): &(Device, IoCounts)| {
            self.disks.get(device).is_some_and(|disk| disk.raw == *raw)
        };
        if now.iter().all(is_known) {
            return Step::Same(self.shown());
        }
        for &(device, raw) in now {
            let disk = self.disks.entry(device).or_default();
            if was_reset(&disk.raw, &raw) {
                disk.base = sum(&disk.base, &disk.raw);
            }
            disk.raw = raw;
        }
        Step::Changed(self.shown())
    }

    fn shown(&self) -> Io {
        let mut shown: Io =
            self.disks.iter().map(|(device, disk)| (*device, sum(&disk.base, &disk.raw))).collect();
        shown.sort_unstable_by_key(|(device, _)| *device);
        shown
    }
}

/// Whether any counter is smaller than it was.
fn was_reset(before: &IoCounts, now: &IoCounts) -> bool {
    fields(before).into_iter().zip(fields(now)).any(|(before, now)| now < before)
}

fn fields(counts: &IoCounts) -> [u64; 6] {
    [counts.rbytes, counts.wbytes, counts.dbytes, counts.rios, counts.wios, counts.dios]
}

fn sum(a: &IoCounts, b: &IoCounts) -> IoCounts {
    IoCounts {
        rbytes: a.rbytes.saturating_add(b.rbytes),
        wbytes: a.wbytes.saturating_add(b.wbytes),
        dbytes: a.dbytes.saturating_add(b.dbytes),
        rios: a.rios.saturating_add(b.rios),
        wios: a.wios.saturating_add(b.wios),
        dios: a.dios.saturating_add(b.dios),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SDA: Device = Device { major: 8, minor: 0 };
    const SDB: Device = Device { major: 8, minor: 16 };

    fn counts(rbytes: u64, rios: u64) -> IoCounts {
        IoCounts { rbytes, rios, wbytes: 1, wios: 2, dbytes: 3, dios: 4 }
    }

    #[test]
    fn readings_are_shown_as_they_are() {
        let mut record = Record::default();
        let now = vec![(SDB, counts(5, 1)), (SDA, counts(10, 2))];
        let shown = vec![(SDA, counts(10, 2)), (SDB, counts(5, 1))];
        assert_eq!(record.update(&now), Step::Changed(shown.clone()));
        assert_eq!(record.update(&now), Step::Same(shown));
    }

    #[test]
    fn after_a_reset_counting_goes_on() {
        let mut record = Record::default();
        record.update(&vec![(SDA, counts(100, 10))]);
        let shown =
            record.update(&vec![(SDA, IoCounts { rbytes: 7, rios: 1, ..IoCounts::default() })]);
        let expected = IoCounts { rbytes: 107, rios: 11, wbytes: 1, wios: 2, dbytes: 3, dios: 4 };
        assert_eq!(shown, Step::Changed(vec![(SDA, expected)]));
        // A device that the kernel no longer lists keeps what was shown.
        assert_eq!(record.update(&Vec::new()), Step::Same(vec![(SDA, expected)]));
    }
}
