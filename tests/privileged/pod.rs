//! The image under Docker as Kubernetes runs it: the pod of packaging/kubernetes, of which the paths
//! on the host and the mount point alone are the tests' own.
//!
//! Needs what [`crate::engine`] needs, python3-yaml and binutils; and the static program, which
//! packaging/build builds where `$PROGRAM` names none.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::byhand::eventually;
use crate::daemon::{Guarded, PROGRAM};
use crate::engine::{Engine, IMAGE};

/// Of the image under test.
const TAG: &str = "lxcfs-rs:test";

/// Bytes.
const MOST: u64 = 10_000_000;

/// What `privileged: true` is where root itself lacks a capability. The cgroup namespace is what
/// containerd and CRI-O give to privileged pods.
const PRIVILEGED: [&str; 6] = [
    "--cap-add=SYS_ADMIN",
    "--cap-add=SYS_PTRACE",
    "--cap-add=DAC_READ_SEARCH",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
];

/// Reads files over and over, and one that it keeps open. For a line on its stdin it says how often
/// since the last one, and what went wrong how often.
const READER: &str = r#"
import collections, errno, json, os, select, sys, time
files = ['/proc/meminfo', '/proc/cpuinfo', '/proc/stat', '/proc/uptime', '/sys/devices/system/cpu/online']
reads, failed = 0, collections.Counter()

def whole(fd):
    text = b''
    while chunk := os.pread(fd, 1000, len(text)):
        text += chunk
    return text

def attempt(name, path, fd=None):
    global reads
    reads += 1
    opened = None
    try:
        opened = os.open(path, os.O_RDONLY) if fd is None else fd
        text = whole(opened)
        if not text or (path == '/proc/meminfo' and text.split()[1] != sys.argv[1].encode()):
            failed[name + ' wrong'] += 1
    except OSError as error:
        failed[name + ' ' + errno.errorcode[error.errno]] += 1
    finally:
        if fd is None and opened is not None:
            os.close(opened)

kept = os.open('/proc/meminfo', os.O_RDONLY)
while True:
    for path in files:
        attempt('opened', path)
    attempt('kept', '/proc/meminfo', kept)
    time.sleep(0.002)
    if select.select([0], [], [], 0)[0]:
        if not sys.stdin.readline():
            break
        print(json.dumps({'reads': reads, 'failed': failed}), flush=True)
        reads, failed = 0, collections.Counter()
"#;

/// A node: Docker, and directories that pods mount instead of the machine's.
struct Node {
    engine: Arc<Engine>,
    base: PathBuf,
    manifest: Value,
    /// As pods see it.
    mountpoint: String,
}

impl Node {
    fn new() -> Node {
        let engine = Engine::shared();
        let size = make_image(&engine);
        assert!(size <= MOST, "the image has {size} bytes, expected at most {MOST}");
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lxcfs-rs-pod-{}-{number}", std::process::id());
        let base = std::env::temp_dir().canonicalize().unwrap().join(&name);
        for directory in ["lib", "run"] {
            fs::create_dir_all(base.join(directory)).unwrap();
        }
        let node = Node {
            engine,
            base,
            manifest: manifest(),
            mountpoint: format!("/var/lib/lxcfs-rs/{name}"),
        };
        // As the machine's root is where systemd runs.
        let (lib, none) = (node.base.join("lib"), None::<&str>);
        mount(Some(&lib), &lib, none, MsFlags::MS_BIND, none).unwrap();
        mount(none, &lib, none, MsFlags::MS_SHARED, none).unwrap();
        node
    }

    fn pod_spec(&self) -> &Value {
        &self.manifest["spec"]["template"]["spec"]
    }

    fn container_spec(&self) -> &Value {
        &self.pod_spec()["containers"][0]
    }

    /// Where readers on the node find what is served.
    fn served(&self) -> PathBuf {
        self.base.join("lib").join(Path::new(&self.mountpoint).file_name().unwrap())
    }

