//! Open files: the seq_file rule.
//!
//! A kernel file made by `single_open()` is rendered when it is read from offset 0, or from an
//! offset where the last read did not end; a reader that goes on gets the rest of what was
//! rendered for its first read. So does ours, also when the worker that rendered it was killed:
//! where each file's last read began and ended, and what is left of it, is in [`Kept`].
//!
//! A killed worker may have read a request and answered it or not; if not, the kernel sends it
//! again. So a request that is sent again, whose number says so, is answered as if nothing of
//! what its first worker did had happened: an OPEN finds the place that was made for it, a READ
//! starts again where its first try did.
//!
//! Memory is bounded, and the file that was read least lately makes room: a container that opens
//! files and leaves them lying takes nothing from those that read.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use parking_lot::{Mutex, MutexGuard};

use crate::error::Result;

use super::Slice;
use super::kept::{BLOCK, Counter, Kept, MOST_BLOCKS, MOST_HANDLES, Slot, Snapshot};

/// FUSE_UNIQUE_RESEND, include/uapi/linux/fuse.h: in the number of a request that is sent again.
const RESENT: u64 = 1 << 63;

/// The handle of a file that has no place: every read of it renders anew.
const STATELESS: u64 = 0;

/// Locks for the slots, each of which has the one of its number's remainder.
const LOCKS: usize = 64;

/// A request's number, which is the same when it is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unique(pub u64);

impl Unique {
    fn number(self) -> u64 {
        self.0 & !RESENT
    }

    fn is_resent(self) -> bool {
        self.0 & RESENT != 0
    }
}

/// All open files.
#[derive(Debug)]
pub(super) struct Handles {
    kept: Arc<Kept>,
    /// A slot's words but its number are changed under its lock; taken before `free`.
    locks: [Mutex<()>; LOCKS],
    free: Mutex<Free>,
}

/// What can be used.
#[derive(Debug, Default)]
struct Free {
    /// Slots below `Counter::UsedSlots`.
    slots: Vec<usize>,
    /// Blocks below `Counter::UsedBlocks`.
    blocks: Vec<u32>,
    /// Where the search for a slot to take away goes on.
    slot_hand: usize,
    /// And that for blocks.
    block_hand: usize,
}

impl Handles {
    /// Goes on with what an earlier worker has left in `kept`.
    pub(super) fn new(kept: Arc<Kept>) -> Handles {
        let locks = std::array::from_fn(|_| Mutex::default());
        let handles = Handles { kept, locks, free: Mutex::default() };
        handles.take_stock();
        handles
    }

    /// Finds out what is free. Nothing that is found is trusted.
    fn take_stock(&self) {
        let bounded = |counter, most: usize| {
            usize::try_from(self.kept.get(counter)).unwrap_or(most).min(most)
        };
        let used_slots = bounded(Counter::UsedSlots, MOST_HANDLES);
        let used_blocks = bounded(Counter::UsedBlocks, MOST_BLOCKS);
        self.kept.set(Counter::UsedSlots, used_slots as u64);
        self.kept.set(Counter::UsedBlocks, used_blocks as u64);
        let mut is_taken = vec![false; used_blocks];
        let mut free = self.free.lock();
        for (index, slot) in self.slots(0..used_slots) {
            if slot.number().load(Acquire) == 0 {
                slot.snapshot().store(0, Relaxed);
                free.slots.push(index);
                continue;
            }
            let chain = Snapshot::unpack(slot.snapshot().load(Acquire))
                .map(|snapshot| self.chain(snapshot).collect::<Vec<u32>>());
            for block in chain.into_iter().flatten() {
                match is_taken.get_mut(block as usize) {
                    Some(taken) if !*taken => *taken = true,
                    // Two snapshots cannot share one: what is left of this is not to be had.
                    _ => {
                        slot.end().store(0, Relaxed);
                        slot.snapshot().store(0, Relaxed);
                        break;
                    }
                }
            }
        }
        let blocks = (0..).zip(&is_taken);
        free.blocks = blocks.filter(|(_, taken)| !**taken).map(|(block, _)| block).collect();
        self.kept.set(Counter::Handles, (used_slots - free.slots.len()) as u64);
        self.kept.set(Counter::Blocks, (used_blocks - free.blocks.len()) as u64);
    }

