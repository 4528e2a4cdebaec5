//! The kernel's ELF file becomes a kernel in memory: its segments, at the addresses that it is linked for.

use bootloader_api::BootloaderConfig;
use elf::ElfBytes;
use elf::abi::{PF_W, PF_X, PT_LOAD, PT_TLS};
use elf::endian::LittleEndian;
use x86_64::structures::paging::PageTableFlags;

use crate::memory::Memory;
use crate::refusal::Refusal;
use crate::tables::{Size4KiB, Tables};

const PAGE: u64 = 4096;

/// The section in which the kernel says what it wants of a boot loader.
const CONFIG: &str = ".bootloader-config";

/// A kernel in memory.
pub(crate) struct Kernel {
    /// Its first instruction.
    pub(crate) entry: u64,
    /// What it wants.
    pub(crate) config: BootloaderConfig,
    /// Where its first segment is mapped.
    pub(crate) virt: u64,
    /// Where that lies.
    pub(crate) phys: u64,
    /// Bytes from there to the end of the last segment.
    pub(crate) len: u64,
}

/// Loads the kernel in `file` into memory that it takes, and maps it.
///
/// # Errors
/// The file is no kernel, there is no memory, or its addresses cannot be mapped.
pub(crate) fn load(file: &[u8], memory: &mut Memory, tables: &mut Tables) -> Result<Kernel, Refusal> {
    const BAD: Refusal = Refusal::BadKernel("not an ELF file");
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| BAD)?;
    let config = elf.section_header_by_name(CONFIG).ok().flatten();
    let config = config.ok_or(Refusal::BadKernel("it has no boot configuration"))?;
    let (config, _) = elf.section_data(&config).map_err(|_| BAD)?;
    let config = BootloaderConfig::deserialize(config).map_err(Refusal::BadKernel)?;

    let segments = elf.segments().ok_or(BAD)?;
    if segments.iter().any(|segment| segment.p_type == PT_TLS) {
        return Err(Refusal::BadKernel("it wants thread-local storage"));
    }
    let loads = || segments.iter().filter(|segment| segment.p_type == PT_LOAD && segment.p_memsz > 0);
    let virt = loads().map(|segment| segment.p_vaddr & !(PAGE - 1)).min().ok_or(BAD)?;
    let end = loads().filter_map(|segment| segment.p_vaddr.checked_add(segment.p_memsz)).max().ok_or(BAD)?;
    let len = end - virt;
    let phys = memory.take(len)?;
    for segment in loads() {
        let bytes = elf.segment_data(&segment).map_err(|_| BAD)?;
        if segment.p_filesz > segment.p_memsz || bytes.len() as u64 > end - segment.p_vaddr {
            return Err(BAD);
        }
        let place = (phys + (segment.p_vaddr - virt)) as *mut u8;
        // SAFETY: `phys..phys + len` was taken for the kernel, is mapped where it lies, and the segment lies in it (checked);
        // the file does not.
        unsafe { place.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        let first = segment.p_vaddr & !(PAGE - 1);
        let bytes = (segment.p_vaddr + segment.p_memsz).next_multiple_of(PAGE) - first;
        tables.map::<Size4KiB>(first, phys + (first - virt), bytes, rights(segment.p_flags), memory)?;
    }
    Ok(Kernel { entry: elf.ehdr.e_entry, config, virt, phys, len })
}

fn rights(flags: u32) -> PageTableFlags {
    let mut rights = PageTableFlags::empty();
    rights.set(PageTableFlags::WRITABLE, flags & PF_W != 0);
    rights.set(PageTableFlags::NO_EXECUTE, flags & PF_X == 0);
    rights
}
