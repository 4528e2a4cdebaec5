//! The one change that a tree knows: replace what lies in a range, in one publication.
//!
//! Four steps. **Plan**: level by level from the leaves up, find the run of old nodes that the change touches, what is
//! kept of them, and how many new nodes take their place, until one new node takes the place of one old one (or of the
//! root): that is where it gets published. Nothing that readers see changes, and this is the last step that can fail.
//! **Build** those nodes from the reserve. **Publish** the topmost with one Release store. **Retire** the old nodes to
//! RCU; they stay as they are, so a reader inside them still sees the tree of before.
//!
//! A node that would be left with too few items takes in a neighbour. Only the first and the last node of a level may be
//! smaller, because a tree that grows at an end keeps full nodes behind it.
//!
//! All of it runs under the publication lock, which also owns the tails of the nodes in the tree: the plan chains the
//! nodes that are going to die through them.

use core::ops::Range;
use core::ptr::NonNull;

use sync::primitive::Ordering;
use sync::{Platform, Rcu};

use super::build::{Builder, Child, Fill, Spread};
use super::life::{Chain, Tailed, bury, discard, free};
use super::node::{FANOUT, Inner, InnerRef, Kind, LEAF_CAPACITY, Leaf, LeafRef, MAX_HEIGHT, Node};
use super::path::Path;
use super::reserve::{Need, Reserve};
use super::{Entry, ReserveTooSmall, Section, Value, gap};

/// A leaf with fewer ranges than this takes in a neighbour. Below half, so that a change and its undoing at a boundary do
/// not split and merge each time.
pub(super) const LEAF_MIN: usize = 4;
/// As [`LEAF_MIN`], children of an inner node.
pub(super) const INNER_MIN: usize = 6;

/// See [`Section::replace`].
pub(super) fn replace<P: Platform, V: Value>(
    section: &mut Section<'_, P, V>,
    range: Range<u64>,
    with: &[Entry<V>],
    reserve: &mut Reserve<V>,
) -> Result<(), ReserveTooSmall> {
    check_arguments(&range, with);
    let section = &*section;
    let Some(plan) = Plan::new(section.root(), &range, with.len()) else { return Ok(()) };
    if !reserve.covers(plan.need()) {
        return Err(ReserveTooSmall);
    }

    let new = plan.build(with, reserve);
    match plan.place {
        Place::Child(parent, index) => {
            let new = new.expect("a child is replaced by one node");
            parent.publish(index, new.node);
            gap::update(plan.left.as_ref().expect("there is a parent"), plan.top + 1, new.gap);
        }
        Place::Root => {
            let levels = if new.is_some() { plan.top + 1 } else { 0 };
            section.tree.root.publish(new.map(|child| child.node), levels);
        }
    }
    if let Some(root) = section.root()
        && !plan.keeps_ranges_after()
    {
        gap::update_after(root, range.end - 1);
    }
    let len = section.tree.len();
    section.tree.len.store(len + with.len() - plan.removed, Ordering::Relaxed);
    retire(plan.dead_leaves, section.tree.rcu);
    retire(plan.dead_inners, section.tree.rcu);
    Ok(())
}

/// A wrong argument would damage an address space for good, so it stops the kernel instead.
fn check_arguments<V>(range: &Range<u64>, with: &[Entry<V>]) {
    assert!(range.start < range.end, "the range is not empty");
    let mut from = range.start;
    for entry in with {
        assert!(from <= entry.start && entry.start < entry.end, "ranges are ascending, disjoint and not empty");
        from = entry.end;
    }
    assert!(from <= range.end, "new ranges lie inside the range");
}

/// A part of an old node that moves into new ones: items `from..to`.
struct Piece<N> {
    node: N,
    /// The lowest address that belongs to the node.
    low: u64,
    from: usize,
    to: usize,
}

/// What is kept of the old nodes of one level, in order: a neighbour taken in on the left, what lies in front of the
/// change, what lies behind it, a neighbour taken in on the right.
type Pieces<N> = [Option<Piece<N>>; 4];
const BEFORE: Range<usize> = 0..2;
const AFTER: Range<usize> = 2..4;

/// Where the topmost new node goes.
enum Place<'g, V> {
    /// In place of this child.
    Child(InnerRef<'g, V>, usize),
    /// Into the root word.
    Root,
}

