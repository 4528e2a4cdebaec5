//! Numbers and layouts that the kernel shares with programs and with the host's tools. No dependencies, and no code that does much.
//!
//! | module | what it names | shared with |
//! |---|---|---|
//! | [`errno`] | error numbers | programs |
//! | [`nr`] | system-call numbers | programs |
//! | [`flags`] | bits of memory calls, `clone`, futexes | programs |
//! | [`counter`] | the counters that every report shows | host tools |
//! | [`extreme`] | the holds and waits of which reports show the longest | host tools |
//! | [`lock`] | lock classes in their order, and records of what is held | host tools |
//! | [`wire`] | frames on the stream port | host tools |
//! | [`point`](mod@point) | schedule points, and the text that says what happens at them | host tools |
//! | [`fw_cfg`] | names of the files that the launcher hands to the kernel | host tools |
//! | [`event`] | records of the per-CPU event rings | host tools |
//! | [`marker`] | instructions that open and close a counter's windows | programs, host tools |
//! | [`report`] | the black box that a report about a stopped machine reads | host tools |
//! | [`exit`] | values written to the debug-exit port | host tools |
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod counter;
pub mod errno;
pub mod event;
pub mod exit;
pub mod extreme;
pub mod flags;
pub mod fw_cfg;
pub mod lock;
pub mod marker;
pub mod nr;
pub mod point;
pub mod protocol;
pub mod report;
pub mod wire;

pub use counter::Counter;
pub use errno::Errno;
pub use extreme::Extreme;
pub use point::Point;
pub use protocol::{Pair, ReadProtocol, UpdateProtocol};

/// Size of a page and of a page frame, in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// One past the highest address that a program may map: Linux's `TASK_SIZE` with 4-level paging.
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// Lowest address that an unprivileged program may map: Linux's default `vm.mmap_min_addr`.
pub const MMAP_MIN_ADDR: u64 = 0x1_0000;

/// Most CPUs that the kernel runs on: one machine word of CPU mask.
pub const MAX_CPUS: usize = 64;
