//! The machine: everything that knows it runs on an x86_64 computer.
//!
//! | room | what it is |
//! |---|---|
//! | [`boot`](mod@boot) | from the boot loader's jump to threads on every CPU, one stage a line |
//! | [`arch`] | registers, descriptors, vectors, page tables, other CPUs |
//! | [`memory`], [`heap`], [`stack`] | physical memory at boot, the kernel heap, kernel stacks |
//! | [`sched`] | threads |
//! | [`platform`], [`system`] | the machine as `sync`, `mm` and `linux` see it |
//! | [`init`], [`ktest`](mod@ktest) | what the kernel is booted for: running a program, or tests |
//! | [`accounts`] | whether every page frame came back |
//! | `point` | delays and meetings at schedule points, in debug builds |
//! | [`clock`], [`random`] | the wall clock, random bytes |
//! | [`start_delay`] | late starts on purpose |
//! | [`console`], [`log`], [`stream`], [`fw_cfg`] | talking to the launcher |
//! | `plant` | disasters on purpose, in debug builds |
//! | [`acpi`] | what the firmware says about CPUs and timers |
//! | [`event`], [`report`] | what the host reads out of a machine that has stopped |
//! | [`panic`](mod@panic), [`exit`] | the end |
//!
//! On the host the package is an empty shell, so that the workspace checks everywhere.
#![cfg(target_os = "none")]
#![no_std]

extern crate alloc;

pub mod accounts;
pub mod acpi;
pub mod arch;
pub mod boot;
pub mod clock;
pub mod console;
pub mod event;
pub mod exit;
pub mod fw_cfg;
pub mod heap;
pub mod init;
pub mod ktest;
pub mod log;
pub mod machine;
pub mod memory;
pub mod panic;
#[cfg(debug_assertions)]
pub mod plant;
pub mod platform;
#[cfg(debug_assertions)]
pub mod point;
pub mod random;
pub mod report;
pub mod sched;
pub mod stack;
pub mod start_delay;
pub mod stream;
pub mod system;

pub use boot::{BOOT_CONFIG, boot};
#[doc(hidden)]
pub use bootloader_api;
