//! Flush first, free after.
//!
//! A transaction that takes translations away collects, while nothing may fail: the addresses, the frames that no entry
//! holds any more, and the page tables that were unlinked. [`Gather::finish`] then does what must be done in this
//! order: **one** TLB shootdown, to the CPUs that may hold the translations; the frames go back; the tables wait for a
//! grace period, which thus begins after the acknowledgements (slot protocol, 8.4).
//!
//! Those CPUs are the sharers of the leaf tables concerned (`paging::sharers`), as far as they run the address space.
//! Nothing is sent where nothing was present. Called by `unmap`, `map`, `protect`, `advise`, inside their transactions.

use core::sync::atomic::{Ordering, fence};

use abi::Counter;
use arrayvec::ArrayVec;
use sync::{CpuSet, FlushRequest, FlushScope, Platform, point, primitive::mutant};

use crate::{
    frame::{Frame, FrameList},
    paging::{Entry, Sharers, Unlinked, table::entry_span},
    space::AddressSpace,
};

/// More pages than this, and the whole TLB is flushed: Linux's choice is 33.
const MAX_PAGES: usize = 32;

/// Leaf tables whose sharers are read by one fence.
const MAX_TABLES: usize = 8;

/// What must be flushed, and what can be freed after.
#[must_use]
pub(crate) struct Gather<'a, P: Platform> {
    space: &'a AddressSpace<P>,
    pages: ArrayVec<u64, MAX_PAGES>,
    all: Scope,
    /// Number of the 2 MiB span that the last page was in.
    span: u64,
    /// Leaf tables that have lost translations, and whose sharers have not been read since.
    tables_to_ask: ArrayVec<Sharers, MAX_TABLES>,
    /// Who may hold what is to be flushed, as far as it has been read.
    cpus: CpuSet,
    frames: FrameList<P>,
    tables: FrameList<P>,
}

/// How much `pages` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Everything: the pages listed.
    Listed,
    /// Not enough: there are more, or cached upper levels must go too.
    All,
}

impl<'a, P: Platform> Gather<'a, P> {
    pub(crate) fn new(space: &'a AddressSpace<P>) -> Self {
        let frames = space.memory.frames;
        Gather {
            space,
            pages: ArrayVec::new(),
            all: Scope::Listed,
            span: u64::MAX,
            tables_to_ask: ArrayVec::new(),
            cpus: CpuSet::EMPTY,
            frames: FrameList::new(frames),
            tables: FrameList::new(frames),
        }
    }

    /// The translation of `addr`, which lies in a settled VMA of the caller's, was taken away, or lost rights.
    pub(crate) fn flush_page(&mut self, addr: u64) {
        let span = addr / entry_span(2);
        if span != self.span {
            self.span = span;
            self.ask_sharers(addr);
        }
        if self.all == Scope::Listed && self.pages.try_push(addr).is_err() && !mutant("gather-forgets-pages") {
            self.all = Scope::All;
        }
    }

    /// The sharers of `addr`'s leaf table are to be flushed. They are read later: more entries of the table may go.
    fn ask_sharers(&mut self, addr: u64) {
        // SAFETY: a settled VMA keeps the table, and the metadata of its frame is there for ever.
        let Some(sharers) = (unsafe { self.space.tables.sharers(addr) }) else {
            unreachable!("a table that had an entry is gone")
        };
        if self.tables_to_ask.is_full() {
            // For the entries of all these tables, which are complete.
            fence(Ordering::SeqCst);
            self.read_sharers();
        }
        self.tables_to_ask.push(sharers);
        if mutant("gather-asks-too-early") {
            self.read_sharers();
        }
        point!(P, "sharers-noted");
    }

    /// Reads the sharers of all tables noted. A full fence stands between the last entry that was taken out and this.
    fn read_sharers(&mut self) {
        for sharers in self.tables_to_ask.drain(..) {
            self.cpus.0 |= sharers.cpus().0;
        }
    }

    /// `entry` was taken out of the leaf entry of `addr`: its frame is to be freed.
    pub(crate) fn take_page(&mut self, addr: u64, entry: Entry) {
        if entry.is_empty() {
            return;
        }
        if entry.is_present() {
            self.flush_page(addr);
        }
        self.free_entry(entry);
    }

    /// Takes apart the tables in `unlinked`, pages and all. Needs a full flush even if no page is left in them: the
    /// processors may have cached the upper levels.
    pub(crate) fn take_tables(&mut self, unlinked: &mut Unlinked<P>) {
        if unlinked.is_empty() {
            return;
        }
        if !mutant("gather-keeps-uppers") {
            self.all = Scope::All;
        }
        let tables = &self.space.tables;
        let (frames, space) = (&mut self.frames, self.space);
        let free_page = &mut |entry| frames.push(frame_of(space, entry), 0);
        self.cpus.0 |= tables.dismantle(unlinked, free_page, &mut self.tables).0;
    }

    fn free_entry(&mut self, entry: Entry) {
        self.frames.push(frame_of(self.space, entry), 0);
    }

    /// Flushes, waits for all acknowledgements, frees.
    pub(crate) fn finish(mut self) {
        point!(P, "before-flush");
        if mutant("gather-frees-pages-first") {
            self.frames = FrameList::new(self.space.memory.frames);
        }
        if mutant("gather-frees-tables-first") {
            self.tables = FrameList::new(self.space.memory.frames);
        }
        if !mutant("gather-no-flush") {
            self.flush();
        }
        point!(P, "after-flush");
        while let Some((frame, _)) = self.frames.pop() {
            drop(frame);
        }
        while let Some((table, _)) = self.tables.pop() {
            if mutant("gather-no-grace") {
                continue; // the table is dropped, hence free at once
            }
            self.space.memory.frames.free_after_grace(table, &self.space.memory.rcu);
        }
    }

    fn flush(&mut self) {
        if self.all == Scope::Listed && self.pages.is_empty() {
            return;
        }
        // Has the fence that `read_sharers` wants.
        let running = self.space.update.cpus_to_flush();
        self.read_sharers();
        let mut cpus = CpuSet(running.0 & self.cpus.0);
        if mutant("gather-flushes-self") {
            cpus.0 &= P::cpu().bit().0;
        }
        if cpus.is_empty() {
            return;
        }
        let scope = match self.all {
            Scope::Listed => FlushScope::Pages(&self.pages),
            Scope::All => FlushScope::All,
        };
        let asked = P::shootdown(&FlushRequest { space: self.space.tables.root(), cpus, scope });
        if asked > 0 {
            self.space.counters.bump(Counter::Shootdown);
        }
    }
}

/// The frame that a leaf entry held.
fn frame_of<P: Platform>(space: &AddressSpace<P>, entry: Entry) -> Frame<P> {
    // SAFETY: a leaf entry owns its frame (`fault` put `into_raw`'s number in), and it was taken out just once.
    unsafe { space.memory.frames.from_raw(entry.phys()) }
}
