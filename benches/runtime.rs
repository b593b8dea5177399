//! What starting a container costs: `lxcfs-rs run -- true` beside `runc run` or `crun run`, in turn, on
//! the same root directory; with a daemon that serves the host already, and with one of its own.
//!
//! ```text
//! cargo bench --bench runtime               # 100 rounds
//! cargo bench --bench runtime -- --quick    # 3: that it works
//! cargo bench --bench runtime -- --beside runc,crun
//! ```
//!
//! **Only the ratios mean something**, and only those of one run. Needs root, and Debian's runc,
//! busybox-static and util-linux. Everything made is removed again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

/// Where the runtime looks for a daemon.
const MOUNTPOINT: &str = "/var/lib/lxcfs";

/// Set in the mount namespace of the bench's own, where it may mount there.
const IS_INSIDE: &str = "LXCFS_RS_BENCH_INSIDE";

/// Benchmark of starting a container.
#[derive(Parser)]
#[command(name = "runtime")]
struct Options {
    /// Three rounds: a smoke test
    #[arg(long)]
    quick: bool,
    /// Starts of each
    #[arg(long, value_name = "N", default_value_t = 100)]
    rounds: usize,
    /// The other runtimes: runc, crun
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "runc")]
    beside: Vec<String>,
    /// Our binary, if not the one that cargo built beside this benchmark
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_lxcfs-rs"))]
    lxcfs_rs: PathBuf,
    /// What cargo bench adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if env::var_os(IS_INSIDE).is_none() {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).args(env::args_os());
        return Err(command.env(IS_INSIDE, "1").exec()).context("unshare");
    }
    let rounds = if options.quick { 3 } else { options.rounds };
    ensure!(rounds > 0, "--rounds: 0, expected at least 1");
    // The runtime starts itself again from elsewhere.
    let program = options.lxcfs_rs.canonicalize();
    let program = program.with_context(|| options.lxcfs_rs.display().to_string())?;
    while Path::new(MOUNTPOINT).join("proc").exists() {
        succeed(Command::new("umount").args(["--lazy", MOUNTPOINT]))?;
    }
    let bundle = tempfile::tempdir()?;
    make_bundle(bundle.path())?;

    let mut out = std::io::stdout().lock();
    writeln!(out, "a container of /bin/true, {rounds} rounds, medians")?;
    let compare = || compare(&program, bundle.path(), &options.beside, rounds);
    writeln!(out, "with a daemon of its own:   {}", compare()?)?;
    let _daemon = Daemon::start(&program)?;
    writeln!(out, "with the host's daemon:     {}", compare()?)?;
    writeln!(out, "RssAnon of the runtime that waits: {} kB", waiting(&program, bundle.path())?)?;
    Ok(())
}

/// The medians, and what ours is of the others'.
fn compare(program: &Path, bundle: &Path, others: &[String], rounds: usize) -> Result<String> {
    let mut ours = Vec::new();
    let mut theirs = vec![Vec::new(); others.len()];
    for _ in 0..rounds {
        ours.push(time(&mut run(program, bundle, &["/bin/true"]))?);
        for (name, theirs) in others.iter().zip(&mut theirs) {
            let id = format!("lxcfs-rs-bench-{}", std::process::id());
            theirs.push(time(Command::new(name).args(["run", &id]).current_dir(bundle))?);
        }
    }
    let ours = median(ours);
    let mut words = format!("{ours:.1?}");
    for (name, theirs) in others.iter().zip(theirs) {
        let theirs = median(theirs);
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        words += &format!(", {name} {theirs:.1?}: ratio {ratio:.2}");
    }
    Ok(words)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn run(program: &Path, bundle: &Path, command: &[&str]) -> Command {
    let mut run = Command::new(program);
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
fn waiting(program: &Path, bundle: &Path) -> Result<u64> {
    let mut runtime = run(program, bundle, &["sh", "-c", "echo ready; exec sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    let stdout = runtime.stdout.take().context("no stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    let status = fs::read_to_string(format!("/proc/{}/status", runtime.id()));
    runtime.kill()?;
    runtime.wait()?;
    succeed(Command::new(program).arg("ps").stdout(Stdio::null()))?;
    let status = status?;
    let value = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let value = value.and_then(|value| value.trim().strip_suffix(" kB")).context("no RssAnon")?;
    Ok(value.trim().parse()?)
}

/// A daemon that serves where the runtime looks for one, in this mount namespace.
struct Daemon(Child);

impl Daemon {
    fn start(program: &Path) -> Result<Daemon> {
        let mut command = Command::new(program);
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
