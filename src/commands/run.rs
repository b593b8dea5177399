//! `lxcfs-rs run`: one container, Docker's way.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use lxcfs_rs::cgroup::devices::DeviceAccess;
use lxcfs_rs::cgroup::limits::{Limits, MemoryAndSwap};
use lxcfs_rs::cpulist::CpuSet;
use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::files::MOUNTPOINT;
use lxcfs_rs::fuse::daemon::{self, Options};
use lxcfs_rs::runtime::capabilities::{self, Named, Wishes};
use lxcfs_rs::runtime::confinement::{self, Asked, SecurityOption};
use lxcfs_rs::runtime::namespaces::{self, Network};
use lxcfs_rs::runtime::spec::{self, Attach, Process, Spec};
use lxcfs_rs::runtime::users::{self, Users};
use lxcfs_rs::runtime::volumes::{self, Volume};
use lxcfs_rs::runtime::{self, limits, names};
use lxcfs_rs::units::{Bytes, Limit, Usec};
use lxcfs_rs::vfs::Vfs;

/// What its messages begin with.
pub(super) const NAME: &str = "lxcfs-rs: run";

/// The exit status for whatever is not the command's own doing.
pub(super) use lxcfs_rs::runtime::supervise::STATUS_OF_RUNTIME as STATUS_OF_OURS;

/// Run a command in a new container that sees its own /proc
#[derive(clap::Args, Debug)]
#[command(disable_help_flag = true)] // Docker's -h is the host name
pub(crate) struct Args {
    /// What it is called, besides its id
    #[arg(long, value_name = "NAME", value_parser = spec::parse_name)]
    name: Option<String>,

    /// Remove it when it ends: every container is
    #[arg(long)]
    rm: bool,

    /// Memory limit: a number with an optional suffix b, k, m, g, t or p
    #[arg(short, long, value_name = "SIZE", value_parser = limits::parse_memory)]
    memory: Option<Limit<Bytes>>,

    /// Limit of memory and swap together; -1 for any swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", value_parser = limits::parse_memory_swap,
        allow_hyphen_values = true)]
    memory_swap: Option<MemoryAndSwap>,

    /// How many CPUs' time it may use, such as 1.5
    #[arg(long, value_name = "N", value_parser = limits::parse_cpus,
        conflicts_with_all = ["cpu_quota", "cpu_period"])]
    cpus: Option<Limit<Usec>>,

    /// The CPU time, in microseconds, that it may use in each period; -1 for any
    #[arg(long, value_name = "USEC", value_parser = limits::parse_cpu_quota,
        allow_hyphen_values = true)]
    cpu_quota: Option<Limit<Usec>>,

    /// The period of the CPU quota in microseconds [default: 100000]
    #[arg(long, value_name = "USEC", value_parser = limits::parse_cpu_period)]
    cpu_period: Option<Usec>,

    /// The CPUs it may run on, such as 0-2,4
    #[arg(long, value_name = "LIST", value_parser = limits::parse_cpuset)]
    cpuset_cpus: Option<CpuSet>,

    /// How many processes and threads it may have; -1 for any number
    #[arg(long, value_name = "N", value_parser = limits::parse_pids,
        allow_hyphen_values = true)]
    pids_limit: Option<Limit<u64>>,

    /// Its root directory, used as it is [default: a throw-away copy of the host's root]
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,

    /// Its root filesystem is read-only
    #[arg(long)]
    read_only: bool,

    /// A directory or file of the host's to have in it; may be given several times
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]", value_parser = volumes::parse)]
    volume: Vec<Volume>,

    /// Its host name [default: the first digits of its id]
    #[arg(short = 'h', long, value_name = "NAME", value_parser = names::parse_hostname)]
    hostname: Option<String>,

    /// The host's network, or none but a loopback interface [default: host]
    #[arg(long, value_name = "host|none", value_parser = namespaces::parse_network)]
    network: Option<Network>,

    /// The host's users, or 0:FIRST:COUNT for the host's from FIRST on [default: host]
    #[arg(long, value_name = "host|MAP", value_parser = users::parse)]
    userns: Option<Users>,

    /// A variable of its environment; a NAME alone has the caller's value. May be repeated
    #[arg(short, long, value_name = "NAME[=VALUE]",
        value_parser = OsStringValueParser::new().try_map(spec::parse_variable))]
    env: Vec<OsString>,

    /// Who it is, names or numbers of the container's [default: root]
    #[arg(short, long, value_name = "USER[:GROUP]", allow_hyphen_values = true)]
    user: Option<String>,

    /// Its working directory, made where it is missing [default: /]
    #[arg(short, long, value_name = "DIR", value_parser = spec::parse_directory)]
    workdir: Option<PathBuf>,

    /// Let the command read this standard input
    #[arg(short, long)]
    interactive: bool,

    /// Give the command a terminal of its own
    #[arg(short, long)]
    tty: bool,

    /// Give it everything: all capabilities, the host's devices, no filter, no covered paths
    #[arg(long)]
    privileged: bool,

    /// A capability to have, such as NET_ADMIN, or ALL; may be given several times
    #[arg(long, value_name = "NAME", value_parser = capabilities::parse)]
    cap_add: Vec<Named>,

    /// A capability not to have, or ALL; may be given several times
    #[arg(long, value_name = "NAME", value_parser = capabilities::parse)]
    cap_drop: Vec<Named>,

    /// no-new-privileges, or seccomp=unconfined for all system calls; may be given several times
    #[arg(long, value_name = "OPTION", value_parser = confinement::parse_option)]
    security_opt: Vec<SecurityOption>,

    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

