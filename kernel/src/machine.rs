//! [`Machine`]: the name of this computer among the portable crates' type parameters.
//!
//! It stands alone and below everything, because everything is generic over it; what it can do is said in `platform`, which
//! stands above the scheduler and the processor that it leads to.

/// The real machine. Never made: only its functions are used.
pub enum Machine {}
