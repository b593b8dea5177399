//! `lxcfs-rs print`: how a container of an engine is given the files, from the table of them.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use lxcfs_rs::error::{Error, Result};
use lxcfs_rs::files::{self, Mount};

use super::{settings, status_of};

/// Print what gives a container the files: flags of docker run, a part of a pod or of a service
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which engine's
    engine: Engine,

    /// Directory that a daemon serves at [default: that of /etc/lxcfs-rs.toml, or /var/lib/lxcfs]
    #[arg(long, value_name = "DIR")]
    mountpoint: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Engine {
    /// Flags of docker run and podman run
    Docker,
    /// volumeMounts of a container and volumes of its pod
    Kubernetes,
    /// volumes of a service
    Compose,
}

/// Prints it.
pub(crate) fn run(args: &Args) -> ExitCode {
    status_of("lxcfs-rs: print", print(args))
}

fn print(args: &Args) -> Result<()> {
    let mountpoint = settings::mountpoint(args.mountpoint.as_deref())?;
    let mountpoint = plain(&mountpoint)?;
    let text = match args.engine {
        Engine::Docker => {
            // The output is to be words of a command line.
            eprintln!("lxcfs-rs: print: {}", left_out());
            docker(mountpoint)
        }
        Engine::Kubernetes => format!("# {}\n{}", left_out(), kubernetes(mountpoint)),
        Engine::Compose => format!("# {}\n{}", left_out(), compose(mountpoint)),
    };
    super::write_out(&text)
}

/// The mountpoint, where it is a path that means itself in YAML, in a shell and in a list that
/// commas separate.
fn plain(mountpoint: &std::path::Path) -> Result<&str> {
    let is_plain = |text: &&str| {
        let harmless = |letter: char| letter.is_ascii_alphanumeric() || "/._-@+".contains(letter);
        text.starts_with('/') && text.chars().all(harmless)
    };
    mountpoint.to_str().filter(is_plain).map(|text| text.trim_end_matches('/')).ok_or_else(|| {
        let found = mountpoint.display();
        Error::Refused(format!(
            "--mountpoint: found {found}, expected an absolute path of letters, digits and /._-@+"
        ))
    })
}

/// What an engine lets be mounted.
fn mounts() -> impl Iterator<Item = Mount> {
    files::mounts().filter(|mount| mount.docker)
}

fn left_out() -> String {
    let refused = files::mounts().filter(|mount| !mount.docker);
    let names: Vec<String> = refused.map(|mount| format!("/{}", mount.path)).collect();
    format!("left out, as runc refuses them: {}; `lxcfs-rs attach` has them", names.join(", "))
}

/// A file or directory that is missing is an error with these, and not made as with `-v`.
fn docker(mountpoint: &str) -> String {
    mounts().fold(String::new(), |mut text, Mount { path, .. }| {
        let _ =
            writeln!(text, "--mount type=bind,source={mountpoint}/{path},target=/{path},readonly");
        text
    })
}

fn kubernetes(mountpoint: &str) -> String {
    let name = |path: &str| format!("lxcfs-{}", path.replace('/', "-"));
    let (mut container, mut pod) = ("volumeMounts:\n".to_owned(), "volumes:\n".to_owned());
    for Mount { path, is_tree, .. } in mounts() {
        let (name, kind) = (name(path), if is_tree { "Directory" } else { "File" });
        let _ = write!(container, "- name: {name}\n  mountPath: /{path}\n  readOnly: true\n");
        let _ = write!(
            pod,
            "- name: {name}\n  hostPath:\n    path: {mountpoint}/{path}\n    type: {kind}\n"
        );
    }
    format!("# Of the container:\n{container}# Of its pod:\n{pod}")
}

fn compose(mountpoint: &str) -> String {
    mounts().fold("volumes:\n".to_owned(), |mut text, Mount { path, .. }| {
        let _ = write!(
            text,
            "- type: bind\n  source: {mountpoint}/{path}\n  target: /{path}\n  read_only: true\n  \
             bind:\n    create_host_path: false\n"
        );
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_flags_are_those_of_the_readme() {
        let readme = include_str!("../../README.md");
        let printed = docker(files::MOUNTPOINT);
        assert!(printed.starts_with(
            "--mount type=bind,source=/var/lib/lxcfs/proc/cpuinfo,target=/proc/cpuinfo,readonly\n"
        ));
        let block: String = printed.lines().map(|line| format!("      {line} \\\n")).collect();
        assert!(readme.contains(&block), "README.md is to have\n{block}");
    }

    #[test]
    fn what_runc_refuses_is_left_out_and_said() {
        for text in [docker("/m"), kubernetes("/m"), compose("/m")] {
            assert!(text.contains("/m/proc/meminfo") && text.contains("/m/sys/devices/system/cpu"));
            assert!(!text.contains("vmstat") && !text.contains("pressure"), "{text}");
        }
        let said = left_out();
        assert!(said.contains("/proc/vmstat, /proc/pressure/cpu"), "{said}");
    }

    #[test]
    fn a_pod_waits_for_the_files() {
        let text = kubernetes("/m");
        let of_container = "- name: lxcfs-proc-stat\n  mountPath: /proc/stat\n  readOnly: true\n";
        let file = "- name: lxcfs-proc-stat\n  hostPath:\n    path: /m/proc/stat\n    type: File\n";
        let tree = "    path: /m/sys/devices/system/node\n    type: Directory\n";
        for part in [of_container, file, tree] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn a_mountpoint_is_a_plain_path() {
        assert_eq!(plain(Path::new("/a-b/c.d/")).unwrap(), "/a-b/c.d");
        for other in ["a", "/a b", "/a,b", "/a:b", "/$a", ""] {
            let line = plain(Path::new(other)).unwrap_err().to_string();
            assert!(line.starts_with("--mountpoint: found "), "{line}");
        }
    }
}
