//! Payloads that mean harm: contained, with the right status, and nothing of the host changed.
//! What must not be written is opened to be, no more: a test that fails harms the host no more
//! than one that passes.
//!
//! Needs what `run` needs.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use super::run::{run, run_script};

/// Exit status, standard output and standard error.
fn ending(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// What a script prints inside; it may fail.
fn printed(flags: &[&str], script: &str) -> String {
    let (_, printed, said) = ending(run_script(flags, script));
    assert!(!said.contains("lxcfs-rs: run: "), "{said}");
    printed
}

/// A file or directory of one test, removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("lxcfs-rs-hostile-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().canonicalize().unwrap().join(name);
        fs::create_dir(&dir).unwrap();
        Scratch(dir)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// A root directory with busybox and nothing else.
    fn busybox_root() -> Scratch {
        let root = Scratch::new();
        fs::create_dir(root.0.join("bin")).unwrap();
        let found = Command::new("sh").args(["-c", "command -v busybox"]).output().unwrap();
        let busybox = String::from_utf8(found.stdout).unwrap();
        fs::copy(busybox.trim_end(), root.0.join("bin/busybox")).unwrap();
        symlink("busybox", root.0.join("bin/sh")).unwrap();
        root
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_fork_bomb_stops_at_its_limit() {
    // Every child forks on and waits; the first process counts what came to be.
    let bomb = r#"
import os, time
def bomb():
    while True:
        try:
            if os.fork() == 0:
                continue
        except BlockingIOError:
            os.pause() if hasattr(os, "pause") else time.sleep(1000)
if os.fork() == 0:
    bomb()
count = "/sys/fs/cgroup/pids/pids.current"
if not os.path.exists(count):
    count = "/sys/fs/cgroup/pids.current"
while int(open(count).read()) < 50:
    pass
try:
    os.fork()
    print("forked")
except BlockingIOError:
    print("full")
"#;
    let (status, printed, said) = ending(run(&["--pids-limit", "50", "--", "python3", "-c", bomb]));
    assert_eq!((status, printed.as_str(), said.as_str()), (0, "full\n", ""));
}

#[test]
fn a_memory_hog_is_killed_and_the_status_says_so() {
    let hog = "b'x' * (512 << 20)";
    for flags in [["-m", "64m"].as_slice(), &["-m", "64m", "--memory-swap", "64m", "-u", "1000"]] {
        let arguments = [flags, &["--", "python3", "-c", hog]].concat();
        assert_eq!(ending(run(&arguments)), (137, String::new(), String::new()), "{flags:?}");
    }
    // A child's end is its parent's business.
    let script = "python3 -c \"b'x' * (512 << 20)\"; echo status $?";
    assert_eq!(
        ending(run_script(&["-m", "64m"], script)),
        (0, "status 137\n".into(), "Killed\n".into())
    );
}

#[test]
fn what_the_kernel_does_not_divide_cannot_be_written() {
    let script = "for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe \
        /proc/sys/kernel/hostname /proc/sys/vm/panic_on_oom /proc/sys/fs/binfmt_misc/register \
        /proc/sysrq-trigger /proc/irq/default_smp_affinity /proc/bus/x /proc/fs/x /proc/kcore \
        /proc/acpi/x /proc/meminfo /proc/cpuinfo /sys/kernel/uevent_helper /sys/kernel/mm/ksm/run \
        /sys/firmware/x /sys/fs/cgroup/x /sys/fs/cgroup/cgroup.procs \
        /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max \
        /sys/fs/cgroup/devices/devices.allow /sys/devices/system/cpu/online; do
            { true >> $file; } 2>/dev/null && echo $file
        done
        for dir in /proc /proc/sys /proc/self /sys /sys/fs/cgroup /sys/fs/cgroup/*; do
            mkdir $dir/x 2>/dev/null && echo $dir
        done
        mount -o remount,rw /proc/sys 2>/dev/null && echo remounted
        umount /proc/sys 2>/dev/null && echo unmounted
        umount /proc/meminfo 2>/dev/null && echo uncovered
        rm /proc/meminfo 2>/dev/null && echo removed
        head -c 1 /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | grep -v '^==>' | grep .
        true";
    for flags in [[].as_slice(), &["--rootfs", Scratch::busybox_root().path()], &["-u", "1000"]] {
        assert_eq!(printed(flags, script), "", "{flags:?}");
    }
}

/// The recipe that mounts a hierarchy of its own and has the host's kernel run its release_agent;
/// with SYS_ADMIN, which the recipe needs, a v1 hierarchy is mounted but its agent is not taken.
#[test]
fn no_release_agent_is_installed() {
    let script = "mkdir /tmp/cgroup
        for controller in memory pids rdma cpuset devices name=lxcfs-rs-hostile; do
            mount -t cgroup -o $controller cgroup /tmp/cgroup 2>/dev/null || continue
            echo mounted $controller
            umount /tmp/cgroup
        done
        for agent in /sys/fs/cgroup/*/release_agent /sys/fs/cgroup/release_agent; do
            { true >> $agent; } 2>/dev/null && echo wrote $agent
        done
        true";
    assert_eq!(printed(&[], script), "");
}

#[test]
fn the_hosts_disk_and_memory_do_not_open() {
    let device = fs::metadata("/").unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let script = format!(
        "cd /tmp; mknod disk b {major} {minor}; mknod mem c 1 1; mknod kmsg c 1 11; mknod fuse c 10 229
        for device in disk mem kmsg fuse; do
            head -c 1 $device >/dev/null 2>&1 && echo read $device
            {{ true >> $device; }} 2>/dev/null && echo wrote $device
        done
        mkdir fs; mount disk fs 2>/dev/null && echo mounted
        test -b disk && echo made"
    );
    assert_eq!(printed(&[], &script), "made\n");
    // Nor through a volume, whose filesystem is the host's.
    let dir = Scratch::new();
    let volume = format!("{}:/tmp", dir.path());
    assert_eq!(printed(&["-v", &volume], &script), "made\n");
}

/// The recipe that opens the host's files by their number (open_by_handle_at).
#[test]
fn no_file_is_opened_by_handle() {
    let script = r#"
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
root = os.open("/etc/hostname", os.O_RDONLY)
handle = ctypes.create_string_buffer(struct.pack("IiQ", 8, 1, 2), 16) # inode 2, FILEID_INO32_GEN
answer = libc.syscall(304, root, handle, 0)
print(answer, os.strerror(ctypes.get_errno()))
"#;
    for flags in [[].as_slice(), &["--security-opt", "seccomp=unconfined"]] {
        let (status, printed, said) =
            ending(run(&[flags, &["--", "python3", "-c", script]].concat()));
        assert_eq!((status, printed.as_str()), (0, "-1 Operation not permitted\n"), "{said}");
    }
}

/// Nothing of the host shows through the first process, nor is its program's file open to be
/// written while it still is the runtime's (CVE-2019-5736).
#[test]
fn the_runtime_is_out_of_reach() {
    let script = "readlink /proc/1/root; readlink /proc/1/cwd; readlink /proc/1/exe
        (exec busybox ls /proc/1/fd >/dev/shm/list); wc -l </dev/shm/list
        ls -d /proc/[0-9]* | wc -l
        ls /proc/1/root/..; cat /proc/1/root/../no-such-place-$$ 2>/dev/null
        kill -0 -1 2>/dev/null; true";
    let root = Scratch::busybox_root();
    let printed = printed(&["--rootfs", root.path()], script);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines[..3], ["/", "/", "/bin/busybox"], "{printed}");
    // The three streams alone; a pipe, or a saved stream, would be one more for a moment.
    assert_eq!(lines[3], "3", "{printed}");
    assert_eq!(lines[5..], ["bin", "dev", "proc", "sys"], "{printed}");

    let before = fs::metadata(env!("CARGO_BIN_EXE_lxcfs-rs")).unwrap().mtime();
    symlink("/proc/self/exe", root.0.join("bin/evil")).unwrap();
    let (status, _, said) = ending(run(&["--rootfs", root.path(), "--", "evil"]));
    // It executes the runtime itself once more, in the container: which is root there, no more.
    assert_ne!(status, 0, "{said}");
    let overwrite = "(while :; do for exe in /proc/[0-9]*/exe; do
        { true > $exe; } 2>/dev/null && echo $exe; done; done) & sleep 0.2; true";
    let (_, printed, _) = ending(run(&["--rootfs", root.path(), "--", "sh", "-c", overwrite]));
    assert_eq!(printed, "");
    assert_eq!(fs::metadata(env!("CARGO_BIN_EXE_lxcfs-rs")).unwrap().mtime(), before);
}

