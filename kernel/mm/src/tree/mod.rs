//! The range tree: an RCU-safe B+-tree of disjoint address ranges.
//!
//! Wide nodes sized in cache lines ([`node`]); look-ups take no lock and write nothing; a writer copies what changes and
//! publishes it with **one Release store**, at the lowest node under which everything that changes lies, or at the root
//! word ([`replace`]). So one look-up, one `next` or `prev`, and one walk of an iterator through one publication's range
//! see each replacement whole or not at all: they load each pointer once, and the one store decides.
//! Two replacements that happen while an iterator walks are two publications, and it may see the later one only.
//!
//! What protects what:
//! - the root word, children of published nodes, gap summaries, `len`: written by the holder of the publication lock;
//!   the pointers are read by anyone in a read section of the tree's [`Rcu`];
//! - everything else in a published node: nothing, it does not change until the node is freed;
//! - a node's life: the grace period after it was replaced.
//!
//! What a value stands for (a VMA) is the caller's, and lives by the same grace periods.
//!
//! | file | |
//! |---|---|
//! | [`node`] | layout of the nodes, references to them |
//! | [`life`] | making, chaining and freeing nodes |
//! | [`path`] | the way from the root to a leaf, and to its neighbours |
//! | [`search`] | find, next, prev, iteration |
//! | [`gap`] | search for free space, and upkeep of its summaries |
//! | [`reserve`] | nodes put aside before a change |
//! | [`replace`] | the change: plan, build, publish, retire |
//! | [`build`] | fills new nodes, level by level |
//! | `check` | structural invariants, for tests |
//!
//! Called by `AddressSpace`. The publication lock is a spin lock, and only RCU's queue lock is taken under it; a replacement
//! holds it for O(height) nodes plus those that it removes and makes.

use core::marker::PhantomData;
use core::mem::size_of;
use core::ops::Range;

use sync::primitive::{AtomicUsize, Ordering};
use sync::spin::SpinGuard;
use sync::{AllocError, Class, Platform, Rcu, RcuGuard, SpinLock, spin_lock};

mod build;
#[cfg(any(test, feature = "testing"))]
mod check;
mod gap;
mod life;
mod node;
mod path;
mod replace;
mod reserve;
mod search;

#[cfg(any(test, feature = "testing"))]
pub use check::Shape;
use node::{MAX_HEIGHT, Node, Root};
use reserve::Need;
pub use reserve::Reserve;
pub use search::Overlapping;

/// What a tree maps ranges to: a word that is copied into nodes and out of them.
pub trait Value: Copy + 'static {}

impl<V: Copy + 'static> Value for V {}

/// A range `start..end` of addresses and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<V> {
    /// First address.
    pub start: u64,
    /// One past the last address; above `start`.
    pub end: u64,
    /// What the tree maps the range to.
    pub value: V,
}

impl<V> Entry<V> {
    /// The range.
    pub fn range(&self) -> Range<u64> {
        self.start..self.end
    }
}

/// The reserve has fewer nodes than the replacement needs; nothing has changed. [`RangeTree::top_up`] and try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReserveTooSmall;

/// A tree of disjoint ranges. See the module's description.
pub struct RangeTree<P: Platform, V: Value> {
    root: Root,
    /// Number of ranges. Written under the publication lock.
    len: AtomicUsize,
    /// The publication lock: one replacement at a time.
    publication: SpinLock<P, ()>,
    rcu: &'static Rcu<P>,
    /// As for a cell: values are put in on one CPU and copied out on others.
    values: PhantomData<*const V>,
}

// SAFETY: the tree owns its nodes; what it holds of callers are values, which may move between threads.
unsafe impl<P: Platform, V: Value + Send> Send for RangeTree<P, V> {}
// SAFETY: shared nodes are immutable or atomic, and freed after a grace period only; values are copied from the thread
// that put them in to any other.
unsafe impl<P: Platform, V: Value + Send + Sync> Sync for RangeTree<P, V> {}

impl<P: Platform, V: Value> RangeTree<P, V> {
    /// An empty tree, whose readers are in read sections of `rcu` and whose nodes are freed through it.
    pub fn new(rcu: &'static Rcu<P>) -> Self {
        const { assert!(size_of::<V>() <= size_of::<usize>(), "values are words: a leaf is four cache lines") };
        RangeTree {
            root: Root::new(),
            len: AtomicUsize::new(0),
            publication: spin_lock(Class::Publication, ()),
            rcu,
            values: PhantomData,
        }
    }

    /// Number of ranges. Beside a writer: a number that was right a moment ago.
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no range, as far as [`RangeTree::len`] knows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The range that contains `address`. Takes no lock and writes nothing.
    #[inline]
    pub fn find(&self, guard: &RcuGuard<'_, P>, address: u64) -> Option<Entry<V>> {
        search::find::<P, V>(self.read(guard)?, address)
    }

