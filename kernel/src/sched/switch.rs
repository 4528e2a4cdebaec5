//! Switching threads: who runs next on this CPU, what goes with it, and what becomes of the thread that leaves.
//!
//! [`schedule`] runs on the leaving thread's stack up to `context::switch`; [`finish_switch`] is the first thing on
//! the next thread's. Interrupts are off from before the one until after the other. A leaving thread is handed on (to
//! a run queue, to its unparker, to the reaper) only by `finish_switch`, when nothing uses its stack any more: that
//! is why no other CPU ever has to ask whether a thread is "still running somewhere".
//!
//! ## Address spaces
//! A CPU's MMU walks the tables of the running thread's process, or the kernel's own when that is not a thread of a
//! program; idle CPUs and kernel threads leave at once, so that no shootdown or settling writer ever asks them. To
//! enter: join (own mask bit, full fence), then load CR3, then leave the old one (Release): at each moment the mask
//! holds every CPU that may hold a translation.
//!
//! ## Extended registers
//! The kernel uses none, so they are the program's from one switch to the next: saved eagerly when a thread of a
//! program leaves, restored when it comes back, with its FS base.

use core::cell::Cell;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use abi::event::Kind;
use abi::{Counter, MAX_CPUS};
use mm::AddressSpace;
use sync::park::Enqueue;
use sync::{Platform, order, point};
use x86_64::VirtAddr;
use x86_64::registers::model_specific::FsBase;

#[cfg(debug_assertions)]
use super::held;
use super::thread::Thread;
use super::{runqueue, spawn, tick};
use crate::arch::context;
use crate::arch::percpu::{self, Cpu};
use crate::arch::{cpu, gdt, paging};
use crate::event::event;
use crate::memory::memory;
use crate::platform::Machine;

/// What becomes of the thread that leaves the CPU.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It could go on: to a run queue.
    Runnable,
    /// It is PARKING: its unparker will enqueue it, or has tried to already.
    Parking,
    /// Its life is over: to the reaper.
    Ended,
    /// It is this CPU's idle thread, which runs when nothing else does.
    Idle,
}

/// The scheduler's data of one CPU, used by that CPU only, with interrupts off.
#[repr(align(128))]
struct Local {
    idle: Cell<Option<NonNull<Thread>>>,
    /// The thread that this CPU is switching away from.
    leaving: Cell<Option<(NonNull<Thread>, Leaving)>>,
    /// The address space that the MMU walks; `None`: the kernel's own tables. Alive because the running thread's
    /// process is.
    space: Cell<Option<NonNull<AddressSpace<Machine>>>>,
}

struct Locals([Local; MAX_CPUS]);

// SAFETY: each CPU uses its own element only, with interrupts off (`local`).
unsafe impl Sync for Locals {}

static LOCALS: Locals =
    Locals([const { Local { idle: Cell::new(None), leaving: Cell::new(None), space: Cell::new(None) } }; MAX_CPUS]);

/// This CPU's element. Interrupts are off, so the caller stays here.
fn local() -> &'static Local {
    debug_assert_eq!(cpu::interrupt_state(), sync::InterruptState::Off, "scheduler data with interrupts on");
    &LOCALS.0[percpu::id().index()]
}

/// The thread that runs the caller.
pub(super) fn current() -> &'static Thread {
    let thread = Cpu::current().current_thread.load(Ordering::Relaxed) as *const Thread;
    debug_assert!(!thread.is_null(), "no thread on this CPU yet");
    // SAFETY: set by `adopt` and at each switch to the thread that runs here, and that is alive while it runs.
    unsafe { &*thread }
}

/// Makes `thread` the running one: the CPU's boot context becomes its idle thread.
pub(super) fn adopt(thread: NonNull<Thread>) {
    local().idle.set(Some(thread));
    // SAFETY: an idle thread lives for ever.
    set_current(unsafe { thread.as_ref() });
}

/// Says that `thread` runs here, to the kernel and to reports.
fn set_current(thread: &Thread) {
    let cpu = Cpu::current();
    cpu.current_thread.store(core::ptr::from_ref(thread).addr() as u64, Ordering::Relaxed);
    let report = &thread.report;
    cpu.stamp.store(thread.number() << 32 | u64::from(cpu.id().0) << 16, Ordering::Relaxed);
    crate::report::cpu(cpu.id()).thread.store(core::ptr::from_ref(report).addr() as u64, Ordering::Relaxed);
    #[cfg(debug_assertions)]
    held::switch_to(&thread.held);
}

/// Gives the CPU to another thread, if there is one that should have it. Interrupts are off, and off again at the
/// return, which for a thread that leaves may be much later and on another CPU.
pub(super) fn schedule(leaving: Leaving) {
    order::may_sleep::<Machine>();
    let cpu = percpu::id();
    let this = current();
    Cpu::current().need_resched.store(false, Ordering::Relaxed);
    let next = match runqueue::take(cpu) {
        Some(next) => next,
        None => match leaving {
            Leaving::Runnable if this.affinity().contains(cpu) => return,
            _ => local().idle.get().expect("a CPU that schedules has an idle thread"),
        },
    };
    switch_to(this, next, leaving);
}

