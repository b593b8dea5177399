//! `serve` on a real /dev/fuse: mounting, refusing, ending, and what a reader is answered.
//!
//! Needs root in the initial pid namespace, /dev/fuse, util-linux and python3.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use lxcfs_rs::fuse::connection::Connection;
use lxcfs_rs::fuse::session::Session;
use lxcfs_rs::history::History;
use lxcfs_rs::kernel::Kernel;
use lxcfs_rs::vfs::Vfs;
use lxcfs_rs::vfs::kept::Kept;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};

use crate::byhand::eventually;
use crate::daemon::{Guarded, PROGRAM, Place, serve, start, start_telling, worker_of};

fn run(mut command: Command) -> Output {
    command.output().unwrap()
}

/// Runs it to its end, which must be exit 1 with one line on stderr; returns that line.
#[track_caller]
fn refusal(command: Command) -> String {
    let output = run(command);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[track_caller]
fn python(script: &str, arguments: &[&Path]) -> String {
    let mut command = Command::new("python3");
    command.arg("-c").arg(script).args(arguments);
    let output = run(command);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of /proc/mounts for the mountpoint, split into their fields.
fn mounts(place: &Place) -> Vec<Vec<String>> {
    let mountpoint = place.mountpoint().to_str().unwrap().replace(' ', "\\040");
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let lines = text.lines().map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
    lines.filter(|fields| fields[1] == mountpoint).collect()
}

/// A process in a mount namespace of its own that holds a bind mount of a file of ours.
struct Holder {
    child: Guarded,
    answers: BufReader<std::process::ChildStdout>,
}

impl Holder {
    fn new(place: &Place) -> Self {
        let held = place.base.join("held");
        std::fs::write(&held, "").unwrap();
        let script = "mount --bind \"$1\" \"$2\" && echo held && read line &&
            { cat \"$2\" 2>&1; echo end; read line; }";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
        command.arg(place.meminfo()).arg(held).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Guarded(command.spawn().unwrap());
        let mut answers = BufReader::new(child.0.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Holder { child, answers }
    }

    fn cat(&mut self) -> String {
        self.child.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line
    }
}

#[test]
fn mounts_as_lxcfs_does() {
    let place = Place::new();
    let _daemon = start(&place);
    let mounts = mounts(&place);
    assert_eq!(mounts.len(), 1);
    // Elsewhere than at lxcfs's own place it tells which place that is.
    assert!(mounts[0][0].starts_with("lxcfs@/"), "{}", mounts[0][0]);
    assert_eq!(mounts[0][2], "fuse.lxcfs");
    let options: Vec<&str> = mounts[0][3].split(',').collect();
    let expected = ["rw", "nosuid", "nodev", "relatime", "user_id=0", "group_id=0", "allow_other"];
    for option in expected {
        assert!(options.contains(&option), "{option} in {options:?}");
    }
}

#[test]
fn a_live_one_is_refused_and_lives_on() {
    let place = Place::new();
    let _daemon = start(&place);
    let line = refusal(serve(&place.mountpoint()));
    assert!(line.contains("in use by a live daemon (fuse.lxcfs)"), "{line}");
    assert!(std::fs::read_to_string(place.meminfo()).unwrap().starts_with("MemTotal:"));
    assert_eq!(mounts(&place).len(), 1);
}

#[test]
fn a_hung_one_is_refused_in_bounded_time() {
    let place = Place::new();
    let daemon = start(&place);
    let worker = worker_of(daemon.pid());
    kill(worker, Signal::SIGSTOP).unwrap();
    let line = refusal(serve(&place.mountpoint()));
    kill(worker, Signal::SIGCONT).unwrap();
    assert!(line.contains("in use by a live daemon that does not answer"), "{line}");
    assert!(std::fs::read_to_string(place.meminfo()).is_ok());
}

/// Not even SIGKILL reaches who waits for the answer to a request that was taken.
#[test]
fn one_that_takes_requests_and_answers_none_is_refused_in_bounded_time() {
    let place = Place::new();
    std::fs::create_dir(place.mountpoint()).unwrap();
    let connection = Connection::new(&place.mountpoint(), false).unwrap();
    let mut device = File::from(connection.device);

    let daemon = Guarded(serve(&place.mountpoint()).spawn().unwrap());
    assert!(device.read(&mut vec![0; 1 << 20]).unwrap() > 0);
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("in use by a live daemon that does not answer"), "{log}");
}

#[test]
fn dead_ones_are_replaced() {
    let (place, other) = (Place::new(), Place::new());
    for place in [&place, &other] {
        let daemon = start(place);
        daemon.signal(Signal::SIGKILL);
        assert_eq!(daemon.end().0.signal(), Some(9));
        // Not by stat(2), which the kernel still answers from what it was told before.
        let error = std::fs::read_dir(place.mountpoint()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    }
    let none = None::<&str>;
    mount(Some(&other.mountpoint()), &place.mountpoint(), none, MsFlags::MS_BIND, none).unwrap();
    assert_eq!(mounts(&place).len(), 2);
    let daemon = start(&place);
    assert_eq!(mounts(&place).len(), 1);
    assert!(std::fs::read_to_string(place.meminfo()).is_ok());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().0.code(), Some(0));
    assert!(mounts(&place).is_empty());
}

#[test]
fn of_starts_in_one_instant_one_wins() {
    for _ in 0..5 {
        let place = Place::new();
        let started: Vec<Guarded> =
            (0..4).map(|_| Guarded(serve(&place.mountpoint()).spawn().unwrap())).collect();
        let mut losers = 0;
        let mut winner = None;
        for mut daemon in started {
            let mut line = String::new();
            let mut log = BufReader::new(daemon.0.stderr.take().unwrap());
            log.read_line(&mut line).unwrap();
            if line.contains("serving") {
                winner = Some(daemon);
            } else {
                let known = line.contains("just starting") || line.contains("live daemon");
                assert!(known, "{line}");
                assert_eq!(daemon.end().0.code(), Some(1));
                losers += 1;
            }
        }
        assert_eq!((losers, mounts(&place).len()), (3, 1));
        let winner = winner.unwrap();
        assert!(std::fs::read_to_string(place.meminfo()).is_ok());
        winner.signal(Signal::SIGTERM);
        assert_eq!(winner.end().0.code(), Some(0));
    }
}

#[test]
fn signals_unmount_and_end_it_with_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let place = Place::new();
        let daemon = start(&place);
        daemon.signal(signal);
        assert_eq!(daemon.end().0.code(), Some(0), "{signal}");
        assert!(mounts(&place).is_empty(), "{signal}");
        assert!(!place.mountpoint().exists(), "{signal}: it made the directory");
    }
}

#[test]
fn a_directory_that_was_there_stays() {
    let place = Place::new();
    std::fs::create_dir(place.mountpoint()).unwrap();
    let daemon = start(&place);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().0.code(), Some(0));
    assert_eq!(std::fs::read_dir(place.mountpoint()).unwrap().count(), 0);
}