    /// Where a directory of the host is here.
    fn on_host(&self, path: &str) -> PathBuf {
        match path {
            "/var/lib/lxcfs-rs" => self.base.join("lib"),
            "/run/lxcfs-rs" => self.base.join("run"),
            "/sys/fs/cgroup" => path.into(),
            other => panic!("the tests have no place for {other}"),
        }
    }

    /// What the manifest says, for `docker run`.
    fn options(&self) -> Vec<String> {
        let (pod, container) = (self.pod_spec(), self.container_spec());
        let mut options = Vec::new();
        for (key, option) in [("hostPID", "--pid=host"), ("hostNetwork", "--network=host")] {
            assert_eq!(pod[key], true, "{key}");
            options.push(option.to_owned());
        }
        let security = &container["securityContext"];
        assert_eq!(security["privileged"], true);
        let privileged: &[&str] =
            if has_all_capabilities() { &["--privileged"] } else { &PRIVILEGED };
        options.extend(privileged.iter().map(|&option| option.to_owned()));
        options.extend(["--device=/dev/fuse".to_owned(), "--cgroupns=host".to_owned()]);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        options.push("--read-only".to_owned());
        let memory = container["resources"]["limits"]["memory"].as_str().unwrap();
        options.push(format!("--memory={}", memory.strip_suffix('i').unwrap()));
        let volumes = pod["volumes"].as_array().unwrap();
        for place in container["volumeMounts"].as_array().unwrap() {
            let volume = volumes.iter().find(|volume| volume["name"] == place["name"]).unwrap();
            let source = self.on_host(volume["hostPath"]["path"].as_str().unwrap());
            let propagation = match place["mountPropagation"].as_str() {
                Some("Bidirectional") => "rshared",
                None => "rprivate",
                Some(other) => panic!("{other}"),
            };
            let target = place["mountPath"].as_str().unwrap();
            let source = source.display();
            options.push(format!(
                "--mount=type=bind,source={source},target={target},bind-propagation={propagation}"
            ));
        }
        options
    }

    /// A pod's container, which may not be ready yet.
    fn start(&self) -> Pod<'_> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("pod-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let options = self.options();
        let mut arguments = vec!["run", "--detach", "--name", &name];
        arguments.extend(options.iter().map(String::as_str));
        arguments.push(TAG);
        arguments.extend(words(&self.container_spec()["args"]));
        arguments.push(&self.mountpoint);
        let pod = Pod { node: self, name: name.clone() };
        self.engine.output(&arguments);
        pod
    }

    /// A pod that Kubernetes calls ready.
    fn ready(&self) -> Pod<'_> {
        let pod = self.start();
        pod.becomes_ready();
        pod
    }

    /// A container that is given the files, with a reader in it.
    fn reader(&self, mebibytes: u64) -> Reader<'_> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("reader-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let flags = Command::new(PROGRAM)
            .args(["print", "docker", "--mountpoint"])
            .arg(self.served())
            .output()
            .unwrap();
        let flags = String::from_utf8(flags.stdout).unwrap();
        let memory = format!("--memory={mebibytes}m");
        let mut arguments = vec!["run", "--detach", "--network=none", "--name", &name, &memory];
        arguments.extend(flags.split_whitespace());
        arguments.extend([IMAGE, "sleep", "infinity"]);
        let container = Removed { engine: &self.engine, name: name.clone() };
        self.engine.output(&arguments);
        let kibibytes = (mebibytes * 1024).to_string();
        let exec = ["exec", "--interactive", &name, "python3", "-c", READER, &kibibytes];
        let mut docker = self.engine.docker(&exec);
        let mut docker =
            Guarded(docker.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let requests = docker.0.stdin.take().unwrap();
        let answers = BufReader::new(docker.0.stdout.take().unwrap());
        let mut reader = Reader { requests, answers, reads: 0, _docker: docker, container };
        assert_eq!(reader.failures(), BTreeMap::new());
        reader
    }

    fn readers(&self) -> Vec<Reader<'_>> {
        (0..4).map(|number| self.reader(100 + number)).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let lazily = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        while umount2(&self.served(), lazily).is_ok() {}
        let _ = umount2(&self.base.join("lib"), lazily);
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// Builds the image as packaging/image does; returns its size.
fn make_image(engine: &Engine) -> u64 {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/image");
    let output =
        Command::new(script).arg(TAG).env("DOCKER_HOST", engine.socket()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "packaging/image: {}: {errors}", output.status);
    let printed = String::from_utf8(output.stdout).unwrap();
    let (tag, size) = printed.trim_end().split_once(' ').unwrap();
    assert_eq!(tag, TAG);
    println!("the image has {size} bytes");
    size.parse().unwrap()
}