    fn slots(
        &self,
        indices: impl Iterator<Item = usize>,
    ) -> impl Iterator<Item = (usize, Slot<'_>)> {
        indices.filter_map(|index| Some((index, self.kept.slot(index)?)))
    }

    fn used_slots(&self) -> usize {
        usize::try_from(self.kept.get(Counter::UsedSlots)).unwrap_or(MOST_HANDLES)
    }

    /// The blocks of a snapshot.
    fn chain(&self, snapshot: Snapshot) -> impl Iterator<Item = u32> {
        let mut next = Some(snapshot.first);
        (0..snapshot.blocks()).map_while(move |_| {
            let block = next?;
            let follower = self.kept.next(block)?.load(Acquire);
            next = u32::try_from(follower).ok();
            Some(block)
        })
    }

    /// The slot of a handle that is open, locked.
    fn find(&self, number: u64) -> Option<(MutexGuard<'_, ()>, Slot<'_>)> {
        let index = usize::try_from(number & u64::from(u32::MAX)).ok()?;
        let slot = self.kept.slot(index)?;
        let lock = self.locks[index % LOCKS].lock();
        (number != STATELESS && slot.number().load(Acquire) == number).then_some((lock, slot))
    }

    /// A new handle, for the request of this number.
    pub(super) fn open(&self, unique: Unique) -> u64 {
        let mut free = self.free.lock();
        if unique.is_resent() {
            let made = self.slots(0..self.used_slots()).find(|(_, slot)| {
                slot.number().load(Acquire) != 0
                    && slot.opened_by().load(Relaxed) == unique.number()
            });
            if let Some((_, slot)) = made {
                return slot.number().load(Acquire);
            }
        }
        let Some(index) = self.take_slot(&mut free) else { return STATELESS };
        let Some(slot) = self.kept.slot(index) else { return STATELESS };
        let generation = slot.generation().load(Relaxed).wrapping_add(1);
        slot.generation().store(generation, Relaxed);
        for word in [slot.start(), slot.end(), slot.snapshot(), slot.waiter(), slot.used()] {
            word.store(0, Relaxed);
        }
        slot.opened_by().store(unique.number(), Relaxed);
        // The upper half never comes to 0, which is no handle of ours.
        let upper = self.kept.seed().wrapping_add(generation) & u64::from(u32::MAX);
        let number = upper.max(1) << 32 | index as u64;
        slot.number().store(number, Release);
        self.kept.count(Counter::Handles);
        number
    }

    fn take_slot(&self, free: &mut Free) -> Option<usize> {
        if let Some(index) = free.slots.pop() {
            return Some(index);
        }
        let used = self.used_slots();
        if used < MOST_HANDLES {
            self.kept.set(Counter::UsedSlots, used as u64 + 1);
            return Some(used);
        }
        // Twice around: the first time may only find that all were read meanwhile.
        for _ in 0..2 * MOST_HANDLES {
            let index = free.slot_hand;
            free.slot_hand = (index + 1) % MOST_HANDLES;
            let Some(slot) = self.kept.slot(index) else { continue };
            let Some(_lock) = self.locks[index % LOCKS].try_lock() else { continue };
            // Who waits for a trigger does not read.
            if slot.used().swap(0, Relaxed) != 0 || slot.waiter().load(Relaxed) != 0 {
                continue;
            }
            self.end(slot, free);
            self.kept.count(Counter::Evicted);
            return Some(index);
        }
        None
    }

    /// Frees what a slot has, and its number.
    fn end(&self, slot: Slot, free: &mut Free) {
        slot.number().store(0, Release);
        self.drop_snapshot(slot, free);
        self.kept.subtract(Counter::Handles, 1);
    }

    fn drop_snapshot(&self, slot: Slot, free: &mut Free) {
        let Some(snapshot) = Snapshot::unpack(slot.snapshot().swap(0, Relaxed)) else { return };
        let before = free.blocks.len();
        free.blocks.extend(self.chain(snapshot));
        self.kept.subtract(Counter::Blocks, (free.blocks.len() - before) as u64);
    }