#[test]
fn a_working_directory_of_the_hosts_is_none() {
    // Descriptors of the runtime are of the host's root (CVE-2024-21626).
    for descriptor in 3..20 {
        let dir = format!("/proc/self/fd/{descriptor}");
        let (status, printed, _) =
            ending(run(&["-w", &dir, "--", "sh", "-c", "cat ../../../etc/hostname; ls ../../.."]));
        assert!(status == 125 || status == 126, "{dir}: {status} {printed}");
        assert_eq!(printed, "", "{dir}");
    }
}

/// A root directory full of links that lead out, as an image may be.
#[test]
fn links_in_a_root_lead_nowhere() {
    let (root, outside, source) = (Scratch::busybox_root(), Scratch::new(), Scratch::new());
    fs::write(source.0.join("marker"), "").unwrap();
    let up = format!("../../../../../../../../../..{}", outside.path());
    for (name, target) in [("abs", outside.path()), ("up", up.as_str()), ("fd", "/proc/self/fd")] {
        symlink(target, root.0.join(name)).unwrap();
    }
    fs::create_dir(root.0.join("etc")).unwrap();
    for name in ["hostname", "hosts", "resolv.conf"] {
        symlink(format!("{}/{name}", outside.path()), root.0.join("etc").join(name)).unwrap();
    }
    for target in ["/abs/x", "/up/x"] {
        let volume = format!("{}:{target}", source.path());
        let flags = ["--rootfs", root.path(), "-v", &volume, "-w", "/up/made"];
        let script = format!(
            "test -e {target}/marker && echo in; test -e {}/x/marker && echo there",
            outside.path()
        );
        assert_eq!(printed(&flags, &script), "in\nthere\n", "{target}");
    }
    // What was made was made inside.
    assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 0);
    assert!(root.0.join(outside.path().trim_start_matches('/')).join("x").is_dir());

    let volume = format!("{}:/fd/3/x", source.path());
    let (status, _, said) = ending(run(&["--rootfs", root.path(), "-v", &volume, "true"]));
    assert_eq!((status, said.lines().count()), (125, 1), "{said}");
}

