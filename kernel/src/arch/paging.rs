//! The kernel's own page tables: the upper half that every address space shares.
//!
//! | region | from | what |
//! |---|---|---|
//! | physical window | [`WINDOW`] | all memory, writable, never executable, 1 GiB or 2 MiB pages |
//! | kernel stacks | [`STACKS`] | each with an unmapped guard page below |
//! | devices | [`DEVICES`] | the local APIC, uncached |
//! | boot stack | [`BOOT_STACK`] | the boot CPU's first stack, made by the boot loader |
//! | image | [`IMAGE`] | text read-execute, constants read-only, data read-write: by the ELF segments |
//!
//! No page is writable and executable ([`check`] walks the tables and says so), and no frame is executable in the image and
//! writable there at another address; the window alone sees all frames as data. All pages are global. Every root entry that
//! these regions need exists before the first address space is made, and none is added later, so an address space
//! shares them by copying the upper 256 entries of [`kernel_root`].
//!
//! Only the boot CPU changes these tables before other CPUs run; later changes ([`map_page`], [`unmap_page`]) are made under
//! [`TABLES`]. New translations need no TLB to be told; whoever removes some takes care of all TLBs (`stack::drain`).

use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

use super::cpu;
use crate::platform::Machine;
use sync::{Class, SpinLock};

/// Start of the physical window: physical address `p` is at `WINDOW + p`.
pub const WINDOW: u64 = 0xffff_8000_0000_0000;
/// Start of the kernel stacks' region.
pub const STACKS: u64 = 0xffff_c000_0000_0000;
/// End of the kernel stacks' region: as much as one root entry holds.
pub const STACKS_END: u64 = STACKS + (1 << 39);
/// Start of the devices' region.
pub const DEVICES: u64 = 0xffff_d000_0000_0000;
/// The local APIC's page.
pub const LOCAL_APIC: u64 = DEVICES;
/// Where the boot loader puts the boot CPU's stack.
pub const BOOT_STACK: u64 = 0xffff_e000_0000_0000;
/// Where the boot loader puts its own report; not mapped by our tables.
pub const BOOT_INFO: u64 = 0xffff_e800_0000_0000;
/// Where the kernel is linked.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const HUGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Physical address of the kernel's root table; 0 until [`activate`].
static ROOT: AtomicU64 = AtomicU64::new(0);

/// Serialises [`map_page`].
static TABLES: SpinLock<Machine, ()> = sync::spin_lock(Class::KernelTables, ());

/// What a kernel page may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Constants.
    Read,
    /// Data.
    ReadWrite,
    /// Code.
    ReadExecute,
    /// Device registers: data, uncached.
    Device,
}

impl Rights {
    fn bits(self) -> u64 {
        // Accessed and dirty are set at once: nothing asks the kernel's pages for them.
        let common = PRESENT | GLOBAL | ACCESSED;
        match self {
            Rights::Read => common | NO_EXECUTE,
            Rights::ReadWrite => common | WRITABLE | DIRTY | NO_EXECUTE,
            Rights::ReadExecute => common,
            Rights::Device => common | WRITABLE | DIRTY | NO_EXECUTE | CACHE_DISABLE | WRITE_THROUGH,
        }
    }
}

/// Where the kernel reads and writes physical address `phys`.
#[inline]
pub fn phys_to_virt(phys: u64) -> *mut u8 {
    ptr::with_exposed_provenance_mut((WINDOW + phys) as usize)
}

/// Physical address of the kernel's root table.
pub fn kernel_root() -> u64 {
    ROOT.load(Ordering::Relaxed)
}

/// Size of the page that an entry of `level` (4: root, 1: leaf table) maps or spans.
const fn span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

const fn index(virt: u64, level: u32) -> u64 {
    virt / span(level) % 512
}

/// An entry of a table. Hardware reads it at any time, hence an atomic.
fn entry(table: u64, index: u64) -> &'static AtomicU64 {
    debug_assert!(index < 512 && table.is_multiple_of(4096));
    // SAFETY: callers pass physical addresses of tables, all inside the window; kernel tables are never freed.
    unsafe { AtomicU64::from_ptr(phys_to_virt(table + index * 8).cast()) }
}

