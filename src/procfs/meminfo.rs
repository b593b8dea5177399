//! `/proc/meminfo`: lines of `Label:   value kB`, `fs/proc/meminfo.c`.

use std::ops::Range;

use memchr::memchr;

use crate::units::Bytes;

/// One line: its label without the colon, and its number; the unit is kB where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// `MemTotal`, `HugePages_Free`, …
    pub label: &'a str,
    /// The number that follows.
    pub value: u64,
    /// Whether `kB` follows the number. The lines without it are counts of huge pages.
    pub kib: bool,
}

/// Takes a line apart; none for any other form.
#[must_use]
pub fn parse_line(line: &str) -> Option<Line<'_>> {
    let (label, rest) = line.split_at_checked(memchr(b':', line.as_bytes())?)?;
    let rest = rest[1..].trim_ascii();
    let (number, kib) = match rest.strip_suffix(" kB") {
        Some(number) => (number.trim_ascii_end(), true),
        None => (rest, false),
    };
    // What is no UTF-8 is not ASCII either when it was replaced.
    let is_label = !label.is_empty() && label.is_ascii();
    is_label.then_some(Line { label, value: number.parse().ok()?, kib })
}

/// What the host's meminfo says, and of the machine; a missing line is 0, but where it is an
/// option.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meminfo {
    text: String,
    /// Where in `text` the labels are, each with its number and whether that is in kB.
    lines: Vec<(Range<usize>, u64, bool)>,
    /// `MemTotal`.
    pub mem_total: Bytes,
    /// `SwapTotal`.
    pub swap_total: Bytes,
    /// `HugePages_Total`: pages of the default huge page size.
    pub huge_pages_total: u64,
    /// `Hugepagesize`: the default huge page size.
    pub huge_page_size: Bytes,
    /// `CmaTotal`: memory set aside at boot for what must be contiguous.
    pub cma_total: Bytes,
    /// `Hugetlb`: the memory in huge pages of all sizes; none before Linux 4.16.
    pub hugetlb: Option<Bytes>,
}

impl Meminfo {
    /// Takes the text apart; malformed lines are passed over.
    #[must_use]
    pub fn parse(text: Vec<u8>) -> Meminfo {
        let text = String::from_utf8(text)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let mut found = Meminfo::default();
        let mut start = 0;
        for line in text.split('\n') {
            if let Some(Line { label, value, kib }) = parse_line(line) {
                match label {
                    "MemTotal" => found.mem_total = Bytes::from_kib(value),
                    "SwapTotal" => found.swap_total = Bytes::from_kib(value),
                    "HugePages_Total" => found.huge_pages_total = value,
                    "Hugepagesize" => found.huge_page_size = Bytes::from_kib(value),
                    "Hugetlb" => found.hugetlb = Some(Bytes::from_kib(value)),
                    "CmaTotal" => found.cma_total = Bytes::from_kib(value),
                    _ => {}
                }
                found.lines.push((start..start + label.len(), value, kib));
            }
            start += line.len() + 1;
        }
        found.text = text;
        found
    }

    /// Its lines, in the host's order.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.lines.iter().map(|(label, value, kib)| Line {
            label: &self.text[label.clone()],
            value: *value,
            kib: *kib,
        })
    }

    /// The host's text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_and_without_a_unit() {
        let line = parse_line("MemTotal:       24684092 kB").unwrap();
        assert_eq!(line, Line { label: "MemTotal", value: 24_684_092, kib: true });
        let line = parse_line("HugePages_Total:      16").unwrap();
        assert_eq!(line, Line { label: "HugePages_Total", value: 16, kib: false });
        for bad in ["", "MemTotal", "MemTotal:", "MemTotal: x kB", ": 1 kB", "A: 1 MB", "A: 1 kB x"]
        {
            assert_eq!(parse_line(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_machines_size() {
        let text = b"MemTotal: 100 kB\njunk\n\xff\nSwapTotal: 7 kB\nHugePages_Total: 16\nHugepagesize: 2048 kB\nCmaTotal: 3 kB\n";
        let found = Meminfo::parse(text.to_vec());
        assert_eq!(found.mem_total, Bytes(102_400));
        assert_eq!(found.swap_total, Bytes(7168));
        assert_eq!(found.huge_pages_total, 16);
        assert_eq!(found.huge_page_size, Bytes(2 << 20));
        assert_eq!((found.cma_total, found.hugetlb), (Bytes(3072), None));
        assert_eq!(Meminfo::parse(b"Hugetlb: 0 kB\n".into()).hugetlb, Some(Bytes(0)));
        let lines: Vec<_> = found.lines().map(|line| (line.label, line.value, line.kib)).collect();
        assert_eq!(
            lines,
            [
                ("MemTotal", 100, true),
                ("SwapTotal", 7, true),
                ("HugePages_Total", 16, false),
                ("Hugepagesize", 2048, true),
                ("CmaTotal", 3, true),
            ]
        );
        assert!(found.text().starts_with("MemTotal: 100 kB\njunk\n"));
    }
}
