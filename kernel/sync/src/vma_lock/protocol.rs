//! What a read protocol is: how a fault keeps its VMA as it is, and how a writer finds nobody inside.
//!
//! In all of them the mark is what keeps later faults out: a fault looks at the mark *after* it has made itself visible, and a
//! writer looks for faults *after* it has marked. A protocol of its own kind is a file with a [`ReadProtocol`] and a line in
//! [`Readers`](super::read::Readers).

use crate::order::{Class, NO_RANGE, Wait, Waiting};
use crate::primitive::AtomicU64;
use crate::{Platform, point};

/// Whether a writer met a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Drained {
    /// Nobody was inside.
    AtOnce,
    /// It had to wait, from this moment on ([`Platform::now_ns`]).
    Waited {
        /// Nanoseconds.
        since_ns: u64,
    },
}

impl Drained {
    /// This wait, and then that one.
    pub(super) fn then(self, next: Drained) -> Drained {
        if self == Drained::AtOnce { next } else { self }
    }
}

/// A read lock that lies in each VMA, as one word. The fault is in the kernel with interrupts off from [`ReadProtocol::try_read`] to
/// [`ReadProtocol::end_read`], so that writers may spin.
pub(super) trait ReadProtocol<P: Platform> {
    /// The word of a VMA without readers.
    const OPEN: u64;

    /// Makes the fault visible to writers that mark the VMA, unless one keeps readers out. What is returned is given to
    /// [`ReadProtocol::end_read`]. The caller then looks at the mark.
    fn try_read(&self, readers: &AtomicU64) -> Option<usize>;

    /// The fault is over. Release: writers that waited for it see all that it did.
    fn end_read(&self, readers: &AtomicU64, held: usize);

    /// Waits until nobody is inside who looked at the mark before the caller set it. The caller alone has the VMA marked.
    fn drain(&self, readers: &AtomicU64) -> Drained;

    /// The VMA leaves the tree. The caller has it marked, and has drained it.
    fn detach(&self, readers: &AtomicU64) {
        let _ = readers;
    }
}

/// Spins until `drained`, for those whom `readers` counts, which never sleep.
#[track_caller]
pub(super) fn spin_until<P: Platform>(readers: &AtomicU64, mut drained: impl FnMut() -> bool) -> Drained {
    point!(P, "vma-read-closed");
    if drained() {
        return Drained::AtOnce;
    }
    let since_ns = P::now_ns();
    let _waiting = Waiting::<P>::new(Wait::FaultEnd, Class::VmaRead, name_of(readers), NO_RANGE);
    while !drained() {
        P::relax();
    }
    Drained::Waited { since_ns }
}

/// What the lock-order validator and reports know a VMA's read lock by.
pub(super) fn name_of(readers: &AtomicU64) -> u64 {
    core::ptr::from_ref(readers).addr() as u64
}
