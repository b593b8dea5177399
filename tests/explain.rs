//! Where lines come from: every line that the captured kernels print has a source, and of limits
//! the level is told that decides.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

#[allow(dead_code, reason = "each test uses its part")]
mod fixtures;

use fixtures::{Fixture, NAMES};
use lxcfs_rs::container::Who;
use lxcfs_rs::facts::{Facts, Memory, MemoryEvents, PageSizes};
use lxcfs_rs::files::{ProcFile, Row, TABLE};
use lxcfs_rs::render::{Origin, origin, render};

/// What a file is made of; none where the kernel counts no pressure for the container.
fn facts(fixture: &Fixture, row: &Row, who: &Who) -> Option<Facts> {
    match fixture.collector().collect(row.file, who, fixture.now) {
        Err(error) if error.errno() == libc::EOPNOTSUPP => None,
        found => Some(found.unwrap()),
    }
}

#[test]
fn every_line_of_every_file_has_a_source() {
    for name in NAMES {
        let fixture = Fixture::named(name);
        for process in fixture.processes().into_iter().filter(|one| one.container.is_some()) {
            let who = fixture.reader(process.pid);
            for row in TABLE {
                let Some(facts) = facts(&fixture, row, &who) else { continue };
                let text = String::from_utf8(render(facts.clone())).unwrap();
                for line in text.lines() {
                    assert!(origin(&facts, line).is_some(), "{name} {}: {line}", row.path);
                }
            }
        }
    }
}

#[test]
fn every_line_of_the_running_kernels_files_has_a_source() {
    let read = |name: &str| std::fs::read(format!("/proc/{name}")).unwrap();
    let memory = Memory::default();
    let meminfo = Facts::Meminfo { host: read("meminfo"), memory };
    let vmstat = Facts::Vmstat {
        host: read("vmstat"),
        memory,
        events: MemoryEvents::default(),
        io: None,
        pages: PageSizes::default(),
    };
    for (name, facts) in [("meminfo", meminfo), ("vmstat", vmstat)] {
        let text = String::from_utf8(read(name)).unwrap();
        for line in text.lines() {
            assert!(origin(&facts, line).is_some(), "{name}: {line}");
        }
    }
}

/// The specification's list of them, and no others.
#[test]
fn the_hosts_lines_are_those_that_the_specification_lists() {
    let allowed = |file: ProcFile, line: &str| match file {
        ProcFile::Meminfo => {
            let hardware =
                ["VmallocTotal", "Cma", "Hugepagesize", "HardwareCorrupted", "DirectMap"];
            hardware.iter().any(|label| line.starts_with(label))
        }
        ProcFile::Stat => ["intr ", "ctxt ", "softirq ", "processes ", "btime "]
            .iter()
            .any(|key| line.starts_with(key)),
        ProcFile::Vmstat => line.starts_with("nr_dirty_") && line.contains("threshold"),
        ProcFile::Swaps => line.starts_with("Filename"),
        ProcFile::Slabinfo => line.starts_with("slabinfo") || line.starts_with('#'),
        ProcFile::Cpuinfo => !line.starts_with("processor"),
        ProcFile::PressureCpu
        | ProcFile::PressureIo
        | ProcFile::PressureMemory
        | ProcFile::CpuOnline
        | ProcFile::Diskstats
        | ProcFile::Loadavg
        | ProcFile::Uptime => false,
    };
    for name in NAMES {
        let fixture = Fixture::named(name);
        let who = fixture.reader(fixture.init_of("c1"));
        for row in TABLE {
            let Some(facts) = facts(&fixture, row, &who) else { continue };
            // Two CPUs of two, which is no limit: all of the host's file.
            if name == "hybrid-6.18" && matches!(row.file, ProcFile::Cpuinfo | ProcFile::CpuOnline)
            {
                continue;
            }
            let text = String::from_utf8(render(facts.clone())).unwrap();
            for line in text.lines() {
                let is_hosts = origin(&facts, line) == Some(Origin::Host);
                assert!(!is_hosts || allowed(row.file, line), "{name} {}: {line}", row.path);
            }
        }
    }
}

/// `CONTROLLER PATH FILE VALUE` of what decides.
fn deciding(fixture: &Fixture, container: &str) -> Vec<String> {
    let who = fixture.reader(fixture.init_of(container));
    let bounds = fixture.collector().bounds(&who).unwrap();
    assert_eq!(bounds.subject, "container");
    let mut found = Vec::new();
    for level in bounds.levels {
        for file in level.files.iter().filter(|file| file.decides) {
            found.push(format!("{} {} {} {}", level.controller, level.path, file.name, file.value));
        }
    }
    found
}

#[test]
fn the_level_that_decides_is_told() {
    // Limits as the fixtures' READMEs list them.
    assert_eq!(
        deciding(&Fixture::named("unified-6.1"), "c1"),
        [
            "memory /lxcfs-fixture/pod/c1 memory.swap.max 104857600",
            "memory /lxcfs-fixture memory.max 524288000",
            "cpu /lxcfs-fixture/pod cpu.max 250000 100000",
            "cpuset /lxcfs-fixture/pod/c1 cpuset.cpus.effective 1-3",
            "cpuset /lxcfs-fixture/pod/c1 cpuset.mems.effective 0",
        ]
    );
    assert_eq!(
        deciding(&Fixture::named("legacy-6.1"), "c1"),
        [
            "memory /lxcfs-fixture/c1 memory.limit_in_bytes 209715200",
            "memory /lxcfs-fixture/c1 memory.memsw.limit_in_bytes 272629760",
            "cpu /lxcfs-fixture/c1 cpu.cfs_quota_us 150000",
            "cpuset /lxcfs-fixture/c1 cpuset.effective_cpus 1-3",
            "cpuset /lxcfs-fixture/c1 cpuset.effective_mems 0",
        ]
    );
}
