//! Wait queues and the futex table under storms, with real sleeping and real interrupts.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::Errno;
use abi::flags::futex::BITSET_MATCH_ANY;
use kernel::ktest;
use kernel::ktest::{on_all_cpus, share};
use kernel::platform::Machine;
use linux::System;
use sync::{FutexKey, Interruptible, Platform, WaitQueue, Waited};

ktest! {
    /// Every CPU takes and gives one of few permits, thousands of times: a lost wake-up leaves a sleeper for ever.
    fn wait_queue_hands_permits_round() {
        static QUEUE: WaitQueue<Machine> = WaitQueue::new();
        static PERMITS: AtomicU32 = AtomicU32::new(1);
        static TAKEN: AtomicU64 = AtomicU64::new(0);
        TAKEN.store(0, Ordering::Relaxed);
        fn rounds() -> u64 {
            share(20_000, 5000)
        }
        on_all_cpus(|_| {
            for _ in 0..rounds() {
                let one_less = |left: u32| left.checked_sub(1);
                let take = || PERMITS.try_update(Ordering::Acquire, Ordering::Relaxed, one_less).is_ok();
                assert_eq!(QUEUE.wait_until(take, None, Interruptible::No), Waited::Woken);
                TAKEN.fetch_add(1, Ordering::Relaxed);
                // Long enough for the others to come and sleep.
                for _ in 0..50 {
                    Machine::relax();
                }
                PERMITS.fetch_add(1, Ordering::Release);
                QUEUE.wake_one();
            }
        });
        assert_eq!(TAKEN.load(Ordering::Relaxed), rounds() * Machine::cpu_count() as u64);
        assert_eq!(PERMITS.load(Ordering::Relaxed), 1);
    }
}

ktest! {
    fn a_wait_that_nobody_ends_times_out() {
        static QUEUE: WaitQueue<Machine> = WaitQueue::new();
        on_all_cpus(|_| {
            for _ in 0..5 {
                let until = Machine::now_ns() + 1_500_000;
                assert_eq!(QUEUE.wait_until(|| false, Some(until), Interruptible::Yes), Waited::TimedOut);
                assert!(Machine::now_ns() >= until);
            }
        });
    }
}

/// A word outside any program: the table only uses its address as a name.
static WORD: AtomicU32 = AtomicU32::new(0);

fn key() -> FutexKey {
    FutexKey { space: u64::MAX, addr: (&raw const WORD).addr() as u64 }
}

fn wait(expected: u32, deadline_ns: Option<u64>) -> Result<(), Errno> {
    let check = || Ok(WORD.load(Ordering::Acquire) == expected);
    Machine::futexes().wait(key(), BITSET_MATCH_ANY, deadline_ns, check)
}

ktest! {
    /// The classic three-state mutex over a futex, fought for by all CPUs.
    fn futex_mutex_excludes_and_wakes() {
        static COUNT: AtomicU64 = AtomicU64::new(0);

        fn rounds() -> u64 {
            share(40_000, 5000)
        }

        fn lock() {
            if WORD.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
            while WORD.swap(2, Ordering::Acquire) != 0 {
                match wait(2, None) {
                    Ok(()) | Err(Errno::EAGAIN) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        }

        fn unlock() {
            if WORD.swap(0, Ordering::Release) == 2 {
                Machine::futexes().wake(key(), 1, BITSET_MATCH_ANY);
            }
        }

        WORD.store(0, Ordering::Relaxed);
        COUNT.store(0, Ordering::Relaxed);
        on_all_cpus(|_| {
            for round in 0..rounds() {
                lock();
                // Not atomic as a whole: only the lock makes it right.
                let seen = COUNT.load(Ordering::Relaxed);
                for _ in 0..round % 64 {
                    Machine::relax();
                }
                COUNT.store(seen + 1, Ordering::Relaxed);
                unlock();
            }
        });
        assert_eq!(COUNT.load(Ordering::Relaxed), rounds() * Machine::cpu_count() as u64);
    }
}

ktest! {
    fn futex_waits_end_by_deadline_and_by_change() {
        WORD.store(5, Ordering::Relaxed);
        assert_eq!(wait(4, None), Err(Errno::EAGAIN));
        let until = Machine::now_ns() + 2_000_000;
        assert_eq!(wait(5, Some(until)), Err(Errno::ETIMEDOUT));
        assert!(Machine::now_ns() >= until);
        assert_eq!(Machine::futexes().wake(key(), 1, BITSET_MATCH_ANY), 0);
    }
}
