//! `cycle-held`: as `cycle`, but found as six locks do, from lists of held locks.
//!
//! Linux's six locks (bcachefs) do not name their owner. So each transaction shows which locks it **holds** and at which
//! lock it sleeps, and whoever is about to sleep searches backwards, depth first: who sleeps at a lock that I hold? Who at one
//! that *that* one holds? If this leads back to itself, all on the way sleep for each other. Kept beside [`cycle`](super::cycle)
//! to compare, and to show what a lock that names its owner saves:
//!
//! | | `cycle` | `cycle-held` |
//! |---|---|---|
//! | each mark | | an entry in the transaction's list, under the list's spin lock; memory for it |
//! | a search goes to | the one that this one sleeps for, and on | everybody who sleeps for this one, directly or not |
//! | a step costs | two cells | a look at every cell, and for each sleeper a look through a list |
//! | circles | of any length | of up to [`DEPTH`]; what is deeper is taken for one |
//!
//! **No circle is missed** for the reason that `cycle` gives: lists and words are written before the wait queue's fence. **None is
//! imagined**: lists grow old (`vma_lock::held`), so before a circle is broken each of its sleepers must still say what it said
//! when it was found, and that it sleeps for the one before it; a step that fails is dropped with those behind it. What was
//! there at both looks was there in between, all of it at one time.
//!
//! Not every sleeper sleeps at a lock that somebody holds: one that lets an older transaction go first (an heir), or met a
//! reservation, sleeps for that transaction, and says so (`lock` is 0). And a transaction that has published sleeps for nobody,
//! so what it publishes need not be in its list. Where a list has no room for all that is held, the sleeper's word on whom it sleeps
//! for stands in.
//!
//! **The victim** is the youngest of the circle; of the whole stack, where that is full. (Six locks give up the searcher then,
//! circle or not. Here that would take from the oldest transaction what the protocols promise it: that it never backs off.)
//! The others who sleep for the searcher are looked at still: a circle may lie there.

use abi::Counter;
use abi::event::Kind;

use crate::primitive::mutant;
use crate::vma_lock::{Cells, Sleeper};
use crate::{Counters, Mark, Platform};

/// How many transactions there may be on the way, as in bcachefs.
pub(super) const DEPTH: usize = 8;

/// One transaction on the way.
#[derive(Clone, Copy)]
struct Step {
    who: Mark,
    /// What it said when it was found; `None` for the searcher.
    said: Option<Sleeper>,
    /// The next cell to ask whether its owner sleeps at a lock of `who`.
    next: usize,
}

/// The way from the searcher to where the search is: each sleeps for the one before it.
struct Way {
    steps: [Step; DEPTH],
    length: usize,
}

impl Way {
    fn from(own: Mark) -> Way {
        Way { steps: [Step { who: own, said: None, next: 0 }; DEPTH], length: 1 }
    }

    fn steps(&self) -> &[Step] {
        &self.steps[..self.length]
    }

    fn top(&mut self) -> &mut Step {
        &mut self.steps[self.length - 1]
    }

    /// Drops the first step that is not so any more, and what is behind it. Whether all are.
    fn verify<P: Platform>(&mut self, cells: &Cells<P>) -> bool {
        if mutant("cycle-one-look") {
            return true;
        }
        let good = |pair: &[Step]| {
            let said = pair[1].said;
            cells.sleeper(pair[1].who.cell()) == said && said.is_some_and(|said| said.for_whom == pair[0].who)
        };
        let stale = self.steps().windows(2).position(|pair| !good(pair));
        self.length = stale.map_or(self.length, |at| at + 1);
        stale.is_none()
    }

    fn youngest<P: Platform>(&self, cells: &Cells<P>) -> Mark {
        let younger = |youngest, step: &Step| if cells.is_older(youngest, step.who) { step.who } else { youngest };
        self.steps().iter().fold(self.steps[0].who, younger)
    }
}

/// `own` has said at which lock it sleeps; asked again after the wait queue's fence. Whether it must back off; if another one must, that one is told.
pub(super) fn before_sleep<P: Platform>(cells: &Cells<P>, own: Mark, counters: &Counters<P>) -> bool {
    if mutant("cycle-no-search") {
        return false;
    }
    let mut way = Way::from(own);
    while way.length > 0 {
        let top = way.top();
        if top.next == cells.count() {
            way.length -= 1;
            continue;
        }
        let (holder, number) = (top.who, top.next);
        top.next += 1;
        let found = cells.sleeper(number).filter(|sleeper| sleeper.who != holder && is_behind(cells, sleeper, holder));
        let Some(sleeper) = found else { continue };
        if sleeper.who == own {
            // Ages first: of one that ends after the second look there would be none, and an older one would be the victim.
            let youngest = way.youngest(cells);
            if sleeper.for_whom == holder && way.verify(cells) {
                // Of several who find the circle, one tells its victim, be it itself, and counts.
                if cells.wound(youngest) {
                    P::event(Kind::Wound, youngest.word(), own.word());
                    counters.bump(Counter::Cycle);
                }
                // It sleeps for one, so there is no other circle with it.
                return youngest == own;
            }
        } else if way.steps().iter().any(|step| step.who == sleeper.who) {
            // A circle without `own`, which is its members' to break.
        } else if way.length < DEPTH {
            way.steps[way.length] = Step { who: sleeper.who, said: Some(sleeper), next: 0 };
            way.length += 1;
        } else {
            let youngest = way.youngest(cells);
            if !way.verify(cells) {
                continue;
            }
            if youngest == own {
                return true;
            }
            if cells.wound(youngest) {
                P::event(Kind::Wound, youngest.word(), own.word());
            }
        }
    }
    false
}

