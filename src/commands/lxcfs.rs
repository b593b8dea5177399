//! Called as `lxcfs`: the command line of lxcfs 5, 6 and 7, so that this program can stand in
//! its place.
//!
//! Whatever lxcfs has to be told and is so here anyway is accepted without a word; what has no
//! meaning here, with a warning. Like lxcfs it stays in the foreground, says everything on
//! standard error, and ends with 1 for whatever keeps it from serving.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Parser as _;
use clap::error::ErrorKind;
use lxcfs_rs::collect::{CpuCount, SwapView, UpSince};
use lxcfs_rs::cpulist::CpuIds;
use lxcfs_rs::fuse::daemon::Options;

use super::one_line;
use super::serve::Daemon;

/// What the program is called for this, and what its messages begin with.
pub(super) const NAME: &str = "lxcfs";

/// First what a script that looks for features of lxcfs's expects to find, in quotes as there.
const VERSION: &str = concat!("\"7.0.0\" (lxcfs-rs ", env!("CARGO_PKG_VERSION"), ")");

/// Serve /proc files that show each container its own, in the place of lxcfs
#[derive(Debug, clap::Parser)]
#[command(
    name = NAME,
    version = VERSION,
    disable_help_flag = true,
    disable_version_flag = true,
    arg_required_else_help = true,
    args_override_self = true,
    infer_long_args = true
)]
struct Args {
    /// Directory to mount on; made if it is missing
    mountpoint: PathBuf,

    /// Log every request
    #[arg(short, long, conflicts_with = "foreground")]
    debug: bool,

    /// Stay in the foreground, which it always does
    #[arg(short, long)]
    foreground: bool,

    /// Always so: load averages are the container's
    #[arg(short = 'l', long)]
    enable_loadavg: bool,

    /// FUSE options; those that lxcfs needs are always on
    #[arg(short, value_name = "OPTIONS", value_delimiter = ',')]
    options: Vec<FuseOption>,

    /// File to hold the daemon's pid while it runs [default: lxcfs.pid in the runtime directory]
    #[arg(short, long, value_name = "FILE")]
    pidfile: Option<PathBuf>,

    /// Show containers a machine without swap
    #[arg(short = 'u', long)]
    disable_swap: bool,

    /// Show containers a machine without zswap
    #[arg(long)]
    disable_zswap: bool,

    /// Show as many CPUs as the CPU quota allows, rounded up; else quotas do not count
    #[arg(long)]
    enable_cfs: bool,

    /// Have the files of pressure take triggers, for which the mount cannot be read-only
    #[arg(long)]
    enable_psi_poll: bool,

    /// Directory for what is to outlive the daemon, in lxcfs-rs
    #[arg(long, value_name = "DIR", default_value = "/run")]
    runtime_dir: PathBuf,

    /// Obsolete: processes are always tracked by pidfds
    #[arg(long)]
    enable_pidfd: bool,

    /// Obsolete: there is no cgroup directory; containers have cgroup namespaces
    #[arg(long)]
    enable_cgroup: bool,

    /// Obsolete: it always has several threads
    #[arg(short)]
    single: bool,

    /// Print this
    #[arg(short, long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// Print the version
    #[arg(short, long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// An option of `-o`, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FuseOption {
    /// So here anyway.
    Always,
    /// `ro`, or `rw`.
    ReadOnly(bool),
    /// libfuse or mount(8) would do something for it.
    NotDone(String),
}

/// What is so anyway. How long names and attributes are remembered is decided for each.
const ALWAYS: &[&str] = &[
    "allow_other",
    "attr_timeout",
    "default_permissions",
    "direct_io",
    "entry_timeout",
    "nodev",
    "nonempty",
    "nosuid",
];

/// The other options of mount.fuse3(8) and mount(8), and those that libfuse 2 had.
const NOT_DONE: &[&str] = &[
    "ac_attr_timeout",
    "allow_root",
    "async",
    "async_read",
    "atime",
    "atomic_o_trunc",
    "auto_cache",
    "auto_unmount",
    "big_writes",
    "blkdev",
    "blksize",
    "clone_fd",
    "congestion_threshold",
    "debug",
    "dev",
    "diratime",
    "dirsync",
    "drop_privileges",
    "exec",
    "fsname",
    "gid",
    "hard_remove",
    "intr",
    "intr_signal",
    "kernel_cache",
    "large_read",
    "lazytime",
    "max_background",
    "max_idle_threads",
    "max_read",
    "max_readahead",
    "max_threads",
    "max_write",
    "modules",
    "negative_timeout",
    "no_remote_lock",
    "noatime",
    "noauto_cache",
    "nodiratime",
    "noexec",
    "noforget",
    "norelatime",
    "readdir_ino",
    "relatime",
    "remember",
    "setuid",
    "splice_move",
    "splice_read",
    "splice_write",
    "strictatime",
    "subtype",
    "suid",
    "sync",
    "sync_read",
    "uid",
    "umask",
    "use_ino",
];

