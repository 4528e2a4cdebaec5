//! The range tree and memory: nothing leaks, nothing is freed early, and running out of it changes nothing.
//!
//! A process of its own, because its global allocator counts what is allocated.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use mm::tree::{Entry, RangeTree, Reserve, ReserveTooSmall};
use sync::testing::{Host, fail_allocation_after};
use sync::{Platform, Rcu};

type Tree = RangeTree<Host, u64>;

/// Nodes are the only things here that are aligned to cache lines.
struct CountNodes;

thread_local! {
    static NODES: Cell<isize> = const { Cell::new(0) };
}

fn count(layout: Layout, change: isize) {
    if layout.align() >= 64 && layout.size() < 1024 {
        NODES.set(NODES.get() + change);
    }
}

// SAFETY: all is done by the system's allocator; counting changes a thread-local number that needs no allocation.
unsafe impl GlobalAlloc for CountNodes {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout, 1);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(layout, -1);
        // SAFETY: passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountNodes = CountNodes;

fn nodes() -> usize {
    NODES.get().try_into().expect("no node is freed twice")
}

fn new_rcu() -> &'static Rcu<Host> {
    let rcu = Box::leak(Box::new(Rcu::new()));
    rcu.online(Host::cpu());
    rcu
}

/// `count` ranges of two units, three units apart, from `start`.
fn ranges(start: u64, count: u64) -> Vec<Entry<u64>> {
    (0..count).map(|n| Entry { start: start + n * 3, end: start + n * 3 + 2, value: n }).collect()
}

fn contents(tree: &Tree, rcu: &Rcu<Host>) -> Vec<Entry<u64>> {
    tree.overlapping(&rcu.read(), 0..u64::MAX).collect()
}

/// A tree of `count` ranges in the middle of the address space.
fn tree_of(rcu: &'static Rcu<Host>, count: u64) -> Tree {
    let tree = Tree::new(rcu);
    let with = ranges(100_000, count);
    let mut reserve = tree.reserve(with.len()).unwrap();
    tree.publish().replace(0..u64::MAX, &with, &mut reserve).unwrap();
    tree
}

#[test]
fn every_node_is_freed_once_and_after_the_grace_period() {
    let rcu = new_rcu();
    let tree = tree_of(rcu, 2000);
    let shape = tree.check();
    assert_eq!(nodes(), shape.leaves + shape.inners, "what the reserve had too much is gone");

    let mut reserve = tree.reserve(100).unwrap();
    let spare = reserve.nodes();
    let reader = rcu.read();
    let before = contents(&tree, rcu);
    let walk = tree.overlapping(&reader, 0..u64::MAX);
    tree.publish().replace(0..u64::MAX, &ranges(5, 100), &mut reserve).unwrap();
    assert!(before.into_iter().eq(walk), "who was inside before the publication sees the old tree");
    assert_eq!(nodes(), shape.leaves + shape.inners + spare, "old nodes wait for the reader");
    drop(reader);

    drop(reserve);
    rcu.barrier();
    let shape = tree.check();
    assert_eq!(nodes(), shape.leaves + shape.inners);
    drop(tree);
    assert_eq!(nodes(), 0);
}

#[test]
fn a_reserve_keeps_what_is_left_over() {
    let rcu = new_rcu();
    let tree = tree_of(rcu, 500);
    let mut reserve = tree.reserve(1).unwrap();
    let full = reserve.nodes();
    tree.publish().replace(50..52, &ranges(50, 1), &mut reserve).unwrap();
    let used = full - reserve.nodes();
    assert!((1..full).contains(&used), "a new first leaf, and perhaps a new first node above: {used} of {full}");
    let before = nodes();
    tree.top_up(&mut reserve, 1).unwrap();
    assert_eq!(nodes() - before, used, "only what was used is allocated again");
}

#[test]
fn a_reserve_outlasts_the_replacement_before_it() {
    let rcu = new_rcu();
    // Trees that are about to grow a level, and others.
    for count in 0..200 {
        let tree = tree_of(rcu, count);
        let mut first = tree.reserve(2).unwrap();
        let mut second = tree.reserve(0).unwrap();
        tree.publish().replace(10..20, &ranges(10, 2), &mut first).unwrap();
        tree.publish().replace(10..20, &[], &mut second).unwrap();
        assert_eq!(tree.check().ranges, count as usize);
    }
}

#[test]
fn failing_allocations_leave_the_tree_as_it_was() {
    let rcu = new_rcu();
    for (count, inserted) in [(0, 1), (10, 2), (30, 3), (500, 2), (500, 300), (1603, 1)] {
        let tree = tree_of(rcu, count);
        let old = contents(&tree, rcu);
        let new = ranges(10, inserted);
        let range = 10..10 + inserted * 3;
        let before = nodes();
        let mut failures = 0;
        for successes in 0.. {
            let (reserve, failed) = fail_allocation_after(successes, || tree.reserve(new.len()));
            let Ok(mut reserve) = reserve else {
                assert!(failed);
                assert_eq!(nodes(), before, "a reserve that failed is given back");
                assert_eq!(contents(&tree, rcu), old);
                failures += 1;
                continue;
            };
            assert!(!failed);
            assert!(failures > 0);
            tree.publish().replace(range, &new, &mut reserve).unwrap();
            assert_eq!(contents(&tree, rcu), [&new[..], &old[..]].concat());
            break;
        }
        tree.check();
        rcu.barrier();
    }
}

#[test]
fn a_reserve_too_small_changes_nothing() {
    let rcu = new_rcu();
    for (count, inserted) in [(0, 1), (10, 2), (500, 300), (1603, 40)] {
        let tree = tree_of(rcu, count);
        let old = contents(&tree, rcu);
        let shape = tree.check();
        let new = ranges(10, inserted);
        let range = 10..10 + inserted * 3;
        let mut refused = 0;
        for successes in 0.. {
            let mut reserve = Reserve::new();
            let (_, failed) = fail_allocation_after(successes, || tree.top_up(&mut reserve, new.len()));
            let had = reserve.nodes();
            assert!(failed || had > 0);
            let replaced = tree.publish().replace(range.clone(), &new, &mut reserve);
            match replaced {
                Err(ReserveTooSmall) => {
                    refused += 1;
                    assert_eq!(reserve.nodes(), had);
                    assert_eq!(contents(&tree, rcu), old);
                    assert_eq!(tree.check(), shape);
                }
                Ok(()) => break,
            }
        }
        assert!(refused > 0);
        assert_eq!(contents(&tree, rcu), [&new[..], &old[..]].concat());
        tree.check();
        rcu.barrier();
    }
}
