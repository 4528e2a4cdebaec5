//! The host's harness: boots the kernel, runs programs and schedules, and judges what comes out.
//!
//! Each target of this package lists its tests by name, one Trial each, so that `cargo test NAME` filters them:
//!
//! | target | a test is | judged by |
//! |---|---|---|
//! | `guest` | a test inside the booted kernel, on 1 to 64 CPUs | itself |
//! | `programs` | a user program, or a use of the launcher | the same program on the host's Linux |
//! | `pairs` | the hosted tests of `mm` or `linux`, under another pair of lock protocols | themselves |
//! | `repeat` | counted time, and the boot without firmware | another run of the same seed |
//! | `gdb` | a scripted session with a waiting machine | what the program in it is known to have mapped |
//! | `layering` | a rule about the sources: which way they flow, where `unsafe` is | the sources, and a made-up tree that breaks it |
//! | `setup` | what `doctor` says here and on an empty computer; on demand, set-up without rustup's downloads | a clean clone that boots |
//! | `schedules` | a loom model of the shipped synchronisation code, or one of its mutants | loom; a mutant must fail |
//!
//! No test asserts a time: the machine may be loaded. Whatever waits has a limit, and reaching it is a failure that says what stood still.
#![forbid(unsafe_code)]

pub mod child;
pub mod counted;
pub mod counters;
pub mod executables;
pub mod explained;
pub mod guest;
pub mod launcher;
pub mod layering;
pub mod oracle;
pub mod pairs;
pub mod says;
pub mod schedules;
pub mod turn;
