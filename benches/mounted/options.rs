//! The command line, and the plan made of it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

/// Benchmark of mounted files, against the rivals in the same run.
#[derive(Debug, Parser)]
#[command(name = "mounted")]
pub(crate) struct Options {
    /// Few files, one short round: a smoke test. Fails on an error or a short file, never on time
    #[arg(long)]
    quick: bool,
    /// Our binary, if not the one that cargo built beside this benchmark
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_lxcfs-rs"))]
    lxcfs_rs: PathBuf,
    /// Leave a subject out (repeat, or separate by commas)
    #[arg(long, value_name = "SUBJECT", value_delimiter = ',')]
    without: Vec<Kind>,
    /// What is measured
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    parts: Option<Vec<Part>>,
    /// Files, by their name in /proc
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    files: Option<Vec<File>>,
    /// How the files are read
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    operations: Option<Vec<Operation>>,
    /// Numbers of concurrent readers
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    readers: Option<Vec<usize>>,
    /// Numbers of threads with which a hostile container disturbs a reader
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    hostile: Option<Vec<usize>>,
    /// Numbers of containers that live at once, from fewest to most
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    containers: Option<Vec<usize>>,
    /// Rounds per cell; figures are the medians over them
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Milliseconds per subject and round
    #[arg(long, value_name = "MS")]
    duration_ms: Option<u64>,
    /// Bytes of the buffer of one read(2); 8192 is what stdio and Python use
    #[arg(long, value_name = "BYTES", default_value_t = 8192)]
    buffer: usize,
    /// Worker threads of our daemon and of the constant file [default: CPUs, from 2 to 4]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Also draw what `containers` measures
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Also write every figure to a file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Have our daemon take pressure's triggers, which Debian 12's lxcfs does not: its mount and
    /// the constant file's are then writable, and an fstat asks the daemon
    #[arg(long)]
    psi_triggers: bool,
    /// What cargo bench adds
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The other processes of a run: this binary again. Not for people.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The daemon of the constant file
    #[command(hide = true)]
    Constant {
        mount_point: PathBuf,
        workers: usize,
        #[arg(long)]
        writable: bool,
    },
    /// Becomes a daemon that hears signals and ends with its parent
    #[command(hide = true)]
    Daemon {
        program: OsString,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Enters cgroups and namespaces, then starts the reader
    #[command(hide = true)]
    Container {
        #[arg(long)]
        cgroup: Vec<PathBuf>,
        mounts: String,
    },
    /// Reads; the first process of the container
    #[command(hide = true)]
    Reader { mounts: String },
}

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Part {
    /// Each file by each operation
    Reads,
    /// A reader beside a hostile container
    Neighbour,
    /// System calls of the daemons per read
    Calls,
    /// Many containers that live at once
    Containers,
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Our daemon.
    LxcfsRs,
    /// Debian's.
    Lxcfs,
    /// The constant file through fuser: what FUSE costs with nothing behind it.
    Floor,
    /// The kernel's own file.
    Kernel,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::LxcfsRs => "lxcfs-rs",
            Kind::Lxcfs => "lxcfs",
            Kind::Floor => "floor",
            Kind::Kernel => "kernel",
        }
    }
}

/// A file of /proc that all subjects serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum File {
    Meminfo,
    Cpuinfo,
    Stat,
    Uptime,
    Diskstats,
    Swaps,
    Loadavg,
}

impl File {
    pub(crate) fn name(self) -> &'static str {
        match self {
            File::Meminfo => "meminfo",
            File::Cpuinfo => "cpuinfo",
            File::Stat => "stat",
            File::Uptime => "uptime",
            File::Diskstats => "diskstats",
            File::Swaps => "swaps",
            File::Loadavg => "loadavg",
        }
    }

    /// Where a container has it.
    pub(crate) fn path(self) -> PathBuf {
        Path::new("/proc").join(self.name())
    }

    /// Whether `content` can be the whole of this file: not whether its figures are right.
    pub(crate) fn is_plausible(self, content: &str) -> bool {
        let numbers = content.split_ascii_whitespace().take_while(|word| {
            word.parse::<f64>().is_ok()
                || word.split_once('/').is_some_and(|(runnable, _)| !runnable.is_empty())
        });
        match self {
            File::Meminfo => content.starts_with("MemTotal:") && content.contains("\nMemFree:"),
            File::Cpuinfo => content.starts_with("processor"),
            File::Stat => content.starts_with("cpu ") && content.contains("\nbtime "),
            File::Uptime => numbers.count() == 2,
            // A container that has done no I/O has no lines.
            File::Diskstats => content.lines().all(|line| line.split_whitespace().count() >= 14),
            File::Swaps => content.starts_with("Filename"),
            File::Loadavg => numbers.count() == 5,
        }
    }
}

