//! `lxcfs-rs status`: what a running daemon has counted.

use std::process::ExitCode;

use lxcfs_rs::error::Result;
use lxcfs_rs::fuse::control;
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
}

/// Prints it.
pub(crate) fn run(args: &Args) -> ExitCode {
    status_of("lxcfs-rs: status", print(args))
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
