//! Directories of /sys that are served as a whole: what a reader finds in them that no captured
//! host has.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

#[allow(dead_code, reason = "each test uses its part")]
mod fixtures;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use fixtures::{Copy, Fixture, show_tree};
use lxcfs_rs::collect::{Collector, CpuCount, UpSince};
use lxcfs_rs::container::{Subject, Who};
use lxcfs_rs::cpulist::CpuIds;
use lxcfs_rs::files::{ProcFile, TREES};
use lxcfs_rs::render::render;

const CPU: &str = "sys/devices/system/cpu";

/// A file as container c1 sees it, and the errno where it cannot.
fn show(fixture: &Fixture, path: &str, who: &Who) -> Result<String, i32> {
    let facts = fixture.collector().tree_file(&TREES[0], path, who);
    facts.map(|facts| String::from_utf8(render(facts)).unwrap()).map_err(|error| error.errno())
}

#[test]
fn files_of_absent_cpus_are_of_no_device() {
    let fixture = Fixture::named("manycpu-6.1");
    let who = fixture.reader(fixture.init_of("c1"));
    assert_eq!(show(&fixture, "cpu2/topology/core_id", &who).unwrap(), "2\n");
    assert_eq!(show(&fixture, "cpu1/topology/core_id", &who), Err(libc::ENODEV));
    // One that the host does not have.
    assert_eq!(show(&fixture, "cpu2/topology/nothing", &who), Err(libc::ENOENT));
}

