//! `/proc/diskstats`: a line for each disk that the container used.

use crate::facts::{DiskLine, IoCounts};

pub(super) fn render(disks: &[(DiskLine, IoCounts)]) -> Vec<u8> {
    let mut text = String::new();
    for (line, counts) in disks {
        let (device, name) = (line.device, &line.name);
        text.push_str(&format!("{:4} {:7} {name}", device.major, device.minor));
        for value in columns(counts).iter().take(line.counters) {
            text.push_str(&format!(" {value}"));
        }
        text.push('\n');
    }
    text.into_bytes()
}

/// The kernel's 17 counters; those that no cgroup counts (merges, times, queue, flushes) are 0.
fn columns(counts: &IoCounts) -> [u64; 17] {
    const SECTOR: u64 = 512;
    let mut columns = [0; 17];
    columns[0] = counts.rios;
    columns[2] = counts.rbytes / SECTOR;
    columns[4] = counts.wios;
    columns[6] = counts.wbytes / SECTOR;
    columns[11] = counts.dios;
    columns[13] = counts.dbytes / SECTOR;
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::diskstats::parse;

    #[test]
    fn as_many_counters_as_the_host_prints() {
        let host = b"   7       0 loop0 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n 254      16 vdb 1 1 1 1 1 1 1 1 1 1 1\n";
        let counts =
            IoCounts { rbytes: 4096, rios: 2, wbytes: 1024, wios: 3, dbytes: 512, dios: 1 };
        let disks: Vec<_> = parse(host).into_iter().map(|line| (line, counts)).collect();
        assert_eq!(
            String::from_utf8(render(&disks)).unwrap(),
            "   7       0 loop0 2 0 8 0 3 0 2 0 0 0 0 1 0 1 0 0 0\n \
             254      16 vdb 2 0 8 0 3 0 2 0 0 0 0\n"
        );
    }
}
