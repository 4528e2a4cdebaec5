//! What programs ask about themselves and the machine, and calls that nobody serves.

use abi::{Counter, Errno, PAGE_SIZE, nr};

use super::Program;
use super::machine::{lock, machine};

fn fails(errno: Errno) -> i64 {
    -(errno as i64)
}

#[test]
fn unknown_calls_fail_and_are_counted() {
    let program = Program::new();
    program.run(|user| {
        let count = || machine().memory.counters.total(Counter::CallUnknown);
        let before = count();
        for number in [nr::execve, nr::wait4, nr::mremap, nr::rt_sigreturn, 511, 512, 1 << 40, u64::MAX] {
            assert_eq!(user.call(number, &[]), fails(Errno::ENOSYS), "call {number}");
        }
        assert_eq!(count() - before, 8);
        assert_eq!(lock(&user.world.unknown).len(), 8);
        assert_eq!(user.call(nr::getuid, &[]), 1000);
        assert_eq!(count() - before, 8);
    });
    let seen = crate::Seen::new();
    assert!(seen.first(5) && !seen.first(5) && seen.first(6) && seen.first(u64::MAX) && !seen.first(1 << 50));
}

#[test]
fn names_and_sizes() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        assert_eq!(user.call(nr::uname, &[at]), 0);
        assert!(user.get(at, 6).starts_with(b"Linux\0"));
        assert!(user.get(at + 65 * 2, 5).starts_with(b"6.18."));
        assert!(user.get(at + 65 * 4, 7).starts_with(b"x86_64\0"));
        assert_eq!(user.call(nr::uname, &[at + PAGE_SIZE - 100]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::sysinfo, &[at]), 0);
        let (total, free) = (user.word(at + 32), user.word(at + 40));
        assert!(total > free && free > 0 && user.word(at + 104) as u32 == 1, "{total} {free}");
        for number in [nr::getuid, nr::geteuid, nr::getgid, nr::getegid] {
            assert_eq!(user.call(number, &[]), 1000);
        }
        assert_eq!(user.call(nr::getrusage, &[0, at]), 0);
        assert_eq!((user.word(at), user.word(at + 8)), (1, 500_000));
        assert_eq!(user.call(nr::getrusage, &[5, at]), fails(Errno::EINVAL));
    });
}

#[test]
fn random_bytes() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        assert_eq!(user.call(nr::getrandom, &[at + 1, 700, 0]), 700);
        assert_eq!(user.get(at, 702), [vec![0], vec![0x5a; 700], vec![0]].concat());
        assert_eq!(user.call(nr::getrandom, &[at + PAGE_SIZE - 10, 20, 1]), 10);
        assert_eq!(user.call(nr::getrandom, &[at + PAGE_SIZE, 20, 1]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::getrandom, &[at, 20, 8]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::getrandom, &[at, 20, 6]), fails(Errno::EINVAL));
    });
}

#[test]
fn limits() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let (stack, files) = (3, 7);
        assert_eq!(user.call(nr::prlimit64, &[0, stack, 0, at]), 0);
        assert_eq!((user.word(at), user.word(at + 8)), (8 << 20, u64::MAX));
        assert_eq!(user.call(nr::getrlimit, &[files, at]), 0);
        assert_eq!((user.word(at), user.word(at + 8)), (1024, 1024));
        user.put_words(at, &[512, 1000]);
        assert_eq!(user.call(nr::prlimit64, &[0, files, at, at + 16]), 0);
        assert_eq!((user.word(at + 16), user.word(at + 24)), (1024, 1024));
        assert_eq!(user.call(nr::getrlimit, &[files, at]), 0);
        assert_eq!((user.word(at), user.word(at + 8)), (512, 1000));
        user.put_words(at, &[512, 1024]);
        assert_eq!(user.call(nr::setrlimit, &[files, at]), fails(Errno::EPERM));
        user.put_words(at, &[2, 1]);
        assert_eq!(user.call(nr::setrlimit, &[files, at]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::prlimit64, &[0, 16, 0, at]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::prlimit64, &[29_999, stack, 0, at]), fails(Errno::ESRCH));
        assert_eq!(user.call(nr::prlimit64, &[0, stack, 0, at + PAGE_SIZE]), fails(Errno::EFAULT));
    });
}

#[test]
fn cpus() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        assert_eq!(user.call(nr::sched_getaffinity, &[0, 128, at]), 8);
        assert_eq!(user.word(at), 0xff);
        assert_eq!(user.call(nr::sched_getaffinity, &[0, 7, at]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::sched_getaffinity, &[0, 0, at]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::sched_getaffinity, &[29_999, 8, at]), fails(Errno::ESRCH));
        user.put_words(at, &[0xff00 | 0b101]);
        assert_eq!(user.call(nr::sched_setaffinity, &[0, 8, at]), 0);
        assert_eq!(user.call(nr::sched_getaffinity, &[u64::from(program.id()), 8, at]), 8);
        assert_eq!(user.word(at), 0b101, "offline CPUs are dropped");
        user.put_words(at, &[0xff00]);
        assert_eq!(user.call(nr::sched_setaffinity, &[0, 8, at]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::getcpu, &[at, at + 4, 0]), 0);
        assert_eq!(user.word(at), 0);
        assert_eq!(user.call(nr::sched_yield, &[]), 0);

        assert_eq!(user.call(nr::membarrier, &[0, 0]), 0b1_1001);
        assert_eq!(user.call(nr::membarrier, &[8, 0]), fails(Errno::EPERM));
        assert_eq!(user.call(nr::membarrier, &[16, 0]), 0);
        assert_eq!(user.call(nr::membarrier, &[8, 0]), 0);
        assert_eq!(user.call(nr::membarrier, &[1, 0]), 0);
        assert_eq!(user.call(nr::membarrier, &[2, 0]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::membarrier, &[0, 1]), fails(Errno::EINVAL));
    });
}
