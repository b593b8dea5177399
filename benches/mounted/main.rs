//! What one read of a mounted file costs: lxcfs-rs, Debian's lxcfs, a constant file through
//! fuser (the floor) and the kernel's own /proc file, measured in turn within one run.
//!
//! ```text
//! cargo bench --bench mounted                       # everything; about ten minutes
//! cargo bench --bench mounted -- --quick            # a smoke test: asserts nothing about time
//! cargo bench --bench mounted -- --parts neighbour  # a reader beside a hostile container
//! cargo bench --bench mounted -- --parts containers --containers 1,100,2000 --svg FILE
//! cargo bench --bench mounted -- --files meminfo --readers 1,4,16 --json out.json
//! ```
//!
//! The readers are threads of one process in a real container: cgroups of its own with
//! memory, CPU and cpuset limits, and pid, mount and cgroup namespaces, in which the subject's
//! file is bind-mounted over the one in /proc. All daemons run throughout; for every cell
//! (operation, number of readers, file) the subjects take turns, several rounds, each round
//! starting with another one. **Only the ratios mean something**, and only those of one run.
//!
//! Needs root. Everything made is removed again, also after an error, a panic or SIGINT.
//!
//! | module | |
//! |---|---|
//! | `options` | the command line, and the plan made of it |
//! | `subject` | who is measured: starting and stopping the daemons |
//! | `floor` | the constant file |
//! | `container` | the limited containers: their cgroups here, their namespaces in a re-exec |
//! | `reader` | what runs in the container, and what it tells us |
//! | `daemon` | CPU time and memory of a daemon |
//! | `calls` | its system calls |
//! | `measure` | cells, turns, rounds, medians |
//! | `neighbour` | one reader beside a hostile container |
//! | `hostile` | what that does |
//! | `crowd` | many containers that live at once |
//! | `plot` | what they cost, drawn |
//! | `report` | the tables and the JSON |
//! | `stop` | SIGINT and SIGTERM as a flag, asked between steps |

mod calls;
mod container;
mod crowd;
mod daemon;
mod floor;
mod hostile;
mod measure;
mod neighbour;
mod options;
mod plot;
mod reader;
mod report;
mod stop;
mod subject;

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lxcfs_rs::sys::descriptors;

use crate::container::Quota;
use crate::options::{Command, Operation, Options, Part};
use crate::report::{Machine, Report};

/// The spread of the rounds up to which ratios are worth keeping.
const QUIET: f64 = 0.25;

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mounted: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<()> {
    match options.command {
        Some(Command::Constant { mount_point, workers, writable }) => {
            floor::serve(&mount_point, workers, writable)
        }
        Some(Command::Daemon { program, arguments }) => {
            subject::become_daemon(&program, &arguments)
        }
        Some(Command::Container { cgroup, mounts }) => container::enter(&cgroup, &mounts),
        Some(Command::Reader { mounts }) => reader::read(&mounts),
        None => bench(&options),
    }
}

/// The measuring process: every guard lives here, so leaving by any way cleans up, in the
/// order readers, daemons, mounts, cgroups, directory.
fn bench(options: &Options) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "must run as root: it mounts and makes cgroups");
    stop::watch().context("watching for SIGINT")?;
    let plan = options.plan()?;
    descriptors::raise_limit();

    let scratch = subject::Scratch::new()?;
    let cgroups = container::Cgroups::open()?;
    let container = cgroups.container("reader", Quota::Ample)?;
    let subjects = subject::start(&plan, &scratch)?;
    measure::check(&subjects, &container)?;

    // Not println!, which panics when the reader of a pipe has gone.
    let mut out = std::io::stdout().lock();
    let mut report = Report::new(Machine::here(&subjects)?, &plan);
    writeln!(out, "{}", report.machine)?;
    if plan.has(Part::Reads) {
        for block in plan.blocks() {
            let cells = measure::block(&plan, block, &subjects, &container)?;
            writeln!(out, "\n{}", report::table(block, &subjects, &cells))?;
            report.cells.extend(cells);
        }
    }
    if plan.has(Part::Calls) {
        report.calls = measure::calls(&plan, &subjects, &container, &cgroups, &scratch)?;
        writeln!(out, "\n{}", report::per_read(&subjects, &report.cells, &report.calls))?;
    }
    if plan.has(Part::Neighbour) {
        for operation in [Operation::Read, Operation::Pread] {
            let neighbours = neighbour::measure(&plan, operation, &subjects, &container, &cgroups)?;
            writeln!(out, "\n{}", neighbour::table(operation, &neighbours))?;
            report.neighbours.extend(neighbours);
        }
    }
    if plan.has(Part::Containers) {
        report.crowded = crowd::measure(&plan, &subjects, &cgroups)?;
        writeln!(out, "\n{}", crowd::table(&report.crowded))?;
    }
    if let Some(path) = &options.svg {
        plot::write(path, &report.crowded)?;
    }
    report.daemons = measure::footprints(&subjects)?;
    writeln!(out, "\n{}", report::footprints(&report.daemons))?;
    if plan.rounds > 1 {
        let spread = report.spread();
        let verdict = if spread > QUIET { ": not a quiet machine, repeat" } else { "" };
        writeln!(out, "spread of the rounds: {:.0} %{verdict}", spread * 100.0)?;
    }
    if let Some(throttled) = container.throttled().filter(|&count| count > 0) {
        writeln!(out, "warning: the readers were throttled in {throttled} periods")?;
    }
    options.json.as_ref().map_or(Ok(()), |path| report.write_json(path))
}
