//! Sleeping with a deadline: for each CPU a list of the threads that fell asleep there with one, earliest first.
//!
//! The list links threads through [`SleepLink`], so a sleep allocates nothing. A thread enters the list of the CPU it
//! is on, as the last thing before it parks, and takes itself out after it has woken, **always passing through the
//! list's lock**. The timer interrupt ([`expire`]) notifies under that same lock, so the thread cannot be gone while
//! it does.
//!
//! Insertion walks from the late end: timeouts mostly come in rising order. Lock order: sleep list, then run queue.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use abi::MAX_CPUS;
use sync::park::Enqueue;
use sync::{Class, CpuId, SpinLock};

use super::runqueue;
use super::thread::Thread;
use crate::platform::Machine;

/// A thread's place in a sleep list.
pub(super) struct SleepLink {
    /// The CPU whose list it entered last. Written and read by the thread alone.
    cpu: AtomicU32,
    /// Protected by that list's lock.
    node: UnsafeCell<Node>,
}

#[derive(Clone, Copy)]
struct Node {
    deadline_ns: u64,
    earlier: Option<NonNull<Thread>>,
    later: Option<NonNull<Thread>>,
    listed: Listed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Listed {
    Yes,
    No,
}

impl SleepLink {
    pub(super) const fn new() -> SleepLink {
        let node = Node { deadline_ns: 0, earlier: None, later: None, listed: Listed::No };
        SleepLink { cpu: AtomicU32::new(0), node: UnsafeCell::new(node) }
    }
}

struct List {
    first: Option<NonNull<Thread>>,
    last: Option<NonNull<Thread>>,
}

// SAFETY: the pointers are to live threads (they leave the list themselves), which are `Sync`.
unsafe impl Send for List {}

#[repr(align(128))]
struct Sleepers(SpinLock<Machine, List>);

static SLEEPERS: [Sleepers; MAX_CPUS] =
    [const { Sleepers(sync::spin_lock(Class::SleepList, List { first: None, last: None })) }; MAX_CPUS];

impl List {
    /// The node of a thread. The result is used while the list is borrowed, that is under its lock.
    ///
    /// # Safety
    /// `thread` lives, and it is in this list or about to enter it.
    unsafe fn node<'a>(&mut self, thread: NonNull<Thread>) -> &'a mut Node {
        // SAFETY: the thread lives, says the caller.
        let cell = unsafe { thread.as_ref() }.sleep.node.get();
        // SAFETY: nodes of this list are reached only under its lock, which `&mut self` proves to be held.
        unsafe { &mut *cell }
    }

    fn insert(&mut self, thread: NonNull<Thread>, deadline_ns: u64) {
        let mut before = self.last;
        while let Some(candidate) = before {
            // SAFETY: it is in the list.
            let node = unsafe { self.node(candidate) };
            if node.deadline_ns <= deadline_ns {
                break;
            }
            before = node.earlier;
        }
        let after = match before {
            // SAFETY: it is in the list.
            Some(before) => unsafe { self.node(before) }.later.replace(thread),
            None => self.first.replace(thread),
        };
        match after {
            // SAFETY: it is in the list.
            Some(after) => unsafe { self.node(after) }.earlier = Some(thread),
            None => self.last = Some(thread),
        }
        // SAFETY: the caller's thread, about to enter.
        *unsafe { self.node(thread) } = Node { deadline_ns, earlier: before, later: after, listed: Listed::Yes };
    }

    fn remove(&mut self, thread: NonNull<Thread>) {
        // SAFETY: the caller found it in this list.
        let node = unsafe { self.node(thread) };
        let Node { earlier, later, .. } = *node;
        node.listed = Listed::No;
        match earlier {
            // SAFETY: a neighbour in the list.
            Some(earlier) => unsafe { self.node(earlier) }.later = later,
            None => self.first = later,
        }
        match later {
            // SAFETY: a neighbour in the list.
            Some(later) => unsafe { self.node(later) }.earlier = earlier,
            None => self.last = earlier,
        }
    }

    fn first_deadline(&mut self) -> Option<u64> {
        let first = self.first?;
        // SAFETY: it is in the list.
        Some(unsafe { self.node(first) }.deadline_ns)
    }
}

/// Puts the calling thread into this CPU's list. Interrupts are off, and stay off until it has switched away.
pub(super) fn add(thread: &Thread, cpu: CpuId, deadline_ns: u64) {
    thread.sleep.cpu.store(cpu.0, Ordering::Relaxed);
    SLEEPERS[cpu.index()].0.lock().insert(NonNull::from(thread), deadline_ns);
}

/// Takes the calling thread out of the list that it entered, if the timer has not.
pub(super) fn remove(thread: &Thread) {
    let cpu = CpuId(thread.sleep.cpu.load(Ordering::Relaxed));
    let mut list = SLEEPERS[cpu.index()].0.lock();
    let pointer = NonNull::from(thread);
    // SAFETY: the caller entered this list, and its node is under this list's lock until it enters another.
    if unsafe { list.node(pointer) }.listed == Listed::Yes {
        list.remove(pointer);
    }
}

/// Wakes every thread of `cpu`'s list whose deadline has passed, and returns how many.
pub(super) fn expire(cpu: CpuId, now_ns: u64) -> usize {
    let mut woken = 0;
    let mut list = SLEEPERS[cpu.index()].0.lock();
    while let Some(first) = list.first {
        if list.first_deadline().is_none_or(|deadline| deadline > now_ns) {
            break;
        }
        list.remove(first);
        // SAFETY: the thread passes through this lock, which we hold, before it may end.
        if unsafe { first.as_ref() }.parking.notify() == Enqueue::Caller {
            runqueue::enqueue(first);
        }
        woken += 1;
    }
    woken
}

/// The earliest deadline of `cpu`'s sleepers.
pub(super) fn first_deadline(cpu: CpuId) -> Option<u64> {
    SLEEPERS[cpu.index()].0.lock().first_deadline()
}
