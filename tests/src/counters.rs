//! The kernel's count of page faults against the program's count of its own first touches.
//!
//! `churn` counts each first access to a page that is not present. Such an access is one fault that the kernel serves, on
//! the fast path (`fault_locked`) or as a small transaction (`fault_fallback`). What start and end of the program cost is
//! measured by a run of zero rounds.

use abi::Counter;
use anyhow::{Context, Result, ensure};
use qemu::{Run, Stats};

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
