//! Models of the futex table: user words are Relaxed atomics, so only the table orders anything.
#![cfg(loom)]

mod model;

use std::sync::Arc;

use abi::Errno;
use loom::sync::atomic::{AtomicUsize, Ordering};
use model::{explore, spawn};
use sync::testing::Host;
use sync::{FutexKey, FutexTable};

const ANY: u32 = u32::MAX;

/// Keys of different buckets.
fn keys() -> (FutexKey, FutexKey) {
    let key = |addr| FutexKey { space: 1, addr };
    let from = key(0x1000);
    let other = (1..64).map(|n| key(0x1000 + 4 * n)).find(|to| to.bucket() != from.bucket());
    (from, other.unwrap())
}

#[test]
fn a_wake_after_the_change_misses_nobody() {
    explore("futex", 3, || {
        let shared = Arc::new((FutexTable::<Host>::new(), AtomicUsize::new(0)));
        let waker = {
            let shared = shared.clone();
            spawn(1, move || {
                shared.1.store(1, Ordering::Relaxed);
                shared.0.wake(keys().0, 1, ANY);
            })
        };
        let same = || Ok(shared.1.load(Ordering::Relaxed) == 0);
        let result = shared.0.wait(keys().0, ANY, None, same);
        assert!(matches!(result, Ok(()) | Err(Errno::EAGAIN)), "{result:?}");
        waker.join().unwrap();
    });
}

/// Two waiters and two signals of a counting condition variable, the second waiter having seen the first signal: the second
/// signal may not be spent on the first waiter if that one is turned away.
#[test]
fn a_wake_is_not_spent_on_who_will_not_sleep() {
    explore("futex two", 3, || {
        let shared = Arc::new((FutexTable::<Host>::new(), AtomicUsize::new(0)));
        let waiters: Vec<_> = (0..2)
            .map(|seen| {
                let shared = shared.clone();
                spawn(seen, move || {
                    let same = || Ok(shared.1.load(Ordering::Relaxed) == seen as usize);
                    let _ = shared.0.wait(keys().0, ANY, None, same);
                })
            })
            .collect();
        for _ in 0..2 {
            shared.1.fetch_add(1, Ordering::Relaxed);
            shared.0.wake(keys().0, 1, ANY);
        }
        waiters.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_moved_waiter_is_found_where_it_went() {
    explore("requeue", 3, || {
        let shared = Arc::new((FutexTable::<Host>::new(), AtomicUsize::new(0)));
        let (from, to) = keys();
        let mover = {
            let shared = shared.clone();
            spawn(1, move || {
                shared.1.store(1, Ordering::Relaxed);
                let moved = shared.0.requeue(from, to, 0, 1);
                assert_eq!(shared.0.wake(to, 1, ANY), moved);
            })
        };
        let same = || Ok(shared.1.load(Ordering::Relaxed) == 0);
        let _ = shared.0.wait(from, ANY, None, same);
        mover.join().unwrap();
    });
}

#[test]
fn a_deadline_finds_its_waiter_in_any_bucket() {
    explore("requeue deadline", 3, || {
        let table = Arc::new(FutexTable::<Host>::new());
        let (from, to) = keys();
        let mover = {
            let table = table.clone();
            spawn(1, move || table.requeue(from, to, 0, 1))
        };
        assert_eq!(table.wait(from, ANY, Some(1), || Ok(true)), Err(Errno::ETIMEDOUT));
        mover.join().unwrap();
        assert_eq!(table.wake(from, 9, ANY) + table.wake(to, 9, ANY), 0);
    });
}
