//! One binary: arguments, options, one call, exit code.

use std::env;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

mod commands;

/// Exit status of a command line that is not understood.
const STATUS_OF_USAGE: u8 = 2;

/// /proc files that show each reader its own container.
#[derive(Debug, Parser)]
#[command(name = "lxcfs-rs", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(commands::run::Args),
}

fn main() -> ExitCode {
    let subcommand = env::args_os().nth(1).filter(|name| name == "run");
    let prefix = if subcommand.is_some() { "lxcfs-rs: run" } else { "lxcfs-rs" };
    log_to_stderr(prefix);
    let status = match Cli::try_parse() {
        Ok(cli) => match cli.command {
            Command::Run(args) => commands::run::run(args),
        },
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                // A closed pipe behind `--help | head` is no failure.
                let _ = error.print();
                0
            }
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                let _ = error.print();
                STATUS_OF_USAGE
            }
            _ => {
                log::error!("{}", one_line(&error));
                match subcommand {
                    Some(_) => lxcfs_rs::runtime::init::STATUS_OF_RUNTIME,
                    None => STATUS_OF_USAGE,
                }
            }
        },
    };
    ExitCode::from(status)
}

/// What is wrong with the command line, without clap's usage text below it.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = message.split_whitespace().collect();
    let line = words.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// Log lines for a person, on standard error; RUST_LOG chooses how many.
fn log_to_stderr(prefix: &'static str) {
    let wanted = env_logger::Env::default().default_filter_or("warn");
    env_logger::Builder::from_env(wanted)
        .format(move |out, record| writeln!(out, "{prefix}: {}", record.args()))
        .init();
}
