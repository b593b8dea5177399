//! What readers notice when workers are killed and programs replaced: nothing.
//!
//! Needs what [`crate::who`] needs; python3 for a reader that waits for pressure; the static
//! program, which packaging/build builds where `$PROGRAM` names none.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::byhand::{Group, MIB, Plan, Reader, eventually, full};
use crate::daemon::{
    Guarded, PROGRAM, Place, Served, replace_worker, serve, start, start_telling, worker_of,
};

fn ask(place: &Place, arguments: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command.arg(arguments[0]).arg(place.mountpoint()).args(&arguments[1..]);
    command.arg("--runtime-dir").arg(place.mountpoint().with_file_name("run"));
    command.output().unwrap()
}

pub(crate) fn status(place: &Place) -> Value {
    let output = ask(place, &["status", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A number that differs from one to the next, without a pattern that a daemon could be in step
/// with.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// What a reader has seen.
#[derive(Debug, Default)]
struct Seen {
    reads: AtomicU64,
    /// Past so many reads they leave the machine to others; 0 for never.
    haste_until: AtomicU64,
    /// In microseconds.
    longest: AtomicU64,
    wrong: parking_lot::Mutex<Vec<String>>,
}

impl Seen {
    fn note(&self, since: Instant, problem: Option<String>) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap();
        self.longest.fetch_max(micros, Ordering::Relaxed);
        if let Some(problem) = problem {
            self.wrong.lock().push(problem);
        }
        let until = self.haste_until.load(Ordering::Relaxed);
        if until != 0 && self.reads.load(Ordering::Relaxed) > until {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What is wrong with the text of a file that a container with this memory was shown.
pub(crate) fn problem(name: &str, text: &str, limit: u64) -> Option<String> {
    let is_right = match name {
        "meminfo" => {
            let own = format!("MemTotal: {:>14} kB\n", limit / 1024);
            text.starts_with(&own) && text.matches("MemTotal:").count() == 1
        }
        "cpuinfo" => text.starts_with("processor\t: ") && text.ends_with("\n\n"),
        "stat" => {
            let last = text.lines().last();
            text.starts_with("cpu ") && last.is_some_and(|last| last.starts_with("softirq "))
        }
        _ => text.split(' ').count() == 2 && text.lines().count() == 1,
    };
    (!is_right || !text.ends_with('\n')).then(|| format!("{name}: {text:?}"))
}

const FILES: [&str; 4] = ["meminfo", "cpuinfo", "stat", "uptime"];

/// Readers in four containers, until they are told to stop: in each one that opens, reads and
/// closes all files in turn, and one that keeps a file open and reads it from start to end in
/// small pieces, over and over.
pub(crate) struct Readers {
    seen: Arc<Seen>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Reader>>,
    _groups: Vec<Group>,
}

impl Readers {
    pub(crate) fn new(place: &Place) -> Readers {
        let (seen, is_over) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        let mut groups = Vec::new();
        for (file, number) in FILES.into_iter().zip(1..) {
            let limit = (100 + number) * MIB;
            let group = Group::limited(limit);
            let first = Plan::container(&group).start(place);
            let second = Plan::entering(&first).in_group(&group).start(place);
            groups.push(group);
            let parts = (seen.clone(), is_over.clone());
            let read = move || keep_and_read(second, file, limit, &parts.0, &parts.1);
            threads.push(thread::spawn(read));
            // After the other, as it is dropped after it: an init ends after all others.
            let parts = (seen.clone(), is_over.clone());
            threads.push(thread::spawn(move || open_and_read(first, limit, &parts.0, &parts.1)));
        }
        let readers = Readers { seen, is_over, threads, _groups: groups };
        eventually("reads", || readers.reads() > 100);
        readers
    }

    fn hasten_until(&self, reads: u64) {
        self.seen.haste_until.store(reads, Ordering::Relaxed);
    }

    fn reads(&self) -> u64 {
        self.seen.reads.load(Ordering::Relaxed)
    }

    /// Waits for reads that began after now.
    pub(crate) fn go_on(&self) {
        let before = self.reads();
        eventually("reads", || self.reads() > before + 8);
    }

    /// Ends them; none may have failed.
    pub(crate) fn end(mut self, what: &str) {
        self.is_over.store(true, Ordering::Relaxed);
        // None ends before all have come to an end: the first one in a container is its init.
        let ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        assert!(ended.iter().all(Result::is_ok));
        let wrong = self.seen.wrong.lock();
        assert!(wrong.is_empty(), "{} of {wrong:#?}", wrong.len());
        let longest = Duration::from_micros(self.seen.longest.load(Ordering::Relaxed));
        println!("{what}: {} reads, none failed, the longest took {longest:?}", self.reads());
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ended: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
    }
}

fn open_and_read(mut reader: Reader, limit: u64, seen: &Seen, is_over: &AtomicBool) -> Reader {
    for file in FILES.iter().cycle() {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let since = Instant::now();
        let problem = match reader.try_read(file) {
            Ok(text) => problem(file, &text, limit),
            Err(errno) => Some(format!("{file}: errno {errno}")),
        };
        seen.note(since, problem);
    }
    reader
}

fn keep_and_read(
    mut reader: Reader,
    file: &str,
    limit: u64,
    seen: &Seen,
    is_over: &AtomicBool,
) -> Reader {
    reader.keep(file);
    let mut text = String::new();
    while !is_over.load(Ordering::Relaxed) {
        let since = Instant::now();
        let problem = match reader.part(text.len() as u64, 300) {
            Ok(part) if part.is_empty() => problem(file, &std::mem::take(&mut text), limit),
            Ok(part) => {
                text.push_str(&part);
                None
            }
            Err(errno) => Some(format!("{file}: kept open: errno {errno}")),
        };
        seen.note(since, problem);
    }
    reader
}

#[test]
fn killed_workers_are_not_noticed() {
    let place = Place::new();
    let daemon = start(&place);
    let readers = Readers::new(&place);
    let kills = if full() { 200 } else { 40 };
    let mut random = 1;
    for round in 0..kills {
        thread::sleep(Duration::from_micros(next_random(&mut random) % 60_000));
        replace_worker(daemon.pid());
        readers.go_on();
        assert_eq!(status(&place)["reconnections"], 0, "round {round}");
    }
    readers.end(&format!("{kills} kills"));
    let status = status(&place);
    assert_eq!(status["resumes"], kills);
    assert!(status["containers"].as_u64().unwrap() >= 4, "{status}");
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().0.success());
}

/// Another build of the program, the one that is packed: static, optimised, without assertions.
fn other_build() -> PathBuf {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/build");
    let output = Command::new(build).arg("program").stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{build} program: {}", output.status);
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
}

/// A copy of the program: another file, as a package's upgrade leaves it.
fn copy(place: &Place, name: &str) -> PathBuf {
    let path = place.base.join(name);
    fs::copy(PROGRAM, &path).unwrap();
    path
}

#[test]
fn upgrades_are_not_noticed() {
    let place = Place::new();
    let programs = [copy(&place, "program"), other_build()];
    let daemon = start(&place);
    let readers = Readers::new(&place);
    let upgrades = if full() { 50 } else { 10 };
    for round in 0..upgrades {
        let program = &programs[round % 2];
        let output = ask(&place, &["upgrade", "--program", program.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let running = fs::read_link(format!("/proc/{}/exe", daemon.pid())).unwrap();
        assert_eq!(running, *program);
        readers.go_on();
    }
    readers.end(&format!("{upgrades} upgrades"));
    assert_eq!(status(&place)["upgrades"], upgrades);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().0.success());
    assert!(!place.mountpoint().exists());
}

#[test]
fn what_would_not_start_is_refused_and_changes_nothing() {
    let place = Place::new();
    let daemon = start(&place);
    let script = place.base.join("fails");
    fs::write(&script, "#!/bin/sh\necho no such luck >&2\nexit 3\n").unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for (program, said) in [
        (script.to_str().unwrap(), "no such luck"),
        ("/nowhere/at/all", "/nowhere/at/all: cannot start: No such file or directory"),
        ("/bin/false", "exit status: 1; it is not used"),
    ] {
        let output = ask(&place, &["upgrade", "--program", program]);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
        assert!(line.contains(said), "{line}");
    }
    assert_eq!(status(&place)["upgrades"], 0);
    assert!(fs::read_to_string(place.meminfo()).is_ok());
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().0.success());
}

#[test]
fn sigusr1_goes_on_as_the_program_at_the_same_path() {
    let place = Place::new();
    let program = copy(&place, "program");
    let mut command = Command::new(&program);
    command.args(serve(&place.mountpoint()).get_args()).stderr(Stdio::piped());
    let (daemon, socket, _) = start_telling(&place, command);
    let newer = copy(&place, "newer");
    fs::rename(newer, &program).unwrap();
    daemon.signal(Signal::SIGUSR1);
    let mut message = [0; 4096];
    let length = socket.recv(&mut message).unwrap();
    assert!(message[..length].starts_with(b"READY=1\n"));
    let running = fs::read_link(format!("/proc/{}/exe", daemon.pid())).unwrap();
    // Not "(deleted)".
    assert_eq!(running, program);
    assert_eq!(status(&place)["upgrades"], 1);
}

/// A daemon of that program, which takes over from the one that serves, if one does.
fn taking_over(place: &Place, program: &Path) -> Guarded {
    let mut command = Command::new(program);
    command.args(serve(&place.mountpoint()).get_args()).arg("--take-over");
    start_telling(place, command).0
}

#[test]
fn daemons_that_take_over_from_each_other_are_not_noticed() {
    let place = Place::new();
    let programs = [PathBuf::from(PROGRAM), other_build()];
    let mut daemon = taking_over(&place, &programs[1]);
    let readers = Readers::new(&place);
    let times = if full() { 50 } else { 10 };
    for round in 0..times {
        let next = taking_over(&place, &programs[round % 2]);
        let mut before = std::mem::replace(&mut daemon, next);
        let pid = i64::from(daemon.pid().as_raw());
        assert_eq!(status(&place)["pid"].as_i64(), Some(pid));
        // It would be started again if it ended by itself.
        assert!(before.0.try_wait().unwrap().is_none());
        before.signal(Signal::SIGTERM);
        assert!(before.end().0.success());
        readers.go_on();
    }
    readers.end(&format!("{times} times taken over"));
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().0.success());
    assert!(!place.mountpoint().exists());
}

/// As of two pods, where the second one fails while the first one is still there.
#[test]
fn who_was_taken_over_serves_again_when_nobody_does() {
    let place = Place::new();
    let taking_over = || taking_over(&place, Path::new(PROGRAM));
    let serves = |daemon: &Guarded| {
        let own = format!("\"pid\":{},", daemon.pid());
        // One that has just been killed may have been connected to.
        let says = || String::from_utf8(ask(&place, &["status", "--json"]).stdout).unwrap();
        eventually("the one that serves", || says().contains(&own));
        assert!(fs::read_to_string(place.meminfo()).is_ok());
    };
    let [first, second, third] = [taking_over(), taking_over(), taking_over()];
    serves(&third);
    // Whom the first one waited for has ended, but somebody serves.
    second.signal(Signal::SIGKILL);
    second.end();
    serves(&third);
    third.signal(Signal::SIGKILL);
    third.end();
    serves(&first);
    // It made a connection of its own; had it taken that of the third one, this would be 3.
    assert_eq!(status(&place)["upgrades"], 0);
    let fourth = taking_over();
    serves(&fourth);
    fourth.signal(Signal::SIGTERM);
    assert!(fourth.end().0.success());
    serves(&first);
    first.signal(Signal::SIGTERM);
    assert!(first.end().0.success());
    assert!(!place.meminfo().exists());
}

#[test]
fn probes() {
    let place = Place::new();
    let said = |arguments: &[&str], wrapper: &[&str]| {
        let mut command = Command::new(wrapper.first().unwrap_or(&PROGRAM));
        if !wrapper.is_empty() {
            command.args(&wrapper[1..]).arg(PROGRAM);
        }
        command.arg("status").args(arguments).arg(place.mountpoint());
        command.arg("--runtime-dir").arg(place.mountpoint().with_file_name("run"));
        let output = command.output().unwrap();
        assert!(output.stdout.is_empty());
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), line.lines().count()),
            match line.is_empty() {
                true => (Some(0), 0),
                false => (Some(1), 1),
            }
        );
        line
    };
    let line = said(&["--alive"], &[]);
    assert!(line.contains("no such directory"), "{line}");
    let daemon = start(&place);
    assert_eq!(said(&["--alive"], &[]), "");
    assert_eq!(said(&["--ready"], &[]), "");
    // A pod that is to take over and has not.
    let elsewhere = ["unshare", "--mount"];
    assert_eq!(said(&["--alive"], &elsewhere), "");
    let line = said(&["--ready"], &elsewhere);
    assert!(line.contains("not of this mount namespace"), "{line}");

    let worker = worker_of(daemon.pid());
    kill(worker, Signal::SIGSTOP).unwrap();
    for probe in ["--alive", "--ready"] {
        let line = said(&[probe], &[]);
        assert!(line.ends_with("cannot read: timed out\n"), "{line}");
    }
    kill(worker, Signal::SIGCONT).unwrap();
    assert_eq!(said(&["--alive"], &[]), "");
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    eventually("the end of the worker", || kill(worker, None).is_err());
    let line = said(&["--alive"], &[]);
    assert!(line.contains("Transport endpoint is not connected"), "{line}");
}

