//! What outlives a worker: one memory, held by whoever holds the connection. In it are the open
//! files with what is left to read of them, and what is counted.
//!
//! Only words, each of which is changed at once: whenever a worker is killed, the next one finds
//! either the old or the new value of each. What several words together mean is written in an
//! order that leaves no wrong meaning between two steps; the handle table (`handle.rs`) says which.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::sys::shared::Shared;

/// Changes with every change of the layout. A worker of another one starts afresh.
const VERSION: u64 = 1;

/// `lxcfs-rs` in ASCII, by which to know the memory.
const MAGIC: u64 = u64::from_be_bytes(*b"lxcfs-rs");

/// How many open files have a place of their own.
pub(super) const MOST_HANDLES: usize = 65_536;

/// How long a piece of a snapshot is.
pub(super) const BLOCK: usize = 4096;

/// How many pieces are kept: 64 MiB.
pub(super) const MOST_BLOCKS: usize = 16_384;

const WORD: usize = size_of::<u64>();

// The layout, in words.
const VERSION_AT: usize = 1;
const SEED_AT: usize = 2;
const SHOWS_HOST_AT: usize = 3;
const COUNTERS_AT: usize = 16;
const SLOTS_AT: usize = 64;
const NEXT_AT: usize = SLOTS_AT + MOST_HANDLES * SLOT;
const BLOCKS_AT: usize = NEXT_AT + MOST_BLOCKS;
const LENGTH: usize = BLOCKS_AT + MOST_BLOCKS * (BLOCK / WORD);

/// Words of a slot: a cache line.
const SLOT: usize = 8;

/// What is counted, by its word. A number that has been used never comes to mean another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Reads that were answered with bytes, an end of file among them.
    Reads = 0,
    /// Requests that were answered with an error of ours; not those for what does not exist.
    Errors = 1,
    /// Reads by processes of which nothing was known: they were shown the host's file.
    Fallbacks = 2,
    /// Workers that took the connection over from one that ended, with all that was open.
    Resumes = 3,
    /// Programs that took it over.
    Upgrades = 4,
    /// Connections that were given up and made anew.
    Reconnections = 5,
    /// Dead mounts in containers that were replaced.
    Healed = 6,
    /// Open files that lost their place to others.
    Evicted = 7,
    /// Slots that were ever used: a bound for who looks through them.
    UsedSlots = 8,
    /// Blocks that were ever used.
    UsedBlocks = 9,
    /// Files that are open now.
    Handles = 10,
    /// Blocks that are kept now.
    Blocks = 11,
    /// Pressure triggers that are set now.
    Triggers = 12,
    /// Containers that are remembered now.
    Containers = 13,
    /// Dead mounts in containers that could not be replaced when it was last tried.
    Dead = 14,
    /// Requests that waited because their container had more than its share.
    PutAside = 15,
    /// Workers that were ended because they hung.
    Hangs = 16,
}

/// What has been counted, for people: since the connection was made, or, where it says "now", at
/// the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Reads that were answered with bytes, an end of file among them.
    pub reads: u64,
    /// Requests that failed, other than for names that do not exist.
    pub errors: u64,
    /// Reads by processes of which nothing was known: they were shown the host's file.
    pub fallbacks: u64,
    /// Requests that waited because their container had more than its share.
    pub put_aside: u64,
    /// Workers that were ended because they hung.
    pub hangs: u64,
    /// Workers that went on where one had ended.
    pub resumes: u64,
    /// Programs that went on where another had ended.
    pub upgrades: u64,
    /// Connections that were given up and made anew.
    pub reconnections: u64,
    /// Dead mounts in containers that were replaced.
    pub healed_mounts: u64,
    /// Dead mounts in containers that could not be replaced when it was last tried.
    pub dead_mounts: u64,
    /// Open files that lost their place to others, and so render anew at every read.
    pub evicted_handles: u64,
    /// Files that are open now.
    pub handles: u64,
    /// How many can have a place.
    pub most_handles: u64,
    /// Bytes now kept for readers that have read a part of a file.
    pub snapshot_bytes: u64,
    /// How many can be kept.
    pub most_snapshot_bytes: u64,
    /// Pressure triggers that are set now.
    pub triggers: u64,
    /// Containers that are remembered now.
    pub containers: u64,
}

/// One open file, in words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<'a>(&'a [AtomicU64; SLOT]);

