//! What confines a container of `run`, beside what a real Docker does with the same flags.
//!
//! Needs what `run` and `docker` need.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::engine::{Engine, IMAGE};
use super::run::{assert_refused, output_of, run, run_script};

/// What `docker run` prints for the same flags and command.
#[track_caller]
fn docker(engine: &Engine, flags: &[&str], command: &[&str]) -> String {
    let mut arguments = vec!["run", "--rm", "--network", "none"];
    arguments.extend(flags);
    arguments.push(IMAGE);
    arguments.extend(command);
    engine.output(&arguments)
}

/// What `run` prints for the flags and the command.
#[track_caller]
fn ours(flags: &[&str], command: &[&str]) -> String {
    let mut arguments = flags.to_vec();
    arguments.push("--");
    arguments.extend(command);
    output_of(run(&arguments))
}

/// Shows what a process may do.
const STATUS: &[&str] =
    &["grep", "-E", "^(Cap|NoNewPrivs|Seccomp|Speculation_Store)", "/proc/self/status"];

#[test]
fn a_process_may_do_what_it_may_in_docker() {
    let engine = Engine::shared();
    for flags in [
        [].as_slice(),
        &["--cap-drop", "ALL"],
        &["--cap-drop", "ALL", "--cap-add", "chown"],
        &["--cap-drop=all", "--cap-drop=chown", "--cap-add=CAP_CHOWN"],
        &["--cap-add", "SYS_ADMIN"],
        &["--cap-add", "cap_sys_admin", "--cap-drop", "SYS_ADMIN"],
        &["--cap-drop", "NET_RAW", "--cap-drop", "mknod"],
        &["--cap-add", "CHOWN", "--cap-drop", "CHOWN"],
        &["--security-opt", "no-new-privileges"],
        &["--security-opt", "no-new-privileges:false"],
        &["--security-opt", "seccomp=unconfined"],
        &["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges:true"],
    ] {
        assert_eq!(ours(flags, STATUS), docker(&engine, flags, STATUS), "{flags:?}");
    }
}

fn fields(status: &str) -> BTreeMap<&str, &str> {
    status.lines().filter_map(|line| line.split_once(":\t")).collect()
}

/// A Docker that is older than the kernel does not know all of these, and fails where the
/// machine's root lacks one.
#[test]
fn all_is_all_that_the_runtime_has() {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = u64::from_str_radix(fields(&own)["CapPrm"], 16).unwrap();
    for (flags, without, seccomp) in [
        (["--cap-add", "ALL"].as_slice(), 0, "2"),
        (&["--cap-add", "ALL", "--cap-drop", "ALL"], 0, "2"),
        (&["--cap-add", "ALL", "--cap-drop", "CHOWN"], 1, "2"),
        (&["--privileged"], 0, "0"),
        (&["--privileged", "--cap-drop", "ALL"], 0, "0"),
    ] {
        let status = ours(flags, STATUS);
        let found = fields(&status);
        let expected = format!("{:016x}", own & !without);
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(found[set], expected, "{flags:?} {set}");
        }
        assert_eq!(found["CapInh"], "0000000000000000");
        assert_eq!(found["Seccomp"], seccomp, "{flags:?}");
    }
}

#[test]
fn what_cannot_be_had_is_one_line_and_125() {
    for (flags, words) in [
        (["--cap-add", "FOO"], "'FOO' for '--cap-add <NAME>': unknown capability"),
        (["--cap-drop", ""], "unknown capability"),
        (["--security-opt", "label=disable"], "expected no-new-privileges or seccomp=unconfined"),
    ] {
        let arguments = [&flags[..], &["true"]].concat();
        assert_refused(&arguments, 125, words);
    }
    // As in a container that does not have it.
    let mut without = std::process::Command::new("setpriv");
    without.args(["--bounding-set", "-sys_time", "--inh-caps", "-sys_time"]);
    without.args([env!("CARGO_BIN_EXE_lxcfs-rs"), "run", "--cap-add", "sys_time", "true"]);
    let output = without.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert_eq!(said, "lxcfs-rs: run: --cap-add SYS_TIME: the runtime does not have it itself\n");
}

