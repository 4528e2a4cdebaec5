//! Whole memory calls and faults on three CPUs of one address space, in many schedules: the shipped code under shuttle.
//!
//! The scheduler switches at every access to an atomic of `sync`'s (locks, slots, marks, cells, grace periods, the tree) and
//! at every schedule point. Atomics in raw memory (page-table entries, frame metadata) stay `core`'s: around those the points
//! are the switches. The software TLBs load what they like, so a flush that is missing or late shows here, too.
#![cfg(shuttle)]

mod three_cpus;

use abi::Pair;
use abi::flags::{madv, prot};
use mm::{
    Errno, FaultError, MapRequest, PAGE_SIZE,
    testing::{Machine, Process, User},
};
use sync::testing::explore;
use three_cpus::CPUS;

const RW: u32 = prot::READ | prot::WRITE;
const P: u64 = PAGE_SIZE;
/// The last page below the end of a page table.
const BASE: u64 = 0x10_4000_0000 - P;

/// What one CPU does.
type Part = fn(&Process, &User<'_>);

/// Plays `parts`, one on each CPU, after `prepare` on CPU 0; then every frame must be back.
fn play(schedules: usize, prepare: Part, parts: [Part; CPUS as usize]) {
    // Outside the model: its schedules begin with the program. It is as it was after each.
    play_on(Machine::new(1024), schedules, prepare, parts);
}

/// As [`play`], under each pair of protocols.
fn play_under_all(schedules: usize, prepare: Part, parts: [Part; CPUS as usize]) {
    Pair::all().for_each(|pair| play_on(Machine::with_pair(1024, pair), schedules, prepare, parts));
}

fn play_on(machine: &'static Machine, schedules: usize, prepare: Part, parts: [Part; CPUS as usize]) {
    explore(schedules, move || drop(three_cpus::play(machine, prepare, parts)));
}

fn map(process: &Process, _: &User<'_>) {
    process.space.mmap(MapRequest::fixed(BASE, 4 * P, RW)).unwrap();
}

/// What a store or load may meet where another CPU maps, unmaps and takes rights.
fn may_fail<T: Copy>(done: Result<T, FaultError>) -> Option<T> {
    assert!(!matches!(done, Err(FaultError::OutOfMemory)), "the machine is large enough");
    done.ok()
}

/// Two CPUs touch what the third unmaps: a word is what its CPU stored, or the page is gone.
#[test]
fn touching_beside_unmapping() {
    fn touch(_: &Process, user: &User<'_>) {
        if may_fail(user.store(BASE + P, 7)).is_some()
            && let Some(word) = may_fail(user.load(BASE + P))
        {
            assert_eq!(word, 7);
        }
        user.tick();
    }
    let unmap: Part = |process, user| {
        process.space.munmap(BASE + P, 2 * P).unwrap();
        assert_eq!(user.load(BASE + P), Err(FaultError::NoMapping));
    };
    play(4_000, map, [unmap, touch, touch]);
}

/// One CPU takes rights and pages away, the second unmaps half, the third touches: whoever is told *no* is told so for good.
#[test]
fn calls_beside_calls() {
    let protect: Part = |process, user| {
        // The third CPU may find this, too.
        may_fail(user.store(BASE, 3));
        let done = process.space.mprotect(BASE, 2 * P, prot::READ);
        assert!(matches!(done, Ok(()) | Err(Errno::ENOMEM)), "{done:?}");
        assert!(user.store(BASE, 1).is_err(), "read-only memory can be written");
    };
    let unmap: Part = |process, user| {
        process.space.munmap(BASE + P, 3 * P).unwrap();
        assert_eq!(user.load(BASE + 2 * P), Err(FaultError::NoMapping));
        user.tick();
    };
    let empty: Part = |process, user| {
        may_fail(user.store(BASE, 5));
        let _ = process.space.madvise(BASE, 2 * P, madv::DONTNEED);
        if let Some(word) = may_fail(user.load(BASE)) {
            assert!(word == 0 || word == 3, "emptied memory keeps its contents");
        }
    };
    play(4_000, map, [protect, unmap, empty]);
}

/// A mapping is replaced by another while two CPUs touch it: never a hole, and never the old page.
#[test]
fn replacing_beside_touching() {
    fn touch(_: &Process, user: &User<'_>) {
        let word = user.load(BASE + 2 * P).expect("a replaced mapping is never a hole");
        assert_eq!(word, 0);
    }
    let replace: Part = |process, user| {
        process.space.mmap(MapRequest::fixed(BASE + P, 3 * P, prot::READ)).unwrap();
        assert!(user.store(BASE + 2 * P, 1).is_err());
    };
    play(4_000, map, [replace, touch, touch]);
}

/// Two CPUs take the same right away beside each other: the one that finds nothing left to be changed must not return before the
/// other one has taken the old translations away, from the third CPU, too.
#[test]
fn taking_a_right_that_is_being_taken() {
    let protect: Part = |process, user| {
        may_fail(user.store(BASE, 1));
        process.space.mprotect(BASE, 2 * P, prot::READ).unwrap();
        assert!(user.store(BASE, 2).is_err(), "read-only memory can be written");
    };
    let touch: Part = |_, user| {
        may_fail(user.store(BASE, 3));
        user.tick();
    };
    play_under_all(150, map, [protect, protect, touch]);
}