#[cfg(test)]
impl Args {
    /// The command and its arguments.
    pub(super) fn command(&self) -> &[OsString] {
        &self.command
    }
}

/// Runs the container; the exit status is that of `docker run`.
pub(crate) fn run(args: Args) -> ExitCode {
    super::log_for_people(NAME);
    let limits = Limits {
        memory: args.memory.unwrap_or_default(),
        memory_and_swap: args.memory_swap.unwrap_or_default(),
        cpus: args.cpus.unwrap_or_default(),
        cpu_quota: args.cpu_quota.unwrap_or_default(),
        cpu_period: args.cpu_period,
        cpuset_cpus: args.cpuset_cpus,
        pids: args.pids_limit.unwrap_or_default(),
        devices: if args.privileged { DeviceAccess::Any } else { DeviceAccess::Usual },
    };
    let capabilities =
        Wishes { privileged: args.privileged, add: args.cap_add, drop: args.cap_drop };
    let confinement = Asked { capabilities, options: args.security_opt };
    let process = Process {
        command: args.command,
        environment: args.env,
        directory: args.workdir,
        user: args.user.unwrap_or_default(),
    };
    let attach = Attach { input: args.interactive, terminal: args.tty };
    let spec = Spec {
        name: args.name,
        limits,
        rootfs: args.rootfs,
        is_read_only: args.read_only,
        volumes: args.volume,
        hostname: args.hostname.unwrap_or_default(),
        network: args.network.unwrap_or_default(),
        users: args.userns.unwrap_or_default(),
        confinement,
        process,
        attach,
    };
    let (status, error) = match runtime::run(&spec, Path::new(MOUNTPOINT), &serve) {
        Ok(ended) => (ended.status, ended.left),
        Err(Error::NotExecuted { command, reason, status }) => {
            (status, Some(Error::NotExecuted { command, reason, status }))
        }
        Err(error) => (STATUS_OF_OURS, Some(error)),
    };
    if let Some(error) = error {
        eprintln!("{NAME}: {error}");
    }
    ExitCode::from(status)
}

/// Serves the files of one container, as its own daemon.
fn serve(mountpoint: &Path, ready: Box<dyn FnOnce()>) -> Result<()> {
    let options = Options {
        mountpoint: mountpoint.to_owned(),
        nonempty: false,
        read_only: false,
        workers: None,
        pidfile: None,
    };
    daemon::serve(&options, Vfs::of_machine, ready)
}
