//! What each captured container must see, byte for byte.
//!
//! The expected texts lie beside the input, in `fixtures/NAME/expected/CONTAINER/`. They are
//! made by `fixtures/derive`, a second implementation of the same rules, and never from what
//! this program prints.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

#[allow(dead_code, reason = "each test uses its part")]
mod fixtures;

use std::collections::BTreeSet;
use std::path::Path;

use fixtures::{Fixture, NAMES, show_tree};
use lxcfs_rs::container::Who;
use lxcfs_rs::files::{ProcFile, Row, TABLE, TREES};
use lxcfs_rs::kernel::Controller;
use lxcfs_rs::render::render;
use lxcfs_rs::units::Nsec;

/// Compares line by line, so that a difference is told as the one line that differs.
fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    let (found_text, expected_text) =
        (String::from_utf8_lossy(found), String::from_utf8_lossy(expected));
    let (mut found_lines, mut expected_lines) = (found_text.lines(), expected_text.lines());
    loop {
        match (found_lines.next(), expected_lines.next()) {
            (None, None) => break,
            (found, expected) => assert_eq!(found, expected, "{what}"),
        }
    }
    assert_eq!(found, expected, "{what}");
}

/// A file as `who` sees it; none where the kernel counts no pressure for its container.
fn shown(fixture: &Fixture, row: &Row, who: &Who) -> Option<Vec<u8>> {
    match fixture.show(row.file, who) {
        Err(error) if row.path.contains("pressure") && error.errno() == libc::EOPNOTSUPP => None,
        found => Some(found.unwrap()),
    }
}

