//! A container of Debian's LXC with the hook and the configuration of `packaging/lxc`, on a
//! daemon called as `lxcfs`: all where a distribution has it, in a mount namespace of the test's.
//!
//! Needs Debian's lxc, and its lxcfs for the directories.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use lxcfs_rs::files;

use crate::byhand::eventually;
use crate::daemon::PROGRAM;
use crate::engine::{cgroups, find, hierarchy_of, image, mounts_below, sweeper};

/// $1 the test's directory, $2 its cgroup of processes, $3 the program, $4 packaging/lxc. Says
/// `served`, and ends with the container.
const SCRIPT: &str = r#"
set -eu
echo $$ >"$2"
cd "$1"
mount --bind "$4" /usr/share/lxcfs
mount --bind "$4/00-lxcfs.conf" /usr/share/lxc/config/common.conf.d/00-lxcfs.conf
# Whatever the machine itself has there.
mount -t tmpfs none /var/lib/lxcfs
ln -s "$3" lxcfs
./lxcfs --enable-cfs --runtime-dir="$1" /var/lib/lxcfs 2>daemon.log &
daemon=$!
while [ ! -f /var/lib/lxcfs/proc/meminfo ]; do
    kill -0 $daemon || { cat daemon.log >&2; exit 1; }
    sleep 0.05
done
echo served
lxc-start --foreground --lxcpath="$1/lxc" --name=test --rcfile="$1/config" \
    --logfile="$1/lxc.log" --logpriority=INFO >/dev/null 2>&1
kill $daemon
wait $daemon
"#;

/// In MiB.
const MEMORY: u64 = 100;

/// A running container.
struct Container {
    base: PathBuf,
    cgroup: String,
    outer: Child,
    sweeper: Child,
}

