//! The list of all contexts, for the watchdog: every thread from its making to its reaping, and the CPUs' handlers.
//!
//! In builds with debug assertions only. The list links threads through themselves, so it allocates nothing; a thread leaves
//! it before its memory goes, so whoever holds the list's lock may look at all of them.

use core::cell::UnsafeCell;
use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering;

use sync::order::waits::{Contexts, Seen};
use sync::spin::SpinGuard;
use sync::{Class, CpuId, Platform, SpinLock};

use super::held;
use super::thread::Thread;
use crate::arch::percpu;
use crate::platform::Machine;

/// A thread's place in the list, under the list's lock.
pub(super) struct ContextLink(UnsafeCell<Links>);

struct Links {
    before: Option<NonNull<Thread>>,
    after: Option<NonNull<Thread>>,
}

impl ContextLink {
    pub(super) const fn new() -> ContextLink {
        ContextLink(UnsafeCell::new(Links { before: None, after: None }))
    }
}

/// The first thread.
struct List(Option<NonNull<Thread>>);

// SAFETY: threads are `Sync`, and live while they are in the list.
unsafe impl Send for List {}

static THREADS: SpinLock<Machine, List> = sync::spin_lock(Class::Contexts, List(None));

impl List {
    /// The links of a thread; the result is used while the list is borrowed, that is under its lock.
    ///
    /// # Safety
    /// `thread` is in the list, or about to enter it.
    unsafe fn links<'a>(&mut self, thread: NonNull<Thread>) -> &'a mut Links {
        // SAFETY: the thread lives, says the caller.
        let cell = unsafe { thread.as_ref() }.contexts.0.get();
        // SAFETY: reached only under the list's lock, which `&mut self` proves to be held.
        unsafe { &mut *cell }
    }
}

/// Enters a thread that has just been made, and tells reports where its record lies.
pub(super) fn add(thread: NonNull<Thread>) {
    let mut list = THREADS.lock();
    let after = list.0.replace(thread);
    if let Some(after) = after {
        // SAFETY: it is in the list.
        unsafe { list.links(after) }.before = Some(thread);
    }
    // SAFETY: the caller's, alive.
    let made = unsafe { thread.as_ref() };
    made.report.locks.store(ptr::from_ref(&made.held).addr() as u64, Ordering::Relaxed);
    // SAFETY: about to enter it.
    *unsafe { list.links(thread) } = Links { before: None, after };
}

/// Takes out a thread that has ended, before its memory goes.
pub(super) fn remove(thread: NonNull<Thread>) {
    let mut list = THREADS.lock();
    // SAFETY: it has been in the list since it was made.
    let &mut Links { before, after } = unsafe { list.links(thread) };
    match before {
        // SAFETY: a neighbour is in the list.
        Some(before) => unsafe { list.links(before) }.after = after,
        None => list.0 = after,
    }
    if let Some(after) = after {
        // SAFETY: a neighbour is in the list.
        unsafe { list.links(after) }.before = before;
    }
}

/// All contexts, as long as this lives.
pub(super) struct All(SpinGuard<'static, Machine, List>);

impl All {
    /// `None` if somebody changes the list right now, or looks through it: never waits.
    pub(super) fn try_now() -> Option<All> {
        THREADS.try_lock().map(All)
    }
}

/// A thread as reports call it.
struct ThreadName<'a>(&'a Thread);

impl fmt::Display for ThreadName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread {}@{:#x}", self.0.name, self.0.id().0)
    }
}

/// A CPU's interrupt handlers as reports call them.
struct HandlerName(CpuId);

impl fmt::Display for HandlerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupt handler of CPU {}", self.0.0)
    }
}

impl Contexts for All {
    fn each(&self, visit: &mut dyn FnMut(&Seen<'_>)) {
        let mut at = self.0.0;
        while let Some(thread) = at {
            // SAFETY: it is in the list, whose lock we hold, hence alive.
            let found = unsafe { thread.as_ref() };
            let cpu = found.last_cpu();
            let runs = percpu::get(cpu).current_thread.load(Ordering::Relaxed) == found.id().0;
            visit(&Seen { held: &found.held, name: &ThreadName(found), cpu: runs.then_some(cpu) });
            // SAFETY: under the list's lock, as above; read only.
            at = unsafe { &*found.contexts.0.get() }.after;
        }
        for index in 0..Machine::cpu_count() {
            let cpu = CpuId(index as u32);
            let Some(held) = held::of_interrupts(cpu) else { continue };
            let runs = ptr::eq(percpu::get(cpu).held.load(Ordering::Relaxed), held);
            visit(&Seen { held, name: &HandlerName(cpu), cpu: runs.then_some(cpu) });
        }
    }
}
