//! The unit of systemd/ under a real systemd, whose restarts no reader notices.
//!
//! It is a user's systemd, run as root: unlike one that is process 1 of a container it runs in the
//! machine's pid namespace, which the daemon needs. One that booted is in tests/vm.
//!
//! Needs what [`crate::who`] needs, and systemd.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use lxcfs_rs::cgroup::moves::Moves;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::byhand::{Group, MIB, Plan, Reader, eventually};
use crate::daemon::{Guarded, PROGRAM, Place, replace_worker, worker_of};
use crate::keeper::Readers;

const UNIT: &str = "lxcfs-rs.service";

fn unit_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(UNIT)
}

/// Becomes a user's systemd, which only starts where it takes the machine for one that systemd
/// has booted. $1 is its directory, which is a mount that is shared with all that look on.
const SYSTEMD: &str = r#"
mkdir -p /run/systemd
mount --make-private "$(findmnt --noheadings --output TARGET --target /run/systemd)"
mount -t tmpfs -o mode=755 tmpfs /run/systemd
mkdir /run/systemd/system
exec env -i PATH="$PATH" HOME="$1" XDG_RUNTIME_DIR="$1" XDG_CONFIG_HOME="$1/config" \
    ${ASAN_OPTIONS+ASAN_OPTIONS="$ASAN_OPTIONS"} \
    /lib/systemd/systemd --user --unit=basic.target --log-target=console
"#;

/// A systemd with our unit, which serves at the place's mountpoint. Dropped, it ends with all it
/// started.
struct Manager<'a> {
    systemd: Guarded,
    place: &'a Place,
    group: Group,
}

