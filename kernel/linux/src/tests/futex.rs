//! `futex(2)`: errors, timeouts, and threads that really sleep.

use std::time::{Duration, Instant};

use abi::flags::futex as op;
use abi::{Errno, PAGE_SIZE, USER_END, nr};
use sync::Platform;
use sync::testing::Host;

use super::program::Body;
use super::{Program, User};
use crate::System;

fn fails(errno: Errno) -> i64 {
    -(errno as i64)
}

const PRIVATE: u64 = op::PRIVATE_FLAG as u64;
const WAIT: u64 = op::WAIT as u64;
const WAKE: u64 = op::WAKE as u64;
const WAIT_BITSET: u64 = op::WAIT_BITSET as u64;
const WAKE_BITSET: u64 = op::WAKE_BITSET as u64;
const REQUEUE: u64 = op::REQUEUE as u64;
const CMP_REQUEUE: u64 = op::CMP_REQUEUE as u64;
const WAKE_OP: u64 = op::WAKE_OP as u64;
const REALTIME: u64 = op::CLOCK_REALTIME as u64;
const ANY: u64 = u32::MAX as u64;

#[test]
fn arguments_are_checked_as_on_linux() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let futex = |args: &[u64]| user.call(nr::futex, args);
        assert_eq!(futex(&[at, WAIT, 1, 0]), fails(Errno::EAGAIN));
        assert_eq!(futex(&[at + 2, WAIT, 0, 0]), fails(Errno::EINVAL));
        assert_eq!(futex(&[at + 2, WAKE, 1, 0]), fails(Errno::EINVAL));
        assert_eq!(futex(&[USER_END, WAKE | PRIVATE, 1, 0]), fails(Errno::EFAULT));
        assert_eq!(futex(&[0xffff_8000_0000_0000, WAIT, 0, 0]), fails(Errno::EFAULT));
        let unmapped = at + PAGE_SIZE;
        assert_eq!(futex(&[unmapped, WAIT | PRIVATE, 0, 0]), fails(Errno::EFAULT));
        assert_eq!(futex(&[unmapped, WAKE, 1, 0]), fails(Errno::EFAULT));
        assert_eq!(futex(&[unmapped, WAKE | PRIVATE, 1, 0]), 0, "a private wake looks at no memory");
        assert_eq!(futex(&[at, WAIT_BITSET, 0, 0, 0, 0]), fails(Errno::EINVAL));
        assert_eq!(futex(&[at, WAKE_BITSET, 0, 0, 0, 0]), fails(Errno::EINVAL));
        assert_eq!(futex(&[at, REQUEUE, 1, u64::from(u32::MAX), at + 4]), fails(Errno::EINVAL));
        assert_eq!(futex(&[at, CMP_REQUEUE, 1, 1, at + 4, 5]), fails(Errno::EAGAIN));
        // Combinations that Linux does not have.
        assert_eq!(futex(&[at, WAIT | REALTIME, 0, 0]), fails(Errno::ENOSYS));
        assert_eq!(futex(&[at, WAKE | REALTIME, 1, 0]), fails(Errno::ENOSYS));
        assert_eq!(futex(&[at, 6, 0, 0]), fails(Errno::ENOSYS));
        assert_eq!(futex(&[at, 99, 0, 0]), fails(Errno::ENOSYS));
        // Times.
        let time = at + 0x100;
        assert_eq!(futex(&[at, WAIT, 0, unmapped]), fails(Errno::EFAULT));
        user.put_words(time, &[0, 1_000_000_000]);
        assert_eq!(futex(&[at, WAIT, 0, time]), fails(Errno::EINVAL));
        user.put_words(time, &[u64::MAX, 0]);
        assert_eq!(futex(&[at, WAIT, 0, time]), fails(Errno::EINVAL));
    });
}

#[test]
fn waits_end_in_time_on_each_clock() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let time = at + 0x100;
        let timed_out = |operation: u64, words: [u64; 2]| {
            user.put_words(time, &words);
            assert_eq!(user.call(nr::futex, &[at, operation, 0, time, 0, ANY]), fails(Errno::ETIMEDOUT));
        };
        let words = |ns: u64| [ns / 1_000_000_000, ns % 1_000_000_000];
        let wait_ns = 20_000_000;
        let end_ns = Host::now_ns() + wait_ns;
        timed_out(WAIT, words(wait_ns));
        assert!(Host::now_ns() >= end_ns);
        let end_ns = Host::now_ns() + wait_ns;
        timed_out(WAIT_BITSET | PRIVATE, words(end_ns));
        assert!(Host::now_ns() >= end_ns);
        let end_ns = Host::realtime_ns() + wait_ns;
        timed_out(WAIT_BITSET | REALTIME, words(end_ns));
        assert!(Host::realtime_ns() >= end_ns);
        // What has passed does not sleep: a time since the start of the machine is long past on the other clock.
        timed_out(WAIT_BITSET | REALTIME, words(Host::now_ns() + 1_000_000_000_000));
        timed_out(WAIT_BITSET, [0, 0]);
    });
}

/// Waits until `count` threads sleep on `at`: a requeue onto the same word counts them and moves nothing elsewhere.
fn until_asleep(user: &User, at: u64, count: i64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        // Wakes none only if it may wake none: so ask to move all, from the word to itself.
        if user.call(nr::futex, &[at, REQUEUE | PRIVATE, 0, 1000, at]) == count {
            return;
        }
        assert!(Instant::now() < deadline, "threads do not go to sleep");
        std::thread::yield_now();
    }
}

