//! What QEMU hands over at the PVH entry: `hvm_start_info`, its memory map and its one module, the kernel's ELF file.
//!
//! Source: Xen, `public/arch-x86/hvm/start_info.h`. Structures are `packed`: no alignment is promised, and qboot keeps none.

use core::slice;

use crate::refusal::Refusal;

const MAGIC: u32 = 0x336e_c578;

/// What the first version lacks: the memory map.
const WITH_MAP: u32 = 1;

#[repr(C, packed)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    modules_len: u32,
    modules: u64,
    command_line: u64,
    root_pointer: u64,
    memory_map: u64,
    memory_map_len: u32,
    reserved: u32,
}

#[repr(C, packed)]
struct Module {
    address: u64,
    size: u64,
    command_line: u64,
    reserved: u64,
}

/// A range of the memory map.
#[repr(C, packed)]
#[derive(Clone, Copy)]
pub(crate) struct MapEntry {
    /// First address.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) size: u64,
    /// As BIOS function E820 numbers them.
    pub(crate) kind: u32,
    reserved: u32,
}

impl MapEntry {
    /// [`MapEntry::kind`] of memory that can be used.
    pub(crate) const RAM: u32 = 1;
}

/// What was handed over.
pub(crate) struct Given {
    /// The kernel's ELF file.
    pub(crate) kernel: &'static [u8],
    /// Physical address of the root of the ACPI tables.
    pub(crate) root_pointer: u64,
    /// In no particular order.
    pub(crate) memory_map: &'static [MapEntry],
}

/// Reads the structure at `address`, all of which lies below 4 GiB.
///
/// # Errors
/// It is none, or something is missing.
///
/// # Safety
/// `address` is what the PVH entry was handed, and memory is as it was then.
pub(crate) unsafe fn read(address: u64) -> Result<Given, Refusal> {
    // SAFETY: QEMU's structure, says the caller; all of low memory is mapped, and it needs no alignment.
    let info = unsafe { &*(address as *const StartInfo) };
    if info.magic != MAGIC || info.version < WITH_MAP || info.memory_map_len == 0 {
        return Err(Refusal::NoStartInfo);
    }
    if info.modules_len == 0 {
        return Err(Refusal::NoKernel);
    }
    // SAFETY: as above: there is at least one.
    let module = unsafe { &*(info.modules as *const Module) };
    // SAFETY: as above, with the lengths that QEMU gave; the loader writes to neither.
    let kernel = unsafe { slice::from_raw_parts(module.address as *const u8, module.size as usize) };
    // SAFETY: as above.
    let memory_map = unsafe { slice::from_raw_parts(info.memory_map as *const MapEntry, info.memory_map_len as usize) };
    if info.root_pointer == 0 {
        return Err(Refusal::NoRootPointer);
    }
    Ok(Given { kernel, root_pointer: info.root_pointer, memory_map })
}
