//! Physical frames: who has which, and who gets the next one.
//!
//! [`Frames`] is a handle to a *zone*, which lives, with all metadata, in memory that it carved out of the regions it
//! was given: the allocator needs no heap, and the kernel's heap is made from its frames. A [`Frame`] owns its memory
//! and gives it back when dropped.
//!
//! Guarantees: every usable frame is free, cached by one CPU, or owned by one named [`Owner`], and [`Frames::usage`]
//! adds up; running out is a value; freeing a frame that is not allocated stops the kernel. Debug builds fill freed frames
//! with junk.
//!
//! Interrupts are off while a CPU works on its own cache; the buddy allocator behind has a spin lock, which is a leaf.
//! So frames can be had and freed anywhere: in interrupt handlers, under spin locks, inside the slot section.
//!
//! Called by the fault path, page tables, and the kernel's boot, stacks and heap.

mod boot;
mod buddy;
mod cache;
mod list;
mod meta;
mod owner;

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use abi::MAX_CPUS;
use sync::{InterruptGuard, Platform, Rcu, RcuHead, SpinLock, point};

pub(crate) use self::list::FrameList;
pub use self::{
    boot::NoMemory,
    buddy::MAX_ORDER,
    owner::{OWNERS, Owner},
};
use self::{
    buddy::Buddy,
    cache::{BATCH, Cache},
    meta::{FrameMeta, Pfn, SECTION_FRAMES, Section, State},
};
use crate::{addr::PAGE_SIZE, error::OutOfMemory};

/// What freed frames are filled with in debug builds.
const JUNK: u8 = 0xa5;

/// Everything that the allocator knows; lives for ever, inside the memory that it manages.
struct Zone<P: Platform> {
    /// Physical address of frame number 0: below all regions, and aligned to the largest block. 0 on a real machine;
    /// hosted machines have their memory anywhere.
    base: u64,
    /// Section of each 2 MiB of physical memory, from `base` on.
    sections: NonNull<[Option<NonNull<Section<P>>>]>,
    /// Frames in all regions together.
    total: u64,
    /// Of these, frames that hold metadata.
    meta_frames: u64,
    /// Injected failure: the n-th allocation from now on fails, and all after it; 0 is never.
    fail_at: AtomicU64,
    buddy: SpinLock<P, Buddy>,
    caches: [Cache; MAX_CPUS],
}

/// The frame allocator. A copyable handle: all copies mean the same frames.
pub struct Frames<P: Platform> {
    zone: NonNull<Zone<P>>,
}

// SAFETY: the zone lives for ever and is reached only through atomics and its lock.
unsafe impl<P: Platform> Send for Frames<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Frames<P> {}

impl<P: Platform> Clone for Frames<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Platform> Copy for Frames<P> {}

/// How all frames are used. `free + cached + owned[..] == total` whenever nothing is being allocated or freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// All usable frames, metadata included.
    pub total: u64,
    /// In the buddy allocator.
    pub free: u64,
    /// In the CPUs' caches.
    pub cached: u64,
    /// Allocated, by [`Owner`] (as index).
    pub owned: [u64; OWNERS],
}

impl Usage {
    /// Frames of `owner`.
    pub const fn owned_by(&self, owner: Owner) -> u64 {
        self.owned[owner as usize]
    }

    /// Frames that can be had: free or cached.
    pub const fn available(&self) -> u64 {
        self.free + self.cached
    }

    /// Whether every frame is accounted for.
    pub fn adds_up(&self) -> bool {
        self.available() + self.owned.iter().sum::<u64>() == self.total
    }
}

impl<P: Platform> Frames<P> {
    /// One frame for `owner`, its contents undefined: last in, first out.
    ///
    /// # Errors
    /// [`OutOfMemory`] when neither this CPU's cache nor the buddy allocator has one.
    pub fn alloc(&self, owner: Owner) -> Result<Frame<P>, OutOfMemory> {
        let zone = self.zone();
        zone.injected_failure()?;
        let _off = InterruptGuard::<P>::new();
        let cache = zone.cache();
        let pfn = match cache.pop() {
            Some(pfn) => pfn,
            None => {
                zone.refill(cache);
                cache.pop().ok_or(OutOfMemory)?
            }
        };
        debug_assert_eq!(zone.meta(pfn).state(), State::Cached, "frame {pfn:#x} was changed while free");
        cache.add_owned(owner, 1);
        Ok(self.hand_out(pfn, 0, owner))
    }

    /// A block of `1 << order` frames that lie together, aligned to its size.
    ///
    /// # Errors
    /// [`OutOfMemory`] when there is no such block, or `order` is above [`MAX_ORDER`].
    pub fn alloc_order(&self, order: usize, owner: Owner) -> Result<Frame<P>, OutOfMemory> {
        if order == 0 {
            return self.alloc(owner);
        }
        if order > MAX_ORDER {
            return Err(OutOfMemory);
        }
        let zone = self.zone();
        zone.injected_failure()?;
        let _off = InterruptGuard::<P>::new();
        let pfn = zone.buddy.lock().take(zone, order).ok_or(OutOfMemory)?;
        zone.cache().add_owned(owner, 1 << order);
        Ok(self.hand_out(pfn, order, owner))
    }