/// One unit of work, the thing whose latency is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// open, read to EOF, close
    Read,
    /// open, fstat, read to EOF, close: what cat and stdio do
    StatRead,
    /// pread at 0 on a kept descriptor, once: what procps does
    Pread,
}

impl Operation {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Operation::Read => "open + read to EOF + close",
            Operation::StatRead => "open + fstat + read to EOF + close",
            Operation::Pread => "pread at 0 on a kept descriptor",
        }
    }
}

/// One table: the cells of all files for one operation and number of readers.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Block {
    pub(crate) operation: Operation,
    pub(crate) readers: usize,
}

/// What a run does, every default decided.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    #[serde(skip)]
    pub(crate) lxcfs_rs: PathBuf,
    pub(crate) subjects: Vec<Kind>,
    pub(crate) parts: Vec<Part>,
    pub(crate) files: Vec<File>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) readers: Vec<usize>,
    pub(crate) hostile: Vec<usize>,
    pub(crate) containers: Vec<usize>,
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    pub(crate) buffer: usize,
    pub(crate) workers: usize,
    pub(crate) psi_triggers: bool,
}

impl Options {
    pub(crate) fn plan(&self) -> Result<Plan> {
        let cpus = std::thread::available_parallelism()?.get();
        let (files, hostile, containers, rounds, duration_ms) = if self.quick {
            (vec![File::Meminfo, File::Uptime], vec![2], vec![1, 3], 1, 50)
        } else {
            (File::value_variants().to_vec(), vec![4, 16], vec![1, 100], 5, 400)
        };
        let mut subjects = Kind::value_variants().to_vec();
        subjects.retain(|kind| !self.without.contains(kind));
        let plan = Plan {
            quick: self.quick,
            lxcfs_rs: self.lxcfs_rs.clone(),
            subjects,
            parts: self.parts.clone().unwrap_or_else(|| Part::value_variants().to_vec()),
            files: self.files.clone().unwrap_or(files),
            operations: self
                .operations
                .clone()
                .unwrap_or_else(|| Operation::value_variants().to_vec()),
            readers: self.readers.clone().unwrap_or_else(|| vec![1, 4]),
            hostile: self.hostile.clone().unwrap_or(hostile),
            containers: self.containers.clone().unwrap_or(containers),
            rounds: self.rounds.unwrap_or(rounds),
            duration: Duration::from_millis(self.duration_ms.unwrap_or(duration_ms)),
            buffer: self.buffer,
            workers: self.workers.unwrap_or(cpus.clamp(2, 4)),
            psi_triggers: self.psi_triggers,
        };
        ensure!(plan.rounds > 0, "--rounds: 0, expected at least 1");
        ensure!(plan.buffer > 0, "--buffer: 0, expected at least 1");
        ensure!(plan.workers > 0, "--workers: 0, expected at least 1");
        ensure!(!plan.readers.contains(&0), "--readers: 0, expected at least 1");
        ensure!(!plan.hostile.contains(&0), "--hostile: 0, expected at least 1");
        ensure!(
            !plan.containers.contains(&0) && plan.containers.is_sorted(),
            "--containers: {:?}, expected numbers from 1, none after a larger one",
            plan.containers
        );
        ensure!(!plan.subjects.is_empty(), "--without: leaves no subject");
        Ok(plan)
    }
}

impl Plan {
    pub(crate) fn has(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = Block> + '_ {
        self.operations.iter().flat_map(|&operation| {
            self.readers.iter().map(move |&readers| Block { operation, readers })
        })
    }
}