/// Tables under construction or in use, with a source of zeroed frames for more of them.
pub struct Mapper<F> {
    root: u64,
    frame: F,
}

/// There is no frame for another table.
#[derive(Clone, Copy, Debug)]
pub struct NoFrame;

impl<F: FnMut() -> Option<u64>> Mapper<F> {
    /// Begins a new, empty tree. `frame` gives physical addresses of zeroed frames that stay tables for ever.
    pub fn new(mut frame: F) -> Result<Mapper<F>, NoFrame> {
        let root = frame().ok_or(NoFrame)?;
        Ok(Mapper { root, frame })
    }

    /// The table of `level` on the way to `virt`, made if need be.
    fn table(&mut self, virt: u64, level: u32) -> Result<u64, NoFrame> {
        let mut table = self.root;
        for parent in (level + 1..=4).rev() {
            let slot = entry(table, index(virt, parent));
            let mut value = slot.load(Ordering::Relaxed);
            if value & PRESENT == 0 {
                value = (self.frame)().ok_or(NoFrame)? | PRESENT | WRITABLE | ACCESSED;
                // Release: a walker that sees the entry sees the zeroed table.
                slot.store(value, Ordering::Release);
            }
            assert!(value & HUGE == 0, "{virt:#x} is inside a large page");
            table = value & ADDRESS;
        }
        Ok(table)
    }

    /// Maps one page of the size that `level` spans (1: 4 KiB, 2: 2 MiB, 3: 1 GiB).
    ///
    /// # Panics
    /// If something is mapped there.
    pub fn map(&mut self, virt: u64, phys: u64, level: u32, rights: Rights) -> Result<(), NoFrame> {
        debug_assert!(virt.is_multiple_of(span(level)) && phys.is_multiple_of(span(level)));
        let table = self.table(virt, level)?;
        let slot = entry(table, index(virt, level));
        assert!(slot.load(Ordering::Relaxed) & PRESENT == 0, "{virt:#x} is mapped already");
        let size = if level > 1 { HUGE } else { 0 };
        slot.store(phys | rights.bits() | size, Ordering::Release);
        Ok(())
    }

    /// Makes sure that the root entry for `virt` exists, so that address spaces share what comes below it later.
    pub fn reserve_root_entry(&mut self, virt: u64) -> Result<(), NoFrame> {
        self.table(virt, 3).map(|_| ())
    }
}

/// One loadable segment of the kernel's own ELF file, as it lies in memory.
struct Segment {
    start: u64,
    end: u64,
    rights: Rights,
}

/// The kernel's segments, from its ELF program headers, which the first segment contains.
fn segments() -> impl Iterator<Item = Segment> {
    #[repr(C)]
    struct ProgramHeader {
        kind: u32,
        flags: u32,
        offset: u64,
        virt: u64,
        phys: u64,
        file_size: u64,
        memory_size: u64,
        align: u64,
    }
    unsafe extern "C" {
        /// The ELF header: the linker's name for the image's first byte.
        static __ehdr_start: u8;
    }
    const LOAD: u32 = 1;
    const EXECUTE: u32 = 1;
    const WRITE: u32 = 2;
    let header = &raw const __ehdr_start;
    // SAFETY: the ELF64 header is mapped; `e_phoff` is at offset 32, aligned.
    let offset = unsafe { header.wrapping_add(32).cast::<u64>().read() };
    // SAFETY: as above; `e_phnum` is at offset 56.
    let count = unsafe { header.wrapping_add(56).cast::<u16>().read() };
    let first = header.wrapping_add(offset as usize).cast::<ProgramHeader>();
    // SAFETY: the linker puts `count` program headers directly behind the header, in the same segment; never written.
    let headers = unsafe { core::slice::from_raw_parts(first, usize::from(count)) };
    headers.iter().filter(|header| header.kind == LOAD).map(|header| Segment {
        start: header.virt & !0xfff,
        end: (header.virt + header.memory_size).next_multiple_of(4096),
        rights: match (header.flags & WRITE != 0, header.flags & EXECUTE != 0) {
            (false, false) => Rights::Read,
            (true, false) => Rights::ReadWrite,
            (false, true) => Rights::ReadExecute,
            (true, true) => panic!("the kernel has a segment that is writable and executable"),
        },
    })
}

