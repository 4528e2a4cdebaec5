//! x86_64: everything that names a register, a descriptor, a vector or a port.
//!
//! | module | what it owns |
//! |---|---|
//! | [`cpu`] | required CPU features, control registers, interrupt flag |
//! | [`percpu`] | one structure a CPU, found through GS |
//! | [`gdt`] | segments, task state segments, interrupt stacks |
//! | [`idt`] | vectors and the stubs that enter the kernel through them |
//! | [`frame`] | the registers that the stubs save |
//! | [`trap`] | what each vector means |
//! | [`fault`] | how a fatal exception is told |
//! | [`paging`] | the kernel's own page tables, W^X |
//! | [`apic`] | the local APIC (xAPIC, memory-mapped) |
//! | [`ipi`] | interrupts from CPU to CPU |
//! | [`tlb`] | TLB shootdown |
//! | [`timer`] | the clock and the one-shot timer |
//! | [`smp`] | starting the other CPUs |
//! | [`fpu`] | x87/SSE/AVX state of threads |
//! | [`uaccess`] | copies from and to user memory |
//! | [`context`] | the switch from one kernel stack to another |
//! | [`syscall`], [`user`] | system calls; the way into user mode |

pub mod apic;
pub mod context;
pub mod cpu;
pub mod fault;
pub mod fpu;
pub mod frame;
pub mod gdt;
pub mod idt;
pub mod ipi;
pub mod paging;
pub mod percpu;
pub mod smp;
pub mod syscall;
pub mod timer;
pub mod tlb;
pub mod trap;
pub mod uaccess;
pub mod user;
