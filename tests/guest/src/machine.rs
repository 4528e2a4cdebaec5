//! All CPUs run, reach each other, and agree about time.

use core::sync::atomic::{AtomicU64, Ordering};

use kernel::arch::{cpu, percpu, timer};
use kernel::ktest;
use kernel::ktest::{on_all_cpus, spawn_on};
use kernel::platform::Machine;
use kernel::sched;
use sync::{CpuId, CpuSet, InterruptState, Platform};

ktest! {
    fn every_cpu_is_online_and_knows_its_number() {
        static SEEN: AtomicU64 = AtomicU64::new(0);
        assert_eq!(percpu::online(), CpuSet::first(Machine::cpu_count()));
        on_all_cpus(|cpu| {
            assert_eq!(u64::from(Machine::cpu().0), cpu, "a pinned thread runs on another CPU");
            assert_eq!(cpu::interrupt_state(), InterruptState::On);
            SEEN.fetch_or(1 << cpu, Ordering::Relaxed);
        });
        assert_eq!(CpuSet(SEEN.swap(0, Ordering::Relaxed)), CpuSet::first(Machine::cpu_count()));
    }
}

ktest! {
    /// A request and its answer, from the first CPU to each other one, both by interrupts: a parked thread is woken
    /// there and here.
    fn interrupts_go_to_every_cpu_and_back() {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        static ASKER: AtomicU64 = AtomicU64::new(0);
        const ROUNDS: u64 = 50;
        for cpu in (1..Machine::cpu_count() as u32).map(CpuId) {
            ASKED.store(0, Ordering::Relaxed);
            ASKER.store(Machine::current_thread().0, Ordering::Relaxed);
            static ANSWERER: AtomicU64 = AtomicU64::new(0);
            ANSWERER.store(0, Ordering::Relaxed);
            let thread = spawn_on(cpu, |_| {
                ANSWERER.store(Machine::current_thread().0, Ordering::Release);
                for round in 1..=ROUNDS {
                    while ASKED.load(Ordering::Acquire) < 2 * round - 1 {
                        Machine::park(None);
                    }
                    ASKED.store(2 * round, Ordering::Release);
                    Machine::unpark(sync::ThreadId(ASKER.load(Ordering::Relaxed)));
                }
            }, 0);
            while ANSWERER.load(Ordering::Acquire) == 0 {
                sched::yield_now();
            }
            for round in 1..=ROUNDS {
                ASKED.store(2 * round - 1, Ordering::Release);
                Machine::unpark(sync::ThreadId(ANSWERER.load(Ordering::Relaxed)));
                while ASKED.load(Ordering::Acquire) < 2 * round {
                    Machine::park(None);
                }
            }
            thread.join();
        }
    }
}

ktest! {
    fn the_clock_never_goes_back_on_a_cpu() {
        on_all_cpus(|_| {
            let mut last = timer::now_ns();
            for _ in 0..20_000 {
                let now = timer::now_ns();
                assert!(now >= last, "{last} ns, then {now} ns");
                last = now;
            }
        });
    }
}

ktest! {
    fn wall_clock_is_in_this_century() {
        let seconds = kernel::clock::realtime_ns() / 1_000_000_000;
        // 2024-01-01 to 2100-01-01.
        assert!((1_704_067_200..4_102_444_800).contains(&seconds), "{seconds} s since 1970");
    }
}
