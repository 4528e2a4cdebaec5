//! What the launcher tells of a machine that panics, resets itself or hangs.
//!
//! The disasters are planted in the kernel (`kernel/src/plant.rs`), so it is known what must be told: the functions, and the
//! lines on which that file says that they are.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu::{Run, Verdict};
use tests::launcher;
use tests::oracle::Case;
use tests::oracle::Source::Rust;

use crate::Trials;

/// Where the disasters are, as reports call it.
const FILE: &str = "kernel/src/plant.rs";

const CPUS: u32 = 2;

/// Adds the reports' tests.
pub(crate) fn add(trials: &mut Trials) {
    trials.add("report::panic_in_a_page_fault", panic_in_fault);
    trials.add("report::panic_in_an_interrupt", panic_in_interrupt);
    trials.add("report::panic_by_nmi", panic_by_nmi);
    trials.add("report::panic_in_a_panic", panic_in_panic);
    trials.add("report::panic_beside_a_cpu_that_hangs", panic_beside_hang);
    trials.add("report::triple_fault", triple_fault);
    trials.add("report::reset", reset);
    trials.add("report::hang_in_a_transaction", hang);
}

/// The demonstration, small, with disasters planted.
fn demo(plant: &[&'static str]) -> Case {
    Case::new(Rust("demo"), &["3", "20", "16"]).cpus(CPUS).plant(plant)
}

/// Runs the demonstration until a disaster strikes. Every CPU's registers must be told.
fn disaster(plant: &[&'static str], verdict: Verdict) -> Result<Told> {
    let run = demo(plant).boot()?;
    let told = Told::of(&run)?;
    ensure!(run.verdict == verdict, "{:?}: {}", run.verdict, told.text);
    Ok(told)
}

/// A report, taken apart.
struct Told {
    text: String,
    /// The part about each CPU.
    cpus: Vec<String>,
    events: String,
}

impl Told {
    fn of(run: &Run) -> Result<Told> {
        let text = run.report.join("\n");
        let (before, events) = text.split_once("\nlast events of").unwrap_or((&text, ""));
        let mut cpus: Vec<String> = before.split("\nCPU ").skip(1).map(|part| format!("CPU {part}")).collect();
        cpus.sort();
        let told = Told { events: events.to_owned(), cpus, text: text.clone() };
        ensure!(told.cpus.len() == CPUS as usize, "not every CPU is told of: {text}");
        for (index, part) in told.cpus.iter().enumerate() {
            for what in [&format!("CPU {index}: "), "RAX=", "R15=", "RIP=", "RFL=", "CR2=", "CR3=", "thread "] {
                ensure!(part.contains(what), "{what:?} is missing for a CPU: {part}");
            }
        }
        Ok(told)
    }

    /// The part about the one CPU of which this is said.
    fn cpu(&self, what: &str) -> Result<&str> {
        let mut parts = self.cpus.iter().filter(|part| part.contains(what));
        let part = parts.next().with_context(|| format!("{what:?} is said of no CPU: {}", self.text))?;
        ensure!(parts.next().is_none(), "{what:?} is said of two CPUs: {}", self.text);
        Ok(part)
    }
}

fn has(text: &str, what: &str) -> Result<()> {
    ensure!(text.contains(what), "{what:?} is missing: {text}");
    Ok(())
}

/// The last words of a report's line about code that the kernel's source marks with a comment.
fn place(function: &str, mark: &str) -> Result<String> {
    Ok(format!("kernel::plant::{function} at {FILE}:{}", line(mark)?))
}

/// The line with the comment `// the line of MARK`.
fn line(mark: &str) -> Result<usize> {
    let source = std::fs::read_to_string(qemu::workspace::root()?.join(FILE))?;
    let lines = source.lines().position(|line| line.ends_with(&format!("// the {mark}")));
    Ok(lines.with_context(|| format!("no line of {FILE} says `// the {mark}`"))? + 1)
}

fn panic_in_fault() -> Result<()> {
    let told = disaster(&["panic-in-fault"], Verdict::Panicked)?;
    has(&told.text, "kernel panic: planted in a page fault\n")?;
    has(&told.text, &format!("at {FILE}:{}", line("line of panic-in-fault")?))?;
    let cpu = told.cpu("panicked here")?;
    has(cpu, "thread user, pid 1 tid ")?;
    // The function that panicked, the one that it is inlined in, and the way back to the program.
    let at = cpu.find(&(place("inlined_panic", "line of panic-in-fault")? + " (inlined)\n"));
    let way = &cpu[at.with_context(|| format!("the panicking line is missing: {cpu}"))?..];
    let mut rest = way;
    for step in [
        "kernel::plant::planted_panic_in_fault at kernel/src/plant.rs:",
        "kernel::sched::user::page_fault at kernel/src/sched/user.rs:",
        "kernel::arch::trap::trap_from_kernel_or_user at kernel/src/arch/trap.rs:",
        "vector 0xe (page fault) interrupted:",
        "user mode, at 0x",
    ] {
        let at = rest.find(step).with_context(|| format!("{step:?} does not follow: {way}"))?;
        rest = &rest[at..];
    }
    for event in ["fault at 0x", "fault end at 0x", ": fault_locked", "panic"] {
        has(&told.events, event)?;
    }
    // Others may have recorded something in the moment before all rings were stopped.
    let own = cpu.split(':').next().unwrap_or_default().replace("CPU ", "cpu");
    let last = told.events.lines().rfind(|line| line.contains(&format!(" {own} "))).unwrap_or_default();
    ensure!(last.ends_with("panic"), "the last event of {own} is another: {last}");
    Ok(())
}

/// As people see it, with its exit status; and without events.
fn panic_in_interrupt() -> Result<()> {
    let program = Rust("demo").build()?.to_string_lossy().into_owned();
    let words = ["run", "--cpus", "2", "--timeout", "600", "--events", "off", "--plant", "panic-in-interrupt"];
    let args: Vec<String> = words.iter().map(|word| word.to_string()).chain([program, "3".into()]).collect();
    let finished = launcher::run(&args, &[])?;
    let err = finished.err();
    ensure!(finished.status == i32::from(qemu::status::PANICKED), "status {}: {err}", finished.status);
    has(&err, "the kernel panicked")?;
    has(&err, "kernel panic: planted in an interrupt")?;
    has(&err, &place("planted_panic_in_interrupt", "line of panic-in-interrupt")?)?;
    has(&err, "vector 0xe0 (timer) interrupted:")?;
    has(&err, "no events were recorded")
}

fn panic_by_nmi() -> Result<()> {
    let told = disaster(&["nmi"], Verdict::Panicked)?;
    has(&told.text, "kernel panic: non-maskable interrupt (vector 2, ")?;
    let cpu = told.cpu("panicked here")?;
    // Over the NMI into the timer's handler, and over that into what it interrupted.
    let (_, below) = cpu.split_once("vector 0x2 (non-maskable interrupt) interrupted:").context(cpu.to_owned())?;
    has(below, "kernel::plant::in_interrupt at kernel/src/plant.rs:")?;
    has(below, "vector 0xe0 (timer) interrupted:")
}

fn panic_in_panic() -> Result<()> {
    let told = disaster(&["panic-in-panic"], Verdict::Panicked)?;
    has(&told.text, "kernel panic: so far, so good\n")?;
    let second = line("second line of panic-in-panic")?;
    has(&told.text, &format!("and the report of this panicked: {FILE}:{second}"))?;
    has(told.cpu("panicked here")?, &place("planted_panic_in_panic", "line of panic-in-panic")?)
}

/// The other CPU sits with interrupts off, inside a transaction, and is told of all the same.
fn panic_beside_hang() -> Result<()> {
    let told = disaster(&["hang", "panic-beside-hang"], Verdict::Panicked)?;
    has(told.cpu("panicked here")?, &place("planted_panic_beside_hang", "line of panic-beside-hang")?)?;
    let other = told.cpu("planted_hang")?;
    ensure!(!other.contains("panicked here"), "{other}");
    has(other, "interrupts off")?;
    has(other, "open transaction: mark ")
}

fn triple_fault() -> Result<()> {
    let told = disaster(&["triple-fault"], Verdict::Reset)?;
    has(&told.text, "triple fault")?;
    let cpu = told.cpu("planted_triple_fault")?;
    has(cpu, &place("planted_triple_fault", "line of triple-fault")?)?;
    has(cpu, "open transaction: mark ")?;
    has(cpu, "in the call ")
}

fn reset() -> Result<()> {
    let told = disaster(&["reset"], Verdict::Reset)?;
    has(&told.text, "a reset that was no triple fault")?;
    let cpu = told.cpu("planted_reset")?;
    has(cpu, "kernel::plant::planted_reset at kernel/src/plant.rs:")?;
    has(cpu, "open transaction: mark ")
}

fn hang() -> Result<()> {
    // Long enough to get there, on a host that may be slow; a machine that did not is given longer.
    let mut limit = Duration::from_secs(25);
    let run = loop {
        let run = demo(&["hang"]).limit(limit).boot()?;
        if run.report.iter().any(|line| line.contains("planted_hang")) || limit > Duration::from_secs(300) {
            break run;
        }
        limit *= 4;
    };
    let told = Told::of(&run)?;
    ensure!(run.verdict == Verdict::TimedOut, "{:?}: {}", run.verdict, told.text);
    let cpu = told.cpu("planted_hang")?;
    has(cpu, "in the kernel, interrupts off")?;
    has(cpu, &place("planted_hang", "line of hang")?)?;
    has(cpu, "thread user, pid 1 tid ")?;
    has(cpu, "in the call ")?;
    has(cpu, "holds update lock 0x")?;
    let held = line("lock of hang")?;
    has(cpu, "holds planted spin lock 0x")?;
    has(cpu, &format!(", taken at {FILE}:{held}"))?;
    // The transaction that its thread has open is the last that its CPU began.
    let mark = cpu.split("open transaction: mark ").nth(1).and_then(|rest| rest.split(',').next());
    let mark = mark.with_context(|| format!("no open transaction: {cpu}"))?;
    has(&told.events, &format!("transaction {mark}, update lock 0x"))?;
    ensure!(!told.events.contains(&format!("transaction end {mark}")), "it has ended: {}", told.events);
    // What came before is crowded out where the other CPU goes on faulting.
    for event in ["switch from ", "call "] {
        has(&told.events, event)?;
    }
    Ok(())
}
