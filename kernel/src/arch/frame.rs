//! [`TrapFrame`]: what the stubs in `idt` save of interrupted code, and everybody above reads.

use core::mem::offset_of;

use abi::report::trap as layout;

/// All registers of the interrupted code, as the stubs in `idt` push them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
#[expect(missing_docs, reason = "the fields are the registers they are named after")]
pub struct TrapFrame {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rbp: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rdx: u64,
    pub rcx: u64,
    pub rbx: u64,
    pub rax: u64,
    pub vector: u64,
    pub error: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
}

/// Where the stubs find the interrupted code segment.
pub const CS_OFFSET: usize = offset_of!(TrapFrame, cs);

// The CPU aligns RSP to 16 bytes before it pushes; a frame of whole 16-byte units keeps it so for the stubs' `call`.
const _: () = assert!(size_of::<TrapFrame>().is_multiple_of(16));

// The host walks over traps by these numbers.
const _: () = assert!(
    offset_of!(TrapFrame, rbp) as u64 == layout::RBP
        && offset_of!(TrapFrame, vector) as u64 == layout::VECTOR
        && offset_of!(TrapFrame, rip) as u64 == layout::RIP
        && offset_of!(TrapFrame, cs) as u64 == layout::CS
        && offset_of!(TrapFrame, rsp) as u64 == layout::RSP
        && size_of::<TrapFrame>() == layout::BYTES
);

impl TrapFrame {
    /// Whether user code was interrupted.
    pub fn from_user(&self) -> bool {
        self.cs & 3 != 0
    }
}
