//! What is remembered, bounded by the descriptors that it holds.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lru::LruCache;
use parking_lot::Mutex;

/// What holds descriptors.
pub(super) trait Holds {
    /// How many.
    fn descriptors(&self) -> usize;
}

/// The most recently used entries that together hold no more descriptors than they may.
#[derive(Debug)]
pub(super) struct Held<K: Hash + Eq, V> {
    most: usize,
    entries: Mutex<LruCache<K, Arc<V>>>,
    /// Of all entries; changed with the lock on them.
    descriptors: AtomicUsize,
}

impl<K: Hash + Eq + Clone, V: Holds> Held<K, V> {
    /// Nothing yet, and never more than `most` descriptors.
    pub(super) fn at_most(most: usize) -> Held<K, V> {
        Held { most, entries: Mutex::new(LruCache::unbounded()), descriptors: AtomicUsize::new(0) }
    }

    pub(super) fn get(&self, key: &K) -> Option<Arc<V>> {
        self.entries.lock().get(key).cloned()
    }

    /// How many descriptors they hold.
    pub(super) fn descriptors(&self) -> usize {
        self.descriptors.load(Ordering::Relaxed)
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.entries.lock().len()
    }

    /// Remembers `value` and forgets, from the least recently used on, what it has no place
    /// beside.
    pub(super) fn put(&self, key: K, value: Arc<V>) {
        let mut forgotten = Vec::new();
        let mut entries = self.entries.lock();
        self.count(&value);
        forgotten.extend(entries.push(key, value));
        self.uncount(forgotten.iter());
        while self.descriptors() > self.most {
            let Some(oldest) = entries.pop_lru() else { break };
            self.uncount([&oldest]);
            forgotten.push(oldest);
        }
        drop(entries);
        // Closing descriptors takes its time, which nobody else should wait for.
        drop(forgotten);
    }

    /// Remembers `value` if all then hold no more than `most` descriptors: where more are asked
    /// about in turn than have a place, to make room for each would leave none that is asked about
    /// again.
    pub(super) fn put_beside(&self, key: K, value: Arc<V>, most: usize) {
        let mut entries = self.entries.lock();
        if self.descriptors() + value.descriptors() <= most.min(self.most) {
            self.count(&value);
            let forgotten = entries.push(key, value);
            self.uncount(&forgotten);
        }
    }

    /// Forgets entries, from the least recently used on, for as long as `condition` is true.
    pub(super) fn forget_while(&self, condition: impl Fn() -> bool) {
        while condition() {
            let mut entries = self.entries.lock();
            let oldest = entries.pop_lru();
            self.uncount(&oldest);
            drop(entries);
            if oldest.is_none() {
                break;
            }
        }
    }

    pub(super) fn forget(&self, key: &K) {
        let mut entries = self.entries.lock();
        let forgotten = entries.pop_entry(key);
        self.uncount(forgotten.iter());
        drop(entries);
    }

    /// The keys of all entries.
    pub(super) fn keys(&self) -> Vec<K> {
        self.entries.lock().iter().map(|(key, _)| key.clone()).collect()
    }

    /// Forgets those of the entries `left` of which `condition`, which may ask the kernel, is true,
    /// and tells their keys. What it has not got to when the time is `up` stays in `left`.
    pub(super) fn forget_where(
        &self,
        left: &mut Vec<K>,
        up: impl Fn() -> bool,
        condition: impl Fn(&V) -> bool,
    ) -> Vec<K> {
        let mut found = Vec::new();
        while let Some(key) = left.pop_if(|_| !up()) {
            let known = self.entries.lock().peek(&key).cloned();
            let Some(value) = known.filter(|value| condition(value)) else { continue };
            let mut entries = self.entries.lock();
            let is_same = entries.peek(&key).is_some_and(|now| Arc::ptr_eq(now, &value));
            let forgotten = if is_same { entries.pop_entry(&key) } else { None };
            self.uncount(&forgotten);
            drop(entries);
            found.push(key);
        }
        found
    }

    fn count(&self, value: &V) {
        self.descriptors.fetch_add(value.descriptors(), Ordering::Relaxed);
    }

