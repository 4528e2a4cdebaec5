//! User programs on Tessera as on the host's Linux, and the launcher as people use it.
//!
//! | group | what is checked |
//! |---|---|
//! | `same::` | output, errors and status are the same on both systems |
//! | `pairs::` | programs that work on their memory hard, the same on both systems, under the ten pairs of lock protocols |
//! | `killed::` | what a signal ends, it ends on both, and the kernel goes on to account for every frame |
//! | `counts::` | the kernel's fault counters against the program's own count, and how many faults fell back |
//! | `counted::` | the counter outside the machine against loops that were counted by hand |
//! | `explained::` | ARCHITECTURE.md's lives of a page fault and of an `munmap` against what ran |
//! | `kernel::` | what has no counterpart on Linux: memory runs out, random calls, a planted leak, the demonstration |
//! | `report::` | what the launcher tells of a machine that panics, resets itself or hangs, by disasters planted in the kernel |
//! | `launcher::` | command line, streams, exit status, time limit, signals, and that a second run builds nothing |

use std::process::ExitCode;

use abi::Pair;
use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::counted;
use tests::counters;
use tests::explained;
use tests::oracle::Source::{C, Rust};
use tests::oracle::{self, Case};

mod launcher;
mod reports;

fn main() -> ExitCode {
    let mut trials = Trials(Vec::new());
    same(&mut trials);
    pairs(&mut trials);
    killed(&mut trials);
    counts(&mut trials);
    trials.add("counted::by_hand::rust_cpus2", counted::on_two_cpus);
    trials.add("counted::by_hand::c_cpus1", counted::on_one_cpu);
    trials.add("counted::cost_of_a_fault_and_an_munmap", counted::cost);
    trials.add("explained::fault_and_munmap_are_lived_as_they_are_told", explained::lives_are_true);
    trials.add("explained::a_wrong_story_is_refused", explained::wrong_story);
    kernel(&mut trials);
    reports::add(&mut trials);
    launcher::add(&mut trials);
    libtest_mimic::run(&Arguments::from_args(), trials.0).exit_code()
}

/// The list of tests, as it grows.
struct Trials(Vec<Trial>);

impl Trials {
    fn add(&mut self, name: impl Into<String>, check: impl FnOnce() -> Result<()> + Send + 'static) {
        self.0.push(trial(name, check));
    }

    /// One that takes too long for every run: only with `--ignored` or `--include-ignored`.
    fn add_long(&mut self, name: impl Into<String>, check: impl FnOnce() -> Result<()> + Send + 'static) {
        self.0.push(trial(name, check).with_ignored_flag(true));
    }

    fn same(&mut self, name: impl Into<String>, case: Case) {
        self.add(name, move || case.same());
    }
}

fn trial(name: impl Into<String>, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(|error| Failed::from(format!("{error:#}"))))
}

fn same(trials: &mut Trials) {
    let hello = |source| Case::new(source, &["one", "two words", ""]).env("TESSERA_HELLO", "from the environment");
    for cpus in [1, 4, 8] {
        trials.same(format!("same::hello_rust::cpus{cpus}"), hello(Rust("hello")).cpus(cpus));
    }
    for cpus in [2, 3, 16] {
        trials.same(format!("same::hello_c::cpus{cpus}"), hello(C("hello")).cpus(cpus));
    }
    // Several times what the kernel keeps of the input, and what one frame carries.
    let long: Vec<u8> = (0..5000u32).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    trials.same("same::streams::empty", Case::new(Rust("streams"), &[]));
    trials.same("same::streams::long", Case::new(Rust("streams"), &[]).input(&long));
    trials.same("same::exit_status::42", Case::new(Rust("exit_status"), &["42"]));
    trials.same("same::exit_status::low_byte", Case::new(Rust("exit_status"), &["511"]));
    trials.same("same::exit_running", Case::new(Rust("exit_running"), &[]));
    trials.same("same::enosys", Case::new(Rust("enosys"), &[]));
    trials.same("same::errnos", Case::new(Rust("errnos"), &[]));
    trials.same("same::bad_pointers", Case::new(Rust("bad_pointers"), &[]).input(b"something to read"));
    for cpus in [1, 2, 4, 8] {
        trials.same(format!("same::threads::cpus{cpus}"), Case::new(Rust("threads"), &[]).cpus(cpus));
    }
    for cpus in [1, 4] {
        trials.same(format!("same::pthreads::cpus{cpus}"), Case::new(C("pthreads"), &[]).cpus(cpus));
        trials.same(format!("same::futex::cpus{cpus}"), Case::new(Rust("futex"), &[]).cpus(cpus));
        trials.same(format!("same::time::cpus{cpus}"), Case::new(Rust("time"), &[]).cpus(cpus));
    }
    trials.same("same::affinity::cpus4", Case::new(C("affinity"), &[]).cpus(4));
    for cpus in [2, 4] {
        trials.add(format!("same::ymm::cpus{cpus}"), move || ymm(cpus));
    }
}