impl FromStr for FuseOption {
    type Err = String;

    fn from_str(option: &str) -> Result<Self, String> {
        let name = option.split('=').next().unwrap_or_default();
        // mount(8) takes empty ones for a slip, as between two commas.
        if name.is_empty() || ALWAYS.contains(&name) {
            return Ok(FuseOption::Always);
        }
        if name == "ro" || name == "rw" {
            return Ok(FuseOption::ReadOnly(name == "ro"));
        }
        if NOT_DONE.contains(&name) {
            return Ok(FuseOption::NotDone(option.to_owned()));
        }
        Err("expected an option of mount.fuse3(8)".to_owned())
    }
}

impl Args {
    /// What is accepted without being followed.
    fn warnings(&self) -> Vec<String> {
        let obsolete = [
            (self.enable_pidfd, "--enable-pidfd: obsolete, it is always so"),
            (self.enable_cgroup, "--enable-cgroup: obsolete, there is no cgroup directory"),
            (self.single, "-s: obsolete, it always has several threads"),
        ];
        let obsolete =
            obsolete.iter().filter(|(given, _)| *given).map(|(_, line)| (*line).to_owned());
        let not_done = self.options.iter().filter_map(|option| match option {
            FuseOption::Always | FuseOption::ReadOnly(_) => None,
            FuseOption::NotDone(option) => Some(format!("-o {option}: nothing is done for it")),
        });
        obsolete.chain(not_done).collect()
    }

    fn into_daemon(self) -> Daemon {
        let told = self.options.iter().rev().find_map(|option| match option {
            FuseOption::ReadOnly(told) => Some(*told),
            FuseOption::Always | FuseOption::NotDone(_) => None,
        });
        // Without psi-poll lxcfs has no triggers either.
        let read_only = told.unwrap_or(!self.enable_psi_poll);
        let pidfile = self.pidfile.unwrap_or_else(|| self.runtime_dir.join("lxcfs.pid"));
        let options = Options {
            mountpoint: self.mountpoint,
            nonempty: true,
            read_only,
            workers: None,
            pidfile: Some(pidfile),
        };
        Daemon {
            name: NAME,
            options,
            runtime_dir: self.runtime_dir.join("lxcfs-rs"),
            take_over: false,
            cpu_count: if self.enable_cfs { CpuCount::Ceil } else { CpuCount::Cpuset },
            cpu_ids: CpuIds::default(),
            up_since: UpSince::default(),
            swap: SwapView { hidden: self.disable_swap, zswap_hidden: self.disable_zswap },
            verbose: if self.debug { 2 } else { 0 },
        }
    }
}

/// Serves as lxcfs does.
pub(super) fn run(arguments: &[OsString]) -> ExitCode {
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => return refuse(&error),
    };
    for line in args.warnings() {
        eprintln!("{NAME}: {line}");
    }
    args.into_daemon().run()
}

