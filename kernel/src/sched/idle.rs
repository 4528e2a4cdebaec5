//! The idle loop: what a CPU does when no thread wants it.
//!
//! An idle CPU has left its address space (`switch::schedule` loaded the kernel's tables to come here), takes no part
//! in grace periods while it halts, and ticks only while it has RCU callbacks of its own.

use sync::Platform;
use x86_64::instructions::interrupts;

use super::switch::run_from_idle;
use super::{runqueue, tick};
use crate::memory::memory;
use crate::platform::Machine;

/// The end of every CPU's boot story: from here on it runs threads.
pub fn enter_idle() -> ! {
    let rcu = &memory().rcu;
    let cpu = Machine::cpu();
    interrupts::disable();
    loop {
        rcu.quiescent();
        rcu.poll();
        // The bit first, then the look into the queues (see `runqueue`).
        runqueue::announce_idle(cpu);
        if let Some(thread) = runqueue::take(cpu) {
            runqueue::leave_idle(cpu);
            // Comes back when there is nothing left to run.
            run_from_idle(thread);
            continue;
        }
        tick::begin_idle();
        rcu.idle_enter();
        // Interrupts have been off since before the look: one that came since is pending, and ends the halt at once.
        interrupts::enable_and_hlt();
        interrupts::disable();
        rcu.idle_exit();
        runqueue::leave_idle(cpu);
    }
}