/// A command, or its interpreter, by way of what the runtime has open.
#[test]
fn commands_that_are_links_to_descriptors_are_none() {
    let (root, outside) = (Scratch::busybox_root(), Scratch::new());
    let busybox = root.0.join("bin/busybox");
    fs::copy(&busybox, outside.0.join("busybox")).unwrap();
    fs::create_dir(root.0.join("esc")).unwrap();
    for number in 0..64 {
        let up = format!("/proc/self/fd/{number}/../../../../../../../..{}", outside.path());
        let link = root.0.join("esc").join(format!("{number}"));
        symlink(format!("{up}/busybox"), &link).unwrap();
        let script = root.0.join("esc").join(format!("script{number}"));
        fs::write(&script, format!("#!{up}/busybox true\n")).unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    }
    for number in 0..64 {
        for name in [format!("/esc/{number}"), format!("/esc/script{number}")] {
            let mut command = run(&["--rootfs", root.path(), "-i", &name]);
            // A directory of the caller's, which every program may have open.
            command.stdin(fs::File::open(&outside.0).unwrap());
            let (status, _, said) = ending(command);
            assert!(matches!(status, 126 | 127), "{name}: {status} {said}");
        }
    }
}

#[test]
fn users_files_that_are_none_are_refused() {
    let root = Scratch::busybox_root();
    let etc = root.0.join("etc");
    fs::create_dir(&etc).unwrap();
    let passwd = etc.join("passwd");
    let refused = |what: &str, flags: &[&str]| {
        let arguments = [&["--rootfs", root.path()], flags, &["/bin/busybox", "id"]].concat();
        let (status, printed, said) = ending(run(&arguments));
        assert_eq!((status, said.lines().count()), (125, 1), "{what}: {printed} {said}");
    };
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::S_IRUSR).unwrap();
    refused("a FIFO", &[]);
    for target in ["/dev/zero", "/proc/self/fd/0", "/etc"] {
        fs::remove_file(&passwd).unwrap();
        symlink(target, &passwd).unwrap();
        refused(target, &[]);
    }
    fs::remove_file(&passwd).unwrap();
    // To setresuid(2) this number means: stay who you are.
    fs::write(&passwd, "app:x:4294967295:0::/:/bin/sh\n").unwrap();
    refused("no number", &["--user", "app"]);
    refused("no number inside", &["--userns", "0:100000:65536", "--user", "app"]);
    fs::write(&passwd, "0:x:4294967295:0::/:/bin/sh\n").unwrap();
    let inside = ["--rootfs", root.path(), "/bin/busybox", "id", "-u"];
    assert_eq!(ending(run(&inside)), (0, "0\n".to_owned(), String::new()));
}

