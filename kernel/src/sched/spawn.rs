//! Birth and end of threads.
//!
//! A thread is made in three allocations that may fail (stack, structure, and for a program's thread the area of its
//! extended registers) and then put into a run queue, which cannot. It ends on its own stack in [`exit`]: the last
//! switch hands it to [`reap`], which runs on the stack of whatever comes next, gives the stack back, and leaves the
//! structure to RCU: `System::kill_kick` may still be looking at it.

use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::Errno;
use sync::alloc::try_box;
use sync::{Arc, CpuId, CpuSet, Interruptible, Platform, RcuHead, WaitQueue, order, point};
use x86_64::instructions::interrupts;

use super::join::{Join, KernelThread};
use super::switch::{Leaving, adopt, current, first_step, schedule, set_space};
use super::thread::{Start, Thread, User};
#[cfg(debug_assertions)]
use super::{contexts, held};
use super::{runqueue, user};
use crate::arch::context::Context;
use crate::arch::fpu::XsaveArea;
use crate::arch::{cpu, syscall};
use crate::memory::memory;
use crate::platform::Machine;
use crate::stack::Stack;
use crate::start_delay;

/// Threads that have been spawned and not yet reaped.
static LIVING: AtomicUsize = AtomicUsize::new(0);

/// Who waits to be the only one in [`LIVING`].
static ONE_LIVING: WaitQueue<Machine> = WaitQueue::new();

/// Makes the running boot context of this CPU its idle thread. Once a CPU, interrupts off, heap and GS in use.
///
/// # Panics
/// Without memory: at boot there is no one to give an error to.
pub fn init_cpu(cpu: CpuId) {
    let thread = Thread::new("idle", cpu.bit(), Start::Adopted, None);
    let boxed = try_box(thread).expect("memory for an idle thread");
    let thread: &'static Thread = alloc::boxed::Box::leak(boxed);
    thread.cpu.store(cpu.0, Ordering::Relaxed);
    adopt(NonNull::from(thread));
    #[cfg(debug_assertions)]
    {
        contexts::add(NonNull::from(thread));
        held::publish(cpu);
    }
    // A CPU that takes programs' threads takes their calls.
    syscall::init_cpu();
    memory().rcu.online(cpu);
    runqueue::set_online(cpu);
}

/// Starts a kernel thread on one of `affinity`'s CPUs that calls `function(argument)` and ends when it returns.
///
/// # Errors
/// `ENOMEM`.
pub fn spawn_kernel(
    name: &'static str,
    affinity: CpuSet,
    function: fn(u64),
    argument: u64,
) -> Result<KernelThread, Errno> {
    let shared = Arc::try_new(Join::new())?;
    let mut thread = Thread::new(name, affinity, Start::Kernel(function, argument), None);
    thread.join = UnsafeCell::new(Some(shared.clone()));
    runqueue::enqueue(make(thread)?);
    Ok(KernelThread { shared })
}

/// Starts a thread of a program: it enters user mode with `regs`.
///
/// # Errors
/// `ENOMEM`; then `thread` is dropped and nothing has started.
pub(crate) fn spawn_user(thread: Arc<linux::Thread<Machine>>, regs: &linux::UserRegs) -> Result<(), Errno> {
    let mut extended = XsaveArea::try_new()?;
    // A new thread begins with its maker's extended registers, as after Linux's clone(2). They are still in the CPU:
    // the kernel has not touched them since the call. The first thread of a program begins with the architecture's
    // initial state.
    let state = cpu::interrupts_disable();
    // SAFETY: the running thread, interrupts off.
    if unsafe { current().user() }.is_some() {
        extended.save();
    }
    cpu::interrupts_restore(state);
    let affinity = thread.affinity();
    let shared = thread.clone();
    let made = make(Thread::new("user", affinity, Start::User(*regs), Some(User::new(thread, extended))))?;
    // Before it can run, end and take the pointer away again.
    shared.task.set(made);
    // Another thread may have set the affinity before there was a thread of ours to tell.
    user::take_affinity(&shared);
    runqueue::enqueue(made);
    // Killed before the pointer was there to be kicked: `kill` sets its flag first, `set` comes before this look.
    if shared.killed() {
        user::kick(&shared);
    }
    Ok(())
}

