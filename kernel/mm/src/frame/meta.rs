//! Frame metadata: 32 bytes for every frame of usable memory, in sections of 512 frames.
//!
//! A section's metadata can be found from a frame number by one table look-up, and a frame number from a metadata
//! pointer without any: each entry knows its index, so the section's header is a subtraction away. RCU callbacks need
//! that, for all that they are given is a pointer to the [`RcuHead`] inside.
//!
//! | field | meaning | protected by |
//! |---|---|---|
//! | `refs` | handles to an allocated frame | atomic |
//! | `state` | absent, free, cached, tail of a block, or the owner | the buddy lock while free; the holder after |
//! | `order` | size of the block that starts here | like `state` |
//! | `word` | free-list links; links of a [`FrameList`](super::FrameList); of a page table in use, its sharers | like `state`; sharers: atomic |
//! | `head` | deferred free | the holder, then RCU |

use core::{
    cell::UnsafeCell,
    mem::offset_of,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed},
};

use sync::{Platform, RcuHead};

use super::{Owner, Zone};

/// Number of a frame: physical address divided by the page size. 32 bits reach 16 TiB.
pub(super) type Pfn = u32;

/// The end of a list of frames.
pub(super) const NONE: Pfn = Pfn::MAX;

/// Frames in a section: 2 MiB of memory.
pub(super) const SECTION_FRAMES: usize = 512;

/// What a frame is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not usable memory.
    Absent,
    /// The inside of a block, free or allocated, that starts at a lower frame.
    Tail,
    /// The first frame of a free block in the buddy allocator.
    Free,
    /// In a CPU's cache.
    Cached,
    /// The first frame of a block that belongs to someone.
    Owned(Owner),
}

impl State {
    #[inline]
    const fn to_byte(self) -> u8 {
        match self {
            State::Absent => 0,
            State::Tail => 1,
            State::Free => 2,
            State::Cached => 3,
            State::Owned(owner) => 4 + owner as u8,
        }
    }

    #[inline]
    fn from_byte(byte: u8) -> State {
        match byte {
            0 => State::Absent,
            1 => State::Tail,
            2 => State::Free,
            3 => State::Cached,
            owner => State::Owned(Owner::ALL[usize::from(owner) - 4]),
        }
    }
}

/// What the allocator knows of one frame. Relaxed accesses suffice throughout: the field's holder changes only
/// together with the frame itself, by a lock, a CPU's own cache, or RCU, and those order memory.
#[repr(C, align(32))]
pub(super) struct FrameMeta {
    refs: AtomicU32,
    state: AtomicU8,
    order: AtomicU8,
    /// Place in the section; never changes after boot.
    index: u16,
    /// Two links of 32 bits, or one mask of 64.
    word: AtomicU64,
    head: UnsafeCell<RcuHead>,
}

impl FrameMeta {
    fn new(index: u16) -> FrameMeta {
        FrameMeta {
            refs: AtomicU32::new(0),
            state: AtomicU8::new(State::Absent.to_byte()),
            order: AtomicU8::new(0),
            index,
            word: AtomicU64::new(u64::MAX),
            head: UnsafeCell::new(RcuHead::new()),
        }
    }

    #[inline]
    pub(super) fn refs(&self) -> &AtomicU32 {
        &self.refs
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        State::from_byte(self.state.load(Relaxed))
    }

    #[inline]
    pub(super) fn set_state(&self, state: State) {
        self.state.store(state.to_byte(), Relaxed);
    }

    /// The block's size is `1 << order` frames.
    #[inline]
    pub(super) fn order(&self) -> usize {
        usize::from(self.order.load(Relaxed))
    }

    #[inline]
    pub(super) fn set_order(&self, order: usize) {
        self.order.store(order as u8, Relaxed);
    }

    #[inline]
    pub(super) fn link(&self, which: usize) -> u32 {
        (self.word.load(Relaxed) >> (32 * which)) as u32
    }

    #[inline]
    pub(super) fn set_link(&self, which: usize, to: u32) {
        // Two accesses: whoever may change one link may change both.
        let kept = self.word.load(Relaxed) & !(u64::from(u32::MAX) << (32 * which));
        self.word.store(kept | u64::from(to) << (32 * which), Relaxed);
    }

