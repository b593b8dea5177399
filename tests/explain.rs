//! Of limits the level is told that decides.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

#[allow(dead_code, reason = "each test uses its part")]
mod fixtures;

use fixtures::Fixture;

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