impl<'a> Slot<'a> {
    /// The handle's number; 0 where the slot is free.
    pub(super) fn number(self) -> &'a AtomicU64 {
        &self.0[0]
    }

    /// How many handles have been here.
    pub(super) fn generation(self) -> &'a AtomicU64 {
        &self.0[1]
    }

    /// The number of the request that opened it.
    pub(super) fn opened_by(self) -> &'a AtomicU64 {
        &self.0[2]
    }

    /// Where the last read began.
    pub(super) fn start(self) -> &'a AtomicU64 {
        &self.0[3]
    }

    /// Where the last read ended; 0 where none goes on.
    pub(super) fn end(self) -> &'a AtomicU64 {
        &self.0[4]
    }

    /// The snapshot, as [`Snapshot`] packs it; 0 for none.
    pub(super) fn snapshot(self) -> &'a AtomicU64 {
        &self.0[5]
    }

    /// The kernel's number of who waits in poll(2); 0 for nobody.
    pub(super) fn waiter(self) -> &'a AtomicU64 {
        &self.0[6]
    }

    /// Not 0 where it was read since the search for room last came by.
    pub(super) fn used(self) -> &'a AtomicU64 {
        &self.0[7]
    }
}

/// A snapshot in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) first: u32,
    pub(super) length: u32,
}

impl Snapshot {
    pub(super) fn unpack(word: u64) -> Option<Snapshot> {
        let first = u32::try_from(word >> 32).ok()?;
        let length = u32::try_from(word & u64::from(u32::MAX)).ok()?;
        (length != 0).then_some(Snapshot { first, length })
    }

    pub(super) fn pack(self) -> u64 {
        u64::from(self.first) << 32 | u64::from(self.length)
    }

    pub(super) fn blocks(self) -> usize {
        (self.length as usize).div_ceil(BLOCK)
    }
}

/// The memory.
#[derive(Debug)]
pub struct Kept {
    memory: Shared,
}

impl Kept {
    /// An empty one.
    ///
    /// # Errors
    /// What memfd_create(2) and mmap(2) answer.
    pub fn new() -> Result<Kept> {
        let failed = |error| Error::io("make", "memory that outlives a worker", error);
        let memory = Shared::new(c"lxcfs-rs", LENGTH).map_err(failed)?;
        let kept = Kept { memory };
        let mut seed = [0; 4];
        // Without the kernel's random numbers, handles of another such memory may mean ones of
        // this: the rest of a file would be another's, of the same name. So the pid stands in.
        let seed = match rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty()) {
            Ok(_) => u32::from_ne_bytes(seed),
            Err(_) => std::process::id(),
        };
        let words = kept.memory.words();
        words[SEED_AT].store(u64::from(seed), Relaxed);
        words[VERSION_AT].store(VERSION, Relaxed);
        words[0].store(MAGIC, Release);
        Ok(kept)
    }

    /// That of an earlier worker; none where it is not one that this program understands.
    #[must_use]
    pub fn open(memfd: OwnedFd) -> Option<Kept> {
        let kept = Kept { memory: Shared::open(memfd, LENGTH).ok()? };
        let words = kept.memory.words();
        let head = [0, VERSION_AT].map(|at| words[at].load(Acquire));
        (head == [MAGIC, VERSION]).then_some(kept)
    }

    /// What the upper halves of the handles' numbers count from.
    pub(super) fn seed(&self) -> u64 {
        self.memory.words()[SEED_AT].load(Relaxed)
    }

    /// Whether all readers are shown the host's files.
    #[must_use]
    pub fn shows_host(&self) -> bool {
        self.memory.words()[SHOWS_HOST_AT].load(Relaxed) != 0
    }

    /// Whether all readers are shown the host's files from now on.
    pub fn show_host(&self, shows: bool) {
        self.memory.words()[SHOWS_HOST_AT].store(u64::from(shows), Relaxed);
    }

    fn counter(&self, counter: Counter) -> &AtomicU64 {
        &self.memory.words()[COUNTERS_AT + counter as usize]
    }

    /// Counts one more.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Counts so many more.
    pub fn add(&self, counter: Counter, more: u64) {
        self.counter(counter).fetch_add(more, Relaxed);
    }

    /// Counts so many less.
    pub(super) fn subtract(&self, counter: Counter, less: u64) {
        self.counter(counter).fetch_sub(less, Relaxed);
    }

    /// Sets what is a state, not a count.
    pub fn set(&self, counter: Counter, value: u64) {
        self.counter(counter).store(value, Relaxed);
    }

    /// What a counter is at.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counter(counter).load(Relaxed)
    }

    /// Takes over what `before` has counted, and what readers are shown.
    pub fn go_on_counting(&self, before: &Kept) {
        const COUNTS: [Counter; 10] = [
            Counter::PutAside,
            Counter::Hangs,
            Counter::Reads,
            Counter::Errors,
            Counter::Fallbacks,
            Counter::Resumes,
            Counter::Upgrades,
            Counter::Reconnections,
            Counter::Healed,
            Counter::Evicted,
        ];
        for counter in COUNTS {
            self.set(counter, before.get(counter));
        }
        self.show_host(before.shows_host());
    }

    /// Everything that has been counted.
    #[must_use]
    pub fn counted(&self) -> Counted {
        Counted {
            reads: self.get(Counter::Reads),
            errors: self.get(Counter::Errors),
            fallbacks: self.get(Counter::Fallbacks),
            put_aside: self.get(Counter::PutAside),
            hangs: self.get(Counter::Hangs),
            resumes: self.get(Counter::Resumes),
            upgrades: self.get(Counter::Upgrades),
            reconnections: self.get(Counter::Reconnections),
            healed_mounts: self.get(Counter::Healed),
            dead_mounts: self.get(Counter::Dead),
            evicted_handles: self.get(Counter::Evicted),
            handles: self.get(Counter::Handles),
            most_handles: MOST_HANDLES as u64,
            snapshot_bytes: self.get(Counter::Blocks) * BLOCK as u64,
            most_snapshot_bytes: (MOST_BLOCKS * BLOCK) as u64,
            triggers: self.get(Counter::Triggers),
            containers: self.get(Counter::Containers),
        }
    }

    /// The slot of this number below [`MOST_HANDLES`].
    pub(super) fn slot(&self, index: usize) -> Option<Slot<'_>> {
        if index >= MOST_HANDLES {
            return None;
        }
        let words = self.memory.words()[SLOTS_AT + index * SLOT..].first_chunk()?;
        Some(Slot(words))
    }

    /// The block that follows a block, in a snapshot of more than one.
    pub(super) fn next(&self, block: u32) -> Option<&AtomicU64> {
        let block = block as usize;
        (block < MOST_BLOCKS).then(|| &self.memory.words()[NEXT_AT + block])
    }

    fn block(&self, block: u32) -> &[AtomicU64] {
        let first = BLOCKS_AT + block as usize * (BLOCK / WORD);
        &self.memory.words()[first..first + BLOCK / WORD]
    }

    /// Fills a block with at most as many bytes as it has.
    pub(super) fn write(&self, block: u32, bytes: &[u8]) {
        for (word, bytes) in self.block(block).iter().zip(bytes.chunks(WORD)) {
            let mut whole = [0; WORD];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(whole), Relaxed);
        }
    }

    /// Appends the bytes from `start` to `end` of a block to `text`.
    pub(super) fn read(&self, block: u32, start: usize, end: usize, text: &mut Vec<u8>) {
        let words = &self.block(block)[start / WORD..end.div_ceil(WORD)];
        let before = text.len();
        text.extend(words.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()));
        text.drain(before..before + start % WORD);
        text.truncate(before + (end - start));
    }
}

