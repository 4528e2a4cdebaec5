//! Event counts, one line of them for each CPU.
//!
//! A CPU adds to its own counts by a plain load and a plain store: no locked instruction, no line shared with a CPU that
//! counts. Reports read everybody's, without order: a total is exact when the counting CPUs are still.
//!
//! A count that is added to both by threads and by interrupt handlers loses an event when the handler runs between the
//! thread's load and store: the thread adds with interrupts off then.

use core::marker::PhantomData;
// Not the façade's: nothing is ordered by a count, so models need not explore them.
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Counter;
use abi::counter::COUNTERS;

use crate::primitive::{MAX_CPUS, Padded};
use crate::{CpuId, Platform};

/// The counts of all CPUs.
pub struct Counters<P: Platform> {
    cpus: [Padded<[AtomicU64; COUNTERS]>; MAX_CPUS],
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> Counters<P> {
    /// All zero.
    pub const fn new() -> Self {
        Counters { cpus: [const { Padded([const { AtomicU64::new(0) }; COUNTERS]) }; MAX_CPUS], platform: PhantomData }
    }

    /// Adds `n` to this CPU's count of `counter`.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        let count = &self.cpus[P::cpu().index()].0[counter as usize];
        count.store(count.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Adds 1 to this CPU's count of `counter`.
    #[inline]
    pub fn bump(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// The count of one CPU.
    pub fn get(&self, cpu: CpuId, counter: Counter) -> u64 {
        self.cpus[cpu.index()].0[counter as usize].load(Ordering::Relaxed)
    }

    /// The sum over all CPUs.
    pub fn total(&self, counter: Counter) -> u64 {
        self.cpus.iter().map(|cpu| cpu.0[counter as usize].load(Ordering::Relaxed)).sum()
    }
}

impl<P: Platform> Default for Counters<P> {
    fn default() -> Self {
        Self::new()
    }
}
