//! Run queues: one first-in-first-out list of runnable threads a CPU, and the choice of the CPU that a thread goes to.
//!
//! Every thread in a queue has its context saved and belongs to the queue alone (through `Thread::run_link`), so any
//! CPU may take it out and run it. One lock at a time, never two: an idle CPU that steals locks the victim's queue
//! only.
//!
//! ## No lost wake-up of a CPU
//! A CPU that goes idle sets its bit in [`IDLE`], then looks into the queues; one that enqueues a thread pushes it,
//! then looks at the bit. Both with a full fence in between, so at least one sees the other: either the idle CPU
//! finds the thread, or the other one finds the bit, takes it, and sends an interrupt, which ends the halt
//! (interrupts are off from before the look until the instruction after `sti`, which is the `hlt`).

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use abi::MAX_CPUS;
use sync::{Class, CpuId, CpuSet, Platform, SpinLock};

use super::thread::Thread;
use crate::arch::{ipi, percpu};
use crate::platform::Machine;

/// The CPUs in their idle loop with nothing to run: bit `n` is set by CPU `n` and taken by whoever gives it work, or
/// itself.
static IDLE: AtomicU64 = AtomicU64::new(0);

/// The CPUs that take threads; a bit is set once and for all when its CPU has an idle thread.
static ONLINE: AtomicU64 = AtomicU64::new(0);

static QUEUES: [RunQueue; MAX_CPUS] = [const { RunQueue::new() }; MAX_CPUS];

/// The runnable threads of one CPU, but for the one that runs.
#[repr(align(128))]
struct RunQueue {
    list: SpinLock<Machine, List>,
    /// Length of the list, for looks without the lock.
    len: AtomicUsize,
}

struct List {
    head: Option<NonNull<Thread>>,
    tail: Option<NonNull<Thread>>,
}

// SAFETY: the pointers are to threads, which are `Send`, and which the list owns while they are in it.
unsafe impl Send for List {}

impl List {
    /// Links `next` behind `thread`. `&mut self` is the lock under which links of this list change.
    ///
    /// # Safety
    /// `thread` lives, and is in this list or about to enter it.
    unsafe fn set_next(&mut self, thread: NonNull<Thread>, next: Option<NonNull<Thread>>) {
        // SAFETY: it lives, says the caller.
        let link = unsafe { thread.as_ref() }.run_link.get();
        // SAFETY: the link belongs to the list that the thread is in, and the list is ours.
        unsafe { *link = next };
    }
}

impl RunQueue {
    const fn new() -> RunQueue {
        RunQueue { list: sync::spin_lock(Class::RunQueue, List { head: None, tail: None }), len: AtomicUsize::new(0) }
    }

