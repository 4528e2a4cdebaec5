//! The program break: where a program's heap begins and ends. `brk` moves it.
//!
//! Its bounds are written inside transactions only, so Relaxed accesses suffice.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The heap that `brk` moves the end of.
pub(crate) struct Break {
    start: AtomicU64,
    end: AtomicU64,
}

impl Break {
    pub(crate) const fn new() -> Break {
        Break { start: AtomicU64::new(0), end: AtomicU64::new(0) }
    }

    pub(crate) fn start(&self) -> u64 {
        self.start.load(Relaxed)
    }

    pub(crate) fn end(&self) -> u64 {
        self.end.load(Relaxed)
    }

    /// An empty heap at `addr`.
    pub(crate) fn begin(&self, addr: u64) {
        self.start.store(addr, Relaxed);
        self.end.store(addr, Relaxed);
    }

    pub(crate) fn set_end(&self, addr: u64) {
        self.end.store(addr, Relaxed);
    }
}
