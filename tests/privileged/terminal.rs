//! Terminals: `-i` and `-t` of `run` and `exec`, under a real terminal (tmux), and beside Docker.
//!
//! Needs what `run` and `docker` need, and Debian's tmux, htop and bsdutils (`script`).
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::engine::{Engine, IMAGE};
use super::life::{listed, name, named, program};
use super::run::{Dir, PROGRAM, ending, eventually, output_of, run};

/// A terminal with a shell on it, in a tmux server of its own.
pub(crate) struct Terminal {
    socket: String,
    dir: Dir,
}

impl Terminal {
    /// A terminal of 100 columns and 30 rows.
    pub(crate) fn new() -> Terminal {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let socket = format!("lxcfs-rs-{}-{number}", std::process::id());
        let terminal = Terminal { socket, dir: Dir::new() };
        let shell = "env -u ENV PS1='outside> ' HISTFILE= sh -i";
        terminal.tmux(&["new-session", "-d", "-x", "100", "-y", "30", shell]);
        terminal.until("outside>");
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket, "-f", "/dev/null"]).args(arguments);
        // Of its own: not the tmux that the tests may run in.
        command.env_remove("TMUX").env("TERM", "xterm").stdin(Stdio::null());
        output_of(command)
    }

    /// Types a line.
    pub(crate) fn line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.key("Enter");
    }

    /// Presses a key by tmux's name of it.
    pub(crate) fn key(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Presses a key, again should nobody have listened yet, until the shell inside asks.
    fn key_until_prompt(&self, key: &str) {
        let is_asking =
            || self.screen().trim_end().lines().last().is_some_and(|line| line == "inside>");
        eventually("the shell inside asks", || {
            self.key(key);
            std::thread::sleep(std::time::Duration::from_millis(200));
            is_asking()
        });
    }

    pub(crate) fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until a line of the screen begins with `text`, which may follow a prompt that was
    /// late.
    #[track_caller]
    fn until(&self, text: &str) {
        let mut screen = String::new();
        let shows = |screen: &str| {
            let starts = |line: &str| line.starts_with(text);
            screen.lines().any(|line| starts(line) || starts(line.trim_start_matches("outside> ")))
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
        while !shows(&screen) {
            assert!(std::time::Instant::now() < deadline, "no {text:?} on the screen:\n{screen}");
            std::thread::sleep(std::time::Duration::from_millis(20));
            // With its lines as they were written: what was typed, and was too long, has no
            // second line that begins with anything.
            screen = self.tmux(&["capture-pane", "-p", "-J"]);
        }
    }

    fn clear(&self) {
        self.tmux(&["send-keys", "-R"]);
        self.tmux(&["clear-history"]);
    }

    fn resize(&self, columns: &str, rows: &str) {
        self.tmux(&["resize-window", "-x", columns, "-y", rows]);
    }

    /// The terminal's modes, as stty prints them to a file.
    fn modes(&self) -> String {
        let file = self.dir.0.join("modes");
        let path = file.to_str().unwrap();
        self.line(&format!("stty -g > {path}.new; mv {path}.new {path}"));
        eventually("stty has printed", || file.exists());
        let modes = fs::read_to_string(&file).unwrap();
        fs::remove_file(file).unwrap();
        modes
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket, "kill-server"]).env_remove("TMUX");
        let _ = command.output();
        let socket = std::env::temp_dir().join("tmux-0").join(&self.socket);
        let _ = fs::remove_file(socket);
    }
}

