//! Per-CPU caches of single frames, last in first out, and the per-CPU shares of the owners' counts.
//!
//! The frame freed last is the one whose bytes are still in this CPU's own cache: clearing it costs a tenth of clearing
//! a cold one. When the cache runs over, its *oldest* half goes back to the buddy allocator.
//!
//! Only the CPU itself writes here, with interrupts off, by plain loads and stores. Other CPUs read the counts for
//! reports: exact when nothing is being allocated or freed, and close to it otherwise.

use core::sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed};

use super::{
    meta::Pfn,
    owner::{OWNERS, Owner},
};

/// Most frames that a CPU keeps.
pub(super) const CAPACITY: usize = 64;

/// Frames moved between a cache and the buddy allocator at once.
pub(super) const BATCH: usize = 32;

/// One CPU's part of the allocator, on lines of its own.
#[repr(align(128))]
pub(super) struct Cache {
    count: AtomicU32,
    frames: [AtomicU32; CAPACITY],
    owned: [AtomicI64; OWNERS],
}

impl Cache {
    pub(super) const fn new() -> Cache {
        Cache {
            count: AtomicU32::new(0),
            frames: [const { AtomicU32::new(0) }; CAPACITY],
            owned: [const { AtomicI64::new(0) }; OWNERS],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Relaxed) as usize
    }

    /// The frame freed last.
    pub(super) fn pop(&self) -> Option<Pfn> {
        let last = self.len().checked_sub(1)?;
        self.count.store(last as u32, Relaxed);
        Some(self.frames[last].load(Relaxed))
    }

    /// Keeps `pfn`. The cache must not be full.
    pub(super) fn push(&self, pfn: Pfn) {
        let len = self.len();
        self.frames[len].store(pfn, Relaxed);
        self.count.store(len as u32 + 1, Relaxed);
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() == CAPACITY
    }

    /// Hands the `count` oldest frames to `sink`.
    pub(super) fn drain_oldest(&self, count: usize, mut sink: impl FnMut(Pfn)) {
        let len = self.len();
        let count = count.min(len);
        for slot in &self.frames[..count] {
            sink(slot.load(Relaxed));
        }
        for kept in count..len {
            self.frames[kept - count].store(self.frames[kept].load(Relaxed), Relaxed);
        }
        self.count.store((len - count) as u32, Relaxed);
    }

    /// Adds `frames` to this CPU's share of `owner`'s count. Shares may be negative: a frame may be freed elsewhere.
    pub(super) fn add_owned(&self, owner: Owner, frames: i64) {
        let count = &self.owned[owner as usize];
        count.store(count.load(Relaxed) + frames, Relaxed);
    }

    pub(super) fn owned(&self, owner: usize) -> i64 {
        self.owned[owner].load(Relaxed)
    }
}
