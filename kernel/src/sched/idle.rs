//! The idle loop: what a CPU does when no thread wants it.
//!
//! An idle CPU has left its address space (`switch::schedule` loaded the kernel's tables to come here), takes no part
//! in grace periods while it halts, and ticks only while it has RCU callbacks of its own.
//!
//! ## Where time is counted in instructions
//! When the last CPU halts, QEMU's main loop moves the clock on to the next timer. It looks at the CPUs without stopping
//! them, so a halt that it sees before its instructions have been counted adds them twice: how often, only the host's
//! scheduler knows. A run that must be the same each time therefore never halts its last CPU: the boot CPU spins
//! ([`Idle::Spin`]), and time moves by its instructions alone.

use core::hint;

use abi::fw_cfg::{IDLE, IDLE_SPIN};
use sync::{CpuId, Platform};
use x86_64::instructions::interrupts;

use super::switch::run_from_idle;
use super::{runqueue, tick};
use crate::fw_cfg;
use crate::memory::memory;
use crate::platform::Machine;

/// How a CPU waits for an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    /// It halts.
    Halt,
    /// It looks again and again.
    Spin,
}

/// Rounds that a spinning CPU wastes between two looks while all others halt too: about as many microseconds as QEMU needs
/// for the rest of the idle loop, so that waiting costs the host little more than the time that it stands for.
const SPIN_ROUNDS: u32 = 1000;

impl Idle {
    /// What the launcher asks of this CPU.
    fn asked_of(cpu: CpuId) -> Idle {
        // The others may halt as they like: one that never does is enough.
        let asked = cpu == CpuId(0) && fw_cfg::read_small(IDLE, &mut [0; 8]) == Some(IDLE_SPIN.as_bytes());
        if asked { Idle::Spin } else { Idle::Halt }
    }

    /// Waits, with interrupts on, for one to come; may return without. Interrupts are off before and after.
    fn wait(self) {
        match self {
            // Interrupts have been off since before the look for work: one that came since is pending, and ends the halt
            // at once.
            Idle::Halt => interrupts::enable_and_hlt(),
            Idle::Spin => {
                interrupts::enable();
                if runqueue::all_idle() {
                    for round in 0..SPIN_ROUNDS {
                        hint::black_box(round);
                    }
                }
                // QEMU lets the next CPU run here.
                hint::spin_loop();
            }
        }
        interrupts::disable();
    }
}

/// The end of every CPU's boot story: from here on it runs threads.
pub fn enter_idle() -> ! {
    let rcu = &memory().rcu;
    let cpu = Machine::cpu();
    let idle = Idle::asked_of(cpu);
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
        idle.wait();
        rcu.idle_exit();
        runqueue::leave_idle(cpu);
    }
}
