//! The kernel heap: what `Box` and `Arc` of `sync::alloc` stand on.
//!
//! A fixed region, reserved at boot. Small blocks (up to [`LARGEST`] bytes) come in power-of-two classes, each aligned to its
//! size, from three places in turn:
//!
//! 1. this CPU's cache of free blocks: last in, first out, interrupts off, no lock, no shared line;
//! 2. the class's shared list, under a spin lock, a batch of [`BATCH`] blocks at a time;
//! 3. a fresh page of the heap, cut into blocks. Such a page keeps its class for ever.
//!
//! Larger blocks come from `linked_list_allocator`, under the heap's spin lock; its time grows with the number of
//! holes, so nothing on a hot path is that large. Callable with interrupts on or off, under any spin lock, but not in an NMI.
//!
//! Out of memory is a null pointer, never a panic: `sync::alloc` turns it into an error.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use abi::MAX_CPUS;
use linked_list_allocator::Heap;
use sync::{Class, InterruptGuard, Platform, SpinLock};

use crate::platform::Machine;

/// The smallest class: room for the list link.
const SMALLEST: usize = 16;
/// The largest class.
const LARGEST: usize = 2048;
/// Number of classes: 16, 32, ... 2048.
const CLASSES: usize = (LARGEST / SMALLEST).ilog2() as usize + 1;
/// Blocks that move between a CPU's cache and the shared list at a time.
const BATCH: usize = 16;
/// A cache that holds more than this gives a batch back.
const CACHE_LIMIT: usize = 4 * BATCH;
/// What a class is refilled with.
const PAGE: usize = 4096;

/// A free block: the link to the next one lies in the block.
struct Block {
    next: Option<NonNull<Block>>,
}

/// A last-in-first-out list of free blocks of one class.
struct List {
    first: Option<NonNull<Block>>,
    len: usize,
}

// SAFETY: the blocks are plain free memory, owned by whoever has the list.
unsafe impl Send for List {}

impl List {
    const EMPTY: List = List { first: None, len: 0 };

    /// Adds a block.
    ///
    /// # Safety
    /// `block` is free memory of at least [`SMALLEST`] bytes, aligned to that, owned by the caller.
    unsafe fn push(&mut self, block: NonNull<u8>) {
        let block = block.cast::<Block>();
        // SAFETY: large and aligned enough, and ours, says the caller.
        unsafe { block.write(Block { next: self.first }) };
        self.first = Some(block);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<NonNull<u8>> {
        let block = self.first?;
        // SAFETY: `push` wrote the link, and the block is ours.
        self.first = unsafe { block.read() }.next;
        self.len -= 1;
        Some(block.cast())
    }

    /// Moves up to `count` blocks to `to`.
    fn give(&mut self, count: usize, to: &mut List) {
        for _ in 0..count {
            let Some(block) = self.pop() else { return };
            // SAFETY: a free block that was on our list.
            unsafe { to.push(block) };
        }
    }
}

/// One CPU's free blocks, on lines of their own.
#[repr(align(128))]
struct Cache(UnsafeCell<[List; CLASSES]>);

// SAFETY: element `n` of `CACHES` is used by CPU `n` only, with interrupts off (`with_cache`).
unsafe impl Sync for Cache {}

static CACHES: [Cache; MAX_CPUS] = [const { Cache(UnsafeCell::new([const { List::EMPTY }; CLASSES])) }; MAX_CPUS];

static SHARED: [SpinLock<Machine, List>; CLASSES] = [const { sync::spin_lock(Class::HeapList, List::EMPTY) }; CLASSES];

static REGION: SpinLock<Machine, Heap> = sync::spin_lock(Class::HeapRegion, Heap::empty());

/// The heap as Rust's allocator.
struct KernelHeap;

#[global_allocator]
static HEAP: KernelHeap = KernelHeap;

/// Gives the heap its memory. Called once, at boot.
///
/// # Safety
/// `start..start + size` is mapped, writable, page-aligned and used by nobody else, for ever.
pub unsafe fn init(start: *mut u8, size: usize) {
    // SAFETY: the caller's promise.
    unsafe { REGION.lock().init(start, size) };
}

/// Bytes of the heap that are in use, and its size: blocks cached for reuse count as in use.
pub fn usage() -> (usize, usize) {
    let region = REGION.lock();
    (region.used(), region.size())
}

/// The class for a layout, or `None` if it is too large for the classes.
fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size().max(layout.align()).max(SMALLEST).next_power_of_two();
    (size <= LARGEST).then(|| (size / SMALLEST).ilog2() as usize)
}

fn with_cache<T>(class: usize, f: impl FnOnce(&mut List) -> T) -> T {
    let _off = InterruptGuard::<Machine>::new();
    // SAFETY: this CPU's element; interrupts are off, so nothing else on this CPU uses it meanwhile, and `f`, which lives
    // in this file, does not allocate.
    let lists = unsafe { &mut *CACHES[Machine::cpu().index()].0.get() };
    f(&mut lists[class])
}

/// A block when this CPU's cache has none.
#[cold]
fn refill(class: usize, cache: &mut List) -> Option<NonNull<u8>> {
    let mut shared = SHARED[class].lock();
    if shared.len == 0 {
        let page = Layout::from_size_align(PAGE, PAGE).ok()?;
        let start = REGION.lock().allocate_first_fit(page).ok()?;
        let size = SMALLEST << class;
        // From the top down, so that blocks come out in address order.
        for offset in (0..PAGE).step_by(size).rev() {
            // SAFETY: inside the page that was just allocated.
            let block = unsafe { start.add(offset) };
            // SAFETY: a free piece of `size` bytes, aligned to `size`.
            unsafe { shared.push(block) };
        }
    }
    shared.give(BATCH, cache);
    cache.pop()
}

// SAFETY: blocks are handed out to one owner at a time: a block is in exactly one list or with its owner, and pages and large
// blocks come from `Heap`, which guarantees the same. Classes are at least as large and as aligned as the layout.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let block = match class_of(layout) {
            Some(class) => with_cache(class, |cache| cache.pop().or_else(|| refill(class, cache))),
            None => REGION.lock().allocate_first_fit(layout).ok(),
        };
        block.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(block) = NonNull::new(block) else { return };
        match class_of(layout) {
            Some(class) => with_cache(class, |cache| {
                // SAFETY: the caller gives back a block of this class.
                unsafe { cache.push(block) };
                if cache.len > CACHE_LIMIT {
                    cache.give(BATCH, &mut SHARED[class].lock());
                }
            }),
            // SAFETY: allocated from the region with this layout, says the caller.
            None => unsafe { REGION.lock().deallocate(block, layout) },
        }
    }
}
