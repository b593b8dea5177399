//! `lxcfs-rs ps`: the containers that run.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use jiff::Timestamp;
use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::runtime;
use lxcfs_rs::runtime::state::{Record, short};

/// What its messages begin with.
const NAME: &str = "lxcfs-rs: ps";

/// List the running containers
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// One JSON document with all that is known of them
    #[arg(long)]
    json: bool,

    /// Their ids alone
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,

    /// Ids and commands in full
    #[arg(long)]
    no_trunc: bool,
}

/// Lists them; every error is one line.
pub(crate) fn run(args: &Args) -> ExitCode {
    super::log_for_people(NAME);
    let listed = runtime::list().and_then(|mut records| {
        records.reverse();
        let text = if args.json { json(&records)? } else { table(&records, args) };
        // A closed pipe, as of `ps | head`, is no failure.
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(())
    });
    super::status_of(NAME, listed)
}

fn json(records: &[Record]) -> Result<String> {
    serde_json::to_string_pretty(records)
        .map(|text| text + "\n")
        .map_err(|error| Error::Refused(error.to_string()))
}

fn table(records: &[Record], args: &Args) -> String {
    let id = |record: &Record| {
        if args.no_trunc { record.id.clone() } else { short(&record.id).to_owned() }
    };
    if args.quiet {
        return records.iter().map(|record| id(record) + "\n").collect();
    }
    let mut rows =
        vec![["CONTAINER ID", "COMMAND", "CREATED", "STATUS", "NAMES"].map(str::to_owned)];
    let now = Timestamp::now();
    rows.extend(records.iter().map(|record| {
        let age = Duration::try_from(now.duration_since(record.created)).unwrap_or_default();
        let age = age_in_words(age);
        let command = shown(&record.command, args.no_trunc);
        [id(record), command, format!("{age} ago"), format!("Up {age}"), record.name.clone()]
    }));
    aligned(&rows)
}

/// Rows with their columns below each other, three blanks apart.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: String =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}   ")).collect();
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text
}

/// A command in quotes: of a long one its beginning, and nothing that a terminal would obey.
fn shown(command: &[String], is_whole: bool) -> String {
    const LONGEST: usize = 20;
    let quoted = |argument: &String| {
        if argument.contains(' ') { format!("'{argument}'") } else { argument.clone() }
    };
    let line = command.iter().map(quoted).collect::<Vec<_>>().join(" ");
    let escaped: String = line.chars().flat_map(escaped).collect();
    if is_whole || escaped.chars().count() <= LONGEST {
        return format!("\"{escaped}\"");
    }
    let beginning: String = escaped.chars().take(LONGEST - 1).collect();
    format!("\"{beginning}…\"")
}

/// A character of a line in double quotes.
fn escaped(character: char) -> Vec<char> {
    if character == '\'' { vec![character] } else { character.escape_debug().collect() }
}

/// An age as Docker words it.
fn age_in_words(age: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const WEEK: u64 = 7 * DAY;
    const MONTH: u64 = 30 * DAY;
    const YEAR: u64 = 365 * DAY;
    let seconds = age.as_secs();
    // Hours, and what is made of them, are rounded; minutes and seconds are cut off.
    let rounded = (seconds + HOUR / 2) / HOUR * HOUR;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..MINUTE => format!("{seconds} seconds"),
        MINUTE..120 => "About a minute".to_owned(),
        120..HOUR => format!("{} minutes", seconds / MINUTE),
        _ if rounded < 2 * HOUR => "About an hour".to_owned(),
        _ if rounded < 2 * DAY => format!("{} hours", rounded / HOUR),
        _ if rounded < 2 * WEEK => format!("{} days", rounded / DAY),
        _ if rounded < 2 * MONTH => format!("{} weeks", rounded / WEEK),
        _ if rounded < 2 * YEAR => format!("{} months", rounded / MONTH),
        _ => format!("{} years", rounded / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_as_docker_words_them() {
        for (seconds, words) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86_400, "2 weeks"),
            (60 * 86_400, "2 months"),
            (730 * 86_400, "2 years"),
        ] {
            assert_eq!(age_in_words(Duration::from_secs(seconds)), words, "{seconds}");
        }
    }

    #[test]
    fn commands_are_cut_and_harmless() {
        let shown = |command: &[&str], is_whole| {
            shown(&command.iter().map(|&part| part.to_owned()).collect::<Vec<_>>(), is_whole)
        };
        assert_eq!(shown(&["sleep", "1000"], false), "\"sleep 1000\"");
        assert_eq!(shown(&["12345678901234567890"], false), "\"12345678901234567890\"");
        let long = ["sh", "-c", "while :; do sleep 1; done"];
        assert_eq!(shown(&long, false), "\"sh -c 'while :; do …\"");
        assert_eq!(shown(&long, true), "\"sh -c 'while :; do sleep 1; done'\"");
        assert_eq!(shown(&["a\u{1b}[2J\"\n"], false), "\"a\\u{1b}[2J\\\"\\n\"");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["A", "B"], ["long", "x"], ["ü", "y"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(&rows), "A      B\nlong   x\nü      y\n");
    }
}
