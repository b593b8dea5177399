//! What starting a container costs: `lxcfs-rs run -- true` beside `runc run`, in turn, on the same
//! root directory; with a daemon that serves the host already, and with one of its own.
//!
//! ```text
//! cargo bench --bench runtime               # 100 rounds
//! cargo bench --bench runtime -- --quick    # 3: that it works
//! ```
//!
//! **Only the ratios mean something**, and only those of one run. Needs root, and Debian's runc,
//! busybox-static and util-linux. Everything made is removed again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, ensure};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lxcfs-rs");

/// Where the runtime looks for a daemon.
const MOUNTPOINT: &str = "/var/lib/lxcfs";

/// Set in the mount namespace of the bench's own, where it may mount there.
const IS_INSIDE: &str = "LXCFS_RS_BENCH_INSIDE";

fn main() -> Result<()> {
    if env::var_os(IS_INSIDE).is_none() {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).args(env::args_os());
        return Err(command.env(IS_INSIDE, "1").exec()).context("unshare");
    }
    let rounds = if env::args().any(|argument| argument == "--quick") { 3 } else { 100 };
    while Path::new(MOUNTPOINT).join("proc").exists() {
        succeed(Command::new("umount").args(["--lazy", MOUNTPOINT]))?;
    }
    let bundle = tempfile::tempdir()?;
    make_bundle(bundle.path())?;

    let mut out = std::io::stdout().lock();
    writeln!(out, "a container of /bin/true, {rounds} rounds, medians")?;
    let without = compare(bundle.path(), rounds)?;
    writeln!(out, "with a daemon of its own:   {without}")?;
    let _daemon = Daemon::start()?;
    let with = compare(bundle.path(), rounds)?;
    writeln!(out, "with the host's daemon:     {with}")?;
    writeln!(out, "RssAnon of the runtime that waits: {} kB", waiting(bundle.path())?)?;
    Ok(())
}

/// The two medians, and what one is of the other.
struct Comparison {
    ours: Duration,
    runcs: Duration,
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ratio = self.ours.as_secs_f64() / self.runcs.as_secs_f64();
        write!(f, "{:.1?}, runc {:.1?}: ratio {ratio:.2}", self.ours, self.runcs)
    }
}

fn compare(bundle: &Path, rounds: usize) -> Result<Comparison> {
    let (mut ours, mut runcs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(time(&mut run(bundle, &["/bin/true"]))?);
        let id = format!("lxcfs-rs-bench-{}", std::process::id());
        runcs.push(time(Command::new("runc").args(["run", &id]).current_dir(bundle))?);
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    Ok(Comparison { ours: median(&mut ours), runcs: median(&mut runcs) })
}

fn run(bundle: &Path, command: &[&str]) -> Command {
    let mut run = Command::new(PROGRAM);
    // As runc's own specification has it.
    run.args(["run", "--network", "none", "--rootfs"]).arg(bundle.join("rootfs"));
    run.arg("--").args(command);
    run
}

fn time(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    succeed(command)?;
    Ok(start.elapsed())
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status();
    let status = status.with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Makes runc's bundle: busybox alone as root directory, and runc's own specification of it.
fn make_bundle(bundle: &Path) -> Result<()> {
    let bin = bundle.join("rootfs/bin");
    fs::create_dir_all(&bin)?;
    fs::copy("/bin/busybox", bin.join("busybox")).context("/bin/busybox, of busybox-static")?;
    for name in ["true", "sh", "sleep"] {
        symlink("busybox", bin.join(name))?;
    }
    succeed(Command::new("runc").args(["spec", "--bundle"]).arg(bundle))?;
    let path = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = ["/bin/true"].as_slice().into();
    fs::write(&path, spec.to_string())?;
    Ok(())
}

/// The anonymous memory, in kB, of the runtime while its command runs.
fn waiting(bundle: &Path) -> Result<u64> {
    let mut runtime = run(bundle, &["sh", "-c", "echo ready; exec sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = runtime.stdout.take().context("no stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    let status = fs::read_to_string(format!("/proc/{}/status", runtime.id()));
    runtime.kill()?;
    runtime.wait()?;
    succeed(Command::new(PROGRAM).arg("ps").stdout(Stdio::null()))?;
    let status = status?;
    let value = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let value = value.and_then(|value| value.trim().strip_suffix(" kB")).context("no RssAnon")?;
    Ok(value.trim().parse()?)
}

/// A daemon that serves where the runtime looks for one, in this mount namespace.
struct Daemon(Child);

impl Daemon {
    fn start() -> Result<Daemon> {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", MOUNTPOINT]).env_remove("NOTIFY_SOCKET");
        let daemon = Daemon(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !Path::new(MOUNTPOINT).join("proc/meminfo").exists() {
            ensure!(Instant::now() < deadline, "{MOUNTPOINT}: nothing is served");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
