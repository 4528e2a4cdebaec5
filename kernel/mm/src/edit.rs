//! One change of the range tree: drafted, prepared, checked, published.
//!
//! | step | who | can fail |
//! |---|---|---|
//! | [`Draft`]: which entries go, which pieces come; equal neighbours become one | under an RCU guard | memory |
//! | [`Draft::mark`]: every entry that takes part is marked | the transaction | another goes first |
//! | [`Draft::build`]: the new VMAs and the tree's nodes are allocated | the transaction | memory |
//! | settle | the transaction | no |
//! | [`Edit::publish`]: the tree still shows what the draft saw; swap; old VMAs wait for a grace period | inside the publication section | the world has changed; too many mappings |
//!
//! An [`Edit`] that is dropped unpublished leaves nothing behind. Called by the verbs, inside their transactions; none of
//! them assumes that no other writer is there. A draft is a guess: another writer may have replaced what it found before it was
//! marked. What makes the guess good is the look in the publication section: everything that it found is still there,
//! carries this transaction's mark, and hence stays. The look covers the draft's whole range, holes included, so that a
//! replacement is one step over all of it.

use core::ops::Range;
use core::panic::Location;

use abi::{Counter, Errno, Extreme};
use sync::{Abort, AllocError, Platform, RcuGuard, Settled, Txn, point};

use crate::{
    few::Few,
    space::{AddressSpace, MAX_MAP_COUNT},
    tree::{Entry, Reserve, ReserveTooSmall, Section},
    vma::{Attributes, Kind, Vma, VmaRef},
};

/// An entry of the range tree.
pub(crate) type Item = Entry<VmaRef>;

/// A VMA to be.
#[derive(Clone, Copy)]
struct Piece {
    start: u64,
    end: u64,
    attributes: Attributes,
    kind: Kind,
}

/// What shall go, and what shall come instead; ascending.
pub(crate) struct Draft {
    old: Few<Item>,
    pieces: Few<Piece>,
    /// Most mappings that there may be afterwards, if there are more than before.
    most: usize,
}

impl Draft {
    pub(crate) const fn new() -> Draft {
        Draft { old: Few::new(), pieces: Few::new(), most: MAX_MAP_COUNT }
    }

