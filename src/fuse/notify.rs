//! The readiness protocol of systemd and its kin, sd_notify(3).
//!
//! Not the `sd-notify` crate: its 0.5 cannot reach a socket in the abstract namespace.

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};

/// Sends `state` (lines of `NAME=value`) to the service manager that `$NOTIFY_SOCKET` names;
/// without one, nobody asked. A failure is logged, as it must not end a daemon that works.
pub(super) fn notify(state: &str) {
    notify_with(state, None);
}

/// The same, with a descriptor that it is about.
pub(super) fn notify_with(state: &str, descriptor: Option<BorrowedFd<'_>>) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(&address, state, descriptor) {
        log::warn!("NOTIFY_SOCKET {}: {error}", address.display());
    }
}

fn send(address: &OsStr, state: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => UnixAddr::new_abstract(name)?,
        path => UnixAddr::new(path)?,
    };
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    let descriptors: Vec<RawFd> = descriptor.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&descriptors)];
    let control = if descriptors.is_empty() { &control[..0] } else { &control };
    let text = [IoSlice::new(state.as_bytes())];
    sendmsg(socket.as_raw_fd(), &text, control, MsgFlags::empty(), Some(&address))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    #[test]
    fn reaches_an_abstract_socket() {
        let name = format!("lxcfs-rs-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        send(OsStr::new(&format!("@{name}")), "READY=1\n", None).unwrap();
        let mut message = [0; 64];
        let length = socket.recv(&mut message).unwrap();
        assert_eq!(&message[..length], b"READY=1\n");
        assert!(send(OsStr::new("/nowhere/at/all"), "READY=1\n", None).is_err());
    }
}
