//! Actions, masks, stacks, and signals that are sent.

use abi::flags::signal::*;
use abi::{Errno, PAGE_SIZE, nr};

use super::{Program, User};
use crate::ExitStatus;

fn fails(errno: Errno) -> i64 {
    -(errno as i64)
}

const BLOCK: u64 = 0;
const UNBLOCK: u64 = 1;
const SETMASK: u64 = 2;

fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

impl User {
    fn mask(&self, how: u64, set: u64) -> i64 {
        let at = self.pages(1);
        self.put_words(at, &[set]);
        self.call_control(nr::rt_sigprocmask, &[how, at, 0, 8]).0
    }

    fn set_action(&self, signal: u32, handler: u64) -> i64 {
        let at = self.pages(1);
        self.put_words(at, &[handler, 0, 0, 0]);
        self.call(nr::rt_sigaction, &[u64::from(signal), at, 0, 8])
    }

    fn pending(&self) -> u64 {
        let at = self.pages(1);
        assert_eq!(self.call(nr::rt_sigpending, &[at, 8]), 0);
        self.word(at)
    }

    fn raise(&self, signal: u32) -> i64 {
        let tid = u64::from(self.thread.tid());
        self.call_control(nr::tgkill, &[u64::from(self.thread.process().id()), tid, u64::from(signal)]).0
    }
}

#[test]
fn actions_are_kept_and_checked() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let old = at + 0x100;
        let action = |signal: u64, new: u64, old: u64| user.call(nr::rt_sigaction, &[signal, new, old, 8]);
        user.put_words(at, &[0x40_0100, 0x0400_0004, 0x40_0200, u64::MAX]);
        assert_eq!(action(u64::from(SIGSEGV), at, old), 0);
        assert_eq!(user.get(old, 32), [0; 32]);
        assert_eq!(action(u64::from(SIGSEGV), 0, old), 0);
        let unblockable = bit(SIGKILL) | bit(SIGSTOP);
        let kept: Vec<u64> = (0..4).map(|index| user.word(old + 8 * index)).collect();
        assert_eq!(kept, [0x40_0100, 0x0400_0004, 0x40_0200, !unblockable]);
        assert_eq!(action(u64::from(SIGKILL), at, 0), fails(Errno::EINVAL));
        assert_eq!(action(u64::from(SIGKILL), 0, old), 0);
        for bad in [0, 65, u64::MAX] {
            assert_eq!(action(bad, at, 0), fails(Errno::EINVAL));
        }
        assert_eq!(action(64, at, 0), 0);
        assert_eq!(user.call(nr::rt_sigaction, &[11, at, 0, 16]), fails(Errno::EINVAL));
        assert_eq!(action(11, at + PAGE_SIZE, 0), fails(Errno::EFAULT));
        assert_eq!(action(11, 0, at + PAGE_SIZE), fails(Errno::EFAULT));
    });
}

#[test]
fn masks_are_kept_and_checked() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let read = |user: &User| {
            assert_eq!(user.call(nr::rt_sigprocmask, &[99, 0, at, 8]), 0, "how does not matter without a set");
            user.word(at)
        };
        assert_eq!(user.mask(BLOCK, 0b1100), 0);
        assert_eq!(user.mask(BLOCK, 0b0110), 0);
        assert_eq!(read(user), 0b1110);
        assert_eq!(user.mask(UNBLOCK, 0b0010), 0);
        assert_eq!(read(user), 0b1100);
        assert_eq!(user.mask(SETMASK, u64::MAX), 0);
        assert_eq!(read(user), !(bit(SIGKILL) | bit(SIGSTOP)));
        assert_eq!(user.mask(3, 0), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::rt_sigprocmask, &[BLOCK, at, 0, 4]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::rt_sigprocmask, &[BLOCK, at + PAGE_SIZE, 0, 8]), fails(Errno::EFAULT));
    });
}

#[test]
fn alternate_stacks_are_kept_and_checked() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let old = at + 0x100;
        let set = |words: [u64; 3]| {
            user.put_words(at, &words);
            user.call(nr::sigaltstack, &[at, old])
        };
        let state = || [user.word(old), user.word(old + 8), user.word(old + 16)];
        assert_eq!(set([0x50_0000, 0, 8192]), 0);
        assert_eq!(state(), [0, 2, 0], "none before");
        assert_eq!(set([0x50_0000, 0, 2047]), fails(Errno::ENOMEM));
        assert_eq!(set([0x50_0000, 4, 8192]), fails(Errno::EINVAL));
        assert_eq!(set([0, 2, 0]), 0);
        assert_eq!(state(), [0x50_0000, 0, 8192]);
        assert_eq!(user.call(nr::sigaltstack, &[at + PAGE_SIZE, 0]), fails(Errno::EFAULT));
        // A stack that the thread is on cannot be changed.
        let sp = user.regs.rsp;
        assert_eq!(set([sp - 4096, 0, 8192]), 0);
        assert_eq!(set([0, 2, 0]), fails(Errno::EPERM));
        assert_eq!(user.call(nr::sigaltstack, &[0, old]), 0);
        assert_eq!(state(), [sp - 4096, 1, 8192]);
    });
}

#[test]
fn abort_ends_the_process_as_sigabrt() {
    let program = Program::new();
    program.run(|user| {
        let pid = u64::from(program.id());
        user.last_call(nr::tgkill, &[pid, pid, u64::from(SIGABRT)]);
    });
    assert_eq!(program.wait_exit(), ExitStatus::Signalled(SIGABRT));
    let id = program.id();
    assert_eq!(program.reports(), [format!("pid {id} tid {id} killed by SIGABRT: sent by itself")]);
}

