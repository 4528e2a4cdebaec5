//! Reads its standard input to the end, and says on each output what belongs there.

use std::io::{Read, Write};

fn main() -> std::io::Result<()> {
    let mut input = Vec::new();
    let len = std::io::stdin().read_to_end(&mut input)?;
    let mut out = std::io::stdout().lock();
    let mut err = std::io::stderr().lock();
    writeln!(out, "standard output: {len} bytes came in")?;
    writeln!(err, "standard error: nothing is wrong")?;
    out.write_all(&input)?;
    out.flush()?;
    writeln!(err, "standard error: the last line")?;
    // No newline at the end: the launcher must not add one.
    write!(out, "end")?;
    out.flush()
}
