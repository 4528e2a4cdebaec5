//! Sequence cells: one counter for each running transaction.
//!
//! A transaction takes a cell for its own, marks VMAs with the cell's number and present sequence, and ends by adding one
//! to the sequence: every mark lapses in that one store, however many there are. Cells are not tied to address spaces, so
//! a fault in one process reads no line that a writer in another dirties.
//!
//! A cell is taken by compare-and-swap (Acquire) and given back by a store (Release), so the next owner starts from the
//! sequence that the last one left. Each CPU begins its search at a place of its own and thus mostly finds the same cell
//! again. A cell whose sequences are used up is never given back. If no cell is free, takers sleep until one is; owners
//! never wait for a cell, so one will be.

use core::marker::PhantomData;

use core_alloc::boxed::Box;

use super::Mark;
use crate::alloc::try_box_slice;
use crate::order::{Class, NO_RANGE, Wait};
use crate::primitive::{AtomicBool, AtomicU64, CELLS, Ordering, Padded, fence_named, mutant, weaken};
use crate::{AllocError, Interruptible, Platform, WaitQueue, point};

/// One transaction's counter, alone on its cache lines.
pub(super) struct Cell<P: Platform> {
    /// The running or next transaction's sequence; from 1. Written by the cell's owner.
    sequence: AtomicU64,
    taken: AtomicBool,
    /// Threads that wait for the owner's end.
    pub(super) sleepers: WaitQueue<P>,
}

impl<P: Platform> Cell<P> {
    /// Whether the transaction named by `mark`, one of this cell's, has not ended.
    #[inline(always)]
    pub(super) fn is_running(&self, mark: Mark) -> bool {
        // Acquire: who sees the end sees everything that the transaction did.
        self.sequence.load(weaken("cell-load-acquire", Ordering::Acquire)) == mark.sequence()
    }
}

/// The pool of cells.
pub struct Cells<P: Platform> {
    cells: Box<[Padded<Cell<P>>]>,
    /// Transactions that found no free cell.
    starved: WaitQueue<P>,
}

impl<P: Platform> Cells<P> {
    /// All cells free, at their first sequence.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub fn new() -> Result<Self, AllocError> {
        Self::starting_at(CELLS, 1)
    }

    /// `count` cells that start at `sequence`.
    pub(super) fn starting_at(count: usize, sequence: u64) -> Result<Self, AllocError> {
        let cell = |_| {
            Padded(Cell {
                sequence: AtomicU64::new(sequence),
                taken: AtomicBool::new(false),
                sleepers: WaitQueue::new(),
            })
        };
        Ok(Cells { cells: try_box_slice(count, cell)?, starved: WaitQueue::new() })
    }

    /// The cell that `mark` names.
    #[inline(always)]
    pub(super) fn of(&self, mark: Mark) -> &Cell<P> {
        &self.cells[mark.cell()].0
    }

    /// A cell for a new transaction, which begins here. Sleeps if all are taken.
    #[track_caller]
    pub(crate) fn take(&self) -> OwnedCell<'_, P> {
        let mut taken = None;
        self.starved.wait_for(
            (Wait::Cell, Class::Transaction, 0, NO_RANGE),
            || {
                taken = self.try_take();
                taken.is_some()
            },
            None,
            Interruptible::No,
        );
        let Some(number) = taken else { unreachable!("the wait ends with a cell") };
        // Relaxed: only owners write it, and the last one's end came with its cell (Acquire in `try_take`).
        let sequence = self.cells[number].0.sequence.load(Ordering::Relaxed);
        point!(P, "cell-taken");
        let mark = Mark::new(number, sequence);
        OwnedCell { cells: self, mark, not_send: PhantomData }
    }

    fn try_take(&self) -> Option<usize> {
        let count = self.cells.len();
        let first = P::cpu().index() * count / P::cpu_count();
        (0..count).map(|step| (first + step) % count).find(|&number| {
            let taken = &self.cells[number].0.taken;
            // Acquire: pairs with the Release that gave the cell back.
            let order = weaken("cell-take-acquire", Ordering::Acquire);
            !taken.load(Ordering::Relaxed) && taken.compare_exchange(false, true, order, Ordering::Relaxed).is_ok()
        })
    }
}

