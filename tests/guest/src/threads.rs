//! Parking, sleeping, moving between CPUs, and who gets the CPU.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kernel::ktest;
use kernel::ktest::{on_all_cpus, spawn_on};
use kernel::platform::Machine;
use kernel::sched;
use sync::{CpuId, CpuSet, Platform, ThreadId};

/// The last CPU: another one than the first wherever there are two.
fn last_cpu() -> CpuId {
    CpuId(Machine::cpu_count() as u32 - 1)
}

ktest! {
    /// Two threads that wake each other in turn, as fast as they can: each wake-up races with the other's falling
    /// asleep.
    fn park_and_unpark_lose_no_wake_up() {
        const ROUNDS: u64 = 10_000;
        static TURN: AtomicU64 = AtomicU64::new(0);
        static THREADS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

        fn play(side: u64) {
            THREADS[side as usize].store(Machine::current_thread().0, Ordering::Release);
            while THREADS[1 - side as usize].load(Ordering::Acquire) == 0 {
                sched::yield_now();
            }
            let other = ThreadId(THREADS[1 - side as usize].load(Ordering::Relaxed));
            for round in 0..ROUNDS {
                while TURN.load(Ordering::Acquire) != 2 * round + side {
                    Machine::park(None);
                }
                TURN.store(2 * round + side + 1, Ordering::Release);
                // The last wake-up of all would go to a thread that may have ended.
                if (round, side) != (ROUNDS - 1, 1) {
                    Machine::unpark(other);
                }
            }
        }

        for cpus in [[CpuId(0), last_cpu()], [last_cpu(), last_cpu()]] {
            TURN.store(0, Ordering::Relaxed);
            THREADS.iter().for_each(|thread| thread.store(0, Ordering::Relaxed));
            let players = [spawn_on(cpus[0], play, 0), spawn_on(cpus[1], play, 1)];
            players.into_iter().for_each(|player| player.join());
            assert_eq!(TURN.load(Ordering::Relaxed), 2 * ROUNDS);
        }
    }
}

ktest! {
    fn an_unpark_before_the_park_is_kept() {
        let begin = Machine::now_ns();
        Machine::unpark(Machine::current_thread());
        Machine::park(Some(begin + 60_000_000_000));
        assert!(Machine::now_ns() - begin < 30_000_000_000, "the token was lost");
    }
}

ktest! {
    fn sleeps_are_never_too_short() {
        on_all_cpus(|cpu| {
            for step in 1..=10 {
                let wanted = step * 700_000 + cpu * 10_000;
                let until = Machine::now_ns() + wanted;
                while Machine::now_ns() < until {
                    Machine::park(Some(until));
                }
                let late = Machine::now_ns() - until;
                // An upper bound would test the host. Minutes would be a lost timer.
                assert!(late < 60_000_000_000, "woke {late} ns late");
            }
        });
    }
}

ktest! {
    /// Many sleepers on one CPU, falling asleep in another order than they wake.
    fn sleepers_wake_in_the_order_of_their_deadlines() {
        const SLEEPERS: u64 = 16;
        static BEGIN: AtomicU64 = AtomicU64::new(0);
        static LAST: AtomicU64 = AtomicU64::new(0);
        static SLEPT: AtomicU64 = AtomicU64::new(0);
        SLEPT.store(0, Ordering::Relaxed);
        BEGIN.store(Machine::now_ns() + 20_000_000, Ordering::Relaxed);
        LAST.store(0, Ordering::Relaxed);
        let sleepers = [3, 14, 7, 0, 9, 1, 15, 4, 12, 8, 2, 11, 6, 13, 5, 10].map(|place| {
            spawn_on(last_cpu(), |place| {
                let until = BEGIN.load(Ordering::Relaxed) + place * 2_000_000;
                if Machine::now_ns() >= until {
                    // The host was slow: it came too late to sleep.
                    return;
                }
                while Machine::now_ns() < until {
                    Machine::park(Some(until));
                }
                // All on one CPU, in the kernel: nobody comes between.
                assert!(LAST.swap(place, Ordering::Relaxed) <= place, "an earlier sleeper woke after {place}");
                SLEPT.fetch_add(1, Ordering::Relaxed);
            }, place)
        });
        assert_eq!(sleepers.len() as u64, SLEEPERS);
        sleepers.into_iter().for_each(|sleeper| sleeper.join());
        kernel::ktest::note(format_args!("{} of {SLEEPERS} came in time to sleep", SLEPT.load(Ordering::Relaxed)));
    }
}

ktest! {
    fn a_thread_moves_to_every_cpu() {
        let home = CpuId(0).bit();
        for _ in 0..20 {
            for cpu in CpuSet::first(Machine::cpu_count()).iter() {
                sched::move_to(cpu.bit());
                assert_eq!(Machine::cpu(), cpu);
            }
        }
        sched::move_to(home);
    }
}

ktest! {
    /// More runnable threads than CPUs, none pinned: all make progress, and idle CPUs take work.
    fn idle_cpus_take_work() {
        static USED: AtomicU64 = AtomicU64::new(0);
        static AT_WORK: AtomicU32 = AtomicU32::new(0);
        let cpus = Machine::cpu_count();
        USED.store(0, Ordering::Relaxed);
        AT_WORK.store(0, Ordering::Relaxed);
        let all = CpuSet::first(cpus);
        let mut threads: [Option<sched::KernelThread>; 2 * abi::MAX_CPUS] = [const { None }; 2 * abi::MAX_CPUS];
        for place in threads.iter_mut().take(2 * cpus) {
            let thread = sched::spawn_kernel("work", all, |cpus| {
                USED.fetch_or(Machine::cpu().bit().0, Ordering::Relaxed);
                AT_WORK.fetch_add(1, Ordering::Relaxed);
                // Nobody leaves before there is one at work for each CPU: this ends only if every CPU has taken one.
                let until = Machine::now_ns() + 120_000_000_000;
                while u64::from(AT_WORK.load(Ordering::Relaxed)) < cpus {
                    assert!(Machine::now_ns() < until, "CPUs at work: {:#x}", USED.load(Ordering::Relaxed));
                    Machine::relax();
                }
            }, cpus as u64);
            *place = Some(thread.expect("memory for a thread"));
        }
        // The main thread would keep its own CPU busy if it spun; it sleeps.
        threads.into_iter().flatten().for_each(|thread| thread.join());
        assert_eq!(CpuSet(USED.load(Ordering::Relaxed)), all);
    }
}

ktest! {
    fn threads_come_and_go() {
        static RUN: AtomicU64 = AtomicU64::new(0);
        RUN.store(0, Ordering::Relaxed);
        for round in 0..200u32 {
            let cpu = CpuId(round % Machine::cpu_count() as u32);
            spawn_on(cpu, |_| { RUN.fetch_add(1, Ordering::Relaxed); }, 0).join();
        }
        assert_eq!(RUN.load(Ordering::Relaxed), 200);
    }
}
