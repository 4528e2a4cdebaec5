//! Every allocation of every call fails once: the call says so, and nothing has changed.
//!
//! One test, because it counts the live bytes of the whole process.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicI64, Ordering},
};

use abi::flags::{madv, map, prot};
use mm::{
    Access, Errno, FaultError, MapRequest, PAGE_SIZE, VmaInfo,
    testing::{Machine, Process, User},
};
use sync::testing::fail_allocation_after;

const RW: u32 = prot::READ | prot::WRITE;
const BASE: u64 = 0x10_0000_0000;
const P: u64 = PAGE_SIZE;

/// The system's allocator, and how much of it is in use.
struct Counting;

static LIVE: AtomicI64 = AtomicI64::new(0);

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's layout.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's pointer and layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Pages 0..8 with different rights, some of them touched, and room around.
fn prepare(process: &Process, user: &User<'_>) {
    process.space.set_brk_start(BASE + 64 * P);
    assert_eq!(process.space.brk(BASE + 66 * P), BASE + 66 * P);
    process.space.mmap(MapRequest::fixed(BASE, 8 * P, RW)).unwrap();
    for n in 0..8 {
        user.store(BASE + n * P, n + 1).unwrap();
    }
    process.space.mprotect(BASE + 4 * P, 2 * P, prot::READ).unwrap();
}

/// Everything that a program can see.
fn state(process: &Process, user: &User<'_>) -> (Vec<VmaInfo>, Vec<u64>, u64) {
    let words = (0..8).map(|n| user.load(BASE + n * P).unwrap_or(u64::MAX)).collect();
    (process.mappings(), words, process.space.brk(0))
}

type Call = fn(&Process) -> Result<(), Errno>;

/// Calls, and what they say when the kernel heap is out.
const CALLS: &[(&str, Errno, Call)] = &[
    ("map", Errno::ENOMEM, |p| p.space.mmap(MapRequest::anonymous(P, RW)).map(|_| ())),
    ("map below and join", Errno::ENOMEM, |p| p.space.mmap(MapRequest::fixed(BASE - P, P, RW)).map(|_| ())),
    ("map over the middle", Errno::ENOMEM, |p| p.space.mmap(MapRequest::fixed(BASE + P, P, prot::READ)).map(|_| ())),
    ("map over and join", Errno::ENOMEM, |p| p.space.mmap(MapRequest::fixed(BASE + 3 * P, 4 * P, RW)).map(|_| ())),
    ("unmap the middle", Errno::ENOMEM, |p| p.space.munmap(BASE + P, P)),
    ("unmap all", Errno::ENOMEM, |p| p.space.munmap(BASE, 8 * P)),
    ("protect the middle", Errno::ENOMEM, |p| p.space.mprotect(BASE + P, P, prot::NONE)),
    ("protect and join", Errno::ENOMEM, |p| p.space.mprotect(BASE, 8 * P, RW)),
    ("advise", Errno::EAGAIN, |p| p.space.madvise(BASE + P, P, madv::RANDOM)),
    ("empty", Errno::EAGAIN, |p| p.space.madvise(BASE, 8 * P, madv::DONTNEED)),
    ("grow the break", Errno::ENOMEM, |p| moved(p, BASE + 70 * P)),
    ("shrink the break", Errno::ENOMEM, |p| moved(p, BASE + 65 * P)),
];

fn moved(process: &Process, wanted: u64) -> Result<(), Errno> {
    if process.space.brk(wanted) == wanted { Ok(()) } else { Err(Errno::ENOMEM) }
}

