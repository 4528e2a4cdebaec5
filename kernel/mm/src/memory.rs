//! What all address spaces of a machine share: frames, grace periods, VMA locks, counters.
//!
//! One per machine, made at boot, used as `&'static`. `mm` has no statics of its own, so that tests can have as many
//! machines as they like.

use abi::{Counter, Pair};
use sync::{AllocError, CpuId, Platform, Rcu, VmaLocks};

use crate::frame::Frames;
use crate::tally::{Snapshot, Tallies};

/// The memory of one machine.
pub struct Memory<P: Platform> {
    /// Physical frames.
    pub frames: Frames<P>,
    /// Grace periods for nodes, VMAs and page tables.
    pub rcu: Rcu<P>,
    /// The CPUs' fault slots, and the transactions' sequence cells.
    pub locks: VmaLocks<P>,
    /// Event counts: to add to what concerns no address space, and to read the sum of all.
    pub counters: Tallies<P>,
}

impl<P: Platform> Memory<P> {
    /// Makes the shared state around `frames`; address spaces are locked by the protocols of `pair`.
    ///
    /// # Errors
    /// [`AllocError`] if the heap is out.
    pub fn new(frames: Frames<P>, pair: Pair) -> Result<Memory<P>, AllocError> {
        Ok(Memory { frames, rcu: Rcu::new(), locks: VmaLocks::new(pair)?, counters: Tallies::new()? })
    }

    /// A CPU's count of `counter`, of the whole machine, for reports.
    pub fn count(&self, cpu: CpuId, counter: Counter) -> u64 {
        match counter {
            // RCU keeps its own count: it knows no `Counters`.
            Counter::RcuGp => self.rcu.grace_periods(cpu),
            _ => self.counters.get(cpu, counter),
        }
    }

    /// The counts of the whole machine over all CPUs, and the longest of all holds and waits, for reports.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = self.counters.snapshot();
        let cpus = (0..P::cpu_count()).map(|cpu| CpuId(cpu as u32));
        snapshot.set(Counter::RcuGp, cpus.map(|cpu| self.rcu.grace_periods(cpu)).sum());
        snapshot
    }
}
