//! `run` on the real kernel: what a container gets, how it ends, what it leaves: nothing.
//!
//! Needs root in the initial pid namespace, /dev/fuse, util-linux, python3 and busybox-static.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::byhand::full;

pub(super) const PROGRAM: &str = env!("CARGO_BIN_EXE_lxcfs-rs");

/// Before a command that is to find no daemon at /var/lib/lxcfs, whatever runs on this machine.
pub(super) const WITHOUT_DAEMON: &str =
    "while mountpoint -q /var/lib/lxcfs; do umount -l /var/lib/lxcfs || exit 1; done; exec \"$@\"";

/// `lxcfs-rs run` in a mount namespace where no daemon serves, so that it brings its own.
pub(super) fn run(arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", WITHOUT_DAEMON, "sh"]);
    command.arg(PROGRAM).arg("run").args(arguments);
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// The same for a shell script.
pub(super) fn run_script(options: &[&str], script: &str) -> Command {
    let mut arguments = options.to_vec();
    arguments.extend(["--", "sh", "-c", script]);
    run(&arguments)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What the command prints; it must succeed without a word on stderr.
#[track_caller]
pub(super) fn output_of(mut command: Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success() && stderr.is_empty(), "{status}: {}", text(&stderr));
    text(&stdout)
}

/// The exit status and what was said on stderr.
pub(super) fn ending(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap(), text(&output.stderr))
}

/// The status must be `status`, with one line on stderr that holds `words`.
#[track_caller]
pub(super) fn assert_refused(arguments: &[&str], status: i32, words: &str) {
    let (code, said) = ending(run(arguments));
    assert_eq!((code, said.lines().count()), (status, 1), "{arguments:?}: {said}");
    assert!(said.starts_with("lxcfs-rs: run: ") && said.contains(words), "{arguments:?}: {said}");
}

/// Waits until `done`; no test depends on how long that takes.
#[track_caller]
pub(super) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not so after two minutes");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A running container whose script prints a line when it is ready.
pub(super) struct Container {
    pub(super) runtime: Child,
    stdout: BufReader<ChildStdout>,
}

impl Container {
    pub(super) fn start(options: &[&str], script: &str) -> Container {
        Container::of(run_script(options, script))
    }

    /// What a command that becomes the runtime starts.
    pub(super) fn of(mut command: Command) -> Container {
        let mut runtime = command.stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(runtime.stdout.take().unwrap());
        Container { runtime, stdout }
    }

    pub(super) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.runtime.id()).unwrap()), signal).unwrap();
    }

    pub(super) fn status(&mut self) -> i32 {
        let status = self.runtime.wait().unwrap();
        status.code().unwrap_or_else(|| panic!("{status}"))
    }

    /// The host's pid of the container's first process: the runtime's child in another pid
    /// namespace.
    pub(super) fn init(&self) -> Pid {
        let own = fs::read_link("/proc/self/ns/pid").unwrap();
        children(self.runtime.id())
            .into_iter()
            .find(|pid| {
                fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|other| other != own)
            })
            .map(|pid| Pid::from_raw(i32::try_from(pid).unwrap()))
            .unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.runtime.kill();
        let _ = self.runtime.wait();
        // What a killed one leaves, the next command removes: there may be no other.
        let _ = crate::life::program(&["ps", "-q"]).output();
    }
}

pub(super) fn children(pid: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    listed.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// The pids of processes that have `word` among their arguments.
pub(super) fn processes_with(word: &str) -> Vec<String> {
    let is_one = |pid: &String| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|&byte| byte == 0).any(|argument| argument == word.as_bytes())
    };
    let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    entries
        .map(|name| name.into_string().unwrap())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(is_one)
        .collect()
}

