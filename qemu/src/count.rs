//! Counting from outside the machine: building the plugin for QEMU, handing it over, and reading what it found.
//!
//! The plugin (`qemu/plugin`) tells instructions apart by address alone; here they become functions, by the symbols of the
//! kernel that ran. What a program does in user mode is one entry, [`PROGRAM`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::ops::{Add, AddAssign, Range};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::emulator::Emulator;
use crate::machine::{Machine, joined};
use crate::nested::{self, answer};
use crate::symbols::Symbols;
use crate::toolchain::Toolchain;
use crate::workspace;

/// What functions of the program are called, all of them.
pub const PROGRAM: &str = "(the program)";

/// What code of the kernel without a name is called.
const UNKNOWN: &str = "(code without a name)";

/// Newest release of QEMU whose plugins speak the plugin's version of the interface.
const NEWEST_QEMU: u32 = 8;

/// What the plugin is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Count instructions and lines.
    Count,
    /// Note each instruction.
    Trace,
}

/// A counter that a machine can be given, for one run.
#[derive(Debug)]
pub struct Counting {
    plugin: PathBuf,
    mode: Mode,
    interrupts: Option<Range<u64>>,
    dir: tempfile::TempDir,
}

impl Counting {
    /// Builds the plugin as far as it is not built yet.
    ///
    /// # Errors
    /// It cannot be built, or QEMU is too new for it.
    pub fn new(mode: Mode) -> Result<Counting> {
        let qemu = Emulator::find()?.qemu;
        let line = answer(Command::new(&qemu).arg("--version")).unwrap_or_default();
        if let Some(version) = release(&line).filter(|&version| version > NEWEST_QEMU) {
            bail!(
                "{} is version {version}, whose plugin interface is another one: counting needs QEMU {NEWEST_QEMU} or older \
                 (set $QEMU to one)",
                qemu.display()
            );
        }
        let dir = tempfile::Builder::new().prefix("tessera-count-").tempdir().context("cannot make a directory")?;
        Ok(Counting { plugin: plugin()?, mode, interrupts: None, dir })
    }

    /// Leaves out what interrupts do, from the first instruction of their stubs in the kernel to the return: they come when
    /// they like, and are no part of what is counted.
    ///
    /// # Errors
    /// This kernel does not name its stubs.
    pub fn without_interrupts(mut self, kernel: &Symbols) -> Result<Counting> {
        let stub = |name| kernel.start_of(name).with_context(|| format!("the kernel has no {name}"));
        self.interrupts = Some(stub("interrupt_stubs")?..stub("trap_stubs_end")?);
        Ok(self)
    }

    /// `machine`, counted.
    pub fn of(&self, machine: Machine) -> Machine {
        let mode = match self.mode {
            Mode::Count => "count",
            Mode::Trace => "trace",
        };
        let mut words = joined("file=", &self.plugin);
        words.push(joined(",out=", &self.out()));
        words.push(format!(",mode={mode}"));
        if let Some(Range { start, end }) = self.interrupts {
            words.push(format!(",interrupts={start:x}-{end:x}"));
        }
        machine.qemu_args([OsString::from("-plugin"), words])
    }

    /// What was counted: after the machine's end.
    ///
    /// # Errors
    /// The plugin left nothing, or a window opened before the counter was ready.
    pub fn counts(&self) -> Result<Counts> {
        Counts::parse(&self.text()?)
    }

