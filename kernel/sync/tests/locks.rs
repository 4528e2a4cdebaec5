//! Spin lock, wait queue, fair lock, allocation and counters over host threads.
#![cfg(not(any(loom, shuttle)))]

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use abi::Counter;
use sync::alloc::{try_box, try_box_slice, try_push, try_vec_with_capacity};
use sync::testing::{Host, fail_allocation_after, interrupt, interrupts_on, on_cpu};
use sync::*;

fn in_ms(ms: u64) -> Option<u64> {
    Some(Host::now_ns() + ms * 1_000_000)
}

#[test]
fn spin_lock_excludes_and_restores_interrupts() {
    static LOCK: SpinLock<Host, u64> = spin_lock(Class::StreamIn, 0);
    thread::scope(|scope| {
        for cpu in 0..4 {
            scope.spawn(move || {
                on_cpu(CpuId(cpu), || {
                    for _ in 0..10_000 {
                        let mut value = LOCK.lock();
                        assert!(!interrupts_on());
                        *value += 1;
                    }
                    assert!(interrupts_on());
                });
            });
        }
    });
    assert_eq!(*LOCK.lock(), 40_000);

    let outer = LOCK.lock();
    let other: SpinLock<Host, ()> = spin_lock(Class::StreamOut, ());
    drop(other.lock());
    assert!(!interrupts_on(), "the inner lock must not turn on what the outer one turned off");
    assert!(LOCK.try_lock().is_none());
    assert!(!interrupts_on());
    drop(outer);
    assert!(interrupts_on());
    let guard = InterruptGuard::<Host>::new();
    assert!(!interrupts_on());
    drop(guard);
    assert!(interrupts_on());
}

#[test]
fn wait_ends_by_condition_deadline_or_interrupt() {
    static QUEUE: WaitQueue<Host> = WaitQueue::new();
    assert_eq!(QUEUE.wait_until(|| true, in_ms(0), Interruptible::Yes), Waited::Woken);
    assert_eq!(QUEUE.wait_until(|| false, in_ms(5), Interruptible::No), Waited::TimedOut);
    assert_eq!(QUEUE.wake_all(), 0, "who timed out is out of the queue");

    let (send, receive) = mpsc::channel();
    let sleeper = thread::spawn(move || {
        send.send(Host::current_thread()).unwrap();
        QUEUE.wait_until(|| false, None, Interruptible::Yes)
    });
    interrupt(receive.recv().unwrap());
    assert_eq!(sleeper.join().unwrap(), Waited::Interrupted);
    assert_eq!(QUEUE.wake_one(), 0);
}

#[test]
fn an_interrupted_thread_still_sleeps_uninterruptibly() {
    let queue = WaitQueue::<Host>::new();
    interrupt(Host::current_thread());
    assert_eq!(queue.wait_until(|| false, in_ms(5), Interruptible::No), Waited::TimedOut);
    assert_eq!(queue.wait_until(|| false, None, Interruptible::Yes), Waited::Interrupted);
}

