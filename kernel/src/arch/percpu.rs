//! One [`Cpu`] structure for each CPU, found through the GS segment base.
//!
//! In the kernel GS always points at the running CPU's structure; in user mode the program's own GS base is loaded and
//! `swapgs` at every entry and exit exchanges the two. The first fields have fixed offsets because assembly uses them.
//! Only the CPU itself writes its structure (Relaxed atomics suffice), but for `need_resched`, which others may set, and
//! `ring`, which a panicking CPU clears for all.

use core::arch::asm;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::MAX_CPUS;
use sync::order::Held;
use sync::{CpuId, CpuSet};
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{GsBase, KernelGsBase};

/// What a CPU knows about itself.
#[repr(C, align(128))]
pub struct Cpu {
    /// Own address: `mov reg, gs:[0]` is how [`Cpu::current`] works. Written before GS points here.
    this: AtomicUsize,
    /// This CPU's [`CpuId`].
    id: AtomicU32,
    /// Its local APIC's id.
    apic_id: AtomicU32,
    /// Top of the running thread's kernel stack, for the system-call entry.
    pub kernel_stack: AtomicU64,
    /// Where the system-call entry keeps the user stack pointer until it has a stack.
    pub user_stack: AtomicU64,
    /// The running thread, as the scheduler represents it.
    pub current_thread: AtomicU64,
    /// The running thread should give way at its next return to user mode. Set by any CPU, cleared by this one.
    pub need_resched: AtomicBool,
    /// Address of this CPU's event ring while it records; 0: off (`crate::event`).
    pub ring: AtomicU64,
    /// The last word of this CPU's event records without the kind: `thread << 32 | cpu << 16`.
    pub stamp: AtomicU64,
    /// The running context's record for the lock-order validator (`sched::held`); null: nothing is checked.
    pub held: AtomicPtr<Held>,
    /// Turns of spins so far, in debug builds: see `sched::watchdog`.
    pub spins: AtomicU32,
}

/// Offset of [`Cpu::kernel_stack`] from GS, for assembly.
pub const KERNEL_STACK: usize = offset_of!(Cpu, kernel_stack);
/// Offset of [`Cpu::user_stack`] from GS, for assembly.
pub const USER_STACK: usize = offset_of!(Cpu, user_stack);
/// Offset of [`Cpu::current_thread`] from GS, for assembly.
pub const CURRENT_THREAD: usize = offset_of!(Cpu, current_thread);

const _: () = assert!(offset_of!(Cpu, this) == 0 && offset_of!(Cpu, id) == 8);

static CPUS: [Cpu; MAX_CPUS] = [const { Cpu::new() }; MAX_CPUS];

/// Number of CPUs that take part; fixed when the ACPI tables have been read.
static COUNT: AtomicUsize = AtomicUsize::new(1);

/// The CPUs that have finished their start.
static ONLINE: AtomicU64 = AtomicU64::new(0);

impl Cpu {
    const fn new() -> Cpu {
        Cpu {
            this: AtomicUsize::new(0),
            id: AtomicU32::new(0),
            apic_id: AtomicU32::new(0),
            kernel_stack: AtomicU64::new(0),
            user_stack: AtomicU64::new(0),
            current_thread: AtomicU64::new(0),
            need_resched: AtomicBool::new(false),
            ring: AtomicU64::new(0),
            stamp: AtomicU64::new(0),
            held: AtomicPtr::new(ptr::null_mut()),
            spins: AtomicU32::new(0),
        }
    }

    /// The structure of the CPU that runs the caller. It stays the caller's only until the caller sleeps.
    #[inline]
    pub fn current() -> &'static Cpu {
        let this: *const Cpu;
        // Neither `pure` nor cached: a thread may have moved to another CPU between two calls.
        // SAFETY: in the kernel GS:0 holds the structure's own address from `install` on.
        unsafe { asm!("mov {}, gs:[0]", out(reg) this, options(nostack, preserves_flags, readonly)) };
        // SAFETY: it points into the static `CPUS`, which is only ever shared.
        unsafe { &*this }
    }

    /// This CPU's number.
    #[inline]
    pub fn id(&self) -> CpuId {
        CpuId(self.id.load(Ordering::Relaxed))
    }

    /// This CPU's local APIC id.
    pub fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }
}

/// The number of the CPU that runs the caller.
#[inline]
pub fn id() -> CpuId {
    let id: u32;
    // SAFETY: in the kernel GS points at this CPU's structure; the number is at offset 8 (asserted above).
    unsafe { asm!("mov {:e}, gs:[8]", out(reg) id, options(nostack, preserves_flags, readonly)) };
    CpuId(id)
}

/// [`Cpu::ring`] of the CPU that runs the caller.
#[inline]
pub fn ring() -> u64 {
    let ring;
    // SAFETY: in the kernel GS points at this CPU's structure.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) ring, const offset_of!(Cpu, ring), options(nostack, preserves_flags, readonly))
    };
    ring
}

/// [`Cpu::stamp`] of the CPU that runs the caller.
#[inline]
pub fn stamp() -> u64 {
    Cpu::current().stamp.load(Ordering::Relaxed)
}

/// The structure of any CPU.
pub fn get(cpu: CpuId) -> &'static Cpu {
    &CPUS[cpu.index()]
}

/// Points GS at the structure of CPU `id`, which runs the caller. First thing that a CPU does in Rust.
pub fn install(id: CpuId) {
    let cpu = get(id);
    cpu.id.store(id.0, Ordering::Relaxed);
    cpu.stamp.store(u64::from(id.0) << 16, Ordering::Relaxed);
    cpu.this.store(core::ptr::from_ref(cpu).addr(), Ordering::Relaxed);
    GsBase::write(VirtAddr::from_ptr(cpu));
    KernelGsBase::write(VirtAddr::zero());
}

/// Fixes how many CPUs take part, and their APIC ids in the order of their numbers. Called once, on the boot CPU.
pub fn set_topology(apic_ids: &[u32]) {
    for (cpu, apic_id) in CPUS.iter().zip(apic_ids) {
        cpu.apic_id.store(*apic_id, Ordering::Relaxed);
    }
    COUNT.store(apic_ids.len(), Ordering::Relaxed);
}

/// Number of CPUs that take part.
#[inline]
pub fn count() -> usize {
    // Relaxed: written before any other CPU starts, and starting it orders everything before.
    COUNT.load(Ordering::Relaxed)
}

/// Says that this CPU has finished its start. Release: what it set up is visible to who sees it online.
pub fn set_online() {
    ONLINE.fetch_or(id().bit().0, Ordering::Release);
}

/// The CPUs that have finished their start.
pub fn online() -> CpuSet {
    CpuSet(ONLINE.load(Ordering::Acquire))
}
