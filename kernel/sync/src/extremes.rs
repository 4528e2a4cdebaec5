//! The longest hold and the longest wait of each kind, and where they began.
//!
//! What took no longer than the longest so far costs a comparison with a word that is seldom written; only a new longest
//! takes the lock, under which its length and its place in the source change together.

use core::panic::Location;
// Not the façade's: nothing is ordered by these words, so models need not explore them.
use core::sync::atomic::{AtomicU64, Ordering};

use abi::Extreme;
use abi::extreme::EXTREMES;

use crate::Platform;
use crate::order::Class;
use crate::primitive::const_unless_loom;
use crate::spin::{SpinLock, spin_lock};

/// How long something took, and where in the source it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Longest {
    /// Nanoseconds.
    pub ns: u64,
    /// The call that held or waited.
    pub site: &'static Location<'static>,
}

/// The longest of each kind.
pub struct Extremes<P: Platform> {
    /// The lengths in `longest`, for a look without the lock. Written under it.
    ns: [AtomicU64; EXTREMES],
    longest: SpinLock<P, [Option<Longest>; EXTREMES]>,
}

impl<P: Platform> Extremes<P> {
    const_unless_loom! {
        /// Nothing has been held or waited for.
        pub fn new() -> Self {
            Extremes {
                ns: [const { AtomicU64::new(0) }; EXTREMES],
                longest: spin_lock(Class::Extremes, [None; EXTREMES]),
            }
        }
    }

    /// A hold or wait of this kind ends now, which began at `since_ns` ([`Platform::now_ns`]) and at `site`. Returns how many
    /// nanoseconds it took.
    pub fn took(&self, kind: Extreme, since_ns: u64, site: &'static Location<'static>) -> u64 {
        // It may have begun on another CPU, whose clock is a little ahead.
        let ns = P::now_ns().saturating_sub(since_ns);
        self.note(kind, Longest { ns, site });
        ns
    }

    /// Something of this kind took so long. What took no time is not noted.
    #[inline]
    pub fn note(&self, kind: Extreme, candidate: Longest) {
        // Relaxed: it only spares the lock, under which the comparison is made again.
        if candidate.ns > self.ns[kind as usize].load(Ordering::Relaxed) {
            self.raise(kind, candidate);
        }
    }

    #[cold]
    fn raise(&self, kind: Extreme, candidate: Longest) {
        let mut longest = self.longest.lock();
        let place = &mut longest[kind as usize];
        if place.is_none_or(|longest| candidate.ns > longest.ns) {
            *place = Some(candidate);
            self.ns[kind as usize].store(candidate.ns, Ordering::Relaxed);
        }
    }

    /// The longest of a kind; `None` if there was none that took time.
    pub fn get(&self, kind: Extreme) -> Option<Longest> {
        self.longest.lock()[kind as usize]
    }

    /// Takes over what is longer in `other`.
    pub fn merge(&self, other: &Extremes<P>) {
        for &kind in Extreme::ALL {
            if let Some(longest) = other.get(kind) {
                self.note(kind, longest);
            }
        }
    }
}

impl<P: Platform> Default for Extremes<P> {
    fn default() -> Self {
        Self::new()
    }
}