    /// As [`Draft::new`], of a new mapping: as on Linux, that is refused only where there are too many already.
    pub(crate) fn of_new_mapping() -> Draft {
        Draft { most: MAX_MAP_COUNT + 1, ..Draft::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.old.is_empty()
    }

    /// The neighbours `left` and `right` take part and stay as they are: nobody else changes them meanwhile.
    pub(crate) fn keep_around(&mut self, left: Option<Item>, right: Option<Item>) -> Result<(), AllocError> {
        if left.is_none() && right.is_none() {
            return Ok(());
        }
        let mut wider = Draft { most: self.most, ..Draft::new() };
        let keep = |wider: &mut Draft, item: Item| {
            // SAFETY: found under the guard of the draft.
            let attributes = unsafe { item.value.get() }.attributes();
            wider.old.push(item)?;
            wider.pieces.push(Piece { start: item.start, end: item.end, attributes, kind: Kind::Anonymous })
        };
        if let Some(left) = left {
            keep(&mut wider, left)?;
        }
        for &item in self.old.iter() {
            wider.old.push(item)?;
        }
        for &piece in self.pieces.iter() {
            wider.pieces.push(piece)?;
        }
        if let Some(right) = right {
            keep(&mut wider, right)?;
        }
        *self = wider;
        Ok(())
    }

    /// `item` goes.
    pub(crate) fn remove(&mut self, item: Item) -> Result<(), AllocError> {
        self.old.push(item)
    }

    /// A mapping comes. If the piece before it ends where it starts and is of the same kind, they become one.
    pub(crate) fn map(&mut self, range: Range<u64>, attributes: Attributes) -> Result<(), AllocError> {
        if let Some(last) = self.pieces.last_mut()
            && last.kind == Kind::Anonymous
            && last.end == range.start
            && last.attributes == attributes
        {
            last.end = range.end;
            return Ok(());
        }
        self.pieces.push(Piece { start: range.start, end: range.end, attributes, kind: Kind::Anonymous })
    }

    /// A tombstone comes.
    pub(crate) fn bury(&mut self, range: Range<u64>) -> Result<(), AllocError> {
        let (start, end) = (range.start, range.end);
        self.pieces.push(Piece { start, end, attributes: Attributes::NONE, kind: Kind::Tombstone })
    }

    /// The neighbour `item` takes part if it is like `attributes`: it goes, and comes back as part of a larger piece.
    ///
    /// # Safety
    /// `item`'s VMA may be looked into, see [`VmaRef::get`].
    pub(crate) unsafe fn absorb(&mut self, item: Option<Item>, attributes: Attributes) -> Result<(), AllocError> {
        let Some(item) = item else { return Ok(()) };
        // SAFETY: the caller's.
        let vma = unsafe { item.value.get() };
        if vma.kind() != Kind::Anonymous || vma.attributes() != attributes {
            return Ok(());
        }
        self.remove(item)?;
        self.map(item.range(), attributes)
    }

    /// Refuses to go beyond the limit of mappings. Fewer or as many as before is always allowed. Early, before anything is
    /// allocated; what counts is the same check in [`Edit::publish`].
    pub(crate) fn check_count<P: Platform>(&self, space: &AddressSpace<P>) -> Result<(), Errno> {
        let come = self.pieces.iter().filter(|piece| piece.kind == Kind::Anonymous).count();
        check_count(space.tree.len(), come, self.old.len(), self.most)
    }

    /// Marks every VMA that goes. `_guard` is the read section in which they were found.
    pub(crate) fn mark<P: Platform>(&self, txn: &mut Txn<'_, P>, _guard: &RcuGuard<'_, P>) -> Result<(), Abort> {
        for item in self.old.iter() {
            // SAFETY: found under `_guard`.
            let vma = unsafe { item.value.get() };
            txn.mark(vma.lock(), vma.range())?;
        }
        point!(P, "after-mark");
        Ok(())
    }

    /// Allocates everything that publication needs. A piece that is just like a VMA that goes *is* that VMA: it stays.
    pub(crate) fn build<'a, P: Platform>(
        self,
        space: &'a AddressSpace<P>,
        txn: &Txn<'_, P>,
    ) -> Result<Edit<'a, P>, AllocError> {
        // Ascending and disjoint, both, so that the first and the last tell the hull.
        let start =
            self.old.first().map(|item| item.start).into_iter().chain(self.pieces.first().map(|piece| piece.start));
        let end = self.old.last().map(|item| item.end).into_iter().chain(self.pieces.last().map(|piece| piece.end));
        let range = start.min().unwrap_or(0)..end.max().unwrap_or(0);
        let reserve = space.tree.reserve(self.pieces.len())?;
        let mut edit =
            Edit { space, range, old: Few::new(), new: Few::new(), most: self.most, reserve, stage: Stage::Prepared };
        for &item in self.old.iter() {
            edit.old.push((item, Fate::Goes))?;
        }
        for piece in self.pieces.iter() {
            let value = match edit.old_at(piece.start).filter(|&at| is_like(&edit.old[at].0, piece)) {
                Some(at) => {
                    edit.old[at].1 = Fate::Stays;
                    edit.old[at].0.value
                }
                None => VmaRef::new(Vma::new(piece.start..piece.end, piece.attributes, piece.kind, txn.new_lock())?),
            };
            let item = Entry { start: piece.start, end: piece.end, value };
            if let Err(error) = edit.new.push(item) {
                edit.discard(item);
                return Err(error);
            }
        }
        Ok(edit)
    }
}

/// Whether the VMA of `item`, which the caller has marked, already is what `piece` wants.
fn is_like(item: &Item, piece: &Piece) -> bool {
    // SAFETY: in `Draft::build` all VMAs that go are marked by the running transaction, or its own.
    let vma = unsafe { item.value.get() };
    vma.range() == (piece.start..piece.end) && vma.attributes() == piece.attributes && vma.kind() == piece.kind
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Goes,
    Stays,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Prepared,
    Published,
}

/// A change with all its memory.
pub(crate) struct Edit<'a, P: Platform> {
    space: &'a AddressSpace<P>,
    /// Hull of everything that goes and comes.
    range: Range<u64>,
    /// What the tree shows in `range`, all of it.
    old: Few<(Item, Fate)>,
    /// What it will show.
    new: Few<Item>,
    /// As in the draft.
    most: usize,
    reserve: Reserve<VmaRef>,
    stage: Stage,
}

