//! The flags of `run` beside a real Docker's: the same command line, the same result.
//!
//! Needs what `run` and `docker` need.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::engine::{self, Engine, IMAGE};
use super::run::{assert_refused, run};

/// Flags, and a script whose output and exit status must be the same in both.
type Row = (&'static [&'static str], &'static str);

/// A directory with a file and a directory in it, for `{src}` of a row.
struct Source(PathBuf);

impl Source {
    fn new() -> Source {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lxcfs-rs-flags-{}-{number}", std::process::id());
        let source = Source(std::env::temp_dir().canonicalize().unwrap().join(name));
        fs::create_dir(&source.0).unwrap();
        fs::create_dir(source.0.join("sub")).unwrap();
        fs::write(source.0.join("file"), "the host's\n").unwrap();
        source
    }

    fn fill_in(&self, flags: &[&str]) -> Vec<String> {
        let (path, name) = (self.0.to_str().unwrap(), self.0.file_name().unwrap());
        let fill =
            |flag: &&str| flag.replace("{src}", path).replace("{name}", name.to_str().unwrap());
        flags.iter().map(fill).collect()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The image's root file system, for a container of ours; below a directory of its own.
fn unpack(dir: &Source) -> PathBuf {
    let root = dir.0.join("root");
    fs::create_dir(&root).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xpC").arg(&root).arg("-f").arg(engine::image());
    assert!(tar.status().unwrap().success());
    root
}

/// Exit status, standard output and standard error.
fn ending(mut command: Command) -> (i32, String, String) {
    command.stdin(Stdio::null()).env("LXCFS_RS_SET", "x").env_remove("LXCFS_RS_NOT_SET");
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn ours(root: &Path, flags: &[String], script: &str) -> (i32, String, String) {
    let mut arguments = vec!["--rootfs", root.to_str().unwrap()];
    arguments.extend(flags.iter().map(String::as_str));
    arguments.extend(["--", "sh", "-c", script]);
    ending(run(&arguments))
}

/// Where no flag says otherwise the container has no network: this Docker has none to give.
fn dockers(engine: &Engine, flags: &[String], script: &str) -> (i32, String, String) {
    let mut arguments = vec!["run", "--rm"];
    if !flags.iter().any(|flag| flag == "--network") {
        arguments.extend(["--network", "none"]);
    }
    arguments.extend(flags.iter().map(String::as_str));
    arguments.extend([IMAGE, "sh", "-c", script]);
    ending(engine.docker(&arguments))
}

const MEMORY: &str =
    "cd /sys/fs/cgroup/memory; cat memory.limit_in_bytes memory.memsw.limit_in_bytes";
const CPU: &str = "cd /sys/fs/cgroup/cpu; cat cpu.cfs_quota_us cpu.cfs_period_us";
const CPUSET: &str =
    "cat /sys/fs/cgroup/cpuset/cpuset.cpus; grep Cpus_allowed_list /proc/self/status";
const PIDS: &str = "read pids < /sys/fs/cgroup/pids/pids.max; echo $pids";

/// Every mount but those in /proc and /sys, and whether it is read-only.
const MOUNTS: &str = "awk '{print $5, ($6 ~ /^ro/) ? \"ro\" : \"rw\"}' /proc/self/mountinfo |
    grep -v '^/proc' | grep -v '^/sys' | sort";
const HOSTNAME: &str =
    "hostname; cat /etc/hostname; echo $HOSTNAME; cat /etc/hosts /etc/resolv.conf";
const ENVIRONMENT: &str = "env | grep -v HOSTNAME | sort";
const DIRECTORY: &str = "pwd; stat -c '%a %u %g' .";
const USER: &str =
    "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status; echo $HOME";
/// A memory device and a disk can be made, not opened; a terminal can be opened.
const DEVICES: &str = "cat /sys/fs/cgroup/devices/devices.list
    mknod /tmp/kmsg c 1 11 && echo made; head -c 1 /tmp/kmsg || echo refused
    mknod /tmp/disk b 254 0 && echo made; head -c 1 /tmp/disk || echo refused
    echo > /tmp/disk || echo refused
    head -c 1 /dev/zero | wc -c; python3 -c 'import os; print(len(os.openpty()))'
    rm -f /tmp/kmsg /tmp/disk";
const NETWORK: &str = "tail -n +3 /proc/net/dev | wc -l; ls /sys/class/net | wc -l
    python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0))
socket.create_connection(s.getsockname()); print(1)'
    cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range";

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
    (&[], MOUNTS),
    (&["--read-only"], MOUNTS),
    (
        &["--read-only"],
        "for file in /x /tmp/x /etc/hosts /dev/shm/x /dev/x; do touch $file; echo $?; done",
    ),
    (&["-v", "{src}:/mnt/a"], MOUNTS),
    (
        &["-v", "{src}:/mnt/a"],
        "ls -a /mnt/a; cat /mnt/a/file; cd /mnt/a; touch x && rm x; stat -c '%a %u %g' /mnt",
    ),
    (&["-v", "{src}:/mnt/a:ro"], MOUNTS),
    (&["--volume={src}:/mnt/a:ro"], "touch /mnt/a/x /mnt/a/sub/x"),
    (&["-v", "{src}:/mnt/a:rw"], MOUNTS),
    (&["-v", "{src}/file:/a/b/c"], "cat /a/b/c; stat -c %F /a/b"),
    (&["-v", "{src}:/mnt/x/y", "-v", "{src}/sub:/mnt"], MOUNTS),
    (&["-v", "{src}:/var/run/x"], MOUNTS),
    (&["-v", "{src}:/mnt/../../srv/./x/"], MOUNTS),
    (&["-v", "{src}/../{name}:/mnt"], "ls /mnt"),
    (&["-v", "{src}:/sys"], "ls /sys"),
    (&["-v", "{src}:/dev/shm"], "ls /dev/shm"),
    (&["-v", "{src}:/new", "--read-only"], "touch /new/x && rm /new/x; touch /x"),
    (&["-v", "{src}/file:/etc/hosts"], "cat /etc/hosts"),
    (&["-v", "{src}/file:/proc/uptime"], "cat /proc/uptime"),
    (&["--hostname", "a.b"], "hostname; cat /etc/hostname; echo $HOSTNAME"),
    (&["-h", "a_b"], "hostname; cat /etc/hostname; echo $HOSTNAME"),
    (&["--hostname", ""], "echo ${#HOSTNAME}; hostname | wc -c"),
    (&["--network", "none", "-h", "x"], HOSTNAME),
    (&["--network", "host", "-h", "x"], HOSTNAME),
    (&["--network", "none"], NETWORK),
    (&["--network", "host"], NETWORK),
    (&[], ENVIRONMENT),
    (&["-e", "A=b c", "--env", "HOME=/x", "-e", "A=d", "-e", "B="], ENVIRONMENT),
    (&["-e", "LXCFS_RS_SET", "-e", "LXCFS_RS_NOT_SET", "-e", "PATH=/bin"], ENVIRONMENT),
    (&["-e", "HOSTNAME=x"], "echo $HOSTNAME"),
    (&["-w", "/srv/a/b"], DIRECTORY),
    (&["--workdir=/etc/../var/run"], DIRECTORY),
    (&["-w", "/proc/self/fd"], DIRECTORY),
    (&["-w", "/mnt/new", "--read-only"], DIRECTORY),
    (&["-v", "{src}:/mnt", "-w", "/mnt/sub"], DIRECTORY),
    (&["--userns", "host"], USER),
    (&[], DEVICES),
    (&["--cap-drop", "MKNOD"], DEVICES),
    (&[], USER),
    (&["-u", "1000"], USER),
    (&["-u", "1000:2000"], USER),
    (&["--user", "daemon"], USER),
    (&["-u", "daemon:mail"], USER),
    (&["-u", "8:daemon"], USER),
    (&["-u", ":5"], USER),
    (&["-u", "0:5"], USER),
    (&["-u", ""], USER),
    (&["-u", "2147483647", "-e", "HOME=/x"], USER),
    (&["-u", "1000", "--cap-add", "NET_ADMIN", "--cap-drop", "CHOWN"], USER),
    (&["-u", "0", "--cap-drop", "ALL"], USER),
    (&["-u", "1000", "--cap-drop", "SETUID", "--cap-drop", "SETGID"], USER),
    (&["-u", "1000", "--security-opt", "no-new-privileges"], USER),
    (&["-u", "1000", "--security-opt", "seccomp=unconfined"], USER),
    (&["-u", "1000", "-w", "/root"], "pwd; ls || echo refused; kill -0 1 && echo one"),
    (&["-u", "1000", "-w", "/srv/of-root"], "stat -c '%u %a' .; touch x || echo refused"),
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
    &["-v", "{src}:x"],
    &["-v", "x/y:/x"],
    &["-v", "{src}:/"],
    &["-v", "{src}:/x/.."],
    &["-v", "{src}:/x:foo"],
    &["-v", "{src}:"],
    &["-v", "{src}:/x:ro:z"],
    &["-v", "{src}:/proc"],
    &["-v", "{src}:/proc/x"],
    &["-v", "{src}/file:/proc/meminfo2"],
    &["-v", "{src}/file:/proc/vmstat"],
    &["-v", "{src}/file:/proc/self/stat"],
    &["-v", "{src}/file:/proc/pressure/cpu"],
    &["-v", "{src}:/sys/x"],
    &["-v", "{src}/file:/etc"],
    &["-v", "{src}:/etc/passwd"],
    &["-v", "{src}:/mnt", "-v", "{src}/sub:/mnt/"],
    &["--hostname", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
    &["--network", "x"],
    &["--userns", "x"],
    &["-e", "=x"],
    &["-u", "nosuch"],
    &["-u", "0:nosuch"],
    &["-u", "-1"],
    &["-u", "2147483648"],
    &["-w", "x"],
    &["-w", "/etc/passwd"],
    &["-w", "/etc/passwd/x"],
];

#[test]
fn every_flag_has_dockers_result() {
    let (engine, source, image) = (Engine::shared(), Source::new(), Source::new());
    let root = unpack(&image);
    let mut different = Vec::new();
    for (flags, script) in ACCEPTED {
        let flags = source.fill_in(flags);
        let (here, there) = (ours(&root, &flags, script), dockers(&engine, &flags, script));
        if (here.0, &here.1) != (there.0, &there.1) {
            different
                .push(format!("{flags:?} {script:?}\n  ours: {here:?}\n  Docker's: {there:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn what_docker_refuses_is_one_line_and_125() {
    let (engine, source) = (Engine::shared(), Source::new());
    let mut different = Vec::new();
    for flags in REFUSED {
        let flags = source.fill_in(flags);
        let there = dockers(&engine, &flags, "true");
        assert_eq!(there.0, 125, "{flags:?}: Docker: {there:?}");
        let arguments: Vec<&str> = flags.iter().map(String::as_str).chain(["true"]).collect();
        let (status, printed, said) = ending(run(&arguments));
        let is_line = said.starts_with("lxcfs-rs: run: ") && said.lines().count() == 1;
        if (status, printed.as_str(), is_line) != (125, "", true) {
            different.push(format!("{flags:?}: {status} {printed:?} {said}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// Docker has this for its daemon as a whole alone.
#[test]
fn a_container_may_have_users_of_its_own() {
    let source = Source::new();
    fs::set_permissions(&source.0, fs::Permissions::from_mode(0o777)).unwrap();
    let volume = source.fill_in(&["{src}:/mnt"]).remove(0);
    let printed = |flags: &[&str], script: &str| {
        let flags = [&["--userns", "0:100000:65536", "-v", &volume], flags, &["--"]].concat();
        let (status, printed, said) = ending(run(&[&flags[..], &["sh", "-c", script]].concat()));
        assert_eq!((status, said.as_str()), (0, ""));
        printed
    };
    let script = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; touch /mnt/root
        stat -c '%n %U:%G' /etc/passwd /root /tmp /dev /dev/null /etc/hostname
        touch /root/x /etc/y && chown 7:8 /root/x && stat -c %u:%g /root/x
        chown 70000 /root/x 2>/dev/null || echo no such user
        mknod /tmp/null c 1 3 2>/dev/null || echo no node
        test -r /etc/shadow && test ! -w /proc/1/oom_score_adj || echo files
        grep -E '^(Cap(Prm|Bnd)|Seccomp:)' /proc/self/status";
    let map = " 0 100000 65536\n";
    let expected = format!(
        "{map}{map}0\n/etc/passwd root:root\n/root root:root\n/tmp root:root\n/dev root:root\n\
         /dev/null root:root\n/etc/hostname root:root\n7:8\nno such user\nno node\nfiles\n\
         CapPrm:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nSeccomp:\t2\n"
    );
    assert_eq!(printed(&[], script), expected);
    assert_eq!(printed(&["-u", "1000:5"], "id -u; id -g; touch /mnt/user"), "1000\n5\n");
    for (name, uid, gid) in [("root", 100_000, 100_000), ("user", 101_000, 100_005)] {
        let found = fs::metadata(source.0.join(name)).unwrap();
        assert_eq!((found.uid(), found.gid()), (uid, gid), "{name}");
    }
    // What is the host's root's in a root directory is its root's, and so is what it makes.
    fs::write(source.0.join("file"), "").unwrap();
    let root = source.0.to_str().unwrap();
    fs::create_dir(source.0.join("bin")).unwrap();
    let found = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap();
    let busybox = String::from_utf8(found.stdout).unwrap();
    fs::copy(busybox.trim_end(), source.0.join("bin/busybox")).unwrap();
    let script =
        "busybox stat -c %u /file && busybox touch /made && busybox stat -c %u /made /proc";
    let arguments = ["--userns", "0:100000:65536", "--rootfs", root, "--network", "none"];
    let command = ["-w", "/w", "busybox", "sh", "-c", script];
    let (status, printed, said) = ending(run(&[&arguments[..], &command].concat()));
    assert_eq!((status, printed.as_str()), (0, "0\n0\n65534\n"), "{said}");
    assert_eq!(fs::metadata(source.0.join("made")).unwrap().uid(), 0);

    let outside = ["--userns", "0:100000:65536", "-u", "70000", "true"];
    assert_refused(
        &outside,
        125,
        "--user: 70000:0 or one of its groups is none of the container's",
    );
    assert_refused(&["--userns", "0:1:0", "true"], 125, "expected host, or 0:FIRST:COUNT");
    assert_refused(&["--userns", "0:1:9", "--privileged", "true"], 125, "the host's users");
}

/// Docker makes a directory of a missing source; we say that it is missing, as its `--mount`.
#[test]
fn a_missing_source_is_refused() {
    let source = Source::new();
    let volume = source.fill_in(&["{src}/no:/mnt"]).remove(0);
    assert_refused(&["-v", &volume, "true"], 125, "--volume: ");
    assert!(!source.0.join("no").exists());
}
