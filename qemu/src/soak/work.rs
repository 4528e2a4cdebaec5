//! The kinds of work in a soak, in random sizes: what runs, and how its end shows that all went well.
//!
//! Every program checks itself and says so by its status and its last line; the kernel accounts for every frame after it;
//! where a program counts its own first touches of pages, the kernel must have served at least as many faults. Guest tests
//! judge themselves.

use std::fmt;
use std::path::{Path, PathBuf};

use abi::Counter;
use anyhow::Result;

use crate::draws::Draws;
use crate::run::{Outcome, Run, Verdict};
use crate::{programs, workspace};

/// What one machine of a soak does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Runs these guest tests.
    GuestTests(Vec<String>),
    /// Runs a program.
    Program(Program),
}

/// A program of the project's, and how it has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    kind: &'static str,
    source: Source,
    args: Vec<String>,
    ends: Ends,
}

/// Where a program's source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A binary of the package `user`.
    Rust(&'static str),
    /// A file in `tests/user/c`, without its ending.
    C(&'static str),
}

/// How a program ends if all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ends {
    /// Its status, as a shell shows it.
    status: u8,
    /// How its standard output ends.
    output: String,
    /// Page faults that it must have had.
    faults: u64,
}

/// Every kind of work, by name; one that stands here twice comes twice as often.
pub const KINDS: [&str; 15] = [
    "churn apart",
    "churn merged",
    "churn placed",
    "churn in C",
    "demo",
    "exit while running",
    "futexes",
    "fuzzed calls",
    "guest tests",
    "hello",
    "kills",
    "memory runs out",
    "pthreads",
    "threads",
    "vector registers",
];

/// How often a kind comes, against 1 for most.
fn weight(kind: &str) -> usize {
    match kind {
        "guest tests" => 6,
        "fuzzed calls" | "demo" => 3,
        "churn apart" | "churn merged" | "churn placed" | "churn in C" | "threads" => 2,
        _ => 1,
    }
}

impl Work {
    /// The name of the kind that is no program.
    pub const GUEST_TESTS: &str = "guest tests";

    /// Work of a kind whose name holds `only`, for a machine with `cpus` CPUs and `mem_mib` MiB.
    ///
    /// # Errors
    /// There is no such kind: all of them.
    pub fn choose(
        draws: &mut Draws,
        only: Option<&str>,
        cpus: u32,
        mem_mib: u32,
        tests: &[String],
    ) -> Result<Work, Vec<&'static str>> {
        let there = |kind: &str| kind != Work::GUEST_TESTS || !tests.is_empty();
        let asked_for = |kind: &&str| there(kind) && only.is_none_or(|part| kind.contains(part));
        let kinds: Vec<&'static str> = KINDS.iter().copied().filter(asked_for).collect();
        if kinds.is_empty() {
            return Err(KINDS.to_vec());
        }
        let bag: Vec<&'static str> = kinds.iter().flat_map(|kind| std::iter::repeat_n(*kind, weight(kind))).collect();
        let kind = *draws.one_of(&bag);
        if kind == Work::GUEST_TESTS {
            return Ok(Work::GuestTests(some_of(draws, tests)));
        }
        Ok(Work::Program(Program::choose(draws, kind, cpus, mem_mib)))
    }

    /// Its name in [`KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            Work::GuestTests(_) => Work::GUEST_TESTS,
            Work::Program(program) => program.kind,
        }
    }

    /// What is wrong with how it ended; none if all is well. The verdict is that of a machine that ran to its end.
    pub fn complaint(&self, run: &Run) -> Option<String> {
        debug_assert_eq!(run.verdict, Verdict::Done);
        match self {
            Work::GuestTests(names) => {
                let missing = |name: &&String| {
                    !run.tests.iter().any(|test| test.name == **name && test.outcome == Outcome::Passed)
                };
                names.iter().find(missing).map(|name| format!("the guest test {name} did not pass"))
            }
            Work::Program(program) => program.ends.complaint(run),
        }
    }
}