    /// Both links.
    #[inline]
    pub(super) fn set_links(&self, first: u32, second: u32) {
        self.word.store(u64::from(second) << 32 | u64::from(first), Relaxed);
    }

    /// One mask instead of the links, while the frame is in no list.
    #[inline]
    pub(super) fn mask(&self) -> &AtomicU64 {
        &self.word
    }
}

/// Metadata of 512 frames that lie together, 2 MiB-aligned.
#[repr(C, align(64))]
pub(super) struct Section<P: Platform> {
    zone: NonNull<Zone<P>>,
    first: Pfn,
    metas: [FrameMeta; SECTION_FRAMES],
}

impl<P: Platform> Section<P> {
    /// Writes a section in which every frame is absent.
    ///
    /// # Safety
    /// `at` is valid for writes of a `Section`, aligned, and nobody else uses it; `zone` will be a live zone for ever.
    pub(super) unsafe fn write(at: *mut Section<P>, zone: NonNull<Zone<P>>, first: Pfn) {
        // SAFETY: `at` is valid for writes (the caller); a field of it is, too.
        let zone_field = unsafe { &raw mut (*at).zone };
        // SAFETY: as above.
        unsafe { zone_field.write(zone) };
        // SAFETY: as above.
        let first_field = unsafe { &raw mut (*at).first };
        // SAFETY: as above.
        unsafe { first_field.write(first) };
        // SAFETY: as above. Entry by entry, so that no 16 KiB value ever lies on the boot stack.
        let metas = unsafe { &raw mut (*at).metas }.cast::<FrameMeta>();
        for index in 0..SECTION_FRAMES {
            // SAFETY: `index` is inside the array.
            let meta = unsafe { metas.add(index) };
            // SAFETY: valid for writes, as above.
            unsafe { meta.write(FrameMeta::new(index as u16)) };
        }
    }

    /// The metadata of frame `pfn`, which lies in `section`. A pointer, so that it may reach the whole section.
    ///
    /// # Safety
    /// `section` is a live section.
    pub(super) unsafe fn meta(section: NonNull<Section<P>>, pfn: Pfn) -> NonNull<FrameMeta> {
        let index = pfn as usize % SECTION_FRAMES;
        let offset = offset_of!(Section<P>, metas) + index * size_of::<FrameMeta>();
        // SAFETY: the offset is inside the section, which is live (the caller).
        unsafe { section.cast::<u8>().add(offset).cast() }
    }

    /// The deferred-free head inside a frame's metadata.
    ///
    /// # Safety
    /// `meta` came from [`Section::meta`].
    pub(super) unsafe fn head(meta: NonNull<FrameMeta>) -> NonNull<RcuHead> {
        // SAFETY: the field is inside the entry. `UnsafeCell<RcuHead>` has the layout of `RcuHead`.
        unsafe { meta.cast::<u8>().add(offset_of!(FrameMeta, head)).cast() }
    }

    /// Zone and frame number of the metadata around `head`.
    ///
    /// # Safety
    /// `head` came from [`Section::head`].
    pub(super) unsafe fn of_head(head: NonNull<RcuHead>) -> (NonNull<Zone<P>>, Pfn) {
        // SAFETY: `head` lies at this offset inside a metadata entry (the caller).
        let meta = unsafe { head.cast::<u8>().sub(offset_of!(FrameMeta, head)).cast::<FrameMeta>() };
        // SAFETY: the entry is live, and `index` never changes.
        let index = usize::from(unsafe { (*meta.as_ptr()).index });
        let back = offset_of!(Section<P>, metas) + index * size_of::<FrameMeta>();
        // SAFETY: the entry lies at this offset inside its section.
        let section = unsafe { meta.cast::<u8>().sub(back).cast::<Section<P>>() };
        // SAFETY: sections live for ever, and their headers never change.
        let zone = unsafe { (*section.as_ptr()).zone };
        // SAFETY: as above.
        let first = unsafe { (*section.as_ptr()).first };
        (zone, first + index as Pfn)
    }
}
