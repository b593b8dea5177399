//! What the tasks of one cgroup are doing, counted by the kernel in one request: CGROUPSTATS of
//! taskstats, `Documentation/accounting/cgroupstats.rst`, over generic netlink. It needs no
//! privilege, and works in every network namespace; only cgroups of v1 hierarchies are counted.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};

/// `NLM_F_REQUEST` and `NLMSG_ERROR`, include/uapi/linux/netlink.h.
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// The lengths of `struct nlmsghdr`, of `struct genlmsghdr` and of `struct nlattr`.
const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
const ATTRIBUTE_HEADER: usize = 4;
/// Attributes begin at multiples of this, `NLA_ALIGNTO`.
const ALIGNMENT: usize = 4;

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID` and `CTRL_ATTR_FAMILY_NAME`,
/// include/uapi/linux/genetlink.h.
const CONTROLLER: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

/// `CGROUPSTATS_CMD_GET`, `CGROUPSTATS_CMD_ATTR_FD` and `CGROUPSTATS_TYPE_CGROUP_STATS`,
/// include/uapi/linux/cgroupstats.h.
const GET: u8 = 4;
const DESCRIPTOR: u16 = 1;
const CGROUP_STATS: u16 = 1;

/// What a cgroup's own tasks, not those below it, are doing: `struct cgroupstats`.
///
/// Most states that /proc shows as `D` are in none of these numbers: the kernel compares for
/// equality, and TASK_KILLABLE (a file of NFS, the parent of a vfork(2)) is something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskStates {
    /// Running or runnable.
    pub running: u64,
    /// In TASK_UNINTERRUPTIBLE and nothing but that. Before Linux 6.1 frozen tasks too.
    pub uninterruptible: u64,
    /// Waiting for I/O in another state than this, sleeping and stopped.
    pub io_wait: u64,
}

impl std::ops::Add for TaskStates {
    type Output = TaskStates;
    fn add(self, other: TaskStates) -> TaskStates {
        TaskStates {
            running: self.running.saturating_add(other.running),
            uninterruptible: self.uninterruptible.saturating_add(other.uninterruptible),
            io_wait: self.io_wait.saturating_add(other.io_wait),
        }
    }
}

/// A socket to ask at.
#[derive(Debug)]
pub struct Taskstats {
    socket: OwnedFd,
    /// By which number generic netlink knows taskstats.
    family: u16,
    /// Of the last request.
    sequence: u32,
}

impl Taskstats {
    /// Finds taskstats.
    ///
    /// # Errors
    /// ENOENT: a kernel without CONFIG_TASKSTATS.
    pub fn open() -> io::Result<Taskstats> {
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(GENERIC))?;
        // Who is connected to the kernel hears nobody else.
        connect(&socket, &SocketAddrNetlink::new(0, 0))?;
        let mut taskstats = Taskstats { socket, family: CONTROLLER, sequence: 0 };
        let family = taskstats.ask(GET_FAMILY, (FAMILY_NAME, b"TASKSTATS\0"), FAMILY_ID)?;
        taskstats.family = parse_family(&family).ok_or(io::ErrorKind::InvalidData)?;
        Ok(taskstats)
    }

    /// What the tasks of a cgroup are doing, given a descriptor of its directory (not O_PATH).
    ///
    /// # Errors
    /// ENOENT: the cgroup has been removed. EINVAL: it is of no v1 hierarchy.
    pub fn states(&mut self, cgroup: BorrowedFd<'_>) -> io::Result<TaskStates> {
        let descriptor = cgroup.as_raw_fd().to_ne_bytes();
        let stats = self.ask(GET, (DESCRIPTOR, &descriptor), CGROUP_STATS)?;
        Ok(parse_states(&stats).ok_or(io::ErrorKind::InvalidData)?)
    }

    /// Sends a command with one attribute; the attribute `wanted` of the answer.
    fn ask(&mut self, command: u8, attribute: (u16, &[u8]), wanted: u16) -> io::Result<Vec<u8>> {
        self.sequence = self.sequence.wrapping_add(1);
        let message = encode(self.family, self.sequence, command, attribute);
        send(&self.socket, &message, SendFlags::empty())?;
        let mut space = [0_u8; 4096];
        loop {
            // The kernel has answered before send returns: where there is no answer, none comes.
            let (length, _) = recv(&self.socket, &mut space[..], RecvFlags::DONTWAIT)?;
            if let Some(answer) = decode(&space[..length], self.sequence, wanted) {
                return answer.map(<[u8]>::to_vec);
            }
        }
    }
}

/// One message: a command of a family, with one attribute.
fn encode(family: u16, sequence: u32, command: u8, (kind, value): (u16, &[u8])) -> Vec<u8> {
    let attribute = ATTRIBUTE_HEADER + value.len();
    let length = HEADER + GENERIC_HEADER + attribute;
    // What is asked here is far shorter than 64 KiB.
    let [attribute, length] = [attribute, length].map(|length| u16::try_from(length).unwrap_or(0));
    let mut message = Vec::new();
    message.extend(u32::from(length).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend([command, 1, 0, 0]);
    message.extend(attribute.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message
}

/// The value of an attribute in the answer to a request; none where `message` is the answer to
/// another.
///
/// # Errors
/// The kernel's; `InvalidData` where the attribute is not in it.
#[must_use]
pub fn decode(message: &[u8], sequence: u32, wanted: u16) -> Option<io::Result<&[u8]>> {
    if number(message, 8).map(u32::from_ne_bytes) != Some(sequence) {
        return None;
    }
    if number(message, 4).map(u16::from_ne_bytes) == Some(ERROR) {
        let error = number(message, HEADER).map_or(0, i32::from_ne_bytes);
        return Some(Err(io::Error::from_raw_os_error(error.saturating_neg())));
    }
    let attributes = message.get(HEADER + GENERIC_HEADER..).unwrap_or_default();
    Some(find(attributes, wanted).ok_or_else(|| io::ErrorKind::InvalidData.into()))
}

/// The value of the first attribute of a kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(number(attributes, 0).map(u16::from_ne_bytes)?);
        let kind = number(attributes, 2).map(u16::from_ne_bytes)?;
        let value = attributes.get(ATTRIBUTE_HEADER..length)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(ALIGNMENT)..)?;
    }
}

/// The bytes of a number that begins at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The number of a family, `CTRL_ATTR_FAMILY_ID`.
#[must_use]
pub fn parse_family(value: &[u8]) -> Option<u16> {
    number(value, 0).map(u16::from_ne_bytes)
}

/// `struct cgroupstats`: nr_sleeping, nr_running, nr_stopped, nr_uninterruptible, nr_io_wait.
#[must_use]
pub fn parse_states(stats: &[u8]) -> Option<TaskStates> {
    let field = |index: usize| number(stats, index * size_of::<u64>()).map(u64::from_ne_bytes);
    Some(TaskStates { running: field(1)?, uninterruptible: field(3)?, io_wait: field(4)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 32 bits each, so that the order of bytes is the machine's.
    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// Two halves of a word in their order in memory.
    fn halves(first: u16, second: u16) -> u32 {
        let [a, b] = first.to_ne_bytes();
        let [c, d] = second.to_ne_bytes();
        u32::from_ne_bytes([a, b, c, d])
    }

    #[test]
    fn a_request_as_the_headers_lay_it_out() {
        let descriptor = 7_i32.to_ne_bytes();
        let message = encode(31, 5, GET, (DESCRIPTOR, &descriptor));
        let command = u32::from_ne_bytes([4, 1, 0, 0]);
        assert_eq!(message, words(&[28, halves(31, 1), 5, 0, command, halves(8, 1), 7]));
    }

    /// An answer to request 5 with an attribute of three bytes, one of two words and one cut off.
    fn answer() -> Vec<u8> {
        let mut message = words(&[0, halves(31, 0), 5, 0, 0]);
        message.extend(words(&[halves(7, 2), u32::from_ne_bytes(*b"abc\0")]));
        message.extend(words(&[halves(12, 3), 8, 9, halves(100, 4)]));
        message
    }

    #[test]
    fn attributes_are_found_behind_padded_ones() {
        let answer = answer();
        let found = |wanted| decode(&answer, 5, wanted).unwrap().ok().map(<[u8]>::to_vec);
        assert_eq!(found(2), Some(b"abc".to_vec()));
        assert_eq!(found(3), Some(words(&[8, 9])));
        assert_eq!(found(4), None);
        assert_eq!(found(9), None);
        assert!(decode(&answer, 4, 2).is_none());
    }

    #[test]
    fn no_answer_makes_it_panic_or_go_on_forever() {
        let answer = answer();
        for length in 0..answer.len() {
            let _ = decode(&answer[..length], 5, 9);
        }
        let mut endless = words(&[0, 0, 5, 0, 0, 0, 0, 0]);
        assert!(decode(&endless, 5, 9).unwrap().is_err());
        endless[20] = 4;
        assert!(decode(&endless, 5, 9).unwrap().is_err());
    }

    #[test]
    fn an_error_is_the_kernels() {
        let message = words(&[36, halves(2, 0), 5, 0, u32::MAX - 21, 0, 0, 0, 0]);
        let error = decode(&message, 5, 1).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn the_fields_of_cgroupstats() {
        let stats: Vec<u8> =
            [11_u64, 12, 13, 14, 15].iter().flat_map(|n| n.to_ne_bytes()).collect();
        let states = TaskStates { running: 12, uninterruptible: 14, io_wait: 15 };
        assert_eq!(parse_states(&stats), Some(states));
        assert_eq!(parse_states(&stats[..39]), None);
    }

    #[test]
    fn what_is_no_cgroup_of_v1_is_refused() {
        // A kernel may lack taskstats.
        let Ok(mut taskstats) = Taskstats::open() else { return };
        let directory = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(directory.path()).unwrap();
        let refused = |taskstats: &mut Taskstats, fd: BorrowedFd<'_>| {
            taskstats.states(fd).unwrap_err().raw_os_error()
        };
        use std::os::fd::AsFd as _;
        assert_eq!(refused(&mut taskstats, directory.as_fd()), Some(libc::EINVAL));
        // O_PATH gets no answer at all.
        let path = crate::sys::file::open_directory(std::path::Path::new("/")).unwrap();
        assert_eq!(refused(&mut taskstats, path.as_fd()), Some(libc::EAGAIN));
        assert_eq!(refused(&mut taskstats, directory.as_fd()), Some(libc::EINVAL));
    }
}
