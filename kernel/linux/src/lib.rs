//! The face to programs: ordinary static x86_64 Linux executables run on what this crate says and does.
//!
//! | module | what it is |
//! |---|---|
//! | [`system`] | what it needs of the machine, beyond [`sync::Platform`] |
//! | [`elf`] | a program file, checked |
//! | [`load`](mod@load) | a checked file, mapped; the stack that a program starts with ([`stack`]) |
//! | [`process`], [`thread`] | who runs; numbers come from [`ids`] |
//! | `call` | the calls: one dispatch table, one file a family |
//! | [`fault`] | what becomes of a program's exceptions |
//! | `signal`, `deliver` | actions and masks; how a signal reaches a thread, and ends its process; [`report`] is the line that says so |
//! | [`exit`] | how a thread leaves |
//! | `names`, `texts` | which names there are; what the kernel's own files say |
//! | `opened`, `files` | open files, with their readers' positions; descriptors |
//! | `limits`, `usercopy` | resource limits, words from and to user memory |
//!
//! The kernel calls [`load()`], [`call()`], [`user_fault`], [`user_exception`] and [`thread_exit`]; everything that
//! these need comes back through [`System`]. No statics, no assembly, no printing.
//!
//! Locks: the spin locks of a process and of a thread are leaves. None is held while another is taken, while user
//! memory is touched, or while the system is called.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(test), forbid(unsafe_code))] // the tests' machine reads memory by physical address

extern crate alloc;

mod call;
mod deliver;
pub mod elf;
pub mod exit;
pub mod fault;
mod files;
pub mod ids;
mod limits;
pub mod load;
mod names;
mod opened;
pub mod process;
pub mod report;
pub mod seen;
mod signal;
pub mod stack;
pub mod system;
#[cfg(test)]
mod tests;
mod texts;
pub mod thread;
mod usercopy;

pub use call::{Control, call};
pub use exit::thread_exit;
pub use fault::{UserFault, user_exception, user_fault};
pub use ids::Ids;
pub use load::{LoadError, Loaded, load};
pub use process::{ExitStatus, Process};
pub use report::Report;
pub use seen::Seen;
pub use signal::Handler;
pub use system::{Stream, System, UserFacts, UserRegs};
pub use thread::Thread;