impl<'a> Manager<'a> {
    fn start(place: &'a Place) -> Manager<'a> {
        Manager::of(place, Path::new(PROGRAM))
    }

    /// The unit's program is `program`.
    fn of(place: &'a Place, program: &Path) -> Manager<'a> {
        let base = &place.base;
        let units = base.join("config/systemd/user");
        let changes = units.join(format!("{UNIT}.d"));
        fs::create_dir_all(&changes).unwrap();
        fs::copy(unit_file(), units.join(UNIT)).unwrap();
        let (mountpoint, log) = (place.mountpoint(), base.join("log"));
        let (mountpoint, log, program) = (mountpoint.display(), log.display(), program.display());
        let place_of = format!("\"{mountpoint}\" --runtime-dir=%t/lxcfs-rs");
        // Where the machine itself is taken for a container, the daemon starts all the same.
        let text = format!(
            "[Unit]\nConditionVirtualization=\n[Service]\nStandardError=append:{log}\n\
             ExecStart=\nExecStart=\"{program}\" serve {place_of}\n\
             ExecReload=\nExecReload=\"{program}\" upgrade {place_of}\n"
        );
        fs::write(changes.join("here.conf"), text).unwrap();

        // What is mounted in there is to be seen here.
        let nothing = None::<&str>;
        mount(Some(base), base, nothing, MsFlags::MS_BIND, nothing).unwrap();
        mount(nothing, base, nothing, MsFlags::MS_SHARED, nothing).unwrap();
        let group = Group::new(&["systemd", "unified"]);
        let script = format!("set -eu; {} {SYSTEMD}", group.join());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=unchanged", "sh", "-c", &script, "sh"]).arg(base);
        let log = fs::File::create(base.join("systemd.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let manager = Manager { systemd: Guarded(command.spawn().unwrap()), place, group };
        eventually("systemd answers", || {
            manager.ask(&["show", "--property=Version"]).status.success()
        });
        manager
    }

    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("systemctl");
        command.arg("--user").args(arguments).env("XDG_RUNTIME_DIR", &self.place.base);
        command.env_remove("DBUS_SESSION_BUS_ADDRESS").output().unwrap()
    }

    /// What `systemctl ARGUMENTS` prints, which must succeed.
    #[track_caller]
    fn output(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.ask(arguments);
        let errors = String::from_utf8_lossy(&stderr);
        let errors = errors.trim_end();
        assert!(status.success(), "systemctl {arguments:?}: {errors}\n{}", self.logs());
        String::from_utf8(stdout).unwrap().trim_end().to_owned()
    }

    fn logs(&self) -> String {
        let read = |name| fs::read_to_string(self.place.base.join(name)).unwrap_or_default();
        read("systemd.log") + &read("log")
    }

    fn property(&self, name: &str) -> String {
        self.output(&["show", "--value", "--property", name, UNIT])
    }

    fn main_pid(&self) -> Pid {
        Pid::from_raw(self.property("MainPID").parse().unwrap())
    }

    fn is_active(&self) -> bool {
        self.property("ActiveState") == "active"
    }

    /// Kills the main process, and waits until the next one serves.
    fn kill_main(&self) {
        let before = self.main_pid();
        kill(before, Signal::SIGKILL).unwrap();
        eventually("it is started again", || {
            let state = self.property("ActiveState");
            assert_ne!(state, "failed", "{}", self.logs());
            state == "active" && self.main_pid() != before
        });
    }

    fn kill_worker(&self) {
        let main = self.main_pid();
        replace_worker(main);
        assert_eq!(self.main_pid(), main);
    }

    fn status(&self) -> Value {
        let mut command = Command::new(PROGRAM);
        command.args(["status", "--json"]).arg(self.place.mountpoint());
        let output = command.arg("--runtime-dir").arg(self.place.base.join("lxcfs-rs")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

impl Drop for Manager<'_> {
    fn drop(&mut self) {
        let _ = self.ask(&["stop", UNIT]);
        self.systemd.signal(Signal::SIGKILL);
        let _ = self.systemd.0.wait();
        // It makes its cgroup in all hierarchies, and leaves it.
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            sweep(&hierarchy.path().join(self.group.path.trim_start_matches('/')));
        }
        while umount2(&self.place.mountpoint(), MntFlags::MNT_DETACH).is_ok() {}
        let _ = umount2(&self.place.base, MntFlags::MNT_DETACH);
    }
}

/// Kills what is in a cgroup, and removes it.
fn sweep(cgroup: &Path) {
    let Ok(entries) = fs::read_dir(cgroup) else { return };
    entries.flatten().filter(|entry| entry.path().is_dir()).for_each(|entry| sweep(&entry.path()));
    eventually("an empty cgroup", || {
        let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| pid.parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        fs::remove_dir(cgroup).is_ok() || !cgroup.exists()
    });
}

#[test]
fn restarts_and_kills_are_not_noticed() {
    let place = Place::new();
    let manager = Manager::start(&place);
    manager.output(&["start", UNIT]);
    assert!(manager.is_active());
    // The unit lets it have whatever is to be had.
    let maps = fs::read_to_string(format!("/proc/{}/maps", worker_of(manager.main_pid()))).unwrap();
    assert_eq!(maps.contains("bpf-map"), Moves::default().count().is_ok());
    let readers = Readers::new(&place);
    let rounds = 4;
    for _ in 0..rounds {
        manager.output(&["restart", UNIT]);
        readers.go_on();
        manager.kill_main();
        readers.go_on();
        manager.kill_worker();
        readers.go_on();
        let main = manager.main_pid();
        manager.output(&["reload", UNIT]);
        assert_eq!(manager.main_pid(), main);
        readers.go_on();
        manager.output(&["reset-failed", UNIT]);
    }
    readers.end(&format!("{rounds} restarts, kills of both processes, and reloads"));
    let status = manager.status();
    // The connection is the first one still.
    assert_eq!(status["reconnections"], 0);
    assert_eq!(status["upgrades"], rounds);
    assert_eq!(status["resumes"], 3 * rounds);
}

/// A container that has the daemon's meminfo over the kernel's.
struct Holder(Guarded);

impl Holder {
    fn new(place: &Place) -> Holder {
        const BIND: &str = "mount --bind \"$1\" /proc/meminfo; echo done; exec sleep 100000";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-ec", BIND, "sh"]);
        command.arg(place.meminfo()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Guarded(command.spawn().unwrap());
        let mut said = [0; 5];
        std::io::Read::read_exact(child.0.stdout.as_mut().unwrap(), &mut said).unwrap();
        Holder(child)
    }

    fn read(&self) -> Result<String, Errno> {
        let path = format!("/proc/{}/root/proc/meminfo", self.0.pid());
        let text = fs::read_to_string(path);
        text.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()))
    }
}

/// Reads until there is an error.
fn read_on(mut reader: Reader) -> (Reader, i32) {
    loop {
        if let Err(errno) = reader.try_read("meminfo") {
            return (reader, errno);
        }
    }
}

#[test]
fn after_a_stop_nobody_hangs_and_the_next_start_heals() {
    let place = Place::new();
    let manager = Manager::start(&place);
    manager.output(&["start", UNIT]);
    let holder = Holder::new(&place);
    assert!(holder.read().unwrap().starts_with("MemTotal:"));
    let groups: Vec<Group> = (1..=4).map(|number| Group::limited(number * 100 * MIB)).collect();
    let mut readers: Vec<Reader> =
        groups.iter().map(|group| Plan::container(group).start(&place)).collect();
    for (reader, number) in readers.iter_mut().zip(1..) {
        assert_eq!(reader.total(), number * 100 * MIB);
        reader.keep("stat");
    }

    let threads: Vec<_> =
        readers.into_iter().map(|reader| thread::spawn(|| read_on(reader))).collect();
    manager.output(&["stop", UNIT]);
    let dead = Errno::ENOTCONN as i32;
    for thread in threads {
        let (mut reader, errno) = thread.join().unwrap();
        // ECONNABORTED: it was just being answered.
        assert!([dead, Errno::ECONNABORTED as i32].contains(&errno), "errno {errno}");
        assert_eq!(reader.try_read("meminfo"), Err(dead));
        assert_eq!(reader.part(0, 100), Err(dead));
    }
    assert_eq!(holder.read(), Err(Errno::ENOTCONN));

    manager.output(&["start", UNIT]);
    eventually("the container is healed", || {
        holder.read().is_ok_and(|text| text.starts_with("MemTotal:"))
    });
    assert_eq!(manager.status()["resumes"], 0);
}

#[test]
fn where_it_does_not_start_again_nobody_hangs() {
    let place = Place::new();
    let program = place.base.join("program");
    fs::copy(PROGRAM, &program).unwrap();
    let manager = Manager::of(&place, &program);
    manager.output(&["start", UNIT]);
    let group = Group::limited(100 * MIB);
    let mut reader = Plan::container(&group).start(&place);
    assert_eq!(reader.total(), 100 * MIB);
    let thread = thread::spawn(|| read_on(reader));
    fs::remove_file(&program).unwrap();
    fs::copy("/bin/false", &program).unwrap();
    kill(manager.main_pid(), Signal::SIGKILL).unwrap();
    let (mut reader, _) = thread.join().unwrap();
    assert_eq!(reader.try_read("meminfo"), Err(Errno::ENOTCONN as i32));
    eventually("systemd gives up", || manager.property("ActiveState") == "failed");
    assert_eq!(manager.property("Result"), "exit-code");
}

/// Has no warning of systemd's.
#[test]
fn the_unit_is_understood() {
    let place = Place::new();
    // It looks for the program and the manual that are not installed here.
    let text = fs::read_to_string(unit_file()).unwrap();
    let unit = place.base.join(UNIT);
    fs::write(&unit, text.replace("/usr/bin/lxcfs-rs", PROGRAM)).unwrap();
    let run = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).arg(&unit).output().unwrap();
        let (out, errors) = (output.stdout, String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success() && errors.is_empty(), "{arguments:?}: {errors}");
        String::from_utf8(out).unwrap()
    };
    run(&["verify", "--man=no"]);
    // At most 5.0, of which most is said in its first lines.
    let score = run(&["security", "--offline=true", "--threshold=50"]);
    println!("{}", score.trim_end().lines().last().unwrap());
}
