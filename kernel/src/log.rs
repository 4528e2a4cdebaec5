//! The kernel's log: the `log` crate's macros, one line a record on the console, with the time and the CPU.
//!
//! ```text
//! [    0.012 cpu0] memory: 126 MiB in 32341 frames
//! ```
//! The level comes from the launcher (`abi::fw_cfg::LOG`); `info` if it says nothing.

use core::fmt;

use log::{Level, LevelFilter, Log, Metadata, Record};
use sync::Platform;

use crate::platform::Machine;
use crate::{console, fw_cfg};

struct Logger;

static LOGGER: Logger = Logger;

/// What stands before a record's text.
struct Prefix(Level);

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = Machine::now_ns() / 1_000_000;
        write!(f, "[{:5}.{:03} cpu{}] ", ms / 1000, ms % 1000, Machine::cpu().0)?;
        match self.0 {
            Level::Error => f.write_str("error: "),
            Level::Warn => f.write_str("warning: "),
            Level::Info | Level::Debug | Level::Trace => Ok(()),
        }
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        // The macros have compared with the maximum level; there is no finer choice.
        true
    }

    fn log(&self, record: &Record<'_>) {
        console::print(format_args!("{}{}\n", Prefix(record.level()), record.args()));
    }

    fn flush(&self) {}
}

/// Installs the logger, at the level that the launcher asks for. Called once, on the boot CPU.
pub fn init() {
    let mut buffer = [0; 8];
    let level = fw_cfg::read_small(abi::fw_cfg::LOG, &mut buffer)
        .and_then(|bytes| core::str::from_utf8(bytes).ok())
        .and_then(|name| name.trim().parse().ok())
        .unwrap_or(LevelFilter::Info);
    // Fails only if a logger is there already: then that one stays.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(level);
}
