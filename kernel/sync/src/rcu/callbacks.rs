//! Deferred frees: each CPU's queue of objects that wait for a grace period.
//!
//! A queue has three parts, oldest first: `ready` (their grace period is over), `waiting` (for the grace period `target`) and
//! `next` (not yet given a number). It is protected by a spin lock, so **any** CPU may bring any queue forward: a barrier
//! needs nobody's help, and the callbacks of a CPU that halts are not lost. Callbacks run in batches, without locks, in the
//! order of their queueing; while a batch runs nobody else runs callbacks of that queue.

use core::ptr::NonNull;

use super::{IDLE, Rcu};
use crate::order;
use crate::primitive::{AtomicUsize, MAX_CPUS, Ordering, UnsafeCell, load_own, mutant, weaken};
use crate::{CpuId, Platform, point};

/// What frees the object that contains the head.
pub(super) type Callback = unsafe fn(NonNull<RcuHead>);

/// The part of an object by which it waits for a grace period: two words, so that freeing needs no memory.
#[derive(Debug)]
pub struct RcuHead {
    next: UnsafeCell<Option<NonNull<RcuHead>>>,
    callback: UnsafeCell<Option<Callback>>,
}

// SAFETY: the fields are touched by the queue that holds the head, under its lock or in its running batch, and by nobody
// before `defer` and after the callback has begun.
unsafe impl Send for RcuHead {}
// SAFETY: as above.
unsafe impl Sync for RcuHead {}

impl RcuHead {
    crate::primitive::const_unless_loom! {
        /// In no queue.
        pub fn new() -> Self {
            RcuHead { next: UnsafeCell::new(None), callback: UnsafeCell::new(None) }
        }
    }
}

impl Default for RcuHead {
    fn default() -> Self {
        Self::new()
    }
}

/// Heads in the order of their queueing.
struct Queue {
    head: Option<NonNull<RcuHead>>,
    tail: Option<NonNull<RcuHead>>,
    len: usize,
}

impl Queue {
    const EMPTY: Queue = Queue { head: None, tail: None, len: 0 };

    fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    fn take(&mut self) -> Queue {
        core::mem::replace(self, Queue::EMPTY)
    }

    /// Appends all of `other`.
    fn append(&mut self, other: Queue) {
        let Some(first) = other.head else { return };
        match self.tail {
            // SAFETY: queued heads are alive and ours alone.
            Some(tail) => unsafe { tail.as_ref() }.next.with_mut(|next| {
                // SAFETY: as above.
                unsafe { *next = Some(first) }
            }),
            None => self.head = Some(first),
        }
        self.tail = other.tail;
        self.len += other.len;
    }

    /// Takes the first head out.
    fn pop(&mut self) -> Option<NonNull<RcuHead>> {
        let first = self.head?;
        // SAFETY: queued heads are alive and ours alone.
        self.head = unsafe { first.as_ref() }.next.with(|next| {
            // SAFETY: as above.
            unsafe { *next }
        });
        if self.head.is_none() {
            self.tail = None;
        }
        self.len -= 1;
        Some(first)
    }

    /// Takes the first `count` heads out.
    fn split(&mut self, count: usize) -> Queue {
        if count >= self.len {
            return self.take();
        }
        let mut front = Queue::EMPTY;
        for _ in 0..count {
            let Some(head) = self.pop() else { break };
            front.append(Queue::one(head));
        }
        front
    }

    fn one(head: NonNull<RcuHead>) -> Queue {
        // SAFETY: the caller has the head for itself.
        unsafe { head.as_ref() }.next.with_mut(|next| {
            // SAFETY: as above.
            unsafe { *next = None }
        });
        Queue { head: Some(head), tail: Some(head), len: 1 }
    }
}

/// One CPU's queue.
pub(super) struct Callbacks {
    ready: Queue,
    waiting: Queue,
    /// What `waiting` waits for.
    target: u64,
    next: Queue,
    /// A batch has been taken out and is running.
    running: bool,
}

// SAFETY: queued heads are owned by the queue (see `Rcu::defer`), and any CPU may run their callbacks.
unsafe impl Send for Callbacks {}

/// Fewest callbacks in a batch, if there are as many.
const BATCH: usize = 16;

impl Callbacks {
    pub(super) const fn new() -> Self {
        Callbacks { ready: Queue::EMPTY, waiting: Queue::EMPTY, target: 0, next: Queue::EMPTY, running: false }
    }

    fn is_idle(&self) -> bool {
        !self.running && self.ready.is_empty() && self.waiting.is_empty() && self.next.is_empty()
    }

    /// Moves each part forward as far as the grace periods allow.
    fn advance<P: Platform>(&mut self, rcu: &Rcu<P>) {
        loop {
            if !self.waiting.is_empty() {
                if !rcu.reached(self.target) {
                    return;
                }
                self.ready.append(self.waiting.take());
            }
            if self.next.is_empty() {
                return;
            }
            // One fence for the whole part: everything in it was unlinked before.
            self.target = rcu.target();
            self.waiting = self.next.take();
        }
    }

    /// Takes the next batch out: an eighth of what is ready, so that a flood is worked off faster than it grows.
    fn batch(&mut self) -> Queue {
        let count = BATCH.max(self.ready.len / 8);
        self.ready.split(count)
    }
}

