//! `lxcfs-rs upgrade`: has a running daemon go on as another program.

use std::path::PathBuf;
use std::process::ExitCode;

use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::fuse::control;

use super::{Place, absolute, status_of};

/// Have a running daemon go on as this program, or another one; no reader notices
///
/// The daemon keeps its command line, and reads its file again. A program that does not understand
/// one of them, or cannot start, is refused, and the daemon goes on as it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    /// The program to go on as [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Asks for it.
pub(crate) fn run(args: &Args) -> ExitCode {
    status_of("lxcfs-rs: upgrade", upgrade(args))
}

fn upgrade(args: &Args) -> Result<()> {
    let program = match &args.program {
        Some(program) => absolute(program)?,
        None => {
            std::env::current_exe().map_err(|error| Error::io("find", "/proc/self/exe", error))?
        }
    };
    let mountpoint = args.place.mountpoint()?;
    let version = control::upgrade(&args.place.runtime_dir()?, &mountpoint, &program)?;
    println!("{}: served by {} {version}", mountpoint.display(), program.display());
    Ok(())
}
