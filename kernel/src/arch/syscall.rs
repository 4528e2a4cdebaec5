//! System calls: the `syscall` instruction's way in and `sysretq`'s way out.
//!
//! The CPU does little (SDM vol. 2, SYSCALL): return address to rcx, flags to r11, segments from `STAR`, flags masked
//! by `FMASK`. The stack is still the program's, so until the entry has switched to the thread's kernel stack nothing
//! may interrupt: `FMASK` clears IF. The caller's registers are laid out on that stack as one [`UserRegs`], which
//! `linux::call` reads and writes and from which they are restored, rcx and r11 included (they then hold rip and
//! rflags, as on Linux).
//!
//! `sysretq` with a non-canonical address in rcx faults in ring 0 with the program's stack pointer (on Intel's CPUs),
//! and takes any flags from r11: `sched::run_call` lets only registers through that `user::sanitize` has passed.

use core::arch::naked_asm;
use core::mem::offset_of;

use linux::UserRegs;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{Efer, EferFlags, LStar, SFMask};
use x86_64::registers::rflags::RFlags;

use super::{gdt, percpu};
use crate::sched;

/// `IA32_STAR`: bits 47..32 are the kernel's code segment (data follows), bits 63..48 what `sysretq` adds 16 (code)
/// and 8 (stack) to.
const STAR: u32 = 0xc000_0081;

/// The registers, and one word so that the stack is 16-byte aligned at the call.
pub(super) const FRAME_SIZE: usize = size_of::<UserRegs>().next_multiple_of(16);

/// Tells this CPU where system calls enter. Once a CPU, before its first thread of a program.
pub fn init_cpu() {
    let star = (u64::from(gdt::KERNEL_DATA) | 3) << 48 | u64::from(gdt::KERNEL_CODE) << 32;
    const { assert!(gdt::USER_DATA == (gdt::KERNEL_DATA + 8) | 3 && gdt::USER_CODE == (gdt::KERNEL_DATA + 16) | 3) };
    // SAFETY: the segments are where the constants say; nothing uses the register before EFER.SCE is set.
    unsafe { x86_64::registers::model_specific::Msr::new(STAR).write(star) };
    LStar::write(VirtAddr::new(entry as *const () as u64));
    // Interrupts off, no single steps, string instructions upwards, no user access, no nested task, no alignment
    // checks.
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::ALIGNMENT_CHECK
            | RFlags::NESTED_TASK
            | RFlags::IOPL_LOW
            | RFlags::IOPL_HIGH,
    );
    // SAFETY: the registers that the instruction uses are set.
    unsafe { Efer::update(|flags| flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS)) };
}

/// Where `syscall` lands: ring 0, interrupts off, the program's stack and GS.
///
/// # Safety
/// Only for the `syscall` instruction: GS is the program's, and the kernel's is in the swapped base.
#[unsafe(naked)]
unsafe extern "C" fn entry() {
    naked_asm!(
        "swapgs",
        "mov gs:[{user_stack}], rsp",
        "mov rsp, gs:[{kernel_stack}]",
        "sub rsp, {frame_size}",
        "mov [rsp + {rax}], rax",
        "mov [rsp + {rbx}], rbx",
        "mov [rsp + {rcx}], rcx",
        "mov [rsp + {rdx}], rdx",
        "mov [rsp + {rsi}], rsi",
        "mov [rsp + {rdi}], rdi",
        "mov [rsp + {rbp}], rbp",
        "mov [rsp + {r8}], r8",
        "mov [rsp + {r9}], r9",
        "mov [rsp + {r10}], r10",
        "mov [rsp + {r11}], r11",
        "mov [rsp + {r12}], r12",
        "mov [rsp + {r13}], r13",
        "mov [rsp + {r14}], r14",
        "mov [rsp + {r15}], r15",
        "mov [rsp + {rip}], rcx",
        "mov [rsp + {rflags}], r11",
        "mov rax, gs:[{user_stack}]",
        "mov [rsp + {rsp_}], rax",
        "sti", // everything of this entry's is on the thread's own stack
        "xor ebp, ebp", // backtraces end here
        "mov rdi, rsp",
        "call {call}", // comes back with interrupts off, ready for user mode
        "mov rcx, [rsp + {rip}]",
        "mov rax, [rsp + {rax}]",
        "mov rbx, [rsp + {rbx}]",
        "mov rdx, [rsp + {rdx}]",
        "mov rsi, [rsp + {rsi}]",
        "mov rdi, [rsp + {rdi}]",
        "mov rbp, [rsp + {rbp}]",
        "mov r8, [rsp + {r8}]",
        "mov r9, [rsp + {r9}]",
        "mov r10, [rsp + {r10}]",
        "mov r11, [rsp + {rflags}]",
        "mov r12, [rsp + {r12}]",
        "mov r13, [rsp + {r13}]",
        "mov r14, [rsp + {r14}]",
        "mov r15, [rsp + {r15}]",
        "mov rsp, [rsp + {rsp_}]",
        "swapgs",
        "sysretq",
        user_stack = const percpu::USER_STACK,
        kernel_stack = const percpu::KERNEL_STACK,
        frame_size = const FRAME_SIZE,
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
        call = sym call,
    )
}

/// From assembly to the scheduler.
extern "C" fn call(regs: &mut UserRegs) {
    sched::run_call(regs);
}
