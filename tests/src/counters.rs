//! The kernel's count of page faults against the program's count of its own first touches; and its counters as files.
//!
//! `churn` counts each first access to a page that is not present. Such an access is one fault that the kernel serves, on
//! the fast path (`fault_locked`) or as a small transaction (`fault_fallback`). What start and end of the program cost is
//! measured by a run of zero rounds.

use abi::{Counter, Extreme};
use anyhow::{Context, Result, ensure};
use qemu::{Counted, Run, Stats};

use crate::oracle::{Case, Source};

/// Faults by which the start and end of two runs may differ: a few pages of thread stacks and of the allocator's arenas are
/// touched or not, depending on which thread comes first, and two threads that touch one of them at once both fault.
const START_UP_SLACK: u64 = 64;

/// Runs `churn` with `args` (its variant, rounds, threads, pages) on Linux and on Tessera, and compares the counts.
/// Fewer than one served fault in `one_in` may have fallen back.
///
/// # Errors
/// The outputs differ, the counts disagree, or too many faults fell back.
pub fn churn(source: Source, args: [&str; 4], cpus: u32, one_in: u64) -> Result<()> {
    let [variant, _, threads, pages] = args;
    let idle = Case::new(source, &[variant, "0", threads, pages]).cpus(cpus);
    let busy = Case::new(source, &args).cpus(cpus);
    let linux = busy.on_linux()?;
    ensure!(linux.status == 0, "it fails on Linux: {}", linux.err());
    let (idle, idle_run) = idle.on_tessera()?;
    let (busy, busy_run) = busy.on_tessera()?;
    ensure!(idle.status == 0 && busy.status == 0, "status {} and {}: {}", idle.status, busy.status, busy.err());
    ensure!(linux.stdout == busy.stdout, "Linux: {}, Tessera: {}", linux.out(), busy.out());

    let touches = touches(&busy.out())?;
    let (before, after) = (stats(&idle_run)?, stats(&busy_run)?);
    let served = served(after) - served(before).min(served(after));
    let fell_back = after.total(Counter::FaultFallback);
    println_counts(variant, cpus, touches, served, after);
    ensure!(
        served.abs_diff(touches) <= START_UP_SLACK,
        "the program touched {touches} pages for the first time, and the kernel served {served} faults for that\n{}",
        after.table()
    );
    ensure!(
        fell_back * one_in < touches,
        "{fell_back} of {touches} faults fell back, not fewer than one in {one_in}\n{}",
        after.table()
    );
    Ok(())
}

/// Runs `vmstat`, which reads the kernel's counters as files and holds them to what it does; what it read last must go
/// with what the kernel sends at the end: the same address space, by name, no count below; the longest holds at places in
/// the kernel's source; and the sum must be no less.
///
/// # Errors
/// Anything else.
pub fn files(cpus: u32) -> Result<()> {
    let (finished, run) = Case::new(Source::Rust("vmstat"), &["64"]).cpus(cpus).on_tessera()?;
    ensure!(finished.status == 0, "status {}: {}{}", finished.status, finished.out(), finished.err());
    let out = finished.out();
    let (line, file) = out.split_once('\n').context("it printed nothing")?;
    ensure!(line == "touched=64 faults=64 all=64 transactions=1", "{line}");
    let file = Counted::parse(file).map_err(anyhow::Error::msg)?;
    let spaces = run.spaces.as_ref().context("the kernel sent no counters of address spaces")?;
    let named: Vec<&str> = spaces.spaces.iter().map(|space| space.name.as_str()).collect();
    ensure!(named == ["vmstat"] && spaces.spaces[0].process > 0, "{:?}", spaces.spaces);
    let (own, sum, stats) = (&spaces.spaces[0].counted, &spaces.machine, stats(&run)?);
    for &counter in Counter::ALL {
        let values = [file.get(counter), own.get(counter), sum.get(counter), stats.total(counter)];
        ensure!(values.is_sorted(), "{}: {values:?} in the file, at the end, in all, over all CPUs", counter.name());
    }
    ensure!(sum.get(Counter::Fault) == own.get(Counter::Fault), "there is one program");
    ensure!(sum.get(Counter::Call) > 0 && own.get(Counter::Call) == 0, "calls are counted for the machine");
    for kind in [Extreme::TxnHold, Extreme::PublishHold] {
        let (then, now) = (file.longest(kind), own.longest(kind));
        let (then, now) = then.zip(now).with_context(|| format!("no {}\n{}", kind.name(), spaces.table()))?;
        ensure!(then.ns <= now.ns && sum.longest(kind) == Some(now), "{then:?}, then {now:?}");
        let line =
            now.site.strip_prefix("kernel/mm/src/").and_then(|rest| rest.split_once(".rs:")?.1.parse::<u32>().ok());
        ensure!(line.is_some(), "{} is no place in the memory manager", now.site);
    }
    Ok(())
}

/// Faults that were served.
fn served(stats: &Stats) -> u64 {
    stats.total(Counter::FaultLocked) + stats.total(Counter::FaultFallback)
}

fn stats(run: &Run) -> Result<&Stats> {
    run.stats.as_ref().context("the kernel sent no counters")
}

/// The number in `touches=N`.
fn touches(out: &str) -> Result<u64> {
    let number = out.split_whitespace().find_map(|word| word.strip_prefix("touches="));
    Ok(number.with_context(|| format!("no touches in {out:?}"))?.parse()?)
}

/// One line for the record, whether the test passes or not.
fn println_counts(variant: &str, cpus: u32, touches: u64, served: u64, stats: &Stats) {
    let total = |counter| stats.total(counter);
    eprintln!(
        "[churn {variant} on {cpus} CPUs: {touches} touches, {served} faults served, {} fell back, {} found a mark, \
         {} waited, {} spurious]",
        total(Counter::FaultFallback),
        total(Counter::FaultAbort),
        total(Counter::FaultWait),
        total(Counter::FaultSpurious)
    );
}