/// Makes every system call of this architecture, each in a process of its own and with
/// arguments that mean nothing, and prints how it is answered.
const ALL_CALLS: &str = r#"
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
nonsense = [ctypes.c_long(-1)] * 6
PAUSE = 34 # on x86-64; it waits
for number in range(480):
    if number == PAUSE:
        continue
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 2)
        null = os.open("/dev/null", os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        ctypes.set_errno(0)
        answer = libc.syscall(ctypes.c_long(number), *nonsense)
        errno = ctypes.get_errno() if answer == -1 else 0
        os._exit({1: 101, 38: 138}.get(errno, 0))
    status = os.waitpid(child, 0)[1]
    word = "other"
    if os.WIFEXITED(status):
        word = {101: "EPERM", 138: "ENOSYS"}.get(os.WEXITSTATUS(status), "other")
    print(number, word)
"#;

/// The calls whose rule is another since Docker 20.10, or that it does not know.
fn has_changed(number: libc::c_long) -> bool {
    const CHANGED: &[libc::c_long] = &[
        libc::SYS_bpf,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_io_uring_setup,
        libc::SYS_name_to_handle_at,
        libc::SYS_perf_event_open,
        libc::SYS_pkey_alloc,
        libc::SYS_pkey_free,
        libc::SYS_pkey_mprotect,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_socket,
        // Docker compares 64 bits of an argument of which the kernel takes 32.
        libc::SYS_personality,
        335, // uretprobe
    ];
    number >= libc::SYS_landlock_create_ruleset || CHANGED.contains(&number)
}

#[test]
fn system_calls_are_answered_as_in_docker() {
    let engine = Engine::shared();
    let command = ["python3", "-c", ALL_CALLS];
    for flags in [
        "",
        "--cap-drop=ALL",
        "--cap-add=SYS_ADMIN",
        "--cap-add=SYS_PTRACE --cap-add=SYS_MODULE --cap-add=SYS_BOOT --cap-add=SYS_TIME \
         --cap-add=SYSLOG --cap-add=DAC_READ_SEARCH --cap-add=SYS_NICE --cap-add=SYS_PACCT \
         --cap-add=SYS_RAWIO --cap-drop=SYS_CHROOT",
        "--security-opt=seccomp=unconfined",
    ] {
        let flags: Vec<&str> = flags.split_whitespace().collect();
        let (here, there) = (ours(&flags, &command), docker(&engine, &flags, &command));
        assert_eq!(here.lines().count(), there.lines().count(), "{here}");
        let different: Vec<_> = here
            .lines()
            .zip(there.lines())
            .filter(|(here, there)| here != there)
            .filter(|(here, _)| !has_changed(here.split(' ').next().unwrap().parse().unwrap()))
            .collect();
        assert!(different.is_empty(), "{flags:?}: ours and Docker's: {different:?}");
    }
}

#[test]
fn no_namespace_is_made_without_sys_admin() {
    let script = r#"
import ctypes, os, threading
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *arguments):
    ctypes.set_errno(0)
    answer = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(each) for each in arguments])
    print(name, answer if answer >= 0 else os.strerror(ctypes.get_errno()))
call("clone3", 435, 0, 0)
call("clone newuser", 56, 0x10000000 | 17, 0, 0, 0, 0)
call("unshare newuser", 272, 0x10000000)
call("unshare newns", 272, 0x20000)
call("mount", 165, 0, 0, 0, 0, 0)
call("keyctl", 250, 0, -3, 0, 0, 0)
call("vsock", 41, 40, 1, 0)
call("personality", 135, 0x40000)
thread = threading.Thread(target=print, args=["a thread starts"])
thread.start()
thread.join()
"#;
    let refused = "Operation not permitted";
    assert_eq!(
        ours(&[], &["python3", "-c", script]),
        format!(
            "clone3 Function not implemented\nclone newuser {refused}\n\
             unshare newuser {refused}\nunshare newns {refused}\nmount {refused}\n\
             keyctl {refused}\nvsock {refused}\npersonality {refused}\na thread starts\n"
        )
    );
    // With it, they are.
    let unshare = "unshare --mount --net mount -t tmpfs tmpfs /mnt && echo done";
    assert_eq!(ours(&["--cap-add", "SYS_ADMIN"], &["sh", "-c", unshare]), "done\n");
}

/// A program for a 32-bit processor is filtered by the numbers of its own calls.
#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_the_32_bit_abi_are_filtered_too() {
    let script = r#"
import ctypes, mmap, os
def call(number):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    # mov eax, number; int 0x80; ret
    page.write(b"\xb8" + number.to_bytes(4, "little") + b"\xcd\x80\xc3")
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)()
print(call(20) == os.getpid(), call(310), call(288), call(375), call(474))
"#;
    let command = ["python3", "-c", script];
    // getpid; unshare and keyctl refused; membarrier with nonsense; a call of the future.
    assert_eq!(ours(&[], &command), "True -1 -1 -22 -38\n");
}