#[test]
fn it_ends_though_a_file_is_open() {
    let place = Place::new();
    let daemon = start(&place);
    let mut open = File::open(place.meminfo()).unwrap();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().0.code(), Some(0));
    assert!(mounts(&place).is_empty());
    assert!(open.read(&mut [0; 8]).is_err());
}

#[test]
fn it_ends_though_a_container_holds_a_bind_mount() {
    let place = Place::new();
    let daemon = start(&place);
    let mut holder = Holder::new(&place);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().0.code(), Some(0));
    assert!(mounts(&place).is_empty());
    let answer = holder.cat();
    assert!(answer.contains("not connected"), "{answer}");
}

#[test]
fn unmounted_by_someone_else_it_ends_with_0() {
    let place = Place::new();
    let daemon = start(&place);
    // EBUSY in the moment that the daemon's healer looks at it.
    eventually("umount", || umount2(&place.mountpoint(), MntFlags::empty()).is_ok());
    let (status, log) = daemon.end();
    assert_eq!(status.code(), Some(0));
    assert!(log.contains("unmounted by someone else"), "{log}");
    assert!(!place.mountpoint().exists());
}

#[test]
fn what_is_mounted_over_it_stays() {
    let place = Place::new();
    let daemon = start(&place);
    let none = None::<&str>;
    mount(Some("over"), &place.mountpoint(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().0.code(), Some(0));
    let types: Vec<String> = mounts(&place).into_iter().map(|fields| fields[2].clone()).collect();
    assert_eq!(types, ["fuse.lxcfs", "tmpfs"]);
}

#[test]
fn an_aborted_connection_is_made_anew() {
    let place = Place::new();
    let daemon = start(&place);
    let device = std::fs::metadata(place.mountpoint()).unwrap().dev();
    let connection = nix::sys::stat::minor(device);
    let script = "mount -t fusectl none /sys/fs/fuse/connections &&
        echo 1 > /sys/fs/fuse/connections/$1/abort";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", &connection.to_string()]);
    assert!(run(command).status.success());
    eventually("another mount", || {
        std::fs::read_to_string(place.meminfo()).is_ok_and(|text| text.starts_with("MemTotal:"))
    });
    assert_eq!(mounts(&place).len(), 1);
    daemon.signal(Signal::SIGTERM);
    let (status, log) = daemon.end();
    assert!(status.success(), "{log}");
    assert!(log.contains("the connection was aborted") && log.contains("mounted afresh"), "{log}");
    assert!(mounts(&place).is_empty());
}

