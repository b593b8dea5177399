//! The readers: threads of the first process in the container, and the lines in which it
//! tells the measuring process what it saw.
//!
//! It mounts, reads the file once, says [`Ready`], waits for a line on its standard input, so
//! that the daemon's CPU time can be taken in between, runs, and says [`Outcome`].

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::Barrier;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::container::Container;
use crate::options::{self, Operation};
use crate::stop;

/// A bound on the samples that a thread keeps: more than any subject reaches in a cell.
const MAX_OPERATIONS: usize = 2_000_000;
/// How much longer than its duration a cell may take before the reader counts as hung.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a reader does.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Bind-mounted over the file in /proc; none: the kernel's file stays.
    pub(crate) source: Option<PathBuf>,
    pub(crate) file: options::File,
    pub(crate) operation: Operation,
    pub(crate) readers: usize,
    pub(crate) duration: Duration,
    pub(crate) buffer: usize,
}

/// Said before the measuring starts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// The whole file, as one open, read to EOF, close returned it.
    pub(crate) content: String,
    /// How long that took: the first read of a container whose pid namespace is new.
    pub(crate) first_ns: u32,
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
pub(crate) fn read(task: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let task: Task = serde_json::from_str(task).context("the task")?;
    let path = Path::new("/proc").join(task.file.name());
    mount_proc(&task, &path)?;

    let mut content = Vec::new();
    let started = Instant::now();
    File::open(&path).and_then(|mut file| file.read_to_end(&mut content)).context("first read")?;
    let first_ns = nanoseconds(started.elapsed());
    let content = String::from_utf8(content).context("not UTF-8")?;
    say(&Ready { content, first_ns })?;

    let mut go = String::new();
    std::io::stdin().read_line(&mut go)?;
    if go.is_empty() {
        return Ok(());
    }
    say(&run(&task, &path).with_context(|| path.display().to_string())?)
}

fn mount_proc(task: &Task, path: &Path) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).context("mounting /proc")?;
    let Some(source) = &task.source else { return Ok(()) };
    mount(Some(source), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("binding {} over {}", source.display(), path.display()))
}

fn run(task: &Task, path: &Path) -> Result<Outcome> {
    let start = Barrier::new(task.readers);
    let threads = std::thread::scope(|scope| {
        let spawn = |_| scope.spawn(|| run_thread(task, path, &start));
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

fn run_thread(task: &Task, path: &Path, start: &Barrier) -> Result<Thread> {
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

fn read_to_eof(mut file: File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut bytes = 0;
    loop {
        match file.read(buffer)? {
            0 => return Ok(bytes),
            more => bytes += more,
        }
    }
}

/// Of sorted values; 0 if there are none.
fn percentile(sorted: &[u32], percent: usize) -> u32 {
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
    go: ChildStdin,
    lines: Receiver<String>,
    duration: Duration,
}

impl Reader {
    /// Starts a reader in the container and waits until it is ready.
    pub(crate) fn start(container: &Container, task: &Task) -> Result<(Self, Ready)> {
        let mut command = container.command(&serde_json::to_string(task)?)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the container")?;
        let (Some(go), Some(said)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the container has no pipes");
        };
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(said).lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        let mut reader = Self { child, go, lines, duration: task.duration };
        let ready = reader.hear()?;
        Ok((reader, ready))
    }

    /// Lets it run, and ends it.
    pub(crate) fn run(&mut self) -> Result<Outcome> {
        self.go.write_all(b"go\n")?;
        self.hear()
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T> {
        let deadline = Instant::now() + self.duration + PATIENCE;
        loop {
            stop::check()?;
            match self.lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => return serde_json::from_str(&line).with_context(|| line.clone()),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the reader ended early ({})", self.child.wait()?);
                }
                Err(RecvTimeoutError::Timeout) => {
                    ensure!(Instant::now() < deadline, "the reader hangs");
                }
            }
        }
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
