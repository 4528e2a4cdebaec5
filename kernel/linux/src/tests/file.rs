//! Streams, descriptors, names and `poll`.

use core::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use abi::{Errno, PAGE_SIZE, USER_END, nr};

use super::machine::lock;
use super::{Program, User};

fn fails(errno: Errno) -> i64 {
    -(errno as i64)
}

#[test]
fn writes_reach_their_stream_in_one_piece() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        user.put(at, b"hello, world\n");
        assert_eq!(user.call(nr::write, &[1, at, 13]), 13);
        assert_eq!(user.call(nr::write, &[2, at, 5]), 5);
        assert_eq!(user.call(nr::write, &[1, at, 0]), 0);
    });
    assert_eq!(*lock(&program.world.out), b"hello, world\n");
    assert_eq!(*lock(&program.world.err), b"hello");
    assert_eq!(program.world.writes.load(Ordering::Relaxed), 2);
}

#[test]
fn a_vector_is_gathered() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        user.put(at, b"one two three");
        let parts = at + 0x100;
        user.put_words(parts, &[at, 4, 0, 0, at + 4, 4, at + 8, 5]);
        assert_eq!(user.call(nr::writev, &[1, parts, 4]), 13);
        assert_eq!(user.call(nr::writev, &[1, parts, 0]), 0);
    });
    assert_eq!(*lock(&program.world.out), b"one two three");
    assert_eq!(program.world.writes.load(Ordering::Relaxed), 1, "one line, one piece");
}

#[test]
fn what_lies_before_bad_memory_is_written_and_counted() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(2);
        user.put(at, &[7; 2 * PAGE_SIZE as usize]);
        let last = at + 2 * PAGE_SIZE;
        assert_eq!(user.call(nr::write, &[1, last - 5000, 6000]), 5000);
        assert_eq!(lock(&user.world.out).len(), 5000);
        assert_eq!(user.call(nr::write, &[1, last, 1]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::write, &[1, 0, 1]), fails(Errno::EFAULT));
        // Outside the programs' half nothing is even tried.
        assert_eq!(user.call(nr::write, &[1, USER_END - 1, 2]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::write, &[1, 0xffff_8000_0000_0000, 1]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::write, &[1, at, 1 << 47]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::write, &[1, at, u64::MAX]), fails(Errno::EINVAL));
        // In a vector: the first part counts, a bad first part is an error.
        let parts = at;
        user.put_words(parts, &[at + 0x100, 10, last, 10]);
        assert_eq!(user.call(nr::writev, &[1, parts, 2]), 10);
        user.put_words(parts, &[last, 10, at + 0x100, 10]);
        assert_eq!(user.call(nr::writev, &[1, parts, 2]), fails(Errno::EFAULT));
        user.put_words(parts, &[at + 0x100, 10, at, u64::MAX]);
        assert_eq!(user.call(nr::writev, &[1, parts, 2]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::writev, &[1, parts, 1025]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::writev, &[1, last, 1]), fails(Errno::EFAULT));
        assert_eq!(lock(&user.world.out).len(), 5010, "errors write nothing");
    });
}

#[test]
fn reads_take_what_there_is() {
    let program = Program::new();
    program.world.type_in(b"some input");
    program.run(|user| {
        let at = user.pages(1);
        assert_eq!(user.call(nr::read, &[0, at, 4]), 4);
        assert_eq!(user.get(at, 5), b"some\0");
        let parts = at + 0x100;
        user.put_words(parts, &[at, 2, at + 0x10, 100]);
        assert_eq!(user.call(nr::readv, &[0, parts, 2]), 6);
        assert_eq!((user.get(at, 2), user.get(at + 0x10, 4)), (b" i".to_vec(), b"nput".to_vec()));
        assert_eq!(user.call(nr::read, &[0, at, 0]), 0);
        user.world.type_in(b"x");
        assert_eq!(user.call(nr::read, &[0, at + PAGE_SIZE, 1]), fails(Errno::EFAULT));
        user.world.end_input();
        assert_eq!(user.call(nr::read, &[0, at, 10]), 0);
    });
}

