//! Who a thread turned out to be, and what of that can change: held open, so that the next read
//! sees whether anything did without looking up anything by its number.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use super::held::Holds;
use super::thread::Thread;
use super::{Container, Identity, Subject, Who};
use crate::cgroup::moves::{Moves, Standing};
use crate::error::Result;
use crate::procfs::{Namespace, NsId, ProcRoot, namespace_of};
use crate::sys::file;

/// All that an answer to "who is this thread?" was found by and that can change while the thread
/// lives: who sees the same again must answer the same.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The namespaces of processes.
    namespaces: Vec<(u32, Namespace, NsId)>,
    /// `/proc/PID/cgroup` of processes.
    listings: Vec<(u32, Vec<u8>)>,
}

impl Seen {
    pub(super) fn namespace(&mut self, process: u32, kind: Namespace, found: NsId) {
        if !self.namespaces.contains(&(process, kind, found)) {
            self.namespaces.push((process, kind, found));
        }
    }

    pub(super) fn listing(&mut self, process: u32, text: Vec<u8>) {
        self.listings.retain(|(known, _)| *known != process);
        self.listings.push((process, text));
    }
}

/// A thread and the answer about it. Everything is of the processes that it was found by, which
/// a file of /proc/PID that is held open keeps apart from later ones of the same number.
#[derive(Debug)]
pub(super) struct Known {
    /// None where one of the links is of the thread itself, and ends with it.
    thread: Option<Thread>,
    links: Vec<(OwnedFd, NsId)>,
    listings: Vec<(OwnedFd, Vec<u8>)>,
    /// The listings.
    standing: Standing,
    reader: Option<u32>,
    is_host: bool,
    container: Weak<Container>,
    identity: Identity,
    was_asked: AtomicBool,
}

impl Holds for Known {
    fn descriptors(&self) -> usize {
        usize::from(self.thread.is_some()) + self.links.len() + self.listings.len()
    }
}

impl Known {
    /// The answer `who` about `thread`, whose number is `tid`, that was found by `seen`; none
    /// where the thread has ended meanwhile.
    pub(super) fn new(
        proc: &ProcRoot,
        tid: u32,
        thread: Thread,
        who: &Who,
        seen: Seen,
    ) -> Result<Option<Known>> {
        let Some(container) = who.container() else { return Ok(None) };
        let is_seen = seen.namespaces.iter().any(|(process, ..)| *process == tid);
        let open_link = |(process, kind, found)| Ok((proc.open_namespace(process, kind)?, found));
        let links = seen.namespaces.into_iter().map(open_link).collect::<Result<_>>()?;
        let open = |(process, text)| Ok((proc.open_file(&format!("{process}/cgroup"))?, text));
        let listings = seen.listings.into_iter().map(open).collect::<Result<_>>()?;
        // By number, which all kept that lived on.
        if !thread.is_alive() {
            return Ok(None);
        }
        Ok(Some(Known {
            thread: (!is_seen).then_some(thread),
            links,
            listings,
            standing: Standing::default(),
            reader: who.reader,
            is_host: matches!(who.subject, Subject::Host(_)),
            container: Arc::downgrade(container),
            identity: container.identity().clone(),
            was_asked: AtomicBool::new(true),
        }))
    }

    /// Which container the answer is.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The answer, if `container` is still the one that it was.
    pub(super) fn who(&self, container: Arc<Container>) -> Option<Who> {
        if Arc::as_ptr(&container) != self.container.as_ptr() {
            return None;
        }
        self.was_asked.store(true, Ordering::Relaxed);
        let subject = if self.is_host { Subject::Host } else { Subject::Container };
        Some(Who { reader: self.reader, subject: subject(container) })
    }

    /// Whether somebody asked since this was last called.
    pub(super) fn was_asked(&self) -> bool {
        self.was_asked.swap(false, Ordering::Relaxed)
    }

    /// Whether the thread lives, and everything is as it was.
    pub(super) fn is_unchanged(&self, moves: &Moves) -> bool {
        // The links in any case: by them it is known that the processes live, which alone tells
        // their listings from those of later ones.
        self.thread.as_ref().is_none_or(Thread::is_alive)
            && self.links.iter().all(|(link, found)| namespace_of(link) == Some(*found))
            && self
                .standing
                .confirm(moves, || self.listings_are_unchanged().then_some(()).ok_or(()))
                .is_ok()
    }

    fn listings_are_unchanged(&self) -> bool {
        let is_same =
            |(file, text): &(_, _)| file::reread_record(file).is_ok_and(|now| now == *text);
        self.listings.iter().all(is_same)
    }
}
