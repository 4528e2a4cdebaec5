//! [`Heir`]: who goes next, so that a stream of younger transactions never overtakes an older one that waits.
//!
//! One word: the mark of a transaction, as VMAs carry it. It counts as long as that transaction runs, and is never taken back.

use super::{Cells, Mark};
use crate::Platform;
use crate::primitive::{AtomicU64, Ordering, const_unless_loom, weaken};

/// The oldest transaction that waits for something; none, if the one named here has ended.
pub(crate) struct Heir(AtomicU64);

impl Heir {
    const_unless_loom! {
        /// Nobody waits.
        pub(crate) fn new() -> Self {
            Heir(AtomicU64::new(0))
        }
    }

    /// The transaction that waits and is older than `own`, if there is one.
    pub(crate) fn before<P: Platform>(&self, own: Mark, cells: &Cells<P>) -> Option<Mark> {
        // Acquire: with the Release below, so that the cell shows the heir's age, not its cell's last one.
        let word = self.0.load(weaken("heir-load-acquire", Ordering::Acquire));
        Mark::from_word(word).filter(|&heir| heir != own && cells.is_older(heir, own))
    }

    /// Enters `own` as the one that goes next, unless an older transaction is; that one is returned.
    pub(crate) fn enter<P: Platform>(&self, own: Mark, cells: &Cells<P>) -> Option<Mark> {
        loop {
            let word = self.0.load(Ordering::Relaxed);
            if word == own.word() {
                return None;
            }
            if let Some(heir) = self.before(own, cells) {
                return Some(heir);
            }
            let order = weaken("heir-store-release", Ordering::Release);
            if self.0.compare_exchange(word, own.word(), order, Ordering::Relaxed).is_ok() {
                return None;
            }
        }
    }
}
