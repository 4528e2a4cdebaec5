//! `explain fault|munmap`: a newcomer's first tour, from a real run.
//!
//! Boots the kernel on one CPU, lets a program cause one page fault or one `munmap` while QEMU notes each instruction, and
//! shows the path stop by stop, as ARCHITECTURE.md tells it. A stop that is not there is an error: so this is also the
//! test that ARCHITECTURE.md is true.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::cli::{ExplainOptions, FirmwareKind, MachineOptions};
use crate::count::{Counting, Mode};
use crate::image::{Built, Image, kernel_image};
use crate::launch;
use crate::machine::{Entry as Boot, Machine};
use crate::programs::user_program;
use crate::run::{Run, Verdict};
use crate::say::say;
use crate::status;
use crate::symbols::Symbols;
use crate::tour::{self, Entry, Stop, Subject};

/// Columns of the text.
const WIDTH: usize = 100;

/// Functions named between two stops.
const THROUGH: usize = 8;

/// `cargo run -- explain`.
///
/// # Errors
/// Something cannot be built or started, or the counter failed.
pub fn main(options: &MachineOptions, explain: &ExplainOptions) -> Result<u8> {
    let rows = explain.subject.rows(explain.architecture.as_deref())?;
    let mut options = options.clone();
    options.cpus = Some(1);
    options.firmware = options.firmware.or(Some(FirmwareKind::None));
    let image = if options.kernel.is_some() { launch::image(&options)? } else { kernel_image(Image::Release)? };
    let traced = Traced::new(explain.subject, &image, launch::machine(&image, &options))?;
    if traced.run.verdict != Verdict::Done {
        return Ok(launch::conclude(&traced.run, &image, Path::new("traced")));
    }
    match tour::walk(&rows, &traced.entries) {
        Ok(stops) => {
            write!(std::io::stdout(), "{}", text(explain.subject, &stops, traced.instructions))?;
            Ok(0)
        }
        Err(why) => {
            let whose = explain.architecture.clone().unwrap_or_else(|| PathBuf::from("ARCHITECTURE.md"));
            say(format_args!("{} is not true: {why}", whose.display()));
            Ok(status::CHECK_FAILED)
        }
    }
}

/// A run of which every instruction is known.
#[derive(Debug)]
pub struct Traced {
    /// The machine's end.
    pub run: Run,
    /// Instructions between the markers; interrupts are left out.
    pub instructions: usize,
    /// Functions that were entered there.
    pub entries: Vec<Entry>,
}

impl Traced {
    /// Lets a program do it on a machine with one CPU and no firmware.
    ///
    /// # Errors
    /// Something cannot be built or started, or the counter failed.
    pub fn of(subject: Subject, limit: Duration) -> Result<Traced> {
        let image = kernel_image(Image::Release)?;
        let traced = Traced::new(subject, &image, Machine::new(&image).cpus(1).entry(Boot::Direct).timeout(limit))?;
        if traced.run.verdict != Verdict::Done {
            bail!("{}", traced.run.verdict.summary());
        }
        Ok(traced)
    }

    fn new(subject: Subject, image: &Built, machine: Machine) -> Result<Traced> {
        let symbols = Symbols::load(&image.elf)?;
        let counting = Counting::new(Mode::Trace)?.without_interrupts(&symbols)?;
        let machine = machine.program(&user_program("traced")?, ["traced", subject.name()]);
        let run = counting.of(machine).run()?;
        let trace = if run.verdict == Verdict::Done { counting.trace()? } else { Vec::new() };
        Ok(Traced { run, instructions: trace.len(), entries: tour::entries(&trace, &symbols) })
    }
}

/// The tour, for people.
fn text(subject: Subject, stops: &[Stop], instructions: usize) -> String {
    let what = match subject {
        Subject::Fault => "a page fault: a program's first write to a page, which it has mapped and nobody has touched",
        Subject::Munmap => "an munmap: a program unmaps six pages, of which it has written four",
    };
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}",
        wrapped(
            &format!(
                "The life of {what}. The kernel has just lived it, on one CPU; each stop below was found in what ran, in \
                 this order. ARCHITECTURE.md tells it with its reasons: {}.",
                subject.heading().replace('`', "")
            ),
            ""
        )
    );
    for (index, stop) in stops.iter().enumerate() {
        let line = stop.line.map_or(String::new(), |line| format!(":{line}"));
        let _ = writeln!(text, "\n{:>2}  {}   {}{line}", stop.row.number, stop.row.function, stop.row.file);
        let _ = writeln!(text, "{}", wrapped(&sentence(&stop.row.sentence), "    "));
        let next = stops.get(index + 1).map_or(instructions, |next| next.at);
        let _ = writeln!(text, "{}", wrapped(&way(next - stop.at, &stop.through), "      | "));
    }
    let _ = writeln!(
        text,
        "\n{instructions} instructions in all, interrupts left out. Try: cargo run -- count; then open {}.",
        stops.first().map_or("the first file", |stop| &stop.row.file)
    );
    text
}

/// What lies between a stop and the next.
fn way(instructions: usize, through: &[String]) -> String {
    let mut text = format!("{instructions} instruction{}", if instructions == 1 { "" } else { "s" });
    if !through.is_empty() {
        let shown = &through[..through.len().min(THROUGH)];
        let _ = write!(text, ", through {}", shown.join(", "));
        if through.len() > THROUGH {
            let _ = write!(text, " and {} more", through.len() - THROUGH);
        }
    }
    text
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", chars.as_str())
}

/// `text` in lines of at most [`WIDTH`] columns, each after `margin`.
fn wrapped(text: &str, margin: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, String::len);
        if line > 0 && margin.len() + line + 1 + word.len() > WIDTH {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.iter().map(|line| format!("{margin}{line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_wrapped_between_words() {
        let text = wrapped(&"word ".repeat(100), "    ");
        assert!(text.lines().count() > 4);
        assert!(text.lines().all(|line| line.starts_with("    word") && line.len() <= WIDTH));
        assert_eq!(wrapped("a b", ""), "a b");
    }

    #[test]
    fn the_way_between_stops_is_told_in_a_line() {
        assert_eq!(way(1, &[]), "1 instruction");
        let names: Vec<String> = (0..10).map(|index| format!("f{index}")).collect();
        assert_eq!(way(9, &names[..2]), "9 instructions, through f0, f1");
        assert!(way(9, &names).ends_with("f7 and 2 more"));
        assert_eq!(sentence("vector 14: saved"), "Vector 14: saved.");
    }
}
