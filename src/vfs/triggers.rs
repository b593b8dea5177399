//! Pressure triggers: one event loop for all that wait.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};

use crate::container::Identity;
use crate::error::{self, Error, Result};
use crate::sys::descriptors;

use super::kept::{Counter, Kept};

/// How many triggers one container has at most; each holds a descriptor, and costs the kernel
/// a look at every stall.
const MOST_OF_A_CONTAINER: usize = 64;

/// How many all have together at most, as a part of the descriptors that the daemon may hold.
const SHARE_OF_DESCRIPTORS: usize = 8;

/// The served directory, for messages.
const PRESSURE: &str = "proc/pressure";

/// What the event loop's own descriptor is called; no handle has this number.
const BELL: u64 = u64::MAX;

/// Wakes who waits in poll(2) on a handle, to ask again.
pub struct Waiter {
    number: u64,
    wake: Box<dyn FnOnce() + Send>,
}

impl Waiter {
    /// A waiter that `wake` wakes, and that the kernel knows by `number`.
    pub fn new(number: u64, wake: impl FnOnce() + Send + 'static) -> Waiter {
        Waiter { number, wake: Box::new(wake) }
    }

    /// The kernel's number of it.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Waiter")
    }
}

/// What poll(2) on a handle with a trigger has to tell, beyond that it is readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// Not since it was last asked.
    No,
    /// It has fired.
    Yes,
    /// It never will: there is no trigger, or its cgroup is gone.
    Never,
}

/// The triggers of all handles.
#[derive(Debug)]
pub(super) struct Triggers {
    kept: Arc<Kept>,
    /// Made with the first trigger.
    shared: Mutex<Option<Arc<Shared>>>,
}

#[derive(Debug)]
struct Shared {
    epoll: OwnedFd,
    /// An eventfd: rung when there is something to close, and to end the loop.
    bell: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    by_handle: HashMap<u64, Trigger>,
    /// With those that are not closed yet.
    of_container: HashMap<Identity, usize>,
    /// To be closed by the loop: the kernel takes some 10 ms to forget a trigger, in which a
    /// worker could answer hundreds of readers.
    released: Vec<Trigger>,
    is_over: bool,
}

#[derive(Debug)]
struct Trigger {
    container: Identity,
    /// The kernel's trigger goes with it.
    descriptor: OwnedFd,
    fired: Fired,
    waiter: Option<Waiter>,
}

impl Drop for Triggers {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.get_mut() {
            shared.state.lock().is_over = true;
            shared.ring();
        }
    }
}

impl Triggers {
    /// No triggers; those of an earlier worker ended with it.
    pub(super) fn new(kept: Arc<Kept>) -> Triggers {
        kept.set(Counter::Triggers, 0);
        Triggers { kept, shared: Mutex::default() }
    }

    /// Whether there is room for another trigger of `container` on `handle`, which has none.
    ///
    /// # Errors
    /// [`Error::Passed`]: EBUSY, as the kernel has one trigger a descriptor at most; ENOMEM.
    pub(super) fn check_room(&self, handle: u64, container: &Identity) -> Result<()> {
        match &*self.shared.lock() {
            Some(shared) => shared.state.lock().check_room(handle, container),
            None => Ok(()),
        }
    }

    /// Watches a trigger for a handle.
    ///
    /// # Errors
    /// As [`Triggers::check_room`]; and what epoll_create(2) and clone(2) answer.
    pub(super) fn add(&self, handle: u64, container: Identity, descriptor: OwnedFd) -> Result<()> {
        let shared = self.start()?;
        let mut state = shared.state.lock();
        state.check_room(handle, &container)?;
        epoll::add(&shared.epoll, &descriptor, EventData::new_u64(handle), EventFlags::PRI)
            .map_err(|errno| Error::passed(errno.raw_os_error()))?;
        *state.of_container.entry(container.clone()).or_default() += 1;
        let trigger = Trigger { container, descriptor, fired: Fired::No, waiter: None };
        state.by_handle.insert(handle, trigger);
        self.kept.count(Counter::Triggers);
        Ok(())
    }

