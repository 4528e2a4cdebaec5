//! [`UpdateLock`]: what transactions need of an address space as a whole.
//!
//! Its fair lock, which `bulk` writers queue on, first come, first served, so that marking never meets another running mark,
//! and which faults under `mm` hold for reading; the other protocols leave it alone. And the set of CPUs that run the address
//! space: those whose slots a settling writer must look at.

use crate::fair::{FairRwLock, ReadGuard, WriteGuard};
use crate::order::Class;
use crate::primitive::{AtomicU64, Ordering, Padded, const_unless_loom, fence_named, weaken};
use crate::vma_lock::Heir;
use crate::{CpuId, CpuSet, Platform, point};

/// The one lock of an address space, and the CPUs that run it.
pub struct UpdateLock<P: Platform> {
    lock: FairRwLock<P>,
    /// Each CPU changes its own bit only. Apart from `lock`, whose line writers dirty.
    cpus: Padded<AtomicU64>,
    /// Under the other protocols than `bulk`: who may change the address space next, whatever it is about.
    pub(super) heir: Padded<Heir>,
}

impl<P: Platform> UpdateLock<P> {
    const_unless_loom! {
        /// Open; no CPU runs the address space.
        pub fn new() -> Self {
            UpdateLock { lock: FairRwLock::new(Class::Update), cpus: Padded(AtomicU64::new(0)), heir: Padded(Heir::new()) }
        }
    }

    /// `cpu`, the caller's own, is about to run the address space: called **before** CR3 is loaded, with interrupts off.
    /// From here on settling writers look at its slot, and shootdowns reach it.
    pub fn join(&self, cpu: CpuId) {
        self.cpus.0.fetch_or(cpu.bit().0, Ordering::Relaxed);
        point!(P, "space-joined");
        // A writer that does not see the bit fenced before us: then our faults see its marks, and our page walks its
        // entries.
        fence_named("mask-join-fence");
    }

    /// `cpu`, the caller's own, has stopped running the address space: called **after** another CR3 is loaded.
    pub fn leave(&self, cpu: CpuId) {
        point!(P, "space-leaving");
        // Release: our faults come before the changes of a writer that does not look at our slot any more.
        self.cpus.0.fetch_and(!cpu.bit().0, weaken("mask-leave-release", Ordering::Release));
    }

    /// The CPUs that may hold a translation which the caller has just removed from the tables: what a shootdown must ask.
    pub fn cpus_to_flush(&self) -> CpuSet {
        // Store buffering with `join`: a CPU that we miss fenced after us, and its page walks see the removal.
        fence_named("mask-flush-fence");
        self.cpus()
    }

    /// The CPUs that run the address space.
    pub fn cpus(&self) -> CpuSet {
        // Acquire: see `leave`.
        CpuSet(self.cpus.0.load(weaken("mask-load-acquire", Ordering::Acquire)))
    }

    /// Keeps `bulk`'s transactions out while the guard lives. May sleep.
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, P> {
        self.lock.read()
    }

    /// Keeps `bulk`'s other transactions out, and the faults of `mm`, while the guard lives.
    #[track_caller]
    pub(super) fn write(&self) -> WriteGuard<'_, P> {
        self.lock.write()
    }

    /// What reports know the address space by.
    pub(super) fn name(&self) -> u64 {
        core::ptr::from_ref(&self.lock).addr() as u64
    }
}

impl<P: Platform> Default for UpdateLock<P> {
    fn default() -> Self {
        Self::new()
    }
}