/// The cgroups of the container whose host name is `short`, on all hierarchies.
pub(super) fn cgroups_of(short: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mut found = Vec::new();
    for mount in mounts.lines() {
        let mut fields = mount.split(' ');
        let (place, fs_type) = (fields.nth(1).unwrap(), fields.next().unwrap());
        if !fs_type.starts_with("cgroup") {
            continue;
        }
        let Ok(entries) = fs::read_dir(Path::new(place).join("lxcfs-rs")) else { continue };
        let dirs = entries.map(|entry| entry.unwrap().path());
        found.extend(dirs.filter(|dir| {
            dir.file_name().unwrap().to_str().is_some_and(|name| name.starts_with(short))
        }));
    }
    found
}

/// A directory of one test.
pub(super) struct Dir(pub(super) PathBuf);

impl Dir {
    pub(super) fn new() -> Dir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lxcfs-rs-run-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        Dir(dir)
    }

    /// A root directory with nothing but busybox in it.
    pub(super) fn busybox_root() -> Dir {
        let dir = Dir::new();
        fs::create_dir(dir.0.join("bin")).unwrap();
        let busybox = output_of_program("sh", &["-c", "command -v busybox"]);
        fs::copy(busybox.trim_end(), dir.0.join("bin/busybox")).unwrap();
        for name in ["sh", "cat", "ls", "touch"] {
            std::os::unix::fs::symlink("busybox", dir.0.join("bin").join(name)).unwrap();
        }
        dir
    }

    pub(super) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
pub(super) fn output_of_program(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    output_of(command)
}

#[test]
fn the_exit_status_is_the_commands() {
    for status in [0, 3, 255] {
        assert_eq!(ending(run_script(&[], &format!("exit {status}"))), (status, String::new()));
    }
    // A process that init did not wait for does not keep the container alive.
    assert_eq!(ending(run_script(&[], "sleep 1000 & exit 5")), (5, String::new()));
}

