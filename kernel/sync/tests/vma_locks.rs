//! VMA locks and transactions over host threads.
#![cfg(not(any(loom, shuttle)))]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use abi::{Counter, Errno, Pair, ReadProtocol};
use sync::testing::{Host, at_point, on_cpu, run_seed, shaken, unchecked};
use sync::*;

struct World {
    space: UpdateLock<Host>,
    locks: VmaLocks<Host>,
    counters: Counters<Host>,
}

impl World {
    fn new() -> World {
        World::of(Pair::DEFAULT)
    }

    fn of(pair: Pair) -> World {
        World { space: UpdateLock::new(), locks: VmaLocks::new(pair).unwrap(), counters: Counters::new().unwrap() }
    }

    fn update<T>(&self, body: impl FnMut(&mut Txn<'_, Host>) -> Result<T, Abort>) -> Result<T, Errno> {
        update(&self.space, &self.locks, &self.counters, body)
    }

    fn read(&self, lock: &VmaLock, addr: u64) -> Result<(), ReadRefused> {
        let _irq = InterruptGuard::<Host>::new();
        let section = self.locks.enter(addr).expect("the slot is free");
        lock.read(&section, &self.locks, &self.counters).map(drop)
    }
}

/// The pairs under which faults lock VMAs.
fn pairs() -> impl Iterator<Item = Pair> {
    Pair::all().filter(|pair| pair.read() != ReadProtocol::Mm)
}

#[test]
fn the_end_of_a_transaction_unlocks_all_that_it_marked() {
    pairs().for_each(end_unlocks_all);
}

fn end_unlocks_all(pair: Pair) {
    let world = World::of(pair);
    world.space.join(CpuId(0));
    let locks = world.update(|txn| Ok([txn.new_lock(), txn.new_lock(), txn.new_lock()])).unwrap();
    let [first, second, third] = &locks;
    assert_eq!(world.read(first, 0x1000), Ok(()));
    assert_eq!(world.counters.total(Counter::MarkCleared), 1, "the maker's mark was cleared");
    assert_eq!(world.read(first, 0x1000), Ok(()));
    assert_eq!(world.counters.total(Counter::MarkCleared), 1, "once");
    world
        .update(|txn| {
            txn.mark(first, 0x1000..0x2000)?;
            txn.mark(first, 0x1000..0x2000)?;
            txn.mark(second, 0x5000..0x6000)?;
            let settled = txn.settle()?;
            assert_eq!(world.read(first, 0x1000), Err(ReadRefused::Marked(txn.own_mark())));
            assert_eq!(world.read(second, 0x5000), Err(ReadRefused::Marked(txn.own_mark())));
            assert_eq!(world.read(third, 0x8000), Ok(()));
            assert_eq!(first.locked_by(&world.locks.cells), Some(txn.own_mark()));
            txn.detach(&settled, second);
            Ok(())
        })
        .unwrap();
    assert_eq!(world.counters.total(Counter::VmaMarked), 2);
    assert_eq!(world.read(first, 0x1000), Ok(()));
    assert_eq!(world.read(second, 0x5000), Err(ReadRefused::Detached));
    assert!(second.is_detached());
    assert_eq!(first.locked_by(&world.locks.cells), None);
}

#[test]
fn errors_end_the_transaction_and_restarts_run_it_again() {
    let world = World::new();
    let lock = world.update(|txn| Ok(txn.new_lock())).unwrap();
    let mut rounds = 0;
    let result: Result<(), Errno> = world.update(|txn| {
        txn.mark(&lock, 0..0x1000)?;
        rounds += 1;
        Err(if rounds < 3 { Abort::Again } else { Errno::ENOMEM.into() })
    });
    assert_eq!((result, rounds), (Err(Errno::ENOMEM), 3));
    assert_eq!(world.counters.total(Counter::TxnAgain), 2);
    assert_eq!(world.counters.total(Counter::VmaMarked), 1, "marks are kept");
    assert_eq!(world.counters.total(Counter::Txn), 2);
    assert_eq!(world.read(&lock, 0), Ok(()));
}

#[test]
fn a_fault_inside_a_fault_gets_no_section() {
    let _two_cpus = unchecked();
    let world = World::new();
    for page in [0, 0x1234_5000] {
        let section = world.locks.enter(page + 0x123);
        assert!(section.is_some());
        assert!(world.locks.enter(page).is_none());
        assert!(on_cpu(CpuId(1), || world.locks.enter(page).is_some()));
        drop(section);
        assert!(world.locks.enter(page).is_some());
    }
}

#[test]
fn settling_waits_for_faults_in_the_marked_ranges_only() {
    let _two_cpus = unchecked();
    let world = World::new();
    world.space.join(CpuId(1));
    let lock = world.update(|txn| Ok(txn.new_lock())).unwrap();
    let elsewhere = on_cpu(CpuId(1), || world.locks.enter(0x9000)).unwrap();
    let mark = |txn: &mut Txn<'_, Host>| {
        txn.mark(&lock, 0x1000..0x3000)?;
        txn.settle()?;
        Ok(())
    };
    world.update(mark).unwrap();
    assert_eq!(world.counters.total(Counter::SettleWait), 0);
    drop(elsewhere);

    let inside = AtomicBool::new(true);
    let section = on_cpu(CpuId(1), || world.locks.enter(0x2000)).unwrap();
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            at_point("settle-waiting", move || send.send(()).unwrap(), || world.update(mark)).unwrap();
            assert!(!inside.load(Ordering::SeqCst), "settled over a fault");
        });
        receive.recv().unwrap();
        inside.store(false, Ordering::SeqCst);
        drop(section);
    });
    assert_eq!(world.counters.total(Counter::SettleWait), 1);

    // A CPU that left the address space is not looked at.
    let _section = on_cpu(CpuId(1), || world.locks.enter(0x2000)).unwrap();
    world.space.leave(CpuId(1));
    assert!(world.space.cpus().is_empty());
    world.update(mark).unwrap();
}

