//! Walking a program's page tables: four levels of 512 entries.
//!
//! | level | a table spans | an entry spans |
//! |---|---|---|
//! | 4 (root) | 256 TiB | 512 GiB |
//! | 3 | 512 GiB | 1 GiB |
//! | 2 | 1 GiB | 2 MiB |
//! | 1 | 2 MiB | a page |
//!
//! Several CPUs walk and fill the same tables at once, by compare-and-swap; the loser of a race gives its frame back.
//! What keeps a table alive is the *VMA* above it: whoever has read-locked a VMA, or settled a mark on it, may walk in
//! its range, because tables are unlinked only where no VMA is left (slot protocol, 8.4). The walk starts at the root
//! each time, after the VMA checks: an upper entry remembered from before could lead into a table that is gone.

use core::ops::Range;

use sync::{Platform, point};

use super::entry::{Entry, EntryCell};
use crate::{
    addr::{PAGE_SIZE, page_floor},
    error::OutOfMemory,
    frame::{FrameList, Frames, Owner},
};

/// Entries in a table.
pub(crate) const ENTRIES: usize = 512;

/// One past the last address of the user half.
pub(crate) const USER_HALF_END: u64 = 1 << 47;

/// Bytes that one entry of a table at `level` spans.
pub(crate) const fn entry_span(level: u32) -> u64 {
    PAGE_SIZE << (9 * (level - 1))
}

/// Which entry of a table at `level` is on the way to `addr`.
pub(crate) const fn index(addr: u64, level: u32) -> usize {
    (addr / entry_span(level)) as usize % ENTRIES
}

/// Entry `index` of the table at `table`.
///
/// # Safety
/// `table` is the physical address of a live page table, which outlives `'a`.
pub(crate) unsafe fn cell<'a, P: Platform>(table: u64, index: usize) -> &'a EntryCell {
    debug_assert!(index < ENTRIES);
    let entries = P::phys_to_virt(table).cast::<EntryCell>();
    // SAFETY: a table is one page of 512 entries, inside the physical window.
    let entry = unsafe { entries.add(index) };
    // SAFETY: the table is live (the caller); entries are only ever reached as atomics.
    unsafe { &*entry }
}

/// The tables of one address space.
pub(crate) struct PageTables<P: Platform> {
    root: u64,
    frames: Frames<P>,
}

impl<P: Platform> PageTables<P> {
    /// # Safety
    /// `root` is the physical address of a level 4 table that lives as long as the result, and the tables under its
    /// lower half were made by `PageTables` with the same `frames`.
    pub(crate) const unsafe fn new(root: u64, frames: Frames<P>) -> Self {
        PageTables { root, frames }
    }

    pub(crate) const fn root(&self) -> u64 {
        self.root
    }

    /// The leaf entry for `addr`, if the tables on the way are there.
    ///
    /// # Safety
    /// While the result is used, the caller holds what keeps the tables there: a read-locked or settled VMA that
    /// contains `addr`, or the whole address space.
    pub(crate) unsafe fn leaf(&self, addr: u64) -> Option<&EntryCell> {
        let mut table = self.root;
        for level in (2..=4).rev() {
            // SAFETY: linked from the root, and kept there by the caller.
            let entry = unsafe { cell::<P>(table, index(addr, level)) }.load();
            if !entry.is_present() {
                return None;
            }
            table = entry.phys();
        }
        // SAFETY: as above.
        Some(unsafe { cell::<P>(table, index(addr, 1)) })
    }

    /// The leaf entry for `addr`; missing tables are made.
    ///
    /// # Errors
    /// [`OutOfMemory`]. Tables made so far stay: they are empty, and go when their VMA goes.
    ///
    /// # Safety
    /// As [`PageTables::leaf`].
    pub(crate) unsafe fn leaf_or_create(&self, addr: u64) -> Result<&EntryCell, OutOfMemory> {
        let mut table = self.root;
        for level in (2..=4).rev() {
            // SAFETY: linked from the root, and kept there by the caller.
            let entry = unsafe { cell::<P>(table, index(addr, level)) };
            table = self.table_below(entry)?;
        }
        // SAFETY: as above.
        Ok(unsafe { cell::<P>(table, index(addr, 1)) })
    }

    fn table_below(&self, entry: &EntryCell) -> Result<u64, OutOfMemory> {
        let present = entry.load();
        if present.is_present() {
            return Ok(present.phys());
        }
        let frame = self.frames.alloc_zeroed(Owner::PageTable)?;
        let phys = frame.phys();
        point!(P, "before-table");
        match entry.compare_exchange(Entry::EMPTY, Entry::table(phys)) {
            Ok(()) => Ok(frame.into_raw()),
            // Another CPU was first. `frame` goes back here.
            Err(winner) => Ok(winner.phys()),
        }
    }

