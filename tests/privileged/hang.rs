//! Workers that hang in code of their own are ended, and others go on for them.
//!
//! The code is that of a test: it is written over a function of the running program, in the memory
//! of one process, as a debugger writes breakpoints.
//!
//! Needs what [`crate::who`] needs, and nm of binutils.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call
#![cfg(target_arch = "x86_64")]

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lxcfs_rs::procfs::process::parse_voluntary_switches;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::byhand::{eventually, full};
use crate::daemon::{PROGRAM, Place, replace_worker, start, worker_of};
use crate::keeper::{problem, status};

/// `jmp .`
const LOOP: &[u8] = &[0xeb, 0xfe];

/// Waits in futex(2) for a word on its stack that nobody changes.
const AT_LOCK: &[u8] = &[
    0x48, 0x8d, 0x7c, 0x24, 0xc0, // lea rdi, [rsp-64]
    0xc7, 0x07, 0x00, 0x00, 0x00, 0x00, // mov dword [rdi], 0
    0x31, 0xf6, // xor esi, esi: FUTEX_WAIT
    0x31, 0xd2, // xor edx, edx
    0x45, 0x31, 0xd2, // xor r10d, r10d
    0xb8, 0xca, 0x00, 0x00, 0x00, // mov eax, SYS_futex
    0x0f, 0x05, // syscall
    0xeb, 0xe5, // jmp to the first
];

/// Waits in pause(2), as for a kernel file.
const IN_KERNEL: &[u8] = &[
    0xb8, 0x22, 0x00, 0x00, 0x00, // mov eax, SYS_pause
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to the first
];

/// The function that collects proc/uptime, in the memory of a process.
struct Function {
    memory: fs::File,
    address: u64,
    before: Vec<u8>,
}

impl Function {
    /// Begins with `code` from now on. Nobody must be in it.
    fn replace(pid: Pid, code: &[u8]) -> Function {
        let names = Command::new("nm").args(["-C", PROGRAM]).output().unwrap();
        let names = String::from_utf8(names.stdout).unwrap();
        // Some compilers put brackets around the type.
        let names = names.replace(['<', '>'], "");
        let line =
            names.lines().find(|line| line.ends_with(" lxcfs_rs::collect::Collector::uptime"));
        let offset = u64::from_str_radix(line.unwrap().split(' ').next().unwrap(), 16).unwrap();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let first = maps.lines().find(|line| line.ends_with(PROGRAM)).unwrap();
        let base = u64::from_str_radix(first.split('-').next().unwrap(), 16).unwrap();
        let mut options = fs::File::options();
        let memory = options.read(true).write(true).open(format!("/proc/{pid}/mem")).unwrap();
        let address = base + offset;
        let mut before = vec![0; code.len()];
        memory.read_exact_at(&mut before, address).unwrap();
        memory.write_all_at(code, address).unwrap();
        Function { memory, address, before }
    }

    fn restore(self) {
        self.memory.write_all_at(&self.before, self.address).unwrap();
    }
}

fn read(file: PathBuf) -> JoinHandle<io::Result<String>> {
    thread::spawn(move || fs::read_to_string(file))
}

fn a_worker_that_hangs_is_replaced(code: &[u8], said: &str) {
    let place = Place::new();
    let daemon = start(&place);
    let worker = worker_of(daemon.pid());
    Function::replace(worker, code);
    // As many as there are workers, and more: then nobody else is answered.
    let readers = [(); 4].map(|()| read(place.file("proc/uptime")));
    let beside = read(place.meminfo());
    eventually("answers", || readers.iter().all(JoinHandle::is_finished));
    for reader in readers {
        assert_eq!(problem("uptime", &reader.join().unwrap().unwrap(), 0), None);
    }
    assert!(beside.join().unwrap().unwrap().starts_with("MemTotal:"));
    assert_ne!(worker_of(daemon.pid()), worker);
    let status = status(&place);
    assert_eq!([&status["hangs"], &status["resumes"], &status["reconnections"]], [1, 1, 0]);
    daemon.signal(Signal::SIGTERM);
    let (ended, log) = daemon.end();
    assert!(ended.success());
    let line = log.lines().find(|line| line.contains(&format!("worker {worker} hangs: thread ")));
    assert!(line.is_some_and(|line| line.ends_with(said)), "{log}");
}

#[test]
fn a_worker_in_an_endless_loop_is_replaced() {
    a_worker_that_hangs_is_replaced(LOOP, " does not come to the end of a request");
}

#[test]
fn a_worker_that_waits_for_a_lock_for_ever_is_replaced() {
    a_worker_that_hangs_is_replaced(AT_LOCK, " waits for a lock that nobody lets go of");
}

/// Whatever worker the request is sent to: its reader gets an error, and the others go on.
#[test]
fn a_request_at_which_every_worker_hangs_is_given_up() {
    let place = Place::new();
    let daemon = start(&place);
    // The next ones are copies of it.
    let function = Function::replace(daemon.pid(), AT_LOCK);
    replace_worker(daemon.pid());
    let reader = read(place.file("proc/uptime"));
    eventually("an answer", || reader.is_finished());
    let error = reader.join().unwrap().unwrap_err();
    let expected = [libc::ENOTCONN, libc::ECONNABORTED].map(Some);
    assert!(expected.contains(&error.raw_os_error()), "{error}");
    eventually("a new mount", || fs::read_to_string(place.meminfo()).is_ok());
    let counted = status(&place);
    assert_eq!([&counted["hangs"], &counted["reconnections"]], [2, 1]);
    function.restore();
    replace_worker(daemon.pid());
    let text = fs::read_to_string(place.file("proc/uptime")).unwrap();
    assert_eq!(problem("uptime", &text, 0), None);
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.end().0.success());
}

/// The request would wait in the next one too. And one that somebody has stopped goes on when he wants.
#[test]
fn a_worker_that_the_kernel_holds_up_is_left_alone() {
    let place = Place::new();
    let daemon = start(&place);
    let worker = worker_of(daemon.pid());
    Function::replace(worker, IN_KERNEL);
    let waits = read(place.file("proc/uptime"));
    // Longer than a hang of ours would have lasted, each time.
    thread::sleep(Duration::from_secs(5));
    kill(worker, Signal::SIGSTOP).unwrap();
    let stopped = read(place.meminfo());
    thread::sleep(Duration::from_secs(5));
    kill(worker, Signal::SIGCONT).unwrap();
    assert!(stopped.join().unwrap().unwrap().starts_with("MemTotal:"));
    assert!(!waits.is_finished());
    assert_eq!(worker_of(daemon.pid()), worker);
    assert_eq!(status(&place)["hangs"], 0);
    kill(worker, Signal::SIGKILL).unwrap();
    assert_eq!(problem("uptime", &waits.join().unwrap().unwrap(), 0), None);
}

/// How often all threads of a process have begun to wait.
fn waits(pid: Pid) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let status = threads.map(|thread| fs::read(thread.unwrap().path().join("status")).unwrap());
    status.map(|status| parse_voluntary_switches(&status).unwrap()).sum()
}

#[test]
fn nobody_wakes_up_while_nobody_reads() {
    let place = Place::new();
    let daemon = start(&place);
    assert!(fs::read_to_string(place.meminfo()).is_ok());
    let processes = [daemon.pid(), worker_of(daemon.pid())];
    // Longer than a minute: after one it looks through the containers for the last time.
    let rest = Duration::from_secs(if full() { 70 } else { 3 });
    eventually("a rest", || {
        let before = processes.map(waits);
        thread::sleep(rest);
        processes.map(waits) == before
    });
}
