//! Frames: every one is free, cached or owned, whatever happens.

use std::{collections::HashMap, panic::AssertUnwindSafe, thread};

use mm::{
    Frame, Frames, OutOfMemory, Owner, PAGE_SIZE, PhysRange,
    frame::{MAX_ORDER, NoMemory},
    testing::Machine,
};
use proptest::prelude::*;
use sync::testing::Host;

/// A host arena of `bytes`, 64 MiB-aligned so that tests know where blocks begin.
fn arena(bytes: u64) -> u64 {
    let layout = std::alloc::Layout::from_size_align(bytes as usize, 64 << 20).unwrap();
    // SAFETY: the size is not 0.
    unsafe { std::alloc::alloc_zeroed(layout) }.expose_provenance() as u64
}

#[test]
fn regions_are_taken_in_whole_pages_and_counted() {
    let base = arena(8 << 20);
    let regions = [
        PhysRange { start: base + 5, end: base + (4 << 20) + 7 },
        PhysRange { start: base + (6 << 20), end: base + (8 << 20) },
        PhysRange { start: base + (5 << 20) + 1, end: base + (5 << 20) + 4096 },
    ];
    // SAFETY: parts of a fresh arena.
    let frames = unsafe { Frames::<Host>::new(&regions) }.unwrap();
    let usage = frames.usage();
    // The first page is partial, and so is the last of the first region.
    assert_eq!(usage.total, 1023 + 512);
    assert_eq!(usage.free + usage.owned_by(Owner::Meta), usage.total);
    assert!(usage.owned_by(Owner::Meta) < usage.total / 16, "metadata is a small part: {usage:?}");
    let mut all = Vec::new();
    while let Ok(frame) = frames.alloc(Owner::Test) {
        let phys = frame.phys();
        assert!(regions.iter().any(|region| region.start <= phys && phys + PAGE_SIZE <= region.end));
        all.push(frame);
    }
    assert_eq!(all.len() as u64, usage.free, "every free frame can be had, once");
    let distinct: std::collections::HashSet<_> = all.iter().map(Frame::phys).collect();
    assert_eq!(distinct.len(), all.len());
    assert!(frames.usage().adds_up());
    drop(all);
    assert_eq!(frames.usage().available(), usage.free);
}

#[test]
fn no_region_is_large_enough_for_the_metadata() {
    let base = arena(1 << 20);
    // SAFETY: a fresh arena.
    let small = unsafe { Frames::<Host>::new(&[PhysRange { start: base, end: base + PAGE_SIZE }]) };
    assert_eq!(small.err(), Some(NoMemory));
    // SAFETY: nothing is taken over.
    let none = unsafe { Frames::<Host>::new(&[]) };
    assert_eq!(none.err(), Some(NoMemory));
}

#[test]
fn the_frame_freed_last_comes_first() {
    let frames = Machine::new(1024).memory.frames;
    let one = frames.alloc(Owner::Test).unwrap();
    let two = frames.alloc(Owner::Test).unwrap();
    let (first, second) = (one.phys(), two.phys());
    frames.free(one);
    frames.free(two);
    assert_eq!(frames.alloc(Owner::Test).unwrap().phys(), second);
    let again = frames.alloc(Owner::Test).unwrap();
    assert_eq!(again.phys(), second);
    assert_eq!(frames.alloc(Owner::Test).unwrap().phys(), first);
}

#[test]
fn blocks_merge_back_to_what_they_were() {
    let frames = Machine::new(4096).memory.frames;
    let largest = || (0..=MAX_ORDER).rev().find(|&order| frames.alloc_order(order, Owner::Test).is_ok());
    let before = largest().unwrap();
    assert!(before >= 10);
    let mut held = Vec::new();
    while let Ok(block) = frames.alloc_order(1, Owner::Test) {
        assert!(block.phys().is_multiple_of(2 * PAGE_SIZE));
        assert_eq!(block.size() as u64, 2 * PAGE_SIZE);
        held.push(block);
    }
    assert_eq!(frames.alloc_order(1, Owner::Test).err(), Some(OutOfMemory));
    assert_eq!(frames.alloc_order(MAX_ORDER + 1, Owner::Test).err(), Some(OutOfMemory));
    // Every other one first: nothing merges until the rest comes.
    let (even, odd): (Vec<_>, Vec<_>) = held.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    drop(even);
    drop(odd);
    assert_eq!(largest(), Some(before));
}

