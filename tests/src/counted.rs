//! The counter outside the machine (`qemu/plugin`) against stretches that were counted by hand.
//!
//! The programs `counted`, in Rust and in C, say beside each window what happens in it. The numbers are repeated here, and
//! must be met exactly. Interrupts strike where they like: what the kernel does is left out, but where it is what is counted.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use qemu::count::{Counted, Counting, Counts, Mode};
use qemu::{Image, Machine, Symbols, Verdict};

use crate::launcher;
use crate::oracle::{LIMIT, Source};
use crate::turn;

/// What must be counted of the program: window, CPU, and [`Counted::numbers`].
type Expected = (usize, usize, [u64; 4]);

const RUST: [Expected; 13] = [
    (1, 0, [1 + 2 * 1000, 0, 0, 0]),
    (1, 1, [1 + 2 * 777, 0, 0, 0]),
    (2, 0, [1 + 8 * 300, 5 * 300, 0, 0]),
    (3, 0, [3, 0, 0, 0]),
    (4, 0, [3 * 100, 0, 100, 0]),
    (4, 1, [3 * 100, 0, 100, 0]),
    (5, 0, [2 * 100, 0, 0, 100]),
    (5, 1, [2 * 100, 0, 0, 100]),
    (6, 0, [2 * 100, 2 * 100, 0, 100]),
    (6, 1, [2 * 100, 2 * 100, 0, 100]),
    (7, 0, [100, 0, 2 * 100, 0]),
    (7, 1, [100, 0, 2 * 100, 0]),
    (8, 0, [1 + 4 * 10, 0, 0, 0]),
];

const C: [Expected; 2] = [(1, 0, [1 + 2 * 1000 + 5, 0, 0, 0]), (2, 0, [1 + 7 * 300, 4 * 300, 0, 0])];

/// Instructions of `entry` in `kernel/src/arch/syscall.rs`, from `swapgs` to `sysretq`: each call of the kernel runs all of
/// them once.
const ENTRY: u64 = 45;

/// Calls of the kernel in window 8.
const CALLS: u64 = 10;

/// The Rust program on two CPUs: instructions, locks, shared lines, and one function of the kernel.
///
/// # Errors
/// A number differs, or the machine does not do its part.
pub fn on_two_cpus() -> Result<()> {
    let (counts, symbols) = run(Source::Rust("counted"), 2)?;
    check(&RUST, &counts)?;
    let functions = counts.functions(8, &symbols);
    let entry = functions.iter().find(|(name, _)| name == "kernel::arch::syscall::entry");
    let (_, entry) = entry.context("the kernel's entry was never counted")?;
    ensure!(entry.numbers() == [ENTRY * CALLS, 0, 0, 0], "the kernel's entry, {CALLS} times: {:?}", entry.numbers());
    off_by_one_is_noticed(&RUST, &counts)
}

/// The C program on one CPU, where QEMU splits locked instructions in two and no line can be shared.
///
/// # Errors
/// As [`on_two_cpus`].
pub fn on_one_cpu() -> Result<()> {
    let (counts, _) = run(Source::C("counted"), 1)?;
    check(&C, &counts)?;
    off_by_one_is_noticed(&C, &counts)
}

/// `cargo run -- count`: what is known beforehand about its numbers. The loop around the faults is four instructions; a fault
/// is one more of the program, which begins twice, and has two locked instructions (ARCHITECTURE.md, section 3) and
/// a share of the allocator's lock; a call of the kernel does not depend on anything.
///
/// # Errors
/// A number is another one, or the launcher fails.
pub fn cost() -> Result<()> {
    let finished = launcher::run(&["count", "--timeout", "600"], &[])?;
    ensure!(finished.status == 0, "status {}: {}{}", finished.status, finished.out(), finished.err());
    let out = finished.out();
    let row = |title: &str| -> Result<[f64; 4]> {
        let line =
            out.lines().find(|line| line.ends_with(title)).with_context(|| format!("no {title:?} in:\n{out}"))?;
        let numbers: Vec<f64> = line.split_whitespace().take(4).map(str::parse).collect::<Result<_, _>>()?;
        numbers.try_into().map_err(|_| anyhow::anyhow!("not four numbers: {line}"))
    };
    ensure!(row("a loop that touches pages")? == [4.0, 0.0, 0.0, 0.0], "the loop:\n{out}");
    ensure!(row("in the program")? == [1.0, 0.0, 0.0, 0.0], "the program's part of a fault:\n{out}");
    let [instructions, locked, ..] = row("a page fault (first write to a page)")?;
    ensure!((100.0..10_000.0).contains(&instructions) && (2.0..2.5).contains(&locked), "a fault:\n{out}");
    let [one, ..] = row("munmap of 1 page")?;
    let [many, ..] = row("munmap of 64 pages")?;
    ensure!(one > instructions && many > one + 63.0 * 50.0, "more pages are more work:\n{out}");
    for beside in ["a page fault, while CPU 1 faults", "munmap of 1 page, while CPU 1 runs the program"] {
        row(beside)?;
    }
    // A shootdown is answered by the other CPU: its word is a line that it has written.
    let [_, _, reads, writes] = row("munmap of 1 page, while CPU 1 runs the program")?;
    ensure!(reads + writes >= 1.0, "a shootdown without a shared line:\n{out}");
    Ok(())
}

/// Runs a program under the counter.
fn run(source: Source, cpus: u32) -> Result<(Counts, Symbols)> {
    let program = source.build()?;
    let image = qemu::kernel_image(Image::Kernel)?;
    let counting = Counting::new(Mode::Count)?;
    let machine = Machine::new(&image).cpus(cpus).timeout(LIMIT).program(Path::new(&program), ["counted"]);
    let turn = turn::take();
    let run = counting.of(machine).run()?;
    drop(turn);
    let symbols = Symbols::load(&image.elf)?;
    ensure!(run.verdict == Verdict::Done, "{}", run.failure_report(&symbols, 40));
    ensure!(run.stdout == b"counted\n", "it wrote {:?}", String::from_utf8_lossy(&run.stdout));
    Ok((counting.counts()?, symbols))
}

/// Compares all windows of the program on all CPUs: none more, none less.
fn check(expected: &[Expected], counts: &Counts) -> Result<()> {
    let mut found = Vec::new();
    for window in counts.windows() {
        for cpu in 0..counts.cpus() {
            let sum = counts.sum(|row| row.window == window && row.cpu == cpu && row.is_program());
            if sum != Counted::default() {
                found.push((window, cpu, sum.numbers()));
            }
        }
    }
    ensure!(found == expected, "counted by hand: {expected:?}\ncounted outside: {found:?}");
    Ok(())
}

/// The comparison itself: any one number off by one must fail it.
fn off_by_one_is_noticed(expected: &[Expected], counts: &Counts) -> Result<()> {
    for index in 0..expected.len() {
        for number in 0..4 {
            let mut wrong = expected.to_vec();
            wrong[index].2[number] += 1;
            ensure!(check(&wrong, counts).is_err(), "{:?} passed", wrong[index]);
        }
    }
    Ok(())
}
