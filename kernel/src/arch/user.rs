//! Into user mode: the first time, by `iretq`; and what registers must look like for it every time.

use core::arch::naked_asm;
use core::mem::offset_of;

use linux::UserRegs;

use super::gdt;

/// Flags that user mode may have: those that any program can set, with interrupts on and IOPL 0.
const USER_FLAGS: u64 = 0x0024_0dd5;
/// Reserved bit 1, always set, and the interrupt flag.
const FORCED_FLAGS: u64 = 0x202;

/// Registers with which no way into user mode can be taken: the instruction pointer is not a program's. Neither
/// `sysretq` nor `iretq` may see it, because both would fault in ring 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotUserCode;

/// Makes the flags fit for user mode, and checks the instruction pointer.
pub(crate) fn sanitize(regs: &mut UserRegs) -> Result<(), NotUserCode> {
    regs.rflags = regs.rflags & USER_FLAGS | FORCED_FLAGS;
    if regs.rip < abi::USER_END { Ok(()) } else { Err(NotUserCode) }
}

/// Enters user mode with `regs`.
///
/// # Safety
/// 1. Interrupts are off; the running thread's address space, FS base, extended registers and kernel stack are loaded.
/// 2. `regs` lies on this stack and has passed [`sanitize`]; nothing else on the stack is needed any more.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn enter(regs: &UserRegs) -> ! {
    naked_asm!(
        "mov rsp, rdi", // what is pushed below goes over what is not needed any more
        "mov rbx, [rsp + {rbx}]",
        "mov rcx, [rsp + {rcx}]",
        "mov rdx, [rsp + {rdx}]",
        "mov rsi, [rsp + {rsi}]",
        "mov rdi, [rsp + {rdi}]",
        "mov rbp, [rsp + {rbp}]",
        "mov r8, [rsp + {r8}]",
        "mov r9, [rsp + {r9}]",
        "mov r10, [rsp + {r10}]",
        "mov r11, [rsp + {r11}]",
        "mov r12, [rsp + {r12}]",
        "mov r13, [rsp + {r13}]",
        "mov r14, [rsp + {r14}]",
        "mov r15, [rsp + {r15}]",
        // `iretq` takes ss, rsp, rflags, cs, rip off the stack. They go below the registers; rax is the last one
        // needed.
        "mov rax, rsp",
        "push {user_data}",
        "push qword ptr [rax + {rsp_}]",
        "push qword ptr [rax + {rflags}]",
        "push {user_code}",
        "push qword ptr [rax + {rip}]",
        "mov rax, [rax + {rax}]",
        "swapgs",
        "iretq",
        rax = const offset_of!(UserRegs, rax),
        rbx = const offset_of!(UserRegs, rbx),
        rcx = const offset_of!(UserRegs, rcx),
        rdx = const offset_of!(UserRegs, rdx),
        rsi = const offset_of!(UserRegs, rsi),
        rdi = const offset_of!(UserRegs, rdi),
        rbp = const offset_of!(UserRegs, rbp),
        rsp_ = const offset_of!(UserRegs, rsp),
        r8 = const offset_of!(UserRegs, r8),
        r9 = const offset_of!(UserRegs, r9),
        r10 = const offset_of!(UserRegs, r10),
        r11 = const offset_of!(UserRegs, r11),
        r12 = const offset_of!(UserRegs, r12),
        r13 = const offset_of!(UserRegs, r13),
        r14 = const offset_of!(UserRegs, r14),
        r15 = const offset_of!(UserRegs, r15),
        rip = const offset_of!(UserRegs, rip),
        rflags = const offset_of!(UserRegs, rflags),
        user_data = const gdt::USER_DATA,
        user_code = const gdt::USER_CODE,
    )
}
