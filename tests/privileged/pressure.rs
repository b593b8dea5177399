//! `/proc/pressure`: the container's own stalls, and triggers on them. This machine's cgroups are
//! v1 with a cgroup2 hierarchy beside them, which counts pressure for every cgroup of it.
//!
//! Needs root, /dev/fuse, python3, setpriv and taskset, and a kernel with PSI.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use crate::byhand::{Group, Program, eventually};
use crate::daemon::{Guarded, Served};

/// What every probe begins with: it says what it found as a line, and goes on at a line.
const PRELUDE: &str = r#"
import errno, os, select, sys
path = sys.argv[1]
def attempt(act):
    try:
        return act()
    except OSError as error:
        return errno.errorcode[error.errno]
def say(*words):
    print(*words, flush=True)
def trigger(text, path=path):
    file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    answer = attempt(lambda: os.write(file, text))
    return file, answer
def poll(file, timeout, events=select.POLLPRI):
    poller = select.poll()
    poller.register(file, events)
    found = poller.poll(timeout)
    return found[0][1] if found else 0
"#;

fn cgroup() -> Group {
    Group::new(&["memory", "cpu", "cpuacct", "unified"])
}

/// A program in Python that is asked line by line.
struct Probe(Child, BufReader<std::process::ChildStdout>);

