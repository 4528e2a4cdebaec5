//! What one CPU's MMU walks in an address space: a root and upper tables of its own, above leaf tables that all share.
//!
//! ```text
//! CPU 0: root > level 3 > level 2 \
//!                                   leaf table > pages
//! CPU 1: root > level 3 > level 2 /
//!
//! the tree of tables (walk): level 4 > level 3 > level 2 > leaf table    what is so; no processor walks it
//! ```
//!
//! A view leads to those leaf tables that its CPU has faulted in, and to no others: see `sharers` for what that is good
//! for. The views' level 2 entries are links and own nothing; leaf tables belong to the tree of tables.
//!
//! Upper tables are made by faults of their CPU, and stay until the address space goes: at most one for each GiB, and one
//! for each 512 GiB, that the CPU has touched. Were they taken out with the tables of the tree, the CPU would have to be told
//! whenever somebody else unmaps the last of a GiB.

use core::marker::PhantomData;

use sync::Platform;

use super::{
    entry::{Entry, EntryCell},
    table::{ENTRIES, cell, fill, index},
};
use crate::{
    error::OutOfMemory,
    frame::{Frame, Frames, Owner},
};

/// One CPU's root and upper tables.
pub(super) struct View<P: Platform> {
    root: Frame<P>,
    platform: PhantomData<P>,
}

impl<P: Platform> View<P> {
    /// Leads nowhere in the lower half, and in the upper half where `kernel_root` does.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    ///
    /// # Safety
    /// `kernel_root` is the physical address of a level 4 table that is never freed.
    pub(super) unsafe fn new(frames: &Frames<P>, kernel_root: u64) -> Result<View<P>, OutOfMemory> {
        let root = frames.alloc_zeroed(Owner::PageTable)?;
        for index in ENTRIES / 2..ENTRIES {
            // SAFETY: the caller's.
            let shared = unsafe { cell::<P>(kernel_root, index) }.load();
            // SAFETY: `root` is ours.
            unsafe { cell::<P>(root.phys(), index) }.store(shared);
        }
        Ok(View { root, platform: PhantomData })
    }

    /// Physical address of the root, for CR3.
    pub(super) fn root(&self) -> u64 {
        self.root.phys()
    }

    /// The level 2 entry for `addr`; missing tables are made. Called on the view's own CPU.
    ///
    /// # Errors
    /// [`OutOfMemory`]. Tables made so far stay.
    pub(super) fn link_or_create(&self, addr: u64, frames: &Frames<P>) -> Result<&EntryCell, OutOfMemory> {
        let mut table = self.root();
        for level in (3..=4).rev() {
            // SAFETY: linked from the root, and there as long as the view.
            table = fill(unsafe { cell::<P>(table, index(addr, level)) }, frames)?;
        }
        // SAFETY: as above.
        Ok(unsafe { cell::<P>(table, index(addr, 2)) })
    }

    /// Takes the leaf table at `leaf` out, which has left the tree of tables, if it still stands in the way to `addr`.
    /// Called on any CPU.
    pub(super) fn unlink(&self, addr: u64, leaf: u64) {
        let mut table = self.root();
        for level in (3..=4).rev() {
            // SAFETY: linked from the root, and there as long as the view.
            let entry = unsafe { cell::<P>(table, index(addr, level)) }.load();
            if !entry.is_present() {
                return;
            }
            table = entry.phys();
        }
        // SAFETY: as above.
        let link = unsafe { cell::<P>(table, index(addr, 2)) };
        // Lost only to the view's CPU, which has linked the table's successor.
        let _ = link.compare_exchange(Entry::table(leaf), Entry::EMPTY);
    }

    /// Frees the upper tables. No CPU walks the view any more, and none will.
    pub(super) fn dismantle(&self, frames: &Frames<P>) {
        for level3 in (0..ENTRIES / 2).filter_map(|at| self.take(self.root(), at)) {
            for level2 in (0..ENTRIES).filter_map(|at| self.take(level3, at)) {
                // SAFETY: made by `fill`, and taken out of its entry just now.
                drop(unsafe { frames.from_raw(level2) });
            }
            // SAFETY: as above.
            drop(unsafe { frames.from_raw(level3) });
        }
    }

    /// Takes out the table below entry `index` of the view's table at `table`.
    fn take(&self, table: u64, index: usize) -> Option<u64> {
        // SAFETY: the view's table, which nobody else uses any more.
        let entry = unsafe { cell::<P>(table, index) };
        let below = entry.load();
        entry.store(Entry::EMPTY);
        below.is_present().then(|| below.phys())
    }
}
