//! The result as the launcher reads it (`qemu::count`): lines of words, numbers in hexadecimal.
//!
//! ```text
//! tessera-count 1             the format's version
//! late 0                      1: a window opened before the counter was armed
//! cpus 2
//! w c address run locked reads writes       one line a window, CPU and instruction
//! ```
//!
//! A trace begins with `tessera-trace 1`, has the same second line, then `cut 0` (1: something is missing at its end), then
//! one address a line.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::count::Counter;
use crate::trace::MAX_LENGTH;

/// Whether a window opened before the counter was armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Began {
    InTime,
    Late,
}

/// Writes counts.
pub(crate) fn counts(out: impl Write, began: Began, counter: &Counter, addresses: &[u64]) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    writeln!(out, "tessera-count 1\nlate {}\ncpus {:x}", u8::from(began == Began::Late), counter.cpus())?;
    let mut result = Ok(());
    counter.for_each(|window, cpu, site, counts| {
        let Some(address) = addresses.get(site as usize) else { return };
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let line = writeln!(
            out,
            "{window:x} {cpu:x} {address:x} {:x} {:x} {:x} {:x}",
            value(&counts.run),
            value(&counts.locked),
            value(&counts.shared_reads),
            value(&counts.shared_writes)
        );
        if result.is_ok() {
            result = line;
        }
    });
    result?;
    out.flush()
}

/// Writes a trace.
pub(crate) fn trace(out: impl Write, began: Began, sites: &[u32], addresses: &[u64]) -> io::Result<()> {
    let mut out = BufWriter::new(out);
    let cut = sites.len() > MAX_LENGTH;
    writeln!(out, "tessera-trace 1\nlate {}\ncut {}", u8::from(began == Began::Late), u8::from(cut))?;
    for &site in sites {
        if let Some(address) = addresses.get(site as usize) {
            writeln!(out, "{address:x}")?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use abi::marker::{Kind, Marker};

    use super::*;
    use crate::lines::Access;
    use crate::watched::Watched;

    #[test]
    fn each_count_is_one_line() {
        let counter = Counter::new(2);
        counter.mark(1, Marker { kind: Kind::Begin, window: 2 });
        let plain = Watched::new(1, 0);
        counter.count(1, counter.open(1), Watched::new(0, Watched::LOCKED));
        counter.count(1, counter.open(1), plain);
        counter.shared(1, counter.open(1), plain, Access::Read, 17);
        let mut out = Vec::new();
        counts(&mut out, Began::InTime, &counter, &[0x40_1000, 0xffff_ffff_8000_0010]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "tessera-count 1\nlate 0\ncpus 2\n2 1 401000 1 1 0 0\n2 1 ffffffff80000010 1 0 11 0\n");
    }

    #[test]
    fn a_trace_keeps_its_order() {
        let mut out = Vec::new();
        trace(&mut out, Began::Late, &[1, 0, 1], &[0x10, 0x20]).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "tessera-trace 1\nlate 1\ncut 0\n20\n10\n20\n");
    }
}
