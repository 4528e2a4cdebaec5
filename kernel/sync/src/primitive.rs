//! The façade over atomics: `core`'s in normal builds, loom's under `--cfg loom`.
//!
//! The only module of the portable kernel that knows which build it is in. Everyone else writes `crate::primitive::…`,
//! so the code that loom explores is the code that ships.
//!
//! Three things differ between the builds, and each has its name here:
//! - loom's constructors are not `const`: `const_unless_loom!` and `array_of!`.
//! - tables must be small for an exhaustive search: [`MAX_CPUS`], [`CELLS`], [`FUTEX_BUCKETS`].
//! - every ordering has a name, by which a loom run can weaken it ([`weaken`], [`fence_named`]) or break a step
//!   ([`mutant`]), and must then fail. `tests/mutants.list` says which run fails with which name.

#[cfg(loom)]
mod model;
#[cfg(not(loom))]
mod real;

#[cfg(loom)]
pub use model::*;
#[cfg(not(loom))]
pub use real::*;

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
