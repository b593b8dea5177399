//! The files of one process: `/proc/PID/stat`, `status` and `timens_offsets`.

use crate::units::Nsec;

/// What is needed of `/proc/PID/stat`, `proc_pid_stat(5)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Field 3, one letter: `R` runs or is runnable, `D` waits uninterruptibly.
    pub state: u8,
    /// Field 14, CPU time used in the program and not in the kernel; a resolution of one tick.
    pub user: Nsec,
    /// Field 22, CLOCK_BOOTTIME of the host's clock when the process started; a resolution of
    /// one tick.
    pub start_time: Nsec,
}

/// Parses `/proc/PID/stat`. The command name in parentheses may hold blanks, newlines and
/// parentheses, so fields count from the last `)`.
#[must_use]
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    const BEFORE_USER: usize = 10;
    const BEFORE_START_TIME: usize = 7;
    let name_end = text.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(&text[name_end + 1..]).ok()?;
    let mut fields = fields.split_ascii_whitespace();
    let &[state] = fields.next()?.as_bytes() else { return None };
    let mut next = |skipped: usize| fields.nth(skipped)?.parse().ok().map(Nsec::from_ticks);
    let user = next(BEFORE_USER)?;
    let start_time = next(BEFORE_START_TIME)?;
    Some(Stat { state, user, start_time })
}

/// The value of one line of `/proc/PID/status`, `proc_pid_status(5)`.
///
/// The first line is the command name, in which the kernel escapes newlines, so no process
/// can forge a line.
fn status_value<'a>(text: &'a [u8], key: &str) -> Option<&'a str> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let value = line.strip_prefix(key.as_bytes())?.strip_prefix(b":")?;
        Some(std::str::from_utf8(value).ok()?.trim())
    })
}

/// `Tgid`: the thread group that a thread belongs to.
#[must_use]
pub fn parse_thread_group(status: &[u8]) -> Option<u32> {
    status_value(status, "Tgid")?.parse().ok()
}

/// `State`, one letter: `R` runs or is runnable, `D` waits uninterruptibly.
#[must_use]
pub fn parse_state(status: &[u8]) -> Option<u8> {
    status_value(status, "State")?.bytes().next()
}

/// `voluntary_ctxt_switches`: how often it has begun to wait for something.
#[must_use]
pub fn parse_voluntary_switches(status: &[u8]) -> Option<u64> {
    status_value(status, "voluntary_ctxt_switches")?.parse().ok()
}

/// `CapEff`: the effective capabilities, capabilities(7), a bit for each.
#[must_use]
pub fn parse_effective_capabilities(status: &[u8]) -> Option<u64> {
    u64::from_str_radix(status_value(status, "CapEff")?, 16).ok()
}

/// `NSpid`, Linux 4.1: the process's number in each pid namespace, from the one that the
/// procfs belongs to down to its own.
#[must_use]
pub fn parse_ns_pids(status: &[u8]) -> Option<Vec<u32>> {
    status_value(status, "NSpid")?.split_ascii_whitespace().map(|pid| pid.parse().ok()).collect()
}

/// `boottime` of `/proc/PID/timens_offsets`, time_namespaces(7), Linux 5.6: what the time
/// namespace adds to CLOCK_BOOTTIME, in nanoseconds; negative where it began later than the
/// host.
#[must_use]
pub fn parse_boottime_offset(text: &[u8]) -> Option<i128> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
        // The kernel prints names since 5.6's final release; the numbers are its clock ids.
        if !matches!(words.next()?, "boottime" | "7") {
            return None;
        }
        let seconds: i64 = words.next()?.parse().ok()?;
        let nanoseconds: i64 = words.next()?.parse().ok()?;
        Some(i128::from(seconds) * i128::from(Nsec::PER_SEC) + i128::from(nanoseconds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &[u8] = b"42 (a) R 1 (x\n) S 1 42 42 0 -1 4194560 100 0 0 0 1 2 0 0 20 0 1 0 4711 1000 50 18446744073709551615 0\n";

    #[test]
    fn fields_count_from_the_last_parenthesis() {
        let stat = parse_stat(STAT).unwrap();
        assert_eq!(stat.state, b'S');
        assert_eq!((stat.user, stat.start_time), (Nsec::from_ticks(1), Nsec::from_ticks(4711)));
        for bad in [&b"42 (a"[..], b"42 (a) S 1", b"", b"42 (a) SS 1"] {
            assert_eq!(parse_stat(bad), None);
        }
    }

    #[test]
    fn status_lines() {
        let status = b"Name:\tTgid:\\n\nTgid:\t7\nPid:\t9\nNSpid:\t9\t3\t1\n";
        assert_eq!(parse_thread_group(status), Some(7));
        assert_eq!(parse_state(b"Name:\tx\nState:\tD (disk sleep)\n"), Some(b'D'));
        assert_eq!(parse_state(status), None);
        let switches = b"voluntary_ctxt_switches:\t150\nnonvoluntary_ctxt_switches:\t3\n";
        assert_eq!(parse_voluntary_switches(switches), Some(150));
        assert_eq!(parse_state(b"State:\t\n"), None);
        assert_eq!(parse_ns_pids(status), Some(vec![9, 3, 1]));
        assert_eq!(parse_thread_group(b"Pid:\t9\n"), None);
        assert_eq!(parse_ns_pids(b"NSpid:\t9\tx\n"), None);
    }

    #[test]
    fn offsets() {
        let text = b"monotonic           0         0\nboottime        -4000 500000000\n";
        assert_eq!(parse_boottime_offset(text), Some(-3_999_500_000_000));
        assert_eq!(parse_boottime_offset(b"monotonic 1 2\n7 3 4\n"), Some(3_000_000_004));
        assert_eq!(parse_boottime_offset(b"boottime x 0\n"), None);
        assert_eq!(parse_boottime_offset(b""), None);
    }
}
