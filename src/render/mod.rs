//! From facts to the bytes of a file: one module for each. Pure, and it cannot fail.

mod cpuinfo;
mod cpumap;
mod diskstats;
mod loadavg;
mod meminfo;
mod stat;
mod swaps;
mod uptime;

use crate::facts::Facts;

/// The file's text.
#[must_use]
pub fn render(facts: Facts) -> Vec<u8> {
    match facts {
        Facts::Verbatim(text) => text,
        Facts::Meminfo { host, memory } => meminfo::render(&host, &memory),
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
        Facts::SmtActive(active) => if active { b"1\n" } else { b"0\n" }.to_vec(),
    }
}

/// The lines of a kernel file, without their newlines.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.strip_suffix(b"\n").unwrap_or(text).split(|&byte| byte == b'\n')
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
    fn lists_and_flags() {
        let cpus = [2, 3, 4].into_iter().collect();
        assert_eq!(render(Facts::CpuList { cpus }), b"2-4\n");
        assert_eq!(render(Facts::CpuList { cpus: [].into_iter().collect() }), b"\n");
        assert_eq!(render(Facts::SmtActive(true)), b"1\n");
        assert_eq!(render(Facts::SmtActive(false)), b"0\n");
        assert_eq!(render(Facts::Verbatim(b"x".to_vec())), b"x");
    }
}
