//! What is counted where: each address space for itself, and all of it in the total, also after one has ended; and the
//! longest holds and waits with their sites.
#![cfg(not(shuttle))]

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use abi::flags::prot;
use abi::{Counter, Extreme};
use mm::tally::ENDED_KEPT;
use mm::testing::{Machine, Process};
use mm::{MapRequest, PAGE_SIZE};
use sync::testing::at_point;

const BASE: u64 = 0x10_0000_0000;
const RW: u32 = prot::READ | prot::WRITE;

/// Counters of events that no address space has.
const MACHINES: [Counter; 5] =
    [Counter::IpiFlush, Counter::RcuGp, Counter::Switch, Counter::Call, Counter::CallUnknown];

/// Maps and touches `pages` pages, on `cpu`.
fn touch(process: &Process, cpu: u32, pages: u64) {
    process.run_on(cpu, |user| {
        process.space.mmap(MapRequest::fixed(BASE, pages * PAGE_SIZE, RW)).unwrap();
        for page in 0..pages {
            user.store(BASE + page * PAGE_SIZE, 1).unwrap();
        }
    });
}

#[test]
fn address_spaces_are_counted_apart_and_together() {
    let machine = Machine::new(2048);
    let counters = &machine.memory.counters;
    let few = Process::new(machine);
    let many = Process::new(machine);
    touch(&few, 0, 3);
    touch(&many, 1, 20);
    let (one, other) = (few.space.tally().snapshot(), many.space.tally().snapshot());
    assert_eq!((one.get(Counter::FaultLocked), other.get(Counter::FaultLocked)), (3, 20));
    assert_eq!((one.get(Counter::Txn), other.get(Counter::Txn)), (1, 1));
    assert!(other.get(Counter::Publish) == 1 && other.get(Counter::PublishNs) > 0);
    let sums =
        || Counter::ALL.iter().filter(|counter| !MACHINES.contains(counter)).map(|&counter| counters.total(counter));
    let sum = |counter| one.get(counter) + other.get(counter);
    let expected: Vec<u64> =
        Counter::ALL.iter().filter(|counter| !MACHINES.contains(counter)).map(|&counter| sum(counter)).collect();
    assert!(sums().eq(expected.iter().copied()), "{expected:?}");
    assert_eq!(counters.get(sync::CpuId(1), Counter::FaultLocked), 20, "the sum is kept for each CPU");
    assert_eq!(counters.snapshot().get(Counter::FaultLocked), 23);

    // What concerns no address space is in no block but the total's.
    counters.add(Counter::Switch, 7);
    assert_eq!((counters.total(Counter::Switch), few.space.tally().snapshot().get(Counter::Switch)), (7, 0));

    // An address space that ends takes nothing out of the sum, and can still be read.
    let ended = many.space.id();
    machine.on_cpu(0, || drop(many));
    assert!(sums().eq(expected.iter().copied()), "after one has ended");
    let found = counters.after(few.space.id()).expect("kept");
    assert_eq!((found.space(), found.snapshot()), (ended, other));
    assert!(counters.after(ended).is_none());

    // Not for ever: it is then part of the sum alone.
    for _ in 0..ENDED_KEPT + 3 {
        let process = Process::new(machine);
        touch(&process, 2, 1);
        machine.on_cpu(2, || drop(process));
    }
    let spaces: Vec<u64> = core::iter::successors(counters.after(0), |tally| counters.after(tally.space()))
        .map(|tally| tally.space())
        .collect();
    assert_eq!(spaces.len(), 1 + ENDED_KEPT);
    assert!(spaces[0] == few.space.id() && spaces[1] > ended && spaces.is_sorted(), "{spaces:?}");
    assert_eq!(counters.total(Counter::FaultLocked), 23 + ENDED_KEPT as u64 + 3);
    assert_eq!(machine.memory.snapshot().longest(Extreme::TxnHold).map(|longest| longest.ns > 0), Some(true));
    machine.on_cpu(0, || drop(few));
}

#[test]
fn an_owner_is_named_in_full() {
    let machine = Machine::new(1024);
    let process = Process::new(machine);
    let tally = process.space.tally();
    assert_eq!((tally.process(), tally.name()), (0, [0; 16]));
    tally.set_owner(17, b"abcdefghijklmno\0");
    assert_eq!((tally.process(), &tally.name()), (17, b"abcdefghijklmno\0"));
    machine.on_cpu(0, || drop(process));
}

