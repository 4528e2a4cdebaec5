//! Numbers for tests that look random, and are the same again for the same seed: xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
#![allow(dead_code, reason = "each test uses a part of it")]

/// A generator.
pub(crate) struct Random(u64);

impl Random {
    /// The generator of this seed.
    pub(crate) fn new(seed: u64) -> Random {
        // Small seeds alone would give small numbers first, and 0 nothing but 0.
        Random((seed ^ 0x9e37_79b9_7f4a_7c15).max(1))
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    /// One of these.
    pub(crate) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}
