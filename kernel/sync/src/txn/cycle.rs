//! `cycle`: whoever is about to sleep looks whether that would close a circle of sleepers.
//!
//! Marks are exclusive, so each sleeper sleeps for one transaction: the graph of who waits for whom has one edge out of each
//! node, and a search is a walk from cell to cell. No list of held locks is needed.
//!
//! **No circle is missed.** Each transaction first says for whom it sleeps, then fences (in the wait queue), then looks. Of those
//! in a circle, the one whose fence comes last sees all the others' words.
//!
//! **None is imagined.** The words are read one after another while others run. A circle is broken only if a second walk
//! finds it the same: what was there at both looks was there between them, all of it at one time. (A transaction that
//! stopped and began again to sleep for the same one in between would be backed off without need; no harm is done.)
//!
//! **The victim** is the youngest of the circle. So the oldest transaction of all never backs off, and each call does so
//! finitely often: only while there are older ones in its way.

use abi::Counter;
use abi::event::Kind;

use crate::primitive::mutant;
use crate::vma_lock::Cells;
use crate::{Counters, Mark, Platform};

/// What one walk found.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Circle {
    youngest: Mark,
    length: usize,
}

/// `own` has said for whom it sleeps; asked again after the wait queue's fence. Whether it must back off; if another one must, that one is told.
pub(super) fn before_sleep<P: Platform>(cells: &Cells<P>, own: Mark, counters: &Counters<P>) -> bool {
    if mutant("cycle-no-search") {
        return false;
    }
    let mut seen = walk(cells, own);
    while let Some(circle) = seen {
        let again = walk(cells, own);
        if again == seen || mutant("cycle-one-look") {
            // Of several who find the circle, one tells its victim, be it itself, and counts.
            if cells.wound(circle.youngest) {
                P::event(Kind::Wound, circle.youngest.word(), own.word());
                counters.bump(Counter::Cycle);
            }
            return circle.youngest == own;
        }
        seen = again;
    }
    false
}

/// Follows the sleepers from `own` on. `None`: somebody on the way runs, or the way leads into a circle without `own`, which is
/// its members' to break.
fn walk<P: Platform>(cells: &Cells<P>, own: Mark) -> Option<Circle> {
    let mut circle = Circle { youngest: own, length: 0 };
    let mut at = own;
    while circle.length < cells.count() {
        at = cells.waits_for(at)?;
        circle.length += 1;
        if at == own {
            return Some(circle);
        }
        if cells.is_older(circle.youngest, at) {
            circle.youngest = at;
        }
    }
    None
}
