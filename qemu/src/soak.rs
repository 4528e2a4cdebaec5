//! `soak`: many machines one after another, each with random work, CPUs, memory and delays; stops at the first that fails.
//!
//! Each run follows from a seed of its own, which is printed before the run begins, and a failure prints the command
//! that does just that run again. Several CPUs under one seed still run as the host lets them: what comes back is the
//! work and the delays, not every interleaving; `--icount` has those.

mod builds;
pub mod choice;
mod tally;
pub mod work;

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abi::Pair;
use anyhow::{Context, Result};

use crate::cli::{FirmwareKind, MachineOptions, SoakOptions, Switch};
use crate::draws::Draws;
use crate::image::Built;
use crate::machine::{self, Machine, Time};
use crate::registry::{Ends, On, guest_tests};
use crate::run::Run;
use crate::say::say;
use crate::{launch, status};
use builds::Builds;
use choice::{Choice, Fixed, choose, run_seed};
use tally::Tally;
use work::{Program, Work};

/// How long one machine may take if nobody says: a busy host is slow, and a machine that hangs hangs for ever.
const LIMIT: Duration = Duration::from_secs(600);

/// Bytes of a program's streams that a report shows, from their end.
const STREAM_TAIL: usize = 4000;

/// Runs the soak. Returns 0 if every run passed, else the status of the one that failed: the launcher's own, or
/// [`status::WRONG`] if the machine was well and the program was not.
///
/// # Errors
/// Something could not be built or started, or our own output not be written.
pub fn main(machine: &MachineOptions, options: &SoakOptions) -> Result<u8> {
    let soak = Soak::prepare(machine, options)?;
    let seed = machine.seed.unwrap_or_else(fresh_seed);
    let mut out = io::stdout().lock();
    writeln!(out, "soak: {} from seed {seed:#x}", how_long(options))?;
    let mut tally = Tally::new();
    for run in 0..options.runs() {
        if options.duration.is_some_and(|duration| tally.elapsed() >= duration) {
            break;
        }
        let seed = run_seed(seed, run);
        let choice = match choose(seed, &soak.of_run(run), &soak.tests) {
            Ok(choice) => choice,
            Err(kinds) => {
                say(format_args!("there is no such work; there is: {}", kinds.join(", ")));
                return Ok(status::BAD_INPUT);
            }
        };
        let made = soak.machine(&choice);
        // A signal ends a build too.
        if made.is_err() && soak.stop.load(Ordering::Relaxed) {
            writeln!(out, "{tally}")?;
            return Ok(status::INTERRUPTED);
        }
        let (image, boot) = made?;
        write!(out, "{:>5}  {choice}", run + 1)?;
        out.flush()?;
        let ended = boot.run();
        // QEMU had the same signal from the terminal: whatever it made of it is no failure.
        if soak.stop.load(Ordering::Relaxed) {
            writeln!(out, "  stopped")?;
            writeln!(out, "{tally}")?;
            return Ok(status::INTERRUPTED);
        }
        let ended = ended?;
        let failure = failure(&choice.work, &ended);
        let verdict = failure.as_ref().map_or("passed".into(), |_| format!("FAILED: {}", ended.verdict.summary()));
        writeln!(out, "  {:>6.1} s  {verdict}", ended.elapsed.as_secs_f32())?;
        if let Some(failure) = failure {
            writeln!(out, "{tally}")?;
            out.flush()?;
            return Ok(soak.report(&choice, &image, &ended, failure));
        }
        tally.count(&choice, &ended);
    }
    writeln!(out, "{tally}")?;
    Ok(0)
}

/// What the command line does not leave to the seed.
fn fixed(machine: &MachineOptions, options: &SoakOptions) -> Fixed {
    Fixed {
        cpus: machine.cpus,
        mem_mib: machine.mem,
        entry: machine.firmware.map(|_| machine.entry()),
        time: machine.icount.then_some(Time::Counted),
        pair: if machine.vma_lock.is_some() || machine.update.is_some() { machine.pair().ok() } else { None },
        only: options.only.clone(),
    }
}

/// How many runs, or for how long.
fn how_long(options: &SoakOptions) -> String {
    match (options.duration, options.runs) {
        (None, _) => format!("{} runs", options.runs()),
        (Some(duration), None) => format!("{} s", duration.as_secs()),
        (Some(duration), Some(runs)) => format!("{runs} runs, or {} s,", duration.as_secs()),
    }
}

/// A seed that nobody asked for: the time.
fn fresh_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Draws::at(now.as_nanos() as u64, 0)
}

/// What all runs of a soak have in common.
struct Soak<'a> {
    options: &'a MachineOptions,
    /// Whether the ten pairs of lock protocols take turns.
    turns: bool,
    only: Option<&'a str>,
    fixed: Fixed,
    /// Names of the guest tests; none if they cannot be had.
    tests: Vec<String>,
    /// Somebody wants us to end.
    stop: Arc<AtomicBool>,
    built: Builds,
}

