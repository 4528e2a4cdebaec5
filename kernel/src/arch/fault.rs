//! How a fatal exception in the kernel is told: its name, why it happened as far as can be known, all registers.

use core::fmt;

use super::frame::TrapFrame;
use super::idt::{DOUBLE_FAULT, PAGE_FAULT};
use super::{paging, uaccess};
use crate::panic::{self, Cause};

/// Names of the exceptions (SDM vol. 3, table 6-1).
const NAMES: [&str; 32] = [
    "divide error",
    "debug exception",
    "non-maskable interrupt",
    "breakpoint",
    "overflow",
    "bound range exceeded",
    "invalid opcode",
    "device not available",
    "double fault",
    "coprocessor segment overrun",
    "invalid TSS",
    "segment not present",
    "stack segment fault",
    "general protection fault",
    "page fault",
    "reserved exception 15",
    "x87 floating-point error",
    "alignment check",
    "machine check",
    "SIMD floating-point exception",
    "virtualization exception",
    "control protection exception",
    "reserved exception 22",
    "reserved exception 23",
    "reserved exception 24",
    "reserved exception 25",
    "reserved exception 26",
    "reserved exception 27",
    "hypervisor injection exception",
    "VMM communication exception",
    "security exception",
    "reserved exception 31",
];

/// The exception's usual name.
pub fn name(vector: u64) -> &'static str {
    NAMES.get(vector as usize).copied().unwrap_or("unexpected interrupt")
}

/// Reports an exception that the kernel cannot survive, and stops the machine. `address` is CR2 where it means something.
pub fn fatal(frame: &TrapFrame, address: Option<u64>) -> ! {
    panic::die(Cause::Exception { frame, address })
}

/// The report of a fatal exception: one line of explanation, then the registers.
pub struct Report<'a> {
    /// Registers at the exception.
    pub frame: &'a TrapFrame,
    /// CR2, for page faults and double faults.
    pub address: Option<u64>,
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frame = self.frame;
        write!(f, "{} (vector {}, error code {:#x})", name(frame.vector), frame.vector, frame.error)?;
        match (frame.vector as u8, self.address) {
            // A stack that overflows faults, and pushing that fault's frame faults again.
            (DOUBLE_FAULT, Some(address)) if paging::is_stack_guard(address) => {
                write!(f, ": kernel stack overflow, guard page touched at {address:#x}")?;
            }
            (PAGE_FAULT, Some(address)) => {
                let how = match (frame.error & 2 != 0, frame.error & 16 != 0) {
                    (_, true) => "execute",
                    (true, _) => "write to",
                    _ => "read from",
                };
                let why = if frame.error & 1 != 0 { "present, but forbidden" } else { "not mapped" };
                write!(f, ": cannot {how} {address:#x}, {why}")?;
                if address < abi::USER_END && uaccess::landing(frame.rip).is_none() {
                    write!(f, " (user memory outside `uaccess`)")?;
                }
            }
            (_, Some(address)) => write!(f, ": last fault address {address:#x}")?,
            _ => {}
        }
        write!(f, "\n{}", Registers(frame))
    }
}

/// All registers of a frame, three a line.
pub struct Registers<'a>(pub &'a TrapFrame);

impl fmt::Display for Registers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = self.0;
        writeln!(f, "  rip {:016x}  cs  {:016x}  rflags {:08x}", r.rip, r.cs, r.rflags)?;
        writeln!(f, "  rsp {:016x}  ss  {:016x}  rbp {:016x}", r.rsp, r.ss, r.rbp)?;
        writeln!(f, "  rax {:016x}  rbx {:016x}  rcx {:016x}", r.rax, r.rbx, r.rcx)?;
        writeln!(f, "  rdx {:016x}  rsi {:016x}  rdi {:016x}", r.rdx, r.rsi, r.rdi)?;
        writeln!(f, "  r8  {:016x}  r9  {:016x}  r10 {:016x}", r.r8, r.r9, r.r10)?;
        writeln!(f, "  r11 {:016x}  r12 {:016x}  r13 {:016x}", r.r11, r.r12, r.r13)?;
        write!(f, "  r14 {:016x}  r15 {:016x}  cr3 {:016x}", r.r14, r.r15, super::cpu::current_root())
    }
}