#[test]
fn commands_that_cannot_be_executed() {
    assert_refused(&["--", "no-such-command"], 127, "no-such-command: no such command");
    assert_refused(&["--", "/no/such"], 127, "/no/such: no such file");
    assert_refused(&["--", "./no-such"], 127, "./no-such: no such file");
    assert_refused(&["--", ""], 127, "no such command");
    assert_refused(&["--", "--version"], 127, "--version: no such command");
    assert_refused(&["--", "/etc"], 126, "/etc: is a directory");
    assert_refused(&["--", "/etc/passwd"], 126, "/etc/passwd: Permission denied");

    let root = Dir::busybox_root();
    let script = root.0.join("bin/script");
    fs::write(&script, "#!/no/interpreter\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    assert_refused(&["--rootfs", root.path(), "--", "script"], 127, "interpreter");
    fs::write(&script, "no program\n").unwrap();
    assert_refused(&["--rootfs", root.path(), "--", "script"], 126, "Exec format error");
}

#[test]
fn what_is_wrong_is_one_line_and_125() {
    let file = Dir::new();
    fs::write(file.0.join("file"), "").unwrap();
    let file = file.0.join("file");
    for (arguments, words) in [
        (["--badflag", "--", "true"], "unexpected argument '--badflag'"),
        (["-m", "12q", "true"], "'12q' for '--memory <SIZE>': expected a number"),
        (["-m", "5m", "true"], "smallest memory limit is 6 MiB"),
        (["--cpus", "x", "true"], "expected a number of CPUs, such as"),
        (["--cpus", "1000000", "true"], "--cpus: more than the"),
        (["--cpuset-cpus", "1-0", "true"], "expected CPU numbers and ranges"),
        (["--cpuset-cpus", "60000", "true"], "of these only"),
        (["--rootfs", "/no/such", "true"], "--rootfs: /no/such: cannot open: No such file"),
        (["--rootfs", file.to_str().unwrap(), "true"], "file: not a directory"),
        (["--rootfs", "/", "true"], "own root"),
    ] {
        assert_refused(&arguments, 125, words);
    }
    assert_refused(&[], 125, "required arguments were not provided: <COMMAND>");
    assert_refused(&["-m"], 125, "a value is required for '--memory");

    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--clear-groups", PROGRAM, "run", "true"]);
    let (code, said) = ending(nobody);
    assert_eq!((code, said.lines().count()), (125, 1), "{said}");
    assert!(said.contains("root is needed"), "{said}");
}

#[test]
fn limits_stand_in_the_cgroups_files() {
    let script = "cd /sys/fs/cgroup
        if [ -e memory/memory.limit_in_bytes ]; then
            cat memory/memory.limit_in_bytes
        else
            cat memory.max
        fi
        if [ -e cpu/cpu.cfs_quota_us ]; then
            echo $(cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us)
        else
            cat cpu.max
        fi
        cat cpuset/cpuset.cpus 2>/dev/null || cat cpuset.cpus
        grep Cpus_allowed_list /proc/self/status";
    let options = ["-m", "64m", "--cpus", "0.5", "--cpuset-cpus", "0"];
    assert_eq!(
        output_of(run_script(&options, script)),
        "67108864\n50000 100000\n0\nCpus_allowed_list:\t0\n"
    );
}

#[test]
fn memory_and_swap_together_are_twice_the_memory() {
    let script = "cd /sys/fs/cgroup
        if [ -e memory/memory.memsw.limit_in_bytes ]; then
            cat memory/memory.memsw.limit_in_bytes
        elif [ -e memory.swap.max ]; then
            echo $(($(cat memory.swap.max) + $(cat memory.max)))
        else
            echo 134217728
        fi";
    assert_eq!(output_of(run_script(&["-m", "64m"], script)), "134217728\n");
}

#[test]
fn the_memory_limit_holds() {
    let hog = "b'x' * (512 << 20)";
    let (status, _) = ending(run(&["-m", "64m", "--", "python3", "-c", hog]));
    assert_eq!(status, 137);
}

#[test]
fn it_is_a_machine_that_was_just_booted() {
    let script = "import time
print(time.clock_gettime(time.CLOCK_BOOTTIME))
print(time.clock_gettime(time.CLOCK_MONOTONIC))
stat = open('/proc/self/stat').read()
print(int(stat[stat.rindex(')'):].split()[20]) / 100)";
    let printed = output_of(run(&["--", "python3", "-c", script]));
    let seconds: Vec<f64> = printed.lines().map(|line| line.parse().unwrap()).collect();
    let [boottime, monotonic, start_time] = seconds[..] else { panic!("{printed}") };
    assert!((0.0..60.0).contains(&start_time), "{printed}");
    assert!((start_time..60.0).contains(&boottime), "{printed}");
    assert!((boottime - monotonic).abs() < 1.0, "{printed}");
}

#[test]
fn vmstat_is_of_its_memory_and_slabinfo_has_no_caches() {
    let script = "
import mmap
def numbers(path):
    return {name.rstrip(':'): int(value) for name, value, *unit in map(str.split, open(path))}
before = numbers('/proc/vmstat')
held = mmap.mmap(-1, 20 << 20)
held.madvise(15)  # MADV_NOHUGEPAGE: a fault for each page
for offset in range(0, len(held), 4096):
    held[offset] = 1
after, meminfo = numbers('/proc/vmstat'), numbers('/proc/meminfo')
# Counts lag behind by a batch for each CPU.
print(after['pgfault'] - before['pgfault'] >= 4500)
print(abs(after['nr_free_pages'] * 4 - meminfo['MemFree']) < 4096, after['nr_free_pages'] * 4 < 102400)
print(after['numa_hit'], after['pgfree'])
print(list(before) == [line.split()[0] for line in open('/proc/vmstat')])
print(len(open('/proc/slabinfo').readlines()))";
    let printed = output_of(run(&["-m", "100m", "--", "python3", "-c", script]));
    assert_eq!(printed, "True\nTrue True\n0 0\nTrue\n2\n");
    let host = fs::read_to_string("/proc/vmstat").unwrap();
    let names = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    let shown = output_of(run(&["--", "cat", "/proc/vmstat"]));
    assert_eq!(names(&shown), names(&host));
    // As the kernel's, it is for root.
    let mut as_nobody = run(&["--", "setpriv", "--reuid=65534", "cat", "/proc/slabinfo"]);
    let Output { status, stderr, .. } = as_nobody.output().unwrap();
    assert!(!status.success() && text(&stderr).contains("Permission denied"), "{}", text(&stderr));
}

#[test]
fn its_namespaces_are_its_own() {
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let link = format!("/proc/self/ns/{kind}");
        let inside = output_of(run(&["--", "readlink", &link]));
        let outside = fs::read_link(&link).unwrap();
        let shared = Path::new(inside.trim_end()) == outside;
        assert_eq!(shared, matches!(kind, "net" | "user"), "{kind}");
    }
    let script = "cut -d: -f3 /proc/self/cgroup | sort -u; echo $$; cat /proc/sys/kernel/hostname";
    let printed = output_of(run_script(&[], script));
    let lines: Vec<&str> = printed.lines().collect();
    // Named v1 hierarchies are left as they are, so the host's own path may be among them.
    assert!(lines.contains(&"/"), "{printed}");
    assert_eq!(lines[lines.len() - 2], "1");
    let hostname = lines[lines.len() - 1];
    assert!(hostname.len() == 12 && hostname.bytes().all(|byte| byte.is_ascii_hexdigit()));
}

