//! `lxcfs-rs run`: one container, Docker's way.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use lxcfs_rs::cgroup::apply::Limits;
use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::runtime::{self, init, spec};
use lxcfs_rs::units::{Bytes, Usec};

/// Where a host's own daemon serves, for Docker and for us.
const MOUNTPOINT: &str = "/var/lib/lxcfs";

/// Run a command in a new container that sees its own /proc.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Memory limit: a number with an optional suffix b, k, m, g or t
    #[arg(short, long, value_name = "SIZE", value_parser = spec::parse_memory)]
    memory: Option<Bytes>,
    /// How many CPUs' time it may use, such as 1.5
    #[arg(long, value_name = "N", value_parser = spec::parse_cpus)]
    cpus: Option<Usec>,
    /// The CPUs it may run on, such as 0-2,4
    #[arg(long, value_name = "LIST", value_parser = spec::parse_cpuset)]
    cpuset_cpus: Option<String>,
    /// Its root directory, used as it is [default: a throw-away copy of the host's root]
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Runs the container; returns the exit status of `docker run`.
pub(crate) fn run(args: Args) -> u8 {
    let spec = spec::Spec {
        limits: Limits {
            memory: args.memory,
            cpu_quota: args.cpus,
            cpuset_cpus: args.cpuset_cpus,
        },
        rootfs: args.rootfs,
        command: args.command,
    };
    match runtime::run(&spec, Path::new(MOUNTPOINT), &serve) {
        Ok(ended) => {
            if let Some(error) = ended.left {
                log::error!("{error}");
            }
            ended.status
        }
        Err(error) => {
            log::error!("{error}");
            match error {
                Error::NotExecuted { status, .. } => status,
                _ => init::STATUS_OF_RUNTIME,
            }
        }
    }
}

/// Serves the container's own files until it is killed.
fn serve(_mountpoint: &Path, _ready: Box<dyn FnOnce() + Send>) -> Result<()> {
    Err(Error::Refused(format!("no daemon serves at {MOUNTPOINT}")))
}
