//! `/proc/PID/cgroup` as the inside of a cgroup namespace sees it.
//!
//! The kernel spells its paths by the namespace of the thread that reads, and a thread that has
//! entered one may fail to leave it. That must not happen to one that answers readers: there is a
//! thread for this and nothing else, which does not read before it has entered a namespace anew.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use rustix::thread::CapabilitySet;

use super::listing::Listing;
use crate::error::{Error, Result};
use crate::procfs::ProcRoot;
use crate::sys::{capabilities, file};

/// The name of the thread.
const NAME: &str = "namespaces";

/// Who reads in the namespaces of others.
#[derive(Debug, Default)]
pub(super) struct Inside {
    /// To the thread, once there is one.
    questions: Mutex<Option<Sender<Question>>>,
}

struct Question {
    /// `/proc/PID/cgroup`.
    listing: Arc<OwnedFd>,
    /// `/proc/PID/ns/cgroup`.
    namespace: Arc<OwnedFd>,
    answer: Sender<std::io::Result<Vec<u8>>>,
}

impl Inside {
    /// Starts the thread, with the rights that the calling one has, unless there is one.
    ///
    /// # Errors
    /// That it does not start.
    pub(super) fn start(&self, proc: &ProcRoot) -> Result<()> {
        let mut questions = self.questions.lock();
        if questions.is_none() {
            *questions = Some(start(proc)?);
        }
        Ok(())
    }

    /// What `listing` says in the cgroup namespace `namespace`.
    ///
    /// # Errors
    /// What capset(2), setns(2) and pread(2) answer.
    pub(super) fn read(
        &self,
        proc: &ProcRoot,
        listing: &Listing,
        namespace: &Arc<OwnedFd>,
    ) -> Result<Vec<u8>> {
        self.start(proc)?;
        let (answer, answered) = channel();
        let (file, namespace) = (Arc::clone(&listing.file), Arc::clone(namespace));
        self.ask(Question { listing: file, namespace, answer });
        let Ok(answer) = answered.recv() else {
            // The thread has ended; whoever asks next starts another one.
            *self.questions.lock() = None;
            return Err(Error::Panicked { message: "reading in a cgroup namespace".to_owned() });
        };
        answer.map_err(|error| Error::io("read inside its namespace", &listing.path, error))
    }

    fn ask(&self, question: Question) {
        if let Some(questions) = &*self.questions.lock() {
            // Where nobody takes it, it is dropped, and never answered.
            let _ = questions.send(question);
        }
    }
}

fn start(proc: &ProcRoot) -> Result<Sender<Question>> {
    let failed = |error| Error::io("start a thread that enters", proc.path("PID/ns/cgroup"), error);
    let home = proc.open_file("thread-self/ns/cgroup")?;
    let (questions, asked) = channel();
    let answer = move || {
        let enters = CapabilitySet::SYS_ADMIN;
        capabilities::acting(enters, CapabilitySet::empty(), || answer_all(&asked, &home))
    };
    let thread = std::thread::Builder::new().name(NAME.to_owned());
    thread.spawn(answer).map_err(failed)?;
    Ok(questions)
}

/// Until nobody can ask any more.
fn answer_all(asked: &Receiver<Question>, home: &OwnedFd) {
    for Question { listing, namespace, answer } in asked {
        let read = enter(&namespace).and_then(|()| file::reread_record(&*listing));
        // Whoever asked waits for it.
        let _ = answer.send(read);
        // Only so as not to keep the namespace: nothing depends on it.
        let _ = enter(home);
    }
}

fn enter(namespace: &OwnedFd) -> std::io::Result<()> {
    Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWCGROUP)?)
}