#[test]
fn a_daemon_that_did_not_ask_for_it_ends_when_it_is_taken_over() {
    let place = Place::new();
    let pidfile = place.base.join("pid");
    let with_pidfile = || {
        let mut command = serve(&place.mountpoint());
        command.arg("--pidfile").arg(&pidfile);
        command
    };
    let first = start_telling(&place, with_pidfile()).0;
    let mut command = with_pidfile();
    command.arg("--take-over");
    let second = start_telling(&place, command).0;
    assert!(first.end().0.success());
    assert_eq!(fs::read_to_string(&pidfile).unwrap(), format!("{}\n", second.pid()));
    assert!(fs::read_to_string(place.meminfo()).is_ok());
}

/// The keeper is killed: whoever reads gets an error, and the next start serves again.
#[test]
fn a_killed_keeper_leaves_nobody_waiting() {
    let place = Place::new();
    let daemon = start(&place);
    let worker = worker_of(daemon.pid());
    let file = File::open(place.meminfo()).unwrap();
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    eventually("the end of the worker", || kill(worker, None).is_err());
    let error = file.read_at(&mut [0; 100], 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let daemon = start(&place);
    assert!(fs::read_to_string(place.meminfo()).is_ok());
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().0.success());
}

/// Workers that never come to life: nobody waits for ever, and once one does, it serves.
#[test]
fn without_workers_readers_get_an_error_in_bounded_time() {
    let place = Place::new();
    let daemon = start(&place);
    let file = File::open(place.meminfo()).unwrap();
    let worker = worker_of(daemon.pid());
    kill(worker, Signal::SIGSTOP).unwrap();
    let reader = thread::spawn(move || file.read_at(&mut [0; 100], 0));
    // A worker that somebody has stopped is left alone; one that is killed with a keeper that is
    // stopped is replaced as soon as that goes on.
    daemon.signal(Signal::SIGSTOP);
    kill(worker, Signal::SIGKILL).unwrap();
    daemon.signal(Signal::SIGCONT);
    assert!(reader.join().unwrap().unwrap() > 0);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().0.success());
}

