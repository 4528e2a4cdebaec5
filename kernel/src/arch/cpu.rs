//! The CPU itself: which features the kernel insists on, the control registers, the interrupt flag.
//!
//! Every CPU passes [`init`] once, before it takes its first interrupt; all CPUs then have the same control registers.
//! The kernel has no variants for older CPUs: what it needs ([`Features::missing`]) every CPU since about 2015 has,
//! and so does QEMU's `-cpu max`.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count};
use core::fmt;
use core::sync::atomic::AtomicU64;

use sync::InterruptState;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::model_specific::{Efer, EferFlags};
use x86_64::registers::rflags::{self, RFlags};

/// What CPUID says, as far as the kernel cares.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// No-execute pages.
    pub nx: bool,
    /// 1 GiB pages.
    pub gib_pages: bool,
    /// Global pages.
    pub pge: bool,
    /// The kernel cannot execute user pages.
    pub smep: bool,
    /// The kernel cannot touch user pages outside `stac`/`clac`.
    pub smap: bool,
    /// Programs cannot read descriptor-table addresses.
    pub umip: bool,
    /// XSAVE and XCR0.
    pub xsave: bool,
    /// A local APIC.
    pub apic: bool,
    /// `syscall`/`sysret`.
    pub syscall: bool,
}

impl Features {
    /// Asks the CPU that runs the caller.
    pub fn read() -> Features {
        let basic = __cpuid(1);
        let structured = __cpuid_count(7, 0);
        let extended = __cpuid(0x8000_0001);
        Features {
            nx: extended.edx & (1 << 20) != 0,
            gib_pages: extended.edx & (1 << 26) != 0,
            pge: basic.edx & (1 << 13) != 0,
            smep: structured.ebx & (1 << 7) != 0,
            smap: structured.ebx & (1 << 20) != 0,
            umip: structured.ecx & (1 << 2) != 0,
            xsave: basic.ecx & (1 << 26) != 0,
            apic: basic.edx & (1 << 9) != 0,
            syscall: extended.edx & (1 << 11) != 0,
        }
    }

    /// The name of a required feature that this CPU lacks.
    pub fn missing(&self) -> Option<&'static str> {
        let required = [
            (self.nx, "no-execute pages (NX)"),
            (self.pge, "global pages (PGE)"),
            (self.smep, "SMEP"),
            (self.smap, "SMAP"),
            (self.xsave, "XSAVE"),
            (self.apic, "a local APIC"),
            (self.syscall, "SYSCALL"),
        ];
        required.iter().find(|(present, _)| !present).map(|(_, name)| *name)
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = [
            (self.nx, "nx"),
            (self.pge, "pge"),
            (self.smep, "smep"),
            (self.smap, "smap"),
            (self.umip, "umip"),
            (self.xsave, "xsave"),
            (self.gib_pages, "1g-pages"),
        ];
        let mut separator = "";
        for (present, name) in listed {
            if present {
                write!(f, "{separator}{name}")?;
                separator = " ";
            }
        }
        Ok(())
    }
}

/// Sets this CPU's control registers as the kernel wants them, and its FPU.
///
/// # Panics
/// If a required feature is missing; the message says which.
pub fn init() {
    let features = Features::read();
    if let Some(name) = features.missing() {
        panic!("this CPU lacks {name}, which the kernel needs; with QEMU use `-cpu max`");
    }
    // SAFETY: the kernel's code does not rely on executable data pages.
    unsafe { Efer::update(|flags| flags.insert(EferFlags::NO_EXECUTE_ENABLE)) };
    // WP: the kernel obeys read-only pages too. EM clear, MP and NE set: as XSAVE wants it.
    // SAFETY: paging and protection stay on; no kernel code writes to read-only pages or uses the FPU.
    unsafe {
        Cr0::update(|flags| {
            flags.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
            // A CPU out of INIT has its caches off.
            flags.remove(Cr0Flags::CACHE_DISABLE | Cr0Flags::NOT_WRITE_THROUGH);
            flags.insert(Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR | Cr0Flags::WRITE_PROTECT);
        });
    };
    let mut wanted = Cr4Flags::PAGE_GLOBAL
        | Cr4Flags::OSFXSR
        | Cr4Flags::OSXMMEXCPT_ENABLE
        | Cr4Flags::OSXSAVE
        | Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION
        | Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION;
    if features.umip {
        wanted.insert(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION);
    }
    // SAFETY: all of these are present (checked above) and none changes the meaning of running kernel code:
    // no user page is mapped or touched yet.
    unsafe { Cr4::update(|flags| flags.insert(wanted)) };
    super::fpu::init_cpu();
}

/// Turns interrupts off and says whether they were on.
pub fn interrupts_disable() -> InterruptState {
    let state = interrupt_state();
    x86_64::instructions::interrupts::disable();
    state
}

/// Turns interrupts on if `state` says so.
pub fn interrupts_restore(state: InterruptState) {
    if let InterruptState::On = state {
        x86_64::instructions::interrupts::enable();
    }
}

/// Whether interrupts are on.
pub fn interrupt_state() -> InterruptState {
    if rflags::read().contains(RFlags::INTERRUPT_FLAG) { InterruptState::On } else { InterruptState::Off }
}

/// Stops this CPU for good: interrupts off, sleeping. NMIs wake it, and it sleeps again.
pub fn halt_forever() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}

/// This CPU's time stamp counter.
#[inline]
pub fn time_stamp() -> u64 {
    // SAFETY: RDTSC is present on every x86_64 CPU and CR4.TSD only forbids it outside ring 0.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Adds 1 to a counter that only this CPU writes, and says what it was: in one instruction, so that no interrupt comes
/// between reading and writing; not locked, so other CPUs must not do this.
#[inline]
pub fn take_number(counter: &AtomicU64) -> u64 {
    let mut number = 1u64;
    // SAFETY: the counter's own 8 bytes.
    unsafe { asm!("xadd [{}], {}", in(reg) counter.as_ptr(), inout(reg) number, options(nostack)) };
    number
}

/// Physical address of the root table that this CPU's MMU walks now.
#[inline]
pub fn current_root() -> u64 {
    let value: u64;
    // SAFETY: reading CR3 in ring 0 changes nothing. Not `pure`: each call must look again.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nostack, nomem, preserves_flags)) };
    value & 0x000f_ffff_ffff_f000
}

/// Makes this CPU's MMU walk the tables under `root`, and drops all its non-global translations.
///
/// # Safety
/// `root` must be a root table whose upper half is the kernel's, and must stay one while it is loaded.
#[inline]
pub unsafe fn load_root(root: u64) {
    // No `nomem`: memory accesses must not move across the change.
    // SAFETY: the caller vouches for the tables.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}
