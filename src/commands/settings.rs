//! The options of `serve`: one list of them, for its command line and for its file.

use std::fs;
use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lxcfs_rs::collect::{CpuCount, UpSince};
use lxcfs_rs::cpulist::CpuIds;
use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::files::MOUNTPOINT;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::one_line;

/// Read where no other file is named, if it is there.
const FILE: &str = "/etc/lxcfs-rs.toml";

/// Where a daemon keeps what outlives it, unless it is told otherwise.
const RUNTIME_DIR: &str = "/run/lxcfs-rs";

/// None of each that is not given.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Settings {
    /// Directory to mount on; made if it is missing [default: /var/lib/lxcfs]
    #[serde(deserialize_with = "absolute")]
    pub(super) mountpoint: Option<PathBuf>,

    /// File to hold the daemon's pid while it runs [default: none]
    #[arg(short, long, value_name = "FILE")]
    #[serde(deserialize_with = "absolute")]
    pub(super) pidfile: Option<PathBuf>,

    /// Directory for what is to outlive the daemon: the counters that its files have shown
    /// [default: /run/lxcfs-rs]
    #[arg(long, value_name = "DIR")]
    #[serde(deserialize_with = "absolute")]
    pub(super) runtime_dir: Option<PathBuf>,

    /// Go on with the connection of a daemon that serves there already, and end it; let another
    /// one do so with this
    #[arg(long)]
    pub(super) take_over: bool,

    /// Mount read-only: who asks for attributes, as cat and free do, waits one time less; pressure
    /// takes no triggers. Always so where the kernel has no pressure
    #[arg(long)]
    pub(super) read_only: bool,

    /// Worker threads [default: one per CPU, at least 2, at most 4]
    #[arg(long, value_name = "N")]
    pub(super) workers: Option<NonZeroUsize>,

    /// How many CPUs a quota of CPU time is shown as: ceil, floor, round, or cpuset to ignore it
    /// [default: ceil]
    #[arg(long, value_name = "RULE")]
    #[serde(deserialize_with = "parsed")]
    pub(super) cpu_count: Option<CpuCount>,

    /// By which numbers a container's CPUs are shown: physical, their own, or compact, from 0 on
    /// [default: physical]
    #[arg(long, value_name = "NUMBERS")]
    #[serde(deserialize_with = "parsed")]
    pub(super) cpu_ids: Option<CpuIds>,

    /// Since when a container without a time namespace is up: container, its first process, or
    /// host [default: container]
    #[arg(long, value_name = "SINCE")]
    #[serde(deserialize_with = "parsed")]
    pub(super) uptime: Option<UpSince>,

    /// Log more; twice, every request. RUST_LOG overrides it
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

/// Where the machine's daemon serves, unless that is given.
pub(super) fn mountpoint(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(given) => Ok(given.to_owned()),
        None => Ok(Settings::default().or_of_file(None)?.mountpoint()),
    }
}

/// And where its runtime directory is.
pub(super) fn runtime_dir(given: Option<&Path>) -> Result<PathBuf> {
    match given {
        Some(given) => Ok(given.to_owned()),
        None => Ok(Settings::default().or_of_file(None)?.runtime_dir()),
    }
}

impl Settings {
    pub(super) fn mountpoint(&self) -> PathBuf {
        self.mountpoint.clone().unwrap_or_else(|| MOUNTPOINT.into())
    }

    pub(super) fn runtime_dir(&self) -> PathBuf {
        self.runtime_dir.clone().unwrap_or_else(|| RUNTIME_DIR.into())
    }

    /// These, and where they are silent a file's: the one that is named, or [`FILE`].
    pub(super) fn or_of_file(self, named: Option<&Path>) -> Result<Settings> {
        let path = named.unwrap_or(Path::new(FILE));
        match fs::read_to_string(path) {
            Ok(text) => Ok(self.or(Settings::parse(path, &text)?)),
            Err(error) if error.kind() == ErrorKind::NotFound && named.is_none() => Ok(self),
            Err(error) => Err(Error::io("read", path, error)),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Settings> {
        toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let number = before.matches('\n').count();
            let line = text.lines().nth(number).unwrap_or_default().trim();
            let line = line.replace(char::is_control, "?");
            let (path, number, what) = (path.display(), number + 1, one_line(error.message()));
            Error::Refused(format!("{path}: line {number}: {line}: {what}"))
        })
    }

