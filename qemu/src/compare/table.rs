//! The comparison as people read it, and as programs do.

use std::fmt::Write as _;

use abi::{Counter, Pair};
use serde_json::{Value, json};

use super::measured::{Kind, Measured};

/// Counters that stand in the table, for the most CPUs: name of the column, and the counters that are added up.
const COLUMNS: [(&str, &[Counter]); 4] = [
    ("fallback", &[Counter::FaultFallback]),
    ("wait", &[Counter::FaultWait, Counter::TxnWait]),
    ("again", &[Counter::TxnAgain]),
    ("restart", &[Counter::Restart]),
];

/// All results: a block for each workload, with a line for each pair; then how disjoint updates scale.
pub fn table(all: &[Measured]) -> String {
    let cpus = distinct(all, |one| one.cpus);
    let Some(&most) = cpus.iter().max() else { return "nothing was measured\n".into() };
    let mut text = format!(
        "of one operation, in the kernel: instructions, locked instructions, and lines that another CPU had written, with {} CPUs;\n\
         and of 1,000 operations with {most}: faults that fell back to a transaction, waits for another transaction, transactions\n\
         begun anew with their marks kept, and without\n",
        list(&cpus)
    );
    let columns: String = COLUMNS.iter().map(|(name, _)| format!(" {name:>8}")).collect();
    for window in distinct(all, |one| one.window) {
        let block: Vec<&Measured> = all.iter().filter(|one| one.window == window).collect();
        let title = block.first().map_or("", |one| one.what.as_str());
        let _ = write!(text, "\n{title}\n{:<20}", "");
        for heading in ["instructions", "locked", "lines"] {
            let width = cpus.len() * width(heading);
            let _ = write!(text, " {heading:>width$}");
        }
        text += &columns;
        text.push('\n');
        for pair in distinct(all, |one| one.pair) {
            text += &line(&block, pair, &cpus, most);
        }
    }
    text += &scaling(all, &cpus);
    text
}

/// Characters of a number in the column of this name.
fn width(heading: &str) -> usize {
    if heading == "instructions" { 8 } else { 7 }
}

/// A pair's line in a workload's block.
fn line(block: &[&Measured], pair: Pair, cpus: &[u32], most: u32) -> String {
    let at = |cpus: u32| block.iter().find(|one| one.pair == pair && one.cpus == cpus);
    let mut text = format!("{:<20}", pair.to_string());
    let mut group = |heading: &str, value: &dyn Fn(&Measured) -> String| {
        text.push(' ');
        for &cpus in cpus {
            let value = at(cpus).map_or("-".into(), |one| value(one));
            let _ = write!(text, "{value:>width$}", width = width(heading));
        }
    };
    group("instructions", &|one| format!("{:.0}", one.each[0]));
    group("locked", &|one| format!("{:.2}", one.each[1]));
    group("lines", &|one| format!("{:.2}", one.lines()));
    for (_, counters) in COLUMNS {
        let value = at(most).filter(|one| !one.counters.is_empty()).map_or("-".into(), |one| {
            let sum: u64 = counters.iter().map(|&counter| one.counter(counter)).sum();
            format!("{:.1}", sum as f64 * 1000.0 / one.operations as f64)
        });
        let _ = write!(text, " {value:>8}");
    }
    text.push('\n');
    text
}

/// Instructions of a disjoint update on several CPUs against those on one.
fn scaling(all: &[Measured], cpus: &[u32]) -> String {
    let disjoint: Vec<&Measured> = all.iter().filter(|one| one.kind == Kind::Disjoint).collect();
    if !cpus.contains(&1) || cpus.len() < 2 {
        return String::new();
    }
    let mut text =
        format!("\ndisjoint updates: instructions of one operation with {} CPUs against 1\n", list(&cpus[1..]));
    for pair in distinct(all, |one| one.pair) {
        let _ = write!(text, "{:<20}", pair.to_string());
        for window in distinct(all, |one| one.window) {
            let of = |cpus| disjoint.iter().find(|one| one.pair == pair && one.window == window && one.cpus == cpus);
            let Some(one) = of(1) else { continue };
            for &cpus in &cpus[1..] {
                let ratio = of(cpus).map_or("-".into(), |many| format!("{:.3}", many.each[0] / one.each[0]));
                let _ = write!(text, " {ratio:>7}");
            }
            let _ = write!(text, "   {}", one.what);
        }
        text.push('\n');
    }
    text
}

