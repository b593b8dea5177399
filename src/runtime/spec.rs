//! What a container is to be, and the spellings in which a person says so (Docker's).

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use super::confinement;
use crate::cgroup::apply::{CPU_PERIOD, Limits};
use crate::cpulist::CpuSet;
use crate::units::{Bytes, Usec};

/// Docker's smallest memory limit: below it a container cannot even be started.
pub const MEMORY_MIN: Bytes = Bytes(6 << 20);

/// The kernel's smallest CPU quota, 1 ms (`min_cfs_quota_period`).
pub const CPU_QUOTA_MIN: Usec = Usec(1_000);

/// A container to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// What it may use.
    pub limits: Limits,
    /// Its root directory, used as it is; none for a throw-away copy of the host's root.
    pub rootfs: Option<PathBuf>,
    /// What it may do.
    pub confinement: confinement::Asked,
    /// Its first process.
    pub process: Process,
}

/// A process to start in a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The command and its arguments.
    pub command: Vec<OsString>,
    /// Variables of its environment, `NAME=VALUE`, over those that each process has there; a
    /// `NAME` alone takes that variable away.
    pub environment: Vec<OsString>,
    /// Its working directory in the container, absolute; none for `/`.
    pub directory: Option<PathBuf>,
}

/// Parses a memory size: digits and b, k, m, g or t (binary units, either case), after which
/// `b` or `ib` may follow. Docker's spelling, without its fractions.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_memory(text: &str) -> Result<Bytes, String> {
    const EXPECTED: &str = "expected a number, with b, k, m, g or t behind it if not bytes";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().map_err(|_| EXPECTED.to_owned())?;
    let shift = match text[digits..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(EXPECTED.to_owned()),
    };
    // The kernel's counters are signed: what exceeds them would read as no limit at all.
    let most = i64::MAX.unsigned_abs() >> shift;
    if number > most {
        return Err("the size does not fit in 63 bits".to_owned());
    }
    let size = Bytes(number << shift);
    if size < MEMORY_MIN {
        return Err(format!("the smallest memory limit is {} MiB", MEMORY_MIN.0 >> 20));
    }
    Ok(size)
}

/// Parses a number of CPUs (`1`, `0.5`, `.25`) to the quota that allows it.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_cpus(text: &str) -> Result<Usec, String> {
    const EXPECTED: &str = "expected a number of CPUs above 0, such as 2 or 0.5";
    let expected = || EXPECTED.to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
        return Err(expected());
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| expected())? };
    let mut quota = whole.checked_mul(CPU_PERIOD.0).ok_or_else(expected)?;
    let mut unit = CPU_PERIOD.0;
    for digit in fraction.bytes() {
        unit /= 10;
        quota = quota.checked_add(u64::from(digit - b'0') * unit).ok_or_else(expected)?;
    }
    if quota < CPU_QUOTA_MIN.0 {
        let least = "0.01";
        return Err(if quota == 0 && text.bytes().all(|byte| matches!(byte, b'0' | b'.')) {
            expected()
        } else {
            format!("the smallest number of CPUs is {least}")
        });
    }
    Ok(Usec(quota))
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

/// Parses a variable of the environment: `NAME=VALUE`, or a `NAME` that has the value that it
/// has here.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_variable(text: OsString) -> Result<OsString, String> {
    let name_length = text.as_bytes().iter().position(|&byte| byte == b'=');
    match name_length.unwrap_or(text.len()) {
        0 => Err("expected NAME=VALUE, or the NAME of a variable".to_owned()),
        length if length < text.len() => Ok(text),
        _ => Ok(match env::var_os(&text) {
            Some(value) => [text.as_os_str(), "=".as_ref(), &value].into_iter().collect(),
            None => text,
        }),
    }
}

/// Parses a directory in the container.
///
/// # Errors
/// What was expected, for a person.
pub fn parse_directory(text: &str) -> Result<PathBuf, String> {
    let directory = PathBuf::from(text);
    if directory.is_absolute() {
        Ok(directory)
    } else {
        Err("expected an absolute path in the container".to_owned())
    }
}

