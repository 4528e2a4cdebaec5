//! TLB shootdown on real TLBs (QEMU emulates one for each CPU): a change of one CPU is seen by all when the call has
//! returned.

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use abi::flags::prot;
use abi::{Counter, Errno, PAGE_SIZE};
use kernel::arch::{paging, uaccess};
use kernel::ktest;
use kernel::ktest::spawn_on;
use kernel::memory::memory;
use kernel::platform::Machine;
use kernel::sched;
use mm::{AddressSpace, MapRequest};
use sync::{CpuId, Platform};

/// The address space of the running test, for its threads.
static SPACE: AtomicPtr<AddressSpace<Machine>> = AtomicPtr::new(core::ptr::null_mut());
/// The page that the running test is about.
static PAGE: AtomicU64 = AtomicU64::new(0);
/// The round that the changing CPU has finished.
static ROUND: AtomicU64 = AtomicU64::new(0);
/// The round that the reading CPU has seen finished.
static SEEN: AtomicU64 = AtomicU64::new(0);
static STOP: AtomicBool = AtomicBool::new(false);

const ROUNDS: u64 = 60;

/// Runs `change` for each round on this CPU while `look` runs on another one inside the same address space, again and
/// again.
fn change_while_looking(change: impl Fn(&AddressSpace<Machine>, u64, u64), look: fn(u64)) {
    if Machine::cpu_count() == 1 {
        return;
    }
    let space = AddressSpace::new(memory(), paging::kernel_root()).expect("memory for an address space");
    let rights = prot::READ | prot::WRITE;
    let page = space.mmap(MapRequest::anonymous(PAGE_SIZE, rights)).expect("a mapping");
    SPACE.store((&raw const space).cast_mut(), Ordering::Release);
    PAGE.store(page, Ordering::Relaxed);
    ROUND.store(0, Ordering::Relaxed);
    SEEN.store(0, Ordering::Relaxed);
    STOP.store(false, Ordering::Relaxed);
    let looker = spawn_on(
        CpuId(Machine::cpu_count() as u32 - 1),
        |look| {
            // SAFETY: the test lives until it has joined this thread.
            let space = unsafe { &*SPACE.load(Ordering::Acquire) };
            // SAFETY: the number is the function that was handed over below.
            let look = unsafe { core::mem::transmute::<u64, fn(u64)>(look) };
            sched::with_space(space, || {
                while !STOP.load(Ordering::Relaxed) {
                    look(PAGE.load(Ordering::Relaxed));
                    SEEN.store(ROUND.load(Ordering::Acquire), Ordering::Release);
                    memory().rcu.quiescent();
                }
            });
        },
        look as *const () as u64,
    );
    sched::with_space(&space, || {
        for round in 1..=ROUNDS {
            change(&space, page, round);
            ROUND.store(round, Ordering::Release);
            // So that the other CPU has a fresh translation to lose in each round.
            while SEEN.load(Ordering::Acquire) < round {
                // The other CPU's call may wait for a grace period: it gets no memory while all that was freed is deferred.
                memory().rcu.quiescent();
                Machine::relax();
            }
        }
    });
    STOP.store(true, Ordering::Relaxed);
    looker.join();
}

fn read(address: u64) -> Result<u64, Errno> {
    let mut bytes = [0; 8];
    uaccess::copy_in(&mut bytes, address).map(|()| u64::from_le_bytes(bytes))
}

ktest! {
    /// One CPU unmaps and maps anew, with the round's number in the new page; the other must never read the number of
    /// a round whose page was gone before it began to read.
    pairs fn unmapped_pages_are_gone_on_all_cpus() {
        change_while_looking(
            |space, page, round| {
                space.munmap(page, PAGE_SIZE).expect("a mapped page");
                // Between the two, the other CPU's reads must fail.
                let again = MapRequest::fixed(page, PAGE_SIZE, prot::READ | prot::WRITE);
                assert_eq!(space.mmap(again), Ok(page));
                uaccess::copy_out(page, &round.to_le_bytes()).expect("a writable page");
            },
            |page| {
                let finished = ROUND.load(Ordering::Acquire);
                match read(page) {
                    // 0: mapped anew, and not yet written. A freed frame holds other things.
                    Ok(value) => assert!(
                        value == 0 || value == finished || value == finished + 1,
                        "round {finished} is over, and we read {value:#x}"
                    ),
                    Err(error) => assert_eq!(error, Errno::EFAULT),
                }
            },
        );
    }
}

