//! Locks under torture on all CPUs (`sync::torture::locks`): nobody is ever beside a writer.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use kernel::ktest;
use kernel::ktest::{note, on_all_cpus, share};
use kernel::platform::Machine;
use kernel::sched;
use sync::torture::locks::{Busted, Contended, LockReport, LockTorture, Queued};
use sync::{Class, FairRwLock, Platform, SpinLock, spin_lock};

static SPIN: SpinLock<Machine, ()> = spin_lock(Class::StreamIn, ());
static FAIR: FairRwLock<Machine> = FairRwLock::new(Class::Planted);
static QUEUED: Queued<Machine> = Queued::new();
static BUSTED: Busted = Busted;

/// One torture for each lock: the locks, and who holds them for how long.
static TORTURES: [LockTorture; 4] = [const { LockTorture::new() }; 4];
const LOCKS: [&dyn Contended; 4] = [&SPIN, &FAIR, &QUEUED, &BUSTED];
const HOLDS: [fn(u64); 4] = [spin, sleep, sleep, spin];
/// Which of them.
static CHOSEN: AtomicUsize = AtomicUsize::new(0);
/// How often all together have had it when they end.
static GOAL: AtomicU64 = AtomicU64::new(0);

fn spin(random: u64) {
    (0..random % 64).for_each(|_| Machine::relax());
}

/// Now and then long enough for all others to queue.
fn sleep(random: u64) {
    match random % 128 {
        0 => Machine::park(Some(Machine::now_ns() + 200_000)),
        1..16 => sched::yield_now(),
        _ => spin(random >> 8),
    }
}

/// Goes on until all CPUs together have had the lock number `which` a few thousand times, `rounds` times over since the boot.
fn torture(which: usize, rounds: u64) -> LockReport {
    CHOSEN.store(which, Ordering::Relaxed);
    GOAL.store(rounds * (1_000 + share(8_000, 2_000)), Ordering::Relaxed);
    on_all_cpus(|cpu| {
        let which = CHOSEN.load(Ordering::Relaxed);
        TORTURES[which].take(LOCKS[which], cpu as usize, GOAL.load(Ordering::Relaxed), 0x7e55, HOLDS[which]);
    });
    let report = TORTURES[which].report(Machine::cpu_count());
    note(format_args!("{report}"));
    report
}

ktest! {
    fn a_spin_lock_stands_it() {
        assert_eq!(torture(0, 1).failures(), 0);
    }
}

ktest! {
    fn a_fair_lock_stands_it() {
        let report = torture(1, 1);
        assert_eq!(report.failures(), 0);
        assert!(report.met != 0 || Machine::cpu_count() == 1);
    }
}

ktest! {
    fn a_lock_of_a_wait_queue_stands_it() {
        assert_eq!(torture(2, 1).failures(), 0);
    }
}

ktest! {
    /// In a few rounds, if the host is busy and has the CPUs run one after the other. Threads of one CPU do not give way to
    /// each other while they spin.
    fn what_is_no_lock_does_not_stand_it() {
        let found = (1..100).any(|round| torture(3, round).failures() != 0);
        assert!(found || Machine::cpu_count() == 1);
    }
}