    fn start(&self) -> Result<Arc<Shared>> {
        let failed = |op, error: std::io::Error| Error::io(op, PRESSURE, error);
        let mut shared = self.shared.lock();
        if let Some(shared) = &*shared {
            return Ok(Arc::clone(shared));
        }
        let started = Shared::new().map_err(|errno| failed("watch", errno.into()))?;
        let started = Arc::new(started);
        let for_loop = Arc::clone(&started);
        std::thread::Builder::new()
            .name("pressure".into())
            .spawn(move || for_loop.run())
            .map_err(|error| failed("start the thread that watches", error))?;
        *shared = Some(Arc::clone(&started));
        Ok(started)
    }

    /// Whether the trigger of a handle has fired since this was last asked. If it has not,
    /// `waiter` is woken when it does; only the last one of a handle is.
    pub(super) fn poll(&self, handle: u64, waiter: Option<Waiter>) -> Fired {
        let Some(shared) = self.shared.lock().clone() else { return Fired::Never };
        let mut state = shared.state.lock();
        let Some(trigger) = state.by_handle.get_mut(&handle) else { return Fired::Never };
        // Whoever waits for edges does not ask again before he is woken; and one who does not
        // wait takes nobody's place.
        if waiter.is_some() {
            trigger.waiter = waiter;
        }
        let fired = trigger.fired;
        if fired == Fired::Yes {
            trigger.fired = Fired::No;
        }
        fired
    }

    /// Drops the trigger of a handle.
    pub(super) fn release(&self, handle: u64) {
        let Some(shared) = self.shared.lock().clone() else { return };
        let mut state = shared.state.lock();
        if let Some(trigger) = state.by_handle.remove(&handle) {
            state.released.push(trigger);
            self.kept.subtract(Counter::Triggers, 1);
            drop(state);
            shared.ring();
        }
    }
}

impl State {
    fn check_room(&self, handle: u64, container: &Identity) -> Result<()> {
        if self.by_handle.contains_key(&handle) {
            return Err(Error::passed(libc::EBUSY));
        }
        let of_container = self.of_container.get(container).copied().unwrap_or(0);
        let most = descriptors::limit() / SHARE_OF_DESCRIPTORS;
        if of_container >= MOST_OF_A_CONTAINER || self.by_handle.len() + self.released.len() >= most
        {
            return Err(Error::passed(libc::ENOMEM));
        }
        Ok(())
    }

    fn uncount(&mut self, container: Identity) {
        if let Entry::Occupied(mut count) = self.of_container.entry(container) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Shared {
    fn new() -> rustix::io::Result<Shared> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Shared { epoll, bell, state: Mutex::default() })
    }

    /// The thread: hands every event to whom it is for.
    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => {
                    error::report(&Error::io("watch", PRESSURE, errno));
                    return;
                }
            }
            for event in &events {
                self.take(*event);
            }
            if self.close_released() {
                return;
            }
        }
    }

    fn ring(&self) {
        // It is read before it could overflow.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Closes what was released; whether the loop is over.
    fn close_released(&self) -> bool {
        let released = std::mem::take(&mut self.state.lock().released);
        for Trigger { container, descriptor, .. } in released {
            drop(descriptor);
            // Only now there is room for another.
            self.state.lock().uncount(container);
        }
        self.state.lock().is_over
    }

    fn take(&self, event: Event) {
        let Event { flags, data } = event;
        if data.u64() == BELL {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.bell, &mut count);
            return;
        }
        let mut state = self.state.lock();
        // Released meanwhile.
        let Some(trigger) = state.by_handle.get_mut(&data.u64()) else { return };
        trigger.fired = Fired::Yes;
        if flags.contains(EventFlags::ERR) {
            trigger.fired = Fired::Never;
            // It would be told over and over.
            let _ = epoll::delete(&self.epoll, &trigger.descriptor);
        }
        let waiter = trigger.waiter.take();
        drop(state);
        if let Some(Waiter { wake, .. }) = waiter {
            wake();
        }
    }
}