/// Answers a command line that is not to be executed, as lxcfs does.
fn refuse(error: &clap::Error) -> ExitCode {
    const HELP: [ErrorKind; 2] =
        [ErrorKind::DisplayHelp, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
    let kind = error.kind();
    if kind == ErrorKind::DisplayVersion {
        eprintln!("{VERSION}");
        return ExitCode::SUCCESS;
    }
    if HELP.contains(&kind) {
        eprint!("{error}");
    } else {
        eprintln!("{NAME}: {}", one_line(&error.to_string()));
    }
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Args, ErrorKind> {
        let arguments = std::iter::once(NAME).chain(arguments.split_whitespace());
        Args::try_parse_from(arguments).map_err(|error| error.kind())
    }

    fn daemon(arguments: &str) -> Daemon {
        parse(arguments).unwrap().into_daemon()
    }

    /// Each with the least that it may be shortened to, and without a meaning that would warn.
    #[test]
    fn every_option_of_lxcfs_is_accepted() {
        for arguments in [
            "/m",
            "-d /m",
            "--debug /m",
            "-f /m",
            "--foreground /m",
            "-l /m",
            "--enable-loadavg /m",
            "-o allow_other,direct_io,entry_timeout=0.5,attr_timeout=0.5,nonempty /m",
            "-p /x /m",
            "-p/x /m",
            "--pidfile=/x /m",
            "--pidfile /x /m",
            "-u /m",
            "--disable-swap /m",
            "--disable-zswap /m",
            "--enable-cfs /m",
            "--enable-psi-poll /m",
            "-o ro /m",
            "--runtime-dir=/x /m",
            // Debian's, Ubuntu's and the README's.
            "-l --enable-cfs -f /m",
            "-lfu /m",
            "/m -l -p /x",
            "-l -l /m",
            "--disable-s --foreg /m",
            "-- /m",
        ] {
            let args = parse(arguments).unwrap_or_else(|kind| panic!("{arguments}: {kind:?}"));
            assert_eq!(args.mountpoint.to_str(), Some("/m"), "{arguments}");
            assert!(args.warnings().is_empty(), "{arguments}: {:?}", args.warnings());
        }
    }

    #[test]
    fn obsolete_ones_are_accepted_with_one_line() {
        for (arguments, option) in [
            ("-s /m", "-s:"),
            ("--enable-pidfd /m", "--enable-pidfd:"),
            ("--enable-cgroup /m", "--enable-cgroup:"),
            ("-o noatime,allow_other /m", "-o noatime:"),
            ("-o fsname=x /m", "-o fsname=x:"),
        ] {
            let lines = parse(arguments).unwrap().warnings();
            assert_eq!(lines.len(), 1, "{arguments}: {lines:?}");
            assert!(lines[0].starts_with(option) && !lines[0].contains('\n'), "{lines:?}");
        }
        assert_eq!(parse("-s --enable-pidfd --enable-cgroup /m").unwrap().warnings().len(), 3);
    }

    #[test]
    fn others_are_refused() {
        use ErrorKind::{
            ArgumentConflict, DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand,
            DisplayVersion, InvalidValue, TooManyValues, UnknownArgument, ValueValidation,
        };
        for (arguments, kind) in [
            ("", DisplayHelpOnMissingArgumentOrSubcommand),
            ("-h", DisplayHelp),
            ("--help", DisplayHelp),
            ("-v", DisplayVersion),
            ("--version", DisplayVersion),
            ("/m -v", DisplayVersion),
            ("-l --version --enable-cfs", DisplayVersion),
            // In the help of 5.0, but not in its options.
            ("-n", UnknownArgument),
            ("--bogus /m", UnknownArgument),
            ("--enable /m", UnknownArgument),
            ("/m /n", UnknownArgument),
            ("-f -d /m", ArgumentConflict),
            ("-o bogus /m", ValueValidation),
            ("-p", InvalidValue),
            ("--disable-swap=1 /m", TooManyValues),
        ] {
            assert_eq!(parse(arguments).map(|_| ()), Err(kind), "{arguments}");
        }
    }

    #[test]
    fn what_they_mean() {
        let plain = daemon("/m");
        let options = plain.options;
        assert_eq!(options.pidfile.unwrap().to_str(), Some("/run/lxcfs.pid"));
        assert_eq!(plain.runtime_dir.to_str(), Some("/run/lxcfs-rs"));
        assert!(options.nonempty && options.read_only);
        assert_eq!((plain.cpu_count, plain.verbose), (CpuCount::Cpuset, 0));
        assert_eq!(plain.swap, SwapView::default());

        let other = daemon("-d --enable-cfs -u --disable-zswap --runtime-dir=/x /m");
        assert_eq!(other.options.pidfile.unwrap().to_str(), Some("/x/lxcfs.pid"));
        assert_eq!(other.runtime_dir.to_str(), Some("/x/lxcfs-rs"));
        assert_eq!((other.cpu_count, other.verbose), (CpuCount::Ceil, 2));
        assert_eq!(other.swap, SwapView { hidden: true, zswap_hidden: true });
        assert!(!daemon("--enable-psi-poll /m").options.read_only);
        assert!(daemon("--enable-psi-poll -o rw,ro /m").options.read_only);
        assert!(!daemon("-o ro,rw /m").options.read_only);
        let named = daemon("--runtime-dir=/x -p /y/pid /m");
        assert_eq!(named.options.pidfile.unwrap().to_str(), Some("/y/pid"));
    }

    #[test]
    fn a_script_finds_the_version_in_quotes() {
        assert!(VERSION.starts_with("\"7.0.0\" (lxcfs-rs "));
    }
}
