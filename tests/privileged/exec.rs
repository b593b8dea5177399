//! `exec`: a further process in a container, beside what Docker does.
//!
//! Needs what `run` and `docker` need.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::engine::{Engine, IMAGE};
use super::life::{listed, name, named, program};
use super::run::{Container, Dir, PROGRAM, ending, eventually, output_of, processes_with, run};

/// What a process is: credentials, capabilities, filter, namespaces and cgroups beside those of
/// the first, directory, mask, environment, descriptors, signals.
const WHAT_I_AM: &str = r#"
# Who is not root may not look at the first process.
exec 2>/dev/null
grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:|Sig(Blk|Ign|Cgt))' /proc/self/status
for kind in cgroup ipc mnt net pid time user uts; do
    test "$(readlink /proc/self/ns/$kind)" = "$(readlink /proc/1/ns/$kind)" && echo $kind shared
done
diff /proc/self/cgroup /proc/1/cgroup && echo same cgroups
pwd; umask; ls /proc/self/fd | wc -l
env | grep -vE '^(HOSTNAME|OLDPWD|_)=' | sort
test -n "$HOSTNAME" && echo "$HOSTNAME" | wc -c
"#;

/// The flags of a container, of an exec into it, and what is the same in both engines.
#[test]
fn a_process_is_what_it_is_in_docker() {
    let engine = Engine::shared();
    for (of_run, of_exec) in [
        ([].as_slice(), [].as_slice()),
        (&["-e", "A=1", "-e", "B=2", "-w", "/tmp", "-u", "daemon"], &[]),
        (&["-e", "A=1", "-w", "/tmp", "-u", "1000"], &["-e", "A=x", "-w", "/usr", "-u", "0"]),
        (&[], &["-u", "1000:2000", "-e", "HOME=/h"]),
        (&["--cap-drop", "ALL", "--cap-add", "CHOWN"], &[]),
        (&["--security-opt", "no-new-privileges"], &[]),
        (&["--security-opt", "seccomp=unconfined", "--cap-add", "SYS_ADMIN"], &["-u", "nobody"]),
    ] {
        let name = name("what-i-am");
        let idle = ["sh", "-c", "echo ready; exec sleep 1000"];
        let mut arguments = vec!["--name", &name];
        arguments.extend(of_run);
        let mut container = Container::start(&arguments, idle[2]);
        assert_eq!(container.line(), "ready");
        let command = [of_exec, &[&name, "sh", "-c", WHAT_I_AM]].concat();
        let here = output_of(program(&[&["exec"], command.as_slice()].concat()));

        let docker = ["run", "--detach", "--network=none", "--name", &name];
        engine.output(&[&docker[..], of_run, &[IMAGE], &idle].concat());
        let there = engine.output(&[&["exec"], command.as_slice()].concat());
        // Now and then its process ignores the signal that the C library keeps for itself.
        let there = there.replace("SigIgn:\t0000000080000000", "SigIgn:\t0000000000000000");
        engine.output(&["rm", "--force", &name]);
        assert_eq!(here, there, "run {of_run:?}, exec {of_exec:?}");
    }
}

/// As in Docker, whose engine here does not start such a process: it does not know the newest
/// capabilities, or wants one that this machine's root lacks.
#[test]
fn with_all_capabilities_the_filter_remains() {
    let name = name("privileged");
    let container = named(&name);
    let status = ["--privileged", &name, "grep", "-E", "^(Cap|Seccomp:)", "/proc/self/status"];
    let here = output_of(program(&[&["exec"], &status[..]].concat()));
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let field = |text: &str, name: &str| -> String {
        text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    };
    assert_eq!(field(&here, "Seccomp:"), "2");
    for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
        assert_eq!(field(&here, set), field(&own, "CapPrm:"));
    }
    drop(container);
}

#[test]
fn it_is_a_user_of_the_containers_own() {
    let name = name("users");
    let options = ["--name", &name, "--userns", "0:100000:65536"];
    let mut container = Container::start(&options, "echo ready; exec sleep 1000");
    container.line();
    let script = "diff /proc/self/uid_map /proc/1/uid_map && id -u && touch /tmp/x &&
        stat -c %u:%g /tmp/x && stat -c %u $(tty) && grep ^CapEff /proc/self/status";
    let printed = output_of(program(&["exec", "-t", &name, "sh", "-c", script]));
    assert_eq!(printed, "0\r\n0:0\r\n0\r\nCapEff:\t00000000a80425fb\r\n");
    let script = "id -u; id -g; stat -c %u $(tty)";
    let printed = output_of(program(&["exec", "-t", "-u", "7:8", &name, "sh", "-c", script]));
    assert_eq!(printed, "7\r\n8\r\n7\r\n");
}