/// How a shell under it behaves: size, ^C, ^Z, ^D, status. `start` begins it, and ends with it.
#[track_caller]
fn is_a_terminal(terminal: &Terminal, start: &str) {
    let before = terminal.modes();
    terminal.line(&format!("{start}; echo status=$?"));
    terminal.until("inside>");
    terminal.line("stty size; tty; echo TERM=$TERM");
    terminal.until("30 100");
    terminal.until("/dev/pts/");
    terminal.until("TERM=xterm");
    // Its size is the outer's, also later.
    terminal.resize("120", "40");
    terminal.line("until stty size | grep '40 120'; do :; done");
    terminal.until("40 120");
    // Programs on it are told.
    let told = "trap 'echo resized $(stty size)' WINCH; echo armed; while :; do sleep 0.01; done";
    terminal.line(&format!("sh -c \"{}\"", told.replace('$', "\\$")));
    terminal.until("armed");
    terminal.resize("100", "30");
    terminal.until("resized 30 100");
    terminal.key_until_prompt("C-c");
    terminal.line("echo interrupted=$?");
    terminal.until("interrupted=130");
    // ^Z stops a job of the shell inside, not the runtime.
    terminal.line("sh -c 'echo begun; exec sleep 1000'");
    terminal.until("begun");
    terminal.key_until_prompt("C-z");
    terminal.until("[1]+  Stopped");
    terminal.line("fg");
    terminal.until("sh -c 'echo begun");
    terminal.key_until_prompt("C-c");
    terminal.line("echo after=$?");
    terminal.until("after=130");
    terminal.line("clear; (exit 7)");
    // Its prompt of now: ^D means nothing yet while a command still runs.
    eventually("the screen is cleared", || terminal.screen().trim() == "inside>");
    terminal.key("C-d");
    terminal.until("status=7");
    terminal.clear();
    assert_eq!(terminal.modes(), before);
}

const SHELL: &str = "bash --norc -i";

#[test]
fn a_shell_on_a_terminal_of_run() {
    let terminal = Terminal::new();
    is_a_terminal(&terminal, &format!("{PROGRAM} run -it -e PS1='inside> ' -- {SHELL}"));
    terminal.clear();
    is_a_terminal(&terminal, &format!("{PROGRAM} run -ti -e PS1='inside> ' -u 1000 {SHELL}"));
}

#[test]
fn a_shell_on_a_terminal_of_exec() {
    let name = name("exec-tty");
    let container = named(&name);
    let terminal = Terminal::new();
    is_a_terminal(&terminal, &format!("{PROGRAM} exec -it -e PS1='inside> ' {name} {SHELL}"));
    drop(container);
}

#[test]
fn top_and_htop_fill_the_screen_and_end() {
    for (command, shown, quit) in [("top", "    PID USER", "q"), ("htop", "  PID USER", "F10")] {
        let terminal = Terminal::new();
        let before = terminal.modes();
        terminal.line(&format!("{PROGRAM} run -it -m 64m -- {command}; echo status=$?"));
        let header = shown.trim_start();
        eventually("it shows processes", || {
            terminal.screen().lines().any(|line| line.trim_start().starts_with(header))
        });
        // As large as the window, however that changes: its last column is reached.
        terminal.resize("60", "20");
        eventually("it is redrawn", || {
            let screen = terminal.screen();
            screen.lines().count() == 20
                && screen.lines().any(|line| line.trim_start().starts_with(header))
        });
        terminal.key(quit);
        terminal.until("status=0");
        terminal.clear();
        assert_eq!(terminal.modes(), before, "{command}");
    }
}