#[test]
fn a_handler_that_cannot_run_is_mentioned() {
    let program = Program::new();
    program.run(|user| {
        assert_eq!(user.set_action(SIGTERM, 0x40_0100), 0);
        user.last_call(nr::kill, &[0, u64::from(SIGTERM)]);
    });
    assert_eq!(program.wait_exit(), ExitStatus::Signalled(SIGTERM));
    assert!(program.reports()[0].contains("handlers are not supported yet"), "{:?}", program.reports());
}

#[test]
fn signals_that_do_nothing_do_nothing() {
    let program = Program::new();
    program.run(|user| {
        for signal in [0, SIGCHLD, SIGURG, SIGWINCH, SIGCONT, SIGSTOP] {
            assert_eq!(user.raise(signal), 0);
        }
        assert_eq!(user.set_action(SIGPIPE, 1), 0);
        assert_eq!(user.raise(SIGPIPE), 0);
        let pid = u64::from(program.id());
        assert_eq!(user.call(nr::kill, &[pid, 0]), 0);
        assert_eq!(user.call(nr::kill, &[pid, 65]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::kill, &[pid + 1, 0]), fails(Errno::ESRCH));
        assert_eq!(user.call(nr::kill, &[u64::MAX, 9]), fails(Errno::ESRCH), "nobody else is there");
        assert_eq!(user.call(nr::tkill, &[pid, 0]), 0);
        assert_eq!(user.call(nr::tkill, &[0, 0]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::tkill, &[30_000, 9]), fails(Errno::ESRCH));
        assert_eq!(user.call(nr::tgkill, &[pid + 1, pid, 9]), fails(Errno::ESRCH));
        assert_eq!(user.call(nr::tgkill, &[pid, 0, 9]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::tgkill, &[0, pid, 9]), fails(Errno::EINVAL));
    });
    assert_eq!(program.status(), None);
}

#[test]
fn a_blocked_signal_waits_until_it_is_unblocked() {
    let program = Program::new();
    program.run(|user| {
        assert_eq!(user.mask(BLOCK, bit(SIGABRT) | bit(SIGTERM)), 0);
        assert_eq!(user.raise(SIGABRT), 0);
        assert_eq!(user.call(nr::kill, &[0, u64::from(SIGTERM)]), 0);
        assert_eq!(user.pending(), bit(SIGABRT) | bit(SIGTERM));
        assert!(!user.thread.killed());
        // Ignoring it forgets it.
        assert_eq!(user.set_action(SIGTERM, 1), 0);
        assert_eq!(user.pending(), bit(SIGABRT));
        assert_eq!(user.mask(UNBLOCK, bit(SIGTERM)), 0);
        assert!(!user.thread.killed());
        user.mask(UNBLOCK, bit(SIGABRT));
        assert!(user.thread.killed());
    });
    assert_eq!(program.wait_exit(), ExitStatus::Signalled(SIGABRT));
}

#[test]
fn nothing_blocks_sigkill() {
    let program = Program::new();
    program.run(|user| {
        assert_eq!(user.mask(SETMASK, u64::MAX), 0);
        user.last_call(nr::kill, &[u64::from(program.id()), u64::from(SIGKILL)]);
    });
    assert_eq!(program.wait_exit(), ExitStatus::Signalled(SIGKILL));
}

#[test]
fn a_signal_to_the_process_finds_a_thread_that_takes_it() {
    let program = Program::new();
    program.run(|user| {
        user.clone_thread(user.pages(1));
        assert_eq!(user.mask(BLOCK, bit(SIGTERM)), 0);
        // The new thread got its maker's mask of before.
        let (value, _) = user.call_control(nr::kill, &[0, u64::from(SIGTERM)]);
        assert_eq!(value, 0);
        assert!(user.thread.killed());
    });
    let (other, regs) = program.spawned().remove(0);
    assert!(other.killed());
    assert!(program.reports()[0].contains(&format!("tid {} killed by SIGTERM", other.tid())));
    program.run_thread(&other, regs, 1, |_| ());
    assert_eq!(program.wait_exit(), ExitStatus::Signalled(SIGTERM));
}

#[test]
fn waiting_for_signals() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let (set, info, time) = (at, at + 0x100, at + 0x200);
        user.put_words(set, &[bit(SIGTERM)]);
        user.put_words(time, &[0, 1_000_000]);
        assert_eq!(user.mask(BLOCK, bit(SIGTERM)), 0);
        assert_eq!(user.call(nr::rt_sigtimedwait, &[set, info, time, 8]), fails(Errno::EAGAIN));
        assert_eq!(user.raise(SIGTERM), 0);
        assert_eq!(user.call(nr::rt_sigtimedwait, &[set, info, 0, 8]), i64::from(SIGTERM));
        assert_eq!((user.half(info), user.half(info + 16)), (SIGTERM, program.id()));
        assert_eq!(user.pending(), 0);
        assert_eq!(user.call(nr::rt_sigtimedwait, &[set, info, 0, 4]), fails(Errno::EINVAL));
    });
    // And one that comes later, from another thread.
    program.run(|user| {
        user.clone_thread(user.pages(1));
        user.clone_thread(user.pages(1));
    });
    let pid = u64::from(program.id());
    program.run_all(vec![
        Box::new(|user| {
            let set = user.pages(1);
            user.put_words(set, &[bit(SIGTERM)]);
            assert_eq!(user.call(nr::rt_sigtimedwait, &[set, 0, 0, 8]), i64::from(SIGTERM));
            user.last_call(nr::exit, &[0]);
        }),
        Box::new(move |user| {
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert_eq!(user.call(nr::kill, &[pid, u64::from(SIGTERM)]), 0);
            user.last_call(nr::exit, &[0]);
        }),
    ]);
}