#[test]
fn nothing_changes_when_memory_is_out() {
    let machine = Machine::new(4096);
    // The counts of the last few address spaces are kept: from here on one goes for each that comes.
    for _ in 0..mm::tally::ENDED_KEPT {
        machine.on_cpu(0, || drop(Process::new(machine)));
    }
    for &(name, errno, call) in CALLS {
        let mut failures = 0;
        loop {
            let live = LIVE.load(Ordering::Relaxed);
            let process = Process::new(machine);
            let failed = process.run_on(0, |user| {
                prepare(&process, user);
                machine.drain();
                let before = (state(&process, user), LIVE.load(Ordering::Relaxed), machine.usage());
                let (result, failed) = fail_allocation_after(failures, || call(&process));
                if failed {
                    assert_eq!(result, Err(errno), "{name}, allocation {failures}");
                    machine.drain();
                    let live = LIVE.load(Ordering::Relaxed);
                    assert_eq!(live, before.1, "{name} leaks heap when allocation {failures} fails");
                    let usage = machine.usage();
                    assert_eq!((usage.owned, usage.available()), (before.2.owned, before.2.available()), "{name}");
                    assert_eq!(state(&process, user), before.0, "{name}, allocation {failures}");
                    // And the address space still works.
                    call(&process).unwrap_or_else(|errno| panic!("{name} after a failure: {errno:?}"));
                } else {
                    assert_eq!(result, Ok(()), "{name}");
                }
                process.check_tlbs();
                failed
            });
            machine.on_cpu(0, || {
                drop(process);
                machine.drain();
            });
            // The first time, tables of the test's own grow.
            if failures > 0 {
                assert_eq!(LIVE.load(Ordering::Relaxed), live, "{name} leaks heap");
            }
            if !failed {
                break;
            }
            failures += 1;
        }
        // Emptying changes no mapping, so it needs nothing.
        assert_eq!(failures == 0, name == "empty", "{name} can fail {failures} times");
    }
    faults_without_frames(machine);
    address_spaces_without_memory(machine);
}

fn faults_without_frames(machine: &'static Machine) {
    let frames = &machine.memory.frames;
    let process = Process::new(machine);
    process.run_on(0, |user| {
        process.space.mmap(MapRequest::fixed(BASE, P, RW)).unwrap();
        // Three tables and a page.
        for successes in 0..4 {
            frames.fail_after(successes);
            assert_eq!(user.store(BASE, 1), Err(FaultError::OutOfMemory), "{successes} frames");
            frames.fail_never();
            assert_eq!(process.space.fault(BASE + P, Access::Read), Err(FaultError::NoMapping));
            // The tables that were made stay until their mapping goes.
            process.space.munmap(BASE, P).unwrap();
            process.space.mmap(MapRequest::fixed(BASE, P, RW)).unwrap();
        }
        frames.fail_after(3);
        assert_eq!(process.space.write_initial(BASE, b"x"), Err(Errno::ENOMEM));
        frames.fail_after(0);
        let populate =
            MapRequest { flags: map::PRIVATE | map::ANONYMOUS | map::POPULATE, ..MapRequest::anonymous(P, RW) };
        let addr = process.space.mmap(populate).expect("populating is best effort");
        frames.fail_never();
        assert_eq!(user.load(addr), Ok(0));
        user.store(BASE, 1).unwrap();
    });
    machine.on_cpu(0, || {
        drop(process);
        machine.drain();
    });
}

fn address_spaces_without_memory(machine: &'static Machine) {
    let frames = &machine.memory.frames;
    machine.on_cpu(0, || {
        let before = machine.usage();
        frames.fail_after(0);
        let none = mm::AddressSpace::new(machine.memory, machine.kernel_root);
        frames.fail_never();
        assert_eq!(none.err(), Some(Errno::ENOMEM));
        assert_eq!(machine.usage().owned, before.owned);
        let mut failures = 0;
        loop {
            let live = LIVE.load(Ordering::Relaxed);
            let make = || mm::AddressSpace::new(machine.memory, machine.kernel_root);
            let (made, failed) = fail_allocation_after(failures, make);
            assert_eq!(made.as_ref().err().copied(), failed.then_some(Errno::ENOMEM), "allocation {failures}");
            drop(made);
            assert_eq!(machine.usage().owned, before.owned, "allocation {failures}");
            assert_eq!(
                LIVE.load(Ordering::Relaxed),
                live,
                "an address space leaks heap when allocation {failures} fails"
            );
            if !failed {
                break;
            }
            failures += 1;
        }
        assert!(failures >= 2, "its counters alone are two allocations");
    });
}