impl<P: Platform> Rcu<P> {
    /// Calls `callback(head)` after a grace period, on any CPU, perhaps in an interrupt. Cannot fail; callable with
    /// interrupts off, in read sections and in callbacks, but not under a spin lock that an interrupt handler takes
    /// without turning interrupts off.
    ///
    /// # Safety
    /// The object that contains `head` is unlinked: no read section that begins after this call can find it. `head` stays
    /// valid and untouched until the callback, which may free the object, must not sleep, and is allowed to run on any CPU.
    pub unsafe fn defer(&self, head: NonNull<RcuHead>, callback: unsafe fn(NonNull<RcuHead>)) {
        point!(P, "rcu-deferring");
        self.enqueue(P::cpu(), head, callback);
    }

    fn enqueue(&self, cpu: CpuId, head: NonNull<RcuHead>, callback: Callback) {
        // SAFETY: the head is the caller's, and ours from now on.
        unsafe { head.as_ref() }.callback.with_mut(|slot| {
            // SAFETY: as above.
            unsafe { *slot = Some(callback) }
        });
        let state = &self.cpus[cpu.index()].0;
        let mut callbacks = state.callbacks.lock();
        callbacks.next.append(Queue::one(head));
        state.queued.store(state.queued.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Whether callbacks are queued on this CPU: it must go on polling, its tick must not stop.
    pub fn pending(&self) -> bool {
        self.own().queued.load(Ordering::Relaxed) != 0
    }

    /// Brings this CPU's queue forward and runs a batch of what is ready. Called from the tick and the idle loop, with
    /// interrupts on or off, in no read section of the calling context. Returns how many callbacks ran.
    pub fn poll(&self) -> usize {
        // A planted mistake: the caller may be a tick that has interrupted a read section.
        if (mutant("rcu-poll-reports") || P::planted("rcu-poll-reports")) && load_own(&self.own().seen) != IDLE {
            self.report(self.own(), self.started.0.load(Ordering::Relaxed));
        }
        self.poll_cpu(P::cpu())
    }

    fn poll_cpu(&self, cpu: CpuId) -> usize {
        let state = &self.cpus[cpu.index()].0;
        // Relaxed: our own queue, or one whose length the caller has seen; a miss costs one poll.
        if state.queued.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut batch = {
            let mut callbacks = state.callbacks.lock();
            if callbacks.running {
                return 0;
            }
            callbacks.advance(self);
            let batch = callbacks.batch();
            callbacks.running = !batch.is_empty();
            batch
        };
        let count = batch.len;
        if count == 0 {
            return 0;
        }
        while let Some(head) = batch.pop() {
            // SAFETY: the head was queued by `enqueue` and is out of every queue now.
            let callback = unsafe { head.as_ref() }.callback.with(|callback| {
                // SAFETY: as above.
                unsafe { *callback }
            });
            let Some(callback) = callback else { unreachable!("queued heads have callbacks") };
            point!(P, "rcu-callback");
            // SAFETY: whoever queued it allowed this call after a grace period, which is over.
            unsafe { callback(head) };
        }
        let mut callbacks = state.callbacks.lock();
        callbacks.running = false;
        state.queued.store(state.queued.load(Ordering::Relaxed) - count, Ordering::Relaxed);
        count
    }

    /// Sleeps until every callback queued before the call, on any CPU, has run. The caller is in no read section and no
    /// callback, and holds no spin lock.
    ///
    /// # Panics
    /// In debug builds, where nobody may sleep ([`crate::order::may_sleep`]).
    #[track_caller]
    pub fn barrier(&self) {
        order::may_sleep::<P>();
        let _waiting = self.waiting(self.target());
        let remaining = AtomicUsize::new(0);
        let entries: [Entry; MAX_CPUS] =
            core::array::from_fn(|_| Entry { head: RcuHead::new(), remaining: &raw const remaining });
        let mut expected = 0;
        let forgotten = usize::from(mutant("rcu-barrier-skips-a-queue") || P::planted("rcu-barrier-skips-a-queue"));
        for (index, entry) in entries.iter().enumerate().skip(forgotten) {
            // Queues are in order, so behind the last callback is behind all.
            if !self.cpus[index].0.callbacks.lock().is_idle() {
                expected += 1;
                // Relaxed: the queue's lock, which we take next, hands it to the callback.
                remaining.fetch_add(1, Ordering::Relaxed);
                self.enqueue(CpuId(index as u32), NonNull::from(&entry.head), Entry::passed);
            }
        }
        if expected == 0 {
            return;
        }
        loop {
            self.quiescent();
            for index in 0..MAX_CPUS {
                self.poll_cpu(CpuId(index as u32));
            }
            // Acquire: what the callbacks did comes before our return.
            if remaining.load(weaken("rcu-barrier-acquire", Ordering::Acquire)) == 0 {
                return;
            }
            // A batch that another CPU runs is waited for here.
            P::relax();
            self.wait_a_little(self.started.0.load(Ordering::Relaxed));
        }
    }
}

/// A barrier's place in one CPU's queue.
#[repr(C)]
struct Entry {
    head: RcuHead,
    /// Queues that the barrier still waits for, on its stack.
    remaining: *const AtomicUsize,
}

impl Entry {
    /// # Safety
    /// `head` is in an `Entry` whose barrier has not returned.
    unsafe fn passed(head: NonNull<RcuHead>) {
        // SAFETY: the head is the first field of an `Entry`.
        let remaining = unsafe { (*head.cast::<Entry>().as_ptr()).remaining };
        // SAFETY: the barrier returns when this reaches 0; we touch nothing of its stack afterwards.
        let remaining = unsafe { &*remaining };
        // Release: the callbacks before us in the queue come before the barrier's return.
        remaining.fetch_sub(1, weaken("rcu-barrier-release", Ordering::Release));
    }
}
