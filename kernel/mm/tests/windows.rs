//! What others see in the middle of a call: a fault in the range waits, and then finds the new state, never a half.
//!
//! A call runs on CPU 0 and is stopped at one of its schedule points, until a program on CPU 1 is seen to wait. (Under the read
//! protocol `mm` a fault waits for the lock of the whole address space, wherever it is.)

use std::{
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use abi::{
    Counter, ReadProtocol,
    flags::{madv, prot},
};
use mm::{
    FaultError, MapRequest, PAGE_SIZE,
    testing::{Machine, Process, User},
};
use sync::testing::{at_point, at_spin};

const RW: u32 = prot::READ | prot::WRITE;
const BASE: u64 = 0x10_0000_0000;
const P: u64 = PAGE_SIZE;
/// The page that `during` leaves to fault on.
const LAST: u64 = BASE + 3 * P;
const ELSEWHERE: u64 = BASE + 100 * P;

/// Long enough for a fault that does not wait to be over.
const PATIENCE: Duration = Duration::from_millis(20);

/// Whether a fault is under the lock of the whole address space.
fn one_lock(machine: &Machine) -> bool {
    machine.memory.locks.pair().read() == ReadProtocol::Mm
}

/// Maps pages 0..4, touches all but the last, runs `call` on CPU 0, and when that comes by `point` runs `access` on CPU 1.
/// `call` goes on when `access` is over, or waits for a transaction; checks which of the two it is.
fn during<R: Send>(
    point: &'static str,
    waits: Waits,
    call: impl FnOnce(&Process) + Send,
    access: impl FnOnce(&User<'_>) -> R + Send,
) -> R {
    let machine = Machine::new(4096);
    let process = Process::new(machine);
    process.run_on(1, |user| {
        process.space.mmap(MapRequest::fixed(BASE, 4 * P, RW)).unwrap();
        (0..3).for_each(|n| user.store(BASE + n * P, n + 1).unwrap());
        process.space.mmap(MapRequest::fixed(ELSEWHERE, P, RW)).unwrap();
    });
    let waits = if one_lock(machine) { Waits::Yes } else { waits };
    let began = Instant::now();
    // A sleep for the one lock is not counted before it is over.
    let waiting = || match one_lock(machine) {
        true => u64::from(began.elapsed() > PATIENCE),
        false => machine.memory.counters.total(Counter::FaultWait),
    };
    let (reached, here): (Sender<()>, Receiver<()>) = channel();
    let (release, go): (Sender<()>, Receiver<()>) = channel();
    let program = &process;
    // `release` moves in, so that a failed check lets the other threads go.
    let result = thread::scope(move |scope| {
        scope.spawn(move || {
            let stop = move || {
                reached.send(()).unwrap();
                go.recv().unwrap();
            };
            program.run_on(0, |_| at_point(point, stop, || call(program)));
        });
        here.recv().unwrap();
        let accessor = scope.spawn(move || program.run_on(1, access));
        while waiting() == 0 && !accessor.is_finished() {
            thread::sleep(Duration::from_micros(100));
        }
        match waits {
            Waits::Yes => assert!(!accessor.is_finished(), "the access did not wait at {point}"),
            Waits::No => assert_eq!(waiting(), 0, "the access waited at {point}"),
        }
        release.send(()).unwrap();
        accessor.join().unwrap()
    });
    process.check_tlbs();
    machine.on_cpu(0, || drop(process));
    result
}

#[derive(Clone, Copy)]
enum Waits {
    Yes,
    No,
}

const POINTS: [&str; 4] = ["before-publish", "after-publish", "before-flush", "after-flush"];

#[test]
fn a_fault_in_a_range_being_unmapped_waits_and_finds_nothing() {
    for point in POINTS {
        let seen = during(point, Waits::Yes, |p| p.space.munmap(BASE + P, 3 * P).unwrap(), |user| user.load(LAST));
        assert_eq!(seen, Err(FaultError::NoMapping), "{point}");
    }
}

#[test]
fn a_fault_in_a_range_being_replaced_never_meets_a_hole() {
    for point in POINTS {
        let call = |p: &Process| {
            p.space.mmap(MapRequest::fixed(BASE + P, 3 * P, RW)).unwrap();
        };
        assert_eq!(during(point, Waits::Yes, call, |user| user.load(LAST)), Ok(0), "{point}");
    }
}

#[test]
fn a_fault_in_a_range_that_loses_rights_waits() {
    for point in POINTS {
        let call = |p: &Process| p.space.mprotect(BASE, 4 * P, prot::READ).unwrap();
        let stored = during(point, Waits::Yes, call, |user| user.store(LAST, 9));
        assert!(matches!(stored, Err(FaultError::Denied { .. })), "{point}");
    }
}

#[test]
fn a_fault_in_a_range_being_emptied_waits() {
    for point in ["before-flush", "after-flush"] {
        let call = |p: &Process| p.space.madvise(BASE, 4 * P, madv::DONTNEED).unwrap();
        assert_eq!(during(point, Waits::Yes, call, |user| user.load(LAST)), Ok(0), "{point}");
    }
}

#[test]
fn a_fault_elsewhere_does_not_wait() {
    for point in POINTS {
        let call = |p: &Process| p.space.munmap(BASE, 4 * P).unwrap();
        assert_eq!(during(point, Waits::No, call, |user| user.load(ELSEWHERE)), Ok(0), "{point}");
    }
}

#[test]
fn an_unmapping_waits_for_the_fault_inside() {
    let machine = Machine::new(4096);
    let process = Process::new(machine);
    let program = &process;
    machine.on_cpu(0, || program.space.mmap(MapRequest::fixed(BASE, 4 * P, RW)).unwrap());
    let done = || machine.memory.counters.total(Counter::Txn) > 1 && program.mappings().is_empty();
    let (reached, here) = channel();
    let (release, go): (Sender<()>, Receiver<()>) = channel();
    thread::scope(move |scope| {
        let faulter = scope.spawn(move || {
            let stop = move || {
                reached.send(()).unwrap();
                go.recv().unwrap();
            };
            program.run_on(1, |user| at_point("fault-locked", stop, || user.store(BASE, 1)))
        });
        here.recv().unwrap();
        let (waits, waiting) = channel();
        let wait = move || waits.send(()).unwrap();
        let unmap = || program.space.munmap(BASE, 4 * P);
        let unmapper = scope.spawn(move || match one_lock(machine) {
            true => program.run_on(0, |_| at_point("lock-parking", wait, unmap)),
            false => program.run_on(0, |_| at_spin(wait, unmap)),
        });
        waiting.recv().unwrap();
        assert!(!unmapper.is_finished() && !machine.on_cpu(2, done), "the call went on beside a fault");
        release.send(()).unwrap();
        // The store may win and then lose its page, or come too late: it is not lost in between.
        let stored = faulter.join().unwrap();
        assert!(matches!(stored, Ok(()) | Err(FaultError::NoMapping)));
        assert_eq!(unmapper.join().unwrap(), Ok(()));
    });
    // Under the one lock there is nobody inside when the call begins.
    assert_eq!(machine.memory.counters.total(Counter::SettleWait), u64::from(!one_lock(machine)));
    process.run_on(1, |user| assert_eq!(user.load(BASE), Err(FaultError::NoMapping)));
    machine.on_cpu(0, || {
        drop(process);
        machine.drain();
    });
    machine.on_cpu(1, || machine.drain());
    assert_eq!(machine.program_frames(), 0, "the page that the fault made was freed with its mapping");
}