impl Probe {
    /// Runs `script` on the file `path` with `before` it: a shell command that ends in `exec`
    /// or a program that starts others.
    fn start(before: &str, script: &str, path: &str) -> Probe {
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("{before} python3 -c \"$0\" \"$1\"")]);
        command.arg(format!("{PRELUDE}{script}")).arg(path);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Probe(child, lines)
    }

    /// In the cgroup, with pid and cgroup namespaces of its own.
    fn contained(group: &Group, script: &str, path: &str) -> Probe {
        let before = format!("{} exec unshare --pid --fork --kill-child --cgroup", group.join());
        Probe::start(&before, script, path)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn go_on(&mut self) {
        writeln!(self.0.stdin.as_mut().unwrap()).unwrap();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file of pressure of a daemon's.
fn file(served: &Served, resource: &str) -> String {
    served.place.file("proc/pressure").join(resource).to_str().unwrap().to_owned()
}

/// Three that want the same CPU.
fn stall(group: &Group) -> Vec<Guarded> {
    let spin = format!("{} exec taskset -c 0 python3 -c 'while True: pass'", group.join());
    let start = || Guarded(Command::new("sh").args(["-ec", &spin]).spawn().unwrap());
    (0..3).map(|_| start()).collect()
}

/// The totals of `some` and `full`, in microseconds.
fn totals(text: &str) -> Vec<u64> {
    let total = |line: &str| line.rsplit_once("total=").unwrap().1.trim().parse().unwrap();
    text.lines().map(total).collect()
}

#[test]
fn a_container_sees_its_own_pressure_and_a_process_of_the_host_the_hosts() {
    let served = Served::new();
    let (busy, idle) = (cgroup(), cgroup());
    let script = "
while sys.stdin.readline():
    sys.stdout.write(open(path).read())
    say('end')
";
    let mut probes =
        [&busy, &idle].map(|group| Probe::contained(group, script, &file(&served, "cpu")));
    let _spinning = stall(&busy);
    let own = |group: &Group| totals(&group.get_at("unified", "cpu.pressure"));
    eventually("a stall of a second", || own(&busy)[0] > 1_000_000);
    for (probe, group) in probes.iter_mut().zip([&busy, &idle]) {
        let before = own(group);
        probe.go_on();
        let mut text = String::new();
        loop {
            match probe.line().as_str() {
                "end" => break,
                "" => panic!("the probe ended after {text}"),
                line => text += &format!("{line}\n"),
            }
        }
        let after = own(group);
        let shown = totals(&text);
        assert_eq!(shown.len(), before.len(), "{text}");
        assert!(text.starts_with("some avg10="), "{text}");
        for (index, total) in shown.iter().enumerate() {
            assert!((before[index]..=after[index]).contains(total), "{before:?} {text} {after:?}");
        }
    }
    assert!(own(&idle)[0] < 1_000_000);
    for resource in ["cpu", "io", "memory"] {
        let host = || totals(&fs::read_to_string(format!("/proc/pressure/{resource}")).unwrap());
        let before = host();
        let shown = totals(&fs::read_to_string(file(&served, resource)).unwrap());
        let after = host();
        for (index, total) in shown.iter().enumerate() {
            assert!((before[index]..=after[index]).contains(total), "{resource}");
        }
    }
}

#[test]
fn without_a_cgroup_that_counts_there_is_none() {
    let served = Served::new();
    let group = Group::new(&["memory", "cpu", "cpuacct"]);
    let script = "say(attempt(lambda: open(path).read()))";
    let mut probe = Probe::contained(&group, script, &file(&served, "memory"));
    assert_eq!(probe.line(), "ENOTSUP");
}

/// As with an engine that leaves all of its containers in one cgroup of the unified hierarchy.
#[test]
fn a_cgroup_that_others_share_is_not_the_containers() {
    let served = Served::new();
    let (group, shared) = (Group::new(&["memory", "cpu", "cpuacct"]), Group::new(&["unified"]));
    let script = "
say(attempt(lambda: open(path).read()), attempt(lambda: trigger(b'some 1000000 2000000\\0')[1]))";
    let before = format!(
        "{}{} exec unshare --pid --fork --kill-child --cgroup",
        shared.join(),
        group.join()
    );
    let mut probe = Probe::start(&before, script, &file(&served, "cpu"));
    assert_eq!(probe.line(), "ENOTSUP ENOTSUP");
}

/// The same lines through the kernel's own file and through ours.
#[test]
fn what_is_no_trigger_is_refused_as_the_kernel_does() {
    let served = Served::new();
    let script = r#"
for text in [b"\0", b"some", b"some 100000\0", b"some 100000 1000000", b"some 100000 2000000\0",
             b"full 100000 2000000\0", b"some 100000 500000\0", b"some 100000 1000000\0",
             b"some 100000 400000\0", b"some 100000 10000001\0", b"some 2000001 2000000\0",
             b"some 0 2000000\0", b"some -1 2000000\0", b"none 100000 2000000\0",
             b"some 100000 2000000 and more than fits\0", b"some 100000 2000000\n"]:
    for name in ["cpu", "io", "memory"]:
        file, answer = trigger(text, f"{path}/{name}")
        again = attempt(lambda: os.write(file, b"some 100000 2000000\0"))
        say(name, text, answer, again)
        os.close(file)
untouched = os.open(f"{path}/cpu", os.O_RDWR)
say("poll", poll(untouched, 0), poll(untouched, 0, select.POLLIN))
say("closed")
"#;
    let ours = served.place.file("proc/pressure");
    let limited = "exec setpriv --inh-caps -sys_resource --bounding-set -sys_resource";
    for before in ["exec", limited] {
        let mut kernels = Probe::start(before, script, "/proc/pressure");
        let mut own = Probe::start(before, script, ours.to_str().unwrap());
        let mut count = 0;
        loop {
            let expected = kernels.line();
            assert_eq!(own.line(), expected, "{before}");
            if expected == "closed" {
                break;
            }
            count += 1;
        }
        assert_eq!(count, 16 * 3 + 1);
    }
}

#[test]
fn a_trigger_fires_on_the_containers_own_stall_alone() {
    let served = Served::new();
    let (busy, idle) = (cgroup(), cgroup());
    let script = r#"
file, answer = trigger(b"some 1000000 2000000\0")
say("set", answer)
sys.stdin.readline()
say(poll(file, 0))
sys.stdin.readline()
say(poll(file, 120000))
"#;
    let file = file(&served, "cpu");
    let mut probes = [&busy, &idle].map(|group| Probe::contained(group, script, &file));
    for probe in &mut probes {
        assert_eq!(probe.line(), "set 21");
        probe.go_on();
        assert_eq!(probe.line(), "0", "nothing stalls yet");
    }
    let [mut waiting, mut neighbour] = probes;
    waiting.go_on();
    let _spinning = stall(&busy);
    // POLLPRI.
    assert_eq!(waiting.line(), "2");
    drop(waiting);
    neighbour.go_on();
    let _more = stall(&idle);
    assert_eq!(neighbour.line(), "2");
}

/// epoll(7) with EPOLLET asks again only when it was woken.
#[test]
fn who_waits_for_edges_hears_of_every_one() {
    let served = Served::new();
    let group = cgroup();
    let script = r#"
file, answer = trigger(b"some 500000 2000000\0")
edges = select.epoll()
edges.register(file, select.EPOLLPRI | select.EPOLLET)
edges.poll(0)
say("set", answer)
for _ in range(3):
    say(edges.poll(120)[0][1])
"#;
    let mut probe = Probe::contained(&group, script, &file(&served, "cpu"));
    assert_eq!(probe.line(), "set 20");
    let _spinning = stall(&group);
    for _ in 0..3 {
        assert_eq!(probe.line(), "2");
    }
}

#[test]
fn one_that_waits_on_a_cgroup_that_is_removed_hears_of_it() {
    let served = Served::new();
    let group = cgroup();
    let script = r#"
file, answer = trigger(b"some 1000000 2000000\0")
for name in ["memory", "cpu", "cpuacct", "unified"]:
    open(f"/sys/fs/cgroup/{name}/cgroup.procs", "w").write("0")
say("set", answer)
say(poll(file, 120000) & select.POLLERR)
"#;
    let mut probe = Probe::contained(&group, script, &file(&served, "memory"));
    assert_eq!(probe.line(), "set 21");
    // Whoever started it, outside of its pid namespace.
    for controller in ["memory", "cpu", "cpuacct", "unified"] {
        fs::write(format!("/sys/fs/cgroup/{controller}/cgroup.procs"), probe.0.id().to_string())
            .unwrap();
    }
    group.remove();
    assert_eq!(probe.line(), "8");
}

#[test]
fn a_thousand_waiters_harm_nobody() {
    let served = Served::new();
    let (many, other) = (cgroup(), cgroup());
    let before = served.descriptors();
    let script = r#"
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
files = [trigger(b"some 1000000 2000000\0") for _ in range(1100)]
answers = [answer for _, answer in files]
say(answers.count(21), answers.count("ENOMEM"))
for file, _ in files[:500]:
    poll(file, 0)
sys.stdin.readline()
for file, _ in files:
    os.close(file)
def again():
    file, answer = trigger(b"some 1000000 2000000\0")
    os.close(file)
    return answer
while (answer := again()) == "ENOMEM":
    pass
say(answer)
sys.stdin.readline()
"#;
    let file = file(&served, "memory");
    let mut probe = Probe::contained(&many, script, &file);
    assert_eq!(probe.line(), "64 1036");
    let mut neighbour = Probe::contained(&other, "say(trigger(b'some 1 2000000\\0')[1])", &file);
    assert_eq!(neighbour.line(), "15");
    drop(neighbour);
    probe.go_on();
    assert_eq!(probe.line(), "21");
    drop(probe);
    // The container's identities and the event loop stay for a while.
    eventually("the descriptors", || served.descriptors() < before + 40);
    let text = Program::start(&served.place, "cat \"$1/proc/meminfo\"").output();
    assert!(text.starts_with("MemTotal:"));
}