#[test]
fn the_pidfile_belongs_to_one() {
    let (place, other) = (Place::new(), Place::new());
    let pidfile = place.base.join("pid");
    let mut command = serve(&place.mountpoint());
    command.arg("--pidfile").arg(&pidfile);
    let daemon = start_telling(&place, command).0;
    let expected = format!("{}\n", daemon.pid());
    assert_eq!(std::fs::read_to_string(&pidfile).unwrap(), expected);

    let mut command = serve(&other.mountpoint());
    command.arg("--pidfile").arg(&pidfile);
    let line = refusal(command);
    assert!(line.contains("held by another daemon"), "{line}");
    assert!(!other.mountpoint().exists());
    assert_eq!(std::fs::read_to_string(&pidfile).unwrap(), expected);

    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().0.code(), Some(0));
    assert!(!pidfile.exists());
}

#[test]
fn a_relative_mountpoint_and_pidfile() {
    let place = Place::new();
    let mut command = serve(Path::new("mount point"));
    command.args(["--pidfile", "pid"]).current_dir(&place.base);
    let daemon = start_telling(&place, command).0;
    assert!(place.base.join("pid").exists());
    assert!(place.meminfo().exists());
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.end().0.code(), Some(0));
    assert!(!place.base.join("pid").exists() && !place.mountpoint().exists());
}

#[test]
fn readiness_and_the_end_are_told() {
    let place = Place::new();
    let (daemon, socket, ready) = start_telling(&place, serve(&place.mountpoint()));
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    assert!(ready.contains(&format!("STATUS=Serving {}\n", place.mountpoint().display())));
    assert!(ready.contains(&format!("MAINPID={}\n", daemon.pid())), "{ready}");
    daemon.signal(Signal::SIGTERM);
    let mut message = [0; 64];
    let length = socket.recv(&mut message).unwrap();
    assert_eq!(&message[..length], b"STOPPING=1\n");
}

#[test]
fn workers_are_as_many_as_asked_for() {
    let place = Place::new();
    let mut command = serve(&place.mountpoint());
    command.args(["--workers", "3"]);
    let daemon = start_telling(&place, command).0;
    let worker = worker_of(daemon.pid());
    let workers = || {
        let tasks = std::fs::read_dir(format!("/proc/{worker}/task")).unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
        names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("fuser-"))).count()
    };
    // A thread takes its name after it has started.
    eventually("three workers", || workers() == 3);
    let mut command = serve(&place.mountpoint());
    command.args(["--workers", "0"]);
    assert_eq!(run(command).status.code(), Some(2));
}

