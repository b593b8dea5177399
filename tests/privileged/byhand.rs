//! Containers made by hand: cgroups of cgroup v1, and processes in namespaces of any mixture.
#![allow(clippy::unwrap_used)] // clippy.toml allows it in #[test] functions, not in what they call

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lxcfs_rs::sys::process::clone_into;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::daemon::Place;

pub(crate) const MIB: u64 = 1 << 20;

/// Whether samples are taken in full: `tests/run --full`.
pub(crate) fn full() -> bool {
    std::env::var_os("LXCFS_RS_FULL").is_some()
}

/// Waits until `done`; no test depends on how long that takes.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not so after two minutes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A cgroup of the same path in several hierarchies of cgroup v1; removed, with all below it,
/// when it is dropped.
pub(crate) struct Group {
    pub(crate) path: String,
    controllers: Vec<&'static str>,
}

impl Group {
    /// At the top of the hierarchies of `controllers`.
    pub(crate) fn new(controllers: &[&'static str]) -> Group {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = format!("/lxcfs-rs-test-{}-{number}", std::process::id());
        Group::at(path, controllers)
    }

    fn at(path: String, controllers: &[&'static str]) -> Group {
        let group = Group { path, controllers: controllers.to_vec() };
        for controller in controllers {
            fs::create_dir(group.dir(controller)).unwrap();
            if *controller == "cpuset" {
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let parent = group.dir(controller).parent().unwrap().join(file);
                    group.set(file, fs::read_to_string(parent).unwrap().trim());
                }
            }
        }
        group
    }

    /// With a memory limit.
    pub(crate) fn limited(limit: u64) -> Group {
        let group = Group::new(&["memory"]);
        group.set("memory.limit_in_bytes", limit);
        group
    }

    /// The cgroup `name` below it.
    pub(crate) fn below(&self, name: &str) -> Group {
        Group::at(format!("{}/{name}", self.path), &self.controllers)
    }

    pub(crate) fn dir(&self, controller: &str) -> PathBuf {
        PathBuf::from(format!("/sys/fs/cgroup/{controller}{}", self.path))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir(name.split('.').next().unwrap()).join(name)
    }

    /// Writes the file `name`, which begins with its controller's name.
    #[track_caller]
    pub(crate) fn set(&self, name: &str, value: impl std::fmt::Display) {
        fs::write(self.file(name), value.to_string()).unwrap();
    }

    pub(crate) fn get(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    /// Reads the file `name` of its cgroup in one hierarchy.
    pub(crate) fn get_at(&self, hierarchy: &str, name: &str) -> String {
        fs::read_to_string(self.dir(hierarchy).join(name)).unwrap()
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        self.get(name).trim().parse().unwrap()
    }

    /// The value of a key of a flat-keyed file.
    pub(crate) fn key(&self, name: &str, key: &str) -> u64 {
        let text = self.get(name);
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }

    /// Where a process is written to be in it.
    fn doors(&self) -> Vec<File> {
        let open = |controller: &&str| {
            let path = self.dir(controller).join("cgroup.procs");
            OpenOptions::new().write(true).open(path).unwrap()
        };
        self.controllers.iter().map(open).collect()
    }

    /// Moves a process into it.
    pub(crate) fn take(&self, pid: u32) {
        for mut door in self.doors() {
            door.write_all(pid.to_string().as_bytes()).unwrap();
        }
    }

    /// A shell command that moves the shell into it.
    pub(crate) fn join(&self) -> String {
        let line = |controller: &&str| {
            format!("echo 0 > {}/cgroup.procs; ", self.dir(controller).display())
        };
        self.controllers.iter().map(line).collect()
    }

    /// Gives it another name, rename(2); the caller sees to it that there is none of that name.
    pub(crate) fn rename(&mut self, name: &str) {
        let path = format!("/{name}");
        for controller in &self.controllers {
            fs::rename(self.dir(controller), format!("/sys/fs/cgroup/{controller}{path}")).unwrap();
        }
        self.path = path;
    }

    /// Removes it, which must be possible, and makes a new one at its path.
    pub(crate) fn replace(&mut self, limit: u64) {
        self.remove();
        for controller in &self.controllers {
            fs::create_dir(self.dir(controller)).unwrap();
        }
        self.set("memory.limit_in_bytes", limit);
    }

    /// Removes it, which must be possible.
    pub(crate) fn remove(&self) {
        for controller in &self.controllers {
            let dir = self.dir(controller);
            // EBUSY until what was killed has been taken out of it.
            eventually("rmdir", || fs::remove_dir(&dir).is_ok());
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for controller in &self.controllers {
            remove_tree(&self.dir(controller));
        }
    }
}

fn remove_tree(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
        remove_tree(&entry.path());
    }
    for _ in 0..5000 {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(2));
            }
            _ => return,
        }
    }
}

