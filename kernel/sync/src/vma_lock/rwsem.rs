//! `rwsem`: a reader-writer lock in each VMA, as in Linux 6.4.
//!
//! A fault *tries* to get in as a reader; a writer that has marked the VMA keeps new readers out, waits for those inside, and
//! opens the lock again at once: from then on the mark keeps faults out.
//!
//! **Why nobody slips in.** Readers and the writer change one word by read-modify-writes, which have one order. A reader
//! that comes before the writer's closing is counted in what the writer sees, and waited for. One that comes after reads, by
//! Acquire, from a chain that the closing's Release heads, so it sees the mark that was set before.

use super::protocol::{Drained, ReadProtocol, spin_until};
use crate::Platform;
use crate::primitive::{AtomicU64, Ordering, mutant, weaken};

/// In the word: a writer keeps readers out. Below: the number of readers.
const WRITER: u64 = 1 << 63;

/// The protocol. It has no state but the word in each VMA.
pub(super) struct Rwsem;

impl<P: Platform> ReadProtocol<P> for Rwsem {
    const OPEN: u64 = 0;

    #[inline]
    fn try_read(&self, readers: &AtomicU64) -> Option<usize> {
        let mut word = readers.load(Ordering::Relaxed);
        loop {
            if word & WRITER != 0 {
                return None;
            }
            // Acquire: see "Why nobody slips in".
            let order = weaken("rwsem-read-acquire", Ordering::Acquire);
            match readers.compare_exchange(word, word + 1, order, Ordering::Relaxed) {
                Ok(_) => return Some(0),
                Err(now) => word = now,
            }
        }
    }

    #[inline]
    fn end_read(&self, readers: &AtomicU64, _held: usize) {
        // Release: all that the fault did comes before the changes of a writer that waited for it.
        readers.fetch_sub(1, weaken("rwsem-end-release", Ordering::Release));
    }

    #[track_caller]
    fn drain(&self, readers: &AtomicU64) -> Drained {
        if mutant("rwsem-no-drain") {
            return Drained::AtOnce;
        }
        // Release: a reader that comes after sees the mark.
        readers.fetch_or(WRITER, weaken("rwsem-write-release", Ordering::Release));
        // Acquire: the faults that are over come before what the writer does next.
        let empty = || readers.load(weaken("rwsem-write-acquire", Ordering::Acquire)) == WRITER;
        let drained = spin_until::<P>(readers, empty);
        // Relaxed: a read-modify-write, so a reader that reads from it synchronizes with the closing, too.
        readers.fetch_and(!WRITER, Ordering::Relaxed);
        drained
    }
}
