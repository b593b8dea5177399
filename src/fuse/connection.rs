//! A FUSE connection to the kernel, and what has to be known of it to go on with it.
//!
//! fuser insists on reading the kernel's INIT from the descriptor it is given, and the kernel
//! sends INIT once in a connection's life. So this module mounts and reads INIT itself, has
//! fuser make the answer over a socket pair, and gives that to the kernel. Every
//! [`super::session::Session`] then plays the saved INIT to fuser once more: the first one is
//! made as any that comes after a killed one.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use fuser::{Config, Filesystem, KernelConfig, Request, SessionACL};
use nix::mount::{MsFlags, mount};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::mountpoint::unmount;
use super::negotiate;
use crate::error::{Error, Result};
use crate::files::source_at;

pub(super) const DEVICE: &str = "/dev/fuse";

/// Everything that a session is made from.
#[derive(Debug)]
pub struct Connection {
    /// /dev/fuse; blocking, as fuser would spin otherwise.
    pub device: OwnedFd,
    /// The kernel's INIT request.
    pub init_request: Vec<u8>,
    /// What it was answered: a program that would negotiate otherwise has to keep to this.
    pub init_reply: Vec<u8>,
}

impl Connection {
    /// Mounts the filesystem on a directory and answers the kernel's INIT.
    ///
    /// With `read_only` nothing can be opened for writing: EROFS. A read then changes no access
    /// time, so that the kernel knows the attributes on, and fstat(2) after it sends no GETATTR.
    ///
    /// # Errors
    /// What opening /dev/fuse, mounting, reading and writing answer.
    pub fn new(mountpoint: &Path, read_only: bool) -> Result<Connection> {
        let mut device =
            OpenOptions::new().read(true).write(true).open(DEVICE).map_err(no_device)?;
        let data = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        mount_superblock(mountpoint, &data, read_only)
            .map_err(|error| Error::io("mount fuse.lxcfs on", mountpoint, error))?;
        let shaken = shake_hands(&mut device).inspect_err(|_| {
            // The first error is the one to report.
            let _ = unmount(mountpoint);
        })?;
        let (init_request, init_reply) = shaken;
        Ok(Connection { device: device.into(), init_request, init_reply })
    }

    /// The same connection by a descriptor of its own.
    pub(super) fn try_clone(&self) -> io::Result<Connection> {
        Ok(Connection {
            device: self.device.try_clone()?,
            init_request: self.init_request.clone(),
            init_reply: self.init_reply.clone(),
        })
    }

    /// Whether the kernel sends a request again whose reader still waits, to whoever comes after
    /// a worker that was killed: FUSE_NOTIFY_RESEND, Linux 6.9.
    #[must_use]
    pub fn can_resend(&self) -> bool {
        /// FUSE_HAS_RESEND, bit 39 of the flags: bit 7 of `flags2` of `fuse_init_in`.
        const HAS_RESEND: u32 = 1 << 7;
        const FLAGS2_AT: usize = 40 + 16;
        /// FUSE_INIT_EXT: that there is a `flags2`.
        const INIT_EXT: u32 = 1 << 30;
        const FLAGS_AT: usize = 40 + 12;
        let word = |at| word(&self.init_request, at).unwrap_or(0);
        word(FLAGS_AT) & INIT_EXT != 0 && word(FLAGS2_AT) & HAS_RESEND != 0
    }
}

fn mount_superblock(mountpoint: &Path, data: &str, read_only: bool) -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let source = source_at(mountpoint);
    mount(Some(source.as_os_str()), mountpoint, Some("fuse.lxcfs"), flags, Some(data))?;
    let remount = |more| {
        let none = None::<&str>;
        mount(none, mountpoint, none, flags | MsFlags::MS_REMOUNT | more, none)
    };
    if !read_only {
        return Ok(());
    }
    // The superblock alone, and not this mount nor those that it was propagated to: in a user
    // namespace a mount that is read-only itself stays so, and an engine fails which is told to bind
    // it writable.
    remount(MsFlags::MS_RDONLY).and_then(|()| remount(MsFlags::MS_BIND)).inspect_err(|_| {
        // The first error is the one to report.
        let _ = unmount(mountpoint);
    })
}

fn shake_hands(device: &mut (impl Read + Write)) -> Result<(Vec<u8>, Vec<u8>)> {
    let request = read_init(device)?;
    let (_, reply) = open_session(Handshake, &request, Config::default())?;
    device.write_all(&reply).map_err(|error| Error::io("answer INIT of", DEVICE, error))?;
    Ok((request, reply))
}