#[test]
fn who_meets_a_mark_sleeps_until_the_end() {
    let world = World::new();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let mark = world
            .update(|txn| {
                let mark = txn.own_mark();
                let (world, ended) = (&world, &ended);
                scope.spawn(move || {
                    world.locks.wait_for_end(mark, 0);
                    assert!(ended.load(Ordering::SeqCst), "woken before the end");
                });
                thread::sleep(std::time::Duration::from_millis(20));
                ended.store(true, Ordering::SeqCst);
                Ok(mark)
            })
            .unwrap();
        world.locks.wait_for_end(mark, 0);
    });
}

/// A "VMA" whose body must never be seen half written: writers change it in place under the lock on even rounds, and replace it
/// on odd ones.
#[repr(C)]
struct Vma {
    head: RcuHead,
    lock: VmaLock,
    left: AtomicU64,
    right: AtomicU64,
}

/// # Safety
/// `head` is a boxed `Vma`'s.
unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: `head` is the first field of a boxed `Vma`.
    drop(unsafe { Box::from_raw(head.cast::<Vma>().as_ptr()) });
}

#[test]
fn faults_never_see_a_vma_in_the_middle_of_a_change() {
    pairs().for_each(changes_beside_faults);
}

fn changes_beside_faults(pair: Pair) {
    const FAULTERS: u32 = 5;
    const WRITERS: u32 = 2;
    let seed = run_seed();
    let world = World::of(pair);
    let rcu = Rcu::<Host>::new();
    let current = AtomicPtr::new(std::ptr::null_mut());
    let (served, stop) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let make = |txn: &Txn<'_, Host>, value: u64| {
        Box::into_raw(Box::new(Vma {
            head: RcuHead::new(),
            lock: txn.new_lock(),
            left: AtomicU64::new(value),
            right: AtomicU64::new(value),
        }))
    };
    world
        .update(|txn| {
            current.store(make(txn, 0), Ordering::Release);
            Ok(())
        })
        .unwrap();
    for cpu in 0..FAULTERS + WRITERS {
        rcu.online(CpuId(cpu));
        world.space.join(CpuId(cpu));
    }
    let fault = || {
        let irq = InterruptGuard::<Host>::new();
        let guard = rcu.read();
        let section = world.locks.enter(0x4000).unwrap();
        // SAFETY: read inside a read section.
        let vma: &Vma = unsafe { &*current.load(Ordering::Acquire) };
        let answer = vma.lock.read(&section, &world.locks, &world.counters);
        let refused = answer.as_ref().err().copied();
        if answer.is_ok() {
            let left = vma.left.load(Ordering::Relaxed);
            thread::yield_now();
            assert_eq!(left, vma.right.load(Ordering::Relaxed), "a fault inside a locked VMA");
            assert!(!vma.lock.is_detached());
            served.fetch_add(1, Ordering::Relaxed);
        }
        drop((answer, section, guard, irq));
        if let Some(ReadRefused::Marked(mark)) = refused {
            rcu.quiescent();
            world.locks.wait_for_end(mark, 0);
        }
        rcu.quiescent();
        rcu.poll();
    };
    let write = |round: u64| {
        world
            .update(|txn| {
                let guard = rcu.read();
                let old = current.load(Ordering::Acquire);
                // SAFETY: read inside a read section; after that marked, and found again.
                let vma = unsafe { &*old };
                txn.mark(&vma.lock, 0x4000..0x5000)?;
                drop(guard);
                let settled = txn.settle()?;
                if current.load(Ordering::Acquire) != old || !txn.has_marked(&vma.lock) {
                    return Err(Abort::Again);
                }
                if round.is_multiple_of(2) {
                    vma.left.store(round, Ordering::Relaxed);
                    thread::yield_now();
                    vma.right.store(round, Ordering::Relaxed);
                } else {
                    current.store(make(txn, round), Ordering::Release);
                    txn.detach(&settled, &vma.lock);
                    // SAFETY: unlinked; deferred once.
                    unsafe { rcu.defer(NonNull::new(old).unwrap().cast(), free) };
                }
                Ok(())
            })
            .unwrap();
        rcu.quiescent();
        rcu.poll();
    };
    thread::scope(|scope| {
        let (fault, write, stop, rcu, served) = (&fault, &write, &stop, &rcu, &served);
        for cpu in 0..FAULTERS {
            scope.spawn(move || {
                on_cpu(CpuId(cpu), || {
                    let rounds = || {
                        while stop.load(Ordering::Relaxed) < WRITERS as usize {
                            fault();
                        }
                    };
                    shaken(seed, cpu.into(), rounds);
                    rcu.idle_enter();
                })
            });
        }
        for cpu in FAULTERS..FAULTERS + WRITERS {
            scope.spawn(move || {
                on_cpu(CpuId(cpu), || {
                    let rounds = || {
                        (0..500).for_each(write);
                        // On a busy host all this may have been over before any fault began.
                        let patience = Host::now_ns() + 60_000_000_000;
                        (500..)
                            .take_while(|_| served.load(Ordering::Relaxed) == 0 && Host::now_ns() < patience)
                            .for_each(write);
                    };
                    shaken(seed, cpu.into(), rounds);
                    rcu.idle_enter();
                    stop.fetch_add(1, Ordering::Relaxed);
                })
            });
        }
    });
    assert!(served.load(Ordering::Relaxed) > 0);
    rcu.online(CpuId(0));
    rcu.barrier();
    // SAFETY: all threads have ended.
    drop(unsafe { Box::from_raw(current.load(Ordering::Acquire)) });
}
