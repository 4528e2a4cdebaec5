//! `bulk`: one writer at a time for each address space.
//!
//! Writers queue on the address space's fair lock, first come, first served, so marking never meets another running
//! mark and no transaction is ever told to back off. Beside the lock lies the set of CPUs that run the address space:
//! those whose slots a settling writer must look at, and whose TLBs a shootdown must reach.

use abi::event::Kind;
use abi::{Counter, Errno};

use super::{Abort, Txn};
use crate::fair::{FairRwLock, ReadGuard};
use crate::order::Class;
use crate::primitive::{AtomicU64, Ordering, Padded, const_unless_loom, fence_named, weaken};
use crate::{Counters, CpuId, CpuSet, Platform, TransactionEdge, VmaLocks, point};

/// The write lock of an address space, and the CPUs that run it.
pub struct UpdateLock<P: Platform> {
    lock: FairRwLock<P>,
    /// Each CPU changes its own bit only. Apart from `lock`, whose line writers dirty.
    cpus: Padded<AtomicU64>,
}

impl<P: Platform> UpdateLock<P> {
    const_unless_loom! {
        /// Open; no CPU runs the address space.
        pub fn new() -> Self {
            UpdateLock { lock: FairRwLock::new(Class::Update), cpus: Padded(AtomicU64::new(0)) }
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

    /// Keeps transactions out while the guard lives: for walkers that want to see one state of the whole. May sleep.
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, P> {
        self.lock.read()
    }
}

impl<P: Platform> Default for UpdateLock<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs `body` as a transaction on `space`, again from its start as often as it says [`Abort::Restart`], and ends the
/// transaction in every case. May sleep before the body runs: the caller holds no spin lock, is in no RCU read section
/// and no fault section, and has no other transaction open.
///
/// # Errors
/// What the body says. It has published nothing then.
///
/// # Panics
/// In debug builds, if the lock order forbids a transaction here.
#[track_caller]
pub fn update<P: Platform, T>(
    space: &UpdateLock<P>,
    locks: &VmaLocks<P>,
    counters: &Counters<P>,
    mut body: impl FnMut(&mut Txn<'_, P>) -> Result<T, Abort>,
) -> Result<T, Errno> {
    let _writer = space.lock.write();
    loop {
        let mut txn = Txn::begin(space, locks, counters);
        let (mark, name) = (txn.own_mark().word(), core::ptr::from_ref(&space.lock).addr() as u64);
        P::event(Kind::TransactionBegin, mark, name);
        P::transaction(TransactionEdge::Opened { mark, space: name });
        let result = body(&mut txn);
        drop(txn);
        P::event(Kind::TransactionEnd, mark, name);
        P::transaction(TransactionEdge::Ended);
        match result {
            Ok(value) => return Ok(value),
            Err(Abort::Errno(errno)) => return Err(errno),
            Err(Abort::Restart) => {
                counters.bump(Counter::Restart);
                P::event(Kind::TransactionRestart, mark, name);
            }
        }
    }
}