ktest! {
    /// After `mprotect` has taken the right to write away, no CPU can write.
    pairs fn write_protection_is_seen_by_all_cpus() {
        static PROTECTED: AtomicBool = AtomicBool::new(false);
        PROTECTED.store(false, Ordering::Relaxed);
        change_while_looking(
            |space, page, _| {
                space.mprotect(page, PAGE_SIZE, prot::READ).expect("a mapped page");
                PROTECTED.store(true, Ordering::SeqCst);
                let before = read(page).expect("a readable page");
                for _ in 0..200 {
                    Machine::relax();
                }
                assert_eq!(read(page), Ok(before), "somebody wrote to a read-only page");
                PROTECTED.store(false, Ordering::SeqCst);
                space.mprotect(page, PAGE_SIZE, prot::READ | prot::WRITE).expect("a mapped page");
            },
            |page| {
                static NUMBER: AtomicU64 = AtomicU64::new(0);
                let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                let before = PROTECTED.load(Ordering::SeqCst);
                let written = uaccess::copy_out(page, &number.to_le_bytes());
                // Protected before and after is protected all the time: the next round waits for this look to end.
                if before && PROTECTED.load(Ordering::SeqCst) {
                    assert_eq!(written, Err(Errno::EFAULT), "wrote to a read-only page");
                }
            },
        );
    }
}

ktest! {
    /// `MADV_DONTNEED` drops the page: the next read of any CPU finds zeros.
    pairs fn dropped_pages_read_as_zeros_on_all_cpus() {
        change_while_looking(
            |space, page, round| {
                uaccess::copy_out(page, &round.to_le_bytes()).expect("a writable page");
                space.madvise(page, PAGE_SIZE, abi::flags::madv::DONTNEED).expect("a mapped page");
                assert_eq!(read(page), Ok(0));
            },
            |page| {
                let finished = ROUND.load(Ordering::Acquire);
                let value = read(page).expect("always mapped");
                assert!(
                    value == 0 || value == finished + 1,
                    "round {finished} is over, and we read {value:#x}"
                );
            },
        );
    }
}

/// Where this CPU maps and unmaps.
const MINE: u64 = 0x10_0000_0000;
/// What a leaf table spans.
const SPAN: u64 = 2 << 20;
/// Where the other CPU does, at the same time.
static THEIRS: AtomicU64 = AtomicU64::new(0);

/// Maps two pages at `address`, uses them, and unmaps them: nothing of before may show, and nothing may stay.
fn live_and_die(space: &AddressSpace<Machine>, address: u64, number: u64) {
    let request = MapRequest::fixed(address, 2 * PAGE_SIZE, prot::READ | prot::WRITE);
    assert_eq!(space.mmap(request), Ok(address));
    for page in [address, address + PAGE_SIZE] {
        assert_eq!(read(page), Ok(0), "{page:#x} is new");
        uaccess::copy_out(page, &number.to_le_bytes()).expect("a writable page");
        assert_eq!(read(page), Ok(number));
    }
    space.munmap(address, 2 * PAGE_SIZE).expect("a mapped range");
    assert_eq!(read(address), Err(Errno::EFAULT), "{address:#x} is gone");
}

/// Two CPUs map and unmap side by side. How many shootdowns there were, and how many CPUs were interrupted for them.
fn side_by_side(theirs: u64) -> (u64, u64) {
    let count = |counter| memory().counters.total(counter);
    let counts = || (count(Counter::Shootdown), count(Counter::IpiFlush));
    THEIRS.store(theirs, Ordering::Relaxed);
    let before = counts();
    change_while_looking(
        |space, _, round| {
            if round == 1 {
                // It stays, and with it the leaf table that it is in.
                let request = MapRequest::fixed(theirs + 8 * PAGE_SIZE, PAGE_SIZE, prot::READ | prot::WRITE);
                space.mmap(request).expect("a mapping");
            }
            live_and_die(space, MINE, round);
        },
        |_| {
            // SAFETY: the test lives until this thread has been joined.
            let space = unsafe { &*SPACE.load(Ordering::Acquire) };
            let theirs = THEIRS.load(Ordering::Relaxed);
            // From the second round on it is there.
            let _ = uaccess::copy_out(theirs + 8 * PAGE_SIZE, &[1]);
            live_and_die(space, theirs, 7);
        },
    );
    let after = counts();
    (after.0 - before.0, after.1 - before.1)
}

ktest! {
    /// Work in spans of its own concerns no other CPU, though both run one address space, and though page tables come and go.
    fn private_spans_interrupt_nobody() {
        assert_eq!(side_by_side(MINE + SPAN), (0, 0));
        assert_eq!(side_by_side(MINE + (1 << 30)), (0, 0), "nor in a GiB of its own");
    }
}

ktest! {
    /// In one span the processors share a table of translations, and have to be told.
    fn a_span_in_common_is_flushed_where_it_is_known() {
        let (shootdowns, interrupts) = side_by_side(MINE + 16 * PAGE_SIZE);
        assert!(Machine::cpu_count() == 1 || (shootdowns > 0 && interrupts > 0), "{shootdowns} and {interrupts}");
    }
}
