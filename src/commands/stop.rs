//! `lxcfs-rs stop`: ends containers.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use lxcfs_rs::runtime::stop;

/// What its messages begin with.
const NAME: &str = "lxcfs-rs: stop";

/// End running containers, and wait until they are gone
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How many seconds after SIGTERM they are killed
    #[arg(short, long, value_name = "SECONDS", default_value_t = 10)]
    time: u32,

    /// Their names, or ids, or the beginnings of these
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// Ends them one after the other and prints those that ended; every error is one line.
pub(crate) fn run(args: &Args) -> ExitCode {
    super::log_for_people(NAME);
    let patience = Duration::from_secs(args.time.into());
    let mut status = ExitCode::SUCCESS;
    for container in &args.containers {
        match stop::stop(container, patience) {
            // A closed pipe is no failure to stop.
            Ok(()) => drop(writeln!(io::stdout(), "{container}")),
            Err(error) => status = super::status_of(NAME, Err(error)),
        }
    }
    status
}
