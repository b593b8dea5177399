//! A container whose processes do to the files whatever they can, as root and as nobody: the worker
//! lives, stays small, and shows a neighbour what is right throughout.
//!
//! Needs what [`crate::who`] needs; python3, setpriv.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::byhand::{FILES, Group, MIB, Plan, Program, eventually};
use crate::daemon::{Place, Served, worker_of};
use crate::keeper::{problem, status};

/// Everything that a process without rights can think of. `$1` is the mountpoint.
const ATTACK: &str = r#"
import errno, mmap, os, random, resource, select, signal, sys, threading, time
random.seed(int(sys.argv[2]))
proc = sys.argv[1] + '/proc/'
plain = ['meminfo', 'cpuinfo', 'stat', 'uptime', 'loadavg', 'diskstats', 'swaps', 'vmstat']
pressure = ['pressure/' + name for name in ('cpu', 'memory', 'io')]

def fails(act, *expected):
    try:
        act()
    except OSError as error:
        assert error.errno in expected, error
    else:
        raise AssertionError('not refused')

def in_child(act):
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    return child

def all_end(children):
    for child in children:
        assert os.waitpid(child, 0)[1] == 0

def threads(count, act):
    failed = []
    def guarded():
        try:
            act()
        except BaseException as error:
            failed.append(error)
    running = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in running: thread.start()
    for thread in running: thread.join()
    assert not failed, failed

