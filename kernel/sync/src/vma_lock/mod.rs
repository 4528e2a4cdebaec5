//! The read side of VMAs: the slot protocol with sequence cells.
//!
//! A page fault publishes its address in its CPU's own slot (`slot`), looks its VMA up, and asks the VMA's
//! [`VmaLock`] whether a running transaction has marked it. A transaction marks VMAs with its own [`Mark`] (`mark`),
//! and waits once (`txn`) for the faults in the ranges that it marked. Ending the transaction moves its cell's sequence
//! (`cell`) on, which unlocks everything that it marked in one store.
//!
//! **Guarantee.** A fault for which [`VmaLock::read`] said yes, until it drops its [`FaultSection`], sees the VMA as it
//! is: no transaction that marked the VMA is past its `settle` and before its end, and the VMA has not been detached.
//!
//! | state | written by | read by |
//! |---|---|---|
//! | slot | its own CPU, interrupts off | settling writers |
//! | mark | running transactions (own mark), faults (an ended mark to 0) | faults, writers |
//! | cell sequence | the transaction that owns the cell | faults, sleepers |
//! | detached | a transaction that marked the VMA and settled | faults, writers |
//!
//! VMAs are immutable otherwise, and freed after a grace period: a fault that lost a race still looks at a whole one.

mod cell;
mod mark;
mod slot;

pub use cell::Cells;
pub(crate) use cell::OwnedCell;
pub use mark::{Mark, ReadRefused, VmaLock};
pub use slot::{FaultSection, Slots};

use crate::order::{self, Class, Wait};
use crate::{AllocError, Interruptible, Platform};

/// The machine-wide half of the VMA locks: every CPU's slot, and the sequence cells of running transactions.
pub struct VmaLocks<P: Platform> {
    /// What each CPU's fault is at.
    pub slots: Slots<P>,
    /// One for each running transaction.
    pub cells: Cells<P>,
}

impl<P: Platform> VmaLocks<P> {
    /// No fault, no transaction.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub fn new() -> Result<Self, AllocError> {
        Ok(VmaLocks { slots: Slots::new()?, cells: Cells::new()? })
    }

    /// Sleeps until the transaction that set `mark` has ended; returns at once if it has. The caller is in no fault
    /// section and no RCU read section (it may have to look its VMA up again anyway), and has no transaction open.
    /// `addr`: the address that it wants to look up, for reports.
    ///
    /// # Panics
    /// In debug builds, if the lock order forbids it.
    #[track_caller]
    pub fn wait_for_end(&self, mark: Mark, addr: u64) {
        order::before::<P>(Class::Transaction, mark.word());
        let cell = self.cells.of(mark);
        let what = (Wait::TransactionEnd, Class::Transaction, mark.word(), addr..addr + 1);
        cell.sleepers.wait_for(what, || !cell.is_running(mark), None, Interruptible::No);
    }
}
