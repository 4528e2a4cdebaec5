//! Resource limits: kept and returned as `prlimit64(2)` does. Only the stack's is applied, when a program is loaded.

use alloc::boxed::Box;

use abi::Errno;
use sync::alloc::{AllocError, try_box_slice};

use crate::files::MAX_FILES;

/// `RLIM_INFINITY`.
pub(crate) const INFINITY: u64 = u64::MAX;

/// Bytes of the first thread's stack.
pub(crate) const STACK_SIZE: u64 = 8 << 20;

/// Number of resources.
pub(crate) const RESOURCES: u64 = 16;

/// Where a limit is not infinite, by resource number (`getrlimit(2)`).
const LIMITED: [(usize, Limit); 5] = [
    (3, Limit { soft: STACK_SIZE, hard: INFINITY }), // RLIMIT_STACK
    (4, Limit { soft: 0, hard: INFINITY }),          // RLIMIT_CORE
    (7, Limit { soft: MAX_FILES as u64, hard: MAX_FILES as u64 }), // RLIMIT_NOFILE
    (13, Limit { soft: 0, hard: 0 }),                // RLIMIT_NICE
    (14, Limit { soft: 0, hard: 0 }),                // RLIMIT_RTPRIO
];

/// One limit, `struct rlimit64` field for field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// A process's limits.
pub(crate) struct Limits(Box<[Limit]>);

impl Limits {
    /// Linux's defaults, and no limit where there is nothing to limit.
    pub(crate) fn new() -> Result<Self, AllocError> {
        let mut limits = try_box_slice(RESOURCES as usize, |_| Limit { soft: INFINITY, hard: INFINITY })?;
        for (resource, limit) in LIMITED {
            limits[resource] = limit;
        }
        Ok(Limits(limits))
    }

    /// The limit of `resource`, which is below [`RESOURCES`].
    pub(crate) fn get(&self, resource: u64) -> Limit {
        self.0[resource as usize]
    }

    /// Changes a limit.
    ///
    /// # Errors
    /// `EINVAL` if the soft limit is above the hard one; `EPERM` if the hard one would rise.
    pub(crate) fn set(&mut self, resource: u64, limit: Limit) -> Result<(), Errno> {
        if limit.soft > limit.hard {
            return Err(Errno::EINVAL);
        }
        let old = &mut self.0[resource as usize];
        if limit.hard > old.hard {
            return Err(Errno::EPERM);
        }
        *old = limit;
        Ok(())
    }
}
