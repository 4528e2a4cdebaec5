//! The park word: how a thread falls asleep on its CPU while other CPUs wake it.
//!
//! ```text
//!          begin_park               end_switch
//! RUNNING ------------> PARKING ------------------> PARKED
//!    ^ ^                   | notify                   | notify
//!    | | consume           v                          v
//!    | +--------------- NOTIFIED <--------------------+  this notifier puts the thread into a run queue
//!    +---notify----------> ^
//! ```
//! A thread is in a run queue only with its context saved: whoever moves PARKED to NOTIFIED enqueues it, and PARKED is only
//! ever stored by [`ParkWord::end_switch`], which runs when the thread has left its stack. A wake-up that comes between
//! PARKING and PARKED leaves the word at NOTIFIED; `end_switch`, whose compare-and-swap then fails, says that its caller
//! enqueues the thread. So each sleep is ended by exactly one side, none is lost, and no CPU ever runs a stack that
//! another still uses.
//!
//! For platforms: the kernel's scheduler keeps one in each thread. `tests/loom_park.rs` explores it.

use crate::primitive::{AtomicU32, Ordering, const_unless_loom, mutant, weaken};

/// Running or in a run queue, with no wake-up to consume.
const RUNNING: u32 = 0;
/// About to sleep, still on its own stack.
const PARKING: u32 = 1;
/// Asleep, its context saved.
const PARKED: u32 = 2;
/// Running or in a run queue; its next park returns at once.
const NOTIFIED: u32 = 3;

/// What [`ParkWord::begin_park`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeginPark {
    /// Switch away, then [`ParkWord::end_switch`].
    Sleep,
    /// A wake-up was there already and is now consumed.
    Notified,
}

/// Who has to put the thread into a run queue after a change of its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Enqueue {
    /// The caller.
    Caller,
    /// Nobody, or the other side.
    Other,
}

/// A thread's sleep and wake-up, in one word.
#[derive(Debug)]
pub struct ParkWord(AtomicU32);

impl ParkWord {
    const_unless_loom! {
        /// The word of a thread that runs or is about to.
        pub fn new() -> Self {
            ParkWord(AtomicU32::new(RUNNING))
        }
    }

    /// RUNNING to PARKING, or NOTIFIED back to RUNNING. Called by the thread itself.
    pub fn begin_park(&self) -> BeginPark {
        // Nothing is published by falling asleep itself: the context is, in `end_switch`.
        match self.0.compare_exchange(RUNNING, PARKING, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => BeginPark::Sleep,
            Err(found) => {
                debug_assert_eq!(found, NOTIFIED, "parked by somebody else");
                self.consume();
                BeginPark::Notified
            }
        }
    }

    /// NOTIFIED to RUNNING: what the notifier did before is now visible here. Called by the thread itself, when it runs
    /// again.
    pub fn consume(&self) {
        // Acquire, from the Release half of `notify`. A swap, not a store: a wake-up that came since the last look is
        // consumed with the others, and so must be read.
        self.0.swap(RUNNING, weaken("park-consume-acquire", Ordering::Acquire));
    }

    /// PARKING to PARKED, when the thread's context is saved and its stack left.
    pub fn end_switch(&self) -> Enqueue {
        if mutant("park-overwrites-wake") {
            self.0.store(PARKED, Ordering::Relaxed);
            return Enqueue::Other;
        }
        // Release: whoever finds PARKED (by an Acquire swap) sees the saved context. If a wake-up came first, the caller
        // enqueues the thread, and the queue's lock carries the context to the CPU that takes it out.
        let order = weaken("park-switch-release", Ordering::Release);
        match self.0.compare_exchange(PARKING, PARKED, order, Ordering::Relaxed) {
            Ok(_) => Enqueue::Other,
            Err(_) => Enqueue::Caller,
        }
    }

    /// Leaves a wake-up, and says whether this one ended a sleep.
    pub fn notify(&self) -> Enqueue {
        // Release: the sleeper sees what led to the wake-up. Acquire: we see the context that `end_switch` published.
        match self.0.swap(NOTIFIED, weaken("park-notify-acq-rel", Ordering::AcqRel)) {
            PARKED => Enqueue::Caller,
            // RUNNING and NOTIFIED: it does not sleep. PARKING: the CPU that it leaves will find NOTIFIED.
            _ => Enqueue::Other,
        }
    }
}

impl Default for ParkWord {
    fn default() -> Self {
        Self::new()
    }
}
