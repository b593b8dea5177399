//! The flags of `run` beside a real Docker's: the same command line, the same result.
//!
//! Needs what `run` and `docker` need.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::engine::{self, Engine, IMAGE};
use super::run::run;

/// Flags, and a script whose output and exit status must be the same in both.
type Row = (&'static [&'static str], &'static str);

/// The image's root file system, for a container of ours.
struct Root(PathBuf);

impl Root {
    fn unpack() -> Root {
        let dir = std::env::temp_dir().canonicalize().unwrap();
        let root = Root(dir.join(format!("lxcfs-rs-flags-{}", std::process::id())));
        std::fs::create_dir(&root.0).unwrap();
        let mut tar = Command::new("tar");
        tar.arg("-xpC").arg(&root.0).arg("-f").arg(engine::image());
        assert!(tar.status().unwrap().success());
        root
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Exit status, standard output and standard error.
fn ending(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn ours(root: &Root, flags: &[&str], script: &str) -> (i32, String, String) {
    let mut arguments = vec!["--rootfs", root.0.to_str().unwrap()];
    arguments.extend(flags);
    arguments.extend(["--", "sh", "-c", script]);
    ending(run(&arguments))
}

fn dockers(engine: &Engine, flags: &[&str], script: &str) -> (i32, String, String) {
    let mut arguments = vec!["run", "--rm", "--network", "none"];
    arguments.extend(flags);
    arguments.extend([IMAGE, "sh", "-c", script]);
    ending(engine.docker(&arguments))
}

const MEMORY: &str =
    "cd /sys/fs/cgroup/memory; cat memory.limit_in_bytes memory.memsw.limit_in_bytes";
const CPU: &str = "cd /sys/fs/cgroup/cpu; cat cpu.cfs_quota_us cpu.cfs_period_us";
const CPUSET: &str =
    "cat /sys/fs/cgroup/cpuset/cpuset.cpus; grep Cpus_allowed_list /proc/self/status";
const PIDS: &str = "read pids < /sys/fs/cgroup/pids/pids.max; echo $pids";

/// All that both accept.
const ACCEPTED: &[Row] = &[
    (&["-m", "64m"], MEMORY),
    (&["--memory=1.5g"], MEMORY),
    (&["-m", "0.01g"], MEMORY),
    (&["-m", "64 MiB"], MEMORY),
    (&["-m", "6291456b"], MEMORY),
    (&["-m", "0"], MEMORY),
    (&["-m", "64m", "--memory-swap", "64m"], MEMORY),
    (&["-m", "64m", "--memory-swap=100m"], MEMORY),
    (&["-m", "64m", "--memory-swap", "-1"], MEMORY),
    (&["-m", "64m", "--memory-swap", "0"], MEMORY),
    (&["--memory-swap", "-1"], MEMORY),
    (&["--cpus", "0.5"], CPU),
    (&["--cpus", "0"], CPU),
    (&["--cpu-quota", "50000"], CPU),
    (&["--cpu-quota", "-1"], CPU),
    (&["--cpu-quota", "0"], CPU),
    (&["--cpu-period", "50000"], CPU),
    (&["--cpu-period", "0"], CPU),
    (&["--cpu-period", "1000", "--cpu-quota", "1000"], CPU),
    (&["--cpu-period=1000000", "--cpu-quota=10000000"], CPU),
    (&["--cpuset-cpus", "0"], CPUSET),
    (&["--pids-limit", "5"], PIDS),
    (&["--pids-limit", "0"], PIDS),
    (&["--pids-limit", "-1"], PIDS),
    (&["--pids-limit", "1"], "read pids < /sys/fs/cgroup/pids/pids.max; echo $pids; true & wait"),
];

/// All that neither accepts.
const REFUSED: &[&[&str]] = &[
    &["-m", "5m"],
    &["-m", "1e8"],
    &["-m", ".1g"],
    &["-m", "-1"],
    &["-m", ""],
    &["-m", "64m", "--memory-swap", "32m"],
    &["-m", "64m", "--memory-swap", "-2"],
    &["--memory-swap", "64m"],
    &["--cpus", "1000000"],
    &["--cpus", "-1"],
    &["--cpus", "0.001"],
    &["--cpu-quota", "999"],
    &["--cpu-quota", "x"],
    &["--cpu-quota", "1.5"],
    &["--cpu-period", "999"],
    &["--cpu-period", "1000001"],
    &["--cpu-period", "-1"],
    &["--cpus", "1", "--cpu-quota", "1000"],
    &["--cpus", "1", "--cpu-period", "50000"],
    &["--cpuset-cpus", "60000"],
    &["--pids-limit", "x"],
    &["--pids-limit", "99999999"],
];

#[test]
fn every_flag_has_dockers_result() {
    let (engine, root) = (Engine::shared(), Root::unpack());
    let mut different = Vec::new();
    for (flags, script) in ACCEPTED {
        let (here, there) = (ours(&root, flags, script), dockers(&engine, flags, script));
        if (here.0, &here.1) != (there.0, &there.1) {
            different
                .push(format!("{flags:?} {script:?}\n  ours: {here:?}\n  Docker's: {there:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn what_docker_refuses_is_one_line_and_125() {
    let engine = Engine::shared();
    for flags in REFUSED {
        let there = dockers(&engine, flags, "true");
        assert_eq!(there.0, 125, "{flags:?}: Docker: {there:?}");
        let (status, printed, said) = ending(run(&[flags, &["true"][..]].concat()));
        assert_eq!((status, printed.as_str()), (125, ""), "{flags:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{flags:?}: {said}");
        assert!(said.starts_with("lxcfs-rs: run: "), "{flags:?}: {said}");
    }
}
