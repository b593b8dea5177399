//! The only memory between reads: per container, what `/proc/stat`, `/proc/diskstats` and
//! `/proc/loadavg` have shown. [`cpu`], [`disk`] and [`load`] are pure steps; [`History`] owns
//! the locks.

pub mod cpu;
pub mod disk;
pub mod load;

use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::container::Identity;
use crate::units::Nsec;

/// How many containers have a record. One that is pushed out starts afresh.
const MOST_RECORDS: usize = 8192;

/// What is remembered of one container.
#[derive(Debug)]
pub struct Records {
    /// Behind `stat` and the idle time of `uptime`.
    pub cpu: Mutex<cpu::Record>,
    /// Behind `diskstats`.
    pub disk: Mutex<disk::Record>,
}

/// The records of all containers.
#[derive(Debug)]
pub struct History {
    containers: Mutex<LruCache<Identity, Arc<Records>>>,
}

impl Default for History {
    fn default() -> Self {
        let most = NonZeroUsize::new(MOST_RECORDS).unwrap_or(NonZeroUsize::MIN);
        History { containers: Mutex::new(LruCache::new(most)) }
    }
}

impl History {
    /// The records of a container that began at `birth`, made on first use.
    pub fn of(&self, identity: Identity, birth: Nsec) -> Arc<Records> {
        let mut containers = self.containers.lock();
        let records = containers.get_or_insert(identity, || {
            Arc::new(Records {
                cpu: Mutex::new(cpu::Record::new(birth)),
                disk: Mutex::new(disk::Record::default()),
            })
        });
        Arc::clone(records)
    }
}
