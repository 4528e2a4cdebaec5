//! The tree's nodes: leaves of ranges and inner nodes of separators, laid out by cache line.
//!
//! A node is written by one owner until it is published; from then on **everything in it is immutable, except** an
//! inner node's `children` (one Release store publishes a whole replacement) and its `gaps` (a summary that only gap
//! searches read). Both change under the tree's publication lock only. Readers keep nodes alive by being in an RCU read
//! section; a writer does so by holding the publication lock, since only its holder retires nodes.
//!
//! Called by the other files of this room. Its `unsafe` is here and in `life`, but for the duties passed on between them.

use core::marker::PhantomData;
use core::mem::{MaybeUninit, offset_of};
use core::ops::Deref;
use core::ptr::{self, NonNull};

use sync::Platform;
use sync::primitive::{AtomicPtr, AtomicU64, Ordering};

use super::Entry;
use super::life::{Tail, Tailed};

/// Ranges in a leaf: with three words each they fill four cache lines together with the tail.
pub(super) const LEAF_CAPACITY: usize = 10;
/// Children of an inner node: their keys fill two cache lines, their pointers two more.
pub(super) const FANOUT: usize = 16;
/// Levels of the highest tree. At the least allowed filling that is beyond 10^9 ranges.
pub(super) const MAX_HEIGHT: usize = 12;
/// Start of an unused leaf slot and an unused key: above every address that is looked up.
pub(super) const UNUSED: u64 = u64::MAX;
/// The low bits of the root word, which hold the number of levels: nodes are aligned to 64 bytes at least.
const LEVELS_MASK: usize = 63;

/// How many of the sorted `keys` are at most `address`. Adds up comparisons without a branch: an early exit would be
/// mispredicted about once a node, which costs more than all the comparisons.
#[inline]
fn rank(keys: &[u64], address: u64) -> usize {
    let address = address.min(UNUSED - 1);
    // Wrapping, so that a build with overflow checks has no branches either.
    keys.iter().fold(0, |rank: usize, &key| rank.wrapping_add(usize::from(key <= address)))
}

/// Up to ten disjoint ranges in ascending order, each with its value. Slots in use come first; an unused slot's start
/// is [`UNUSED`], so that the search needs no length.
#[repr(C, align(256))]
pub(super) struct Leaf<V> {
    starts: [u64; LEAF_CAPACITY],
    ends: [u64; LEAF_CAPACITY],
    /// Initialised where the start is not `UNUSED`.
    values: [MaybeUninit<V>; LEAF_CAPACITY],
    tail: Tail,
}

impl<V> Tailed for Leaf<V> {
    const TAIL: usize = offset_of!(Leaf<V>, tail);
}

impl<V: Copy> Leaf<V> {
    /// A leaf without ranges, to be filled before it is published.
    pub(super) fn empty() -> Self {
        Leaf {
            starts: [UNUSED; LEAF_CAPACITY],
            ends: [0; LEAF_CAPACITY],
            values: [const { MaybeUninit::uninit() }; LEAF_CAPACITY],
            tail: Tail::new(),
        }
    }

    /// Writes slot `slot`; the owner fills slots in ascending order.
    pub(super) fn set(&mut self, slot: usize, entry: Entry<V>) {
        self.starts[slot] = entry.start;
        self.ends[slot] = entry.end;
        self.values[slot] = MaybeUninit::new(entry.value);
    }

    /// How many ranges start at or below `address`.
    #[inline]
    pub(super) fn rank(&self, address: u64) -> usize {
        rank(&self.starts, address)
    }

    /// Number of ranges.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.rank(UNUSED)
    }

    /// The range in `slot`, if that slot is in use.
    #[inline]
    pub(super) fn get(&self, slot: usize) -> Option<Entry<V>> {
        let start = *self.starts.get(slot)?;
        if start == UNUSED {
            return None;
        }
        // SAFETY: `set`, the only writer of `starts`, writes the slot's value with the start.
        let value = unsafe { self.values[slot].assume_init() };
        Some(Entry { start, end: self.ends[slot], value })
    }

    /// The range that contains `address`.
    #[inline]
    pub(super) fn find(&self, address: u64) -> Option<Entry<V>> {
        let slot = self.rank(address).checked_sub(1)?;
        if address < self.ends[slot] { self.get(slot) } else { None }
    }

    /// Slot of the first range that ends above `address` (one past the last, if none does).
    pub(super) fn first_ending_above(&self, address: u64) -> usize {
        let rank = self.rank(address);
        if rank > 0 && address < self.ends[rank - 1] { rank - 1 } else { rank }
    }

    /// Number of ranges that start below `address`.
    pub(super) fn starting_below(&self, address: u64) -> usize {
        address.checked_sub(1).map_or(0, |last| self.rank(last))
    }

    /// The last range.
    pub(super) fn last(&self) -> Option<Entry<V>> {
        self.get(self.len().checked_sub(1)?)
    }

    /// The largest free gap in front of any of the ranges, where the range before the first one ends at `floor`.
    pub(super) fn max_gap(&self, mut floor: u64) -> u64 {
        let mut max = 0;
        for slot in 0..self.len() {
            max = max.max(self.starts[slot].saturating_sub(floor));
            floor = self.ends[slot];
        }
        max
    }
}

