//! One page table: four levels of them, 512 entries each.
//!
//! | level | a table spans | an entry spans |
//! |---|---|---|
//! | 4 (root) | 256 TiB | 512 GiB |
//! | 3 | 512 GiB | 1 GiB |
//! | 2 | 1 GiB | 2 MiB |
//! | 1 | 2 MiB | a page |

use sync::{Platform, point};

use super::{
    entry::{Entry, EntryCell},
    sharers::Sharers,
};
use crate::{
    addr::PAGE_SIZE,
    error::OutOfMemory,
    frame::{Frames, Owner},
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

/// The table below `entry`, made if need be.
#[inline]
pub(super) fn fill<P: Platform>(entry: &EntryCell, frames: &Frames<P>) -> Result<u64, OutOfMemory> {
    let present = entry.load();
    if present.is_present() { Ok(present.phys()) } else { make(entry, frames) }
}

/// Makes the table below an entry that was empty.
#[cold]
fn make<P: Platform>(entry: &EntryCell, frames: &Frames<P>) -> Result<u64, OutOfMemory> {
    let frame = frames.alloc_zeroed(Owner::PageTable)?;
    let phys = frame.phys();
    Sharers::of(phys, frames).clear();
    point!(P, "before-table");
    match entry.compare_exchange(Entry::EMPTY, Entry::table(phys)) {
        Ok(()) => Ok(frame.into_raw()),
        // Another CPU was first. `frame` goes back here.
        Err(winner) => Ok(winner.phys()),
    }
}
