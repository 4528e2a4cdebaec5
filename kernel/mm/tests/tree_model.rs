//! The range tree against a plain map: random replacements, and after each one every look-up, the gap search and all
//! structural invariants.

use std::collections::BTreeMap;
use std::ops::Range;

use mm::tree::{Entry, RangeTree, Reserve};
use proptest::prelude::*;
use sync::testing::Host;
use sync::{Platform, Rcu};

mod random;

use random::Random;

type Tree = RangeTree<Host, u64>;

/// Addresses below this are in play: few enough for ranges to meet, and for trees of three levels.
const SPACE: u64 = 6000;

fn new_rcu() -> &'static Rcu<Host> {
    let rcu = Box::leak(Box::new(Rcu::new()));
    rcu.online(Host::cpu());
    rcu
}

/// Lets deferred frees happen.
fn let_go(rcu: &Rcu<Host>) {
    rcu.quiescent();
    while rcu.poll() > 0 {
        rcu.quiescent();
    }
}

/// A map from start to end and value, and the same questions answered by looking at all of it.
#[derive(Default)]
struct Model(BTreeMap<u64, (u64, u64)>);

impl Model {
    fn entries(&self) -> impl DoubleEndedIterator<Item = Entry<u64>> {
        self.0.iter().map(|(&start, &(end, value))| Entry { start, end, value })
    }

    fn next(&self, address: u64) -> Option<Entry<u64>> {
        let containing = self.0.range(..=address).next_back().filter(|(_, (end, _))| *end > address);
        let found = containing.or_else(|| self.0.range(address..).next());
        found.map(|(&start, &(end, value))| Entry { start, end, value })
    }

    fn find(&self, address: u64) -> Option<Entry<u64>> {
        self.next(address).filter(|entry| entry.start <= address)
    }

    fn prev(&self, address: u64) -> Option<Entry<u64>> {
        let mut below = self.0.range(..address).rev().map(|(&start, &(end, value))| Entry { start, end, value });
        below.find(|entry| entry.end <= address)
    }

    fn overlapping(&self, range: Range<u64>) -> Vec<Entry<u64>> {
        self.entries().filter(|entry| entry.start < range.end && entry.end > range.start && !range.is_empty()).collect()
    }

    fn find_gap_down(&self, len: u64, low: u64, high: u64) -> Option<u64> {
        let mut top = high;
        for entry in self.entries().rev() {
            if entry.start >= high {
                continue;
            }
            let floor = entry.end.max(low);
            if top >= floor && top - floor >= len {
                return Some(top - len);
            }
            top = entry.start;
        }
        (top >= low && top - low >= len).then(|| top - len)
    }

    /// Grows `range` until no entry lies across its ends.
    fn whole(&self, range: Range<u64>) -> Range<u64> {
        let start = self.find(range.start).map_or(range.start, |entry| entry.start);
        let end = self.find(range.end - 1).map_or(range.end, |entry| entry.end);
        start..end
    }

    fn replace(&mut self, range: Range<u64>, with: &[Entry<u64>]) {
        for entry in self.overlapping(range) {
            self.0.remove(&entry.start);
        }
        self.0.extend(with.iter().map(|entry| (entry.start, (entry.end, entry.value))));
    }
}

fn replace(tree: &Tree, reserve: &mut Reserve<u64>, range: Range<u64>, with: &[Entry<u64>]) {
    tree.top_up(reserve, with.len()).unwrap();
    tree.publish().replace(range, with, reserve).unwrap();
}

fn assert_same(tree: &Tree, rcu: &Rcu<Host>, model: &Model) {
    let shape = tree.check();
    assert_eq!(shape.ranges, model.0.len());
    let guard = rcu.read();
    assert!(tree.overlapping(&guard, 0..u64::MAX).eq(model.entries()), "the same ranges");
}

/// Every question about some addresses.
fn assert_same_answers(tree: &Tree, rcu: &Rcu<Host>, model: &Model, a: u64, b: u64, len: u64) {
    let guard = rcu.read();
    for address in [a.saturating_sub(1), a, b] {
        assert_eq!(tree.find(&guard, address), model.find(address), "find {address}");
        assert_eq!(tree.next(&guard, address), model.next(address), "next {address}");
        assert_eq!(tree.prev(&guard, address), model.prev(address), "prev {address}");
    }
    let overlapping: Vec<_> = tree.overlapping(&guard, a..b).collect();
    assert_eq!(overlapping, model.overlapping(a..b), "overlapping {a}..{b}");
    for (len, low, high) in [(len, 0, SPACE), (len, a, b), (1, a, b), (len, a, u64::MAX), (0, a, b)] {
        let expected = if len == 0 { None } else { model.find_gap_down(len, low, high) };
        assert_eq!(tree.find_gap_down(&guard, len, low, high), expected, "gap of {len} in {low}..{high}");
    }
}

