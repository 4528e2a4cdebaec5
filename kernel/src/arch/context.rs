//! The context switch: from one kernel stack to another, and the first step of a new thread.
//!
//! Only what the System V calling convention makes the callee keep is saved (rbx, rbp, r12 to r15, rsp): a switch is
//! an ordinary call for the code around it. The caller (`sched`) holds interrupts off from before the switch until
//! `sched::finish_switch` has run on the other side, so nothing sees a CPU between two threads. User registers lie in
//! the trap or call frame at the top of the thread's stack; XSAVE state, `fs` base and address space are
//! `sched::switch_to`'s.

use core::arch::naked_asm;

/// A saved stack pointer: a thread's whole kernel context lies on its stack, at this address.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct Context(u64);

impl Context {
    /// No context: the thread is running, or has none yet.
    pub(crate) const NONE: Context = Context(0);

    /// The context of a thread that has not run yet: its first [`switch`] makes it call `start`, on the empty stack
    /// that ends at `top`.
    ///
    /// # Safety
    /// The 128 bytes below `top` are writable, nobody else uses them, and `top` is a multiple of 16.
    pub(crate) unsafe fn new(top: u64, start: extern "C" fn() -> !) -> Context {
        debug_assert!(top.is_multiple_of(16));
        // From low to high what `switch` pops: r15 r14 r13 r12 rbp rbx, the return address, then a null return address
        // for `start` itself, which ends the walk of a backtrace. `start` begins with rsp = top - 8, as after a call.
        let frame = [0, 0, 0, 0, 0, 0, start as usize as u64, 0];
        let base = top - size_of_val(&frame) as u64;
        // SAFETY: [base, top) is writable and unused, says the caller.
        unsafe { core::ptr::write(base as *mut [u64; 8], frame) };
        Context(base)
    }
}

/// Saves the running context in `*save` and goes on with `load`. Returns when somebody switches back to `*save`.
///
/// # Safety
/// 1. Interrupts are off.
/// 2. `load` was made by [`Context::new`] or saved by `switch`, and nobody has switched to it since.
/// 3. `save` is writable, and nobody switches to `*save` before this CPU has left the old stack
///    (`sched::finish_switch` publishes it).
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn switch(save: *mut Context, load: Context) {
    naked_asm!(
        "push rbx",
        "push rbp",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbp",
        "pop rbx",
        "ret",
    )
}