#[test]
fn every_file_of_every_container_is_as_derived() {
    for name in NAMES {
        let fixture = Fixture::named(name);
        let mut seen = BTreeSet::new();
        for process in fixture.processes() {
            let Some(container) = process.container else { continue };
            let who = fixture.reader(process.pid);
            for row in TABLE {
                let path = fixture.root.join("expected").join(&container).join(row.path);
                let what = path.display().to_string();
                match shown(&fixture, row, &who) {
                    Some(found) => assert_same(&found, &std::fs::read(&path).unwrap(), &what),
                    None => assert!(!path.exists(), "{what}"),
                }
            }
            for tree in TREES {
                let path = format!("expected/{container}/{}.tree", tree.path);
                let expected = std::fs::read(fixture.root.join(&path)).unwrap();
                let found = show_tree(&fixture.collector(), tree, &who).unwrap();
                assert_same(found.as_bytes(), &expected, &format!("{name}/{path}"));
            }
            seen.insert(container);
        }
        let derived: BTreeSet<String> = std::fs::read_dir(fixture.root.join("expected"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(seen, derived, "{name}");
    }
}

/// Worked out with pencil and paper from the captured files, so that the derivation is not
/// alone in its belief: each of these lines must be in the derived text.
#[test]
fn the_derived_texts_hold_what_was_worked_out_by_hand() {
    let lines: &[(&str, &[&str])] = &[
        (
            "unified-6.1/expected/c1/proc/meminfo",
            &[
                // The least of 600 MiB (pod) and 500 MiB (its parent); the 400 MiB below the
                // container's root do not count.
                "MemTotal:         512000 kB",
                // Of the own 524288000 - 159686656, the pod's 629145600 - 159698944 and its
                // parent's 524288000 - 227393536 the last is least.
                "MemFree:          289936 kB",
                // 296894464 + active_file 5517312 + inactive_file 25092096 +
                // slab_reclaimable 379400 of that parent = 327883272.
                "MemAvailable:     320198 kB",
                // swap.max 100 MiB, of which 51154944 are used.
                "SwapTotal:        102400 kB",
                "SwapFree:          52444 kB",
                // 16 MiB of pages of 2 MiB, two in use.
                "HugePages_Total:       8",
                "HugePages_Free:        6",
                "Hugetlb:           16384 kB",
                // Half of 512000 - 16384, and 102400 of swap.
                "CommitLimit:      350208 kB",
                // anon 70987776 + shmem 28303360 + swap 51154944.
                "Committed_AS:     146920 kB",
                // The host's lines that are the machine's.
                "VmallocTotal:   13743895347199 kB",
                "DirectMap2M:     1009664 kB",
            ],
        ),
        (
            // No limit: the machine's size, less the own usage. The machine's own commit limit
            // would be half of its 248467 pages.
            "manycpu-6.1/expected/c2/proc/meminfo",
            &["MemTotal:         993868 kB", "CommitLimit:      496932 kB"],
        ),
        (
            // Swap is what memory and swap (272629760) may hold beyond memory (209715200);
            // total_swap is 22982656, which leaves 39.5 MB, but the parent has 419430400 -
            // 193687552 left and the cgroup itself 272629760 - 171937792: more than that.
            "legacy-6.1/expected/c1/proc/swaps",
            &["none                                    virtual\t\t61440\t\t22444\t\t0"],
        ),
        (
            // 2.5 of the CPUs 2-6, of which 3 and 6 are offline: three.
            "manycpu-6.1/expected/c1/sys/devices/system/cpu/online",
            &["2,4-5"],
        ),
        (
            // Alive for 27.97 - 11.70 = 16.27 s, so 1627 ticks of each of three CPUs. A third
            // of 16.229088 s of user time is 540 ticks, of 2.6238 s of system time 87, of
            // 1.347045 s of throttling 44; 956 are left.
            "manycpu-6.1/expected/c1/proc/stat",
            &[
                "cpu2 540 0 87 956 0 0 0 44 0 0",
                "cpu5 540 0 87 956 0 0 0 44 0 0",
                "cpu  1620 0 261 2868 0 0 0 132 0 0",
                // The machine's 1795244143, and 11 s for the time namespace.
                "btime 1795244154",
            ],
        ),
        (
            "unified-6.1/expected/c1/proc/vmstat",
            &[
                // MemFree 289936 kB.
                "nr_free_pages 72484",
                // anon_thp 58720256.
                "nr_anon_transparent_hugepages 28",
                // file 54718464 and swapcached 32636928.
                "nr_file_pages 21327",
                "nr_kernel_stack 80",
                "pgmajfault 53",
                // 25170944, 8421376 and 4096 bytes.
                "pgpgin 32809",
            ],
        ),
        (
            // CPUs 0 to 3 are in the first package, 4 to 7 in the second; 0 to 7 are possible.
            "manycpu-6.1/expected/c1/sys/devices/system/cpu.tree",
            &[
                "present: 2,4-5",
                "possible: 0-7",
                "offline: 0-1,3,6-7",
                "cpu2/topology/core_siblings_list: 2",
                "cpu2/topology/core_siblings: 04",
                "cpu5/topology/package_cpus_list: 4-5",
                "cpu5/topology/package_cpus: 30",
                // All of a package share it; cpu6 is offline, which this file does not care about.
                "cpu4/cache/index3/shared_cpu_map: 30",
                "cpu5/topology/core_id: 1",
                "cpu5/node0 -> ../../node/node0",
            ],
        ),
        // The clock of the time namespace, not the 16.27 s; idle is that of stat.
        ("manycpu-6.1/expected/c1/proc/uptime", &["16.97 28.68"]),
        (
            // Alive for 36.56 - 15.16 = 21.40 s; 21.75 s busy and 5.81634 s throttled, by the
            // weights 2372 and 11080 of CPUs 1 and 2. CPU 2: 17.9148 s busy, of which
            // 1739/2175 user time; there is room for 3.4852 s of its throttling's 4.79 s, and
            // CPU 1 takes the rest.
            "legacy-6.1/expected/c1/proc/stat",
            &["cpu1 306 0 76 1525 0 0 0 233 0 0", "cpu2 1432 0 359 1 0 0 0 348 0 0"],
        ),
        (
            // 25170944 and 25180160 bytes in sectors of 512.
            "unified-6.1/expected/c1/proc/diskstats",
            &["   7       0 loop0 29 0 49162 0 40 0 49180 0 0 0 0 0 0 0 0 0 0"],
        ),
        // Nobody runs but the reader; threads 168, 173, 174 and 180, which is 8 inside.
        ("unified-6.1/expected/c1/proc/loadavg", &["0.00 0.00 0.00 1/4 8"]),
    ];
    for (path, lines) in lines {
        let text = std::fs::read_to_string(fixtures::root_of(path)).unwrap();
        for line in *lines {
            assert!(text.lines().any(|found| found == *line), "{path} lacks {line:?}");
        }
    }
    let tree = fixtures::root_of("manycpu-6.1/expected/c1/sys/devices/system/cpu.tree");
    let tree = std::fs::read_to_string(tree).unwrap();
    let members =
        tree.lines().filter(|line| line.starts_with("cpu") && line.matches('/').count() == 1);
    let members: Vec<&str> = members.filter(|line| line.ends_with('/')).collect();
    assert_eq!(members, ["cpu2/", "cpu4/", "cpu5/", "cpuidle/"]);

    let cpuinfo =
        std::fs::read_to_string(fixtures::root_of("manycpu-6.1/expected/c1/proc/cpuinfo")).unwrap();
    let shown: Vec<&str> = cpuinfo
        .lines()
        .filter(|line| {
            let keys = ["processor", "physical id", "siblings", "core id", "cpu cores"];
            keys.iter().any(|key| line.starts_with(key))
        })
        .map(|line| line.rsplit(' ').next().unwrap())
        .collect();
    // processor, package, siblings, core, cores: CPU 2 is alone in its package.
    assert_eq!(shown, ["2", "0", "1", "2", "1", "4", "1", "2", "0", "2", "5", "1", "2", "1", "2"]);
}

#[test]
fn what_is_seen_does_not_depend_on_the_order_of_reading() {
    for name in NAMES {
        let fixture = Fixture::named(name);
        let who = fixture.reader(fixture.init_of("c1"));
        let shared = fixture.collector();
        for row in TABLE.iter().chain(TABLE.iter().rev()) {
            let Some(alone) = shown(&fixture, row, &who) else { continue };
            let found = render(shared.collect(row.file, &who, fixture.now).unwrap());
            assert_same(&found, &alone, row.path);
        }
    }
}

#[test]
fn everybody_in_a_container_sees_it_and_two_containers_differ() {
    for name in NAMES {
        let fixture = Fixture::named(name);
        let one = fixture.container(fixture.init_of("c1")).unwrap();
        let two = fixture.container(fixture.init_of("c2")).unwrap();
        assert_ne!(one.identity(), two.identity());
        let joined =
            fixture.processes().into_iter().find(|process| process.what.starts_with("in c1's"));
        let Some(joined) = joined else { continue };
        // Its own cgroup is one below, and limited.
        let same = fixture.container(joined.pid).unwrap();
        assert_eq!(same.identity(), one.identity(), "{name}");
    }
}

#[test]
fn a_cgroup_namespace_begins_where_its_readme_says() {
    let expected = [
        ("hybrid-6.18", "c1", "/lxcfs-fixture/c1"),
        ("hybrid-6.18", "c2", "/lxcfs-fixture/c2"),
        ("legacy-6.1", "c1", "/lxcfs-fixture/c1"),
        ("legacy-6.1", "c2", "/lxcfs-fixture/c2"),
        ("unified-6.1", "c1", "/lxcfs-fixture/pod/c1"),
        ("unified-6.1", "c2", "/lxcfs-fixture/c2"),
        ("unified-6.1", "c3", "/lxcfs-fixture/c3"),
        ("manycpu-6.1", "c1", "/lxcfs-fixture/c1"),
        ("manycpu-6.1", "c2", "/lxcfs-fixture/c2"),
    ];
    for (name, container, path) in expected {
        let fixture = Fixture::named(name);
        let found = fixture.container(fixture.init_of(container)).unwrap();
        for controller in Controller::ALL {
            // The hybrid host has these on cgroup2, where the containers have no cgroup.
            let has_one = name != "hybrid-6.18"
                || !matches!(controller, Controller::Hugetlb | Controller::Psi);
            if (name, controller) == ("legacy-6.1", Controller::Psi) {
                assert_eq!(fixture.kernel.hierarchy_of(controller), None);
                continue;
            }
            let root = found.path(&fixture.kernel, controller);
            assert_eq!(
                root,
                Some(Path::new(if has_one { path } else { "/" })),
                "{name} {controller:?}"
            );
        }
    }
}

#[test]
fn a_container_whose_cgroup_is_gone_or_elsewhere_has_no_files_made_of_it() {
    use ProcFile::{CpuOnline, Cpuinfo, Diskstats, Loadavg, Meminfo, Slabinfo, Stat, Swaps};
    use ProcFile::{Uptime, Vmstat};
    let all = TABLE.iter().map(|row| row.file).collect();
    let places = [
        (
            "hybrid-6.18",
            "sys/fs/cgroup/cpu/lxcfs-fixture/c1",
            vec![Cpuinfo, CpuOnline, Stat, Uptime],
        ),
        ("hybrid-6.18", "sys/fs/cgroup/cpuacct/lxcfs-fixture/c1", vec![Stat, Uptime, Loadavg]),
        (
            "hybrid-6.18",
            "sys/fs/cgroup/memory/lxcfs-fixture/c1",
            vec![Meminfo, Swaps, Vmstat, Slabinfo],
        ),
        ("hybrid-6.18", "sys/fs/cgroup/blkio/lxcfs-fixture/c1", vec![Diskstats, Vmstat]),
        ("unified-6.1", "sys/fs/cgroup/lxcfs-fixture/pod/c1", all),
    ];
    for (name, cgroup, files) in places {
        for (is_removed, is_open) in [(true, true), (false, true), (false, false)] {
            let copy = fixtures::Copy::of(name);
            let fixture = copy.open().unwrap();
            let who = fixture.reader(fixture.init_of("c1"));
            // Its directories are opened by the first reading.
            for &file in files.iter().filter(|_| is_open) {
                fixture.show(file, &who).unwrap();
            }
            let cgroup = copy.root().join(cgroup);
            if is_removed {
                std::fs::remove_dir_all(&cgroup).unwrap();
            } else if name == "unified-6.1" && is_open {
                // Its cgroups are never renamed; but one may be removed, and another made there.
                continue;
            } else {
                std::fs::rename(&cgroup, cgroup.with_file_name("other")).unwrap();
                std::fs::create_dir(&cgroup).unwrap();
                std::fs::write(cgroup.join("cgroup.procs"), "").unwrap();
            }
            for &file in &files {
                let error = fixture.show(file, &who).unwrap_err();
                assert!(error.is_gone(), "{name} {file:?}: {error}");
            }
        }
    }
}

#[test]
fn a_container_holds_a_descriptor_for_each_hierarchy_and_level() {
    for (name, container, expected) in [
        // cpu, cpuacct, cpuset, memory, freezer and blkio, two levels of each.
        ("hybrid-6.18", "c1", 12),
        ("unified-6.1", "c1", 3),
        ("unified-6.1", "c3", 2),
    ] {
        let fixture = Fixture::named(name);
        let found = fixture.container(fixture.init_of(container)).unwrap();
        assert_eq!(found.most_directories(), expected, "{name} {container}");
    }
}

#[test]
fn the_second_reading_goes_on_from_the_first() {
    for name in NAMES {
        let fixture = Fixture::named(name);
        let who = fixture.reader(fixture.init_of("c1"));
        let collector = fixture.collector();
        let stat = |seconds: u64| {
            let now = fixture.now + Nsec(seconds * Nsec::PER_SEC);
            let text = render(collector.collect(ProcFile::Stat, &who, now).unwrap());
            let text = String::from_utf8(text).unwrap();
            let lines = text.lines().filter(|line| line.starts_with("cpu"));
            let numbers = |line: &str| {
                line.split_ascii_whitespace().skip(1).map(|word| word.parse().unwrap()).collect()
            };
            lines.map(numbers).collect::<Vec<Vec<u64>>>()
        };
        let (first, second) = (stat(0), stat(10));
        // Nothing was used since: ten seconds of idle time on each CPU, and no more than a
        // remainder of a tick in each other column.
        for (line, (before, after)) in first.iter().zip(&second).enumerate() {
            let cpus = if line == 0 { u64::try_from(first.len() - 1).unwrap() } else { 1 };
            let gained: Vec<u64> =
                before.iter().zip(after).map(|(before, after)| after - before).collect();
            let sum: u64 = gained.iter().sum();
            assert_eq!(sum, 1000 * cpus, "{name}: {first:?} {second:?}");
            assert!(sum - gained[3] <= 4 * cpus, "{name}: {first:?} {second:?}");
        }
    }
}

#[test]
fn running_and_blocked_tasks_are_the_load() {
    let copy = fixtures::Copy::of("unified-6.1");
    // Of the threads of c1, one runs and one waits for its disk; 174's name is made to mislead.
    copy.edit("proc/173/status", |text| text.replace("\tS (sleeping)", "\tR (running)"));
    copy.edit("proc/180/status", |text| text.replace("\tS (sleeping)", "\tD (disk sleep)"));
    // The kernel escapes a newline in a name.
    copy.edit("proc/174/status", |text| text.replace("\tpython3", "\tx\\nState:\tR (running)"));
    let fixture = copy.open().unwrap();
    let show = |file, container| {
        let who = fixture.reader(fixture.init_of(container));
        String::from_utf8(fixture.show(file, &who).unwrap()).unwrap()
    };
    assert_eq!(show(ProcFile::Loadavg, "c1"), "2.00 2.00 2.00 1/4 8\n");
    assert!(show(ProcFile::Stat, "c1").contains("\nprocs_running 1\nprocs_blocked 1\n"));
    assert_eq!(show(ProcFile::Loadavg, "c2"), "0.00 0.00 0.00 1/1 1\n");
    // What is frozen is no load.
    copy.edit("sys/fs/cgroup/lxcfs-fixture/pod/c1/cgroup.events", |text| {
        text.replace("frozen 0", "frozen 1")
    });
    assert_eq!(show(ProcFile::Loadavg, "c1"), "0.00 0.00 0.00 1/4 8\n");
    assert!(show(ProcFile::Stat, "c1").contains("\nprocs_running 1\nprocs_blocked 0\n"));
}

#[test]
fn expected_texts_have_the_hosts_layout() {
    // Whatever the values, the lines and their order are the host's.
    for name in NAMES {
        let labels = |path: &Path| -> Vec<String> {
            let text = std::fs::read_to_string(path).unwrap();
            text.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect()
        };
        let root = fixtures::root_of(name);
        assert_eq!(
            labels(&root.join("proc/meminfo")),
            labels(&root.join("expected/c1/proc/meminfo")),
            "{name}"
        );
    }
}