/// Why a run failed.
enum Failure {
    /// The machine did not end as it should.
    Machine,
    /// It did, but what ran on it was wrong.
    Program(String),
}

fn failure(work: &Work, run: &Run) -> Option<Failure> {
    match status::of_failure(&run.verdict) {
        Some(_) => Some(Failure::Machine),
        None => work.complaint(run).map(Failure::Program),
    }
}

impl<'a> Soak<'a> {
    fn prepare(machine: &'a MachineOptions, options: &'a SoakOptions) -> Result<Soak<'a>> {
        let only = options.only.as_deref();
        // The guest tests are a kernel of their own: one that is chosen on the command line does without.
        let built = Builds::new()?;
        let own = machine.kernel.is_some() || machine.release;
        let tests = if own || only.is_some_and(|part| !Work::GUEST_TESTS.contains(part)) {
            Vec::new()
        } else {
            let tests = guest_tests(&built.guest()?.elf)?;
            let anywhere = tests.into_iter().filter(|test| test.ends == Ends::Returning && test.on != On::CountedTime);
            anywhere.map(|test| test.name).collect()
        };
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            // The second time is meant: QEMU is killed with us.
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
                .context("cannot listen for signals")?;
        }
        let soak =
            Soak { options: machine, turns: options.pairs, only, fixed: fixed(machine, options), tests, stop, built };
        if options.runs() > 1 {
            soak.build()?;
        }
        Ok(soak)
    }

    /// Builds all that may run, so that later changes of the sources do not matter.
    fn build(&self) -> Result<()> {
        let programs = Program::one_of_each(self.only);
        if !programs.is_empty() {
            self.built.kernel(self.options)?;
        }
        programs.iter().try_for_each(|program| self.built.program(program).map(drop))
    }

    /// What run `run` (from 0 on) does not leave to its seed.
    fn of_run(&self, run: u64) -> Fixed {
        let turn = self.turns.then(|| Pair::TEN[(run % Pair::TEN.len() as u64) as usize]);
        Fixed { pair: turn.or(self.fixed.pair), ..self.fixed.clone() }
    }

    /// What happens at schedule points: what the person asked for, else what the seed did, in a kernel that has them.
    fn points<'b>(&'b self, choice: &'b Choice) -> Option<&'b str> {
        let chosen = choice.points.as_deref().filter(|_| !self.options.release);
        self.options.points.as_deref().or(chosen)
    }

    /// The machine of one run, and what it boots.
    fn machine(&self, choice: &Choice) -> Result<(Built, Machine)> {
        let (image, program) = match &choice.work {
            Work::GuestTests(_) => (self.built.guest()?, None),
            Work::Program(program) => (self.built.kernel(self.options)?, Some((program, self.built.program(program)?))),
        };
        let mut machine = launch::machine(&image, self.options)
            .cpus(choice.cpus)
            .mem_mib(choice.mem_mib)
            .entry(choice.entry)
            .time(choice.time)
            .pair(choice.pair)
            .timeout(self.options.timeout.map_or(LIMIT, |seconds| Duration::from_secs(seconds.into())))
            .seed(choice.seed)
            .stats()
            .stop_when(Arc::clone(&self.stop));
        if let Some(seed) = choice.start_delays {
            machine = machine.start_delays(seed);
        }
        if let Some(rules) = self.points(choice) {
            machine = machine.points(rules);
        }
        let machine = match (&choice.work, program) {
            (Work::Program(_), Some((program, file))) => machine.program(&file, Program::argv(program)),
            (Work::GuestTests(names), _) => machine.tests(&names.iter().map(String::as_str).collect::<Vec<_>>()),
            (Work::Program(_), None) => unreachable!("built above"),
        };
        Ok((image, machine))
    }

    /// Says everything about a run that failed, and returns its status.
    fn report(&self, choice: &Choice, image: &Built, run: &Run, failure: Failure) -> u8 {
        let work = choice.work.to_string();
        let status = match failure {
            Failure::Machine => launch::conclude(run, image, Path::new(&work)),
            Failure::Program(complaint) => {
                say(format_args!("{work}: {complaint}"));
                say(run.console.trim_end());
                status::WRONG
            }
        };
        for (name, bytes) in [("standard output", &run.stdout), ("standard error", &run.stderr)] {
            let tail = &bytes[bytes.len().saturating_sub(STREAM_TAIL)..];
            if !tail.is_empty() {
                say(format_args!("the program's {name} ended with:\n{}", String::from_utf8_lossy(tail).trim_end()));
            }
        }
        say(format_args!("this run again: {}", self.again(choice)));
        status
    }

    /// The command that does this run again.
    fn again(&self, choice: &Choice) -> String {
        let mut words = format!("cargo run -- soak --runs 1 --seed {:#x}", choice.seed);
        let options = self.options;
        let numbers = [
            ("--cpus", options.cpus),
            ("--mem", options.mem),
            ("--timeout", options.timeout),
            ("--wait-limit", options.wait_limit),
        ];
        for (name, value) in numbers {
            if let Some(value) = value {
                words += &format!(" {name} {value}");
            }
        }
        if options.icount {
            words += " --icount";
        }
        words += match options.firmware {
            Some(FirmwareKind::Uefi) => " --firmware uefi",
            Some(FirmwareKind::None) => " --firmware none",
            None => "",
        };
        if self.turns || self.fixed.pair.is_some() {
            words += &format!(" --vma-lock {} --update {}", choice.pair.read(), choice.pair.update());
        }
        if let Some(rules) = &options.points {
            words += &format!(" --points {}", quoted(rules));
        }
        if let Some(only) = self.only {
            words += &format!(" --only {}", quoted(only));
        }
        if options.release {
            words += " --release";
        }
        if let Some(switch) = options.events {
            words += if switch == Switch::Off { " --events off" } else { " --events on" };
        }
        if let Some(level) = options.log {
            words += &format!(" --log {}", level.name());
        }
        if let Some(kernel) = &options.kernel {
            words += &format!(" --kernel {}", quoted(&kernel.display().to_string()));
        }
        for plant in &options.plant {
            words += &format!(" --plant {}", quoted(plant));
        }
        words
    }
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, work) = (format!("{:#x}", self.seed), self.work.to_string());
        write!(
            f,
            "{seed:<18}  {:<19} {work:<32} {:>2} CPUs {:>4} MiB",
            self.pair.to_string(),
            self.cpus,
            self.mem_mib
        )?;
        let entry = if self.entry == machine::Entry::Uefi { "uefi" } else { "" };
        let time = if self.time == Time::Counted { "icount" } else { "" };
        let starts = if self.start_delays.is_some() { "late" } else { "" };
        let points = match self.points.as_deref() {
            None => "",
            Some(rules) if rules.contains("=meet") => "meetings",
            Some(_) => "points",
        };
        write!(f, "  {entry:<4} {time:<6} {starts:<4} {points:<8}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{self, Verb};

    fn options(line: &str) -> (MachineOptions, SoakOptions) {
        let cli = cli::parse(line.split(' ').map(Into::into)).unwrap();
        let Some(Verb::Soak(soak)) = cli.verb else { panic!("{line}: no soak") };
        (cli.machine, soak)
    }

    #[test]
    fn the_command_for_one_run_chooses_that_run_again() {
        let tests = vec!["a::b".to_owned()];
        for line in [
            "tessera soak",
            "tessera soak --runs 7 --cpus 4 --seed 0x77",
            "tessera soak --mem 300 --timeout 9 --only churn --release --plant leak-frame --plant other",
            "tessera --kernel /k/elf soak --cpus 64",
            "tessera soak --icount --points seed=1;*=delay:5:1/9",
            "tessera soak --icount --firmware uefi --cpus 2",
            "tessera soak --vma-lock rwsem --update cycle-held",
            "tessera soak --vma-lock bravo",
            "tessera soak --pairs --for 2h",
            "tessera soak --events off --log warn --wait-limit 50",
        ] {
            let (machine, soak_options) = options(line);
            let soak = Soak {
                options: &machine,
                turns: soak_options.pairs,
                only: soak_options.only.as_deref(),
                fixed: fixed(&machine, &soak_options),
                tests: tests.clone(),
                stop: Arc::default(),
                built: Builds::new().unwrap(),
            };
            for run in 0..50 {
                let choice = choose(run_seed(12, run), &soak.of_run(run), &soak.tests).unwrap();
                let again = soak.again(&choice).replace("cargo run -- ", "tessera ").replace('\'', "");
                let (repeated, repeated_options) = options(&again);
                assert_eq!(repeated_options.runs(), 1);
                let seed = run_seed(repeated.seed.unwrap(), 0);
                assert_eq!(choose(seed, &fixed(&repeated, &repeated_options), &tests), Ok(choice), "{again}");
                assert_eq!(
                    (repeated.release, &repeated.kernel, &repeated.plant, repeated.timeout, &repeated.points),
                    (machine.release, &machine.kernel, &machine.plant, machine.timeout, &machine.points)
                );
                assert_eq!(
                    (repeated.events, repeated.log, repeated.wait_limit),
                    (machine.events, machine.log, machine.wait_limit)
                );
            }
        }
    }

    #[test]
    fn words_are_quoted_where_a_shell_would_read_them_otherwise() {
        assert_eq!(quoted("leak-frame"), "leak-frame");
        assert_eq!(quoted("seed=1;*=delay:5:1/9"), "'seed=1;*=delay:5:1/9'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn pairs_take_turns() {
        let (machine, options) = options("tessera soak --pairs");
        let soak = Soak {
            options: &machine,
            turns: options.pairs,
            only: None,
            fixed: fixed(&machine, &options),
            tests: vec!["a::b".to_owned()],
            stop: Arc::default(),
            built: Builds::new().unwrap(),
        };
        let pair = |run| choose(run_seed(3, run), &soak.of_run(run), &soak.tests).unwrap().pair;
        assert_eq!((0..20).map(pair).collect::<Vec<_>>(), [Pair::TEN, Pair::TEN].concat());
    }
}
