//! The interrupt descriptor table and the stubs behind it.
//!
//! All 256 vectors have a stub, so that whatever arrives is reported by name. A stub pushes its vector (and a zero where
//! the CPU pushes no error code) and jumps to an entry, which saves the general registers as a
//! [`TrapFrame`](super::frame::TrapFrame), calls Rust, restores, and returns:
//!
//! - `trap_entry` decides by the privilege level of the interrupted code whether GS must be swapped;
//! - `paranoid_entry`, for the four exceptions that may strike between an entry from user mode and its `swapgs`, asks the GS
//!   base itself: the kernel's is in the upper half, and a program's cannot be (FSGSBASE is off, `arch_prctl` checks);
//! - `flush_entry`, for the interrupt that CPUs send each other most, does no more than it must.
//!
//! Vectors are interrupt gates: interrupts are off until Rust says otherwise. The table is shared by all CPUs.

use core::arch::{global_asm, naked_asm};
use core::cell::UnsafeCell;

use x86_64::structures::DescriptorTablePointer;
use x86_64::{PrivilegeLevel, VirtAddr};

use super::frame::CS_OFFSET;
use super::gdt::{self, InterruptStack};
use super::trap::{flush_interrupt, trap_from_kernel_or_user, trap_paranoid};

/// Debug exception.
pub const DEBUG: u8 = 1;
/// Non-maskable interrupt.
pub const NMI: u8 = 2;
/// Double fault.
pub const DOUBLE_FAULT: u8 = 8;
/// Page fault.
pub const PAGE_FAULT: u8 = 14;
/// Machine check.
pub const MACHINE_CHECK: u8 = 18;
/// First vector that is not an exception; the legacy interrupt controllers, all masked, may still raise the first 16.
pub const FIRST_INTERRUPT: u8 = 32;
/// Local APIC timer.
pub const TIMER: u8 = 0xe0;
/// Another CPU asks this one to reschedule or to pass a quiescent state.
pub const NUDGE: u8 = 0xe1;
/// Another CPU asks for a TLB flush.
pub const FLUSH: u8 = 0xe2;
/// The local APIC withdrew an interrupt: nothing to do, not even an end-of-interrupt.
pub const SPURIOUS: u8 = 0xff;

/// Bytes between two stubs.
const STUB_SIZE: u64 = 16;

// One stub a vector. Vectors 8, 10 to 14, 17, 21, 29 and 30 come with an error code (SDM vol. 3, table 6-1).
global_asm!(
    ".text",
    ".balign 16",
    "trap_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    // The launcher's counters leave out what runs from here, for interrupts come when they like.
    ".if vector == {first_interrupt}",
    "interrupt_stubs:",
    ".endif",
    ".if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 && vector != 29 && vector != 30",
    "push 0",
    ".endif",
    "push vector",
    ".if vector == 1 || vector == 2 || vector == 8 || vector == 18",
    "jmp {paranoid}",
    ".elseif vector == {flush_vector}",
    "jmp {flush}",
    ".else",
    "jmp {entry}",
    ".endif",
    ".set vector, vector + 1",
    ".endr",
    "trap_stubs_end:",
    first_interrupt = const FIRST_INTERRUPT,
    entry = sym trap_entry,
    paranoid = sym paranoid_entry,
    flush_vector = const FLUSH,
    flush = sym flush_entry,
);

unsafe extern "C" {
    /// The first of the 256 stubs above.
    static trap_stubs: u8;
}

/// Saves the registers that the CPU did not, in the order of `TrapFrame`.
macro_rules! push_registers {
    () => {
        "push rax; push rbx; push rcx; push rdx; push rsi; push rdi; push rbp; push r8; \
         push r9; push r10; push r11; push r12; push r13; push r14; push r15"
    };
}

/// Restores them, and drops vector and error code.
macro_rules! pop_registers {
    () => {
        "pop r15; pop r14; pop r13; pop r12; pop r11; pop r10; pop r9; pop r8; \
         pop rbp; pop rdi; pop rsi; pop rdx; pop rcx; pop rbx; pop rax; add rsp, 16"
    };
}

/// Entry of all vectors but the paranoid four.
///
/// # Safety
/// Only for the stubs: the stack holds what the CPU and the stub have pushed.
#[unsafe(naked)]
unsafe extern "C" fn trap_entry() {
    naked_asm!(
        "cld",
        push_registers!(),
        "test byte ptr [rsp + {cs}], 3",
        "jz 2f",
        "swapgs",
        "2:",
        "clac", // a program's AC flag must not open user memory to the kernel
        "mov rdi, rsp",
        "call {dispatch}",
        "test byte ptr [rsp + {cs}], 3",
        "jz 3f",
        "swapgs",
        "3:",
        pop_registers!(),
        "iretq",
        cs = const CS_OFFSET,
        dispatch = sym trap_from_kernel_or_user,
    )
}

