//! Serving a page fault.
//!
//! | step | protected by | ends when |
//! |---|---|---|
//! | announce the fault in this CPU's slot | interrupts off | the slot is cleared |
//! | look the VMA up | RCU, the slot section | its lock is held |
//! | read-lock the VMA | the slot: a writer that marks it waits for us | the slot is cleared |
//! | make the entry | compare-and-swap: one wins, the others give their frame back | |
//!
//! The fast path answers only *yes*. No mapping, or no right, is decided in the slow path, by a small transaction of the
//! fault's own: nothing protects an absence (slot protocol, rule 4). A fault that meets a mark sleeps until that
//! transaction has ended and starts again; after [`MAX_RETRIES`] it becomes a transaction, too.
//!
//! That is so under all read protocols (`sync`'s `vma_lock`) but `mm`, where the whole fault holds the address space's lock for
//! reading. The slot in the table above is the protocol `slot`; under the others the fault counts itself in at the VMA.
//!
//! Called by the kernel's trap handler, and by its user-copy's.

use core::panic::Location;

use abi::event::{FAULT_REFUSED, Kind as Event};
use abi::{Counter, Extreme, ReadProtocol, USER_END};
use sync::{Abort, InterruptGuard, InterruptState, Mark, Platform, ReadRefused, Txn, point};

use crate::{
    addr::page_floor,
    error::{FaultError, OutOfMemory},
    frame::Owner,
    paging::Entry,
    space::AddressSpace,
    vma::{Access, Kind, Rights, Vma},
};

/// Sleeps before a fault becomes a transaction.
const MAX_RETRIES: u32 = 3;

/// How a fault was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// It made or mended the entry.
    Installed,
    /// The entry was good already: another CPU was first, or this one had an old translation.
    Spurious,
}

/// What the fast path says.
enum Fast {
    Served(Served),
    /// A running transaction has marked the VMA.
    Marked(Mark),
    /// Perhaps no: ask the slow path.
    Unsure,
    OutOfMemory,
}

impl<P: Platform> AddressSpace<P> {
    /// Makes the access at `addr` succeed, or says why it never can. The calling CPU has joined this address space.
    ///
    /// Called with interrupts off, and returns with interrupts off; in between the slow path turns them on, and may sleep.
    /// The caller holds no lock, is in no RCU read section, and has no transaction open.
    ///
    /// # Errors
    /// [`FaultError`].
    pub fn fault(&self, addr: u64, access: Access) -> Result<(), FaultError> {
        let counters = &*self.counters;
        counters.bump(Counter::Fault);
        P::event(Event::FaultBegin, addr, access as u64);
        let ending = self.resolve(addr, access);
        P::event(Event::FaultEnd, addr, ending.as_ref().map_or(FAULT_REFUSED, |&ending| ending as u64));
        counters.bump(ending?);
        Ok(())
    }

    /// As [`AddressSpace::fault`], for a page that the kernel wants now, with interrupts on.
    pub(crate) fn fault_in(&self, addr: u64, access: Access) -> Result<(), FaultError> {
        let _off = InterruptGuard::<P>::new();
        self.resolve(addr, access).map(|_| ())
    }

    fn resolve(&self, addr: u64, access: Access) -> Result<Counter, FaultError> {
        if addr >= USER_END {
            return Err(FaultError::NoMapping);
        }
        let page = page_floor(addr);
        if self.memory.locks.pair().read() == ReadProtocol::Mm {
            return interrupts_on::<P, _>(|| self.fault_under_space_lock(page, access));
        }
        for attempt in 0..=MAX_RETRIES {
            match self.fault_locked(page, access) {
                Fast::Served(Served::Installed) => return Ok(Counter::FaultLocked),
                Fast::Served(Served::Spurious) => return Ok(Counter::FaultSpurious),
                Fast::OutOfMemory => return Err(FaultError::OutOfMemory),
                Fast::Unsure => break,
                Fast::Marked(_) if attempt == MAX_RETRIES => break,
                Fast::Marked(mark) => self.wait(mark, page),
            }
        }
        interrupts_on::<P, _>(|| self.fault_in_transaction(page, access))?;
        Ok(Counter::FaultFallback)
    }

    /// The fast path, from the slot to the entry.
    fn fault_locked(&self, page: u64, access: Access) -> Fast {
        let memory = self.memory;
        // A fault inside a fault is a bug of the kernel's (slot protocol, rule 7).
        let section = memory.locks.enter(page).expect("user memory was touched inside a fault");
        let guard = memory.rcu.read();
        let Some(item) = self.tree.find(&guard, page) else {
            self.counters.bump(Counter::FaultMiss);
            return Fast::Unsure;
        };
        point!(P, "fault-found");
        // SAFETY: found under `guard`.
        let vma = unsafe { item.value.get() };
        let _held = match vma.lock().read(&section, &memory.locks, &self.counters) {
            Ok(held) => held,
            Err(ReadRefused::Marked(mark)) => {
                self.counters.bump(Counter::FaultAbort);
                return Fast::Marked(mark);
            }
            Err(ReadRefused::Detached) => {
                self.counters.bump(Counter::FaultMiss);
                return Fast::Unsure;
            }
        };
        debug_assert!(vma.range().contains(&page), "VMAs are immutable, and the tree knows their bounds");
        if vma.kind() != Kind::Anonymous || !vma.attributes().rights.allow(access) {
            return Fast::Unsure;
        }
        // SAFETY: `vma` is read-locked as long as `_held` and `section` live.
        match unsafe { self.serve(page, access, vma.attributes().rights) } {
            Ok(served) => Fast::Served(served),
            Err(OutOfMemory) => Fast::OutOfMemory,
        }
    }

