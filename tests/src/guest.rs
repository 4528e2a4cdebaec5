//! Boots that many guest tests share, and what became of each test.
//!
//! A test that panics or hangs ends its boot. It has failed then, and the tests after it get another boot, so that each
//! test has a verdict of its own.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use abi::Pair;
use anyhow::{Result, bail, ensure};
use qemu::{Built, Entry, Machine, Outcome, Run, Symbols, TestResult, Time, Verdict};

use crate::{says, turn};

/// How long a boot may take. Nothing in a guest test takes minutes, on 64 CPUs of a busy host neither: whoever is here
/// that long hangs.
const LIMIT: Duration = Duration::from_secs(400);

/// Lines of the console that a report shows.
const TAIL: usize = 60;

/// What became of one test: none if it passed, else what a person needs to know.
type Report = Option<String>;

/// What to say about tests that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// One line a boot.
    Summary,
    /// Each test's duration and log as well.
    Everything,
}

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its CPUs.
    pub cpus: u32,
    /// How it comes to the kernel.
    pub entry: Entry,
    /// Its lock protocols.
    pub pair: Pair,
    /// Its time.
    pub time: Time,
}

impl Kind {
    /// The beginning of its tests' names: `cpus4`; `rwsem+cycle::cpus4` with other locks than the default ones; `counted` where
    /// time is.
    pub fn prefix(&self) -> String {
        let cpus = self.cpus;
        if self.time == Time::Counted {
            return "counted".into();
        }
        if self.pair == Pair::DEFAULT { format!("cpus{cpus}") } else { format!("{}::cpus{cpus}", self.pair) }
    }
}

/// Tests that run on machines of one kind.
#[derive(Debug)]
pub struct SharedBoots {
    image: Built,
    kind: Kind,
    names: Vec<String>,
    show: Show,
    done: OnceLock<BTreeMap<String, Report>>,
    last_verdict: Mutex<Option<Verdict>>,
}

impl SharedBoots {
    /// Boots of `image` on machines of this kind for the tests `names`. Nothing runs yet.
    pub fn new(image: Built, kind: Kind, names: Vec<String>, show: Show) -> SharedBoots {
        SharedBoots { image, kind, names, show, done: OnceLock::new(), last_verdict: Mutex::new(None) }
    }

    /// What became of the test `name`. The first who asks runs them all.
    ///
    /// # Errors
    /// It failed, hung, or could not be run: the text says what, and shows the kernel's log.
    pub fn outcome(&self, name: &str) -> Result<(), String> {
        match self.done.get_or_init(|| self.run_all()).get(name) {
            Some(None) => Ok(()),
            Some(Some(report)) => Err(report.clone()),
            None => Err("the kernel never began this test".into()),
        }
    }

    /// Whether the last boot also ended as it should.
    ///
    /// # Errors
    /// It did not.
    pub fn ended_well(&self) -> Result<(), String> {
        let done = self.done.get_or_init(|| self.run_all());
        let failed = done.values().any(Option::is_some);
        let verdict = self.last_verdict.lock().unwrap_or_else(PoisonError::into_inner);
        match &*verdict {
            Some(Verdict::Done) => Ok(()),
            // Each has its own report.
            Some(Verdict::CheckFailed | Verdict::Panicked | Verdict::Reset | Verdict::TimedOut) if failed => Ok(()),
            Some(verdict) => Err(verdict.summary()),
            None => Err("the machine was never started".into()),
        }
    }

    fn run_all(&self) -> BTreeMap<String, Report> {
        let symbols = Symbols::load(&self.image.elf).unwrap_or_default();
        let mut done = BTreeMap::new();
        let mut rest: Vec<&str> = self.names.iter().map(String::as_str).collect();
        while !rest.is_empty() {
            let run = {
                let _turn = turn::take();
                let Kind { cpus, entry, pair, time } = self.kind;
                let machine = Machine::new(&self.image).cpus(cpus).entry(entry).pair(pair).time(time).timeout(LIMIT);
                machine.tests(&rest).run()
            };
            let run = match run.and_then(|run| self.has_these_locks(run)) {
                Ok(run) => run,
                Err(error) => {
                    done.extend(rest.iter().map(|name| (name.to_string(), Some(format!("{error:#}")))));
                    return done;
                }
            };
            self.tell(&run);
            for test in &run.tests {
                done.insert(test.name.clone(), report(&run, test, &symbols));
            }
            let before = rest.len();
            rest.retain(|name| !done.contains_key(*name));
            *self.last_verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(run.verdict.clone());
            if rest.len() == before || run.tests_done.is_some() {
                // No test began at all, or the kernel knows none of those that are left.
                let report = format!("it was asked for and did not begin: {}", run.failure_report(&symbols, TAIL));
                done.extend(rest.iter().map(|name| (name.to_string(), Some(report.clone()))));
                return done;
            }
        }
        done
    }

