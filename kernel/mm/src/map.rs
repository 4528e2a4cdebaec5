//! `mmap`: new private anonymous memory.
//!
//! A mapping into a hole is one publication. A `MAP_FIXED` mapping over others first turns the range into a tombstone,
//! empties it as `munmap` does, and then publishes the new mapping in the tombstone's place: a fault in the range sees
//! the old mapping, or waits, or sees the new one, and never a hole.

use abi::{
    Errno,
    flags::{map, prot},
};
use sync::{Abort, AllocError, Platform, RcuGuard, Txn, primitive::mutant};

use crate::{
    addr::{PAGE_SIZE, PageRange},
    edit::{Draft, Item},
    placement::whole_pages,
    request::MapRequest,
    space::{AddressSpace, MAX_MAP_COUNT},
    unmap::Tables,
    vma::{Access, Attributes, Kind, Rights},
};

/// What a new mapping may take the place of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// Nothing: it goes into a hole.
    Hole,
    /// Whatever is there.
    Mappings,
}

impl<P: Platform> AddressSpace<P> {
    /// `mmap(2)` of private anonymous memory. Returns its address.
    ///
    /// # Errors
    /// As Linux, in its order: EINVAL (length 0), ENOMEM (length wraps; too many mappings; no hole, or above
    /// [`USER_END`](crate::USER_END)), EINVAL (fixed and unaligned), EPERM (fixed and below
    /// [`MMAP_MIN_ADDR`](abi::MMAP_MIN_ADDR)), EEXIST (`MAP_FIXED_NOREPLACE` and taken), EINVAL (unknown type), ENODEV
    /// (shared memory: not there yet), ENOMEM (more than the machine has, without `MAP_NORESERVE`; kernel memory).
    /// Nothing has changed then.
    pub fn mmap(&self, request: MapRequest) -> Result<u64, Errno> {
        let len = whole_pages(request.len)?;
        let range = self.transaction(|txn| self.map_in(txn, &request, len))?;
        if request.has(map::POPULATE | map::LOCKED) && !request.has(map::NONBLOCK) {
            self.populate(range, request.prot);
        }
        Ok(range.start())
    }

    fn map_in(&self, txn: &mut Txn<'_, P>, request: &MapRequest, len: u64) -> Result<PageRange, Abort> {
        if self.tree.len() > MAX_MAP_COUNT {
            return Err(Errno::ENOMEM.into());
        }
        let guard = self.memory.rcu.read();
        let range = self.place(txn, &guard, request, len)?;
        request.check_type()?;
        self.check_commit(request, len)?;
        let replaces = request.replaces() || mutant("claim-replaces");
        let over = if replaces { Over::Mappings } else { Over::Hole };
        self.insert_in(txn, guard, range, over, request.attributes())?;
        Ok(range)
    }

    /// Puts a mapping at `range`, joined with equal neighbours.
    pub(crate) fn insert_in(
        &self,
        txn: &mut Txn<'_, P>,
        guard: RcuGuard<'_, P>,
        range: PageRange,
        over: Over,
        attributes: Attributes,
    ) -> Result<(), Abort> {
        let (left, right) = self.neighbours(&guard, &range.range());
        let burial = match over {
            Over::Hole => None,
            Over::Mappings => self.draft_burial(txn, &guard, range)?,
        };
        let Some(mut burial) = burial else {
            // Should the hole have been filled since it was found, publication finds out.
            // SAFETY: found under `guard`.
            let draft = unsafe { join(left, None, range, attributes, right) }?;
            draft.mark(txn, &guard)?;
            let mut edit = draft.build(self, txn)?;
            drop(guard);
            let settled = txn.settle()?;
            return edit.publish(txn, &settled, |_| ());
        };
        // A neighbour that will be joined goes with the second publication; the first makes sure that it is still there.
        let alike = |item: &Item| {
            // SAFETY: found under `guard`.
            let vma = unsafe { item.value.get() };
            vma.kind() == Kind::Anonymous && vma.attributes() == attributes
        };
        burial.keep_around(left.filter(alike), right.filter(alike))?;
        burial.check_count(self)?;
        burial.mark(txn, &guard)?;
        let burial = burial.build(self, txn)?;
        // What touches the tombstone: what is left of a mapping that the burial cuts, or a neighbour that it keeps.
        let left = range.start().checked_sub(1).and_then(|addr| burial.new_at(addr));
        let right = burial.new_at(range.end());
        // SAFETY: found under `guard`, or new.
        let rise = unsafe { join(left, burial.new_at(range.start()), range, attributes, right) }?;
        let mut rise = rise.build(self, txn)?;
        drop(guard);
        let settled = txn.settle()?;
        self.bury(txn, &settled, burial, range, Tables::Keep)?;
        rise.publish(txn, &settled, |_| ()).expect("nobody else touches a live tombstone or what we have marked");
        Ok(())
    }

    /// Linux's default overcommit rule: only a request beyond all memory of the machine is refused.
    fn check_commit(&self, request: &MapRequest, len: u64) -> Result<(), Errno> {
        let charged = request.prot & prot::WRITE != 0 && !request.has(map::NORESERVE);
        if charged && len / PAGE_SIZE > self.memory.frames.total() { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Best effort, as on Linux: what cannot be had now comes by faults.
    fn populate(&self, range: PageRange, prot: u32) {
        let rights = Rights::from_prot(prot);
        let access = if rights.contains(Rights::WRITE) { Access::Write } else { Access::Read };
        if !rights.allow(access) {
            return;
        }
        for page in range.pages() {
            if self.fault_in(page, access).is_err() {
                return;
            }
        }
    }
}

/// A draft of a mapping at `range`, in place of `tombstone`, joined with `left` and `right` where they are alike.
///
/// # Safety
/// The items' VMAs may be looked into, see [`VmaRef::get`](crate::vma::VmaRef::get).
unsafe fn join(
    left: Option<Item>,
    tombstone: Option<Item>,
    range: PageRange,
    attributes: Attributes,
    right: Option<Item>,
) -> Result<Draft, AllocError> {
    let mut draft = Draft::of_new_mapping();
    // SAFETY: the caller's.
    unsafe { draft.absorb(left, attributes) }?;
    if let Some(tombstone) = tombstone {
        draft.remove(tombstone)?;
    }
    draft.map(range.range(), attributes)?;
    // SAFETY: the caller's.
    unsafe { draft.absorb(right, attributes) }?;
    Ok(draft)
}
