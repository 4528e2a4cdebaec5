//! The program break: where a program's heap begins and ends. `brk` moves it.
//!
//! It has a lock as VMAs have one, which `brk` marks first: two calls of it must not change the heap beside each other. Its
//! bounds are written by who has marked it; others read them for reports, as a hint.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use sync::{Platform, VmaLock, VmaLocks};

/// The heap that `brk` moves the end of.
pub(crate) struct Break {
    start: AtomicU64,
    end: AtomicU64,
    lock: VmaLock,
}

impl Break {
    pub(crate) fn new<P: Platform>(locks: &VmaLocks<P>) -> Break {
        Break { start: AtomicU64::new(0), end: AtomicU64::new(0), lock: VmaLock::open(locks) }
    }

    pub(crate) fn lock(&self) -> &VmaLock {
        &self.lock
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
