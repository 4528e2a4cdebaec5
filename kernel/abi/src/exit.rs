//! Values written to QEMU's `isa-debug-exit` port. QEMU leaves with `(value << 1) | 1`.
//!
//! A program's own status does not fit in seven bits: it travels as [`crate::wire::Kind::Exit`].

/// I/O port of the device.
pub const PORT: u16 = 0xf4;

/// The kernel did what it was asked, whatever the program's own status. QEMU's status: 33.
pub const DONE: u8 = 0x10;

/// The kernel panicked. QEMU's status: 35.
pub const PANIC: u8 = 0x11;

/// The kernel refused what the launcher handed it; the reason is on the console. QEMU's status: 37.
pub const REFUSED: u8 = 0x12;

/// A check at the end failed: frames are missing, or tests failed. QEMU's status: 39.
pub const CHECK_FAILED: u8 = 0x13;

/// QEMU's exit status for a value written to the port.
pub const fn qemu_status(value: u8) -> i32 {
    ((value as i32) << 1) | 1
}
