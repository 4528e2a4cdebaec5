//! What a soak has done so far: runs by kind of work, and under each pair of lock protocols how many, how long, and how often
//! transactions met.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use abi::{Counter, Pair};

use super::choice::Choice;
use crate::run::Run;

/// Counters that say how hard a pair was used.
const SHOWN: [Counter; 8] = [
    Counter::FaultLocked,
    Counter::FaultWait,
    Counter::FaultFallback,
    Counter::Txn,
    Counter::TxnWait,
    Counter::Wound,
    Counter::Cycle,
    Counter::Restart,
];

/// Runs that have passed.
pub(super) struct Tally {
    began: Instant,
    kinds: BTreeMap<&'static str, u64>,
    pairs: Vec<(Pair, OfPair)>,
}

/// Runs under one pair.
#[derive(Clone, Copy, Default)]
struct OfPair {
    runs: u64,
    took: Duration,
    counted: [u64; SHOWN.len()],
}

impl Tally {
    /// None yet; time begins.
    pub(super) fn new() -> Tally {
        Tally { began: Instant::now(), kinds: BTreeMap::new(), pairs: Vec::new() }
    }

    /// How long it has gone on.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// One more run has passed.
    pub(super) fn count(&mut self, choice: &Choice, run: &Run) {
        *self.kinds.entry(choice.work.kind()).or_default() += 1;
        let place = self.pairs.iter().position(|(pair, _)| *pair == choice.pair).unwrap_or_else(|| {
            self.pairs.push((choice.pair, OfPair::default()));
            self.pairs.len() - 1
        });
        let of_pair = &mut self.pairs[place].1;
        of_pair.runs += 1;
        of_pair.took += run.elapsed;
        if let Some(stats) = &run.stats {
            for (sum, counter) in of_pair.counted.iter_mut().zip(SHOWN) {
                *sum += stats.total(counter);
            }
        }
    }
}

impl fmt::Display for Tally {
    /// A table of the pairs, then one line about all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut pairs = self.pairs.clone();
        pairs.sort_by_key(|(pair, _)| Pair::all().position(|other| other == *pair));
        if !pairs.is_empty() {
            write!(f, "{:<20} {:>6} {:>9}", "pair", "runs", "seconds")?;
            SHOWN.iter().try_for_each(|counter| write!(f, " {:>14}", counter.name()))?;
            writeln!(f)?;
        }
        for (pair, OfPair { runs, took, counted }) in pairs {
            write!(f, "{:<20} {runs:>6} {:>9.1}", pair.to_string(), took.as_secs_f32())?;
            counted.iter().try_for_each(|count| write!(f, " {count:>14}"))?;
            writeln!(f)?;
        }
        let seconds = self.elapsed().as_secs();
        let all: u64 = self.kinds.values().sum();
        write!(f, "soak: {all} runs passed in {}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        let kinds: Vec<String> = self.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        if kinds.is_empty() { Ok(()) } else { write!(f, " ({})", kinds.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Entry, Time};
    use crate::run::Verdict;
    use crate::soak::work::Work;
    use crate::stats::Stats;

    fn choice(pair: Pair) -> Choice {
        let work = Work::GuestTests(vec!["a::b".into()]);
        let (entry, time) = (Entry::Direct, Time::Host);
        Choice { seed: 1, work, pair, cpus: 1, mem_mib: 128, entry, time, points: None, start_delays: None }
    }

    fn run() -> Run {
        let mut stats = 1u32.to_le_bytes().to_vec();
        stats.extend_from_slice(&(abi::counter::COUNTERS as u32).to_le_bytes());
        stats.extend((0..abi::counter::COUNTERS as u64).flat_map(|counter| (100 + counter).to_le_bytes()));
        Run {
            verdict: Verdict::Done,
            report: Vec::new(),
            console: String::new(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            exit: None,
            stats: Stats::decode(&stats).unwrap(),
            spaces: None,
            frames: None,
            tests: Vec::new(),
            tests_done: None,
            elapsed: Duration::from_millis(1500),
            booted: None,
        }
    }

    #[test]
    fn the_tally_names_what_was_done() {
        let mut tally = Tally::new();
        assert_eq!(tally.to_string(), "soak: 0 runs passed in 0:00:00");
        for pair in [Pair::TEN[9], Pair::TEN[0], Pair::TEN[9]] {
            tally.count(&choice(pair), &run());
        }
        let text = tally.to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let names: Vec<&str> = ["pair", "runs", "seconds"].into_iter().chain(SHOWN.map(Counter::name)).collect();
        assert_eq!(lines[0], names);
        let counted = |runs: u64| SHOWN.map(|counter| (runs * (100 + counter as u64)).to_string());
        assert_eq!(
            (&lines[1][..3], &lines[1][3..]),
            (&["mm+bulk", "1", "1.5"][..], &counted(1).each_ref().map(|s| &**s)[..])
        );
        assert_eq!(
            (&lines[2][..3], &lines[2][3..]),
            (&["slot+cycle", "2", "3.0"][..], &counted(2).each_ref().map(|s| &**s)[..])
        );
        assert_eq!(text.lines().last(), Some("soak: 3 runs passed in 0:00:00 (guest tests 3)"));
    }
}
