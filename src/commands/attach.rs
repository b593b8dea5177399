//! `lxcfs-rs attach` and `lxcfs-rs detach`: the files in a container that runs already.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lxcfs_rs::error::Result;
use lxcfs_rs::files;
use lxcfs_rs::runtime::attach;

use super::{STATUS_OF_USAGE, absolute, container, settings, status_of};

/// What the messages of each begin with.
const ATTACH: &str = "lxcfs-rs: attach";
const DETACH: &str = "lxcfs-rs: detach";

/// Put the served files into a container that is running already
///
/// All of them or, where one fails, none. Those that are there already stay; dead ones of an
/// lxcfs that has ended are replaced.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,

    /// Only these, such as meminfo, pressure/cpu or /sys/devices/system/cpu [default: all]
    #[arg(value_name = "FILE")]
    files: Vec<String>,
}

/// Take the served files, and dead ones, out of a running container: the kernel's show again
#[derive(clap::Args, Debug)]
pub(crate) struct DetachArgs {
    #[command(flatten)]
    which: Which,
}

/// Which container, and which daemon.
#[derive(clap::Args, Debug)]
struct Which {
    /// A process in the container; or the container: a name or id of `lxcfs-rs run`'s, another
    /// engine's id or at least 12 digits of it, or a directory of its cgroup's path
    #[arg(value_name = "PID|CONTAINER")]
    container: String,

    /// Where the daemon serves [default: that of /etc/lxcfs-rs.toml, or /var/lib/lxcfs]
    #[arg(long, value_name = "DIR")]
    mountpoint: Option<PathBuf>,

    /// Say what is done and what is left out
    #[arg(short, long)]
    verbose: bool,
}

/// Attaches; every error is one line.
pub(crate) fn run(args: &Args) -> ExitCode {
    args.which.start_logging(ATTACH);
    let wanted = match wanted(&args.files) {
        Ok(wanted) => wanted,
        Err(message) => {
            eprintln!("{ATTACH}: {message}");
            return ExitCode::from(STATUS_OF_USAGE);
        }
    };
    let which = &args.which;
    let done = container::find(&which.container).and_then(|target| {
        let places = attach::attach(&target, &which.mountpoint()?, &wanted)?;
        places.iter().for_each(|place| log::info!("{}: attached", place.display()));
        Ok(())
    });
    status_of(ATTACH, done)
}

/// Detaches; every error is one line.
pub(crate) fn run_detach(DetachArgs { which }: &DetachArgs) -> ExitCode {
    which.start_logging(DETACH);
    let done = container::find(&which.container).and_then(|target| {
        let places = attach::detach(&target, &which.mountpoint()?)?;
        places.iter().for_each(|place| log::info!("{}: detached", place.display()));
        Ok(())
    });
    status_of(DETACH, done)
}

impl Which {
    fn mountpoint(&self) -> Result<PathBuf> {
        absolute(&settings::mountpoint(self.mountpoint.as_deref())?)
    }

    fn start_logging(&self, name: &'static str) {
        super::log_from(if self.verbose { "info" } else { "warn" }, name);
    }
}

/// The mounts that `files` name: all of them where there are none.
fn wanted(files: &[String]) -> Result<Vec<files::Mount>, String> {
    if files.is_empty() {
        return Ok(files::mounts().collect());
    }
    let named = |name: &String| {
        let path = Path::new(name.trim_start_matches('/'));
        let in_proc = Path::new("proc").join(path);
        let is_meant = |mount: &files::Mount| [path, &in_proc].contains(&Path::new(mount.path));
        files::mounts().find(is_meant).ok_or_else(|| {
            let all: Vec<&str> = files::mounts().map(|mount| mount.path).collect();
            format!("'{name}': expected one of {}", all.join(", "))
        })
    };
    files.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_as_people_do() {
        let paths = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let wanted = wanted(&names)?;
            Ok::<_, String>(wanted.iter().map(|mount| mount.path).collect::<Vec<_>>())
        };
        assert_eq!(
            paths(&["meminfo", "/proc/stat", "pressure/io", "/sys/devices/system/cpu/"]).unwrap(),
            ["proc/meminfo", "proc/stat", "proc/pressure/io", "sys/devices/system/cpu"]
        );
        assert_eq!(paths(&[]).unwrap().len(), files::mounts().count());
        for unknown in ["partitions", "", "/", "pressure", "sys/devices/system/cpu/online"] {
            assert!(paths(&[unknown]).unwrap_err().contains("expected one of"), "{unknown}");
        }
    }
}
