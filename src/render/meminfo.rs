//! `/proc/meminfo`: the host's lines in the host's order, each with the container's value.

use crate::facts::{Meminfo, Memory};

use super::sources::{MEMINFO, Numbers};

pub(super) fn render(host: &Meminfo, memory: &Memory) -> Vec<u8> {
    let numbers = Numbers::in_file(MEMINFO, memory);
    let mut text = String::with_capacity(host.text().len());
    for line in host.lines() {
        let value = numbers.of(line.label, line.value);
        push_line(&mut text, line.label, value, line.kib);
    }
    // Not one line of the form that /proc/meminfo has: better the host's than an empty file.
    if text.is_empty() { host.text().into() } else { text.into_bytes() }
}

/// One line in the kernel's layout: the label in 16 columns and the number in 8, but for the
/// counts of huge pages and HardwareCorrupted, whose number stands in the last 5 of those 24.
fn push_line(text: &mut String, label: &str, value: u64, kib: bool) {
    let narrow = label.starts_with("HugePages_") || label == "HardwareCorrupted";
    let (label_width, value_width) = if narrow { (19, 5) } else { (16_usize, 8_usize) };
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(value);
    let blanks =
        label_width.saturating_sub(label.len() + 1) + value_width.saturating_sub(digits.len());
    text.push_str(label);
    text.push(':');
    text.push_str(&BLANKS[..blanks]);
    text.push_str(digits);
    text.push_str(if kib { " kB\n" } else { "\n" });
}

/// As many as a line can have: 16 + 8 columns, or 19 + 5.
const BLANKS: &str = "                        ";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::parse_meminfo_line;
    use crate::units::Bytes;

    #[test]
    fn the_kernels_layout() {
        let host = "\
MemTotal:       24684092 kB
Active(anon):       1428 kB
VmallocTotal:   34359738367 kB
HardwareCorrupted:     4 kB
HugePages_Total:      16
HugePages_Free:    123456
DirectMap4k:       30720 kB
";
        let mut text = String::new();
        for line in host.lines() {
            let line = parse_meminfo_line(line).unwrap();
            push_line(&mut text, line.label, line.value, line.kib);
        }
        assert_eq!(text, host);
    }

    #[test]
    fn a_line_of_another_form_is_left_out_and_a_text_of_another_form_stays() {
        let memory = Memory { free: Bytes(2048), ..Memory::default() };
        let render = |host: &[u8], memory| render(&Meminfo::parse(host.to_vec()), memory);
        let text = render(b"MemTotal: x\nMemFree: 3 kB\n\xff: 3 kB\n", &memory);
        assert_eq!(text, b"MemFree:               2 kB\n");
        assert_eq!(render(b"MemTotal\n", &Memory::default()), b"MemTotal\n");
    }

    #[test]
    fn hardware_stays_and_all_else_is_the_containers() {
        let host = b"MemTotal:       100 kB\nVmallocTotal:   7 kB\nFuture:   5 kB\nCmaTotal:  64 kB\nCmaFree:   3 kB\nHugePages_Rsvd:    2\nDirectMap32M:    9 kB\n";
        let memory = Memory { total: Bytes(2048), cma_total: Bytes(65536), ..Memory::default() };
        let host = Meminfo::parse(host.to_vec());
        let text = String::from_utf8(render(&host, &memory)).unwrap();
        assert_eq!(
            text,
            "MemTotal:              2 kB\n\
             VmallocTotal:          7 kB\n\
             Future:                0 kB\n\
             CmaTotal:             64 kB\n\
             CmaFree:              64 kB\n\
             HugePages_Rsvd:        0\n\
             DirectMap32M:          9 kB\n"
        );
    }
}
