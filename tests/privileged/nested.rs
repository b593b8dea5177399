//! `run` inside `run`: bounded by both, shown both, and nothing left in either.
//!
//! Needs what `run` needs.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::process::Output;

use super::run::{output_of, run, run_script};

/// The program under test, whose path a copy of the host's root has too.
const PROGRAM: &str = env!("CARGO_BIN_EXE_lxcfs-rs");

/// What a script prints in a container with the flags `inner` in one with the flags `outer`.
#[track_caller]
fn nested(outer: &[&str], inner: &[&str], script: &str) -> String {
    let arguments =
        [outer, &["--privileged", "--", PROGRAM, "run"], inner, &["--", "sh", "-c", script]];
    output_of(run(&arguments.concat()))
}

const SHOWN: &str = "grep MemTotal /proc/meminfo; grep -c ^processor /proc/cpuinfo
    cat /sys/devices/system/cpu/online; test $(cut -d. -f1 /proc/uptime) -lt 30 && echo young
    echo $$; cut -d: -f3 /proc/self/cgroup | sort -u | head -1";

#[test]
fn the_tighter_limit_is_shown() {
    for (outer, inner, total) in [
        (["-m", "200m", "--cpus", "1"].as_slice(), ["-m", "100m"].as_slice(), 102_400),
        (&["-m", "100m"], &["-m", "200m", "--cpus", "1"], 102_400),
        (&["-m", "100m", "--cpus", "0.5"], &[], 102_400),
    ] {
        assert_eq!(
            nested(outer, inner, SHOWN),
            format!("MemTotal:         {total} kB\n1\n0\nyoung\n1\n/\n"),
            "{outer:?} {inner:?}"
        );
    }
}

#[test]
fn the_tighter_limit_holds() {
    for (outer, inner) in [("64m", "1g"), ("1g", "64m")] {
        let script = format!(
            "{PROGRAM} run -m {inner} -- python3 -c 'bytearray(512 << 20)'; echo status $?"
        );
        let command = run_script(&["--privileged", "-m", outer], &script).output().unwrap();
        assert_eq!(String::from_utf8(command.stdout).unwrap(), "status 137\n", "{outer} {inner}");
    }
}

/// The inner one is confined as any.
#[test]
fn an_inner_container_is_a_container() {
    let script = "grep -E '^(CapEff|Seccomp:)' /proc/self/status; mknod /tmp/kmsg c 1 11
        head -c 1 /tmp/kmsg || touch /proc/sys/x || mkdir /sys/fs/cgroup/x || echo refused";
    let Output { status, stdout, .. } =
        run(&["--privileged", "--", PROGRAM, "run", "--", "sh", "-c", script]).output().unwrap();
    assert!(status.success());
    let printed = String::from_utf8(stdout).unwrap();
    assert_eq!(printed, "CapEff:\t00000000a80425fb\nSeccomp:\t2\nrefused\n");
}

#[test]
fn three_levels_and_nothing_left() {
    let script = format!(
        "mounts=$(cat /proc/self/mountinfo)
        {PROGRAM} run --privileged -m 150m -- {PROGRAM} run -m 300m -- grep MemTotal /proc/meminfo
        test \"$mounts\" = \"$(cat /proc/self/mountinfo)\" || echo mounts
        find /sys/fs/cgroup/ -name 'lxcfs-rs*'
        ps -e -o comm= | grep lxcfs-rs"
    );
    let output = run_script(&["--privileged", "-m", "200m"], &script).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(printed, "MemTotal:         153600 kB\n", "{said}");
}

/// Without --privileged there are no rights to make a container with.
#[test]
fn an_unprivileged_one_runs_none() {
    let command = ["--", PROGRAM, "run", "true"];
    let output = run(&command).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.lines().count()), (Some(125), 1), "{said}");
    assert!(said.starts_with("lxcfs-rs: run: "), "{said}");
}