/// Reads the one INIT of the connection's life, <linux/fuse.h>: `fuse_in_header`, then
/// `fuse_init_in`, which starts with the major version.
fn read_init(device: &mut impl Read) -> Result<Vec<u8>> {
    /// FUSE_MIN_READ_BUFFER: the kernel refuses a read into less.
    const LEAST: usize = 8192;
    let mut request = vec![0; LEAST];
    let length = device.read(&mut request).map_err(|error| Error::io("read", DEVICE, error))?;
    request.truncate(length);
    check_init(&request)?;
    Ok(request)
}

/// Refuses what is no INIT request of FUSE 7.
///
/// # Errors
/// [`Error::Malformed`].
pub fn check_init(request: &[u8]) -> Result<()> {
    const FUSE_INIT: u32 = 26;
    const MAJOR: u32 = 7;
    if (word(request, 4), word(request, 40)) != (Some(FUSE_INIT), Some(MAJOR)) {
        return Err(Error::malformed(DEVICE, 0, request, "an INIT request of FUSE 7"));
    }
    Ok(())
}

fn word(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// A session of fuser's that was told `init_request`, and what it answered. It uses one end of a
/// socket pair, the other end of which is closed.
pub(super) fn open_session<F: Filesystem>(
    filesystem: F,
    init_request: &[u8],
    config: Config,
) -> Result<(fuser::Session<F>, Vec<u8>)> {
    let failed = |op| move |error: io::Error| Error::io(op, DEVICE, error);
    let (kernel, stand_in) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|error| failed("start a session on")(error.into()))?;
    let mut kernel = std::fs::File::from(kernel);
    kernel.write_all(init_request).map_err(failed("replay INIT of"))?;
    let session = fuser::Session::from_fd(filesystem, stand_in, SessionACL::All, config)
        .map_err(failed("start a session on"))?;
    let mut reply = vec![0; 4096];
    let length = kernel.read(&mut reply).map_err(failed("take the answer to INIT of"))?;
    reply.truncate(length);
    Ok((session, reply))
}

/// A filesystem that is only asked what it wants of the kernel.
struct Handshake;

impl Filesystem for Handshake {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        negotiate(config);
        Ok(())
    }
}

fn no_device(error: io::Error) -> Error {
    let missing = [libc::ENOENT, libc::ENODEV, libc::ENXIO].map(Some);
    if !missing.contains(&error.raw_os_error()) {
        return Error::io("open", DEVICE, error);
    }
    Error::Refused(format!("{DEVICE}: no such device; load its module with `modprobe fuse`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init() -> Vec<u8> {
        let mut init = vec![0; 104];
        init[4..8].copy_from_slice(&26_u32.to_ne_bytes());
        init[40..44].copy_from_slice(&7_u32.to_ne_bytes());
        init
    }

    #[test]
    fn only_init_of_fuse_7_is_taken() {
        let mut init = init();
        assert_eq!(read_init(&mut init.as_slice()).unwrap(), init);
        for length in 0..44 {
            assert!(read_init(&mut &init[..length]).is_err());
        }
        init[40] = 8;
        assert!(read_init(&mut init.as_slice()).is_err());
    }

    #[test]
    fn whether_requests_are_sent_again_is_the_kernels_word() {
        let connection = |flags: u32, flags2: u32| {
            let mut init_request = init();
            init_request[52..56].copy_from_slice(&flags.to_ne_bytes());
            init_request[56..60].copy_from_slice(&flags2.to_ne_bytes());
            let device = std::fs::File::open("/dev/null").unwrap().into();
            Connection { device, init_request, init_reply: Vec::new() }
        };
        assert!(connection(1 << 30, 1 << 7).can_resend());
        assert!(!connection(1 << 30, !(1 << 7)).can_resend());
        assert!(!connection(0, 1 << 7).can_resend());
        let mut short = connection(1 << 30, 1 << 7);
        short.init_request.truncate(56);
        assert!(!short.can_resend());
    }

    #[test]
    fn a_missing_device_names_the_module() {
        let line = no_device(io::Error::from_raw_os_error(libc::ENOENT)).to_string();
        assert_eq!(line, "/dev/fuse: no such device; load its module with `modprobe fuse`");
        let line = no_device(io::Error::from_raw_os_error(libc::EACCES)).to_string();
        assert_eq!(line, "/dev/fuse: cannot open: Permission denied");
    }
}
