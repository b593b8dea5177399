//! `/proc/stat`: the machine's counters since boot, `fs/proc/stat.c`.

/// How many numbers the host's `cpu` line has: user, nice, system, idle, iowait, irq, softirq,
/// steal, guest and guest_nice; kernels before 2.6.33 have fewer.
#[must_use]
pub fn cpu_columns(text: &[u8]) -> usize {
    const ALL: usize = 10;
    text.split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"cpu "))
        .map_or(ALL, |line| {
            line.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).count().min(ALL)
        })
}

/// `btime`: the wall-clock second at which the machine booted.
#[must_use]
pub fn boot_time(text: &[u8]) -> Option<u64> {
    text.split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"btime "))
        .and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_and_boot_time() {
        let text = b"cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nbtime 1795241653\n";
        assert_eq!(cpu_columns(text), 10);
        assert_eq!(boot_time(text), Some(1_795_241_653));
        assert_eq!(cpu_columns(b"cpu  1 2 3 4 5 6 7 8\n"), 8);
        assert_eq!(cpu_columns(b""), 10);
        assert_eq!(boot_time(b"btime x\n"), None);
        assert_eq!(boot_time(b"xbtime 3\n"), None);
    }
}
