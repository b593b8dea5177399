//! From facts to the bytes of a file: one module for each. Pure, and it cannot fail.

mod cpuinfo;
mod cpumap;
mod diskstats;
mod loadavg;
mod meminfo;
mod node;
mod sources;
mod stat;
mod swaps;
mod uptime;
mod vmstat;

use crate::facts::Facts;

pub use sources::{Origin, ROWS, Row, Source, source_of};

/// The file's text.
#[must_use]
pub fn render(facts: Facts) -> Vec<u8> {
    match facts {
        Facts::Verbatim(text) | Facts::Own(text) => text,
        Facts::Meminfo { host, memory } => meminfo::render(&host, &memory),
        Facts::Vmstat { host, memory, events, io, pages } => {
            vmstat::render(&host, &memory, &events, io.as_ref(), pages)
        }
        Facts::SlabinfoHeader { host } => slabinfo_header(&host),
        Facts::Swaps { host, total, used } => swaps::render(&host, total, used),
        Facts::Cpuinfo { host, present } => cpuinfo::render(&host, &present),
        Facts::Stat { host, columns, times, boot_time, tasks } => {
            stat::render(&host, columns, &times, boot_time, &tasks)
        }
        Facts::Uptime { up, idle } => uptime::render(up, idle),
        Facts::Loadavg { averages, tasks } => loadavg::render(averages, &tasks),
        Facts::Diskstats { disks } => diskstats::render(&disks),
        Facts::CpuList { cpus } => format!("{cpus}\n").into_bytes(),
        Facts::CpuMap { host, present } => cpumap::render(&host, &present),
        Facts::NodeMeminfo { host, memory } => node::meminfo(&host, &memory),
        Facts::Distances { host, kept } => node::distance(&host, &kept),
        Facts::SmtActive(active) => if active { b"1\n" } else { b"0\n" }.to_vec(),
    }
}

/// `/proc/slabinfo` without a cache: its version and its columns.
fn slabinfo_header(host: &[u8]) -> Vec<u8> {
    let is_header = |line: &&[u8]| line.starts_with(b"slabinfo") || line.starts_with(b"#");
    let header: Vec<&[u8]> = lines(host).take_while(is_header).collect();
    // Not one line of the form that /proc/slabinfo has: better the first than an empty file.
    let header = if header.is_empty() { lines(host).take(1).collect() } else { header };
    [header.join(&b'\n'), b"\n".to_vec()].concat()
}

/// The lines of a kernel file, without their newlines.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    crate::facts::lines(text.strip_suffix(b"\n").unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_last_line_without_a_newline_counts() {
        assert_eq!(lines(b"a\nb\n").collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(lines(b"a\n\nb").collect::<Vec<_>>(), [&b"a"[..], b"", b"b"]);
    }

    #[test]
    fn slabinfo_without_caches() {
        let text = b"slabinfo - version: 2.1\n# name  <active_objs>\ndentry 1 2\n";
        assert_eq!(slabinfo_header(text), b"slabinfo - version: 2.1\n# name  <active_objs>\n");
        assert_eq!(slabinfo_header(b"dentry 1 2\nx"), b"dentry 1 2\n");
    }

    #[test]
    fn lists_and_flags() {
        let cpus = [2, 3, 4].into_iter().collect();
        assert_eq!(render(Facts::CpuList { cpus }), b"2-4\n");
        assert_eq!(render(Facts::CpuList { cpus: [].into_iter().collect() }), b"\n");
        assert_eq!(render(Facts::SmtActive(true)), b"1\n");
        assert_eq!(render(Facts::SmtActive(false)), b"0\n");
        assert_eq!(render(Facts::Verbatim(b"x".to_vec())), b"x");
    }
}
