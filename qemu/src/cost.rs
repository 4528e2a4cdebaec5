//! `count`: what a page fault and an `munmap` cost, counted from outside.
//!
//! Boots the kernel without debug checks, runs the program `cost` under the counter, and divides: the program says on its
//! standard output which window holds what, how often, and which window holds the same loop without the work.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::{FirmwareKind, MachineOptions, Switch};
use crate::count::{Counting, Counts, Mode, PROGRAM, Row};
use crate::image::{Image, kernel_image};
use crate::launch;
use crate::programs::user_program;
use crate::run::Verdict;
use crate::symbols::Symbols;

/// Functions shown of each operation.
const TOP: usize = 8;

/// `cargo run -- count`.
///
/// # Errors
/// Something cannot be built or started, or the counter failed.
pub fn main(options: &MachineOptions) -> Result<u8> {
    let mut options = options.clone();
    options.cpus = options.cpus.or(Some(2));
    options.firmware = options.firmware.or(Some(FirmwareKind::None));
    options.events = options.events.or(Some(Switch::Off)); // recording is for reports, and has its price
    let image = if options.kernel.is_some() { launch::image(&options)? } else { kernel_image(Image::Release)? };
    let symbols = Symbols::load(&image.elf)?;
    let counting = Counting::new(Mode::Count)?.without_interrupts(&symbols)?;
    let machine = launch::machine(&image, &options).program(&user_program("cost")?, ["cost"]);
    let run = counting.of(machine).run()?;
    if run.verdict == Verdict::Done {
        let counts = counting.counts()?;
        let operations = operations(&String::from_utf8_lossy(&run.stdout))?;
        let mut out = std::io::stdout().lock();
        write!(out, "{}", table(&operations, &counts))?;
        for operation in operations.iter().filter(|operation| operation.less.is_some() || operation.window > 2) {
            write!(out, "\n{}", details(operation, &counts, &symbols))?;
        }
    }
    Ok(launch::conclude(&run, &image, Path::new("cost")))
}

/// What a window holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Operation {
    window: usize,
    /// The window that holds the same without the work.
    less: Option<usize>,
    times: u64,
    what: String,
}

/// Reads the program's lines `measured WINDOW LESS TIMES WHAT`.
fn operations(out: &str) -> Result<Vec<Operation>> {
    let lines = out.lines().filter_map(|line| line.strip_prefix("measured "));
    lines.map(|line| operation(line).with_context(|| format!("the program says {line:?}"))).collect()
}

fn operation(line: &str) -> Option<Operation> {
    let mut words = line.splitn(4, ' ');
    let window = words.next()?.parse().ok()?;
    let less = match words.next()? {
        "-" => None,
        number => Some(number.parse().ok()?),
    };
    let times = words.next()?.parse().ok().filter(|&times| times > 0)?;
    Some(Operation { window, less, times, what: words.next()?.to_owned() })
}

impl Operation {
    /// The four counts of one operation.
    fn each(&self, counts: &Counts, wanted: impl Fn(&Row) -> bool) -> [f64; 4] {
        let of = |window| counts.sum(|row| row.window == window && wanted(row)).numbers();
        let (all, less) = (of(self.window), self.less.map_or([0; 4], of));
        std::array::from_fn(|number| (all[number] as f64 - less[number] as f64) / self.times as f64)
    }
}

fn heading(title: &str) -> String {
    format!("{:>12} {:>8} {:>12} {:>13}   {title}\n", "instructions", "locked", "shared reads", "shared writes")
}

fn line(numbers: [f64; 4], title: &str) -> String {
    let [instructions, locked, reads, writes] = numbers;
    format!("{instructions:>12.1} {locked:>8.2} {reads:>12.2} {writes:>13.2}   {title}\n")
}

/// One line for each operation.
fn table(operations: &[Operation], counts: &Counts) -> String {
    let mut text = heading("of one, on the CPU that does it");
    for operation in operations {
        text += &line(operation.each(counts, |_| true), &operation.what);
    }
    text
}

/// The functions that did most of one operation.
fn details(operation: &Operation, counts: &Counts, symbols: &Symbols) -> String {
    let mut text = heading(&operation.what);
    let functions = counts.functions(operation.window, symbols);
    let mut rest = [0.0; 4];
    let kernel = functions.iter().filter(|(name, _)| name != PROGRAM);
    for (index, (name, counted)) in kernel.enumerate() {
        let each = counted.numbers().map(|number| number as f64 / operation.times as f64);
        if index < TOP {
            text += &line(each, &short(name));
        } else {
            rest = std::array::from_fn(|number| rest[number] + each[number]);
        }
    }
    if functions.len() > TOP + 1 {
        text += &line(rest, &format!("{} more functions", functions.len() - TOP - 1));
    }
    let _ = write!(text, "{}", line(operation.each(counts, Row::is_program), "in the program"));
    text
}

/// A function's name without the parameter that is the same for all: the platform.
fn short(name: &str) -> String {
    name.replace("::<kernel::platform::Machine>", "").replace("<kernel::platform::Machine>", "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_operation_is_a_share_of_its_window_less_the_loop() {
        let counts = Counts::parse(
            "tessera-count 1\nlate 0\ncpus 1\n0 0 401000 190 0 0 0\n1 0 401000 1f4 0 0 0\n1 0 ffffffff80000010 3e8 64 a 0\n",
        )
        .unwrap();
        let operations = operations("measured 0 - 100 a loop\nnoise\nmeasured 1 0 100 a fault, or so\n").unwrap();
        assert_eq!(operations[1].what, "a fault, or so");
        assert_eq!(operations[0].each(&counts, |_| true), [4.0, 0.0, 0.0, 0.0]);
        assert_eq!(operations[1].each(&counts, |_| true), [11.0, 1.0, 0.1, 0.0]);
        assert_eq!(operations[1].each(&counts, Row::is_program), [1.0, 0.0, 0.0, 0.0]);
        let table = table(&operations, &counts);
        assert!(
            table.lines().any(|line| line.split_whitespace().take(4).eq(["11.0", "1.00", "0.10", "0.00"])),
            "{table}"
        );
    }

    #[test]
    fn what_the_program_says_must_make_sense() {
        for bad in ["measured 1 0 0 never", "measured 1 0 5", "measured x - 5 y", "measured 1 y 5 z"] {
            assert!(operations(bad).is_err(), "{bad}");
        }
        assert_eq!(operations("").unwrap(), []);
    }

    #[test]
    fn names_are_short() {
        assert_eq!(
            short("<mm::space::AddressSpace<kernel::platform::Machine>>::fault"),
            "<mm::space::AddressSpace>::fault"
        );
        assert_eq!(short("sync::txn::bulk::update::<kernel::platform::Machine>"), "sync::txn::bulk::update");
    }
}
