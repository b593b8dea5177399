//! How many system calls a daemon makes for one read, beyond those on /dev/fuse: strace(1) over
//! all of its threads and children, while one reader reads.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{stop, subject};

/// How long strace may take to attach.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counts the calls of the daemon `pid` while `work` makes it read, and tells them per read;
/// `work` tells how many reads those were.
pub(crate) fn per_read(pid: Pid, log: &Path, work: impl FnOnce() -> Result<usize>) -> Result<f64> {
    let mut trace = Trace::start(pid, log)?;
    let reads = work()?;
    trace.end()?;
    let text = fs::read(log).with_context(|| log.display().to_string())?;
    fs::remove_file(log).with_context(|| log.display().to_string())?;
    Ok(count(&String::from_utf8_lossy(&text)) as f64 / reads as f64)
}

/// Lines that begin a call, `PID name(…`, unless it is one of FUSE's own.
fn count(trace: &str) -> usize {
    let is_call = |line: &&str| {
        line.split_once(' ').is_some_and(|(_, call)| {
            call.trim_start().starts_with(|first: char| first.is_ascii_alphabetic())
        })
    };
    trace.lines().filter(is_call).filter(|line| !line.contains("</dev/fuse>")).count()
}

/// A running strace; ended when dropped.
struct Trace(Child);

impl Trace {
    fn start(pid: Pid, log: &Path) -> Result<Trace> {
        let mut command = subject::daemon_command("strace")?;
        command.args(["-f", "-qq", "-y", "-s", "0", "-p", &pid.to_string(), "-o"]).arg(log);
        let child = command.stderr(Stdio::null()).spawn().context("strace")?;
        let mut trace = Trace(child);
        let deadline = Instant::now() + PATIENCE;
        while !is_traced(pid)? {
            stop::check()?;
            ensure!(trace.0.try_wait()?.is_none(), "strace ended before it had attached");
            ensure!(Instant::now() < deadline, "strace does not attach");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(trace)
    }

    /// Ends it as ^C does: it detaches, and has written everything.
    fn end(&mut self) -> Result<()> {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT)?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.end();
        }
    }
}

/// Whether each thread of a process has a tracer.
fn is_traced(pid: Pid) -> Result<bool> {
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that has ended meanwhile is as good as traced.
        let status = fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
        if status.lines().any(|line| line == "TracerPid:\t0") {
            return Ok(false);
        }
    }
    Ok(true)
}