fn manifest() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/kubernetes/daemonset.yaml");
    let to_json =
        "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    // Debian's, which has Debian's python3-yaml.
    let output = Command::new("/usr/bin/python3").args(["-c", to_json]).arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn has_all_capabilities() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let last = fs::read_to_string("/proc/sys/kernel/cap_last_cap").unwrap();
    let all = (1_u64 << (last.trim_end().parse::<u32>().unwrap() + 1)) - 1;
    u64::from_str_radix(line, 16).unwrap() & all == all
}

fn words(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap())
}

/// A container that is removed in the end.
struct Removed<'a> {
    engine: &'a Engine,
    name: String,
}

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = self.engine.docker(&["rm", "--force", "--volumes", &self.name]).output();
    }
}

/// A pod's container.
struct Pod<'a> {
    node: &'a Node,
    name: String,
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        drop(Removed { engine: &self.node.engine, name: self.name.clone() });
    }
}

impl Pod<'_> {
    /// As the kubelet asks.
    fn probe(&self, which: &str) -> Output {
        let mut arguments = vec!["exec", &self.name];
        arguments.extend(words(&self.node.container_spec()[which]["exec"]["command"]));
        arguments.push(&self.node.mountpoint);
        self.node.engine.docker(&arguments).output().unwrap()
    }

    fn is(&self, which: &str) -> bool {
        self.probe(which).status.success()
    }

    #[track_caller]
    fn becomes_ready(&self) {
        eventually("a pod that has started", || self.is("startupProbe"));
        assert!(self.is("readinessProbe") && self.is("livenessProbe"));
    }

    /// The process that Docker started, the machine's number.
    fn pid(&self) -> u64 {
        let pid = ["inspect", "--format", "{{.State.Pid}}", &self.name];
        self.node.engine.output(&pid).trim_end().parse().unwrap()
    }

    /// Who serves, as this pod's program knows.
    fn who_serves(&self) -> u64 {
        let status =
            ["exec", &self.name, "/usr/bin/lxcfs-rs", "status", "--json", &self.node.mountpoint];
        let status: Value = serde_json::from_str(&self.node.engine.output(&status)).unwrap();
        status["pid"].as_u64().unwrap()
    }

    /// As the kubelet ends it.
    fn delete(self) {
        let patience = self.node.pod_spec()["terminationGracePeriodSeconds"].to_string();
        self.node.engine.output(&["stop", "--time", &patience, &self.name]);
        let state = ["inspect", "--format", "{{.State.ExitCode}}", &self.name];
        assert_eq!(self.node.engine.output(&state), "0\n");
    }
}

/// A reader in a container.
struct Reader<'a> {
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    reads: u64,
    _docker: Guarded,
    container: Removed<'a>,
}

impl Reader<'_> {
    /// What went wrong since the last time, and how often; at least one round is read.
    #[track_caller]
    fn failures(&mut self) -> BTreeMap<String, u64> {
        self.requests.write_all(b"\n").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let said: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        let reads = said["reads"].as_u64().unwrap();
        assert!(reads > 0);
        self.reads += reads;
        serde_json::from_value(said["failed"].clone()).unwrap()
    }
}

