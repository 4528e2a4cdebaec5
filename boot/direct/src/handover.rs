//! The last step: what the kernel's configuration asks for, the report on it ([`BootInfo`]), and the jump.

use core::arch::asm;
use core::convert::Infallible;
use core::slice;

use bootloader_api::BootInfo;
use bootloader_api::config::Mapping;
use bootloader_api::info::{MemoryRegion, Optional};
use x86_64::structures::paging::PageTableFlags;

use crate::image::Kernel;
use crate::memory::{MAX_REGIONS, Memory};
use crate::refusal::Refusal;
use crate::tables::{Size2MiB, Size4KiB, Tables};

const PAGE: u64 = 4096;

/// The window covers at least this much, for the devices below it.
const WINDOW_MIN: u64 = 4 << 30;

const DATA: PageTableFlags = PageTableFlags::WRITABLE.union(PageTableFlags::NO_EXECUTE);

/// What is handed over, as it lies in memory.
#[repr(C)]
struct Report {
    info: BootInfo,
    regions: [MemoryRegion; MAX_REGIONS],
}

/// Maps what the kernel asked for, and enters it.
///
/// # Errors
/// Not all of it can be done.
pub(crate) fn enter(
    kernel: &Kernel,
    root_pointer: u64,
    mut memory: Memory,
    mut tables: Tables,
) -> Result<Infallible, Refusal> {
    let wanted = &kernel.config.mappings;

    let window = wanted.physical_memory.map(fixed).transpose()?;
    if let Some(window) = window {
        let bytes = memory.end().max(WINDOW_MIN);
        tables.map::<Size2MiB>(window, 0, bytes, DATA, &mut memory)?;
    }

    // The first page of the place stays unmapped: an overflow must fault.
    let stack = fixed(wanted.kernel_stack)? + PAGE;
    let stack_len = kernel.config.kernel_stack_size.next_multiple_of(PAGE);
    let stack_phys = memory.take(stack_len)?;
    tables.map::<Size4KiB>(stack, stack_phys, stack_len, DATA, &mut memory)?;

    let at = fixed(wanted.boot_info)?;
    let len = (size_of::<Report>() as u64).next_multiple_of(PAGE);
    let phys = memory.take(len)?;
    tables.map::<Size4KiB>(at, phys, len, DATA, &mut memory)?;

    // From here on nothing is taken any more: the map is final.
    let report = at as *mut Report;
    let regions = memory.regions();
    // SAFETY: mapped just now, for a `Report`.
    let first = unsafe { &raw mut (*report).regions }.cast::<MemoryRegion>();
    // SAFETY: room for as many as `regions` can hold.
    unsafe { first.copy_from_nonoverlapping(regions.as_ptr(), regions.len()) };
    // SAFETY: written just now; the one reference to them goes into the report.
    let regions = unsafe { slice::from_raw_parts_mut(first, regions.len()) };
    let mut info = BootInfo::new(regions.into());
    info.physical_memory_offset = window.map_or(Optional::None, Optional::Some);
    info.rsdp_addr = Optional::Some(root_pointer);
    // The image, which begins with the file's headers: the file itself is not kept.
    (info.kernel_addr, info.kernel_len, info.kernel_image_offset) = (kernel.phys, kernel.len, kernel.virt);
    (info.kernel_stack_bottom, info.kernel_stack_len) = (stack, stack_len);
    // SAFETY: as for the regions, which lie behind it.
    let place = unsafe { &raw mut (*report).info };
    // SAFETY: as above.
    unsafe { place.write(info) };

    // SAFETY: the kernel's entry takes the report's address as a C function does, on a stack from which it never returns.
    // Everything it needs is mapped, the loader's segments are those that it expects (code 0x08, data 0x10), and
    // interrupts are off.
    unsafe {
        asm!(
            "mov rsp, {stack}",
            "xor ebp, ebp",
            "push 0", // where a caller's address would be
            "jmp {entry}",
            stack = in(reg) stack + stack_len,
            entry = in(reg) kernel.entry,
            in("rdi") place,
            options(noreturn),
        )
    }
}

/// The address that a mapping asks for.
fn fixed(mapping: Mapping) -> Result<u64, Refusal> {
    match mapping {
        Mapping::FixedAddress(address) => Ok(address),
        Mapping::Dynamic => Err(Refusal::BadKernel("it leaves the choice of an address to the loader")),
    }
}
