//! Walking a program's page tables.
//!
//! This is the tree of tables, in which everything stands that is mapped. Processors walk their own roots and upper tables
//! (`view`), into which a fault links the tree's leaf tables (level 1) one by one.
//!
//! Several CPUs walk and fill the same tables at once, by compare-and-swap; the loser of a race gives its frame back.
//! What keeps a table alive is the *VMA* above it: whoever has read-locked a VMA, or settled a mark on it, may walk in
//! its range, because tables are unlinked only where no VMA is left (slot protocol, 8.4). The walk starts at the root
//! each time, after the VMA checks: an upper entry remembered from before could lead into a table that is gone.

use core::ops::Range;

use abi::MAX_CPUS;
use arrayvec::ArrayVec;
use sync::{CpuId, CpuSet, Platform, point, primitive::mutant};

use super::{
    entry::{Entry, EntryCell},
    sharers::Sharers,
    table::{ENTRIES, cell, entry_span, fill, index},
    view::View,
};
use crate::{
    addr::page_floor,
    error::OutOfMemory,
    frame::{Frame, FrameList, Frames, Owner},
};

/// Levels above the leaf tables, downwards.
const UPPER: [u32; 3] = [4, 3, 2];

/// The tables of one address space: the tree, and each CPU's view of it.
pub(crate) struct PageTables<P: Platform> {
    /// Level 4 of the tree.
    root: u64,
    /// By CPU, for all of the machine's: a CPU that joins needs no memory.
    views: ArrayVec<View<P>, MAX_CPUS>,
    frames: Frames<P>,
    /// What `root` names.
    _root: Frame<P>,
}

impl<P: Platform> PageTables<P> {
    /// No tables; the upper halves of all views are that of `kernel_root`.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    ///
    /// # Safety
    /// `kernel_root` is the physical address of a level 4 table that is never freed.
    pub(crate) unsafe fn new(frames: Frames<P>, kernel_root: u64) -> Result<Self, OutOfMemory> {
        let root = frames.alloc_zeroed(Owner::PageTable)?;
        let mut views = ArrayVec::new();
        for _ in 0..P::cpu_count() {
            // SAFETY: the caller's.
            views.push(unsafe { View::new(&frames, kernel_root) }?);
        }
        Ok(PageTables { root: root.phys(), views, frames, _root: root })
    }

    /// Physical address of the tree's level 4 table, which no processor loads: the address space's name.
    pub(crate) const fn root(&self) -> u64 {
        self.root
    }

    /// Physical address of the level 4 table that `cpu`'s processor walks.
    pub(crate) fn root_of(&self, cpu: CpuId) -> u64 {
        self.views[cpu.index()].root()
    }

    /// The leaf table for `addr`, if the tables on the way are there.
    ///
    /// # Safety
    /// As [`PageTables::leaf`].
    unsafe fn leaf_table(&self, addr: u64) -> Option<u64> {
        let mut table = self.root;
        for level in UPPER {
            // SAFETY: linked from the root, and kept there by the caller.
            let entry = unsafe { cell::<P>(table, index(addr, level)) }.load();
            if !entry.is_present() {
                return None;
            }
            table = entry.phys();
        }
        Some(table)
    }

    /// The leaf entry for `addr`, if the tables on the way are there.
    ///
    /// # Safety
    /// While the result is used, the caller holds what keeps the tables there: a read-locked or settled VMA that
    /// contains `addr`, or the whole address space.
    pub(crate) unsafe fn leaf(&self, addr: u64) -> Option<&EntryCell> {
        // SAFETY: the caller's.
        let table = unsafe { self.leaf_table(addr) }?;
        // SAFETY: linked from the tree, and kept there by the caller.
        Some(unsafe { cell::<P>(table, index(addr, 1)) })
    }

    /// The CPUs that may know translations of `addr`'s leaf table, if there is one.
    ///
    /// # Safety
    /// As [`PageTables::leaf`].
    pub(crate) unsafe fn sharers(&self, addr: u64) -> Option<Sharers> {
        // SAFETY: the caller's.
        unsafe { self.leaf_table(addr) }.map(|table| self.sharers_of(table))
    }

    /// Those of the leaf table at `table`.
    fn sharers_of(&self, table: u64) -> Sharers {
        Sharers::of(table, &self.frames)
    }

    /// The leaf entry for `addr`, where the calling CPU's processor finds it; missing tables are made.
    ///
    /// # Errors
    /// [`OutOfMemory`]. Tables made so far stay: they are empty, and go when their VMA goes, or the address space.
    ///
    /// # Safety
    /// As [`PageTables::leaf`].
    pub(crate) unsafe fn leaf_or_create(&self, addr: u64) -> Result<&EntryCell, OutOfMemory> {
        let mut table = self.root;
        for level in UPPER {
            // SAFETY: linked from the root, and kept there by the caller.
            let entry = unsafe { cell::<P>(table, index(addr, level)) };
            table = fill(entry, &self.frames)?;
        }
        let sharers = self.sharers_of(table);
        if !sharers.contains(P::cpu()) {
            self.link(addr, table, sharers)?;
        }
        // SAFETY: as above.
        Ok(unsafe { cell::<P>(table, index(addr, 1)) })
    }