fn pairs(trials: &mut Trials) {
    // The default pair has these tests, and larger ones, elsewhere here.
    for pair in Pair::TEN.into_iter().filter(|pair| *pair != Pair::DEFAULT) {
        let case = |source, args: &[&str]| Case::new(source, args).pair(pair);
        trials.same(format!("pairs::{pair}::threads"), case(Rust("threads"), &[]));
        for variant in ["apart", "merged"] {
            trials.same(format!("pairs::{pair}::churn_{variant}"), case(Rust("churn"), &[variant, "40", "8", "8"]));
        }
        trials.add(format!("pairs::{pair}::demo"), move || demo(4, pair));
    }
}

/// Standard error names the width and the CPUs, which may differ; what was asked of QEMU must be there.
fn ymm(cpus: u32) -> Result<()> {
    let case = Case::new(C("ymm"), &["500"]).cpus(cpus);
    let linux = case.on_linux()?;
    let (tessera, _) = case.on_tessera()?;
    ensure!(linux.status == 0 && linux.out() == tessera.out(), "Linux: {}, Tessera: {}", linux.out(), tessera.out());
    ensure!(tessera.status == 0 && tessera.err() == format!("32 bytes, {cpus} CPUs\n"), "{}", tessera.err());
    Ok(())
}

fn killed(trials: &mut Trials) {
    let ways = [
        "null-read",
        "null-write",
        "read-only",
        "no-rights",
        "unmapped",
        "execute",
        "own-code",
        "kernel",
        "kernel-image",
        "non-canonical",
        "thread",
    ];
    for way in ways {
        trials.add(format!("killed::segv::{way}"), move || by(Case::new(Rust("segv"), &[way]), 11));
    }
    trials.add("killed::stack_overflow", || by(Case::new(C("stack_overflow"), &[]), 11));
    trials.add("killed::unmap_self", || by(Case::new(Rust("unmap_self"), &[]), 11));
    trials.add("killed::abort", || by(Case::new(Rust("abort"), &[]), 6));
}

/// Both systems kill the program by `signal`, and nothing differs.
fn by(case: Case, signal: i32) -> Result<()> {
    case.same()?;
    let status = case.on_linux()?.status;
    ensure!(status == 128 + signal, "Linux ends it with status {status}");
    Ok(())
}

fn counts(trials: &mut Trials) {
    // How many faults may fall back: apart, the threads' calls never mark a VMA in which another one faults.
    const APART: u64 = 10_000;
    const MERGED: u64 = 100;
    for (language, source, rounds) in [("c", C("churn"), "300"), ("rust", Rust("churn"), "200")] {
        for (variant, one_in) in [("apart", APART), ("merged", MERGED)] {
            trials.add(format!("counts::churn_{language}::{variant}"), move || {
                counters::churn(source, [variant, rounds, "8", "8"], 4, one_in)
            });
            // Minutes each on a small host: `cargo test -- --ignored thousands_of_rounds`.
            trials.add_long(format!("counts::thousands_of_rounds::{language}_{variant}"), move || {
                counters::churn(source, [variant, "3000", "8", "8"], 4, one_in)
            });
        }
    }
    for cpus in [1, 8] {
        trials.add(format!("counts::churn_c::apart_cpus{cpus}"), move || {
            counters::churn(C("churn"), ["apart", "200", "8", "8"], cpus, APART)
        });
    }
    for cpus in [1, 2] {
        trials.add(format!("counts::files::cpus{cpus}"), move || counters::files(cpus));
    }
    trials.add("counts::churn_rust::placed", || counters::churn(Rust("churn"), ["placed", "200", "8", "8"], 4, MERGED));
}

