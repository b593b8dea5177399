//! The only memory between reads: per container, what `/proc/stat`, `/proc/diskstats` and
//! `/proc/loadavg` have shown. [`cpu`], [`disk`] and [`load`] are pure steps; [`History`] owns
//! the locks, and keeps the records in a [`store::Store`] beyond the daemon's own life.

pub mod cpu;
pub mod disk;
pub mod load;
pub mod store;

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::container::{Container, Identity, Roots};
use crate::error::Result;
use crate::kernel::Kernel;
use crate::sys::descriptors;
use crate::units::Nsec;
use load::LoadAverage;
use store::{Slot, Store};

/// How many containers have a record. One that is pushed out starts afresh.
const MOST_RECORDS: usize = 8192;

/// What is remembered of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    roots: Roots,
    birth: Nsec,
    /// Behind `stat` and the idle time of `uptime`.
    pub cpu: cpu::Record,
    /// Behind `diskstats`.
    pub disk: disk::Record,
    /// Behind `loadavg`; none before the first sample.
    load: Option<LoadAverage>,
}

/// What came of a step of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// The record is as it was.
    Same(T),
    /// The record knows more than what is kept of it.
    Changed(T),
}

/// A container's record, locked while it is used.
#[derive(Debug)]
pub struct Remembered {
    locked: Mutex<(Record, Option<Slot>)>,
}

impl Remembered {
    /// Has `step`, which may ask the kernel, make a reading and take it in. What then is
    /// remembered is kept before anybody is told what came of it.
    ///
    /// # Errors
    /// That of `step`.
    pub fn update<T>(&self, step: impl FnOnce(&mut Record) -> Result<Step<T>>) -> Result<T> {
        // Locked while the kernel is asked, so that readings are taken in in their order.
        let mut locked = self.locked.lock();
        let (record, slot) = &mut *locked;
        match step(record)? {
            Step::Same(result) => Ok(result),
            Step::Changed(result) => {
                if let Some(slot) = slot {
                    slot.write(record);
                }
                Ok(result)
            }
        }
    }

    /// Takes in that `active` tasks were runnable or in uninterruptible sleep since the last
    /// sample, and tells the load averages.
    pub fn sample_load(&self, active: u64, now: Nsec) -> LoadAverage {
        let mut locked = self.locked.lock();
        let (record, slot) = &mut *locked;
        let load = record.load.get_or_insert_with(|| LoadAverage::first(active, now));
        load.advance(active, now);
        let load = *load;
        if let Some(slot) = slot {
            slot.write(record);
        }
        load
    }

    fn remove(&self) {
        if let Some(slot) = self.locked.lock().1.take() {
            slot.remove();
        }
    }
}

type Containers = LruCache<Identity, Arc<Remembered>>;

/// The records of all containers.
#[derive(Debug)]
pub struct History {
    containers: Mutex<Containers>,
    store: Option<Store>,
}

impl History {
    /// No records, and none outlives this value.
    #[must_use]
    pub fn in_memory() -> History {
        History::with(None)
    }

    /// The records in `store` of the containers that `kernel` still has; the others are removed.
    ///
    /// # Errors
    /// The store that cannot be read.
    pub fn open(store: Store, kernel: &Kernel) -> Result<History> {
        let loaded = store.load()?;
        let history = History::with(Some(store));
        for (record, slot) in loaded {
            if record.roots.is_there(kernel) {
                put(&mut history.containers.lock(), record, Some(slot));
            } else {
                slot.remove();
            }
        }
        Ok(history)
    }

    fn with(store: Option<Store>) -> History {
        let most = NonZeroUsize::new(MOST_RECORDS).unwrap_or(NonZeroUsize::MIN);
        History { containers: Mutex::new(LruCache::new(most)), store }
    }

    /// When the containers began that have a record.
    #[must_use]
    pub fn births(&self) -> Vec<(Identity, Nsec)> {
        let containers = self.containers.lock();
        let birth = |known: &Arc<Remembered>| known.locked.lock().0.birth;
        containers.iter().map(|(identity, known)| (identity.clone(), birth(known))).collect()
    }

    /// The record of a container, made on first use.
    pub fn of(&self, container: &Container) -> Arc<Remembered> {
        let mut containers = self.containers.lock();
        if let Some(known) = containers.get(container.identity()) {
            return Arc::clone(known);
        }
        let record = Record {
            roots: container.roots().clone(),
            birth: container.birth,
            cpu: cpu::Record::new(container.birth),
            disk: disk::Record::default(),
            load: None,
        };
        put(&mut containers, record, self.store.as_ref().and_then(Store::slot))
    }

    /// Drops the records of containers that are no more.
    pub fn forget(&self, ended: &[Identity]) {
        for identity in ended {
            let forgotten = self.containers.lock().pop(identity);
            if let Some(forgotten) = forgotten {
                forgotten.remove();
            }
        }
    }
}

