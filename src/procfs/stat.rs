//! `/proc/stat`: the machine's counters since boot, `fs/proc/stat.c`.

use crate::cpulist::CpuSet;

use super::lines;

/// How many numbers the host's `cpu` line has: user, nice, system, idle, iowait, irq, softirq,
/// steal, guest and guest_nice; kernels before 2.6.33 have fewer. All of them where the line is
/// missing or has not even the four that every kernel had.
#[must_use]
pub fn cpu_columns(text: &[u8]) -> usize {
    const ALL: usize = 10;
    const LEAST: usize = 4;
    lines(text)
        .find_map(|line| line.strip_prefix(b"cpu "))
        .map(|line| line.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).count())
        .filter(|&columns| columns >= LEAST)
        .map_or(ALL, |columns| columns.min(ALL))
}

/// The CPUs that run: those that have a line of their own.
#[must_use]
pub fn online_cpus(text: &[u8]) -> CpuSet {
    lines(text)
        .filter_map(|line| {
            let number = line.strip_prefix(b"cpu")?.split(|&byte| byte == b' ').next()?;
            CpuSet::parse(number).filter(|cpus| cpus.len() == 1)?.iter().next()
        })
        .collect()
}

/// `btime`: the wall-clock second at which the machine booted.
#[must_use]
pub fn boot_time(text: &[u8]) -> Option<u64> {
    lines(text)
        .find_map(|line| line.strip_prefix(b"btime "))
        .and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_with_a_line() {
        let text = b"cpu  1 2\ncpu0 1\ncpu3 1\ncpux 1\ncpu5-6 1\ncpu\nintr 3\n";
        assert_eq!(online_cpus(text), [0, 3].into_iter().collect());
        assert!(online_cpus(b"").is_empty());
    }

    #[test]
    fn columns_and_boot_time() {
        let text = b"cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nbtime 1795241653\n";
        assert_eq!(cpu_columns(text), 10);
        assert_eq!(boot_time(text), Some(1_795_241_653));
        assert_eq!(cpu_columns(b"cpu  1 2 3 4 5 6 7 8\n"), 8);
        assert_eq!(cpu_columns(b"cpu  1 2 3 4\n"), 4);
        assert_eq!(cpu_columns(b"cpu 1 2 3 4 5\n"), 5);
        assert_eq!(cpu_columns(b"cpu  1 2 3 4 5 6 7 8 9 10 11\n"), 10);
        for odd in [&b""[..], b"cpu  1 2 3\n", b"cpu \n", b"cpu0 1 2 3 4 5\n"] {
            assert_eq!(cpu_columns(odd), 10);
        }
        assert_eq!(boot_time(b"btime x\n"), None);
        assert_eq!(boot_time(b"xbtime 3\n"), None);
    }
}
