//! What all address spaces of a machine share: frames, grace periods, VMA locks, counters.
//!
//! One per machine, made at boot, used as `&'static`. `mm` has no statics of its own, so that tests can have as many
//! machines as they like.

use core::sync::atomic::{AtomicU64, Ordering};

use sync::{AllocError, Counters, Platform, Rcu, VmaLocks};

use crate::frame::Frames;

/// The memory of one machine.
pub struct Memory<P: Platform> {
    /// Physical frames.
    pub frames: Frames<P>,
    /// Grace periods for nodes, VMAs and page tables.
    pub rcu: Rcu<P>,
    /// The CPUs' fault slots, and the transactions' sequence cells.
    pub locks: VmaLocks<P>,
    /// Event counts.
    pub counters: Counters<P>,
    spaces: AtomicU64,
}

impl<P: Platform> Memory<P> {
    /// Makes the shared state around `frames`.
    ///
    /// # Errors
    /// [`AllocError`] if the heap is out.
    pub fn new(frames: Frames<P>) -> Result<Memory<P>, AllocError> {
        Ok(Memory {
            frames,
            rcu: Rcu::new(),
            locks: VmaLocks::new()?,
            counters: Counters::new(),
            spaces: AtomicU64::new(1),
        })
    }

    /// A number that no other address space of this machine has or will have.
    pub(crate) fn next_space_id(&self) -> u64 {
        // Relaxed: the number orders nothing.
        self.spaces.fetch_add(1, Ordering::Relaxed)
    }
}
