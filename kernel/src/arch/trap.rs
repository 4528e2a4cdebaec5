//! What each trap means: the one place where a vector is decoded, and the only reader of CR2.
//!
//! [`trap_from_kernel_or_user`] runs on the interrupted thread's kernel stack with interrupts off, and may sleep only on
//! behalf of user mode. What concerns threads and programs is handed to `crate::sched`; a trap out of user mode ends in
//! [`sched::before_user_return`], which may reschedule or end the thread. A fault of the kernel itself is fatal, but for
//! accesses to user memory, which are confined to `uaccess`.

use x86_64::registers::control::Cr2;

use super::frame::TrapFrame;
use super::idt::{FIRST_INTERRUPT, NMI, NUDGE, PAGE_FAULT, SPURIOUS, TIMER};
use super::{apic, fault, tlb, uaccess};
use crate::sched::{InInterrupt, Interrupted};
use crate::{panic, sched};
use mm::Access;

/// Decodes a page fault's error code (SDM vol. 3, 4.7).
fn access_of(error: u64) -> Access {
    const WRITE: u64 = 1 << 1;
    const INSTRUCTION_FETCH: u64 = 1 << 4;
    if error & INSTRUCTION_FETCH != 0 {
        Access::Execute
    } else if error & WRITE != 0 {
        Access::Write
    } else {
        Access::Read
    }
}

/// Called by `trap_entry` for all vectors but those below.
pub(super) extern "C" fn trap_from_kernel_or_user(frame: &mut TrapFrame) {
    let from_user = frame.from_user();
    let interrupted = if from_user { Interrupted::User } else { Interrupted::Kernel };
    match frame.vector as u8 {
        PAGE_FAULT => page_fault(frame),
        TIMER => {
            let _interrupt = InInterrupt::enter();
            apic::end_of_interrupt();
            sched::on_tick(interrupted);
        }
        NUDGE => {
            let _interrupt = InInterrupt::enter();
            apic::end_of_interrupt();
            sched::on_nudge(interrupted);
        }
        SPURIOUS => {}
        // The legacy controllers are masked; what they raise all the same is noise without an end-of-interrupt.
        vector if (FIRST_INTERRUPT..FIRST_INTERRUPT + 16).contains(&vector) => {}
        _ if from_user => sched::user_exception(frame),
        _ => fault::fatal(frame, None),
    }
    if from_user {
        sched::before_user_return(frame);
    }
}

/// Called by `flush_entry`. What was interrupted goes on at once: a flush gives a thread no cause to end or to make way.
pub(super) extern "C" fn flush_interrupt() {
    let _interrupt = InInterrupt::enter();
    apic::end_of_interrupt();
    tlb::serve_interrupt();
}

/// A page fault of a program, of the kernel on a program's behalf, or of the kernel by mistake.
fn page_fault(frame: &mut TrapFrame) {
    // Before anything else that could fault. A non-canonical address cannot get here (that is a general protection fault).
    let address = Cr2::read_raw();
    let access = access_of(frame.error);
    if frame.from_user() {
        return sched::page_fault(frame, address, access);
    }
    let Some(landing) = uaccess::landing(frame.rip) else { fault::fatal(frame, Some(address)) };
    if address >= abi::USER_END {
        fault::fatal(frame, Some(address));
    }
    if !sched::user_access_fault(address, access) {
        // The copy routine gives up and says EFAULT.
        frame.rip = landing;
    }
}

/// Called by `paranoid_entry`: debug, NMI, double fault and machine check. These run on their own stacks and must
/// neither sleep nor take locks.
pub(super) extern "C" fn trap_paranoid(frame: &mut TrapFrame) {
    match frame.vector as u8 {
        NMI if panic::stop_asked() => super::cpu::halt_forever(),
        super::idt::DOUBLE_FAULT => fault::fatal(frame, Some(Cr2::read_raw())),
        // A program that sets the trap flag, or a breakpoint that outlived it: drop the flag and go on.
        super::idt::DEBUG => frame.rflags &= !(1 << 8),
        _ => fault::fatal(frame, None),
    }
}
