//! What the load sampler costs: containers of 20 threads each, all of them read, with the threads
//! asleep, and with each awake once a second. On cgroup v1, and on v2, which a hybrid host has
//! beside it.
//!
//! ```text
//! cargo bench --bench load               # 200 containers, the sampler for a minute and more
//! cargo bench --bench load -- --quick    # 5, and two passes of it: that it works
//! ```
//!
//! It fails where the sampler takes more than half a percent of one core. Needs root. Everything
//! made is removed again.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context as _, Result, ensure};
use lxcfs_rs::cgroup::layout::Version;
use lxcfs_rs::cgroup::path::parse_memberships;
use lxcfs_rs::cgroup::taskstats::Taskstats;
use lxcfs_rs::collect::load::{Sampler, boottime};
use lxcfs_rs::collect::tasks::Count;
use lxcfs_rs::container::Container;
use lxcfs_rs::history::History;
use lxcfs_rs::kernel::{Controller, Kernel};
use lxcfs_rs::sys::descriptors;
use lxcfs_rs::units::Nsec;

const THREADS: usize = 20;
const MOST_PERCENT: f64 = 0.5;
/// How many passes are timed by themselves.
const PASSES: u32 = 5;

/// Set in a process that is a container's.
const WORKER: &str = "LXCFS_RS_BENCH_WORKER";
/// Set where only cgroup v2 is left.
const ON_V2: &str = "LXCFS_RS_BENCH_ON_V2";

fn main() -> Result<()> {
    if let Some(pause) = env::var_os(WORKER) {
        return work(&pause.to_string_lossy());
    }
    if env::var_os(ON_V2).is_some() {
        unmount_v1()?;
    }
    descriptors::raise_limit();
    let is_quick = env::args().any(|argument| argument == "--quick");
    let (containers, seconds) = if is_quick { (5, 1) } else { (200, 60) };
    let kernel = Arc::new(Kernel::open(Path::new("/"))?);
    let version = kernel.hierarchy_of(Controller::Cpuacct).context("no cgroup hierarchy")?;
    let version = kernel.hierarchies[version].version;
    writeln!(
        std::io::stdout(),
        "{containers} containers of {THREADS} threads, cgroup {version:?}"
    )?;
    for (words, pause) in
        [("asleep", Duration::MAX), ("awake once a second", Duration::from_secs(1))]
    {
        let containers = make(&kernel, containers, pause)?;
        writeln!(std::io::stdout(), "  {words}:")?;
        measure(&kernel, &containers, Duration::from_secs(seconds))?;
    }
    let has_v2 = kernel.hierarchies.iter().any(|mounted| mounted.version == Version::V2);
    if version == Version::V1 && has_v2 {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).args(env::args_os());
        return Err(command.env(ON_V2, "1").exec()).context("unshare");
    }
    Ok(())
}

fn measure(kernel: &Arc<Kernel>, made: &[Made], window: Duration) -> Result<()> {
    let mut out = std::io::stdout();
    let mut counts = Vec::new();
    for made in made {
        counts.push((&made.container, Count::first(kernel, &made.container)?));
    }
    let mut taskstats = Taskstats::open().ok();
    let mut each = Duration::ZERO;
    let mut cheap = Duration::ZERO;
    for _ in 0..PASSES {
        let began = cpu_time();
        for (container, count) in &mut counts {
            count.look_at_each(kernel, container)?;
        }
        each += cpu_time() - began;
        // Until all have run that do.
        thread::sleep(Duration::from_millis(1200));
        let began = cpu_time();
        for (container, count) in &mut counts {
            count.look(kernel, container, taskstats.as_mut())?;
        }
        cheap += cpu_time() - began;
    }
    writeln!(
        out,
        "    a pass by the tasks' files: {:.1?}; as the sampler does it: {:.1?}",
        each / PASSES,
        cheap / PASSES
    )?;

    // The one of an earlier sampler may not have ended yet.
    until(|| cpu_time_of("load").is_none());
    let sampler = Sampler::new(Arc::clone(kernel));
    let history = History::in_memory();
    for made in made {
        sampler.watch(&history, &made.container, boottime())?;
    }
    // From the end of one pass to that of another, so that each has the pause that it is due.
    let (first, first_used) = pass()?;
    let (took, used) = loop {
        let (last, last_used) = pass()?;
        if last - first >= window {
            break (last - first, last_used - first_used);
        }
    };
    let percent = 100.0 * used.as_secs_f64() / took.as_secs_f64();
    writeln!(out, "    the sampler: {used:.1?} in {took:.0?}, {percent:.3} % of a core")?;
    ensure!(percent <= MOST_PERCENT, "more than {MOST_PERCENT} %");
    Ok(())
}

