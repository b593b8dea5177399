//! The program called as `lxcfs`, and its signals.
//!
//! Needs Debian's lxcfs, beside which it must do no harm, and start-stop-daemon.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::byhand::{Group, MIB, Plan, Reader, eventually, mem};
use crate::daemon::{Guarded, PROGRAM, Place, start_telling};
use crate::engine::find;

/// The link of its name to the program in a place.
fn program(place: &Place) -> PathBuf {
    let link = place.base.join("lxcfs");
    if !link.is_symlink() {
        symlink(PROGRAM, &link).unwrap();
    }
    link
}

/// `lxcfs ARGUMENTS MOUNTPOINT`, which leaves /run alone.
fn lxcfs<S: AsRef<OsStr>>(place: &Place, arguments: &[S]) -> Command {
    let mut command = Command::new(program(place));
    let mut runtime = std::ffi::OsString::from("--runtime-dir=");
    runtime.push(&place.base);
    command.arg(runtime).args(arguments).arg(place.mountpoint());
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn start<S: AsRef<OsStr>>(place: &Place, arguments: &[S]) -> Guarded {
    start_telling(place, lxcfs(place, arguments)).0
}

fn is_mounted(place: &Place) -> bool {
    let mountpoint = place.mountpoint().to_str().unwrap().replace(' ', "\\040");
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|line| line.contains(&format!(" {mountpoint} fuse.lxcfs ")))
}

