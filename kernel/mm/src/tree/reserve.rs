//! Nodes put aside, so that a replacement cannot run out of memory in the middle.
//!
//! A [`Reserve`] belongs to one writer; nothing protects it, and it is no part of the tree. What a replacement does not
//! use stays in it for the next one, so a writer that keeps its reserve allocates only what it used up.

use core::ptr::NonNull;

use alloc::boxed::Box;

use sync::AllocError;
use sync::alloc::try_box;

use super::life::{Chain, Tailed, discard};
use super::node::{FANOUT, Inner, LEAF_CAPACITY, Leaf, MAX_HEIGHT};

/// Numbers of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) leaves: usize,
    pub(super) inners: usize,
}

impl Need {
    /// The most nodes that one replacement with `inserted` new ranges takes in a tree of up to `height` levels.
    ///
    /// The new ranges come between what is left of two old leaves; their leaves come between what is left of two old
    /// inner nodes, and so on up; what does not fit into one root gets new levels. (A node that would be too small
    /// takes in a neighbour, but then there are fewer than in the case counted here.)
    pub(super) fn at_most(inserted: usize, height: usize) -> Need {
        let leaves = (inserted.saturating_add(2 * LEAF_CAPACITY)).div_ceil(LEAF_CAPACITY);
        let mut inners = 0;
        let mut below = leaves;
        for _ in 1..height {
            below = (below + 2 * (FANOUT - 1)).div_ceil(FANOUT);
            inners += below;
        }
        while below > 1 {
            below = below.div_ceil(FANOUT);
            inners += below;
        }
        Need { leaves, inners }
    }
}

/// Spare nodes for replacements in one kind of tree. Dropping it frees them.
pub struct Reserve<V> {
    leaves: Chain<Leaf<V>>,
    inners: Chain<Inner>,
}

// SAFETY: spare nodes hold no values; they are memory that the reserve owns alone.
unsafe impl<V> Send for Reserve<V> {}
// SAFETY: a shared reserve can only be asked how much is in it.
unsafe impl<V> Sync for Reserve<V> {}

impl<V: Copy> Reserve<V> {
    /// A reserve without nodes; `RangeTree::top_up` fills it.
    pub const fn new() -> Self {
        Reserve { leaves: Chain::new(), inners: Chain::new() }
    }

    /// How many spare nodes there are.
    pub fn nodes(&self) -> usize {
        self.leaves.len() + self.inners.len()
    }

    /// Whether that many nodes are here.
    pub(super) fn covers(&self, need: Need) -> bool {
        self.leaves.len() >= need.leaves && self.inners.len() >= need.inners
    }

    /// Allocates what is missing.
    pub(super) fn fill(&mut self, need: Need) -> Result<(), AllocError> {
        while self.leaves.len() < need.leaves {
            put(&mut self.leaves, try_box(Leaf::empty())?);
        }
        while self.inners.len() < need.inners {
            put(&mut self.inners, try_box(Inner::empty())?);
        }
        Ok(())
    }

    /// Takes a leaf that the plan has counted.
    pub(super) fn take_leaf(&mut self) -> Box<Leaf<V>> {
        take(&mut self.leaves)
    }

    /// Takes an inner node that the plan has counted.
    pub(super) fn take_inner(&mut self) -> Box<Inner> {
        take(&mut self.inners)
    }
}

impl<V: Copy> Default for Reserve<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> Drop for Reserve<V> {
    fn drop(&mut self) {
        drop_all(&mut self.leaves);
        drop_all(&mut self.inners);
    }
}

/// Puts a fresh node into a reserve's chain.
fn put<T: Tailed>(chain: &mut Chain<T>, node: Box<T>) {
    // SAFETY: the node was a box a moment ago, so all of it is ours; the reserve keeps it until `take` or its drop.
    unsafe { chain.push(NonNull::from(Box::leak(node))) };
}

/// Takes a node out of a reserve's chain.
fn take<T: Tailed>(chain: &mut Chain<T>) -> Box<T> {
    let node = chain.pop().expect("the plan has counted the nodes");
    // SAFETY: `put` made it from a box, and nothing else knows it.
    unsafe { Box::from_raw(node.as_ptr()) }
}

/// Frees the nodes of a reserve's chain.
fn drop_all<T: Tailed>(chain: &mut Chain<T>) {
    while let Some(node) = chain.pop() {
        // SAFETY: `put` made it from a box, and nothing else knows it.
        unsafe { discard(node) };
    }
}

const _: () = assert!(MAX_HEIGHT < 64, "the root word's low bits hold the number of levels");
