//! One file per subcommand: its options and the few lines that call the library. And one for the
//! program called as `lxcfs`.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::runtime::program;

mod attach;
mod container;
mod exec;
mod explain;
mod generate;
mod heal;
mod lxcfs;
mod print;
mod ps;
mod run;
mod serve;
mod settings;
mod status;
mod stop;
mod upgrade;

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
    Exec(exec::Args),
    Ps(ps::Args),
    Stop(stop::Args),
    Attach(attach::Args),
    Detach(attach::DetachArgs),
    Heal(heal::Args),
    Print(print::Args),
    Serve(serve::Args),
    Status(status::Args),
    Upgrade(upgrade::Args),
    Generate(generate::Args),
}

/// Which daemon is asked.
#[derive(Debug, clap::Args)]
struct Place {
    /// Directory that it serves at [default: that of /etc/lxcfs-rs.toml, or /var/lib/lxcfs]
    mountpoint: Option<PathBuf>,

    /// Its runtime directory [default: that of /etc/lxcfs-rs.toml, or /run/lxcfs-rs]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
}

impl Place {
    fn mountpoint(&self) -> Result<PathBuf> {
        settings::mountpoint(self.mountpoint.as_deref())
    }

    fn runtime_dir(&self) -> Result<PathBuf> {
        settings::runtime_dir(self.runtime_dir.as_deref())
    }
}

/// Runs the subcommand that the arguments choose, the first of which is the program's own name.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let called_as = arguments.first().and_then(|name| Path::new(name).file_name());
    if called_as.is_some_and(|name| name == lxcfs::NAME) {
        return lxcfs::run(&arguments);
    }
    let as_docker = match arguments.get(1).and_then(|name| name.to_str()) {
        Some("run") => Some(run::NAME),
        Some("exec") => Some(exec::NAME),
        _ => None,
    };
    if let Some(name) = as_docker
        && let Err(error) = program::protect(&arguments)
    {
        eprintln!("{name}: {error}");
        return ExitCode::from(run::STATUS_OF_OURS);
    }
    match Cli::try_parse_from(&arguments) {
        Ok(Cli { command: Command::Explain(args) }) => explain::run(&args),
        Ok(Cli { command: Command::Run(args) }) => run::run(*args),
        Ok(Cli { command: Command::Exec(args) }) => exec::run(args),
        Ok(Cli { command: Command::Ps(args) }) => ps::run(&args),
        Ok(Cli { command: Command::Stop(args) }) => stop::run(&args),
        Ok(Cli { command: Command::Attach(args) }) => attach::run(&args),
        Ok(Cli { command: Command::Detach(args) }) => attach::run_detach(&args),
        Ok(Cli { command: Command::Heal(args) }) => heal::run(&args),
        Ok(Cli { command: Command::Print(args) }) => print::run(&args),
        Ok(Cli { command: Command::Serve(args) }) => serve::run(args),
        Ok(Cli { command: Command::Status(args) }) => status::run(&args),
        Ok(Cli { command: Command::Upgrade(args) }) => upgrade::run(&args),
        Ok(Cli { command: Command::Generate(args) }) => generate::run(&args, Cli::command()),
        Err(error) => refuse(&error, as_docker),
    }
}

/// Answers a command line that is not to be executed: help on standard output, or what is
/// wrong on standard error. All that is wrong with what Docker has too has Docker's status.
fn refuse(error: &clap::Error, as_docker: Option<&str>) -> ExitCode {
    let status = if as_docker.is_some() { run::STATUS_OF_OURS } else { STATUS_OF_USAGE };
    let name = as_docker.unwrap_or("lxcfs-rs");
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

/// A path of the command line, whatever becomes the working directory.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Error::io("find", path, error))
}

/// Prints what failed, after the name of who says so.
fn status_of(name: &str, done: Result<()>) -> ExitCode {
    let Err(error) = done else { return ExitCode::SUCCESS };
    eprintln!("{name}: {error}");
    ExitCode::FAILURE
}

/// Prints a command's result.
fn write_out(text: &str) -> Result<()> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        // As of `status | head`.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| Error::io("write", "standard output", error)),
    }
}

/// Log lines stand among a command's own output: only what a person must know.
fn log_for_people(name: &'static str) {
    log_from("warn", name);
}

/// The same from another level on, where RUST_LOG says none.
fn log_from(level: &str, name: &'static str) {
    let wanted = env_logger::Env::default().default_filter_or(level);
    env_logger::Builder::from_env(wanted)
        .format(move |out, record| writeln!(out, "{name}: {}", record.args()))
        .init();
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
