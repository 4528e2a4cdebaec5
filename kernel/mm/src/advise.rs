//! `madvise`: hints, and one order.
//!
//! `MADV_DONTNEED` empties the range at once; `MADV_FREE`, which allows that at any later time, does the same. The
//! read-ahead and huge-page hints are kept in the VMAs, cut and joined as Linux does, and have no other effect yet.

use abi::{Errno, USER_END, flags::madv};
use sync::{Abort, Platform, Txn, primitive::mutant};

use crate::{
    addr::{PageRange, is_page_aligned, page_ceil},
    edit::Item,
    gather::Gather,
    protect::Holes,
    space::AddressSpace,
    vma::{Attributes, Kind, VmaFlags},
};

/// What an advice does.
#[derive(Clone, Copy)]
enum Action {
    /// Nothing, but the range is checked.
    Nothing,
    /// Pages go; the next access finds zeroes.
    Empty,
    /// Flags `clear` go, flags `set` come.
    Flags { clear: VmaFlags, set: VmaFlags },
}

impl Action {
    fn of(advice: i32) -> Result<Action, Errno> {
        let access = VmaFlags::RANDOM.union(VmaFlags::SEQUENTIAL);
        let huge = VmaFlags::HUGEPAGE.union(VmaFlags::NOHUGEPAGE);
        Ok(match advice {
            madv::NORMAL => Action::Flags { clear: access, set: VmaFlags::empty() },
            madv::RANDOM => Action::Flags { clear: access, set: VmaFlags::RANDOM },
            madv::SEQUENTIAL => Action::Flags { clear: access, set: VmaFlags::SEQUENTIAL },
            madv::HUGEPAGE => Action::Flags { clear: huge, set: VmaFlags::HUGEPAGE },
            madv::NOHUGEPAGE => Action::Flags { clear: huge, set: VmaFlags::NOHUGEPAGE },
            madv::WILLNEED => Action::Nothing,
            madv::DONTNEED | madv::FREE => Action::Empty,
            _ => return Err(Errno::EINVAL),
        })
    }
}

impl<P: Platform> AddressSpace<P> {
    /// `madvise(2)`.
    ///
    /// # Errors
    /// In this order: EINVAL (unknown advice; `addr` not page-aligned; `len` wraps), none for length 0, ENOMEM (a hole;
    /// everything else in the range has been served). EAGAIN for too many mappings or kernel memory: nothing has changed
    /// then.
    pub fn madvise(&self, addr: u64, len: u64, advice: i32) -> Result<(), Errno> {
        let action = Action::of(advice)?;
        if !is_page_aligned(addr) {
            return Err(Errno::EINVAL);
        }
        let end = page_ceil(len).and_then(|len| addr.checked_add(len)).ok_or(Errno::EINVAL)?;
        if end == addr {
            return Ok(());
        }
        let range = PageRange::new(addr, end.min(USER_END)).ok_or(Errno::ENOMEM)?;
        let beyond = if end > USER_END { Err(Errno::ENOMEM) } else { Ok(()) };
        let done = self.transaction(|txn| match action {
            Action::Nothing => self.check_mapped(txn, range),
            Action::Empty => self.empty_in(txn, range),
            Action::Flags { clear, set } => self.flag_in(txn, range, clear, set),
        });
        let done = done.map_err(|errno| if errno == Errno::ENOMEM { Errno::EAGAIN } else { errno })?;
        done.and(beyond)
    }

    /// The inner result: ENOMEM if there is a hole in `range`.
    fn check_mapped(&self, txn: &Txn<'_, P>, range: PageRange) -> Result<Result<(), Errno>, Abort> {
        let guard = self.memory.rcu.read();
        let mut mapped = range.start();
        for item in self.tree.overlapping(&guard, range.range()) {
            if item.start > mapped {
                break;
            }
            // SAFETY: found under `guard`.
            let vma = unsafe { item.value.get() };
            if vma.kind() == Kind::Tombstone {
                return Err(txn.wait_for(vma.lock()));
            }
            mapped = item.end;
        }
        Ok(if mapped < range.end() { Err(Errno::ENOMEM) } else { Ok(()) })
    }

    /// Takes the pages out. The inner result is the call's: an error that comes after the change.
    fn empty_in(&self, txn: &mut Txn<'_, P>, range: PageRange) -> Result<Result<(), Errno>, Abort> {
        {
            let guard = self.memory.rcu.read();
            for item in self.tree.overlapping(&guard, range.range()) {
                // SAFETY: found under `guard`.
                let vma = unsafe { item.value.get() };
                if vma.kind() == Kind::Tombstone {
                    return Err(txn.wait_for(vma.lock()));
                }
                txn.mark(vma.lock(), vma.range())?;
            }
        }
        let _settled = txn.settle()?;
        // Again: another writer may have replaced what was marked, before it was. What now carries our mark stays.
        let guard = self.memory.rcu.read();
        // SAFETY: found under `guard`.
        let ours = |item: Item| txn.has_marked(unsafe { item.value.get() }.lock());
        // In the same walk: what comes into a hole after it, another call's tombstone too, fills no hole of this call.
        let mut result = Ok(());
        let mut mapped = range.start();
        for item in self.tree.overlapping(&guard, range.range()) {
            if !ours(item) && !mutant("empty-counts-others") {
                return Err(Abort::Again);
            }
            if item.start > mapped {
                result = Err(Errno::ENOMEM);
            }
            mapped = item.end;
        }
        if mapped < range.end() {
            result = Err(Errno::ENOMEM);
        }
        let mut gather = Gather::new(self);
        for item in self.tree.overlapping(&guard, range.range()) {
            // What has come into a hole meanwhile is not ours, and began empty.
            if ours(item) {
                let part = item.start.max(range.start())..item.end.min(range.end());
                // SAFETY: the VMA is marked and settled by us, and in the tree.
                unsafe { self.tables.visit(part, &mut |addr, cell| gather.take_page(addr, cell.take())) };
            }
        }
        drop(guard);
        gather.finish();
        Ok(result)
    }

    /// Changes flags of the VMAs. The inner result is the call's: an error that comes after the change.
    fn flag_in(
        &self,
        txn: &mut Txn<'_, P>,
        range: PageRange,
        clear: VmaFlags,
        set: VmaFlags,
    ) -> Result<Result<(), Errno>, Abort> {
        let guard = self.memory.rcu.read();
        let change = self.draft_change(txn, &guard, range, Holes::Skip, &|old| Attributes {
            flags: old.flags.difference(clear).union(set),
            ..old
        })?;
        let Some(draft) = change.draft else { return Ok(change.result) };
        self.publish_change(txn, guard, draft)?;
        Ok(change.result)
    }
}
