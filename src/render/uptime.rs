//! `/proc/uptime`: two numbers of seconds, in hundredths.

use crate::units::Nsec;

pub(super) fn render(up: Nsec, idle: Nsec) -> Vec<u8> {
    format!("{} {}\n", hundredths(up), hundredths(idle)).into_bytes()
}

/// Rounded down, as the kernel does.
fn hundredths(span: Nsec) -> String {
    const NSEC_PER_HUNDREDTH: u64 = Nsec::PER_SEC / 100;
    let hundredths = span.0 / NSEC_PER_HUNDREDTH;
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hundredths_of_seconds() {
        assert_eq!(render(Nsec(3_079_999_999), Nsec(600_000_000_000)), b"3.07 600.00\n");
        assert_eq!(render(Nsec(0), Nsec(9_999_999)), b"0.00 0.00\n");
    }
}