/// Up to sixteen children. `keys[i]` is the lowest address that belongs to child `i + 1`; unused keys are [`UNUSED`].
/// Lookups read the first four lines; the gaps, which searches for free space read and every writer may change, lie
/// on lines of their own.
#[repr(C, align(64))]
pub(super) struct Inner {
    keys: [u64; FANOUT - 1],
    len: usize,
    children: [AtomicPtr<()>; FANOUT],
    /// For each child the largest free gap in front of any range below it. Written under the publication lock.
    gaps: [AtomicU64; FANOUT],
    tail: Tail,
}

impl Tailed for Inner {
    const TAIL: usize = offset_of!(Inner, tail);
}

impl Inner {
    /// An inner node without children, to be filled before it is published.
    pub(super) fn empty() -> Self {
        Inner {
            keys: [UNUSED; FANOUT - 1],
            len: 0,
            children: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())),
            gaps: core::array::from_fn(|_| AtomicU64::new(0)),
            tail: Tail::new(),
        }
    }

    /// Appends a child; the owner does so before publication. The first child's low is not stored: it is the node's.
    pub(super) fn push(&mut self, low: u64, child: NonNull<()>, gap: u64) {
        if let Some(key) = self.len.checked_sub(1) {
            self.keys[key] = low;
        }
        // Relaxed: whoever publishes this node orders these stores before it.
        self.children[self.len].store(child.as_ptr(), Ordering::Relaxed);
        self.gaps[self.len].store(gap, Ordering::Relaxed);
        self.len += 1;
    }

    /// The child whose part of the address space contains `address`.
    #[inline]
    pub(super) fn rank(&self, address: u64) -> usize {
        rank(&self.keys, address)
    }

    /// Number of children.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Lowest address that belongs to child `index`, which is not the first.
    pub(super) fn low(&self, index: usize) -> u64 {
        self.keys[index - 1]
    }

    /// The largest gap below child `index`. Exact under the publication lock, a hint elsewhere.
    pub(super) fn gap(&self, index: usize) -> u64 {
        // Relaxed: a search outside the publication lock checks what it finds against the ranges themselves.
        self.gaps[index].load(Ordering::Relaxed)
    }

    /// Sets the gap of child `index`; the caller holds the publication lock.
    pub(super) fn set_gap(&self, index: usize, gap: u64) {
        self.gaps[index].store(gap, Ordering::Relaxed);
    }

    /// The largest gap below any child.
    pub(super) fn max_gap(&self) -> u64 {
        (0..self.len).map(|index| self.gap(index)).max().unwrap_or(0)
    }

    /// Publishes `child` in place of child `index`. The caller holds the publication lock.
    pub(super) fn publish(&self, index: usize, child: NonNull<()>) {
        // Release: a reader that loads this pointer (Acquire) sees all that was written into the nodes below it.
        self.children[index].store(child.as_ptr(), Ordering::Release);
    }
}

/// A published node that stays allocated for `'g`: an address, and the level which says what lies there.
pub(super) struct Node<'g, V> {
    at: NonNull<()>,
    /// 0 for a leaf.
    level: usize,
    alive: PhantomData<&'g Leaf<V>>,
}

/// What a [`Node`] is.
pub(super) enum Kind<'g, V> {
    Leaf(LeafRef<'g, V>),
    Inner(InnerRef<'g, V>),
}

impl<V> Clone for Node<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Node<'_, V> {}

impl<'g, V> Node<'g, V> {
    /// Says what the node is, by its level.
    #[inline]
    pub(super) fn kind(self) -> Kind<'g, V> {
        if self.level == 0 {
            Kind::Leaf(LeafRef { at: self.at.cast(), alive: PhantomData })
        } else {
            Kind::Inner(InnerRef { at: self.at.cast(), level: self.level, alive: PhantomData })
        }
    }

    /// The node's level: 0 for a leaf.
    pub(super) fn level(&self) -> usize {
        self.level
    }

    /// Begins to load the lines that a lookup in the node reads, all at once instead of one after the other.
    #[inline]
    pub(super) fn prefetch<P: Platform>(&self) {
        let first = self.at.as_ptr().cast::<u8>();
        for line in 0..4 {
            P::prefetch(first.wrapping_add(line * 64));
        }
    }
}

/// A published leaf that stays allocated for `'g`.
pub(super) struct LeafRef<'g, V> {
    at: NonNull<Leaf<V>>,
    alive: PhantomData<&'g Leaf<V>>,
}