#[test]
fn a_read_sleeps_until_there_is_input() {
    let program = Program::new();
    let world = program.world.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            world.type_in(b"late");
        });
        program.run(|user| {
            let at = user.pages(1);
            assert_eq!(user.call(nr::read, &[0, at, 100]), 4);
            assert_eq!(user.get(at, 4), b"late");
        });
    });
}

#[test]
fn descriptors_have_a_direction_and_can_be_closed_and_copied() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let bad = fails(Errno::EBADF);
        assert_eq!(user.call(nr::read, &[1, at, 1]), bad);
        assert_eq!(user.call(nr::write, &[0, at, 1]), bad);
        assert_eq!(user.call(nr::write, &[3, at, 1]), bad);
        assert_eq!(user.call(nr::write, &[u64::MAX, at, 1]), bad);
        assert_eq!(user.call(nr::close, &[7]), bad);

        assert_eq!(user.call(nr::dup, &[1]), 3);
        assert_eq!(user.call(nr::close, &[1]), 0);
        assert_eq!(user.call(nr::write, &[1, at, 1]), bad);
        assert_eq!(user.call(nr::write, &[3, at, 1]), 1);
        assert_eq!(user.call(nr::dup2, &[3, 1]), 1);
        assert_eq!(user.call(nr::write, &[1, at, 1]), 1);
        assert_eq!(user.call(nr::dup2, &[3, 3]), 3);
        assert_eq!(user.call(nr::dup2, &[9, 3]), bad);
        assert_eq!(user.call(nr::dup2, &[3, 1024]), bad);
        assert_eq!(user.call(nr::dup3, &[3, 3, 0]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::dup3, &[3, 1023, 0o2_000_000]), 1023);
        let (getfd, setfd, getfl, dupfd) = (1, 2, 3, 0);
        assert_eq!(user.call(nr::fcntl, &[1023, getfd, 0]), 1);
        assert_eq!(user.call(nr::fcntl, &[1023, setfd, 0]), 0);
        assert_eq!(user.call(nr::fcntl, &[1023, getfd, 0]), 0);
        assert_eq!(user.call(nr::fcntl, &[0, getfl, 0]), 0);
        assert_eq!(user.call(nr::fcntl, &[1, getfl, 0]), 1);
        assert_eq!(user.call(nr::fcntl, &[1, dupfd, 10]), 10);
        assert_eq!(user.call(nr::fcntl, &[1, dupfd, 1023]), fails(Errno::EMFILE));
        assert_eq!(user.call(nr::fcntl, &[1, dupfd, 1024]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::fcntl, &[5, getfd, 0]), bad);
        assert_eq!(user.call(nr::fcntl, &[1, 999, 0]), fails(Errno::EINVAL));

        let tcgets = 0x5401;
        assert_eq!(user.call(nr::ioctl, &[1, tcgets, at]), fails(Errno::ENOTTY));
        assert_eq!(user.call(nr::ioctl, &[5, tcgets, at]), bad);
        assert_eq!(user.call(nr::lseek, &[0, 0, 1]), fails(Errno::ESPIPE));
        assert_eq!(user.call(nr::lseek, &[5, 0, 1]), bad);
    });
}

#[test]
fn streams_are_described_as_pipes() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        let empty = at + 0x800;
        let mode = |user: &User| user.half(at + 24) & 0o170_000;
        assert_eq!(user.call(nr::fstat, &[1, at]), 0);
        assert_eq!(mode(user), 0o10_000);
        user.put(at, &[0; 144]);
        assert_eq!(user.call(nr::newfstatat, &[1, empty, at, 0x1000]), 0);
        assert_eq!(mode(user), 0o10_000);
        assert_eq!(user.call(nr::statx, &[1, empty, 0x1000, 0x7ff, at]), 0);
        assert_eq!(user.half(at + 28) & 0o170_000, 0o10_000);
        assert_eq!(user.call(nr::fstat, &[9, at]), fails(Errno::EBADF));
        assert_eq!(user.call(nr::fstat, &[1, 0]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::newfstatat, &[1, empty, at, 0x8000]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::statx, &[1, empty, 0x6000, 0, at]), fails(Errno::EINVAL));
    });
}