#[test]
fn a_shared_frame_is_freed_with_its_last_handle() {
    let frames = Machine::new(1024).memory.frames;
    let one = frames.alloc(Owner::Anon).unwrap();
    let two = one.share();
    assert_eq!(one.phys(), two.phys());
    drop(one);
    assert_eq!(frames.usage().owned_by(Owner::Anon), 1);
    assert_eq!(two.owner(), Owner::Anon);
    drop(two);
    assert_eq!(frames.usage().owned_by(Owner::Anon), 0);
}

#[test]
#[cfg(debug_assertions)]
fn freed_frames_are_junk_and_freeing_twice_is_noticed() {
    let frames = Machine::new(1024).memory.frames;
    let frame = frames.alloc_zeroed(Owner::Test).unwrap();
    let pointer = frame.as_ptr();
    // SAFETY: our frame.
    assert_eq!(unsafe { pointer.read() }, 0);
    let phys = frame.into_raw();
    // SAFETY: made a number just now.
    drop(unsafe { frames.from_raw(phys) });
    // SAFETY: the arena is there for ever; this is the look after the end that a dangling pointer would have.
    assert_ne!(unsafe { pointer.read() }, 0);
    assert_eq!(frames.owner_at(phys), None);
    let twice = std::panic::catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: it is not, and that is the point: the allocator looks before it believes.
        drop(unsafe { frames.from_raw(phys) });
    }));
    assert!(twice.is_err());
}

#[test]
fn injected_failure_fails_from_then_on() {
    let frames = Machine::new(1024).memory.frames;
    frames.fail_after(2);
    let kept: Vec<_> = (0..4).map(|_| frames.alloc(Owner::Test)).collect();
    assert_eq!(kept.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, false]);
    assert_eq!(frames.alloc_order(3, Owner::Test).err(), Some(OutOfMemory));
    frames.fail_never();
    assert!(frames.alloc(Owner::Test).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Blocks of all sizes come and go: they never overlap, and the books are right at every step.
    #[test]
    fn blocks_never_overlap(steps in prop::collection::vec((0..6usize, any::<prop::sample::Index>(), 0..3u8), 1..120)) {
        let frames = machine().memory.frames;
        let before = frames.usage();
        let mut held: Vec<Frame<Host>> = Vec::new();
        let mut map: HashMap<u64, u64> = HashMap::new();
        for (order, index, what) in steps {
            if what == 0 && !held.is_empty() {
                let frame = held.swap_remove(index.index(held.len()));
                for page in 0..(frame.size() as u64 / PAGE_SIZE) {
                    map.remove(&(frame.phys() + page * PAGE_SIZE));
                }
                drop(frame);
            } else if let Ok(frame) = frames.alloc_order(order, Owner::Test) {
                prop_assert!(frame.phys().is_multiple_of(PAGE_SIZE << order));
                for page in 0..1u64 << order {
                    prop_assert_eq!(map.insert(frame.phys() + page * PAGE_SIZE, frame.phys()), None);
                }
                held.push(frame);
            }
            let usage = frames.usage();
            prop_assert!(usage.adds_up());
            prop_assert_eq!(usage.owned_by(Owner::Test), map.len() as u64);
        }
        drop(held);
        prop_assert_eq!(frames.usage().available(), before.available());
    }
}

/// One machine for all cases of the property.
fn machine() -> &'static Machine {
    static MACHINE: std::sync::OnceLock<&'static Machine> = std::sync::OnceLock::new();
    MACHINE.get_or_init(|| Machine::new(1024))
}

#[test]
fn frames_may_be_freed_on_another_cpu() {
    let machine = Machine::new(4096);
    let frames = machine.memory.frames;
    let before = frames.usage();
    for round in 0..20 {
        let batch: Vec<_> =
            machine.on_cpu(round % 4, || (0..150).map(|_| frames.alloc(Owner::Test).unwrap()).collect());
        thread::scope(|scope| {
            for (cpu, part) in batch.into_iter().fold([const { Vec::new() }; 4], spread).into_iter().enumerate() {
                scope.spawn(move || machine.on_cpu(cpu as u32, || drop(part)));
            }
        });
        assert!(frames.usage().adds_up());
    }
    assert_eq!(frames.usage().available(), before.available());
    assert!(frames.usage().cached <= 4 * 64);
}

fn spread<T>(mut parts: [Vec<T>; 4], item: T) -> [Vec<T>; 4] {
    let shortest = (0..4).min_by_key(|&part| parts[part].len()).unwrap();
    parts[shortest].push(item);
    parts
}
