//! `attach`, `detach` and `heal` on containers that run already.
//!
//! Needs what [`crate::engine`] and `run` need, Debian's lxcfs and util-linux.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lxcfs_rs::files;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::byhand::{Group, MIB, eventually};
use crate::daemon::{Guarded, PROGRAM, Place, serve, start, start_telling, worker_of};
use crate::engine::{Engine, find};
use crate::life::{listed, name, named};
use crate::run;

/// An image of one file: nothing in it could mount anything.
const BUSYBOX: &str = "lxcfs-rs-busybox";

/// `lxcfs-rs SUBCOMMAND --mountpoint … ARGUMENTS`.
fn command(place: &Place, subcommand: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args([subcommand, "--mountpoint"]).arg(place.mountpoint()).args(arguments);
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// What it prints; it must succeed without a word on stderr.
#[track_caller]
fn succeed(place: &Place, subcommand: &str, arguments: &[&str]) -> String {
    run::output_of(command(place, subcommand, arguments))
}

/// The one line with which it is refused.
#[track_caller]
fn refused(place: &Place, subcommand: &str, arguments: &[&str]) -> String {
    let (code, said) = run::ending(command(place, subcommand, arguments));
    assert_eq!((code, said.lines().count()), (1, 1), "{arguments:?}: {said}");
    said
}

/// The mounts of lxcfs that a process sees: where, and of what.
fn lxcfs_mounts(pid: u32) -> Vec<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let lxcfs = fields.filter(|fields| fields.contains(&"fuse.lxcfs"));
    lxcfs.map(|fields| (fields[4].to_owned(), fields[3].to_owned())).collect()
}

/// Those at places of our files, without those that a copy of the host's mounts came with.
fn attached(pid: u32) -> Vec<String> {
    let mut places: Vec<String> = lxcfs_mounts(pid).into_iter().map(|(place, _)| place).collect();
    places.retain(|place| files::mounts().any(|file| place.strip_prefix('/') == Some(file.path)));
    places.sort_unstable();
    places
}

/// All that are served.
fn all() -> Vec<String> {
    let mut all: Vec<String> = files::mounts().map(|file| format!("/{}", file.path)).collect();
    all.sort_unstable();
    all
}

fn total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn host_total() -> u64 {
    total(&fs::read_to_string("/proc/meminfo").unwrap())
}

/// Restarts the daemon of a place in a way that leaves its mounts dead.
fn kill_and_start(place: &Place, daemon: Guarded) -> Guarded {
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    start(place)
}

/// A running container of Docker's, without anything of ours. Removed when dropped.
struct Docker {
    engine: Arc<Engine>,
    name: String,
}

impl Docker {
    /// Limited to 100 MiB and the CPU 0.
    fn start(options: &[&str]) -> Docker {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let engine = Engine::shared();
        import(&engine);
        let name = format!("attach-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut arguments = vec!["run", "--detach", "--network=none", "--name", &name];
        arguments.extend(["--memory=100m", "--cpuset-cpus=0"].iter().chain(options));
        arguments.extend([BUSYBOX, "/busybox", "sleep", "1000000"]);
        engine.output(&arguments);
        Docker { engine, name }
    }

    fn inspect(&self, format: &str) -> String {
        self.engine.output(&["inspect", "--format", format, &self.name]).trim().to_owned()
    }

    fn pid(&self) -> u32 {
        self.inspect("{{.State.Pid}}").parse().unwrap()
    }

    fn id(&self) -> String {
        self.inspect("{{.Id}}")
    }

    /// What busybox prints in it.
    #[track_caller]
    fn busybox(&self, arguments: &[&str]) -> String {
        self.engine.output(&[&["exec", &self.name, "/busybox"], arguments].concat())
    }

    fn total(&self) -> u64 {
        total(&self.busybox(&["cat", "/proc/meminfo"]))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.engine.docker(&["rm", "--force", &self.name]).output();
    }
}

fn import(engine: &Engine) {
    static IMPORTING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _importing = IMPORTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if engine.docker(&["inspect", "--type=image", BUSYBOX]).output().unwrap().status.success() {
        return;
    }
    let busybox = find("busybox", "busybox-static");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(busybox.parent().unwrap()).args(["-c", "--dereference", "busybox"]);
    let Output { status, stdout, .. } = tar.output().unwrap();
    assert!(status.success());
    let mut importing = engine.docker(&["import", "-", BUSYBOX]);
    let mut importing = importing.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    importing.stdin.take().unwrap().write_all(&stdout).unwrap();
    assert!(importing.wait().unwrap().success());
}

/// A container of a shell script, which prints a line when it is ready and then sleeps. Killed
/// when dropped.
struct ByHand {
    outer: Child,
    /// Its first process.
    pid: u32,
}

impl ByHand {
    /// With `unshare OPTIONS`.
    fn start(options: &[&str], script: &str) -> ByHand {
        ByHand::of(Command::new("unshare"), options, script)
    }

