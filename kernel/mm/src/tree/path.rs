//! A path from the root to a leaf, with a way to the neighbours on either side at any level.
//!
//! Nodes have no parent or sibling pointers (a copied node would have to be told to all its neighbours), so whoever needs
//! the next leaf, or the ancestors, keeps the way it came. A path is a view of the tree as it was when each pointer was
//! loaded, each once: it sees a publication whole or not at all (see `super`).
//!
//! Used by iteration, by gap searches and by [`super::replace`].

use super::node::{InnerRef, Kind, LeafRef, MAX_HEIGHT, Node};

/// An inner node on a path, and the child that the path takes.
struct Step<'g, V> {
    node: InnerRef<'g, V>,
    index: usize,
}

impl<V> Clone for Step<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Step<'_, V> {}

/// The way from the root to one leaf.
pub(super) struct Path<'g, V> {
    /// `steps[level - 1]` for the inner levels `1..height`, `None` above.
    steps: [Option<Step<'g, V>>; MAX_HEIGHT - 1],
    height: usize,
    leaf: LeafRef<'g, V>,
}

impl<V> Clone for Path<'_, V> {
    fn clone(&self) -> Self {
        Path { steps: self.steps, height: self.height, leaf: self.leaf }
    }
}

impl<'g, V: Copy> Path<'g, V> {
    /// The path to the leaf to whose part of the address space `address` belongs.
    pub(super) fn seek(root: Node<'g, V>, address: u64) -> Self {
        let height = root.level() + 1;
        let mut steps = [None; MAX_HEIGHT - 1];
        let mut node = root;
        loop {
            match node.kind() {
                Kind::Leaf(leaf) => return Path { steps, height, leaf },
                Kind::Inner(inner) => {
                    let index = inner.rank(address);
                    let level = inner.level();
                    steps[level - 1] = Some(Step { node: inner, index });
                    node = inner.child(index);
                }
            }
        }
    }

    /// Number of levels of the tree.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// The leaf.
    pub(super) fn leaf(&self) -> LeafRef<'g, V> {
        self.leaf
    }

    /// The node at inner level `level`, in `1..height`, and the child that the path takes there.
    pub(super) fn step(&self, level: usize) -> (InnerRef<'g, V>, usize) {
        let step = self.steps[level - 1].expect("the level is below the tree's height");
        (step.node, step.index)
    }

    /// Takes child `index` of the node at inner level `level`. One level below, the path then takes the first child; what
    /// it holds further down is stale.
    pub(super) fn enter(&mut self, level: usize, index: usize) {
        let (node, _) = self.step(level);
        self.steps[level - 1] = Some(Step { node, index });
        match node.child(index).kind() {
            Kind::Leaf(leaf) => self.leaf = leaf,
            Kind::Inner(child) => self.steps[level - 2] = Some(Step { node: child, index: 0 }),
        }
    }

    /// Moves to the node on the left at `level`; false, and nothing moved, if there is none. What the path holds below
    /// `level` is stale afterwards.
    pub(super) fn left(&mut self, level: usize) -> bool {
        let Some(turn) = (level + 1..self.height).find(|&above| self.step(above).1 > 0) else { return false };
        self.enter(turn, self.step(turn).1 - 1);
        for above in (level + 1..turn).rev() {
            self.enter(above, self.step(above).0.len() - 1);
        }
        true
    }

    /// Moves to the node on the right at `level`; false, and nothing moved, if there is none. What the path holds below
    /// `level` is stale afterwards.
    pub(super) fn right(&mut self, level: usize) -> bool {
        let last = |&above: &usize| self.step(above).1 + 1 == self.step(above).0.len();
        let Some(turn) = (level + 1..self.height).find(|above| !last(above)) else { return false };
        self.enter(turn, self.step(turn).1 + 1);
        for above in (level + 1..turn).rev() {
            self.enter(above, 0);
        }
        true
    }

    /// Whether nothing lies to the left of the node at `level`.
    pub(super) fn is_leftmost(&self, level: usize) -> bool {
        (level + 1..self.height).all(|above| self.step(above).1 == 0)
    }

    /// Whether nothing lies to the right of the node at `level`.
    pub(super) fn is_rightmost(&self, level: usize) -> bool {
        (level + 1..self.height).all(|above| self.step(above).1 + 1 == self.step(above).0.len())
    }

    /// The end of the last range in the leaves on the left of the path's leaf, 0 if there is none.
    pub(super) fn end_before_leaf(&self) -> u64 {
        let Some(turn) = (1..self.height).find(|&level| self.step(level).1 > 0) else { return 0 };
        let (inner, index) = self.step(turn);
        last_leaf(inner.child(index - 1)).last().map_or(0, |entry| entry.end)
    }

    /// The lowest address that belongs to the node at `level`.
    pub(super) fn low(&self, level: usize) -> u64 {
        for above in level + 1..self.height {
            let (node, index) = self.step(above);
            if index > 0 {
                return node.low(index);
            }
        }
        0
    }
}

/// The last leaf below `node`.
pub(super) fn last_leaf<V: Copy>(mut node: Node<'_, V>) -> LeafRef<'_, V> {
    loop {
        match node.kind() {
            Kind::Leaf(leaf) => return leaf,
            Kind::Inner(inner) => node = inner.child(inner.len() - 1),
        }
    }
}

/// The first leaf below `node`.
pub(super) fn first_leaf<V: Copy>(mut node: Node<'_, V>) -> LeafRef<'_, V> {
    loop {
        match node.kind() {
            Kind::Leaf(leaf) => return leaf,
            Kind::Inner(inner) => node = inner.child(0),
        }
    }
}
