//! `/proc/swaps`: the host's header, and one line where the container has swap.

use crate::units::Bytes;

use super::lines;

pub(super) fn render(host: &[u8], total: Bytes, used: Bytes) -> Vec<u8> {
    let header = lines(host).next().unwrap_or_default();
    let mut text = header.to_vec();
    text.push(b'\n');
    if total > Bytes(0) {
        let (total, used) = (total.kib(), used.kib());
        // The layout of lxcfs, which scripts know: the name in 40 columns.
        text.extend(format!("{:<40}virtual\t\t{total}\t\t{used}\t\t0\n", "none").into_bytes());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &[u8] =
        b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/swap.img file 1 2 -2\n";

    #[test]
    fn one_line_where_there_is_swap() {
        let text = String::from_utf8(render(HOST, Bytes(204_800 * 1024), Bytes(8192))).unwrap();
        let none = format!("none{}virtual\t\t204800\t\t8\t\t0\n", " ".repeat(36));
        assert_eq!(text, format!("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n{none}"));
    }

    #[test]
    fn the_header_alone_where_there_is_none() {
        let text = render(HOST, Bytes(0), Bytes(0));
        assert_eq!(text, b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
    }
}
