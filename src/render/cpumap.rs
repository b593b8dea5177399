//! Bit maps of CPUs as the kernel's `%*pb` prints them: hexadecimal, the last digit for CPUs 0
//! to 3, in groups of 32 bits.

use crate::facts::{CpuSet, Present};

/// The host's map without the CPUs that are not present, the others by the numbers by which they
/// are shown. It stays as wide as it is.
pub(super) fn render(host: &[u8], present: &Present) -> Vec<u8> {
    let mut text = host.to_vec();
    let digits = (0..).step_by(4).zip(host.iter().rev().filter(|byte| byte.is_ascii_hexdigit()));
    let cpus: CpuSet = digits
        .flat_map(|(first, byte)| {
            let digit = char::from(*byte).to_digit(16).unwrap_or(0);
            (0..4).filter(move |bit| digit >> bit & 1 == 1).map(move |bit| first + bit)
        })
        .collect();
    let shown = present.among(&cpus);
    let places = text.iter_mut().rev().filter(|byte| byte.is_ascii_hexdigit());
    for (first, byte) in (0..).step_by(4).zip(places) {
        let digit =
            (0..4).filter(|bit| shown.contains(first + bit)).fold(0, |digit, bit| digit | 1 << bit);
        *byte = char::from_digit(digit, 16).map_or(b'0', |digit| digit as u8);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpulist::CpuIds;

    fn shown(host: &str, cpus: &str) -> String {
        let present = CpuSet::parse(cpus.as_bytes()).unwrap();
        String::from_utf8(render(host.as_bytes(), &present.into())).unwrap()
    }

    #[test]
    fn absent_cpus_are_cleared_and_the_width_stays() {
        assert_eq!(shown("ff\n", "2-4"), "1c\n");
        assert_eq!(shown("3\n", "0-7"), "3\n");
        assert_eq!(
            shown("00000000,0000000f,ffffffff\n", "0,31-33,64"),
            "00000000,00000003,80000001\n"
        );
        assert_eq!(shown("00f0\n", "0-3"), "0000\n");
    }

    #[test]
    fn cpus_with_other_numbers_move_to_the_front() {
        let present = Present::new(CpuSet::parse(b"2,4-5,40").unwrap(), CpuIds::Compact);
        let shown = |host: &[u8]| String::from_utf8(render(host, &present)).unwrap();
        assert_eq!(shown(b"f0\n"), "06\n");
        assert_eq!(shown(b"00000100,00000004\n"), "00000000,00000009\n");
    }

    #[test]
    fn what_is_no_map_keeps_its_form() {
        assert_eq!(shown("", "0"), "");
        assert_eq!(shown("?\n", "0"), "?\n");
    }
}
