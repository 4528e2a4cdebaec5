//! The kernel's own mappings, in the upper half that all address spaces share.
//!
//! Rights come as one of a few kinds, none of which is both writable and executable (W^X). Mappings are global: they
//! stay in the TLB when another address space is loaded.
//!
//! An address space copies the root's upper 256 entries when it is made. So every entry of the root that the kernel
//! will ever use must be there before the first address space: see [`prepare_kernel_slot`].
//!
//! Called at boot on one CPU, and afterwards by whoever has reserved the virtual range for itself (kernel stacks); two
//! callers may work in different ranges at once.

use sync::Platform;

use super::{
    entry::Entry,
    table::{cell, entry_span, index},
};
use crate::{
    addr::{PAGE_SIZE, is_page_aligned},
    error::OutOfMemory,
    frame::{Frames, Owner},
};

/// What the kernel may do with a mapping of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelRights {
    /// Constants.
    ReadOnly,
    /// Data, stacks, the physical window.
    ReadWrite,
    /// Code.
    ReadExecute,
    /// Registers of devices: read and write, not cached.
    Device,
}

impl KernelRights {
    fn bits(self) -> u64 {
        let kept = Entry::PRESENT | Entry::GLOBAL | Entry::ACCESSED;
        match self {
            KernelRights::ReadOnly => kept | Entry::NO_EXECUTE,
            KernelRights::ReadWrite => kept | Entry::NO_EXECUTE | Entry::WRITABLE | Entry::DIRTY,
            KernelRights::ReadExecute => kept,
            KernelRights::Device => KernelRights::ReadWrite.bits() | Entry::CACHE_DISABLE | Entry::WRITE_THROUGH,
        }
    }
}

/// Why the kernel's tables could not be extended. Part of the range may be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKernelError {
    /// No frame for a table.
    OutOfMemory,
    /// An address or the length is no multiple of the page size, or the range wraps.
    Unaligned,
    /// Something is mapped in the range already.
    Occupied,
}

impl From<OutOfMemory> for MapKernelError {
    fn from(_: OutOfMemory) -> Self {
        MapKernelError::OutOfMemory
    }
}

/// An empty root table for the kernel. Its physical address; the frame is never freed.
///
/// # Errors
/// [`OutOfMemory`].
pub fn new_kernel_root<P: Platform>(frames: &Frames<P>) -> Result<u64, OutOfMemory> {
    Ok(frames.alloc_zeroed(Owner::KernelTables)?.into_raw())
}

/// Makes the level 3 table under the root's entry for `virt`, so that address spaces made later share what is mapped
/// there afterwards.
///
/// # Errors
/// [`OutOfMemory`].
///
/// # Safety
/// As [`map_kernel`].
pub unsafe fn prepare_kernel_slot<P: Platform>(root: u64, virt: u64, frames: &Frames<P>) -> Result<(), OutOfMemory> {
    // SAFETY: the caller's root.
    unsafe { table_at::<P>(root, virt, 3, frames) }.map(|_| ())
}

/// Maps `len` bytes at `virt` to those at `phys`, in 2 MiB pages where both addresses allow it.
///
/// # Errors
/// [`MapKernelError`]; see there.
///
/// # Safety
/// `root` is the physical address of a live level 4 table whose tables came from `frames`, and nobody else changes this
/// range of it. The caller answers for what the mapping makes reachable.
pub unsafe fn map_kernel<P: Platform>(
    root: u64,
    virt: u64,
    phys: u64,
    len: u64,
    rights: KernelRights,
    frames: &Frames<P>,
) -> Result<(), MapKernelError> {
    let aligned = is_page_aligned(virt) && is_page_aligned(phys) && is_page_aligned(len);
    if !aligned || virt.checked_add(len.saturating_sub(1)).is_none() || phys.checked_add(len).is_none() {
        return Err(MapKernelError::Unaligned);
    }
    let mut done = 0;
    while done < len {
        let (virt, phys, left) = (virt + done, phys + done, len - done);
        let large = entry_span(2);
        let (level, size, large_bit) = if (virt | phys) & (large - 1) == 0 && left >= large {
            (2, large, Entry::LARGE)
        } else {
            (1, PAGE_SIZE, 0)
        };
        // SAFETY: the caller's root.
        let table = unsafe { table_at::<P>(root, virt, level, frames) }?;
        // SAFETY: a live table of the kernel's tree.
        let entry = unsafe { cell::<P>(table, index(virt, level)) };
        if !entry.load().is_empty() {
            return Err(MapKernelError::Occupied);
        }
        entry.store(Entry(phys | rights.bits() | large_bit));
        done += size;
    }
    Ok(())
}