    /// The addresses of the instructions that ran in windows, in their order: after the machine's end.
    ///
    /// # Errors
    /// As [`Counting::counts`], or there were too many.
    pub fn trace(&self) -> Result<Vec<u64>> {
        parse_trace(&self.text()?)
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn text(&self) -> Result<String> {
        let text = std::fs::read_to_string(self.out()).context("the counter left nothing")?;
        ensure!(!text.is_empty(), "the counter left nothing: the machine was stopped before its end");
        Ok(text)
    }
}

/// The first number in `QEMU emulator version 7.2.22 (...)`.
fn release(line: &str) -> Option<u32> {
    line.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// Builds the plugin, as far as it is not built yet.
fn plugin() -> Result<PathBuf> {
    let toolchain = Toolchain::choose()?;
    let target = workspace::target(&format!("plugin-{}", toolchain.key()))?;
    let mut cargo = toolchain.cargo()?;
    cargo.args(["build", "--package", "plugin", "--lib", "--release", "--target-dir"]).arg(&target);
    nested::build(cargo, "building the counter, a plugin for QEMU")?;
    let name = format!("{}plugin{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    Ok(target.join("release").join(name))
}

/// What was counted of something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Instructions that began.
    pub instructions: u64,
    /// Of these, how many lock: a LOCK prefix, or an exchange with memory.
    pub locked: u64,
    /// Reads of lines that another CPU had written since this one last touched them.
    pub shared_reads: u64,
    /// Writes of such lines, locked instructions among them.
    pub shared_writes: u64,
}

impl Counted {
    /// The four numbers, in their order above.
    pub fn numbers(self) -> [u64; 4] {
        [self.instructions, self.locked, self.shared_reads, self.shared_writes]
    }
}

impl Add for Counted {
    type Output = Counted;

    fn add(self, other: Counted) -> Counted {
        Counted {
            instructions: self.instructions + other.instructions,
            locked: self.locked + other.locked,
            shared_reads: self.shared_reads + other.shared_reads,
            shared_writes: self.shared_writes + other.shared_writes,
        }
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Counted) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Counted {
    fn sum<I: Iterator<Item = Counted>>(all: I) -> Counted {
        all.fold(Counted::default(), Counted::add)
    }
}

/// One instruction, on one CPU, in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The window's number.
    pub window: usize,
    /// The CPU.
    pub cpu: usize,
    /// Where the instruction stands.
    pub address: u64,
    /// What was counted.
    pub counted: Counted,
}

impl Row {
    /// Whether the instruction is the program's.
    pub fn is_program(&self) -> bool {
        self.address < abi::USER_END
    }
}

/// Everything that was counted in one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    cpus: usize,
    rows: Vec<Row>,
}

impl Counts {
    /// Reads the plugin's result (its module `report` describes it).
    ///
    /// # Errors
    /// The first line that is not understood.
    pub fn parse(text: &str) -> Result<Counts> {
        let mut lines = text.lines();
        header(&mut lines, "tessera-count 1")?;
        let cpus = lines.next().and_then(|line| line.strip_prefix("cpus ")).and_then(hex);
        let cpus = cpus.context("the counter does not say how many CPUs there were")? as usize;
        let rows = lines.map(|line| {
            let numbers: Option<Vec<u64>> = line.split(' ').map(hex).collect();
            match numbers.as_deref() {
                Some(&[window, cpu, address, instructions, locked, shared_reads, shared_writes]) => Ok(Row {
                    window: window as usize,
                    cpu: cpu as usize,
                    address,
                    counted: Counted { instructions, locked, shared_reads, shared_writes },
                }),
                _ => bail!("the counter says {line:?}"),
            }
        });
        Ok(Counts { cpus, rows: rows.collect::<Result<_>>()? })
    }

    /// CPUs of the machine.
    pub fn cpus(&self) -> usize {
        self.cpus
    }

    /// Everything, by window, CPU and instruction.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The numbers of the windows in which anything was counted, ascending.
    pub fn windows(&self) -> Vec<usize> {
        let mut windows: Vec<usize> = self.rows.iter().map(|row| row.window).collect();
        windows.sort_unstable();
        windows.dedup();
        windows
    }

    /// The sum over all rows that `wanted` wants.
    pub fn sum(&self, wanted: impl Fn(&Row) -> bool) -> Counted {
        self.rows.iter().filter(|row| wanted(row)).map(|row| row.counted).sum()
    }

    /// What each function did in `window`, on all CPUs together: most instructions first.
    pub fn functions(&self, window: usize, symbols: &Symbols) -> Vec<(String, Counted)> {
        let mut by_name = BTreeMap::<String, Counted>::new();
        for row in self.rows.iter().filter(|row| row.window == window) {
            let name = if row.is_program() { PROGRAM } else { symbols.function(row.address).unwrap_or(UNKNOWN) };
            *by_name.entry(name.to_owned()).or_default() += row.counted;
        }
        let mut functions: Vec<_> = by_name.into_iter().collect();
        functions.sort_by_key(|(_, counted)| std::cmp::Reverse((counted.instructions, counted.shared_reads)));
        functions
    }

