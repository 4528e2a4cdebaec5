//! Waiting for the end of a kernel thread.

use core::sync::atomic::{AtomicBool, Ordering};

use sync::{Arc, Interruptible, WaitQueue};

use crate::platform::Machine;

/// Shared by a thread and its [`KernelThread`] handle.
pub(super) struct Join {
    ended: AtomicBool,
    waiters: WaitQueue<Machine>,
}

impl Join {
    pub(super) fn new() -> Join {
        Join { ended: AtomicBool::new(false), waiters: WaitQueue::new() }
    }

    /// By the thread, when its function has returned.
    pub(super) fn end(&self) {
        // Release: what the thread did is visible to the joiner.
        self.ended.store(true, Ordering::Release);
        self.waiters.wake_all();
    }
}

/// A kernel thread that can be joined. Dropping the handle leaves the thread running.
pub struct KernelThread {
    pub(super) shared: Arc<Join>,
}

impl KernelThread {
    /// Whether its function has returned.
    pub fn ended(&self) -> bool {
        self.shared.ended.load(Ordering::Acquire)
    }

    /// Sleeps until the thread's function has returned.
    pub fn join(self) {
        while !self.ended() {
            self.shared.waiters.wait_until(|| self.ended(), None, Interruptible::No);
        }
    }
}
