//! Calls, threads and loading on `mm`'s software machine, with host threads as CPUs.
//!
//! [`machine`] implements [`System`](crate::System) over it; a [`Program`] is a loaded process, and a [`User`] one of
//! its threads, which makes calls as a program would: by registers.

mod file;
#[path = "../../tests/files/mod.rs"]
mod files;
mod futex;
mod info;
mod load;
mod machine;
mod memory;
mod names;
mod program;
mod signal;
mod thread;
mod time;

pub(crate) use machine::World;
pub(crate) use program::{Program, User};