    /// One frame for `owner`, all bytes zero.
    ///
    /// # Errors
    /// As [`Frames::alloc`].
    pub fn alloc_zeroed(&self, owner: Owner) -> Result<Frame<P>, OutOfMemory> {
        let frame = self.alloc(owner)?;
        frame.zero();
        Ok(frame)
    }

    /// Gives a frame back; the same as dropping it.
    pub fn free(&self, frame: Frame<P>) {
        drop(frame);
    }

    /// The handle that [`Frame::into_raw`] made a number of.
    ///
    /// # Safety
    /// `phys` came from [`Frame::into_raw`] of this allocator, and is made a handle again only once.
    pub unsafe fn from_raw(&self, phys: u64) -> Frame<P> {
        Frame { pfn: self.zone().pfn(phys), frames: *self }
    }

    /// Gives a frame back after a grace period, for readers that may still look into it. Cannot fail.
    pub fn free_after_grace(&self, frame: Frame<P>, rcu: &Rcu<P>) {
        let section = self.zone().section(frame.pfn).expect("an allocated frame has metadata");
        // SAFETY: sections are live for ever.
        let meta = unsafe { Section::meta(section, frame.pfn) };
        // SAFETY: `meta` is from `Section::meta`.
        let head = unsafe { Section::<P>::head(meta) };
        core::mem::forget(frame);
        // SAFETY: the forgotten handle was the only user of the head; `free_deferred` takes its place.
        unsafe { rcu.defer(head, free_deferred::<P>) };
    }

    /// How all frames are used.
    pub fn usage(&self) -> Usage {
        let zone = self.zone();
        let mut owned = [0i64; OWNERS];
        let mut cached = 0;
        for cache in &zone.caches {
            cached += cache.len() as u64;
            for (owner, count) in owned.iter_mut().enumerate() {
                *count += cache.owned(owner);
            }
        }
        // A sum taken in the middle of allocations may be torn; it is never shown as a huge number.
        let mut owned = owned.map(|count| count.max(0) as u64);
        owned[Owner::Meta as usize] += zone.meta_frames;
        Usage { total: zone.total, free: zone.buddy.lock().free_frames(), cached, owned }
    }

    /// Who has the frame at `phys`; `None` if it is free, cached, inside a block, or no usable memory. A look from
    /// outside, for reports and checks: right only if nothing changes meanwhile.
    pub fn owner_at(&self, phys: u64) -> Option<Owner> {
        let zone = self.zone();
        let pfn = phys.checked_sub(zone.base)? / PAGE_SIZE;
        match zone.try_meta(Pfn::try_from(pfn).ok()?)?.state() {
            State::Owned(owner) => Some(owner),
            _ => None,
        }
    }

    /// A word that goes with the allocated frame at `phys` while that is in no [`FrameList`], whose links it holds there;
    /// undefined at first. It is there for ever, but who has it changes with the frame.
    pub(crate) fn mask_of(&self, phys: u64) -> &'static AtomicU64 {
        let zone = self.zone();
        zone.meta(zone.pfn(phys)).mask()
    }

    /// Total number of usable frames.
    pub fn total(&self) -> u64 {
        self.zone().total
    }

    /// For tests: lets `successes` more allocations pass, then fails every one until [`Frames::fail_never`].
    pub fn fail_after(&self, successes: u64) {
        self.zone().fail_at.store(successes + 1, Ordering::Relaxed);
    }

    /// For tests: ends [`Frames::fail_after`].
    pub fn fail_never(&self) {
        self.zone().fail_at.store(0, Ordering::Relaxed);
    }

    fn zone(&self) -> &'static Zone<P> {
        // SAFETY: written by `Frames::new`, never moved, never freed.
        unsafe { self.zone.as_ref() }
    }

    fn hand_out(&self, pfn: Pfn, order: usize, owner: Owner) -> Frame<P> {
        let meta = self.zone().meta(pfn);
        meta.set_order(order);
        meta.set_state(State::Owned(owner));
        meta.refs().store(1, Ordering::Relaxed);
        Frame { pfn, frames: *self }
    }
}

impl<P: Platform> core::fmt::Debug for Frames<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.usage().fmt(f)
    }
}

/// Ends the wait of [`Frames::free_after_grace`].
///
/// # Safety
/// `head` is in the metadata of an allocated frame whose handle was given up for this call.
unsafe fn free_deferred<P: Platform>(head: NonNull<RcuHead>) {
    // SAFETY: the caller's promise.
    let (zone, pfn) = unsafe { Section::<P>::of_head(head) };
    drop(Frame { pfn, frames: Frames { zone } });
}

impl<P: Platform> Zone<P> {
    fn phys(&self, pfn: Pfn) -> u64 {
        self.base + u64::from(pfn) * PAGE_SIZE
    }