/// One random replacement: where, and how the new ranges lie there (length and distance of each).
#[derive(Clone, Debug)]
struct Change {
    at: u64,
    span: u64,
    pieces: Vec<(u64, u64)>,
    probe: (u64, u64, u64),
}

impl Change {
    fn apply(&self, model: &mut Model, value: &mut u64) -> (Range<u64>, Vec<Entry<u64>>) {
        let range = model.whole(self.at..(self.at + self.span).min(SPACE));
        let mut with = Vec::new();
        let mut start = range.start;
        for &(distance, len) in &self.pieces {
            start += distance;
            let end = (start + len).min(range.end);
            if start >= end {
                break;
            }
            *value += 1;
            with.push(Entry { start, end, value: *value });
            start = end;
        }
        model.replace(range.clone(), &with);
        (range, with)
    }
}

/// Mostly small changes, some that take or bring hundreds of ranges.
fn change() -> impl Strategy<Value = Change> {
    let span = prop_oneof![6 => 1u64..12, 3 => 12u64..200, 1 => 200u64..SPACE];
    let pieces = prop_oneof![
        3 => Just(0usize..1),
        6 => Just(1usize..4),
        1 => Just(4usize..40),
        1 => Just(100usize..600),
    ]
    .prop_flat_map(|count| prop::collection::vec((0u64..4, 1u64..6), count));
    (0..SPACE - 1, span, pieces, (0..SPACE, 0..SPACE, 0u64..40)).prop_map(|(at, span, pieces, probe)| Change {
        at,
        span,
        pieces,
        probe,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn random_replacements_agree_with_a_map(changes in prop::collection::vec(change(), 1..160)) {
        let rcu = new_rcu();
        let tree = Tree::new(rcu);
        let mut reserve = Reserve::new();
        let mut model = Model::default();
        let mut value = 0;
        for change in &changes {
            let (range, with) = change.apply(&mut model, &mut value);
            replace(&tree, &mut reserve, range.clone(), &with);
            assert_same(&tree, rcu, &model);
            let (a, b, len) = change.probe;
            assert_same_answers(&tree, rcu, &model, a, b, len);
            assert_same_answers(&tree, rcu, &model, range.start, range.end, len);
            let_go(rcu);
        }
    }
}

/// Ranges of one or two units at four-unit distances, in this order.
fn insert_all(tree: &Tree, reserve: &mut Reserve<u64>, model: &mut Model, order: &[u64]) {
    for &index in order {
        let start = index * 4;
        let entry = Entry { start, end: start + 1 + index % 2, value: index };
        replace(tree, reserve, entry.range(), &[entry]);
        model.replace(entry.range(), &[entry]);
    }
}

fn shuffled(count: u64, random: &mut Random) -> Vec<u64> {
    let mut order: Vec<u64> = (0..count).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, random.below(last as u64 + 1) as usize);
    }
    order
}

#[test]
fn a_large_tree_grows_and_shrinks_back_to_nothing() {
    const COUNT: u64 = 12_000;
    let rcu = new_rcu();
    let tree = Tree::new(rcu);
    let mut random = Random::new(1);
    let mut reserve = Reserve::new();
    let mut model = Model::default();
    insert_all(&tree, &mut reserve, &mut model, &shuffled(COUNT, &mut random));
    assert_same(&tree, rcu, &model);
    let full = tree.check();
    assert!(full.height >= 4, "{full:?}");
    assert!(full.leaves * 6 <= COUNT as usize, "leaves are more than half full: {full:?}");
    for _ in 0..2000 {
        let (a, b) = (random.below(COUNT * 4), random.below(COUNT * 4));
        assert_same_answers(&tree, rcu, &model, a, b, 1 + random.below(4));
    }

    let mut left = COUNT as usize;
    for index in shuffled(COUNT, &mut random) {
        let entry = model.find(index * 4).unwrap();
        replace(&tree, &mut reserve, entry.range(), &[]);
        model.replace(entry.range(), &[]);
        left -= 1;
        if left.is_multiple_of(500) {
            assert_same(&tree, rcu, &model);
            let shape = tree.check();
            assert!(shape.leaves <= left / 4 + 2, "{left} ranges do not keep many leaves: {shape:?}");
            assert!(shape.inners <= shape.leaves / 5 + shape.height, "nor inner nodes: {shape:?}");
        }
        let_go(rcu);
    }
    assert_eq!(tree.check(), mm::tree::Shape::default());
}

