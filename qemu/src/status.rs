//! Exit statuses of the launcher. A program that runs to its end gives its own, so these numbers may be a program's
//! too: what the launcher says on standard error tells them apart.

/// A soak's program ended otherwise than it should, on a machine that was well.
pub const WRONG: u8 = 1;
/// The command line, or the program on it, makes no sense.
pub const BAD_INPUT: u8 = 2;
/// The compiler, the build, QEMU or its firmware failed.
pub const SET_UP: u8 = 69;
/// The kernel panicked.
pub const PANICKED: u8 = 70;
/// The machine reset itself.
pub const RESET: u8 = 71;
/// The kernel refused what it was handed.
pub const REFUSED: u8 = 72;
/// A check of the kernel's failed when the program had ended: page frames are missing.
pub const CHECK_FAILED: u8 = 73;
/// The kernel's stream makes no sense, or our own output cannot be written.
pub const STREAM: u8 = 74;
/// Time was up.
pub const TIMED_OUT: u8 = 124;
/// A signal stopped a soak: 128 and SIGINT, as a shell shows it.
pub const INTERRUPTED: u8 = 130;
/// Nobody reads our standard output any more: 128 and SIGPIPE, as a shell shows it.
pub const BROKEN_PIPE: u8 = 141;

use crate::run::Verdict;

/// The status for a machine that did not do what it was asked; none if it did.
pub fn of_failure(verdict: &Verdict) -> Option<u8> {
    match verdict {
        Verdict::Done => None,
        Verdict::Panicked => Some(PANICKED),
        Verdict::Refused => Some(REFUSED),
        Verdict::CheckFailed => Some(CHECK_FAILED),
        Verdict::Reset => Some(RESET),
        Verdict::TimedOut => Some(TIMED_OUT),
        Verdict::Garbled(_) => Some(STREAM),
        Verdict::QemuFailed(..) => Some(SET_UP),
    }
}