#[test]
fn it_sees_the_containers_own_proc() {
    let name = name("view");
    let mut container =
        Container::start(&["--name", &name, "-m", "64m"], "echo ready; exec sleep 1000");
    container.line();
    let total = output_of(program(&["exec", &name, "sh", "-c", "grep MemTotal /proc/meminfo"]));
    assert_eq!(total, "MemTotal:          65536 kB\n");
    // And a machine as old as the container, in whose time it started.
    let uptime = output_of(program(&["exec", &name, "cat", "/proc/uptime"]));
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    assert!((0.0..120.0).contains(&uptime), "{uptime}");
    // By the beginning of its id as well.
    let id = listed(&name).unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(output_of(program(&["exec", &id[..12], "echo", "x"])), "x\n");
    // Its memory is the container's, and so is its end by that.
    let hog = "b'x' * (512 << 20)";
    let (status, _) = ending(program(&["exec", &name, "python3", "-c", hog]));
    assert_eq!(status, 137);
}

#[test]
fn its_status_is_the_commands_as_in_docker() {
    let engine = Engine::shared();
    let name = name("statuses");
    let container = named(&name);
    engine.output(&["run", "--detach", "--network=none", "--name", &name, IMAGE, "sleep", "1000"]);
    for command in [
        ["sh", "-c", "exit 0"].as_slice(),
        &["sh", "-c", "exit 255"],
        &["sh", "-c", "kill -9 $$"],
        &["sh", "-c", "kill -TERM $$"],
        &["/etc"],
        &["/etc/passwd"],
    ] {
        let arguments = [&["exec", &name], command].concat();
        let (here, said) = ending(program(&arguments));
        let (there, _) = ending(engine.docker(&arguments));
        assert_eq!(here, there, "{command:?}: {said}");
        assert!(said.lines().count() <= 1, "{said}");
    }
    engine.output(&["rm", "--force", &name]);
    // As Docker's documentation has it; its old releases answer 126.
    for command in ["no-such-command", "/no/such"] {
        assert_eq!(ending(program(&["exec", &name, command])).0, 127);
    }
    for (arguments, words) in [
        (["exec", "no-such-container", "true"].as_slice(), "no such container runs"),
        (&["exec", &name], "required arguments were not provided"),
        (&["exec", "--badflag", &name, "true"], "unexpected argument"),
        (&["exec", "-u", "no-such-user", &name, "true"], "has no user no-such-user"),
        (&["exec", "-it", &name, "true"], "input device is not a TTY"),
    ] {
        let (status, said) = ending(program(arguments));
        assert_eq!((status, said.lines().count()), (125, 1), "{arguments:?}: {said}");
        assert!(said.starts_with("lxcfs-rs: exec: ") && said.contains(words), "{said}");
    }
    let (status, said) = ending(program(&["exec", "-w", "/no/such", &name, "true"]));
    assert_eq!((status, said.lines().count()), (126, 1), "{said}");
    drop(container);
}

#[test]
fn signals_are_passed_on_to_it() {
    let name = name("signals");
    let container = named(&name);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGUSR1, Signal::SIGWINCH] {
        let word = signal.as_str().trim_start_matches("SIG");
        let script = format!("trap 'exit 42' {word}; echo; while :; do sleep 0.01; done");
        let mut command = program(&["exec", &name, "sh", "-c", &script]);
        let mut exec = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(exec.stdout.take().unwrap()).read_line(&mut line).unwrap();
        kill(Pid::from_raw(i32::try_from(exec.id()).unwrap()), signal).unwrap();
        assert_eq!(exec.wait().unwrap().code(), Some(42), "{signal}");
    }
    drop(container);
}

/// Unlike Docker's, it ends with the `exec` that started it; and it ends with the container.
#[test]
fn it_ends_with_its_exec_and_with_its_container() {
    let name = name("ends");
    let mut container = named(&name);
    let marker = format!("lxcfs-rs-exec-ends-{}", std::process::id());
    for kills_container in [false, true] {
        let script = "echo; while :; do sleep 1000; done";
        let mut command = program(&["exec", &name, "sh", "-c", script, &marker]);
        let mut exec = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0];
        exec.stdout.take().unwrap().read_exact(&mut line).unwrap();
        if kills_container {
            output_of(program(&["stop", "-t", "0", &name]));
            assert_eq!(exec.wait().unwrap().code(), Some(137));
        } else {
            exec.kill().unwrap();
            exec.wait().unwrap();
        }
        eventually("it is gone", || processes_with(&marker).is_empty());
    }
    assert_eq!(container.status(), 137);
}