    /// Puts `thread` at the end of `cpu`'s queue, which this is. False, and nothing is done: it may not run there (any more).
    fn push(&self, thread: NonNull<Thread>, cpu: CpuId) -> bool {
        let mut list = self.list.lock();
        // Under the lock: whoever changes the affinity looks into this queue afterwards (`move_misplaced`).
        // SAFETY: the caller hands over a live thread.
        if !unsafe { thread.as_ref() }.affinity().contains(cpu) {
            return false;
        }
        // SAFETY: the caller hands over a live thread that is in no queue.
        unsafe { list.set_next(thread, None) };
        match list.tail {
            // SAFETY: it is in this list, hence alive.
            Some(tail) => unsafe { list.set_next(tail, Some(thread)) },
            None => list.head = Some(thread),
        }
        list.tail = Some(thread);
        self.len.store(self.len.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        true
    }

    /// Takes out the first thread that may run on `cpu`.
    fn pop_for(&self, cpu: CpuId) -> Option<NonNull<Thread>> {
        // A miss here is harmless: `announce_idle` is what makes the look that matters see every push.
        if self.len.load(Ordering::Relaxed) == 0 {
            return None;
        }
        self.remove_first(|thread| thread.affinity().contains(cpu))
    }

    /// Takes out the first thread that `wanted` accepts.
    fn remove_first(&self, wanted: impl Fn(&Thread) -> bool) -> Option<NonNull<Thread>> {
        let mut list = self.list.lock();
        let mut before: Option<NonNull<Thread>> = None;
        let mut at = list.head;
        while let Some(thread) = at {
            // SAFETY: it is in this list, hence alive.
            let found = unsafe { thread.as_ref() };
            // SAFETY: its link is ours under the lock.
            let next = unsafe { *found.run_link.get() };
            if wanted(found) {
                match before {
                    // SAFETY: as above, for the thread before it.
                    Some(before) => unsafe { list.set_next(before, next) },
                    None => list.head = next,
                }
                if next.is_none() {
                    list.tail = before;
                }
                self.len.store(self.len.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
                return Some(thread);
            }
            before = at;
            at = next;
        }
        None
    }
}

/// The CPUs that take threads.
pub(crate) fn online() -> CpuSet {
    CpuSet(ONLINE.load(Ordering::Acquire))
}

/// `cpu` takes threads from now on.
pub(super) fn set_online(cpu: CpuId) {
    ONLINE.fetch_or(cpu.bit().0, Ordering::AcqRel);
}

/// How many threads wait in `cpu`'s queue; a hint.
pub(super) fn waiting(cpu: CpuId) -> usize {
    QUEUES[cpu.index()].len.load(Ordering::Relaxed)
}

/// A thread for `cpu`: its own queue's first, else one stolen from another queue. Interrupts are off.
pub(super) fn take(cpu: CpuId) -> Option<NonNull<Thread>> {
    if let Some(thread) = QUEUES[cpu.index()].pop_for(cpu) {
        return Some(thread);
    }
    let count = Machine::cpu_count();
    // Begin at the neighbour, so that idle CPUs do not all rob the first one.
    (1..count).map(|step| (cpu.index() + step) % count).find_map(|victim| QUEUES[victim].pop_for(cpu))
}

/// Makes `thread` runnable: chooses a CPU, hands the thread to its queue, and wakes that CPU if it is idle.
///
/// The caller owns the thread: it is in no queue, its context is saved, and it does not run.
pub(super) fn enqueue(thread: NonNull<Thread>) {
    let cpu = loop {
        // SAFETY: the caller owns the live thread.
        let this = unsafe { thread.as_ref() };
        let cpu = choose(this);
        // Told before the push: after it the thread may already run elsewhere.
        this.cpu.store(cpu.0, Ordering::Relaxed);
        // Between this store and `push`'s look at the affinity; the other half stands in `user::take_affinity`, between the
        // new affinity and `move_misplaced`'s look at the CPU: either we see the one, or it the other, and then our push.
        fence(Ordering::SeqCst);
        if QUEUES[cpu.index()].push(thread, cpu) {
            break cpu;
        }
    };
    // Between our push and our look at the bit: the other half stands in `announce_idle`.
    fence(Ordering::SeqCst);
    if take_idle(cpu) && cpu != Machine::cpu() {
        ipi::nudge(cpu.bit());
    }
}

/// Where a thread that becomes runnable goes: its last CPU if that is idle, else an idle one that it may use, else
/// the one with the shortest queue.
fn choose(thread: &Thread) -> CpuId {
    let allowed = thread.affinity();
    let last = thread.last_cpu();
    let idle = CpuSet(IDLE.load(Ordering::Relaxed) & allowed.0);
    if idle.contains(last) {
        return last;
    }
    if let Some(cpu) = idle.iter().next() {
        return cpu;
    }
    // One more for each CPU but the last one: a tie stays where its cache lines are.
    allowed.iter().min_by_key(|&cpu| 2 * waiting(cpu) + usize::from(cpu != last)).unwrap_or(last)
}

/// Takes `cpu`'s idle bit. Whoever gets it owes the CPU an interrupt.
fn take_idle(cpu: CpuId) -> bool {
    let bit = cpu.bit().0;
    // The look first: the line is shared by all CPUs, and mostly the bit is clear.
    IDLE.load(Ordering::Relaxed) & bit != 0 && IDLE.fetch_and(!bit, Ordering::Relaxed) & bit != 0
}

/// This CPU is about to halt: from here on whoever enqueues for it interrupts it. The caller looks into the queues
/// **after** this, with interrupts off until it halts.
pub(super) fn announce_idle(cpu: CpuId) {
    IDLE.fetch_or(cpu.bit().0, Ordering::Relaxed);
    // Between our bit and our look into the queues: the other half stands in `enqueue`.
    fence(Ordering::SeqCst);
}

/// Whether no CPU has anything to run, at this moment.
pub(super) fn all_idle() -> bool {
    // Relaxed: a hint, out of date when it is used.
    IDLE.load(Ordering::Relaxed) == ONLINE.load(Ordering::Relaxed)
}

/// This CPU runs again.
pub(super) fn leave_idle(cpu: CpuId) {
    take_idle(cpu);
}

/// Asks `cpu` to reschedule before it next returns to user mode.
pub(super) fn request_reschedule(cpu: CpuId) {
    percpu::get(cpu).need_resched.store(true, Ordering::Relaxed);
    if cpu != Machine::cpu() {
        // The interrupt is what the other CPU notices; the flag is what it then looks at.
        ipi::nudge(cpu.bit());
    }
}

/// After a change of `thread`'s affinity: moves it to a queue that it may stand in, if it stands in a wrong one.
pub(super) fn move_misplaced(thread: &Thread) {
    let cpu = thread.last_cpu();
    if thread.affinity().contains(cpu) {
        return;
    }
    // It may run, sleep, or have moved on meanwhile: then it is not in this queue, and its next `enqueue` obeys,
    // as does one that is under way.
    if let Some(found) = QUEUES[cpu.index()].remove_first(|queued| core::ptr::eq(queued, thread)) {
        enqueue(found);
    }
}