#[test]
fn a_file_that_is_standard_input_is_not_the_containers() {
    let outside = Scratch::new();
    let file = outside.0.join("in");
    fs::write(&file, "what was there\n").unwrap();
    let mut command = run_script(&["-i"], "cat; echo x >/proc/self/fd/0; echo x >/dev/stdin");
    command.stdin(fs::File::open(&file).unwrap());
    assert_eq!(ending(command).1, "what was there\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "what was there\n");
}

/// Changes directories of a root to links, and back, as fast as it can.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Swapper {
    fn start(root: &Path, outside: &Path) -> Swapper {
        let (root, outside) = (root.to_owned(), outside.to_owned());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let swap = move || {
            while !stopped.load(Ordering::Relaxed) {
                for name in ["a", "proc", "sys", "dev"] {
                    let (place, aside) = (root.join(name), root.join(format!("{name}.aside")));
                    let _ = fs::create_dir(&place);
                    let _ = fs::rename(&place, &aside);
                    let _ = symlink(&outside, &place);
                    let _ = fs::remove_file(&place);
                    let _ = fs::rename(&aside, &place);
                }
            }
        };
        Swapper { stop, thread: Some(thread::spawn(swap)) }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Another container that has the same root swaps what it is made of: neither volumes nor
/// covers go astray.
#[test]
fn links_that_change_meanwhile_lead_nowhere() {
    let (root, outside, source) = (Scratch::busybox_root(), Scratch::new(), Scratch::new());
    let swapper = Swapper::start(&root.0, &outside.0);
    let volume = format!("{}:/a/b", source.path());
    // What lies on no procfs was made by the other just now.
    let script = "for proc in /proc /proc.aside; do
            for file in $proc/sys/kernel/core_pattern $proc/sysrq-trigger; do
                [ \"$(busybox stat -f -c %t $file 2>/dev/null)\" = 9fa0 ] || continue
                { true >> $file; } 2>/dev/null && echo opened $file
            done
        done
        true";
    let mut ran = 0;
    for _ in 0..60 {
        let (status, printed, said) =
            ending(run(&["--rootfs", root.path(), "-v", &volume, "--", "sh", "-c", script]));
        assert_eq!(printed, "", "{said}");
        // It may well fail to find its way: in one line.
        assert!(status == 0 || said.lines().count() == 1, "{status}: {said}");
        ran += usize::from(status == 0);
    }
    drop(swapper);
    assert_eq!(fs::read_dir(&outside.0).unwrap().count(), 0, "something was made outside");
    assert!(ran > 0, "none found its way");
}

/// A namespace of users would give all capabilities in it, and with them much of the kernel.
#[test]
fn no_capability_is_regained() {
    let script = "unshare -U true 2>/dev/null && echo user
        unshare -m true 2>/dev/null && echo mount
        setpriv --bounding-set +sys_admin grep CapBnd /proc/self/status | grep -v a80425fb
        cp /bin/true /tmp/t && setcap cap_sys_admin+ep /tmp/t 2>/dev/null && /tmp/t && echo file
        true";
    assert_eq!(printed(&[], script), "");
}