#[test]
fn attributes_are_those_of_proc() {
    let place = Place::new();
    let _daemon = start(&place);
    let file = std::fs::metadata(place.meminfo()).unwrap();
    assert!(file.is_file());
    assert_eq!((file.mode() & 0o7777, file.len(), file.uid(), file.gid()), (0o444, 4096, 0, 0));
    for (directory, mode) in [("proc", 0o555), ("sys/devices/system/cpu", 0o755)] {
        let found = std::fs::metadata(place.file(directory)).unwrap();
        assert!(found.is_dir());
        assert_eq!(found.mode() & 0o7777, mode, "{directory}");
    }
    let mut names: Vec<_> = std::fs::read_dir(place.mountpoint())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["proc", "sys"]);
}

#[test]
fn any_user_reads() {
    let place = Place::new();
    let _daemon = start(&place);
    std::fs::set_permissions(&place.base, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "cat"]);
    command.arg(place.meminfo());
    let output = run(command);
    assert!(output.stdout.starts_with(b"MemTotal:"), "{output:?}");
}

/// What the kernel's /proc answers root, seen with strace on Linux 6.18; where it lets root
/// change modes, owners and times, or write in vain, we refuse.
#[test]
fn nothing_can_be_changed_even_by_root() {
    let place = Place::new();
    let _daemon = start(&place);
    let script = r#"
import errno, fcntl, os, select, sys
top = sys.argv[1]
file, other, new = top + '/proc/meminfo', top + '/proc/uptime', top + '/proc/new'
fd = os.open(file, os.O_RDONLY)
directory = os.open(top + '/proc', os.O_RDONLY | os.O_DIRECTORY)
def expect(name, call):
    try:
        result = call()
    except OSError as error:
        result = errno.errorcode[error.errno]
    if result != name:
        sys.exit(f'found {result}, expected {name}: {call.__code__.co_names}')
for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_CREAT):
    expect('EACCES', lambda: os.open(file, flags))
expect('EACCES', lambda: os.truncate(file, 0))
expect('EPERM', lambda: os.chmod(file, 0o644))
expect('EPERM', lambda: os.chown(file, 1, 1))
expect('EPERM', lambda: os.utime(file))
expect('ENOENT', lambda: os.stat(new))
expect('ENOENT', lambda: os.open(new, os.O_WRONLY | os.O_CREAT))
expect('ENOENT', lambda: os.mkdir(new))
expect('ENOENT', lambda: os.mkfifo(new))
expect('ENOENT', lambda: os.symlink('x', new))
expect('ENOENT', lambda: os.link(file, new))
expect('ENOENT', lambda: os.rename(file, new))
expect('EPERM', lambda: os.rename(file, other))
expect('EPERM', lambda: os.unlink(file))
expect('EPERM', lambda: os.rmdir(top + '/proc'))
expect('ENOTSUP', lambda: os.open(top + '/proc', os.O_WRONLY | os.O_TMPFILE))
expect('ENOTSUP', lambda: os.getxattr(file, 'user.x'))
expect('ENOTSUP', lambda: os.setxattr(file, 'user.x', b''))
expect('ENOTSUP', lambda: os.removexattr(file, 'trusted.x'))
expect([], lambda: os.listxattr(file))
expect('EINVAL', lambda: os.fsync(fd))
expect('EINVAL', lambda: os.fsync(directory))
expect('EINVAL', lambda: os.lseek(fd, 0, os.SEEK_DATA))
expect('ENOTTY', lambda: fcntl.ioctl(fd, 0x5401, bytes(64)))
for _ in range(2):
    poll = select.poll()
    poll.register(fd, 0xffff)
    ready = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
    expect([(fd, ready)], lambda: poll.poll(0))
"#;
    python(script, &[&place.mountpoint()]);
}