/// Waits for the sampler's next pass; when it has ended, and the CPU time of all.
fn pass() -> Result<(Instant, Duration)> {
    // Far longer than a pass pauses, and far shorter than is paused between two.
    const QUIET: Duration = Duration::from_secs(1);
    let used = || cpu_time_of("load").unwrap_or_default();
    let before = used();
    let deadline = Instant::now() + Duration::from_secs(300);
    let mut last = (Instant::now(), before);
    while last.1 == before || last.0.elapsed() < QUIET {
        ensure!(Instant::now() < deadline, "no pass in five minutes");
        thread::sleep(Duration::from_millis(10));
        let now = used();
        if now != last.1 {
            last = (Instant::now(), now);
        }
    }
    Ok(last)
}

/// A process with cgroups of its own.
struct Process {
    child: Child,
    directories: Vec<PathBuf>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for directory in &self.directories {
            // Busy until the process has been taken out of it.
            let removed = || fs::remove_dir(directory).map_err(|error| error.raw_os_error());
            while removed() == Err(Some(libc::EBUSY)) {
                thread::yield_now();
            }
        }
    }
}

struct Made {
    container: Arc<Container>,
    _process: Process,
}

fn make(kernel: &Kernel, number: usize, pause: Duration) -> Result<Vec<Made>> {
    (0..number).map(|number| make_one(kernel, number, pause)).collect()
}

fn make_one(kernel: &Kernel, number: usize, pause: Duration) -> Result<Made> {
    let mut command = Command::new(env::current_exe()?);
    command.env(WORKER, pause.as_secs().to_string());
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut process = Process { child, directories: Vec::new() };
    let stdout = process.child.stdout.take().context("no stdout")?;
    BufReader::new(stdout).read_line(&mut String::new())?;
    let pid = process.child.id().to_string();
    for hierarchy in &kernel.hierarchies {
        let has = |name: &str| hierarchy.controllers.iter().any(|has| has == name);
        if hierarchy.version == Version::V1 && !has("cpu") && !has("cpuacct") && !has("freezer") {
            continue;
        }
        let name = format!("lxcfs-rs-bench-{}-{number}", std::process::id());
        let directory = hierarchy.root.path().join(name);
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        process.directories.push(directory.clone());
        fs::write(directory.join("cgroup.procs"), &pid)?;
    }
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let memberships = parse_memberships(&fs::read(&path)?, &path)?;
    let container = Arc::new(Container::at(kernel, &memberships, Nsec(0), 0)?);
    Ok(Made { container, _process: process })
}

/// A container's process: its threads sleep so many seconds at a time. It ends when nobody holds
/// its standard input any more.
fn work(pause: &str) -> Result<()> {
    let pause = Duration::from_secs(pause.parse()?);
    for _ in 1..THREADS {
        thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            loop {
                thread::sleep(pause);
            }
        })?;
    }
    writeln!(std::io::stdout(), "ready")?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}

/// Of this mount namespace's own hierarchies only v2 stays.
fn unmount_v1() -> Result<()> {
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        if line.contains(" - cgroup ") {
            let mountpoint = line.split(' ').nth(4).context("mountinfo")?;
            nix::mount::umount2(mountpoint, nix::mount::MntFlags::MNT_DETACH)?;
        }
    }
    Ok(())
}

/// CPU time that this thread has used.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(now).unwrap_or_default()
}

/// CPU time that the thread of this process with that name has used; none where there is none.
fn cpu_time_of(name: &str) -> Option<Duration> {
    let is_named = |task: &PathBuf| {
        fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
    };
    let mut tasks = fs::read_dir("/proc/self/task").ok()?.flatten().map(|task| task.path());
    let schedstat = fs::read_to_string(tasks.find(is_named)?.join("schedstat")).ok()?;
    Some(Duration::from_nanos(schedstat.split(' ').next()?.parse().ok()?))
}

fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        thread::sleep(Duration::from_millis(1));
    }
}