fn kernel(trials: &mut Trials) {
    trials.add("kernel::demo::cpus4", || demo(4, Pair::DEFAULT));
    trials.add("kernel::demo::cpus1", || demo(1, Pair::DEFAULT));
    trials.add("kernel::hello::cpus64", || {
        let (finished, _) = Case::new(C("hello"), &[]).cpus(64).on_tessera()?;
        ensure!(finished.out() == "hello from C\n", "{}", finished.out());
        Ok(())
    });
    trials.add("kernel::out_of_memory::pages", || {
        // More than the machine has: the process dies, by a signal, and everything is given back.
        let (finished, _) = Case::new(Rust("oom"), &["touch", "400"]).mem_mib(256).on_tessera()?;
        ensure!(finished.out() == "mapped\n", "it went on: {}", finished.out());
        ensure!(finished.status == 128 + 9, "status {}: {}", finished.status, finished.err());
        Ok(())
    });
    trials.add("kernel::out_of_memory::mappings", || {
        // Either the memory holds them all, or the call that it does not hold is refused; Linux refuses by a limit.
        let (finished, _) = Case::new(Rust("oom"), &["maps", "40000"]).mem_mib(256).on_tessera()?;
        ensure!(finished.status == 0, "status {}: {}{}", finished.status, finished.out(), finished.err());
        Ok(())
    });
    for seed in ["1", "2"] {
        trials.add(format!("kernel::fuzz_calls::seed{seed}"), move || {
            let (finished, _) = Case::new(Rust("fuzz_calls"), &["4", seed]).on_tessera()?;
            ensure!(finished.out().ends_with("survived\n"), "status {}: {}", finished.status, finished.err());
            Ok(())
        });
    }
    trials.add("kernel::points::faults_and_calls_meet", points);
    trials.add("kernel::planted_leak_is_noticed", || {
        let run = Case::new(C("hello"), &[]).plant(&["leak-frame"]).boot()?;
        ensure!(run.verdict == qemu::Verdict::CheckFailed, "{}", oracle::report(&run)?);
        let lost: Vec<_> = run.frames.iter().flat_map(|frames| frames.changed()).map(|owner| &owner.owner).collect();
        ensure!(lost.len() == 1, "one owner should have one frame more, not {lost:?}");
        Ok(())
    });
}

/// A fault that holds its VMA and a call that has marked it are brought together, over and over, with random delays
/// around them: calls must be seen to wait for faults, and every byte must be right all the same.
fn points() -> Result<()> {
    let rules = "seed=3;*=delay:30:1/64;fault-locked+after-mark=meet:2:300";
    let (finished, run) = Case::new(C("churn"), &["merged", "40", "4", "4"]).points(rules).on_tessera()?;
    ensure!(finished.status == 0, "status {}: {}{}", finished.status, finished.out(), finished.err());
    let said = run.console.lines().filter_map(|line| line.split_once("schedule points: "));
    let report = said.map(|(_, said)| said).find(|said| said.contains(" meetings"));
    let report = report.with_context(|| format!("not a word about schedule points: {}", run.console))?;
    let count = |what: &str| {
        let number = report.split(", ").find_map(|part| part.strip_suffix(what)).and_then(|number| number.parse().ok());
        number.unwrap_or(0u64)
    };
    ensure!(count(" delays") > 0 && count(" meetings") > 0, "{report}");
    let stats = run.stats.context("the kernel sent no counters")?;
    ensure!(stats.total(abi::Counter::SettleWait) > 0, "no call waited for a fault: {report}");
    Ok(())
}

/// The demonstration checks every byte itself; here only that it says so, and how many faults it expected.
fn demo(cpus: u32, pair: Pair) -> Result<()> {
    let case = Case::new(Rust("demo"), &["8", "20", "16"]).cpus(cpus).pair(pair);
    let linux = case.on_linux()?;
    let (tessera, _) = case.on_tessera()?;
    ensure!(tessera.status == 0, "status {}: {}{}", tessera.status, tessera.out(), tessera.err());
    let total =
        |out: &str| out.lines().last().and_then(|line| line.split(" page faults expected").next().map(str::to_owned));
    let (linux, tessera) = (total(&linux.out()), total(&tessera.out()));
    ensure!(linux.is_some() && linux == tessera, "Linux: {linux:?}, Tessera: {tessera:?}");
    Ok(())
}
