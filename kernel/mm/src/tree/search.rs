//! Look-ups: the range at an address, its neighbours, and iteration.
//!
//! Each takes the root from a caller who keeps the nodes alive (an RCU read section or the publication lock) and loads
//! every pointer once, so that it sees a replacement whole or not at all.

use core::ops::Range;

use sync::Platform;

use super::Entry;
use super::node::{InnerRef, Kind, Node};
use super::path::{Path, first_leaf, last_leaf};

/// The range that contains `address`.
#[inline]
pub(super) fn find<P: Platform, V: Copy>(root: Node<'_, V>, address: u64) -> Option<Entry<V>> {
    let mut node = root;
    loop {
        node.prefetch::<P>();
        match node.kind() {
            Kind::Leaf(leaf) => return leaf.find(address),
            Kind::Inner(inner) => node = inner.child(inner.rank(address)),
        }
    }
}

/// The range that contains `address`, or else the first one above it.
pub(super) fn next<V: Copy>(root: Node<'_, V>, address: u64) -> Option<Entry<V>> {
    // The lowest node on the way from which there is a way to the right.
    let mut turn: Option<(InnerRef<'_, V>, usize)> = None;
    let mut node = root;
    let leaf = loop {
        match node.kind() {
            Kind::Leaf(leaf) => break leaf,
            Kind::Inner(inner) => {
                let index = inner.rank(address);
                if index + 1 < inner.len() {
                    turn = Some((inner, index + 1));
                }
                node = inner.child(index);
            }
        }
    };
    leaf.get(leaf.first_ending_above(address)).or_else(|| {
        let (inner, index) = turn?;
        first_leaf(inner.child(index)).get(0)
    })
}

/// The last range that ends at or below `address`.
pub(super) fn prev<V: Copy>(root: Node<'_, V>, address: u64) -> Option<Entry<V>> {
    // The lowest node on the way from which there is a way to the left.
    let mut turn: Option<(InnerRef<'_, V>, usize)> = None;
    let mut node = root;
    let leaf = loop {
        match node.kind() {
            Kind::Leaf(leaf) => break leaf,
            Kind::Inner(inner) => {
                let index = inner.rank(address);
                if index > 0 {
                    turn = Some((inner, index - 1));
                }
                node = inner.child(index);
            }
        }
    };
    match leaf.first_ending_above(address).checked_sub(1) {
        Some(slot) => leaf.get(slot),
        None => {
            let (inner, index) = turn?;
            last_leaf(inner.child(index)).last()
        }
    }
}

/// The ranges that have an address in common with a given one, ascending.
pub struct Overlapping<'g, V> {
    path: Option<Path<'g, V>>,
    slot: usize,
    end: u64,
}

impl<'g, V: Copy> Overlapping<'g, V> {
    /// The ranges of the tree under `root` that overlap `range`.
    pub(super) fn new(root: Option<Node<'g, V>>, range: Range<u64>) -> Self {
        let path = root.map(|root| Path::seek(root, range.start));
        let slot = path.as_ref().map_or(0, |path| path.leaf().first_ending_above(range.start));
        // An empty range overlaps nothing, not even the range around it.
        let end = if range.start < range.end { range.end } else { 0 };
        Overlapping { path, slot, end }
    }
}

impl<V: Copy> Iterator for Overlapping<'_, V> {
    type Item = Entry<V>;

    fn next(&mut self) -> Option<Entry<V>> {
        let path = self.path.as_mut()?;
        loop {
            if let Some(entry) = path.leaf().get(self.slot) {
                self.slot += 1;
                return (entry.start < self.end).then_some(entry);
            }
            if !path.right(0) {
                return None;
            }
            self.slot = 0;
        }
    }
}
