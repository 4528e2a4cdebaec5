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
/// Places in the table of readers (`bravo`).
pub const READER_PLACES: usize = 1024;
/// Faults through a VMA's own lock (`bravo`) before its bias comes back.
pub const UNBIASED_FAULTS: u64 = 9;
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

/// The place, of `places`, of `cpu` for the lock at `address` (`bravo`).
#[inline(always)]
pub fn reader_place(address: u64, cpu: usize, places: usize) -> usize {
    // Fibonacci hashing. Locks lie on lines of their own. The product's upper bits are those that all of the key has a say in.
    let key = (address / 64).wrapping_add((cpu as u64) << 48);
    let upper = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    ((upper * places as u64) >> 32) as usize
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

#[cfg(all(test, feature = "testing"))]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Else faults of many CPUs in one VMA would meet in one place, and go to the lock.
    #[test]
    fn cpus_and_locks_are_spread_over_the_places() {
        let lock = 0xffff_8000_0123_4540;
        let cpus: BTreeSet<_> = (0..MAX_CPUS).map(|cpu| reader_place(lock, cpu, READER_PLACES)).collect();
        assert!(cpus.len() > MAX_CPUS / 2, "{} CPUs in {} places", MAX_CPUS, cpus.len());
        let locks: BTreeSet<_> = (0..256).map(|n| reader_place(lock + n * 192, 0, READER_PLACES)).collect();
        assert!(locks.len() > 128, "256 locks in {} places", locks.len());
        assert!(cpus.iter().chain(&locks).all(|&place| place < READER_PLACES));
    }
}