/// Which neighbour was taken in.
enum Pulled {
    Left,
    Right,
}

/// All that the steps after planning need.
struct Plan<'g, V> {
    /// How the items of each new level are spread over its nodes; levels `0..=top`.
    spreads: [Spread; MAX_HEIGHT],
    top: usize,
    place: Place<'g, V>,
    leaf_pieces: Pieces<LeafRef<'g, V>>,
    /// Of inner level `n + 1`.
    inner_pieces: [Pieces<InnerRef<'g, V>>; MAX_HEIGHT - 1],
    /// The way to the first node that dies, as it is above `top`; none in an empty tree.
    left: Option<Path<'g, V>>,
    /// The lowest address that belongs to the first new leaf.
    low: u64,
    /// End of the last range in front of that leaf.
    end: u64,
    /// Number of ranges that go.
    removed: usize,
    dead_leaves: Chain<Leaf<V>>,
    dead_inners: Chain<Inner>,
}

impl<'g, V: Copy> Plan<'g, V> {
    /// The plan for putting `inserted` ranges in place of those inside `range`; none if nothing is to be done.
    fn new(root: Option<Node<'g, V>>, range: &Range<u64>, inserted: usize) -> Option<Self> {
        let mut plan = Plan {
            spreads: [Spread::NONE; MAX_HEIGHT],
            top: 0,
            place: Place::Root,
            leaf_pieces: [const { None }; 4],
            inner_pieces: [const { [const { None }; 4] }; MAX_HEIGHT - 1],
            left: None,
            low: 0,
            end: 0,
            removed: 0,
            dead_leaves: Chain::new(),
            dead_inners: Chain::new(),
        };
        let Some(root) = root else {
            plan.spreads[0] = Spread::new(inserted, LEAF_CAPACITY, Fill::FromLeft);
            plan.add_levels(0, Fill::FromLeft);
            return (inserted > 0).then_some(plan);
        };

        let mut left = Path::seek(root, range.start);
        let mut right = Path::seek(root, range.end - 1);
        let fill = plan.leaves(&mut left, &mut right, range, inserted);
        if plan.removed == 0 && inserted == 0 {
            return None;
        }
        let mut level = 0;
        while !plan.ends_at(level, fill, &left, &right) {
            level += 1;
            plan.inners(level, fill, &mut left, &mut right);
        }
        plan.left = Some(left);
        Some(plan)
    }

    /// Plans the leaves. `left` and `right` lead to the first and the last leaf that the change touches.
    fn leaves(&mut self, left: &mut Path<'g, V>, right: &mut Path<'g, V>, range: &Range<u64>, inserted: usize) -> Fill {
        let (first, last) = (left.leaf(), right.leaf());
        let from = first.starting_below(range.start);
        let to = last.starting_below(range.end);
        let inside = |leaf: LeafRef<'_, V>, below: usize, bound| {
            below.checked_sub(1).and_then(|slot| leaf.get(slot)).is_none_or(|entry| entry.end <= bound)
        };
        // No range lies across the bounds of a leaf, so these are the only ones that could lie across the range's.
        assert!(inside(first, from, range.start) && inside(last, to, range.end), "no range lies across an end");

        let last_len = last.len();
        let grows = first.pointer() == last.pointer() && from == to && inserted > 0;
        let fill = if grows && to == last_len && right.is_rightmost(0) {
            Fill::FromLeft
        } else if grows && from == 0 && left.is_leftmost(0) {
            Fill::FromRight
        } else {
            Fill::Even
        };

