//! [`VmaLock`]: the lock that lies in each VMA.
//!
//! The mark says which transaction, if any, has locked the VMA; the read protocol's word says who is inside, under the protocols
//! that keep it there; the heir goes next. A fault that meets the mark of an ended transaction sets it to 0, so that later faults
//! need not read the cell, whose line busy writers dirty (slot protocol, 8.1).

use abi::Counter;

use super::heir::Heir;
use super::read::VmaRead;
use super::slot::FaultSection;
use super::{Cells, Mark, ReadRefused, VmaLocks};
use crate::primitive::{AtomicBool, AtomicU64, Ordering, mutant, store_over_rmw, weaken};
use crate::{Counters, Platform, point};

/// The lock that lies in each VMA. Keep it off the lines that look-ups read.
pub struct VmaLock {
    mark: AtomicU64,
    /// Who marks the VMA next.
    heir: Heir,
    /// The read protocol's own word.
    pub(super) readers: AtomicU64,
    /// Set once, by a transaction that marked and settled, before its end. Read after the mark: whoever sees that
    /// transaction ended sees this.
    detached: AtomicBool,
}

impl VmaLock {
    /// The lock of a VMA that a transaction will publish: marked before anybody can find it.
    pub(crate) fn marked<P: Platform>(mark: Mark, locks: &VmaLocks<P>) -> Self {
        VmaLock::with_mark(mark.word(), locks)
    }

    /// A lock that nobody holds, of something that only transactions lock: the program break, say.
    pub fn open<P: Platform>(locks: &VmaLocks<P>) -> Self {
        VmaLock::with_mark(0, locks)
    }

    fn with_mark<P: Platform>(mark: u64, locks: &VmaLocks<P>) -> Self {
        VmaLock {
            mark: AtomicU64::new(mark),
            heir: Heir::new(),
            readers: AtomicU64::new(locks.readers.open_word::<P>()),
            detached: AtomicBool::new(false),
        }
    }

    /// Asks for the VMA's read lock on behalf of the fault that `section` stands for. Held until the result is dropped.
    /// The VMA was looked up after the section was entered, in the same RCU read section as this call.
    ///
    /// Yes also means: everything that ended transactions did to the VMA is seen.
    ///
    /// # Errors
    /// [`ReadRefused`], if the VMA is locked or gone.
    #[inline]
    pub fn read<'v, P: Platform>(
        &'v self,
        section: &FaultSection<'v, P>,
        locks: &'v VmaLocks<P>,
        counters: &Counters<P>,
    ) -> Result<VmaRead<'v, P>, ReadRefused> {
        loop {
            let held = locks.readers.try_read(&self.readers, section);
            // Acquire: pairs with the marking store (what came before that transaction), and for a 0 with the clearing
            // compare-and-swap (everything of the transaction that was seen ended).
            let word = self.mark.load(weaken("mark-load-acquire", Ordering::Acquire));
            if let Some(mark) = Mark::from_word(word) {
                if locks.cells.is_running(mark) && !mutant("read-ignores-mark") {
                    return Err(ReadRefused::Marked(mark));
                }
                self.clear(mark, counters);
            }
            point!(P, "mark-read");
            // Relaxed: written before the end that the loads above acquired. Not seen at all if its transaction settles
            // after us: then it waits for us.
            if self.detached.load(Ordering::Relaxed) && !mutant("read-ignores-detached") {
                return Err(ReadRefused::Detached);
            }
            if let Some(held) = held {
                return Ok(held);
            }
            // A writer kept readers out, and its transaction has ended since, or its mark (or, of a VMA that it took out of the
            // tree, the end) cannot be seen here yet. So there are no more of these rounds than transactions, and those for
            // which a store is under way.
            P::relax();
        }
    }

    /// Sets the ended `mark` to 0, once: if the word has changed, another fault or a new transaction was first.
    fn clear<P: Platform>(&self, mark: Mark, counters: &Counters<P>) {
        point!(P, "mark-clearing");
        // Release: whoever reads our 0 sees the end that we saw. It cannot hit a live mark: marks never repeat.
        let order = weaken("mark-clear-release", Ordering::Release);
        if self.mark.compare_exchange(mark.word(), 0, order, Ordering::Relaxed).is_ok() {
            counters.bump(Counter::MarkCleared);
        }
    }

    /// Whether the VMA carries `own`, the mark of the caller's own transaction.
    pub(crate) fn carries(&self, own: Mark) -> bool {
        // Relaxed: only its owner writes a running mark, and nobody replaces it.
        self.mark.load(Ordering::Relaxed) == own.word()
    }

    /// Marks the VMA for the caller's transaction, the only writer of the address space (`bulk`).
    pub(crate) fn set_mark(&self, own: Mark) {
        // Release: who sees the mark sees all that came before this transaction.
        // A plain store does: if a clearing compare-and-swap read the mark before ours, nothing lies between the two in
        // the word's modification order, so ours comes after its 0.
        store_over_rmw(&self.mark, own.word(), weaken("mark-store-release", Ordering::Release));
    }

    /// Marks the VMA for the caller's transaction, beside others that may want to (slot protocol, 8.1 and 8.2).
    ///
    /// # Errors
    /// The mark of the transaction that must end first: it has locked the VMA, or it is older and waits for it.
    pub(crate) fn take_mark<P: Platform>(&self, own: Mark, cells: &Cells<P>) -> Result<(), Mark> {
        loop {
            // Acquire, and again in the cell: who takes the place of an ended mark sees all that its transaction did.
            let word = self.mark.load(weaken("mark-take-load-acquire", Ordering::Acquire));
            if word == own.word() {
                return Ok(());
            }
            if let Some(theirs) = Mark::from_word(word).filter(|&mark| cells.is_running(mark)) {
                return Err(self.heir.enter(own, cells).unwrap_or(theirs));
            }
            if let Some(heir) = self.heir.before(own, cells) {
                return Err(heir);
            }
            point!(P, "mark-taking");
            // Release: as for the plain store. Acquire: what we read may have been a 0 of before, and what we replace the 0
            // that was set after other transactions; those we must see too.
            let order = weaken("mark-take-acq-rel", Ordering::AcqRel);
            if self.mark.compare_exchange(word, own.word(), order, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
    }

    /// The VMA has left the tree, or will before the caller's transaction ends.
    pub(crate) fn set_detached(&self) {
        self.detached.store(true, Ordering::Relaxed);
    }

    /// The mark of the running transaction that has locked this VMA, if any: for walkers without a fault section, under
    /// an RCU read section. Proves nothing about the time after the call.
    pub fn locked_by<P: Platform>(&self, cells: &Cells<P>) -> Option<Mark> {
        let mark = Mark::from_word(self.mark.load(weaken("mark-load-acquire", Ordering::Acquire)))?;
        cells.is_running(mark).then_some(mark)
    }

    /// Whether the VMA has left the tree. Meaningful after the caller saw that no transaction has locked it, or for the
    /// transaction that has.
    pub fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Relaxed)
    }

    /// What lists of held locks know it by.
    pub(crate) fn address(&self) -> u64 {
        core::ptr::from_ref(self).addr() as u64
    }
}
