//! Taking turns: an emulated machine with several CPUs takes all that the host has, so only few run at a time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Machines that run now.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// The right to run one machine; given back when dropped.
#[derive(Debug)]
pub struct Turn(());

/// Waits for a turn: one machine for every two of the host's CPUs, and at least one.
pub fn take() -> Turn {
    let limit = (std::thread::available_parallelism().map_or(1, usize::from) / 2).clamp(1, 4);
    let mut running = running();
    while *running >= limit {
        running = ENDED.wait(running).unwrap_or_else(PoisonError::into_inner);
    }
    *running += 1;
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        *running() -= 1;
        ENDED.notify_one();
    }
}

fn running() -> MutexGuard<'static, usize> {
    // A test that panicked while it held the lock left a plain number behind.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