/// From the idle loop to `thread`, which the caller has taken out of a run queue. Interrupts are off.
pub(super) fn run_from_idle(thread: NonNull<Thread>) {
    switch_to(current(), thread, Leaving::Idle);
}

/// Whether the idle thread runs on this CPU.
pub(super) fn is_idle() -> bool {
    local().idle.get() == Some(NonNull::from(current()))
}

fn switch_to(this: &Thread, next: NonNull<Thread>, leaving: Leaving) {
    let local = local();
    let memory = memory();
    debug_assert!(!memory.rcu.in_reader(), "{} leaves its CPU inside an RCU read section", this.name);
    memory.rcu.quiescent();
    memory.counters.bump(Counter::Switch);

    // SAFETY: `this` runs here, interrupts are off.
    if let Some(user) = unsafe { this.user() } {
        // SAFETY: as above.
        unsafe { user.save_extended() };
        user.thread.task.turn_ends(Machine::now_ns());
    }
    local.leaving.set(Some((NonNull::from(this), leaving)));

    // SAFETY: out of the run queue, or this CPU's idle thread: ours alone, and alive.
    let next = unsafe { next.as_ref() };
    event(Kind::Switch, this.number(), next.number());
    next.cpu.store(percpu::id().0, Ordering::Relaxed);
    // Between this store and the thread's next look at `killed`; the other half stands in `user::kick`.
    fence(Ordering::SeqCst);
    set_current(next);
    match next.space.get() {
        // SAFETY: alive while it stands in a thread that has not ended.
        Some(space) => enter_space(unsafe { space.as_ref() }),
        None => leave_space(),
    }
    // SAFETY: `next` is ours alone, interrupts are off.
    if let Some(user) = unsafe { next.user() } {
        // SAFETY: as above.
        unsafe { user.restore_extended() };
        user.thread.task.turn_begins(Machine::now_ns());
        set_fs_base(next.fs_base.load(Ordering::Relaxed));
        // SAFETY: `next` is ours alone.
        let stack = unsafe { &*next.stack.get() }.as_ref();
        gdt::set_kernel_stack(stack.expect("a thread of a program has a stack").top());
    }
    if leaving == Leaving::Idle {
        tick::begin();
    }
    // SAFETY: `next`'s context was saved before it was handed on, and it is ours alone.
    let load = unsafe { *next.context.get() };
    // SAFETY: interrupts are off; `load` as above; `this` is handed on by `finish_switch`, on the other stack.
    unsafe { context::switch(this.context.get(), load) };
    finish_switch();
}

/// Hands on the thread that this CPU has just left. First thing on the next thread's stack, interrupts still off.
pub(super) fn finish_switch() {
    let Some((thread, leaving)) = local().leaving.take() else { unreachable!("a switch without a thread that leaves") };
    match leaving {
        Leaving::Runnable => runqueue::enqueue(thread),
        Leaving::Parking => {
            point!(Machine, "park-saved");
            // SAFETY: until this compare-and-swap succeeds nobody else may run or end it.
            if unsafe { thread.as_ref() }.parking.end_switch() == Enqueue::Caller {
                runqueue::enqueue(thread);
            }
        }
        Leaving::Ended => spawn::reap(thread),
        Leaving::Idle => {}
    }
}

/// Makes this CPU's MMU walk the tables of `space`. Interrupts are off.
fn enter_space(space: &AddressSpace<Machine>) {
    let local = local();
    let old = local.space.get();
    if old == Some(NonNull::from(space)) {
        return;
    }
    // Own bit and full fence, before any translation of the space can get into this CPU's TLB.
    space.join();
    point!(Machine, "root-loading");
    // SAFETY: a live address space's root has the kernel's upper half; it stays loaded only while it lives
    // (`Local::space`).
    unsafe { cpu::load_root(space.root()) };
    local.space.set(Some(NonNull::from(space)));
    if let Some(old) = old {
        // SAFETY: alive: the thread that leaves still holds its process.
        unsafe { old.as_ref() }.leave();
    }
}

/// Makes this CPU's MMU walk the kernel's own tables. Interrupts are off.
fn leave_space() {
    let Some(old) = local().space.take() else { return };
    // SAFETY: the kernel's own root.
    unsafe { cpu::load_root(paging::kernel_root()) };
    // SAFETY: alive: the thread that leaves still holds its process.
    unsafe { old.as_ref() }.leave();
}

/// Puts the running thread into `space` (`None`: the kernel's own tables) until it says otherwise.
///
/// # Safety
/// The space lives until the thread has left it.
pub(super) unsafe fn set_space(space: Option<NonNull<AddressSpace<Machine>>>) {
    let state = cpu::interrupts_disable();
    current().space.set(space);
    match space {
        // SAFETY: alive, says the caller.
        Some(space) => enter_space(unsafe { space.as_ref() }),
        None => leave_space(),
    }
    cpu::interrupts_restore(state);
}

/// Loads the FS base of user mode.
pub(super) fn set_fs_base(base: u64) {
    // Canonical: `arch_prctl` and `clone` refuse anything else.
    FsBase::write(VirtAddr::new_truncate(base));
}

/// The first code of every thread but the idle ones, called by the first switch to it.
pub(super) extern "C" fn first_step() -> ! {
    finish_switch();
    spawn::begin()
}
