//! The launcher: from a source tree to a verdict about a booted kernel. Runs on the host; behind `cargo run`, and under
//! the test harness.
//!
//! | module | its one question |
//! |---|---|
//! | [`toolchain`] | which compiler builds the kernel? |
//! | [`image`] | what boots, and is it built? |
//! | [`programs`] | where are the project's own user programs? |
//! | [`emulator`] | which QEMU, which firmware? |
//! | [`machine`] | which machine is to be started? |
//! | [`draws`] | which numbers follow from a seed? |
//! | `session` | what does it say, and is it still alive? |
//! | `ports`, `tail` | how do its words reach us? |
//! | [`run`], [`status`] | what became of it? |
//! | [`wire`], [`console`], [`stats`], [`spaces`] | what do its bytes mean? |
//! | [`monitor`], [`peek`], [`symbols`] | what is in the machine, and what are its addresses called? |
//! | [`report`], [`backtrace`], [`recorder`] | what was each CPU doing? |
//! | [`gdb`] | how does a debugger come in? |
//! | [`cli`], [`launch`] | what does the person want? |
//! | [`compare`] | what does each pair of lock protocols cost? |
//! | [`cost`] | what do a page fault and an `munmap` cost? |
//! | [`count`] | what did the machine do, seen from outside? |
//! | [`explain`], [`tour`] | which way does a page fault take, and an `munmap`? |
//! | [`program`] | can this file run at all? |
//! | [`soak`] | how do a thousand random machines end? |
//! | [`registry`] | which guest tests are there? |
//! | [`doctor`] | what is missing on this computer? |
//! | [`host`], [`nested`], [`packages`], [`workspace`] | what is there, how do we start other tools, install them, and where do we write? |
//!
//! ```no_run
//! use qemu::{Image, Machine, Verdict, kernel_image};
//!
//! # fn main() -> anyhow::Result<()> {
//! let run = Machine::new(&kernel_image(Image::Kernel)?).cpus(2).program("/tmp/hello".as_ref(), ["hello"]).run()?;
//! assert_eq!(run.verdict, Verdict::Done);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod backtrace;
pub mod cli;
pub mod compare;
pub mod console;
pub mod cost;
pub mod count;
pub mod doctor;
pub mod draws;
pub mod emulator;
pub mod explain;
pub mod gdb;
pub mod host;
pub mod image;
pub mod launch;
pub mod machine;
pub mod monitor;
pub mod nested;
pub mod packages;
pub mod peek;
mod ports;
pub mod program;
pub mod programs;
pub mod recorder;
pub mod registry;
pub mod report;
pub mod run;
mod say;
mod session;
pub mod soak;
pub mod spaces;
pub mod stats;
pub mod status;

mod stream;
pub mod symbols;
mod tail;
pub mod toolchain;
pub mod tour;
pub mod wire;
pub mod workspace;

pub use image::{Built, Image, kernel_image};
pub use machine::{Entry, Machine, Payload, Stdin, Time};
pub use programs::{c_program, user_program};
pub use run::{Event, Outcome, ProgramExit, Run, TestResult, Verdict};
pub use say::say;
pub use spaces::{Counted, Space, Spaces};
pub use stats::{FrameAccount, Stats};
pub use symbols::Symbols;
