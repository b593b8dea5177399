//! `/proc/diskstats`: one line per block device, `Documentation/admin-guide/iostats.rst`.

use serde::{Deserialize, Serialize};

/// A block device by its major and minor number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Device {
    /// Major number: the driver.
    pub major: u32,
    /// Minor number: the disk or partition.
    pub minor: u32,
}

impl Device {
    /// Parses `major:minor`, the form of the cgroup io files and of `/sys/dev/block`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Device> {
        let (major, minor) = text.split_once(':')?;
        Some(Device { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// The part of a line that names the device, and how many counters the kernel prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The device's numbers.
    pub device: Device,
    /// Its name below /dev.
    pub name: String,
    /// Counters after the name: 11, 15 with discards (4.18), 17 with flushes (5.5).
    pub counters: usize,
}

/// Parses all lines, in the host's order; malformed ones are passed over.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Line> {
    text.split(|&byte| byte == b'\n')
        .filter_map(|line| {
            let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
            let device =
                Device { major: words.next()?.parse().ok()?, minor: words.next()?.parse().ok()? };
            let name = words.next()?.to_owned();
            Some(Line { device, name, counters: words.count() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_counter_counts() {
        let text = b" 254       0 vda 26968 5540 1562882 8069 6612 5400 1058952 3617 0 5824 12089 3677 52 319456 332 1132 70\n   7       1 loop1 1 2 3 4 5 6 7 8 9 10 11\nbad\n 1 x y\n";
        let lines = parse(text);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].device, Device { major: 254, minor: 0 });
        assert_eq!((lines[0].name.as_str(), lines[0].counters), ("vda", 17));
        assert_eq!((lines[1].name.as_str(), lines[1].counters), ("loop1", 11));
    }

    #[test]
    fn device_numbers() {
        assert_eq!(Device::parse("8:16"), Some(Device { major: 8, minor: 16 }));
        assert_eq!(Device::parse("8"), None);
        assert_eq!(Device::parse("8:x"), None);
        assert_eq!(Device { major: 8, minor: 16 }.to_string(), "8:16");
    }
}