    /// The range that contains `address`, or else the first one above it.
    pub fn next(&self, guard: &RcuGuard<'_, P>, address: u64) -> Option<Entry<V>> {
        search::next(self.read(guard)?, address)
    }

    /// The last range that ends at or below `address`.
    pub fn prev(&self, guard: &RcuGuard<'_, P>, address: u64) -> Option<Entry<V>> {
        search::prev(self.read(guard)?, address)
    }

    /// The ranges that have an address in common with `range`, ascending.
    pub fn overlapping<'g>(&self, guard: &'g RcuGuard<'_, P>, range: Range<u64>) -> Overlapping<'g, V> {
        Overlapping::new(self.read(guard), range)
    }

    /// Start of the highest free gap of `len` addresses inside `low..high`: the highest address from which `len` are
    /// free. O(height). Beside a writer it is a guess: whoever acts on it looks again in a [`Section`].
    pub fn find_gap_down(&self, guard: &RcuGuard<'_, P>, len: u64, low: u64, high: u64) -> Option<u64> {
        gap::find_down(self.read(guard), len, low, high)
    }

    /// Enough nodes for one replacement with up to `inserted` new ranges, of a tree up to one level higher than now.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub fn reserve(&self, inserted: usize) -> Result<Reserve<V>, AllocError> {
        let mut reserve = Reserve::new();
        self.top_up(&mut reserve, inserted)?;
        Ok(reserve)
    }

    /// Adds to `reserve` what it lacks of [`RangeTree::reserve`]'s nodes.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out; the reserve keeps what it has.
    pub fn top_up(&self, reserve: &mut Reserve<V>, inserted: usize) -> Result<(), AllocError> {
        // One level more than now, so that a reserve stays good over another replacement made in between.
        let height = self.root.levels() + 1;
        if height >= MAX_HEIGHT {
            return Err(AllocError);
        }
        reserve.fill(Need::at_most(inserted, height))
    }

    /// Takes the publication lock: interrupts are off and other writers spin until the section is dropped.
    pub fn publish(&self) -> Section<'_, P, V> {
        Section { _lock: self.publication.lock(), tree: self }
    }

    /// The root, for a reader.
    #[inline]
    fn read<'g>(&self, _guard: &'g RcuGuard<'_, P>) -> Option<Node<'g, V>> {
        debug_assert!(self.rcu.in_reader(), "the guard is of another RCU domain");
        // SAFETY: the guard keeps this CPU in a read section, and nodes go through a grace period before they are freed.
        unsafe { self.root.load() }
    }
}

impl<P: Platform, V: Value> Drop for RangeTree<P, V> {
    fn drop(&mut self) {
        // SAFETY: nobody else has the tree, so nobody else frees its nodes.
        if let Some(root) = unsafe { self.root.load::<V>() } {
            // SAFETY: as above; readers had references to the tree, and these have ended.
            unsafe { replace::discard_all(root) };
        }
    }
}

/// The tree's publication lock, held: the tree is as this section leaves it. Interrupts are off, so be short.
pub struct Section<'t, P: Platform, V: Value> {
    _lock: SpinGuard<'t, P, ()>,
    tree: &'t RangeTree<P, V>,
}

impl<P: Platform, V: Value> Section<'_, P, V> {
    /// As [`RangeTree::find`].
    pub fn find(&self, address: u64) -> Option<Entry<V>> {
        search::find::<P, V>(self.root()?, address)
    }

    /// As [`RangeTree::next`].
    pub fn next(&self, address: u64) -> Option<Entry<V>> {
        search::next(self.root()?, address)
    }

    /// As [`RangeTree::prev`].
    pub fn prev(&self, address: u64) -> Option<Entry<V>> {
        search::prev(self.root()?, address)
    }

    /// As [`RangeTree::overlapping`].
    pub fn overlapping(&self, range: Range<u64>) -> Overlapping<'_, V> {
        Overlapping::new(self.root(), range)
    }

    /// As [`RangeTree::find_gap_down`], and exact.
    pub fn find_gap_down(&self, len: u64, low: u64, high: u64) -> Option<u64> {
        gap::find_down(self.root(), len, low, high)
    }

    /// Replaces every range inside `range` by the ranges of `with`, in one publication. Old nodes go to RCU.
    ///
    /// # Errors
    /// [`ReserveTooSmall`]; nothing has changed then.
    ///
    /// # Panics
    /// If a range lies across an end of `range`, or if `with` is not ascending, disjoint, not empty and inside `range`.
    pub fn replace(
        &mut self,
        range: Range<u64>,
        with: &[Entry<V>],
        reserve: &mut Reserve<V>,
    ) -> Result<(), ReserveTooSmall> {
        replace::replace(self, range, with, reserve)
    }

    /// The root, for the holder of the publication lock.
    fn root(&self) -> Option<Node<'_, V>> {
        // SAFETY: only the holder of the publication lock retires nodes: that is us, and `replace` borrows the section
        // mutably, so no reference from here outlives the next replacement.
        unsafe { self.tree.root.load() }
    }
}
