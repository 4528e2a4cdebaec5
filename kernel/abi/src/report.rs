//! The black box: what the kernel lays out so that the host can say what a machine that has stopped was doing.
//!
//! The host finds the [`BlackBox`] by its symbol and reads it, and what it points at, out of the stopped machine's memory:
//! nothing of it is sent. The kernel only ever stores plain words, so whatever the machine died of, the box is as whole as
//! its memory. The host trusts nothing in it: each address may be wrong, each number too large.
//!
//! All fields are atomics because CPUs write them while others, and the host, may look; each has one writer, and nothing is
//! published by them, so Relaxed is enough.

use core::sync::atomic::{AtomicU8, AtomicU64};

use crate::MAX_CPUS;
use crate::event::RECORD_BYTES;

/// The static's name in the kernel's symbol table.
pub const SYMBOL: &str = "TESSERA_BLACK_BOX";

/// First word of a [`BlackBox`]; changes with its layout.
pub const MAGIC: u64 = u64::from_le_bytes(*b"TESSBOX1");

/// Room for a panic's message; a longer one is cut.
pub const MESSAGE_BYTES: usize = 2048;

/// Where a kernel that dies says so: the `pvpanic` device's port (QEMU, `docs/specs/pvpanic.rst`).
pub const PANIC_PORT: u16 = 0x505;

/// What it writes there: the machine has panicked. QEMU stops every CPU where it is.
pub const PANIC_VALUE: u8 = 1;

/// Records in a CPU's ring; a power of two.
pub const RING_RECORDS: usize = 1024;

const _: () = assert!(RING_RECORDS.is_power_of_two());

/// Everything that can be known about a stopped machine.
#[repr(C)]
pub struct BlackBox {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// CPUs that take part: entries of `cpus` that mean something.
    pub cpu_count: AtomicU64,
    /// The CPU that panics, plus one; 0 while none does.
    pub panicking: AtomicU64,
    /// Bytes of `message` that are written.
    pub message_len: AtomicU64,
    /// Where number and six arguments stand in the registers of a call: offsets from [`ThreadBox::call`].
    pub call_offsets: [AtomicU64; 7],
    /// One for each CPU.
    pub cpus: [CpuBox; MAX_CPUS],
    /// Why the kernel panics.
    pub message: [AtomicU8; MESSAGE_BYTES],
}

/// What is known of a CPU. Written by that CPU alone.
#[repr(C, align(64))]
pub struct CpuBox {
    /// Address of the running thread's [`ThreadBox`]; 0: none yet.
    pub thread: AtomicU64,
    /// Address of its [`Ring`]; 0: events are off.
    pub ring: AtomicU64,
    /// Address of the record of the locks that its interrupt handlers hold; 0: the kernel keeps none.
    pub interrupt_locks: AtomicU64,
}

/// What is known of a thread. Written by the thread alone.
#[repr(C)]
pub struct ThreadBox {
    /// Address of its name, and the name's length in bytes.
    pub name: AtomicU64,
    /// See `name`.
    pub name_len: AtomicU64,
    /// A program's thread: its tid and its process's pid. 0 for the kernel's own.
    pub tid: AtomicU64,
    /// See `tid`.
    pub pid: AtomicU64,
    /// In a system call: the address of the caller's registers. 0: in none.
    pub call: AtomicU64,
    /// In an update transaction: its mark word (cell number in the upper 16 bits, sequence below). 0: in none.
    pub transaction: AtomicU64,
    /// In an update transaction: the address of the address space's update lock.
    pub space: AtomicU64,
    /// Address of the record of the locks that it holds; 0: the kernel keeps none.
    pub locks: AtomicU64,
}

/// A CPU's last events. Written by that CPU alone; `head` counts all records ever, so the newest is at
/// `(head - 1) % RING_RECORDS`.
#[repr(C, align(64))]
pub struct Ring {
    /// Records begun so far.
    pub head: AtomicU64,
    /// Four words a record: see [`crate::event::Record`].
    pub records: [[AtomicU64; RECORD_BYTES / 8]; RING_RECORDS],
}

impl BlackBox {
    /// Nothing known yet.
    pub const fn new() -> BlackBox {
        BlackBox {
            magic: AtomicU64::new(MAGIC),
            cpu_count: AtomicU64::new(0),
            panicking: AtomicU64::new(0),
            message_len: AtomicU64::new(0),
            call_offsets: [const { AtomicU64::new(0) }; 7],
            cpus: [const { CpuBox::new() }; MAX_CPUS],
            message: [const { AtomicU8::new(0) }; MESSAGE_BYTES],
        }
    }
}

impl Default for BlackBox {
    fn default() -> Self {
        Self::new()
    }
}

impl CpuBox {
    /// Nothing known yet.
    pub const fn new() -> CpuBox {
        CpuBox { thread: AtomicU64::new(0), ring: AtomicU64::new(0), interrupt_locks: AtomicU64::new(0) }
    }
}

impl Default for CpuBox {
    fn default() -> Self {
        Self::new()
    }
}

impl ThreadBox {
    /// Nothing known yet.
    pub const fn new() -> ThreadBox {
        ThreadBox {
            name: AtomicU64::new(0),
            name_len: AtomicU64::new(0),
            tid: AtomicU64::new(0),
            pid: AtomicU64::new(0),
            call: AtomicU64::new(0),
            transaction: AtomicU64::new(0),
            space: AtomicU64::new(0),
            locks: AtomicU64::new(0),
        }
    }
}

impl Default for ThreadBox {
    fn default() -> Self {
        Self::new()
    }
}

impl Ring {
    /// An empty ring.
    pub const fn new() -> Ring {
        Ring {
            head: AtomicU64::new(0),
            records: [const { [const { AtomicU64::new(0) }; RECORD_BYTES / 8] }; RING_RECORDS],
        }
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a trap's registers lie on the stack, for whoever walks over a trap into what it interrupted.
pub mod trap {
    /// Ends of the names of the functions that lay them out. They keep no frame of their own: the frame of the function
    /// that they call ends where the registers begin.
    pub const ENTRIES: [&str; 3] = ["::trap_entry", "::paranoid_entry", "::flush_entry"];
    /// Bytes from the first register to the interrupted RBP.
    pub const RBP: u64 = 8 * 8;
    /// To the vector.
    pub const VECTOR: u64 = 15 * 8;
    /// To the interrupted RIP.
    pub const RIP: u64 = 17 * 8;
    /// To the interrupted code segment; its low two bits are the privilege level.
    pub const CS: u64 = 18 * 8;
    /// To the interrupted RSP.
    pub const RSP: u64 = 20 * 8;
    /// Bytes in all.
    pub const BYTES: usize = 22 * 8;
}
