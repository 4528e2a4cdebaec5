//! The trampoline: from real mode at `page * 4096` to 64-bit code on a stack of its own.
//!
//! ```text
//! real mode, CS:IP = page:0          ds = cs; load GDT from parameters; CR0.PE
//! 32-bit protected mode              CR4.PAE; CR3 = a temporary root; EFER.LME|NXE; CR0.PG
//! 64-bit, still in the low page      jump to the upper half (the temporary root shares the kernel's half)
//! 64-bit, kernel text                CR3 = the kernel's root; RSP = own stack; call Rust
//! ```
//!
//! The code is position-dependent only through the page it is copied to: it computes its base from CS and patches nothing.
//! It needs three frames below 1 MiB beside its own, for the temporary tables, whose root must be
//! reachable by a 32-bit CR3. They map just the code page, at its physical address, read-only and executable: no page is
//! ever writable and executable. All of it is unused once the last CPU is up.
//!
//! Nothing here depends on the rest of the kernel but for the address of the entry and of the physical window, so that the
//! file can be lifted into another kernel.

use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::paging::phys_to_virt;

/// Frames below 1 MiB: one for the code, four for tables.
pub struct LowMemory {
    /// Physical address of the first of [`LowMemory::FRAMES`] frames.
    pub start: u64,
}

impl LowMemory {
    /// How many frames are needed.
    pub const FRAMES: u64 = 5;
}

/// What the code reads, at the end of its page.
#[repr(C)]
struct Parameters {
    _pad: u16,
    /// Limit and base of the temporary GDT, as `lgdt` wants them: six bytes without a gap.
    gdt_limit: u16,
    gdt_base: u32,
    /// The far pointers for the two mode switches: offset, selector.
    protected_entry: u32,
    protected_selector: u16,
    _pad2: u16,
    long_entry: u32,
    long_selector: u16,
    _pad3: u16,
    /// Root of the temporary tables.
    temporary_root: u32,
    _pad4: u32,
    /// Where the upper half begins for this CPU.
    entry: u64,
    /// Root of the kernel's tables.
    kernel_root: u64,
    /// Top of the stack.
    stack: AtomicU64,
    /// Null, 32-bit code, data, 64-bit code; accessed bits set, because the page is read-only.
    gdt: [u64; 4],
}

/// Where the parameters lie in the code's page.
const PARAMETERS: usize = 0xf00;

global_asm!(
    ".pushsection .rodata.trampoline, \"a\"",
    ".balign 16",
    "trampoline_start:",
    ".code16",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    "lgdt [{gdtr}]",
    "mov eax, cr0",
    "or eax, 1",
    "mov cr0, eax",
    // The base travels to the next mode in EBX; CS is the page's segment.
    "xor ebx, ebx",
    "mov bx, cs",
    "shl ebx, 4",
    ".byte 0x66", // a 32-bit offset: the assembler has no name for this in 16-bit code
    "ljmp [{protected}]",
    ".code32",
    "trampoline_protected:",
    "mov ax, 0x10",
    "mov ds, ax",
    "mov es, ax",
    "mov ss, ax",
    "mov eax, cr4",
    "or eax, 0x20", // PAE
    "mov cr4, eax",
    "mov eax, [ebx + {temporary_root}]",
    "mov cr3, eax",
    "mov ecx, 0xc0000080", // EFER
    "rdmsr",
    "or eax, 0x900", // LME, NXE
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80010000", // PG, WP
    "mov cr0, eax",
    "ljmp [ebx + {long}]",
    ".code64",
    "trampoline_long:",
    "mov ebx, ebx",
    "mov rdi, [rbx + {kernel_root}]",
    "mov rsi, [rbx + {stack}]",
    "mov rax, [rbx + {entry}]",
    "jmp rax",
    "trampoline_end:",
    ".popsection",
    gdtr = const PARAMETERS + offset_of!(Parameters, gdt_limit),
    protected = const PARAMETERS + offset_of!(Parameters, protected_entry),
    long = const PARAMETERS + offset_of!(Parameters, long_entry),
    temporary_root = const PARAMETERS + offset_of!(Parameters, temporary_root),
    kernel_root = const PARAMETERS + offset_of!(Parameters, kernel_root),
    stack = const PARAMETERS + offset_of!(Parameters, stack),
    entry = const PARAMETERS + offset_of!(Parameters, entry),
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_protected: u8;
    static trampoline_long: u8;
    static trampoline_end: u8;
}

