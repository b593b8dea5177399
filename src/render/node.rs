//! The files of `/sys/devices/system/node/node*`.

use crate::facts::{Memory, parse_meminfo_line};

use super::lines;
use super::sources::{NODE_MEMINFO, Numbers};

/// `meminfo`: the host's lines in the host's order, each with the container's value.
pub(super) fn meminfo(host: &[u8], memory: &Memory) -> Vec<u8> {
    let numbers = Numbers::in_file(NODE_MEMINFO, memory);
    let mut text = String::with_capacity(host.len());
    for line in lines(host).filter_map(|line| std::str::from_utf8(line).ok()) {
        // `Node 0 MemTotal:       13199572 kB`
        let Some(start) = line.match_indices(' ').nth(1).map(|(at, _)| at + 1) else { continue };
        let Some(found) = parse_meminfo_line(&line[start..]) else { continue };
        let value = numbers.of(found.label, found.value);
        let label = start + found.label.len() + 1;
        let old = found.value.to_string();
        let unit = if found.kib { " kB" } else { "" };
        // The kernel pads to 8 columns, and to 5 what has no unit.
        let width = if found.kib { 8 } else { 5 };
        let blanks = line.len().saturating_sub(label + unit.len() + old.len().max(width));
        text.push_str(&line[..label]);
        text.push_str(&format!("{:blanks$}{value:>width$}{unit}\n", ""));
    }
    // Not one line of the form that the file has: better the host's than an empty file.
    if text.is_empty() { host.to_vec() } else { text.into_bytes() }
}

/// `distance`: the numbers of the nodes that are there.
pub(super) fn distance(host: &[u8], kept: &[usize]) -> Vec<u8> {
    let words: Vec<&[u8]> = host.trim_ascii().split(|&byte| byte == b' ').collect();
    let kept: Vec<&[u8]> = kept.iter().filter_map(|&place| words.get(place).copied()).collect();
    if kept.is_empty() {
        return host.to_vec();
    }
    [kept.join(&b' '), b"\n".to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::MemoryStat;
    use crate::units::Bytes;

    #[test]
    fn each_line_in_the_kernels_layout() {
        let host = "\
Node 0 MemTotal:       13199572 kB
Node 0 MemFree:         6661516 kB
Node 0 MemUsed:        536538056 kB
Node 0 SwapCached:            0 kB
Node 0 FilePages:       5378180 kB
Node 0 Mlocked:           14572 kB
Node 0 HugePages_Total:     0
Node 0 HugePages_Free:      0
nonsense
";
        let stat = MemoryStat {
            file: Bytes::from_kib(100),
            swapcached: Bytes::from_kib(20),
            ..MemoryStat::default()
        };
        let memory = Memory {
            total: Bytes::from_kib(102_400),
            free: Bytes::from_kib(2400),
            huge_pages_total: 8,
            stat,
            ..Memory::default()
        };
        let expected = "\
Node 0 MemTotal:         102400 kB
Node 0 MemFree:            2400 kB
Node 0 MemUsed:          100000 kB
Node 0 SwapCached:           20 kB
Node 0 FilePages:           120 kB
Node 0 Mlocked:               0 kB
Node 0 HugePages_Total:     8
Node 0 HugePages_Free:      0
";
        assert_eq!(String::from_utf8(meminfo(host.as_bytes(), &memory)).unwrap(), expected);
        assert_eq!(meminfo(b"Node\n", &memory), b"Node\n");
    }

    #[test]
    fn distances_of_some() {
        assert_eq!(distance(b"10 21 31\n", &[0, 2]), b"10 31\n");
        assert_eq!(distance(b"10\n", &[0]), b"10\n");
        assert_eq!(distance(b"10\n", &[4]), b"10\n");
    }
}
