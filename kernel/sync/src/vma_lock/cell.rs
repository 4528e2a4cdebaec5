//! Sequence cells: one counter for each running transaction.
//!
//! A transaction takes a cell for its own, marks VMAs with the cell's number and present sequence, and ends by adding one
//! to the sequence: every mark lapses in that one store, however many there are. Cells are not tied to address spaces, so
//! a fault in one process reads no line that a writer in another dirties.
//!
//! A cell is taken by compare-and-swap (Acquire) and given back by a store (Release), so the next owner starts from the
//! sequence that the last one left. Each CPU begins its search at a place of its own and thus mostly finds the same cell
//! again. A cell whose sequences are used up is never given back. If no cell is free, takers sleep until one is; owners
//! never wait for a cell, so one will be. With more transactions at a time than there are cells, who gets the next free one is
//! anybody's luck: ages count from then on only.
//!
//! Where writers meet (`wound-wait`, `cycle`), the cell also says what others must know of its transaction: how old it is,
//! whether it was told to back off, and for which transaction it sleeps. Each of these is about the transaction that a
//! reader means only if the sequence is still that one's **after** the word was read: the next owner writes them after it
//! has taken the cell, which comes after the end.

use core::marker::PhantomData;

use abi::UpdateProtocol;
use core_alloc::boxed::Box;

use super::Mark;
use super::held::HeldList;
use crate::alloc::try_box_slice;
use crate::order::{Class, NO_RANGE, Wait};
use crate::primitive::{AtomicBool, AtomicU64, Ordering, Padded, fence_named, mutant, weaken};
use crate::{AllocError, Interruptible, Platform, WaitQueue, point};

/// One transaction's counter, alone on its cache lines.
pub(super) struct Cell<P: Platform> {
    /// The running or next transaction's sequence; from 1. Written by the cell's owner.
    sequence: AtomicU64,
    taken: AtomicBool,
    /// When the owner's call began; lower is older. Written by the owner, when it takes the cell.
    age: AtomicU64,
    /// The sequence of the last transaction that was told to back off; only ever grows, so that a late one hits nobody else.
    wound: AtomicU64,
    /// The mark that the owner sleeps for, as a word; 0: it runs. Written by the owner.
    waits_for: AtomicU64,
    /// The address of the lock that the owner sleeps at, whose holder `waits_for` names; 0: it sleeps for that transaction itself.
    /// Written by the owner.
    waits_at: AtomicU64,
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

/// What a transaction that sleeps says of its sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sleeper {
    /// The one that sleeps.
    pub(crate) who: Mark,
    /// The one whose end it sleeps for.
    pub(crate) for_whom: Mark,
    /// The address of the lock that it wants; 0: of none that the other one holds.
    pub(crate) lock: u64,
}

/// The pool of cells.
pub struct Cells<P: Platform> {
    cells: Box<[Padded<Cell<P>>]>,
    /// What the owner of each cell holds, under `cycle-held`; else nothing. Not in the cells, whose lines faults read.
    held: Box<[Padded<HeldList<P>>]>,
    /// Transactions that found no free cell.
    starved: WaitQueue<P>,
}