        let mut kept = from + (last_len - to);
        self.leaf_pieces[1] = Some(Piece { node: first, low: 0, from: 0, to: from });
        self.leaf_pieces[2] = Some(Piece { node: last, low: 0, from: to, to: last_len });
        if fill == Fill::Even && kept + inserted < LEAF_MIN {
            let pulled = match pull(left, right, 0) {
                Some(Pulled::Left) => Some((0, left.leaf())),
                Some(Pulled::Right) => Some((3, right.leaf())),
                None => None,
            };
            if let Some((place, node)) = pulled {
                kept += node.len();
                self.leaf_pieces[place] = Some(Piece { node, low: 0, from: 0, to: node.len() });
            }
        }
        self.low = left.low(0);
        self.end = left.end_before_leaf();
        self.removed = self.chain_leaves(left, right) - kept;
        self.spreads[0] = Spread::new(kept + inserted, LEAF_CAPACITY, fill);
        fill
    }

    /// Plans inner level `level` above the planned one. `left` and `right` take the first and the last node that dies
    /// below.
    fn inners(&mut self, level: usize, fill: Fill, left: &mut Path<'g, V>, right: &mut Path<'g, V>) {
        let (first, from) = left.step(level);
        let (last, to) = right.step(level);
        let mut items = from + self.spreads[level - 1].nodes + (last.len() - (to + 1));
        let pieces = &mut self.inner_pieces[level - 1];
        pieces[1] = Some(Piece { node: first, low: left.low(level), from: 0, to: from });
        pieces[2] = Some(Piece { node: last, low: right.low(level), from: to + 1, to: last.len() });
        if fill == Fill::Even && items < INNER_MIN {
            let pulled = match pull(left, right, level) {
                Some(Pulled::Left) => Some((0, &*left)),
                Some(Pulled::Right) => Some((3, &*right)),
                None => None,
            };
            if let Some((place, path)) = pulled {
                let (node, _) = path.step(level);
                items += node.len();
                pieces[place] = Some(Piece { node, low: path.low(level), from: 0, to: node.len() });
            }
        }
        self.chain_inners(level, left, right);
        self.spreads[level] = Spread::new(items, FANOUT, fill);
    }

    /// Whether `level`, which has been planned, is the topmost with new nodes; then says where its node goes.
    fn ends_at(&mut self, level: usize, fill: Fill, left: &Path<'g, V>, right: &Path<'g, V>) -> bool {
        let nodes = self.spreads[level].nodes;
        let height = left.height();
        self.top = level;
        if nodes == 1 && level + 1 < height && same_node(left, right, level) {
            let (parent, index) = left.step(level + 1);
            self.place = Place::Child(parent, index);
            return true;
        }
        if nodes <= 1 && left.is_leftmost(level) && right.is_rightmost(level) {
            // The whole level becomes one node or none: that is the root now, and what was above it goes.
            for above in level + 1..height {
                self.chain_inners(above, left, right);
            }
            return true;
        }
        if level + 1 == height {
            self.add_levels(level, fill);
            return true;
        }
        false
    }

    /// Plans new levels above `level` until there is one node.
    fn add_levels(&mut self, level: usize, fill: Fill) {
        let mut level = level;
        while self.spreads[level].nodes > 1 {
            assert!(level + 1 < MAX_HEIGHT, "no memory holds so many ranges");
            self.spreads[level + 1] = Spread::new(self.spreads[level].nodes, FANOUT, fill);
            level += 1;
        }
        self.top = level;
    }

    /// Chains the leaves from `left` to `right`, which are to die; returns how many ranges they hold.
    fn chain_leaves(&mut self, left: &Path<'g, V>, right: &Path<'g, V>) -> usize {
        let mut ranges = 0;
        let mut each = |path: &Path<'g, V>| {
            let leaf = path.leaf();
            ranges += leaf.len();
            // SAFETY: the leaf is in the tree, and the tails of those belong to the publication lock, which we hold.
            unsafe { self.dead_leaves.push(leaf.pointer()) };
        };
        walk(left, right, 0, &mut each);
        ranges
    }

    /// As [`Plan::chain_leaves`], at an inner level.
    fn chain_inners(&mut self, level: usize, left: &Path<'g, V>, right: &Path<'g, V>) {
        let mut each = |path: &Path<'g, V>| {
            // SAFETY: the node is in the tree, and the tails of those belong to the publication lock, which we hold.
            unsafe { self.dead_inners.push(path.step(level).0.pointer()) };
        };
        walk(left, right, level, &mut each);
    }

    /// Number of new nodes.
    fn need(&self) -> Need {
        Need {
            leaves: self.spreads[0].nodes,
            inners: self.spreads[1..=self.top].iter().map(|spread| spread.nodes).sum(),
        }
    }

    /// Whether a range behind the change is in the last new leaf. If not, the last range of that leaf is a new one, or
    /// was not the last before.
    fn keeps_ranges_after(&self) -> bool {
        self.leaf_pieces[AFTER].iter().flatten().any(|piece| piece.from < piece.to)
    }

    /// Makes the new nodes, and returns the topmost.
    fn build(&self, with: &[Entry<V>], reserve: &mut Reserve<V>) -> Option<Child> {
        let mut builder = Builder::new(reserve, &self.spreads, self.top, self.low, self.end);
        // What lies in front of the change: from the top down, because a level that fills up hands on to the one above.
        for level in (1..=self.top).rev() {
            self.copy_children(&mut builder, level, BEFORE);
        }
        self.copy_ranges(&mut builder, BEFORE);
        for &entry in with {
            builder.entry(entry);
        }
        self.copy_ranges(&mut builder, AFTER);
        for level in 1..=self.top {
            self.copy_children(&mut builder, level, AFTER);
        }
        builder.finish()
    }

    /// Copies kept ranges into new leaves.
    fn copy_ranges(&self, builder: &mut Builder<'_, V>, which: Range<usize>) {
        for piece in self.leaf_pieces[which].iter().flatten() {
            for slot in piece.from..piece.to {
                builder.entry(piece.node.get(slot).expect("the slot is in use"));
            }
        }
    }

    /// Copies kept children into new inner nodes of level `level`.
    fn copy_children(&self, builder: &mut Builder<'_, V>, level: usize, which: Range<usize>) {
        for piece in self.inner_pieces[level - 1][which].iter().flatten() {
            for index in piece.from..piece.to {
                let low = if index == 0 { piece.low } else { piece.node.low(index) };
                let child = Child { low, node: piece.node.child_pointer(index), gap: piece.node.gap(index) };
                builder.child(level, child);
            }
        }
    }
}