    /// A run that came as far as its tests, if the kernel said that it has the locks that were asked for.
    fn has_these_locks(&self, run: Run) -> Result<Run> {
        let pair = self.kind.pair;
        let line = format!("] locks: faults by {}, updates by {}\n", pair.read(), pair.update());
        ensure!(run.tests.is_empty() || run.console.contains(&line), "the kernel did not say{line}{}", run.console);
        Ok(run)
    }

    /// Says what a boot was like.
    fn tell(&self, run: &Run) {
        let slowest = run.tests.iter().max_by_key(|test| test.took);
        let slowest = slowest.map_or(String::new(), |test| format!(", slowest {} ({:.0?})", test.name, test.took));
        let Kind { cpus, entry, pair, time } = self.kind;
        let entry = match entry {
            Entry::Uefi => "",
            Entry::Direct => " without firmware",
        };
        eprintln!("[{pair} on {cpus} CPUs{entry}: {} tests in {:.1?}{slowest}]", run.tests.len(), run.elapsed);
        // What has been counted is the point of such a test.
        if self.show == Show::Everything || time == Time::Counted {
            for test in &run.tests {
                eprintln!("[{pair} on {cpus} CPUs: {} {:?} {:.1?}]", test.name, test.outcome, test.took);
                test.log.iter().for_each(|line| eprintln!("    {line}"));
            }
        }
    }
}

fn report(run: &Run, test: &TestResult, symbols: &Symbols) -> Report {
    let what = match test.outcome {
        Outcome::Passed => match says::check(&console_of(&run.console, &test.name), says::says(&test.name)) {
            Ok(()) => return None,
            Err(missing) => {
                format!("the console does not say {missing:?}\n{}", console_of(&run.console, &test.name))
            }
        },
        Outcome::Failed => format!("failed after {:?}\n{}", test.took, console_of(&run.console, &test.name)),
        Outcome::Unfinished => format!("began and never ended: {}", run.failure_report(symbols, TAIL)),
    };
    let log: String = test.log.iter().map(|line| format!("  log: {line}\n")).collect();
    Some(what + "\n" + &log)
}

/// The console's lines from the beginning of a test to that of the next one.
fn console_of(console: &str, name: &str) -> String {
    let begins = |line: &str| line.contains(&format!("test {name}"));
    let lines = console.lines().skip_while(|line| !begins(line));
    let own = lines.enumerate().take_while(|(index, line)| *index == 0 || !line.contains(" test "));
    own.take(TAIL).map(|(_, line)| format!("  | {line}\n")).collect()
}

/// Runs a test that must panic, on a machine of its own.
///
/// # Errors
/// It did not begin, or the machine ended in another way.
pub fn must_panic(image: &Built, cpus: u32, name: &str) -> Result<()> {
    let _turn = turn::take();
    let run = Machine::new(image).cpus(cpus).entry(Entry::Direct).timeout(LIMIT).tests(&[name]).run()?;
    let report = || run.failure_report(&Symbols::load(&image.elf).unwrap_or_default(), TAIL);
    ensure!(run.tests.iter().any(|test| test.name == name), "it did not begin: {}", report());
    ensure!(run.verdict == Verdict::Panicked, "it should have panicked: {}", report());
    if let Err(missing) = says::check(&run.console, says::says(name)) {
        bail!("the console does not say {missing:?}: {}", report());
    }
    ensure!(
        run.report.iter().any(|line| line.contains("panicked here")),
        "its report does not say where: {}",
        report()
    );
    Ok(())
}
