//! Clocks and sleeps.

use std::time::{Duration, Instant};

use abi::{Errno, PAGE_SIZE, nr};
use sync::Platform;
use sync::testing::Host;

use super::Program;

fn fails(errno: Errno) -> i64 {
    -(errno as i64)
}

#[test]
fn clocks_show_what_they_should() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let read = |clock: u64| {
            assert_eq!(user.call(nr::clock_gettime, &[clock, at]), 0, "clock {clock}");
            assert!(user.word(at + 8) < 1_000_000_000);
            user.word(at)
        };
        for clock in [0, 5, 11] {
            assert!((1_790_000_000..1_800_000_000).contains(&read(clock)), "clock {clock} counts from 1970");
        }
        for clock in [1, 4, 6, 7] {
            assert!(read(clock) < 1_000_000, "clock {clock} counts from the start");
        }
        // The test's machine says that each thread has run for 1.5 s.
        assert_eq!((read(2), read(3)), (1, 1));
        for bad in [12, 99, u64::MAX] {
            assert_eq!(user.call(nr::clock_gettime, &[bad, at]), fails(Errno::EINVAL));
            assert_eq!(user.call(nr::clock_getres, &[bad, 0]), fails(Errno::EINVAL));
        }
        assert_eq!(user.call(nr::clock_gettime, &[1, at + PAGE_SIZE]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::clock_getres, &[1, 0]), 0);
        assert_eq!(user.call(nr::clock_getres, &[1, at]), 0);
        assert_eq!((user.word(at), user.word(at + 8)), (0, 1));
        assert_eq!(user.call(nr::gettimeofday, &[at, at + 0x100]), 0);
        assert!(user.word(at) >= 1_790_000_000 && user.word(at + 8) < 1_000_000);
        assert_eq!(user.call(nr::gettimeofday, &[0, 0]), 0);
        let now = user.call(nr::time, &[at]);
        assert_eq!(now as u64, user.word(at));
    });
}

#[test]
fn sleeps_last_as_long_as_asked() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let slept = |number: u64, args: &[u64], words: [u64; 2]| {
            user.put_words(at, &words);
            let start = Instant::now();
            assert_eq!(user.call(number, args), 0);
            start.elapsed()
        };
        let short = [0, 20_000_000];
        assert!(slept(nr::nanosleep, &[at, 0], short) >= Duration::from_millis(20));
        assert!(slept(nr::clock_nanosleep, &[1, 0, at, 0], short) >= Duration::from_millis(20));
        assert!(slept(nr::clock_nanosleep, &[0, 0, at, 0], short) >= Duration::from_millis(20));
        let later_ns = Host::now_ns() + 20_000_000;
        slept(nr::clock_nanosleep, &[1, 1, at, 0], [later_ns / 1_000_000_000, later_ns % 1_000_000_000]);
        assert!(Host::now_ns() >= later_ns);
        // Times that have passed. Taken for a length, the second would keep this test for years.
        slept(nr::clock_nanosleep, &[1, 1, at, 0], [0, 1]);
        slept(nr::clock_nanosleep, &[0, 1, at, 0], [1_000_000_000, 0]);
    });
}

#[test]
fn sleeps_check_their_arguments() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        for bad in [[0, 1_000_000_000], [0, u64::MAX], [u64::MAX, 0]] {
            user.put_words(at, &bad);
            assert_eq!(user.call(nr::nanosleep, &[at, 0]), fails(Errno::EINVAL));
            assert_eq!(user.call(nr::clock_nanosleep, &[1, 0, at, 0]), fails(Errno::EINVAL));
        }
        assert_eq!(user.call(nr::nanosleep, &[0, 0]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::clock_nanosleep, &[3, 0, at, 0]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::clock_nanosleep, &[4, 0, at, 0]), fails(Errno::EOPNOTSUPP));
        assert_eq!(user.call(nr::clock_nanosleep, &[12, 0, at, 0]), fails(Errno::EINVAL));
    });
}

#[test]
fn a_sleep_that_ends_early_says_what_was_left() {
    let program = Program::new();
    let at = program.run(|user| {
        user.clone_thread(user.pages(1));
        user.clone_thread(user.pages(1));
        user.pages(1)
    });
    program.run_all(vec![
        Box::new(move |user| {
            user.put_words(at, &[100_000, 0]);
            assert_eq!(user.call_control(nr::nanosleep, &[at, at + 16]).0, fails(Errno::EINTR));
            let left = user.word(at + 16);
            assert!((50_000..=100_000).contains(&left), "{left} s left");
        }),
        Box::new(|user| {
            std::thread::sleep(Duration::from_millis(30));
            user.last_call(nr::exit_group, &[0]);
        }),
    ]);
    program.run(|_| ());
}