/// How many records keep their file open.
fn most_files() -> usize {
    descriptors::limit() / 8
}

/// Adds a record; the oldest makes room for it.
fn put(containers: &mut Containers, record: Record, mut slot: Option<Slot>) -> Arc<Remembered> {
    if let Some(slot) = slot.as_mut().filter(|_| containers.len() >= most_files()) {
        slot.close();
    }
    let identity = record.roots.identity();
    let remembered = Arc::new(Remembered { locked: Mutex::new((record, slot)) });
    if let Some((_, oldest)) = containers.push(identity, Arc::clone(&remembered)) {
        oldest.remove();
    }
    remembered
}

#[cfg(test)]
impl Record {
    /// The record of a container of which nothing is known but when it began.
    fn for_test(birth: Nsec) -> Record {
        let roots = Roots::default();
        let (cpu, disk) = (cpu::Record::new(birth), disk::Record::default());
        Record { roots, birth, cpu, disk, load: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::path::Membership;
    use std::path::Path;

    /// A host with a cgroup for each of its containers.
    struct Host(tempfile::TempDir);

    impl Host {
        fn new(containers: &[&str]) -> Host {
            let host = Host(tempfile::tempdir().unwrap());
            let write = |path: &str, text: &str| {
                let path = host.0.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            };
            write("proc/self/mountinfo", "1 2 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
            write("proc/sys/kernel/random/boot_id", "one\n");
            write("sys/fs/cgroup/cgroup.controllers", "cpu\n");
            for container in containers {
                write(&format!("sys/fs/cgroup/{container}/cgroup.procs"), "");
            }
            host
        }

        fn kernel(&self) -> Kernel {
            Kernel::open(self.0.path()).unwrap()
        }

        fn history(&self) -> History {
            let kernel = self.kernel();
            let store =
                Store::open(&self.0.path().join("run"), Path::new("/x"), &kernel.proc).unwrap();
            History::open(store, &kernel).unwrap()
        }

        fn container(&self, name: &str, birth: u64) -> Container {
            let path = format!("/{name}").into_bytes();
            let memberships = [Membership { controllers: Vec::new(), path }];
            Container::at(&self.kernel(), &memberships, Nsec(birth), 0).unwrap()
        }

        fn files(&self) -> usize {
            std::fs::read_dir(self.0.path().join("run/history/x")).unwrap().count()
        }
    }

    fn sample(history: &History, container: &Container, active: u64, now: u64) -> u64 {
        history.of(container).sample_load(active, Nsec(now)).hundredths()[0]
    }

    #[test]
    fn a_later_daemon_goes_on() {
        let host = Host::new(&["a", "b"]);
        let (a, b) = (host.container("a", 11), host.container("b", 12));
        let history = host.history();
        assert_eq!(sample(&history, &a, 3, 100), 300);
        assert_eq!(sample(&history, &b, 1, 100), 100);
        drop(history);
        let history = host.history();
        let mut births = history.births();
        births.sort_unstable_by_key(|(_, birth)| *birth);
        assert_eq!(births, [(a.identity().clone(), Nsec(11)), (b.identity().clone(), Nsec(12))]);
        assert_eq!(sample(&history, &a, 0, 101), 300);
        // One that is new to the store would begin with its count.
        assert_eq!(sample(&History::in_memory(), &a, 0, 101), 0);
    }

    #[test]
    fn what_has_ended_is_dropped() {
        let host = Host::new(&["a", "b", "c"]);
        let [a, b, c] = ["a", "b", "c"].map(|name| host.container(name, 1));
        let history = host.history();
        for container in [&a, &b, &c] {
            sample(&history, container, 3, 100);
        }
        assert_eq!(host.files(), 3);
        let kept = history.of(&a);
        history.forget(&[a.identity().clone(), a.identity().clone()]);
        assert_eq!(host.files(), 2);
        // Who still has it in hand brings nothing back.
        kept.sample_load(1, Nsec(200));
        assert_eq!(host.files(), 2);
        drop(history);
        std::fs::remove_dir_all(host.0.path().join("sys/fs/cgroup/b")).unwrap();
        let history = host.history();
        assert_eq!(host.files(), 1);
        assert_eq!(history.births(), [(c.identity().clone(), Nsec(1))]);
    }

    #[test]
    fn another_cgroup_at_the_path_has_no_past() {
        let host = Host::new(&["a", "b"]);
        let history = host.history();
        sample(&history, &host.container("a", 1), 3, 100);
        drop(history);
        let cgroups = host.0.path().join("sys/fs/cgroup");
        std::fs::remove_dir_all(cgroups.join("a")).unwrap();
        std::fs::rename(cgroups.join("b"), cgroups.join("a")).unwrap();
        assert_eq!(host.history().births(), []);
        assert_eq!(host.files(), 0);
    }
}