/// Takes the neighbour of the nodes from `left` to `right` at `level` in, by moving the path on that side to it. A
/// sibling is better than a cousin, whose parent would have to be copied too.
fn pull<V: Copy>(left: &mut Path<'_, V>, right: &mut Path<'_, V>, level: usize) -> Option<Pulled> {
    let siblings = level + 1 < left.height();
    let right_sibling = || {
        let (parent, index) = right.step(level + 1);
        index + 1 < parent.len()
    };
    let rightwards = siblings && left.step(level + 1).1 == 0 && right_sibling();
    if !rightwards && left.left(level) {
        Some(Pulled::Left)
    } else if right.right(level) {
        Some(Pulled::Right)
    } else {
        None
    }
}

/// Whether both paths take the same node at `level`.
fn same_node<V: Copy>(left: &Path<'_, V>, right: &Path<'_, V>, level: usize) -> bool {
    if level == 0 {
        left.leaf().pointer() == right.leaf().pointer()
    } else {
        left.step(level).0.pointer() == right.step(level).0.pointer()
    }
}

/// Calls `each` with the path to every node at `level` from `left` to `right`.
fn walk<'g, V: Copy>(left: &Path<'g, V>, right: &Path<'g, V>, level: usize, each: &mut impl FnMut(&Path<'g, V>)) {
    each(left);
    if same_node(left, right, level) {
        return;
    }
    let mut path = left.clone();
    while path.right(level) {
        each(&path);
        if same_node(&path, right, level) {
            return;
        }
    }
    unreachable!("the right path is not to the left of the left one");
}

/// Gives dead nodes to RCU. They are out of the tree, but readers may still be in them.
fn retire<T: Tailed, P: Platform>(mut dead: Chain<T>, rcu: &Rcu<P>) {
    while let Some(node) = dead.pop() {
        // SAFETY: the tail was the publication lock's, and nobody finds the node in the tree any more.
        let head = unsafe { bury(node) };
        // SAFETY: the node was unlinked by the publication; `free` frees what `bury` was given; nobody else has the head.
        unsafe { rcu.defer(head, free::<T>) };
    }
}

/// Frees all nodes from `node` down, at once.
///
/// # Safety
/// The caller owns the tree: nobody reads it, now or later.
pub(super) unsafe fn discard_all<V: Copy>(node: Node<'_, V>) {
    match node.kind() {
        Kind::Leaf(leaf) => {
            let leaf: NonNull<Leaf<V>> = leaf.pointer();
            // SAFETY: the caller owns the tree, and leaves are made of boxes.
            unsafe { discard(leaf) };
        }
        Kind::Inner(inner) => {
            for index in 0..inner.len() {
                // SAFETY: passed on to the caller.
                unsafe { discard_all(inner.child(index)) };
            }
            // SAFETY: the caller owns the tree, and inner nodes are made of boxes.
            unsafe { discard(inner.pointer()) };
        }
    }
}