/// Everything that was measured, one object for each workload on each machine.
pub fn json(all: &[Measured]) -> Value {
    let object = |one: &Measured| {
        let [instructions, locked, shared_reads, shared_writes] = one.each;
        json!({
            "pair": one.pair.to_string(),
            "cpus": one.cpus,
            "window": one.window,
            "what": one.what.trim_start(),
            "disjoint": one.kind == Kind::Disjoint,
            "operations": one.operations,
            "checked_bytes": one.checked_bytes,
            "instructions": instructions,
            "locked": locked,
            "shared_reads": shared_reads,
            "shared_writes": shared_writes,
            "counters": one.counters,
        })
    };
    all.iter().map(object).collect()
}

/// The values, each once, in the order in which they first come.
fn distinct<T: PartialEq>(all: &[Measured], value: impl Fn(&Measured) -> T) -> Vec<T> {
    let mut values = Vec::new();
    for one in all {
        let value = value(one);
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

/// `1, 2 and 4`.
fn list(numbers: &[u32]) -> String {
    let words: Vec<String> = numbers.iter().map(u32::to_string).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn one(pair: Pair, cpus: u32, window: usize, instructions: f64) -> Measured {
        let kind = if window == 2 { Kind::Disjoint } else { Kind::Other };
        let counters = BTreeMap::from([("fault_wait".to_owned(), 1), ("txn_wait".to_owned(), 2)]);
        Measured {
            pair,
            cpus,
            window,
            what: format!("work {window}"),
            kind,
            operations: 100,
            checked_bytes: 8,
            each: [instructions, 2.0, 0.25, 0.5],
            counters,
        }
    }

    fn all() -> Vec<Measured> {
        let pairs = [Pair::DEFAULT, Pair::TEN[0]];
        let places = pairs.into_iter().flat_map(|pair| [1, 2].map(|cpus| (pair, cpus)));
        places.flat_map(|(pair, cpus)| [1, 2].map(|window| one(pair, cpus, window, 1000.0 * f64::from(cpus)))).collect()
    }

    #[test]
    fn each_workload_has_a_line_for_each_pair() {
        let table = table(&all());
        let words = "slot+bulk 1000 2000 2.00 2.00 0.75 0.75 0.0 30.0 0.0 0.0".split(' ');
        let same = |line: &&str| line.split_whitespace().eq(words.clone());
        assert_eq!(table.lines().filter(same).count(), 2, "{table}");
        assert!(table.contains("\nwork 1\n") && table.contains("with 1 and 2 CPUs"), "{table}");
        assert!(table.lines().any(|line| line.split_whitespace().eq(["mm+bulk", "2.000", "work", "2"])), "{table}");
    }

    #[test]
    fn what_failed_leaves_a_dash() {
        let all: Vec<Measured> = all().into_iter().filter(|one| one.cpus == 1 || one.pair == Pair::DEFAULT).collect();
        let table = table(&all);
        let words = "mm+bulk 1000 - 2.00 - 0.75 - - - - -".split(' ');
        assert!(table.lines().any(|line| line.split_whitespace().eq(words.clone())), "{table}");
        assert!(super::table(&[]).starts_with("nothing"));
    }

    #[test]
    fn programs_read_every_number() {
        let json = json(&all());
        assert_eq!(json.as_array().unwrap().len(), 8);
        assert_eq!((&json[0]["pair"], &json[0]["instructions"]), (&json!("slot+bulk"), &json!(1000.0)));
        assert_eq!(json[0]["counters"]["txn_wait"], json!(2));
    }
}