/// A quarter of the tests, or all of them now and then; never none.
fn some_of(draws: &mut Draws, tests: &[String]) -> Vec<String> {
    let one_in = if draws.within(0..=7) == 0 { 1 } else { 4 };
    let salt = draws.next();
    // By name, not by place: a new test changes little about what a seed means.
    let chosen = |name: &&String| {
        let word = name.bytes().fold(salt, |word, byte| Draws::at(word ^ u64::from(byte), 0));
        word.is_multiple_of(one_in)
    };
    let some: Vec<String> = tests.iter().filter(chosen).cloned().collect();
    if some.is_empty() { tests.to_vec() } else { some }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::GuestTests(names) => write!(f, "{} guest tests", names.len()),
            Work::Program(program) => {
                let (Source::Rust(name) | Source::C(name)) = program.source;
                let language = if matches!(program.source, Source::C(_)) { ".c" } else { "" };
                write!(f, "{name}{language}")?;
                program.args.iter().try_for_each(|argument| write!(f, " {argument}"))
            }
        }
    }
}

impl Program {
    /// A program of each kind whose name holds `only`.
    pub fn one_of_each(only: Option<&str>) -> Vec<Program> {
        let kinds =
            KINDS.iter().filter(|kind| **kind != Work::GUEST_TESTS && only.is_none_or(|part| kind.contains(part)));
        kinds.map(|kind| Program::choose(&mut Draws::new(0), kind, 1, 128)).collect()
    }

    /// A program of this kind, with random arguments.
    fn choose(draws: &mut Draws, kind: &'static str, cpus: u32, mem_mib: u32) -> Program {
        // On a host of few cores many CPUs do no more work than a few, and each round has more hand-overs.
        let rounds = |draws: &mut Draws, most: u64, threads: u64| {
            draws.within(1..=(most * 8 / threads.max(u64::from(cpus)).max(8)).max(2))
        };
        let threads = |draws: &mut Draws| draws.within(1..=u64::from((2 * cpus).clamp(4, 32)));
        let even = |draws: &mut Draws, most: u64| 2 * draws.within(2..=most / 2);
        match kind {
            "churn apart" | "churn merged" | "churn placed" => {
                let layout = &kind["churn ".len()..];
                let (threads, pages) = (threads(draws), even(draws, 24));
                let rounds = rounds(draws, 200, threads);
                // All pages once, half of them again.
                let touches = rounds * threads * (pages + pages / 2);
                let args = [layout.to_owned(), rounds.to_string(), threads.to_string(), pages.to_string()];
                Program::rust(kind, "churn", args).prints(format!("touches={touches} ")).faults(touches)
            }
            "churn in C" => {
                let layout = draws.one_of(&["apart", "merged"]);
                let (threads, pages) = (threads(draws), even(draws, 24));
                let rounds = rounds(draws, 300, threads);
                let touches = rounds * threads * pages;
                let args = [layout.to_string(), rounds.to_string(), threads.to_string(), pages.to_string()];
                Program::c(kind, "churn", args).prints(format!("touches={touches}\n")).faults(touches)
            }
            "demo" => {
                let threads = threads(draws);
                let args = [threads, rounds(draws, 20, threads), even(draws, 32)].map(|number| number.to_string());
                Program::rust(kind, "demo", args).prints("every byte right")
            }
            "exit while running" => Program::rust(kind, "exit_running", []).status(7).prints("leaving\n"),
            "futexes" => Program::rust(kind, "futex", []).prints("lock: 8000\n"),
            "fuzzed calls" => {
                let args = [draws.within(1..=4), draws.within(0..=1 << 40), threads(draws)];
                Program::rust(kind, "fuzz_calls", args.map(|number| number.to_string())).prints("survived\n")
            }
            "hello" => Program::c(kind, "hello", []).prints("hello from C\n"),
            "kills" => {
                let ways = ["null-read", "read-only", "unmapped", "own-code", "kernel", "non-canonical", "thread"];
                Program::rust(kind, "segv", [draws.one_of(&ways).to_string()]).status(128 + 11)
            }
            "memory runs out" => {
                // Of pages: the program dies. Of room for mappings: it is told, or they all fit.
                let pages = draws.within(0..=1) == 0;
                let count = draws.within(5_000..=40_000);
                if pages {
                    let args = ["touch".to_owned(), (mem_mib + 64).to_string()];
                    Program::rust(kind, "oom", args).status(128 + 9).prints("mapped\n")
                } else {
                    let args = ["maps".to_owned(), count.to_string()];
                    Program::rust(kind, "oom", args).prints("everything given back, and mapping works\n")
                }
            }
            "pthreads" => Program::c(kind, "pthreads", []).prints("detached threads: 8\n"),
            "threads" => Program::rust(kind, "threads", []).prints("in turn: 100 threads\n"),
            "vector registers" => {
                let args = [draws.within(100..=1500).to_string()];
                Program::c(kind, "ymm", args).prints("two threads on each CPU kept their registers\n")
            }
            other => unreachable!("{other} is no kind of work"),
        }
    }