/// What a reader does before its first reading, in this order.
pub(crate) enum Step {
    /// Moves itself into a cgroup.
    Join(Vec<File>),
    /// Enters a namespace.
    Enter(OwnedFd, CloneFlags),
    /// Makes namespaces of its own.
    Unshare(CloneFlags),
}

/// How to start a reader.
#[derive(Default)]
pub(crate) struct Plan {
    flags: Option<CloneFlags>,
    pid_namespace: Option<OwnedFd>,
    number: Option<u32>,
    steps: Vec<Step>,
}

impl Plan {
    /// A process of the host.
    pub(crate) fn host() -> Plan {
        Plan::default()
    }

    /// A container as engines make one: in `group`, then pid, mount and cgroup namespaces.
    pub(crate) fn container(group: &Group) -> Plan {
        Plan::host().pid_namespace().mount_namespace().in_group(group).cgroup_namespace()
    }

    /// In all namespaces of `reader`, and where the host's process is else.
    pub(crate) fn entering(reader: &Reader) -> Plan {
        Plan::host()
            .entering_pid_namespace(reader)
            .enter(reader, "cgroup", CloneFlags::CLONE_NEWCGROUP)
            .enter(reader, "mnt", CloneFlags::CLONE_NEWNS)
    }

    /// With the pid `number`, if that is free, and nobody else on this machine is quicker.
    pub(crate) fn numbered(mut self, number: u32) -> Plan {
        self.number = Some(number);
        self
    }

    fn cloned(mut self, flag: CloneFlags) -> Plan {
        self.flags = Some(self.flags.unwrap_or(CloneFlags::empty()) | flag);
        self
    }

    pub(crate) fn pid_namespace(self) -> Plan {
        self.cloned(CloneFlags::CLONE_NEWPID)
    }

    pub(crate) fn mount_namespace(self) -> Plan {
        self.cloned(CloneFlags::CLONE_NEWNS)
    }

    pub(crate) fn in_group(mut self, group: &Group) -> Plan {
        self.steps.push(Step::Join(group.doors()));
        self
    }

    pub(crate) fn cgroup_namespace(mut self) -> Plan {
        self.steps.push(Step::Unshare(CloneFlags::CLONE_NEWCGROUP));
        self
    }

    pub(crate) fn entering_pid_namespace(mut self, reader: &Reader) -> Plan {
        self.pid_namespace = Some(reader.namespace("pid"));
        self
    }