impl<V> Clone for LeafRef<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for LeafRef<'_, V> {}

impl<V> LeafRef<'_, V> {
    /// Where the leaf lies; the pointer may be used for all of it.
    pub(super) fn pointer(self) -> NonNull<Leaf<V>> {
        self.at
    }
}

impl<V> Deref for LeafRef<'_, V> {
    type Target = Leaf<V>;

    #[inline]
    fn deref(&self) -> &Leaf<V> {
        // SAFETY: a `LeafRef` comes from `Root::load` only, whose caller keeps the tree's nodes allocated for `'g`.
        // Published leaves are not written, but for their tail, which is an `UnsafeCell`.
        unsafe { self.at.as_ref() }
    }
}

/// A published inner node that stays allocated for `'g`.
pub(super) struct InnerRef<'g, V> {
    at: NonNull<Inner>,
    /// At least 1.
    level: usize,
    alive: PhantomData<&'g Leaf<V>>,
}

impl<V> Clone for InnerRef<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for InnerRef<'_, V> {}

impl<'g, V> InnerRef<'g, V> {
    /// Where the node lies; the pointer may be used for all of it.
    pub(super) fn pointer(self) -> NonNull<Inner> {
        self.at
    }

    /// The node's level, at least 1.
    pub(super) fn level(self) -> usize {
        self.level
    }

    /// The node that child `index` is now.
    #[inline]
    pub(super) fn child(self, index: usize) -> Node<'g, V> {
        // Acquire: pairs with the Release in `publish`. (The mask spares a bounds check: ranks are below FANOUT.)
        let at = self.children[index % FANOUT].load(Ordering::Acquire);
        let at = NonNull::new(at).expect("a child's slot is in use");
        Node { at, level: self.level - 1, alive: PhantomData }
    }

    /// Address of child `index`, which the publication lock keeps as it is.
    pub(super) fn child_pointer(self, index: usize) -> NonNull<()> {
        self.child(index).at
    }
}

impl<V> Deref for InnerRef<'_, V> {
    type Target = Inner;

    #[inline]
    fn deref(&self) -> &Inner {
        // SAFETY: as for `LeafRef`; what changes in a published inner node is atomic, or in the tail's `UnsafeCell`.
        unsafe { self.at.as_ref() }
    }
}

/// The root word: where the root lies, and in the low bits how many levels there are; null for an empty tree. One word,
/// so that a reader never takes a node for one of another level.
pub(super) struct Root(AtomicPtr<()>);

impl Root {
    /// An empty tree.
    pub(super) fn new() -> Self {
        Root(AtomicPtr::new(ptr::null_mut()))
    }

    /// The root node, if there is one.
    ///
    /// # Safety
    /// For `'g` no node that is reachable now may be freed: the caller is in a read section of the RCU domain to which
    /// the tree retires its nodes, or holds the tree's publication lock, or owns the tree. All nodes hold values `V`.
    #[inline]
    pub(super) unsafe fn load<'g, V>(&self) -> Option<Node<'g, V>> {
        // Acquire: pairs with the Release in `publish`.
        let word = self.0.load(Ordering::Acquire);
        let at = NonNull::new(word.map_addr(|address| address & !LEVELS_MASK))?;
        Some(Node { at, level: (word.addr() & LEVELS_MASK) - 1, alive: PhantomData })
    }

    /// Number of levels now.
    pub(super) fn levels(&self) -> usize {
        self.0.load(Ordering::Relaxed).addr() & LEVELS_MASK
    }

    /// Publishes a root of that many levels, or an empty tree. The caller holds the publication lock.
    pub(super) fn publish(&self, root: Option<NonNull<()>>, levels: usize) {
        let word = root.map_or(ptr::null_mut(), |root| root.as_ptr().map_addr(|address| address | levels));
        // Release: as in `Inner::publish`.
        self.0.store(word, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn nodes_are_laid_out_by_cache_line() {
        assert_eq!((size_of::<Leaf<u64>>(), align_of::<Leaf<u64>>()), (256, 256));
        assert_eq!(offset_of!(Inner, keys), 0);
        assert_eq!(offset_of!(Inner, children), 128, "two lines of keys");
        assert_eq!(offset_of!(Inner, gaps), 256, "two lines of children; look-ups end here");
        assert!(size_of::<Inner>() <= 512);
    }

    #[test]
    fn a_rank_counts_keys_and_no_unused_ones() {
        let keys = [10, 20, 30, UNUSED, UNUSED];
        let ranks = [(0, 0), (9, 0), (10, 1), (29, 2), (30, 3), (UNUSED - 1, 3), (UNUSED, 3)];
        for (address, expected) in ranks {
            assert_eq!(rank(&keys, address), expected, "{address}");
        }
    }
}
