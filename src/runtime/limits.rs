//! The limits of a container in the spellings in which a person says them: Docker's, in which
//! 0 is no limit.

use crate::cgroup::limits::{CPU_PERIOD, Limits, MemoryAndSwap};
use crate::cpulist::CpuSet;
use crate::units::{Bytes, Limit, Usec};

/// Docker's smallest memory limit: below it a container cannot even be started.
pub const MEMORY_MIN: Bytes = Bytes(6 << 20);

/// The kernel's smallest CPU quota and period, 1 ms (`min_cfs_quota_period`).
pub const CPU_MIN: Usec = Usec(1_000);

/// The kernel's longest period, 1 s (`max_cfs_quota_period`).
pub const CPU_PERIOD_MAX: Usec = Usec(1_000_000);

/// The most processes that a kernel can have, `PID_MAX_LIMIT` of linux/threads.h.
pub const PIDS_MAX: u64 = 4 << 20;

/// Parses a size: a number, with or without a fraction, and b, k, m, g, t or p (binary units,
/// either case), after which `b` or `ib` may follow. What is left of a byte is cut off.
fn parse_size(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected a number, with b, k, m, g, t or p behind it if not bytes";
    const TOO_LARGE: &str = "the size does not fit in 63 bits";
    /// So many digits of a fraction that 1 p has no finer byte.
    const FRACTION_DIGITS: usize = 18;

    let is_number = |byte: &u8| byte.is_ascii_digit() || *byte == b'.';
    let (number, unit) = text.split_at(text.bytes().take_while(|byte| is_number(byte)).count());
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(EXPECTED.to_owned()),
        None => (number, ""),
    };
    if whole.is_empty() || fraction.contains('.') {
        return Err(EXPECTED.to_owned());
    }
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(EXPECTED.to_owned()),
    };
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let scale = u32::try_from(fraction.len()).map_err(|_| EXPECTED)?;
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().unwrap_or(0) };
    // The kernel's counters are signed: what exceeds them would read as no limit at all.
    let whole: u64 = whole.parse().map_err(|_| TOO_LARGE)?;
    let size = (u128::from(whole) << shift) + (fraction << shift) / 10_u128.pow(scale);
    match u64::try_from(size) {
        Ok(size) if i64::try_from(size).is_ok() => Ok(size),
        _ => Err(TOO_LARGE.to_owned()),
    }
}

/// Parses a memory limit.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_memory(text: &str) -> Result<Limit<Bytes>, String> {
    match parse_size(text)? {
        0 => Ok(Limit::Max),
        size if size < MEMORY_MIN.0 => {
            Err(format!("the smallest memory limit is {} MiB", MEMORY_MIN.0 >> 20))
        }
        size => Ok(Limit::At(Bytes(size))),
    }
}

/// Parses a limit of memory and swap together; -1 for as much swap as the host has, and 0 for
/// what is usual.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_memory_swap(text: &str) -> Result<MemoryAndSwap, String> {
    if text == "-1" {
        return Ok(MemoryAndSwap::Asked(Limit::Max));
    }
    match parse_size(text).map_err(|error| error.replace("expected", "expected -1, or"))? {
        0 => Ok(MemoryAndSwap::Twice),
        size => Ok(MemoryAndSwap::Asked(Limit::At(Bytes(size)))),
    }
}

/// Parses a number of CPUs (`1`, `0.5`, `.25`) to the quota of [`CPU_PERIOD`] that allows it.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_cpus(text: &str) -> Result<Limit<Usec>, String> {
    const EXPECTED: &str = "expected a number of CPUs, such as 2 or 0.5";
    let expected = || EXPECTED.to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return Err(expected());
    }
    if text.bytes().all(|byte| matches!(byte, b'0' | b'.')) {
        return Ok(Limit::Max);
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| expected())? };
    let mut quota = whole.checked_mul(CPU_PERIOD.0).ok_or_else(expected)?;
    let mut unit = CPU_PERIOD.0;
    for digit in fraction.bytes() {
        unit /= 10;
        quota = quota.checked_add(u64::from(digit - b'0') * unit).ok_or_else(expected)?;
    }
    if quota < CPU_MIN.0 {
        return Err("the smallest number of CPUs is 0.01".to_owned());
    }
    Ok(Limit::At(Usec(quota)))
}

/// Parses a CPU quota in microseconds; what is not above 0 is no limit.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_cpu_quota(text: &str) -> Result<Limit<Usec>, String> {
    let quota: i64 = text.parse().map_err(|_| "expected microseconds, such as 50000")?;
    match u64::try_from(quota) {
        Err(_) | Ok(0) => Ok(Limit::Max),
        Ok(quota) if quota < CPU_MIN.0 => {
            Err(format!("the smallest quota is {} microseconds", CPU_MIN.0))
        }
        Ok(quota) => Ok(Limit::At(Usec(quota))),
    }
}

