//! `lxcfs-rs generate`: what a package has beside the program, made from the command line itself.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;
use lxcfs_rs::error::{Error, Result};

use super::status_of;

/// Write manual pages or shell completions into a directory
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    /// What to write
    what: What,

    /// Where to, a directory that is there
    directory: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    Man,
    Completions,
}

/// Writes them.
pub(crate) fn run(args: &Args, command: clap::Command) -> ExitCode {
    let written = match args.what {
        What::Man => man(command, &args.directory),
        What::Completions => completions(command, &args.directory),
    };
    status_of("lxcfs-rs: generate", written)
}

/// A page for each subcommand, and one that lists them.
fn man(command: clap::Command, directory: &Path) -> Result<()> {
    clap_mangen::generate_to(command, directory)
        .map_err(|error| Error::io("write manual pages to", directory, error))
}

fn completions(mut command: clap::Command, directory: &Path) -> Result<()> {
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        clap_complete::generate_to(shell, &mut command, "lxcfs-rs", directory)
            .map_err(|error| Error::io("write completions to", directory, error))?;
    }
    Ok(())
}
