//! One file per subcommand: its options and the few lines that call the library.

use std::process::ExitCode;

mod serve;

/// `/proc` files that show each container its own memory, CPUs, uptime and load
#[derive(Debug, clap::Parser)]
#[command(name = "lxcfs-rs", version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(serve::Args),
}

/// Runs the chosen subcommand.
pub(crate) fn run(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Serve(args) => serve::run(args),
    }
}