    fn or(self, other: Settings) -> Settings {
        Settings {
            mountpoint: self.mountpoint.or(other.mountpoint),
            pidfile: self.pidfile.or(other.pidfile),
            runtime_dir: self.runtime_dir.or(other.runtime_dir),
            take_over: self.take_over || other.take_over,
            read_only: self.read_only || other.read_only,
            workers: self.workers.or(other.workers),
            cpu_count: self.cpu_count.or(other.cpu_count),
            cpu_ids: self.cpu_ids.or(other.cpu_ids),
            uptime: self.uptime.or(other.uptime),
            verbose: if self.verbose > 0 { self.verbose } else { other.verbose },
        }
    }
}

/// A path that means the same whatever the working directory is.
fn absolute<'de, D: Deserializer<'de>>(value: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(value)?;
    if path.is_absolute() {
        return Ok(Some(path));
    }
    Err(D::Error::custom(format!("found {path:?}, expected an absolute path")))
}

/// What the command line takes as a word.
fn parsed<'de, D, T>(value: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = &'static str>,
{
    let word = String::deserialize(value)?;
    let parsed = word.parse().map(Some);
    parsed.map_err(|expected| D::Error::custom(format!("found {word:?}, {expected}")))
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    /// What packages install as [`FILE`].
    const SHIPPED: &str = include_str!("../../packaging/lxcfs-rs.toml");

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("/f"), text).map_err(|error| error.to_string())
    }

    fn words(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn command() -> clap::Command {
        Settings::augment_args(clap::Command::new("serve"))
    }

    /// The keys of the shipped file, in its order, each with the comment above it and its value.
    fn shipped() -> Vec<(String, String, String)> {
        let paragraphs = SHIPPED.split("\n\n").skip(1);
        let entry = |paragraph: &str| {
            let (comment, line) = paragraph.trim_end().rsplit_once("\n#").unwrap();
            let (key, value) = line.split_once(" = ").unwrap();
            (key.to_owned(), words(&comment.replace('#', "")), value.to_owned())
        };
        paragraphs.map(entry).collect()
    }

    #[test]
    fn the_shipped_file_has_every_option_with_its_help_and_its_default() {
        let options = command();
        let names =
            options.get_arguments().map(|option| option.get_id().as_str().replace('_', "-"));
        let shipped = shipped();
        assert_eq!(
            names.collect::<Vec<_>>(),
            shipped.iter().map(|it| it.0.clone()).collect::<Vec<_>>()
        );
        for (option, (key, comment, value)) in options.get_arguments().zip(&shipped) {
            let help = words(&option.get_help().unwrap().to_string());
            let (help, default) = help.split_once(" [default: ").unwrap_or((&help, "]"));
            assert!(comment.starts_with(help), "{key}: {comment}\nnot as in the help: {help}");
            let is_example = comment.ends_with("an example:");
            let default = default.trim_end_matches(']');
            assert!(
                is_example || default.is_empty() || value == &format!("\"{default}\""),
                "{key}: {value}, by the help {default}"
            );
        }
        assert_eq!(SHIPPED.lines().find(|line| !line.is_empty() && !line.starts_with('#')), None);
    }

    #[test]
    fn what_the_shipped_file_shows_is_understood_and_what_is_done_anyway() {
        let line = |(key, _, value): &(String, String, String)| format!("{key} = {value}\n");
        let shown = parse(&shipped().iter().map(line).collect::<String>()).unwrap();
        let silent = parse(SHIPPED).unwrap();
        assert!(silent.cpu_count.is_none() && silent.workers.is_none());
        assert_eq!(shown.mountpoint(), silent.mountpoint());
        assert_eq!(shown.runtime_dir(), silent.runtime_dir());
        assert_eq!(shown.cpu_count, Some(CpuCount::default()));
        assert_eq!(shown.cpu_ids, Some(CpuIds::default()));
        assert_eq!(shown.uptime, Some(UpSince::default()));
        assert_eq!((shown.take_over, shown.read_only, shown.verbose), (false, false, 0));
        assert!(shown.workers.is_some() && shown.pidfile.is_some());
    }

    #[test]
    fn the_command_line_wins() {
        let file = "mountpoint = '/file'\npidfile = '/file'\nruntime-dir = '/file'\n\
            take-over = true\nread-only = true\nworkers = 7\ncpu-count = 'floor'\ncpu-ids = 'compact'\n\
            uptime = 'host'\nverbose = 2\n";
        let given = |line: &str| {
            let matches = command().get_matches_from(line.split(' '));
            Settings::from_arg_matches(&matches).unwrap().or(parse(file).unwrap())
        };
        let silent = given("serve");
        assert_eq!(silent.mountpoint(), Path::new("/file"));
        assert_eq!(silent.runtime_dir(), Path::new("/file"));
        assert_eq!(silent.pidfile, Some("/file".into()));
        assert_eq!(silent.workers.map(NonZeroUsize::get), Some(7));
        assert_eq!(silent.cpu_count, Some(CpuCount::Floor));
        assert_eq!(silent.cpu_ids, Some(CpuIds::Compact));
        assert_eq!(silent.uptime, Some(UpSince::Host));
        assert_eq!((silent.take_over, silent.read_only, silent.verbose), (true, true, 2));

        let told = given(
            "serve /m --pidfile /p --runtime-dir /r --workers 3 --cpu-count round \
             --cpu-ids physical --uptime container -v",
        );
        assert_eq!(told.mountpoint(), Path::new("/m"));
        assert_eq!(told.runtime_dir(), Path::new("/r"));
        assert_eq!(told.pidfile, Some("/p".into()));
        assert_eq!(told.workers.map(NonZeroUsize::get), Some(3));
        assert_eq!(told.cpu_count, Some(CpuCount::Round));
        assert_eq!(told.cpu_ids, Some(CpuIds::Physical));
        assert_eq!(told.uptime, Some(UpSince::Container));
        assert_eq!(told.verbose, 1);
    }

    #[test]
    fn what_is_wrong_is_one_line_that_names_the_file_the_line_and_the_key() {
        for (text, said) in [
            (
                "\ncpu-counts = 'ceil'",
                "/f: line 2: cpu-counts = 'ceil': unknown field `cpu-counts`",
            ),
            ("cpu-count = 'x'", "/f: line 1: cpu-count = 'x': found \"x\", expected ceil, floor"),
            ("# a\n\n  cpu-ids = 3 # b", "/f: line 3: cpu-ids = 3 # b: invalid type: integer `3`"),
            (
                "workers = 0",
                "/f: line 1: workers = 0: invalid value: integer `0`, expected a nonzero",
            ),
            ("workers = '2'", "/f: line 1: workers = '2': invalid type: string \"2\", expected a"),
            (
                "verbose = 256",
                "/f: line 1: verbose = 256: invalid value: integer `256`, expected u8",
            ),
            (
                "take-over = 1",
                "/f: line 1: take-over = 1: invalid type: integer `1`, expected a bool",
            ),
            ("mountpoint = 'm'", "/f: line 1: mountpoint = 'm': found \"m\", expected an absolute"),
            ("uptime = 'host'\nuptime = 'host'", "/f: line 2: uptime = 'host': duplicate key"),
            ("[serve]\nworkers = 2", "/f: line 1: [serve]: unknown field `serve`"),
            ("workers", "/f: line 1: workers: "),
            ("pidfile = \"\u{1b}[2J", "/f: line 1: pidfile = \"?[2J: "),
        ] {
            let line = parse(text).unwrap_err();
            assert!(line.starts_with(said) && !line.contains('\n'), "{line}\nexpected {said}");
        }
    }

    #[test]
    fn a_file_that_is_named_has_to_be_there() {
        let missing = Path::new("/nowhere/at/all");
        let error = Settings::default().or_of_file(Some(missing)).unwrap_err().to_string();
        assert_eq!(error, "/nowhere/at/all: cannot read: No such file or directory");
    }
}
