//! Futexes without a library around them: values, time limits, counts, bit sets, requeueing, and wake-ups that must not
//! get lost.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};
use user::must;
use user::raw::{self, Answer};

fn main() {
    values();
    time_limits();
    counts();
    bit_sets();
    requeue();
    ping_pong();
    lock();
}

/// One futex call. `value2` is the time limit's address or the second count.
fn futex(word: &AtomicU32, operation: i32, value: u32, value2: usize, word2: &AtomicU32, value3: u32) -> Answer {
    let operation = (operation | libc::FUTEX_PRIVATE_FLAG) as usize;
    let args = [address(word), operation, value as usize, value2, address(word2), value3 as usize];
    // SAFETY: both words outlive the call, and the kernel only reads them (or compares and swaps, on atomics).
    unsafe { raw::call(libc::SYS_futex, args) }
}

fn address(word: &AtomicU32) -> usize {
    word.as_ptr() as usize
}

fn wait(word: &AtomicU32, value: u32) -> Answer {
    futex(word, libc::FUTEX_WAIT, value, 0, word, 0)
}

fn wake(word: &AtomicU32, count: u32) -> usize {
    text_or(futex(word, libc::FUTEX_WAKE, count, 0, word, 0))
}

fn text_or(answer: Answer) -> usize {
    answer.unwrap_or_else(|errno| user::wrong(format_args!("futex failed: {errno}")))
}

fn text(answer: Answer) -> String {
    answer.map_or_else(|errno| errno.to_string(), |value| value.to_string())
}

fn values() {
    let word = AtomicU32::new(7);
    println!("wait for another value: {}", text(wait(&word, 8)));
    println!("wake nobody: {}", wake(&word, 1));
    println!("bit set of nothing: {}", text(futex(&word, libc::FUTEX_WAIT_BITSET, 7, 0, &word, 0)));
    println!("wake a bit set of nothing: {}", text(futex(&word, libc::FUTEX_WAKE_BITSET, 1, 0, &word, 0)));
}

fn time_limits() {
    let word = AtomicU32::new(0);
    let limit = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    let begin = Instant::now();
    let answer = futex(&word, libc::FUTEX_WAIT, 0, &raw const limit as usize, &word, 0);
    println!("relative limit: {}, long enough {}", text(answer), begin.elapsed() >= Duration::from_millis(20));
    let past = libc::timespec { tv_sec: 0, tv_nsec: 1 };
    let answer = futex(&word, libc::FUTEX_WAIT_BITSET, 0, &raw const past as usize, &word, u32::MAX);
    println!("absolute limit in the past: {}", text(answer));
}

/// Starts `count` threads that each wait until `word` is not 0, runs `then`, and joins them.
fn with_sleepers(count: u32, word: &AtomicU32, bits: impl Fn(u32) -> u32 + Sync, then: impl FnOnce(&AtomicU32)) {
    let awake = AtomicU32::new(0);
    thread::scope(|scope| {
        for number in 0..count {
            let (awake, bits) = (&awake, &bits);
            scope.spawn(move || {
                while word.load(SeqCst) == 0 {
                    let answer = futex(word, libc::FUTEX_WAIT_BITSET, 0, 0, word, bits(number));
                    if answer.is_ok() {
                        awake.fetch_add(1, SeqCst);
                    }
                }
            });
        }
        then(&awake);
        word.store(1, SeqCst);
        wake(word, i32::MAX as u32);
    });
}

/// Wakes until `count` sleepers were counted: threads that are on their way to sleep must be waited for.
fn wake_exactly(count: u32, mut one: impl FnMut() -> usize) {
    let mut woken = 0;
    while woken < count {
        let now = one() as u32;
        must!(now <= 1, "one wake-up woke {now}");
        woken += now;
        if now == 0 {
            thread::yield_now();
        }
    }
}

fn counts() {
    let word = AtomicU32::new(0);
    with_sleepers(
        4,
        &word,
        |_| u32::MAX,
        |awake| {
            wake_exactly(6, || wake(&word, 1));
            while awake.load(SeqCst) < 6 {
                thread::yield_now();
            }
            println!("six wake-ups woke {}", awake.load(SeqCst));
        },
    );
}

fn bit_sets() {
    let word = AtomicU32::new(0);
    with_sleepers(
        4,
        &word,
        |number| 1 << number,
        |awake| {
            wake_exactly(3, || text_or(futex(&word, libc::FUTEX_WAKE_BITSET, 1, 0, &word, 0b100)));
            while awake.load(SeqCst) < 3 {
                thread::yield_now();
            }
            println!("bit sets: {} woken", awake.load(SeqCst));
            let nobody = text_or(futex(&word, libc::FUTEX_WAKE_BITSET, i32::MAX as u32, 0, &word, 0b1_0000));
            println!("bit sets: a bit without sleepers woke {nobody}");
        },
    );
}

fn requeue() {
    let (from, to) = (AtomicU32::new(0), AtomicU32::new(0));
    let woken = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let answer = wait(&from, 0);
                must!(answer.is_ok(), "a requeued sleeper ended with {}", text(answer));
                woken.fetch_add(1, SeqCst);
            });
        }
        let changed = futex(&from, libc::FUTEX_CMP_REQUEUE, 0, 4, &to, 99);
        println!("compare and requeue, other value: {}", text(changed));
        let mut moved = 0;
        while moved < 4 {
            moved += text_or(futex(&from, libc::FUTEX_CMP_REQUEUE, 0, 4 - moved, &to, 0));
            thread::yield_now();
        }
        println!("requeued {moved}; waking at the old place wakes {}", wake(&from, 4));
        println!("waking at the new place wakes {}", wake(&to, 3) + wake(&to, 3));
    });
    println!("woken {}", woken.into_inner());
}

/// Two threads that hand one word back and forth: each lost wake-up is a hang.
fn ping_pong() {
    const TURNS: u32 = 5000;
    let ball = AtomicU32::new(0);
    let player = |mine: u32| {
        for turn in (mine..TURNS).step_by(2) {
            loop {
                let now = ball.load(SeqCst);
                if now == turn {
                    break;
                }
                let _ = wait(&ball, now);
            }
            ball.store(turn + 1, SeqCst);
            wake(&ball, 1);
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| player(0));
        scope.spawn(|| player(1));
    });
    println!("ping-pong: {} turns", ball.into_inner());
}

/// The three-state lock of Drepper's "Futexes are tricky", eight threads.
fn lock() {
    let (word, count) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    let mut state = word.compare_exchange(0, 1, SeqCst, SeqCst).unwrap_or_else(|old| old);
                    while state != 0 {
                        if state == 2 || word.compare_exchange(1, 2, SeqCst, SeqCst) != Err(0) {
                            let _ = wait(&word, 2);
                        }
                        state = word.compare_exchange(0, 2, SeqCst, SeqCst).unwrap_or_else(|old| old);
                    }
                    // Not one step, so that two threads inside at once are noticed.
                    let value = count.load(SeqCst);
                    std::hint::black_box(value);
                    count.store(value + 1, SeqCst);
                    if word.swap(0, SeqCst) == 2 {
                        wake(&word, 1);
                    }
                }
            });
        }
    });
    println!("lock: {}", count.into_inner());
}
