//! TLB shootdown: removing translations from the TLBs of other CPUs, and knowing that they are gone.
//!
//! Each CPU has one **request** record, which it fills in as an initiator, and one **inbox**, a word in which bit `i` means
//! that CPU `i`'s request is waiting to be served. An initiator sets its bit in each target's inbox, interrupts the targets
//! whose inbox was empty, and waits until its record's `pending` mask is 0. A target takes its whole inbox with one swap,
//! does what each request says, and clears its own bit in that request's `pending`.
//!
//! Any number of CPUs may initiate at once. They cannot deadlock: whoever waits here (or in any other spin of the kernel)
//! serves its own inbox by [`serve`], with interrupts on or off.
//!
//! ## Orderings
//!
//! - Initiator: the caller's table changes, then the inbox's `fetch_or` (Release). Target: inbox `swap` (Acquire), then the
//!   flush, which is serialising: the target's later page walks see the changed tables. An initiator that asks nobody needs no
//!   more than the flush itself.
//! - The CPU mask that the caller hands in was read after a full fence of its own (`sync::txn`, `mm::paging::sharers`); a CPU
//!   that joins the address space sets its bit, fences, and only then loads CR3: either the initiator sees the bit, or the new
//!   CPU's first walk sees the new tables. It is the same with a CPU that links a leaf table into its own tables.
//! - A target that has left the address space meanwhile flushes all the same, whatever it runs now: that is seldom, and does
//!   no harm.
//! - Target: flush, then `pending.fetch_and` (Release). Initiator: reads 0 by Acquire, so the target's flushes, and its use of
//!   the borrowed page list, come before the initiator's return, which may free the frames and drops the list.
//! - A bit that an initiator finds set already in an inbox word (so that it sends no interrupt) was set by another initiator,
//!   which sends its interrupt after its own `fetch_or`. The target's swap takes both or leaves both for that interrupt.

use core::arch::asm;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use abi::event::Kind;
use abi::{Counter, MAX_CPUS};
use sync::order::{self, Class, NO_RANGE, Wait, Waiting};
use sync::{CpuId, CpuSet, FlushRequest, FlushScope, InterruptGuard, Platform, point};

use super::{cpu, idt, ipi, percpu};
use crate::event::event;
use crate::platform::Machine;

/// From how many pages on dropping everything is cheaper than page by page.
const MANY_PAGES: usize = 32;

/// What an initiator asks for. Written by its CPU while `pending` is 0; read by targets whose bit is set there.
#[repr(align(128))]
struct Request {
    /// The pages to flush; null for everything.
    pages: AtomicPtr<u64>,
    page_count: AtomicUsize,
    /// Targets that have not yet acknowledged.
    pending: AtomicU64,
}

/// Requests that wait for one target: bit `i` is CPU `i`'s. Alone on its line, because every initiator writes it.
#[repr(align(128))]
struct Inbox(AtomicU64);

static REQUESTS: [Request; MAX_CPUS] = [const {
    Request { pages: AtomicPtr::new(ptr::null_mut()), page_count: AtomicUsize::new(0), pending: AtomicU64::new(0) }
}; MAX_CPUS];

static INBOXES: [Inbox; MAX_CPUS] = [const { Inbox(AtomicU64::new(0)) }; MAX_CPUS];

/// Removes translations from the TLBs of all CPUs of the request; returns when all have acknowledged, with the number of
/// other CPUs that were asked. See [`sync::Platform::shootdown`].
pub fn shootdown(request: &FlushRequest<'_>) -> usize {
    order::may_sleep::<Machine>();
    let me = percpu::id();
    let targets = request.cpus.without(me);
    #[cfg(debug_assertions)]
    let targets = if crate::plant::skips_flush() { CpuSet::EMPTY } else { targets };
    if !targets.is_empty() {
        begin(request, targets, me);
    }
    if request.cpus.contains(me) {
        match request.scope {
            FlushScope::Pages(pages) => flush_pages(pages),
            FlushScope::All => flush_all(),
        }
    }
    if !targets.is_empty() {
        finish(targets, me);
    }
    targets.iter().count()
}