/// Runs `call` until what took longest is in the file `site`: each time it stands at `point`, inside of what is measured, for
/// longer than anything took before. More than once, because a busy host may keep another part of `call` waiting for longer still.
fn is_longest(process: &Process, kind: Extreme, point: &'static str, site: &str, call: impl Fn(&Process)) {
    let longest = || process.space.tally().snapshot().longest(kind).expect("something took time");
    for _ in 0..8 {
        let pause = Duration::from_nanos(2 * longest().ns) + Duration::from_millis(5);
        process.run_on(0, |_| at_point(point, move || thread::sleep(pause), || call(process)));
        assert!(longest().ns >= pause.as_nanos() as u64, "a hold is as long as what happens in it");
        if longest().site.file().ends_with(site) {
            return;
        }
    }
    panic!("the longest {kind:?} is said to be at {}, not in {site}", longest().site);
}

#[test]
fn the_longest_hold_names_the_call_that_held() {
    let machine = Machine::new(1024);
    let process = Process::new(machine);
    touch(&process, 0, 4);
    let mapped = process.space.tally().snapshot().longest(Extreme::TxnHold).expect("the call that mapped").site;
    assert!(mapped.file().ends_with("src/map.rs"), "{mapped}");
    let read_only = |p: &Process| p.space.mprotect(BASE, PAGE_SIZE, prot::READ).unwrap();
    let both = |p: &Process| {
        read_only(p);
        p.space.mprotect(BASE, PAGE_SIZE, RW).unwrap();
    };
    is_longest(&process, Extreme::TxnHold, "after-mark", "src/protect.rs", both);
    is_longest(&process, Extreme::TxnHold, "after-mark", "src/unmap.rs", |p| {
        p.space.munmap(BASE + PAGE_SIZE, PAGE_SIZE).unwrap();
        p.space.mmap(MapRequest::fixed(BASE + PAGE_SIZE, PAGE_SIZE, RW)).unwrap();
    });
    // What is long in one address space is not long in another.
    machine.on_cpu(0, || {
        assert!(Process::new(machine).space.tally().snapshot().longest(Extreme::TxnHold).is_none());
        drop(process);
    });
}

#[test]
fn a_wait_of_either_side_is_noted_with_its_site() {
    // Other protocols wait elsewhere.
    let machine = Machine::with_pair(1024, abi::Pair::DEFAULT);
    let owned = Process::new(machine);
    let process = &owned;
    touch(process, 0, 4);
    let longest = |kind| process.space.tally().snapshot().longest(kind);
    assert!(longest(Extreme::FaultWait).is_none() && longest(Extreme::SettleWait).is_none());

    let fresh = BASE + 4 * PAGE_SIZE;
    let map = || process.run_on(0, |_| process.space.mmap(MapRequest::fixed(fresh, PAGE_SIZE, RW)).unwrap());

    // A fault sleeps until a call has ended that stands in the middle.
    map();
    let waiting = || machine.memory.counters.total(Counter::FaultWait);
    thread::scope(|scope| {
        let (reached, here) = channel();
        let (release, go) = channel();
        scope.spawn(move || {
            let stop = move || {
                reached.send(()).unwrap();
                go.recv().unwrap();
            };
            process.run_on(0, |_| at_point("before-publish", stop, || process.space.munmap(fresh, PAGE_SIZE).unwrap()));
        });
        here.recv().unwrap();
        let accessor = scope.spawn(|| process.run_on(1, |user| user.load(fresh).unwrap_err()));
        while waiting() == 0 && !accessor.is_finished() {
            thread::sleep(Duration::from_micros(100));
        }
        release.send(()).unwrap();
    });
    let waited = longest(Extreme::FaultWait).expect("a fault waited");
    assert!(waited.ns > 0 && waited.site.file().ends_with("src/fault.rs"), "{waited:?}");

    // A call waits until a fault has ended that stands in the middle; the fault goes on when the call has begun to wait.
    map();
    thread::scope(|scope| {
        let (reached, here) = channel();
        let (release, go) = channel();
        scope.spawn(move || {
            let stop = move || {
                reached.send(()).unwrap();
                go.recv().unwrap();
            };
            process.run_on(1, |user| at_point("fault-locked", stop, || user.load(fresh).map(|_| ())))
        });
        here.recv().unwrap();
        let go_on = move || release.send(()).unwrap();
        process.run_on(0, |_| at_point("settle-waiting", go_on, || process.space.munmap(fresh, PAGE_SIZE).unwrap()));
    });
    assert_eq!(machine.memory.counters.total(Counter::SettleWait), 1);
    let waited = longest(Extreme::SettleWait).expect("a call waited");
    assert!(waited.ns > 0 && waited.site.file().ends_with("src/unmap.rs"), "{waited:?}");
    machine.on_cpu(0, || drop(owned));
}
