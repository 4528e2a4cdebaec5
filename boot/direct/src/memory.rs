//! Physical memory: the map, sorted, and the frames that the loader takes for the kernel.
//!
//! Frames come from directly behind the loader's own image, upwards, so that everything that is taken is one range.

use core::ops::Range;

use arrayvec::ArrayVec;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use x86_64::PhysAddr;
use x86_64::structures::paging::{FrameAllocator, PhysFrame, Size4KiB};

use crate::refusal::Refusal;
use crate::start_info::MapEntry;

const PAGE: u64 = 4096;

/// The loader can reach memory below this.
const REACH: u64 = 4 << 30;

/// Most ranges of a map.
const MAX_ENTRIES: usize = 64;

/// Most ranges of the kernel's map: ours is cut out of one.
pub(crate) const MAX_REGIONS: usize = MAX_ENTRIES + 2;

unsafe extern "C" {
    /// The loader's first byte: the linker script's name for it.
    static image_start: u8;
    /// One past its last byte, page-aligned.
    static image_end: u8;
}

/// The machine's memory.
pub(crate) struct Memory {
    map: ArrayVec<MapEntry, MAX_ENTRIES>,
    /// The loader's image and all frames taken.
    used: Range<u64>,
    /// Frames end here.
    limit: u64,
}

impl Memory {
    /// Sorts the map and finds room behind the loader, below the `kernel`'s file.
    ///
    /// # Errors
    /// The map is of no use.
    pub(crate) fn survey(map: &[MapEntry], kernel: &[u8]) -> Result<Memory, Refusal> {
        let mut sorted: ArrayVec<MapEntry, MAX_ENTRIES> = ArrayVec::new();
        for &entry in map.iter().filter(|entry| entry.size > 0) {
            sorted.try_push(entry).map_err(|_| Refusal::BadMemoryMap)?;
        }
        sorted.sort_unstable_by_key(|entry| entry.start);
        if sorted.windows(2).any(|pair| pair[0].start + pair[0].size > pair[1].start) {
            return Err(Refusal::BadMemoryMap);
        }
        let used = (&raw const image_start).addr() as u64..(&raw const image_end).addr() as u64;
        let around = |entry: &&MapEntry| entry.start <= used.start && used.end <= entry.start + entry.size;
        let home = sorted.iter().find(around).filter(|entry| entry.kind == MapEntry::RAM);
        let mut limit = home.map(|home| home.start + home.size).ok_or(Refusal::BadMemoryMap)?.min(REACH);
        let file = kernel.as_ptr().addr() as u64;
        if file >= used.end {
            limit = limit.min(file & !(PAGE - 1));
        }
        Ok(Memory { map: sorted, used, limit })
    }

    /// One past the last byte of memory.
    pub(crate) fn end(&self) -> u64 {
        let ram = self.map.iter().filter(|entry| entry.kind == MapEntry::RAM);
        ram.map(|entry| entry.start + entry.size).max().unwrap_or(0)
    }

    /// Takes `bytes` of contiguous memory, rounded up to whole pages, for ever: its physical address. It is zeroed.
    ///
    /// # Errors
    /// There is not as much.
    pub(crate) fn take(&mut self, bytes: u64) -> Result<u64, Refusal> {
        let start = self.used.end;
        let bytes = bytes.next_multiple_of(PAGE);
        if bytes > self.limit.saturating_sub(start) {
            return Err(Refusal::NoMemory);
        }
        self.used.end += bytes;
        // SAFETY: memory by the map, below 4 GiB and hence mapped where it lies, that nobody else has: it is behind
        // everything taken before and before the kernel's file.
        unsafe { (start as *mut u8).write_bytes(0, bytes as usize) };
        Ok(start)
    }

    /// The map for the kernel: the loader's image and what it took are marked as the boot loader's. The kernel's file is
    /// free: its segments are copies.
    pub(crate) fn regions(&self) -> ArrayVec<MemoryRegion, MAX_REGIONS> {
        let mut regions = ArrayVec::new();
        for entry in &self.map {
            let end = entry.start + entry.size;
            let ram = entry.kind == MapEntry::RAM;
            let kind = if ram { MemoryRegionKind::Usable } else { MemoryRegionKind::UnknownBios(entry.kind) };
            if ram && entry.start <= self.used.start && self.used.start < end {
                regions.push(MemoryRegion { start: entry.start, end: self.used.start, kind });
                regions.push(MemoryRegion { kind: MemoryRegionKind::Bootloader, ..region(&self.used) });
                regions.push(MemoryRegion { start: self.used.end, end, kind });
            } else {
                regions.push(MemoryRegion { start: entry.start, end, kind });
            }
        }
        regions.retain(|region| region.start < region.end);
        regions
    }
}

fn region(range: &Range<u64>) -> MemoryRegion {
    MemoryRegion { start: range.start, end: range.end, ..MemoryRegion::empty() }
}

// SAFETY: `take` gives out each frame once, and none that is in use.
unsafe impl FrameAllocator<Size4KiB> for Memory {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let phys = self.take(PAGE).ok()?;
        PhysFrame::from_start_address(PhysAddr::new(phys)).ok()
    }
}
