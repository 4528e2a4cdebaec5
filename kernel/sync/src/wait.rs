//! The wait queue: sleep until a condition holds.
//!
//! **No wake-up is lost.** A waiter enters the queue, fences, and then looks at its condition; a waker makes the
//! condition true, fences, and then looks whether anyone is in the queue. With full fences on both sides (store
//! buffering) either the waiter sees the condition or the waker sees the waiter.
//!
//! **A waker's thread id is alive.** Waiters lie on their threads' stacks. A waker takes one out and unparks its thread
//! under the queue's spin lock; the waiter passes through that lock before it leaves.
//!
//! Callers hold no spin lock and are in no RCU read section; `wake_*` may be called from anywhere, interrupts included.

use core::ops::Range;
use core::ptr::NonNull;

use crate::list::{List, Node};
use crate::order::{self, Class, NO_RANGE, Wait, Waiting};
use crate::primitive::{AtomicUsize, Ordering, const_unless_loom, fence_named};
use crate::spin::{SpinLock, spin_lock};
use crate::{Platform, ThreadId, point};

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The condition held.
    Woken,
    /// The deadline passed, and the condition did not hold.
    TimedOut,
    /// The thread was told to die, and the condition did not hold.
    Interrupted,
}

/// Whether a wait ends when [`Platform::interrupted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruptible {
    /// It does.
    Yes,
    /// It does not: the condition comes true without help from programs.
    No,
}

/// Threads that sleep until some condition holds, first come, first woken.
pub struct WaitQueue<P: Platform> {
    /// Length of `list`, for wakers that find nobody. Written under `list`'s lock.
    waiting: AtomicUsize,
    list: SpinLock<P, List<ThreadId>>,
}

impl<P: Platform> WaitQueue<P> {
    const_unless_loom! {
        /// An empty queue. `const`, but not in loom models.
        pub fn new() -> Self {
            WaitQueue { waiting: AtomicUsize::new(0), list: spin_lock(Class::WaitQueue, List::new()) }
        }
    }

    /// Sleeps until `condition` returns true, the deadline ([`Platform::now_ns`]'s clock) passes, or, if `interruptible`,
    /// the thread is told to die. `condition` may act (take a resource); it is called without locks, any number of
    /// times, and not again after it returned true.
    ///
    /// # Panics
    /// In debug builds, where nobody may sleep ([`crate::order::may_sleep`]).
    #[track_caller]
    pub fn wait_until(
        &self,
        condition: impl FnMut() -> bool,
        deadline_ns: Option<u64>,
        interruptible: Interruptible,
    ) -> Waited {
        let address = core::ptr::from_ref(self).addr() as u64;
        self.wait_for((Wait::Event, Class::None, address, NO_RANGE), condition, deadline_ns, interruptible)
    }

    /// As [`WaitQueue::wait_until`]; `what` is waited for, as [`Waiting::new`] takes it.
    #[track_caller]
    pub(crate) fn wait_for(
        &self,
        what: (Wait, Class, u64, Range<u64>),
        mut condition: impl FnMut() -> bool,
        deadline_ns: Option<u64>,
        interruptible: Interruptible,
    ) -> Waited {
        order::may_sleep::<P>();
        if condition() {
            return Waited::Woken;
        }
        let (wait, class, address, range) = what;
        let _waiting = Waiting::<P>::new(wait, class, address, range);
        let mut node = Node::new(P::current_thread());
        let node = NonNull::from(&mut node);
        loop {
            self.enter(node);
            point!(P, "wait-entered");
            // Between entering the queue and looking at the condition: see the module's first paragraph.
            fence_named("wait-waiter-fence");
            let ended = if condition() {
                Some(Waited::Woken)
            } else if interruptible == Interruptible::Yes && P::interrupted() {
                Some(Waited::Interrupted)
            } else if deadline_ns.is_some_and(|deadline| P::now_ns() >= deadline) {
                Some(Waited::TimedOut)
            } else {
                None
            };
            if let Some(why) = ended {
                self.leave(node);
                return why;
            }
            point!(P, "wait-parking");
            P::park(deadline_ns);
        }
    }

    /// Wakes the thread that has waited longest. Returns how many were woken: 0 or 1.
    pub fn wake_one(&self) -> usize {
        fence_named("wait-waker-fence");
        self.wake_fenced(1)
    }

    /// Wakes all threads that wait now. Returns how many.
    pub fn wake_all(&self) -> usize {
        fence_named("wait-waker-fence");
        self.wake_fenced(usize::MAX)
    }

    /// As `wake_*`, for a caller that made the condition true and then passed a full fence.
    pub(crate) fn wake_fenced(&self, count: usize) -> usize {
        point!(P, "wait-waking");
        // Relaxed: ordered by the fence. Not 0 only sends us to the lock, where the truth is.
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        let mut list = self.list.lock();
        let mut woken = 0;
        while woken < count && Self::wake_front(&mut list) {
            woken += 1;
        }
        self.waiting.store(list.len(), Ordering::Relaxed);
        woken
    }

    /// Takes the first waiter out and unparks it; false if there is none.
    fn wake_front(list: &mut List<ThreadId>) -> bool {
        let Some(node) = list.pop_front() else { return false };
        // SAFETY: the waiter passes through the lock, which we hold, before its node goes.
        P::unpark(unsafe { node.as_ref() }.value);
        true
    }

    /// Puts `node` into the queue, unless it is there.
    fn enter(&self, node: NonNull<Node<ThreadId>>) {
        let mut list = self.list.lock();
        // SAFETY: `node` is the caller's own, and goes into this queue only.
        if unsafe { !list.is_linked(node) } {
            // SAFETY: it is in no list; `wait_until` leaves the queue before it returns.
            unsafe { list.push_back(node) };
            self.waiting.store(list.len(), Ordering::Relaxed);
        }
    }

    /// Takes `node` out of the queue. If a waker did that already, its wake-up was spent on a thread that leaves for
    /// another reason (or on one that had found its condition true before): the next waiter gets it. A wake-up too
    /// many costs a look at a condition; one too few would cost a sleep without end.
    fn leave(&self, node: NonNull<Node<ThreadId>>) {
        let mut list = self.list.lock();
        // SAFETY: `node` is the caller's own, and was put into this queue only.
        if unsafe { list.is_linked(node) } {
            // SAFETY: it is linked here.
            unsafe { list.remove(node) };
        } else if !crate::primitive::mutant("wait-keep-wake") {
            Self::wake_front(&mut list);
        }
        self.waiting.store(list.len(), Ordering::Relaxed);
    }
}

impl<P: Platform> Default for WaitQueue<P> {
    fn default() -> Self {
        Self::new()
    }
}
