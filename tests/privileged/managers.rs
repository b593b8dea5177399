//! What is shown below a manager of containers or services that itself runs in a container:
//! Docker in Docker, and systemd.
//!
//! Needs what [`crate::engine`] needs, and systemd.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::path::PathBuf;

use super::docker::Stage;
use super::engine::cgroups;
use super::life::{name, program};
use super::run::{Container, ending, eventually, output_of};

/// `--privileged` wants CAP_SYS_RESOURCE, which not every machine's root has.
const NEARLY_PRIVILEGED: [&str; 6] = [
    "--cap-add=SYS_ADMIN",
    "--cap-add=NET_ADMIN",
    "--cap-add=SYS_PTRACE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
];

/// Starts a Docker of the container's own, and in it a container with 100 MiB.
const DOCKER: &str = r#"
set -eu
docker="docker --host unix:///tmp/docker/socket"
mount -o remount,rw /sys/fs/cgroup
for hierarchy in /sys/fs/cgroup/*; do
    mount -o remount,bind,rw "$hierarchy" || true
done
mkdir -p /tmp/docker /tmp/root/bin
dockerd --iptables=false --bridge=none --storage-driver=vfs --data-root=/tmp/docker/data \
    --exec-root=/tmp/docker/state --pidfile=/tmp/docker/pid --host=unix:///tmp/docker/socket \
    >/tmp/docker/log 2>&1 &
until $docker version >/dev/null 2>&1; do
    kill -0 $! || { tail -n 5 /tmp/docker/log; exit 1; }
    sleep 0.1
done
cp "$(command -v busybox)" /tmp/root/bin/busybox
tar -C /tmp/root -c . | $docker import - inner >/dev/null
$docker run --network=none --memory=100m --volume=/files/proc/meminfo:/proc/meminfo:ro \
    --volume=/files/proc/uptime:/proc/uptime:ro inner /bin/busybox sh -c '
    busybox awk "NR == 1 {print \$2}" /proc/meminfo
    busybox awk "{print (\$1 < 600)}" /proc/uptime'
kill $!
wait
"#;

#[test]
fn docker_in_docker_is_the_innermost() {
    let stage = Stage::new();
    let files = format!("--volume={}:/files:ro", stage.mountpoint().display());
    for cgroupns in ["--cgroupns=host", "--cgroupns=private"] {
        let options = [cgroupns, "--memory=300m", "--volume=/usr:/usr:ro", &files];
        let outer = stage.idle(&[&options[..], &NEARLY_PRIVILEGED].concat());
        let printed = outer.exec(&["sh", "-c", DOCKER]);
        assert_eq!(printed, "102400\n1\n", "{cgroupns}");
        let outer_total = outer.exec(&["awk", "NR == 1 {print $2}", "/proc/meminfo"]);
        assert_eq!(outer_total, "307200\n", "{cgroupns}");
    }
}

/// Becomes systemd, with one service of 50 MiB that writes down what it sees.
const SYSTEMD: &str = r#"
mkdir -p /etc/systemd/system
cat >/etc/systemd/system/probe.service <<END
[Unit]
DefaultDependencies=no
[Service]
MemoryMax=50M
StandardOutput=null
StandardError=null
ExecStart=sh -c 'grep MemTotal /proc/meminfo >/run/new; grep memory /proc/self/cgroup >>/run/new; mv /run/new /run/seen; exec sleep 1000'
END
exec /lib/systemd/systemd --unit=probe.service --log-target=null --show-status=0
"#;

/// It moves itself to /init.scope and its services further down, with limits of theirs. The
/// machine is still the container; and all that it makes lies in that.
#[test]
fn below_systemd_the_container() {
    // Unless systemd is the machine's too.
    let names = ["init.scope", "system.slice"].into_iter().filter(|name| cgroups(name).is_empty());
    let names: Vec<&str> = names.collect();
    let name = name("systemd");
    let options = ["--name", &name, "--privileged", "-m", "200m", "--network", "none"];
    let container = Container::start(&[&options[..], &["-e", "container=other"]].concat(), SYSTEMD);
    let exec = |script: &str| program(&["exec", &name, "sh", "-c", script]);
    eventually("the service has written", || ending(exec("test -e /run/seen")).0 == 0);
    let seen = output_of(exec("cat /run/seen"));
    let (total, cgroup) = seen.split_once('\n').unwrap();
    assert_eq!(total.split_whitespace().nth(1), Some("204800"), "{seen}");
    assert!(cgroup.trim_end().ends_with(":/system.slice/probe.service"), "{seen}");
    // What limits the service is there, and is the service's alone.
    let limit = "cat /sys/fs/cgroup/memory/system.slice/probe.service/memory.limit_in_bytes";
    assert_eq!(output_of(exec(limit)), "52428800\n");
    assert!(output_of(exec("cat /proc/1/cgroup")).contains(":/init.scope\n"));
    let first = fs::read_to_string(format!("/proc/{}/cgroup", container.init())).unwrap();
    let outside: Vec<PathBuf> = names.into_iter().flat_map(cgroups).collect();
    let totals = output_of(exec("grep MemTotal /proc/meminfo; free -m | awk '/^Mem/ {print $2}'"));
    assert_eq!(totals, "MemTotal:         204800 kB\n200\n");
    drop(container);
    eventually("nothing outside", || {
        outside.iter().all(|cgroup| fs::remove_dir(cgroup).is_ok() || !cgroup.exists())
    });
    assert_eq!(outside, Vec::<PathBuf>::new());
    let is_inside = |line: &str| line.splitn(3, ':').nth(2).unwrap().starts_with("/lxcfs-rs/");
    assert!(first.lines().all(is_inside), "{first}");
}
