//! What a page holds: every word is a function of who wrote it, when and where, so that a page that turns up in the
//! wrong place, in the wrong round or twice is noticed at the first word.

use crate::must;
use crate::region::{Region, WORDS};
use std::sync::atomic::Ordering::Relaxed;

/// The content of one page.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    key: u64,
    /// Every how many words one is written and checked.
    stride: usize,
}

impl Pattern {
    /// The content of page `page` in round `round` of thread `thread`; one word in `stride` is used.
    pub fn new(thread: usize, round: u64, page: usize, stride: usize) -> Pattern {
        Pattern { key: (thread as u64) << 48 ^ round << 20 ^ page as u64, stride }
    }

    /// Word `index`; never 0, which is what a fresh page holds. (The mixing steps are those of SplitMix64.)
    fn word(self, index: usize) -> u64 {
        let mut x = (self.key << 9 | index as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ x >> 31) | 1
    }

    fn indexes(self) -> impl Iterator<Item = usize> {
        (0..WORDS).step_by(self.stride)
    }

    /// Writes the content into a page that must be all zero. Its first access is a write, so the page takes exactly one
    /// fault on any kernel, zero page or not.
    pub fn fill_fresh(self, region: &Region, page: usize) {
        for index in self.indexes() {
            let old = region.word(page, index).swap(self.word(index), Relaxed);
            must!(old == 0, "page {page} is fresh, but its word {index} holds {old:#x}");
        }
    }

    /// Writes the content into a page that may be written, whatever it holds.
    pub fn overwrite(self, region: &Region, page: usize) {
        self.indexes().for_each(|index| region.word(page, index).store(self.word(index), Relaxed));
    }

    /// Checks the content. Returns the number of bytes looked at.
    pub fn check(self, region: &Region, page: usize) -> u64 {
        let mut bytes = 0;
        for index in self.indexes() {
            let (found, wanted) = (region.word(page, index).load(Relaxed), self.word(index));
            must!(found == wanted, "page {page}, word {index} holds {found:#x} and not {wanted:#x}");
            bytes += size_of::<u64>() as u64;
        }
        bytes
    }
}
