//! The soak as people use it: it passes, it stops at a failure that can be had again, and it ends when it is told to.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use qemu::status;
use tests::child::{self, Finished};
use tests::{launcher, turn};

use crate::Trials;

/// Adds the soak's tests.
pub(crate) fn add(trials: &mut Trials) {
    trials.add("launcher::soak::runs_pass", runs_pass);
    trials.add("launcher::soak::a_failure_stops_it_and_can_be_had_again", failure_again);
    trials.add("launcher::soak::a_race_is_found_and_can_be_had_again", race_again);
    trials.add("launcher::soak::a_signal_ends_it_with_the_tally", signal);
    trials.add("launcher::soak::bad_input", bad_input);
}

fn soak(args: &str) -> Result<Finished> {
    launcher::run(&std::iter::once("soak").chain(args.split_whitespace()).collect::<Vec<_>>(), &[])
}

/// The lines about runs, without their number and what may differ when a run is repeated: the time.
fn runs(finished: &Finished) -> Vec<String> {
    let out = finished.out();
    let lines = out.lines().filter(|line| line.contains(" CPUs "));
    lines
        .map(|line| line.split_whitespace().skip(1).take_while(|word| *word != "MiB").collect::<Vec<_>>().join(" "))
        .collect()
}

fn runs_pass() -> Result<()> {
    let finished = soak("--runs 2 --seed 11 --pairs --only hello --firmware none --timeout 300")?;
    let (out, err) = (finished.out(), finished.err());
    ensure!(finished.status == 0, "status {}: {out}{err}", finished.status);
    let runs = runs(&finished);
    ensure!(runs.len() == 2 && runs[0].starts_with("0xb mm+bulk hello.c "), "{out}");
    ensure!(runs[1].split(' ').nth(1) == Some("rwsem+bulk"), "{out}");
    for pair in ["mm+bulk ", "rwsem+bulk "] {
        ensure!(out.lines().any(|line| line.starts_with(pair)), "no account of {pair}: {out}");
    }
    ensure!(out.lines().filter(|line| line.ends_with(" s  passed")).count() == 2, "{out}");
    ensure!(out.lines().last().is_some_and(|line| line.starts_with("soak: 2 runs passed in ")), "{out}");
    Ok(())
}

/// The frame that is missing is noticed in the first run; the command that it prints does that run, and fails likewise.
fn failure_again() -> Result<()> {
    let first = soak("--runs 3 --seed 0x5eed --only hello --cpus 2 --firmware none --timeout 300 --plant leak-frame")?;
    let again = failed(&first)?;
    let words = again.strip_prefix("cargo run -- soak ").with_context(|| format!("not a command: {again}"))?;
    ensure!(words.contains("--runs 1") && words.contains("--seed 0x5eed") && words.contains("--cpus 2"), "{words}");
    let second = soak(words)?;
    ensure!(failed(&second)? == again, "another command: {}", second.err());
    ensure!(runs(&first) == runs(&second), "{:?}, then {:?}", runs(&first), runs(&second));
    Ok(())
}

/// One shootdown in four forgets the other CPUs. Guest tests see it: the seed has those of TLBs in its first run. The run that
/// failed fails again.
fn race_again() -> Result<()> {
    let stopped = |finished: &Finished| {
        let (out, err) = (finished.out(), finished.err());
        ensure!(finished.status == i32::from(status::PANICKED), "status {}: {out}{err}", finished.status);
        ensure!(out.contains("FAILED: the kernel panicked") && err.contains("tests/guest/src/tlb.rs"), "{out}{err}");
        let again = err.lines().find_map(|line| line.split_once("this run again: cargo run -- soak "));
        Ok(again.with_context(|| format!("no command: {err}"))?.1.to_owned())
    };
    let args = "--runs 4 --seed 150 --only guest --cpus 2 --mem 256 --firmware none --timeout 300 --plant skip-flush";
    let again = stopped(&soak(args)?)?;
    let repeated = stopped(&soak(&again)?)?;
    ensure!(repeated == again, "{repeated}, not {again}");
    Ok(())
}

/// Checks that a soak stopped in its first run for the leak, and reported it. Returns the command for that run.
fn failed(finished: &Finished) -> Result<String> {
    let (out, err) = (finished.out(), finished.err());
    ensure!(finished.status == i32::from(status::CHECK_FAILED), "status {}: {out}{err}", finished.status);
    ensure!(runs(finished).len() == 1 && out.contains("FAILED: a check at the end failed"), "{out}");
    ensure!(out.contains("soak: 0 runs passed"), "{out}");
    ensure!(err.contains("0 -> 1") && err.contains("last lines of the console"), "no report: {err}");
    let again = err.lines().find_map(|line| line.split_once("this run again: "));
    Ok(again.with_context(|| format!("no command: {err}"))?.1.to_owned())
}

fn signal() -> Result<()> {
    // A machine that runs for a while.
    let args = "soak --runs 50 --seed 1 --only fuzzed --cpus 2 --mem 256 --firmware none --timeout 300";
    let mut command = launcher::command(&args.split_whitespace().collect::<Vec<_>>())?;
    let _turn = turn::take();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut out = BufReader::new(child.stdout.take().context("no pipe")?);
    let mut first = String::new();
    out.read_line(&mut first)?;
    ensure!(first == "soak: 50 runs from seed 0x1\n", "{first}");
    let deadline = Instant::now() + Duration::from_secs(120);
    let started = loop {
        let started = launcher::descendants(child.id());
        let is_qemu =
            |id: &u32| std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|name| name.starts_with("qemu"));
        if started.iter().any(is_qemu) {
            break started;
        }
        ensure!(Instant::now() < deadline, "no machine was started");
        std::thread::sleep(Duration::from_millis(20));
    };
    child::terminate(&child);
    let Some(status) = child::wait_until(&mut child, Instant::now() + Duration::from_secs(60))? else {
        child.kill()?;
        bail!("it did not end");
    };
    let rest = out.lines().collect::<Result<Vec<_>, _>>()?;
    ensure!(child::as_a_shell(status) == i32::from(status::INTERRUPTED), "{status}: {rest:?}");
    ensure!(
        rest.last().is_some_and(|line| line.starts_with("soak: ") && line.contains(" runs passed in ")),
        "{rest:?}"
    );
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Some(left) = started.iter().find(|id| launcher::runs(**id)) {
        ensure!(Instant::now() < deadline, "process {left} is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn bad_input() -> Result<()> {
    for (args, mentions) in
        [("--only nonsense", "churn apart"), ("--runs x", "--runs"), ("--for x", "--for"), ("--seed x", "--seed")]
    {
        let finished = soak(args)?;
        ensure!(finished.status == i32::from(status::BAD_INPUT), "{args}: status {}", finished.status);
        ensure!(finished.err().contains(mentions), "{args}: {mentions:?} is not mentioned: {}", finished.err());
    }
    Ok(())
}
