//! The façade over atomics: `core`'s in normal builds, loom's under `--cfg loom`, and `core`'s with a scheduler in between under
//! `--cfg shuttle`.
//!
//! The only module of the portable kernel that knows which build it is in. Everyone else writes `crate::primitive::…`,
//! so the code that loom and shuttle explore is the code that ships. Loom tries **every** schedule, and every value that the
//! memory model lets a load return, of a few dozen steps; shuttle tries **many** schedules of whole memory calls, without
//! weak memory.
//!
//! Three things differ between the builds, and each has its name here:
//! - loom's constructors are not `const`: `const_unless_loom!` and `array_of!`.
//! - tables and counts must be small for an exhaustive search: [`MAX_CPUS`], [`CELLS`], [`READER_PLACES`], [`UNBIASED_FAULTS`],
//!   [`FUTEX_BUCKETS`]; and what is found by an address must be found at the same place in each execution: [`reader_place`].
//! - every ordering has a name, by which a loom run can weaken it ([`weaken`], [`fence_named`]) or break a step
//!   ([`mutant`]), and must then fail. `tests/mutants.list` says which run fails with which name, and `tests/shuttle.list`
//!   the same of the steps that shuttle's runs find.

#[cfg(not(loom))]
mod cell;
#[cfg(any(loom, shuttle))]
mod chosen;
#[cfg(loom)]
mod model;
#[cfg(not(any(loom, shuttle)))]
mod real;
#[cfg(shuttle)]
mod scheduled;

#[cfg(loom)]
pub use model::*;
#[cfg(not(any(loom, shuttle)))]
pub use real::*;
#[cfg(shuttle)]
pub use scheduled::*;

/// A `const fn` in normal builds, a plain one under loom.
#[cfg(not(loom))]
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => { $(#[$meta])* $vis const fn $($rest)* };
}
#[cfg(loom)]
macro_rules! const_unless_loom {
    ($(#[$meta:meta])* $vis:vis fn $($rest:tt)*) => { $(#[$meta])* $vis fn $($rest)* };
}

/// An array whose every element is its own evaluation of the expression.
#[cfg(not(loom))]
macro_rules! array_of {
    ($value:expr; $len:expr) => {
        [const { $value }; $len]
    };
}
#[cfg(loom)]
macro_rules! array_of {
    ($value:expr; $len:expr) => {
        core::array::from_fn::<_, { $len }, _>(|_| $value)
    };
}

pub(crate) use {array_of, const_unless_loom};

/// Alone on two cache lines, because processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Padded<T>(pub T);
