//! Exceptions that a program's instruction raised: page faults, served or deadly, and the rest, which are deadly.
//!
//! Called by the kernel's trap handlers with interrupts off; [`mm::AddressSpace::fault`] turns them on by itself for
//! its slow path.

use abi::USER_END;
use abi::flags::signal::{SIGKILL, SIGSEGV};
use mm::{Access, FaultError};
use sync::alloc::Arc;

use crate::deliver;
use crate::process::ExitStatus;
use crate::report::{Cause, FaultReason, Report};
use crate::signal::Handler;
use crate::system::System;
use crate::thread::Thread;

/// What became of a page fault.
#[derive(Debug)]
pub enum UserFault {
    /// The instruction can run again.
    Served,
    /// The process is told to die, the calling thread with it. The caller logs the report, if there is one: another
    /// thread may have ended the process a moment earlier, and said so.
    Kill(Option<Report>),
}

/// Serves a page fault of user mode, or ends the process.
///
/// `address` is what was accessed and `ip` where the instruction stands. Not for faults of the kernel's own copies from
/// and to programs: those go to [`mm::AddressSpace::fault`] and end in `EFAULT`.
pub fn user_fault<S: System>(thread: &Arc<Thread<S>>, address: u64, access: Access, ip: u64) -> UserFault {
    let outcome = if address < USER_END {
        thread.process().space().fault(address, access)
    } else {
        // The kernel's half, or the hole between the halves: no address space has anything there.
        Err(FaultError::NoMapping)
    };
    let (signal, reason) = match outcome {
        Ok(()) => return UserFault::Served,
        Err(FaultError::NoMapping) => (SIGSEGV, FaultReason::NoMapping),
        Err(FaultError::Denied { vma }) => (SIGSEGV, FaultReason::Denied(vma)),
        Err(FaultError::OutOfMemory) => (SIGKILL, FaultReason::OutOfMemory),
    };
    UserFault::Kill(end(thread, signal, Cause::Fault { address, access, ip, reason }))
}

/// Ends the process because of an exception other than a page fault: `signal` is Linux's for it, `what` names it.
/// Returns the report for the caller to log, unless the process was ending already.
pub fn user_exception<S: System>(thread: &Arc<Thread<S>>, signal: u32, what: &'static str, ip: u64) -> Option<Report> {
    end(thread, signal, Cause::Exception { what, ip })
}

fn end<S: System>(thread: &Arc<Thread<S>>, signal: u32, cause: Cause) -> Option<Report> {
    let handler = if signal == SIGKILL { Handler::None } else { deliver::handler_of(thread, signal) };
    let process = thread.process();
    let first = process.end(ExitStatus::Signalled(signal));
    first.then(|| Report { pid: process.id(), tid: thread.tid(), signal, cause, handler })
}