/// What the kernel's tables must map, beside the image.
pub struct Layout {
    /// End of physical memory: the window covers `0..window_end`, at least the first 4 GiB.
    pub window_end: u64,
    /// The boot CPU's stack.
    pub boot_stack: core::ops::Range<u64>,
    /// Physical address of the local APIC.
    pub local_apic: u64,
}

/// Builds the kernel's tables out of frames from `frame`, and switches this CPU to them: the boot loader's tables, and
/// with them the lower half, are gone then.
///
/// # Panics
/// If there are not enough frames, or the image is not mapped as it says.
pub fn init(layout: &Layout, frame: impl FnMut() -> Option<u64>) {
    build(layout, frame).expect("no memory for the kernel's page tables");
    activate();
}

fn build(layout: &Layout, frame: impl FnMut() -> Option<u64>) -> Result<(), NoFrame> {
    let loader_root = cpu::current_root();
    let mut mapper = Mapper::new(frame)?;
    let level = if cpu::Features::read().gib_pages { 3 } else { 2 };
    let mut phys = 0;
    while phys < layout.window_end {
        mapper.map(WINDOW + phys, phys, level, Rights::ReadWrite)?;
        phys += span(level);
    }
    let mut last = None;
    for segment in segments() {
        // The boot loader maps the file's own frames. Segments that share a page of the file would make it both.
        let first = translate_in(loader_root, segment.start);
        assert!(
            last.is_none_or(|(frame, rights)| Some(frame) != first || rights == segment.rights),
            "segments share a frame"
        );
        copy_mapping(&mut mapper, loader_root, segment.start..segment.end, segment.rights)?;
        last = translate_in(loader_root, segment.end - 4096).map(|frame| (frame, segment.rights));
    }
    copy_mapping(&mut mapper, loader_root, layout.boot_stack.clone(), Rights::ReadWrite)?;
    mapper.map(LOCAL_APIC, layout.local_apic, 1, Rights::Device)?;
    mapper.reserve_root_entry(STACKS)?;
    ROOT.store(mapper.root, Ordering::Relaxed);
    Ok(())
}

/// Maps the frames that the boot loader chose for `range` at the same addresses.
fn copy_mapping<F: FnMut() -> Option<u64>>(
    mapper: &mut Mapper<F>,
    loader_root: u64,
    range: core::ops::Range<u64>,
    rights: Rights,
) -> Result<(), NoFrame> {
    for virt in range.step_by(4096) {
        let phys = translate_in(loader_root, virt).expect("the boot loader did not map all of the kernel");
        mapper.map(virt, phys, 1, rights)?;
    }
    Ok(())
}

/// Makes this CPU use the kernel's tables, and no stale global page of the boot loader's.
fn activate() {
    // SAFETY: the tables map the running code, this stack and everything that the kernel uses at the same addresses.
    unsafe { cpu::load_root(kernel_root()) };
    flush_global();
}

/// Drops all of this CPU's translations, global ones too (SDM vol. 3, 4.10.4.1: any change of CR4.PGE does it).
pub fn flush_global() {
    use x86_64::registers::control::{Cr4, Cr4Flags};
    let flags = Cr4::read();
    // SAFETY: without global pages everything works as before.
    unsafe { Cr4::write(flags.difference(Cr4Flags::PAGE_GLOBAL)) };
    // SAFETY: back to what it was.
    unsafe { Cr4::write(flags) };
}

/// Maps one 4 KiB page of the kernel's half, in a region whose root entry exists. `frame` gives zeroed frames for tables,
/// which are never freed.
///
/// # Panics
/// If something is mapped there.
pub fn map_page(virt: u64, phys: u64, rights: Rights, frame: impl FnMut() -> Option<u64>) -> Result<(), NoFrame> {
    let _tables = TABLES.lock();
    let mut mapper = Mapper { root: kernel_root(), frame };
    debug_assert!(entry(mapper.root, index(virt, 4)).load(Ordering::Relaxed) & PRESENT != 0);
    mapper.map(virt, phys, 1, rights)
}

