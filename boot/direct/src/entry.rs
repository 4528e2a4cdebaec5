//! The way in: the PVH note, and from QEMU's 32-bit entry to Rust in 64-bit mode.
//!
//! The first 4 GiB are mapped as they are, writable and executable, by tables of 2 MiB pages that are filled in here. These
//! tables stay in use: what the kernel needs is added to them, and it builds its own at once.
//! Source: the PVH boot ABI (Xen, `docs/misc/pvh.pandoc`): EBX points to the start_info, paging is off, segments are flat.

use core::arch::global_asm;

use crate::refusal;

/// Bytes of the loader's own stack.
const STACK_SIZE: usize = 64 * 1024;

global_asm!(
    // XEN_ELFNOTE_PHYS32_ENTRY: by this QEMU knows where to begin.
    ".pushsection .note.pvh, \"a\", @note",
    ".balign 4",
    ".long 4, 8, 18",
    ".asciz \"Xen\"",
    ".quad pvh_start",
    ".popsection",
    //
    ".pushsection .bss.entry, \"aw\", @nobits",
    ".balign 4096",
    "root_table: .skip 4096",
    "directory_pointers: .skip 4096",
    "directories: .skip 4 * 4096",
    "stack: .skip {stack_size}",
    "stack_top:",
    ".popsection",
    //
    ".pushsection .rodata.entry, \"a\"",
    ".balign 8",
    // Null, 64-bit code, data: the selectors that the kernel's own table has too. Accessed bits set: nobody writes here.
    "segments: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff",
    "segments_pointer: .short 23",
    ".long segments",
    ".popsection",
    //
    ".pushsection .text.entry, \"ax\"",
    ".code32",
    ".globl pvh_start",
    "pvh_start:",
    "cli",
    "cld",
    "mov esp, offset stack_top",
    // 2048 pages of 2 MiB: present, writable, large.
    "mov edi, offset directories",
    "mov eax, 0x83",
    "2:",
    "mov [edi], eax",
    "mov dword ptr [edi + 4], 0",
    "add edi, 8",
    "add eax, 0x200000",
    "jnc 2b", // until 4 GiB
    "mov eax, offset directories + 3",
    "mov edi, offset directory_pointers",
    "mov ecx, 4",
    "3:",
    "mov [edi], eax",
    "add edi, 8",
    "add eax, 4096",
    "loop 3b",
    "mov dword ptr [root_table], offset directory_pointers + 3",
    "mov eax, cr4",
    "or eax, 0x20", // PAE
    "mov cr4, eax",
    "mov eax, offset root_table",
    "mov cr3, eax",
    "mov ecx, 0xc0000080", // EFER
    "rdmsr",
    "or eax, 0x900", // LME, NXE
    "wrmsr",
    "mov eax, cr0",
    "or eax, 0x80010000", // PG, WP
    "mov cr0, eax",
    "lgdt [segments_pointer]",
    "push 0x08",
    "mov eax, offset long_mode",
    "push eax",
    "retf",
    ".code64",
    "long_mode:",
    "mov eax, 0x10",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "xor ebp, ebp", // backtraces end here
    "mov rsp, offset stack_top",
    "mov edi, ebx",
    "call {rust}",
    "ud2",
    ".popsection",
    stack_size = const STACK_SIZE,
    rust = sym rust,
);

/// The first line of Rust.
extern "C" fn rust(start_info: u64) -> ! {
    match crate::load(start_info) {
        Ok(never) => match never {},
        Err(refusal) => refusal::refuse(format_args!("{refusal}")),
    }
}
