//! `/proc/cpuinfo`: the blocks of the present CPUs, with the numbers by which they are shown.

use std::borrow::Cow;
use std::collections::BTreeSet;

use memchr::memmem;

use crate::facts::Present;

/// One CPU's lines.
#[derive(Default)]
struct Block<'a> {
    cpu: Option<u32>,
    /// `physical id`, and on s390x where that is counted: `book id`, `drawer id`.
    package: [Option<&'a [u8]>; 3],
    core: Option<&'a [u8]>,
    /// With what stands before their colons.
    lines: Vec<(&'a [u8], &'a [u8])>,
}

pub(super) fn render(host: &[u8], present: &Present) -> Vec<u8> {
    let blocks = blocks(host, present);
    let mut text = Vec::with_capacity(host.len());
    for block in &blocks {
        let in_package = |other: &&Block<'_>| other.package == block.package;
        let number = block.cpu.and_then(|cpu| present.number_of(cpu));
        for (key, line) in &block.lines {
            let count = match *key {
                b"processor" | b"cpu number" => number.and_then(|number| number.try_into().ok()),
                b"siblings" => Some(blocks.iter().filter(in_package).count()),
                b"cpu cores" => {
                    let cores = blocks.iter().filter(in_package).map(|other| other.core);
                    Some(cores.collect::<BTreeSet<_>>().len())
                }
                b"# processors" => Some(blocks.iter().filter(|other| other.cpu.is_some()).count()),
                _ => None,
            };
            if let Some(count) = count {
                let value = value(line);
                text.extend_from_slice(&line[..line.len() - value.len()]);
                text.extend_from_slice(format!("{count}\n").as_bytes());
            } else if let Some(line) = about_a_cpu(key, line, present) {
                text.extend_from_slice(&line);
                text.push(b'\n');
            }
        }
    }
    // On s390x an empty line begins a block instead of ending it.
    if !host.ends_with(b"\n\n") && text.ends_with(b"\n\n") {
        text.pop();
    }
    // A machine without any CPU is one that no program expects.
    if text.is_empty() { host.to_vec() } else { text }
}

/// On s390x there is a line for each CPU above the blocks, `processor 0: version = …`; none for a
/// CPU that is not there. All other lines stay.
fn about_a_cpu<'a>(key: &[u8], line: &'a [u8], present: &Present) -> Option<Cow<'a, [u8]>> {
    let Some(cpu) = key.strip_prefix(b"processor ").and_then(number) else {
        return Some(line.into());
    };
    let number = present.number_of(cpu)?;
    Some([format!("processor {number}").as_bytes(), &line[key.len()..]].concat().into())
}

/// Takes the file apart at its empty lines, each of which ends a block. A CPU's block is there if
/// that is `present`; one without a number is not a CPU's: what other architectures print about
/// the machine.
fn blocks<'a>(host: &'a [u8], present: &Present) -> Vec<Block<'a>> {
    let mut blocks = Vec::new();
    let mut block = Block::default();
    // The last line is empty, since every block ends with one: that is left out no more than once.
    let mut rest = Some(host.strip_suffix(b"\n").unwrap_or(host));
    while let Some(text) = rest {
        let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
        let line = &text[..end];
        let key = key(line);
        block.lines.push((key, line));
        rest = text.get(end + 1..);
        match key {
            b"" => blocks.push(std::mem::take(&mut block)),
            b"processor" | b"cpu number" => {
                block.cpu = number(value(line));
                if block.cpu.is_some_and(|cpu| !present.contains(cpu)) {
                    block = Block::default();
                    // Of the CPUs of a large machine most have no line that is looked at.
                    rest = memmem::find(&text[end..], b"\n\n").map(|at| &text[end + at + 2..]);
                }
            }
            b"physical id" => block.package[0] = Some(value(line)),
            b"book id" => block.package[1] = Some(value(line)),
            b"drawer id" => block.package[2] = Some(value(line)),
            b"core id" => block.core = Some(value(line)),
            _ => {}
        }
    }
    if !block.lines.is_empty() {
        blocks.push(block);
    }
    blocks
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What stands before a line's colon.
fn key(line: &[u8]) -> &[u8] {
    let end = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
    line[..end].trim_ascii_end()
}

/// What stands behind a line's colon.
fn value(line: &[u8]) -> &[u8] {
    let start = line.iter().position(|&byte| byte == b':').map_or(line.len(), |colon| colon + 1);
    line[start..].trim_ascii_start()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpulist::CpuSet;

    /// Two packages of two cores of two threads each: CPUs 0-7, siblings n and n + 1.
    fn host() -> String {
        (0..8)
            .map(|cpu| {
                format!(
                    "processor\t: {cpu}\nmodel name\t: A: B\nphysical id\t: {}\nsiblings\t: 4\n\
                     core id\t\t: {}\ncpu cores\t: 2\npower management:\n\n",
                    cpu / 4,
                    cpu / 2 % 2
                )
            })
            .collect()
    }

    fn shown(cpus: &str) -> String {
        let present = CpuSet::parse(cpus.as_bytes()).unwrap().into();
        String::from_utf8(render(host().as_bytes(), &present)).unwrap()
    }

    #[test]
    fn all_present_is_the_hosts_file() {
        assert_eq!(shown("0-7"), host());
    }

    #[test]
    fn numbers_stay_and_counts_narrow() {
        assert_eq!(
            shown("1,2,6"),
            "processor\t: 1\nmodel name\t: A: B\nphysical id\t: 0\nsiblings\t: 2\n\
             core id\t\t: 0\ncpu cores\t: 2\npower management:\n\n\
             processor\t: 2\nmodel name\t: A: B\nphysical id\t: 0\nsiblings\t: 2\n\
             core id\t\t: 1\ncpu cores\t: 2\npower management:\n\n\
             processor\t: 6\nmodel name\t: A: B\nphysical id\t: 1\nsiblings\t: 1\n\
             core id\t\t: 1\ncpu cores\t: 1\npower management:\n\n"
        );
        // Two threads of one core.
        assert!(shown("0-1").contains("siblings\t: 2\ncore id\t\t: 0\ncpu cores\t: 1\n"));
    }

    #[test]
    fn a_text_without_the_present_cpus_stays() {
        let host = b"processor\t: 0\ncpu fam";
        assert_eq!(render(host, &CpuSet::from_iter([1]).into()), host);
    }

    #[test]
    fn blocks_of_one_line_and_one_that_nothing_ends() {
        let shown = |host: &[u8], cpu| render(host, &CpuSet::from_iter([cpu]).into());
        let host = b"processor\t: 0\n\nprocessor\t: 1\n\nprocessor\t: 2\nx\t: y\n";
        assert_eq!(shown(host, 0), b"processor\t: 0\n");
        assert_eq!(shown(host, 1), b"processor\t: 1\n");
        assert_eq!(shown(host, 2), b"processor\t: 2\nx\t: y\n");
    }

    #[test]
    fn lines_about_the_machine_stay() {
        let host = b"processor\t: 0\n\nprocessor\t: 1\n\nHardware\t: X\n";
        let present = CpuSet::from_iter([1]).into();
        assert_eq!(render(host, &present), b"processor\t: 1\n\nHardware\t: X\n");
    }
}
