//! Event counts, one line of them for each CPU, and the longest holds and waits.
//!
//! A CPU adds to its own counts by a plain load and a plain store: no locked instruction, no line shared with a CPU that
//! counts. Reports read everybody's, without order: a total is exact when the counting CPUs are still.
//!
//! A count that is added to both by threads and by interrupt handlers loses an event when the handler runs between the
//! thread's load and store: the thread adds with interrupts off then.

use core::marker::PhantomData;
use core::panic::Location;
// Not the façade's: nothing is ordered by a count, so models need not explore them.
use core::sync::atomic::{AtomicU64, Ordering};

use abi::counter::COUNTERS;
use abi::{Counter, Extreme};
use core_alloc::boxed::Box;

use crate::alloc::try_box_slice;
use crate::extremes::{Extremes, Longest};
use crate::primitive::Padded;
use crate::{AllocError, CpuId, Platform};

/// The counts of all CPUs, of the machine or of one address space.
pub struct Counters<P: Platform> {
    cpus: Box<[Padded<[AtomicU64; COUNTERS]>]>,
    extremes: Extremes<P>,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> Counters<P> {
    /// All zero.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub fn new() -> Result<Self, AllocError> {
        let line = |_| Padded([const { AtomicU64::new(0) }; COUNTERS]);
        Ok(Counters { cpus: try_box_slice(P::cpu_count(), line)?, extremes: Extremes::new(), platform: PhantomData })
    }

    /// Adds `n` to this CPU's count of `counter`.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        self.add_on(P::cpu(), counter, n);
    }

    /// Adds 1 to this CPU's count of `counter`.
    #[inline]
    pub fn bump(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds to the count of `cpu`: nobody else does meanwhile.
    #[inline]
    fn add_on(&self, cpu: CpuId, counter: Counter, n: u64) {
        let count = &self.cpus[cpu.index()].0[counter as usize];
        count.store(count.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count of one CPU.
    pub fn get(&self, cpu: CpuId, counter: Counter) -> u64 {
        self.cpus[cpu.index()].0[counter as usize].load(Ordering::Relaxed)
    }

    /// The sum over all CPUs.
    pub fn total(&self, counter: Counter) -> u64 {
        self.cpus.iter().map(|cpu| cpu.0[counter as usize].load(Ordering::Relaxed)).sum()
    }

    /// A hold or wait ends now: [`Extremes::took`].
    pub fn took(&self, kind: Extreme, since_ns: u64, site: &'static Location<'static>) -> u64 {
        self.extremes.took(kind, since_ns, site)
    }

    /// The longest hold or wait of a kind.
    pub fn longest(&self, kind: Extreme) -> Option<Longest> {
        self.extremes.get(kind)
    }

    /// Something of this kind took so long: [`Extremes::note`].
    pub fn note(&self, kind: Extreme, candidate: Longest) {
        self.extremes.note(kind, candidate);
    }

    /// Adds all of `other`'s counts, CPU by CPU, and takes over what took longer there. Nobody else adds to `self` meanwhile.
    pub fn absorb(&self, other: &Counters<P>) {
        for cpu in (0..self.cpus.len()).map(|cpu| CpuId(cpu as u32)) {
            for &counter in Counter::ALL {
                self.add_on(cpu, counter, other.get(cpu, counter));
            }
        }
        self.extremes.merge(&other.extremes);
    }
}
