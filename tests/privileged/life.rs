//! A container's life beside others: its record, its name, `ps`, `stop`.
//!
//! Needs what `run` and `docker` need.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::byhand::full;
use super::engine::{Engine, IMAGE};
use super::run::{Container, PROGRAM, cgroups_of, ending, eventually, output_of, run, run_script};

/// `lxcfs-rs ARGUMENTS`.
pub(super) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// A name that no other test has.
pub(super) fn name(of: &str) -> String {
    format!("lxcfs-rs-{of}-{}", std::process::id())
}

/// What `ps --json` tells of the container with this name, if it runs.
pub(super) fn listed(name: &str) -> Option<Value> {
    let text = output_of(program(&["ps", "--json"]));
    let Value::Array(all) = serde_json::from_str(&text).unwrap() else { panic!("{text}") };
    all.into_iter().find(|record| record["name"] == name)
}

/// A container that prints a line and sleeps.
pub(super) fn named(name: &str) -> Container {
    let mut container = Container::start(&["--name", name], "echo ready; exec sleep 1000");
    assert_eq!(container.line(), "ready");
    container
}

/// The container's record, name and cgroups are gone.
fn is_gone(name: &str, id: &str) -> bool {
    let records = Path::new("/run/lxcfs-rs/containers");
    let left = [name, id, &format!("{id}.new")].map(|file| records.join(file));
    left.iter().all(|path| fs::symlink_metadata(path).is_err()) && cgroups_of(id).is_empty()
}

#[test]
fn a_running_container_is_listed_with_all_that_is_known_of_it() {
    let name = name("listed");
    let before = jiff::Timestamp::now();
    let options =
        ["--name", &name, "--rm", "-m", "64m", "--cpus", "0.5", "-e", "A=b", "-w", "/tmp"];
    let script = "cat /proc/sys/kernel/hostname; exec sleep 1000";
    let mut container = Container::start(&options, script);
    let hostname = container.line();
    let record = listed(&name).unwrap();
    let id = record["id"].as_str().unwrap();
    assert_eq!((id.len(), &id[..12]), (64, hostname.as_str()));
    assert_eq!(record["pid"], container.init().as_raw());
    assert_eq!(record["runtime"]["pid"], container.runtime.id());
    assert_eq!(record["command"], serde_json::json!(["sh", "-c", script]));
    assert_eq!(record["limits"]["memory"], 64 << 20);
    assert_eq!(record["limits"]["cpus"], 50_000);
    assert_eq!(record["limits"]["cpuset_cpus"], Value::Null);
    assert_eq!(record["environment"], serde_json::json!(["A=b"]));
    assert_eq!(record["directory"], "/tmp");
    assert_eq!(record["confinement"]["capabilities"], "00000000a80425fb");
    let created: jiff::Timestamp = record["created"].as_str().unwrap().parse().unwrap();
    assert!((before..=jiff::Timestamp::now()).contains(&created), "{created}");
    // Nobody but root learns it.
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        fs::metadata("/run/lxcfs-rs/containers").unwrap().permissions().mode() & 0o777,
        0o700
    );

    let id = id.to_owned();
    container.signal(Signal::SIGTERM);
    kill(container.init(), Signal::SIGKILL).unwrap();
    assert_eq!(container.status(), 137);
    assert!(is_gone(&name, &id) && listed(&name).is_none());
}

