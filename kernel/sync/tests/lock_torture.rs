//! Locks under torture over host threads (`sync::torture::locks`), and the classic mistakes: taking again what one holds.
#![cfg(not(any(loom, shuttle)))]

use std::sync::Barrier;
use std::thread;

use abi::{Pair, ReadProtocol};
use sync::testing::{Host, on_cpu, run_seed, shaken};
use sync::torture::locks::{Busted, Contended, LockReport, LockTorture, Queued};
use sync::*;

const THREADS: usize = 8;
const GOAL: u64 = 8_000;

/// For locks whose holders may sleep: now and then long enough for all others to queue.
fn hold(random: u64) {
    match random % 512 {
        0 => thread::sleep(std::time::Duration::from_micros(200)),
        1..64 => thread::yield_now(),
        _ => {}
    }
}

fn torture(lock: &dyn Contended) -> LockReport {
    let (torture, begin, seed) = (LockTorture::new(), Barrier::new(THREADS), run_seed());
    thread::scope(|scope| {
        for index in 0..THREADS {
            let (torture, begin) = (&torture, &begin);
            scope.spawn(move || {
                let role = || {
                    begin.wait();
                    torture.take(lock, index, GOAL, seed, hold);
                };
                on_cpu(CpuId(index as u32), || shaken(seed, index as u64, role));
            });
        }
    });
    let report = torture.report(THREADS);
    println!("{report}");
    assert_eq!(report.total, GOAL);
    report
}

#[test]
fn a_spin_lock_stands_it() {
    let lock: SpinLock<Host, ()> = spin_lock(Class::StreamIn, ());
    assert_eq!(torture(&lock).failures(), 0);
}

#[test]
fn a_fair_lock_stands_it() {
    let report = torture(&FairRwLock::<Host>::new(Class::Planted));
    assert_eq!(report.failures(), 0);
    assert_ne!(report.met, 0, "readers never were inside together");
}

#[test]
fn a_lock_of_a_wait_queue_stands_it() {
    assert_eq!(torture(&Queued::<Host>::new()).failures(), 0);
}

#[test]
fn what_is_no_lock_does_not_stand_it() {
    assert_ne!(torture(&Busted).failures(), 0);
}

/// A VMA: faults are its readers, transactions its writers.
struct Vma {
    space: UpdateLock<Host>,
    locks: VmaLocks<Host>,
    counters: Counters<Host>,
    lock: VmaLock,
}

const PAGE: u64 = 0x4000;

impl Vma {
    fn new(pair: Pair) -> Vma {
        let (space, locks, counters) = (UpdateLock::new(), VmaLocks::new(pair).unwrap(), Counters::new().unwrap());
        let lock = update(&space, &locks, &counters, |txn| Ok(txn.new_lock())).unwrap();
        (0..THREADS as u32).for_each(|cpu| space.join(CpuId(cpu)));
        Vma { space, locks, counters, lock }
    }
}

impl Contended for Vma {
    fn alone(&self, body: &mut dyn FnMut()) {
        let changed = update(&self.space, &self.locks, &self.counters, |txn| {
            txn.mark(&self.lock, PAGE..PAGE + 0x1000)?;
            txn.settle()?;
            body();
            Ok(())
        });
        changed.unwrap();
    }

    fn together(&self, body: &mut dyn FnMut()) {
        loop {
            let _space = (self.locks.pair().read() == ReadProtocol::Mm).then(|| self.space.read());
            let mark = {
                let _off = InterruptGuard::<Host>::new();
                let section = self.locks.enter(PAGE).expect("the slot is free");
                match self.lock.read(&section, &self.locks, &self.counters) {
                    Ok(_held) => return body(),
                    Err(ReadRefused::Marked(mark)) => mark,
                    Err(ReadRefused::Detached) => unreachable!("nobody detaches it"),
                }
            };
            self.locks.wait_for_end(mark, PAGE);
        }
    }
}

#[test]
fn a_vma_stands_it_under_all_pairs() {
    for pair in Pair::all() {
        println!("{pair}");
        assert_eq!(torture(&Vma::new(pair)).failures(), 0, "{pair}");
    }
}

/// What waits for itself is told, where locks are validated.
#[cfg(debug_assertions)]
mod taken_twice {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn violation(body: impl FnOnce()) -> String {
        let error = catch_unwind(AssertUnwindSafe(body)).expect_err("it should have been told");
        error.downcast_ref::<String>().expect("a message").clone()
    }

    #[test]
    fn each_lock_is_caught() {
        let spin: SpinLock<Host, ()> = spin_lock(Class::Random, ());
        let fair = FairRwLock::<Host>::new(Class::Planted);
        for lock in [&spin as &dyn Contended, &fair] {
            let text = violation(|| lock.alone(&mut || lock.together(&mut || {})));
            assert!(text.contains("taken twice"), "{text}");
            let text = violation(|| lock.together(&mut || lock.alone(&mut || {})));
            assert!(text.contains("taken twice"), "{text}");
        }
    }

    /// A transaction inside a transaction, and a transaction inside a fault: each would wait for itself.
    #[test]
    fn a_vma_is_caught() {
        for vma in Pair::all().map(Vma::new) {
            let text = violation(|| vma.alone(&mut || vma.alone(&mut || {})));
            assert!(text.contains("lock order"), "{text}");
            let text = violation(|| vma.together(&mut || vma.alone(&mut || {})));
            assert!(text.contains("lock order"), "{text}");
            let held = match vma.locks.pair().read() {
                ReadProtocol::Mm => "update lock 0x",
                ReadProtocol::Slot => "VMA read lock of the fault at 0x4000",
                _ => "VMA read lock in the VMA's lock 0x",
            };
            assert!(text.contains(held), "{text}");
        }
    }

    #[test]
    fn marking_again_what_one_has_marked_is_none() {
        for vma in Pair::all().map(Vma::new) {
            let twice = update(&vma.space, &vma.locks, &vma.counters, |txn| {
                for _ in 0..3 {
                    txn.mark(&vma.lock, PAGE..PAGE + 0x1000)?;
                    txn.settle()?;
                }
                Ok(())
            });
            assert_eq!(twice, Ok(()));
            assert_eq!(vma.counters.total(abi::Counter::VmaMarked), 1);
        }
    }
}