    fn new(kind: &'static str, source: Source, args: Vec<String>) -> Program {
        Program { kind, source, args, ends: Ends { status: 0, output: String::new(), faults: 0 } }
    }

    fn rust<const N: usize>(kind: &'static str, bin: &'static str, args: [String; N]) -> Program {
        Program::new(kind, Source::Rust(bin), args.to_vec())
    }

    fn c<const N: usize>(kind: &'static str, name: &'static str, args: [String; N]) -> Program {
        Program::new(kind, Source::C(name), args.to_vec())
    }

    fn status(mut self, status: u8) -> Program {
        self.ends.status = status;
        self
    }

    fn prints(mut self, output: impl Into<String>) -> Program {
        self.ends.output = output.into();
        self
    }

    fn faults(mut self, faults: u64) -> Program {
        self.ends.faults = faults;
        self
    }

    /// Where its source is.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Builds it, as far as it is not built yet.
    ///
    /// # Errors
    /// No compiler, or the build fails.
    pub fn build(&self) -> Result<PathBuf> {
        match self.source {
            Source::Rust(bin) => programs::user_program(bin),
            Source::C(name) => {
                let sources = workspace::root()?.join(Path::new("tests/user/c"));
                programs::c_program(&sources.join(name).with_extension("c"))
            }
        }
    }

    /// Its arguments from its own name on.
    pub fn argv(&self) -> impl Iterator<Item = &str> {
        let (Source::Rust(name) | Source::C(name)) = self.source;
        std::iter::once(name).chain(self.args.iter().map(String::as_str))
    }
}