/// A semaphore on a wait queue: every permit wakes one, timeouts throw wake-ups away, and yet none is lost.
#[test]
fn wake_one_loses_no_wake_up() {
    static QUEUE: WaitQueue<Host> = WaitQueue::new();
    static PERMITS: AtomicUsize = AtomicUsize::new(0);
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    const EACH: usize = 500;
    let take = || PERMITS.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
    thread::scope(|scope| {
        for id in 0..4 {
            scope.spawn(move || {
                let mut taken = 0;
                while taken < EACH {
                    let deadline = (id % 2 == 0).then(|| Host::now_ns() + 20_000);
                    if QUEUE.wait_until(take, deadline, Interruptible::No) == Waited::Woken {
                        taken += 1;
                        TAKEN.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for given in 0..4 * EACH {
            PERMITS.fetch_add(1, Ordering::SeqCst);
            QUEUE.wake_one();
            if given % 64 == 0 {
                // Let the queue fill up again.
                while TAKEN.load(Ordering::Relaxed) + 8 < given {
                    thread::yield_now();
                }
            }
        }
    });
    assert_eq!(TAKEN.load(Ordering::Relaxed), 4 * EACH);
}

#[test]
fn fair_lock_serves_in_order_of_arrival() {
    static LOCK: FairRwLock<Host> = FairRwLock::new(Class::Planted);
    static ORDER: std::sync::Mutex<Vec<usize>> = std::sync::Mutex::new(Vec::new());
    let held = LOCK.write();
    thread::scope(|scope| {
        for place in 0..5 {
            scope.spawn(move || {
                let _guard = LOCK.write();
                ORDER.lock().unwrap().push(place);
            });
            while LOCK.waiting() <= place {
                thread::yield_now();
            }
        }
        drop(held);
    });
    assert_eq!(*ORDER.lock().unwrap(), [0, 1, 2, 3, 4]);
}

#[test]
fn fair_lock_lets_readers_in_together_and_writers_alone() {
    static LOCK: FairRwLock<Host> = FairRwLock::new(Class::Planted);
    let (readers, writers) = (AtomicU64::new(0), AtomicU64::new(0));
    let begun = AtomicU64::new(0);
    thread::scope(|scope| {
        for id in 0..4 {
            let (readers, writers, begun) = (&readers, &writers, &begun);
            scope.spawn(move || {
                {
                    // All four are inside together: nobody writes before.
                    let _guard = LOCK.read();
                    begun.fetch_add(1, Ordering::SeqCst);
                    let deadline = in_ms(60_000).unwrap();
                    while begun.load(Ordering::SeqCst) < 4 {
                        assert!(Host::now_ns() < deadline, "a reader keeps readers out");
                        thread::yield_now();
                    }
                }
                for round in 0..2_000 {
                    if (round + id) % 4 == 0 {
                        let _guard = LOCK.write();
                        assert_eq!(writers.fetch_add(1, Ordering::SeqCst), 0);
                        assert_eq!(readers.load(Ordering::SeqCst), 0);
                        writers.fetch_sub(1, Ordering::SeqCst);
                    } else {
                        let _guard = LOCK.read();
                        readers.fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                        assert_eq!(writers.load(Ordering::SeqCst), 0);
                        readers.fetch_sub(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
}

#[test]
fn allocations_fail_by_value() {
    let ((first, second), failed) = fail_allocation_after(1, || (try_box(1), try_box(2)));
    assert_eq!(first.as_deref(), Ok(&1));
    assert_eq!(second, Err(AllocError));
    assert!(failed);
    let (list, failed) = fail_allocation_after(1, || {
        let mut list = try_vec_with_capacity(2)?;
        try_push(&mut list, 1)?;
        try_push(&mut list, 2)?;
        Ok::<_, AllocError>(list)
    });
    assert_eq!(list, Ok(vec![1, 2]), "room for two was asked for");
    assert!(!failed);
    assert!(fail_allocation_after(0, || try_push(&mut Vec::new(), 1).is_err()).0);
    assert!(fail_allocation_after(0, || Arc::try_new(1).is_err()).0);
    assert!(fail_allocation_after(0, || try_box_slice(3, |n| n).is_err()).0);
    assert_eq!(*try_box_slice(3, |n| n * n).unwrap(), [0, 1, 4]);
    assert_eq!(*try_box(()).unwrap(), ());
}

#[test]
fn arc_drops_its_value_once() {
    struct Dropped<'a>(&'a AtomicUsize);
    impl Drop for Dropped<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let drops = AtomicUsize::new(0);
    let first = Arc::try_new(Dropped(&drops)).ok().unwrap();
    let second = first.clone();
    assert!(Arc::ptr_eq(&first, &second));
    let raw = Arc::into_raw(first);
    drop(second);
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    // SAFETY: the pointer came from `into_raw`, once.
    drop(unsafe { Arc::from_raw(raw) });
    assert_eq!(drops.load(Ordering::Relaxed), 1);
}

#[test]
fn counters_count_for_each_cpu() {
    let counters = Counters::<Host>::new().unwrap();
    on_cpu(CpuId(1), || counters.bump(Counter::Fault));
    on_cpu(CpuId(2), || counters.add(Counter::Fault, 5));
    assert_eq!(counters.get(CpuId(0), Counter::Fault), 0);
    assert_eq!(counters.get(CpuId(1), Counter::Fault), 1);
    assert_eq!(counters.total(Counter::Fault), 6);
    assert_eq!(counters.total(Counter::Txn), 0);
}

#[test]
fn the_longest_is_kept_with_its_site() {
    use core::panic::Location;
    #[track_caller]
    fn site() -> &'static Location<'static> {
        Location::caller()
    }
    let counters = Counters::<Host>::new().unwrap();
    let kind = abi::Extreme::FaultWait;
    assert_eq!(counters.longest(kind), None);
    let (first, second, third) = (site(), site(), site());
    counters.note(kind, Longest { ns: 0, site: first });
    assert_eq!(counters.longest(kind), None, "what took no time");
    counters.note(kind, Longest { ns: 70, site: first });
    counters.note(kind, Longest { ns: 69, site: second });
    counters.note(kind, Longest { ns: 70, site: second });
    assert_eq!(counters.longest(kind), Some(Longest { ns: 70, site: first }), "the first of two that are as long");
    counters.note(kind, Longest { ns: 71, site: third });
    let longest = counters.longest(kind).unwrap();
    assert_eq!((longest.ns, longest.site.line(), longest.site.file()), (71, third.line(), file!()));
    assert_eq!(counters.longest(abi::Extreme::TxnWait), None, "each kind has its own");

    // A hold is measured by the platform's clock, and what began on a CPU whose clock is ahead took no time.
    while Host::now_ns() < 1000 {}
    let took = counters.took(abi::Extreme::TxnHold, Host::now_ns() - 1000, first);
    assert!(took >= 1000 && counters.longest(abi::Extreme::TxnHold).unwrap().ns == took);
    assert_eq!(counters.took(abi::Extreme::TxnHold, u64::MAX, second), 0);

    // Counts and the longest move into another block.
    let all = Counters::<Host>::new().unwrap();
    all.note(kind, Longest { ns: 100, site: second });
    counters.bump(Counter::Txn);
    all.absorb(&counters);
    assert_eq!((all.total(Counter::Txn), all.longest(kind).unwrap().site), (1, second));
    assert_eq!(all.longest(abi::Extreme::TxnHold).unwrap().ns, took);
}

#[test]
fn the_longest_of_several_threads_is_the_longest_of_all() {
    let counters = Counters::<Host>::new().unwrap();
    let kind = abi::Extreme::SettleWait;
    let site = core::panic::Location::caller();
    thread::scope(|scope| {
        for cpu in 0..4u64 {
            let counters = &counters;
            let note = move || (0..5000).for_each(|n| counters.note(kind, Longest { ns: 1 + 4 * n + cpu, site }));
            scope.spawn(move || on_cpu(CpuId(cpu as u32), note));
        }
    });
    assert_eq!(counters.longest(kind).unwrap().ns, 1 + 4 * 4999 + 3);
}

#[test]
fn a_waiter_for_the_fair_lock_knows_since_when_it_waited() {
    let lock = FairRwLock::<Host>::new(Class::Update);
    let free = lock.write();
    assert_eq!(free.waited_since_ns(), None);
    let before = Host::now_ns();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| on_cpu(CpuId(1), || lock.read().waited_since_ns()));
        while lock.waiting() == 0 {
            thread::yield_now();
        }
        drop(free);
        let since = waiter.join().unwrap().expect("it waited");
        assert!(since >= before && since <= Host::now_ns());
    });
}
