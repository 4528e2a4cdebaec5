//! The wall clock: the battery-backed clock's time once, and the monotonic clock from there.
//!
//! The CMOS clock (MC146818) has whole seconds and no time zone; firmware and QEMU keep it in UTC.

use core::sync::atomic::{AtomicU64, Ordering};

use sync::Platform;
use x86_64::instructions::port::Port;

use crate::platform::Machine;

/// Nanoseconds since 1970 when the monotonic clock was 0; 0: not read yet.
static ORIGIN_NS: AtomicU64 = AtomicU64::new(0);

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;

/// Reads the battery-backed clock. Once, by the main thread, when the monotonic clock runs.
pub fn init() {
    ORIGIN_NS.store((read_seconds() * 1_000_000_000).saturating_sub(Machine::now_ns()), Ordering::Relaxed);
}

/// Nanoseconds since 1970-01-01 00:00 UTC.
pub fn realtime_ns() -> u64 {
    // Relaxed: written before any program is loaded.
    ORIGIN_NS.load(Ordering::Relaxed) + Machine::now_ns()
}

fn register(number: u8) -> u8 {
    // SAFETY: selects a register of the CMOS clock (and leaves NMIs on); nothing else in the kernel uses the pair of
    // ports.
    unsafe { Port::<u8>::new(INDEX).write(number) };
    // SAFETY: reading has no effect, but for register C, which is not read.
    unsafe { Port::<u8>::new(DATA).read() }
}

/// Seconds, minutes, hours, day, month, year of the century.
fn fields() -> [u8; 6] {
    [0, 2, 4, 7, 8, 9].map(register)
}

fn read_seconds() -> u64 {
    const UPDATING: u8 = 0x80;
    const BINARY: u8 = 0x04;
    const HOURS_24: u8 = 0x02;
    const PM: u8 = 0x80;
    // Twice the same, and no update under way: else the clock was changing under our eyes.
    let mut raw = fields();
    for _ in 0..1000 {
        let again = fields();
        if register(0x0a) & UPDATING == 0 && again == raw {
            break;
        }
        raw = again;
    }
    let format = register(0x0b);
    let afternoon = format & HOURS_24 == 0 && raw[2] & PM != 0;
    raw[2] &= !PM;
    let number = |value: u8| u64::from(if format & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 15) });
    let [second, minute, mut hour, day, month, year] = raw.map(number);
    if format & HOURS_24 == 0 {
        hour = hour % 12 + if afternoon { 12 } else { 0 };
    }
    days_since_1970(2000 + year, month.clamp(1, 12), day.max(1)) * 86400 + hour * 3600 + minute * 60 + second
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, by counting in years that begin in March.
const fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

const _: () = assert!(days_since_1970(1970, 1, 1) == 0);
const _: () = assert!(days_since_1970(2000, 3, 1) == 11_017);
const _: () = assert!(days_since_1970(2024, 2, 29) == 19_782);
