//! `/proc/cpuinfo` of architectures that this machine is not: captured texts, and the lines of
//! them that are left for some CPUs, counted by hand.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::ops::RangeInclusive;
use std::path::Path;

use lxcfs_rs::cpulist::{CpuIds, CpuSet, Present};
use lxcfs_rs::facts::Facts;
use lxcfs_rs::render::render;

fn captured(architecture: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cpuinfo");
    std::fs::read_to_string(directory.join(architecture)).unwrap()
}

fn shown(architecture: &str, cpus: &str) -> String {
    numbered(architecture, cpus, CpuIds::Physical)
}

fn numbered(architecture: &str, cpus: &str, ids: CpuIds) -> String {
    let host = captured(architecture).into_bytes().into();
    let present = Present::new(CpuSet::parse(cpus.as_bytes()).unwrap(), ids);
    String::from_utf8(render(Facts::Cpuinfo { host, present })).unwrap()
}

/// Lines of a captured text, counted from 1.
fn lines(architecture: &str, wanted: &[RangeInclusive<usize>]) -> String {
    let text = captured(architecture);
    let numbered = text.split_inclusive('\n').zip(1..);
    let of = numbered.filter(|(_, number)| wanted.iter().any(|range| range.contains(number)));
    of.map(|(line, _)| line).collect()
}

#[test]
fn all_of_them_are_the_hosts() {
    for (architecture, cpus) in
        [("arm64", "0-3"), ("s390x", "0-3"), ("ppc64", "0-5"), ("riscv64", "0-3")]
    {
        assert_eq!(shown(architecture, cpus), captured(architecture));
    }
}

#[test]
fn arm64_has_blocks_and_the_machine_at_the_end() {
    assert_eq!(shown("arm64", "1,3"), lines("arm64", &[10..=18, 28..=36, 37..=39]));
    assert_eq!(shown("arm64", "0"), lines("arm64", &[1..=9, 37..=39]));
}

#[test]
fn riscv64_has_blocks() {
    assert_eq!(shown("riscv64", "2"), lines("riscv64", &[19..=27]));
}

#[test]
fn ppc64_has_blocks_and_the_machine_at_the_end() {
    assert_eq!(shown("ppc64", "4-5"), lines("ppc64", &[21..=30, 31..=34]));
    assert_eq!(shown("ppc64", "0"), lines("ppc64", &[1..=5, 31..=34]));
}

#[test]
fn s390x_has_the_machine_a_line_for_each_cpu_and_blocks() {
    let two = "# processors    : 2\n";
    let expected = lines("s390x", &[1..=1])
        + two
        + &lines("s390x", &[3..=12, 14..=14, 16..=16, 21..=24, 29..=32]);
    assert_eq!(shown("s390x", "1,3"), expected);
    // The last one's empty line goes with it.
    let expected = lines("s390x", &[1..=1])
        + "# processors    : 1\n"
        + &lines("s390x", &[3..=12, 13..=13, 17..=20]);
    assert_eq!(shown("s390x", "0"), expected);
}

#[test]
fn numbers_from_0_on_are_all_that_differs() {
    for (architecture, cpus, own, compact) in [
        ("arm64", "1,3", ["processor\t: 1\n", "processor\t: 3\n"], "processor\t: "),
        ("riscv64", "2-3", ["processor\t: 2\n", "processor\t: 3\n"], "processor\t: "),
        ("ppc64", "4-5", ["processor\t: 4\n", "processor\t: 5\n"], "processor\t: "),
        ("s390x", "1,3", ["cpu number      : 1\n", "cpu number      : 3\n"], "cpu number      : "),
    ] {
        let mut expected = shown(architecture, cpus);
        assert!(own.iter().all(|line| expected.contains(line)), "{architecture}");
        for (number, line) in own.iter().enumerate() {
            expected = expected.replace(line, &format!("{compact}{number}\n"));
        }
        // s390x has a line for each above the blocks, too.
        expected = expected.replace("processor 1: ", "processor 0: ");
        expected = expected.replace("processor 3: ", "processor 1: ");
        assert_eq!(numbered(architecture, cpus, CpuIds::Compact), expected);
    }
}

/// Newer kernels tell the place of a CPU, and count its package in books and drawers.
#[test]
fn s390x_packages_are_counted_in_books_and_drawers() {
    let block = |cpu: u32, book: u32| {
        format!(
            "\ncpu number      : {cpu}\nphysical id     : 1\ncore id         : {cpu}\n\
             book id         : {book}\ndrawer id       : 0\nsiblings        : 2\n\
             cpu cores       : 2\n"
        )
    };
    let host = format!("vendor_id       : IBM/S390\n{}{}", block(0, 1), block(1, 2));
    let present = CpuSet::parse(b"0-1").unwrap().into();
    let text = render(Facts::Cpuinfo { host: host.clone().into_bytes().into(), present });
    let expected = host.replace("siblings        : 2", "siblings        : 1");
    let expected = expected.replace("cpu cores       : 2", "cpu cores       : 1");
    assert_eq!(String::from_utf8(text).unwrap(), expected);
}
