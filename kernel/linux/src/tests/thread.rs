//! Threads: how they are asked for, what they are told, how they and their process end.

use core::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use abi::flags::clone as flag;
use abi::{Errno, PAGE_SIZE, USER_END, nr};
use mm::Access;
use sync::testing::Host;
use sync::{InterruptGuard, Platform};

use super::program::{Body, PTHREAD_FLAGS};
use super::{Program, User};
use crate::{Control, ExitStatus, Ids, UserFault, UserRegs, user_exception, user_fault};

fn fails(errno: Errno) -> i64 {
    -(errno as i64)
}

const WAIT: u64 = abi::flags::futex::WAIT as u64;

#[test]
fn a_thread_is_what_its_maker_asked_for() {
    let program = Program::new();
    let (at, tid) = program.run(|user| {
        let at = user.pages(1);
        assert_eq!(user.call(nr::gettid, &[]), user.call(nr::getpid, &[]));
        assert_eq!(user.call(nr::getpid, &[]), i64::from(program.id()));
        let tid = user.call(nr::clone, &[PTHREAD_FLAGS, 0x7000_0000, at, at, 0x1234_5000]);
        assert_ne!(tid, i64::from(program.id()));
        assert_eq!(i64::from(user.half(at)), tid, "stored before the thread runs");
        (at, tid)
    });
    assert_eq!(program.thread_count(), 2);
    let (thread, regs) = program.spawned().remove(0);
    let expected = UserRegs { rsp: 0x7000_0000, fs_base: 0x1234_5000, rax: 0, ..regs };
    assert_eq!(regs, expected);
    assert_eq!(regs.rip, program.first_regs().rip);
    program.run_thread(&thread, regs, 1, |user| {
        assert_eq!(user.call(nr::gettid, &[]), tid);
        assert_eq!(user.call(nr::getpid, &[]), i64::from(program.id()));
        user.last_call(nr::exit, &[3]);
    });
    program.run(|user| assert_eq!(user.half(at), 0, "cleared at the end"));
    assert_eq!((program.thread_count(), program.status()), (1, None));
}

#[test]
fn clone_refuses_what_makes_no_sense_and_what_is_not_there() {
    let program = Program::new();
    program.run(|user| {
        let clone = |flags: u64| user.call(nr::clone, &[flags, 0, 0, 0, 0]);
        assert_eq!(clone(flag::THREAD | flag::VM), fails(Errno::EINVAL));
        assert_eq!(clone(flag::SIGHAND), fails(Errno::EINVAL));
        assert_eq!(clone(flag::NEWNS | flag::FS), fails(Errno::EINVAL));
        assert_eq!(clone(17), fails(Errno::ENOSYS), "fork");
        assert_eq!(clone(flag::VM | flag::VFORK | 17), fails(Errno::ENOSYS));
        assert_eq!(clone(PTHREAD_FLAGS & !flag::FILES), fails(Errno::ENOSYS));
        assert_eq!(user.call(nr::clone, &[PTHREAD_FLAGS, 0, 0, 0, USER_END]), fails(Errno::EPERM));
        assert_eq!(user.call(nr::fork, &[]), fails(Errno::ENOSYS));

        user.world.refuse_spawn.store(true, Ordering::Relaxed);
        assert_eq!(clone(PTHREAD_FLAGS), fails(Errno::EAGAIN));
        user.world.refuse_spawn.store(false, Ordering::Relaxed);
    });
    assert_eq!(program.thread_count(), 1, "nothing is left of what failed");
}