    pub(crate) fn enter(mut self, reader: &Reader, name: &str, kind: CloneFlags) -> Plan {
        self.steps.push(Step::Enter(reader.namespace(name), kind));
        self
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn start(self, place: &Place) -> Reader {
        Reader::start(self, &place.mountpoint())
    }
}

/// The files that a reader can be asked for.
pub(crate) const FILES: [&str; 8] = [
    "proc/meminfo",
    "proc/cpuinfo",
    "proc/stat",
    "proc/uptime",
    "proc/loadavg",
    "proc/diskstats",
    "proc/swaps",
    "sys/devices/system/cpu/online",
];

/// A request to a reader: one letter, a file's index and two numbers.
const REQUEST: usize = 16;

/// A process that reads our files when it is asked to.
///
/// It is a fork of this multi-threaded one, so it must not allocate: all it needs is made
/// before, and it makes system calls only.
pub(crate) struct Reader {
    pub(crate) pid: u32,
    /// Itself, or its parent.
    child: Pid,
    link: UnixStream,
}

impl Reader {
    #[track_caller]
    fn start(plan: Plan, mountpoint: &Path) -> Reader {
        let (link, other) = UnixStream::pair().unwrap();
        link.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let paths =
            FILES.map(|file| CString::new(mountpoint.join(file).as_os_str().as_bytes()).unwrap());
        let mut buffer = vec![0; 1 << 20];
        let Plan { flags, pid_namespace, number, steps } = plan;
        let flags = flags.unwrap_or(CloneFlags::empty());
        let is_nested = pid_namespace.is_some() && flags.contains(CloneFlags::CLONE_NEWPID);
        let mut life = || {
            answer(&other, &steps, &paths, &mut buffer);
            0
        };
        // On a thread of its own, whose children's pid namespace it is then.
        let child = std::thread::scope(|scope| {
            let start = || {
                if let Some(namespace) = &pid_namespace {
                    setns(namespace, CloneFlags::CLONE_NEWPID).unwrap();
                }
                if let Some(number) = number {
                    let last = (number - 1).to_string();
                    fs::write("/proc/sys/kernel/ns_last_pid", last).unwrap();
                }
                if !is_nested {
                    return clone_into(flags, None, life).unwrap().pid;
                }
                // Only who is in a pid namespace can make one below it.
                let between = clone_into(CloneFlags::empty(), None, || {
                    let child = clone_into(flags, None, &mut life).map(|child| child.pid);
                    child.map_or(1, |pid| u8::from(waitpid(pid, None).is_err()))
                });
                between.unwrap().pid
            };
            scope.spawn(start).join().unwrap()
        });
        let mut reader = Reader { pid: child.as_raw().cast_unsigned(), child, link };
        let mut error = [0; 4];
        reader.link.read_exact(&mut error).unwrap();
        assert_eq!(i32::from_ne_bytes(error), 0, "a step of the reader's failed");
        if is_nested {
            let children = format!("/proc/{child}/task/{child}/children");
            reader.pid = fs::read_to_string(children).unwrap().trim().parse().unwrap();
        }
        reader
    }

    pub(crate) fn namespace(&self, name: &str) -> OwnedFd {
        File::open(format!("/proc/{}/ns/{name}", self.pid)).unwrap().into()
    }

    fn ask(&mut self, letter: u8, file: &str, offset: u64, size: u32) -> Result<String, i32> {
        self.converse(letter, file, offset, size).unwrap()
    }

    /// An error where it has ended.
    fn converse(
        &mut self,
        letter: u8,
        file: &str,
        offset: u64,
        size: u32,
    ) -> io::Result<Result<String, i32>> {
        let index = FILES.iter().position(|known| known.ends_with(file)).unwrap();
        let mut request = [0; REQUEST];
        request[0] = letter;
        request[1] = u8::try_from(index).unwrap();
        request[4..8].copy_from_slice(&size.to_ne_bytes());
        request[8..].copy_from_slice(&offset.to_ne_bytes());
        self.link.write_all(&request)?;
        let mut length = [0; 4];
        self.link.read_exact(&mut length)?;
        let length = i32::from_ne_bytes(length);
        let Ok(length) = usize::try_from(length) else { return Ok(Err(-length)) };
        let mut text = vec![0; length];
        self.link.read_exact(&mut text)?;
        Ok(Ok(String::from_utf8(text).unwrap()))
    }

    /// Opens the file, reads it to its end and closes it.
    #[track_caller]
    pub(crate) fn read(&mut self, file: &str) -> String {
        let text = self.try_read(file).unwrap();
        self.be_remembered();
        text
    }

    /// The same once; or the errno.
    pub(crate) fn try_read(&mut self, file: &str) -> Result<String, i32> {
        self.ask(b'r', file, 0, 0)
    }

    /// Whether it is still there after it was asked for a file.
    pub(crate) fn lives_to_read(&mut self, file: &str) -> bool {
        self.converse(b'r', file, 0, 0).is_ok()
    }

    /// Reads so often that the daemon remembers it by its number, and not its container alone:
    /// what happens then must show in the next read all the same.
    fn be_remembered(&mut self) {
        for _ in 0..2 {
            let _ = self.ask(b'r', "meminfo", 0, 0);
        }
    }

    /// Opens the file and keeps it for [`Reader::part`].
    #[track_caller]
    pub(crate) fn keep(&mut self, file: &str) {
        self.ask(b'k', file, 0, 0).unwrap();
    }

    /// One pread(2) of the file that is kept open; or its errno.
    pub(crate) fn part(&mut self, offset: u64, size: u32) -> Result<String, i32> {
        let answer = self.ask(b'p', FILES[0], offset, size);
        self.be_remembered();
        answer
    }

