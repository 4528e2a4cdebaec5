//! [`Mark`]: which transaction, if any, has locked a VMA.
//!
//! One word per VMA: the number of a sequence cell and a sequence, or 0. The VMA is locked if and only if the cell still
//! shows that sequence. `(cell, sequence)` names one transaction for ever, because sequences never repeat.

/// Names one transaction: cell number in the upper 16 bits, sequence in the lower 48. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    /// The mark as one word, as VMAs carry it.
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The mark that `word` is; `None` for 0.
    pub(crate) fn from_word(word: u64) -> Option<Mark> {
        (word != 0).then_some(Mark(word))
    }

    /// Width of the sequence.
    pub(super) const SEQUENCE_BITS: u32 = 48;
    /// Largest sequence that a mark can hold.
    pub(super) const SEQUENCE_MAX: u64 = (1 << Self::SEQUENCE_BITS) - 1;

    /// The transaction number `sequence` of `cell`.
    pub(super) fn new(cell: usize, sequence: u64) -> Self {
        debug_assert!(cell < 1 << 16 && sequence != 0 && sequence <= Self::SEQUENCE_MAX);
        Mark((cell as u64) << Self::SEQUENCE_BITS | sequence)
    }

    /// Which cell.
    pub(crate) fn cell(self) -> usize {
        (self.0 >> Self::SEQUENCE_BITS) as usize
    }

    /// Which of the cell's transactions.
    pub(super) fn sequence(self) -> u64 {
        self.0 & Self::SEQUENCE_MAX
    }
}

/// Why a fault cannot have a VMA's read lock now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadRefused {
    /// A running transaction has marked the VMA: leave the section, wait for its end, look up again.
    Marked(Mark),
    /// The VMA has left the tree: look up again.
    Detached,
}
