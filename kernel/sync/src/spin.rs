//! The spin lock: short, leaf, interrupts off while held.
//!
//! Guarantees mutual exclusion between CPUs, and between a thread and the interrupt handlers of its CPU. A waiter spins
//! with interrupts off through [`Platform::relax`], which serves TLB flush requests, so no two CPUs wait for each
//! other's acknowledgement (slot protocol, rule 6). A holder never sleeps and never waits for another CPU.
//!
//! Locks are released in the reverse order of taking: the outermost one remembers whether interrupts were on.
//!
//! In debug builds each lock knows its class, and each taking is checked against the lock order ([`crate::order`]).

use core::marker::PhantomData;

use lock_api::{GuardNoSend, RawMutex};

use crate::order::{self, Class, Mode, NO_RANGE, Tag, Wait, Waiting};
use crate::primitive::{AtomicBool, Ordering, UnsafeCell, cleared, const_unless_loom, wait_while_set, weaken};
use crate::{InterruptState, Platform};

/// The lock word and the holder's interrupt state.
pub struct RawSpin<P: Platform> {
    locked: AtomicBool,
    /// What interrupts were before the holder turned them off. Protected by `locked`.
    saved: UnsafeCell<InterruptState>,
    tag: Tag,
    platform: PhantomData<fn() -> P>,
}

// SAFETY: `saved` is touched by the holder of `locked` only.
unsafe impl<P: Platform> Sync for RawSpin<P> {}

impl<P: Platform> RawSpin<P> {
    const_unless_loom! {
        /// An open lock of `class`.
        pub fn new(class: Class) -> Self {
            RawSpin {
                locked: AtomicBool::new(false),
                saved: UnsafeCell::new(InterruptState::Off),
                tag: Tag::new(class),
                platform: PhantomData,
            }
        }
    }

    /// One attempt. Acquire pairs with the last holder's Release in `unlock`.
    #[inline(always)]
    fn take(&self) -> bool {
        self.locked
            .compare_exchange(false, true, weaken("spin-lock-acquire", Ordering::Acquire), Ordering::Relaxed)
            .is_ok()
    }

    /// Remembers, as the holder, what interrupts were.
    #[inline(always)]
    fn remember(&self, state: InterruptState) {
        // SAFETY: the caller holds the lock.
        self.saved.with_mut(|saved| unsafe { *saved = state });
    }

    /// What the lock-order validator knows it by.
    #[inline(always)]
    fn name(&self) -> (Class, u64) {
        (self.tag.class(), core::ptr::from_ref(self).addr() as u64)
    }

    /// Waits for the lock, which another CPU holds. Interrupts are off.
    #[cold]
    #[track_caller]
    fn wait(&self) {
        let (class, address) = self.name();
        let _waiting = Waiting::<P>::new(Wait::Lock, class, address, NO_RANGE);
        loop {
            wait_while_set(&self.locked, P::relax);
            if self.take() {
                return;
            }
        }
    }
}

// SAFETY: `locked` goes from false to true by compare-and-swap only, and back by its holder only.
unsafe impl<P: Platform> RawMutex for RawSpin<P> {
    const INIT: Self = panic!("a lock has a class: use `spin_lock`");

    type GuardMarker = GuardNoSend;

    #[inline]
    #[track_caller]
    fn lock(&self) {
        let state = P::interrupts_disable();
        let (class, address) = self.name();
        order::before::<P>(class, address);
        if !self.take() {
            self.wait();
        }
        self.remember(state);
        order::acquired::<P>(class, Mode::Write, address, NO_RANGE);
    }

    // Whoever does not wait deadlocks with nobody: not checked against the order.
    #[inline]
    #[track_caller]
    fn try_lock(&self) -> bool {
        let state = P::interrupts_disable();
        if self.take() {
            self.remember(state);
            let (class, address) = self.name();
            order::acquired::<P>(class, Mode::Write, address, NO_RANGE);
            return true;
        }
        P::interrupts_restore(state);
        false
    }

    #[inline]
    #[track_caller]
    unsafe fn unlock(&self) {
        let (class, address) = self.name();
        order::released::<P>(class, address);
        // SAFETY: the caller holds the lock.
        let state = self.saved.with(|saved| unsafe { *saved });
        // Release: the critical section comes before the next holder's.
        self.locked.store(false, weaken("spin-unlock-release", Ordering::Release));
        cleared(&self.locked);
        P::interrupts_restore(state);
    }

    fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }
}

/// A `T` behind a spin lock. Made by [`spin_lock`].
pub type SpinLock<P, T> = lock_api::Mutex<RawSpin<P>, T>;
/// The holder's access to a [`SpinLock`].
pub type SpinGuard<'a, P, T> = lock_api::MutexGuard<'a, RawSpin<P>, T>;

const_unless_loom! {
    /// An open spin lock of `class` around `value`. `const`, but not in loom models.
    pub fn spin_lock<P: Platform, T>(class: Class, value: T) -> SpinLock<P, T> {
        lock_api::Mutex::const_new(RawSpin::new(class), value)
    }
}

/// Interrupts are off while this lives. Guards are dropped in the reverse order of their making.
pub struct InterruptGuard<P: Platform> {
    state: InterruptState,
    /// Not to be sent: the state belongs to this CPU.
    platform: PhantomData<*const P>,
}

impl<P: Platform> InterruptGuard<P> {
    /// Turns interrupts off.
    #[inline]
    pub fn new() -> Self {
        InterruptGuard { state: P::interrupts_disable(), platform: PhantomData }
    }
}

impl<P: Platform> Default for InterruptGuard<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> Drop for InterruptGuard<P> {
    #[inline]
    fn drop(&mut self) {
        P::interrupts_restore(self.state);
    }
}