#[test]
fn clone3_checks_the_size_of_what_it_is_given() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let good = |size: usize| {
            let mut words = vec![0u64; size / 8];
            words[..8].copy_from_slice(&[PTHREAD_FLAGS, 0, at + 0x800, at + 0x800, 0, at, 0x700, 0x1000]);
            words
        };
        let clone3 = |words: &[u64], size: u64| {
            user.put_words(at, words);
            user.call(nr::clone3, &[at, size])
        };
        assert_eq!(clone3(&good(88), 56), fails(Errno::EINVAL));
        assert_eq!(clone3(&good(88), PAGE_SIZE + 1), fails(Errno::E2BIG));
        assert_eq!(user.call(nr::clone3, &[at + PAGE_SIZE, 88]), fails(Errno::EFAULT));
        let with = |index: usize, value: u64| {
            let mut words = good(128);
            words[index] = value;
            clone3(&words, 128)
        };
        assert_eq!(with(11, 1), fails(Errno::E2BIG), "what we do not know must be zero");
        assert_eq!(with(0, PTHREAD_FLAGS | 1 << 40), fails(Errno::EINVAL));
        assert_eq!(with(0, PTHREAD_FLAGS | flag::DETACHED), fails(Errno::EINVAL));
        assert_eq!(with(4, 17), fails(Errno::EINVAL), "a thread sends no signal");
        assert_eq!(with(5, 0), fails(Errno::EINVAL), "a size without a stack");
        assert_eq!(with(6, 0), fails(Errno::EINVAL), "a stack without a size");
        assert_eq!(with(6, u64::MAX), fails(Errno::EINVAL));
        assert_eq!(with(8, at), fails(Errno::EINVAL));
        let tid = clone3(&good(64), 64);
        assert!(tid > 0, "{tid}");
        assert!(clone3(&good(128), 128) > tid);
        let spawned = program.spawned();
        for (thread, regs) in spawned {
            assert_eq!((regs.rsp, regs.fs_base), (at + 0x700, 0x1000));
            program.run_thread(&thread, regs, 1, |user| user.last_call(nr::exit, &[0]));
        }
    });
}

#[test]
fn the_first_threads_code_counts_if_all_leave_by_exit() {
    let program = Program::new();
    program.run(|user| {
        user.clone_thread(user.pages(1));
        user.last_call(nr::exit, &[7]);
    });
    assert_eq!((program.thread_count(), program.status()), (1, None));
    let (thread, regs) = program.spawned().remove(0);
    program.run_thread(&thread, regs, 1, |user| user.last_call(nr::exit, &[9]));
    assert_eq!(program.wait_exit(), ExitStatus::Exited(7));
}

#[test]
fn exit_group_ends_threads_wherever_they_are() {
    let program = Program::new();
    let (at, ready) = program.run(|user| (user.pages(1), user.pages(1)));
    let arrived = move |user: &User| {
        // Counts the threads that are on their way to sleep.
        let mut seen = user.half(ready);
        loop {
            use crate::System;
            match Host::compare_exchange_u32(ready, seen, seen + 1).expect("mapped") {
                found if found == seen => break,
                found => seen = found,
            }
        }
    };
    let sleeper = move |number: u64, args: Vec<u64>| -> Body<'static> {
        Box::new(move |user| {
            arrived(user);
            let (value, control) = user.call_control(number, &args);
            assert_eq!((value, control), (fails(Errno::EINTR), Control::ExitThread), "call {number}");
        })
    };
    program.run(|user| {
        user.put_words(at + 0x100, &[3600, 0, u64::from(1u32 << 16) << 16]);
        user.put_words(at + 0x200, &[1 << 32]); // standard input, POLLIN
        for _ in 0..7 {
            user.clone_thread(user.pages(1));
        }
    });
    let spin: Body<'_> = Box::new(|user| {
        arrived(user);
        // A thread in user mode: it notices at its next way through the kernel.
        while !user.thread.killed() {
            std::thread::yield_now();
        }
        // Told first, kicked next: a thread may see the one before the other.
        let deadline = Instant::now() + Duration::from_secs(20);
        while !Host::interrupted() {
            assert!(Instant::now() < deadline, "its CPU was not kicked");
            std::thread::yield_now();
        }
    });
    let last: Body<'_> = Box::new(|user| {
        while user.half(ready) < 6 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        user.last_call(nr::exit_group, &[42]);
    });
    program.run_all(vec![
        sleeper(nr::futex, vec![at, WAIT, 0, 0]),
        sleeper(nr::nanosleep, vec![at + 0x100, 0]),
        sleeper(nr::poll, vec![at + 0x200, 1, u64::MAX]),
        sleeper(nr::read, vec![0, at + 0x300, 1]),
        sleeper(nr::pause, vec![]),
        spin,
        last,
    ]);
    // The first thread was told too; it has not been back in the kernel yet.
    assert_eq!((program.thread_count(), program.status()), (1, Some(ExitStatus::Exited(42))));
    program.run(|user| assert_eq!(user.call_control(nr::getpid, &[]).1, Control::ExitThread));
    assert_eq!(program.wait_exit(), ExitStatus::Exited(42));
}

