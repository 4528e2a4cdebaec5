//! The structural invariants, checked by walking the whole tree. For tests.

use sync::Platform;

use super::node::{FANOUT, Kind, LEAF_CAPACITY, Node, UNUSED};
use super::replace::{INNER_MIN, LEAF_MIN};
use super::{RangeTree, Section, Value};

/// The size of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Number of levels.
    pub height: usize,
    /// Number of leaves.
    pub leaves: usize,
    /// Number of inner nodes.
    pub inners: usize,
    /// Number of ranges.
    pub ranges: usize,
}

/// What the walk remembers from the left.
struct Walk {
    shape: Shape,
    /// End of the last range seen.
    end: u64,
}

/// The part of the tree that a node covers.
#[derive(Clone, Copy)]
struct Bounds {
    low: u64,
    /// One past the last address, as far as anyone looks.
    high: u64,
    /// Whether it is the first or the last node of its level.
    outermost: bool,
}

impl<P: Platform, V: Value> RangeTree<P, V> {
    /// Checks every invariant and measures the tree.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub fn check(&self) -> Shape {
        self.publish().check()
    }
}

impl<P: Platform, V: Value> Section<'_, P, V> {
    /// As [`RangeTree::check`].
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub fn check(&self) -> Shape {
        let mut walk = Walk { shape: Shape::default(), end: 0 };
        if let Some(root) = self.root() {
            walk.shape.height = root.level() + 1;
            walk.node(root, Bounds { low: 0, high: UNUSED, outermost: true });
        }
        assert_eq!(walk.shape.ranges, self.tree.len(), "the tree knows its length");
        walk.shape
    }
}

impl Walk {
    /// Checks all from `node` down, and returns the largest gap there.
    fn node<V: Copy>(&mut self, node: Node<'_, V>, bounds: Bounds) -> u64 {
        match node.kind() {
            Kind::Leaf(leaf) => {
                self.shape.leaves += 1;
                let least = if bounds.outermost { 1 } else { LEAF_MIN };
                assert!((least..=LEAF_CAPACITY).contains(&leaf.len()), "a leaf of {} ranges", leaf.len());
                let mut gap = 0;
                for slot in 0..LEAF_CAPACITY {
                    let Some(entry) = leaf.get(slot) else {
                        assert!(slot >= leaf.len(), "used slots come first");
                        continue;
                    };
                    assert!(entry.start < entry.end, "no range is empty");
                    assert!(self.end <= entry.start, "ranges ascend and are disjoint");
                    assert!(bounds.low <= entry.start && entry.end <= bounds.high, "ranges lie where look-ups go");
                    gap = gap.max(entry.start - self.end);
                    self.end = entry.end;
                    self.shape.ranges += 1;
                }
                gap
            }
            Kind::Inner(inner) => {
                self.shape.inners += 1;
                let root = inner.level() + 1 == self.shape.height;
                let least = match (root, bounds.outermost) {
                    (true, _) => 2,
                    (false, true) => 1,
                    (false, false) => INNER_MIN,
                };
                let len = inner.len();
                assert!((least..=FANOUT).contains(&len), "an inner node of {len} children");
                assert_eq!(inner.rank(UNUSED) + 1, len, "unused keys are unused");
                let mut max = 0;
                for index in 0..len {
                    let low = if index == 0 { bounds.low } else { inner.low(index) };
                    let high = if index + 1 == len { bounds.high } else { inner.low(index + 1) };
                    assert!(low < high && bounds.low <= low && high <= bounds.high, "keys ascend within the bounds");
                    let outermost = bounds.outermost && (low == 0 || high == UNUSED);
                    let gap = self.node(inner.child(index), Bounds { low, high, outermost });
                    assert_eq!(inner.gap(index), gap, "the largest gap below child {index} at level {}", inner.level());
                    max = max.max(gap);
                }
                max
            }
        }
    }
}
