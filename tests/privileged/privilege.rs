//! What a worker may do, and that it is enough.
//!
//! Needs what [`crate::who`] needs, and a kernel with PSI.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use crate::byhand::{Group, MIB, Plan, Program};
use crate::daemon::{Place, Served, replace_worker, start, worker_of};

/// By linux/capability.h.
const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;

/// A line of a status file, in base 16.
fn hexadecimal(status: &str, name: &str) -> u64 {
    u64::from_str_radix(&line(status, name), 16).unwrap()
}

fn line(status: &str, name: &str) -> String {
    let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    found.unwrap_or_else(|| panic!("no {name} in {status}")).to_owned()
}

/// Each thread of the worker has what README.md says, also one that comes after a killed one.
#[test]
fn a_worker_has_the_rights_that_it_needs() {
    let place = Place::new();
    let daemon = start(&place);
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let available = hexadecimal(&own, "CapPrm");
    let effective = (SYS_PTRACE | DAC_READ_SEARCH) & available;
    let permitted = effective | (SYS_ADMIN | DAC_OVERRIDE | SYS_RESOURCE) & available;
    for _ in 0..2 {
        let worker = worker_of(daemon.pid());
        // With the threads that count and that wait for pressure.
        assert!(fs::read_to_string(place.file("proc/loadavg")).is_ok());
        let mut threads = 0;
        for thread in fs::read_dir(format!("/proc/{worker}/task")).unwrap() {
            let read = |name: &str| fs::read_to_string(thread.as_ref().unwrap().path().join(name));
            let Ok(status) = read("status") else { continue };
            let has = hexadecimal(&status, "CapEff");
            assert_eq!(has & !SYS_ADMIN, effective, "{status}");
            // It has its name before it has that.
            if has & SYS_ADMIN != 0 {
                assert_eq!(read("comm").unwrap(), "namespaces\n", "{status}");
            }
            assert_eq!(hexadecimal(&status, "CapPrm"), permitted, "{status}");
            for none in ["CapInh", "CapBnd", "CapAmb"] {
                assert_eq!(hexadecimal(&status, none), 0, "{status}");
            }
            assert_eq!([line(&status, "NoNewPrivs"), line(&status, "Seccomp")], ["1", "2"]);
            threads += 1;
        }
        assert!(threads > 1);
        replace_worker(daemon.pid());
    }
    let documented = include_str!("../../README.md");
    let names = ["SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN", "DAC_OVERRIDE", "SYS_RESOURCE"];
    for name in names {
        assert!(documented.contains(&format!("`CAP_{name}`")), "{name}");
    }
}

/// A cgroup that its owner lets nobody else into, and pressure files that are his.
#[test]
fn cgroups_of_other_users_are_read_and_watched() {
    const OWNER: u32 = 65_534;
    const SCRIPT: &str = "exec unshare --pid --fork --kill-child --cgroup python3 -c \"
import os, sys
head = open(sys.argv[1] + '/proc/meminfo').readline().split()[1]
for name, trigger in ('cpu', b'some 200000 2000000\\n'), ('memory', b'some 500000 10000000\\n'):
    file = os.open(sys.argv[1] + '/proc/pressure/' + name, os.O_RDWR | os.O_NONBLOCK)
    os.write(file, trigger)
print(head)
\" \"$1\"";
    let served = Served::new();
    let group = Group::new(&["memory", "cpu", "cpuacct", "unified"]);
    group.set("memory.limit_in_bytes", 64 * MIB);
    for controller in ["memory", "cpu", "cpuacct", "unified"] {
        let dir = group.dir(controller);
        for entry in fs::read_dir(&dir).unwrap() {
            chown(entry.unwrap().path(), Some(OWNER), None).unwrap();
        }
        chown(&dir, Some(OWNER), None).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let script = format!("{} {SCRIPT}", group.join());
    let printed = Program::start(&served.place, &script).output();
    assert_eq!(printed, format!("{}\n", 64 * MIB / 1024));
    // In its container's cgroup namespace: the boundary is found by entering it.
    assert_eq!(Plan::container(&group).start(&served.place).total(), 64 * MIB);
}