impl<P: Platform> Cells<P> {
    /// `count` cells, all free, that start at `sequence`.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub(crate) fn starting_at(count: usize, sequence: u64) -> Result<Self, AllocError> {
        let cell = |_| {
            Padded(Cell {
                sequence: AtomicU64::new(sequence),
                taken: AtomicBool::new(false),
                age: AtomicU64::new(0),
                wound: AtomicU64::new(0),
                waits_for: AtomicU64::new(0),
                waits_at: AtomicU64::new(0),
                sleepers: WaitQueue::new(),
            })
        };
        let held = try_box_slice(0, |_| Padded(HeldList::new()))?;
        Ok(Cells { cells: try_box_slice(count, cell)?, held, starved: WaitQueue::new() })
    }

    /// The same, with lists of held locks if `protocol` wants them.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub(crate) fn with_lists(self, protocol: UpdateProtocol) -> Result<Self, AllocError> {
        let lists = if protocol == UpdateProtocol::CycleHeld { self.cells.len() } else { 0 };
        Ok(Cells { held: try_box_slice(lists, |_| Padded(HeldList::new()))?, ..self })
    }

    /// The cell that `mark` names.
    #[inline(always)]
    pub(super) fn of(&self, mark: Mark) -> &Cell<P> {
        &self.cells[mark.cell()].0
    }

    /// Whether the transaction of `mark` has not ended.
    #[inline(always)]
    pub(crate) fn is_running(&self, mark: Mark) -> bool {
        self.of(mark).is_running(mark)
    }

    /// How old the transaction is; `None` if it has ended.
    fn age(&self, mark: Mark) -> Option<u64> {
        // Acquire: an age that the next owner wrote brings with it the end that came before, and is not taken for this one's.
        let age = self.of(mark).age.load(weaken("cell-age-acquire", Ordering::Acquire));
        self.is_running(mark).then_some(age)
    }

    /// Whether the running transaction `one` is older than `other`. Of two of one age, that with the lower mark counts as older.
    /// False if either has ended.
    pub(crate) fn is_older(&self, one: Mark, other: Mark) -> bool {
        let ages = self.age(one).zip(self.age(other));
        ages.is_some_and(|(one_age, other_age)| (one_age, one.word()) < (other_age, other.word()))
    }

    /// What the transaction sleeps for; `None` if it does not, or has ended.
    pub(crate) fn waits_for(&self, mark: Mark) -> Option<Mark> {
        // Acquire: as for the age.
        let word = self.of(mark).waits_for.load(weaken("cell-waits-acquire", Ordering::Acquire));
        Mark::from_word(word).filter(|_| self.is_running(mark))
    }

    /// How many cells there are.
    pub(crate) fn count(&self) -> usize {
        self.cells.len()
    }

    /// The owner of cell `number`, if it sleeps for another transaction.
    pub(crate) fn sleeper(&self, number: usize) -> Option<Sleeper> {
        let cell = &self.cells[number].0;
        // Relaxed: a guess; `waits_for` makes sure of it.
        let sequence = cell.sequence.load(Ordering::Relaxed);
        let who = (sequence <= Mark::SEQUENCE_MAX).then(|| Mark::new(number, sequence))?;
        let for_whom = self.waits_for(who)?;
        // Relaxed: written before the word that `waits_for` acquired. A later sleep's is no harm: see `cycle_held`.
        Some(Sleeper { who, for_whom, lock: cell.waits_at.load(Ordering::Relaxed) })
    }

    /// Whether the transaction's list says that it holds the lock at `address`; `None` if it cannot tell.
    pub(crate) fn holds(&self, mark: Mark, address: u64) -> Option<bool> {
        self.held.get(mark.cell())?.0.contains(address).map(|held| held && self.is_running(mark))
    }

    /// Tells the transaction to back off, at its next conflict or out of its sleep. Returns whether it was the first to.
    pub(crate) fn wound(&self, mark: Mark) -> bool {
        let cell = self.of(mark);
        // Relaxed: whoever was first does the rest.
        if cell.wound.load(Ordering::Relaxed) >= mark.sequence() {
            return false;
        }
        // Growing only: the wound of a transaction that has ended meanwhile must not hide that of the present one.
        if mutant("wound-overwrites") {
            cell.wound.store(mark.sequence(), Ordering::Relaxed);
        } else if cell.wound.fetch_max(mark.sequence(), Ordering::Relaxed) >= mark.sequence() {
            return false;
        }
        // Store buffering with the victim: it says for whom it sleeps, enters that one's queue, fences, and looks at its
        // wound; we wound, fence, and look for whom it sleeps, and into that queue. Either it sees the wound, or we see it.
        fence_named("wound-fence");
        point!(P, "wounded");
        if let Some(for_whom) = self.waits_for(mark) {
            self.of(for_whom).sleepers.wake_fenced(usize::MAX);
        }
        true
    }

    /// A cell for a new transaction, which begins here, `age` old. Sleeps if all are taken.
    #[track_caller]
    pub(crate) fn take(&self, age: u64) -> OwnedCell<'_, P> {
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
        // Release: see `Cells::age`.
        self.cells[number].0.age.store(age, weaken("cell-age-release", Ordering::Release));
        if let Some(list) = self.held.get(number) {
            list.0.clear();
        }
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

    /// Whether another transaction has told this one to back off.
    pub(crate) fn is_wounded(&self) -> bool {
        // Relaxed: a flag that orders nothing; that a sleeper sees it is the fences' work.
        self.cells.of(self.mark).wound.load(Ordering::Relaxed) == self.mark.sequence()
    }

    /// Enters the lock at `address` into the list of those that this transaction holds, where there is one.
    pub(crate) fn hold(&self, address: u64) {
        if let Some(list) = self.cells.held.get(self.mark.cell()) {
            list.0.push(address);
        }
    }

    /// Takes it out again: it could not be had.
    pub(crate) fn let_go(&self, address: u64) {
        if let Some(list) = self.cells.held.get(self.mark.cell()) {
            list.0.pop(address);
        }
    }

    /// Sleeps until the transaction of `theirs`, which holds the lock at address `at` (0: none), ends, or `give_up` says so, which
    /// is asked before each sleep, after all others can see for whom this transaction sleeps. Returns whether it gave up.
    #[track_caller]
    pub(crate) fn sleep_for(&self, theirs: Mark, at: u64, mut give_up: impl FnMut() -> bool) -> bool {
        let own = self.cells.of(self.mark);
        let cell = self.cells.of(theirs);
        own.waits_at.store(at, Ordering::Relaxed);
        // Release: see `Cells::age`, and for the address. No fence here: the queue below has one before the last look, and of transactions that
        // wait for each other in a circle, the one whose fence comes last sees all the others wait.
        own.waits_for.store(theirs.word(), weaken("cell-waits-release", Ordering::Release));
        point!(P, "transaction-sleeping");
        let mut gave_up = false;
        let ended = || {
            gave_up = false;
            !cell.is_running(theirs) || {
                gave_up = give_up();
                gave_up
            }
        };
        let what = (Wait::TransactionEnd, Class::Transaction, theirs.word(), NO_RANGE);
        cell.sleepers.wait_for(what, ended, None, Interruptible::No);
        own.waits_for.store(0, Ordering::Relaxed);
        gave_up
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
    use crate::primitive::CELLS;
    use crate::testing::{Host, on_cpu};
    use crate::{CpuId, platform::Platform};

    fn pool(count: usize, sequence: u64) -> Cells<Host> {
        Cells::starting_at(count, sequence).unwrap()
    }

    #[test]
    fn every_transaction_has_a_name_of_its_own() {
        let cells = pool(2, 1);
        let (first, second) = (cells.take(0), cells.take(0));
        assert_ne!(first.mark(), second.mark());
        let old = first.mark();
        assert!(cells.of(old).is_running(old));
        drop(first);
        assert!(!cells.of(old).is_running(old));
        let third = cells.take(0);
        assert_eq!(third.mark().cell(), old.cell());
        assert_ne!(third.mark(), old);
    }

    #[test]
    fn cpus_find_their_own_cells_again() {
        let cells = pool(CELLS, 1);
        let cell_of = |cpu| on_cpu(CpuId(cpu), || cells.take(0).mark().cell());
        assert_eq!(cell_of(3), cell_of(3));
        assert_ne!(cell_of(3), cell_of(4));
    }

    #[test]
    fn a_worn_out_cell_is_never_given_back() {
        let cells = pool(2, Mark::SEQUENCE_MAX - 1);
        let last = {
            drop(cells.take(0));
            let owned = cells.take(0);
            assert_eq!(owned.mark().sequence(), Mark::SEQUENCE_MAX);
            owned.mark()
        };
        assert!(!cells.of(last).is_running(last), "its last transaction has ended");
        assert!((0..2).all(|_| cells.take(0).mark().cell() != last.cell()));
        assert!(cells.try_take().is_none(), "both are worn out");
    }

    #[test]
    fn takers_sleep_until_a_cell_is_free() {
        let cells = pool(1, 1);
        let owned = cells.take(0);
        std::thread::scope(|scope| {
            let taker = scope.spawn(|| cells.take(0).mark());
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
