//! Frames on the stream port (COM2): the program's streams, its status, and the events of guest tests.
//!
//! The kernel first sends [`MAGIC`] (firmware may have written to the port before). Then each frame, in both
//! directions, is one kind byte, the payload's length as little-endian `u32`, and the payload.

/// First bytes of the kernel's side of the stream.
pub const MAGIC: [u8; 8] = *b"TESSERA1";

/// Longest payload; longer writes are sent as several frames.
pub const MAX_PAYLOAD: usize = 4096;

/// Bytes before the payload.
pub const HEADER_LEN: usize = 5;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes that the program wrote to its standard output.
    Stdout = 1,
    /// Bytes that the program wrote to its standard error.
    Stderr = 2,
    /// The first process ended: one byte how (0: exited, 1: killed by a signal), then `u32` exit code or signal number.
    Exit = 3,
    /// Counters: `u32` CPUs, `u32` counters, then for each CPU each counter as `u64`, in the order of [`crate::Counter::ALL`].
    Stats = 4,
    /// A guest test begins: its name.
    TestBegin = 5,
    /// A guest test ended: one byte (1 passed, 0 failed), `u64` nanoseconds, its name.
    TestEnd = 6,
    /// All asked guest tests have run: `u32` passed, `u32` failed.
    TestsDone = 7,
    /// One line of the kernel's log, while guest tests run.
    Log = 8,
    /// Frame accounting, after the process and an RCU barrier: text, one `name before after` line an owner.
    Frames = 9,
    /// The last frame: the value that goes to the debug-exit port next.
    End = 10,
    /// Counters of each address space: text. Blocks of lines as in `/proc/vmstat`, each below a heading: `machine`, then `space
    /// NUMBER PROCESS NAME` for each. Several frames are put together.
    Spaces = 11,
    /// Host to kernel: bytes for the program's standard input.
    Stdin = 0x81,
    /// Host to kernel: end of the standard input.
    StdinEnd = 0x82,
}

impl Kind {
    /// The kind for a byte off the wire.
    pub const fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Stdout,
            2 => Kind::Stderr,
            3 => Kind::Exit,
            4 => Kind::Stats,
            5 => Kind::TestBegin,
            6 => Kind::TestEnd,
            7 => Kind::TestsDone,
            8 => Kind::Log,
            9 => Kind::Frames,
            10 => Kind::End,
            11 => Kind::Spaces,
            0x81 => Kind::Stdin,
            0x82 => Kind::StdinEnd,
            _ => return None,
        })
    }
}

/// The bytes before a payload of `payload_len` bytes.
pub const fn header(kind: Kind, payload_len: u32) -> [u8; HEADER_LEN] {
    let len = payload_len.to_le_bytes();
    [kind as u8, len[0], len[1], len[2], len[3]]
}
