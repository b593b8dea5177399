//! `lxcfs-rs serve`: the FUSE daemon, in the foreground.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use lxcfs_rs::collect::{CpuCount, SwapView, UpSince};
use lxcfs_rs::cpulist::CpuIds;
use lxcfs_rs::error::Result;
use lxcfs_rs::files::MOUNTPOINT;
use lxcfs_rs::fuse::daemon::{Keeping, MakeVfs, Mended, Options, is_probe, keep};
use lxcfs_rs::runtime::heal::{Healed, Place, heal};
use lxcfs_rs::vfs::Vfs;
use lxcfs_rs::vfs::kept::Kept;

use super::status_of;

/// Mount the filesystem and serve it until SIGTERM, SIGINT or an unmount
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory to mount on; made if it is missing
    #[arg(default_value = MOUNTPOINT)]
    mountpoint: PathBuf,

    /// File to hold the daemon's pid while it runs
    #[arg(short, long, value_name = "FILE")]
    pidfile: Option<PathBuf>,

    /// Directory for what is to outlive the daemon: the counters that its files have shown
    #[arg(long, value_name = "DIR", default_value = "/run/lxcfs-rs")]
    runtime_dir: PathBuf,

    /// Go on with the connection of a daemon that serves there already, and end it; let another
    /// one do so with this
    #[arg(long)]
    take_over: bool,

    /// Worker threads [default: one per CPU, at least 2, at most 4]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,

    /// How many CPUs a quota of CPU time is shown as: ceil, floor, round, or cpuset to ignore it
    #[arg(long, value_name = "RULE", default_value = "ceil")]
    cpu_count: CpuCount,

    /// By which numbers a container's CPUs are shown: physical, their own, or compact, from 0 on
    #[arg(long, value_name = "NUMBERS", default_value = "physical")]
    cpu_ids: CpuIds,

    /// Since when a container without a time namespace is up: container, its first process, or host
    #[arg(long, value_name = "SINCE", default_value = "container")]
    uptime: UpSince,

    /// Log more; twice, every request. RUST_LOG overrides it
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// Serves as its own command line says.
pub(crate) fn run(args: Args) -> ExitCode {
    let Args {
        mountpoint,
        pidfile,
        runtime_dir,
        take_over,
        workers,
        cpu_count,
        cpu_ids,
        uptime,
        verbose,
    } = args;
    let options = Options { mountpoint, nonempty: false, workers, pidfile };
    let swap = SwapView::default();
    let (name, up_since) = ("lxcfs-rs", uptime);
    Daemon { name, options, runtime_dir, take_over, cpu_count, cpu_ids, up_since, swap, verbose }
        .run()
}

/// A daemon as either command line describes it.
#[derive(Debug)]
pub(super) struct Daemon {
    /// What its errors begin with.
    pub(super) name: &'static str,
    pub(super) options: Options,
    /// What is to outlive it.
    pub(super) runtime_dir: PathBuf,
    /// Whether to go on with another daemon's connection.
    pub(super) take_over: bool,
    pub(super) cpu_count: CpuCount,
    pub(super) cpu_ids: CpuIds,
    pub(super) up_since: UpSince,
    pub(super) swap: SwapView,
    /// How much more is logged.
    pub(super) verbose: u8,
}

impl Daemon {
    /// Serves.
    pub(super) fn run(mut self) -> ExitCode {
        start_logging(self.verbose);
        // By the working directory of now, which the daemon leaves.
        self.runtime_dir = std::path::absolute(&self.runtime_dir).unwrap_or(self.runtime_dir);
        if is_probe() {
            return status_of(self.name, Vfs::of_machine().map(drop));
        }
        let keeping = Keeping {
            runtime_dir: self.runtime_dir.clone(),
            take_over: self.take_over,
            vfs: &self,
            heal: heal_containers,
        };
        status_of(self.name, keep(&self.options, &keeping))
    }
}

/// Gives containers living files for dead ones.
fn heal_containers(mountpoint: &Path) -> Result<Mended> {
    let Healed { healed, left, .. } = heal(mountpoint)?;
    let line = |Place { pid, path, why }: &Place| {
        format!("process {pid}: {}: dead, and not healed: {why}", path.escape_debug())
    };
    Ok(Mended { healed: healed.len() as u64, left: left.iter().map(line).collect() })
}

impl MakeVfs for Daemon {
    fn make(&self, mountpoint: &Path, kept: Arc<Kept>) -> Result<Vfs> {
        let vfs = Vfs::of_machine_kept_in(&self.runtime_dir, mountpoint, kept)?;
        let vfs = vfs.with_cpu_count(self.cpu_count).with_cpu_ids(self.cpu_ids);
        Ok(vfs.with_up_since(self.up_since).with_swap(self.swap))
    }
}

fn start_logging(verbose: u8) {
    // fuser's debug level is a line for every request.
    let filter = match verbose {
        0 => "info,fuser=warn",
        1 => "debug,fuser=info",
        _ => "debug",
    };
    let mut logger =
        env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(filter));
    // The journal has a clock of its own.
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        logger.format_timestamp(None);
    }
    logger.init();
}
