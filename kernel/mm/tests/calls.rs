//! The memory calls, one at a time, on one CPU: what they do, and what they do not.

use abi::flags::{madv, map, prot};
use mm::{
    Access, Errno, FaultError, MMAP_BASE, MapRequest, PAGE_SIZE, Rights, USER_END,
    testing::{Machine, Process, User},
};

const RW: u32 = prot::READ | prot::WRITE;
const BASE: u64 = 0x10_0000_0000;

fn page(n: u64) -> u64 {
    BASE + n * PAGE_SIZE
}

/// Runs `body` as a program on CPU 0, and checks that everything comes back when it ends.
fn program(body: impl FnOnce(&Process, &User<'_>)) {
    let machine = Machine::new(4096);
    let before = machine.usage();
    let process = Process::new(machine);
    process.run_on(0, |user| {
        body(&process, user);
        process.check_tlbs();
    });
    machine.on_cpu(0, || {
        drop(process);
        machine.drain();
    });
    let after = machine.usage();
    assert_eq!(after.owned, before.owned, "frames were lost");
    assert_eq!(after.available(), before.available());
}

/// The mappings as `(first page, one past the last page, rights)`, pages counted from [`BASE`].
fn layout(process: &Process) -> Vec<(u64, u64, Rights)> {
    let pages = |addr: u64| (addr - BASE) / PAGE_SIZE;
    process.mappings().iter().map(|vma| (pages(vma.start), pages(vma.end), vma.rights)).collect()
}

const RW_: Rights = Rights::READ.union(Rights::WRITE);

fn map(process: &Process, first: u64, pages: u64, prot: u32) {
    let request = MapRequest::fixed(page(first), pages * PAGE_SIZE, prot);
    assert_eq!(process.space.mmap(request), Ok(page(first)));
}

#[test]
fn fresh_memory_is_zero_and_keeps_what_is_written() {
    program(|process, user| {
        let addr = process.space.mmap(MapRequest::anonymous(3 * PAGE_SIZE, RW)).unwrap();
        assert_eq!(addr + 3 * PAGE_SIZE, MMAP_BASE);
        for n in 0..3 {
            assert_eq!(user.load(addr + n * PAGE_SIZE), Ok(0));
            user.store(addr + n * PAGE_SIZE + 8, n + 1).unwrap();
        }
        for n in 0..3 {
            assert_eq!(user.load(addr + n * PAGE_SIZE + 8), Ok(n + 1));
        }
    });
}

#[test]
fn unmapped_memory_is_gone_at_once() {
    program(|process, user| {
        map(process, 0, 4, RW);
        user.store(page(1), 1).unwrap();
        user.store(page(2), 2).unwrap();
        process.space.munmap(page(1), PAGE_SIZE).unwrap();
        assert_eq!(user.load(page(1)), Err(FaultError::NoMapping));
        assert_eq!(user.load(page(2)), Ok(2));
        assert_eq!(layout(process), [(0, 1, RW_), (2, 4, RW_)]);
        map(process, 1, 1, RW);
        assert_eq!(user.load(page(1)), Ok(0), "memory comes back empty");
        assert_eq!(layout(process), [(0, 4, RW_)], "and joins its neighbours");
    });
}

#[test]
fn a_fixed_mapping_replaces_what_is_there() {
    program(|process, user| {
        map(process, 0, 6, RW);
        for n in 0..6 {
            user.store(page(n), n + 1).unwrap();
        }
        map(process, 2, 2, prot::READ);
        assert_eq!(layout(process), [(0, 2, RW_), (2, 4, Rights::READ), (4, 6, RW_)]);
        let seen: Vec<_> = (0..6).map(|n| user.load(page(n)).unwrap()).collect();
        assert_eq!(seen, [1, 2, 0, 0, 5, 6]);
        // The same rights: one mapping again, but empty in the middle.
        map(process, 2, 2, RW);
        assert_eq!(layout(process), [(0, 6, RW_)]);
        map(process, 1, 3, RW);
        assert_eq!(layout(process), [(0, 6, RW_)]);
        let seen: Vec<_> = (0..6).map(|n| user.load(page(n)).unwrap()).collect();
        assert_eq!(seen, [1, 0, 0, 0, 5, 6]);
    });
}

#[test]
fn rights_are_what_mprotect_says() {
    program(|process, user| {
        map(process, 0, 3, RW);
        for n in 0..3 {
            user.store(page(n), n + 1).unwrap();
        }
        process.space.mprotect(page(1), PAGE_SIZE, prot::READ).unwrap();
        assert_eq!(layout(process), [(0, 1, RW_), (1, 2, Rights::READ), (2, 3, RW_)]);
        assert_eq!(user.load(page(1)), Ok(2));
        assert!(matches!(user.store(page(1), 9), Err(FaultError::Denied { vma }) if vma.start == page(1)));
        assert!(matches!(user.fetch(page(1)), Err(FaultError::Denied { .. })));
        process.space.mprotect(page(1), PAGE_SIZE, prot::NONE).unwrap();
        assert!(matches!(user.load(page(1)), Err(FaultError::Denied { .. })));
        process.space.mprotect(page(1), PAGE_SIZE, RW).unwrap();
        assert_eq!(layout(process), [(0, 3, RW_)]);
        assert_eq!(user.load(page(1)), Ok(2), "contents outlive rights");
        user.store(page(1), 9).unwrap();
        process.space.mprotect(page(0), 3 * PAGE_SIZE, prot::READ | prot::EXEC).unwrap();
        assert_eq!(user.fetch(page(2)), Ok(()));
        assert!(user.store(page(2), 1).is_err());
    });
}

#[test]
fn mprotect_changes_what_lies_before_a_hole() {
    program(|process, _| {
        map(process, 0, 2, RW);
        map(process, 3, 2, RW);
        assert_eq!(process.space.mprotect(page(1), 3 * PAGE_SIZE, prot::READ), Err(Errno::ENOMEM));
        assert_eq!(layout(process), [(0, 1, RW_), (1, 2, Rights::READ), (3, 5, RW_)]);
        assert_eq!(process.space.mprotect(page(2), 2 * PAGE_SIZE, prot::READ), Err(Errno::ENOMEM));
        assert_eq!(layout(process), [(0, 1, RW_), (1, 2, Rights::READ), (3, 5, RW_)]);
    });
}

#[test]
fn madvise_empties_and_skips_holes() {
    program(|process, user| {
        map(process, 0, 2, RW);
        map(process, 3, 2, RW);
        for n in [0, 1, 3, 4] {
            user.store(page(n), n + 1).unwrap();
        }
        assert_eq!(process.space.madvise(page(1), 3 * PAGE_SIZE, madv::DONTNEED), Err(Errno::ENOMEM));
        let seen: Vec<_> = [0, 1, 3, 4].into_iter().map(|n| user.load(page(n)).unwrap()).collect();
        assert_eq!(seen, [1, 0, 0, 5]);
    });
}

#[test]
fn advice_cuts_and_joins_mappings() {
    program(|process, _| {
        map(process, 0, 4, RW);
        process.space.madvise(page(1), PAGE_SIZE, madv::RANDOM).unwrap();
        assert_eq!(layout(process).len(), 3);
        process.space.madvise(page(1), PAGE_SIZE, madv::NORMAL).unwrap();
        assert_eq!(layout(process).len(), 1);
        for hint in [madv::WILLNEED, madv::HUGEPAGE, madv::NOHUGEPAGE, madv::SEQUENTIAL, madv::FREE] {
            process.space.madvise(page(0), 4 * PAGE_SIZE, hint).unwrap();
        }
        assert_eq!(layout(process).len(), 1);
    });
}

#[test]
fn the_break_grows_and_shrinks() {
    program(|process, user| {
        let space = &process.space;
        space.set_brk_start(page(0));
        assert_eq!(space.brk(0), page(0));
        assert_eq!(space.brk(page(0) + 100), page(0) + 100);
        user.store(page(0), 7).unwrap();
        assert_eq!(space.brk(page(3)), page(3));
        user.store(page(2), 8).unwrap();
        assert_eq!(process.mappings()[0].name, "[heap]");
        assert_eq!(space.brk(page(1)), page(1));
        assert_eq!(user.load(page(2)), Err(FaultError::NoMapping));
        assert_eq!(space.brk(page(3)), page(3));
        assert_eq!(user.load(page(2)), Ok(0));
        assert_eq!(user.load(page(0)), Ok(7));
        // A page stays free below the next mapping.
        map(process, 5, 1, RW);
        assert_eq!(space.brk(page(5)), page(3));
        assert_eq!(space.brk(page(4)), page(4));
        assert_eq!(space.brk(page(0) - 1), page(4));
        assert_eq!(space.brk(u64::MAX), page(4));
    });
}

#[test]
fn hints_are_honoured_where_there_is_room() {
    program(|process, _| {
        let space = &process.space;
        let hinted = |addr| MapRequest { addr, ..MapRequest::anonymous(2 * PAGE_SIZE, RW) };
        assert_eq!(space.mmap(hinted(page(4) + 5)), Ok(page(4)));
        assert_eq!(space.mmap(hinted(page(5))), Ok(MMAP_BASE - 2 * PAGE_SIZE), "taken: top-down instead");
        assert_eq!(space.mmap(hinted(1 << 13)), Ok(abi::MMAP_MIN_ADDR), "raised to the lowest address");
        let low = space.mmap(MapRequest {
            flags: map::PRIVATE | map::ANONYMOUS | map::MAP_32BIT,
            ..MapRequest::anonymous(PAGE_SIZE, RW)
        });
        assert_eq!(low, Ok(0x8000_0000 - PAGE_SIZE));
    });
}

#[test]
fn populated_memory_does_not_fault() {
    program(|process, user| {
        let counters = &process.space.memory().counters;
        let request = MapRequest::anonymous(8 * PAGE_SIZE, RW);
        let addr = process.space.mmap(MapRequest { flags: request.flags | map::POPULATE, ..request }).unwrap();
        for n in 0..8 {
            user.store(addr + n * PAGE_SIZE, n).unwrap();
        }
        assert_eq!(counters.total(abi::Counter::Fault), 0);
    });
}

#[test]
fn initial_contents_reach_pages_without_rights() {
    program(|process, user| {
        map(process, 0, 2, prot::READ);
        map(process, 2, 1, prot::NONE);
        let bytes: Vec<u8> = (0..200).collect();
        process.space.write_initial(page(1) - 100, &bytes).unwrap();
        process.space.write_initial(page(2), &7u64.to_le_bytes()).unwrap();
        assert_eq!(user.load(page(1)).map(|word| word.to_le_bytes()), Ok([100, 101, 102, 103, 104, 105, 106, 107]));
        assert_eq!(process.space.write_initial(page(3) - 4, &bytes), Err(Errno::EFAULT));
        process.space.mprotect(page(2), PAGE_SIZE, prot::READ).unwrap();
        assert_eq!(user.load(page(2)), Ok(7));
        assert!(user.store(page(0), 1).is_err());
    });
}

#[test]
fn a_fault_ends_in_exactly_one_counter() {
    use abi::Counter::*;
    program(|process, user| {
        let counters = &process.space.memory().counters;
        map(process, 0, 4, RW);
        for n in 0..4 {
            user.store(page(n), n).unwrap();
        }
        user.load(page(9)).unwrap_err();
        process.space.mprotect(page(0), PAGE_SIZE, prot::READ).unwrap();
        user.store(page(0), 1).unwrap_err();
        assert_eq!(counters.total(Fault), 6);
        assert_eq!(counters.total(FaultLocked), 4);
        assert_eq!(counters.total(FaultFallback) + counters.total(FaultSpurious), 0);
        assert_eq!(counters.total(FaultMiss), 1);
        process.space.fault(page(9), Access::Read).unwrap_err();
        process.space.fault(u64::MAX, Access::Read).unwrap_err();
        process.space.fault(page(1), Access::Write).unwrap();
        assert_eq!(counters.total(FaultSpurious), 1);
    });
}

#[test]
fn nothing_present_means_nothing_flushed_and_tables_come_back() {
    program(|process, user| {
        let machine_frames = || process.space.memory().frames.usage().owned_by(mm::Owner::PageTable);
        // A CPU's own upper tables stay.
        map(process, 0, 1, RW);
        user.store(page(0), 1).unwrap();
        process.space.munmap(page(0), PAGE_SIZE).unwrap();
        process.space.memory().rcu.quiescent();
        process.space.memory().rcu.barrier();
        let empty = machine_frames();
        map(process, 0, 1024, RW);
        for n in 0..1024 {
            user.store(page(n), n).unwrap();
        }
        assert!(machine_frames() > empty);
        process.space.munmap(page(0), 1024 * PAGE_SIZE).unwrap();
        assert!(machine_frames() > empty, "tables wait for a grace period");
        process.space.memory().rcu.quiescent();
        process.space.memory().rcu.barrier();
        assert_eq!(machine_frames(), empty, "tables that only the range used are gone");
    });
}

#[test]
fn many_pages_are_flushed_as_well_as_few() {
    program(|process, user| {
        for pages in [1, 2, 31, 32, 33, 34, 100] {
            map(process, 0, pages, RW);
            for n in 0..pages {
                user.store(page(n), n).unwrap();
            }
            process.space.mprotect(page(0), pages * PAGE_SIZE, prot::READ).unwrap();
            for n in 0..pages {
                assert!(user.store(page(n), 1).is_err(), "page {n} of {pages}");
            }
            process.check_tlbs();
            process.space.munmap(page(0), pages * PAGE_SIZE).unwrap();
            process.check_tlbs();
        }
    });
}

#[test]
fn a_call_that_takes_nothing_away_interrupts_nobody() {
    program(|process, user| {
        process.run_on(1, |_| {
            let shootdowns = || process.space.memory().counters.total(abi::Counter::Shootdown);
            map(process, 0, 8, prot::READ);
            user.load(page(0)).unwrap();
            process.space.mprotect(page(0), 8 * PAGE_SIZE, RW).unwrap();
            map(process, 8, 8, RW);
            process.space.munmap(page(4), 4 * PAGE_SIZE).unwrap();
            process.space.madvise(page(8), 8 * PAGE_SIZE, madv::DONTNEED).unwrap();
            process.space.mprotect(page(8), 8 * PAGE_SIZE, prot::NONE).unwrap();
            assert_eq!(shootdowns(), 0);
            process.space.mprotect(page(0), PAGE_SIZE, prot::READ).unwrap();
            assert_eq!(shootdowns(), 1, "a right is lost");
            process.space.madvise(page(0), PAGE_SIZE, madv::DONTNEED).unwrap();
            assert_eq!(shootdowns(), 2, "a page is lost");
        });
    });
}

#[test]
fn the_top_of_the_user_half_can_be_used() {
    program(|process, user| {
        let top = USER_END - PAGE_SIZE;
        assert_eq!(process.space.mmap(MapRequest::fixed(top, PAGE_SIZE, RW)), Ok(top));
        user.store(USER_END - 8, 5).unwrap();
        assert_eq!(user.load(USER_END), Err(FaultError::NoMapping));
        process.space.munmap(top, PAGE_SIZE).unwrap();
        assert_eq!(user.load(top), Err(FaultError::NoMapping));
    });
}
