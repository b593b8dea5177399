//! Worker threads that answer the requests of a connection.

use std::fs::File;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fuser::{Config, SessionACL};

use super::Adapter;
use super::connection::{Connection, DEVICE, open_session};
use super::fair::Fairness;
use super::hang::Progress;
use super::relief::{self, Load, RELIEF};
use crate::error::{Error, Result};
use crate::sys::fuse::{Answer, ask_in_child, clone_device, replace_descriptor};
use crate::vfs::Vfs;

/// A session that is about to answer requests.
#[derive(Debug)]
pub struct Session {
    session: fuser::Session<Adapter>,
    source: Source,
}

/// What the names of workers begin with.
const WORKER: &str = "fuser";

/// What sessions of the same connection are made from.
#[derive(Debug)]
struct Source {
    connection: Connection,
    vfs: Arc<Vfs>,
    load: Arc<Load>,
    fairness: Arc<Fairness>,
}

impl Session {
    /// Makes a session that goes on where whoever had `connection` before has stopped: the
    /// requests which that one had taken and not answered are sent again, where the kernel can.
    ///
    /// # Errors
    /// What the handshake with fuser and the kernel answer.
    pub fn new(connection: &Connection, vfs: Arc<Vfs>, workers: usize) -> Result<Session> {
        Session::watched(connection, vfs, workers, None)
    }

    /// The same, with somebody who is told of every request.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub(super) fn watched(
        connection: &Connection,
        vfs: Arc<Vfs>,
        workers: usize,
        progress: Option<Arc<Progress>>,
    ) -> Result<Session> {
        let failed = |op| move |error: io::Error| Error::io(op, DEVICE, error);
        let connection = connection.try_clone().map_err(failed("duplicate"))?;
        let lost = vfs.take_lost_waiters();
        let (load, fairness) = (Load::new(workers, progress), Arc::new(Fairness::new()));
        let source = Source { connection, vfs, load: Arc::new(load), fairness };
        let session = source.session(workers)?;
        let mut device =
            File::from(source.connection.device.try_clone().map_err(failed("duplicate"))?);
        if source.connection.can_resend() {
            device
                .write_all(&notification(16, RESEND))
                .map_err(failed("have requests sent again by"))?;
        }
        for waiter in lost {
            // Nobody waits any more where the kernel does not know it.
            let _ = device.write_all(&wake(waiter));
        }
        Ok(Session { session, source })
    }

    /// Answers requests until the connection ends: the last mount is gone, or it was aborted.
    ///
    /// # Errors
    /// What the worker threads ended with, where that is no clean end.
    pub fn run(self) -> Result<()> {
        let Session { session, source } = self;
        source.vfs.start();
        let load = Arc::clone(&source.load);
        let no_thread = |error| Error::io("start a thread for", DEVICE, error);
        let start = move || {
            let more = source.session(RELIEF)?;
            std::thread::Builder::new()
                .name("session".to_owned())
                .spawn(move || more.run())
                .map(drop)
                .map_err(no_thread)
        };
        relief::watch(WORKER, load, start).map_err(no_thread)?;
        session.run().map_err(|error| Error::io("answer requests of", DEVICE, error))
    }
}

impl Source {
    fn session(&self, workers: usize) -> Result<fuser::Session<Adapter>> {
        let failed = |op| move |error: io::Error| Error::io(op, DEVICE, error);
        let Source { connection, vfs, load, fairness } = self;
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(workers);
        // By one descriptor that is shared with whoever keeps it, requests are not lost with a
        // worker, but wait to be sent again. Where the kernel cannot do that, their readers
        // would sleep for ever, even killed; taken by private ones, they fail with the worker.
        config.clone_fd = !connection.can_resend();
        let adapter = Adapter::new(Arc::clone(vfs), Arc::clone(load), Arc::clone(fairness));
        let (session, _) = open_session(adapter, &connection.init_request, config)?;
        let device = if connection.can_resend() {
            connection.device.try_clone()
        } else {
            clone_device(connection.device.as_fd())
        };
        let device = device.map_err(failed("make a clone of"))?;
        replace_descriptor(session.as_fd(), device.as_fd()).map_err(failed("hand over"))?;
        Ok(session)
    }
}

/// FUSE_NOTIFY_RESEND, <linux/fuse.h>: what was read and not answered is sent again.
const RESEND: u32 = 7;

/// FUSE_NOTIFY_POLL: whoever waits in poll(2) asks again.
const POLL: u32 = 1;

fn wake(waiter: u64) -> [u8; 24] {
    let mut message = [0; 24];
    message[..16].copy_from_slice(&notification(24, POLL));
    message[16..].copy_from_slice(&waiter.to_ne_bytes());
    message
}

/// `fuse_out_header` of a notification: its code stands for the error, and unique is 0.
fn notification(length: u32, code: u32) -> [u8; 16] {
    let mut message = [0; 16];
    message[..4].copy_from_slice(&length.to_ne_bytes());
    message[4..8].copy_from_slice(&code.to_ne_bytes());
    message
}

/// One worker per CPU; more than four cost wake-ups and bring nothing, and with a single one
/// a slow read would hold up every other reader.
pub(super) fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(2, NonZeroUsize::get).clamp(2, 4)
}

/// The first answer shows that the kernel took the reply to INIT and that workers run.
///
/// It is a child that asks, without the connection's descriptor. Should this process be killed
/// just when a worker has taken the request, one of its own threads that waits for the answer
/// would sleep for ever, and by that hold the descriptor whose end would wake it.
pub(super) fn expect_answer(mountpoint: &Path) -> Result<()> {
    /// Workers of a busy machine may be late; none is as late as this.
    const PATIENCE: Duration = Duration::from_secs(60);
    ask_in_child(mountpoint, PATIENCE)
        .and_then(Answer::into_result)
        .map_err(|error| Error::io("get a first answer from", mountpoint, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers() {
        assert!((2..=4).contains(&default_workers()));
    }

    /// By include/uapi/linux/fuse.h, for the byte order of x86 and arm.
    #[cfg(target_endian = "little")]
    #[test]
    fn notifications() {
        assert_eq!(notification(16, RESEND), [16, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let message = wake(0x0102);
        assert_eq!(message[..16], [24, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(message[16..], [2, 1, 0, 0, 0, 0, 0, 0]);
    }
}