/// Parses the period of a CPU quota in microseconds; 0 for the usual one.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_cpu_period(text: &str) -> Result<Usec, String> {
    match text.parse() {
        Ok(0) => Ok(CPU_PERIOD),
        Ok(period) if (CPU_MIN.0..=CPU_PERIOD_MAX.0).contains(&period) => Ok(Usec(period)),
        _ => Err(format!("expected {} to {} microseconds", CPU_MIN.0, CPU_PERIOD_MAX.0)),
    }
}

/// Parses the CPUs that a container may run on (`0-2,4`).
///
/// # Errors
/// What was expected, for a person.
pub fn parse_cpuset(text: &str) -> Result<CpuSet, String> {
    CpuSet::parse(text.as_bytes())
        .filter(|cpus| !cpus.is_empty())
        .ok_or_else(|| "expected CPU numbers and ranges, such as 0-2,4".to_owned())
}

/// Parses a number of processes and threads; what is not above 0 is no limit.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_pids(text: &str) -> Result<Limit<u64>, String> {
    let expected = || format!("expected a number of processes up to {PIDS_MAX}, or -1 for any");
    let pids: i64 = text.parse().map_err(|_| expected())?;
    match u64::try_from(pids) {
        Err(_) | Ok(0) => Ok(Limit::Max),
        Ok(pids) if pids <= PIDS_MAX => Ok(Limit::At(pids)),
        Ok(_) => Err(expected()),
    }
}