#[test]
fn it_starts_as_a_fresh_process() {
    let mut command = run(&["--", "env"]);
    command.env("SECRET", "x").env("PATH", "/usr/bin:/bin:/usr/sbin");
    let printed = output_of(command);
    let mut names: Vec<&str> =
        printed.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    names.sort_unstable();
    assert_eq!(names, ["HOME", "HOSTNAME", "PATH"]);

    let options = ["-e", "A=b c", "-e", "PATH=/bin", "-e", "SECRET", "-e", "HOSTNAME"];
    let mut command = run(&[&options[..], &["--", "env"]].concat());
    command.env("SECRET", "x").env_remove("HOSTNAME");
    assert_eq!(output_of(command), "PATH=/bin\nA=b c\nSECRET=x\nHOME=/root\n");

    let script = "pwd; umask; ls /proc/self/fd | wc -l; grep -E 'Sig(Blk|Ign)' /proc/self/status";
    let printed = output_of(run_script(&[], script));
    // ls has a descriptor of the directory that it lists.
    let expected = "/\n0022\n4\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    assert_eq!(printed, expected);
}

#[test]
fn its_directory_is_made() {
    let arguments = ["-w", "/srv/no/such", "--", "sh", "-c", "pwd; stat -c '%a %u' ."];
    assert_eq!(output_of(run(&arguments)), "/srv/no/such\n755 0\n");
    assert!(!Path::new("/srv/no").exists());
    assert_refused(&["-w", "/etc/passwd", "true"], 125, "working directory: /etc/passwd: ");
    assert_refused(&["-w", "x", "true"], 125, "expected an absolute path");
}