/// Entry of debug, NMI, double fault and machine check.
///
/// # Safety
/// Only for the stubs: the stack holds what the CPU and the stub have pushed.
#[unsafe(naked)]
unsafe extern "C" fn paranoid_entry() {
    naked_asm!(
        "cld",
        push_registers!(),
        "mov ecx, 0xc0000101", // IA32_GS_BASE
        "rdmsr",
        "xor ebx, ebx", // kept across the call: whether we swapped
        "test edx, edx",
        "js 2f",
        "swapgs",
        "inc ebx",
        "2:",
        "clac",
        "mov rdi, rsp",
        "call {dispatch}",
        "test ebx, ebx",
        "jz 3f",
        "swapgs",
        "3:",
        pop_registers!(),
        "iretq",
        dispatch = sym trap_paranoid,
    )
}

/// Entry of the flush interrupt. What it calls looks at nothing that was interrupted, and keeps the registers that functions
/// keep: their places in the frame, which is laid out as the other entries' for who walks over it, stay empty but for RBP's.
///
/// # Safety
/// Only for the stubs: the stack holds what the CPU and the stub have pushed.
#[unsafe(naked)]
unsafe extern "C" fn flush_entry() {
    naked_asm!(
        "cld",
        "push rax; push rax; push rcx; push rdx; push rsi; push rdi; push rbp; push r8; push r9; push r10; push r11",
        "sub rsp, 32",
        "test byte ptr [rsp + {cs}], 3",
        "jz 2f",
        "swapgs",
        "2:",
        "clac",
        "call {handler}",
        "test byte ptr [rsp + {cs}], 3",
        "jz 3f",
        "swapgs",
        "3:",
        "add rsp, 32",
        "pop r11; pop r10; pop r9; pop r8; pop rbp; pop rdi; pop rsi; pop rdx; pop rcx; pop rax; pop rax",
        "add rsp, 16",
        "iretq",
        cs = const CS_OFFSET,
        handler = sym flush_interrupt,
    )
}

/// A 64-bit interrupt gate (SDM vol. 3, figure 6-8).
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Gate {
    low: u64,
    high: u64,
}

impl Gate {
    const ABSENT: Gate = Gate { low: 0, high: 0 };

    fn new(handler: u64, stack: Option<InterruptStack>, caller: PrivilegeLevel) -> Gate {
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e << 40;
        let stack_field = stack.map_or(0, |stack| stack as u64 + 1);
        let low = (handler & 0xffff)
            | u64::from(gdt::KERNEL_CODE) << 16
            | stack_field << 32
            | PRESENT_INTERRUPT_GATE
            | (caller as u64) << 45
            | (handler >> 16 & 0xffff) << 48;
        Gate { low, high: handler >> 32 }
    }
}

struct Table(UnsafeCell<[Gate; 256]>);

// SAFETY: written once by the boot CPU before any CPU loads it; afterwards only CPUs read it.
unsafe impl Sync for Table {}

static TABLE: Table = Table(UnsafeCell::new([Gate::ABSENT; 256]));

/// Fills the table. Called once, on the boot CPU, before any CPU's [`load`].
pub fn build() {
    // SAFETY: called once while one CPU runs and no table is loaded.
    let table = unsafe { &mut *TABLE.0.get() };
    let stubs = (&raw const trap_stubs).addr() as u64;
    for (vector, gate) in (0u8..=255).zip(table.iter_mut()) {
        let stack = match vector {
            DOUBLE_FAULT => Some(InterruptStack::DoubleFault),
            NMI => Some(InterruptStack::Nmi),
            MACHINE_CHECK => Some(InterruptStack::MachineCheck),
            DEBUG => Some(InterruptStack::Debug),
            _ => None,
        };
        // Programs may execute INT3 and INTO; any other software interrupt is a general protection fault.
        let caller = if matches!(vector, 3 | 4) { PrivilegeLevel::Ring3 } else { PrivilegeLevel::Ring0 };
        *gate = Gate::new(stubs + u64::from(vector) * STUB_SIZE, stack, caller);
    }
}

/// Makes this CPU use the table.
pub fn load() {
    let limit = (size_of::<[Gate; 256]>() - 1) as u16;
    let pointer = DescriptorTablePointer { limit, base: VirtAddr::from_ptr(TABLE.0.get()) };
    // SAFETY: the table is complete (`build`), lives in a static, and each gate names a stub that keeps the ABI.
    unsafe { x86_64::instructions::tables::lidt(&pointer) };
}
