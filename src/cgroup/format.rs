//! The grammars of cgroup files, `Documentation/admin-guide/cgroup-v2.rst` *Format*.
//!
//! Pure functions over bytes. A malformed line is passed over: what it would have said then
//! counts as missing, as the callers document.

use crate::procfs::diskstats::Device;
use crate::procfs::lines;
use crate::units::Limit;

/// A single unsigned number, as in `memory.current`.
#[must_use]
pub fn parse_number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// A number or `max`, as in `memory.max`.
#[must_use]
pub fn parse_limit(text: &[u8]) -> Option<Limit<u64>> {
    if text.trim_ascii() == b"max" {
        return Some(Limit::Max);
    }
    parse_number(text).map(Limit::At)
}

/// The lines of a flat-keyed file, `key value`, as in `memory.stat`.
pub fn flat_keyed(text: &[u8]) -> impl Iterator<Item = (&str, u64)> {
    lines(text).filter_map(|line| {
        let (key, value) = line.split_at_checked(memchr::memchr(b' ', line)?)?;
        Some((std::str::from_utf8(key).ok()?, parse_number(value)?))
    })
}

/// The lines of a nested-keyed file about devices, `MAJOR:MINOR key=value …`, as in `io.stat`.
pub fn device_keyed(
    text: &[u8],
) -> impl Iterator<Item = (Device, impl Iterator<Item = (&str, u64)>)> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        let device = Device::parse(words.next()?)?;
        let pairs = words.filter_map(|word| {
            let (key, value) = word.split_once('=')?;
            Some((key, parse_number(value.as_bytes())?))
        });
        Some((device, pairs))
    })
}

/// The microseconds for which some task stalled, of a pressure file:
/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=…`, Documentation/accounting/psi.rst.
#[must_use]
pub fn parse_some_total(text: &[u8]) -> Option<u64> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let averages = std::str::from_utf8(line).ok()?.strip_prefix("some ")?;
        let total = averages.split(' ').find_map(|word| word.strip_prefix("total="))?;
        parse_number(total.as_bytes())
    })
}

/// The lines of a v1 blkio file, `MAJOR:MINOR Operation value`; `Total` lines have no device
/// and are passed over.
pub fn device_operations(text: &[u8]) -> impl Iterator<Item = (Device, &str, u64)> {
    text.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        let device = Device::parse(words.next()?)?;
        let operation = words.next()?;
        let value = parse_number(words.next()?.as_bytes())?;
        words.next().is_none().then_some((device, operation, value))
    })
}

/// A CPU bandwidth: `quota` microseconds of CPU time in each `period` microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bandwidth {
    /// Microseconds of CPU time per period.
    pub quota: u64,
    /// Microseconds; never 0.
    pub period: u64,
}

/// Parses v2's `cpu.max`: `quota|max period`.
#[must_use]
pub fn parse_cpu_max(text: &[u8]) -> Option<Option<Bandwidth>> {
    let mut words = std::str::from_utf8(text).ok()?.split_ascii_whitespace();
    let quota = parse_limit(words.next()?.as_bytes())?;
    let period = parse_number(words.next()?.as_bytes()).filter(|&period| period > 0)?;
    if words.next().is_some() {
        return None;
    }
    Some(quota.finite().map(|quota| Bandwidth { quota, period }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_limits() {
        assert_eq!(parse_number(b"42\n"), Some(42));
        assert_eq!(parse_limit(b"max\n"), Some(Limit::Max));
        assert_eq!(parse_limit(b"42\n"), Some(Limit::At(42)));
        for bad in ["", "-1", "+1", "4x", "99999999999999999999"] {
            assert_eq!(parse_number(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse_limit(b"maxx"), None);
        assert_eq!(parse_number(b"\xff"), None);
    }

    #[test]
    fn keyed_lines() {
        let lines: Vec<_> = flat_keyed(b"anon 1\nfile 2\nbad\nx y\n\nanon_thp 3").collect();
        assert_eq!(lines, [("anon", 1), ("file", 2), ("anon_thp", 3)]);
        let mut devices = device_keyed(b"8:16 rbytes=1 wios=2 bad x=y\njunk\n253:0 \n");
        let (device, pairs) = devices.next().unwrap();
        assert_eq!(device, Device { major: 8, minor: 16 });
        assert_eq!(pairs.collect::<Vec<_>>(), [("rbytes", 1), ("wios", 2)]);
        assert_eq!(devices.next().unwrap().0, Device { major: 253, minor: 0 });
        assert!(devices.next().is_none());
        let text = b"8:0 Read 10\n8:0 Total 10\nTotal 10\n8:0 Write\n";
        let lines: Vec<_> = device_operations(text).collect();
        let device = Device { major: 8, minor: 0 };
        assert_eq!(lines, [(device, "Read", 10), (device, "Total", 10)]);
    }

    #[test]
    fn some_total() {
        let text = b"some avg10=1.00 avg60=2.00 avg300=3.00 total=42\nfull avg10=0.00 total=7\n";
        assert_eq!(parse_some_total(text), Some(42));
        for bad in ["", "some\n", "some total=x\n", "full total=7\n", "some avg10=0.00\n"] {
            assert_eq!(parse_some_total(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn bandwidth() {
        assert_eq!(
            parse_cpu_max(b"150000 100000\n"),
            Some(Some(Bandwidth { quota: 150_000, period: 100_000 }))
        );
        assert_eq!(parse_cpu_max(b"max 100000\n"), Some(None));
        for bad in ["", "max", "1 0", "1 x", "1 2 3"] {
            assert_eq!(parse_cpu_max(bad.as_bytes()), None, "{bad}");
        }
    }
}
