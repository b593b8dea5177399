//! Cells, turns, rounds, medians.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use serde::Serialize;

use crate::calls;
use crate::container::{Cgroups, Container, MEM_TOTAL, Quota};
use crate::daemon::{self, Footprint};
use crate::floor;
use crate::options::{Block, File, Kind, Operation, Plan};
use crate::reader::{Measure, Outcome, Reader};
use crate::subject::{Scratch, Subject};

/// One turn of one subject.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    #[serde(flatten)]
    outcome: Outcome,
    first_ns: u32,
    /// CPU time of the daemon per operation; none for the kernel's file.
    daemon_cpu_ns: Option<f64>,
}

/// The medians over the rounds, each figure for itself.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    pub(crate) per_second: f64,
    pub(crate) p50_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) first_ns: f64,
    pub(crate) daemon_cpu_ns: Option<f64>,
}

/// All rounds of one subject for one file.
#[derive(Debug, Serialize)]
pub(crate) struct Cell {
    #[serde(flatten)]
    block: Block,
    pub(crate) file: File,
    pub(crate) subject: Kind,
    pub(crate) median: Figures,
    rounds: Vec<Sample>,
}

/// How many system calls a daemon makes for a read, beyond FUSE's own.
#[derive(Debug, Serialize)]
pub(crate) struct Calls {
    pub(crate) file: File,
    pub(crate) subject: Kind,
    /// While one reader opens the file, reads it and closes it, again and again.
    pub(crate) per_read: f64,
    /// The first time of a new container.
    pub(crate) first: f64,
}

/// What a daemon holds at the end of the run.
#[derive(Debug, Serialize)]
pub(crate) struct Held {
    pub(crate) subject: Kind,
    #[serde(flatten)]
    pub(crate) footprint: Footprint,
}

/// Before any timing: do the subjects show the container its limit at all?
pub(crate) fn check(subjects: &[Subject], container: &Container) -> Result<()> {
    for subject in subjects {
        let first = |mut reader: Reader| reader.once(&File::Meminfo.path());
        let first = Reader::start(container, &subject.binds(&[File::Meminfo]))
            .and_then(first)
            .with_context(|| format!("{}: first read", subject.kind.name()))?;
        check_content(subject, File::Meminfo, &first.content)?;
    }
    Ok(())
}

/// Measures every file of the plan once for all subjects.
pub(crate) fn block(
    plan: &Plan,
    block: Block,
    subjects: &[Subject],
    container: &Container,
) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for &file in &plan.files {
        let samples = in_turn(plan.rounds, subjects, |subject| {
            sample(plan, block, file, subject, container).with_context(|| {
                format!("{}: {}, readers: {}", file.name(), block.operation.title(), block.readers)
            })
        })?;
        cells.extend(subjects.iter().zip(samples).map(|(subject, rounds)| {
            let median = Figures::of(&rounds);
            Cell { block, file, subject: subject.kind, median, rounds }
        }));
    }
    Ok(cells)
}

/// So many rounds, in each of which a sample is taken of all subjects: by subject.
pub(crate) fn in_turn<Sample>(
    rounds: usize,
    subjects: &[Subject],
    mut sample: impl FnMut(&Subject) -> Result<Sample>,
) -> Result<Vec<Vec<Sample>>> {
    let mut samples: Vec<Vec<Sample>> = subjects.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for turn in 0..subjects.len() {
            // Nobody always comes after the same one, nor always first.
            let index = (round + turn) % subjects.len();
            let subject = &subjects[index];
            samples[index].push(sample(subject).with_context(|| subject.kind.name())?);
        }
    }
    Ok(samples)
}

pub(crate) fn footprints(subjects: &[Subject]) -> Result<Vec<Held>> {
    let mut held = Vec::new();
    for subject in subjects {
        let footprint = subject.footprint()?;
        held.extend(footprint.map(|footprint| Held { subject: subject.kind, footprint }));
    }
    Ok(held)
}

/// Counts the system calls of the daemons, file by file.
pub(crate) fn calls(
    plan: &Plan,
    subjects: &[Subject],
    container: &Container,
    cgroups: &Cgroups,
    scratch: &Scratch,
) -> Result<Vec<Calls>> {
    let block = Block { operation: Operation::Read, readers: 1 };
    let mut counted = Vec::new();
    for &file in &plan.files {
        for subject in subjects {
            let is_rival = matches!(subject.kind, Kind::LxcfsRs | Kind::Lxcfs);
            let Some(pid) = subject.pid().filter(|_| is_rival) else { continue };
            let mut reader = Reader::start(container, &subject.binds(&[file]))?;
            reader.once(&file.path())?;
            let work = || Ok(reader.measure(&task(plan, block, file))?.operations);
            let per_read = calls::per_read(pid, &scratch.file("strace"), work)
                .with_context(|| format!("{}: system calls", subject.kind.name()))?;
            let first = calls_of_first_reads(pid, file, subject, cgroups, scratch)
                .with_context(|| format!("{}: calls of first reads", subject.kind.name()))?;
            counted.push(Calls { file, subject: subject.kind, per_read, first });
        }
    }
    Ok(counted)
}