#[test]
fn the_table_is_dockers() {
    let engine = Engine::shared();
    let name = name("table");
    let script = "echo ready; exec sleep 1000";
    engine.output(&[
        "run",
        "--detach",
        "--network=none",
        "--name",
        &name,
        IMAGE,
        "sh",
        "-c",
        script,
    ]);
    let format = "table {{.ID}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
    let there = engine.output(&["ps", "--filter", &format!("name={name}"), "--format", format]);
    engine.output(&["rm", "--force", &name]);
    let container = named(&name);
    let here = output_of(program(&["ps"]));
    let columns = |line: &str| -> Vec<String> {
        line.split("   ")
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let row = |text: &str| columns(text.lines().find(|line| line.ends_with(&name)).unwrap());
    assert_eq!(columns(here.lines().next().unwrap()), columns(there.lines().next().unwrap()));
    let (here_row, there_row) = (row(&here), row(&there));
    assert_eq!(here_row[1], there_row[1]);
    assert_eq!(here_row[0].len(), there_row[0].len());
    assert!(here_row[2].ends_with(" ago") && there_row[2].ends_with(" ago"), "{here_row:?}");
    assert!(here_row[3].starts_with("Up ") && there_row[3].starts_with("Up "), "{here_row:?}");

    // Ids alone, as `stop $(lxcfs-rs ps -q)` wants them; and all of it.
    let id = listed(&name).unwrap()["id"].as_str().unwrap().to_owned();
    assert!(output_of(program(&["ps", "-q"])).lines().any(|line| line == &id[..12]));
    assert!(output_of(program(&["ps", "-q", "--no-trunc"])).lines().any(|line| line == id));
    let whole = output_of(program(&["ps", "--no-trunc"]));
    assert!(whole.lines().any(|line| line.starts_with(&id) && line.contains(script)), "{whole}");
    drop(container);
}

#[test]
fn two_containers_have_not_one_name() {
    let name = name("conflict");
    let first = named(&name);
    let id = listed(&name).unwrap()["id"].as_str().unwrap().to_owned();
    let (status, said) = ending(run(&["--name", &name, "true"]));
    let expected = format!(
        "lxcfs-rs: run: --name {name}: the container {} has this name already\n",
        &id[..12]
    );
    assert_eq!((status, said), (125, expected));
    // Docker answers with the same status.
    let engine = Engine::shared();
    let docker = ["run", "--network=none", "--name", &name, IMAGE];
    engine.output(&[&docker[..], &["true"]].concat());
    let there = engine.docker(&[&docker[..], &["true"]].concat()).output().unwrap();
    assert_eq!(there.status.code(), Some(125));
    engine.output(&["rm", &name]);

    // A name is free again with the end of its container, however that came.
    drop(first);
    assert_eq!(ending(run(&["--name", &name, "true"])), (0, String::new()));
    assert!(is_gone(&name, &id));
    for wrong in ["a", "-a", "a/b", "..", ""] {
        let (status, said) = ending(run(&[&format!("--name={wrong}"), "true"]));
        assert_eq!((status, said.lines().count()), (125, 1), "{wrong}: {said}");
    }
}

#[test]
fn of_many_that_want_one_name_one_gets_it() {
    let name = name("race");
    for _ in 0..3 {
        let runs: Vec<_> = (0..6)
            .map(|_| {
                let mut command = run_script(&["-i", "--name", &name], "echo got; read line");
                command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        // The one that got it ends when all others have been refused.
        let mut winner = None;
        let mut refused = 0;
        for mut child in runs {
            let mut first = [0; 4];
            let got = std::io::Read::read(child.stdout.as_mut().unwrap(), &mut first).unwrap();
            if got == 0 {
                let Output { status, stderr, .. } = child.wait_with_output().unwrap();
                let said = String::from_utf8(stderr).unwrap();
                assert_eq!(status.code(), Some(125), "{said}");
                assert!(said.contains("has this name already"), "{said}");
                refused += 1;
            } else {
                assert!(winner.replace(child).is_none(), "two have the name");
            }
        }
        assert_eq!(refused, 5);
        drop(winner.as_mut().unwrap().stdin.take());
        winner.unwrap().wait().unwrap();
    }
}

#[test]
fn stop_asks_then_kills_and_waits_until_nothing_is_left() {
    let name = name("stop");
    let script = "trap 'exit 42' TERM; echo ready; while :; do sleep 0.01; done";
    let mut polite = Container::start(&["--name", &name], script);
    polite.line();
    let id = listed(&name).unwrap()["id"].as_str().unwrap().to_owned();
    assert_eq!(output_of(program(&["stop", &name])), format!("{name}\n"));
    assert!(is_gone(&name, &id));
    assert_eq!(polite.status(), 42);

    // A first process without a handler does not even notice SIGTERM. By its id, and by the
    // beginning of it.
    for (length, time) in [(64, "0"), (12, "1")] {
        let mut deaf = named(&name);
        let id = listed(&name).unwrap()["id"].as_str().unwrap().to_owned();
        let printed = output_of(program(&["stop", "--time", time, &id[..length]]));
        assert_eq!(printed.trim_end(), &id[..length]);
        assert!(is_gone(&name, &id));
        assert_eq!(deaf.status(), 137);
    }
}

#[test]
fn stop_of_several_tells_which_are_unknown() {
    let (first, second) = (name("several-1"), name("several-2"));
    let mut containers = [named(&first), named(&second)];
    let output = program(&["stop", "-t", "0", &first, "no-such", &second]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{first}\n{second}\n"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "lxcfs-rs: stop: no-such: no such container runs\n");
    for container in &mut containers {
        assert_eq!(container.status(), 137);
    }
    for (arguments, status) in
        [(["stop"].as_slice(), 2), (&["stop", "-t", "x", "y"], 2), (&["ps", "x"], 2)]
    {
        let (code, said) = ending(program(arguments));
        assert_eq!((code, said.lines().count()), (status, 1), "{arguments:?}: {said}");
    }
}

#[test]
fn ps_removes_what_a_killed_runtime_left() {
    let name = name("killed");
    let mut container = named(&name);
    let record = listed(&name).unwrap();
    let id = record["id"].as_str().unwrap();
    container.runtime.kill().unwrap();
    container.runtime.wait().unwrap();
    assert!(listed(&name).is_none());
    // Another test's command may have come first, and be about it.
    eventually("nothing of it is left", || is_gone(&name, id));
    let init = Pid::from_raw(i32::try_from(record["pid"].as_i64().unwrap()).unwrap());
    eventually("its first process is gone", || kill(init, None).is_err());
}

/// In a /run of its own, as other containers' records are not for a test to spoil.
#[test]
fn what_is_no_record_is_passed_over_with_a_line() {
    let script = r#"
        mount -t tmpfs tmpfs /run || exit 9
        mkfifo /run/ready
        "$1" run --name spoiled -- sh -c 'echo; sleep 1000' >/run/ready & runtime=$!
        "$1" run --name healthy -- sh -c 'echo; sleep 1000' >/run/ready & other=$!
        exec 3</run/ready; read line <&3; read line <&3
        id=$("$1" ps -q --no-trunc | while read id; do
            [ "$(readlink /run/lxcfs-rs/containers/spoiled)" = "$id" ] && echo "$id"
        done)
        for text in '' '{' '{"version":2}' '[]'; do
            printf %s "$text" >/run/lxcfs-rs/containers/$id
            "$1" ps 2>&1 | sed "s/^[^ ]* .* healthy$/healthy/; s/$id/ID/" | cut -c1-90 | grep -v CONTAINER
        done
        echo >/run/lxcfs-rs/containers/stranger
        "$1" ps -q 2>&1 >/dev/null | sed "s/$id/ID/" | cut -c1-90
        rm /run/lxcfs-rs/containers/stranger
        # An orphan whose cgroups are nowhere, as after a boot with a /run on disk.
        ln -s 0000000000000000000000000000000000000000000000000000000000000000 /run/lxcfs-rs/containers/old
        echo {} >/run/lxcfs-rs/containers/0000000000000000000000000000000000000000000000000000000000000000
        "$1" ps -q >/dev/null 2>&1
        ls /run/lxcfs-rs/containers | wc -l
        kill -9 $runtime $other
        wait $runtime $other 2>/dev/null
        "$1" ps -q
        ls /run /run/lxcfs-rs | grep .
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh", PROGRAM]);
    let output = command.stdin(Stdio::null()).env_remove("RUST_LOG").output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    let passed_over = "lxcfs-rs: ps: /run/lxcfs-rs/containers/ID: not a record: ";
    assert_eq!(lines.iter().filter(|line| line.starts_with(passed_over)).count(), 5, "{printed}");
    assert!(printed.contains(&format!("{passed_over}has version 2")), "{printed}");
    assert!(
        printed.contains(
            "lxcfs-rs: ps: /run/lxcfs-rs/containers/stranger: not a record of a container"
        ),
        "{printed}"
    );
    // Each of the four times, the other is listed.
    assert_eq!(lines.iter().filter(|line| **line == "healthy").count(), 4, "{printed}");
    // Two records, two names; and in the end the fifo alone.
    let left = ["4", "/run:", "lxcfs-rs", "ready", "/run/lxcfs-rs:"];
    assert_eq!(lines[lines.len() - 5..], left, "{printed}");
}

/// See the script. Its rounds are bounded here; `tests/run --full` has 300.
#[test]
fn nothing_is_left_after_kills_at_random_moments() {
    let rounds = if full() { "300" } else { "30" };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = (now.as_nanos() % 1_000_000).to_string();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/privileged/kills.py");
    let mut command = Command::new("python3");
    command.args([script, PROGRAM, rounds, &seed]).stdin(Stdio::null()).env_remove("RUST_LOG");
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed}: {printed}{said}");
    assert!(printed.contains(&format!("ok {rounds} rounds")), "{printed}");
}

#[test]
fn many_at_once_are_all_known_and_all_stopped() {
    let names: Vec<String> = (0..5).map(|number| name(&format!("many-{number}"))).collect();
    let containers: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = names.iter().map(|name| scope.spawn(move || named(name))).collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for name in &names {
        assert!(listed(name).is_some(), "{name}");
    }
    let mut arguments = vec!["stop", "-t", "0"];
    arguments.extend(names.iter().map(String::as_str));
    output_of(program(&arguments));
    for (name, mut container) in names.iter().zip(containers) {
        assert_eq!(container.status(), 137);
        assert!(listed(name).is_none());
    }
}
