//! The comparison as people use it: every workload is there, the same each time, with its contents checked; a content that is
//! wrong fails it; and updates that meet nobody cost on several CPUs what they cost on one.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::child::Finished;
use tests::launcher;

use crate::Trials;

/// Most instructions that a disjoint update may need on several CPUs, against one.
const SCALES: f64 = 1.05;

/// Adds the comparison's tests.
pub(crate) fn add(trials: &mut Trials) {
    trials.add("launcher::compare::every_workload_is_counted_checked_and_repeats", repeats);
    trials.add("launcher::compare::a_wrong_content_fails_it", wrong_content);
    trials.add("launcher::compare::disjoint_updates_cost_the_same_on_more_cpus", disjoint_updates);
    trials.add("launcher::compare::bad_input", bad_input);
}

fn compare(args: &str) -> Result<Finished> {
    launcher::run(&std::iter::once("compare").chain(args.split_whitespace()).collect::<Vec<_>>(), &[])
}

/// The results of a comparison that passed.
fn results(args: &str) -> Result<Vec<Value>> {
    let finished = compare(&format!("--format json --timeout 300 {args}"))?;
    ensure!(finished.status == 0, "{args}: status {}: {}", finished.status, finished.err());
    Ok(serde_json::from_slice(&finished.stdout)?)
}

fn number(result: &Value, name: &str) -> Result<f64> {
    result[name].as_f64().with_context(|| format!("no {name} in {result}"))
}

/// The table of one run has what another run of the same pair counted, to the digit.
fn repeats() -> Result<()> {
    let args = "--vma-lock refcount --update cycle --cpus 2 --operations 16";
    let results = results(args)?;
    let faults = |result: &&Value| result["what"].as_str().is_some_and(|what| what.starts_with("fault"));
    ensure!(results.len() == 8 && results.iter().filter(faults).count() == 4, "{results:?}");
    for result in &results {
        ensure!(number(result, "instructions")? > 500.0 && number(result, "checked_bytes")? > 0.0, "{result}");
    }
    // In one VMA that nobody changes nobody waits. The kernel's own count has all 32 faults, and a few of the thread that
    // reads it.
    let shared = &results[1];
    let faults = number(&shared["counters"], "fault")?;
    ensure!((32.0..40.0).contains(&faults) && shared["counters"]["fault_wait"].is_null(), "{shared}");
    ensure!(number(shared, "locked")? >= 3.0, "a count of readers is two locked instructions, an entry one: {shared}");

    let table = compare(&format!("--timeout 300 {args}"))?.out();
    let lines = table.lines().filter(|line| line.starts_with("refcount+cycle "));
    let first = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
    let counted: Vec<Option<String>> = lines.map(first).collect();
    let expected = results.iter().map(|result| Ok(Some(format!("{:.0}", number(result, "instructions")?))));
    ensure!(counted == expected.collect::<Result<Vec<_>>>()?, "{results:?}\n{table}");
    Ok(())
}

fn wrong_content() -> Result<()> {
    let finished = compare("--vma-lock slot --update bulk --cpus 1 --operations 4 --plant-content --timeout 300")?;
    let err = finished.err();
    ensure!(finished.status == 1, "status {}: {err}", finished.status);
    ensure!(err.contains("wrong: page 1, word 0 holds") && err.contains("slot+bulk with --cpus 1: FAILED"), "{err}");
    ensure!(finished.out() == "nothing was measured\n", "{}", finished.out());
    Ok(())
}

fn disjoint_updates() -> Result<()> {
    for update in ["wound-wait", "cycle"] {
        let on = |cpus: u32| results(&format!("--vma-lock slot --update {update} --cpus {cpus} --operations 128"));
        let (one, many) = (on(1)?, on(4)?);
        for (one, many) in one.iter().zip(&many).filter(|(one, _)| one["disjoint"] == true) {
            let ratio = number(many, "instructions")? / number(one, "instructions")?;
            ensure!(ratio <= SCALES, "{update}: {ratio:.3} times the instructions on 4 CPUs: {one}\n{many}");
        }
    }
    Ok(())
}

fn bad_input() -> Result<()> {
    for (args, mentions) in [
        ("--operations 3", "--operations"),
        ("--format xml", "json"),
        ("--cpus 64", "one CPU more"),
        ("--vma-lock mm --update cycle", "only bulk does"),
    ] {
        let finished = compare(args)?;
        ensure!(finished.status == i32::from(qemu::status::BAD_INPUT), "{args}: status {}", finished.status);
        ensure!(finished.err().contains(mentions), "{args}: {mentions:?} is not mentioned: {}", finished.err());
    }
    Ok(())
}