    fn uncount<'a>(&self, forgotten: impl IntoIterator<Item = &'a (K, Arc<V>)>)
    where
        K: 'a,
        V: 'a,
    {
        for (_, value) in forgotten {
            self.descriptors.fetch_sub(value.descriptors(), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Holds for usize {
        fn descriptors(&self) -> usize {
            *self
        }
    }

    fn keys(held: &Held<u32, usize>) -> Vec<u32> {
        let entries = held.entries.lock();
        let sum: usize = entries.iter().map(|(_, value)| **value).sum();
        assert_eq!(held.descriptors(), sum);
        assert!(sum <= held.most);
        entries.iter().map(|(key, _)| *key).collect()
    }

    #[test]
    fn what_was_not_used_makes_room() {
        let held = Held::at_most(10);
        for key in 1..=3 {
            held.put(key, Arc::new(3));
        }
        assert_eq!(held.get(&1).as_deref(), Some(&3));
        held.put(4, Arc::new(5));
        assert_eq!(keys(&held), [4, 1]);
        held.put(1, Arc::new(2));
        assert_eq!(keys(&held), [1, 4]);
        held.put(5, Arc::new(11));
        assert!(keys(&held).is_empty());
        held.put(6, Arc::new(10));
        assert_eq!(keys(&held), [6]);
    }

    #[test]
    fn what_has_no_place_beside_the_others() {
        let held = Held::at_most(10);
        for (key, size) in [(1, 4), (2, 4), (3, 4), (4, 2), (2, 1), (5, 3)] {
            held.put_beside(key, Arc::new(size), 10);
        }
        // The second 2 had none beside the first, and is not taken.
        assert_eq!(keys(&held), [4, 2, 1]);
        held.forget(&4);
        held.put_beside(6, Arc::new(2), 9);
        assert_eq!(keys(&held), [2, 1]);
        held.put_beside(6, Arc::new(1), 9);
        held.put_beside(7, Arc::new(2), 20);
        assert_eq!(keys(&held), [6, 2, 1]);
        assert_eq!(held.get(&2).as_deref(), Some(&4));
    }

    #[test]
    fn the_oldest_are_forgotten_for_as_long_as_asked() {
        let held = Held::at_most(100);
        for key in 1..=4 {
            held.put(key, Arc::new(1));
        }
        held.get(&1);
        held.forget_while(|| held.len() > 2);
        assert_eq!(keys(&held), [1, 4]);
        // What somebody else keeps is not to be waited for.
        held.forget_while(|| true);
        assert!(keys(&held).is_empty());
    }

    #[test]
    fn forgetting_one_and_some() {
        let held = Held::at_most(100);
        for key in 1..=6 {
            held.put(key, Arc::new(key as usize));
        }
        held.forget(&2);
        held.forget(&2);
        let mut left = held.keys();
        assert_eq!(held.forget_where(&mut left, || false, |value| value % 3 == 0), [3, 6]);
        assert!(left.is_empty());
        assert_eq!(keys(&held), [5, 4, 1]);
        // One that was replaced meanwhile stays.
        held.forget_where(
            &mut held.keys(),
            || false,
            |value| {
                if *value == 4 {
                    held.put(4, Arc::new(7));
                }
                *value == 4
            },
        );
        assert_eq!(keys(&held), [4, 5, 1]);
    }

    #[test]
    fn what_there_was_no_time_for_is_left() {
        let held = Held::at_most(100);
        for key in 1..=6 {
            held.put(key, Arc::new(key as usize));
        }
        let mut left = held.keys();
        let looks = std::cell::Cell::new(0);
        let up = || looks.replace(looks.get() + 1) == 4;
        assert_eq!(held.forget_where(&mut left, up, |value| value % 2 == 0), [2, 4]);
        assert_eq!(left, [6, 5]);
        // What has gone meanwhile is nothing to look at.
        held.forget(&5);
        assert_eq!(held.forget_where(&mut left, || false, |_| true), [6]);
        assert_eq!(keys(&held), [3, 1]);
    }
}