    /// With a command that is `unshare`.
    fn of(mut command: Command, options: &[&str], script: &str) -> ByHand {
        command.args(["--mount", "--fork", "--kill-child"]).args(options);
        command.args(["sh", "-euc", &format!("{script}\necho ready\nexec sleep 1000000")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut outer = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(outer.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let pid = fs::read_to_string(children).unwrap().trim().parse().unwrap();
        ByHand { outer, pid }
    }

    fn private(script: &str) -> ByHand {
        ByHand::start(&["--pid", "--mount-proc", "--propagation", "private"], script)
    }

    fn pid(&self) -> String {
        self.pid.to_string()
    }

    /// What a program of the host's prints in its mount namespace.
    fn try_output(&self, command: &[&str]) -> Output {
        let mut entering = Command::new("nsenter");
        entering.args(["--all", "--target", &self.pid()]).args(command);
        entering.stdin(Stdio::null()).output().unwrap()
    }

    #[track_caller]
    fn output(&self, command: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.try_output(command);
        assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    fn total(&self) -> u64 {
        total(&self.output(&["cat", "/proc/meminfo"]))
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(i32::try_from(self.pid).unwrap()), Signal::SIGKILL);
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

/// Debian's lxcfs.
fn start_lxcfs(place: &Place) -> Guarded {
    fs::create_dir_all(place.mountpoint()).unwrap();
    let mut lxcfs = Command::new(find("lxcfs", "lxcfs"));
    lxcfs.args(["-f", "-p"]).arg(place.base.join("pid")).arg(place.mountpoint());
    lxcfs.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let lxcfs = Guarded(lxcfs.spawn().unwrap());
    eventually("lxcfs serves", || place.meminfo().exists());
    lxcfs
}

#[test]
fn a_docker_container_is_shown_its_own_from_then_on() {
    let place = Place::new();
    let _daemon = start(&place);
    let container = Docker::start(&[]);
    let id = container.id();
    assert_eq!(container.total(), host_total());
    let before = lxcfs_mounts(container.pid());
    assert_eq!(before, []);

    assert_eq!(succeed(&place, "attach", &[&id[..12]]), "");
    assert_eq!(attached(container.pid()), all());
    assert_eq!(container.total(), 100 * MIB);
    let cpuinfo = container.busybox(&["cat", "/proc/cpuinfo"]);
    assert_eq!(cpuinfo.lines().filter(|line| line.starts_with("processor")).count(), 1);
    let cpus = container.busybox(&["ls", "/sys/devices/system/cpu"]);
    let cpus = cpus.lines().filter(|name| {
        name.strip_prefix("cpu").is_some_and(|number| number.parse::<u32>().is_ok())
    });
    assert_eq!(cpus.collect::<Vec<_>>(), ["cpu0"]);
    let vmstat = container.busybox(&["grep", "^nr_free_pages ", "/proc/vmstat"]);
    let free: u64 = vmstat.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(free * 4096 <= 100 * MIB, "{vmstat}");
    // Where the kernel measures stalls of cgroups there is a line; else opening it fails.
    let pressure = ["exec", &container.name, "/busybox", "cat", "/proc/pressure/cpu"];
    let Output { stdout, stderr, .. } = container.engine.docker(&pressure).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert!(
        stdout.starts_with("some avg10=") || stderr.contains("not supported"),
        "{stdout}{stderr}"
    );
    // As `run` mounts them: pressure is written to, the others are not.
    let flags = container.busybox(&["cat", "/proc/self/mounts"]);
    let options = |path: &str| {
        let fields = flags.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields.into_iter().find(|fields| fields[1] == path).unwrap()[3].to_owned()
    };
    assert!(options("/proc/stat").starts_with("ro,nosuid,nodev,noexec,"));
    assert!(options("/proc/pressure/io").starts_with("rw,nosuid,nodev,noexec,"));

    // Again, by other names for the same container: nothing changes.
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
    for again in [&container.pid().to_string(), &id] {
        assert_eq!(succeed(&place, "attach", &[again]), "");
        let now = fs::read_to_string(format!("/proc/{}/mountinfo", container.pid())).unwrap();
        assert_eq!(now, mounts);
    }

    assert_eq!(succeed(&place, "detach", &[&id]), "");
    assert_eq!(lxcfs_mounts(container.pid()), before);
    assert_eq!(container.total(), host_total());

    assert_eq!(succeed(&place, "attach", &[&id, "meminfo", "/proc/pressure/io"]), "");
    assert_eq!(attached(container.pid()), ["/proc/meminfo", "/proc/pressure/io"]);
}

#[test]
fn dead_mounts_are_healed_on_the_next_start() {
    let place = Place::new();
    let daemon = start(&place);
    let container = Docker::start(&[]);
    // One that has the whole tree, as a pod's hostPath.
    let volume = format!("{}:/var/lib/lxcfs", place.mountpoint().display());
    let nested = Docker::start(&["--volume", &volume]);
    succeed(&place, "attach", &[&container.id()]);

    let daemon = kill_and_start(&place, daemon);
    // It does so by itself; this waits for it.
    let healed: Value = serde_json::from_str(&succeed(&place, "heal", &["--json"])).unwrap();
    assert_eq!(healed["left"], Value::Array(Vec::new()));
    assert_eq!(container.total(), 100 * MIB);
    assert_eq!(attached(container.pid()), all());
    assert_eq!(total(&nested.busybox(&["cat", "/var/lib/lxcfs/proc/meminfo"])), 100 * MIB);
    assert_eq!(nested.total(), host_total());
    // What was dead is no more, not even below.
    assert_eq!(lxcfs_mounts(container.pid()).len(), all().len());
    assert_eq!(lxcfs_mounts(nested.pid()).len(), 1);

    // Nothing to do.
    let again: Value = serde_json::from_str(&succeed(&place, "heal", &["--json"])).unwrap();
    assert_eq!(again["healed"], Value::Array(Vec::new()));
    assert!(again["namespaces"].as_u64().unwrap() >= 3);

    // So does attach; and detach takes dead ones away too, without a daemon.
    let daemon = kill_and_start(&place, daemon);
    succeed(&place, "attach", &[&container.id()]);
    assert_eq!(container.total(), 100 * MIB);
    assert_eq!(lxcfs_mounts(container.pid()).len(), all().len());
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    succeed(&place, "detach", &[&container.id()]);
    assert_eq!(lxcfs_mounts(container.pid()), []);
    assert_eq!(container.total(), host_total());
}

fn read_fails(container: &Docker) -> bool {
    let read = ["exec", &container.name, "/busybox", "cat", "/proc/stat"];
    !container.engine.docker(&read).output().unwrap().status.success()
}

/// What happens on every host of today: lxcfs dies, its containers stay.
#[test]
fn containers_of_a_dead_lxcfs_are_healed() {
    let theirs = Place::new();
    let lxcfs = start_lxcfs(&theirs);
    let volume = |file: &str| format!("--volume={}:/{file}:ro", theirs.file(file).display());
    let container = Docker::start(&[&volume("proc/meminfo"), &volume("proc/stat")]);
    assert_eq!(container.total(), 100 * MIB);
    let place = Place::new();
    let _daemon = start(&place);
    // A living one is left alone, by attach too, which says so.
    assert_eq!(succeed(&place, "heal", &[&container.id()]), "");
    let (code, said) = run::ending(command(&place, "attach", &[&container.id(), "meminfo"]));
    assert_eq!(code, 0);
    assert!(said.contains("/proc/meminfo: another daemon's file, left alone"), "{said}");

    lxcfs.signal(Signal::SIGKILL);
    lxcfs.end();
    let pid = container.pid();
    // Who serves elsewhere than lxcfs usually does is not taken for its successor unasked.
    succeed(&place, "heal", &[]);
    assert_eq!(lxcfs_mounts(pid).len(), 2);
    assert!(read_fails(&container));
    let printed = succeed(&place, "heal", &[&container.id()]);
    for file in ["/proc/meminfo", "/proc/stat"] {
        assert!(printed.contains(&format!("process {pid}: {file}\n")), "{printed}");
    }
    assert_eq!(container.total(), 100 * MIB);
    assert_eq!(attached(pid), ["/proc/meminfo", "/proc/stat"]);
}

/// What a daemon at another mountpoint has left is for its successor, unless it is asked for.
#[test]
fn another_daemons_containers_are_left_to_it() {
    let (ours, theirs) = (Place::new(), Place::new());
    let _daemon = start(&ours);
    let daemon = start(&theirs);
    let group = Group::limited(64 * MIB);
    let container = ByHand::private(&group.join());
    succeed(&theirs, "attach", &[&container.pid()]);
    assert_eq!(container.total(), 64 * MIB);
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    let is_dead = || !container.try_output(&["cat", "/proc/meminfo"]).status.success();
    succeed(&ours, "heal", &[]);
    assert!(is_dead());
    let printed = succeed(&ours, "heal", &[&container.pid()]);
    assert!(printed.contains(": /proc/meminfo\n"), "{printed}");
    assert_eq!(container.total(), 64 * MIB);
}

#[test]
fn a_container_of_run_whose_own_daemon_died_is_found_by_its_name() {
    let place = Place::new();
    let _daemon = start(&place);
    let name = name("attach");
    let container = named(&name);
    let pid = u32::try_from(container.init().as_raw()).unwrap();
    let children = format!("/proc/{0}/task/{0}/children", container.runtime.id());
    let children = fs::read_to_string(children).unwrap();
    let own: Vec<u32> = children.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    let own = own.into_iter().find(|&child| child != pid).unwrap();
    let (code, said) = run::ending(command(&place, "attach", &[&name]));
    assert_eq!((code, said.lines().count()), (0, all().len()), "{said}");
    kill(Pid::from_raw(i32::try_from(own).unwrap()), Signal::SIGKILL).unwrap();
    eventually("the end of its daemon", || {
        let state = fs::read_to_string(format!("/proc/{own}/stat")).unwrap_or_default();
        state.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    });
    succeed(&place, "attach", &[&name]);
    assert_eq!(attached(pid), all());
    let id = listed(&name).unwrap()["id"].as_str().unwrap().to_owned();
    for meant in [&id[..5], &id[..12], &id] {
        succeed(&place, "attach", &[meant]);
    }
    let mut exec = Command::new(PROGRAM);
    exec.args(["exec", &name, "cat", "/proc/swaps"]).stdin(Stdio::null());
    assert!(run::output_of(exec).starts_with("Filename"));
}

#[test]
fn a_container_with_a_user_namespace() {
    let place = Place::new();
    let daemon = start(&place);
    let group = Group::limited(64 * MIB);
    // Inside another, whose root copies the mounts into a less privileged mount namespace.
    let options = ["--user", "--map-root-user", "--pid", "--mount-proc", "--propagation", "slave"];
    let container = ByHand::start(&options, &group.join());
    succeed(&place, "attach", &[&container.pid()]);
    assert_eq!(container.total(), 64 * MIB);
    assert_eq!(attached(container.pid), all());

    // A copy of its mounts for somebody with fewer rights: they can only be covered there.
    let script = "unshare --user --map-root-user --mount sleep 1000000 >/dev/null 2>&1 &";
    container.output(&["sh", "-c", script]);
    let sleepers = || {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let links = |kind: &str, pid: u32| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
            let is_in =
                links("pid", pid).is_some() && links("pid", pid) == links("pid", container.pid);
            if is_in && links("mnt", pid) != links("mnt", container.pid) {
                found.push(pid);
            }
        }
        found
    };
    eventually("the inner mount namespace", || sleepers().len() == 1);
    let inner = sleepers()[0];

    let _daemon = kill_and_start(&place, daemon);
    succeed(&place, "heal", &[]);
    assert_eq!(container.total(), 64 * MIB);
    // Who is not in the first process's mount namespace is known by its cgroup.
    let script = format!("{}exec nsenter --all --target {inner} cat /proc/meminfo", group.join());
    let mut entering = Command::new("sh");
    entering.args(["-c", &script]).stdin(Stdio::null());
    assert_eq!(total(&run::output_of(entering)), 64 * MIB);
    // Covered is well. It has a copy of other tests' mountpoints too.
    let printed = succeed(&place, "heal", &[&inner.to_string()]);
    assert!(!printed.contains(": /proc/") && !printed.contains(": /sys/"), "{printed}");
}

#[test]
fn all_or_nothing() {
    let place = Place::new();
    let _daemon = start(&place);
    // The last of the places is a file of sysfs, which no directory can cover.
    let script = "mount -t tmpfs none /mnt
        mkdir -p /mnt/devices/system/cpu
        mount --bind /sys/devices/system/cpu /mnt/devices/system/cpu
        : >/mnt/devices/system/node
        mount --bind /sys/devices/system/cpu/online /mnt/devices/system/node
        mount --move /mnt /sys";
    let container = ByHand::private(script);
    let said = refused(&place, "attach", &[&container.pid()]);
    assert!(said.contains("/sys/devices/system/node: cannot attach"), "{said}");
    assert_eq!(attached(container.pid), Vec::<String>::new());
    // The others alone are no trouble.
    succeed(&place, "attach", &[&container.pid(), "meminfo", "sys/devices/system/cpu"]);
    assert_eq!(attached(container.pid), ["/proc/meminfo", "/sys/devices/system/cpu"]);
}

#[test]
fn what_is_refused() {
    let place = Place::new();
    let own = std::process::id().to_string();
    let said = refused(&place, "attach", &[&own]);
    assert!(said.contains("in no container: it has the host's mounts"), "{said}");
    let container = ByHand::private("");
    let pid = container.pid();
    let said = refused(&place, "attach", &[&pid]);
    assert!(said.contains("no such directory"), "{said}");
    fs::create_dir(place.mountpoint()).unwrap();
    let said = refused(&place, "heal", &[]);
    assert!(said.contains("expected lxcfs to be mounted there"), "{said}");
    fs::remove_dir(place.mountpoint()).unwrap();

    let daemon = start(&place);
    for (subcommand, who, words) in [
        ("attach", "no-such-container", "'no-such-container': no process has this number or is in"),
        ("detach", "4194305", "'4194305': no process has this number"),
        ("attach", own.as_str(), "the host's mounts"),
        ("detach", own.as_str(), "the host's mounts"),
    ] {
        let said = refused(&place, subcommand, &[who]);
        assert!(said.starts_with(&format!("lxcfs-rs: {subcommand}: ")), "{said}");
        assert!(said.contains(words), "{said}");
    }
    let (code, said) = run::ending(command(&place, "attach", &[&pid, "partitions"]));
    assert_eq!((code, said.lines().count()), (2, 1), "{said}");
    assert!(said.contains("'partitions': expected one of proc/cpuinfo, "), "{said}");

    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--clear-groups", PROGRAM, "detach", &pid]);
    let (code, said) = run::ending(nobody);
    assert_eq!((code, said.lines().count()), (1, 1), "{said}");

    let mut ended = Command::new("true").spawn().unwrap();
    eventually("its end", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", ended.id())).unwrap();
        stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z')
    });
    let said = refused(&place, "attach", &[&ended.id().to_string()]);
    assert!(said.contains(&format!("process {} is gone", ended.id())), "{said}");
    ended.wait().unwrap();

    daemon.signal(Signal::SIGKILL);
    daemon.end();
    let said = refused(&place, "attach", &[&pid]);
    assert!(said.contains("Transport endpoint is not connected"), "{said}");
    let said = refused(&place, "heal", &[]);
    assert!(said.contains("Transport endpoint is not connected"), "{said}");
}

/// Mounts that show on the host would be for all.
#[test]
fn a_shared_proc_is_refused() {
    let place = Place::new();
    let _daemon = start(&place);
    let host = ByHand::start(&["--propagation", "private"], "mount --make-rshared /");
    let mut entering = Command::new("nsenter");
    entering.args(["--mount", "--target", &host.pid(), "unshare"]);
    let container = ByHand::of(entering, &["--propagation", "unchanged"], "");
    let attach = |mut command: Command| {
        command.arg(PROGRAM).args(["attach", &container.pid(), "meminfo", "--mountpoint"]);
        command.arg(place.mountpoint()).stdin(Stdio::null());
        run::ending(command)
    };
    // Asked from what is the host to it.
    let mut from_host = Command::new("nsenter");
    from_host.args(["--mount", "--target", &host.pid()]);
    let (code, said) = attach(from_host);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("shows on the host too"), "{said}");
    assert_eq!(attached(container.pid), Vec::<String>::new());
    // Asked from elsewhere it is a container, and so is its host.
    let (code, said) = attach(Command::new("env"));
    assert_eq!((code, said.as_str()), (0, ""));
    assert_eq!(attached(host.pid), ["/proc/meminfo"]);
}

#[test]
fn what_a_container_puts_in_the_way() {
    let place = Place::new();
    let _daemon = start(&place);
    // A daemon that is alive, but has stopped.
    let hung_place = Place::new();
    let (hung, ..) = start_telling(&hung_place, serve(&hung_place.mountpoint()));
    let container = ByHand::private(&format!(
        "mount -t tmpfs none /mnt
        : >/mnt/file
        mount --bind /mnt/file /proc/meminfo
        mount --bind '{}' /proc/stat
        mount -t tmpfs none /proc/pressure",
        hung_place.file("proc/stat").display()
    ));
    let worker = worker_of(hung.pid());
    kill(worker, Signal::SIGSTOP).unwrap();
    let before = Instant::now();
    let (code, said) = run::ending(command(&place, "attach", &[&container.pid()]));
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("/proc/meminfo: a file of tmpfs, left alone"), "{said}");
    assert!(said.contains("/proc/stat: another daemon's file, left alone"), "{said}");
    assert!(said.contains("does not answer"), "{said}");
    let places = attached(container.pid);
    assert!(places.contains(&"/proc/vmstat".to_owned()), "{places:?}");
    assert!(!places.iter().any(|place| place.starts_with("/proc/pressure")), "{places:?}");
    let (code, said) = run::ending(command(&place, "heal", &[&container.pid()]));
    assert_eq!(code, 0, "{said}");
    // Two patiences of five seconds, and a machine that is busy.
    assert!(before.elapsed() < Duration::from_secs(100));
    kill(worker, Signal::SIGCONT).unwrap();
}

/// The root of the process counts, and no link is followed.
#[test]
fn a_link_in_the_way_is_not_followed() {
    let place = Place::new();
    let _daemon = start(&place);
    for (proc, is_refused) in [("proc", false), ("real", true)] {
        let container = ByHand::private(&format!(
            "mount -t tmpfs none /mnt
            cp '{}' /mnt/busybox
            mkdir /mnt/{proc}
            mount -t proc none /mnt/{proc}
            [ -d /mnt/proc ] || ln -s real /mnt/proc
            echo ready
            exec chroot /mnt /busybox sleep 1000000",
            find("busybox", "busybox-static").display()
        ));
        let root = Path::new("/proc").join(container.pid()).join("root");
        eventually("chroot", || fs::read_link(&root).is_ok_and(|root| root == Path::new("/mnt")));
        if is_refused {
            let said = refused(&place, "attach", &[&container.pid()]);
            assert!(said.contains("/proc/cpuinfo: cannot open: Too many symbolic links"), "{said}");
        } else {
            // It has no /sys.
            succeed(&place, "attach", &[&container.pid()]);
            assert!(attached(container.pid).contains(&"/proc/meminfo".to_owned()));
        }
        assert!(!lxcfs_mounts(container.pid).iter().any(|(at, _)| at.contains("real")));
    }
}
