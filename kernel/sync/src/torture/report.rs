//! What a torture has seen: counts of each thread, their sums, and their verdict.

use core::fmt;

use super::PIPE;
use crate::primitive::{AtomicU64, Ordering, array_of, const_unless_loom};

/// A count that threads add to.
pub(super) struct Count(AtomicU64);

impl Count {
    const_unless_loom! {
        fn new() -> Self {
            Count(AtomicU64::new(0))
        }
    }

    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn store(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one thread has read, by itself: an atomic count at each section would order what must not be ordered.
#[derive(Default)]
pub(super) struct Tally {
    /// Elements by their age at the end of a section.
    pub(super) pipe: [u64; PIPE + 1],
    /// Sections by the grace periods that ended in them.
    pub(super) batch: [u64; PIPE + 1],
    /// Sections that found no element: before the first update, and after the last.
    pub(super) nothing: u64,
    /// Elements found that were not filled.
    pub(super) unfilled: u64,
    /// Elements that were used again in a section.
    pub(super) reused: u64,
}

impl Tally {
    pub(super) fn failures(&self) -> u64 {
        too_old(&self.pipe) + too_old(&self.batch) + self.unfilled + self.reused
    }
}

/// Those beyond one step.
fn too_old(histogram: &[u64]) -> u64 {
    histogram[2..].iter().sum()
}

/// The sums of all threads.
pub(super) struct Totals {
    pipe: [Count; PIPE + 1],
    batch: [Count; PIPE + 1],
    nothing: Count,
    unfilled: Count,
    reused: Count,
    pub(super) circulated: [Count; PIPE + 1],
    pub(super) updates: Count,
    pub(super) starved: Count,
    pub(super) left: Count,
    pub(super) fake: Count,
    pub(super) barriers: Count,
    pub(super) barrier_failures: Count,
    pub(super) flooded: Count,
    pub(super) flood_failures: Count,
}

impl Totals {
    const_unless_loom! {
        pub(super) fn new() -> Self {
            Totals {
                pipe: array_of!(Count::new(); PIPE + 1),
                batch: array_of!(Count::new(); PIPE + 1),
                nothing: Count::new(),
                unfilled: Count::new(),
                reused: Count::new(),
                circulated: array_of!(Count::new(); PIPE + 1),
                updates: Count::new(),
                starved: Count::new(),
                left: Count::new(),
                fake: Count::new(),
                barriers: Count::new(),
                barrier_failures: Count::new(),
                flooded: Count::new(),
                flood_failures: Count::new(),
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = &Count> {
        let single = [&self.nothing, &self.unfilled, &self.reused, &self.updates, &self.starved, &self.left];
        let more = [&self.fake, &self.barriers, &self.barrier_failures, &self.flooded, &self.flood_failures];
        let histograms = self.pipe.iter().chain(&self.batch).chain(&self.circulated);
        histograms.chain(single).chain(more)
    }

    pub(super) fn reset(&self) {
        self.all().for_each(|count| count.store(0));
    }

    /// Adds what a thread has seen.
    pub(super) fn merge(&self, tally: &Tally) {
        let histograms = [(&self.pipe, &tally.pipe), (&self.batch, &tally.batch)];
        for (totals, own) in histograms {
            totals.iter().zip(own).filter(|(_, own)| **own != 0).for_each(|(total, own)| total.add(*own));
        }
        self.nothing.add(tally.nothing);
        self.unfilled.add(tally.unfilled);
        self.reused.add(tally.reused);
    }

    pub(super) fn report(&self) -> Report {
        let histogram = |counts: &[Count; PIPE + 1]| core::array::from_fn(|index| counts[index].get());
        Report {
            pipe: histogram(&self.pipe),
            batch: histogram(&self.batch),
            nothing: self.nothing.get(),
            unfilled: self.unfilled.get(),
            reused: self.reused.get(),
            circulated: histogram(&self.circulated),
            updates: self.updates.get(),
            starved: self.starved.get(),
            left: self.left.get(),
            fake: self.fake.get(),
            barriers: self.barriers.get(),
            barrier_failures: self.barrier_failures.get(),
            flooded: self.flooded.get(),
            flood_failures: self.flood_failures.get(),
        }
    }
}

/// What a torture has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Elements by their age, in steps since their replacement, at the end of a read section. Beyond 1: a failure.
    pub pipe: [u64; PIPE + 1],
    /// Read sections by the grace periods that ended in them. Beyond 1: a failure.
    pub batch: [u64; PIPE + 1],
    /// Read sections that found no element.
    pub nothing: u64,
    /// Elements that were found before they were filled. A failure.
    pub unfilled: u64,
    /// Elements that were used again while a reader held them. A failure.
    pub reused: u64,
    /// Elements that reached each age.
    pub circulated: [u64; PIPE + 1],
    /// Elements published.
    pub updates: u64,
    /// Times that the writer found all elements in use.
    pub starved: u64,
    /// Elements that did not come back. A failure.
    pub left: u64,
    /// Grace periods awaited without a reason.
    pub fake: u64,
    /// Barriers checked.
    pub barriers: u64,
    /// Callbacks that a barrier did not wait for. A failure.
    pub barrier_failures: u64,
    /// Callbacks in floods.
    pub flooded: u64,
    /// Callbacks of floods that ran more often than they were queued. A failure.
    pub flood_failures: u64,
}

impl Report {
    /// Read sections in all.
    pub fn sections(&self) -> u64 {
        self.pipe.iter().sum::<u64>() + self.nothing
    }

    /// Read sections that were longer than a grace period: by the age of what they held, or by the count of grace periods.
    pub fn too_short(&self) -> u64 {
        too_old(&self.pipe) + too_old(&self.batch) + self.reused
    }

    /// Whether all that was replaced has grown old step by step, and come back.
    pub fn circulates(&self) -> bool {
        self.left == 0 && self.circulated[1..].iter().all(|&count| count == self.updates)
    }

    /// All that must not be.
    pub fn failures(&self) -> u64 {
        self.too_short() + self.unfilled + self.barrier_failures + self.flood_failures + u64::from(!self.circulates())
    }
}

/// Counts in a row.
struct Row<'a>(&'a [u64]);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|count| write!(f, " {count}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "updates: {}, of which {} found no free element", self.updates, self.starved)?;
        writeln!(f, "reader pipe: {}; {} found nothing", Row(&self.pipe), self.nothing)?;
        writeln!(f, "reader batch:{}", Row(&self.batch))?;
        writeln!(f, "free-block circulation:{}; {} did not come back", Row(&self.circulated[1..]), self.left)?;
        writeln!(f, "not filled: {}, used again: {}", self.unfilled, self.reused)?;
        writeln!(f, "fake updates: {}", self.fake)?;
        writeln!(f, "barriers: {}, callbacks missed: {}", self.barriers, self.barrier_failures)?;
        write!(f, "flood: {} callbacks, run twice: {}", self.flooded, self.flood_failures)
    }
}
