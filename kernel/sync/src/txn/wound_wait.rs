//! `wound-wait`: an older transaction tells a younger one that is in its way to back off.
//!
//! Whoever meets a mark sleeps until its owner ends. If the owner is younger, it is *wounded* first: when it sleeps, now or
//! later, it backs off instead. Wounding is lazy: one that runs to its end without another conflict never notices.
//!
//! **No deadlock.** In a circle of sleepers somebody older sleeps for somebody younger, and has wounded it; that one sleeps,
//! so it backs off. No list of held locks is needed, and no search; the price is that a wound may hit where no circle was.
//!
//! After Rosenkrantz, Stearns and Lewis (1978), and Linux's `ww_mutex`.

use abi::Counter;
use abi::event::Kind;

use crate::primitive::mutant;
use crate::vma_lock::Cells;
use crate::{Counters, Mark, Platform};

/// `own` is about to sleep until `theirs` has ended.
pub(super) fn before_sleep<P: Platform>(cells: &Cells<P>, own: Mark, theirs: Mark, counters: &Counters<P>) {
    if cells.is_older(own, theirs) && !mutant("never-wounds") && cells.wound(theirs) {
        counters.bump(Counter::Wound);
        P::event(Kind::Wound, theirs.word(), own.word());
    }
}