/// Asks `targets`, which are not empty. They flush while this CPU does.
#[inline(never)]
fn begin(request: &FlushRequest<'_>, targets: CpuSet, me: CpuId) {
    let pages = if let FlushScope::Pages(pages) = request.scope { pages.len() as u64 } else { u64::MAX };
    event(Kind::ShootdownBegin, targets.0, pages);
    post(&REQUESTS[me.index()], request, targets, me);
}

/// Waits until all `targets` have acknowledged.
#[inline(never)]
fn finish(targets: CpuSet, me: CpuId) {
    let pending = &REQUESTS[me.index()].pending;
    if pending.load(Ordering::Acquire) != 0 {
        let _waiting = Waiting::<Machine>::new(Wait::Shootdown, Class::None, targets.0, NO_RANGE);
        while pending.load(Ordering::Acquire) != 0 {
            Machine::relax();
        }
    }
    event(Kind::ShootdownEnd, targets.0, 0);
}

/// Fills in the own record and tells the targets.
fn post(mine: &Request, request: &FlushRequest<'_>, targets: CpuSet, me: CpuId) {
    debug_assert_eq!(mine.pending.load(Ordering::Relaxed), 0, "a shootdown inside a shootdown");
    let (pages, count) = match request.scope {
        FlushScope::Pages(pages) => (pages.as_ptr().cast_mut(), pages.len()),
        FlushScope::All => (ptr::null_mut(), 0),
    };
    // Relaxed: the inboxes' Release publishes them.
    mine.pages.store(pages, Ordering::Relaxed);
    mine.page_count.store(count, Ordering::Relaxed);
    mine.pending.store(targets.0, Ordering::Relaxed);
    let mut to_interrupt = CpuSet::EMPTY;
    for target in targets.iter() {
        if INBOXES[target.index()].0.fetch_or(me.bit().0, Ordering::Release) == 0 {
            to_interrupt.0 |= target.bit().0;
        }
    }
    ipi::send(to_interrupt, idt::FLUSH);
}

/// Serves all requests in this CPU's inbox. Called by every spin in the kernel (`Platform::relax`), so the empty case is one
/// load of the CPU's own line.
#[inline]
pub fn serve() {
    // Relaxed: an empty look is only a hint, and the swap in `serve_inbox` acquires.
    if INBOXES[percpu::id().index()].0.load(Ordering::Relaxed) != 0 {
        serve_now();
    }
}

#[cold]
fn serve_now() {
    // Not for the protocol (a flush interrupt in between would find the inbox without our requests) but for the counter, which
    // is a plain load and store.
    let _off = InterruptGuard::<Machine>::new();
    serve_inbox(percpu::id());
}

/// As [`serve`], for the flush interrupt: interrupts are off. A spin may have served everything already.
pub fn serve_interrupt() {
    serve_inbox(percpu::id());
}

#[inline]
fn serve_inbox(me: CpuId) {
    let waiting = CpuSet(INBOXES[me.index()].0.swap(0, Ordering::Acquire));
    for initiator in waiting.iter() {
        let request = &REQUESTS[initiator.index()];
        let pages = request.pages.load(Ordering::Relaxed);
        if pages.is_null() {
            flush_all();
        } else {
            let count = request.page_count.load(Ordering::Relaxed);
            // SAFETY: the initiator's borrowed list lives until our bit is clear in `pending`.
            flush_pages(unsafe { core::slice::from_raw_parts(pages, count) });
        }
        point!(Machine, "flush-acknowledging");
        crate::memory::count(Counter::IpiFlush, 1);
        event(Kind::FlushServed, initiator.0.into(), 0);
        request.pending.fetch_and(!me.bit().0, Ordering::Release);
    }
}

/// Drops this CPU's translations of `pages`, and all its cached upper levels (SDM vol. 3, 4.10.4.1: INVLPG does both).
fn flush_pages(pages: &[u64]) {
    if pages.len() > MANY_PAGES {
        return flush_all();
    }
    for page in pages {
        // SAFETY: dropping translations changes nothing but what the next walks find.
        unsafe { asm!("invlpg [{}]", in(reg) *page, options(nostack, preserves_flags)) };
    }
}

/// Drops all of this CPU's non-global translations.
fn flush_all() {
    // SAFETY: the root that is loaded already.
    unsafe { cpu::load_root(cpu::current_root()) };
}
