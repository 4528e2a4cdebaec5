//! `compare`: what the lock protocols cost, side by side, by counts from outside the machine.
//!
//! One machine for each pair of protocols and number of CPUs runs the program `compare`, whose six workloads stand between
//! markers. Its CPUs take short turns ([`Turns::Short`]), so that calls and faults of several CPUs overlap, and every run
//! is the same each time: a table can be had again to the last digit. One CPU more than work is there: it waits for the
//! others, idle, and is not counted. Interrupts and idling are left out, and what the program does in user mode.
//!
//! The program checks every content; a machine whose program finds one wrong fails the comparison.

pub mod measured;
pub mod table;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use abi::Pair;
use anyhow::{Context, Result};

use crate::cli::{CompareFormat, CompareOptions, FirmwareKind, MachineOptions, Switch};
use crate::count::{Counting, Mode};
use crate::image::{Built, Image, kernel_image};
use crate::launch;
use crate::machine::{Time, Turns};
use crate::programs::user_program;
use crate::say::say;
use crate::status;
use crate::symbols::Symbols;
use measured::Measured;

/// Numbers of CPUs that work, where the command line says none.
const CPUS: [u32; 4] = [1, 2, 4, 8];

/// Seconds that one machine may take, where the command line says nothing.
const LIMIT_S: u32 = 300;

/// `cargo run -- compare`. Returns 0, or the status of the first machine that failed; the others are compared all the same.
///
/// # Errors
/// Something cannot be built or started, or the counter failed.
pub fn main(machine: &MachineOptions, options: &CompareOptions) -> Result<u8> {
    if machine.cpus == Some(abi::MAX_CPUS as u32) {
        say(format_args!(
            "compare: one CPU more than --cpus waits for the others, and there are at most {}",
            abi::MAX_CPUS
        ));
        return Ok(status::BAD_INPUT);
    }
    let comparison = Comparison::prepare(machine, options)?;
    let mut results = Vec::new();
    let mut worst = 0;
    let cpus = machine.cpus.map_or(CPUS.to_vec(), |cpus| vec![cpus]);
    for &cpus in &cpus {
        for pair in pairs(machine) {
            let began = Instant::now();
            let (status, measured) = comparison.run(pair, cpus)?;
            let verdict = if status == 0 { "done" } else { "FAILED" };
            say(format_args!("{pair} with --cpus {cpus}: {verdict} in {:.1} s", began.elapsed().as_secs_f32()));
            worst = if worst == 0 { status } else { worst };
            results.extend(measured);
        }
    }
    let mut out = std::io::stdout().lock();
    match options.format {
        CompareFormat::Table => write!(out, "{}", table::table(&results))?,
        CompareFormat::Json => writeln!(out, "{}", table::json(&results))?,
    }
    Ok(worst)
}

/// The pairs to compare: the ten, or those of them that have what the command line names; those outside the ten if none has.
fn pairs(options: &MachineOptions) -> Vec<Pair> {
    let wanted = |pair: &Pair| {
        options.vma_lock.is_none_or(|read| read == pair.read())
            && options.update.is_none_or(|update| update == pair.update())
    };
    let ten: Vec<Pair> = Pair::TEN.into_iter().filter(wanted).collect();
    if ten.is_empty() { Pair::all().filter(wanted).collect() } else { ten }
}

/// What all machines have in common.
struct Comparison {
    options: MachineOptions,
    operations: String,
    planted: Option<&'static str>,
    image: Built,
    symbols: Symbols,
    program: PathBuf,
}

impl Comparison {
    fn prepare(machine: &MachineOptions, compare: &CompareOptions) -> Result<Comparison> {
        let mut options = machine.clone();
        options.firmware = options.firmware.or(Some(FirmwareKind::None));
        options.events = options.events.or(Some(Switch::Off)); // recording is for reports, and has its price
        options.timeout = options.timeout.or(Some(LIMIT_S));
        options.seed = options.seed.or(Some(0));
        let image = if options.kernel.is_some() { launch::image(&options)? } else { kernel_image(Image::Release)? };
        Ok(Comparison {
            symbols: Symbols::load(&image.elf)?,
            image,
            options,
            operations: compare.operations.to_string(),
            planted: compare.plant_content.then_some("plant"),
            program: user_program("compare")?,
        })
    }

    /// Boots one machine. Returns its status, and what was counted if that is 0.
    fn run(&self, pair: Pair, cpus: u32) -> Result<(u8, Vec<Measured>)> {
        let counting = Counting::new(Mode::Count)?.without_interrupts(&self.symbols)?;
        let (threads, operations) = (cpus.to_string(), self.operations.as_str());
        let words = ["compare", &threads, operations].into_iter().chain(self.planted);
        let machine = launch::machine(&self.image, &self.options)
            .cpus(cpus + 1)
            .time(Time::Counted)
            .turns(Turns::Short)
            .pair(pair)
            .program(&self.program, words);
        let run = counting.of(machine).run()?;
        let status = launch::conclude(&run, &self.image, Path::new("compare"));
        if status != 0 {
            say(format_args!("{pair} with --cpus {cpus}: {}", String::from_utf8_lossy(&run.stderr).trim_end()));
            return Ok((status, Vec::new()));
        }
        let said = String::from_utf8_lossy(&run.stdout);
        let measured = measured::measured(pair, cpus, &said, &counting.counts()?, &self.symbols);
        Ok((status, measured.with_context(|| format!("{pair} with --cpus {cpus}"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    fn chosen(line: &str) -> Vec<String> {
        let options = cli::parse(line.split(' ').map(Into::into)).unwrap().machine;
        pairs(&options).iter().map(Pair::to_string).collect()
    }

    #[test]
    fn pairs_are_the_ten_or_those_asked_for() {
        assert_eq!(chosen("tessera compare").len(), 10);
        assert_eq!(chosen("tessera compare --vma-lock mm"), ["mm+bulk"]);
        assert_eq!(chosen("tessera compare --update cycle"), ["rwsem+cycle", "refcount+cycle", "slot+cycle"]);
        assert_eq!(chosen("tessera compare --vma-lock slot --update bulk"), ["slot+bulk"]);
        assert_eq!(chosen("tessera compare --vma-lock bravo").len(), 4);
        assert_eq!(chosen("tessera compare --vma-lock slot --update cycle-held"), ["slot+cycle-held"]);
    }
}