#[test]
fn what_only_root_may_read_and_what_can_only_be_written_is_not_opened() {
    let copy = Copy::of("manycpu-6.1");
    for (name, mode) in [("crash_notes", 0o400), ("probe", 0o200), ("isolated2", 0o444)] {
        let path = format!("{CPU}/{name}");
        copy.write(&path, b"text\n");
        fs::set_permissions(copy.root().join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let fixture = copy.open().unwrap();
    let host = fixture.host_process();
    let host = Who { reader: Some(host), subject: Subject::Host(fixture.container(host).unwrap()) };
    for who in [fixture.reader(fixture.init_of("c1")), host] {
        assert_eq!(show(&fixture, "crash_notes", &who), Err(libc::EACCES));
        assert_eq!(show(&fixture, "probe", &who), Err(libc::EACCES));
        assert_eq!(show(&fixture, "isolated2", &who).unwrap(), "text\n");
        assert_eq!(show(&fixture, "cpu2", &who), Err(libc::EISDIR));
        assert_eq!(show(&fixture, "cpu2/subsystem", &who), Err(libc::ELOOP));
    }
}

#[test]
fn how_hot_the_hosts_cpus_ran_is_for_the_host() {
    let copy = Copy::of("manycpu-6.1");
    fs::create_dir(copy.root().join(format!("{CPU}/cpu2/thermal_throttle"))).unwrap();
    copy.write(&format!("{CPU}/cpu2/thermal_throttle/core_throttle_count"), b"7\n");
    let fixture = copy.open().unwrap();
    let path = "cpu2/thermal_throttle/core_throttle_count";
    let nobody = Who { reader: None, subject: Subject::Unknown };
    assert_eq!(show(&fixture, path, &nobody).unwrap(), "7\n");
    for container in ["c1", "c2"] {
        let who = fixture.reader(fixture.init_of(container));
        assert_eq!(show(&fixture, path, &who), Err(libc::ENODEV));
        let part = fixture.collector().part(TREES[0].tree, &who).unwrap();
        let has = |name: &str| part.has(&TREES[0], &format!("cpu2/{name}"));
        assert!(!has("thermal_throttle") && has("topology"));
    }
}

#[test]
fn threads_share_a_core_where_both_are_present() {
    let copy = Copy::of("manycpu-6.1");
    copy.edit(&format!("{CPU}/smt/active"), |_| "1\n".to_owned());
    // c1 has 2, 4 and 5.
    for (pair, active) in [(["2", "3"], "0\n"), (["4", "5"], "1\n")] {
        let list = pair.join("-");
        for cpu in pair.into_iter().filter(|cpu| *cpu != "3") {
            let path = format!("{CPU}/cpu{cpu}/topology/thread_siblings_list");
            copy.write(&path, format!("{list}\n").as_bytes());
        }
        let fixture = copy.open().unwrap();
        let who = fixture.reader(fixture.init_of("c1"));
        assert_eq!(show(&fixture, "smt/active", &who).unwrap(), active, "{list}");
        let nobody = Who { reader: None, subject: Subject::Unknown };
        assert_eq!(show(&fixture, "smt/active", &nobody).unwrap(), "1\n");
    }
}

#[test]
fn quotas_are_rounded_as_told_in_every_file() {
    let fixture = Fixture::named("manycpu-6.1");
    let who = fixture.reader(fixture.init_of("c1"));
    // A quota of 2.5, of the CPUs 2, 4 and 5 that run; half is rounded up.
    for (rule, expected) in [("floor", "2,4"), ("round", "2,4-5"), ("cpuset", "2,4-5")] {
        let mut collector = fixture.collector();
        collector.cpu_count = rule.parse::<CpuCount>().unwrap();
        let tree = show_tree(&collector, &TREES[0], &who).unwrap();
        for name in ["online", "present"] {
            assert!(tree.contains(&format!("\n{name}: {expected}\n")), "{rule}: {tree}");
        }
    }
}

/// The CPUs 2, 4 and 5 of c1, of which the first is in one package and the others in the second,
/// numbered from 0 on: worked out by hand.
#[test]
fn cpus_are_numbered_from_0_on_in_every_file() {
    let copy = Copy::of("manycpu-6.1");
    copy.edit(&format!("{CPU}/isolated"), |_| "3-4,7\n".to_owned());
    let fixture = copy.open().unwrap();
    let who = fixture.reader(fixture.init_of("c1"));
    let mut collector = fixture.collector();
    collector.cpu_ids = CpuIds::Compact;
    let trees = TREES.iter().map(|tree| show_tree(&collector, tree, &who).unwrap());
    let shown: Vec<String> = trees.collect();
    for line in [
        "online: 0-2",
        "present: 0-2",
        "possible: 0-7",
        "offline: 3-7",
        "isolated: 1",
        "nohz_full:   (null)",
        "cpu0/topology/core_id: 2",
        "cpu0/topology/physical_package_id: 0",
        "cpu0/topology/core_siblings_list: 0",
        "cpu0/topology/core_siblings: 01",
        "cpu1/topology/package_cpus_list: 1-2",
        "cpu2/topology/package_cpus: 06",
        "cpu2/topology/core_id: 1",
        "cpu2/topology/thread_siblings: 04",
        "cpu1/cache/index3/shared_cpu_map: 06",
        "cpu2/cache/index0/shared_cpu_list: 2",
        "cpu1/node0 -> ../../node/node0",
        "node0/cpulist: 0-2",
        "node0/cpumap: 07",
        "node0/cpu2 -> ../../cpu/cpu2",
    ] {
        assert!(shown.concat().lines().any(|found| found == line), "{line}");
    }
    let names = |tree: &str, directory: &str| -> Vec<String> {
        let below =
            tree.lines().filter_map(|line| line.strip_prefix(directory)?.strip_prefix("cpu"));
        let names = below.filter_map(|line| line.split(['/', ' ']).next());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.retain(|name| name.parse::<u32>().is_ok());
        names.dedup();
        names
    };
    assert_eq!(names(&shown[0], ""), ["0", "1", "2"]);
    assert_eq!(names(&shown[1], "node0/"), ["0", "1", "2"]);

    let show = |file, collector: &Collector| {
        let facts = collector.collect(file, &who, fixture.now).unwrap();
        String::from_utf8(render(facts)).unwrap()
    };
    // As under the physical numbers, but for these.
    for (file, label) in [(ProcFile::Stat, "cpu"), (ProcFile::Cpuinfo, "processor\t: ")] {
        let mut expected = show(file, &fixture.collector());
        for (physical, number) in [(2, 0), (4, 1), (5, 2)] {
            let line = format!("\n{label}{physical}");
            let changed = format!("\n{expected}").replace(&line, &format!("\n{label}{number}"));
            assert_ne!(changed[1..], expected, "{physical}");
            expected = changed[1..].to_owned();
        }
        assert_eq!(show(file, &collector), expected);
    }
    // A process of the host, whose cgroup limits it, is shown the host's numbers.
    let pid = fixture.init_of("c1");
    let host = Who { reader: Some(pid), subject: Subject::Host(fixture.container(pid).unwrap()) };
    let tree = show_tree(&collector, &TREES[0], &host).unwrap();
    assert!(tree.contains("\nonline: 2,4-5\n") && tree.contains("\ncpu5/topology/core_id: 1\n"));
}

/// The specification's formula: without a time namespace the host's uptime, with one that of it.
#[test]
fn a_container_may_be_up_since_the_host_booted() {
    for (name, container, expected) in [("manycpu-6.1", "c1", "16.97 "), ("hybrid-6.18", "c2", "")]
    {
        let fixture = Fixture::named(name);
        let who = fixture.reader(fixture.init_of(container));
        let mut collector = fixture.collector();
        collector.up_since = UpSince::Host;
        let facts = collector.collect(ProcFile::Uptime, &who, fixture.now).unwrap();
        let shown = String::from_utf8(render(facts)).unwrap();
        let host = fs::read_to_string(fixture.root.join("proc/uptime")).unwrap();
        let host = host.split_inclusive(' ').next().unwrap();
        let expected = if expected.is_empty() { host } else { expected };
        assert!(shown.starts_with(expected), "{name}: {shown}");
        // Its own idle time, as ever.
        let own = fixture.show(ProcFile::Uptime, &who).unwrap();
        let own = String::from_utf8(own).unwrap();
        assert_eq!(shown.split(' ').nth(1), own.split(' ').nth(1));
        assert_eq!(shown == own, name == "manycpu-6.1", "{name}: {shown}");
    }
}

/// A second node beside the captured one, three times as large; CPUs 4 to 7 are its own.
fn two_nodes(mems: &str) -> (Copy, Fixture) {
    const NODE: &str = "sys/devices/system/node";
    let copy = Copy::of("manycpu-6.1");
    let node = |name: &str| copy.root().join(format!("{NODE}/{name}"));
    fs::create_dir(node("node1")).unwrap();
    for name in ["vmstat", "numastat"] {
        fs::copy(node("node0").join(name), node("node1").join(name)).unwrap();
    }
    let meminfo = fs::read_to_string(node("node0/meminfo")).unwrap().replace("Node 0", "Node 1");
    copy.write(&format!("{NODE}/node1/meminfo"), meminfo.as_bytes());
    for (name, total) in [("node0", 200_000), ("node1", 600_000)] {
        copy.edit(&format!("{NODE}/{name}/meminfo"), |text| {
            let line = text.lines().next().unwrap();
            let (label, _) = line.split_once(':').unwrap();
            text.replace(line, &format!("{label}:       {total:8} kB"))
        });
    }
    for (path, text) in [
        ("online", "0-1"),
        ("possible", "0-1"),
        ("has_cpu", "0-1"),
        ("has_memory", "0-1"),
        ("node0/cpulist", "0-2"),
        ("node0/cpumap", "07"),
        ("node1/cpulist", "4-5,7"),
        ("node1/cpumap", "b0"),
        ("node0/distance", "10 21"),
        ("node1/distance", "21 10"),
    ] {
        copy.write(&format!("{NODE}/{path}"), format!("{text}\n").as_bytes());
    }
    copy.edit("sys/fs/cgroup/lxcfs-fixture/c1/cpuset.mems.effective", |_| format!("{mems}\n"));
    let fixture = copy.open().unwrap();
    (copy, fixture)
}

fn node_line(fixture: &Fixture, path: &str, label: &str) -> u64 {
    let who = fixture.reader(fixture.init_of("c1"));
    let facts = fixture.collector().tree_file(&TREES[1], path, &who).unwrap();
    let text = String::from_utf8(render(facts)).unwrap();
    let found = text.lines().find(|line| line.contains(label)).unwrap();
    found.split_whitespace().find_map(|word| word.parse().ok().filter(|_| word.len() > 1)).unwrap()
}

#[test]
fn the_nodes_memories_make_up_the_machines() {
    let (_copy, fixture) = two_nodes("0-1");
    // c1 has 256 MiB, of which a quarter is on the first.
    assert_eq!(node_line(&fixture, "node0/meminfo", "MemTotal"), 65_536);
    assert_eq!(node_line(&fixture, "node1/meminfo", "MemTotal"), 196_608);
    let who = fixture.reader(fixture.init_of("c1"));
    let machine = fixture.show(lxcfs_rs::files::ProcFile::Meminfo, &who).unwrap();
    let machine = String::from_utf8(machine).unwrap();
    let free = machine.lines().find_map(|line| line.strip_prefix("MemFree:")).unwrap();
    let free: u64 = free.trim().trim_end_matches(" kB").parse().unwrap();
    let sum = ["node0/meminfo", "node1/meminfo"].map(|path| node_line(&fixture, path, "MemFree"));
    assert_eq!(sum.iter().sum::<u64>(), free);
    let tree = show_tree(&fixture.collector(), &TREES[1], &who).unwrap();
    for line in ["online: 0-1", "has_cpu: 0-1", "node0/distance: 10 21", "node1/cpulist: 4-5"] {
        assert!(tree.lines().any(|found| found == line), "{line}: {tree}");
    }
}

#[test]
fn a_node_whose_memory_it_may_not_use_is_not_there() {
    let (_copy, fixture) = two_nodes("1");
    assert_eq!(node_line(&fixture, "node1/meminfo", "MemTotal"), 262_144);
    let who = fixture.reader(fixture.init_of("c1"));
    let tree = show_tree(&fixture.collector(), &TREES[1], &who).unwrap();
    assert!(!tree.contains("node0"), "{tree}");
    for line in ["online: 1", "has_cpu: 1", "has_memory: 1", "possible: 0-1", "node1/distance: 10"]
    {
        assert!(tree.lines().any(|found| found == line), "{line}: {tree}");
    }
    // A process of the host whose cgroup limits it sees the node, and otherwise the host's tree.
    let pid = fixture.init_of("c1");
    let host = Who { reader: Some(pid), subject: Subject::Host(fixture.container(pid).unwrap()) };
    let tree = show_tree(&fixture.collector(), &TREES[1], &host).unwrap();
    assert!(!tree.contains("node0") && tree.contains("node1/cpulist: 4-5"), "{tree}");
}
