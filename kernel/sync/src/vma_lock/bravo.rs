//! `bravo`: readers of all VMAs in one table, beside a reader-writer lock in each VMA.
//!
//! While a VMA's lock is *biased*, a fault does not touch it: it writes the lock's address into a table that all VMAs share,
//! at a place that its CPU and the address choose, and looks whether the bias still stands. A writer that has marked the
//! VMA takes the bias away and looks through the whole table for the address. Where the place is taken, or the bias gone, a
//! fault uses the lock itself, as under [`rwsem`](super::rwsem); and after some such faults the bias comes back. So faults in one
//! VMA share no line that they write, and writers pay for it by the table's length.
//!
//! **Why nobody slips in.** Store buffering: the fault writes its place, fences, and looks at the bias; the writer takes the bias,
//! fences, and looks at the places. Either the fault sees the bias gone, or the writer sees the fault. If the bias was gone
//! and has come back, the fault reads it from a chain of read-modify-writes that begins with the closing by the last writer, by
//! Acquire of Release: then it sees the mark. (That writer may have found the bias gone, and not have fenced.)
//!
//! After Dice and Kogan, "BRAVO: Biased Locking for Reader-Writer Locks" (USENIX ATC 2019). There a clock says when the bias may
//! come back; here it is a number of faults.

use core_alloc::boxed::Box;

use super::protocol::{Drained, ReadProtocol, name_of, spin_until};
use crate::alloc::try_box_slice;
use crate::primitive::{
    AtomicU64, Ordering, READER_PLACES, UNBIASED_FAULTS, fence_named, mutant, reader_place, weaken,
};
use crate::{AllocError, Platform};

/// In the word: a writer keeps readers out.
const WRITER: u64 = 1 << 63;
/// In the word: faults use the table.
const BIASED: u64 = 1 << 62;
/// In the word: one of the faults that must come before the bias does.
const UNBIASED_FAULT: u64 = 1 << 32;
const UNBIASED_MASK: u64 = 0xff << 32;
/// In the word: the number of readers that hold the lock itself.
const READERS: u64 = UNBIASED_FAULT - 1;

/// The table.
pub(super) struct Bravo {
    /// Addresses of the words of VMAs' locks; 0: free.
    places: Box<[AtomicU64]>,
}

impl Bravo {
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub(super) fn new() -> Result<Bravo, AllocError> {
        Ok(Bravo { places: try_box_slice(READER_PLACES, |_| AtomicU64::new(0))? })
    }

    /// Announces the fault in the table. `None`: it must go to the lock itself.
    fn announce<P: Platform>(&self, readers: &AtomicU64) -> Option<usize> {
        let address = name_of(readers);
        let index = reader_place(address, P::cpu().index(), self.places.len());
        let place = &self.places[index];
        // Relaxed, this and the store of 0 below, thanks to the fence between them: a writer that waits for the place's last
        // holder, and finds what we left, sees what that one did.
        place.compare_exchange(0, address, Ordering::Relaxed, Ordering::Relaxed).ok()?;
        // The reader's half of the store buffering.
        fence_named("bravo-read-fence");
        // Acquire: see "Why nobody slips in".
        if readers.load(weaken("bravo-bias-acquire", Ordering::Acquire)) & BIASED != 0 {
            return Some(index);
        }
        place.store(0, Ordering::Relaxed);
        None
    }
}

impl<P: Platform> ReadProtocol<P> for Bravo {
    const OPEN: u64 = BIASED;

    fn try_read(&self, readers: &AtomicU64) -> Option<usize> {
        let mut word = readers.load(Ordering::Relaxed);
        if word & BIASED != 0
            && let Some(index) = self.announce::<P>(readers)
        {
            return Some(index + 1);
        }
        loop {
            if word & WRITER != 0 {
                return None;
            }
            let bias = if word & UNBIASED_MASK == 0 { BIASED } else { 0 };
            let fewer = if bias == 0 { UNBIASED_FAULT } else { 0 };
            // Acquire: as in `rwsem`.
            let order = weaken("bravo-read-acquire", Ordering::Acquire);
            match readers.compare_exchange(word, (word + 1 - fewer) | bias, order, Ordering::Relaxed) {
                Ok(_) => return Some(0),
                Err(now) => word = now,
            }
        }
    }

    fn end_read(&self, readers: &AtomicU64, held: usize) {
        // Release, both: all that the fault did comes before the changes of a writer that waited for it.
        match held.checked_sub(1) {
            Some(index) => self.places[index].store(0, weaken("bravo-leave-release", Ordering::Release)),
            None => {
                readers.fetch_sub(1, weaken("bravo-end-release", Ordering::Release));
            }
        }
    }

    #[track_caller]
    fn drain(&self, readers: &AtomicU64) -> Drained {
        if mutant("bravo-no-drain") {
            return Drained::AtOnce;
        }
        // Release: a reader of the lock itself that comes after sees the mark.
        let before = readers.fetch_or(WRITER, weaken("bravo-write-release", Ordering::Release));
        let mut drained = Drained::AtOnce;
        if before & BIASED != 0 {
            readers.fetch_and(!BIASED, Ordering::Relaxed);
            // The writer's half of the store buffering.
            fence_named("bravo-write-fence");
            let address = name_of(readers);
            for place in &self.places {
                // Acquire: the faults that are over come before what the writer does next.
                let left = || place.load(weaken("bravo-scan-acquire", Ordering::Acquire)) != address;
                drained = drained.then(spin_until::<P>(readers, left));
            }
        }
        let empty = || readers.load(weaken("bravo-write-acquire", Ordering::Acquire)) & READERS == 0;
        drained = drained.then(spin_until::<P>(readers, empty));
        // Nobody else changes the word while the writer's bit is in it and no reader is left. Relaxed: as in `rwsem`.
        readers.swap(UNBIASED_FAULTS * UNBIASED_FAULT, Ordering::Relaxed);
        drained
    }
}
