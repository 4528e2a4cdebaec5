//! Every error of the memory calls, and which of two comes first: a table of Linux's answers.

use abi::{
    MMAP_MIN_ADDR,
    flags::{madv, map, prot},
};
use mm::{
    Errno::{self, *},
    MAX_MAP_COUNT, MapRequest, PAGE_SIZE, USER_END,
    testing::{Machine, Process},
};

const RW: u32 = prot::READ | prot::WRITE;
const ANON: u32 = map::PRIVATE | map::ANONYMOUS;
const BASE: u64 = 0x10_0000_0000;
const P: u64 = PAGE_SIZE;

/// What it is about; address, length, rights or advice; the answer.
type Row<T> = (&'static str, u64, u64, T, Result<(), Errno>);

/// A program with pages 0..4 and 6..8 from [`BASE`] mapped, on a machine of 4096 frames.
fn program(body: impl FnOnce(&Process)) {
    let machine = Machine::new(4096);
    machine.on_cpu(0, || {
        let process = Process::new(machine);
        process.space.mmap(MapRequest::fixed(BASE, 4 * P, RW)).unwrap();
        process.space.mmap(MapRequest::fixed(BASE + 6 * P, 2 * P, RW)).unwrap();
        body(&process);
    });
}

#[test]
fn mmap_errors() {
    let fixed = ANON | map::FIXED;
    let noreplace = ANON | map::FIXED_NOREPLACE;
    let table: &[(&str, u64, u64, u32, Errno)] = &[
        ("length 0", 0, 0, ANON, EINVAL),
        ("length 0 comes before everything", 1, 0, map::FIXED, EINVAL),
        ("length wraps", 0, u64::MAX, ANON, ENOMEM),
        ("longer than the user half", 0, USER_END + P, ANON, ENOMEM),
        ("no hole is that large", 0, USER_END, ANON | map::NORESERVE, ENOMEM),
        ("fixed beyond the end", USER_END, P, fixed, ENOMEM),
        ("fixed across the end", USER_END - P, 2 * P, fixed, ENOMEM),
        ("beyond the end comes before unaligned", USER_END + 1, P, fixed, ENOMEM),
        ("fixed and unaligned", BASE + 1, P, fixed, EINVAL),
        ("unaligned comes before too low", 1, P, fixed, EINVAL),
        ("fixed too low", 0, P, fixed, EPERM),
        ("fixed just too low", MMAP_MIN_ADDR - P, P, fixed, EPERM),
        ("not to be replaced: exact", BASE, 4 * P, noreplace, EEXIST),
        ("not to be replaced: inside", BASE + P, P, noreplace, EEXIST),
        ("not to be replaced: low tail", BASE - P, 2 * P, noreplace, EEXIST),
        ("not to be replaced: high tail", BASE + 3 * P, 2 * P, noreplace, EEXIST),
        ("not to be replaced: around", BASE - P, 20 * P, noreplace, EEXIST),
        ("taken comes before bad type", BASE, P, map::ANONYMOUS | map::FIXED_NOREPLACE, EEXIST),
        ("no type", 0, P, map::ANONYMOUS, EINVAL),
        ("unknown type", 0, P, map::ANONYMOUS | 0x0f, EINVAL),
        ("shared and validated, without a file", 0, P, map::ANONYMOUS | map::SHARED_VALIDATE, EINVAL),
        ("shared: not there yet", 0, P, map::ANONYMOUS | map::SHARED, ENODEV),
        ("file: not there yet", 0, P, map::PRIVATE, ENODEV),
        ("growing: not there yet", 0, P, ANON | map::GROWSDOWN, EINVAL),
        ("huge pages: not there yet", 0, P, ANON | map::HUGETLB, EINVAL),
        ("more than the machine has", 0, 4097 * P, ANON, ENOMEM),
    ];
    program(|process| {
        let before = process.mappings();
        for &(what, addr, len, flags, errno) in table {
            let request = MapRequest { addr, len, prot: RW, flags };
            assert_eq!(process.space.mmap(request), Err(errno), "{what}");
        }
        assert_eq!(process.mappings(), before);
        // What is next to those is fine.
        for (addr, len, flags) in [
            (BASE + 4 * P, 2 * P, noreplace),
            (BASE - P, P, noreplace),
            (MMAP_MIN_ADDR, P, fixed),
            (USER_END - P, P, fixed),
            (0, 4097 * P, ANON | map::NORESERVE),
        ] {
            process.space.mmap(MapRequest { addr, len, prot: RW, flags }).unwrap();
        }
        // Memory that cannot be written is not charged; harmless flags are ignored.
        process.space.mmap(MapRequest { addr: 0, len: 5000 * P, prot: prot::READ, flags: ANON }).unwrap();
        let harmless = ANON | map::STACK | map::DENYWRITE | map::EXECUTABLE;
        process.space.mmap(MapRequest { addr: 0, len: 1, prot: 0xff0 | prot::READ, flags: harmless }).unwrap();
    });
}

#[test]
fn munmap_errors() {
    let table: &[(&str, u64, u64, Errno)] = &[
        ("length 0", BASE, 0, EINVAL),
        ("unaligned", BASE + 1, P, EINVAL),
        ("beyond the end", USER_END + P, P, EINVAL),
        ("across the end", USER_END - P, 2 * P, EINVAL),
        ("length wraps", BASE, u64::MAX, EINVAL),
        ("nothing at the very end", USER_END, 0, EINVAL),
    ];
    program(|process| {
        let before = process.mappings();
        for &(what, addr, len, errno) in table {
            assert_eq!(process.space.munmap(addr, len), Err(errno), "{what}");
        }
        assert_eq!(process.mappings(), before);
        assert_eq!(process.space.munmap(BASE + 4 * P, 2 * P), Ok(()), "a hole is fine");
        assert_eq!(process.mappings(), before);
        assert_eq!(process.space.munmap(BASE + 3 * P, 3 * P + 1), Ok(()), "holes are fine, and lengths are rounded up");
        assert_eq!(process.mappings().iter().map(|vma| vma.end - vma.start).collect::<Vec<_>>(), [3 * P, P]);
        assert_eq!(process.space.munmap(0, USER_END), Ok(()));
        assert_eq!(process.mappings(), []);
    });
}

#[test]
fn mprotect_errors() {
    let both = prot::GROWSDOWN | prot::GROWSUP;
    let table: &[Row<u32>] = &[
        ("grows both ways", BASE, P, both, Err(EINVAL)),
        ("unaligned", BASE + 1, P, RW, Err(EINVAL)),
        ("unaligned comes before length 0", BASE + 1, 0, RW, Err(EINVAL)),
        ("length 0, even where nothing is mapped", 0, 0, RW, Ok(())),
        ("length 0 comes before bad bits", 0, 0, 0x80, Ok(())),
        ("length wraps", BASE, u64::MAX, RW, Err(ENOMEM)),
        ("range wraps", !0xfff, 2 * P, RW, Err(ENOMEM)),
        ("wrapping comes before bad bits", !0xfff, 2 * P, 0x80, Err(ENOMEM)),
        ("bad bits", BASE, P, 0x80, Err(EINVAL)),
        ("bad bits come before a hole", 0x5000_0000, P, 0x80, Err(EINVAL)),
        ("first page unmapped", BASE + 4 * P, 4 * P, prot::READ, Err(ENOMEM)),
        ("beyond the end", USER_END + P, P, prot::READ, Err(ENOMEM)),
        ("grows, but it does not", BASE, P, RW | prot::GROWSDOWN, Err(EINVAL)),
        ("grows, but nothing is there", BASE + 4 * P, P, RW | prot::GROWSUP, Err(ENOMEM)),
        ("nothing to do", BASE, 4 * P, RW, Ok(())),
        ("semaphores are a right that nobody has heard of", BASE, 4 * P, RW | prot::SEM, Ok(())),
    ];
    program(|process| {
        let before = process.mappings();
        for &(what, addr, len, prot, result) in table {
            assert_eq!(process.space.mprotect(addr, len, prot), result, "{what}");
            assert_eq!(process.mappings(), before, "{what}");
        }
        assert_eq!(
            process.space.mprotect(BASE + 6 * P, 4 * P, prot::READ),
            Err(ENOMEM),
            "tail beyond the last mapping"
        );
        assert_eq!(process.mappings()[1].rights, mm::Rights::READ, "and yet it was changed");
    });
}

#[test]
fn madvise_errors() {
    let table: &[Row<i32>] = &[
        ("unknown advice", BASE, P, 77, Err(EINVAL)),
        ("unknown advice comes before length 0", BASE, 0, -1, Err(EINVAL)),
        ("unaligned", BASE + 1, P, madv::DONTNEED, Err(EINVAL)),
        ("length rounds to 0", BASE, u64::MAX, madv::DONTNEED, Err(EINVAL)),
        ("range wraps", !0xfff, 2 * P, madv::DONTNEED, Err(EINVAL)),
        ("length 0", 0, 0, madv::DONTNEED, Ok(())),
        ("a hole", BASE + 3 * P, 2 * P, madv::WILLNEED, Err(ENOMEM)),
        ("a hole in front", BASE + 4 * P, 4 * P, madv::DONTNEED, Err(ENOMEM)),
        ("nothing there", 0x5000_0000, P, madv::DONTNEED, Err(ENOMEM)),
        ("beyond the end", USER_END - P, 2 * P, madv::DONTNEED, Err(ENOMEM)),
        ("far beyond the end", USER_END + P, P, madv::DONTNEED, Err(ENOMEM)),
        ("all there", BASE, 4 * P, madv::DONTNEED, Ok(())),
    ];
    program(|process| {
        for &(what, addr, len, advice, result) in table {
            assert_eq!(process.space.madvise(addr, len, advice), result, "{what}");
        }
    });
}

#[test]
fn the_number_of_mappings_is_limited() {
    let machine = Machine::new(8192);
    machine.on_cpu(0, || {
        let process = Process::new(machine);
        let space = &process.space;
        // Every other page, so that none merges. The check is strict: one more than the limit can exist.
        for n in 0..MAX_MAP_COUNT as u64 {
            space.mmap(MapRequest::fixed(BASE + 4 * n * P, 3 * P, RW)).unwrap();
        }
        let middle = BASE + P;
        assert_eq!(space.munmap(middle, P), Err(ENOMEM), "a hole in the middle makes one more");
        assert_eq!(space.mprotect(middle, P, prot::READ), Err(ENOMEM), "so do other rights in the middle");
        assert_eq!(space.mprotect(BASE, P, prot::READ), Err(ENOMEM), "and at an end");
        assert_eq!(space.madvise(middle, P, madv::RANDOM), Err(EAGAIN));
        assert_eq!(space.mmap(MapRequest::fixed(middle, P, prot::READ)), Err(ENOMEM), "it would make two more");
        assert_eq!(space.mapping_count(), MAX_MAP_COUNT);
        assert_eq!(space.munmap(BASE, P), Ok(()), "an end can go");
        assert_eq!(space.mmap(MapRequest::fixed(BASE, P, prot::READ)), Ok(BASE));
        assert_eq!(space.mapping_count(), MAX_MAP_COUNT + 1);
        assert_eq!(space.mmap(MapRequest::anonymous(P, RW)), Err(ENOMEM));
        assert_eq!(space.munmap(BASE, P), Ok(()));
        assert_eq!(space.munmap(0, USER_END), Ok(()));
        assert_eq!(space.mapping_count(), 0);
    });
}
