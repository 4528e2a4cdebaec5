//! Time: the tick, time slices, and what the one-shot timer is set to.
//!
//! While a thread runs, its CPU ticks every [`TICK_NS`]: sleepers wake, RCU advances, and a program's thread that has
//! had its slice gives way if another one waits. Only user code is interrupted for good: a thread in the kernel finds
//! `need_resched` when it is about to return to user mode. An idle CPU ticks only while RCU callbacks wait for a
//! grace period; else its timer is set to its first sleeper's deadline, or off.

use core::cell::Cell;

use abi::MAX_CPUS;
#[cfg(debug_assertions)]
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering;
use sync::{CpuId, Platform};

use super::switch::is_idle;
#[cfg(debug_assertions)]
use super::watchdog;
use super::{runqueue, sleep};
use crate::arch::percpu::{self, Cpu};
use crate::arch::{cpu, timer};
use crate::memory::memory;
use crate::platform::Machine;

/// Between two ticks of a CPU that runs a thread.
pub(super) const TICK_NS: u64 = 4_000_000;

/// Ticks in user mode after which a thread gives way to one that waits.
const SLICE_TICKS: u32 = 2;

/// One CPU's clockwork, used by that CPU only, with interrupts off.
#[repr(align(128))]
struct Clock {
    /// What the timer is set to; `u64::MAX`: off.
    armed_ns: Cell<u64>,
    /// Ticks that found a thread running here since the last one that found no other waiting.
    ticks: Cell<u32>,
}

struct Clocks([Clock; MAX_CPUS]);

// SAFETY: each CPU uses its own element only, with interrupts off.
unsafe impl Sync for Clocks {}

static CLOCKS: Clocks = Clocks([const { Clock { armed_ns: Cell::new(u64::MAX), ticks: Cell::new(0) } }; MAX_CPUS]);

fn clock() -> &'static Clock {
    debug_assert_eq!(cpu::interrupt_state(), sync::InterruptState::Off);
    &CLOCKS.0[percpu::id().index()]
}

fn set(clock: &Clock, deadline_ns: u64) {
    clock.armed_ns.set(deadline_ns);
    if deadline_ns == u64::MAX { timer::disarm() } else { timer::arm(deadline_ns) }
}

/// Makes sure that this CPU's timer fires no later than `deadline_ns`. Interrupts are off.
pub(super) fn arm_before(deadline_ns: u64) {
    let clock = clock();
    if deadline_ns < clock.armed_ns.get() {
        set(clock, deadline_ns);
    }
}

/// This CPU begins to run threads: it ticks from now on. Interrupts are off.
pub(super) fn begin() {
    clock().ticks.set(0);
    arm_before(Machine::now_ns() + TICK_NS);
}

/// This CPU is about to halt: the timer is set to what it has to wake up for. Interrupts are off.
pub(super) fn begin_idle() {
    let clock = clock();
    let sleeper = sleep::first_deadline(percpu::id()).unwrap_or(u64::MAX);
    let rcu = if memory().rcu.pending() { Machine::now_ns() + TICK_NS } else { u64::MAX };
    // What is armed for an earlier time stays: one interrupt too many in a halt costs less than a write to the timer at
    // each.
    let wanted = sleeper.min(rcu).min(watch_ns(percpu::id()));
    if wanted < clock.armed_ns.get() {
        set(clock, wanted);
    }
}

/// When `cpu`, which is idle, has to look for waits that last too long.
fn watch_ns(cpu: CpuId) -> u64 {
    // One is enough. With none, a deadlock of all threads would go unseen.
    #[cfg(debug_assertions)]
    if cpu == CpuId(0) {
        return Machine::now_ns() + watchdog::period_ns();
    }
    let _ = cpu;
    u64::MAX
}

/// See [`set_visitor`].
#[cfg(debug_assertions)]
static VISITOR: AtomicPtr<fn()> = AtomicPtr::new(core::ptr::null_mut());

/// Ticks and nudges that find a thread running call `visitor` from now on, interrupts off: for guest tests of what happens in
/// interrupts. `None`: nobody.
#[cfg(debug_assertions)]
pub fn set_visitor(visitor: Option<&'static fn()>) {
    let pointer = visitor.map_or(core::ptr::null_mut(), |visitor| core::ptr::from_ref(visitor).cast_mut());
    VISITOR.store(pointer, Ordering::Release);
}

#[cfg(debug_assertions)]
fn visit() {
    // SAFETY: null, or from a shared reference that lives for ever.
    if let Some(visitor) = unsafe { VISITOR.load(Ordering::Acquire).as_ref() } {
        visitor();
    }
}

/// What an interrupt interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// A program: the CPU is in no read section.
    User,
    /// The kernel.
    Kernel,
}

/// The timer has fired. Interrupts are off.
pub fn on_tick(interrupted: Interrupted) {
    let cpu = percpu::id();
    let clock = clock();
    clock.armed_ns.set(u64::MAX);
    let now_ns = Machine::now_ns();
    let woken = sleep::expire(cpu, now_ns);
    #[cfg(debug_assertions)]
    watchdog::look(now_ns);
    if is_idle() {
        // The idle loop does the rest when this interrupt has ended its halt.
        return;
    }
    #[cfg(debug_assertions)]
    {
        crate::plant::in_interrupt();
        visit();
    }
    let rcu = &memory().rcu;
    if interrupted == Interrupted::User {
        rcu.quiescent();
    }
    rcu.poll();
    if runqueue::waiting(cpu) == 0 {
        clock.ticks.set(0);
    } else {
        clock.ticks.set(clock.ticks.get() + 1);
        // Who slept with a deadline does not wait for the end of somebody else's slice.
        if woken > 0 || clock.ticks.get() >= SLICE_TICKS {
            clock.ticks.set(0);
            Cpu::current().need_resched.store(true, Ordering::Relaxed);
        }
    }
    let sleeper = sleep::first_deadline(cpu).unwrap_or(u64::MAX);
    set(clock, sleeper.min(now_ns + TICK_NS));
}

/// Another CPU asked this one to look up: for a thread to run, or for a quiescent state. Interrupts are off.
pub fn on_nudge(interrupted: Interrupted) {
    #[cfg(debug_assertions)]
    crate::plant::in_nudge();
    if is_idle() {
        return;
    }
    #[cfg(debug_assertions)]
    visit();
    match interrupted {
        Interrupted::User => memory().rcu.quiescent(),
        // It may be in a read section: report at the return to user mode, or at the next switch.
        Interrupted::Kernel => Cpu::current().need_resched.store(true, Ordering::Relaxed),
    }
}
