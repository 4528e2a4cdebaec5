//! Threads of programs: what happens when one traps, on its way back to user mode, and at its end.
//!
//! `arch::trap` and `arch::syscall` call in here; `linux` decides what a call or a fault means. A thread that was
//! told to die finds that out in [`before_user_return`], the one gate through which every thread passes on its way to
//! user mode, and ends there.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering, fence};

use abi::Counter;
use abi::event::Kind;
use abi::flags::signal::{SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
use linux::{Control, UserFault, UserRegs};
use mm::{Access, AddressSpace};
use sync::{Arc, Platform, order};
use x86_64::instructions::interrupts;

use super::switch::{self, Leaving, current, schedule};
use super::thread::Thread;
use super::{runqueue, spawn};
use crate::arch::frame::TrapFrame;
use crate::arch::percpu::Cpu;
use crate::arch::{cpu, fault, user};
use crate::event::event;
use crate::memory::memory;
use crate::platform::Machine;

/// The scheduler's part of a `linux::Thread`: its kernel thread, while there is one.
pub struct Task {
    /// Read in RCU read sections: the kernel thread's memory outlives its removal from here by a grace period.
    thread: AtomicPtr<Thread>,
    /// How long it has run, but for its present turn. Written by the CPU that switches.
    ran_ns: AtomicU64,
    /// When its present turn began; 0: it does not run. Written like `ran_ns`.
    since_ns: AtomicU64,
}

impl Default for Task {
    fn default() -> Task {
        let thread = AtomicPtr::new(core::ptr::null_mut());
        Task { thread, ran_ns: AtomicU64::new(0), since_ns: AtomicU64::new(0) }
    }
}

impl Task {
    /// Release: who finds the thread sees all of it.
    pub(super) fn set(&self, thread: NonNull<Thread>) {
        self.thread.store(thread.as_ptr(), Ordering::Release);
        // Between this store and the spawner's look at `killed`; the other half stands in `with`.
        fence(Ordering::SeqCst);
    }

    /// Before the kernel thread's end. Nothing is published.
    pub(super) fn clear(&self) {
        self.thread.store(core::ptr::null_mut(), Ordering::Relaxed);
    }

    /// Its turn begins.
    pub(super) fn turn_begins(&self, now_ns: u64) {
        self.since_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Its turn ends.
    pub(super) fn turn_ends(&self, now_ns: u64) {
        let turn = now_ns.saturating_sub(self.since_ns.load(Ordering::Relaxed));
        self.ran_ns.store(self.ran_ns.load(Ordering::Relaxed) + turn, Ordering::Relaxed);
        // Release: who sees the turn over also sees it added (`cpu_time_ns`).
        self.since_ns.store(0, Ordering::Release);
    }

    /// How long it has run, in user mode and in the kernel.
    pub(crate) fn cpu_time_ns(&self) -> u64 {
        loop {
            let ran = self.ran_ns.load(Ordering::Acquire);
            let since = self.since_ns.load(Ordering::Acquire);
            // Unchanged: the turn that `since` belongs to, or its end, is not in `ran` twice or never.
            if self.ran_ns.load(Ordering::Relaxed) == ran {
                return ran + if since == 0 { 0 } else { Machine::now_ns().saturating_sub(since) };
            }
        }
    }

    /// Calls `f` with the kernel thread, if there is one.
    fn with<T>(&self, f: impl FnOnce(&Thread) -> T) -> Option<T> {
        let _guard = memory().rcu.read();
        // Between the caller's setting of `killed` and this look: either we see the thread, or its spawner sees it
        // killed.
        fence(Ordering::SeqCst);
        let thread = self.thread.load(Ordering::Acquire);
        // SAFETY: null, or a thread whose memory RCU keeps while `_guard` lives (`spawn::reap`).
        unsafe { thread.as_ref() }.map(f)
    }
}

/// The program's thread that runs the caller. `None` on kernel threads.
pub(crate) fn current_user<'a>() -> Option<&'a Arc<linux::Thread<Machine>>> {
    // SAFETY: the running thread asks for its own; it takes it out only when it no longer serves calls or traps.
    unsafe { current().user() }.map(|user| &user.thread)
}

fn running_user<'a>() -> &'a Arc<linux::Thread<Machine>> {
    current_user().expect("a trap out of user mode on a kernel thread")
}

/// First code of a new thread of a program, interrupts off: into user mode.
pub(super) fn begin(mut regs: UserRegs) -> ! {
    sanitize(&mut regs);
    before_return();
    // SAFETY: `before_return` leaves interrupts off, and this thread's address space, registers and kernel stack are
    // loaded; `regs` is sane, on this stack, and all that is needed of it.
    unsafe { user::enter(&regs) }
}

/// Makes `regs` fit for user mode, or tells the thread to die: before [`before_return`], which ends it.
fn sanitize(regs: &mut UserRegs) {
    if let Err(user::NotUserCode) = user::sanitize(regs) {
        // What the program would get for jumping there itself.
        let what = "general protection fault";
        if let Some(report) = linux::user_exception(running_user(), SIGSEGV, what, regs.rip) {
            log(&report);
        }
    }
}

/// One system call, with interrupts on: called by `arch::syscall` with the caller's registers, which it then restores.
/// Returns with interrupts off, ready for user mode.
pub(crate) fn run_call(regs: &mut UserRegs) {
    memory().counters.bump(Counter::Call);
    let report = &current().report;
    report.call.store(core::ptr::from_ref(regs).addr() as u64, Ordering::Relaxed);
    let number = regs.rax;
    event(Kind::CallEnter, number, regs.rdi);
    match linux::call(running_user(), regs) {
        Control::Return => {}
        Control::ExitThread => end(),
    }
    event(Kind::CallExit, number, regs.rax);
    report.call.store(0, Ordering::Relaxed);
    sanitize(regs);
    interrupts::disable();
    before_return();
}

/// A page fault of user code, with interrupts off. The thread is told to die if it cannot be served.
pub fn page_fault(frame: &mut TrapFrame, address: u64, access: Access) {
    #[cfg(debug_assertions)]
    crate::plant::in_fault();
    match linux::user_fault(running_user(), address, access, frame.rip) {
        UserFault::Served => {}
        // The thread is marked: `before_user_return` ends it.
        UserFault::Kill(report) => report.iter().for_each(log),
    }
    interrupts::disable();
}

/// A fault of `uaccess` at a user address, with interrupts off. `true`: try again.
pub fn user_access_fault(address: u64, access: Access) -> bool {
    let Some(space) = current().space.get() else { return false };
    // SAFETY: alive while the thread runs in it.
    let served = unsafe { space.as_ref() }.fault(address, access).is_ok();
    interrupts::disable();
    served
}

/// Runs `f` on the calling kernel thread inside `space`, whose user half `uaccess` then reaches. `f` may sleep and
/// change CPUs.
pub fn with_space<T>(space: &AddressSpace<Machine>, f: impl FnOnce() -> T) -> T {
    debug_assert!(current_user().is_none(), "a program's thread has its own address space");
    // SAFETY: borrowed until the return, before which the thread leaves it.
    unsafe { switch::set_space(Some(NonNull::from(space))) };
    let result = f();
    // SAFETY: no space at all.
    unsafe { switch::set_space(None) };
    result
}

/// The gate back to user mode, for traps. Interrupts are off; does not return if the thread was told to die.
pub fn before_user_return(_frame: &mut TrapFrame) {
    before_return();
}

fn before_return() {
    order::nothing_held::<Machine>();
    loop {
        if running_user().killed() {
            interrupts::enable();
            end();
        }
        if !Cpu::current().need_resched.load(Ordering::Relaxed) {
            return;
        }
        // About to run user code: nothing of RCU's is held.
        memory().rcu.quiescent();
        // Clears the flag. The thread may come back much later, and have been told to die meanwhile.
        schedule(Leaving::Runnable);
    }
}

/// Ends the running thread of a program, with interrupts on.
fn end() -> ! {
    linux::thread_exit(running_user());
    spawn::drop_user();
    spawn::exit()
}

/// `System::kill_kick`: makes `thread`, which was told to die, notice.
pub(crate) fn kick(thread: &linux::Thread<Machine>) {
    thread.task.with(|kernel| {
        // If it sleeps, or is about to: it looks at `killed` again. A needless wake-up is allowed.
        // SAFETY: RCU keeps it alive in here, and a thread that has ended is neither PARKED nor PARKING.
        unsafe { super::unpark(kernel.id()) };
        // If it is in user mode: the interrupt brings it to `before_user_return`. Between `killed`, which the caller
        // has set, and this look: either we see the CPU that it was switched to, or it sees itself killed on its way
        // to user mode.
        fence(Ordering::SeqCst);
        runqueue::request_reschedule(kernel.last_cpu());
    });
}

/// `System::set_affinity`: the thread has been given another one.
pub(crate) fn set_affinity(thread: &linux::Thread<Machine>) {
    take_affinity(thread);
    let myself = current_user().is_some_and(|running| core::ptr::eq(&raw const **running, thread));
    if myself {
        return super::obey_affinity();
    }
    thread.task.with(|kernel| {
        let state = cpu::interrupts_disable();
        // It waits in a queue, or it runs (then it moves at its next way through the gate), or it sleeps (then it
        // wakes elsewhere).
        runqueue::move_misplaced(kernel);
        runqueue::request_reschedule(kernel.last_cpu());
        cpu::interrupts_restore(state);
    });
}

/// Gives the scheduler's part of `thread`, if there is one yet, the affinity that was last set for it. Whoever sets one calls
/// this after, and so does whoever makes that part.
pub(super) fn take_affinity(thread: &linux::Thread<Machine>) {
    // A store before and a look after, on both sides: either the maker sees what was set, or the setter sees the part.
    fence(Ordering::SeqCst);
    thread.task.with(|kernel| {
        loop {
            let wanted = thread.affinity();
            kernel.affinity.store(wanted.0, Ordering::Relaxed);
            // Two at a time: whoever stored last looks again after its store, and sees what the other one was given.
            fence(Ordering::SeqCst);
            if thread.affinity() == wanted {
                break;
            }
        }
    });
}

/// The running thread's FS base.
pub(crate) fn fs_base() -> u64 {
    current().fs_base.load(Ordering::Relaxed)
}

/// Sets it, now and for its later turns.
pub(crate) fn set_fs_base(base: u64) {
    let state = cpu::interrupts_disable();
    current().fs_base.store(base, Ordering::Relaxed);
    switch::set_fs_base(base);
    cpu::interrupts_restore(state);
}

/// Any exception of user code but a page fault, with interrupts off: the program's signal.
pub fn user_exception(frame: &mut TrapFrame) {
    // As Linux maps them (arch/x86/kernel/traps.c and signal(7)).
    let signal = match frame.vector {
        0 | 16 | 19 => SIGFPE,
        1 | 3 => SIGTRAP,
        6 => SIGILL,
        11 | 12 | 17 => SIGBUS,
        _ => SIGSEGV,
    };
    if let Some(report) = linux::user_exception(running_user(), signal, fault::name(frame.vector), frame.rip) {
        log(&report);
    }
    interrupts::disable();
}

/// Says in the log how a signal ended a process.
pub(crate) fn log(report: &linux::Report) {
    log::warn!("{report}");
}