    /// A table of all windows: each CPU, then the functions that did most.
    pub fn table(&self, symbols: &Symbols) -> String {
        /// Functions shown of each window.
        const TOP: usize = 20;
        let mut text = String::new();
        for window in self.windows() {
            if !text.is_empty() {
                text.push('\n');
            }
            let _ = writeln!(text, "{}", heading(&format!("window {window}")));
            for cpu in 0..self.cpus {
                let here = |row: &Row| row.window == window && row.cpu == cpu;
                let all = self.sum(here);
                if all != Counted::default() {
                    let _ = writeln!(text, "{}", line(all, &format!("CPU {cpu}")));
                    let program = self.sum(|row| here(row) && row.is_program());
                    let _ = writeln!(text, "{}", line(program, &format!("CPU {cpu}, in the program")));
                }
            }
            let functions = self.functions(window, symbols);
            for (name, counted) in functions.iter().take(TOP) {
                let _ = writeln!(text, "{}", line(*counted, &format!("  {name}")));
            }
            if functions.len() > TOP {
                let rest = functions[TOP..].iter().map(|(_, counted)| *counted).sum();
                let _ = writeln!(text, "{}", line(rest, &format!("  {} more functions", functions.len() - TOP)));
            }
        }
        if text.is_empty() {
            text = "nothing was counted: the program opened no window (see tests/user/c/marker.h)\n".into();
        }
        text
    }
}

fn heading(title: &str) -> String {
    format!("{:>14} {:>10} {:>13} {:>14}   {title}", "instructions", "locked", "shared reads", "shared writes")
}

fn line(counted: Counted, name: &str) -> String {
    let [instructions, locked, reads, writes] = counted.numbers();
    format!("{instructions:>14} {locked:>10} {reads:>13} {writes:>14}   {name}")
}

/// Reads the plugin's result: the addresses.
fn parse_trace(text: &str) -> Result<Vec<u64>> {
    let mut lines = text.lines();
    header(&mut lines, "tessera-trace 1")?;
    ensure!(lines.next() == Some("cut 0"), "more ran in the window than a trace can hold");
    lines.map(|line| hex(line).with_context(|| format!("the counter says {line:?}"))).collect()
}

fn header<'a>(lines: &mut impl Iterator<Item = &'a str>, title: &str) -> Result<()> {
    let first = lines.next();
    ensure!(first == Some(title), "the counter says {first:?}, not {title:?}");
    ensure!(
        lines.next() == Some("late 0"),
        "a window opened before the counter was ready: the program must arm it first (see tests/user/c/marker.h)"
    );
    Ok(())
}

fn hex(digits: &str) -> Option<u64> {
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "tessera-count 1\nlate 0\ncpus 2\n\
        1 0 401000 7d1 0 0 0\n\
        1 1 401000 10 2 0 0\n\
        1 1 ffffffff80000010 5 1 3 2\n\
        2 0 401000 1 0 0 0\n";

    #[test]
    fn sums_are_those_of_the_rows_asked_for() {
        let counts = Counts::parse(TEXT).unwrap();
        assert_eq!((counts.cpus(), counts.windows()), (2, vec![1, 2]));
        assert_eq!(counts.sum(|row| row.window == 1 && row.cpu == 1).numbers(), [0x15, 3, 3, 2]);
        assert_eq!(counts.sum(|row| row.is_program()).numbers(), [0x7d1 + 0x10 + 1, 2, 0, 0]);
        let functions = counts.functions(1, &Symbols::default());
        assert_eq!(functions[0].0, PROGRAM);
        assert_eq!(functions[1], (UNKNOWN.into(), counts.sum(|row| !row.is_program())));
    }

    #[test]
    fn a_table_names_each_cpu_that_counted() {
        let table = Counts::parse(TEXT).unwrap().table(&Symbols::default());
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(lines.contains(&vec!["2001", "0", "0", "0", "CPU", "0"]), "{table}");
        assert!(lines.contains(&vec!["21", "3", "3", "2", "CPU", "1"]), "{table}");
        assert!(Counts { cpus: 1, rows: Vec::new() }.table(&Symbols::default()).starts_with("nothing was counted"));
    }

    #[test]
    fn what_cannot_be_trusted_is_refused() {
        assert!(Counts::parse("").is_err());
        assert!(Counts::parse(&TEXT.replace("late 0", "late 1")).unwrap_err().to_string().contains("arm"));
        assert!(Counts::parse(&TEXT.replace("count 1", "count 2")).is_err());
        assert!(Counts::parse(&format!("{TEXT}1 2 3\n")).is_err());
        assert!(Counts::parse(&format!("{TEXT}1 0 401000 x 0 0 0\n")).is_err());
    }

    #[test]
    fn a_trace_is_addresses_in_their_order() {
        assert_eq!(parse_trace("tessera-trace 1\nlate 0\ncut 0\n20\n10\n20\n").unwrap(), [0x20, 0x10, 0x20]);
        assert!(parse_trace("tessera-trace 1\nlate 0\ncut 1\n20\n").is_err());
        assert!(parse_trace("tessera-count 1\nlate 0\ncut 0\n").is_err());
    }
}
