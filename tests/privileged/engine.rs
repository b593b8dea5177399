//! A Docker of the tests' own, which nothing of the host's Docker meets: its own containerd,
//! sockets, state and cgroups, all gone with it.
//!
//! Needs Debian's docker.io and debootstrap, and once a Debian mirror for the image.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The image's name in the engine.
pub(crate) const IMAGE: &str = "lxcfs-rs-test";

/// Of the names of engines, before the process's number.
const PREFIX: &str = "lxcfs-rs-docker-";

/// How long anything of Docker's may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// What Docker and debootstrap start themselves is in Debian's directories, some of them root's.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes `$1/image.tar`, the root file system of the containers.
const RECIPE: &str = r#"
root=$1/root
debootstrap --variant=minbase \
    --include=procps,util-linux,python3,busybox-static bookworm "$root" >"$1/log" 2>&1 || {
    tail -n 5 "$1/log" >&2
    exit 1
}
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* \
    "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/usr/share/info/*
tar -C "$root" --numeric-owner -cf "$1/image.tar" .
"#;

/// Once its stdin ends, however this process ended: kills all in the cgroup $1 of all
/// hierarchies, and removes it, the directory $2 with all that is mounted there, and the sockets
/// in /run of shims that could not remove their own.
const SWEEP: &str = r#"
trap '' HUP INT TERM
cgroup=$1 base=$2
cat
cgroups() {
    awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/self/mounts | while read -r top; do
        find "$top/$cgroup" -depth -type d 2>/dev/null
    done
}
mounts() {
    awk -v base="$base/" 'index($5, base) == 1 {print $5}' /proc/self/mountinfo | tac
}
patience=1200
while dirs=$(cgroups); [ -n "$dirs" ] && [ $((patience -= 1)) -gt 0 ]; do
    for dir in $dirs; do
        kill -KILL $(cat "$dir/cgroup.procs") 2>/dev/null
        rmdir "$dir" 2>/dev/null
    done
    sleep 0.05