#[test]
fn building_in_order_fills_leaves() {
    const COUNT: u64 = 3000;
    for order in [(0..COUNT).collect::<Vec<_>>(), (0..COUNT).rev().collect()] {
        let rcu = new_rcu();
        let tree = Tree::new(rcu);
        let mut model = Model::default();
        insert_all(&tree, &mut Reserve::new(), &mut model, &order);
        assert_same(&tree, rcu, &model);
        let shape = tree.check();
        assert!(shape.ranges * 10 >= shape.leaves * 10 * 9, "leaves are nine tenths full: {shape:?}");
        assert!(shape.inners * 14 <= shape.leaves + shape.height * 16, "and so are inner nodes: {shape:?}");
        // Such trees are lopsided at one edge: taking them down from there must work too.
        for index in order.iter().rev() {
            let entry = model.find(index * 4).unwrap();
            replace(&tree, &mut Reserve::new(), entry.range(), &[]);
            model.replace(entry.range(), &[]);
            if index.is_multiple_of(37) {
                assert_same(&tree, rcu, &model);
            }
        }
        assert!(tree.is_empty());
    }
}

#[test]
fn one_replacement_brings_and_takes_thousands() {
    let rcu = new_rcu();
    let tree = Tree::new(rcu);
    let mut reserve = Reserve::new();
    let mut model = Model::default();
    let edges = [Entry { start: 0, end: 10, value: 1 }, Entry { start: 1 << 40, end: (1 << 40) + 1, value: 2 }];
    for entry in edges {
        replace(&tree, &mut reserve, entry.range(), &[entry]);
        model.replace(entry.range(), &[entry]);
    }
    let many: Vec<_> = (0..5000).map(|n| Entry { start: 100 + n * 3, end: 102 + n * 3, value: n }).collect();
    for with in [&many[..], &many[..1], &many[17..4000], &[]] {
        replace(&tree, &mut reserve, 10..1 << 40, with);
        model.replace(10..1 << 40, with);
        assert_same(&tree, rcu, &model);
        assert_same_answers(&tree, rcu, &model, 10, 1 << 40, 1 << 20);
    }
    assert_eq!(tree.check().leaves, 1);
}

#[test]
fn the_ends_of_the_address_space() {
    let rcu = new_rcu();
    let tree = Tree::new(rcu);
    let guard = rcu.read();
    assert_eq!(tree.find(&guard, 0), None);
    assert_eq!(tree.next(&guard, u64::MAX), None);
    assert_eq!(tree.prev(&guard, u64::MAX), None);
    assert_eq!(tree.find_gap_down(&guard, 5, 10, 15), Some(10));
    assert_eq!(tree.find_gap_down(&guard, 6, 10, 15), None);
    let low = Entry { start: 0, end: 1, value: 7 };
    let high = Entry { start: u64::MAX - 1, end: u64::MAX, value: 8 };
    let mut reserve = Reserve::new();
    for entry in [low, high] {
        replace(&tree, &mut reserve, entry.range(), &[entry]);
    }
    tree.check();
    assert_eq!(tree.find(&guard, 0), Some(low));
    assert_eq!(tree.find(&guard, 1), None);
    assert_eq!(tree.next(&guard, 1), Some(high));
    assert_eq!(tree.find(&guard, u64::MAX - 1), Some(high));
    assert_eq!(tree.find(&guard, u64::MAX), None);
    assert_eq!(tree.next(&guard, u64::MAX), None);
    assert_eq!(tree.prev(&guard, u64::MAX), Some(high));
    assert_eq!(tree.prev(&guard, u64::MAX - 1), Some(low));
    assert_eq!(tree.find_gap_down(&guard, u64::MAX - 2, 0, u64::MAX), Some(1));
    assert_eq!(tree.find_gap_down(&guard, u64::MAX - 1, 0, u64::MAX), None);
}

#[test]
#[should_panic(expected = "no range lies across an end")]
fn a_range_across_the_end_is_refused() {
    let rcu = new_rcu();
    let tree = Tree::new(rcu);
    let mut reserve = Reserve::new();
    replace(&tree, &mut reserve, 10..20, &[Entry { start: 10, end: 20, value: 1 }]);
    replace(&tree, &mut reserve, 12..30, &[]);
}

#[test]
#[should_panic(expected = "new ranges lie inside the range")]
fn a_new_range_outside_is_refused() {
    let rcu = new_rcu();
    let tree = Tree::new(rcu);
    replace(&tree, &mut Reserve::new(), 10..20, &[Entry { start: 10, end: 21, value: 1 }]);
}