impl<P: Platform> Edit<'_, P> {
    /// The new entry that contains `addr`.
    pub(crate) fn new_at(&self, addr: u64) -> Option<Item> {
        self.new.iter().copied().find(|item| item.range().contains(&addr))
    }

    /// Swaps the old entries for the new ones in one publication; `then` runs in the same section.
    ///
    /// Marks of all old VMAs are settled (`settled`), so nobody uses them; they are detached here, and freed after a
    /// grace period.
    ///
    /// # Errors
    /// [`Abort::Again`] if the tree no longer shows what the draft saw, ENOMEM for too many mappings; nothing has changed
    /// then.
    #[track_caller]
    pub(crate) fn publish(
        &mut self,
        txn: &Txn<'_, P>,
        settled: &Settled<'_>,
        then: impl FnOnce(&mut Section<'_, P, VmaRef>),
    ) -> Result<(), Abort> {
        point!(P, "before-publish");
        let mut section = self.space.tree.publish();
        let since_ns = P::now_ns();
        if !section.overlapping(self.range.clone()).eq(self.old.iter().map(|(item, _)| *item)) {
            return Err(Abort::Again);
        }
        let locks = &self.space.memory.locks;
        // SAFETY: in the tree, and the section keeps it there.
        let ours = |item: &Item| txn.has_marked(unsafe { item.value.get() }.lock());
        // Under one writer what we marked is what is there. Else a new VMA may lie where one lay that we had marked.
        if !locks.pair().has_one_writer() && !self.old.iter().all(|(item, _)| ours(item)) {
            return Err(Abort::Again);
        }
        let come = self.new.iter().filter(|item| is_mapping(item)).count();
        check_count(self.space.tree.len(), come, self.old.len(), self.most)?;
        // The reserve is for a tree of one level more than it was. Should others have made it higher still: again.
        section.replace(self.range.clone(), &self.new, &mut self.reserve).map_err(|ReserveTooSmall| Abort::Again)?;
        self.stage = Stage::Published;
        for item in self.leaving() {
            // SAFETY: marked and settled by `txn`, so it stays until `txn` lets it go below.
            let vma = unsafe { item.value.get() };
            txn.detach(settled, vma.lock());
        }
        then(&mut section);
        drop(section);
        self.space.published(since_ns, Location::caller());
        point!(P, "after-publish");
        for item in self.leaving() {
            // SAFETY: detached and out of the tree, just now.
            unsafe { item.value.free_after_grace(&self.space.memory.rcu) };
        }
        Ok(())
    }

    fn leaving(&self) -> impl Iterator<Item = Item> + '_ {
        self.old.iter().filter(|(_, fate)| *fate == Fate::Goes).map(|(item, _)| *item)
    }

    /// Which of the old entries starts at `start`.
    fn old_at(&self, start: u64) -> Option<usize> {
        self.old.binary_search_by_key(&start, |(item, _)| item.start).ok()
    }

    /// Frees the VMA of `item`, which was not published by this edit, unless it is an old one that stays.
    fn discard(&self, item: Item) {
        if self.old_at(item.start).is_none_or(|at| self.old[at].0.value != item.value) {
            // SAFETY: made by `build`, and known to nobody else.
            unsafe { item.value.free_now() };
        }
    }
}

/// Whether the entry, a new one of an edit, is a mapping.
fn is_mapping(item: &Item) -> bool {
    // SAFETY: made by `build`, or settled and staying.
    unsafe { item.value.get() }.kind() == Kind::Anonymous
}

/// Whether a tree of `before` entries may take `come` mappings in place of `go` entries.
fn check_count(before: usize, come: usize, go: usize, most: usize) -> Result<(), Errno> {
    let after = (before + come).saturating_sub(go);
    if after > before && after > most { Err(Errno::ENOMEM) } else { Ok(()) }
}

impl<P: Platform> Drop for Edit<'_, P> {
    fn drop(&mut self) {
        if self.stage == Stage::Published {
            return;
        }
        for &item in self.new.iter() {
            self.discard(item);
        }
    }
}

impl<P: Platform> AddressSpace<P> {
    /// A publication section, which began at `since_ns`, has ended.
    fn published(&self, since_ns: u64, site: &'static Location<'static>) {
        let ns = self.counters.took(Extreme::PublishHold, since_ns, site);
        self.counters.bump(Counter::Publish);
        self.counters.add(Counter::PublishNs, ns);
    }

    /// Makes sure that every entry in `range` was as `expected` at one moment: a walk without the section is of many.
    ///
    /// # Errors
    /// [`Abort::Again`] if one was not.
    pub(crate) fn confirm(&self, range: Range<u64>, expected: impl FnMut(Item) -> bool) -> Result<(), Abort> {
        if range.is_empty() || self.memory.locks.pair().has_one_writer() {
            return Ok(());
        }
        if self.tree.publish().overlapping(range).all(expected) { Ok(()) } else { Err(Abort::Again) }
    }

    /// The entries that touch `range` from outside: one that ends where it starts, one that starts where it ends.
    pub(crate) fn neighbours(&self, guard: &RcuGuard<'_, P>, range: &Range<u64>) -> (Option<Item>, Option<Item>) {
        let left = self.tree.prev(guard, range.start).filter(|item| item.end == range.start);
        let right = self.tree.next(guard, range.end).filter(|item| item.start == range.end);
        (left, right)
    }
}
