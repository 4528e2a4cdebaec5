//! A node's life: made for a reserve, built into the tree, replaced, freed after a grace period.
//!
//! The [`Tail`] of a node is two words that belong to whoever owns the node's life at the time: the reserve that keeps it
//! spare, then the holder of the publication lock while it is in the tree, then RCU. Readers never look at it. A [`Chain`]
//! links nodes through their tails, so that neither putting nodes aside nor retiring them needs memory.
//!
//! Used by `reserve` and `replace`.

use core::cell::UnsafeCell;
use core::mem::{MaybeUninit, needs_drop, size_of};
use core::ptr::{self, NonNull};

use alloc::boxed::Box;

use sync::RcuHead;

/// Room for what the owner of a node's life needs: a link while in a [`Chain`], an `RcuHead` after that.
pub(super) struct Tail(
    #[expect(dead_code, reason = "reached through pointers to the whole node only: those that free it")]
    UnsafeCell<MaybeUninit<RcuHead>>,
);

impl Tail {
    /// Nobody's yet.
    pub(super) fn new() -> Self {
        const { assert!(size_of::<RcuHead>() >= size_of::<*mut ()>() && align_of::<RcuHead>() >= align_of::<*mut ()>()) };
        Tail(UnsafeCell::new(MaybeUninit::uninit()))
    }
}

/// A node with a [`Tail`].
pub(super) trait Tailed: Sized {
    /// Offset of the tail in the node.
    const TAIL: usize;
}

/// A list of nodes linked through their tails: spare ones of a reserve, or dead ones on their way to RCU. It only
/// remembers them; what is to become of them is its owner's business.
pub(super) struct Chain<T> {
    first: Option<NonNull<T>>,
    len: usize,
}

impl<T: Tailed> Chain<T> {
    /// No nodes.
    pub(super) const fn new() -> Self {
        Chain { first: None, len: 0 }
    }

    /// Number of nodes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Links `node` in front.
    ///
    /// # Safety
    /// `node` may be used for the whole node, stays allocated while it is linked, and its tail belongs to the caller.
    pub(super) unsafe fn push(&mut self, node: NonNull<T>) {
        let next = self.first.map_or(ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: the tail lies within the node, is aligned for and as large as a pointer (`Tail::new`), and ours.
        unsafe { tail::<T>(node).cast::<*mut T>().write(next) };
        self.first = Some(node);
        self.len += 1;
    }

    /// Unlinks the first node.
    pub(super) fn pop(&mut self) -> Option<NonNull<T>> {
        let node = self.first?;
        // SAFETY: `push` wrote the link, and its caller left the tail to this chain since.
        let next = unsafe { tail::<T>(node).cast::<*mut T>().read() };
        self.first = NonNull::new(next);
        self.len -= 1;
        Some(node)
    }
}

/// Where the tail of `node` lies.
fn tail<T: Tailed>(node: NonNull<T>) -> NonNull<()> {
    // SAFETY: `TAIL` is the offset of a field of the node, and callers pass pointers to whole nodes.
    unsafe { node.byte_add(T::TAIL) }.cast()
}

/// Makes the tail of a dead node an `RcuHead` and returns it, for `Rcu::defer` with [`free`].
///
/// # Safety
/// `node` may be used for the whole node and is allocated; its tail belongs to the caller.
pub(super) unsafe fn bury<T: Tailed>(node: NonNull<T>) -> NonNull<RcuHead> {
    let head = tail(node).cast::<RcuHead>();
    // SAFETY: the tail has room for an `RcuHead` and is the caller's.
    unsafe { head.write(RcuHead::new()) };
    head
}

/// Frees the node whose tail holds `head`: what RCU calls when no reader is left.
///
/// # Safety
/// `head` comes from [`bury`] of a `Box`'s node of type `T`, which nobody uses any more.
pub(super) unsafe fn free<T: Tailed>(head: NonNull<RcuHead>) {
    // SAFETY: the tail lies `TAIL` bytes into its node.
    let node = unsafe { head.byte_sub(T::TAIL) }.cast::<T>();
    // SAFETY: passed on to the caller.
    unsafe { discard(node) };
}

/// Frees a node at once.
///
/// # Safety
/// `node` was a `Box`, and nobody uses it any more.
pub(super) unsafe fn discard<T: Tailed>(node: NonNull<T>) {
    // A reader that should not be here any more had better notice. (Nodes of models own things: let them be.)
    if cfg!(debug_assertions) && !needs_drop::<T>() {
        // SAFETY: the node is ours alone, and it has nothing to drop.
        unsafe { ptr::write_bytes(node.as_ptr().cast::<u8>(), 0xde, size_of::<T>()) };
    }
    // SAFETY: it came from a `Box`; all its fields are valid whatever bytes they hold.
    drop(unsafe { Box::from_raw(node.as_ptr()) });
}
