//! Memory calls as far as this crate decodes them; what they do is `mm`'s to test.

use abi::{Errno, PAGE_SIZE, nr};

use super::Program;

fn fails(errno: Errno) -> i64 {
    -(errno as i64)
}

const READ_WRITE: u64 = 3;
const PRIVATE_ANONYMOUS: u64 = 0x22;
const NO_FD: u64 = u64::MAX;

#[test]
fn arguments_are_decoded_as_linux_does() {
    let program = Program::new();
    program.run(|user| {
        let mmap = |args: &[u64]| user.call(nr::mmap, args);
        assert_eq!(mmap(&[0, PAGE_SIZE, READ_WRITE, PRIVATE_ANONYMOUS, NO_FD, 1]), fails(Errno::EINVAL));
        assert_eq!(mmap(&[0, 0, READ_WRITE, PRIVATE_ANONYMOUS, NO_FD, 0]), fails(Errno::EINVAL));
        assert_eq!(mmap(&[0, PAGE_SIZE, READ_WRITE, 2, 9, 0]), fails(Errno::EBADF), "a file that is not open");
        assert_eq!(mmap(&[0, PAGE_SIZE, READ_WRITE, 2, 0, 0]), fails(Errno::ENODEV), "a stream");
        let at = mmap(&[0, 2 * PAGE_SIZE, READ_WRITE, PRIVATE_ANONYMOUS, NO_FD, 0]) as u64;
        user.put_words(at, &[7]);
        assert_eq!(user.call(nr::mprotect, &[at, PAGE_SIZE, 1 << 40]), fails(Errno::EINVAL));
        assert_eq!(user.call(nr::mprotect, &[at, PAGE_SIZE, 1]), 0);
        assert_eq!(user.call(nr::read, &[0, at, 0]), 0);
        assert_eq!(user.call(nr::clock_gettime, &[1, at]), fails(Errno::EFAULT), "the kernel keeps to the rights too");
        assert_eq!(user.word(at), 7);
        let dontneed = 4;
        assert_eq!(user.call(nr::madvise, &[at, 2 * PAGE_SIZE, dontneed]), 0);
        assert_eq!(user.word(at), 0);
        assert_eq!(user.call(nr::munmap, &[at, 2 * PAGE_SIZE]), 0);
        assert_eq!(user.call(nr::munmap, &[at + 1, PAGE_SIZE]), fails(Errno::EINVAL));
    });
}

#[test]
fn the_heap_begins_after_the_last_segment() {
    let program = Program::new();
    program.run(|user| {
        let start = user.call(nr::brk, &[0]);
        assert_eq!(start, 0x40_2000);
        let start = start as u64;
        assert_eq!(user.call(nr::brk, &[start + 5000]), start as i64 + 5000);
        user.put_words(start + 4992, &[1]);
        assert_eq!(user.call(nr::brk, &[0x1000]), start as i64 + 5000, "too low: nothing moves");
        assert_eq!(user.call(nr::brk, &[start]), start as i64);
    });
}
