//! Markers: how a program tells a counter outside the machine where a measured stretch begins and ends.
//!
//! A marker is one instruction that does nothing, on Tessera, on Linux and on real hardware: the seven-byte
//! `nop dword ptr [rax + disp32]` (`0f 1f 80`, then the displacement). The displacement is the message:
//! [`MAGIC`] in its upper half, then four bits of [`Kind`], then twelve bits of window number. No memory is accessed, no
//! register changes, no kernel helps.
//!
//! Written by `tests/user` (in Rust, and in C by `marker.h`), read by `qemu/plugin` when QEMU translates the instruction.

/// The bytes before the displacement.
pub const OPCODE: [u8; 3] = [0x0f, 0x1f, 0x80];

/// Upper 16 bits of the displacement: no compiler pads with them.
pub const MAGIC: u32 = 0x7e55;

/// Windows that a program may use: numbers below this.
pub const WINDOWS: usize = 16;

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// The window opens on the CPU that executes this.
    Begin = 0,
    /// It closes there.
    End = 1,
    /// The window opens on all CPUs at once.
    BeginAll = 2,
    /// It closes everywhere.
    EndAll = 3,
    /// Windows will follow: the counter gets ready, which takes until the next jump or so. Before that it does not look at
    /// what runs, so that booting is fast.
    Arm = 4,
}

/// One marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// What it says.
    pub kind: Kind,
    /// About which window.
    pub window: u32,
}

impl Marker {
    /// The displacement that says it. The window's number is taken modulo [`WINDOWS`].
    pub const fn displacement(self) -> u32 {
        MAGIC << 16 | (self.kind as u32) << 12 | (self.window % WINDOWS as u32)
    }

    /// What a displacement says; none if it is an ordinary one, or names a window that there is not.
    pub const fn of_displacement(displacement: u32) -> Option<Marker> {
        if displacement >> 16 != MAGIC {
            return None;
        }
        let kind = match (displacement >> 12) & 0xf {
            0 => Kind::Begin,
            1 => Kind::End,
            2 => Kind::BeginAll,
            3 => Kind::EndAll,
            4 => Kind::Arm,
            _ => return None,
        };
        let window = displacement & 0xfff;
        if window as usize >= WINDOWS { None } else { Some(Marker { kind, window }) }
    }
}