/// Whether `limits` can be had on a host whose online CPUs are `online`.
///
/// # Errors
/// What was asked for and what there is, for a person.
pub fn check_cpus(limits: &Limits, online: &CpuSet) -> Result<(), String> {
    let most = CPU_PERIOD.0.saturating_mul(online.len() as u64);
    if limits.cpu_quota.is_some_and(|quota| quota.0 > most) {
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
        for (text, mib) in [
            ("6m", 6),
            ("256m", 256),
            ("256M", 256),
            ("256mb", 256),
            ("256MiB", 256),
            ("262144k", 256),
            ("268435456", 256),
            ("268435456b", 256),
            ("1g", 1024),
            ("2T", 2 << 20),
        ] {
            assert_eq!(parse_memory(text), Ok(Bytes(mib << 20)), "{text}");
        }
    }

    #[test]
    fn other_sizes_are_refused() {
        for text in ["", "m", "12q", "-1m", "1.5g", " 1g", "1 g", "1gg", "1bb", "1bib", "0x10m"] {
            assert!(parse_memory(text).unwrap_err().starts_with("expected"), "{text}");
        }
        for text in ["0", "5m", "6291455"] {
            assert!(parse_memory(text).unwrap_err().contains("smallest"), "{text}");
        }
        for text in ["9223372036854775808", "8388608t"] {
            assert!(parse_memory(text).unwrap_err().contains("63 bits"), "{text}");
        }
        assert!(parse_memory("99999999999999999999").is_err());
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
            assert_eq!(parse_cpus(text), Ok(Usec(quota)), "{text}");
        }
        for text in ["", ".", "0", "0.0", "-1", "1e3", "+1", "1.2.3", "abc", "inf", "1,5"] {
            assert!(parse_cpus(text).unwrap_err().starts_with("expected"), "{text}");
        }
        for text in ["0.001", "0.0099", "0.00000001"] {
            assert!(parse_cpus(text).unwrap_err().contains("smallest"), "{text}");
        }
        assert!(parse_cpus("999999999999999999999").is_err());
        assert!(parse_cpus("184467440737096").is_err());
    }

    #[test]
    fn sets_of_cpus() {
        assert_eq!(parse_cpuset("1,0").unwrap().to_string(), "0-1");
        for text in ["", ",", "0,", "2-1", "a", "-1", "0-", "1-2-3", "+1", "0 1"] {
            assert!(parse_cpuset(text).unwrap_err().starts_with("expected"), "{text}");
        }
    }

    #[test]
    fn variables_with_a_value_or_the_callers() {
        let parse = |text: &str| parse_variable(text.into());
        assert_eq!(parse("A=b=c"), Ok("A=b=c".into()));
        assert_eq!(parse("A="), Ok("A=".into()));
        let own = env::var_os("PATH").unwrap();
        assert_eq!(parse("PATH"), Ok(["PATH=".into(), own].into_iter().collect()));
        assert_eq!(parse("NOT_SET_HERE"), Ok("NOT_SET_HERE".into()));
        for text in ["", "=x"] {
            assert!(parse(text).unwrap_err().starts_with("expected"), "{text}");
        }
    }

    #[test]
    fn cpus_that_the_host_lacks() {
        let online = CpuSet::from_iter([0, 1, 3]);
        let quota = |quota| Limits { cpu_quota: Some(Usec(quota)), ..Limits::default() };
        assert!(check_cpus(&quota(300_000), &online).is_ok());
        assert!(check_cpus(&quota(300_001), &online).unwrap_err().contains("3 CPUs"));
        let set = |cpus: &str| Limits {
            cpuset_cpus: Some(parse_cpuset(cpus).unwrap()),
            ..Limits::default()
        };
        assert!(check_cpus(&set("0-1,3"), &online).is_ok());
        assert!(check_cpus(&set("0-2"), &online).unwrap_err().contains("0-1,3 are online"));
        assert!(check_cpus(&Limits::default(), &online).is_ok());
    }
}