/// CVE-2019-5736: a command that is a link to what executes it is this program again. What has
/// its file open by that can write to it once nothing executes it any more.
#[test]
fn the_programs_file_cannot_be_written_to() {
    let dir = Dir::new();
    let program = dir.0.join("lxcfs-rs");
    fs::copy(PROGRAM, &program).unwrap();
    let name = name("overwrite");
    let mut command = Command::new(&program);
    command.args(["run", "--name", &name, "--", "sh", "-c"]);
    command.arg("echo ready; exec sleep 1000").stdin(Stdio::null());
    let mut container = Container::of(command);
    container.line();
    let before = fs::metadata(&program).unwrap();

    // The command is this program indeed, by the link to what executes it.
    let mut command = Command::new(&program);
    command.args(["exec", &name, "/proc/self/exe", "run", "--no-such-option"]);
    let refused = command.stdin(Stdio::null()).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--no-such-option"), "{refused:?}");
    let exe = fs::File::open(format!("/proc/{}/exe", container.runtime.id())).unwrap();
    assert_eq!(exe.metadata().unwrap().ino(), before.ino());
    let error = exe.set_permissions(fs::Permissions::from_mode(0o777)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    assert_eq!(
        fs::read_to_string(format!("/proc/{}/comm", container.runtime.id())).unwrap(),
        "lxcfs-rs\n"
    );

    output_of(super::life::program(&["stop", "-t", "0", &name]));
    assert_eq!(container.status(), 137);
    // Nothing executes it any more: by its own path it can be written to, by the other not.
    fs::OpenOptions::new().append(true).open(&program).unwrap();
    let through = format!("/proc/self/fd/{}", exe.as_raw_fd());
    let error = fs::OpenOptions::new().append(true).open(through).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

/// Of the process that is about to become the command, one in the container sees nothing that
/// it has not itself.
#[test]
fn nothing_of_the_hosts_is_seen_through_it() {
    assert_eq!(seen_from_inside(&[]), Vec::<String>::new());
}

/// With `CAP_SYS_PTRACE` it sees all of it; but the host's directories are closed by then.
#[test]
fn who_may_trace_it_gets_at_no_directory_of_the_hosts() {
    let seen = seen_from_inside(&["--cap-add", "SYS_PTRACE"]);
    assert!(!seen.is_empty());
    for line in seen {
        let (what, target) = line.rsplit_once(": ").unwrap();
        let is_harmless = ["anon_inode:", "pidfd:", "socket:", "pipe:", "/dev/null"]
            .iter()
            .any(|kind| target.starts_with(kind));
        assert!(is_harmless || target == "/" && !what.starts_with("fd"), "{line}");
    }
}

/// What a process of a container with these options sees of those that become commands in it.
fn seen_from_inside(options: &[&str]) -> Vec<String> {
    let name = name(if options.is_empty() { "peek" } else { "trace" });
    let watch = r#"
import os, sys
print("ready", flush=True)
own = os.getpid()
seen = set()
while True:
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or int(pid) == own:
            continue
        for what in ("exe", "cwd", "root"):
            try:
                target = os.readlink(f"/proc/{pid}/{what}")
                command = open(f"/proc/{pid}/cmdline").read()
                if "lxcfs-rs" in command:
                    seen.add(f"{what} of {command}: {target}")
            except OSError:
                pass
        for fd in range(20):
            try:
                # Their numbers can be listed, as of any process of root's.
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
                command = open(f"/proc/{pid}/cmdline").read()
                if "lxcfs-rs" in command:
                    seen.add(f"fd {fd} of {command}: {target}")
            except OSError:
                pass
    if os.path.exists("/tmp/enough"):
        break
for line in sorted(seen):
    print(line.replace("\\0", " "))

"#;
    let arguments = [options, &["--name", &name, "--", "python3", "-c", watch]].concat();
    let mut container = Container::of(run(&arguments));
    assert_eq!(container.line(), "ready");
    for _ in 0..40 {
        assert_eq!(output_of(program(&["exec", &name, "true"])), "");
    }
    output_of(program(&["exec", &name, "touch", "/tmp/enough"]));
    let mut seen = Vec::new();
    loop {
        let line = container.line();
        if line.is_empty() {
            break;
        }
        seen.push(line);
    }
    assert_eq!(container.status(), 0);
    seen
}
