//! CPU time and memory of a daemon, as the kernel accounts them.

use std::path::PathBuf;
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

/// What a daemon has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Activity {
    pub(crate) cpu: Duration,
    /// How often its threads went to sleep, or lost their CPU: without any, none has woken.
    pub(crate) switches: u64,
}

/// Of all threads of these processes.
pub(crate) fn activity(processes: &[Pid]) -> Result<Activity> {
    let mut activity = Activity::default();
    for &pid in processes {
        activity.cpu += cpu_time(pid)?;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = thread?.path().join("status");
            // One that has just ended does nothing any more.
            let Ok(status) = Status::read(path) else { continue };
            activity.switches += status.number("voluntary_ctxt_switches:")?;
            activity.switches += status.number("nonvoluntary_ctxt_switches:")?;
        }
    }
    Ok(activity)
}

/// What a daemon holds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Footprint {
    /// VmRSS of /proc/PID/status.
    pub(crate) rss_kib: u64,
    /// The most that it ever was: VmHWM.
    pub(crate) most_rss_kib: u64,
    /// The same with what several processes share counted once: Pss of /proc/PID/smaps_rollup.
    pub(crate) pss_kib: u64,
    /// Threads of /proc/PID/status.
    pub(crate) threads: u64,
    pub(crate) descriptors: u64,
}

/// The sums over these processes.
pub(crate) fn footprint(processes: &[Pid]) -> Result<Footprint> {
    let mut footprint = Footprint::default();
    for pid in processes {
        let status = Status::read(format!("/proc/{pid}/status").into())?;
        footprint.rss_kib += status.number("VmRSS:")?;
        footprint.most_rss_kib += status.number("VmHWM:")?;
        footprint.pss_kib +=
            Status::read(format!("/proc/{pid}/smaps_rollup").into())?.number("Pss:")?;
        footprint.threads += status.number("Threads:")?;
        footprint.descriptors += std::fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64;
    }
    Ok(footprint)
}

/// /proc/PID/status, or another file of such lines.
struct Status {
    path: PathBuf,
    text: String,
}

impl Status {
    fn read(path: PathBuf) -> Result<Self> {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path, text })
    }

    fn number(&self, key: &str) -> Result<u64> {
        let line = self.text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok())
            .with_context(|| format!("{}: no number after {key:?}", self.path.display()))
    }
}