impl Container {
    fn start() -> Container {
        for program in ["lxc-start", "lxc-attach", "lxc-stop", "lxc-cgroup"] {
            find(program, "lxc");
        }
        let cgroup = format!("lxcfs-rs-lxc-{}", std::process::id());
        let base = std::env::temp_dir().canonicalize().unwrap().join(&cgroup);
        let root = base.join("root");
        fs::create_dir_all(&root).unwrap();
        fs::create_dir(base.join("lxc")).unwrap();
        fs::set_permissions(&base, PermissionsExt::from_mode(0o755)).unwrap();
        let sweeper = sweeper(&cgroup, &base);
        let processes = hierarchy_of("pids").join(&cgroup).join("outer");
        fs::create_dir_all(&processes).unwrap();

        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).arg("-xf").arg(image());
        assert!(tar.status().unwrap().success());
        // A container that finds the directory can start containers of its own.
        fs::create_dir(root.join("var/lib/lxcfs")).unwrap();
        fs::write(root.join("init"), "#!/bin/sh\necho >>/boots\nexec sleep infinity\n").unwrap();
        fs::set_permissions(root.join("init"), PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(base.join("config"), config(&root, &cgroup)).unwrap();

        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
        command.arg(&base).arg(processes.join("cgroup.procs")).arg(PROGRAM);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/lxc"));
        command.env_remove("NOTIFY_SOCKET").env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut outer = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(outer.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut container = Container { base, cgroup, outer, sweeper };
        assert_eq!(line, "served\n");
        container.eventually_booted(1);
        container
    }

    /// Waits until its init runs for the `count`th time.
    #[track_caller]
    fn eventually_booted(&mut self, count: usize) {
        let boots = self.base.join("root/boots");
        eventually("the container runs", || {
            let status = self.outer.try_wait().unwrap();
            assert_eq!(status, None, "{}", fs::read_to_string(self.base.join("lxc.log")).unwrap());
            fs::read_to_string(&boots).is_ok_and(|text| text.lines().count() == count)
        });
    }

    fn lxc(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(find(program, "lxc"));
        command.arg(format!("--lxcpath={}", self.base.join("lxc").display())).arg("--name=test");
        command.args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// What a command in the container prints.
    #[track_caller]
    fn output(&self, command: &[&str]) -> String {
        let Output { status, stdout, stderr } =
            self.lxc("lxc-attach", &[&["--"], command].concat());
        assert!(status.success(), "{command:?}: {status}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Ends all, and returns what is left.
    fn end(&mut self) -> Vec<PathBuf> {
        self.lxc("lxc-stop", &["--kill"]);
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
        let _ = self.outer.wait();
        let mut left = cgroups(&self.cgroup);
        left.extend(mounts_below(&self.base));
        left.extend(self.base.exists().then(|| self.base.clone()));
        left
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let left = self.end();
        if !left.is_empty() {
            eprintln!("left behind: {left:?}");
        }
    }
}

/// The limits are for cgroup v1 and v2, as LXC takes those of the host's version.
fn config(root: &Path, cgroup: &str) -> String {
    let root = root.display();
    format!(
        "lxc.include = /usr/share/lxc/config/common.conf\n\
         lxc.rootfs.path = dir:{root}\n\
         lxc.uts.name = test\n\
         lxc.init.cmd = /init\n\
         lxc.net.0.type = empty\n\
         lxc.apparmor.profile = unconfined\n\
         lxc.cgroup.dir.container = {cgroup}/payload\n\
         lxc.cgroup.dir.monitor = {cgroup}/monitor\n\
         lxc.cgroup.dir.monitor.pivot = {cgroup}/pivot\n\
         lxc.cgroup.memory.limit_in_bytes = {MEMORY}M\n\
         lxc.cgroup.cpu.cfs_quota_us = 50000\n\
         lxc.cgroup2.memory.max = {MEMORY}M\n\
         lxc.cgroup2.cpu.max = 50000 100000\n"
    )
}

/// The memory that `free` shows, in MiB.
#[track_caller]
fn memory(container: &Container) -> u64 {
    let text = container.output(&["free", "-m"]);
    let line = text.lines().find_map(|line| line.strip_prefix("Mem:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_container_of_lxc_sees_its_own_machine() {
    let before = Instant::now();
    let mut container = Container::start();
    let uptime = |container: &Container| {
        let text = container.output(&["cat", "/proc/uptime"]);
        text.split(' ').next().unwrap().parse::<f64>().unwrap()
    };

    // All that is to be mounted, and nothing else of ours but the whole for nested ones.
    let mounts = container.output(&["cat", "/proc/mounts"]);
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found: BTreeSet<String> = fields
        .filter(|fields| fields[2] == "fuse.lxcfs")
        .map(|fields| fields[1].to_owned())
        .collect();
    let wanted = files::mounts().map(|mount| format!("/{}", mount.path));
    let wanted = wanted.filter(|path| Path::new(path).exists());
    assert_eq!(found, wanted.chain(["/var/lib/lxcfs".to_owned()]).collect());

    assert_eq!(memory(&container), MEMORY);
    let cpus = container.output(&["cat", "/proc/cpuinfo"]);
    assert_eq!(cpus.lines().filter(|line| line.starts_with("processor")).count(), 1);
    let names = container.output(&["ls", "/sys/devices/system/cpu"]);
    let is_cpu = |name: &&str| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok());
    assert_eq!(names.lines().filter(is_cpu).count(), 1, "{names}");
    assert!(uptime(&container) <= before.elapsed().as_secs_f64());
    assert!(container.output(&["cat", "/proc/vmstat"]).starts_with("nr_free_pages "));
    for pressure in ["cpu", "io", "memory"] {
        let file = format!("/proc/pressure/{pressure}");
        if Path::new(&file).exists() {
            assert!(container.output(&["cat", &file]).starts_with("some avg10="), "{file}");
        }
    }
    // What a nested one would be given.
    let nested = container.output(&["cat", "/var/lib/lxcfs/proc/meminfo"]);
    assert!(nested.starts_with(&format!("MemTotal:{:>15} kB\n", MEMORY << 10)), "{nested}");

    let set = |file: &str| container.lxc("lxc-cgroup", &[file, "200M"]).status.success();
    assert!(set("memory.limit_in_bytes") || set("memory.max"));
    assert_eq!(memory(&container), 200);

    // A restart of the container, by its own init: everything is there again, and begins anew.
    let before = Instant::now();
    container.lxc("lxc-attach", &["--", "busybox", "reboot", "-f"]);
    container.eventually_booted(2);
    assert_eq!(memory(&container), MEMORY);
    assert!(uptime(&container) <= before.elapsed().as_secs_f64());

    assert_eq!(container.end(), Vec::<PathBuf>::new());
}
