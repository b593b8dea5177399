//! `/proc/vmstat`: the host's lines in the host's order, each with the container's value.

use crate::facts::{IoCounts, Memory, MemoryEvents, PageSizes};

use super::lines;
use super::sources::{Numbers, VMSTAT};

pub(super) fn render(
    host: &[u8],
    memory: &Memory,
    events: &MemoryEvents,
    io: Option<&IoCounts>,
    pages: PageSizes,
) -> Vec<u8> {
    let mut numbers = Numbers::in_file(VMSTAT, memory);
    (numbers.events, numbers.io, numbers.pages) = (events.iter().collect(), io, pages);
    let mut text = String::with_capacity(host.len());
    let mut digits = itoa::Buffer::new();
    for line in lines(host) {
        let Some((name, value)) = std::str::from_utf8(line).ok().and_then(parse_line) else {
            continue;
        };
        text.push_str(name);
        text.push(' ');
        text.push_str(digits.format(numbers.of(name, value)));
        text.push('\n');
    }
    // Not one line of the form that /proc/vmstat has: better the host's than an empty file.
    if text.is_empty() { host.to_vec() } else { text.into_bytes() }
}

fn parse_line(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.split_once(' ')?;
    Some((name, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::MemoryStat;
    use crate::units::Bytes;

    const SIZES: PageSizes = PageSizes { page: Bytes(4096), transparent_huge: Bytes(2 << 20) };

    fn shown(host: &str, events: &str, io: Option<&IoCounts>) -> String {
        let stat = MemoryStat {
            file: Bytes(8192),
            swapcached: Bytes(4096),
            anon_thp: Bytes(6 << 20),
            kernel_stack: Bytes(16384),
            ..MemoryStat::default()
        };
        let memory = Memory { free: Bytes(40960), stat, ..Memory::default() };
        let events = MemoryEvents { text: events.into(), prefix: "total_" };
        String::from_utf8(render(host.as_bytes(), &memory, &events, io, SIZES)).unwrap()
    }

    #[test]
    fn each_line_in_its_unit() {
        let host = "nr_free_pages 9\nnr_file_pages 9\nnr_anon_transparent_hugepages 9\n\
                    nr_kernel_stack 9\nnr_dirty_threshold 9\npgpgin 9\npgpgout 9\npgfault 9\n\
                    numa_hit 9\nnot_yet_invented 9\n";
        let io = IoCounts { rbytes: 3000, wbytes: 2048, ..IoCounts::default() };
        // memory.stat's own pgpgin counts something else.
        let events = "pgfault 1\ntotal_pgfault 5\ntotal_pgpgin 77\n";
        assert_eq!(
            shown(host, events, Some(&io)),
            "nr_free_pages 10\nnr_file_pages 3\nnr_anon_transparent_hugepages 3\n\
             nr_kernel_stack 16\nnr_dirty_threshold 9\npgpgin 2\npgpgout 2\npgfault 5\n\
             numa_hit 0\nnot_yet_invented 0\n"
        );
        assert_eq!(shown("pgpgin 9\npgfault 9\n", "", None), "pgpgin 9\npgfault 0\n");
    }

    #[test]
    fn a_text_of_another_form_stays() {
        assert_eq!(shown("a: b\n", "", None), "a: b\n");
    }
}