done
for address in "$base"/containerd-state/io.containerd.runtime.v2.task/moby/*/address; do
    [ -e "$address" ] || continue
    socket=$(cat "$address")
    rm -f "${socket#unix://}"
done
mounts | while read -r mountpoint; do
    umount --lazy "$mountpoint"
done
[ -n "$(mounts)" ] || rm -rf "$base"
"#;

/// A running dockerd with its containerd and the image. Dropped, it ends with all it started.
pub(crate) struct Engine {
    base: PathBuf,
    cgroup: String,
    /// In the order in which they are to end.
    servers: Vec<Server>,
    sweeper: Child,
    /// Left when they have ended: fields are dropped after the engine itself.
    _run_directories: RunDirectories,
}

/// A process of ours.
struct Server(Mutex<Child>);

impl Server {
    fn pid(&self) -> Pid {
        let child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pid::from_raw(i32::try_from(child.id()).unwrap())
    }

    fn has_ended(&self) -> bool {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        child.try_wait().is_ok_and(|status| status.is_some())
    }

    fn end(&self) {
        if self.has_ended() {
            return;
        }
        let _ = kill(self.pid(), Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.has_ended() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Engine {
    /// The engine that the tests of this process share: it starts with the first and ends with
    /// the last that holds it.
    pub(crate) fn shared() -> Arc<Engine> {
        static CURRENT: Mutex<Weak<Engine>> = Mutex::new(Weak::new());
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = current.upgrade() {
            return engine;
        }
        let engine = Arc::new(Engine::start());
        *current = Arc::downgrade(&engine);
        engine
    }

    /// An engine of one's own.
    pub(crate) fn start() -> Engine {
        for program in ["dockerd", "containerd", "runc"] {
            find(program, "docker.io");
        }
        find("docker", "docker.io (docker-cli since Debian 13)");
        for program in ["awk", "find"] {
            find(program, "mawk and findutils");
        }

        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let base = std::env::temp_dir().canonicalize().unwrap().join(&name);
        fs::create_dir(&base).unwrap();
        let sweeper = sweeper(&name, &base);
        let mut engine = Engine {
            base,
            cgroup: name,
            servers: Vec::new(),
            sweeper,
            _run_directories: RunDirectories::new(),
        };
        engine.make_cgroups();
        engine.start_servers();
        engine.import();
        engine
    }

    /// `docker ARGUMENTS`, spoken to this engine.
    pub(crate) fn docker(&self, arguments: &[&str]) -> Command {
        // A client that waits forever is a failure like any other.
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", &PATIENCE.as_secs().to_string()]);
        command.arg(find("docker", "docker.io")).args(["--host", &self.socket()]).args(arguments);
        command.env("DOCKER_CONFIG", self.base.join("client")).stdin(Stdio::null());
        for variable in ["DOCKER_CONTEXT", "DOCKER_HOST", "DOCKER_TLS_VERIFY"] {
            command.env_remove(variable);
        }
        command
    }

    /// What `docker ARGUMENTS` prints, which must succeed.
    #[track_caller]
    pub(crate) fn output(&self, arguments: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.docker(arguments).output().unwrap();
        let errors = String::from_utf8_lossy(&stderr);
        assert!(status.success(), "docker {arguments:?}: {status}: {errors}");
        String::from_utf8(stdout).unwrap()
    }

    /// The engine's dockerd.
    pub(crate) fn dockerd(&self) -> Pid {
        self.servers[0].pid()
    }

    /// Where all its files and mounts are.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// The name of the top-level cgroup of everything it started.
    pub(crate) fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// What clients of it have as DOCKER_HOST.
    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.base.join("docker.sock").display())
    }

    /// Where the servers themselves are counted, and found again: one hierarchy suffices.
    fn servers_cgroup(&self) -> PathBuf {
        hierarchy_of("pids").join(&self.cgroup).join("servers")
    }

    fn make_cgroups(&self) {
        fs::create_dir_all(self.servers_cgroup()).unwrap();
        // A container must reach its quota however busy the machine is otherwise.
        let cpu = hierarchy_of("cpu").join(&self.cgroup);
        fs::create_dir_all(&cpu).unwrap();
        if fs::write(cpu.join("cpu.shares"), "262144").is_err() {
            let _ = fs::write(cpu.join("cpu.weight"), "10000");
        }
    }

    fn start_servers(&mut self) {
        let path = |name: &str| self.base.join(name).to_str().unwrap().to_owned();
        let address = path("containerd.sock");
        let containerd_configuration = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{address}\"\n",
            path("containerd"),
            path("containerd-state"),
        );
        fs::write(path("containerd.toml"), containerd_configuration).unwrap();
        fs::write(path("docker.json"), "{}").unwrap();

        let containerd = self.spawn("containerd", &["--config", &path("containerd.toml")]);
        let dockerd = self.spawn(
            "dockerd",
            &[
                "--config-file",
                &path("docker.json"),
                "--containerd",
                &address,
                "--data-root",
                &path("data"),
                "--exec-root",
                &path("exec"),
                "--pidfile",
                &path("docker.pid"),
                "--host",
                &self.socket(),
                "--cgroup-parent",
                &format!("/{}", self.cgroup),
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
                "--iptables=false",
                "--bridge=none",
            ],
        );
        self.servers = vec![dockerd, containerd];
        let deadline = Instant::now() + PATIENCE;
        while !self.docker(&["version"]).output().unwrap().status.success() {
            let ended = self.servers.iter().any(Server::has_ended);
            if ended || Instant::now() > deadline {
                panic!(
                    "dockerd does not answer:\n{}{}",
                    self.log("containerd"),
                    self.log("dockerd")
                )
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn spawn(&self, program: &str, arguments: &[&str]) -> Server {
        const ENTER_CGROUP_AND_EXEC: &str = "echo $$ >\"$0\" && exec \"$@\"";
        let log = fs::File::create(self.log_file(program)).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", ENTER_CGROUP_AND_EXEC]);
        command.arg(self.servers_cgroup().join("cgroup.procs"));
        command.arg(find(program, "docker.io")).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.env_remove("NOTIFY_SOCKET").env("PATH", PATH);
        Server(Mutex::new(command.spawn().unwrap()))
    }

    fn log_file(&self, program: &str) -> PathBuf {
        self.base.join(format!("{program}.log"))
    }

    /// The end of a server's log.
    fn log(&self, program: &str) -> String {
        let text = fs::read_to_string(self.log_file(program)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n") + "\n"
    }

    fn import(&self) {
        let import =
            |tar: &Path| self.docker(&["import", tar.to_str().unwrap(), IMAGE]).output().unwrap();
        let tar = image();
        if import(&tar).status.success() {
            return;
        }
        // A cached file decides nothing: what is wrong with a fresh one is wrong.
        fs::remove_file(&tar).unwrap();
        let output = import(&image());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The sockets in /run of shims that could not remove their own.
    pub(crate) fn shim_sockets(&self) -> Vec<PathBuf> {
        let bundles = self.base.join("containerd-state/io.containerd.runtime.v2.task/moby");
        let bundles = fs::read_dir(bundles).into_iter().flatten().flatten();
        let addresses = bundles.map(|bundle| fs::read_to_string(bundle.path().join("address")));
        addresses.flatten().filter_map(|url| Some(url.strip_prefix("unix://")?.into())).collect()
    }

    /// Ends everything and removes everything; returns what resisted.
    fn end(&mut self) -> Vec<PathBuf> {
        if self.servers.first().is_some_and(|dockerd| !dockerd.has_ended()) {
            let listed = self.docker(&["ps", "--all", "--quiet"]).output();
            let listed = listed.map(|output| output.stdout).unwrap_or_default();
            let listed = String::from_utf8_lossy(&listed);
            let mut arguments = vec!["rm", "--force", "--volumes"];
            arguments.extend(listed.split_whitespace());
            if arguments.len() > 3 {
                let _ = self.docker(&arguments).output();
            }
        }
        for server in &self.servers {
            server.end();
        }
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
        let mut left = cgroups(&self.cgroup);
        left.extend(mounts_below(&self.base));
        left.extend(self.base.exists().then(|| self.base.clone()));
        for server in &self.servers {
            // Reaps one that was killed.
            server.has_ended();
        }
        left
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let left = self.end();
        if left.is_empty() {
            return;
        }
        if thread::panicking() {
            eprintln!("the engine left behind: {left:?}");
        } else {
            panic!("the engine left behind: {left:?}");
        }
    }
}

/// Once its stdin ends it kills all in the cgroup, and removes that and `base`. A process in a
/// process group of its own, which a terminal's interrupt does not reach.
pub(crate) fn sweeper(cgroup: &str, base: &Path) -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", SWEEP, "sweeper", cgroup]).arg(base).env("PATH", PATH);
    command.stdin(Stdio::piped()).process_group(0).spawn().unwrap()
}

/// The directories that all Dockers share in /run. The last engine of this process removes what
/// the first did not find; sooner, another would lose them between making and using them.
struct RunDirectories;

struct Users {
    count: usize,
    missing_before: Vec<&'static str>,
}

static USERS: Mutex<Users> = Mutex::new(Users { count: 0, missing_before: Vec::new() });

impl RunDirectories {
    fn new() -> RunDirectories {
        // Innermost first.
        let all = ["/run/docker/plugins", "/run/docker", "/run/containerd/s", "/run/containerd"];
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        if users.count == 0 {
            users.missing_before =
                all.into_iter().filter(|path| !Path::new(path).exists()).collect();
        }
        users.count += 1;
        RunDirectories
    }
}

/// Tests may run twice at once.
fn another_process_has_one() -> bool {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let own = format!("{PREFIX}{}-", std::process::id());
    let mut names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.any(|name| name.starts_with(PREFIX) && !name.starts_with(&own))
}

impl Drop for RunDirectories {
    fn drop(&mut self) {
        let mut users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        users.count -= 1;
        if users.count == 0 && !another_process_has_one() {
            for path in &users.missing_before {
                // Another Docker may have come to use it.
                let _ = fs::remove_dir(path);
            }
        }
    }
}

/// A program's path, or a panic that names the Debian package.
#[track_caller]
pub(crate) fn find(program: &str, package: &str) -> PathBuf {
    let mut paths = PATH.split(':').map(|directory| Path::new(directory).join(program));
    paths.find(|path| path.exists()).unwrap_or_else(|| {
        panic!("{program}: not found in {PATH}: install Debian's package {package}")
    })
}

/// The mountpoints of all cgroup hierarchies.
fn hierarchies() -> Vec<(PathBuf, Vec<String>)> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields
        .filter(|fields| matches!(fields[2], "cgroup" | "cgroup2"))
        .map(|fields| {
            let options = fields[3].split(',').map(str::to_owned).collect();
            (PathBuf::from(fields[1]), if fields[2] == "cgroup" { options } else { vec![] })
        })
        .collect()
}

/// The mountpoint of the hierarchy that has a controller: a v1 hierarchy, else cgroup v2.
pub(crate) fn hierarchy_of(controller: &str) -> PathBuf {
    let all = hierarchies();
    let v1 = all.iter().find(|(_, options)| options.iter().any(|option| option == controller));
    let found = v1.or_else(|| all.iter().find(|(_, options)| options.is_empty()));
    found.unwrap_or_else(|| panic!("no cgroup hierarchy has {controller}")).0.clone()
}

/// The directories of the cgroup `name` and below it in all hierarchies, innermost first.
pub(crate) fn cgroups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut next: Vec<PathBuf> = hierarchies()
        .into_iter()
        .map(|(mountpoint, _)| mountpoint.join(name))
        .filter(|path| path.exists())
        .collect();
    while let Some(directory) = next.pop() {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        next.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|is| is.is_dir())).map(|e| e.path()),
        );
        found.push(directory);
    }
    found.reverse();
    found
}

/// The processes of the cgroup `name` and below it in any hierarchy.
pub(crate) fn processes(name: &str) -> BTreeSet<i32> {
    let lists = cgroups(name).into_iter().map(|path| fs::read_to_string(path.join("cgroup.procs")));
    let pids = lists.flatten().flat_map(|list| {
        list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()
    });
    pids.collect()
}

/// The mountpoints at and below `base`, as mountinfo spells them, in the order of their making.
pub(crate) fn mounts_below(base: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    points.filter(|path| path.starts_with(base)).collect()
}

/// Removes a directory, and never what is mounted in it.
fn remove_tree(base: &Path) -> Result<(), String> {
    for mountpoint in mounts_below(base).iter().rev() {
        let _ = umount2(mountpoint, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    }
    let mounts = mounts_below(base);
    if !mounts.is_empty() {
        return Err(format!("mounts {mounts:?}"));
    }
    fs::remove_dir_all(base).map_err(|error| format!("{}: {error}", base.display()))
}

/// A directory that is removed in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(left) = remove_tree(&self.0) {
            eprintln!("left behind: {left}");
        }
    }
}

/// The image's tar file, which is made where there is none yet.
pub(crate) fn image() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut hasher = DefaultHasher::new();
    RECIPE.hash(&mut hasher);
    let name = format!("docker-{:016x}.tar", hasher.finish());
    let tar = cache().join(&name);
    if tar.exists() {
        return tar;
    }
    find("debootstrap", "debootstrap");
    let scratch = Scratch(cache().join(format!(".{name}.{}", std::process::id())));
    fs::create_dir_all(&scratch.0).unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-eu", "-c", RECIPE, "sh"])
        .arg(&scratch.0)
        .env("PATH", PATH)
        .stdin(Stdio::null());
    let Output { status, stderr, .. } = command.output().unwrap();
    let errors = String::from_utf8_lossy(&stderr);
    assert!(status.success(), "making the containers' image with debootstrap: {status}: {errors}");
    fs::rename(scratch.0.join("image.tar"), &tar).unwrap();
    tar
}

/// Where what takes long to make is kept between runs.
fn cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(directory) = variable("LXCFS_RS_CACHE") {
        return directory.into();
    }
    let caches = variable("XDG_CACHE_HOME").map(PathBuf::from).unwrap_or_else(|| {
        PathBuf::from(variable("HOME").expect("HOME is not set")).join(".cache")
    });
    caches.join("lxcfs-rs")
}
