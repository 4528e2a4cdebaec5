//! The lock-order validator and the watchdog in the real kernel: planted mistakes end in a panic that names them, and waits
//! that last too long are drawn. What the console must say of each stands in `tests/src/says.rs`.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kernel::ktest;
use kernel::ktest::spawn_on;
use kernel::memory::memory;
use kernel::platform::Machine;
use kernel::sched::watchdog;
use sync::order::Class;
use sync::{CpuId, FairRwLock, Interruptible, Platform, RcuHead, SpinLock, WaitQueue, spin_lock};

ktest! {
    panics fn a_wrong_order_is_named() {
        static OUTER: SpinLock<Machine, ()> = spin_lock(Class::Publication, ());
        static INNER: SpinLock<Machine, ()> = spin_lock(Class::Buddy, ());
        drop((OUTER.lock(), INNER.lock()));
        let _inner = INNER.lock();
        let _outer = OUTER.lock();
    }
}

ktest! {
    panics fn a_lock_taken_twice_is_named() {
        static LOCK: SpinLock<Machine, ()> = spin_lock(Class::Random, ());
        let _once = LOCK.lock();
        let _twice = LOCK.lock();
    }
}

ktest! {
    panics fn a_sleep_with_a_spin_lock_is_named() {
        static LOCK: SpinLock<Machine, ()> = spin_lock(Class::ProcessFiles, ());
        static QUEUE: WaitQueue<Machine> = WaitQueue::new();
        let _held = LOCK.lock();
        // The condition holds already: that it might have slept is enough.
        QUEUE.wait_until(|| true, None, Interruptible::No);
    }
}

ktest! {
    /// An RCU callback runs in the tick of a CPU whose thread does not give way.
    panics fn a_sleeping_lock_in_an_interrupt_is_named() {
        static LOCK: FairRwLock<Machine> = FairRwLock::new(Class::Update);
        static HEAD: RcuHead = RcuHead::new();
        unsafe fn callback(_: NonNull<RcuHead>) {
            drop(LOCK.write());
        }
        // SAFETY: the head is a static, queued once, and the callback does not touch it.
        unsafe { memory().rcu.defer(NonNull::from(&HEAD), callback) };
        let until = Machine::now_ns() + 60_000_000_000;
        while Machine::now_ns() < until {
            memory().rcu.quiescent();
            Machine::relax();
        }
    }
}

/// Two locks that are taken in both orders.
static FIRST: FairRwLock<Machine> = FairRwLock::new(Class::Planted);
static SECOND: FairRwLock<Machine> = FairRwLock::new(Class::Planted);

/// How many threads are where the test wants them.
static READY: AtomicU32 = AtomicU32::new(0);

fn wait_for(condition: impl Fn() -> bool) {
    let until = Machine::now_ns() + 60_000_000_000;
    while !condition() {
        assert!(Machine::now_ns() < until, "what the test waits for does not come");
        Machine::park(Some(Machine::now_ns() + 1_000_000));
    }
}

/// Runs `body` while waits of more than a second are too long.
fn impatiently(body: impl FnOnce()) {
    let limit_ns = watchdog::set_limit_ns(1_000_000_000);
    body();
    watchdog::set_limit_ns(limit_ns);
}

/// Takes one of the two locks, and when another thread has the other one, that too.
fn deadlock(which: u64) {
    let (mine, other) = if which == 0 { (&FIRST, &SECOND) } else { (&SECOND, &FIRST) };
    let _mine = mine.write();
    READY.fetch_add(1, Ordering::Relaxed);
    wait_for(|| READY.load(Ordering::Relaxed) == 2);
    let _other = other.write();
}

ktest! {
    /// Needs a panic to end: what deadlocks stays so.
    panics fn two_threads_that_wait_for_each_other_are_drawn() {
        impatiently(|| {
            let before = watchdog::reported();
            let last = CpuId(Machine::cpu_count() as u32 - 1);
            let _threads = [spawn_on(CpuId(0), deadlock, 0), spawn_on(last, deadlock, 1)];
            wait_for(|| watchdog::reported() >= before + 2);
            panic!("the deadlock was drawn");
        });
    }
}

ktest! {
    fn a_sleep_for_a_lock_that_lasts_is_drawn() {
        static DRAWN: AtomicBool = AtomicBool::new(false);
        DRAWN.store(false, Ordering::Relaxed);
        READY.store(0, Ordering::Relaxed);
        fn hold(_: u64) {
            let _held = FIRST.write();
            READY.store(1, Ordering::Relaxed);
            wait_for(|| DRAWN.load(Ordering::Relaxed));
        }
        impatiently(|| {
            let before = watchdog::reported();
            let holder = spawn_on(CpuId(0), hold, 0);
            wait_for(|| READY.load(Ordering::Relaxed) == 1);
            let waiter = spawn_on(CpuId(0), |_| drop(FIRST.write()), 0);
            wait_for(|| watchdog::reported() > before);
            DRAWN.store(true, Ordering::Relaxed);
            holder.join();
            waiter.join();
        });
    }
}

ktest! {
    fn a_spin_that_lasts_is_drawn() {
        static LOCK: SpinLock<Machine, ()> = spin_lock(Class::PlantedSpin, ());
        if Machine::cpu_count() == 1 {
            return ktest::note(format_args!("needs two CPUs"));
        }
        READY.store(0, Ordering::Relaxed);
        /// With interrupts off, as all who hold spin locks.
        fn hold(_: u64) {
            let before = watchdog::reported();
            let _held = LOCK.lock();
            READY.store(1, Ordering::Relaxed);
            let until = Machine::now_ns() + 60_000_000_000;
            while watchdog::reported() == before {
                assert!(Machine::now_ns() < until, "nobody says that a CPU spins");
                Machine::relax();
            }
        }
        impatiently(|| {
            let holder = spawn_on(CpuId(1), hold, 0);
            wait_for(|| READY.load(Ordering::Relaxed) == 1);
            drop(LOCK.lock());
            holder.join();
        });
    }
}