impl AsFd for Kept {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_memory_is_none() {
        let kept = Kept::new().unwrap();
        let memfd = || kept.as_fd().try_clone_to_owned().unwrap();
        kept.count(Counter::Reads);
        assert_eq!(Kept::open(memfd()).unwrap().get(Counter::Reads), 1);
        kept.memory.words()[VERSION_AT].store(VERSION + 1, Relaxed);
        assert!(Kept::open(memfd()).is_none());
        let empty = Shared::new(c"test", LENGTH).unwrap();
        assert!(Kept::open(empty.as_fd().try_clone_to_owned().unwrap()).is_none());
    }

    #[test]
    fn bytes_of_a_block() {
        let kept = Kept::new().unwrap();
        let bytes: Vec<u8> = (0..=250).cycle().take(BLOCK).collect();
        let last = u32::try_from(MOST_BLOCKS - 1).unwrap();
        kept.write(last, &bytes);
        for (start, end) in [(0, BLOCK), (0, 0), (3, 3), (3, 4), (7, 17), (8, 16), (4095, 4096)] {
            let mut text = b"before".to_vec();
            kept.read(last, start, end, &mut text);
            assert_eq!(text[6..], bytes[start..end], "{start}..{end}");
        }
    }

    #[test]
    fn a_snapshot_is_a_word() {
        for snapshot in
            [Snapshot { first: 0, length: 1 }, Snapshot { first: 16_383, length: u32::MAX }]
        {
            assert_eq!(Snapshot::unpack(snapshot.pack()), Some(snapshot));
        }
        assert_eq!(Snapshot::unpack(0), None);
        assert_eq!(Snapshot { first: 0, length: 4097 }.blocks(), 2);
    }
}
