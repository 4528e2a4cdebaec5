//! Segments, task state segments and the stacks of the exceptions that must not trust the current one.
//!
//! Each CPU has its own GDT and TSS. The segment order is what `syscall`/`sysret` demand (SDM vol. 3, 5.8.8): kernel code,
//! kernel data; user data, user code. [`set_kernel_stack`] is called at each thread switch.
//!
//! The four exceptions that can strike with an unusable stack pointer (double fault, NMI, machine check, and debug, which
//! can be made to strike at the first instruction of the system-call entry) have stacks of their own, with guard pages.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering;

use abi::MAX_CPUS;
use sync::CpuId;
use x86_64::PrivilegeLevel;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::segmentation::SegmentSelector;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::percpu::{self, Cpu};

/// Kernel code segment selector.
pub const KERNEL_CODE: u16 = 0x08;
/// Kernel data segment selector.
pub const KERNEL_DATA: u16 = 0x10;
/// User data segment selector, with privilege level 3.
pub const USER_DATA: u16 = 0x18 | 3;
/// User code segment selector, with privilege level 3.
pub const USER_CODE: u16 = 0x20 | 3;

/// Interrupt stack table entries, by index into the TSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum InterruptStack {
    /// For the double fault: the one that reports a kernel stack overflow.
    DoubleFault = 0,
    /// For non-maskable interrupts.
    Nmi = 1,
    /// For machine checks.
    MachineCheck = 2,
    /// For debug exceptions.
    Debug = 3,
}

/// How many interrupt stacks a CPU has.
pub const INTERRUPT_STACKS: usize = 4;

struct Tables {
    gdt: UnsafeCell<GlobalDescriptorTable>,
    tss: UnsafeCell<TaskStateSegment>,
}

// SAFETY: each element is used only by the CPU whose number is its index, and only with interrupts off or by
// single aligned stores (`set_kernel_stack`) that its own interrupts read.
unsafe impl Sync for Tables {}

static TABLES: [Tables; MAX_CPUS] = [const {
    Tables { gdt: UnsafeCell::new(GlobalDescriptorTable::new()), tss: UnsafeCell::new(TaskStateSegment::new()) }
}; MAX_CPUS];

/// Says where the interrupt stacks of `cpu` end, by [`InterruptStack`]. Called before that CPU's [`init`].
pub fn prepare(cpu: CpuId, interrupt_stacks: [u64; INTERRUPT_STACKS]) {
    // SAFETY: the CPU has not loaded its tables yet, so only the boot CPU uses the element.
    let tss = unsafe { &mut *TABLES[cpu.index()].tss.get() };
    for (index, top) in interrupt_stacks.into_iter().enumerate() {
        tss.interrupt_stack_table[index] = VirtAddr::new(top);
    }
}

/// Loads this CPU's segments and TSS. Interrupts are off; the CPU's interrupt stacks are known ([`prepare`]).
///
/// # Panics
/// If called twice on one CPU (the descriptor table is full then).
pub fn init() {
    let cpu = percpu::id();
    let tables = &TABLES[cpu.index()];
    // SAFETY: only this CPU uses the element from now on.
    let gdt = unsafe { &mut *tables.gdt.get() };
    let code = gdt.append(Descriptor::kernel_code_segment());
    let data = gdt.append(Descriptor::kernel_data_segment());
    let user_data = gdt.append(Descriptor::user_data_segment());
    let user_code = gdt.append(Descriptor::user_code_segment());
    // SAFETY: the TSS lives in a static.
    let task = gdt.append(unsafe { Descriptor::tss_segment_unchecked(tables.tss.get()) });
    assert!(
        (code.0, data.0, user_data.0, user_code.0) == (KERNEL_CODE, KERNEL_DATA, USER_DATA, USER_CODE),
        "segment selectors differ from what the system-call entry expects"
    );
    // SAFETY: the table is complete, lives in a static and is not changed any more.
    unsafe { gdt.load_unsafe() };
    // SAFETY: the selector is this table's kernel code segment.
    unsafe { CS::set_reg(code) };
    // SAFETY: the selector is this table's kernel data segment.
    unsafe { SS::set_reg(data) };
    let null = SegmentSelector::new(0, PrivilegeLevel::Ring0);
    // SAFETY: 64-bit code does not use DS.
    unsafe { DS::set_reg(null) };
    // SAFETY: 64-bit code does not use ES.
    unsafe { ES::set_reg(null) };
    // SAFETY: FS's base belongs to user threads, of which none runs yet.
    unsafe { FS::set_reg(null) };
    // SAFETY: the base that this clears is set again in the next statement; interrupts are off.
    unsafe { GS::set_reg(null) };
    percpu::install(cpu);
    // SAFETY: the selector is this table's TSS, loaded once.
    unsafe { load_tss(task) };
}

/// Sets where this CPU's next entry from user mode, by trap or by system call, begins to push.
/// Called with interrupts off.
pub fn set_kernel_stack(top: u64) {
    let cpu = Cpu::current();
    cpu.kernel_stack.store(top, Ordering::Relaxed);
    // SAFETY: `privilege_stack_table[0]` of a static TSS; only this CPU writes and (in hardware) reads it, and no
    // entry from user mode can happen while this CPU is here.
    unsafe { (*TABLES[cpu.id().index()].tss.get()).privilege_stack_table[0] = VirtAddr::new(top) };
}