/// Whether `sleeper` sleeps at a lock that `holder` says it holds, or for `holder` itself.
fn is_behind<P: Platform>(cells: &Cells<P>, sleeper: &Sleeper, holder: Mark) -> bool {
    let listed = if sleeper.lock == 0 { None } else { cells.holds(holder, sleeper.lock) };
    listed.unwrap_or(sleeper.for_whom == holder)
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use abi::UpdateProtocol;

    use std::{vec, vec::Vec};

    use super::*;
    use crate::testing::{Host, fail_allocation_after};
    use crate::vma_lock::OwnedCell;

    fn cells() -> Cells<Host> {
        Cells::starting_at(16, 1).unwrap().with_lists(UpdateProtocol::CycleHeld).unwrap()
    }

    /// What `searcher` finds out while `rest` sleep, each for the one given at the lock given.
    fn asleep(
        cells: &Cells<Host>,
        searcher: &OwnedCell<'_, Host>,
        rest: &[(&OwnedCell<'_, Host>, Mark, u64)],
        counters: &Counters<Host>,
    ) -> bool {
        let Some(((who, for_whom, at), rest)) = rest.split_first() else {
            return before_sleep(cells, searcher.mark(), counters);
        };
        let mut found = false;
        let look = || {
            found = asleep(cells, searcher, rest, counters);
            true
        };
        who.sleep_for(*for_whom, *at, look);
        found
    }

    #[test]
    fn a_circle_is_broken_at_its_youngest() {
        for youngest in 0..3 {
            let (cells, counters) = (cells(), Counters::new().unwrap());
            let all = [0, 1, 2].map(|at| cells.take(if at == youngest { 9 } else { at }));
            (0..3).for_each(|at| all[at].hold(10 + at as u64));
            let sleeps = [0, 1, 2].map(|at: usize| (&all[at], all[(at + 1) % 3].mark(), 10 + (at as u64 + 1) % 3));
            // The last of them closes the circle, and is the one to search.
            assert_eq!(asleep(&cells, &all[2], &sleeps, &counters), youngest == 2);
            for (at, one) in (0..).zip(&all[..2]) {
                assert_eq!(one.is_wounded(), at == youngest);
            }
            assert_eq!(counters.total(Counter::Cycle), 1);
        }
    }

    #[test]
    fn an_heir_closes_a_circle_too() {
        let (cells, counters) = (cells(), Counters::new().unwrap());
        let (older, younger) = (cells.take(1), cells.take(2));
        younger.hold(10);
        // The younger one lets the older one go first, which wants what the younger one has.
        let sleeps = [(&younger, older.mark(), 0), (&older, younger.mark(), 10)];
        assert!(!asleep(&cells, &older, &sleeps, &counters));
        assert!(younger.is_wounded());
    }

    #[test]
    fn without_memory_for_the_lists_circles_are_found_all_the_same() {
        let (cells, counters) = (cells(), Counters::new().unwrap());
        let (older, younger) = (cells.take(1), cells.take(2));
        fail_allocation_after(0, || {
            older.hold(10);
            younger.hold(20);
        });
        let sleeps = [(&older, younger.mark(), 20), (&younger, older.mark(), 10)];
        assert!(asleep(&cells, &younger, &sleeps, &counters));
    }

    #[test]
    fn a_list_that_has_grown_old_closes_no_circle() {
        let (cells, counters) = (cells(), Counters::new().unwrap());
        let [searcher, sleeper, holder] = [1, 2, 3].map(|age| cells.take(age));
        // The VMA that the searcher had marked is gone, and another one lies in its memory.
        searcher.hold(10);
        holder.hold(10);
        sleeper.hold(20);
        let sleeps = [(&sleeper, holder.mark(), 10), (&searcher, sleeper.mark(), 20)];
        assert!(!asleep(&cells, &searcher, &sleeps, &counters));
        assert!(!sleeper.is_wounded() && !searcher.is_wounded());
        assert_eq!(counters.total(Counter::Cycle), 0);
    }

    #[test]
    fn a_full_stack_is_taken_for_a_circle() {
        for length in [DEPTH, DEPTH + 1] {
            let (cells, counters) = (cells(), Counters::new().unwrap());
            // Each sleeps for the one before it; nobody for the last. The searcher is the oldest.
            let all: Vec<_> = (0..length as u64).map(|age| cells.take(age + 1)).collect();
            (0..length).for_each(|at| all[at].hold(10 + at as u64));
            let outside = cells.take(100);
            let mut sleeps = vec![(&all[0], outside.mark(), 5)];
            sleeps.extend((1..length).map(|at| (&all[at], all[at - 1].mark(), 9 + at as u64)));
            assert!(!asleep(&cells, &all[0], &sleeps, &counters), "the oldest never backs off");
            assert_eq!(all.iter().filter(|one| one.is_wounded()).count(), length - DEPTH);
            assert_eq!(counters.total(Counter::Cycle), 0);
        }
    }
}
