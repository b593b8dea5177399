//! `lxcfs-rs exec`: a command in a running container, Docker's way.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use lxcfs_rs::error::Error;
use lxcfs_rs::runtime::exec;
use lxcfs_rs::runtime::spec::{self, Attach, Process};

use super::run::STATUS_OF_OURS;

/// What its messages begin with.
pub(super) const NAME: &str = "lxcfs-rs: exec";

/// Run a command in a running container
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Let the command read this standard input
    #[arg(short, long)]
    interactive: bool,

    /// Give the command a terminal of its own
    #[arg(short, long)]
    tty: bool,

    /// A variable of its environment; a NAME alone has the caller's value. May be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]",
        value_parser = OsStringValueParser::new().try_map(spec::parse_variable))]
    env: Vec<OsString>,

    /// Who it is, names or numbers of the container's [default: as the container's first]
    #[arg(short, long, value_name = "USER[:GROUP]", allow_hyphen_values = true)]
    user: Option<String>,

    /// Its working directory [default: the container's]
    #[arg(short, long, value_name = "DIR", value_parser = spec::parse_directory)]
    workdir: Option<PathBuf>,

    /// Give it all capabilities
    #[arg(long)]
    privileged: bool,

    /// The container's name, its id, or the beginning of that
    container: String,

    /// The command and its arguments
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    command: Vec<OsString>,
}

/// Executes it; the exit status is that of `docker exec`.
pub(crate) fn run(args: Args) -> ExitCode {
    super::log_for_people(NAME);
    let request = exec::Request {
        container: args.container,
        process: Process {
            command: args.command,
            environment: args.env,
            directory: args.workdir,
            user: args.user.unwrap_or_default(),
        },
        attach: Attach { input: args.interactive, terminal: args.tty },
        is_privileged: args.privileged,
    };
    let error = match exec::exec(&request) {
        Ok(status) => return ExitCode::from(status),
        Err(error) => error,
    };
    eprintln!("{NAME}: {error}");
    ExitCode::from(if let Error::NotExecuted { status, .. } = error {
        status
    } else {
        STATUS_OF_OURS
    })
}
