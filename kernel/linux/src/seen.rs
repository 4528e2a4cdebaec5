//! [`Seen`]: which call numbers were reported already, so that a program that tries one in a loop fills no log.

use core::sync::atomic::{AtomicU64, Ordering};

/// Words that cover Linux's present numbers with room; all higher numbers share the last bit.
const WORDS: usize = 16;

/// A set of call numbers that only grows. The kernel keeps one in a static for [`crate::System::log_call_unknown`].
pub struct Seen {
    words: [AtomicU64; WORDS],
}

impl Seen {
    /// Nothing seen.
    pub const fn new() -> Self {
        Seen { words: [const { AtomicU64::new(0) }; WORDS] }
    }

    /// Adds `number` and says whether it was new. All numbers above 1022 count as one.
    pub fn first(&self, number: u64) -> bool {
        let bit = number.min(64 * WORDS as u64 - 1) as usize;
        // Relaxed: nothing but the bit itself is decided by it.
        let old = self.words[bit / 64].fetch_or(1 << (bit % 64), Ordering::Relaxed);
        old & (1 << (bit % 64)) == 0
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::new()
    }
}