/// Waits in poll(2) for a trigger that ended with its worker.
#[test]
fn who_waits_for_pressure_is_woken() {
    const WAITER: &str = "
import os, select, sys
fd = os.open(sys.argv[1], os.O_RDWR)
os.write(fd, b'some 1900000 2000000\\0')
poll = select.poll()
poll.register(fd, select.POLLPRI)
print('waits', flush=True)
events = poll.poll(120000)
print(events[0][1] & (select.POLLPRI | select.POLLERR) if events else 0, flush=True)
";
    let place = Place::new();
    let daemon = start(&place);
    // Which this machine never has so much of; of CPUs it may.
    let pressure = place.file("proc/pressure/memory");
    if fs::read(&pressure).is_err_and(|error| error.raw_os_error() == Some(libc::EOPNOTSUPP)) {
        panic!("this host counts no pressure");
    }
    let mut command = Command::new("python3");
    command.args(["-c", WAITER]).arg(&pressure).stdout(Stdio::piped());
    let mut waiter = Guarded(command.spawn().unwrap());
    let mut out = waiter.0.stdout.take().unwrap();
    let mut said = [0; 6];
    out.read_exact(&mut said).unwrap();
    eventually("a waiter", || status(&place)["triggers"] == 1);
    let worker = worker_of(daemon.pid());
    kill(worker, Signal::SIGKILL).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, format!("{}\n", libc::POLLPRI | libc::POLLERR));
}

