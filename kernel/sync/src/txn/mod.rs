//! Update transactions: the write side of an address space.
//!
//! A memory call is a body that may be run again from its start: check arguments, mark the VMAs concerned, settle, look
//! up, prepare (the last step that can fail), publish. [`update`] runs it. However the body ends, the transaction ends,
//! and everything that it marked is unlocked at once. The body never touches user memory: a fault on its own mark would
//! wait for itself.
//!
//! How two transactions on one address space go together is the update protocol's business (`run`): `bulk` lets one in at a
//! time, `wound_wait`, `cycle` and `cycle_held` let them meet. No body may rely on being the only writer: what it found may have changed
//! until it is marked **and** found again.

mod cycle;
mod cycle_held;
mod run;
mod space;
mod wound_wait;

pub use run::{Priority, update, update_as};
pub use space::UpdateLock;

use core::cell::{Cell, RefCell};
use core::marker::PhantomData;
use core::ops::Range;
use core::panic::Location;

use abi::event::Kind;
use abi::{Counter, Errno, Extreme, ReadProtocol};

use crate::order::{self, Class, Mode, NO_RANGE};
use crate::primitive::{fence_named, mutant};
use crate::vma_lock::{Drained, OwnedCell};
use crate::{AllocError, Counters, Mark, Platform, VmaLock, VmaLocks, point};

/// Why a body stops before its end. Nothing has been published then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// The world has changed since the body looked: run it again.
    Again,
    /// The transaction of this mark goes first: run the body again when it has ended.
    Wait(Mark),
    /// Kernel memory is out: the call fails with ENOMEM, unless its caller finds some.
    NoMemory,
    /// The call fails.
    Errno(Errno),
}

impl From<Errno> for Abort {
    fn from(errno: Errno) -> Self {
        Abort::Errno(errno)
    }
}

impl From<AllocError> for Abort {
    fn from(AllocError: AllocError) -> Self {
        Abort::NoMemory
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
    /// Goes after the cell.
    held: Held<'a, P>,
    /// Hull of the ranges marked so far; empty at first.
    hull: RefCell<Range<u64>>,
    /// Whether every mark so far has been settled over the whole hull.
    settled: Cell<bool>,
    /// Who refused a lock last because it held it, and the lock's address.
    refused: Cell<Option<(Mark, u64)>>,
}

/// Since when a transaction holds marks. Dropped, it says for how long it did.
struct Held<'a, P: Platform> {
    counters: &'a Counters<P>,
    /// 0: it has marked nothing yet.
    since_ns: Cell<u64>,
    /// Who began the transaction.
    site: &'static Location<'static>,
}

impl<P: Platform> Held<'_, P> {
    /// The transaction marks a VMA.
    fn begin(&self) {
        if self.since_ns.get() == 0 {
            self.since_ns.set(P::now_ns());
        }
    }
}