/// Who asks for attributes after a read waits for no daemon where the mount is read-only, and does
/// where it is not; nothing is opened for writing there, and all is read.
#[test]
fn a_read_only_mount_keeps_attributes_known_and_takes_no_triggers() {
    let script = r#"
import errno, os, sys
def refused(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
with open(sys.argv[1] + '/proc/meminfo') as file:
    file.read()
    print('read', flush=True)
    sys.stdin.readline()
    assert os.fstat(file.fileno()).st_size == 4096
    print('known', flush=True)
    sys.stdin.readline()
pressure = sys.argv[1] + '/proc/pressure/memory'
assert open(pressure).read().startswith('some ')
calls = [lambda: os.open(pressure, os.O_RDWR), lambda: os.open(file.name, os.O_WRONLY),
         lambda: os.truncate(file.name, 0), lambda: os.chmod(file.name, 0o600)]
print(*[refused(call) for call in calls], flush=True)
"#;
    let all = "EROFS EROFS EROFS EROFS";
    for (option, answers) in [(None, "None EACCES EACCES EPERM"), (Some("--read-only"), all)] {
        let place = Place::new();
        let mut command = serve(&place.mountpoint());
        command.args(option);
        let (daemon, ..) = start_telling(&place, command);
        let mount = Command::new("findmnt")
            .args(["--noheadings", "--output", "VFS-OPTIONS,FS-OPTIONS"])
            .arg(place.mountpoint())
            .output()
            .unwrap();
        let mount = String::from_utf8(mount.stdout).unwrap();
        let mode = if option.is_some() { "ro," } else { "rw," };
        let found: Vec<&str> = mount.split_whitespace().collect();
        assert!(found[0].starts_with("rw,") && found[1].starts_with(mode), "{mount}");

        let mut reader = Command::new("python3");
        reader.args(["-c", script]).arg(place.mountpoint());
        reader.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut reader = Guarded(reader.spawn().unwrap());
        let mut go_on = reader.0.stdin.take().unwrap();
        let mut says = BufReader::new(reader.0.stdout.take().unwrap()).lines();
        let mut next = || says.next().unwrap().unwrap();
        assert_eq!(next(), "read");
        let worker = worker_of(daemon.pid());
        kill(worker, Signal::SIGSTOP).unwrap();
        // Until the first of its threads has run the others go on.
        eventually("a stopped worker", || {
            let threads = std::fs::read_dir(format!("/proc/{worker}/task")).unwrap();
            threads
                .map(|thread| thread.unwrap().path().join("stat"))
                .all(|stat| std::fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") T ")))
        });
        go_on.write_all(b"\n").unwrap();
        if option.is_none() {
            let wchan = format!("/proc/{}/wchan", reader.pid());
            eventually("waiting for the daemon", || {
                std::fs::read_to_string(&wchan).is_ok_and(|place| place == "request_wait_answer")
            });
            kill(worker, Signal::SIGCONT).unwrap();
        }
        assert_eq!(next(), "known");
        kill(worker, Signal::SIGCONT).unwrap();
        go_on.write_all(b"\n").unwrap();
        assert_eq!(next(), answers);
        assert!(reader.0.wait().unwrap().success());
    }
}

