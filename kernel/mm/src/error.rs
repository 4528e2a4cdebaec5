//! Why the memory manager says no, as values.
//!
//! Calls of programs fail with [`abi::Errno`], as Linux does. What is not a call has its own closed type: no frame is
//! left ([`OutOfMemory`]), or a fault cannot be served ([`FaultError`]).

use abi::Errno;
use sync::{Abort, AllocError};

use crate::vma::VmaInfo;

/// No frame, or no kernel heap, is left for this request. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl From<AllocError> for OutOfMemory {
    fn from(_: AllocError) -> Self {
        OutOfMemory
    }
}

impl From<OutOfMemory> for Errno {
    fn from(_: OutOfMemory) -> Self {
        Errno::ENOMEM
    }
}

impl From<OutOfMemory> for Abort {
    fn from(_: OutOfMemory) -> Self {
        Abort::NoMemory
    }
}

/// Why a page fault cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// Nothing is mapped at the address.
    NoMapping,
    /// A mapping is there, and its rights forbid the access.
    Denied {
        /// That mapping.
        vma: VmaInfo,
    },
    /// The access is legal, and no frame is left to serve it.
    OutOfMemory,
}

impl From<OutOfMemory> for FaultError {
    fn from(_: OutOfMemory) -> Self {
        FaultError::OutOfMemory
    }
}
