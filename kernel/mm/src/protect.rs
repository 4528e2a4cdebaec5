//! `mprotect`: new rights for a range.
//!
//! VMAs before a hole are changed, as on Linux, and then the call fails. All of it is one transaction: one publication,
//! then the entries of pages that are there, then one shootdown if any of them lost a right. A right that is *gained*
//! needs no flush: a CPU that still refuses by an old translation faults once and finds nothing to do.

use core::ops::Range;

use abi::{Errno, USER_END, flags::prot};
use sync::{Abort, Platform, RcuGuard, Txn, primitive::mutant};

use crate::{
    addr::{PageRange, is_page_aligned, page_ceil},
    edit::{Draft, Item},
    gather::Gather,
    paging::Entry,
    space::AddressSpace,
    vma::{Attributes, Kind, Rights},
};

/// What a change does at a hole.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holes {
    /// It ends there.
    Stop,
    /// It goes on behind.
    Skip,
}

/// What a change of attributes amounts to.
pub(crate) struct Change {
    /// What to publish; `None` if every VMA already is as wanted.
    pub(crate) draft: Option<Draft>,
    /// The part of the range that was looked at: up to the first hole with [`Holes::Stop`].
    pub(crate) range: Range<u64>,
    /// ENOMEM if there was a hole.
    pub(crate) result: Result<(), Errno>,
}

impl<P: Platform> AddressSpace<P> {
    /// `mprotect(2)`.
    ///
    /// # Errors
    /// In this order: EINVAL (both `PROT_GROWSDOWN` and `PROT_GROWSUP`; `addr` not page-aligned), none for length 0,
    /// ENOMEM (the range wraps), EINVAL (unknown bits), ENOMEM (a hole; what lies before it has been changed), EINVAL
    /// (`PROT_GROWS*`: no mapping grows). ENOMEM for too many mappings or kernel memory: nothing has changed then.
    pub fn mprotect(&self, addr: u64, len: u64, prot: u32) -> Result<(), Errno> {
        const GROWS: u32 = prot::GROWSDOWN | prot::GROWSUP;
        if prot & GROWS == GROWS || !is_page_aligned(addr) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let end =
            page_ceil(len).and_then(|len| addr.checked_add(len)).filter(|&end| end > addr).ok_or(Errno::ENOMEM)?;
        if prot & !(GROWS | prot::READ | prot::WRITE | prot::EXEC | prot::SEM) != 0 {
            return Err(Errno::EINVAL);
        }
        let range = PageRange::new(addr, end.min(USER_END)).ok_or(Errno::ENOMEM)?;
        if prot & GROWS != 0 {
            let mapped = { self.tree.find(&self.memory.rcu.read(), addr).is_some() };
            return Err(if mapped { Errno::EINVAL } else { Errno::ENOMEM });
        }
        let beyond = if end > USER_END { Err(Errno::ENOMEM) } else { Ok(()) };
        self.transaction(|txn| self.protect_in(txn, range, Rights::from_prot(prot)))?.and(beyond)
    }

    /// The inner result is the call's: an error that comes after the change.
    fn protect_in(&self, txn: &mut Txn<'_, P>, range: PageRange, rights: Rights) -> Result<Result<(), Errno>, Abort> {
        let guard = self.memory.rcu.read();
        let change = self.draft_change(txn, &guard, range, Holes::Stop, &|old| Attributes { rights, ..old })?;
        let Some(draft) = change.draft else {
            drop(guard);
            // SAFETY: in the tree, and the section keeps it there.
            let has = |item: Item| unsafe { item.value.get() }.attributes().rights == rights;
            return self.confirm(change.range, has).map(|()| change.result);
        };
        self.publish_change(txn, guard, draft)?;
        let mut gather = Gather::new(self);
        // SAFETY: all VMAs in the range are marked and settled by us.
        unsafe {
            self.tables.visit(change.range, &mut |addr, cell| {
                let mut old = cell.load();
                // Again if the processor has set a bit meanwhile.
                while !old.is_empty() {
                    let new = Entry::page(old.phys(), rights);
                    match cell.compare_exchange(old, new) {
                        Ok(()) => {
                            if old.loses_rights(new) && !mutant("protect-no-flush") {
                                gather.flush_page(addr);
                            }
                            break;
                        }
                        Err(now) => old = now,
                    }
                }
            })
        };
        gather.finish();
        Ok(change.result)
    }

    /// Publishes what [`AddressSpace::draft_change`] drafted under `guard`: its VMAs are marked and settled from here on.
    pub(crate) fn publish_change(
        &self,
        txn: &mut Txn<'_, P>,
        guard: RcuGuard<'_, P>,
        draft: Draft,
    ) -> Result<(), Abort> {
        draft.check_count(self)?;
        draft.mark(txn, &guard)?;
        let mut edit = draft.build(self, txn)?;
        drop(guard);
        let settled = txn.settle()?;
        edit.publish(txn, &settled, |_| ())
    }

    /// A draft that gives every VMA in `range` the attributes `f` of its own, cut at the range's ends and joined with
    /// its neighbours where they become alike.
    pub(crate) fn draft_change(
        &self,
        txn: &Txn<'_, P>,
        guard: &RcuGuard<'_, P>,
        range: PageRange,
        holes: Holes,
        f: &dyn Fn(Attributes) -> Attributes,
    ) -> Result<Change, Abort> {
        let mut draft = Draft::new();
        let mut changed = false;
        let mut pending = None;
        let mut result = Ok(());
        let mut cursor = range.start();
        let mut last = None;
        for item in self.tree.overlapping(guard, range.range()) {
            if item.start > cursor {
                result = Err(Errno::ENOMEM);
                if holes == Holes::Stop {
                    break;
                }
            }
            // SAFETY: found under `guard`.
            let vma = unsafe { item.value.get() };
            if vma.kind() == Kind::Tombstone {
                return Err(txn.wait_for(vma.lock()));
            }
            let (old, new) = (vma.attributes(), f(vma.attributes()));
            changed |= old != new;
            if vma.lock().locked_by(&self.memory.locks.cells).is_some_and(|mark| mark != txn.own_mark()) {
                pending = Some(vma.lock());
            }
            if item.start < range.start() {
                draft.map(item.start..range.start(), old)?;
            } else if draft.is_empty() {
                let (left, _) = self.neighbours(guard, &item.range());
                // SAFETY: found under `guard`.
                unsafe { draft.absorb(left, new) }?;
            }
            cursor = item.end.min(range.end());
            draft.remove(item)?;
            draft.map(item.start.max(range.start())..cursor, new)?;
            if item.end > range.end() {
                draft.map(range.end()..item.end, old)?;
            }
            last = Some((item, new));
        }
        if cursor < range.end() {
            result = Err(Errno::ENOMEM);
        }
        if let Some((item, new)) = last
            && item.end <= range.end()
        {
            let (_, right) = self.neighbours(guard, &item.range());
            // SAFETY: found under `guard`.
            unsafe { draft.absorb(right, new) }?;
        }
        // What another call has published it may not have made true yet: old translations go after that. Where nothing is left to be
        // changed, this call must not return before it has.
        if let Some(lock) = pending.filter(|_| !changed && !mutant("protect-trusts-pending")) {
            return Err(txn.wait_for(lock));
        }
        Ok(Change { draft: changed.then_some(draft), range: range.start()..cursor, result })
    }
}
