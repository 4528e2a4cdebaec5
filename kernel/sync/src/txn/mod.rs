//! Update transactions: the write side of an address space.
//!
//! A memory call is a body that may be run again from its start: check arguments, mark the VMAs concerned, settle, look
//! up, prepare (the last step that can fail), publish. [`update`] runs it. However the body ends, the transaction ends,
//! and everything that it marked is unlocked at once. The body never touches user memory: a fault on its own mark would
//! wait for itself.
//!
//! The protocol is `bulk` (one fair lock per address space); nothing outside `bulk` may rely on being the only writer.

mod bulk;

pub use bulk::{UpdateLock, update};

use core::cell::{Cell, RefCell};
use core::marker::PhantomData;
use core::ops::Range;

use abi::event::Kind;
use abi::{Counter, Errno};

use crate::order::{self, Class, Mode, NO_RANGE};
use crate::primitive::{fence_named, mutant};
use crate::vma_lock::OwnedCell;
use crate::{AllocError, Counters, Mark, Platform, VmaLock, VmaLocks, point};

/// Why a body stops before its end. Nothing has been published then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// The world has changed, or another transaction goes first: run the body again.
    Restart,
    /// The call fails.
    Errno(Errno),
}

impl From<Errno> for Abort {
    fn from(errno: Errno) -> Self {
        Abort::Errno(errno)
    }
}

impl From<AllocError> for Abort {
    fn from(error: AllocError) -> Self {
        Abort::Errno(error.into())
    }
}

/// A running transaction.
pub struct Txn<'a, P: Platform> {
    space: &'a UpdateLock<P>,
    locks: &'a VmaLocks<P>,
    counters: &'a Counters<P>,
    /// Goes before the cell.
    _record: Record<P>,
    cell: OwnedCell<'a, P>,
    /// Hull of the ranges marked so far; empty at first.
    hull: RefCell<Range<u64>>,
    /// Whether every mark so far has been settled over the whole hull.
    settled: Cell<bool>,
}

/// Says to the lock-order validator that the running context has a transaction open.
struct Record<P: Platform> {
    mark: Mark,
    platform: PhantomData<*const P>,
}

impl<P: Platform> Record<P> {
    #[track_caller]
    fn new(mark: Mark) -> Self {
        order::before::<P>(Class::Transaction, mark.word());
        order::acquired::<P>(Class::Transaction, Mode::Write, mark.word(), NO_RANGE);
        Record { mark, platform: PhantomData }
    }
}

impl<P: Platform> Drop for Record<P> {
    fn drop(&mut self) {
        order::released_marks::<P>(self.mark.word());
    }
}

/// Proof that no fault is inside what the transaction has marked, and that none will enter before its end. Marking more
/// needs another one: the borrow checker sees to it.
pub struct Settled<'t> {
    txn: PhantomData<&'t ()>,
}

impl<'a, P: Platform> Txn<'a, P> {
    /// Begins a transaction. The update protocol has made sure that it may.
    #[track_caller]
    fn begin(space: &'a UpdateLock<P>, locks: &'a VmaLocks<P>, counters: &'a Counters<P>) -> Self {
        counters.bump(Counter::Txn);
        let cell = locks.cells.take();
        let record = Record::new(cell.mark());
        Txn { space, locks, counters, _record: record, cell, hull: RefCell::new(0..0), settled: Cell::new(true) }
    }

    /// Marks a published VMA, which covers `range` (page-aligned addresses). It is locked from the next
    /// [`Txn::settle`] until the transaction ends. Marking a VMA twice does no harm.
    ///
    /// # Errors
    /// [`Abort::Restart`], if another transaction goes first; not under `bulk`.
    ///
    /// # Panics
    /// In debug builds, if the lock order forbids it.
    #[track_caller]
    pub fn mark(&mut self, lock: &VmaLock, range: Range<u64>) -> Result<(), Abort> {
        let own = self.own_mark();
        let hull = self.hull.get_mut();
        // A VMA marked before lies in the hull, so the first mark of a VMA outside needs no look at the old one.
        if hull.start <= range.start && range.end <= hull.end && lock.carries(own) {
            return Ok(());
        }
        order::before::<P>(Class::VmaWrite, own.word());
        lock.set_mark(own);
        point!(P, "mark-stored");
        order::acquired::<P>(Class::VmaWrite, Mode::Write, own.word(), range.clone());
        self.counters.bump(Counter::VmaMarked);
        P::event(Kind::Mark, range.start, range.end);
        *hull = if hull.is_empty() { range } else { hull.start.min(range.start)..hull.end.max(range.end) };
        self.settled.set(false);
        Ok(())
    }

    /// Waits until no fault is inside what has been marked: one fence and one look at each CPU's slot for all marks.
    /// The caller is in no RCU read section that a fault could wait for, holds no spin lock, and has interrupts on or
    /// off: the wait serves TLB flush requests, and is at most one fault per CPU long.
    ///
    /// # Errors
    /// [`Abort::Restart`], if another transaction goes first; not under `bulk`.
    ///
    /// # Panics
    /// In debug builds, where nobody may wait for other CPUs ([`crate::order::may_sleep`]).
    #[track_caller]
    pub fn settle(&self) -> Result<Settled<'_>, Abort> {
        order::may_sleep::<P>();
        if !self.settled.replace(true) && !mutant("settle-skipped") {
            self.wait_for_faults();
        }
        Ok(Settled { txn: PhantomData })
    }

    #[track_caller]
    fn wait_for_faults(&self) {
        let early = mutant("settle-mask-before-fence").then(|| self.space.cpus());
        point!(P, "settle-fencing");
        // The writer's half of the store buffering: after it, either a fault's slot is seen, or the fault sees the mark.
        fence_named("settle-fence");
        // Read after the fence: a CPU that is missing here joined, and fenced, later, and its faults see the marks.
        let cpus = early.unwrap_or_else(|| self.space.cpus());
        let hull = self.hull.borrow();
        P::event(Kind::SettleBegin, self.own_mark().word(), 0);
        let mut waited = 0;
        for cpu in cpus.iter() {
            point!(P, "settle-scanning");
            if self.locks.slots.wait_for_fault(cpu, &hull) {
                self.counters.bump(Counter::SettleWait);
                waited += 1;
            }
        }
        P::event(Kind::SettleEnd, self.own_mark().word(), waited);
    }

    /// The lock of a VMA that this transaction is going to publish: it carries the transaction's mark from the start.
    pub fn new_lock(&self) -> VmaLock {
        VmaLock::marked(self.own_mark())
    }

    /// Says that the VMA leaves the tree in this transaction. Faults that still find it are refused from the end on.
    /// The VMA carries this transaction's mark; it is freed after a grace period.
    pub fn detach(&self, settled: &Settled<'_>, lock: &VmaLock) {
        let _ = settled;
        debug_assert!(lock.carries(self.own_mark()), "a VMA must be marked before it is detached");
        lock.set_detached();
    }

    /// The transaction's name, in every VMA that it has marked.
    pub fn own_mark(&self) -> Mark {
        self.cell.mark()
    }
}
