//! Where the lock-order validator (`sync::order`) finds the running context's record, and the list of all contexts.
//!
//! A context is a thread, or a CPU in an interrupt handler. Each thread carries its record; each CPU has one more for its
//! handlers, which always run to their end before the thread goes on. [`Cpu::held`] points to the record in use. All of it
//! is for builds with debug assertions; in others the pointer stays null and nothing else is there.

use core::ptr;
use core::sync::atomic::Ordering;

use abi::MAX_CPUS;
use sync::CpuId;
use sync::order::{self, CHECKED, Context, Held};

use crate::arch::percpu::Cpu;
use crate::platform::Machine;

/// What each CPU's interrupt handlers hold.
static INTERRUPTS: [Held; if CHECKED { MAX_CPUS } else { 0 }] =
    [const { Held::new(Context::Interrupt) }; if CHECKED { MAX_CPUS } else { 0 }];

/// [`sync::Platform::with_held`].
#[inline]
pub fn with_held<R>(f: impl FnOnce(&Held) -> R) -> Option<R> {
    if !CHECKED {
        return None;
    }
    let held = Cpu::current().held.load(Ordering::Relaxed);
    // SAFETY: null, or the record of the thread that runs here, or of this CPU's handlers: alive while they run. An
    // interrupt in between puts the pointer back before it returns.
    unsafe { held.as_ref() }.map(f)
}

/// The thread with the record `held` runs here from now on. Interrupts are off.
#[cfg(debug_assertions)]
pub(super) fn switch_to(held: &Held) {
    Cpu::current().held.store(ptr::from_ref(held).cast_mut(), Ordering::Relaxed);
}

/// This CPU checks no more: it is about to say why the kernel dies.
pub(crate) fn stop_checking() {
    Cpu::current().held.store(ptr::null_mut(), Ordering::Relaxed);
}

/// What `cpu`'s interrupt handlers hold.
pub(super) fn of_interrupts(cpu: CpuId) -> Option<&'static Held> {
    INTERRUPTS.get(cpu.index())
}

/// Tells reports where the record of `cpu`'s interrupt handlers lies.
#[cfg(debug_assertions)]
pub(super) fn publish(cpu: CpuId) {
    let address = of_interrupts(cpu).map_or(0, |held| ptr::from_ref(held.stack()).addr());
    crate::report::cpu(cpu).interrupt_locks.store(address as u64, Ordering::Relaxed);
}

/// An interrupt handler runs while this lives.
#[must_use]
pub struct InInterrupt {
    before: *mut Held,
}

impl InInterrupt {
    /// It begins. Interrupts are off.
    #[inline]
    pub fn enter() -> InInterrupt {
        if !CHECKED {
            return InInterrupt { before: ptr::null_mut() };
        }
        let cpu = Cpu::current();
        let before = cpu.held.load(Ordering::Relaxed);
        // Before the first thread, nothing is checked.
        if let (false, Some(held)) = (before.is_null(), of_interrupts(cpu.id())) {
            cpu.held.store(ptr::from_ref(held).cast_mut(), Ordering::Relaxed);
        }
        InInterrupt { before }
    }
}

impl Drop for InInterrupt {
    #[inline]
    fn drop(&mut self) {
        if CHECKED {
            order::nothing_held::<Machine>();
            Cpu::current().held.store(self.before, Ordering::Relaxed);
        }
    }
}
