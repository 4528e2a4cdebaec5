//! Process and thread numbers: one machine-wide set, as on Linux, where a process has the number of its first thread.
//!
//! A number is taken when a thread is made and given back when the last reference to it is gone, so that no two live
//! threads ever share one. Numbers are handed out in turn, so that one just given back is not the next one taken.
//! One spin lock protects the set; taking scans at most 513 words.

use abi::Errno;
use sync::{Class, Platform, SpinLock, spin_lock};

/// Most threads at a time: Linux's default `kernel.pid_max` of small machines.
pub const MAX_IDS: usize = 32768;

const WORDS: usize = MAX_IDS / 64;

/// The numbers in use. The kernel has one, in a static.
pub struct Ids<P: Platform> {
    set: SpinLock<P, Set>,
}

struct Set {
    /// Bit `n % 64` of word `n / 64`: number `n` is in use. 0 never is.
    used: [u64; WORDS],
    /// Where the next search begins.
    next: usize,
}

impl<P: Platform> Ids<P> {
    /// No number in use; the first one taken will be 1.
    pub const fn new() -> Self {
        Ids { set: spin_lock(Class::Ids, Set { used: [0; WORDS], next: 1 }) }
    }

    /// A number that no live thread has.
    ///
    /// # Errors
    /// `EAGAIN` if all are in use.
    pub fn take(&self) -> Result<u32, Errno> {
        let mut set = self.set.lock();
        let start = set.next;
        // The word where the search begins is looked at twice: from its start bit on, and at the end its lower bits.
        for step in 0..=WORDS {
            let word = (start / 64 + step) % WORDS;
            let mut free = !set.used[word];
            if step == 0 {
                free &= u64::MAX << (start % 64);
            }
            if word == 0 {
                free &= !1;
            }
            if free != 0 {
                let id = word * 64 + free.trailing_zeros() as usize;
                set.used[word] |= 1 << (id % 64);
                set.next = (id + 1) % MAX_IDS;
                return Ok(id as u32);
            }
        }
        Err(Errno::EAGAIN)
    }

    /// How many numbers are in use.
    pub fn in_use(&self) -> usize {
        self.set.lock().used.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Gives back a number that [`Ids::take`] handed out.
    pub(crate) fn give_back(&self, id: u32) {
        let mut set = self.set.lock();
        let (word, bit) = (id as usize / 64, 1 << (id % 64));
        debug_assert!(set.used[word] & bit != 0, "the number was not in use");
        set.used[word] &= !bit;
    }
}

impl<P: Platform> Default for Ids<P> {
    fn default() -> Self {
        Self::new()
    }
}