impl<P: Platform> Drop for Held<'_, P> {
    fn drop(&mut self) {
        if self.since_ns.get() != 0 {
            self.counters.took(Extreme::TxnHold, self.since_ns.get(), self.site);
        }
    }
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
    fn begin(space: &'a UpdateLock<P>, locks: &'a VmaLocks<P>, counters: &'a Counters<P>, age: u64) -> Self {
        counters.bump(Counter::Txn);
        let cell = locks.cells.take(age);
        let record = Record::new(cell.mark());
        let held = Held { counters, since_ns: Cell::new(0), site: Location::caller() };
        Txn {
            space,
            locks,
            counters,
            _record: record,
            cell,
            held,
            hull: RefCell::new(0..0),
            settled: Cell::new(true),
            refused: Cell::new(None),
        }
    }

    /// Marks a published VMA, which covers `range` (page-aligned addresses; empty for what no fault concerns). It is locked from the next
    /// [`Txn::settle`] until the transaction ends. Marking a VMA twice does no harm. The caller keeps the VMA alive for the
    /// call (an RCU read section); faults that are waited for here, under some read protocols, never sleep.
    ///
    /// # Errors
    /// [`Abort::Wait`], if another transaction goes first; not under `bulk`.
    ///
    /// # Panics
    /// In debug builds, if the lock order forbids it.
    #[track_caller]
    pub fn mark(&mut self, lock: &VmaLock, range: Range<u64>) -> Result<(), Abort> {
        let own = self.own_mark();
        if lock.carries(own) {
            return Ok(());
        }
        order::before::<P>(Class::VmaWrite, own.word());
        if self.locks.pair().has_one_writer() {
            lock.set_mark(own);
        } else {
            self.take_mark(lock)?;
        }
        self.held.begin();
        point!(P, "mark-stored");
        order::acquired::<P>(Class::VmaWrite, Mode::Write, own.word(), range.clone());
        self.counters.bump(Counter::VmaMarked);
        P::event(Kind::Mark, range.start, range.end);
        if let Drained::Waited { since_ns } = self.locks.drain(lock) {
            self.counters.bump(Counter::SettleWait);
            self.counters.took(Extreme::SettleWait, since_ns, self.held.site);
        }
        let hull = self.hull.get_mut();
        if hull.is_empty() {
            *hull = range;
        } else if !range.is_empty() {
            *hull = hull.start.min(range.start)..hull.end.max(range.end);
        }
        self.settled.set(false);
        Ok(())
    }

    fn take_mark(&self, lock: &VmaLock) -> Result<(), Abort> {
        let (own, cells) = (self.own_mark(), &self.locks.cells);
        self.cell.hold(lock.address());
        lock.take_mark(own, cells).map_err(|theirs| {
            self.cell.let_go(lock.address());
            // If not the holder, then one that we let go first, which need not hold the lock.
            let holds = lock.locked_by(cells) == Some(theirs);
            self.refused.set(holds.then(|| (theirs, lock.address())));
            Abort::Wait(theirs)
        })
    }

    /// The address of the lock for whose sake this transaction is to sleep until `theirs` ends; 0 if `theirs` was not known to
    /// hold one.
    fn contended(&self, theirs: Mark) -> u64 {
        self.refused.get().map_or(0, |(holder, address)| if holder == theirs { address } else { 0 })
    }

    /// Says that the body cannot go on while another transaction has `lock` marked, and has met it without wanting the mark:
    /// a reservation, say, that will be gone. To be returned by the body, in the read section in which it found the lock.
    pub fn wait_for(&self, lock: &VmaLock) -> Abort {
        // A reservation is in nobody's list of held locks.
        self.refused.set(None);
        match lock.locked_by(&self.locks.cells) {
            Some(theirs) if theirs != self.own_mark() => Abort::Wait(theirs),
            _ => Abort::Again,
        }
    }

    /// Whether this transaction has marked `lock`. In the tree's publication section: whether the VMA found there is the one
    /// that was marked, and not another one in its memory.
    pub fn has_marked(&self, lock: &VmaLock) -> bool {
        lock.carries(self.own_mark())
    }

    /// Waits until no fault is inside what has been marked. Under `slot`: one fence and one look at each CPU's slot for all
    /// marks. Under the other read protocols nobody is: marking has waited.
    /// The caller is in no RCU read section that a fault could wait for, holds no spin lock, and has interrupts on or
    /// off: the wait serves TLB flush requests, and is at most one fault per CPU long.
    ///
    /// # Errors
    /// None yet; a protocol may want to stop here.
    ///
    /// # Panics
    /// In debug builds, where nobody may wait for other CPUs ([`crate::order::may_sleep`]).
    #[track_caller]
    pub fn settle(&self) -> Result<Settled<'_>, Abort> {
        order::may_sleep::<P>();
        let by_slots = self.locks.pair().read() == ReadProtocol::Slot;
        if !self.settled.replace(true) && by_slots && !mutant("settle-skipped") {
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
        let mut waiting_since_ns = None;
        for cpu in cpus.iter() {
            point!(P, "settle-scanning");
            if let Some(since_ns) = self.locks.slots.wait_for_fault(cpu, &hull) {
                self.counters.bump(Counter::SettleWait);
                waiting_since_ns.get_or_insert(since_ns);
                waited += 1;
            }
        }
        if let Some(since_ns) = waiting_since_ns {
            self.counters.took(Extreme::SettleWait, since_ns, self.held.site);
        }
        P::event(Kind::SettleEnd, self.own_mark().word(), waited);
    }

    /// The lock of a VMA that this transaction is going to publish: it carries the transaction's mark from the start.
    pub fn new_lock(&self) -> VmaLock {
        self.held.begin();
        VmaLock::marked(self.own_mark(), self.locks)
    }

    /// Says that the VMA leaves the tree in this transaction. Faults that still find it are refused from the end on.
    /// The VMA carries this transaction's mark; it is freed after a grace period.
    pub fn detach(&self, settled: &Settled<'_>, lock: &VmaLock) {
        let _ = settled;
        debug_assert!(lock.carries(self.own_mark()), "a VMA must be marked before it is detached");
        self.locks.detach(lock);
    }

    /// The transaction's name, in every VMA that it has marked.
    pub fn own_mark(&self) -> Mark {
        self.cell.mark()
    }
}
