//! Ending a transaction takes the same number of instructions whatever it has locked. Where time is counted, the time stamp
//! counter counts instructions, and the answer is exact.

use abi::{PAGE_SIZE, Pair};
use kernel::arch::cpu::time_stamp;
use kernel::ktest;
use kernel::ktest::note;
use kernel::platform::Machine;
use sync::alloc::try_box_slice;
use sync::{Counters, InterruptGuard, UpdateLock, VmaLock, VmaLocks, update};

/// VMAs that a transaction has marked and settled when it ends.
const VMAS: [usize; 3] = [1, 100, 10_000];

/// Instructions from a body's last to the return of [`update`], with `count` VMAs marked and settled.
fn instructions_to_end(pair: Pair, count: usize) -> u64 {
    let locks = VmaLocks::<Machine>::new(pair).expect("memory for locks");
    // Fresh ones: the longest hold so far is always beaten, or never.
    let counters = Counters::new().expect("memory for counters");
    let vmas = try_box_slice(count, |_| VmaLock::open(&locks)).expect("memory for VMAs");
    let space = UpdateLock::new();
    let mut off = None;
    let mut begin = 0;
    let marked = update(&space, &locks, &counters, |txn| {
        for (number, vma) in vmas.iter().enumerate() {
            let start = number as u64 * PAGE_SIZE;
            txn.mark(vma, start..start + PAGE_SIZE)?;
        }
        txn.settle()?;
        let locked = vmas.iter().filter(|vma| vma.locked_by(&locks.cells) == Some(txn.own_mark())).count();
        off = Some(InterruptGuard::<Machine>::new());
        begin = time_stamp();
        Ok(locked)
    });
    let end = time_stamp();
    drop(off);
    assert_eq!(marked, Ok(count), "all are locked before the end");
    assert!(vmas.iter().all(|vma| vma.locked_by(&locks.cells).is_none()), "none is locked after it");
    end - begin
}

ktest! {
    counted fn takes_as_long_for_one_vma_as_for_ten_thousand() {
        // Twice: neither is the first to pass by anything.
        instructions_to_end(Pair::DEFAULT, 1);
        for pair in Pair::all() {
            let counts = VMAS.map(|count| instructions_to_end(pair, count));
            note(format_args!("{pair}: {counts:?} instructions with {VMAS:?} VMAs"));
            assert!(counts.iter().all(|count| *count == counts[0] && *count > 0), "{pair}: {counts:?}");
        }
    }
}