impl Ends {
    fn complaint(&self, run: &Run) -> Option<String> {
        let Some(exit) = run.exit else { return Some("the kernel did not say how the program ended".into()) };
        if exit.shell_status() != self.status {
            return Some(format!("the program {exit}, which should be status {}", self.status));
        }
        let output = String::from_utf8_lossy(&run.stdout);
        // A last line may go on with what differs from run to run: times, counts.
        let last = output.lines().next_back().unwrap_or("");
        if !output.ends_with(&self.output) && !last.contains(self.output.as_str()) {
            return Some(format!("the program's output does not end with {:?} but with {last:?}", self.output));
        }
        let Some(stats) = &run.stats else { return Some("the kernel sent no counters".into()) };
        let served = stats.total(Counter::FaultLocked) + stats.total(Counter::FaultFallback);
        if served < self.faults {
            return Some(format!("the program needed {} page faults, and the kernel served {served}", self.faults));
        }
        match &run.frames {
            None => Some("the kernel sent no account of its frames".into()),
            Some(frames) if frames.changed().next().is_some() => Some(frames.summary()),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::run::{ProgramExit, TestResult};
    use crate::stats::{FrameAccount, Stats};

    /// A run in which all went well for a program that prints `stdout`.
    fn run(stdout: &str, code: i32) -> Run {
        let mut stats = 1u32.to_le_bytes().to_vec();
        stats.extend_from_slice(&(abi::counter::COUNTERS as u32).to_le_bytes());
        stats.extend((0..abi::counter::COUNTERS).flat_map(|_| 50u64.to_le_bytes()));
        Run {
            verdict: Verdict::Done,
            report: Vec::new(),
            console: String::new(),
            stdout: stdout.into(),
            stderr: Vec::new(),
            exit: Some(ProgramExit::Code(code)),
            stats: Stats::decode(&stats).unwrap(),
            spaces: None,
            frames: Some(FrameAccount::decode(b"anon 0 0\n").unwrap()),
            tests: Vec::new(),
            tests_done: None,
            elapsed: Duration::ZERO,
            booted: None,
        }
    }

    fn program() -> Work {
        Work::Program(Program::rust("hello", "hello", []).status(3).prints("all right").faults(100))
    }

    #[test]
    fn an_end_that_is_as_it_should_be_gives_no_complaint() {
        assert_eq!(program().complaint(&run("a\nall right, 3 s\n", 3)), None);
    }

    #[test]
    fn every_way_to_end_wrongly_has_a_complaint() {
        let complaint = |run: &Run| program().complaint(run).unwrap();
        assert!(complaint(&run("all right\n", 0)).contains("status 3"));
        assert!(complaint(&run("all right\nno\n", 3)).contains("does not end with"));
        let mut few = run("all right\n", 3);
        few.stats = Stats::decode(
            &[1u32.to_le_bytes(), (abi::counter::COUNTERS as u32).to_le_bytes()]
                .concat()
                .into_iter()
                .chain(std::iter::repeat_n(0, 8 * abi::counter::COUNTERS))
                .collect::<Vec<u8>>(),
        )
        .unwrap();
        assert!(complaint(&few).contains("needed 100 page faults, and the kernel served 0"));
        let mut leak = run("all right\n", 3);
        leak.frames = Some(FrameAccount::decode(b"anon 0 1\n").unwrap());
        assert!(complaint(&leak).contains("anon 0 -> 1"));
        let mut silent = run("all right\n", 3);
        silent.exit = None;
        assert!(complaint(&silent).contains("did not say"));
    }

    #[test]
    fn guest_tests_must_all_have_passed() {
        let work = Work::GuestTests(vec!["a::b".into(), "c::d".into()]);
        let mut run = run("", 0);
        let result = |name: &str, outcome| TestResult { name: name.into(), outcome, took: Duration::ZERO, log: vec![] };
        run.tests = vec![result("a::b", Outcome::Passed)];
        assert_eq!(work.complaint(&run), Some("the guest test c::d did not pass".into()));
        run.tests.push(result("c::d", Outcome::Passed));
        assert_eq!(work.complaint(&run), None);
    }

    #[test]
    fn some_tests_are_chosen_by_name() {
        let names: Vec<String> = (0..40).map(|n| format!("room::test_{n}")).collect();
        let mut longer = names.clone();
        longer.insert(7, "room::new".into());
        for seed in 0..50 {
            let some = some_of(&mut Draws::new(seed), &names);
            assert!(!some.is_empty());
            let mut with_new = some_of(&mut Draws::new(seed), &longer);
            with_new.retain(|name| name != "room::new");
            assert_eq!(some, with_new, "a new test changes what a seed means for the others");
        }
    }

    #[test]
    fn kinds_are_sorted_out_by_name_and_weight() {
        assert!(KINDS.iter().all(|kind| weight(kind) > 0));
        let mut names = KINDS.to_vec();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
    }
}
