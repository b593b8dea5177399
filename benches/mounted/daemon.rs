//! CPU time and memory of a daemon, as the kernel accounts them.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde::Serialize;

/// The unit of the times in /proc/PID/stat: a constant of the interface on every architecture
/// that has FUSE and containers (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// CPU time used so far by all threads, those that ended included, in nanoseconds, and by
/// waited-for children, in ticks: lxcfs forks to find out who asks.
pub(crate) fn cpu_time(pid: Pid) -> Result<Duration> {
    let own = ClockId::pid_cpu_clock_id(pid)
        .and_then(ClockId::now)
        .with_context(|| format!("CPU clock of process {pid}"))?;
    Ok(Duration::from(own) + children_cpu_time(pid)?)
}

/// cutime and cstime, fields 16 and 17 of /proc/PID/stat (`proc_pid_stat(5)`).
fn children_cpu_time(pid: Pid) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let after_name = stat.rfind(") ").map_or("", |at| &stat[at + 2..]);
    let mut fields = after_name.split(' ').skip(13).map(str::parse::<u32>);
    let (Some(Ok(cutime)), Some(Ok(cstime))) = (fields.next(), fields.next()) else {
        anyhow::bail!("{path}: no numbers in fields 16 and 17: {stat:?}");
    };
    Ok(TICK * (cutime + cstime))
}

/// What a daemon holds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Footprint {
    /// VmRSS of /proc/PID/status.
    pub(crate) rss_kib: u64,
    /// The most that it ever was: VmHWM.
    pub(crate) most_rss_kib: u64,
    /// Threads of /proc/PID/status.
    pub(crate) threads: u64,
}

pub(crate) fn footprint(pid: Pid) -> Result<Footprint> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let number = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok())
            .with_context(|| format!("{path}: no number after {key:?}"))
    };
    Ok(Footprint {
        rss_kib: number("VmRSS:")?,
        most_rss_kib: number("VmHWM:")?,
        threads: number("Threads:")?,
    })
}