/// The mounts on /proc and /sys but the cgroups and our files: root, place, type, read-only.
fn covers(mountinfo: &str) -> BTreeSet<(String, String, String, bool)> {
    let mounts = mountinfo.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    mounts
        .filter(|fields| fields[4].starts_with("/proc") || fields[4].starts_with("/sys"))
        .filter(|fields| !fields[4].starts_with("/sys/fs/cgroup"))
        .map(|fields| {
            let separator = fields.iter().position(|field| *field == "-").unwrap();
            let is_read_only = fields[5].split(',').any(|option| option == "ro");
            let texts = [fields[3], fields[4], fields[separator + 1]].map(str::to_owned);
            let [root, place, fs_type] = texts;
            (root, place, fs_type, is_read_only)
        })
        .filter(|(_, _, fs_type, _)| fs_type != "fuse.lxcfs")
        .collect()
}

#[test]
fn the_same_paths_are_covered_as_in_docker() {
    let engine = Engine::shared();
    let command = ["cat", "/proc/self/mountinfo"];
    let here = covers(&ours(&[], &command));
    let mut there = covers(&docker(&engine, &[], &command));
    // Docker hides it since version 23 only.
    const LATER: &str = "/sys/devices/virtual/powercap";
    there.extend(here.iter().filter(|(_, place, _, _)| place == LATER).cloned());
    assert_eq!(here, there);
    // The kernel's own, as everywhere.
    let places: Vec<_> = here.iter().map(|(_, place, _, _)| place.as_str()).collect();
    assert!(places.contains(&"/proc/sys") && places.contains(&"/proc/keys"), "{places:?}");
}

#[test]
fn the_hosts_kernel_is_out_of_reach() {
    let script = "
        echo x > /proc/sys/kernel/hostname
        echo 1 > /proc/sys/vm/drop_caches
        echo b > /proc/sysrq-trigger
        echo x > /sys/power/state
        mount -o remount,rw /proc/sys
        mount -o remount,rw,bind /sys
        umount /proc/keys
        mount -t proc proc /mnt
        cat /proc/keys /proc/kcore /proc/timer_list
        ls /proc/acpi /sys/firmware | grep -v :
        cat /proc/sys/kernel/hostname >/dev/null && echo read";
    let output = run_script(&[], &format!("exec 2>/dev/null; {script}")).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "read");
    for line in script.lines().map(str::trim).filter(|line| line.contains(['>', 'm'])).take(8) {
        let script = format!("if {line}; then echo done; fi 2>/dev/null");
        assert_eq!(output_of(run_script(&[], &script)), "", "{line}");
    }
}

#[test]
fn a_privileged_one_has_the_hosts_devices_and_no_covers() {
    let script = "find /dev -type b -o -type c | sort
        echo
        cat /proc/self/mountinfo
        test -w /sys/kernel && echo writable";
    let printed = ours(&["--privileged"], &["sh", "-c", script]);
    let (devices, mountinfo) = printed.split_once("\n\n").unwrap();
    let devices: BTreeSet<&str> = devices.lines().collect();
    for entry in fs::read_dir("/dev").unwrap() {
        let path = entry.unwrap().path();
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        let kind = found.file_type();
        let is_device = kind.is_block_device() || kind.is_char_device();
        let is_own = ["/dev/console", "/dev/ptmx"].contains(&path.to_str().unwrap());
        if is_device && !is_own {
            assert!(devices.contains(path.to_str().unwrap()), "{}", path.display());
        }
    }
    assert!(mountinfo.trim_end().ends_with("writable"));
    let covers = covers(mountinfo.trim_end().trim_end_matches("writable"));
    let places: Vec<_> =
        covers.iter().map(|(_, place, _, is_ro)| (place.as_str(), *is_ro)).collect();
    assert_eq!(places, [("/proc", false), ("/sys", false)]);
    // A node is the same device.
    let number = ours(&["--privileged"], &["stat", "-c", "%t:%T", "/dev/zero"]);
    let host = fs::metadata(Path::new("/dev/zero")).unwrap().rdev();
    assert_eq!(host, nix::sys::stat::makedev(1, 5));
    assert_eq!(number, "1:5\n");
    // And without the flag there are the usual ones alone.
    let usual = ours(&[], &["sh", "-c", "find /dev -type b -o -type c | sort | tr '\\n' ' '"]);
    assert_eq!(
        usual,
        "/dev/full /dev/null /dev/pts/ptmx /dev/random /dev/tty /dev/urandom /dev/zero "
    );
}

#[test]
fn without_new_privileges_a_set_user_id_program_gets_none() {
    // As another user, a root's program of that kind would be root again.
    let script = "cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id
        setpriv --reuid=65534 --regid=65534 --clear-groups /tmp/id -u";
    assert_eq!(ours(&[], &["sh", "-c", script]), "0\n");
    let flags = ["--security-opt", "no-new-privileges"];
    assert_eq!(ours(&flags, &["sh", "-c", script]), "65534\n");
}