/// Runs `sleepers` as threads of their own, and `awake` as one more, all at once.
fn with_sleepers<'a>(program: &Program, mut sleepers: Vec<Body<'a>>, awake: impl FnOnce(&User) + Send + 'a) {
    program.run(|user| {
        for _ in 0..=sleepers.len() {
            let tid = user.pages(1);
            assert!(user.clone_thread(tid) > 0);
        }
    });
    sleepers.push(Box::new(awake));
    program.run_all(sleepers.into_iter().map(leaving).collect());
}

/// A body whose thread leaves by `exit`.
fn leaving(body: Body<'_>) -> Body<'_> {
    Box::new(move |user| {
        body(user);
        user.last_call(nr::exit, &[0]);
    })
}

#[test]
fn wakes_reach_as_many_as_asked_for() {
    let program = Program::new();
    let at = program.run(|user| user.pages(1));
    let sleeper =
        || -> Body<'_> { Box::new(move |user| assert_eq!(user.call(nr::futex, &[at, WAIT | PRIVATE, 0, 0]), 0)) };
    with_sleepers(&program, (0..4).map(|_| sleeper()).collect(), |user| {
        until_asleep(user, at, 4);
        assert_eq!(user.call(nr::futex, &[at + 4, WAKE | PRIVATE, 10]), 0, "another word");
        assert_eq!(user.call(nr::futex, &[at, WAKE, 1]), 1, "private or not is one word");
        assert_eq!(user.call(nr::futex, &[at, WAKE | PRIVATE, 0]), 1, "Linux wakes one for none");
        assert_eq!(user.call(nr::futex, &[at, WAKE | PRIVATE, 100]), 2);
        assert_eq!(user.call(nr::futex, &[at, WAKE | PRIVATE, 100]), 0);
    });
}

#[test]
fn bitsets_choose_who_wakes() {
    let program = Program::new();
    let at = program.run(|user| user.pages(1));
    let sleeper = |bits: u64| -> Body<'_> {
        Box::new(move |user| assert_eq!(user.call(nr::futex, &[at, WAIT_BITSET | PRIVATE, 0, 0, 0, bits]), 0))
    };
    with_sleepers(&program, vec![sleeper(1), sleeper(2), sleeper(6)], |user| {
        until_asleep(user, at, 3);
        assert_eq!(user.call(nr::futex, &[at, WAKE_BITSET | PRIVATE, 9, 0, 0, 8]), 0);
        assert_eq!(user.call(nr::futex, &[at, WAKE_BITSET | PRIVATE, 9, 0, 0, 2]), 2);
        assert_eq!(user.call(nr::futex, &[at, WAKE | PRIVATE, 9]), 1);
    });
}

#[test]
fn requeued_sleepers_wake_on_the_other_word() {
    let program = Program::new();
    let at = program.run(|user| user.pages(1));
    let other = at + 64;
    let sleeper =
        || -> Body<'_> { Box::new(move |user| assert_eq!(user.call(nr::futex, &[at, WAIT | PRIVATE, 0, 0]), 0)) };
    with_sleepers(&program, (0..4).map(|_| sleeper()).collect(), |user| {
        until_asleep(user, at, 4);
        assert_eq!(user.call(nr::futex, &[at, CMP_REQUEUE | PRIVATE, 1, 2, other, 0]), 3);
        assert_eq!(user.call(nr::futex, &[at, WAKE | PRIVATE, 100]), 1);
        assert_eq!(user.call(nr::futex, &[other, WAKE | PRIVATE, 100]), 2);
    });
}

#[test]
fn wake_op_changes_one_word_and_wakes_on_both() {
    let program = Program::new();
    let (at, other) = program.run(|user| {
        let at = user.pages(1);
        // Nobody sleeps: only the arithmetic. Operation, comparison, operand, comparand.
        let encode = |op: u64, cmp: u64, operand: u64, comparand: u64| op << 28 | cmp << 24 | operand << 12 | comparand;
        let result = |start: u32, encoded: u64| {
            user.put(at + 8, &start.to_le_bytes());
            assert_eq!(user.call(nr::futex, &[at, WAKE_OP | PRIVATE, 1, 1, at + 8, encoded]), 0);
            user.half(at + 8)
        };
        assert_eq!(result(5, encode(0, 0, 7, 0)), 7); // set
        assert_eq!(result(5, encode(1, 0, 0xfff, 0)), 4); // add -1
        assert_eq!(result(5, encode(2, 0, 2, 0)), 7); // or
        assert_eq!(result(5, encode(3, 0, 4, 0)), 1); // and not
        assert_eq!(result(5, encode(4, 0, 6, 0)), 3); // xor
        assert_eq!(result(5, encode(8, 0, 4, 0)), 16); // set, shifted
        let bad = encode(5, 0, 0, 0);
        assert_eq!(user.call(nr::futex, &[at, WAKE_OP | PRIVATE, 1, 1, at + 8, bad]), fails(Errno::ENOSYS));
        user.put(at + 8, &[0; 4]);
        (at, at + 8)
    });
    let sleeper = |word: u64| -> Body<'_> {
        Box::new(move |user| assert_eq!(user.call(nr::futex, &[word, WAIT | PRIVATE, 0, 0]), 0))
    };
    with_sleepers(&program, vec![sleeper(at), sleeper(other)], |user| {
        until_asleep(user, at, 1);
        until_asleep(user, other, 1);
        // Set the second to 1; its old value, 0, is not greater than 0: only the first word's sleeper wakes.
        assert_eq!(user.call(nr::futex, &[at, WAKE_OP | PRIVATE, 1, 1, other, 4 << 24 | 1 << 12]), 1);
        // Now it is.
        assert_eq!(user.call(nr::futex, &[at, WAKE_OP | PRIVATE, 1, 1, other, 4 << 24 | 2 << 12]), 1);
        assert_eq!(user.half(other), 2);
    });
}
