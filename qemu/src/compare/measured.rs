//! What one machine's counts say of each workload: one operation's share.

use std::collections::BTreeMap;

use abi::{Counter, Pair};
use anyhow::{Context, Result, ensure};

use crate::count::{Counts, Row};
use crate::symbols::Symbols;

/// What the functions of the idle loop are called: how long a CPU idles depends on the others, and costs nothing.
const IDLE: &str = "kernel::sched::idle::";

/// One workload on one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The lock protocols.
    pub pair: Pair,
    /// CPUs that worked.
    pub cpus: u32,
    /// The workload's number.
    pub window: usize,
    /// What it does, in the program's words.
    pub what: String,
    /// Whether the threads change the address space where none of the others does.
    pub kind: Kind,
    /// Operations of all threads together.
    pub operations: u64,
    /// Bytes whose content the program checked, and found right.
    pub checked_bytes: u64,
    /// Kernel instructions, locked instructions, shared reads and shared writes of one operation.
    pub each: [f64; 4],
    /// By how much the kernel's counters grew, for all operations; empty for a workload that runs beside another one.
    pub counters: BTreeMap<String, u64>,
}

/// What a workload is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Updates where no other thread has anything: they should cost the same on any number of CPUs.
    Disjoint,
    /// Anything else.
    Other,
}

impl Measured {
    /// By how much this counter grew.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters.get(counter.name()).copied().unwrap_or(0)
    }

    /// Lines of another CPU's that one operation touches.
    pub fn lines(&self) -> f64 {
        self.each[2] + self.each[3]
    }
}

/// Reads what the program says, and divides what was counted.
///
/// # Errors
/// A line that is not understood, a window without counts, or without a content that was checked.
pub fn measured(pair: Pair, cpus: u32, said: &str, counts: &Counts, symbols: &Symbols) -> Result<Vec<Measured>> {
    let mut counters = BTreeMap::<usize, BTreeMap<String, u64>>::new();
    for line in said.lines().filter_map(|line| line.strip_prefix("counter ")) {
        let (window, name, more) = counter(line).with_context(|| format!("the program says {line:?}"))?;
        counters.entry(window).or_default().insert(name, more);
    }
    let mut all = Vec::new();
    for line in said.lines().filter_map(|line| line.strip_prefix("compared ")) {
        let (window, kind, operations, checked_bytes, what) =
            compared(line).with_context(|| format!("the program says {line:?}"))?;
        ensure!(checked_bytes > 0, "no content was checked: {line:?}");
        let busy = |row: &Row| {
            row.window == window && !row.is_program() && !symbols.function(row.address).unwrap_or("").contains(IDLE)
        };
        let sum = counts.sum(busy).numbers();
        ensure!(sum[0] > 0, "nothing was counted: {line:?}");
        all.push(Measured {
            pair,
            cpus,
            window,
            what,
            kind,
            operations,
            checked_bytes,
            each: sum.map(|number| number as f64 / operations as f64),
            counters: counters.remove(&window).unwrap_or_default(),
        });
    }
    ensure!(!all.is_empty(), "the program says nothing");
    Ok(all)
}

/// `WINDOW NAME DIFFERENCE`.
fn counter(line: &str) -> Option<(usize, String, u64)> {
    let mut words = line.split(' ');
    Some((words.next()?.parse().ok()?, words.next()?.to_owned(), words.next()?.parse().ok()?))
}

/// `WINDOW KIND OPERATIONS CHECKED WHAT`.
fn compared(line: &str) -> Option<(usize, Kind, u64, u64, String)> {
    let mut words = line.splitn(5, ' ');
    let window = words.next()?.parse().ok()?;
    let kind = match words.next()? {
        "disjoint" => Kind::Disjoint,
        "other" => Kind::Other,
        _ => return None,
    };
    let operations = words.next()?.parse().ok().filter(|&operations| operations > 0)?;
    Some((window, kind, operations, words.next()?.parse().ok()?, words.next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(said: &str) -> Result<Vec<Measured>> {
        let counts = Counts::parse(
            "tessera-count 1\nlate 0\ncpus 2\n1 1 401000 190 0 0 0\n1 1 ffffffff80000010 3e8 64 a 14\n2 1 ffffffff80000010 1 0 0 0\n",
        )?;
        measured(Pair::DEFAULT, 1, said, &counts, &Symbols::default())
    }

    #[test]
    fn an_operation_is_the_kernels_share() {
        let all =
            read("counter 1 fault_wait 7\ncompared 1 disjoint 100 64 a call, or so\ncompared 2 other 1 8   more\n")
                .unwrap();
        assert_eq!((all.len(), all[0].what.as_str(), all[1].what.as_str()), (2, "a call, or so", "  more"));
        assert_eq!((all[0].each, all[0].lines()), ([10.0, 1.0, 0.1, 0.2], 0.1 + 0.2));
        assert_eq!((all[0].counter(Counter::FaultWait), all[1].counter(Counter::FaultWait)), (7, 0));
        assert_eq!((all[0].kind, all[1].kind), (Kind::Disjoint, Kind::Other));
    }

    #[test]
    fn what_was_not_checked_or_not_counted_is_refused() {
        for said in [
            "",
            "compared 1 other 100 0 unchecked",
            "compared 3 other 100 8 uncounted",
            "compared 1 other 0 8 never",
            "compared 1 some 1 8 kind",
            "compared 1 other 1 8",
            "counter 1 fault_wait\ncompared 1 other 1 8 x",
        ] {
            assert!(read(said).is_err(), "{said}");
        }
    }
}