#[test]
fn a_process_that_is_ending_takes_no_new_threads() {
    let program = Program::new();
    program.run(|user| {
        user.last_call(nr::exit_group, &[1]);
        let (value, control) = user.call_control(nr::clone, &[PTHREAD_FLAGS, 0, 0, 0, 0]);
        assert_eq!((value, control), (fails(Errno::EINTR), Control::ExitThread));
        // And the first cause stays.
        user.last_call(nr::exit_group, &[2]);
    });
    assert_eq!(program.wait_exit(), ExitStatus::Exited(1));
}

#[test]
fn a_waiter_for_a_threads_end_is_woken() {
    let program = Program::new();
    let tid_at = program.run(|user| {
        let at = user.pages(1);
        user.clone_thread(at);
        user.clone_thread(at + 8);
        at
    });
    let joiner: Body<'_> = Box::new(move |user| {
        // As `pthread_join` does it.
        loop {
            let tid = user.half(tid_at);
            if tid == 0 {
                break;
            }
            let value = user.call(nr::futex, &[tid_at, WAIT, u64::from(tid), 0]);
            assert!(value == 0 || value == fails(Errno::EAGAIN), "{value}");
        }
        user.last_call(nr::exit, &[0]);
    });
    let leaver: Body<'_> = Box::new(|user| {
        std::thread::sleep(Duration::from_millis(20));
        user.last_call(nr::exit, &[0]);
    });
    program.run_all(vec![leaver, joiner]);
}

#[test]
fn robust_futexes_are_released() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        user.clone_thread(at);
        let (thread, regs) = program.spawned().remove(0);
        let tid = u64::from(thread.tid());
        let (head, first, second, pending) = (at + 0x100, at + 0x200, at + 0x300, at + 0x400);
        let word = 0x20;
        user.put_words(head, &[first, word, pending]);
        user.put_words(first, &[second]);
        user.put_words(second, &[head]);
        user.put(first + word, &(tid as u32 | 1 << 31).to_le_bytes()); // held, with waiters
        user.put(second + word, &77u32.to_le_bytes()); // held by somebody else
        user.put(pending + word, &(tid as u32).to_le_bytes()); // held, and about to be entered
        program.run_thread(&thread, regs, 1, |user| {
            assert_eq!(user.call(nr::set_robust_list, &[head, 23]), fails(Errno::EINVAL));
            assert_eq!(user.call(nr::set_robust_list, &[head, 24]), 0);
            assert_eq!(user.call(nr::get_robust_list, &[0, at + 0x10, at + 0x18]), 0);
            assert_eq!((user.word(at + 0x10), user.word(at + 0x18)), (head, 24));
            user.last_call(nr::exit, &[0]);
        });
        assert_eq!(user.half(first + word), 1 << 31 | 1 << 30);
        assert_eq!(user.half(second + word), 77);
        assert_eq!(user.half(pending + word), 1 << 30);

        // Lists that are nonsense end the walk, not the kernel: unmapped, endless, misaligned.
        for list in [[at + PAGE_SIZE, 0, 0], [head + 0x50, 0, u64::MAX], [head, 1, 3]] {
            user.put_words(head, &list);
            user.put_words(head + 0x50, &[head + 0x50]);
            user.clone_thread(at);
            let (thread, regs) = program.spawned().remove(0);
            program.run_thread(&thread, regs, 1, |user| {
                assert_eq!(user.call(nr::set_robust_list, &[head, 24]), 0);
                user.last_call(nr::exit, &[0]);
            });
        }
    });
}

/// A page fault, as the trap handler passes it on: with interrupts off.
fn fault(user: &User, address: u64, access: Access, ip: u64) -> UserFault {
    let _off = InterruptGuard::<Host>::new();
    user_fault(&user.thread, address, access, ip)
}