/// A mount that is read-only itself would stay so in a container with a user namespace.
#[test]
fn where_a_read_only_mount_is_propagated_to_it_is_the_superblock_alone_too() {
    let place = Place::new();
    let (base, mountpoint) = (place.base.clone(), place.mountpoint());
    std::fs::create_dir(&mountpoint).unwrap();
    // In mount namespaces of their own, which go with the thread and its child.
    let options = std::thread::spawn(move || {
        let none = None::<&str>;
        let make = |flags, target: &Path| mount(none, target, none, flags, none).unwrap();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        make(MsFlags::MS_REC | MsFlags::MS_PRIVATE, Path::new("/"));
        mount(Some(&base), &base, none, MsFlags::MS_BIND, none).unwrap();
        make(MsFlags::MS_SHARED, &base);
        let mut elsewhere = Command::new("unshare");
        let script = "echo ready; read line; findmnt -no VFS-OPTIONS,FS-OPTIONS \"$1\"";
        elsewhere.args(["--mount", "--propagation", "slave", "sh", "-c", script, "sh"]);
        elsewhere.arg(&mountpoint).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut elsewhere = Guarded(elsewhere.spawn().unwrap());
        let mut lines = BufReader::new(elsewhere.0.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        let _connection = Connection::new(&mountpoint, true).unwrap();
        elsewhere.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        lines.next().unwrap().unwrap()
    });
    let options = options.join().unwrap();
    let found: Vec<&str> = options.split_whitespace().collect();
    assert!(found[0].starts_with("rw,") && found[1].starts_with("ro,"), "{options}");
}

#[test]
fn the_shared_page_cache_is_never_filled() {
    let place = Place::new();
    let _daemon = start(&place);
    let script = r#"
import errno, mmap, os, shutil, signal, sys
file, copy = sys.argv[1:]
def refused(name, call):
    try:
        call()
    except OSError as error:
        assert error.errno == getattr(errno, name), error
    else:
        sys.exit('not refused')
fd = os.open(file, os.O_RDONLY)
out = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
read_end, write_end = os.pipe()
for _ in range(2):
    refused('EIO', lambda: os.sendfile(out, fd, 0, 4096))
    refused('EIO', lambda: os.splice(fd, write_end, 4096, offset_src=0))
    refused('EXDEV', lambda: os.copy_file_range(fd, out, 4096))
    refused('ENODEV', lambda: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ))
    if (child := os.fork()) == 0:
        mmap.mmap(fd, 4096, mmap.MAP_PRIVATE, mmap.PROT_READ)[0]
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS, status
    assert os.pread(fd, 9, 0) == b'MemTotal:'
"#;
    python(script, &[&place.meminfo(), &place.base.join("copy")]);
}

/// A pod with a user namespace of its own is given the file by an idmapped bind mount, which
/// FUSE allows since Linux 6.12.
#[test]
fn an_idmapped_bind_mount_reads() {
    let place = Place::new();
    let _daemon = start(&place);
    let script = r#"
import ctypes, os, platform, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f'syscall {number}')
    return result
ready, go = os.pipe(), os.pipe()
if (child := os.fork()) == 0:
    assert libc.unshare(0x10000000) == 0    # CLONE_NEWUSER
    os.write(ready[1], b'x')
    os.read(go[0], 1)
    os._exit(0)
os.read(ready[0], 1)
for name in ('uid_map', 'gid_map'):
    with open(f'/proc/{child}/{name}', 'w') as file:
        file.write('0 100000 65536')
namespace = os.open(f'/proc/{child}/ns/user', os.O_RDONLY)
os.write(go[1], b'x')
os.waitpid(child, 0)
tree = call(428, -100, sys.argv[1].encode(), 1 | os.O_CLOEXEC)  # open_tree, OPEN_TREE_CLONE
try:
    # mount_setattr, AT_EMPTY_PATH, MOUNT_ATTR_IDMAP
    call(442, tree, b'', 0x1000, struct.pack('QQQQ', 0x100000, 0, 0, namespace), 32)
except OSError:
    release = tuple(map(int, platform.release().split('.')[:2]))
    assert release < (6, 12), 'refused on a kernel that has it'
    sys.exit(0)
with open(f'/proc/self/fd/{tree}') as file:
    assert file.read().startswith('MemTotal:')
assert os.stat(tree).st_uid == 100000
try:
    os.open(f'/proc/self/fd/{tree}', os.O_WRONLY)
    sys.exit('opened for writing')
except PermissionError:
    pass
"#;
    python(script, &[&place.meminfo()]);
}

#[test]
fn a_child_pid_namespace_is_refused() {
    let place = Place::new();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", PROGRAM, "serve"]).arg(place.mountpoint());
    let line = refusal(command);
    assert!(line.contains("expected the initial pid namespace"), "{line}");
    assert!(!place.mountpoint().exists());
}