/// Gives `thread` a stack, a first context and a place in the heap.
fn make(mut thread: Thread) -> Result<NonNull<Thread>, Errno> {
    let stack = Stack::try_new()?;
    // SAFETY: the stack is new and nobody else's.
    thread.context = UnsafeCell::new(unsafe { Context::new(stack.top(), first_step) });
    thread.stack = UnsafeCell::new(Some(stack));
    // The idle CPUs all look alike to a thread that has never run; spread them from here.
    thread.cpu.store(current().last_cpu().0, Ordering::Relaxed);
    let made = NonNull::from(alloc::boxed::Box::leak(try_box(thread)?));
    #[cfg(debug_assertions)]
    contexts::add(made);
    LIVING.fetch_add(1, Ordering::Relaxed);
    Ok(made)
}

/// What a new thread does, on its own stack with interrupts off.
pub(super) fn begin() -> ! {
    let this = current();
    // SAFETY: written before the thread was enqueued, read by the thread alone.
    match unsafe { *this.start.get() } {
        Start::Kernel(function, argument) => {
            interrupts::enable();
            start_delay::thread();
            function(argument);
            exit()
        }
        Start::User(regs) => {
            interrupts::enable();
            start_delay::thread();
            interrupts::disable();
            user::begin(regs)
        }
        Start::Adopted => unreachable!("an idle thread was running when it was made"),
    }
}

/// Ends the calling thread. What it owns elsewhere it has given back before.
pub(super) fn exit() -> ! {
    let this = current();
    // SAFETY: the thread's own; taken, so that a joiner may free the rest as soon as it wakes.
    if let Some(join) = unsafe { (*this.join.get()).take() } {
        join.end();
    }
    let _ = cpu::interrupts_disable();
    order::nothing_held::<Machine>();
    point!(Machine, "thread-ending");
    schedule(Leaving::Ended);
    unreachable!("an ended thread ran again")
}

/// Takes the program's thread out of the running kernel thread, off its address space, and drops it.
pub(super) fn drop_user() {
    let this = current();
    // SAFETY: no space at all.
    unsafe { set_space(None) };
    let state = cpu::interrupts_disable();
    // SAFETY: the thread's own, and interrupts are off, so this CPU does not switch meanwhile.
    let user = unsafe { (*this.user.get()).take() };
    cpu::interrupts_restore(state);
    if let Some(user) = &user {
        user.thread.task.turn_ends(Machine::now_ns());
        user.thread.task.clear();
    }
    // With interrupts on: this may be the last reference to the process and its tables.
    drop(user);
}

/// Frees what is left of an ended thread, from the stack of the next one, interrupts off.
pub(super) fn reap(thread: NonNull<Thread>) {
    point!(Machine, "thread-reaping");
    // SAFETY: this CPU has left its stack, and an ended thread is in no queue: it is ours.
    let this = unsafe { thread.as_ref() };
    // SAFETY: as above.
    drop(unsafe { (*this.stack.get()).take() });
    #[cfg(debug_assertions)]
    contexts::remove(thread);
    let head = NonNull::from(&this.rcu).cast::<RcuHead>();
    // SAFETY: no new pointer to the thread can be made (`Task::clear`, joined); `free` fits the head; one use of the
    // head.
    unsafe { memory().rcu.defer(head, free) };
    // Release: whoever sees the count sees the stack given back.
    if LIVING.fetch_sub(1, Ordering::Release) == 2 {
        ONE_LIVING.wake_all();
    }
}

/// The RCU callback of [`reap`].
///
/// # Safety
/// `head` is the `rcu` field of a thread from `make`, with no user left.
unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: the field lies at this offset in its thread.
    let thread = unsafe { head.cast::<u8>().sub(offset_of!(Thread, rcu)) }.cast::<Thread>();
    // SAFETY: `make` leaked it from a box; after the grace period it has no user left.
    drop(unsafe { alloc::boxed::Box::from_raw(thread.as_ptr()) });
}

/// Sleeps until every thread but the caller, a kernel thread, has been reaped.
pub(crate) fn wait_all_reaped() {
    // Acquire pairs with `reap`.
    ONE_LIVING.wait_until(|| LIVING.load(Ordering::Acquire) == 1, None, Interruptible::No);
}
