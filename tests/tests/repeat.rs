//! Counted time and the boot without firmware: the same seed gives the same run, to the last counter and line, and another
//! seed another one; machines of all sizes boot without firmware (the guest tests do so too: every other group of `guest`).
//!
//! | group | what is checked |
//! |---|---|
//! | `same::` | two runs of one seed are equal: console with its times, output, counters, frames |
//! | `differs::` | another seed gives another run: the comparison sees a difference |
//! | `direct::` | few CPUs and little memory, many and much; what is no kernel is refused with a reason |

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use qemu::{Built, Entry, Image, Machine, ProgramExit, Run, Stdin, Time, Verdict, kernel_image, user_program};
use tests::turn;

/// Longest time for a run: virtual time stands still for nobody, but the host may be busy.
const LIMIT: Duration = Duration::from_secs(300);

fn main() -> ExitCode {
    // Each is asked for by two tests, and run once.
    let shared = Arc::new(OnceLock::new());
    let two_cpus = move || shared.get_or_init(|| witness(2, 1).map_err(|error| format!("{error:#}"))).clone();
    let first = two_cpus.clone();
    let trials = vec![
        trial("same::cpus1", || same(&witness(1, 1)?, &witness(1, 1)?)),
        trial("same::cpus2", move || same(&first().map_err(anyhow::Error::msg)?, &witness(2, 1)?)),
        trial("differs::seed", move || {
            let (one, other) = (two_cpus().map_err(anyhow::Error::msg)?, witness(2, 2)?);
            let line = difference(&text(&one), &text(&other)).context("another seed gave the same run")?;
            ensure!(line.contains("random: "), "before its random numbers it already differs: {line}");
            Ok(())
        }),
        // The demonstration is the largest program there is; half a minute each.
        trial("same::demo_cpus4", || same(&demo()?, &demo()?)).with_ignored_flag(true),
        trial("direct::cpus1_mem128", || hello(1, 128)),
        trial("direct::cpus64_mem5120", || hello(64, 5120)),
        trial("direct::no_kernel", no_kernel),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn trial(name: &str, check: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || check().map_err(|error| Failed::from(format!("{error:#}"))))
}

/// A run of `witness` in counted time.
fn witness(cpus: u32, seed: u64) -> Result<Run> {
    let program = user_program("witness")?;
    let machine = Machine::new(&kernel_image(Image::Kernel)?).cpus(cpus).program(&program, ["witness", "4", "40"]);
    run(machine.stdin(Stdin::Bytes(b"some input\n".repeat(1000))).seed(seed))
}

fn demo() -> Result<Run> {
    run(Machine::new(&kernel_image(Image::Kernel)?).cpus(4).program(&user_program("demo")?, ["demo"]).seed(7))
}

fn run(machine: Machine) -> Result<Run> {
    let _turn = turn::take();
    let run = machine.entry(Entry::Direct).time(Time::Counted).timeout(LIMIT).stats().run()?;
    ensure!(run.verdict == Verdict::Done, "{}\n{}", run.verdict.summary(), run.console);
    ensure!(run.exit == Some(ProgramExit::Code(0)), "{:?}\n{}", run.exit, String::from_utf8_lossy(&run.stderr));
    Ok(run)
}

/// All that two runs are compared by: all but the host's time.
fn text(run: &Run) -> String {
    let stream = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let stats = run.stats.as_ref().map_or(String::new(), qemu::Stats::table);
    format!("{}{}{}{stats}{:?}\n{:?}\n", run.console, stream(&run.stdout), stream(&run.stderr), run.frames, run.exit)
}

/// The first line in which they differ, as both have it.
fn difference(one: &str, other: &str) -> Option<String> {
    if one == other {
        return None;
    }
    let pair = one.lines().zip(other.lines()).find(|(one, other)| one != other);
    Some(pair.map_or("one is longer".into(), |(one, other)| format!("{one}\n{other}")))
}

fn same(one: &Run, other: &Run) -> Result<()> {
    match difference(&text(one), &text(other)) {
        None => Ok(()),
        Some(line) => bail!("two runs of one seed differ:\n{line}"),
    }
}

/// A machine of this size boots without firmware and runs a program.
fn hello(cpus: u32, mem_mib: u32) -> Result<()> {
    let machine = Machine::new(&kernel_image(Image::Kernel)?).cpus(cpus).mem_mib(mem_mib).entry(Entry::Direct);
    let _turn = turn::take();
    let run = machine.program(&user_program("hello")?, ["hello"]).timeout(LIMIT).run()?;
    ensure!(run.verdict == Verdict::Done, "{}\n{}", run.verdict.summary(), run.console);
    ensure!(run.stdout == b"hello from Rust\n", "it says {:?}", String::from_utf8_lossy(&run.stdout));
    ensure!(run.console.contains(&format!("] {cpus} CPUs online")), "{}", run.console);
    Ok(())
}

/// The loader refuses what is no kernel, and says so.
fn no_kernel() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let elf = dir.path().join("kernel");
    std::fs::write(&elf, "not a kernel")?;
    let image = Built { elf, ..kernel_image(Image::Kernel)? };
    let _turn = turn::take();
    let run = Machine::new(&image).cpus(1).entry(Entry::Direct).timeout(LIMIT).run()?;
    ensure!(run.verdict == Verdict::Refused, "{}\n{}", run.verdict.summary(), run.console);
    let said = "direct boot: the kernel cannot be loaded: not an ELF file";
    ensure!(run.console.contains(said), "{}", run.console);
    Ok(())
}