#[test]
fn other_than_root_is_refused() {
    let place = Place::new();
    std::fs::set_permissions(&place.base, PermissionsExt::from_mode(0o755)).unwrap();
    // The build directory may be closed to others.
    let program = place.base.join("program");
    std::fs::copy(PROGRAM, &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--clear-groups"]).arg(program).arg("serve");
    let line = refusal(command);
    assert!(line.contains("run it as root"), "{line}");
}

#[test]
fn a_missing_device_names_the_module() {
    let place = Place::new();
    let script = "mount -t tmpfs none /dev && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh", PROGRAM, "serve"]).arg(place.mountpoint());
    let line = refusal(command);
    assert!(line.contains("/dev/fuse") && line.contains("modprobe fuse"), "{line}");
    assert!(!place.mountpoint().exists());
}

#[test]
fn a_mountpoint_that_is_full_or_a_file_is_refused() {
    let place = Place::new();
    std::fs::create_dir(place.mountpoint()).unwrap();
    std::fs::write(place.file("something"), "").unwrap();
    let line = refusal(serve(&place.mountpoint()));
    assert!(line.contains("not empty (something)"), "{line}");
    let line = refusal(serve(&place.file("something")));
    assert!(line.contains("not a directory"), "{line}");
    assert!(place.file("something").exists());
}

/// Two sessions on one connection, the second from what the first left: what a resume is.
#[test]
fn a_session_starts_from_a_connection_that_was_answered_before() {
    let place = Place::new();
    std::fs::create_dir(place.mountpoint()).unwrap();
    let connection = Connection::new(&place.mountpoint(), false).unwrap();
    let vfs = Arc::new(Vfs::of_machine().unwrap());
    let first = Session::new(&connection, vfs.clone(), 1).unwrap();
    let first = std::thread::spawn(|| first.run());
    assert!(place.meminfo().exists());
    let second = Session::new(&connection, vfs, 2).unwrap();
    let second = std::thread::spawn(|| second.run());
    for _ in 0..100 {
        let text = std::fs::read_to_string(place.meminfo()).unwrap();
        assert!(text.starts_with("MemTotal:"));
    }
    umount2(&place.mountpoint(), MntFlags::empty()).unwrap();
    for session in [first, second] {
        session.join().unwrap().unwrap();
    }
    assert_eq!(umount2(&place.mountpoint(), MntFlags::empty()), Err(Errno::EINVAL));
}

/// A kernel file that blocks delays its own readers: others are answered by more workers.
#[test]
fn who_is_held_up_holds_up_nobody_else() {
    let place = Place::new();
    std::fs::create_dir(place.mountpoint()).unwrap();
    // A captured host, of which one file blocks.
    let root = place.base.join("host");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hybrid-6.18");
    let copied = Command::new("cp").arg("-r").args([&fixture, &root]).status().unwrap();
    assert!(copied.success());
    let blocks = root.join("proc/swaps");
    std::fs::remove_file(&blocks).unwrap();
    nix::unistd::mkfifo(&blocks, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();

    let connection = Connection::new(&place.mountpoint(), false).unwrap();
    let kernel = Arc::new(Kernel::open(&root).unwrap());
    let kept = Arc::new(Kept::new().unwrap());
    // The readers are not of that host.
    kept.show_host(true);
    let vfs = Vfs::new(kernel, History::in_memory(), kept).unwrap();
    let session = Session::new(&connection, Arc::new(vfs), 2).unwrap();
    let session = std::thread::spawn(|| session.run());
    let held_up: Vec<_> = (0..7)
        .map(|_| {
            let swaps = place.file("proc/swaps");
            std::thread::spawn(move || std::fs::read_to_string(swaps))
        })
        .collect();
    for _ in 0..20 {
        let text = std::fs::read_to_string(place.meminfo()).unwrap();
        assert!(text.starts_with("MemTotal:"));
    }
    assert!(held_up.iter().all(|reader| !reader.is_finished()));
    // Each that opens it reads from it until there is no writer any more.
    while held_up.iter().any(|reader| !reader.is_finished()) {
        let _ = std::fs::OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&blocks)
            .and_then(|mut blocks| blocks.write_all(b"Filename\n"));
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    umount2(&place.mountpoint(), MntFlags::empty()).unwrap();
    session.join().unwrap().unwrap();
}
