//! The mark: which transaction, if any, has locked a VMA.
//!
//! One word per VMA: the number of a sequence cell and a sequence, or 0. The VMA is locked if and only if the cell still
//! shows that sequence. `(cell, sequence)` names one transaction for ever, because sequences never repeat.
//!
//! A fault that meets the mark of an ended transaction sets it to 0, so that later faults need not read the cell, whose
//! line busy writers dirty (slot protocol, 8.1).

use abi::Counter;

use super::slot::FaultSection;
use super::{Cells, VmaLocks};
use crate::primitive::{AtomicBool, AtomicU64, Ordering, mutant, store_over_rmw, weaken};
use crate::{Counters, Platform, point};

/// Names one transaction: cell number in the upper 16 bits, sequence in the lower 48. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    /// The mark as one word, as VMAs carry it.
    pub const fn word(self) -> u64 {
        self.0
    }

    /// Width of the sequence.
    pub(super) const SEQUENCE_BITS: u32 = 48;
    /// Largest sequence that a mark can hold.
    pub(super) const SEQUENCE_MAX: u64 = (1 << Self::SEQUENCE_BITS) - 1;

    /// The transaction number `sequence` of `cell`.
    pub(super) fn new(cell: usize, sequence: u64) -> Self {
        debug_assert!(cell < 1 << 16 && sequence != 0 && sequence <= Self::SEQUENCE_MAX);
        Mark((cell as u64) << Self::SEQUENCE_BITS | sequence)
    }

    /// Which cell.
    pub(super) fn cell(self) -> usize {
        (self.0 >> Self::SEQUENCE_BITS) as usize
    }

    /// Which of the cell's transactions.
    pub(super) fn sequence(self) -> u64 {
        self.0 & Self::SEQUENCE_MAX
    }
}

/// Why a fault cannot have a VMA's read lock now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadRefused {
    /// A running transaction has marked the VMA: leave the section, wait for its end, look up again.
    Marked(Mark),
    /// The VMA has left the tree: look up again.
    Detached,
}

/// The lock that lies in each VMA. Keep it off the lines that look-ups read.
pub struct VmaLock {
    mark: AtomicU64,
    /// Set once, by a transaction that marked and settled, before its end. Read after the mark: whoever sees that
    /// transaction ended sees this.
    detached: AtomicBool,
}

impl VmaLock {
    /// The lock of a VMA that a transaction will publish: marked before anybody can find it.
    pub(crate) fn marked(mark: Mark) -> Self {
        VmaLock { mark: AtomicU64::new(mark.0), detached: AtomicBool::new(false) }
    }

    /// Asks for the VMA's read lock on behalf of the fault that `section` has published. Held until `section` is
    /// dropped. The VMA was looked up after the section was entered, in the same RCU read section as this call.
    ///
    /// Yes also means: everything that ended transactions did to the VMA is seen.
    ///
    /// # Errors
    /// [`ReadRefused`], if the VMA is locked or gone.
    #[inline]
    pub fn read<P: Platform>(
        &self,
        section: &FaultSection<'_, P>,
        locks: &VmaLocks<P>,
        counters: &Counters<P>,
    ) -> Result<(), ReadRefused> {
        let _ = section;
        // Acquire: pairs with the marking store (what came before that transaction), and for a 0 with the clearing
        // compare-and-swap (everything of the transaction that was seen ended).
        let word = self.mark.load(weaken("mark-load-acquire", Ordering::Acquire));
        if word != 0 {
            let mark = Mark(word);
            if locks.cells.of(mark).is_running(mark) {
                return Err(ReadRefused::Marked(mark));
            }
            self.clear(mark, counters);
        }
        point!(P, "mark-read");
        // Relaxed: written before the end that the loads above acquired. Not seen at all if its transaction settles
        // after us: then it waits for our section.
        if self.detached.load(Ordering::Relaxed) && !mutant("read-ignores-detached") {
            return Err(ReadRefused::Detached);
        }
        Ok(())
    }

    /// Sets the ended `mark` to 0, once: if the word has changed, another fault or a new transaction was first.
    fn clear<P: Platform>(&self, mark: Mark, counters: &Counters<P>) {
        point!(P, "mark-clearing");
        // Release: whoever reads our 0 sees the end that we saw. It cannot hit a live mark: marks never repeat.
        let order = weaken("mark-clear-release", Ordering::Release);
        if self.mark.compare_exchange(mark.0, 0, order, Ordering::Relaxed).is_ok() {
            counters.bump(Counter::MarkCleared);
        }
    }

    /// Whether the VMA carries `own`, the mark of the caller's own transaction.
    pub(crate) fn carries(&self, own: Mark) -> bool {
        // Relaxed: only its owner writes a running mark, and nobody replaces it.
        self.mark.load(Ordering::Relaxed) == own.0
    }

    /// Marks the VMA for the caller's transaction, the only writer of the address space (`bulk`).
    pub(crate) fn set_mark(&self, own: Mark) {
        // Release: who sees the mark sees all that came before this transaction.
        // A plain store does: if a clearing compare-and-swap read the mark before ours, nothing lies between the two in
        // the word's modification order, so ours comes after its 0.
        store_over_rmw(&self.mark, own.0, weaken("mark-store-release", Ordering::Release));
    }

    /// The VMA has left the tree, or will before the caller's transaction ends.
    pub(crate) fn set_detached(&self) {
        self.detached.store(true, Ordering::Relaxed);
    }

    /// The mark of the running transaction that has locked this VMA, if any: for walkers without a fault section, under
    /// an RCU read section. Proves nothing about the time after the call.
    pub fn locked_by<P: Platform>(&self, cells: &Cells<P>) -> Option<Mark> {
        let word = self.mark.load(weaken("mark-load-acquire", Ordering::Acquire));
        let mark = (word != 0).then_some(Mark(word))?;
        cells.of(mark).is_running(mark).then_some(mark)
    }

    /// Whether the VMA has left the tree. Meaningful after the caller saw that no transaction has locked it, or for the
    /// transaction that has.
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed)
    }
}
