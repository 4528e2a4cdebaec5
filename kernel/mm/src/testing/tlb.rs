//! The software TLB of one CPU: what it remembers of its own tables of one address space, and how it walks them.
//!
//! It may do all that the manual allows a processor (SDM vol. 3, 4.10): load the translation of any page whose entries are
//! present, whenever it likes ([`Tlb::load`]), and use what it has until it is told to drop it. That holds for upper
//! levels too: an entry that leads to a table is remembered by itself, and a later walk may begin there, though the entry
//! has changed since. A flush of pages drops those pages' translations and no upper level, which is less than INVLPG
//! drops, and all that [`sync::FlushScope::Pages`] promises.
//!
//! Real processors do these things seldom, and an emulated one does not do them at all: the kernel's mistakes would hide.

use std::{collections::HashMap, format, string::String};

use sync::{CpuId, testing::Host};

use crate::{
    frame::{Frames, Owner},
    paging::{
        Entry, EntryCell, Sharers,
        table::{cell, entry_span, index},
    },
};

/// Highest level of tables.
const ROOT_LEVEL: u32 = 4;

/// One CPU's TLB for one address space. Under a lock of its own: an access holds that from the look-up to the touch of
/// memory, and so does a flush, so that a flush that is over means what it means on a processor.
pub(super) struct Tlb {
    cpu: CpuId,
    /// Physical address of the CPU's root table.
    root: u64,
    /// The CPU has the address space's root loaded.
    pub(super) active: bool,
    /// Translations by page address.
    leaves: HashMap<u64, Entry>,
    /// Entries that lead to tables: by level, and number of the stretch that such an entry spans.
    uppers: HashMap<(u32, u64), Entry>,
}

impl Tlb {
    /// Nothing yet of what `cpu` finds under `root`.
    pub(super) fn new(cpu: CpuId, root: u64) -> Tlb {
        Tlb { cpu, root, active: false, leaves: HashMap::new(), uppers: HashMap::new() }
    }

    /// The CPU loads the root, or another one: everything goes.
    pub(super) fn reload(&mut self, active: bool) {
        self.active = active;
        self.leaves.clear();
        self.uppers.clear();
    }

    /// The translation of `page`, if there is one.
    pub(super) fn get(&self, page: u64) -> Option<Entry> {
        self.leaves.get(&page).copied()
    }

    /// Walks the CPU's tables for `page`, and remembers the translation if it is present. `start` says whether the
    /// walk begins at the root or may begin at a remembered upper entry.
    ///
    /// # Panics
    /// If the way leads through a frame that is no page table any more, or to a leaf table of which the CPU is no sharer.
    pub(super) fn load(&mut self, page: u64, frames: &Frames<Host>, start: Start) -> Entry {
        let (mut level, mut table) = (ROOT_LEVEL, self.root);
        if start == Start::Remembered {
            let lowest = (2..=ROOT_LEVEL).find_map(|level| Some((level, *self.uppers.get(&upper(level, page))?)));
            if let Some((remembered, entry)) = lowest {
                (level, table) = (remembered - 1, entry.phys());
            }
        }
        let mut link = None;
        loop {
            let owner = frames.owner_at(table);
            violation(owner == Some(Owner::PageTable), || {
                format!("a walk for {page:#x} goes through the freed table {table:#x} of level {level}: {owner:?}")
            });
            // SAFETY: the frame is in the arena, which is there for ever, and entries are atomics; that it still is a
            // table is checked above, and is what these tests are about.
            let cell = unsafe { cell::<Host>(table, index(page, level)) };
            let entry = cell.load();
            if !entry.is_present() {
                return entry;
            }
            if level == 1 {
                if let Some(link) = link {
                    self.check_shared(page, table, link, frames);
                }
                self.leaves.insert(page, entry);
                return entry;
            }
            self.uppers.insert(upper(level, page), entry);
            link = Some(cell);
            (level, table) = (level - 1, entry.phys());
        }
    }

    /// Fails if the CPU has reached the leaf table at `table` by `link`, and the calls do not know that it can.
    fn check_shared(&self, page: u64, table: u64, link: &EntryCell, frames: &Frames<Host>) {
        let sharers = Sharers::of(table, frames).cpus();
        // A table that has left the CPU's tables meanwhile has none.
        violation(sharers.contains(self.cpu) || link.load().phys() != table, || {
            let cpu = self.cpu.0;
            format!("CPU {cpu} walks for {page:#x} to the leaf table {table:#x}, which only {sharers:?} share")
        });
    }

    /// A fault at `page` drops what led to it.
    pub(super) fn fault(&mut self, page: u64) {
        self.leaves.remove(&page);
        for level in 2..=ROOT_LEVEL {
            self.uppers.remove(&upper(level, page));
        }
    }

    /// Drops the translations of `pages`.
    pub(super) fn flush_pages(&mut self, pages: &[u64]) {
        for page in pages {
            self.leaves.remove(page);
        }
    }

    /// Drops everything.
    pub(super) fn flush_all(&mut self) {
        self.leaves.clear();
        self.uppers.clear();
    }

    /// Fails if this TLB still leads to the frame at `phys`, which is about to be freed.
    ///
    /// # Panics
    /// See above.
    pub(super) fn check_freed(&self, phys: u64) {
        let leaf = self.leaves.iter().find(|(_, entry)| entry.phys() == phys);
        violation(leaf.is_none(), || {
            format!("the frame {phys:#x} is freed, and a TLB still translates to it: {leaf:x?}")
        });
        let upper = self.uppers.iter().find(|(_, entry)| entry.phys() == phys);
        violation(upper.is_none(), || {
            format!("the table {phys:#x} is freed, and a TLB still walks through it: {upper:x?}")
        });
    }

    /// Fails if this TLB knows of an address in `range` what the CPU's tables do not say, or more than they allow.
    /// Called when no call that concerns the range is under way.
    ///
    /// # Panics
    /// See above.
    pub(super) fn check(&self, range: core::ops::Range<u64>, frames: &Frames<Host>) {
        let mut fresh = Tlb::new(self.cpu, self.root);
        for (&page, &cached) in self.leaves.iter().filter(|(page, _)| range.contains(page)) {
            let now = fresh.load(page, frames, Start::Root);
            violation(!cached.loses_rights(now), || {
                format!("a TLB still translates {page:#x} by {cached:x?}, and the table has {now:x?}")
            });
        }
        for (&(level, stretch), &cached) in &self.uppers {
            let span = entry_span(level);
            let page = stretch * span;
            if page < range.start || page + span > range.end {
                continue;
            }
            fresh.load(page, frames, Start::Root);
            let now = fresh.uppers.get(&upper(level, page));
            violation(now == Some(&cached), || {
                format!(
                    "a TLB still walks for {page:#x} through {cached:x?} of level {level}, and the table has {now:x?}"
                )
            });
        }
    }
}

/// Where a walk begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At the root table.
    Root,
    /// At the lowest upper entry that is remembered.
    Remembered,
}

/// What the upper entry for `page` at `level` is found by.
fn upper(level: u32, page: u64) -> (u32, u64) {
    (level, page / entry_span(level))
}

/// Fails the test unless `holds`; a test that is failing already is left to its end.
#[track_caller]
pub(super) fn violation(holds: bool, text: impl FnOnce() -> String) {
    if !holds && !std::thread::panicking() {
        panic!("{}", text());
    }
}
