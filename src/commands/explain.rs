//! `lxcfs-rs explain`: what a reader sees in our files, line by line, and why.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use lxcfs_rs::collect::levels::{Bounds, Level};
use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::files::TABLE;
use lxcfs_rs::vfs::Vfs;
use lxcfs_rs::vfs::explain::Explained;

use super::STATUS_OF_USAGE;
use super::container::first_process;

/// Show what a process or a container sees in the served files, and where each line comes from
///
/// The files are made as a daemon makes them that starts now: CPU times and load averages that
/// a running daemon remembers are not in them.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The process to look through the eyes of [default: this one]
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// A container, by its id or a directory of its cgroup's path; then a file, such as meminfo or
    /// /sys/devices/system/cpu/present [default: all but the directories of /sys]
    #[arg(value_name = "CONTAINER|FILE", num_args = 0..=2)]
    what: Vec<String>,

    /// Show only the lines that differ from the host's
    #[arg(long)]
    diff: bool,

    /// Print JSON
    #[arg(long, conflicts_with = "diff")]
    json: bool,
}

/// All that is told.
#[derive(serde::Serialize)]
struct Told {
    pid: u32,
    #[serde(flatten)]
    bounds: Bounds,
    files: Vec<Explained>,
}

/// Tells; every error is one line.
pub(crate) fn run(args: &Args) -> ExitCode {
    let (container, file) = match sort(&args.what, args.pid.is_some()) {
        Ok(sorted) => sorted,
        Err(message) => {
            eprintln!("lxcfs-rs: explain: {message}");
            return ExitCode::from(STATUS_OF_USAGE);
        }
    };
    match tell(args, container, file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lxcfs-rs: explain: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Which argument is the container and which the file.
fn sort(what: &[String], has_pid: bool) -> Result<(Option<&str>, Option<String>), String> {
    let (container, file) = match what {
        [] => (None, None),
        [one] => match served(one) {
            Some(path) => (None, Some(path)),
            None => (Some(one.as_str()), None),
        },
        [container, file, ..] => match served(file) {
            Some(path) => (Some(container.as_str()), Some(path)),
            None => return Err(format!("'{file}': expected a served file, such as meminfo")),
        },
    };
    match container {
        Some(container) if has_pid => Err(format!(
            "'{container}': is no served file, and the container is chosen by --pid already"
        )),
        container => Ok((container, file)),
    }
}

/// The path below `/` of a file that is meant by `name`.
fn served(name: &str) -> Option<String> {
    let path = name.trim_start_matches('/');
    let in_proc = format!("proc/{path}");
    let row = TABLE.iter().find(|row| row.path == path || row.path == in_proc);
    row.map(|row| row.path.to_owned())
        .or_else(|| path.starts_with("sys/devices/system/").then(|| path.to_owned()))
}

fn tell(args: &Args, container: Option<&str>, file: Option<String>) -> Result<()> {
    let pid = match (args.pid, container) {
        (Some(pid), _) => pid,
        (None, Some(container)) => first_process(container)?.ok_or_else(|| {
            Error::Refused(format!(
                "'{container}': no process is in a cgroup of this name; expected a served file, a \
                 container's id, or a directory of its cgroup's path"
            ))
        })?,
        (None, None) => std::process::id(),
    };
    if !Path::new("/proc").join(pid.to_string()).exists() {
        return Err(Error::Refused(format!("process {pid}: there is none")));
    }
    let vfs = Vfs::of_machine()?;
    let bounds = vfs.bounds(pid)?;
    let files = match file {
        Some(path) => {
            let told = vfs.explain(&path, pid);
            vec![told.map_err(|error| Error::Refused(format!("/{path}: {error}")))?]
        }
        // This kernel, or this cgroup, may not have them all.
        None => TABLE.iter().filter_map(|row| vfs.explain(row.path, pid).ok()).collect(),
    };
    let told = Told { pid, bounds, files };
    let text = if args.json {
        serde_json::to_string_pretty(&told).map_err(|error| Error::Refused(error.to_string()))?
            + "\n"
    } else if args.diff {
        told.files.iter().map(differences).collect()
    } else {
        in_words(&told)
    };
    // A closed pipe, as of `explain | head`, is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn in_words(told: &Told) -> String {
    let mut text = format!("process {}: {}\n", told.pid, told.bounds.subject);
    for level in &told.bounds.levels {
        text.push_str(&line_of(level));
    }
    for file in &told.files {
        text.push_str(&format!("\n/{}\n", file.path));
        let width =
            file.lines.iter().map(|line| line.text.chars().count()).max().unwrap_or(0).min(60);
        for line in &file.lines {
            text.push_str(&format!("{:width$}  # {}\n", line.text, line.source));
        }
    }
    text
}

/// `memory (v2) /pod/c1: memory.max 524288000*, …`; the star is at what decides.
fn line_of(level: &Level) -> String {
    let files = level.files.iter().map(|file| {
        let star = if file.decides { "*" } else { "" };
        format!("{} {}{star}", file.name, file.value)
    });
    let files: Vec<String> = files.collect();
    format!("{} ({}) {}: {}\n", level.controller, level.version, level.path, files.join(", "))
}

/// The lines that the host's file has and this one has not, and the other way round.
fn differences(file: &Explained) -> String {
    let host: Vec<&str> = file.host.lines().collect();
    let shown: Vec<&str> = file.lines.iter().map(|line| line.text.as_str()).collect();
    let mut text = format!("--- host /{}\n+++ shown\n", file.path);
    let (mut before, mut after) = (0, 0);
    while before < host.len() || after < shown.len() {
        let (old, new) = (host.get(before), shown.get(after));
        if old == new {
            (before, after) = (before + 1, after + 1);
            continue;
        }
        // One that comes again further on was left out, or put in, here; else it was changed.
        let is_gone = new.is_none_or(|new| host[before..].contains(new));
        let is_new = old.is_none_or(|old| shown[after..].contains(old));
        if let Some(old) = old.filter(|_| !is_new || is_gone) {
            text.push_str(&format!("-{old}\n"));
            before += 1;
        }
        if let Some(new) = new.filter(|_| !is_gone) {
            text.push_str(&format!("+{new}\n"));
            after += 1;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use lxcfs_rs::vfs::explain::Line;

    fn arguments(what: &[&str]) -> Vec<String> {
        what.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn files_and_containers_are_told_apart() {
        let sorted = |what: &[&str]| {
            let what = arguments(what);
            sort(&what, false).map(|(container, file)| (container.map(str::to_owned), file))
        };
        let meminfo = || Some("proc/meminfo".to_owned());
        assert_eq!(sorted(&[]), Ok((None, None)));
        for name in ["meminfo", "/proc/meminfo", "proc/meminfo"] {
            assert_eq!(sorted(&[name]), Ok((None, meminfo())));
        }
        assert_eq!(sorted(&["abc"]), Ok((Some("abc".to_owned()), None)));
        assert_eq!(sorted(&["abc", "meminfo"]), Ok((Some("abc".to_owned()), meminfo())));
        let present = "sys/devices/system/cpu/present".to_owned();
        assert_eq!(sorted(&["/sys/devices/system/cpu/present"]), Ok((None, Some(present))));
        assert!(sorted(&["abc", "def"]).is_err());
        assert!(sort(&arguments(&["abc"]), true).is_err());
        assert!(sort(&arguments(&["meminfo"]), true).is_ok());
    }

    #[test]
    fn differences_are_changed_removed_and_added_lines() {
        let told = |host: &str, shown: &str| {
            let lines =
                shown.lines().map(|text| Line { text: text.to_owned(), source: String::new() });
            let file =
                Explained { path: "x".to_owned(), lines: lines.collect(), host: host.to_owned() };
            differences(&file).lines().skip(2).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told("a\nb\nc\n", "a\nb\nc\n"), "");
        assert_eq!(told("a\nb\nc\n", "a\nx\nc\n"), "-b +x");
        assert_eq!(told("a\nb\nc\n", "a\nc\n"), "-b");
        assert_eq!(told("a\nc\n", "a\nb\nc\n"), "+b");
        assert_eq!(told("a\n", "b\nc\n"), "-a +b +c");
        assert_eq!(told("a\nb\n", ""), "-a -b");
        assert_eq!(told("a\nb\n", "b\na\n"), "-a +a");
    }
}
