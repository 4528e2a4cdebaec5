//! Update transactions of all CPUs that want each other's VMAs: marks exclude, circles come apart, and the large one is not starved
//! by the small.

extern crate alloc;

use alloc::boxed::Box;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use abi::{Counter, UpdateProtocol};
use kernel::ktest;
use kernel::ktest::{note, on_all_cpus, share};
use kernel::memory::memory;
use kernel::platform::Machine;
use kernel::sched;
use sync::alloc::try_box_slice;
use sync::torture::Numbers;
use sync::{Abort, Counters, Platform, Txn, UpdateLock, VmaLock, update};

const PAGE: u64 = abi::PAGE_SIZE;
const VMAS: usize = 16;

static SPACE: UpdateLock<Machine> = UpdateLock::new();
/// What the running test's threads share.
static SHARED: AtomicPtr<Shared> = AtomicPtr::new(core::ptr::null_mut());
/// Who has marked each: a CPU's number and one, or 0.
static OWNERS: [AtomicU64; VMAS] = [const { AtomicU64::new(0) }; VMAS];

/// VMAs to fight for, and how the transactions fare.
struct Shared {
    vmas: Box<[VmaLock]>,
    counters: Counters<Machine>,
}

fn shared() -> &'static Shared {
    // SAFETY: `fight` keeps it until its threads have ended.
    unsafe { &*SHARED.load(Ordering::Acquire) }
}

/// Runs `work(cpu)` on all CPUs, and says how many transactions backed off.
fn fight(work: fn(u64)) -> u64 {
    let vmas = try_box_slice(VMAS, |_| VmaLock::open(&memory().locks)).expect("memory for VMAs");
    let shared = Shared { vmas, counters: Counters::new().expect("memory for counters") };
    SHARED.store((&raw const shared).cast_mut(), Ordering::Release);
    on_all_cpus(work);
    let counted = [Counter::TxnWait, Counter::Wound, Counter::Cycle, Counter::Restart];
    let [waits, wounds, cycles, restarts] = counted.map(|counter| shared.counters.total(counter));
    note(format_args!("{waits} waits, {wounds} wounds, {cycles} cycles, {restarts} restarts"));
    assert!(cycles <= restarts, "a circle was counted twice");
    restarts
}

fn transaction(mut body: impl FnMut(&mut Txn<'_, Machine>) -> Result<(), Abort>) {
    update(&SPACE, &memory().locks, &shared().counters, |txn| body(txn)).expect("no errors come about here");
}

fn mark(txn: &mut Txn<'_, Machine>, vma: usize) -> Result<(), Abort> {
    let start = vma as u64 * PAGE;
    txn.mark(&shared().vmas[vma], start..start + PAGE)
}

/// With all `vmas` marked: that nobody else has any of them, for a while.
fn own(txn: &Txn<'_, Machine>, vmas: &[usize], cpu: u64, random: u64) -> Result<(), Abort> {
    txn.settle()?;
    for &vma in vmas {
        assert_eq!(OWNERS[vma].swap(cpu + 1, Ordering::Relaxed), 0, "two transactions have marked VMA {vma}");
    }
    if random.is_multiple_of(8) {
        sched::yield_now()
    } else {
        (0..random % 32).for_each(|_| Machine::relax())
    }
    for &vma in vmas {
        assert_eq!(OWNERS[vma].swap(0, Ordering::Relaxed), cpu + 1);
    }
    Ok(())
}

/// All VMAs, in an order that looks random.
fn shuffled(numbers: &mut Numbers) -> [usize; VMAS] {
    let mut all = core::array::from_fn(|vma| vma);
    for place in 0..VMAS {
        all.swap(place, place + numbers.draw() as usize % (VMAS - place));
    }
    all
}

/// One transaction that marks `count` VMAs, in any order, and in another one each time that it is run.
fn some(numbers: &mut Numbers, count: usize, cpu: u64) {
    let (mut chosen, random) = (shuffled(numbers), numbers.draw());
    transaction(|txn| {
        chosen[..count].rotate_left(1);
        chosen[..count].iter().try_for_each(|&vma| mark(txn, vma))?;
        own(txn, &chosen[..count], cpu, random)
    });
}

ktest! {
    pairs fn marks_taken_out_of_order_exclude_each_other() {
        fight(|cpu| {
            let mut numbers = Numbers::new(0x7e55, cpu);
            // One after another, where one at a time is let in.
            let alone = memory().locks.pair().has_one_writer();
            for _ in 0..if alone { share(200, 50) } else { share(1_600, 200) } {
                let count = 1 + numbers.draw() as usize % 6;
                some(&mut numbers, count, cpu);
            }
        });
    }
}

ktest! {
    /// Each CPU marks a VMA, waits until all have, and marks the next CPU's. Under `bulk` there can be no circle.
    pairs fn a_circle_of_all_cpus_comes_apart() {
        static HAVE_ONE: AtomicU64 = AtomicU64::new(0);
        let pair = memory().locks.pair();
        if pair.has_one_writer() || Machine::cpu_count() == 1 {
            return;
        }
        HAVE_ONE.store(0, Ordering::Relaxed);
        let restarts = fight(|cpu| {
            let count = Machine::cpu_count().min(VMAS) as u64;
            if cpu >= count {
                return;
            }
            let mut first = true;
            transaction(|txn| {
                mark(txn, cpu as usize)?;
                if core::mem::take(&mut first) {
                    HAVE_ONE.fetch_add(1, Ordering::Relaxed);
                    while HAVE_ONE.load(Ordering::Relaxed) < count {
                        sched::yield_now();
                    }
                }
                let next = ((cpu + 1) % count) as usize;
                mark(txn, next)?;
                own(txn, &[cpu as usize, next], cpu, cpu)
            });
        });
        if pair.update() == UpdateProtocol::WoundWait {
            assert_ne!(restarts, 0, "a circle came apart by itself");
        } else {
            assert_eq!(restarts, 1, "one circle, one victim");
        }
    }
}

ktest! {
    /// One CPU's transactions mark all VMAs; the others' are small, and come until it is done.
    pairs fn a_large_transaction_does_not_starve() {
        static OVER: AtomicBool = AtomicBool::new(false);
        OVER.store(false, Ordering::Relaxed);
        fight(|cpu| {
            let mut numbers = Numbers::new(0x7e56, cpu);
            if cpu == 0 {
                // The others have begun.
                while shared().counters.total(Counter::Txn) < 2 * (Machine::cpu_count() as u64 - 1) {
                    sched::yield_now();
                }
                (0..5).for_each(|_| some(&mut numbers, VMAS, cpu));
                OVER.store(true, Ordering::Relaxed);
            }
            while !OVER.load(Ordering::Relaxed) {
                some(&mut numbers, 2, cpu);
            }
        });
    }
}