#[test]
fn a_fault_is_served_or_ends_the_process_with_a_line() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        assert!(matches!(fault(user, at, Access::Write, 0x40_0100), UserFault::Served));
        let UserFault::Kill(Some(report)) = fault(user, 0x10, Access::Write, 0x40_1234) else {
            panic!("address 0x10 is not mapped");
        };
        let id = program.id();
        let line = format!("pid {id} tid {id} killed by SIGSEGV: write to 0x10 at ip 0x401234: no mapping");
        assert_eq!(report.to_string(), line);
        assert!(user.thread.killed());
        assert!(matches!(fault(user, 0x10, Access::Write, 0), UserFault::Kill(None)), "said once");
    });
    assert_eq!(program.wait_exit(), ExitStatus::Signalled(11));
}

/// The report of a fault that ends a fresh process.
fn deadly(address: u64, access: Access) -> String {
    let program = Program::new();
    program.run(|user| match fault(user, address, access, 0x40_1234) {
        UserFault::Kill(Some(report)) => report.to_string(),
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_report_names_the_mapping_that_denies() {
    let line = deadly(0x40_0018, Access::Write);
    assert!(line.ends_with("write to 0x400018 at ip 0x401234: mapping 0x400000-0x401000 r-xp denies it"), "{line}");
    let line = deadly(0x40_1018, Access::Execute);
    assert!(line.ends_with("execution of 0x401018 at ip 0x401234: mapping 0x401000-0x402000 rw-p denies it"), "{line}");
    let line = deadly(0xffff_ffff_8000_0000, Access::Read);
    assert!(line.ends_with("read of 0xffffffff80000000 at ip 0x401234: no mapping"), "{line}");
}

#[test]
fn another_exception_ends_the_process_with_a_line() {
    let program = Program::new();
    program.run(|user| {
        let action = user.pages(1);
        user.put_words(action, &[0x40_0100, 0, 0, 0]);
        assert_eq!(user.call(nr::rt_sigaction, &[8, action, 0, 8]), 0);
        let report = user_exception(&user.thread, 8, "divide error", 0x40_0110).expect("the first cause");
        let line = report.to_string();
        assert!(line.contains("killed by SIGFPE: divide error at ip 0x400110 (its handler was not run"), "{line}");
    });
    assert_eq!(program.wait_exit(), ExitStatus::Signalled(8));
}

#[test]
fn small_calls_about_the_thread() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        assert_eq!(user.get_name(at), b"tiny-program\0\0\0\0");
        user.put(at, b"a name that is far too long\0");
        assert_eq!(user.call(nr::prctl, &[15, at]), 0);
        assert_eq!(user.get_name(at), b"a name that is \0");
        assert_eq!(user.call(nr::prctl, &[15, 0]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::prctl, &[9999]), fails(Errno::EINVAL));

        assert_eq!(user.call(nr::arch_prctl, &[0x1002, 0x7654_3000]), 0);
        assert_eq!(user.call(nr::arch_prctl, &[0x1003, at]), 0);
        assert_eq!(user.word(at), 0x7654_3000);
        assert_eq!(user.call(nr::arch_prctl, &[0x1002, USER_END]), fails(Errno::EPERM));
        assert_eq!(user.call(nr::arch_prctl, &[0x3001, at]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::set_tid_address, &[at]), i64::from(program.id()));
        assert_eq!(user.call(nr::rseq, &[at, 32, 0, 0]), fails(Errno::ENOSYS));
    });
}

impl User {
    fn get_name(&self, at: u64) -> Vec<u8> {
        assert_eq!(self.call(nr::prctl, &[16, at]), 0);
        self.get(at, 16)
    }
}

#[test]
fn numbers_are_unique_and_come_back() {
    let ids = Ids::<Host>::new();
    let all: Vec<u32> = core::iter::from_fn(|| ids.take().ok()).collect();
    assert_eq!(all, (1..crate::ids::MAX_IDS as u32).collect::<Vec<_>>());
    assert_eq!(ids.take(), Err(Errno::EAGAIN));
    for id in [5, 4000, 4063, 64] {
        ids.give_back(id);
    }
    assert_eq!(ids.take(), Ok(5));
    ids.give_back(5);
    assert_eq!([ids.take(), ids.take(), ids.take(), ids.take()], [Ok(64), Ok(4000), Ok(4063), Ok(5)], "in turn");
    assert_eq!(ids.take(), Err(Errno::EAGAIN));
}