#[test]
fn nothing_of_the_hosts_mounts_is_left_in_it() {
    let root = Dir::busybox_root();
    for options in [["--rootfs", root.path(), "--"].as_slice(), &["--"]] {
        let mut arguments = options.to_vec();
        arguments.extend(["cat", "/proc/self/mountinfo"]);
        let printed = output_of(run(&arguments));
        let places: Vec<&str> =
            printed.lines().map(|line| line.split(' ').nth(4).unwrap()).collect();
        assert_eq!(places.iter().filter(|&&place| place == "/").count(), 1, "{printed}");
        let mut unique = places.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), places.len(), "a mount over a mount:\n{printed}");
        for place in ["/proc", "/sys", "/dev", "/dev/pts", "/dev/shm", "/proc/meminfo"] {
            assert!(places.contains(&place), "{place}:\n{printed}");
        }
        for line in printed.lines().filter(|line| line.contains(" fuse.lxcfs ")) {
            let mut fields = line.split(' ').skip(4);
            let (place, options) = (fields.next().unwrap(), fields.next().unwrap());
            // A trigger is written.
            let access = if place.starts_with("/proc/pressure/") { "rw" } else { "ro" };
            assert!(options.starts_with(&format!("{access},nosuid,nodev,noexec")), "{line}");
        }
        assert!(!printed.contains("shared:"), "{printed}");
    }
}

#[test]
fn the_devices_work() {
    let script = "echo x > /dev/null && head -c 3 /dev/zero | od -An -tx1 &&
        head -c 1 /dev/urandom | wc -c && test -L /dev/fd && test -c /dev/pts/ptmx &&
        touch /dev/shm/x && python3 -c 'import pty; pty.openpty()' && ! test -w /sys/kernel";
    let (status, said) = ending(run_script(&[], "touch /sys/x"));
    assert!(status != 0 && said.contains("Read-only file system"), "{said}");
    let printed = output_of(run_script(&[], &script.replace(" && ! test -w /sys/kernel", "")));
    assert_eq!(printed, " 00 00 00\n1\n");
}

#[test]
fn its_root_can_be_read_only() {
    let script = "touch /usr/x || touch /tmp/x || touch /etc/hostname || touch /dev/shm/x; cat /etc/hostname";
    let mut command = run(&["--read-only", "-h", "here", "--", "sh", "-c", script]);
    let Output { stdout, stderr, .. } = command.output().unwrap();
    assert_eq!(text(&stdout), "here\n");
    assert_eq!(text(&stderr).matches("Read-only file system").count(), 3, "{}", text(&stderr));
}