/// However the container ends, the terminal has its modes again.
#[test]
fn the_terminal_is_as_it_was_after_every_end() {
    let terminal = Terminal::new();
    let before = terminal.modes();
    let name = name("restored");
    for (signals, status) in
        [([Signal::SIGTERM, Signal::SIGTERM, Signal::SIGINT].as_slice(), "137"), (&[], "137")]
    {
        let start = format!("{PROGRAM} run -it --name {name} -- sh -c 'echo up; exec sleep 1000'");
        terminal.line(&format!("{start}; echo status=$?"));
        terminal.until("up");
        let record = listed(&name).unwrap();
        let pid = |value: &serde_json::Value| {
            Pid::from_raw(i32::try_from(value.as_i64().unwrap()).unwrap())
        };
        let runtime = pid(&record["runtime"]["pid"]);
        for signal in signals {
            // One after the other: two of a kind at once would count as one.
            eventually("the signal was taken", || {
                let status = fs::read_to_string(format!("/proc/{runtime}/status"));
                !status
                    .unwrap_or_default()
                    .lines()
                    .any(|line| line.starts_with("ShdPnd:") && !line.ends_with("0000000000000000"))
            });
            kill(runtime, *signal).unwrap();
        }
        if signals.is_empty() {
            kill(pid(&record["pid"]), Signal::SIGKILL).unwrap();
        }
        terminal.until(&format!("status={status}"));
        terminal.clear();
        assert_eq!(terminal.modes(), before);
    }
    // A command that is not there leaves no trace either.
    terminal.line(&format!("{PROGRAM} run -it -- no-such-command; echo status=$?"));
    terminal.until("status=127");
    terminal.clear();
    assert_eq!(terminal.modes(), before);
}

/// In the background it waits for the foreground as soon as it wants the terminal.
#[test]
fn in_the_background_it_waits_for_the_foreground() {
    let terminal = Terminal::new();
    terminal.line(&format!("exec bash --norc -i; {PROGRAM} --version"));
    terminal.until("outside>");
    terminal.line(&format!("{PROGRAM} run -i -- cat &"));
    terminal.line("until jobs | grep Stopped; do :; done; echo waits");
    terminal.until("waits");
    terminal.line("fg");
    terminal.line("hello");
    eventually("it is read and comes back", || terminal.screen().matches("hello").count() >= 2);
    terminal.key("C-d");
    terminal.line("echo status=$?");
    terminal.until("status=0");
}

/// Prints of which streams it is a terminal, and what it knows of that.
const STREAMS: &str = r#"
for stream in 0 1 2; do test -t $stream && echo "$stream: a terminal" || echo "$stream: none"; done
tty; echo "TERM=$TERM"; ls /dev/console 2>&1 | grep -o '^/dev/console'
readlink /proc/self/fd/0 | sed 's/pipe:.*/pipe/'
ps -o tty= -p $$; ps -o pgid=,sid= -p $$
"#;

/// What a command prints when its own streams are a terminal, or with `is_terminal` false none.
fn printed(arguments: &[String], is_terminal: bool) -> String {
    let mut command = if is_terminal {
        let quoted: Vec<String> =
            arguments.iter().map(|part| format!("'{}'", part.replace('\'', r"'\''"))).collect();
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &quoted.join(" "), "/dev/null"]);
        command
    } else {
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]);
        command
    };
    // A pipe that is closed at once: what reads it comes to its end.
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let input = child.stdin.take();
    if !is_terminal {
        drop(input);
        let Output { stdout, .. } = child.wait_with_output().unwrap();
        return String::from_utf8(stdout).unwrap();
    }
    // `script` types what it reads; its end would be ^D.
    let Output { stdout, .. } = child.wait_with_output().unwrap();
    drop(input);
    String::from_utf8(stdout).unwrap().replace('\r', "")
}

/// `pts/N` for whichever number follows `pts/` at the end of a line.
fn without_terminal_number(line: &str) -> String {
    match line.split_once("pts/") {
        Some((before, number)) if number.parse::<u32>().is_ok() => format!("{before}pts/N"),
        _ => line.to_owned(),
    }
}