    /// Calls `f` with every leaf entry in `range` whose table exists.
    ///
    /// # Safety
    /// As [`PageTables::leaf`], for the whole range.
    pub(crate) unsafe fn visit(&self, range: Range<u64>, f: &mut dyn FnMut(u64, &EntryCell)) {
        // SAFETY: the root is live; the rest is the caller's.
        unsafe { self.visit_table(self.root, 4, range, f) };
    }

    /// # Safety
    /// `table` is a live table of this tree at `level`, on the way to every address in `range`; as [`PageTables::leaf`].
    unsafe fn visit_table(&self, table: u64, level: u32, range: Range<u64>, f: &mut dyn FnMut(u64, &EntryCell)) {
        let span = entry_span(level);
        let mut addr = range.start;
        while addr < range.end {
            let end = range.end.min((addr & !(span - 1)) + span);
            // SAFETY: live, the caller.
            let entry = unsafe { cell::<P>(table, index(addr, level)) };
            if level == 1 {
                f(addr, entry);
            } else {
                let below = entry.load();
                if below.is_present() {
                    // SAFETY: linked from a live table, and kept there by the caller.
                    unsafe { self.visit_table(below.phys(), level - 1, addr..end, f) };
                }
            }
            addr = end;
        }
    }

    /// Takes every table out of the tree that `range` touches and whose whole span lies in `free`, where no VMA but the
    /// caller's own is. The tables, highest first, each with everything below it, are pushed to `out` with their level.
    ///
    /// The work is bounded by three tables' worth of entries, so that it can be done under a spin lock.
    ///
    /// # Safety
    /// The caller is in the publication section, which shows no VMA and no reservation in `free` but settled ones of
    /// its own; `range` lies inside `free`. It flushes all TLBs, cached upper levels included, before it frees a table.
    pub(crate) unsafe fn unlink(&self, range: Range<u64>, free: Range<u64>, out: &mut FrameList<P>) {
        // SAFETY: the root is live.
        unsafe { self.unlink_below(self.root, 4, range, &free, out) };
    }

    /// # Safety
    /// `table` is a live table at `level`; as [`PageTables::unlink`].
    unsafe fn unlink_below(
        &self,
        table: u64,
        level: u32,
        range: Range<u64>,
        free: &Range<u64>,
        out: &mut FrameList<P>,
    ) {
        let span = entry_span(level);
        let mut addr = range.start;
        while addr < range.end {
            let start = addr & !(span - 1);
            let end = start + span;
            // SAFETY: live, the caller.
            let entry = unsafe { cell::<P>(table, index(addr, level)) };
            let below = entry.load();
            if below.is_present() {
                if free.start <= start && end <= free.end {
                    let below = entry.take();
                    // SAFETY: the tree owned the table, and has just given it up.
                    out.push(unsafe { self.frames.from_raw(below.phys()) }, level - 1);
                } else if level > 2 {
                    // SAFETY: linked from a live table. Its VMAs outside `free` are not ours to look at, and the
                    // tables above them stay.
                    unsafe { self.unlink_below(below.phys(), level - 1, addr..range.end.min(end), free, out) };
                }
            }
            addr = end;
        }
    }

    /// Takes apart what [`PageTables::unlink`] took out: every page goes to `pages`, with its former entry, every table
    /// to `tables`.
    pub(crate) fn dismantle(
        &self,
        unlinked: &mut FrameList<P>,
        pages: &mut dyn FnMut(Entry),
        tables: &mut FrameList<P>,
    ) {
        while let Some((table, level)) = unlinked.pop() {
            for index in 0..ENTRIES {
                // SAFETY: the handle keeps the table.
                let entry = unsafe { cell::<P>(table.phys(), index) }.take();
                if entry.is_empty() {
                    continue;
                }
                if level == 1 {
                    pages(entry);
                } else {
                    // SAFETY: the table owned the one below, and has just given it up.
                    unlinked.push(unsafe { self.frames.from_raw(entry.phys()) }, level - 1);
                }
            }
            tables.push(table, level);
        }
    }

    /// Where the frame of `addr` can be read and written by the kernel, if a page is there.
    ///
    /// # Safety
    /// As [`PageTables::leaf`].
    pub(crate) unsafe fn window(&self, addr: u64) -> Option<*mut u8> {
        // SAFETY: the caller's.
        let entry = unsafe { self.leaf(addr) }?.load();
        if entry.is_empty() {
            return None;
        }
        let offset = (addr - page_floor(addr)) as usize;
        Some(P::phys_to_virt(entry.phys()).wrapping_add(offset))
    }
}