fn calls_of_first_reads(
    pid: Pid,
    file: File,
    subject: &Subject,
    cgroups: &Cgroups,
    scratch: &Scratch,
) -> Result<f64> {
    /// Some calls are those of a daemon that is attached to.
    const CONTAINERS: usize = 10;
    let container = |number| cgroups.container(&format!("new-{number}"), Quota::Ample);
    let containers: Vec<Container> = (0..CONTAINERS).map(container).collect::<Result<_>>()?;
    let reader = |container| Reader::start(container, &subject.binds(&[file]));
    let mut readers: Vec<Reader> = containers.iter().map(reader).collect::<Result<_>>()?;
    calls::per_read(pid, &scratch.file("strace"), || {
        readers.iter_mut().try_for_each(|reader| reader.once(&file.path()).map(drop))?;
        Ok(CONTAINERS)
    })
}

pub(crate) fn task(plan: &Plan, block: Block, file: File) -> Measure {
    Measure {
        path: file.path(),
        operation: block.operation,
        readers: block.readers,
        duration: plan.duration,
        buffer: plan.buffer,
    }
}

fn sample(
    plan: &Plan,
    block: Block,
    file: File,
    subject: &Subject,
    container: &Container,
) -> Result<Sample> {
    let task = task(plan, block, file);
    let mut reader = Reader::start(container, &subject.binds(&[file]))?;
    let first = reader.once(&task.path)?;
    check_content(subject, file, &first.content)?;
    let before = cpu_time(subject)?;
    let outcome = reader.measure(&task)?;
    let after = cpu_time(subject)?;
    check_length(&task, &outcome, &first.content)?;
    let daemon_cpu_ns = before.zip(after).map(|(before, after)| {
        after.saturating_sub(before).as_secs_f64() * 1e9 / outcome.operations as f64
    });
    Ok(Sample { outcome, first_ns: first.took_ns, daemon_cpu_ns })
}

fn cpu_time(subject: &Subject) -> Result<Option<Duration>> {
    subject.pid().map(daemon::cpu_time).transpose()
}

pub(crate) fn check_content(subject: &Subject, file: File, content: &str) -> Result<()> {
    let name = subject.kind.name();
    if subject.kind == Kind::Floor {
        let expected = floor::SIZE;
        ensure!(content.len() == expected, "{name}: {} bytes, not {expected}", content.len());
        return Ok(());
    }
    ensure!(
        file.is_plausible(content) && (content.is_empty() || content.ends_with('\n')),
        "{name}: {} in the container is not whole: {content:?}",
        file.name()
    );
    let knows_the_limit = matches!(subject.kind, Kind::LxcfsRs | Kind::Lxcfs);
    if file == File::Meminfo && knows_the_limit {
        let first = content.lines().next().unwrap_or_default();
        ensure!(first.ends_with(&format!(" {MEM_TOTAL}")), "{name}: {first}, not {MEM_TOTAL}");
    }
    Ok(())
}

/// Figures grow and shrink by digits, never by half.
pub(crate) fn check_length(task: &Measure, outcome: &Outcome, content: &str) -> Result<()> {
    let whole = match task.operation {
        Operation::Read | Operation::StatRead => content.len(),
        // One call: at most a buffer of it, and the kernel's seq_file stops at a whole record.
        Operation::Pread => content.len().min(task.buffer.min(2048)),
    };
    let least = outcome.least_bytes;
    ensure!(outcome.operations > 0, "no operation ended in time");
    ensure!(least >= whole / 2, "short file: {least} bytes, the first read had {whole}");
    Ok(())
}

/// How far rounds of the same lie apart: largest less smallest throughput, in parts of the
/// median. What a ratio is worth: 0 on a quiet machine.
pub(crate) fn spread(per_second: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = per_second.clone().fold(f64::MIN, f64::max);
    let smallest = per_second.clone().fold(f64::MAX, f64::min);
    (largest - smallest) / median(per_second)
}

impl Cell {
    pub(crate) fn spread(&self) -> f64 {
        spread(self.rounds.iter().map(|sample| sample.outcome.per_second))
    }
}

impl Figures {
    fn of(rounds: &[Sample]) -> Self {
        let over = |figure: fn(&Sample) -> f64| median(rounds.iter().map(figure));
        let cpu = rounds.iter().filter_map(|sample| sample.daemon_cpu_ns);
        Self {
            per_second: over(|sample| sample.outcome.per_second),
            p50_ns: over(|sample| sample.outcome.p50_ns.into()),
            p99_ns: over(|sample| sample.outcome.p99_ns.into()),
            first_ns: over(|sample| sample.first_ns.into()),
            daemon_cpu_ns: (cpu.clone().count() > 0).then(|| median(cpu)),
        }
    }
}

/// The mean of the middle two if the number is even; 0 of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let (below, above) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    values.get(below).zip(values.get(above)).map_or(0.0, |(below, above)| (below + above) / 2.0)
}
