//! [`Report`]: the one line that says how a signal ended a process.
//!
//! Plain data that prints itself, so that whoever holds it decides where and when: the page-fault path makes one with
//! interrupts off and leaves the printing to its caller.

use core::fmt;

use mm::{Access, Rights, VmaInfo};

use crate::signal::{self, Handler};

/// How a signal ended a process. Printed as one line without its newline, for example
/// `pid 1 tid 3 killed by SIGSEGV: write to 0x10 at ip 0x401234: no mapping`.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The process.
    pub pid: u32,
    /// The thread that the signal met.
    pub tid: u32,
    /// The signal's number.
    pub signal: u32,
    /// Why it came.
    pub cause: Cause,
    /// Whether the program wanted to handle it.
    pub handler: Handler,
}

/// Why a deadly signal came.
#[derive(Clone, Copy, Debug)]
pub enum Cause {
    /// A page fault that could not be served.
    Fault {
        /// The address that was accessed.
        address: u64,
        /// How.
        access: Access,
        /// The instruction.
        ip: u64,
        /// Why not.
        reason: FaultReason,
    },
    /// Another exception of the CPU.
    Exception {
        /// What it says about itself.
        what: &'static str,
        /// The instruction.
        ip: u64,
    },
    /// A call of `kill` or one of its siblings.
    Sent {
        /// The sender's process.
        pid: u32,
        /// The sending thread.
        tid: u32,
    },
}

/// Why a page fault could not be served.
#[derive(Clone, Copy, Debug)]
pub enum FaultReason {
    /// Nothing is mapped there.
    NoMapping,
    /// A mapping that forbids the access.
    Denied(VmaInfo),
    /// No frame is left.
    OutOfMemory,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} tid {} killed by {}", self.pid, self.tid, signal::name(self.signal))?;
        if self.signal >= 32 {
            write!(f, " ({})", self.signal)?;
        }
        match self.cause {
            Cause::Fault { address, access, ip, reason } => {
                let verb = match access {
                    Access::Read => "read of",
                    Access::Write => "write to",
                    Access::Execute => "execution of",
                };
                write!(f, ": {verb} {address:#x} at ip {ip:#x}: {reason}")?;
            }
            Cause::Exception { what, ip } => write!(f, ": {what} at ip {ip:#x}")?,
            Cause::Sent { pid, tid } if pid == self.pid && tid == self.tid => write!(f, ": sent by itself")?,
            Cause::Sent { pid, tid } => write!(f, ": sent by pid {pid} tid {tid}")?,
        }
        match self.handler {
            Handler::None => Ok(()),
            Handler::Set => write!(f, " (its handler was not run: handlers are not supported yet)"),
        }
    }
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FaultReason::NoMapping => write!(f, "no mapping"),
            FaultReason::Denied(vma) => {
                let right = |right, letter| if vma.rights.contains(right) { letter } else { '-' };
                let read = right(Rights::READ, 'r');
                let write = right(Rights::WRITE, 'w');
                let execute = right(Rights::EXEC, 'x');
                write!(f, "mapping {:#x}-{:#x} {read}{write}{execute}p denies it", vma.start, vma.end)
            }
            FaultReason::OutOfMemory => write!(f, "out of memory"),
        }
    }
}
