//! The tables and the JSON.

use std::fmt::{self, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::crowd::Crowded;
use crate::measure::{Calls, Cell, Figures, Held, median};
use crate::neighbour::Neighbour;
use crate::options::{Block, File, Kind, Plan};
use crate::subject::{Subject, first_line};

/// Where and what: the first lines of every report.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    date: String,
    cpu: String,
    cpus: usize,
    kernel: String,
    /// /proc/loadavg at the start: how quiet the machine was.
    loadavg: String,
    versions: Vec<(Kind, String)>,
}

impl Machine {
    pub(crate) fn here(subjects: &[Subject]) -> Result<Self> {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let loadavg = std::fs::read_to_string("/proc/loadavg").context("/proc/loadavg")?;
        let with_version = subjects.iter().filter(|subject| !subject.version.is_empty());
        Ok(Self {
            date: first_line(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?,
            cpu: model.map_or(std::env::consts::ARCH, |(_, model)| model).to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            kernel: first_line(Command::new("uname").arg("-r"))?,
            loadavg: loadavg.trim_end().to_owned(),
            versions: with_version.map(|subject| (subject.kind, subject.version.clone())).collect(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { date, cpu, cpus, kernel, loadavg, versions } = self;
        write!(f, "{cpus} x {cpu}, Linux {kernel}, {date}, loadavg {loadavg}")?;
        versions.iter().try_for_each(|(kind, version)| write!(f, "\n{}: {version}", kind.name()))
    }
}

/// What is set against what.
const RATIOS: &[(Kind, Kind)] = &[(Kind::LxcfsRs, Kind::Lxcfs), (Kind::LxcfsRs, Kind::Floor)];
/// What is left to compare without ours: how far lxcfs is above what FUSE costs.
const RATIOS_WITHOUT_OURS: &[(Kind, Kind)] = &[(Kind::Floor, Kind::Lxcfs)];

/// One table: a row per file; per subject its figures, then the ratios.
pub(crate) fn table(block: Block, subjects: &[Subject], cells: &[Cell]) -> String {
    let kinds: Vec<Kind> = subjects.iter().map(|subject| subject.kind).collect();
    let ours = kinds.contains(&Kind::LxcfsRs);
    let ratios: Vec<(Kind, Kind)> = if ours { RATIOS } else { RATIOS_WITHOUT_OURS }
        .iter()
        .copied()
        .filter(|(of, to)| kinds.contains(of) && kinds.contains(to))
        .collect();
    let mut files: Vec<File> = cells.iter().map(|cell| cell.file).collect();
    files.dedup();

    let readers = if block.readers == 1 { "reader" } else { "readers" };
    let title = block.operation.title();
    let mut lines = vec![format!("{title}, {} {readers} (p50, p99, cpu in us)", block.readers)];
    lines.push(row(
        "",
        kinds.iter().map(|kind| center(kind.name(), 25)),
        ratios.iter().map(|(of, to)| center(&format!("{} : {}", of.name(), to.name()), 21)),
    ));
    let columns = format!("{:>7}{:>6}{:>6}{:>6}", "kops/s", "p50", "p99", "cpu");
    let ratio_columns = format!("{:>6}{:>8}{:>7}", "speed", "+p50", "cpu");
    lines.push(row(
        "file",
        kinds.iter().map(|_| columns.clone()),
        ratios.iter().map(|_| ratio_columns.clone()),
    ));
    for file in files {
        let find = |kind: Kind| {
            let cell = cells.iter().find(|cell| cell.file == file && cell.subject == kind);
            cell.map(|cell| cell.median)
        };
        let figures = kinds.iter().map(|&kind| find(kind).map_or(String::new(), columns_of));
        let compared = ratios.iter().map(|&(of, to)| {
            find(of).zip(find(to)).map_or(String::new(), |(of, to)| compare(of, to))
        });
        lines.push(row(file.name(), figures, compared));
    }
    lines.join("\n")
}

fn row(
    name: &str,
    figures: impl Iterator<Item = String>,
    ratios: impl Iterator<Item = String>,
) -> String {
    let mut line = format!("{name:<9}");
    figures.chain(ratios).for_each(|group| {
        // Writing to a String cannot fail.
        let _ = write!(line, " |{group}");
    });
    line.truncate(line.trim_end().len());
    line
}

fn columns_of(figures: Figures) -> String {
    let cpu = figures.daemon_cpu_ns.map_or("-".to_owned(), |cpu| digits(cpu / 1e3));
    let speed = digits(figures.per_second / 1e3);
    let (p50, p99) = (digits(figures.p50_ns / 1e3), digits(figures.p99_ns / 1e3));
    format!("{speed:>7} {p50:>5} {p99:>5} {cpu:>5}")
}

/// Three digits, or as many as the whole part has.
pub(crate) fn digits(value: f64) -> String {
    let decimals = match value.abs() {
        small if small < 9.995 => 2,
        middle if middle < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

/// Throughput of one in those of the other; how many microseconds more one operation takes;
/// CPU time of the daemon in those of the other.
fn compare(of: Figures, to: Figures) -> String {
    let speed = of.per_second / to.per_second;
    let more = (of.p50_ns - to.p50_ns) / 1e3;
    let cpu = of.daemon_cpu_ns.zip(to.daemon_cpu_ns);
    let cpu = cpu.map_or("-".to_owned(), |(of, to)| format!("{}x", digits(of / to)));
    format!("{:>6} {more:>+7.1} {cpu:>6}", format!("{}x", digits(speed)))
}

pub(crate) fn center(text: &str, width: usize) -> String {
    format!("{text:^width$}")
}

/// What else one read costs: the first one of a container, and system calls.
pub(crate) fn per_read(subjects: &[Subject], cells: &[Cell], calls: &[Calls]) -> String {
    let kinds: Vec<Kind> = subjects.iter().map(|subject| subject.kind).collect();
    let mut files: Vec<File> = calls.iter().map(|calls| calls.file).collect();
    files.dedup();
    let names = || kinds.iter().map(|kind| format!("{:>9}", kind.name()));
    let mut lines = vec![
        "first read of a container, us; system calls of the daemon per read, beyond FUSE's; \
         and per first read of a new container"
            .to_owned(),
        row("file", names(), names().chain(names())),
    ];
    for file in files {
        let first = kinds.iter().map(|&kind| {
            let cell = cells.iter().find(|cell| cell.file == file && cell.subject == kind);
            let first = cell.map_or("-".to_owned(), |cell| digits(cell.median.first_ns / 1e3));
            format!("{first:>9}")
        });
        let counted = |figure: fn(&Calls) -> f64| {
            kinds.iter().map(move |&kind| {
                let calls = calls.iter().find(|calls| calls.file == file && calls.subject == kind);
                format!("{:>9}", calls.map_or("-".to_owned(), |calls| digits(figure(calls))))
            })
        };
        let calls = counted(|calls| calls.per_read).chain(counted(|calls| calls.first));
        lines.push(row(file.name(), first, calls));
    }
    lines.join("\n")
}

/// The daemons at the end of the run.
pub(crate) fn footprints(held: &[Held]) -> String {
    let one = |held: &Held| {
        let footprint = held.footprint;
        format!(
            "{}: RSS {} KiB, at most {}, PSS {}, {} threads",
            held.subject.name(),
            footprint.rss_kib,
            footprint.most_rss_kib,
            footprint.pss_kib,
            footprint.threads
        )
    };
    held.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Everything that was measured, every round of it.
#[derive(Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) machine: Machine,
    pub(crate) plan: &'a Plan,
    pub(crate) cells: Vec<Cell>,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) calls: Vec<Calls>,
    pub(crate) crowded: Vec<Crowded>,
    pub(crate) daemons: Vec<Held>,
}

impl<'a> Report<'a> {
    /// Nothing yet.
    pub(crate) fn new(machine: Machine, plan: &'a Plan) -> Self {
        let (cells, neighbours, calls, crowded, daemons) = Default::default();
        Self { machine, plan, cells, neighbours, calls, crowded, daemons }
    }

    /// How far the rounds lie apart: the median over everything that had several.
    pub(crate) fn spread(&self) -> f64 {
        let cells = self.cells.iter().map(Cell::spread);
        let neighbours = self.neighbours.iter().map(Neighbour::spread);
        median(cells.chain(neighbours).chain(self.crowded.iter().map(Crowded::spread)))
    }

    pub(crate) fn write_json(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}
