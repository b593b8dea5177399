//! The readers: threads of the first process in a container, and the lines in which it is told
//! what to do and tells the measuring process what it saw.
//!
//! It mounts, says so, and does one [`Work`] after the other, as they come on its standard input:
//! so the daemon's CPU time can be taken in between.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::container::Container;
use crate::options::Operation;
use crate::{hostile, stop};

/// A bound on the samples that a thread keeps: more than any subject reaches in a cell.
const MAX_OPERATIONS: usize = 2_000_000;
/// How much longer than its duration a piece of work may take before the reader counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at whether somebody wants the run to end.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// What is mounted over a file of the container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Bind {
    pub(crate) source: PathBuf,
    pub(crate) target: PathBuf,
}

/// What a reader is told to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Work {
    /// One open, read to EOF, close; answered with [`Once`].
    Once(PathBuf),
    /// Answered with [`Outcome`].
    Measure(Measure),
    /// All that a hostile container does, until it is killed; answered once it is under way.
    Harass { paths: Vec<PathBuf>, threads: usize },
}

/// The same operation again and again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    pub(crate) path: PathBuf,
    pub(crate) operation: Operation,
    pub(crate) readers: usize,
    pub(crate) duration: Duration,
    pub(crate) buffer: usize,
}

/// What one read of a whole file gave.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Once {
    pub(crate) content: String,
    pub(crate) took_ns: u32,
}

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) operations: usize,
    pub(crate) per_second: f64,
    pub(crate) p50_ns: u32,
    pub(crate) p99_ns: u32,
    /// The fewest bytes that any operation returned.
    pub(crate) least_bytes: usize,
}

// ---------------------------------------------------------------- in the container

/// The reader process.
pub(crate) fn read(binds: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let binds: Vec<Bind> = serde_json::from_str(binds).context("the mounts")?;
    mount_proc(&binds)?;
    say(&())?;
    for line in std::io::stdin().lines() {
        match serde_json::from_str(&line?).context("the work")? {
            Work::Once(path) => say(&once(&path).with_context(|| path.display().to_string())?)?,
            Work::Measure(task) => {
                say(&run(&task).with_context(|| task.path.display().to_string())?)?;
            }
            Work::Harass { paths, threads } => hostile::harass(&paths, threads, || say(&()))?,
        }
    }
    Ok(())
}

fn mount_proc(binds: &[Bind]) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).context("mounting /proc")?;
    for Bind { source, target } in binds {
        mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("binding {} over {}", source.display(), target.display()))?;
    }
    Ok(())
}

fn once(path: &Path) -> Result<Once> {
    let mut content = Vec::new();
    let started = Instant::now();
    File::open(path)?.read_to_end(&mut content)?;
    let took_ns = nanoseconds(started.elapsed());
    Ok(Once { content: String::from_utf8(content).context("not UTF-8")?, took_ns })
}

fn run(task: &Measure) -> Result<Outcome> {
    let start = Barrier::new(task.readers);
    let threads = std::thread::scope(|scope| {
        let spawn = |_| scope.spawn(|| run_thread(task, &start));
        let handles: Vec<_> = (0..task.readers).map(spawn).collect();
        handles.into_iter().map(|handle| handle.join()).collect::<Vec<_>>()
    });
    let mut latencies = Vec::new();
    let mut per_second = 0.0;
    let mut least_bytes = usize::MAX;
    for thread in threads {
        let Ok(thread) = thread else { bail!("a reader thread panicked") };
        let thread = thread?;
        per_second += thread.latencies_ns.len() as f64 / thread.elapsed.as_secs_f64();
        least_bytes = least_bytes.min(thread.least_bytes);
        latencies.extend(thread.latencies_ns);
    }
    latencies.sort_unstable();
    Ok(Outcome {
        operations: latencies.len(),
        per_second,
        p50_ns: percentile(&latencies, 50),
        p99_ns: percentile(&latencies, 99),
        least_bytes,
    })
}

struct Thread {
    latencies_ns: Vec<u32>,
    elapsed: Duration,
    least_bytes: usize,
}

