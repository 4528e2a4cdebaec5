//! Free space: the search for a gap, and the upkeep of the summaries that make it O(height).
//!
//! The gap of a range is the free space between the end of the range before it, in whatever leaf that lies, and its own
//! start. Every inner node keeps for each child the largest gap of any range below that child. (Counting from range to
//! range, and not from the bounds of a node, is exact whatever addresses the nodes are split at.) The space above the
//! last range belongs to no range; only a search that starts there looks at it.
//!
//! Summaries are written under the publication lock, after the publication. A search outside it may find them too
//! large or too small: it then looks further, or misses a gap, and never reports one that it has not seen free.

use super::node::Node;
use super::path::Path;

/// Start of the highest `len` free addresses inside `low..high`.
pub(super) fn find_down<V: Copy>(root: Option<Node<'_, V>>, len: u64, low: u64, high: u64) -> Option<u64> {
    if len == 0 || high < low || high - low < len {
        return None;
    }
    let Some(root) = root else { return Some(high - len) };
    let mut path = Path::seek(root, high - 1);
    // The gap under examination ends at `top`; the range below it is the one before `slot`.
    let mut top = high;
    let mut slot = path.leaf().starting_below(high);
    loop {
        let below = match slot.checked_sub(1).and_then(|slot| path.leaf().get(slot)) {
            Some(entry) => entry.end,
            None => path.end_before_leaf(),
        };
        if top.saturating_sub(below.max(low)) >= len {
            return Some(top - len);
        }
        if below <= low {
            return None;
        }
        if slot == 0 {
            // Nothing (more) in this leaf: the summaries know which leaf has a gap that is large enough.
            if !skip_left(&mut path, len) {
                return None;
            }
            slot = path.leaf().len();
        }
        slot -= 1;
        top = path.leaf().get(slot)?.start;
    }
}

/// Moves to the next leaf on the left in which the summaries promise a gap of `len`.
fn skip_left<V: Copy>(path: &mut Path<'_, V>, len: u64) -> bool {
    let mut level = 1;
    while level < path.height() {
        let (mut node, mut limit) = path.step(level);
        while let Some(index) = (0..limit).rev().find(|&index| node.gap(index) >= len) {
            path.enter(level, index);
            if level == 1 {
                return true;
            }
            level -= 1;
            node = path.step(level).0;
            limit = node.len();
        }
        level += 1;
    }
    false
}

/// Sets the gap of the child that `path` takes at `level`, and of its ancestors as far up as that changes anything. The
/// caller holds the publication lock, and the path's nodes from `level` up are in the tree.
pub(super) fn update<V: Copy>(path: &Path<'_, V>, level: usize, gap: u64) {
    let mut gap = gap;
    for level in level..path.height() {
        let (node, index) = path.step(level);
        if node.gap(index) == gap {
            return;
        }
        node.set_gap(index, gap);
        gap = node.max_gap();
    }
}

/// Brings the gap of the first leaf on the right of the one that holds `address` up to date, after the last range in
/// the latter has changed. The caller holds the publication lock.
pub(super) fn update_after<V: Copy>(root: Node<'_, V>, address: u64) {
    let mut path = Path::seek(root, address);
    let Some(last) = path.leaf().last() else { return };
    if path.right(0) {
        update(&path, 1, path.leaf().max_gap(last.end));
    }
}