/// A taken cell: a transaction that runs. Dropping it ends the transaction.
pub(crate) struct OwnedCell<'a, P: Platform> {
    cells: &'a Cells<P>,
    mark: Mark,
    not_send: PhantomData<*const ()>,
}

impl<P: Platform> OwnedCell<'_, P> {
    /// The transaction's name.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }
}

impl<P: Platform> Drop for OwnedCell<'_, P> {
    /// Ends the transaction: unlocks all that carries its mark, gives the cell back, wakes who waits. The same few
    /// stores whatever the number of marks.
    fn drop(&mut self) {
        let cell = self.cells.of(self.mark);
        point!(P, "cell-ending");
        // Release: whoever sees the end sees everything that the transaction did.
        cell.sequence.store(self.mark.sequence() + 1, weaken("cell-end-release", Ordering::Release));
        if self.mark.sequence() < Mark::SEQUENCE_MAX {
            // Release: the next owner sees the sequence that we left.
            cell.taken.store(false, weaken("cell-give-back-release", Ordering::Release));
        }
        // Store buffering with the sleepers: they enter the queue, fence, and look at the sequence (or for a cell);
        // we stored both, fence, and look at the queues. Either they see the end, or we see them.
        fence_named("cell-end-fence");
        point!(P, "cell-ended");
        if !mutant("cell-end-no-wake") {
            cell.sleepers.wake_fenced(usize::MAX);
        }
        self.cells.starved.wake_fenced(1);
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::{Host, on_cpu};
    use crate::{CpuId, platform::Platform};

    fn pool(count: usize, sequence: u64) -> Cells<Host> {
        Cells::starting_at(count, sequence).unwrap()
    }

    #[test]
    fn every_transaction_has_a_name_of_its_own() {
        let cells = pool(2, 1);
        let (first, second) = (cells.take(), cells.take());
        assert_ne!(first.mark(), second.mark());
        let old = first.mark();
        assert!(cells.of(old).is_running(old));
        drop(first);
        assert!(!cells.of(old).is_running(old));
        let third = cells.take();
        assert_eq!(third.mark().cell(), old.cell());
        assert_ne!(third.mark(), old);
    }

    #[test]
    fn cpus_find_their_own_cells_again() {
        let cells = pool(CELLS, 1);
        let cell_of = |cpu| on_cpu(CpuId(cpu), || cells.take().mark().cell());
        assert_eq!(cell_of(3), cell_of(3));
        assert_ne!(cell_of(3), cell_of(4));
    }

    #[test]
    fn a_worn_out_cell_is_never_given_back() {
        let cells = pool(2, Mark::SEQUENCE_MAX - 1);
        let last = {
            drop(cells.take());
            let owned = cells.take();
            assert_eq!(owned.mark().sequence(), Mark::SEQUENCE_MAX);
            owned.mark()
        };
        assert!(!cells.of(last).is_running(last), "its last transaction has ended");
        assert!((0..2).all(|_| cells.take().mark().cell() != last.cell()));
        assert!(cells.try_take().is_none(), "both are worn out");
    }

    #[test]
    fn takers_sleep_until_a_cell_is_free() {
        let cells = pool(1, 1);
        let owned = cells.take();
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| cells.take().mark());
            let patience = Host::now_ns() + 20_000_000;
            while Host::now_ns() < patience {
                assert!(!taker.is_finished());
                std::thread::yield_now();
            }
            let mark = owned.mark();
            drop(owned);
            assert_ne!(taker.join().unwrap(), mark);
        });
    }
}
