//! `munmap`: check, mark, settle, publish a tombstone, clear, flush, free.
//!
//! The order is the whole point:
//!
//! 1. mark the VMAs and settle: no fault is inside them, none will enter;
//! 2. prepare: what is left of cut VMAs, a tombstone, tree nodes. The last step that can fail;
//! 3. publish: the range becomes a locked **tombstone**, no mapping for faults (which wait for the end), and taken for
//!    whoever looks for a hole; in the same section, page tables that nothing else uses leave the tree of tables;
//! 4. take the entries out, into a gather;
//! 5. one TLB shootdown; when all have acknowledged, the frames are free; tables wait for a grace period;
//! 6. the tombstone leaves the tree, and the transaction ends.

use abi::{Errno, USER_END};
use sync::{Abort, AllocError, Platform, RcuGuard, Settled, Txn, point};

use crate::{
    addr::{PageRange, is_page_aligned, page_ceil},
    edit::{Draft, Edit},
    gather::Gather,
    paging::{Unlinked, table::USER_HALF_END},
    space::AddressSpace,
    tree::Section,
    vma::{Kind, VmaRef},
};

/// What becomes of page tables that only the range used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// The next mapping uses them at once.
    Keep,
    /// They go.
    Unlink,
}

impl<P: Platform> AddressSpace<P> {
    /// `munmap(2)`: afterwards nothing is mapped in the range. Holes are fine.
    ///
    /// # Errors
    /// EINVAL: `addr` not page-aligned, `len` 0, or the range not below [`USER_END`]. ENOMEM: the cut would make too many
    /// mappings, or kernel memory is out. Nothing has changed then.
    pub fn munmap(&self, addr: u64, len: u64) -> Result<(), Errno> {
        if !is_page_aligned(addr) || addr > USER_END || len > USER_END - addr {
            return Err(Errno::EINVAL);
        }
        let end = page_ceil(addr + len).ok_or(Errno::EINVAL)?;
        let range = PageRange::new(addr, end).ok_or(Errno::EINVAL)?;
        self.transaction(|txn| {
            let guard = self.memory.rcu.read();
            self.remove_in(txn, guard, range)
        })
    }

    /// Takes everything in `range` away.
    pub(crate) fn remove_in(
        &self,
        txn: &mut Txn<'_, P>,
        guard: RcuGuard<'_, P>,
        range: PageRange,
    ) -> Result<(), Abort> {
        let Some(burial) = self.draft_burial(txn, &guard, range)? else {
            return self.confirm(range.range(), |_| false);
        };
        burial.check_count(self)?;
        burial.mark(txn, &guard)?;
        let burial = burial.build(self, txn)?;
        let mut clearance = Draft::new();
        clearance.remove(burial.new_at(range.start()).expect("a burial has a tombstone"))?;
        let mut clearance = clearance.build(self, txn)?;
        drop(guard);
        let settled = txn.settle()?;
        self.bury(txn, &settled, burial, range, Tables::Unlink)?;
        point!(P, "tombstone-clearing");
        clearance.publish(txn, &settled, |_| ()).expect("nobody else touches a live tombstone");
        Ok(())
    }

    /// A draft that turns `range` into a tombstone and keeps what sticks out of it, or `None` if nothing is mapped there.
    pub(crate) fn draft_burial(
        &self,
        txn: &Txn<'_, P>,
        guard: &RcuGuard<'_, P>,
        range: PageRange,
    ) -> Result<Option<Draft>, Abort> {
        let mut draft = Draft::new();
        let mut tail = None;
        for item in self.tree.overlapping(guard, range.range()) {
            // SAFETY: found under `guard`.
            let vma = unsafe { item.value.get() };
            if vma.kind() == Kind::Tombstone {
                // Another writer is unmapping here; its marks make us wait. Not under `bulk`.
                return Err(txn.wait_for(vma.lock()));
            }
            if draft.is_empty() {
                if item.start < range.start() {
                    draft.map(item.start..range.start(), vma.attributes())?;
                }
                draft.bury(range.range())?;
            }
            if item.end > range.end() {
                tail = Some((range.end()..item.end, vma.attributes()));
            }
            draft.remove(item)?;
        }
        if draft.is_empty() {
            return Ok(None);
        }
        if let Some((range, attributes)) = tail {
            draft.map(range, attributes)?;
        }
        Ok(Some(draft))
    }

    /// Publishes the tombstone, empties its range, flushes, frees. After this nothing is mapped in `range`, and no CPU
    /// can reach what was.
    pub(crate) fn bury(
        &self,
        txn: &Txn<'_, P>,
        settled: &Settled<'_>,
        mut burial: Edit<'_, P>,
        range: PageRange,
        tables: Tables,
    ) -> Result<(), Abort> {
        let mut unlinked = Unlinked::new(self.memory.frames);
        burial.publish(txn, settled, |section| {
            if tables == Tables::Unlink {
                self.unlink_tables(section, range, &mut unlinked);
                point!(P, "table-unlinked");
            }
        })?;
        let mut gather = Gather::new(self);
        gather.take_tables(&mut unlinked);
        // SAFETY: the range is our settled tombstone.
        unsafe { self.tables.visit(range.range(), &mut |addr, cell| gather.take_page(addr, cell.take())) };
        point!(P, "entries-taken");
        gather.finish();
        Ok(())
    }

    /// Unlinks the tables whose whole span lies between `range`'s neighbours (slot protocol, 8.4): inside the section
    /// that published the tombstone, and before the shootdown.
    pub(crate) fn unlink_tables(&self, section: &Section<'_, P, VmaRef>, range: PageRange, unlinked: &mut Unlinked<P>) {
        let floor = section.prev(range.start()).map_or(0, |item| item.end);
        let ceiling = section.next(range.end()).map_or(USER_HALF_END, |item| item.start);
        // SAFETY: between the two there is only our tombstone, and the section keeps it so; `bury` flushes everything
        // before it frees a table.
        unsafe { self.tables.unlink(range.range(), floor..ceiling, unlinked) };
    }
}

impl From<AllocError> for crate::FaultError {
    fn from(_: AllocError) -> Self {
        crate::FaultError::OutOfMemory
    }
}