/// Empties the entries of `len` bytes at `virt`, which were mapped as 4 KiB pages. Tables stay. The frames are the
/// caller's, as is the TLB flush that must come before they are used for anything else.
///
/// # Safety
/// As [`map_kernel`]; nobody uses the range any more.
pub unsafe fn unmap_kernel<P: Platform>(root: u64, virt: u64, len: u64) {
    for addr in (virt..virt + len).step_by(PAGE_SIZE as usize) {
        // SAFETY: the caller's root.
        if let Some((entry, 1)) = unsafe { find::<P>(root, addr) } {
            entry.take();
        }
    }
}

/// The physical address behind `virt`, if it is mapped.
///
/// # Safety
/// `root` is the physical address of a live level 4 table, and nobody takes tables out of it meanwhile.
pub unsafe fn translate<P: Platform>(root: u64, virt: u64) -> Option<u64> {
    // SAFETY: the caller's root.
    let (entry, level) = unsafe { find::<P>(root, virt) }?;
    let entry = entry.load();
    let span = entry_span(level);
    entry.is_present().then(|| (entry.phys() & !(span - 1)) + virt % span)
}

/// The last entry on the way to `virt`, and its level.
///
/// # Safety
/// As [`translate`].
unsafe fn find<'a, P: Platform>(root: u64, virt: u64) -> Option<(&'a super::EntryCell, u32)> {
    let mut table = root;
    for level in (1..=4).rev() {
        // SAFETY: linked from the root.
        let entry = unsafe { cell::<P>(table, index(virt, level)) };
        let value = entry.load();
        if level == 1 || value.is_large() {
            return Some((entry, level));
        }
        if !value.is_present() {
            return None;
        }
        table = value.phys();
    }
    None
}

/// The table at `level` on the way to `virt`; missing ones are made.
///
/// # Safety
/// As [`map_kernel`].
unsafe fn table_at<P: Platform>(root: u64, virt: u64, level: u32, frames: &Frames<P>) -> Result<u64, OutOfMemory> {
    let mut table = root;
    for above in (level + 1..=4).rev() {
        // SAFETY: linked from the root.
        let entry = unsafe { cell::<P>(table, index(virt, above)) };
        let present = entry.load();
        table = if present.is_present() {
            assert!(!present.is_large(), "a kernel table is wanted inside a large page");
            present.phys()
        } else {
            let frame = frames.alloc_zeroed(Owner::KernelTables)?;
            let table = Entry(frame.phys() | Entry::PRESENT | Entry::WRITABLE);
            match entry.compare_exchange(Entry::EMPTY, table) {
                Ok(()) => frame.into_raw(),
                Err(winner) => winner.phys(),
            }
        };
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_of_kernel_mapping_is_writable_and_executable_or_for_programs() {
        for rights in [KernelRights::ReadOnly, KernelRights::ReadWrite, KernelRights::ReadExecute, KernelRights::Device]
        {
            let entry = Entry(rights.bits());
            assert!(entry.is_present() && !entry.is_user());
            assert!(!(entry.is_writable() && entry.is_executable()), "{rights:?}");
        }
    }
}
