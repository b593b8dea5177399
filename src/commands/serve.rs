//! `lxcfs-rs serve`: the FUSE daemon, in the foreground.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use lxcfs_rs::collect::{CpuCount, SwapView, UpSince};
use lxcfs_rs::cpulist::CpuIds;
use lxcfs_rs::error::Result;
use lxcfs_rs::fuse::daemon::{Keeping, MakeVfs, Mended, Options, is_probe, keep};
use lxcfs_rs::runtime::heal::{Healed, Place, heal};
use lxcfs_rs::vfs::Vfs;
use lxcfs_rs::vfs::kept::Kept;

use super::settings::Settings;
use super::{STATUS_OF_USAGE, status_of};

/// What its errors begin with.
const NAME: &str = "lxcfs-rs";

/// Mount the filesystem and serve it until SIGTERM, SIGINT or an unmount
///
/// Each of its options is also a key of the file, which is read again by an upgrade and a restart.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// File of the options that are not given here [default: /etc/lxcfs-rs.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,
}

/// Serves as its own command line says, and its file.
pub(crate) fn run(args: Args) -> ExitCode {
    let settings = match args.settings.or_of_file(args.config.as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            return ExitCode::from(STATUS_OF_USAGE);
        }
    };
    let options = Options {
        mountpoint: settings.mountpoint(),
        nonempty: false,
        read_only: settings.read_only,
        workers: settings.workers,
        pidfile: settings.pidfile.clone(),
    };
    Daemon {
        name: NAME,
        options,
        runtime_dir: settings.runtime_dir(),
        take_over: settings.take_over,
        cpu_count: settings.cpu_count.unwrap_or_default(),
        cpu_ids: settings.cpu_ids.unwrap_or_default(),
        up_since: settings.uptime.unwrap_or_default(),
        swap: SwapView::default(),
        verbose: settings.verbose,
    }
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
    let Healed { healed, left, others, .. } = heal(mountpoint)?;
    let line = |Place { pid, path, why }: &Place| {
        format!("process {pid}: {}: dead, and not healed: {why}", path.escape_debug())
    };
    let left = left.iter().map(line).collect();
    Ok(Mended { healed: healed.len() as u64, left, others: others as u64 })
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
