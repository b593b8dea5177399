//! What a hostile container does to the reads of another.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::container::{Cgroups, Container, Quota};
use crate::measure::{check_content, check_length, in_turn, median, spread, task};
use crate::options::{Block, File, Kind, Operation, Plan};
use crate::reader::{Outcome, Reader};
use crate::report::{center, digits};
use crate::subject::Subject;

/// The file whose reads are measured. The hostile container takes all of the plan's.
const FILE: File = File::Meminfo;

/// A hostile container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Hostile {
    threads: usize,
    quota: Quota,
}

/// One turn of one subject.
#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    #[serde(flatten)]
    outcome: Outcome,
    /// Of the daemon, while both containers read; none for the kernel's file.
    rss_kib: Option<u64>,
}

impl Sample {
    fn p50_ns(&self) -> f64 {
        self.outcome.p50_ns.into()
    }

    fn p99_ns(&self) -> f64 {
        self.outcome.p99_ns.into()
    }
}

/// All rounds of one subject beside one hostile container, or alone.
#[derive(Debug, Serialize)]
pub(crate) struct Neighbour {
    operation: Operation,
    subject: Kind,
    beside: Option<Hostile>,
    /// Medians over the rounds, also of how many times those alone in the same round.
    p50_ns: f64,
    p50_times: f64,
    p99_ns: f64,
    p99_times: f64,
    /// The largest of the rounds'.
    rss_kib: Option<u64>,
    rounds: Vec<Sample>,
}

/// One reader, alone and beside each hostile container of the plan, for all subjects.
pub(crate) fn measure(
    plan: &Plan,
    operation: Operation,
    subjects: &[Subject],
    container: &Container,
    cgroups: &Cgroups,
) -> Result<Vec<Neighbour>> {
    let situations = situations(plan);
    // Alone and beside all in the same turn: what else the machine does is then in both.
    let turns = in_turn(plan.rounds, subjects, |subject| {
        let sample = |&beside: &Option<Hostile>| {
            sample(plan, operation, subject, container, cgroups, beside)
                .with_context(|| format!("{operation:?} beside {beside:?}"))
        };
        situations.iter().map(sample).collect::<Result<Vec<Sample>>>()
    })?;
    let mut neighbours = Vec::new();
    for (index, &beside) in situations.iter().enumerate() {
        neighbours.extend(subjects.iter().zip(&turns).map(|(subject, turns)| {
            let rounds: Vec<Sample> = turns.iter().map(|turn| turn[index]).collect();
            let over = |figure: fn(&Sample) -> f64| median(rounds.iter().map(figure));
            let times = |figure: fn(&Sample) -> f64| {
                median(turns.iter().map(|turn| figure(&turn[index]) / figure(&turn[0])))
            };
            Neighbour {
                operation,
                subject: subject.kind,
                beside,
                p50_ns: over(Sample::p50_ns),
                p50_times: times(Sample::p50_ns),
                p99_ns: over(Sample::p99_ns),
                p99_times: times(Sample::p99_ns),
                rss_kib: rounds.iter().filter_map(|sample| sample.rss_kib).max(),
                rounds,
            }
        }));
    }
    Ok(neighbours)
}

/// Alone; then beside containers with one CPU's time, and once without such a limit.
fn situations(plan: &Plan) -> Vec<Option<Hostile>> {
    let with = |quota: Quota| move |&threads: &usize| Some(Hostile { threads, quota });
    let limited = plan.hostile.iter().map(with(Quota::OneCpu));
    let unlimited = plan.hostile.last().map(with(Quota::Unlimited));
    [None].into_iter().chain(limited).chain(unlimited).collect()
}

fn sample(
    plan: &Plan,
    operation: Operation,
    subject: &Subject,
    container: &Container,
    cgroups: &Cgroups,
    beside: Option<Hostile>,
) -> Result<Sample> {
    let task = task(plan, Block { operation, readers: 1 }, FILE);
    let mut reader = Reader::start(container, &subject.binds(&[FILE]))?;
    let first = reader.once(&task.path)?;
    check_content(subject, FILE, &first.content)?;
    let _other = beside.map(|hostile| Other::start(hostile, plan, subject, cgroups)).transpose()?;
    let outcome = reader.measure(&task)?;
    check_length(&task, &outcome, &first.content)?;
    let rss_kib = subject.footprint()?.map(|footprint| footprint.rss_kib);
    Ok(Sample { outcome, rss_kib })
}

/// The hostile container, at work; its processes end before its cgroups go.
struct Other {
    _reader: Reader,
    _container: Container,
}

impl Other {
    fn start(hostile: Hostile, plan: &Plan, subject: &Subject, cgroups: &Cgroups) -> Result<Self> {
        let container = cgroups.container("hostile", hostile.quota)?;
        let mut reader = Reader::start(&container, &subject.binds(&plan.files))?;
        let paths = plan.files.iter().map(|file| file.path()).collect();
        reader.harass(paths, hostile.threads).context("the hostile container")?;
        Ok(Self { _reader: reader, _container: container })
    }
}

impl Neighbour {
    pub(crate) fn spread(&self) -> f64 {
        spread(self.rounds.iter().map(|sample| sample.outcome.per_second))
    }
}

/// A row per situation; per subject its figures, and what they are of those alone.
pub(crate) fn table(operation: Operation, neighbours: &[Neighbour]) -> String {
    let mut kinds: Vec<Kind> = Vec::new();
    let mut situations: Vec<Option<Hostile>> = Vec::new();
    for neighbour in neighbours {
        if !kinds.contains(&neighbour.subject) {
            kinds.push(neighbour.subject);
        }
        if !situations.contains(&neighbour.beside) {
            situations.push(neighbour.beside);
        }
    }
    let find = |kind: Kind, beside: Option<Hostile>| {
        neighbours.iter().find(|one| one.subject == kind && one.beside == beside)
    };
    let mut lines = vec![format!(
        "one reader of {} beside a hostile container: {} (us, and x as much as alone; RSS in MiB)",
        FILE.name(),
        operation.title()
    )];
    let mut row = |name: &str, cells: Vec<String>| {
        let line = cells.iter().fold(format!("{name:<24}"), |line, cell| line + " |" + cell);
        lines.push(line.trim_end().to_owned());
    };
    row("", kinds.iter().map(|kind| center(kind.name(), 35)).collect());
    let columns = format!("{:>7}{:>7}{:>8}{:>7}{:>6}", "p50", "x", "p99", "x", "RSS");
    row("beside", vec![columns; kinds.len()]);
    for beside in situations {
        let cell = |&kind: &Kind| find(kind, beside).map(columns_of).unwrap_or_default();
        row(&words(beside), kinds.iter().map(cell).collect());
    }
    lines.join("\n")
}

fn words(beside: Option<Hostile>) -> String {
    let Some(Hostile { threads, quota }) = beside else { return "nobody".to_owned() };
    let limit = if quota == Quota::OneCpu { "1 CPU" } else { "no CPU limit" };
    format!("{threads} threads, {limit}")
}

fn columns_of(one: &Neighbour) -> String {
    let mut cell = String::new();
    for (figure, times, width) in [(one.p50_ns, one.p50_times, 7), (one.p99_ns, one.p99_times, 8)] {
        // Writing to a String cannot fail.
        let _ = write!(cell, "{:>width$} {:>6}", digits(figure / 1e3), digits(times));
    }
    let rss = one.rss_kib.map_or("-".to_owned(), |kib| digits(kib as f64 / 1024.0));
    cell + &format!("{rss:>6}")
}
