//! `refcount`: a count of readers in each VMA, as in Linux since 6.15.
//!
//! 0: detached. 1: in the tree, no reader. More: as many readers, less one. A writer that has marked the VMA sets a flag that
//! stops new readers, waits until only its own 1 is left, and takes the flag away: from then on the mark keeps faults out.
//! Detaching takes the 1 away, so that a fault which still finds the VMA mostly cannot count itself in at all. One that did so
//! between the thaw and the detachment, or beside such a one, has read the thawed count, and so sees the mark, or that its
//! transaction has ended and the VMA is detached.
//!
//! Linux gives a VMA's memory to another one as soon as the count is 0, and a fault must therefore check after it has counted
//! itself whether the VMA is still the one it looked up. Here the memory waits for a grace period, as under every protocol, and
//! no fault can meet another VMA in it. The flag and the ordering are as argued in [`rwsem`](super::rwsem).

use super::protocol::{Drained, ReadProtocol, spin_until};
use crate::Platform;
use crate::primitive::{AtomicU64, Ordering, mutant, weaken};

/// In the word: no reader may come in.
const EXCLUDED: u64 = 1 << 30;
/// In the word: in the tree.
const ATTACHED: u64 = 1;

/// The protocol. It has no state but the count in each VMA.
pub(super) struct Refcount;

impl<P: Platform> ReadProtocol<P> for Refcount {
    const OPEN: u64 = ATTACHED;

    #[inline]
    fn try_read(&self, readers: &AtomicU64) -> Option<usize> {
        let mut count = readers.load(Ordering::Relaxed);
        loop {
            if count == 0 || count & EXCLUDED != 0 {
                return None;
            }
            // Acquire: what came before a writer's closing, its mark above all.
            let order = weaken("refcount-read-acquire", Ordering::Acquire);
            match readers.compare_exchange(count, count + 1, order, Ordering::Relaxed) {
                Ok(_) => return Some(0),
                Err(now) => count = now,
            }
        }
    }

    #[inline]
    fn end_read(&self, readers: &AtomicU64, _held: usize) {
        // Release: all that the fault did comes before the changes of a writer that waited for it.
        readers.fetch_sub(1, weaken("refcount-end-release", Ordering::Release));
    }

    #[track_caller]
    fn drain(&self, readers: &AtomicU64) -> Drained {
        if mutant("refcount-no-drain") {
            return Drained::AtOnce;
        }
        // Release: a reader that comes after the opening below sees the mark.
        readers.fetch_or(EXCLUDED, weaken("refcount-exclude-release", Ordering::Release));
        // Acquire: the faults that are over come before what the writer does next. 0 instead of 1: another writer has detached
        // the VMA since the caller looked it up, and the caller will find out.
        let empty = || readers.load(weaken("refcount-exclude-acquire", Ordering::Acquire)) & !EXCLUDED <= ATTACHED;
        let drained = spin_until::<P>(readers, empty);
        // Relaxed: as in `rwsem`.
        readers.fetch_and(!EXCLUDED, Ordering::Relaxed);
        drained
    }

    fn detach(&self, readers: &AtomicU64) {
        // Relaxed: faults that find the count at 0 look at the mark and at `detached`, as they do under every protocol.
        readers.fetch_sub(ATTACHED, Ordering::Relaxed);
    }
}