#[test]
fn the_streams_are_what_they_are_in_docker() {
    let engine = Engine::shared();
    let name = name("streams");
    let container = named(&name);
    let idle = ["run", "--detach", "--network=none", "--name", &name, IMAGE, "sleep", "1000"];
    engine.output(&idle);
    for is_terminal in [false, true] {
        for flags in [[].as_slice(), &["-i"], &["-t"], &["-i", "-t"]] {
            if !is_terminal && flags.len() == 2 {
                continue;
            }
            let strings = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect();
            let docker = |arguments: &[&str]| -> Vec<String> {
                let command = engine.docker(arguments);
                let program = command.get_program().to_str().unwrap().to_owned();
                let rest = command.get_args().map(|part| part.to_str().unwrap().to_owned());
                // `timeout` would put it in the background of the terminal.
                let rest: Vec<String> = rest.collect();
                let foreground = ["--foreground".to_owned()];
                [program].into_iter().chain(foreground).chain(rest).collect()
            };
            let run: Vec<String> =
                strings(&[&[PROGRAM, "run"], flags, &["--", "sh", "-c", STREAMS]].concat());
            let there = docker(
                &[&["run", "--rm", "--network=none"], flags, &[IMAGE, "sh", "-c", STREAMS]]
                    .concat(),
            );
            let what = format!("run {flags:?}, on a terminal: {is_terminal}");
            assert_eq!(printed(&run, is_terminal), printed(&there, is_terminal), "{what}");

            let here: Vec<String> =
                strings(&[&[PROGRAM, "exec"], flags, &[&name, "sh", "-c", STREAMS]].concat());
            let there = docker(&[&["exec"], flags, &[&name, "sh", "-c", STREAMS]].concat());
            // The numbers of processes and of terminals differ (Docker may still hold those of
            // the commands before), and a console is the first process's.
            let comparable = |text: String| {
                let lines = text.lines().filter(|line| *line != "/dev/console");
                let mut lines: Vec<String> = lines.map(without_terminal_number).collect();
                lines.pop();
                lines
            };
            let what = format!("exec {flags:?}, on a terminal: {is_terminal}");
            assert_eq!(
                comparable(printed(&here, is_terminal)),
                comparable(printed(&there, is_terminal)),
                "{what}"
            );
        }
    }
    engine.output(&["rm", "--force", &name]);
    drop(container);
}

#[test]
fn a_terminal_needs_one_to_be_read_from() {
    let engine = Engine::shared();
    let there = engine.docker(&["run", "--rm", "-it", "--network=none", IMAGE, "true"]);
    let (status, said) = ending(there);
    assert!(status != 0 && said.contains("input device is not a TTY"), "{said}");
    let (status, said) = ending(run(&["-it", "true"]));
    assert_eq!(status, 125);
    assert_eq!(said, "lxcfs-rs: run: -t: the input device is not a TTY\n");
    // With nothing to read, no terminal is needed here.
    assert_eq!(output_of(run(&["-t", "echo", "x"])), "x\r\n");
    // Without -i there is nothing to read.
    let mut command = run(&["cat"]);
    command.stdin(fs::File::open("/dev/zero").unwrap());
    assert_eq!(output_of(command), "");
}

#[test]
fn nothing_of_what_was_written_last_is_lost() {
    let name = name("last");
    let container = named(&name);
    let expected: String = (1..=20_000).map(|number| format!("{number}\r\n")).collect();
    for _ in 0..10 {
        assert_eq!(output_of(run(&["-t", "--", "seq", "20000"])), expected);
        assert_eq!(output_of(program(&["exec", "-t", &name, "seq", "20000"])), expected);
    }
    // Through the pipes that stand for a terminal of the caller's.
    for arguments in [vec!["run", "--"], vec!["exec", &name]] {
        let mut command: Vec<String> = vec![PROGRAM.to_owned()];
        command.extend(arguments.into_iter().map(str::to_owned));
        command.extend(["seq", "20000"].map(str::to_owned));
        assert_eq!(printed(&command, true), expected.replace('\r', ""));
    }
    drop(container);
}

/// What remains in the container and holds the streams holds up nobody.
#[test]
fn an_exec_ends_with_its_command() {
    let name = name("held");
    let container = named(&name);
    let command: Vec<String> =
        [PROGRAM, "exec", &name, "sh", "-c", "sleep 1000 & echo done"].map(str::to_owned).to_vec();
    assert_eq!(printed(&command, true), "done\n");
    drop(container);
}
