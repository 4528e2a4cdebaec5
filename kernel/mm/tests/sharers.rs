//! Who is asked to flush: the CPUs that can hold the translation, and nobody else.

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use abi::{
    Counter,
    flags::{madv, prot},
};
use mm::{
    Access, FaultError, MapRequest, PAGE_SIZE,
    testing::{Machine, Process, User},
};
use sync::testing::{HOST_CPUS, at_point};

const RW: u32 = prot::READ | prot::WRITE;
const BASE: u64 = 0x10_0000_0000;
const P: u64 = PAGE_SIZE;
/// What a leaf table spans.
const SPAN: u64 = 512 * P;

/// Runs `body` as a program on CPUs 0, 1 and 2, all played by one thread. Calls come from CPU 2. Nothing may be left after.
fn program(body: impl FnOnce(&Process, [&User<'_>; 3])) {
    let machine = Machine::new(16384);
    let process = Process::new(machine);
    process.run_on(0, |zero| process.run_on(1, |one| process.run_on(2, |two| body(&process, [zero, one, two]))));
    process.check_tlbs();
    machine.on_cpu(2, || {
        drop(process);
        machine.drain();
    });
    assert_eq!(machine.program_frames(), 0, "an address space leaves something behind");
}

fn map(process: &Process, addr: u64, pages: u64) {
    assert_eq!(process.space.mmap(MapRequest::fixed(addr, pages * P, RW)), Ok(addr));
}

/// How often each of the three has been asked.
fn flushes(process: &Process) -> [u64; 3] {
    [0, 1, 2].map(|cpu| process.flushes(cpu))
}

fn shootdowns(process: &Process) -> u64 {
    process.space.memory().counters.total(Counter::Shootdown)
}

#[test]
fn a_cpu_that_never_touched_a_span_is_never_asked() {
    program(|process, [zero, one, two]| {
        map(process, BASE, 8);
        map(process, BASE + SPAN, 8);
        for round in 0..3 {
            map(process, BASE + 2 * SPAN, 8);
            for (user, addr) in [(zero, BASE), (one, BASE + SPAN), (two, BASE + 2 * SPAN)] {
                (0..8).for_each(|n| user.store(addr + n * P, round).unwrap());
            }
            let before = flushes(process);
            process.space.mprotect(BASE + 2 * SPAN, P, prot::READ).unwrap();
            process.space.madvise(BASE + 2 * SPAN, 2 * P, madv::DONTNEED).unwrap();
            map(process, BASE + 2 * SPAN, 3);
            process.space.munmap(BASE + 2 * SPAN, 8 * P).unwrap();
            let after = flushes(process);
            assert_eq!((after[0], after[1]), (before[0], before[1]), "round {round}");
            assert_eq!(after[2], before[2] + 4, "each call took something away");
        }
        assert_eq!(shootdowns(process), 0);
        process.space.munmap(BASE, 8 * P).unwrap();
        assert_eq!((flushes(process)[0], flushes(process)[1]), (1, 0));
        assert_eq!(shootdowns(process), 1);
    });
}

#[test]
fn who_touched_any_page_of_the_span_is_asked() {
    program(|process, [zero, one, two]| {
        map(process, BASE, 4);
        map(process, BASE + 100 * P, 1);
        two.store(BASE, 1).unwrap();
        one.store(BASE + 100 * P, 1).unwrap();
        zero.load(BASE + SPAN).unwrap_err();
        // CPU 1's processor can reach it, though CPU 1 never faulted there.
        assert!(process.preload(1, BASE) && !process.preload(0, BASE));
        process.space.mprotect(BASE, P, prot::READ).unwrap();
        assert_eq!(flushes(process), [0, 1, 1]);
        process.check_tlbs();
    });
}

#[test]
fn a_call_over_many_spans_asks_each_of_their_cpus_once() {
    program(|process, [zero, one, _]| {
        map(process, BASE, 20 * 512);
        for n in 0..20 {
            let user = if n % 2 == 0 { zero } else { one };
            user.store(BASE + n * SPAN + n * P, n).unwrap();
        }
        process.space.madvise(BASE, 20 * SPAN, madv::DONTNEED).unwrap();
        assert_eq!(flushes(process), [1, 1, 0]);
        zero.store(BASE + 19 * SPAN, 1).unwrap();
        process.space.madvise(BASE + 18 * SPAN, 2 * SPAN, madv::DONTNEED).unwrap();
        assert_eq!(flushes(process), [2, 2, 0], "CPU 1 has linked the last table");
        process.space.munmap(BASE, 20 * SPAN).unwrap();
        assert_eq!(flushes(process), [3, 3, 0], "cached upper levels go");
    });
}

#[test]
fn a_cpu_that_has_left_is_not_asked_and_asked_again_when_it_is_back() {
    let machine = Machine::new(4096);
    let process = Process::new(machine);
    process.run_on(0, |zero| {
        map(&process, BASE, 4);
        process.run_on(1, |one| one.store(BASE, 1).unwrap());
        zero.store(BASE, 1).unwrap();
        process.space.madvise(BASE, P, madv::DONTNEED).unwrap();
        assert_eq!(process.flushes(1), 0, "its processor has forgotten everything");
        zero.store(BASE, 2).unwrap();
        process.run_on(1, |one| {
            let faults = machine.memory.counters.total(Counter::Fault);
            assert_eq!(one.load(BASE), Ok(2));
            assert_eq!(machine.memory.counters.total(Counter::Fault), faults, "its own tables are still there");
            process.space.madvise(BASE, P, madv::DONTNEED).unwrap();
            assert_eq!(process.flushes(1), 1);
        });
    });
    machine.on_cpu(0, || drop(process));
}

#[test]
fn a_page_that_is_there_already_is_found_by_a_spurious_fault() {
    program(|process, [zero, one, _]| {
        let counters = &process.space.memory().counters;
        map(process, BASE, 4);
        (0..4).for_each(|n| zero.store(BASE + n * P, n).unwrap());
        assert_eq!(counters.total(Counter::FaultSpurious), 0);
        (0..4).for_each(|n| assert_eq!(one.load(BASE + n * P), Ok(n)));
        assert_eq!(counters.total(Counter::FaultSpurious), 1, "one fault links all of the leaf table");
        assert_eq!(counters.total(Counter::Fault), 5);
    });
}

#[test]
fn a_link_that_cannot_be_made_changes_nothing() {
    program(|process, [zero, one, _]| {
        let frames = process.space.memory().frames;
        map(process, BASE, 4);
        zero.store(BASE, 5).unwrap();
        // CPU 1's level 3 table fails, then its level 2 table, then the page.
        for (successes, linked) in [(0, false), (1, false), (1, true)] {
            frames.fail_after(successes);
            assert_eq!(one.store(BASE + P, 1), Err(FaultError::OutOfMemory));
            frames.fail_never();
            assert_eq!(process.preload(1, BASE), linked);
            process.space.mprotect(BASE, P, prot::READ).unwrap();
            process.space.mprotect(BASE, P, RW).unwrap();
            zero.store(BASE, 5).unwrap();
            assert_eq!(process.flushes(1) > 0, linked);
        }
        assert_eq!(one.store(BASE + P, 1), Ok(()));
        assert_eq!(one.load(BASE), Ok(5));
    });
}

#[test]
fn a_root_for_each_cpu_or_no_address_space() {
    let machine = Machine::new(1024);
    machine.on_cpu(0, || {
        for successes in 0..=HOST_CPUS as u64 {
            machine.memory.frames.fail_after(successes);
            assert!(mm::AddressSpace::new(machine.memory, machine.kernel_root).is_err());
            machine.memory.frames.fail_never();
            assert_eq!(machine.program_frames(), 0);
        }
        let space = mm::AddressSpace::new(machine.memory, machine.kernel_root).unwrap();
        assert_eq!(machine.program_frames(), HOST_CPUS as u64 + 1, "the tree of tables has a root of its own");
        drop(space);
        assert_eq!(machine.program_frames(), 0);
    });
}

/// A table leaves the tree; before anybody has cut it out of CPU 1's tables, that links its successor.
#[test]
fn a_new_table_takes_the_place_of_one_that_is_being_taken_out() {
    let machine = Machine::new(4096);
    let process = Process::new(machine);
    let program = &process;
    let (reached, here): (Sender<()>, Receiver<()>) = channel();
    let (release, go): (Sender<()>, Receiver<()>) = channel();
    program.run_on(1, |one| {
        map(program, BASE, 4);
        one.store(BASE, 1).unwrap();
        thread::scope(move |scope| {
            scope.spawn(move || {
                let stop = move || {
                    reached.send(()).unwrap();
                    let _ = go.recv();
                };
                program.run_on(0, |_| at_point("after-publish", stop, || program.space.munmap(BASE, 4 * P).unwrap()));
            });
            here.recv().unwrap();
            // No transaction: the other one has not ended. A fault in a VMA that is not concerned would do the same.
            assert!(program.preload(1, BASE), "the old table is still there");
            drop(release);
        });
        map(program, BASE + 8 * P, 1);
        one.store(BASE + 8 * P, 2).unwrap();
        one.tick();
        assert_eq!(one.load(BASE + 8 * P), Ok(2));
        assert_eq!(program.space.fault(BASE, Access::Read), Err(FaultError::NoMapping));
        program.check_tlbs();
    });
    machine.on_cpu(1, || {
        drop(process);
        machine.drain();
    });
    machine.on_cpu(0, || machine.drain());
    assert_eq!(machine.program_frames(), 0);
}