    /// Links the leaf table at `table` into the calling CPU's view.
    #[cold]
    fn link(&self, addr: u64, table: u64, sharers: Sharers) -> Result<(), OutOfMemory> {
        let cpu = P::cpu();
        // The last step that can fail.
        let link = self.views[cpu.index()].link_or_create(addr, &self.frames)?;
        if !mutant("link-before-sharer") {
            sharers.add(cpu);
        }
        point!(P, "leaf-linking");
        // Whatever stood there has left the tree, and whoever took it out flushes this CPU.
        link.store(Entry::table(table));
        point!(P, "leaf-linked");
        if mutant("link-before-sharer") {
            sharers.add(cpu);
        }
        Ok(())
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
    /// caller's own is. The tables, highest first, each with everything below it, are put into `out`.
    ///
    /// The work is bounded by three tables' worth of entries, so that it can be done under a spin lock.
    ///
    /// # Safety
    /// The caller is in the publication section, which shows no VMA and no reservation in `free` but settled ones of
    /// its own; `range` lies inside `free`. Before it frees a table, it flushes everything, cached upper levels included,
    /// on all CPUs that [`PageTables::dismantle`] says.
    pub(crate) unsafe fn unlink(&self, range: Range<u64>, free: Range<u64>, out: &mut Unlinked<P>) {
        // SAFETY: the root is live.
        unsafe { self.unlink_below(self.root, 4, range, &free, out) };
    }

    /// # Safety
    /// `table` is a live table at `level`; as [`PageTables::unlink`].
    unsafe fn unlink_below(&self, table: u64, level: u32, range: Range<u64>, free: &Range<u64>, out: &mut Unlinked<P>) {
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
                    self.give_up(unsafe { self.frames.from_raw(below.phys()) }, Place { start, level: level - 1 }, out);
                } else if level > 2 {
                    // SAFETY: linked from a live table. Its VMAs outside `free` are not ours to look at, and the
                    // tables above them stay.
                    unsafe { self.unlink_below(below.phys(), level - 1, addr..range.end.min(end), free, out) };
                }
            }
            addr = end;
        }
    }

    /// Puts `table`, which has left the tree, into `out`. A leaf table leaves all views here: while it was in the tree its
    /// sharers could only grow by faults in its span, and there are none, for no VMA is there but the caller's settled one.
    /// As soon as the publication section is over, a fault may link the table's successor.
    fn give_up(&self, table: Frame<P>, place: Place, out: &mut Unlinked<P>) {
        if place.level == 1 {
            let cpus = self.sharers_of(table.phys()).cpus();
            for cpu in cpus.iter().filter(|_| !mutant("unlink-keeps-links")) {
                self.views[cpu.index()].unlink(place.start, table.phys());
            }
            out.cpus.0 |= cpus.0;
        }
        out.tables.push(table, place.tag());
    }

    /// Takes apart what [`PageTables::unlink`] took out: every page goes to `pages`, with its former entry, every table
    /// to `tables`. Returns the CPUs whose views led to any of them.
    pub(crate) fn dismantle(
        &self,
        unlinked: &mut Unlinked<P>,
        pages: &mut dyn FnMut(Entry),
        tables: &mut FrameList<P>,
    ) -> CpuSet {
        while let Some((table, tag)) = unlinked.tables.pop() {
            let place = Place::of(tag);
            for index in 0..ENTRIES {
                // SAFETY: the handle keeps the table.
                let entry = unsafe { cell::<P>(table.phys(), index) };
                // Empty ones stay empty: no fault comes by here any more.
                if entry.load().is_empty() {
                    continue;
                }
                let entry = entry.take();
                if place.level == 1 {
                    pages(entry);
                } else {
                    // SAFETY: the table owned the one below, and has just given it up.
                    let below = unsafe { self.frames.from_raw(entry.phys()) };
                    self.give_up(below, place.below(index), unlinked);
                }
            }
            tables.push(table, place.level);
        }
        unlinked.cpus
    }

    /// Frees all views. Called at the end, when no CPU runs the address space any more, and none will.
    pub(crate) fn dismantle_views(&self) {
        for view in &self.views {
            view.dismantle(&self.frames);
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

/// Where a table stands in the tree.
#[derive(Clone, Copy)]
struct Place {
    /// First address of its span.
    start: u64,
    level: u32,
}

impl Place {
    /// As a number beside the table in a list: spans start at multiples of 2 MiB, and below 2^47.
    const fn tag(self) -> u32 {
        (self.start / entry_span(2)) as u32 * 4 + self.level
    }

    const fn of(tag: u32) -> Place {
        Place { start: (tag / 4) as u64 * entry_span(2), level: tag % 4 }
    }

    /// That of the table below entry `index`.
    const fn below(self, index: usize) -> Place {
        Place { start: self.start + index as u64 * entry_span(self.level), level: self.level - 1 }
    }
}

/// Tables that have left the tree, and not been freed.
pub(crate) struct Unlinked<P: Platform> {
    /// Each with its [`Place`].
    tables: FrameList<P>,
    /// CPUs that had linked leaf tables of these, as far as they have been looked at.
    cpus: CpuSet,
}

impl<P: Platform> Unlinked<P> {
    pub(crate) const fn new(frames: Frames<P>) -> Unlinked<P> {
        Unlinked { tables: FrameList::new(frames), cpus: CpuSet::EMPTY }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }
}