#[test]
fn pods_are_replaced_unnoticed() {
    let node = Node::new();
    let mut pod = node.ready();
    let mut readers = node.readers();
    for _ in 0..3 {
        let new = node.ready();
        assert_eq!(new.who_serves(), new.pid());
        // The old one would be started again if it ended, and is alive, but not ready.
        assert!(pod.is("livenessProbe"));
        let said = pod.probe("readinessProbe");
        let line = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(line.contains("not of this mount namespace"), "{line}");
        std::mem::replace(&mut pod, new).delete();
        for reader in &mut readers {
            assert_eq!(reader.failures(), BTreeMap::new());
        }
        assert!(pod.is("readinessProbe"));
    }
    let reads: u64 = readers.iter().map(|reader| reader.reads).sum();
    println!("3 pods replaced under {} readers: {reads} reads, none failed", readers.len());
    // The last one takes all with it.
    pod.delete();
    assert!(!node.served().exists());
    for reader in &mut readers {
        reader.failures();
        let failed = reader.failures();
        assert!(failed.keys().all(|what| what.ends_with(" ENOTCONN")), "{failed:?}");
    }
}

#[test]
fn readers_recover_from_a_pods_abrupt_death() {
    let node = Node::new();
    let pod = node.ready();
    let mut readers = node.readers();
    let device = fs::metadata(node.served()).unwrap().dev();
    for _ in 0..2 {
        node.engine.output(&["kill", "--signal=KILL", &pod.name]);
        for reader in &mut readers {
            // Who was being answered just then is told that the connection was aborted.
            let first = reader.failures();
            let known =
                |what: &String| what.ends_with(" ENOTCONN") || what.ends_with(" ECONNABORTED");
            assert!(first.keys().all(known), "{first:?}");
            eventually("an error for whoever reads", || {
                let failed = reader.failures();
                failed.contains_key("opened ENOTCONN") && failed.contains_key("kept ENOTCONN")
            });
        }
        node.engine.output(&["start", &pod.name]);
        pod.becomes_ready();
        for reader in &mut readers {
            // By themselves, all files; but what is kept open stays dead.
            eventually("a reader that recovers", || {
                let failed = reader.failures();
                failed.keys().eq(["kept ENOTCONN"])
            });
        }
    }
    assert_ne!(fs::metadata(node.served()).unwrap().dev(), device);
    pod.delete();
    assert!(!node.served().join("proc").exists());
}

/// The old pod is started again after it was taken over, takes over in turn, and is deleted then,
/// as the new one was ready.
#[test]
fn the_new_pod_serves_again_when_the_old_one_took_it_back() {
    let node = Node::new();
    let old = node.ready();
    let new = node.ready();
    let mut reader = node.reader(100);
    node.engine.output(&["restart", &old.name]);
    old.becomes_ready();
    assert!(!new.is("readinessProbe") && new.is("livenessProbe"));
    assert_eq!(reader.failures(), BTreeMap::new());
    old.delete();
    eventually("the new pod serves", || new.is("readinessProbe"));
    eventually("a reader that recovers", || reader.failures().keys().eq(["kept ENOTCONN"]));
    new.delete();
}

#[test]
fn what_runc_refuses_is_attached_by_the_pod() {
    let node = Node::new();
    let pod = node.ready();
    let reader = node.reader(100);
    let name = &reader.container.name;
    let pid = node.engine.output(&["inspect", "--format", "{{.State.Pid}}", name]);
    let attach = ["/usr/bin/lxcfs-rs", "attach", "--mountpoint", &node.mountpoint, pid.trim_end()];
    node.engine.output(&[&["exec", &pod.name], &attach[..], &["vmstat"]].concat());
    let mounts = node.engine.output(&["exec", name, "cat", "/proc/self/mounts"]);
    let is_there = |line: &str| line.contains(" /proc/vmstat fuse.lxcfs ");
    assert!(mounts.lines().any(is_there), "{mounts}");
    assert!(
        node.engine.output(&["exec", name, "cat", "/proc/vmstat"]).starts_with("nr_free_pages ")
    );
}

#[test]
fn the_image_knows_its_mountpoint() {
    let engine = Engine::shared();
    make_image(&engine);
    let example = include_str!("../../packaging/kubernetes/example.yaml");
    let printed = engine.output(&["run", "--rm", "--network=none", TAG, "print", "kubernetes"]);
    let paths: Vec<&str> = printed.lines().filter(|line| line.contains(" path: ")).collect();
    assert!(paths.len() > 5, "{printed}");
    for path in paths {
        assert!(example.contains(path.trim_start()), "{path}");
    }
}
