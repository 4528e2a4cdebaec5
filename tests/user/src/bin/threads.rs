//! What Rust's std does with threads: spawn and join, locks, condition variables, channels, barriers, thread-locals,
//! parking, sleeping, scoped threads, and a panic that ends only its own thread.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, OnceLock, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

const THREADS: u64 = 8;

fn main() {
    spawn_and_join();
    mutex();
    condition_variable();
    channels();
    barrier();
    thread_locals();
    parking();
    sleeping();
    reader_writer();
    once();
    panic_in_a_thread();
    many_in_turn();
}

fn spawn_and_join() {
    let threads: Vec<_> = (0..THREADS).map(|n| thread::spawn(move || n * n)).collect();
    let squares: Vec<u64> = threads.into_iter().map(join).collect();
    println!("spawn and join: {squares:?}");
}

fn mutex() {
    let count = Mutex::new(0u64);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..2000 {
                    *count.lock().unwrap() += 1;
                }
            });
        }
    });
    println!("mutex: {}", count.into_inner().unwrap());
}

fn condition_variable() {
    let turn = Arc::new((Mutex::new(0u64), Condvar::new()));
    let threads: Vec<_> = (0..THREADS)
        .map(|n| {
            let turn = Arc::clone(&turn);
            thread::spawn(move || {
                for round in 0..20 {
                    let mut now = turn.0.lock().unwrap();
                    while *now != round * THREADS + n {
                        now = turn.1.wait(now).unwrap();
                    }
                    *now += 1;
                    turn.1.notify_all();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(join);
    println!("condition variable: {} turns", turn.0.lock().unwrap());
    let never = turn.1.wait_timeout(turn.0.lock().unwrap(), Duration::from_millis(5)).unwrap();
    println!("condition variable: timed out {}", never.1.timed_out());
}

fn channels() {
    let (sender, receiver) = mpsc::sync_channel(4);
    let producers: Vec<_> = (0..THREADS)
        .map(|n| {
            let sender = sender.clone();
            thread::spawn(move || (0..200).for_each(|i| sender.send(n * 1000 + i).unwrap()))
        })
        .collect();
    drop(sender);
    let sum: u64 = receiver.iter().sum();
    producers.into_iter().for_each(join);
    println!("channels: sum {sum}");
    let (_silent, receiver) = mpsc::channel::<()>();
    println!("channels: {:?}", receiver.recv_timeout(Duration::from_millis(5)));
}

fn barrier() {
    let barrier = Barrier::new(THREADS as usize);
    let (leaders, arrived) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for round in 1..=50 {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    if barrier.wait().is_leader() {
                        leaders.fetch_add(1, Ordering::SeqCst);
                    }
                    user::must!(arrived.load(Ordering::SeqCst) >= round * THREADS, "somebody passed the barrier early");
                    barrier.wait();
                }
            });
        }
    });
    println!("barrier: {} leaders, {} arrivals", leaders.into_inner(), arrived.into_inner());
}

fn thread_locals() {
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    struct Noisy(Cell<u64>);
    impl Drop for Noisy {
        fn drop(&mut self) {
            DROPPED.fetch_add(self.0.get(), Ordering::SeqCst);
        }
    }
    thread_local!(static OWN: Noisy = const { Noisy(Cell::new(0)) });
    let threads: Vec<_> = (1..=THREADS)
        .map(|n| {
            thread::spawn(move || {
                for _ in 0..100 {
                    OWN.with(|own| own.0.set(own.0.get() + n));
                    thread::yield_now();
                }
                OWN.with(|own| user::must!(own.0.get() == 100 * n, "thread {n} saw another one's value"));
            })
        })
        .collect();
    threads.into_iter().for_each(join);
    println!("thread-locals: {} dropped", DROPPED.load(Ordering::SeqCst));
}

fn parking() {
    let flag = Arc::new(AtomicU64::new(0));
    let parked = {
        let flag = Arc::clone(&flag);
        thread::spawn(move || {
            while flag.load(Ordering::Acquire) == 0 {
                thread::park();
            }
        })
    };
    flag.store(1, Ordering::Release);
    parked.thread().unpark();
    join(parked);
    let begin = Instant::now();
    thread::park_timeout(Duration::from_millis(10));
    // `park_timeout` may return early, but not with a time that goes backwards.
    println!("parking: done {}", begin.elapsed() < Duration::from_secs(3600));
}

fn sleeping() {
    let begin = Instant::now();
    thread::scope(|scope| {
        for n in 0..THREADS {
            scope.spawn(move || {
                let begin = Instant::now();
                let nap = Duration::from_millis(5 + n);
                thread::sleep(nap);
                user::must!(begin.elapsed() >= nap, "slept less than asked");
            });
        }
    });
    println!("sleeping: long enough {}", begin.elapsed() >= Duration::from_millis(5 + THREADS - 1));
}

fn reader_writer() {
    let pair = RwLock::new((0u64, 0u64));
    thread::scope(|scope| {
        for n in 0..THREADS {
            let pair = &pair;
            scope.spawn(move || {
                for _ in 0..300 {
                    if n % 4 == 0 {
                        let mut both = pair.write().unwrap();
                        both.0 += 1;
                        both.1 += 1;
                    } else {
                        let both = pair.read().unwrap();
                        user::must!(both.0 == both.1, "a reader saw half a write");
                    }
                }
            });
        }
    });
    println!("reader-writer lock: {:?}", pair.into_inner().unwrap());
}

fn once() {
    let (cell, runs) = (OnceLock::new(), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| cell.get_or_init(|| runs.fetch_add(1, Ordering::SeqCst)));
        }
    });
    println!("once: {} run", runs.into_inner());
}

fn panic_in_a_thread() {
    // The default message holds the thread's number, which differs from run to run.
    std::panic::set_hook(Box::new(|_| eprintln!("a thread panics, as it should")));
    let result = thread::spawn(|| panic!("on purpose")).join();
    drop(std::panic::take_hook());
    let message = result.err().and_then(|payload| payload.downcast_ref::<&str>().map(|text| text.to_string()));
    println!("panic in a thread: {message:?}");
}

fn many_in_turn() {
    let count = Arc::new(AtomicU64::new(0));
    for _ in 0..100 {
        let count = Arc::clone(&count);
        join(thread::spawn(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
    }
    println!("in turn: {} threads", count.load(Ordering::SeqCst));
}

fn join<T>(thread: thread::JoinHandle<T>) -> T {
    thread.join().unwrap_or_else(|_| user::wrong(format_args!("a thread panicked")))
}
