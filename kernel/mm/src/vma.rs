//! VMAs: what is mapped where, with which rights.
//!
//! A VMA is **immutable once published**: a change of bounds or rights makes a new one and detaches the old (slot
//! protocol, section 4). So all that a reader must get right is *which* VMA it looks at; the lock inside answers that.
//!
//! | field | written | read |
//! |---|---|---|
//! | bounds, attributes, kind | before publication | by anyone under RCU, or inside the slot section |
//! | `lock` | by transactions, by readers that clear an ended mark | by faults, after the look-up |
//! | `head` | by whoever unlinked it | by RCU |
//!
//! Memory: from the heap by `sync::alloc`; freed by RCU after the VMA has left the tree.

use core::{cell::UnsafeCell, mem::offset_of, ops::Range, ptr::NonNull};

use abi::flags::prot;
use alloc::boxed::Box;
use bitflags::bitflags;
use sync::{AllocError, Platform, Rcu, RcuHead, VmaLock, alloc::try_box};

bitflags! {
    /// What a program may do with a page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Rights: u8 {
        /// Load.
        const READ = 1;
        /// Store.
        const WRITE = 2;
        /// Fetch instructions.
        const EXEC = 4;
    }
}

impl Rights {
    /// Those in the `prot` argument of `mmap` or `mprotect`; other bits are ignored.
    pub const fn from_prot(prot: u32) -> Rights {
        Rights::from_bits_truncate((prot & (prot::READ | prot::WRITE | prot::EXEC)) as u8)
    }

    /// Whether a page with these rights can serve `access`. As on Linux for x86, any right makes a page readable.
    pub const fn allow(self, access: Access) -> bool {
        match access {
            Access::Read => !self.is_empty(),
            Access::Write => self.contains(Rights::WRITE),
            Access::Execute => self.contains(Rights::EXEC),
        }
    }
}

/// What a faulting instruction wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

bitflags! {
    /// What else distinguishes mappings: two of them merge only if these are equal.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct VmaFlags: u16 {
        /// `MAP_NORESERVE`.
        const NORESERVE = 1 << 0;
        /// `MADV_RANDOM`.
        const RANDOM = 1 << 1;
        /// `MADV_SEQUENTIAL`.
        const SEQUENTIAL = 1 << 2;
        /// `MADV_HUGEPAGE`.
        const HUGEPAGE = 1 << 3;
        /// `MADV_NOHUGEPAGE`.
        const NOHUGEPAGE = 1 << 4;
    }
}

/// Everything that decides whether two neighbours are one mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Rights.
    pub rights: Rights,
    /// Flags.
    pub flags: VmaFlags,
}

impl Attributes {
    /// No rights, no flags.
    pub(crate) const NONE: Attributes = Attributes { rights: Rights::empty(), flags: VmaFlags::empty() };
}

/// What an entry of the range tree stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Private anonymous memory.
    Anonymous,
    /// A range that a running transaction is unmapping: taken for whoever looks for a hole, and no mapping for faults,
    /// which wait for the end.
    Tombstone,
}

/// A mapping as reports show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmaInfo {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Rights.
    pub rights: Rights,
    /// Flags.
    pub flags: VmaFlags,
    /// `[heap]`, `[stack]`, or empty, as in `/proc/self/maps`.
    pub name: &'static str,
}

/// One entry of an address space.
#[repr(C, align(64))]
pub(crate) struct Vma {
    start: u64,
    end: u64,
    attributes: Attributes,
    kind: Kind,
    head: UnsafeCell<RcuHead>,
    lock: LockLine,
}

/// The lock, on a line of its own: marking and clearing leave the line with the bounds alone.
#[repr(align(64))]
struct LockLine(VmaLock);

// SAFETY: immutable but for the lock, which is made of atomics, and the RCU head, which only the one that unlinked the
// VMA touches.
unsafe impl Send for Vma {}
// SAFETY: as above.
unsafe impl Sync for Vma {}

impl Vma {
    /// An unpublished VMA. `lock` carries the mark of the transaction that will publish it.
    pub(crate) fn new(
        range: Range<u64>,
        attributes: Attributes,
        kind: Kind,
        lock: VmaLock,
    ) -> Result<Box<Vma>, AllocError> {
        try_box(Vma {
            start: range.start,
            end: range.end,
            attributes,
            kind,
            head: UnsafeCell::new(RcuHead::new()),
            lock: LockLine(lock),
        })
    }

    pub(crate) const fn range(&self) -> Range<u64> {
        self.start..self.end
    }

    pub(crate) const fn attributes(&self) -> Attributes {
        self.attributes
    }

    pub(crate) const fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) const fn lock(&self) -> &VmaLock {
        &self.lock.0
    }
}

/// A VMA as the range tree holds it: a word. Whether it may be looked into is the holder's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VmaRef(NonNull<Vma>);

// SAFETY: a `Vma` may be shared and sent; the pointer is followed only by `get`'s rules.
unsafe impl Send for VmaRef {}
// SAFETY: as above.
unsafe impl Sync for VmaRef {}

impl VmaRef {
    /// Takes the VMA out of its box: it is freed by [`VmaRef::free_now`] or [`VmaRef::free_after_grace`].
    pub(crate) fn new(vma: Box<Vma>) -> VmaRef {
        VmaRef(NonNull::from(Box::leak(vma)))
    }

    /// # Safety
    /// The VMA is not freed while `'a` lasts: the caller is in an RCU read section or slot section in which it found
    /// it, or in a transaction that has marked and settled it, or has not yet published it.
    pub(crate) unsafe fn get<'a>(self) -> &'a Vma {
        // SAFETY: the caller's.
        unsafe { self.0.as_ref() }
    }

    /// # Safety
    /// Nobody else has the pointer: the VMA was never published, or its address space is gone.
    pub(crate) unsafe fn free_now(self) {
        // SAFETY: made by `Box::leak`, and freed once (the caller).
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }

    /// # Safety
    /// The VMA is detached and out of the tree, and this is called once.
    pub(crate) unsafe fn free_after_grace<P: Platform>(self, rcu: &Rcu<P>) {
        // SAFETY: inside the VMA; `UnsafeCell<RcuHead>` has the layout of `RcuHead`.
        let head = unsafe { self.0.cast::<u8>().add(offset_of!(Vma, head)).cast::<RcuHead>() };
        // SAFETY: the caller unlinked it; `free_deferred` undoes `Box::leak`.
        unsafe { rcu.defer(head, free_deferred) };
    }
}

/// # Safety
/// `head` is that of a VMA given to [`VmaRef::free_after_grace`].
unsafe fn free_deferred(head: NonNull<RcuHead>) {
    // SAFETY: `head` lies at this offset inside its VMA.
    let vma = unsafe { head.cast::<u8>().sub(offset_of!(Vma, head)).cast::<Vma>() };
    // SAFETY: the grace period is over.
    unsafe { VmaRef(vma).free_now() };
}
