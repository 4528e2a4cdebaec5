//! Fills the new nodes of a replacement: ranges go in at the bottom in ascending order, finished nodes come out of each
//! level as children of the next one, and one node comes out at the top.
//!
//! How many nodes each level gets was planned before ([`super::replace`]), so that nothing here can fail. The nodes are
//! private until the caller publishes the topmost.

use core::ptr::NonNull;

use alloc::boxed::Box;

use super::Entry;
use super::node::{FANOUT, Inner, LEAF_CAPACITY, Leaf, MAX_HEIGHT};
use super::reserve::Reserve;

/// How the items of a level are spread over its nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    /// As evenly as they go: room everywhere for what comes next.
    Even,
    /// Full nodes first: ranges are being appended at the end of the tree, and more will come there.
    FromLeft,
    /// Full nodes last: ranges are being put in front of the tree, and more will come there.
    FromRight,
}

/// The items of one level and the nodes that they go to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spread {
    pub(super) items: usize,
    pub(super) nodes: usize,
    pub(super) capacity: usize,
    pub(super) fill: Fill,
}

impl Spread {
    /// As few nodes as `items` fit into.
    pub(super) fn new(items: usize, capacity: usize, fill: Fill) -> Self {
        Spread { items, nodes: items.div_ceil(capacity), capacity, fill }
    }

    /// No items.
    pub(super) const NONE: Spread = Spread { items: 0, nodes: 0, capacity: 1, fill: Fill::Even };

    /// How many items the next node gets; counts it as made.
    fn next(&mut self) -> usize {
        let later = self.nodes.checked_sub(1).expect("no more items than planned");
        let share = match self.fill {
            Fill::Even => self.items.div_ceil(self.nodes),
            Fill::FromLeft => self.items.min(self.capacity),
            Fill::FromRight => self.items - later * self.capacity,
        };
        // The first node from the right may be the only one that is not full; the others are full from then on.
        self.items -= share;
        self.nodes = later;
        share
    }
}

/// A child of an inner node: the lowest address that belongs to it, where it lies, and its largest gap.
#[derive(Clone, Copy)]
pub(super) struct Child {
    pub(super) low: u64,
    pub(super) node: NonNull<()>,
    pub(super) gap: u64,
}

/// The leaf under construction.
struct LeafLevel<V> {
    spread: Spread,
    node: Option<Box<Leaf<V>>>,
    filled: usize,
    share: usize,
    /// The lowest address that belongs to the first leaf, until that is begun.
    first_low: Option<u64>,
    low: u64,
    gap: u64,
    /// End of the range before the next one.
    end: u64,
}

/// The inner node under construction at some level.
struct InnerLevel {
    spread: Spread,
    node: Option<Box<Inner>>,
    share: usize,
    low: u64,
    gap: u64,
}

/// All levels under construction.
pub(super) struct Builder<'r, V: Copy> {
    reserve: &'r mut Reserve<V>,
    leaf: LeafLevel<V>,
    inner: [InnerLevel; MAX_HEIGHT - 1],
    top: usize,
    result: Option<Child>,
}

impl<'r, V: Copy> Builder<'r, V> {
    /// A builder for levels `0..=top`, spread as `spreads` says. The first leaf is to cover addresses from `low`, and
    /// the range before its first one ends at `end`. `reserve` has the nodes.
    pub(super) fn new(
        reserve: &'r mut Reserve<V>,
        spreads: &[Spread; MAX_HEIGHT],
        top: usize,
        low: u64,
        end: u64,
    ) -> Self {
        Builder {
            reserve,
            leaf: LeafLevel {
                spread: spreads[0],
                node: None,
                filled: 0,
                share: 0,
                first_low: Some(low),
                low,
                gap: 0,
                end,
            },
            inner: core::array::from_fn(|below| InnerLevel {
                spread: spreads[below + 1],
                node: None,
                share: 0,
                low: 0,
                gap: 0,
            }),
            top,
            result: None,
        }
    }

    /// Adds the next range.
    pub(super) fn entry(&mut self, entry: Entry<V>) {
        let level = &mut self.leaf;
        let mut node = level.node.take().unwrap_or_else(|| {
            level.filled = 0;
            level.share = level.spread.next();
            level.low = level.first_low.take().unwrap_or(entry.start);
            level.gap = 0;
            self.reserve.take_leaf()
        });
        level.gap = level.gap.max(entry.start - level.end);
        level.end = entry.end;
        node.set(level.filled, entry);
        level.filled += 1;
        if level.filled < level.share {
            level.node = Some(node);
            return;
        }
        let child = Child { low: level.low, node: NonNull::from(Box::leak(node)).cast(), gap: level.gap };
        self.child(1, child);
    }

    /// Adds the next child at inner level `level`, an old one or one that has just been finished.
    pub(super) fn child(&mut self, level: usize, child: Child) {
        let mut child = child;
        for at in level..=self.top {
            let level = &mut self.inner[at - 1];
            let mut node = level.node.take().unwrap_or_else(|| {
                level.share = level.spread.next();
                level.low = child.low;
                level.gap = 0;
                self.reserve.take_inner()
            });
            node.push(child.low, child.node, child.gap);
            level.gap = level.gap.max(child.gap);
            if node.len() < level.share {
                level.node = Some(node);
                return;
            }
            child = Child { low: level.low, node: NonNull::from(Box::leak(node)).cast(), gap: level.gap };
        }
        assert!(self.result.replace(child).is_none(), "one node comes out at the top");
    }

    /// The topmost node, now that all items are in; none if there were none.
    pub(super) fn finish(self) -> Option<Child> {
        assert!(
            self.leaf.node.is_none() && self.inner.iter().all(|level| level.node.is_none()),
            "as many items as planned"
        );
        self.result
    }
}

const _: () = assert!(LEAF_CAPACITY >= 2 && FANOUT >= 3, "nodes can be split and merged");
