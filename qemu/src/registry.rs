//! The guest tests' names, read out of the image's ELF file: for the test harness and the soak.
//!
//! Tests register themselves by a record in the link section `ktests` (`kernel::ktest`): five words, the name's address and
//! length, the function, how it is meant to end, and on which machines it runs.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection};

const RECORD_LEN: usize = 40;

/// One guest test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestTest {
    /// Its name, below the crate: what the kernel takes and reports.
    pub name: String,
    /// How it is meant to end.
    pub ends: Ends,
    /// On which machines it runs.
    pub on: On,
}

/// On which machines a guest test runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// All sizes, with the default lock protocols: it depends on none.
    AnyMachine,
    /// Under each pair of lock protocols, too.
    EachPair,
    /// Only where time is counted.
    CountedTime,
}

/// How a guest test is meant to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// It returns.
    Returning,
    /// It panics, and takes the machine with it.
    Panicking,
}

/// All tests in `elf`, in the order in which the kernel runs them.
///
/// # Errors
/// The file is no ELF file of a kernel with tests.
pub fn guest_tests(elf: &Path) -> Result<Vec<GuestTest>> {
    let bytes = std::fs::read(elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", elf.display()))?;
    let section = file.section_by_name("ktests").context("no section `ktests`")?;
    let table = section.data()?;
    ensure!(table.len() % RECORD_LEN == 0, "{} bytes of records of {RECORD_LEN} bytes", table.len());
    table.chunks_exact(RECORD_LEN).map(|record| decode(&file, record)).collect()
}

fn decode(file: &object::File<'_>, record: &[u8]) -> Result<GuestTest> {
    let words: Vec<u64> = record
        .chunks_exact(8)
        .map(|word| word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
        .collect();
    let [address, len, _, expect, on] = words[..] else { bail!("a record of {} words", words.len()) };
    let name = file.sections().find_map(|section| section.data_range(address, len).ok().flatten());
    let name = std::str::from_utf8(name.with_context(|| format!("no name at {address:#x}"))?)?;
    let ends = match expect {
        0 => Ends::Returning,
        1 => Ends::Panicking,
        other => bail!("{name} is meant to end in way {other}"),
    };
    let on = match on {
        0 => On::AnyMachine,
        1 => On::EachPair,
        2 => On::CountedTime,
        other => bail!("{name} is meant for machines {other}"),
    };
    let short = name.split_once("::").map_or(name, |(_, rest)| rest);
    Ok(GuestTest { name: short.into(), ends, on })
}