    /// Has it make a cgroup namespace of its own.
    pub(crate) fn unshare_cgroup(&mut self) {
        self.ask(b'u', FILES[0], 0, 0).unwrap();
    }

    /// Has it run on a CPU from now on and for ever.
    pub(crate) fn spin(&mut self) {
        self.ask(b's', FILES[0], 0, 0).unwrap();
    }

    /// MemTotal in bytes.
    #[track_caller]
    pub(crate) fn total(&mut self) -> u64 {
        mem(&self.read("meminfo"), "MemTotal")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGKILL);
        let _ = waitpid(self.child, None);
    }
}

/// A line of meminfo in bytes.
#[track_caller]
pub(crate) fn mem(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
    let number = line.unwrap_or_else(|| panic!("no {label} in {text}"));
    number.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// The reader's life. Makes no allocation.
fn answer(link: &UnixStream, steps: &[Step], paths: &[CString; FILES.len()], buffer: &mut [u8]) {
    // What other tests have open is not to live on here.
    for number in 3..512 {
        let is_needed = number == link.as_raw_fd()
            || steps.iter().any(|step| match step {
                Step::Join(doors) => doors.iter().any(|door| door.as_raw_fd() == number),
                Step::Enter(namespace, _) => namespace.as_raw_fd() == number,
                Step::Unshare(_) => false,
            });
        if !is_needed {
            let _ = nix::unistd::close(number);
        }
    }
    let mut link = link;
    let outcome = steps.iter().try_for_each(|step| match step {
        Step::Join(doors) => doors.iter().try_for_each(|mut door| door.write_all(b"0")),
        Step::Enter(namespace, kind) => Ok(setns(namespace, *kind)?),
        Step::Unshare(kind) => Ok(unshare(*kind)?),
    });
    let error = outcome.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0);
    if link.write_all(&error.to_ne_bytes()).is_err() || error != 0 {
        return;
    }
    let mut kept = None;
    let mut request = [0; REQUEST];
    while link.read_exact(&mut request).is_ok() {
        let size = u32::from_ne_bytes([request[4], request[5], request[6], request[7]]) as usize;
        let mut offset = [0; 8];
        offset.copy_from_slice(&request[8..]);
        let offset = i64::from_ne_bytes(offset);
        let open = || {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            nix::fcntl::open(paths[usize::from(request[1])].as_c_str(), flags, Mode::empty())
        };
        let answered = match request[0] {
            b'r' => open().and_then(|file| {
                let mut length = 0;
                loop {
                    match nix::unistd::read(&file, &mut buffer[length..])? {
                        0 => return Ok(length),
                        more => length += more,
                    }
                }
            }),
            b'k' => open().map(|file| {
                kept = Some(file);
                0
            }),
            b'p' => match &kept {
                Some(file) => nix::sys::uio::pread(file, &mut buffer[..size], offset),
                None => Err(nix::errno::Errno::EBADF),
            },
            b'u' => unshare(CloneFlags::CLONE_NEWCGROUP).map(|()| 0),
            _ => Ok(0),
        };
        let (length, told) = match answered {
            Ok(length) => (length, i32::try_from(length).unwrap_or(i32::MAX)),
            Err(errno) => (0, -(errno as i32)),
        };
        if link.write_all(&told.to_ne_bytes()).is_err()
            || link.write_all(&buffer[..length]).is_err()
        {
            return;
        }
        if request[0] == b's' {
            loop {
                std::hint::spin_loop();
            }
        }
    }
}

/// A program that is killed, with all in its process group, at the end of its test.
pub(crate) struct Program {
    child: Child,
}

impl Program {
    /// Starts a shell script, which gets `place`'s mountpoint as `$1`.
    pub(crate) fn start(place: &Place, script: &str) -> Program {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("sh");
        command.args(["-ec", script, "sh"]).arg(place.mountpoint()).process_group(0);
        Program { child: command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> String {
        let out = self.child.stdout.as_mut().unwrap();
        let (mut line, mut byte) = (String::new(), [0]);
        while !line.ends_with('\n') {
            out.read_exact(&mut byte).unwrap();
            line.push(byte[0].into());
        }
        line
    }

    /// All that it prints until it ends, which must be well.
    #[track_caller]
    pub(crate) fn output(mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(self.child.wait().unwrap().success(), "{text}");
        text
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(-self.child.id().cast_signed()), Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}