#[test]
fn its_root_is_thrown_away() {
    let dir = Dir::new();
    let file = dir.0.join("file");
    fs::write(&file, "the host's\n").unwrap();
    let script = format!(
        "cd {} && cat file && echo changed > file && cat file && rm file && touch new /root/new-{}",
        dir.path(),
        std::process::id()
    );
    assert_eq!(output_of(run_script(&[], &script)), "the host's\nchanged\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "the host's\n");
    assert!(!dir.0.join("new").exists());
    assert!(!Path::new("/root").join(format!("new-{}", std::process::id())).exists());
}

#[test]
fn a_root_directory_is_used_as_it_is() {
    let root = Dir::busybox_root();
    let script = "touch /made; ls /";
    let printed = output_of(run_script(&["--rootfs", root.path()], script));
    assert_eq!(printed, "bin\ndev\nmade\nproc\nsys\n");
    assert!(root.0.join("made").exists());
    // Mounts on its directories were in the container's namespace alone.
    assert_eq!(fs::read_dir(root.0.join("dev")).unwrap().count(), 0);
}

#[test]
fn a_link_does_not_lead_a_mount_astray() {
    let root = Dir::busybox_root();
    std::os::unix::fs::symlink("bin", root.0.join("proc")).unwrap();
    assert_refused(&["--rootfs", root.path(), "true"], 125, "/proc: not a directory to mount");
}

/// Runs `script`, with the program as $1, in a mount namespace whose root is an overlay over as
/// many overlays over this machine's as `depth` says.
fn in_overlay(depth: u32, script: &str) -> Output {
    let script = format!(
        r#"
        set -e
        mount -t tmpfs tmpfs /mnt
        cd /mnt
        lower=/
        for level in $(seq {depth}); do
            mkdir $level upper.$level work.$level
            mount -t overlay overlay $level \
                -o lowerdir=$lower,upperdir=upper.$level,workdir=work.$level
            lower=$level
        done
        for dir in proc sys dev; do mount --rbind /$dir $lower/$dir; done
        mount --bind "$(dirname "$1")" "$lower$(dirname "$1")"
        cd $lower
        pivot_root . mnt
        umount -l /mnt
        {script}
        "#
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh", PROGRAM]);
    command.stdin(Stdio::null()).env_remove("RUST_LOG").output().unwrap()
}

#[test]
fn the_hosts_root_may_be_an_overlay_itself() {
    let output = in_overlay(1, "touch /below; exec \"$1\" run -- sh -c 'touch /usr/x; ls /below'");
    assert_eq!(text(&output.stdout), "/below\n", "{}", text(&output.stderr));
    assert_eq!(text(&output.stderr), "");
}

/// Where the kernel refuses an overlay, as over a stack of two, the root is read-only.
#[test]
fn without_an_overlay_the_root_is_read_only() {
    let output = in_overlay(
        2,
        "exec \"$1\" run -- sh -c \
            'touch /tmp/x /run/x && ! touch /usr/x 2>/dev/null && echo right'",
    );
    let said = text(&output.stderr);
    assert_eq!(text(&output.stdout), "right\n", "{said}");
    assert!(said.contains("the container gets the host's root read-only"), "{said}");
}

#[test]
fn names_are_looked_up_as_on_the_host() {
    for depth in [1, 2] {
        let output = in_overlay(
            depth,
            "mount -t tmpfs tmpfs /run
            mkdir /run/resolver
            echo nameserver 192.0.2.1 > /run/resolver/resolv.conf
            ln -sf ../run/resolver/resolv.conf /etc/resolv.conf
            exec \"$1\" run -- cat /etc/resolv.conf",
        );
        let said = text(&output.stderr);
        assert_eq!(text(&output.stdout), "nameserver 192.0.2.1\n", "{said}");
    }
}

#[test]
fn its_own_daemon_shows_nowhere_else() {
    let mut container = Container::start(&[], "echo; exec sleep 1000");
    container.line();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("/run/lxcfs"), "{mounts}");
    // The daemon and the container's first process.
    assert_eq!(children(container.runtime.id()).len(), 2);
}

#[test]
fn the_loss_of_its_own_daemon_is_told() {
    let mut command = run_script(&[], "echo; exec sleep 1000");
    let mut runtime = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = runtime.stderr.take().unwrap();
    let stdout = BufReader::new(runtime.stdout.take().unwrap());
    let mut container = Container { runtime, stdout };
    container.line();
    let init = container.init();
    let daemon = children(container.runtime.id())
        .into_iter()
        .map(|pid| Pid::from_raw(i32::try_from(pid).unwrap()))
        .find(|&pid| pid != init)
        .unwrap();
    kill(daemon, Signal::SIGKILL).unwrap();
    let mut said = [0; 200];
    let length = stderr.read(&mut said).unwrap();
    assert!(text(&said[..length]).contains("the container's own lxcfs-rs ended"));
    kill(init, Signal::SIGKILL).unwrap();
    assert_eq!(container.status(), 137);
}

/// `run` of an endless script in a mount namespace where a daemon, given as the runtime's
/// first child, serves at /var/lib/lxcfs and `before` was done to it.
fn beside_daemon(before: &str) -> (Container, u32) {
    let script = WITHOUT_DAEMON.replace("exec \"$@\"", "");
    let script = format!(
        r#"
        set -e
        {script}
        mkdir -p /var/lib/lxcfs
        "$1" serve /var/lib/lxcfs 2>/dev/null & daemon=$!
        while ! [ -e /var/lib/lxcfs/proc/meminfo ]; do kill -0 $daemon; sleep 0.01; done
        echo $daemon
        {before}
        exec "$1" run -- sh -c 'echo; exec sleep 1000'
        "#
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh", PROGRAM]);
    command.env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut runtime = command.spawn().unwrap();
    let stdout = BufReader::new(runtime.stdout.take().unwrap());
    let mut container = Container { runtime, stdout };
    let daemon = container.line().parse().unwrap();
    container.line();
    (container, daemon)
}

#[test]
fn the_hosts_daemon_is_used_where_there_is_one() {
    let (container, daemon) = beside_daemon("");
    let of_runtime = children(container.runtime.id());
    kill(Pid::from_raw(i32::try_from(daemon).unwrap()), Signal::SIGTERM).unwrap();
    // The shell became the runtime, so the daemon is one of its children.
    assert_eq!(of_runtime.len(), 2);
}

#[test]
fn a_hung_daemon_is_passed_over() {
    // One of its threads may still answer while another has stopped already.
    let (container, daemon) = beside_daemon(
        "worker=$(set -- $(cat /proc/$daemon/task/$daemon/children); echo $1)
        kill -STOP $worker
        while cat /proc/$worker/task/*/status | grep State: | grep -qv T; do :; done",
    );
    let of_runtime = children(container.runtime.id());
    kill(Pid::from_raw(i32::try_from(daemon).unwrap()), Signal::SIGKILL).unwrap();
    assert!(of_runtime.len() >= 3, "{of_runtime:?}");
}

#[test]
fn signals_are_passed_on() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
    ] {
        let name = signal.as_str().trim_start_matches("SIG");
        let script = format!("trap 'exit 42' {name}; echo; while :; do sleep 0.01; done");
        let mut container = Container::start(&[], &script);
        container.line();
        container.signal(signal);
        assert_eq!(container.status(), 42, "{signal}");
    }
}

#[test]
fn the_third_request_to_end_kills() {
    let mut container = Container::start(&[], "echo; exec sleep 1000");
    container.line();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTERM] {
        // One after the other: two of a kind at once would count as one.
        let pending = || {
            let status = fs::read_to_string(format!("/proc/{}/status", container.runtime.id()));
            status
                .unwrap()
                .lines()
                .any(|line| line.starts_with("ShdPnd:") && !line.ends_with("0000000000000000"))
        };
        eventually("the signal was taken", || !pending());
        container.signal(signal);
    }
    assert_eq!(container.status(), 137);
}

/// A change of user takes the kernel's promise to kill it off a process.
#[test]
fn no_user_outlives_the_runtime() {
    let script = "import ctypes
signal = ctypes.c_int()
PR_GET_PDEATHSIG = 2
ctypes.CDLL(None).prctl(PR_GET_PDEATHSIG, ctypes.byref(signal), 0, 0, 0)
print(signal.value)";
    for flags in [["-u", "0"], ["-u", "1000"], ["--userns", "0:100000:65536"]] {
        assert_eq!(output_of(run(&[&flags[..], &["python3", "-c", script]].concat())), "9\n");
    }
}

#[test]
fn a_signal_that_ends_the_command_shows_in_the_status() {
    let mut container = Container::start(&[], "echo; exec sleep 1000");
    container.line();
    kill(container.init(), Signal::SIGKILL).unwrap();
    assert_eq!(container.status(), 137);
}

#[test]
fn standard_input_and_output_are_passed_through() {
    let mut command = run(&["-i", "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let sent = "x".repeat(1 << 20);
    let mut stdin = child.stdin.take().unwrap();
    let copy = sent.clone();
    let writer = thread::spawn(move || stdin.write_all(copy.as_bytes()));
    let mut received = String::new();
    child.stdout.take().unwrap().read_to_string(&mut received).unwrap();
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(received.len(), sent.len());
}

#[test]
fn nothing_is_left_behind() {
    let marker = format!("lxcfs-rs-marker-{}", std::process::id());
    // In a mount namespace that nobody else mounts in; of the mounts that it copied, some may
    // go, when someone removes the directory that they are on.
    let script = WITHOUT_DAEMON.replace("exec \"$@\"", "")
        + r#"
        mounts=$(cat /proc/self/mountinfo)
        for round in $(seq "$3"); do
            "$1" run -m 64m -- sh -c 'cat /proc/sys/kernel/hostname; sleep 1000 &' "$2" || exit 1
        done
        grep -vxF "$mounts" /proc/self/mountinfo && exit 2
        exit 0
        "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh", PROGRAM]);
    // `tests/run --full` sets it.
    let rounds = if full() { 1000 } else { 30 };
    command.args([&marker, &rounds.to_string()]).stdin(Stdio::null()).env_remove("RUST_LOG");
    let ids = output_of(command);
    assert_eq!(ids.lines().count(), rounds);
    for id in ids.lines() {
        assert_eq!(cgroups_of(id), Vec::<PathBuf>::new());
        let records = fs::read_dir("/run/lxcfs-rs/containers").into_iter().flatten().flatten();
        let names = records.map(|entry| entry.file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name.starts_with(id)).count(), 0);
    }
    assert_eq!(processes_with(&marker), Vec::<String>::new());
}

#[test]
fn containers_do_not_disturb_each_other() {
    let workers: Vec<_> = (0..6)
        .map(|number| {
            thread::spawn(move || {
                for _ in 0..5 {
                    let script = format!("exit {number}");
                    assert_eq!(ending(run_script(&[], &script)), (number, String::new()));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

#[test]
fn a_failed_step_undoes_those_before_it() {
    // /dev cannot be mounted on: the steps up to the root filesystem have been done by then.
    let root = Dir::busybox_root();
    fs::write(root.0.join("dev"), "").unwrap();
    let marker = format!("lxcfs-rs-undone-{}", std::process::id());
    assert_refused(
        &["--rootfs", root.path(), "--", "sh", "-c", ":", &marker],
        125,
        "root filesystem: /dev: not a directory to mount tmpfs on",
    );
    assert_eq!(processes_with(&marker), Vec::<String>::new());
}

#[test]
fn a_killed_runtime_takes_its_processes_along_and_the_next_removes_its_cgroups() {
    let marker = format!("lxcfs-rs-killed-{}", std::process::id());
    let script = "cat /proc/sys/kernel/hostname; sleep 1000 & sleep 1000";
    let mut command = run(&["--", "sh", "-c", script, &marker]);
    let mut runtime = command.stdout(Stdio::piped()).spawn().unwrap();
    let stdout = BufReader::new(runtime.stdout.take().unwrap());
    let mut container = Container { runtime, stdout };
    let id = container.line();
    assert!(!cgroups_of(&id).is_empty());
    let of_runtime = children(container.runtime.id());
    assert_eq!(of_runtime.len(), 2);

    container.runtime.kill().unwrap();
    assert_eq!(container.runtime.wait().unwrap().signal(), Some(9));
    eventually("its processes are gone", || processes_with(&marker).is_empty());
    for pid in of_runtime {
        eventually("its children are gone", || {
            !Path::new(&format!("/proc/{pid}")).exists()
                || fs::read_to_string(format!("/proc/{pid}/stat"))
                    .is_ok_and(|stat| stat.contains(") Z "))
        });
    }
    output_of(run(&["true"]));
    eventually("its cgroups are gone", || cgroups_of(&id).is_empty());
}

#[test]
fn a_cgroup_that_was_made_inside_goes_too() {
    let mut container =
        Container::start(&[], "cat /proc/sys/kernel/hostname; read line; sleep 1000");
    let id = container.line();
    for dir in cgroups_of(&id) {
        fs::create_dir_all(dir.join("a/b")).unwrap();
    }
    kill(container.init(), Signal::SIGKILL).unwrap();
    // stdin is /dev/null, so the shell may have ended before.
    container.status();
    assert_eq!(cgroups_of(&id), Vec::<PathBuf>::new());
}