def keep_open():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    each = min(most - 64, 5000)
    ready, is_ready = os.pipe()
    end, ends = os.pipe()
    def hold():
        os.close(ends)
        for number in range(each):
            file = os.open(proc + plain[number % len(plain)], os.O_RDONLY)
            assert len(os.read(file, 1)) == 1 or number % len(plain) == 5
        os.write(is_ready, b'.')
        os.read(end, 1)
    children = [in_child(hold) for _ in range(-(-10000 // each))]
    os.close(is_ready)
    for _ in children:
        assert os.read(ready, 1) == b'.'
    print('10000 open', flush=True)
    os.close(ends)
    all_end(children)

def offsets():
    file = os.open(proc + 'meminfo', os.O_RDONLY)
    for offset in (1 << 20, 1 << 32, 1 << 40, 1 << 62, (1 << 63) - (1 << 17)):
        assert os.pread(file, 1 << 16, offset) == b''
    fails(lambda: os.pread(file, 1, -1), errno.EINVAL)
    assert os.pread(file, 1 << 24, 0).startswith(b'MemTotal:')

def single_bytes():
    for name in plain:
        file = os.open(proc + name, os.O_RDONLY)
        text = b''
        while byte := os.read(file, 1):
            text += byte
        assert text.endswith(b'\n') or name == 'diskstats', name
        os.close(file)

def one_descriptor():
    file = os.open(proc + 'stat', os.O_RDONLY)
    def read():
        for _ in range(200):
            os.pread(file, random.randrange(1, 5000), random.choice([0, random.randrange(0, 4000)]))
    threads(16, read)

def map_it():
    def touch():
        with open(proc + 'meminfo', 'rb') as file:
            mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)[0]
    for _ in range(20):
        status = os.waitpid(in_child(touch), 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS, status

def storm():
    def poll():
        file = os.open(proc + random.choice(pressure), os.O_RDWR | os.O_NONBLOCK)
        try:
            os.write(file, b'some 500000 10000000\0')
        except OSError as error:
            assert error.errno in (errno.ENOMEM, errno.EINVAL), error
        poller = select.poll()
        poller.register(file, select.POLLPRI)
        for _ in range(200):
            poller.poll(random.choice([0, 0, 1]))
        os.close(file)
    for _ in range(5):
        threads(16, poll)

def write():
    refused = (errno.EACCES, errno.EROFS, errno.EPERM)
    for name in plain:
        for flags in os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC:
            fails(lambda: os.open(proc + name, flags), *refused)
        fails(lambda: os.truncate(proc + name, 0), *refused)
    for name in pressure:
        for length in 0, 1, 31, 32, 33, 4096, 1 << 20:
            file = os.open(proc + name, os.O_RDWR)
            text = random.randbytes(length)
            try:
                os.pwrite(file, text, random.choice([0, 7, 1 << 40]))
            except OSError as error:
                assert error.errno in (errno.EINVAL, errno.EBUSY, errno.ENOMEM), error
            os.close(file)

def killed():
    for _ in range(150):
        def read():
            file = os.open(proc + random.choice(plain), os.O_RDONLY)
            while True:
                os.pread(file, random.choice([1, 100, 1 << 16]), random.choice([0, 0, 100]))
        child = in_child(read)
        time.sleep(random.random() / 200)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for attack in keep_open, offsets, single_bytes, one_descriptor, map_it, storm, write, killed:
    attack()
print('done', flush=True)
"#;

/// Reads all files of a container of its own until it is told to stop.
struct Neighbour {
    is_over: Arc<AtomicBool>,
    reads: Option<JoinHandle<Vec<Duration>>>,
    _group: Group,
}

impl Neighbour {
    fn of(place: &Place) -> Neighbour {
        const LIMIT: u64 = 111 * MIB;
        let group = Group::limited(LIMIT);
        let mut reader = Plan::container(&group).start(place);
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let read = move || {
            let mut times = Vec::new();
            let files = ["meminfo", "cpuinfo", "stat", "uptime"];
            for file in files.iter().cycle() {
                if told.load(Ordering::Relaxed) {
                    break;
                }
                let since = Instant::now();
                let text = reader.try_read(file).unwrap();
                times.push(since.elapsed());
                assert_eq!(problem(file, &text, LIMIT), None);
                thread::sleep(Duration::from_millis(1));
            }
            times
        };
        Neighbour { is_over, reads: Some(thread::spawn(read)), _group: group }
    }

    /// All reads must have been right. Tells how many, and how long they took.
    fn end(mut self, what: &str) {
        self.is_over.store(true, Ordering::Relaxed);
        let mut times = self.reads.take().unwrap().join().unwrap();
        times.sort_unstable();
        let (count, p50, p99) =
            (times.len(), times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("neighbour {what}: {count} reads, none wrong; half within {p50:?}, 99 % {p99:?}");
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(reads) = self.reads.take() {
            let _ = reads.join();
        }
    }
}

/// What a worker holds for those who read, in kB: the rest of half-read files, the places of open
/// ones (64 bytes each), and as much again for all else, of which each reader has a bounded part.
const MOST_GROWTH: u64 = 2 * (64 << 10) + (4 << 10);

fn attack(before: &str) {
    let served = Served::new();
    let worker = worker_of(served.daemon.pid());
    let group = Group::new(&["memory", "cpu", "cpuacct", "unified"]);
    group.set("memory.limit_in_bytes", 300 * MIB);

    let idle = Neighbour::of(&served.place);
    thread::sleep(Duration::from_millis(500));
    idle.end("while nobody else reads");
    let before_it = served.resident();
    let neighbour = Neighbour::of(&served.place);
    let script = format!(
        "{} {before} /usr/bin/python3 -c '{}' \"$1\" 1",
        group.join(),
        ATTACK.replace('\'', "\"")
    );
    let printed = Program::start(&served.place, &script).output();
    assert_eq!(printed, "10000 open\ndone\n");
    neighbour.end("beside the hostile container");

    let after = served.resident();
    println!("resident: {before_it} kB before, {after} kB after");
    assert!(after < before_it + MOST_GROWTH);
    assert_eq!(worker_of(served.daemon.pid()), worker, "the worker crashed");
    eventually("no open files", || status(&served.place)["handles"] == 0);
    assert_eq!(status(&served.place)["triggers"], 0);
    assert_ne!(status(&served.place)["put_aside"], 0, "the hostile container had all workers");
    assert_eq!(status(&served.place)["snapshot_bytes"], 0);
}

#[test]
fn by_root_in_a_container() {
    attack("exec unshare --pid --fork --kill-child --mount --cgroup");
}

#[test]
fn by_nobody_in_a_container() {
    attack(
        "exec unshare --pid --fork --kill-child --mount --cgroup \
         setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --no-new-privs",
    );
}

/// Cgroups are removed and namespaces end while who was in them reads.
#[test]
fn while_containers_are_torn_down() {
    let served = Served::new();
    let worker = worker_of(served.daemon.pid());
    let neighbour = Neighbour::of(&served.place);
    let elsewhere = Group::limited(200 * MIB);
    for round in 0..40 {
        let limit = (64 + round) * MIB;
        let group = Group::limited(limit);
        let mut init = Plan::container(&group).start(&served.place);
        let mut second = Plan::entering(&init).in_group(&group).start(&served.place);
        assert_eq!(init.total(), limit);
        let pid = second.pid;
        let reading = thread::spawn(move || {
            // Until its pid namespace ends, and it with that.
            let _ended = FILES.iter().cycle().find(|file| !second.lives_to_read(file));
            second
        });
        if round % 2 == 0 {
            // Out of its cgroup, which is removed under the read.
            elsewhere.take(init.pid);
            elsewhere.take(pid);
            group.remove();
        }
        kill(Pid::from_raw(init.pid.cast_signed()), Signal::SIGKILL).unwrap();
        // An init has ended when all others have been waited for.
        drop(reading.join().unwrap());
        drop(init);
    }
    neighbour.end("beside containers that end");
    assert_eq!(worker_of(served.daemon.pid()), worker, "the worker crashed");
    eventually("no open files", || status(&served.place)["handles"] == 0);
}