/// Makes all tables for 4 KiB pages in `range` (2 MiB-aligned), so that [`map_page`] needs no frame there.
///
/// # Errors
/// [`NoFrame`]; the tables made so far stay.
pub fn reserve_tables(range: core::ops::Range<u64>, frame: impl FnMut() -> Option<u64>) -> Result<(), NoFrame> {
    let _tables = TABLES.lock();
    let mut mapper = Mapper { root: kernel_root(), frame };
    for virt in range.step_by(span(2) as usize) {
        mapper.table(virt, 1)?;
    }
    Ok(())
}

/// Unmaps one 4 KiB page of the kernel's half and returns its frame. CPUs may still have it in their TLBs: the caller keeps the
/// frame until each has passed [`flush_global`]. Tables stay.
///
/// # Panics
/// If nothing is mapped there.
pub fn unmap_page(virt: u64) -> u64 {
    let _tables = TABLES.lock();
    let mut mapper = Mapper { root: kernel_root(), frame: || None };
    let table = mapper.table(virt, 1).expect("a mapped page has a table");
    let old = entry(table, index(virt, 1)).swap(0, Ordering::AcqRel);
    assert!(old & PRESENT != 0, "{virt:#x} is not mapped");
    old & ADDRESS
}

/// The physical address behind a kernel address, by the kernel's tables.
pub fn translate(virt: u64) -> Option<u64> {
    translate_in(cpu::current_root(), virt)
}

fn translate_in(root: u64, virt: u64) -> Option<u64> {
    let mut table = root;
    for level in (1..=4).rev() {
        let value = entry(table, index(virt, level)).load(Ordering::Acquire);
        if value & PRESENT == 0 {
            return None;
        }
        if level == 1 || value & HUGE != 0 {
            let offset = virt % span(level);
            return Some((value & ADDRESS & !(span(level) - 1)) + offset);
        }
        table = value & ADDRESS;
    }
    None
}

/// Whether `virt` is in an unmapped page of a stack region: what a stack overflow touches.
pub fn is_stack_guard(virt: u64) -> bool {
    let in_region = (STACKS..STACKS_END).contains(&virt) || (BOOT_STACK - 0x1000..BOOT_INFO).contains(&virt);
    in_region && translate(virt).is_none()
}

/// What [`check`] counted, in 4 KiB pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageCounts {
    /// Executable pages.
    pub execute: u64,
    /// Read-only pages that are not executable.
    pub read: u64,
    /// Writable pages.
    pub write: u64,
}

/// Walks a root's whole upper half and counts its pages by rights.
///
/// # Errors
/// The address of the first page that is writable and executable, or open to user mode.
pub fn check(root: u64) -> Result<PageCounts, u64> {
    let mut counts = PageCounts::default();
    check_table(root, 4, 0xffff_0000_0000_0000, Path { writable: true, executable: true, user: true }, &mut counts)?;
    Ok(counts)
}

/// Rights that all entries on the way down grant.
#[derive(Clone, Copy)]
struct Path {
    writable: bool,
    executable: bool,
    user: bool,
}

fn check_table(table: u64, level: u32, base: u64, above: Path, counts: &mut PageCounts) -> Result<(), u64> {
    const USER: u64 = 1 << 2;
    let first = if level == 4 { 256 } else { 0 };
    for index in first..512 {
        let value = entry(table, index).load(Ordering::Acquire);
        if value & PRESENT == 0 {
            continue;
        }
        let virt = base + index * span(level);
        let path = Path {
            writable: above.writable && value & WRITABLE != 0,
            executable: above.executable && value & NO_EXECUTE == 0,
            user: above.user && value & USER != 0,
        };
        if level > 1 && value & HUGE == 0 {
            check_table(value & ADDRESS, level - 1, virt, path, counts)?;
            continue;
        }
        let pages = span(level) / 4096;
        match path {
            Path { user: true, .. } | Path { writable: true, executable: true, .. } => return Err(virt),
            Path { executable: true, .. } => counts.execute += pages,
            Path { writable: true, .. } => counts.write += pages,
            Path { .. } => counts.read += pages,
        }
    }
    Ok(())
}