    /// Whether a handle has a place.
    pub(super) fn is_open(&self, number: u64) -> bool {
        self.find(number).is_some()
    }

    /// Ends a handle.
    pub(super) fn release(&self, number: u64) {
        let Some((_lock, slot)) = self.find(number) else { return };
        let mut free = self.free.lock();
        self.end(slot, &mut free);
        free.slots.push(usize::try_from(number & u64::from(u32::MAX)).unwrap_or(MOST_HANDLES));
    }

    /// Takes note of who waits in poll(2) on a handle, by the kernel's number.
    pub(super) fn keep_waiter(&self, number: u64, waiter: u64) {
        if let Some((_lock, slot)) = self.find(number) {
            slot.waiter().store(waiter, Relaxed);
        }
    }

    /// Who has waited in poll(2) since a worker that is no more: by the kernel's numbers.
    pub(super) fn take_waiters(&self) -> Vec<u64> {
        let slots = self.slots(0..self.used_slots());
        let waiters = slots.filter(|(_, slot)| slot.number().load(Acquire) != 0);
        waiters.map(|(_, slot)| slot.waiter().swap(0, Relaxed)).filter(|&it| it != 0).collect()
    }

    /// Reads `size` bytes at `offset`; `render` makes a new snapshot.
    pub(super) fn read(
        &self,
        number: u64,
        unique: Unique,
        offset: u64,
        size: u32,
        render: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Slice> {
        if offset != 0
            && let Some(rest) = self.rest(number, unique, offset, size as usize)
        {
            return Ok(rest);
        }
        let text = render()?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let end = start.saturating_add(size as usize).min(text.len());
        let slice = Slice { text, range: start..end };
        if let Some((_lock, slot)) = self.find(number) {
            self.keep(slot, offset, &slice);
        }
        Ok(slice)
    }

    /// What a read at `offset` goes on with: the rest of the snapshot, or nothing at its end.
    /// None where the read starts anew.
    fn rest(&self, number: u64, unique: Unique, offset: u64, size: usize) -> Option<Slice> {
        let (_lock, slot) = self.find(number)?;
        slot.used().store(1, Relaxed);
        let ended_here = offset == slot.end().load(Relaxed);
        let began_here = unique.is_resent() && offset == slot.start().load(Relaxed);
        if !ended_here && !began_here {
            return None;
        }
        let Some(snapshot) = Snapshot::unpack(slot.snapshot().load(Relaxed)) else {
            return ended_here.then(|| Slice { text: Vec::new(), range: 0..0 });
        };
        let start = usize::try_from(offset).ok()?.min(snapshot.length as usize);
        let end = start.saturating_add(size).min(snapshot.length as usize);
        let mut text = Vec::with_capacity(end - start + 2 * size_of::<u64>());
        for (index, block) in self.chain(snapshot).enumerate() {
            let before = index * BLOCK;
            let part = start.max(before)..end.min(before + BLOCK);
            if !part.is_empty() {
                self.kept.read(block, part.start - before, part.end - before, &mut text);
            }
        }
        // In this order: sent again, the read finds its offset in one of the two.
        slot.start().store(offset, Release);
        slot.end().store(offset + (end - start) as u64, Release);
        if start == end {
            // He knows the end now.
            self.drop_snapshot(slot, &mut self.free.lock());
        }
        Some(Slice { range: 0..text.len(), text })
    }

    /// Takes note of a read that was rendered for, with what is left of it.
    fn keep(&self, slot: Slot, offset: u64, slice: &Slice) {
        slot.used().store(1, Relaxed);
        // From here to the last line no read goes on: it would with one snapshot's place in
        // another one.
        slot.end().store(0, Release);
        let has_rest = slice.range.end < slice.text.len();
        let mut is_kept = true;
        if slot.snapshot().load(Relaxed) != 0 || has_rest {
            let mut free = self.free.lock();
            self.drop_snapshot(slot, &mut free);
            if has_rest {
                is_kept = self.keep_snapshot(slot, &slice.text, &mut free);
            }
        }
        slot.start().store(offset, Release);
        if is_kept {
            slot.end().store(offset.saturating_add(slice.len() as u64), Release);
        }
    }

    /// Whether there was room.
    fn keep_snapshot(&self, slot: Slot, text: &[u8], free: &mut Free) -> bool {
        let Ok(length) = u32::try_from(text.len()) else { return false };
        let Some(blocks) = self.take_blocks(text.len().div_ceil(BLOCK), free) else { return false };
        for (block, bytes) in blocks.iter().zip(text.chunks(BLOCK)) {
            self.kept.write(*block, bytes);
        }
        for pair in blocks.windows(2) {
            if let Some(next) = self.kept.next(pair[0]) {
                next.store(u64::from(pair[1]), Release);
            }
        }
        let Some(&first) = blocks.first() else { return false };
        slot.snapshot().store(Snapshot { first, length }.pack(), Release);
        self.kept.add(Counter::Blocks, blocks.len() as u64);
        true
    }

    fn take_blocks(&self, count: usize, free: &mut Free) -> Option<Vec<u32>> {
        let used = usize::try_from(self.kept.get(Counter::UsedBlocks)).unwrap_or(MOST_BLOCKS);
        let fresh = count.saturating_sub(free.blocks.len()).min(MOST_BLOCKS - used);
        free.blocks.extend((used..used + fresh).filter_map(|block| u32::try_from(block).ok()));
        self.kept.set(Counter::UsedBlocks, (used + fresh) as u64);
        let slots = self.used_slots();
        let mut left = 2 * slots;
        while free.blocks.len() < count {
            left = left.checked_sub(1)?;
            let index = free.block_hand % slots;
            free.block_hand = (index + 1) % slots;
            let Some(slot) = self.kept.slot(index) else { continue };
            // This read's own slot, and those with the same lock, are passed over.
            let Some(_lock) = self.locks[index % LOCKS].try_lock() else { continue };
            if slot.snapshot().load(Relaxed) == 0 || slot.used().swap(0, Relaxed) != 0 {
                continue;
            }
            slot.end().store(0, Release);
            self.drop_snapshot(slot, free);
        }
        Some(free.blocks.split_off(free.blocks.len() - count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use std::os::fd::AsFd as _;

    const FIRST: Unique = Unique(2);

    fn handles() -> Handles {
        Handles::new(Arc::new(Kept::new().unwrap()))
    }

    /// The handles of the worker that comes after, whatever the first one was doing.
    fn successor(handles: &Handles) -> Handles {
        let memfd = handles.kept.as_fd().try_clone_to_owned().unwrap();
        Handles::new(Arc::new(Kept::open(memfd).unwrap()))
    }

    fn read_as(
        handles: &Handles,
        unique: Unique,
        number: u64,
        offset: u64,
        size: u32,
        text: &str,
    ) -> String {
        let render = || Ok(text.as_bytes().to_vec());
        let slice = handles.read(number, unique, offset, size, render).unwrap();
        String::from_utf8(slice.to_vec()).unwrap()
    }

    fn read(handles: &Handles, number: u64, offset: u64, size: u32, text: &str) -> String {
        read_as(handles, FIRST, number, offset, size, text)
    }

    #[test]
    fn a_reader_that_goes_on_gets_the_rest_of_its_snapshot() {
        let handles = handles();
        let file = handles.open(FIRST);
        assert_eq!(read(&handles, file, 0, 4, "abcdefghij"), "abcd");
        assert_eq!(read(&handles, file, 4, 4, "ABCDEFGHIJ"), "efgh");
        assert_eq!(read(&handles, file, 8, 4, "ABCDEFGHIJ"), "ij");
        assert_eq!(read(&handles, file, 10, 4, "ABCDEFGHIJKLMN"), "");
        assert_eq!(handles.kept.get(Counter::Blocks), 0);
        assert_eq!(read(&handles, file, 10, 4, "ABCDEFGHIJKLMN"), "");
        assert_eq!(read(&handles, file, 0, 4, "ABCDEFGHIJ"), "ABCD");
    }

    #[test]
    fn any_other_offset_renders_anew() {
        let handles = handles();
        let file = handles.open(FIRST);
        assert_eq!(read(&handles, file, 0, 4, "abcdefghij"), "abcd");
        assert_eq!(read(&handles, file, 3, 4, "ABCDEFGHIJ"), "DEFG");
        assert_eq!(read(&handles, file, 7, 4, "abcdefghij"), "HIJ");
        assert_eq!(read(&handles, file, 99, 4, "abc"), "");
        assert_eq!(read(&handles, file, u64::MAX, 4, "abc"), "");
        assert_eq!(read(&handles, file, 0, 4, "abcdefghij"), "abcd");
        assert_eq!(read(&handles, file, 0, 4, "ABCDEFGHIJ"), "ABCD");
    }

    #[test]
    fn a_long_snapshot_is_of_many_blocks() {
        let text: String = (0..3000).map(|number| format!("{number} ")).collect();
        let handles = handles();
        let file = handles.open(FIRST);
        let mut seen = read(&handles, file, 0, 777, &text);
        while seen.len() < text.len() {
            let part = read(&handles, file, seen.len() as u64, 777, "");
            assert!(!part.is_empty());
            seen.push_str(&part);
        }
        assert_eq!(seen, text);
        assert_eq!(read(&handles, file, seen.len() as u64, 777, "x"), "");
    }

    #[test]
    fn each_handle_has_its_own_place() {
        let handles = handles();
        let (one, two) = (handles.open(FIRST), handles.open(Unique(4)));
        assert_ne!(one, two);
        read(&handles, one, 0, 2, "abcd");
        read(&handles, two, 0, 2, "ABCD");
        assert_eq!(read(&handles, one, 2, 2, "xxxx"), "cd");
        assert_eq!(read(&handles, two, 2, 2, "xxxx"), "CD");
        handles.release(one);
        assert_eq!(read(&handles, one, 2, 2, "wxyz"), "yz");
        let third = handles.open(FIRST);
        assert_ne!(third, one);
        assert_eq!(read(&handles, third, 2, 2, "wxyz"), "yz");
    }

    #[test]
    fn an_unknown_handle_renders_and_slices() {
        let handles = handles();
        assert_eq!(read(&handles, 7, 2, 2, "abcd"), "cd");
        assert_eq!(read(&handles, STATELESS, 2, 2, "abcd"), "cd");
        let other = self::handles().open(FIRST);
        handles.open(FIRST);
        assert_eq!(read(&handles, other, 1, 2, "abcd"), "bc");
    }

    #[test]
    fn a_failed_render_leaves_the_place() {
        let handles = handles();
        let file = handles.open(FIRST);
        read(&handles, file, 0, 2, "abcd");
        assert!(handles.read(file, FIRST, 0, 2, || Err(Error::NotFound)).is_err());
        assert_eq!(read(&handles, file, 2, 2, "xxxx"), "cd");
    }

    #[test]
    fn a_reader_half_way_goes_on_with_the_next_worker() {
        let first = handles();
        let (half, ended, closed) = (first.open(FIRST), first.open(FIRST), first.open(FIRST));
        read(&first, half, 0, 4, "abcdefghij");
        read(&first, ended, 0, 100, "abcdefghij");
        read(&first, closed, 0, 4, "abcdefghij");
        first.release(closed);
        let second = successor(&first);
        assert_eq!(read(&second, half, 4, 4, "ABCDEFGHIJ"), "efgh");
        assert_eq!(read(&second, ended, 10, 4, "ABCDEFGHIJKLMN"), "");
        assert_eq!(read(&second, closed, 4, 4, "ABCDEFGHIJ"), "EFGH");
        assert_eq!(second.kept.get(Counter::Handles), 2);
        let new = second.open(FIRST);
        assert!(![half, ended, closed].contains(&new));
        second.release(half);
        assert_eq!(second.kept.get(Counter::Blocks), 0);
    }

    #[test]
    fn what_is_sent_again_is_answered_as_the_first_time() {
        let first = handles();
        let resent = |unique: u64| Unique(unique | RESENT);
        let file = first.open(Unique(6));
        let second = successor(&first);
        assert_eq!(second.open(resent(6)), file);
        assert_ne!(second.open(resent(8)), file);
        assert_eq!(read(&second, file, 0, 4, "abcdefghij"), "abcd");
        assert_eq!(read(&second, file, 4, 4, "ABCDEFGHIJ"), "efgh");
        let third = successor(&second);
        assert_eq!(read_as(&third, resent(12), file, 4, 4, "ABCDEFGHIJ"), "efgh");
        assert_eq!(read(&third, file, 8, 4, "ABCDEFGHIJ"), "ij");
        let fourth = successor(&third);
        assert_eq!(read_as(&fourth, resent(14), file, 8, 4, "ABCDEFGHIJ"), "ij");
        assert_eq!(read_as(&fourth, resent(16), file, 10, 4, "ABCDEFGHIJKLMN"), "");
        assert_eq!(read_as(&fourth, resent(16), file, 10, 4, "ABCDEFGHIJKLMN"), "");
    }

    #[test]
    fn a_corrupt_memory_harms_nobody() {
        for (block, next) in [(MOST_BLOCKS as u64, 0), (u64::from(u32::MAX), 0), (0, 0), (1, 7)] {
            let first = handles();
            let file = first.open(FIRST);
            read(&first, file, 0, 4, &"x".repeat(3 * BLOCK));
            let slot = first.kept.slot(0).unwrap();
            slot.snapshot().store((block << 32) | (3 * BLOCK as u64), Relaxed);
            first.kept.next(0).unwrap().store(next, Relaxed);
            first.kept.set(Counter::UsedSlots, u64::MAX);
            first.kept.set(Counter::UsedBlocks, u64::MAX);
            let second = successor(&first);
            read(&second, file, 4, 100_000, "abcdefgh");
            second.release(file);
            let other = second.open(FIRST);
            assert_eq!(read(&second, other, 0, 4, "abcdefgh"), "abcd");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_whoever_read_least_lately_makes_room() {
        const SIZE: usize = 1 << 20;
        let handles = handles();
        let some = |number, offset, byte| {
            let render = || Ok(vec![byte; SIZE]);
            let slice = handles.read(number, FIRST, offset, 10, render).unwrap();
            assert_eq!(slice.len(), 10);
            slice[0]
        };
        let most = MOST_BLOCKS * BLOCK / SIZE;
        let files: Vec<u64> = (0..most).map(|_| handles.open(FIRST)).collect();
        for &file in &files {
            assert_eq!(some(file, 0, b'a'), b'a');
        }
        assert_eq!(handles.kept.get(Counter::Blocks), MOST_BLOCKS as u64);
        let late = handles.open(FIRST);
        some(late, 0, b'a');
        assert_eq!(handles.kept.get(Counter::Blocks), MOST_BLOCKS as u64);
        assert_eq!(some(late, 10, b'b'), b'a');
        let rest: Vec<u8> = files.iter().map(|&file| some(file, 10, b'b')).collect();
        assert!(rest.contains(&b'b') && rest.contains(&b'a'), "{rest:?}");
        for file in files.into_iter().chain([late]) {
            handles.release(file);
        }
        assert_eq!(handles.kept.get(Counter::Blocks), 0);
        assert_eq!(handles.kept.get(Counter::Handles), 0);
    }

    #[test]
    fn a_text_longer_than_all_there_is_renders_anew() {
        let handles = handles();
        let file = handles.open(FIRST);
        let long = |byte| move || Ok(vec![byte; MOST_BLOCKS * BLOCK + 1]);
        assert_eq!(handles.read(file, FIRST, 0, 10, long(b'a')).unwrap()[0], b'a');
        assert_eq!(handles.read(file, FIRST, 10, 10, long(b'b')).unwrap()[0], b'b');
    }

    #[test]
    fn past_the_ceiling_the_ones_that_nobody_reads_make_room() {
        let handles = handles();
        let (read_often, waits) = (handles.open(FIRST), handles.open(FIRST));
        handles.keep_waiter(waits, 5);
        let idle = handles.open(FIRST);
        for _ in 0..2 * MOST_HANDLES {
            read(&handles, read_often, 0, 2, "abcd");
            assert_ne!(handles.open(FIRST), STATELESS);
        }
        assert_eq!(read(&handles, read_often, 2, 2, "ABCD"), "cd");
        assert!(handles.is_open(waits) && !handles.is_open(idle));
        assert_eq!(handles.kept.get(Counter::Handles), MOST_HANDLES as u64);
        assert_eq!(handles.take_waiters(), [5]);
        assert!(handles.take_waiters().is_empty());
    }
}