    fn pfn(&self, phys: u64) -> Pfn {
        ((phys - self.base) / PAGE_SIZE) as Pfn
    }

    fn section(&self, pfn: Pfn) -> Option<NonNull<Section<P>>> {
        // SAFETY: the table is written before the zone is handed out, and never after.
        let sections = unsafe { self.sections.as_ref() };
        sections.get(pfn as usize / SECTION_FRAMES).copied().flatten()
    }

    fn try_meta(&self, pfn: Pfn) -> Option<&FrameMeta> {
        let section = self.section(pfn)?;
        // SAFETY: sections are live for ever.
        let meta = unsafe { Section::meta(section, pfn) };
        // SAFETY: entries are shared through atomics only, but for the RCU head, which is in an `UnsafeCell`.
        Some(unsafe { meta.as_ref() })
    }

    fn meta(&self, pfn: Pfn) -> &FrameMeta {
        self.try_meta(pfn).expect("no such frame")
    }

    /// This CPU's cache. Interrupts are off.
    fn cache(&self) -> &Cache {
        &self.caches[P::cpu().index()]
    }

    fn refill(&self, cache: &Cache) {
        let mut buddy = self.buddy.lock();
        for _ in 0..BATCH {
            let Some(pfn) = buddy.take(self, 0) else { break };
            self.meta(pfn).set_state(State::Cached);
            cache.push(pfn);
        }
    }

    fn free_one(&self, pfn: Pfn) {
        let cache = self.cache();
        if cache.is_full() {
            let mut buddy = self.buddy.lock();
            cache.drain_oldest(BATCH, |old| buddy.give(self, old, 0));
        }
        self.meta(pfn).set_state(State::Cached);
        cache.push(pfn);
    }

    fn injected_failure(&self) -> Result<(), OutOfMemory> {
        // One read of a line that nobody writes outside such tests.
        match self.fail_at.load(Ordering::Relaxed) {
            0 => Ok(()),
            1 => Err(OutOfMemory),
            _ => {
                // Several CPUs may count at once; the count never goes below 1.
                let _ = self
                    .fail_at
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| (left > 1).then(|| left - 1));
                Ok(())
            }
        }
    }
}

/// An allocated frame, or block of frames. Dropping the last handle gives it back.
#[must_use]
pub struct Frame<P: Platform> {
    pfn: Pfn,
    frames: Frames<P>,
}

impl<P: Platform> Frame<P> {
    /// Physical address of its first byte.
    pub fn phys(&self) -> u64 {
        self.frames.zone().phys(self.pfn)
    }

    /// Where the kernel reads and writes it.
    pub fn as_ptr(&self) -> *mut u8 {
        P::phys_to_virt(self.phys())
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        (PAGE_SIZE as usize) << self.meta().order()
    }

    /// Clears all of it.
    pub fn zero(&self) {
        // SAFETY: the handle owns these bytes, and the physical window covers all memory.
        unsafe { self.as_ptr().write_bytes(0, self.size()) };
    }

    /// Who it belongs to.
    pub fn owner(&self) -> Owner {
        match self.meta().state() {
            State::Owned(owner) => owner,
            state => panic!("frame {:#x} has a handle and is {state:?}", self.phys()),
        }
    }

    /// A second handle to the same frame: it is freed when all are gone.
    pub fn share(&self) -> Frame<P> {
        // Relaxed is enough: this handle keeps the count above 0, and nothing is published by counting up.
        self.meta().refs().fetch_add(1, Ordering::Relaxed);
        Frame { pfn: self.pfn, frames: self.frames }
    }

    /// Gives up the handle and keeps the frame, for a page-table entry. Undone by [`Frames::from_raw`].
    pub fn into_raw(self) -> u64 {
        let phys = self.phys();
        core::mem::forget(self);
        phys
    }

    fn meta(&self) -> &'static FrameMeta {
        self.frames.zone().meta(self.pfn)
    }
}

impl<P: Platform> Drop for Frame<P> {
    fn drop(&mut self) {
        let meta = self.meta();
        let State::Owned(owner) = meta.state() else {
            panic!("frame {:#x} freed while {:?}", self.phys(), meta.state());
        };
        // A count of 1 is ours and cannot grow: no locked instruction. Acquire, and AcqRel below: what other holders
        // did with the frame is before its next life.
        if meta.refs().load(Ordering::Acquire) != 1 && meta.refs().fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        point!(P, "frame-freeing", self.phys());
        let order = meta.order();
        if cfg!(debug_assertions) {
            // SAFETY: the last handle owns these bytes.
            unsafe { self.as_ptr().write_bytes(JUNK, self.size()) };
        }
        let zone = self.frames.zone();
        let _off = InterruptGuard::<P>::new();
        zone.cache().add_owned(owner, -(1 << order));
        if order == 0 {
            zone.free_one(self.pfn);
        } else {
            zone.buddy.lock().give(zone, self.pfn, order);
        }
    }
}

impl<P: Platform> core::fmt::Debug for Frame<P> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Frame({:#x})", self.phys())
    }
}
