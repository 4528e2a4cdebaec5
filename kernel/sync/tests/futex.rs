//! The futex table over host threads.
#![cfg(not(any(loom, shuttle)))]

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use abi::Errno;
use sync::testing::{Host, interrupt, run_seed, shaken};
use sync::{FutexKey, FutexTable, Platform};

const ANY: u32 = u32::MAX;

fn key(addr: u64) -> FutexKey {
    FutexKey { space: 7, addr }
}

/// Two keys of one bucket or of two, whatever the hash: tests run both ways.
fn targets() -> [u64; 3] {
    [0x2000, 0x1004, 0x7777_0000]
}

#[test]
fn wait_looks_at_the_word_first() {
    let table = FutexTable::<Host>::new();
    assert_eq!(table.wait(key(0x1000), ANY, None, || Ok(false)), Err(Errno::EAGAIN));
    assert_eq!(table.wait(key(0x1000), ANY, None, || Err(Errno::EFAULT)), Err(Errno::EFAULT));
    let deadline = Host::now_ns() + 5_000_000;
    assert_eq!(table.wait(key(0x1000), ANY, Some(deadline), || Ok(true)), Err(Errno::ETIMEDOUT));
    assert!(Host::now_ns() >= deadline);
    assert_eq!(table.wake(key(0x1000), 1, ANY), 0, "who timed out is out of the queue");
}

#[test]
fn an_interrupt_ends_the_wait() {
    static TABLE: FutexTable<Host> = FutexTable::new();
    let (send, receive) = mpsc::channel();
    let sleeper = thread::spawn(move || {
        send.send(Host::current_thread()).unwrap();
        TABLE.wait(key(0x1000), ANY, None, || Ok(true))
    });
    interrupt(receive.recv().unwrap());
    assert_eq!(sleeper.join().unwrap(), Err(Errno::EINTR));
    assert_eq!(TABLE.wake(key(0x1000), 1, ANY), 0);
}

/// Starts a sleeper on `key(addr)` for each bitset, and waits until all sleep.
fn sleepers<'s>(
    scope: &'s thread::Scope<'s, '_>,
    table: &'static FutexTable<Host>,
    addr: u64,
    bitsets: &'static [u32],
    woken: &'static AtomicUsize,
) {
    for &bitset in bitsets {
        let before = table.sleeping(key(addr));
        scope.spawn(move || {
            assert_eq!(table.wait(key(addr), bitset, None, || Ok(true)), Ok(()));
            woken.fetch_add(1, Ordering::SeqCst);
        });
        while table.sleeping(key(addr)) == before {
            thread::yield_now();
        }
    }
}

#[test]
fn wake_counts_and_chooses_by_bitset_and_key() {
    static TABLE: FutexTable<Host> = FutexTable::new();
    static WOKEN: AtomicUsize = AtomicUsize::new(0);
    thread::scope(|scope| {
        sleepers(scope, &TABLE, 0x1000, &[0b01, 0b10, 0b11], &WOKEN);
        assert_eq!(TABLE.wake(key(0x1004), 9, ANY), 0);
        assert_eq!(TABLE.wake(FutexKey { space: 8, addr: 0x1000 }, 9, ANY), 0);
        assert_eq!(TABLE.wake(key(0x1000), 9, 0b100), 0);
        assert_eq!(TABLE.wake(key(0x1000), 9, 0b10), 2);
        assert_eq!(TABLE.wake(key(0x1000), 9, ANY), 1);
    });
    assert_eq!(WOKEN.load(Ordering::SeqCst), 3);
}

#[test]
fn requeue_wakes_some_and_moves_others() {
    for to in targets() {
        let table: &'static FutexTable<Host> = Box::leak(Box::new(FutexTable::new()));
        let woken: &'static AtomicUsize = Box::leak(Box::default());
        thread::scope(|scope| {
            sleepers(scope, table, 0x1000, &[ANY; 4], woken);
            assert_eq!(table.requeue(key(0x1000), key(to), 1, 2), 3);
            assert_eq!(table.wake(key(0x1000), 9, ANY), 1);
            assert_eq!(table.wake(key(to), 1, ANY), 1);
            assert_eq!(table.wake(key(to), 9, ANY), 1);
        });
        assert_eq!(woken.load(Ordering::SeqCst), 4);
    }
}

/// A mutex as user programs make it (0 free, 1 held, 2 held with waiters), hammered from all sides; a wake-up lost is a
/// test that never ends.
#[test]
fn a_futex_mutex_excludes_and_never_hangs() {
    static TABLE: FutexTable<Host> = FutexTable::new();
    static WORD: AtomicU32 = AtomicU32::new(0);
    static INSIDE: AtomicUsize = AtomicUsize::new(0);
    fn lock() {
        if WORD.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return;
        }
        while WORD.swap(2, Ordering::Acquire) != 0 {
            let result = TABLE.wait(key(0x1000), ANY, None, || Ok(WORD.load(Ordering::Relaxed) == 2));
            assert!(matches!(result, Ok(()) | Err(Errno::EAGAIN)));
        }
    }
    fn unlock() {
        if WORD.swap(0, Ordering::Release) == 2 {
            TABLE.wake(key(0x1000), 1, ANY);
        }
    }
    fn rounds() {
        for round in 0..2_000 {
            lock();
            assert_eq!(INSIDE.fetch_add(1, Ordering::Relaxed), 0);
            if round % 8 == 0 {
                thread::yield_now();
            }
            INSIDE.fetch_sub(1, Ordering::Relaxed);
            unlock();
        }
    }
    let seed = run_seed();
    thread::scope(|scope| {
        for index in 0..4 {
            scope.spawn(move || shaken(seed, index, rounds));
        }
    });
}
