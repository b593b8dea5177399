//! `lxcfs-rs status`: what a running daemon has counted, and whether it answers.

use std::path::Path;
use std::process::ExitCode;

use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::fuse::control;
use lxcfs_rs::procfs::{Namespace, ProcRoot};
use lxcfs_rs::runtime::served::Served;
use serde_json::Value;

use super::{Place, status_of};

/// Show what a running daemon has counted: reads, errors, workers, what is open
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// Print one JSON document
    #[arg(long)]
    json: bool,

    /// Print nothing, and fail unless a file that is served there can be read to its end: a liveness
    /// probe
    #[arg(long, conflicts_with = "json")]
    alive: bool,

    /// As --alive, and fail where another pod's daemon still serves: a readiness probe
    #[arg(long, conflicts_with_all = ["json", "alive"])]
    ready: bool,
}

/// Prints it.
pub(crate) fn run(args: &Args) -> ExitCode {
    let done = if args.alive || args.ready { probe(args) } else { print(args) };
    status_of("lxcfs-rs: status", done)
}

fn probe(args: &Args) -> Result<()> {
    let mountpoint = super::absolute(&args.place.mountpoint()?)?;
    Served::at(&mountpoint)?;
    if args.ready { expect_own(&args.place.runtime_dir()?, &mountpoint) } else { Ok(()) }
}

/// Of two pods, one of which is to take over from the other, each has mounts of its own.
fn expect_own(runtime_dir: &Path, mountpoint: &Path) -> Result<()> {
    let status = control::status(runtime_dir, mountpoint)?;
    let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
    let proc = ProcRoot::open(Path::new("/proc"))?;
    let namespace = |pid| proc.namespace(pid, Namespace::Mount);
    if namespace(pid)? == namespace(std::process::id())? {
        return Ok(());
    }
    let place = mountpoint.display();
    Err(Error::Refused(format!(
        "{place}: served by process {pid}, which is not of this mount namespace"
    )))
}

fn print(args: &Args) -> Result<()> {
    let status = control::status(&args.place.runtime_dir()?, &args.place.mountpoint()?)?;
    let text = if args.json { status.to_string() } else { lines(&status) };
    super::write_out(&format!("{}\n", text.trim_end()))
}

/// A line for each figure, in the order in which the daemon tells them.
fn lines(status: &Value) -> String {
    let figures: Vec<(String, String)> = status
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| {
            let value = match value {
                Value::Null => "none".to_owned(),
                Value::Bool(true) => "yes".to_owned(),
                Value::Bool(false) => "no".to_owned(),
                Value::String(text) => text.clone(),
                other @ (Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
                    other.to_string()
                }
            };
            (name.replace('_', " "), value)
        })
        .collect();
    let width = figures.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    figures.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_figure() {
        let status = r#"{"mountpoint":"/m","worker_pid":null,"shows_containers":true,"reads":7}"#;
        let status: Value = serde_json::from_str(status).unwrap();
        let text = lines(&status);
        for line in [
            "mountpoint        /m",
            "worker pid        none",
            "shows containers  yes",
            "reads             7",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        assert_eq!(lines(&Value::Null), "");
    }
}
