//! The fair reader-writer lock: sleeping, first come, first served.
//!
//! Whoever releases the lock hands it to the head of the queue: to one writer, or to all readers in front of the next
//! writer. Nobody overtakes a queue, so nobody starves. All state is under one spin lock, which orders everything:
//! a critical section happens before the next one because its end and the other's grant pass through that lock.
//!
//! Used by `bulk` transactions as the one write lock of an address space. Holders may sleep. Callers hold no spin lock
//! and are in no RCU read section. Not interruptible: queues are served in finite time.

use core::marker::PhantomData;
use core::ptr::NonNull;

use crate::list::{List, Node};
use crate::order::{self, Class, Mode, NO_RANGE, Tag, Wait, Waiting};
use crate::primitive::const_unless_loom;
use crate::spin::{SpinLock, spin_lock};
use crate::{Platform, ThreadId, point};

/// A fair sleeping reader-writer lock. It guards no data of its own; see [`crate::UpdateLock`].
pub struct FairRwLock<P: Platform> {
    state: SpinLock<P, State>,
    tag: Tag,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reader,
    Writer,
}

impl Kind {
    fn mode(self) -> Mode {
        match self {
            Kind::Reader => Mode::Read,
            Kind::Writer => Mode::Write,
        }
    }
}

struct Waiter {
    thread: ThreadId,
    kind: Kind,
}

struct State {
    /// Readers that hold the lock.
    readers: usize,
    /// Writers that hold the lock: 0 or 1.
    writers: usize,
    queue: List<Waiter>,
}

impl State {
    fn admits(&self, kind: Kind) -> bool {
        self.writers == 0 && (kind == Kind::Reader || self.readers == 0)
    }

    fn enter(&mut self, kind: Kind) {
        match kind {
            Kind::Reader => self.readers += 1,
            Kind::Writer => self.writers += 1,
        }
    }

    /// Hands the lock to as many at the head of the queue as may hold it together.
    fn hand_over<P: Platform>(&mut self) {
        while let Some(node) = self.queue.front() {
            // SAFETY: linked nodes are alive: a waiter leaves only after it saw, under the lock that we hold, that it is
            // out of the queue.
            let Waiter { thread, kind } = unsafe { &node.as_ref().value };
            if !self.admits(*kind) {
                return;
            }
            let (thread, kind) = (*thread, *kind);
            self.enter(kind);
            self.queue.pop_front();
            P::unpark(thread);
        }
    }
}

impl<P: Platform> FairRwLock<P> {
    const_unless_loom! {
        /// An open lock of `class`. `const`, but not in loom models.
        pub fn new(class: Class) -> Self {
            let state = State { readers: 0, writers: 0, queue: List::new() };
            FairRwLock { state: spin_lock(Class::FairLock, state), tag: Tag::new(class) }
        }
    }

    /// Waits for the lock, alone.
    ///
    /// # Panics
    /// In debug builds, where the lock order forbids it ([`crate::order::before`]).
    #[track_caller]
    pub fn write(&self) -> WriteGuard<'_, P> {
        let waited_since_ns = self.acquire(Kind::Writer);
        WriteGuard { lock: self, waited_since_ns, not_send: PhantomData }
    }

    /// Waits for the lock, together with other readers. A thread that reads already must not: a writer queued between
    /// would make it wait for itself.
    ///
    /// # Panics
    /// As [`FairRwLock::write`].
    #[track_caller]
    pub fn read(&self) -> ReadGuard<'_, P> {
        let waited_since_ns = self.acquire(Kind::Reader);
        ReadGuard { lock: self, waited_since_ns, not_send: PhantomData }
    }

    /// How many threads wait for the lock now: for reports and tests.
    pub fn waiting(&self) -> usize {
        self.state.lock().queue.len()
    }

    /// What the lock-order validator knows it by.
    fn name(&self) -> (Class, u64) {
        (self.tag.class(), core::ptr::from_ref(self).addr() as u64)
    }

    /// Returns since when it waited, if it did.
    #[track_caller]
    fn acquire(&self, kind: Kind) -> Option<u64> {
        let (class, address) = self.name();
        order::before::<P>(class, address);
        order::may_sleep::<P>();
        let waited_since_ns = self.enter(kind);
        order::acquired::<P>(class, kind.mode(), address, NO_RANGE);
        waited_since_ns
    }

    #[track_caller]
    fn enter(&self, kind: Kind) -> Option<u64> {
        let mut state = self.state.lock();
        if state.queue.front().is_none() && state.admits(kind) {
            state.enter(kind);
            return None;
        }
        let since_ns = P::now_ns();
        let (class, address) = self.name();
        let mut node = Node::new(Waiter { thread: P::current_thread(), kind });
        let node = NonNull::from(&mut node);
        // SAFETY: the node is in no list, and stays here until it is out of the queue.
        unsafe { state.queue.push_back(node) };
        let _waiting = Waiting::<P>::new(Wait::Lock, class, address, NO_RANGE);
        // SAFETY: the node is ours, and in this queue or none.
        while unsafe { state.queue.is_linked(node) } {
            drop(state);
            point!(P, "lock-parking");
            P::park(None);
            state = self.state.lock();
        }
        // Out of the queue means that `hand_over` entered for us.
        Some(since_ns)
    }

    fn release(&self, kind: Kind) {
        let (class, address) = self.name();
        order::released::<P>(class, address);
        let mut state = self.state.lock();
        match kind {
            Kind::Reader => state.readers -= 1,
            Kind::Writer => state.writers -= 1,
        }
        point!(P, "lock-handing-over");
        state.hand_over::<P>();
    }
}

/// The lock is held alone while this lives.
#[must_use]
pub struct WriteGuard<'a, P: Platform> {
    lock: &'a FairRwLock<P>,
    waited_since_ns: Option<u64>,
    not_send: PhantomData<*const ()>,
}

impl<P: Platform> WriteGuard<'_, P> {
    /// When the holder began to wait for the lock ([`Platform::now_ns`]); `None` if it was free.
    pub fn waited_since_ns(&self) -> Option<u64> {
        self.waited_since_ns
    }
}

impl<P: Platform> Drop for WriteGuard<'_, P> {
    fn drop(&mut self) {
        self.lock.release(Kind::Writer);
    }
}

/// The lock is held, perhaps together with others, while this lives.
#[must_use]
pub struct ReadGuard<'a, P: Platform> {
    lock: &'a FairRwLock<P>,
    waited_since_ns: Option<u64>,
    not_send: PhantomData<*const ()>,
}

impl<P: Platform> ReadGuard<'_, P> {
    /// As [`WriteGuard::waited_since_ns`].
    pub fn waited_since_ns(&self) -> Option<u64> {
        self.waited_since_ns
    }
}

impl<P: Platform> Drop for ReadGuard<'_, P> {
    fn drop(&mut self) {
        self.lock.release(Kind::Reader);
    }
}