/// Half of a file from one worker and half from the next.
#[test]
fn a_reader_half_way_through_gets_the_rest_of_its_own_snapshot() {
    let place = Place::new();
    let daemon = start(&place);
    let mut file = File::open(place.file("proc/stat")).unwrap();
    let mut first = [0; 100];
    file.read_exact(&mut first).unwrap();
    replace_worker(daemon.pid());
    // What is read meanwhile is another snapshot, with higher numbers.
    eventually("a change", || {
        let text = fs::read(place.file("proc/stat")).unwrap();
        text[..first.len()] != first
    });
    let mut rest = String::new();
    file.read_to_string(&mut rest).unwrap();
    let whole = String::from_utf8(first.to_vec()).unwrap() + &rest;
    assert_eq!(problem("stat", &whole, 0), None);
    assert_eq!(status(&place)["snapshot_bytes"], 0);
}

/// A day's work: containers come and go beside readers that stay, and nothing grows.
#[test]
fn nothing_grows_over_a_days_work() {
    let (most_reads, most_containers) = if full() { (1_000_000, 20_000) } else { (20_000, 300) };
    let place = Place::new();
    let served = Served { daemon: start(&place), place };
    let readers = Readers::new(&served.place);
    let size = || (served.resident(), served.descriptors(), served.threads());
    let group = Group::new(&["memory", "cpu"]);
    let mut containers = 0_u64;
    let mut before = None;
    while readers.reads() < most_reads || containers < most_containers {
        if containers < most_containers {
            containers += 1;
            // In step: readers that are always busy keep new containers waiting.
            readers.hasten_until(most_reads / most_containers * containers);
            let own = group.below("short");
            let limit = (10 + containers % 80) * MIB;
            own.set("memory.limit_in_bytes", limit);
            let mut reader = Plan::container(&own).start(&served.place);
            assert_eq!(reader.total(), limit);
            reader.read("stat");
        } else {
            readers.go_on();
        }
        // Past the first half everything that is held at all is held: when some 8,000 containers
        // began, too, in full counts.
        if before.is_none() && containers > most_containers / 2 && readers.reads() > most_reads / 2
        {
            before = Some(size());
        }
    }
    let before: (u64, usize, usize) = before.unwrap();
    // What is held of containers that have ended is let go of in time.
    eventually("as few descriptors as before", || {
        readers.go_on();
        served.descriptors() <= before.1
    });
    let after = size();
    readers.end(&format!("{containers} containers"));
    println!("kB, descriptors and threads: {before:?}, at the end {after:?}");
    assert!(after.0 <= before.0 + 1024, "{before:?} {after:?}");
    assert_eq!(after.2, before.2);
}