/// Where the trampoline jumps in the upper half: tables in RDI, stack in RSI.
///
/// # Safety
/// Only for the trampoline: the tables map the kernel and the stack, and this CPU runs on nothing else.
#[unsafe(naked)]
unsafe extern "C" fn upper_half() -> ! {
    naked_asm!(
        "mov cr3, rdi",
        "mov rsp, rsi",
        "xor ebp, ebp", // backtraces end here
        "call {rust}",
        "ud2",
        rust = sym super::other_cpu_entry,
    )
}

/// The installed trampoline.
pub(super) struct Page {
    physical: u64,
}

impl Page {
    /// The page's number: the start-up interrupt's vector.
    pub(super) fn number(&self) -> u8 {
        (self.physical >> 12) as u8
    }

    /// Sets the stack of the CPU that is started next. The one before must have left the trampoline.
    pub(super) fn set_stack(&self, top: u64) {
        let parameters = phys_to_virt(self.physical + PARAMETERS as u64).cast::<Parameters>();
        // SAFETY: `install` wrote the parameters there; only atomics are written after it.
        let stack = unsafe { &(*parameters).stack };
        // Release: before the start-up interrupt, which the started CPU's reads follow.
        stack.store(top, Ordering::Release);
    }
}

/// Copies the trampoline into low memory and builds its tables.
///
/// # Panics
/// If the frames are not below 1 MiB.
pub(super) fn install(low: &LowMemory, kernel_root: u64) -> Page {
    let page = low.start;
    assert!(page.is_multiple_of(4096) && page + LowMemory::FRAMES * 4096 <= 1 << 20, "trampoline frames at {page:#x}");
    let base = (&raw const trampoline_start).addr();
    let offset = |label: *const u8| (label.addr() - base) as u32;
    let len = offset(&raw const trampoline_end) as usize;
    assert!(len <= PARAMETERS, "trampoline of {len} bytes");
    // SAFETY: `len` bytes of our own read-only data, to a frame that nobody else uses (`LowMemory`).
    unsafe { ptr::copy_nonoverlapping(&raw const trampoline_start, phys_to_virt(page), len) };

    let [root, l3, l2, l1] = [1, 2, 3, 4].map(|frame| page + frame * 4096);
    let parameters = Parameters {
        _pad: 0,
        gdt_limit: (size_of::<[u64; 4]>() - 1) as u16,
        gdt_base: (page as usize + PARAMETERS + offset_of!(Parameters, gdt)) as u32,
        protected_entry: page as u32 + offset(&raw const trampoline_protected),
        protected_selector: 0x08,
        _pad2: 0,
        long_entry: page as u32 + offset(&raw const trampoline_long),
        long_selector: 0x18,
        _pad3: 0,
        temporary_root: root as u32,
        _pad4: 0,
        entry: (upper_half as *const ()).addr() as u64,
        kernel_root,
        stack: AtomicU64::new(0),
        gdt: [0, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00af_9b00_0000_ffff],
    };
    // SAFETY: inside the code's page, behind the code; aligned.
    unsafe { phys_to_virt(page + PARAMETERS as u64).cast::<Parameters>().write(parameters) };

    const PRESENT: u64 = 1;
    const WRITABLE: u64 = 2;
    for table in [root, l3, l2, l1] {
        // SAFETY: one of our frames.
        unsafe { ptr::write_bytes(phys_to_virt(table), 0, 4096) };
    }
    let half = 256 * 8;
    // SAFETY: the kernel's root is a table that stays; the upper halves are 2 KiB each.
    unsafe {
        ptr::copy_nonoverlapping(phys_to_virt(kernel_root + half), phys_to_virt(root + half), 2048);
    };
    let index = page >> 12;
    for (table, slot, value) in [
        (root, 0, l3 | PRESENT | WRITABLE),
        (l3, 0, l2 | PRESENT | WRITABLE),
        (l2, 0, l1 | PRESENT | WRITABLE),
        (l1, index, page | PRESENT),
    ] {
        // SAFETY: an entry of a table just made, which nobody walks yet. `index` is below 256.
        unsafe { phys_to_virt(table + slot * 8).cast::<u64>().write(value) };
    }
    Page { physical: page }
}