/// Its status, standard output and standard error. One that serves for ever is a failure.
fn outcome(command: &Command) -> (Option<i32>, String, String) {
    let mut timeout = Command::new("timeout");
    timeout.args(["--signal=KILL", "120"]).arg(command.get_program()).args(command.get_args());
    timeout.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
    let Output { status, stdout, stderr } = timeout.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// As Debian's lxcfs 5.0.3 answers.
#[test]
fn what_is_not_served_is_told_on_standard_error() {
    let place = Place::new();
    let answer = |arguments: &[&str]| {
        let mut command = Command::new(program(&place));
        command.args(arguments);
        let (status, stdout, stderr) = outcome(&command);
        assert_eq!(stdout, "", "{arguments:?}");
        (status, stderr)
    };
    let (status, text) = answer(&["--version"]);
    assert_eq!((status, text.lines().count()), (Some(0), 1), "{text}");
    assert!(text.starts_with('"'), "{text}");
    for help in [["--help"].as_slice(), &["-h"], &[]] {
        let (status, text) = answer(help);
        assert_eq!(status, Some(1));
        assert!(text.contains("Usage: lxcfs") && text.contains("--enable-cfs"), "{text}");
    }
    for (arguments, named) in [
        (["--bogus", "/m"].as_slice(), "--bogus"),
        (&["-o", "bogus", "/m"], "bogus"),
        (&["/m", "/n"], "/n"),
        (&["-f", "-d", "/m"], "--foreground"),
    ] {
        let (status, text) = answer(arguments);
        assert_eq!((status, text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.starts_with("lxcfs: ") && text.contains(named), "{text}");
    }
}

#[test]
fn it_stays_in_the_foreground_and_has_lxcfss_pidfile() {
    let place = Place::new();
    fs::create_dir(place.mountpoint()).unwrap();
    // lxcfs mounts over it too.
    fs::write(place.file("left"), "").unwrap();
    let pidfile = place.base.join("lxcfs.pid");
    let daemon = start(&place, &["-f", "-l", "-s", "-o", "nonempty,noatime", "--enable-pidfd"]);
    assert_eq!(fs::read_to_string(&pidfile).unwrap(), format!("{}\n", daemon.pid()));
    assert!(is_mounted(&place) && place.meminfo().exists());
    let kept = fs::read_dir(place.base.join("lxcfs-rs")).unwrap().count();
    assert_ne!(kept, 0, "nothing outlives it");

    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(0), "{log}");
    for option in ["-s:", "-o noatime:", "--enable-pidfd:"] {
        let line = format!("lxcfs: {option} ");
        assert_eq!(log.lines().filter(|found| found.starts_with(&line)).count(), 1, "{log}");
    }
    assert!(!pidfile.exists() && !is_mounted(&place));
    assert!(place.file("left").exists());
}

/// As /etc/init.d/lxcfs starts and stops it.
#[test]
fn start_stop_daemon_knows_it() {
    /// Ends what start-stop-daemon has started and a failed test has left.
    struct Left<'a>(&'a Path);
    impl Drop for Left<'_> {
        fn drop(&mut self) {
            // It may not have written it yet.
            for _ in 0..1000 {
                let Ok(text) = fs::read_to_string(self.0) else { return };
                if let Ok(pid) = text.trim().parse() {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
    let (place, program_place) = (Place::new(), Place::new());
    let (pidfile, program) = (place.base.join("lxcfs.pid"), program(&program_place));
    let start_stop_daemon = |action: &[&str]| {
        let mut command = Command::new(find("start-stop-daemon", "dpkg"));
        command.args(action).args(["--quiet", "--name", "lxcfs", "--pidfile"]).arg(&pidfile);
        command.arg("--startas").arg(&program).stdin(Stdio::null());
        command.env_remove("NOTIFY_SOCKET");
        command
    };
    let mut command = start_stop_daemon(&["--start", "--make-pidfile", "--background"]);
    command.arg("--").arg(place.mountpoint()).arg("-p").arg(&pidfile);
    command.arg("--runtime-dir").arg(&place.base);
    let _left = Left(&pidfile);
    assert!(command.status().unwrap().success());
    // The script reads it at once, when the daemon is anywhere on its way.
    let mut read = 0;
    eventually("it serves", || {
        let text = fs::read_to_string(&pidfile).unwrap();
        let pid = text.strip_suffix('\n').unwrap().parse::<u32>();
        assert!(pid.is_ok_and(|pid| Path::new(&format!("/proc/{pid}")).exists()), "{text:?}");
        read += 1;
        is_mounted(&place) && place.meminfo().exists()
    });
    assert!(read > 0);
    // 1: nothing was done, as one runs.
    let again = start_stop_daemon(&["--start", "--background"]).status().unwrap();
    assert_eq!(again.code(), Some(1));
    let mut stop = start_stop_daemon(&["--stop", "--retry", "120"]);
    assert!(stop.status().unwrap().success());
    assert!(!pidfile.exists() && !is_mounted(&place));
}

#[test]
fn the_pidfile_of_a_live_lxcfs_of_either_kind_stays() {
    let (place, other) = (Place::new(), Place::new());
    let pidfile = place.base.join("pid");
    let refused = |pid: Pid| {
        let (status, _, text) = outcome(&lxcfs(&other, &[OsStr::new("-p"), pidfile.as_os_str()]));
        assert_eq!((status, text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains(&format!("held by another daemon (pid {pid})")), "{text}");
        assert!(!other.mountpoint().exists());
        assert_eq!(fs::read_to_string(&pidfile).unwrap(), format!("{pid}\n"));
    };

    let ours = start(&place, &[OsStr::new("-p"), pidfile.as_os_str()]);
    refused(ours.pid());
    ours.signal(Signal::SIGTERM);
    assert_eq!(ours.end().0.code(), Some(0));

    fs::create_dir(place.mountpoint()).unwrap();
    let mut theirs = Command::new(find("lxcfs", "lxcfs"));
    theirs.arg("-p").arg(&pidfile).arg(place.mountpoint());
    theirs.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let theirs = Guarded(theirs.spawn().unwrap());
    eventually("lxcfs serves", || is_mounted(&place));
    refused(theirs.pid());
}

/// A container of one CPU's worth of time and 64 MiB, and its reader.
fn container(place: &Place) -> (Group, Reader) {
    let group = Group::new(&["memory", "cpu", "cpuacct", "cpuset"]);
    group.set("memory.limit_in_bytes", 64 * MIB);
    group.set("cpu.cfs_quota_us", 100_000);
    let reader = Plan::container(&group).start(place);
    (group, reader)
}

fn host(file: &str) -> String {
    fs::read_to_string(Path::new("/").join(file)).unwrap()
}

fn processors(text: &str) -> usize {
    text.lines().filter(|line| line.starts_with("processor")).count()
}

#[test]
fn quotas_are_cpus_with_enable_cfs_alone() {
    let all = processors(&host("proc/cpuinfo"));
    for (arguments, expected) in [(["--enable-cfs"].as_slice(), 1), (&["-l"], all)] {
        let place = Place::new();
        let _daemon = start(&place, arguments);
        let (_group, mut reader) = container(&place);
        assert_eq!(processors(&reader.read("proc/cpuinfo")), expected, "{arguments:?}");
        let online = reader.read("sys/devices/system/cpu/online");
        assert_eq!(online == host("sys/devices/system/cpu/online"), expected == all);
    }
}

#[test]
fn sigusr2_turns_off_and_on_what_is_shown() {
    let place = Place::new();
    let daemon = start(&place, &["--enable-cfs"]);
    let (_group, mut reader) = container(&place);
    reader.keep("proc/meminfo");
    let cpuinfo = processors(&host("proc/cpuinfo"));
    let online = host("sys/devices/system/cpu/online");
    let host_total = mem(&host("proc/meminfo"), "MemTotal");
    let mut becomes = |total: u64| {
        eventually("the other view", || reader.total() == total);
        // On the kept descriptor too.
        assert_eq!(mem(&reader.part(0, 4096).unwrap(), "MemTotal"), total);
        let cpus = processors(&reader.read("proc/cpuinfo"));
        let shown_online = reader.read("sys/devices/system/cpu/online");
        if total == host_total {
            assert_eq!((cpus, &shown_online), (cpuinfo, &online));
        } else {
            assert_eq!((cpus, shown_online.trim().parse::<u32>().is_ok()), (1, true));
        }
    };

    becomes(64 * MIB);
    for _ in 0..2 {
        daemon.signal(Signal::SIGUSR2);
        becomes(host_total);
        daemon.signal(Signal::SIGUSR2);
        becomes(64 * MIB);
    }
    daemon.signal(Signal::SIGUSR2);
    becomes(host_total);
    // lxcfs's reload turns it on; and does nothing where it is.
    for _ in 0..2 {
        daemon.signal(Signal::SIGUSR1);
        becomes(64 * MIB);
    }
    daemon.signal(Signal::SIGUSR2);
    becomes(host_total);
    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(0), "{log}");
    let lines = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    assert_eq!((lines("SIGUSR2: "), lines("SIGUSR1: ")), (6, 2), "{log}");
    assert_eq!(lines("all readers are shown the host's files"), 4, "{log}");
}