    /// The whole fault under the address space's lock, as before there were locks in VMAs: no writer is there, so what is found
    /// is so, a missing mapping too.
    fn fault_under_space_lock(&self, page: u64, access: Access) -> Result<Counter, FaultError> {
        let reader = self.update.read();
        if let Some(since_ns) = reader.waited_since_ns() {
            self.counters.bump(Counter::FaultWait);
            self.counters.took(Extreme::FaultWait, since_ns, Location::caller());
        }
        let guard = self.memory.rcu.read();
        let Some(item) = self.tree.find(&guard, page) else {
            self.counters.bump(Counter::FaultMiss);
            return Err(FaultError::NoMapping);
        };
        // SAFETY: found under `guard`.
        let vma = unsafe { item.value.get() };
        if !vma.attributes().rights.allow(access) {
            return Err(FaultError::Denied { vma: self.info(vma) });
        }
        // SAFETY: the lock keeps all transactions out, which comes to the same as a read-locked VMA.
        match unsafe { self.serve(page, access, vma.attributes().rights) }? {
            Served::Installed => Ok(Counter::FaultLocked),
            Served::Spurious => Ok(Counter::FaultSpurious),
        }
    }

    /// Sleeps until the transaction that set `mark` has ended.
    fn wait(&self, mark: Mark, page: u64) {
        self.counters.bump(Counter::FaultWait);
        let since_ns = P::now_ns();
        interrupts_on::<P, _>(|| self.memory.locks.wait_for_end(mark, page));
        self.counters.took(Extreme::FaultWait, since_ns, Location::caller());
        self.counters.bump(Counter::FaultRetry);
    }

    /// The slow path: what a transaction finds is so.
    fn fault_in_transaction(&self, page: u64, access: Access) -> Result<(), FaultError> {
        let answer = self.transaction(|txn| {
            let Some(vma) = self.lock_for_fault(txn, page)? else { return Ok(Err(FaultError::NoMapping)) };
            if !vma.attributes().rights.allow(access) {
                return Ok(Err(FaultError::Denied { vma: self.info(vma) }));
            }
            // SAFETY: `vma` is marked and settled by `txn`.
            let served = unsafe { self.serve(page, access, vma.attributes().rights) };
            Ok(served.map(|_| ()).map_err(|OutOfMemory| FaultError::OutOfMemory))
        });
        // A transaction of this body fails for want of memory only.
        answer.unwrap_or(Err(FaultError::OutOfMemory))
    }

    /// The VMA at `page`, marked and settled by `txn`, or `None` if there is none.
    pub(crate) fn lock_for_fault<'t>(&self, txn: &'t mut Txn<'_, P>, page: u64) -> Result<Option<&'t Vma>, Abort> {
        let guard = self.memory.rcu.read();
        let Some(item) = self.tree.find(&guard, page) else { return Ok(None) };
        // SAFETY: found under `guard`; after that marked and settled, and looked up again below.
        let vma = unsafe { item.value.get() };
        if vma.kind() == Kind::Tombstone {
            return Err(txn.wait_for(vma.lock()));
        }
        txn.mark(vma.lock(), vma.range())?;
        drop(guard);
        let _settled = txn.settle()?;
        point!(P, "fallback-settled");
        let guard = self.memory.rcu.read();
        // The same entry, and the same VMA in its place: then nobody else takes it away.
        // SAFETY: in the tree, and looked into under `guard`.
        if self.tree.find(&guard, page) != Some(item) || !txn.has_marked(unsafe { item.value.get() }.lock()) {
            return Err(Abort::Again);
        }
        Ok(Some(vma))
    }

    /// Makes the entry of `page` allow `access`, which `rights` do.
    ///
    /// # Safety
    /// The VMA of `page`, which has `rights`, is read-locked or settled by the caller.
    pub(crate) unsafe fn serve(&self, page: u64, access: Access, rights: Rights) -> Result<Served, OutOfMemory> {
        point!(P, "fault-locked");
        // SAFETY: the VMA keeps the tables (the caller); the walk starts after the VMA checks.
        let cell = unsafe { self.tables.leaf_or_create(page) }?;
        let mut present = cell.load();
        loop {
            if present.is_empty() {
                let frame = self.memory.frames.alloc_zeroed(Owner::Anon)?;
                point!(P, "before-install");
                match cell.compare_exchange(Entry::EMPTY, Entry::page(frame.phys(), rights)) {
                    Ok(()) => {
                        frame.into_raw();
                        return Ok(Served::Installed);
                    }
                    // Another CPU was first. `frame` goes back here.
                    Err(winner) => present = winner,
                }
            } else if present.allows(access) {
                return Ok(Served::Spurious);
            } else {
                // The entry lags behind the VMA's rights: the page is the same, so no flush is needed.
                match cell.compare_exchange(present, Entry::page(present.phys(), rights)) {
                    Ok(()) => return Ok(Served::Installed),
                    Err(now) => present = now,
                }
            }
        }
    }
}

/// Runs `f`, which may sleep, with interrupts on, and turns them off again.
fn interrupts_on<P: Platform, T>(f: impl FnOnce() -> T) -> T {
    P::interrupts_restore(InterruptState::On);
    let result = f();
    // They were off when the fault came, and the trap's return restores the rest.
    let _ = P::interrupts_disable();
    result
}