/// Whether `limits` go together, and can be had on a host whose online CPUs are `online`.
///
/// # Errors
/// What was asked for and what there is, for a person.
pub fn check(limits: &Limits, online: &CpuSet) -> Result<(), String> {
    match (limits.memory, limits.memory_and_swap) {
        (Limit::Max, MemoryAndSwap::Asked(Limit::At(_))) => {
            return Err("--memory-swap: memory and swap together: takes --memory too".to_owned());
        }
        (Limit::At(memory), MemoryAndSwap::Asked(Limit::At(both))) if both < memory => {
            return Err("--memory-swap: memory and swap together: less than --memory".to_owned());
        }
        _ => {}
    }
    let most = CPU_PERIOD.0.saturating_mul(online.len() as u64);
    if limits.cpus.finite().is_some_and(|quota| quota.0 > most) {
        return Err(format!("--cpus: more than the {} CPUs that are online", online.len()));
    }
    match &limits.cpuset_cpus {
        Some(cpus) if cpus.intersection(online) != *cpus => {
            Err(format!("--cpuset-cpus {cpus}: of these only {online} are online"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes_as_docker_spells_them() {
        for (text, kib) in [
            ("6m", 6 << 10),
            ("256m", 256 << 10),
            ("256M", 256 << 10),
            ("256mb", 256 << 10),
            ("256MiB", 256 << 10),
            ("256 m", 256 << 10),
            ("262144k", 256 << 10),
            ("268435456", 256 << 10),
            ("268435456b", 256 << 10),
            ("1g", 1 << 20),
            ("1.5g", 3 << 19),
            ("10.5M", 10752),
            ("0.0625g", 64 << 10),
            ("007m", 7 << 10),
            ("2T", 2 << 30),
            ("64p", 64 << 40),
        ] {
            assert_eq!(parse_memory(text), Ok(Limit::At(Bytes(kib << 10))), "{text}");
        }
        assert_eq!(parse_memory("0.01g"), Ok(Limit::At(Bytes(10_737_418))));
        assert_eq!(parse_memory("1.0000000000000000000000001g"), parse_memory("1g"));
        assert_eq!(parse_memory("0"), Ok(Limit::Max));
        assert_eq!(parse_memory("9223372036854775807"), Ok(Limit::At(Bytes(u64::MAX >> 1))));
    }

    #[test]
    fn other_sizes_are_refused() {
        for text in [
            "", "m", "12q", "-1", "-1m", " 1g", "1  g", "1 g ", "1gg", "1bb", "1bib", "0x10m",
            ".5g", "7.m", "7.", "1.2.3g", "..", "1e8", "+64m", "1_0m", "inf", "1,5g",
        ] {
            assert!(parse_memory(text).unwrap_err().starts_with("expected"), "{text}");
        }
        for text in ["1", "5m", "6291455", "5.9999m"] {
            assert!(parse_memory(text).unwrap_err().contains("smallest"), "{text}");
        }
        for text in ["9223372036854775808", "8388608t", "8192p", "99999999999999999999"] {
            assert!(parse_memory(text).unwrap_err().contains("63 bits"), "{text}");
        }
    }

    #[test]
    fn memory_and_swap_go_together() {
        assert_eq!(parse_memory_swap("-1"), Ok(MemoryAndSwap::Asked(Limit::Max)));
        assert_eq!(parse_memory_swap("0"), Ok(MemoryAndSwap::Twice));
        assert_eq!(parse_memory_swap("1k"), Ok(MemoryAndSwap::Asked(Limit::At(Bytes(1024)))));
        assert!(parse_memory_swap("-2").unwrap_err().starts_with("expected -1, or a number"));

        let limits = |memory: &str, both: &str| Limits {
            memory: parse_memory(memory).unwrap(),
            memory_and_swap: parse_memory_swap(both).unwrap(),
            ..Limits::default()
        };
        let check = |memory: &str, both: &str| check(&limits(memory, both), &CpuSet::default());
        for (memory, both) in [("64m", "64m"), ("64m", "65m"), ("64m", "-1"), ("0", "-1")] {
            assert_eq!(check(memory, both), Ok(()), "{memory} {both}");
        }
        assert!(check("64m", "63m").unwrap_err().contains("less than --memory"));
        assert!(check("0", "64m").unwrap_err().contains("takes --memory"));
    }

    #[test]
    fn numbers_of_cpus() {
        for (text, quota) in [
            ("1", 100_000),
            ("0.5", 50_000),
            (".5", 50_000),
            ("2.", 200_000),
            ("1.50", 150_000),
            ("0.01", 1_000),
            ("2.123456789", 212_345),
        ] {
            assert_eq!(parse_cpus(text), Ok(Limit::At(Usec(quota))), "{text}");
        }
        for text in ["0", "0.0", "0."] {
            assert_eq!(parse_cpus(text), Ok(Limit::Max), "{text}");
        }
        for text in ["", ".", "-1", "1e3", "+1", "1.2.3", "abc", "inf", "1,5"] {
            assert!(parse_cpus(text).unwrap_err().starts_with("expected"), "{text}");
        }
        for text in ["0.001", "0.0099", "0.00000001"] {
            assert!(parse_cpus(text).unwrap_err().contains("smallest"), "{text}");
        }
        assert!(parse_cpus("999999999999999999999").is_err());
        assert!(parse_cpus("184467440737096").is_err());
    }

    #[test]
    fn quotas_periods_and_pids() {
        assert_eq!(parse_cpu_quota("1000"), Ok(Limit::At(Usec(1000))));
        for text in ["0", "-1", "-5"] {
            assert_eq!(parse_cpu_quota(text), Ok(Limit::Max), "{text}");
            assert_eq!(parse_pids(text), Ok(Limit::Max), "{text}");
        }
        assert!(parse_cpu_quota("999").unwrap_err().contains("smallest"));
        assert_eq!(parse_cpu_period("0"), Ok(CPU_PERIOD));
        assert_eq!(parse_cpu_period("1000"), Ok(Usec(1000)));
        assert_eq!(parse_cpu_period("1000000"), Ok(Usec(1_000_000)));
        for text in ["999", "1000001", "-1", "x", ""] {
            assert!(parse_cpu_period(text).unwrap_err().starts_with("expected"), "{text}");
        }
        assert_eq!(parse_pids("1"), Ok(Limit::At(1)));
        assert_eq!(parse_pids("4194304"), Ok(Limit::At(4_194_304)));
        for text in ["", "x", "1.5", "4194305", "99999999999999999999"] {
            assert!(parse_pids(text).unwrap_err().starts_with("expected"), "{text}");
        }
        assert!(parse_cpu_quota("1.5").unwrap_err().starts_with("expected"));
    }

    #[test]
    fn sets_of_cpus() {
        assert_eq!(parse_cpuset("1,0").unwrap().to_string(), "0-1");
        for text in ["", ",", "0,", "2-1", "a", "-1", "0-", "1-2-3", "+1", "0 1"] {
            assert!(parse_cpuset(text).unwrap_err().starts_with("expected"), "{text}");
        }
    }

    #[test]
    fn cpus_that_the_host_lacks() {
        let online = CpuSet::from_iter([0, 1, 3]);
        let cpus = |quota| Limits { cpus: Limit::At(Usec(quota)), ..Limits::default() };
        assert!(check(&cpus(300_000), &online).is_ok());
        assert!(check(&cpus(300_001), &online).unwrap_err().contains("3 CPUs"));
        let set = |cpus: &str| Limits {
            cpuset_cpus: Some(parse_cpuset(cpus).unwrap()),
            ..Limits::default()
        };
        assert!(check(&set("0-1,3"), &online).is_ok());
        assert!(check(&set("0-2"), &online).unwrap_err().contains("0-1,3 are online"));
        assert!(check(&Limits::default(), &online).is_ok());
    }
}
