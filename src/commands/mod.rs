//! One file per subcommand: its options and the few lines that call the library.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

mod explain;
mod run;
mod serve;

/// Exit status for a command line that is not understood.
const STATUS_OF_USAGE: u8 = 2;

/// `/proc` files that show each container its own memory, CPUs, uptime and load
#[derive(Debug, clap::Parser)]
#[command(name = "lxcfs-rs", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Explain(explain::Args),
    Run(Box<run::Args>),
    Serve(serve::Args),
}

/// Runs the subcommand that the arguments choose.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    match Cli::try_parse_from(&arguments) {
        Ok(Cli { command: Command::Explain(args) }) => explain::run(&args),
        Ok(Cli { command: Command::Run(args) }) => run::run(*args),
        Ok(Cli { command: Command::Serve(args) }) => serve::run(args),
        Err(error) => refuse(&error, arguments.get(1).is_some_and(|name| name == "run")),
    }
}

/// Answers a command line that is not to be executed: help on standard output, or what is
/// wrong on standard error. All that is wrong with `run` has Docker's status.
fn refuse(error: &clap::Error, is_run: bool) -> ExitCode {
    let (name, status) =
        if is_run { (run::NAME, run::STATUS_OF_OURS) } else { ("lxcfs-rs", STATUS_OF_USAGE) };
    let kind = error.kind();
    if matches!(kind, ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A closed pipe, as of `--help | head`, is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
    } else {
        eprintln!("{name}: {}", one_line(&error.to_string()));
    }
    ExitCode::from(status)
}

/// What is wrong, without the usage that clap prints below it.
fn one_line(message: &str) -> String {
    let message = message.split("\n\n").next().unwrap_or_default();
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> String {
        let error = Cli::try_parse_from(arguments).unwrap_err();
        one_line(&error.to_string())
    }

    #[test]
    fn what_is_wrong_is_one_line() {
        assert_eq!(
            refused(&["lxcfs-rs", "run", "--badflag"]),
            "unexpected argument '--badflag' found"
        );
        assert_eq!(
            refused(&["lxcfs-rs", "run", "-m", "1g"]),
            "the following required arguments were not provided: <COMMAND>..."
        );
        let line = refused(&["lxcfs-rs", "run", "-m", "12q", "true"]);
        assert!(line.starts_with("invalid value '12q' for '--memory <SIZE>': expected"), "{line}");
    }

    #[test]
    fn options_of_the_command_are_its_own() {
        for arguments in [
            ["lxcfs-rs", "run", "-m", "1g", "ls", "-m", "--help"].as_slice(),
            &["lxcfs-rs", "run", "-m", "1g", "--", "ls", "-m", "--help"],
        ] {
            let Command::Run(args) = Cli::try_parse_from(arguments).unwrap().command else {
                panic!("not run");
            };
            assert_eq!(args.command(), ["ls", "-m", "--help"]);
        }
        let dashed = ["lxcfs-rs", "run", "--", "--rm", "x"];
        let Command::Run(args) = Cli::try_parse_from(dashed).unwrap().command else {
            panic!("not run");
        };
        assert_eq!(args.command(), ["--rm", "x"]);
    }
}
