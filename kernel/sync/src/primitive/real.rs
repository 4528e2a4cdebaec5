//! The façade in normal builds: `core`'s atomics, and names that cost nothing. Reached through [`super`] only.

pub use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub use super::cell::UnsafeCell;

/// Whether schedule points ([`crate::point!`]) are compiled in.
pub const POINTS: bool = cfg!(any(debug_assertions, feature = "testing"));
/// Whether locks are validated (`crate::order`), in builds with debug assertions.
pub const VALIDATED: bool = true;
/// Most CPUs.
pub const MAX_CPUS: usize = abi::MAX_CPUS;
/// Sequence cells, hence running transactions at one time.
pub const CELLS: usize = 256;
/// Buckets of the futex table.
pub const FUTEX_BUCKETS: usize = 256;

/// The ordering itself; `name` is what a model run calls it.
#[inline(always)]
pub const fn weaken(name: &'static str, ordering: Ordering) -> Ordering {
    let _ = name;
    ordering
}

/// `fence(SeqCst)`; `name` is what a model run calls it.
#[inline(always)]
pub fn fence_named(name: &'static str) {
    let _ = name;
    core::sync::atomic::fence(Ordering::SeqCst);
}

/// False: whether a test asked for the mistake called `name`.
#[cfg(not(feature = "testing"))]
#[inline(always)]
pub const fn mutant(name: &'static str) -> bool {
    let _ = name;
    false
}

/// Whether a test asked for the mistake called `name`, on this thread.
#[cfg(feature = "testing")]
pub fn mutant(name: &'static str) -> bool {
    crate::testing::is_planted(name)
}

/// The value of a word that only the caller writes.
#[inline(always)]
pub fn load_own(word: &AtomicU64) -> u64 {
    word.load(Ordering::Relaxed)
}

/// Spins while `word` is set, by loads, which leave the line with its owner.
#[inline(always)]
pub fn wait_while_set(word: &AtomicBool, relax: fn()) {
    while word.load(Ordering::Relaxed) {
        relax();
    }
}

/// Nothing: who waits in [`wait_while_set`] looks for itself.
#[inline(always)]
pub fn cleared(word: &AtomicBool) {
    let _ = word;
}

/// A plain store, in a build whose memory model knows that a later store of one thread hides an earlier
/// compare-and-swap of another (slot protocol, 8.1).
#[inline(always)]
pub fn store_over_rmw(word: &AtomicU64, value: u64, ordering: Ordering) {
    word.store(value, ordering);
}

/// Nothing: a place where a model's scheduler may run another thread.
#[cfg(feature = "testing")]
pub fn switch() {}
