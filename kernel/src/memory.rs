//! Physical memory from the boot loader's map to the memory manager, and the one [`Memory`] of this machine.
//!
//! Boot takes its page tables from [`BootMemory`], a bump allocator over the usable regions; everything that is left goes
//! to the frame allocator, and the kernel heap is the first block out of that. Memory below 1 MiB is kept apart: the other CPUs begin there
//! ([`smp`](crate::arch::smp)). What the boot loader marked as its own (the kernel's image, the boot stack) is never reused.

use core::ops::RangeInclusive;

use abi::{Counter, PAGE_SIZE, Pair, ReadProtocol, UpdateProtocol};
use arrayvec::ArrayVec;
use bootloader_api::info::{MemoryRegion, MemoryRegionKind};
use mm::{Frames, Memory, Owner, PhysRange};

use crate::arch::paging;
use crate::arch::smp::LowMemory;
use crate::platform::Machine;
use crate::{fw_cfg, heap};

/// Most usable regions that are used; firmware gives one or two dozen.
const MAX_REGIONS: usize = 128;

/// The end of real mode's memory.
const LOW_END: u64 = 1 << 20;

/// The window covers at least this much, for the devices below it.
const WINDOW_MIN: u64 = 4 << 30;

/// Usable memory before there is a frame allocator.
pub struct BootMemory {
    /// Whole pages above 1 MiB, unused.
    regions: ArrayVec<PhysRange, MAX_REGIONS>,
    low: Option<LowMemory>,
    window_end: u64,
    usable: u64,
}

impl BootMemory {
    /// Reads the boot loader's map.
    pub fn survey(map: &[MemoryRegion]) -> BootMemory {
        let mut memory = BootMemory { regions: ArrayVec::new(), low: None, window_end: WINDOW_MIN, usable: 0 };
        for region in map {
            let usable = region.kind == MemoryRegionKind::Usable;
            if usable || region.kind == MemoryRegionKind::Bootloader {
                memory.window_end = memory.window_end.max(region.end.next_multiple_of(1 << 30));
            }
            if usable {
                memory.add(region.start.next_multiple_of(PAGE_SIZE), region.end & !(PAGE_SIZE - 1));
            }
        }
        memory
    }

    fn add(&mut self, start: u64, end: u64) {
        let low_start = start.max(PAGE_SIZE);
        if self.low.is_none() && low_start + LowMemory::FRAMES * PAGE_SIZE <= end.min(LOW_END) {
            self.low = Some(LowMemory { start: low_start });
        }
        let start = start.max(LOW_END);
        if start < end {
            self.usable += end - start;
            // The map is sorted, and has neighbours that differ in nothing that matters here.
            if let Some(last) = self.regions.last_mut().filter(|last| last.end == start) {
                last.end = end;
                return;
            }
            // More regions than there is room for stay unused.
            let _ = self.regions.try_push(PhysRange { start, end });
        }
    }

    /// Bytes above 1 MiB that can be used.
    pub fn usable(&self) -> u64 {
        self.usable
    }

    /// Number of separate usable regions.
    pub fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// Where the physical window must end.
    pub fn window_end(&self) -> u64 {
        self.window_end
    }

    /// Frames below 1 MiB for starting CPUs.
    pub fn take_low(&mut self) -> Option<LowMemory> {
        self.low.take()
    }

    /// Takes `bytes` (whole pages) of contiguous memory for ever; its physical address, contents undefined.
    pub fn take(&mut self, bytes: u64) -> Option<u64> {
        debug_assert!(bytes.is_multiple_of(PAGE_SIZE));
        // From the end of the last region that has it: low memory, which devices may want, goes last.
        let region = self.regions.iter_mut().rev().find(|region| region.end - region.start >= bytes)?;
        region.end -= bytes;
        Some(region.end)
    }

    /// Takes one zeroed frame for ever.
    pub fn take_zeroed_frame(&mut self) -> Option<u64> {
        let phys = self.take(PAGE_SIZE)?;
        // SAFETY: usable memory that was just taken out of the map, inside the window.
        unsafe { paging::phys_to_virt(phys).write_bytes(0, PAGE_SIZE as usize) };
        Some(phys)
    }
}

static MEMORY: spin::Once<Memory<Machine>> = spin::Once::new();

/// Share of memory that becomes the kernel heap.
const HEAP_SHARE: u64 = 8;
/// The heap's least and largest size, as orders of blocks of frames: 8 and 64 MiB. The largest is enough for the VMAs and tree
/// nodes of several address spaces with as many mappings as a process may have.
const HEAP_ORDERS: RangeInclusive<usize> = 11..=14;

/// Hands everything that is left to the frame allocator, gives the heap its block, and makes the machine's [`Memory`].
/// Called once. `None`: there is too little memory for the kernel itself.
pub fn init(boot: BootMemory) -> Option<&'static Memory<Machine>> {
    let wanted = boot.usable / PAGE_SIZE / HEAP_SHARE;
    // SAFETY: usable RAM by the firmware's map, less what `take` gave out; only the boot CPU runs.
    let frames = unsafe { Frames::new(&boot.regions) }.ok()?;
    take_heap(&frames, wanted)?;
    let memory = Memory::new(frames, chosen_pair()).ok()?;
    Some(MEMORY.call_once(|| memory))
}

/// The lock protocols that the launcher asks for, which has checked that they exist and go together.
fn chosen_pair() -> Pair {
    let mut buffer = [0; 16];
    let read = fw_cfg::read_small(abi::fw_cfg::VMA_LOCK, &mut buffer).and_then(named(ReadProtocol::from_name));
    let update = fw_cfg::read_small(abi::fw_cfg::UPDATE, &mut buffer).and_then(named(UpdateProtocol::from_name));
    let (read, update) = (read.unwrap_or(Pair::DEFAULT.read()), update.unwrap_or(Pair::DEFAULT.update()));
    Pair::new(read, update).unwrap_or(Pair::DEFAULT)
}

fn named<T>(from_name: fn(&str) -> Option<T>) -> impl Fn(&[u8]) -> Option<T> {
    move |name| from_name(str::from_utf8(name).ok()?)
}

/// Gives the kernel heap about `wanted` frames.
fn take_heap(frames: &Frames<Machine>, wanted: u64) -> Option<()> {
    let order = (wanted.max(1).ilog2() as usize).clamp(*HEAP_ORDERS.start(), *HEAP_ORDERS.end());
    // A smaller one, if the memory is in pieces.
    let block = (*HEAP_ORDERS.start()..=order).rev().find_map(|order| frames.alloc_order(order, Owner::Heap).ok())?;
    let size = block.size();
    // SAFETY: a block that nobody else has, and that is never given back (`into_raw`); the window maps it, writable.
    unsafe { heap::init(paging::phys_to_virt(block.into_raw()), size) };
    Some(())
}

/// This machine's memory.
///
/// # Panics
/// Before [`init`].
pub fn memory() -> &'static Memory<Machine> {
    MEMORY.get().expect("memory before boot has set it up")
}

/// Adds to this CPU's counter, once there are counters.
pub fn count(counter: Counter, n: u64) {
    if let Some(memory) = MEMORY.get() {
        memory.counters.add(counter, n);
    }
}
