//! The scheduler: threads, the CPUs they run on, sleeping and waking.
//!
//! The kernel is **not preemptible**: a thread in the kernel keeps its CPU until it parks, yields or returns to user
//! mode. So "the running CPU" is stable between two sleeps, per-CPU data need only interrupts off, and an RCU read
//! section is any stretch without a park. User code is preempted by the tick.
//!
//! | module | what it owns |
//! |---|---|
//! | [`thread`] | the thread structure and its sleep/wake word |
//! | [`runqueue`] | runnable threads of each CPU; where a woken thread goes; idle CPUs |
//! | [`switch`] | choosing and switching; address space and extended registers with it |
//! | [`sleep`] | sleepers with a deadline |
//! | [`tick`] | the timer: time slices, RCU's ticks |
//! | [`idle`] | what a CPU does without work |
//! | [`spawn`] | birth and end of threads |
//! | [`join`] | waiting for a kernel thread's end |
//! | [`held`] | the running context's record for the lock-order validator |
//! | `contexts`, `watchdog` | in debug builds: all contexts, and who waits too long |
//! | [`user`] | traps out of a program, the way back into it, its end |
//!
//! Lock order: `abi::lock::Class`. A sleep list before a run queue; both spin, with interrupts off.

#[cfg(debug_assertions)]
mod contexts;
mod held;
mod idle;
mod join;
mod runqueue;
mod sleep;
mod spawn;
mod switch;
mod thread;
mod tick;
mod user;
#[cfg(debug_assertions)]
pub mod watchdog;

use core::ptr::NonNull;
use core::sync::atomic::Ordering::Relaxed;

use abi::event::Kind;
use sync::park::{BeginPark, Enqueue};
use sync::{CpuSet, ThreadId, TransactionEdge, order, point};

use crate::arch::percpu::Cpu;
use crate::arch::{cpu, percpu};
use crate::event::event;
use crate::platform::Machine;
use switch::{Leaving, current, schedule};
use thread::Thread;

pub use held::{InInterrupt, with_held};
pub use idle::enter_idle;
pub use join::KernelThread;
pub use spawn::{init_cpu, spawn_kernel};
#[cfg(debug_assertions)]
pub use tick::set_visitor;
pub use tick::{Interrupted, on_nudge, on_tick};
pub use user::{before_user_return, page_fault, user_access_fault, user_exception, with_space};

pub(crate) use held::stop_checking;
pub(crate) use runqueue::online;
pub(crate) use spawn::{spawn_user, wait_all_reaped};
pub(crate) use user::{Task, current_user, fs_base, kick, log, run_call, set_affinity, set_fs_base};

/// The running thread's id. Not for interrupt handlers: there it is whoever was interrupted.
pub fn current_id() -> ThreadId {
    current().id()
}

/// Whether the running thread was told to die: interruptible sleeps then end early.
pub fn interrupted() -> bool {
    current_user().is_some_and(|thread| thread.killed())
}

/// [`sync::Platform::transaction`]: notes that the running thread has opened or ended one.
pub fn transaction(edge: TransactionEdge) {
    let report = &current().report;
    let (mark, space) = match edge {
        TransactionEdge::Opened { mark, space } => (mark, space),
        TransactionEdge::Ended => (0, 0),
    };
    report.space.store(space, Relaxed);
    report.transaction.store(mark, Relaxed);
    #[cfg(debug_assertions)]
    if mark != 0 && current().number() != 0 {
        crate::plant::in_transaction();
    }
}

/// [`sync::Platform::park`]: sleeps until an unpark or the deadline.
///
/// # Panics
/// In debug builds, with interrupts off or in an RCU read section.
pub fn park(deadline_ns: Option<u64>) {
    debug_assert_eq!(cpu::interrupt_state(), sync::InterruptState::On, "park with interrupts off");
    order::may_sleep::<Machine>();
    let this = current();
    let state = cpu::interrupts_disable();
    if this.parking.begin_park() == BeginPark::Sleep {
        if let Some(deadline_ns) = deadline_ns {
            // Interrupts are off, so the deadline cannot pass on this CPU before the switch: no wake-up is lost even
            // if it has passed already.
            sleep::add(this, percpu::id(), deadline_ns);
            tick::arm_before(deadline_ns);
        }
        event(Kind::Park, deadline_ns.unwrap_or(u64::MAX), 0);
        schedule(Leaving::Parking);
        if deadline_ns.is_some() {
            sleep::remove(this);
        }
        this.parking.consume();
    }
    cpu::interrupts_restore(state);
}

/// [`sync::Platform::unpark`]: wakes a thread, or makes its next park return at once.
///
/// # Safety
/// The thread has not ended.
pub unsafe fn unpark(thread: ThreadId) {
    // SAFETY: it lives, says the caller.
    let thread = unsafe { Thread::from_id(thread) };
    point!(Machine, "park-notifying");
    if thread.parking.notify() == Enqueue::Caller {
        event(Kind::Unpark, thread.number(), 0);
        let state = cpu::interrupts_disable();
        runqueue::enqueue(NonNull::from(thread));
        cpu::interrupts_restore(state);
    }
}

/// Lets the other threads that wait for this CPU run first.
pub fn yield_now() {
    let state = cpu::interrupts_disable();
    schedule(Leaving::Runnable);
    cpu::interrupts_restore(state);
}

/// Moves the calling kernel thread to one of `cpus`; returns on one of them.
pub fn move_to(cpus: CpuSet) {
    current().affinity.store(cpus.0, Relaxed);
    obey_affinity();
}

/// Brings the calling thread to a CPU of its affinity, which other threads of its program may change meanwhile.
fn obey_affinity() {
    let this = current();
    let state = cpu::interrupts_disable();
    while !this.affinity().contains(Cpu::current().id()) {
        schedule(Leaving::Runnable);
    }
    cpu::interrupts_restore(state);
}

/// Runs `f` once on each of `cpus`, by going there, and comes back to where the calling kernel thread may run.
pub fn visit(cpus: CpuSet, f: impl Fn()) {
    let home = current().affinity();
    for cpu in cpus.iter() {
        move_to(cpu.bit());
        f();
    }
    move_to(home);
}

/// The name of the running thread, for reports; callable in any context once a thread runs here.
pub fn current_name() -> Option<&'static str> {
    let thread = Cpu::current().current_thread.load(Relaxed) as *const Thread;
    // SAFETY: null, or the thread that runs here, which is alive.
    unsafe { thread.as_ref() }.map(|thread| thread.name)
}
