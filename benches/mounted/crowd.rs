//! Many containers that live at once: what a read costs then, and what the daemons hold.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::container::{Cgroups, Container, Quota};
use crate::daemon::{Activity, Footprint};
use crate::measure::{check_content, check_length, in_turn, median, spread};
use crate::options::{File, Kind, Operation, Plan};
use crate::reader::{Measure, Once, Outcome, Reader, percentile};
use crate::report::{center, digits};
use crate::stop;
use crate::subject::Subject;

/// The file that the containers read.
const FILE: File = File::Meminfo;
/// How many containers are started at a time.
const AT_ONCE: usize = 32;
/// How many reads there are at least of containers that read in turn.
const LEAST_READS: usize = 100;
/// After the last read, before the daemons count as left alone.
const SETTLE: Duration = Duration::from_secs(1);
/// For how long they then are.
const ALONE: Duration = Duration::from_secs(3);

/// What reads of one subject cost with so many containers, and what its daemon is like then.
#[derive(Debug, Serialize)]
pub(crate) struct Crowded {
    pub(crate) containers: usize,
    pub(crate) subject: Kind,
    /// The first read of each container that had not read before.
    first: Quantiles,
    /// One container that reads again and again, while the others live.
    pub(crate) one: Quantiles,
    rounds: Vec<Outcome>,
    /// Each container once, then each once more, and so on.
    pub(crate) in_turn: Quantiles,
    /// None for the kernel's file.
    pub(crate) daemon: Option<Daemon>,
}

/// In nanoseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

/// A daemon, after all that reading.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Daemon {
    #[serde(flatten)]
    pub(crate) footprint: Footprint,
    /// While nobody reads, per second.
    switches: f64,
    cpu_us: f64,
}

/// Containers of one process each, which ends before its cgroups go.
#[derive(Default)]
struct Crowd {
    readers: Vec<Reader>,
    containers: Vec<Container>,
}

impl Crowd {
    fn grow(&mut self, containers: usize, cgroups: &Cgroups) -> Result<()> {
        while self.readers.len() < containers {
            let begin = self.readers.len();
            for number in begin..containers.min(begin + AT_ONCE) {
                stop::check()?;
                let container = cgroups.container(&number.to_string(), Quota::Ample)?;
                self.readers.push(Reader::spawn(&container, &[])?);
                self.containers.push(container);
            }
            self.readers[begin..].iter_mut().try_for_each(Reader::wait_for_mounts)?;
        }
        Ok(())
    }

    /// Has those from the one with that number on read, one after the other.
    fn read(&mut self, from: usize, subject: &Subject) -> Result<Vec<u32>> {
        let path = subject.path(FILE);
        let read = |reader: &mut Reader| {
            let Once { content, took_ns } = reader.once(&path)?;
            check_content(subject, FILE, &content)?;
            Ok(took_ns)
        };
        let all: Result<_> = self.readers[from..].iter_mut().map(read).collect();
        all.with_context(|| subject.kind.name())
    }

    /// Has the first one read again and again.
    fn read_again(&mut self, plan: &Plan, subject: &Subject) -> Result<Outcome> {
        let task = Measure {
            path: subject.path(FILE),
            operation: Operation::Read,
            readers: 1,
            duration: plan.duration,
            buffer: plan.buffer,
        };
        let reader = &mut self.readers[0];
        let first = reader.once(&task.path)?;
        let outcome = reader.measure(&task)?;
        check_length(&task, &outcome, &first.content)?;
        Ok(outcome)
    }
}

/// With each of the plan's numbers of containers, for all subjects.
pub(crate) fn measure(
    plan: &Plan,
    subjects: &[Subject],
    cgroups: &Cgroups,
) -> Result<Vec<Crowded>> {
    let mut crowd = Crowd::default();
    let mut measured = Vec::new();
    for &containers in &plan.containers {
        let known = crowd.readers.len();
        crowd.grow(containers, cgroups).context("starting containers")?;
        let mut first = Vec::new();
        for subject in subjects {
            first.push(crowd.read(known, subject)?);
        }
        let passes = plan.rounds.max(LEAST_READS / containers);
        let each = in_turn(passes, subjects, |subject| crowd.read(0, subject))?;
        let rounds = in_turn(plan.rounds, subjects, |subject| crowd.read_again(plan, subject))?;
        let daemons = leave_alone(subjects)?;
        let all = subjects.iter().zip(first).zip(each).zip(rounds).zip(daemons);
        measured.extend(all.map(|((((subject, first), each), rounds), daemon)| Crowded {
            containers,
            subject: subject.kind,
            first: Quantiles::of(first),
            one: Quantiles {
                p50: median(rounds.iter().map(|round| round.p50_ns.into())),
                p99: median(rounds.iter().map(|round| round.p99_ns.into())),
            },
            rounds,
            in_turn: Quantiles::of(each.concat()),
            daemon,
        }));
    }
    Ok(measured)
}

