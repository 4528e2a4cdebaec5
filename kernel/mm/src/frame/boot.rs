//! Making the allocator: metadata is carved out of the memory that it describes.
//!
//! Runs once, on one CPU, before there is a heap. The first region that is large enough loses its beginning to the
//! zone, the section table and the sections; everything else goes to the buddy allocator, in the largest blocks that
//! alignment allows.

use core::{
    mem::{align_of, size_of},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

use abi::MAX_CPUS;
use sync::{Class, Platform, spin_lock};

use super::{
    Frames, Zone,
    buddy::{Buddy, MAX_ORDER},
    cache::Cache,
    meta::{Pfn, SECTION_FRAMES, Section, State},
};
use crate::addr::{PAGE_SIZE, PhysRange, page_ceil, page_floor};

/// Bytes that one section describes.
const SECTION_BYTES: u64 = SECTION_FRAMES as u64 * PAGE_SIZE;

/// Bytes of the largest block, to which frame number 0 is aligned.
const BLOCK_BYTES: u64 = PAGE_SIZE << MAX_ORDER;

/// No region has room for the allocator's own metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

impl<P: Platform> Frames<P> {
    /// Takes over `regions`: memory that is usable, mapped in the physical window, and used by nobody. Partial pages at
    /// their ends, and the page at address 0, are left out.
    ///
    /// # Errors
    /// [`NoMemory`] if no region can hold the metadata of all of them (about 32 bytes for each page).
    ///
    /// # Safety
    /// The regions are disjoint RAM within 16 TiB, nobody else uses them from now on, and `P::phys_to_virt` and `P::cpu`
    /// work. Called before any other CPU runs.
    pub unsafe fn new(regions: &[PhysRange]) -> Result<Frames<P>, NoMemory> {
        let whole_pages = |region: &PhysRange| {
            let start = page_ceil(region.start)?.max(PAGE_SIZE);
            let end = page_floor(region.end);
            (start < end).then_some(PhysRange { start, end })
        };
        let base = regions.iter().filter_map(whole_pages).map(|region| region.start).min().ok_or(NoMemory)?;
        let base = base & !(BLOCK_BYTES - 1);
        // From here on, addresses are relative to `base`.
        let relative = |region: PhysRange| PhysRange { start: region.start - base, end: region.end - base };
        let usable = || regions.iter().filter_map(whole_pages).map(relative);

        let layout = Layout::of::<P>(usable());
        let home = usable().find(|region| region.end - region.start >= layout.bytes).ok_or(NoMemory)?;
        let carved = PhysRange { start: home.start, end: home.start + layout.bytes };

        let area = P::phys_to_virt(base + carved.start);
        // SAFETY: `layout` was computed for these regions; the carved range is page-aligned, large enough, mapped and
        // unused (the caller).
        let zone = unsafe { layout.write::<P>(area, usable()) };
        let frames = Frames { zone };
        // SAFETY: `zone` was just written, and nobody else has it yet.
        let zone = unsafe { &mut *frames.zone.as_ptr() };
        zone.base = base;
        zone.meta_frames = layout.bytes / PAGE_SIZE;
        zone.total = usable().map(|region| (region.end - region.start) / PAGE_SIZE).sum();
        for region in usable() {
            let start = if region == home { carved.end } else { region.start };
            frames.give_region(PhysRange { start, end: region.end });
        }
        Ok(frames)
    }

    fn give_region(&self, region: PhysRange) {
        let zone = self.zone();
        let mut pfn = (region.start / PAGE_SIZE) as Pfn;
        let end = (region.end / PAGE_SIZE) as Pfn;
        for each in pfn..end {
            zone.meta(each).set_state(State::Tail);
        }
        let mut buddy = zone.buddy.lock();
        while pfn < end {
            let aligned = (pfn.trailing_zeros() as usize).min(MAX_ORDER);
            let fitting = (end - pfn).ilog2() as usize;
            let order = aligned.min(fitting);
            buddy.give(zone, pfn, order);
            pfn += 1 << order;
        }
    }
}

/// Where the parts of the metadata lie, in bytes from its beginning.
struct Layout {
    table: usize,
    table_len: usize,
    sections: usize,
    /// All of it, in whole pages.
    bytes: u64,
}

impl Layout {
    fn of<P: Platform>(usable: impl Iterator<Item = PhysRange>) -> Layout {
        let mut table_len = 0;
        let mut sections = 0;
        for region in usable {
            table_len = table_len.max(region.end.div_ceil(SECTION_BYTES) as usize);
            // Regions that share a section count it twice: a few unused kilobytes, and no need for sorted regions.
            sections += (region.end.div_ceil(SECTION_BYTES) - region.start / SECTION_BYTES) as usize;
        }
        let table = size_of::<Zone<P>>().next_multiple_of(align_of::<usize>());
        let sections_at =
            (table + table_len * size_of::<Option<NonNull<Section<P>>>>()).next_multiple_of(align_of::<Section<P>>());
        let end = sections_at + sections * size_of::<Section<P>>();
        Layout { table, table_len, sections: sections_at, bytes: end.next_multiple_of(PAGE_SIZE as usize) as u64 }
    }

    /// # Safety
    /// `base` is page-aligned and valid for writes of `self.bytes`, for ever and by nobody else; `usable` yields the
    /// regions that `self` was computed for.
    unsafe fn write<P: Platform>(&self, base: *mut u8, usable: impl Iterator<Item = PhysRange>) -> NonNull<Zone<P>> {
        let base = NonNull::new(base).expect("the physical window is not at address 0");
        let zone = base.cast::<Zone<P>>();
        // SAFETY: inside the area (the caller).
        let table = unsafe { base.add(self.table) }.cast::<Option<NonNull<Section<P>>>>();
        for index in 0..self.table_len {
            // SAFETY: inside the table.
            let entry = unsafe { table.add(index) };
            // SAFETY: valid for writes (the caller).
            unsafe { entry.write(None) };
        }
        let sections = NonNull::slice_from_raw_parts(table, self.table_len);
        // SAFETY: inside the area.
        let mut next = unsafe { base.add(self.sections) }.cast::<Section<P>>();
        for region in usable {
            for index in region.start / SECTION_BYTES..region.end.div_ceil(SECTION_BYTES) {
                // SAFETY: `table_len` covers every region's end.
                let entry = unsafe { table.add(index as usize) };
                // SAFETY: initialised above.
                if unsafe { entry.read() }.is_some() {
                    continue;
                }
                // SAFETY: `layout` counted every section at least once; nobody else uses the area.
                unsafe { Section::write(next.as_ptr(), zone, (index * SECTION_FRAMES as u64) as Pfn) };
                // SAFETY: inside the table.
                unsafe { entry.write(Some(next)) };
                // SAFETY: at most one past the last section.
                next = unsafe { next.add(1) };
            }
        }
        // SAFETY: the zone is at the beginning of the area, valid for writes, and not initialised yet.
        unsafe { write_zone(zone, sections) };
        zone
    }
}

/// Writes an empty zone field by field: as one value it would be larger than a boot stack likes.
///
/// # Safety
/// `zone` is valid for writes, aligned, and used by nobody.
unsafe fn write_zone<P: Platform>(zone: NonNull<Zone<P>>, sections: NonNull<[Option<NonNull<Section<P>>>]>) {
    let zone = zone.as_ptr();
    // SAFETY: a field of what the caller lets us write.
    let field = unsafe { &raw mut (*zone).sections };
    // SAFETY: as above.
    unsafe { field.write(sections) };
    for field in [
        // SAFETY: as above.
        unsafe { &raw mut (*zone).base },
        // SAFETY: as above.
        unsafe { &raw mut (*zone).total },
        // SAFETY: as above.
        unsafe { &raw mut (*zone).meta_frames },
    ] {
        // SAFETY: as above.
        unsafe { field.write(0) };
    }
    // SAFETY: as above.
    let field = unsafe { &raw mut (*zone).fail_at };
    // SAFETY: as above.
    unsafe { field.write(AtomicU64::new(0)) };
    // SAFETY: as above.
    let field = unsafe { &raw mut (*zone).buddy };
    // SAFETY: as above.
    unsafe { field.write(spin_lock(Class::Buddy, Buddy::new())) };
    // SAFETY: as above.
    let caches = unsafe { &raw mut (*zone).caches }.cast::<Cache>();
    for index in 0..MAX_CPUS {
        // SAFETY: inside the array.
        let cache = unsafe { caches.add(index) };
        // SAFETY: as above.
        unsafe { cache.write(Cache::new()) };
    }
}