#[test]
fn names_are_not_found_but_checked() {
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(2);
        user.put(at, b"/etc/hosts\0");
        let relative = at + 5;
        let at_cwd = -100i64 as u64;
        assert_eq!(user.call(nr::open, &[at, 0]), fails(Errno::ENOENT));
        assert_eq!(user.call(nr::openat, &[at_cwd, at, 0]), fails(Errno::ENOENT));
        assert_eq!(user.call(nr::openat, &[at_cwd, relative, 0]), fails(Errno::ENOENT));
        assert_eq!(user.call(nr::openat, &[1, relative, 0]), fails(Errno::ENOTDIR));
        assert_eq!(user.call(nr::openat, &[9, relative, 0]), fails(Errno::EBADF));
        assert_eq!(user.call(nr::openat, &[9, at, 0]), fails(Errno::ENOENT), "absolute names need no directory");
        assert_eq!(user.call(nr::readlink, &[0, at, 10]), fails(Errno::EFAULT));
        assert_eq!(user.call(nr::access, &[at + 2 * PAGE_SIZE, 0]), fails(Errno::EFAULT));
        user.put(at, &[b'a'; 2 * PAGE_SIZE as usize]);
        assert_eq!(user.call(nr::stat, &[at, 0]), fails(Errno::ENAMETOOLONG));
        // A name that ends at the edge of what is mapped is read no further.
        user.put(at + 2 * PAGE_SIZE - 4, b"abc\0");
        assert_eq!(user.call(nr::stat, &[at + 2 * PAGE_SIZE - 4, 0]), fails(Errno::ENOENT));
        assert_eq!(user.call(nr::stat, &[at + 2 * PAGE_SIZE - 300, 0]), fails(Errno::ENOENT));
    });
}

/// `struct pollfd`.
fn pollfd(fd: i32, events: u16) -> u64 {
    u64::from(fd as u32) | u64::from(events) << 32
}

#[test]
fn poll_tells_what_is_ready() {
    const POLLIN: u16 = 1;
    const POLLOUT: u16 = 4;
    const POLLNVAL: u64 = 0x20;
    let program = Program::new();
    program.run(|user| {
        let at = user.pages(1);
        // What Rust's runtime asks at its start.
        user.put_words(at, &[pollfd(0, 0), pollfd(1, 0), pollfd(2, 0)]);
        assert_eq!(user.call(nr::poll, &[at, 3, 0]), 0);
        user.put_words(at, &[pollfd(0, POLLIN), pollfd(1, POLLOUT), pollfd(9, POLLIN), pollfd(-1, POLLIN)]);
        assert_eq!(user.call(nr::poll, &[at, 4, u64::MAX]), 2);
        let found: Vec<u64> = (0..4).map(|index| user.word(at + 8 * index) >> 48).collect();
        assert_eq!(found, [0, u64::from(POLLOUT), POLLNVAL, 0]);

        user.put_words(at, &[pollfd(0, POLLIN)]);
        let start = Instant::now();
        assert_eq!(user.call(nr::poll, &[at, 1, 20]), 0);
        assert!(start.elapsed() >= Duration::from_millis(20));
        user.world.type_in(b"x");
        assert_eq!(user.call(nr::poll, &[at, 1, u64::MAX]), 1);
        user.put_words(at + 0x100, &[0, 30_000_000]);
        assert_eq!(user.call(nr::ppoll, &[at, 1, at + 0x100, 0, 0]), 1);
        assert_eq!(user.call(nr::ppoll, &[at, 0, at + 0x100, 0, 0]), 0);
        assert_eq!((user.word(at + 0x100), user.word(at + 0x108)), (0, 0), "no time is left");
        user.put_words(at + 0x100, &[0, 1_000_000_000]);
        assert_eq!(user.call(nr::ppoll, &[at, 1, at + 0x100, 0, 0]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::poll, &[at, 1025, 0]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::poll, &[0, 1, 0]), fails(Errno::EFAULT));
    });
}
