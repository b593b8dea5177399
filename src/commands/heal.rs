//! `lxcfs-rs heal`: living files for the dead ones of running containers.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::runtime::heal::{self, Healed, Place};

use super::{absolute, container, settings, status_of};

/// What its messages begin with.
const NAME: &str = "lxcfs-rs: heal";

/// Replace the files of an lxcfs that has ended, in all running containers, by living ones
///
/// Also of the whole tree where it is mounted as one. The exit status is 1 where something is
/// left that is dead.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only in these: processes, or containers as of `attach`
    #[arg(value_name = "PID|CONTAINER")]
    containers: Vec<String>,

    /// Where the living ones are served [default: that of /etc/lxcfs-rs.toml, or /var/lib/lxcfs]
    #[arg(long, value_name = "DIR")]
    mountpoint: Option<PathBuf>,

    /// Print one JSON document with all that was found
    #[arg(long)]
    json: bool,
}

/// Heals, prints what, and says what it could not; every error is one line.
pub(crate) fn run(args: &Args) -> ExitCode {
    super::log_for_people(NAME);
    match find_and_heal(args).and_then(|healed| Ok((text(&healed, args.json)?, healed))) {
        Ok((text, healed)) => {
            // A closed pipe is no failure to heal.
            let _ = std::io::stdout().write_all(text.as_bytes());
            for Place { pid, path, why } in &healed.left {
                eprintln!("{NAME}: process {pid}: {}: {why}", path.escape_debug());
            }
            if healed.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => status_of(NAME, Err(error)),
    }
}

fn find_and_heal(args: &Args) -> Result<Healed> {
    let mountpoint = absolute(&settings::mountpoint(args.mountpoint.as_deref())?)?;
    if args.containers.is_empty() {
        return heal::heal(&mountpoint);
    }
    let targets = args.containers.iter().map(|name| container::find(name));
    heal::heal_in(&mountpoint, &targets.collect::<Result<Vec<_>>>()?)
}

/// A line for each place, or one document.
fn text(healed: &Healed, as_json: bool) -> Result<String> {
    if as_json {
        return serde_json::to_string_pretty(healed)
            .map(|text| text + "\n")
            .map_err(|error| Error::Refused(error.to_string()));
    }
    let line = |place: &Place| {
        // A container may have named a directory as it liked.
        format!("process {}: {}\n", place.pid, place.path.escape_debug())
    };
    Ok(healed.healed.iter().map(line).collect())
}
