//! The read side of VMAs, and the marks by which transactions lock them.
//!
//! A page fault looks its VMA up under RCU, makes itself visible by the read protocol of this boot (`read`; the default is
//! `slot`), and asks the VMA's [`VmaLock`] whether a running transaction has marked it. A transaction marks VMAs with its own
//! [`Mark`] (`mark`) and makes sure that no fault is inside (`txn`). Ending the transaction moves its cell's sequence (`cell`)
//! on, which unlocks everything that it marked in one store.
//!
//! **Guarantee.** A fault for which [`VmaLock::read`] said yes, until it drops the [`VmaRead`] and its [`FaultSection`], sees
//! the VMA as it is: no transaction that marked the VMA is past its `settle` and before its end, and the VMA has not been
//! detached.
//!
//! | state | written by | read by |
//! |---|---|---|
//! | slot | its own CPU, interrupts off | settling writers |
//! | the read protocol's word in a VMA | faults; a writer that has marked the VMA | the same |
//! | mark | running transactions (own mark), faults (an ended mark to 0) | faults, writers |
//! | heir | transactions that wait for the mark | writers |
//! | cell: sequence, age, for whom it sleeps | the transaction that owns the cell | faults, sleepers, other writers |
//! | cell: wound | other writers | the owner |
//! | list of held locks (`cycle-held`) | the transaction that owns the cell | other writers that are about to sleep |
//! | detached | a transaction that marked the VMA and settled | faults, writers |
//!
//! VMAs are immutable otherwise, and freed after a grace period: a fault that lost a race still looks at a whole one.

mod bravo;
mod cell;
mod heir;
mod held;
mod lock;
mod mark;
mod protocol;
mod read;
mod refcount;
mod rwsem;
mod slot;

pub use cell::Cells;
pub(crate) use cell::{OwnedCell, Sleeper};
pub(crate) use heir::Heir;
pub use lock::VmaLock;
pub use mark::{Mark, ReadRefused};
pub(crate) use protocol::Drained;
use read::Readers;
pub use read::VmaRead;
pub use slot::{FaultSection, Slots};

use abi::Pair;

use crate::order::{self, Class, Wait};
use crate::primitive::CELLS;
use crate::{AllocError, Interruptible, Platform};

/// The machine-wide half of the VMA locks: every CPU's slot, and the sequence cells of running transactions.
pub struct VmaLocks<P: Platform> {
    pair: Pair,
    /// How faults hold VMAs.
    readers: Readers,
    /// What each CPU's fault is at.
    pub slots: Slots<P>,
    /// One for each running transaction.
    pub cells: Cells<P>,
}

impl<P: Platform> VmaLocks<P> {
    /// No fault, no transaction; for the protocols of `pair`.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub fn new(pair: Pair) -> Result<Self, AllocError> {
        Self::with_cells(pair, CELLS)
    }

    /// As [`VmaLocks::new`], for at most `cells` transactions at a time: models want few.
    ///
    /// # Errors
    /// As [`VmaLocks::new`].
    pub fn with_cells(pair: Pair, cells: usize) -> Result<Self, AllocError> {
        let cells = Cells::starting_at(cells, 1)?.with_lists(pair.update())?;
        Ok(VmaLocks { pair, readers: Readers::new(pair.read())?, slots: Slots::new()?, cells })
    }

    /// The protocols in use.
    pub fn pair(&self) -> Pair {
        self.pair
    }

    /// Waits until no fault is inside the VMA of `lock` that looked before the caller's transaction marked it. Only where
    /// faults are found by the VMA and not by their CPUs.
    #[track_caller]
    pub(crate) fn drain(&self, lock: &VmaLock) -> Drained {
        self.readers.drain::<P>(&lock.readers)
    }

    /// The VMA of `lock` leaves the tree: its faults are over, and later ones are refused.
    pub(crate) fn detach(&self, lock: &VmaLock) {
        self.readers.detach::<P>(&lock.readers);
        lock.set_detached();
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
