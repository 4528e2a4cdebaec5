//! Models of the spin lock, the wait queue, the fair lock and `Arc`.
#![cfg(loom)]

mod model;

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use model::{explore, spawn};
use sync::testing::{Host, interrupt};
use sync::{Class, FairRwLock, Interruptible, Platform, SpinLock, WaitQueue, Waited, spin_lock};

/// A plain word: loom reports any two accesses to it that are not ordered.
struct Plain(UnsafeCell<usize>);

// SAFETY: loom checks every access.
unsafe impl Send for Plain {}
// SAFETY: as above.
unsafe impl Sync for Plain {}

impl Plain {
    fn new() -> Plain {
        Plain(UnsafeCell::new(0))
    }

    fn add(&self) {
        // SAFETY: loom checks that nobody else is in here.
        self.0.with_mut(|value| unsafe { *value += 1 });
    }

    fn get(&self) -> usize {
        // SAFETY: loom checks that nobody writes.
        self.0.with(|value| unsafe { *value })
    }
}

#[test]
fn spin_lock_orders_its_critical_sections() {
    explore("spin", 3, || {
        let lock: Arc<SpinLock<Host, Plain>> = Arc::new(spin_lock(Class::StreamIn, Plain::new()));
        let threads: Vec<_> = (0..2)
            .map(|cpu| {
                let lock = lock.clone();
                spawn(cpu, move || lock.lock().add())
            })
            .collect();
        if let Some(plain) = lock.try_lock() {
            plain.add();
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!((2..=3).contains(&lock.lock().get()));
    });
}

#[test]
fn a_waiter_sees_the_condition_or_the_waker_sees_the_waiter() {
    explore("wait", 3, || {
        let shared = Arc::new((WaitQueue::<Host>::new(), AtomicUsize::new(0)));
        let waker = {
            let shared = shared.clone();
            spawn(1, move || {
                shared.1.store(1, Ordering::Relaxed);
                shared.0.wake_all();
            })
        };
        let condition = || shared.1.load(Ordering::Relaxed) == 1;
        assert_eq!(shared.0.wait_until(condition, None, Interruptible::No), Waited::Woken);
        waker.join().unwrap();
    });
}

/// One permit; whoever has had it passes it on. The first waiter may give up at its deadline: the wake-up that was meant for it
/// must reach the second.
#[test]
fn a_wake_up_for_one_who_gives_up_goes_to_the_next() {
    explore("wake_one", 3, || {
        let shared = Arc::new((WaitQueue::<Host>::new(), AtomicUsize::new(0)));
        let take = |permits: &AtomicUsize| permits.compare_exchange(1, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let waiters: Vec<_> = [Some(1), None]
            .into_iter()
            .zip(0..)
            .map(|(deadline, cpu)| {
                let shared = shared.clone();
                spawn(cpu, move || {
                    let (queue, permits) = &*shared;
                    let why = queue.wait_until(|| take(permits), deadline, Interruptible::No);
                    assert!(why == Waited::Woken || deadline.is_some());
                    if why == Waited::Woken {
                        permits.store(1, Ordering::Relaxed);
                        queue.wake_one();
                    }
                })
            })
            .collect();
        shared.1.store(1, Ordering::Relaxed);
        shared.0.wake_one();
        waiters.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn an_interrupt_ends_a_wait_whenever_it_comes() {
    explore("interrupt", 3, || {
        let queue = Arc::new(WaitQueue::<Host>::new());
        let thread = Host::current_thread();
        let killer = spawn(1, move || interrupt(thread));
        assert_eq!(queue.wait_until(|| false, None, Interruptible::Yes), Waited::Interrupted);
        killer.join().unwrap();
        assert_eq!(queue.wake_one(), 0);
    });
}

#[test]
fn fair_lock_orders_writers_and_readers() {
    explore("fair", 3, || {
        let shared = Arc::new((FairRwLock::<Host>::new(Class::Planted), Plain::new()));
        let writers: Vec<_> = (1..3)
            .map(|cpu| {
                let shared = shared.clone();
                spawn(cpu, move || {
                    let _guard = shared.0.write();
                    shared.1.add();
                })
            })
            .collect();
        {
            let _guard = shared.0.read();
            assert!(shared.1.get() <= 2);
        }
        writers.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(shared.1.get(), 2);
    });
}

/// Each owner writes a word of its own, unordered with the others'; the drop reads them all.
#[test]
fn the_last_owner_sees_what_all_others_did() {
    struct Shared([Plain; 2]);
    impl Drop for Shared {
        fn drop(&mut self) {
            assert_eq!(self.0[0].get() + self.0[1].get(), 2);
        }
    }
    explore("arc", 3, || {
        let first = sync::Arc::try_new(Shared([Plain::new(), Plain::new()])).ok().unwrap();
        let second = first.clone();
        let other = spawn(1, move || second.0[1].add());
        first.0[0].add();
        drop(first);
        other.join().unwrap();
    });
}
