//! The buddy allocator: free blocks of `1 << order` frames, split and merged in pairs.
//!
//! A block of order `k` starts at a frame number divisible by `1 << k`, and its buddy is the block whose number differs
//! in bit `k` alone. A freed block merges with its buddy as long as that one is free and of the same order. Free
//! blocks hang in one doubly linked list per order, linked by frame number through the frames' metadata; free memory
//! itself is never touched.
//!
//! Under one spin lock (`Zone::buddy`), a leaf: its holder takes nothing else. Single frames come here only in batches,
//! from the per-CPU caches.

use sync::Platform;

use super::{
    Zone,
    meta::{NONE, Pfn, State},
};

/// Largest block: `1 << 14` frames, 64 MiB.
pub const MAX_ORDER: usize = 14;

/// The free lists. What the methods take as `zone` is the zone that this is part of.
pub(super) struct Buddy {
    heads: [Pfn; MAX_ORDER + 1],
    free: u64,
}

impl Buddy {
    pub(super) const fn new() -> Buddy {
        Buddy { heads: [NONE; MAX_ORDER + 1], free: 0 }
    }

    /// Number of free frames.
    pub(super) const fn free_frames(&self) -> u64 {
        self.free
    }

    /// Takes a block of `1 << order` frames out, splitting a larger one if need be.
    pub(super) fn take<P: Platform>(&mut self, zone: &Zone<P>, order: usize) -> Option<Pfn> {
        let found = (order..=MAX_ORDER).find(|&larger| self.heads[larger] != NONE)?;
        let pfn = self.heads[found];
        self.unlink(zone, pfn, found);
        for lower in (order..found).rev() {
            self.link(zone, pfn + (1 << lower), lower);
        }
        let meta = zone.meta(pfn);
        meta.set_order(order);
        meta.set_state(State::Tail);
        self.free -= 1 << order;
        Some(pfn)
    }

    /// Puts a block back, and merges it as far as it goes.
    pub(super) fn give<P: Platform>(&mut self, zone: &Zone<P>, mut pfn: Pfn, mut order: usize) {
        self.free += 1 << order;
        while order < MAX_ORDER {
            let buddy = pfn ^ (1 << order);
            let mergeable =
                zone.try_meta(buddy).is_some_and(|meta| meta.state() == State::Free && meta.order() == order);
            if !mergeable {
                break;
            }
            self.unlink(zone, buddy, order);
            zone.meta(pfn.max(buddy)).set_state(State::Tail);
            pfn = pfn.min(buddy);
            order += 1;
        }
        self.link(zone, pfn, order);
    }

    fn link<P: Platform>(&mut self, zone: &Zone<P>, pfn: Pfn, order: usize) {
        let next = self.heads[order];
        let meta = zone.meta(pfn);
        meta.set_state(State::Free);
        meta.set_order(order);
        meta.set_links(next, NONE);
        if next != NONE {
            zone.meta(next).set_link(1, pfn);
        }
        self.heads[order] = pfn;
    }

    fn unlink<P: Platform>(&mut self, zone: &Zone<P>, pfn: Pfn, order: usize) {
        let meta = zone.meta(pfn);
        let (next, previous) = (meta.link(0), meta.link(1));
        if previous == NONE {
            self.heads[order] = next;
        } else {
            zone.meta(previous).set_link(0, next);
        }
        if next != NONE {
            zone.meta(next).set_link(1, previous);
        }
    }
}
