//! Clocks and sleeping: time never goes back, and nobody sleeps less than asked.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, SystemTime};
use user::must;
use user::raw;

fn main() {
    clocks();
    monotonic();
    sleeps();
}

/// A clock's nanoseconds, from the kernel itself.
fn now(clock: i32) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is ours to be written.
    let answer = unsafe { raw::call(libc::SYS_clock_gettime, [clock as usize, &raw mut time as usize, 0, 0, 0, 0]) };
    must!(answer.is_ok(), "clock {clock} cannot be read");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn clocks() {
    for (name, clock) in [
        ("realtime", libc::CLOCK_REALTIME),
        ("monotonic", libc::CLOCK_MONOTONIC),
        ("monotonic raw", libc::CLOCK_MONOTONIC_RAW),
        ("boot time", libc::CLOCK_BOOTTIME),
        ("realtime coarse", libc::CLOCK_REALTIME_COARSE),
        ("monotonic coarse", libc::CLOCK_MONOTONIC_COARSE),
    ] {
        println!("{name}: goes on {}", now(clock) <= now(clock));
    }
    let year =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| 1970 + age.as_secs() / 31_556_952);
    println!("realtime: the year is plausible {}", (2024..2200).contains(&year));
}

/// What one thread has seen, no other sees undone.
fn monotonic() {
    let latest = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 * user::raw::cpus() {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let seen = latest.load(SeqCst);
                    let time = now(libc::CLOCK_MONOTONIC);
                    must!(time >= seen, "the clock went back by {} ns between CPUs", seen - time);
                    latest.fetch_max(time, SeqCst);
                }
            });
        }
    });
    println!("monotonic: never went back");
}

fn sleeps() {
    for millis in [0, 1, 10, 50] {
        let begin = now(libc::CLOCK_MONOTONIC);
        std::thread::sleep(Duration::from_millis(millis));
        println!("sleep of {millis} ms: long enough {}", now(libc::CLOCK_MONOTONIC) >= begin + millis * 1_000_000);
    }
    let nap = libc::timespec { tv_sec: 0, tv_nsec: 3_000_000 };
    let begin = now(libc::CLOCK_MONOTONIC);
    // SAFETY: the kernel only reads `nap`.
    let answer = unsafe { raw::call(libc::SYS_nanosleep, [&raw const nap as usize, 0, 0, 0, 0, 0]) };
    println!("nanosleep: {answer:?}, long enough {}", now(libc::CLOCK_MONOTONIC) >= begin + 3_000_000);

    let until = now(libc::CLOCK_MONOTONIC) + 15_000_000;
    println!("absolute: {:?}, long enough {}", sleep_until(until), now(libc::CLOCK_MONOTONIC) >= until);
    println!("absolute, in the past: {:?}", sleep_until(1));
}

fn sleep_until(ns: u64) -> raw::Answer {
    let time = libc::timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 };
    let args = [libc::CLOCK_MONOTONIC as usize, libc::TIMER_ABSTIME as usize, &raw const time as usize, 0, 0, 0];
    // SAFETY: the kernel only reads `time`.
    unsafe { raw::call(libc::SYS_clock_nanosleep, args) }
}