/// What the daemons do while nobody reads, and what they hold.
fn leave_alone(subjects: &[Subject]) -> Result<Vec<Option<Daemon>>> {
    let activities =
        || subjects.iter().map(Subject::activity).collect::<Result<Vec<Option<Activity>>>>();
    wait(SETTLE)?;
    let (began, before) = (Instant::now(), activities()?);
    wait(ALONE)?;
    let (after, seconds) = (activities()?, began.elapsed().as_secs_f64());
    let one = |((subject, before), after): ((&Subject, Option<Activity>), Option<Activity>)| {
        let Some((footprint, (before, after))) = subject.footprint()?.zip(before.zip(after)) else {
            return Ok(None);
        };
        let switches = after.switches.saturating_sub(before.switches) as f64 / seconds;
        let cpu_us = after.cpu.saturating_sub(before.cpu).as_secs_f64() * 1e6 / seconds;
        Ok(Some(Daemon { footprint, switches, cpu_us }))
    };
    subjects.iter().zip(before).zip(after).map(one).collect()
}

fn wait(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        stop::check()?;
        std::thread::sleep(Duration::from_millis(50).min(end - Instant::now()));
    }
    Ok(())
}

impl Quantiles {
    fn of(mut latencies_ns: Vec<u32>) -> Self {
        latencies_ns.sort_unstable();
        let at = |percent| f64::from(percentile(&latencies_ns, percent));
        Self { p50: at(50), p99: at(99) }
    }

    /// In microseconds, and what the p50 is of the other's.
    fn beside(self, other: Self) -> String {
        let ratio = digits(self.p50 / other.p50);
        format!("{:>7} {:>7} {ratio:>6}", digits(self.p50 / 1e3), digits(self.p99 / 1e3))
    }
}

impl Crowded {
    pub(crate) fn spread(&self) -> f64 {
        spread(self.rounds.iter().map(|round| round.per_second))
    }
}

/// A row per subject and number of containers.
pub(crate) fn table(crowded: &[Crowded]) -> String {
    let mut lines = vec![format!(
        "containers that live and have read {}: open + read to EOF + close (us, and x as much as \
         with the fewest; RSS in MiB, KiB for each container more)",
        FILE.name()
    )];
    let mut row = |name: &str, containers: &str, cells: [&str; 5]| {
        let line = cells
            .iter()
            .fold(format!("{name:<9}{containers:>11}"), |line, cell| line + " |" + cell);
        lines.push(line.trim_end().to_owned());
    };
    let heads =
        [("first reads", 15), ("one, again and again", 22), ("each in turn", 22), ("daemon", 21)];
    let [first, one, in_turn, daemon] = heads.map(|(head, width)| center(head, width));
    row("", "", [&first, &one, &in_turn, &daemon, " nobody reads, per s"]);
    let quantiles = format!("{:>7}{:>8}", "p50", "p99");
    let ratios = quantiles.clone() + &format!("{:>7}", "x");
    let daemon = format!("{:>7}{:>7}{:>7}", "RSS", "each", "files");
    let alone = format!("{:>10}{:>8}", "switches", "CPU us");
    row("subject", "containers", [&quantiles, &ratios, &ratios, &daemon, &alone]);
    let mut by_subject: Vec<&Crowded> = crowded.iter().collect();
    by_subject.sort_by_key(|crowded| crowded.subject as usize);
    for group in by_subject.chunk_by(|one, other| one.subject == other.subject) {
        for (number, crowded) in group.iter().enumerate() {
            let fewest = group[0];
            let name = if number == 0 { crowded.subject.name() } else { "" };
            let first = &crowded.first;
            let first = format!("{:>7} {:>7}", digits(first.p50 / 1e3), digits(first.p99 / 1e3));
            let (daemon, alone) = crowded.daemon_columns(fewest);
            let one = crowded.one.beside(fewest.one);
            let in_turn = crowded.in_turn.beside(fewest.in_turn);
            let cells = [&first, &one, &in_turn, &daemon, &alone].map(String::as_str);
            row(name, &crowded.containers.to_string(), cells);
        }
    }
    lines.join("\n")
}

impl Crowded {
    fn daemon_columns(&self, fewest: &Crowded) -> (String, String) {
        let Some((daemon, before)) = self.daemon.zip(fewest.daemon) else {
            return (format!("{:>7}{:>7}{:>7}", "-", "-", "-"), format!("{:>10}{:>8}", "-", "-"));
        };
        let Footprint { rss_kib, descriptors, .. } = daemon.footprint;
        let more = self.containers - fewest.containers;
        let each = (rss_kib as f64 - before.footprint.rss_kib as f64) / more as f64;
        let each = if more == 0 { "-".to_owned() } else { digits(each) };
        let rss = digits(rss_kib as f64 / 1024.0);
        let alone = format!("{:>10}{:>8}", digits(daemon.switches), digits(daemon.cpu_us));
        (format!("{rss:>7}{each:>7}{descriptors:>7}"), alone)
    }
}