fn run_thread(task: &Measure, start: &Barrier) -> Result<Thread> {
    let path = &task.path;
    let kept = File::open(path)?;
    let mut buffer = vec![0; task.buffer];
    let mut latencies_ns = Vec::with_capacity(MAX_OPERATIONS);
    let mut least_bytes = usize::MAX;
    start.wait();

    let began = Instant::now();
    let mut last = began;
    while latencies_ns.len() < MAX_OPERATIONS && last - began < task.duration {
        let bytes = match task.operation {
            Operation::Read => read_to_eof(File::open(path)?, &mut buffer)?,
            Operation::StatRead => {
                let file = File::open(path)?;
                rustix::fs::fstat(&file)?;
                read_to_eof(file, &mut buffer)?
            }
            Operation::Pread => kept.read_at(&mut buffer, 0)?,
        };
        least_bytes = least_bytes.min(bytes);
        let now = Instant::now();
        latencies_ns.push(nanoseconds(now - last));
        last = now;
    }
    Ok(Thread { latencies_ns, elapsed: last - began, least_bytes })
}

pub(crate) fn read_to_eof(mut file: File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut bytes = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(bytes),
            more => bytes += more,
        }
    }
}

/// Of sorted values; 0 if there are none.
pub(crate) fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(0)
}

/// Saturates at four seconds.
fn nanoseconds(time: Duration) -> u32 {
    u32::try_from(time.as_nanos()).unwrap_or(u32::MAX)
}

fn say(message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

// ---------------------------------------------------------------- in the measuring process

/// A reader that was started; killed when dropped.
#[derive(Debug)]
pub(crate) struct Reader {
    child: Child,
    work: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Reader {
    /// Starts a reader in the container and waits until it has mounted.
    pub(crate) fn start(container: &Container, binds: &[Bind]) -> Result<Self> {
        let mut reader = Self::spawn(container, binds)?;
        reader.wait_for_mounts()?;
        Ok(reader)
    }

    /// Starts a reader that has yet to be [waited for](Self::wait_for_mounts).
    pub(crate) fn spawn(container: &Container, binds: &[Bind]) -> Result<Self> {
        let mut command = container.command(&serde_json::to_string(binds)?)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the container")?;
        let (Some(work), Some(said)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the container has no pipes");
        };
        Ok(Self { child, work, said: BufReader::new(said) })
    }

    pub(crate) fn wait_for_mounts(&mut self) -> Result<()> {
        self.hear(PATIENCE)
    }

    pub(crate) fn once(&mut self, path: &Path) -> Result<Once> {
        self.ask(&Work::Once(path.to_owned()), PATIENCE)
    }

    pub(crate) fn measure(&mut self, task: &Measure) -> Result<Outcome> {
        self.ask(&Work::Measure(task.clone()), task.duration + PATIENCE)
    }

    /// Has it do so from now on.
    pub(crate) fn harass(&mut self, paths: Vec<PathBuf>, threads: usize) -> Result<()> {
        self.ask(&Work::Harass { paths, threads }, PATIENCE)
    }

    fn ask<T: DeserializeOwned>(&mut self, work: &Work, patience: Duration) -> Result<T> {
        let mut line = serde_json::to_string(work)?;
        line.push('\n');
        self.work.write_all(line.as_bytes())?;
        self.hear(patience)
    }

    fn hear<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            stop::check()?;
            let mut said = [PollFd::new(self.said.get_ref(), PollFlags::IN)];
            if poll(&mut said, Some(&GLANCE))? > 0 {
                break;
            }
            ensure!(Instant::now() < deadline, "the reader hangs");
        }
        let mut line = String::new();
        if self.said.read_line(&mut line)? == 0 {
            bail!("the reader ended early ({})", self.child.wait()?);
        }
        serde_json::from_str(&line).with_context(|| line.clone())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Its child gets SIGKILL by its parent's death, and the pid namespace ends with it.
        // A reader that hangs on a dead daemon is freed later, when that is unmounted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
