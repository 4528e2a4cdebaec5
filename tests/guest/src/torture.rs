//! RCU under torture in the real kernel (`sync::torture`): threads on all CPUs that yield, sleep, move and end, programs in user
//! mode, ticks and nudges that read. It passes; and with each mistake planted in the kernel's own RCU it fails.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kernel::ktest;
use kernel::ktest::{note, share, spawn_on};
use kernel::memory::memory;
use kernel::platform::Machine;
use kernel::sched::{self, KernelThread};
use sync::torture::{Around, AtFailure, Plan, Publish, Report, Run, Section, Torture};
use sync::{CpuId, InterruptGuard, Platform, Rcu};

use crate::programs;

static TORTURE: Torture<Machine> = Torture::new();

/// The plan of the running test, for its threads.
static UPDATES: AtomicU64 = AtomicU64::new(0);
static PATIENCE: AtomicU64 = AtomicU64::new(0);
static STOP_AT_FAILURE: AtomicBool = AtomicBool::new(false);
static PUBLISH_FIRST: AtomicBool = AtomicBool::new(false);
/// Threads may end: RCU is whole again, which frees what is left of them.
static WHOLE: AtomicBool = AtomicBool::new(true);

/// What a thread does between two sections: goes on, gives way, falls asleep for a moment, or moves.
fn between(_rcu: &'static Rcu<Machine>, random: u64) {
    match random % 64 {
        0 => sched::move_to(CpuId((random >> 8) as u32 % Machine::cpu_count() as u32).bit()),
        1 => Machine::park(Some(Machine::now_ns() + (random >> 8) % 500_000)),
        2..24 => sched::yield_now(),
        _ => {}
    }
}

/// As a handler would be called, at a moment that is not the clock's.
fn interrupt(handler: &mut dyn FnMut()) {
    let _off = InterruptGuard::<Machine>::new();
    let _in = sched::InInterrupt::enter();
    handler();
}

fn run() -> Run<Machine> {
    let chosen = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
    let plan = Plan {
        seed: 0x7e55,
        updates: UPDATES.load(Ordering::Relaxed),
        patience: PATIENCE.load(Ordering::Relaxed) as u32,
        publish: if chosen(&PUBLISH_FIRST) { Publish::First } else { Publish::Filled },
        at_failure: if chosen(&STOP_AT_FAILURE) { AtFailure::Stop } else { AtFailure::GoOn },
        // Amid a section real interrupts come by themselves.
        around: Around { between, inside: |_, _| {}, interrupt },
    };
    Run::new(&TORTURE, &memory().rcu, plan)
}

/// Threads that play roles.
struct Threads {
    threads: [Option<KernelThread>; 2 * abi::MAX_CPUS],
    len: usize,
}

impl Threads {
    fn new() -> Threads {
        Threads { threads: [const { None }; 2 * abi::MAX_CPUS], len: 0 }
    }

    fn add(&mut self, cpu: usize, role: fn(u64)) {
        let cpu = cpu % Machine::cpu_count();
        self.threads[self.len] = Some(spawn_on(CpuId(cpu as u32), role, self.len as u64));
        self.len += 1;
    }

    fn join(self) {
        self.threads.into_iter().flatten().for_each(KernelThread::join);
    }
}

/// The thread's role is over, but it must not end yet.
fn over() {
    while !WHOLE.load(Ordering::Acquire) {
        Machine::park(Some(Machine::now_ns() + 200_000));
    }
}

fn reader(index: u64) {
    run().reader(index as usize);
    over();
}

fn writer(_: u64) {
    run().writer();
    over();
}

fn barriers(_: u64) {
    run().barriers();
    over();
}

/// Reads in the tick, and in the nudge that asks for a quiescent state.
fn in_interrupt() {
    run().read_once(Section::Plain, Machine::now_ns().wrapping_mul(0x9e37_79b9_7f4a_7c15));
}

fn tell(report: &Report) {
    note(format_args!("{report}"));
}

ktest! {
    /// All roles at once, beside programs that come and go.
    fn no_grace_period_is_too_short() {
        static VISITOR: fn() = in_interrupt;
        let cpus = Machine::cpu_count();
        TORTURE.reset();
        // On one CPU each step of the writer waits for a slice of the program's.
        UPDATES.store(if cpus == 1 { 60 } else { share(8_000, 1_000) }, Ordering::Relaxed);
        PATIENCE.store(500, Ordering::Relaxed);
        STOP_AT_FAILURE.store(false, Ordering::Relaxed);
        PUBLISH_FIRST.store(false, Ordering::Relaxed);
        sched::set_visitor(Some(&VISITOR));
        let mut threads = Threads::new();
        (0..cpus).for_each(|cpu| threads.add(cpu, reader));
        threads.add(cpus - 1, writer);
        threads.add(0, |_| run().fake_writer(0));
        threads.add(cpus / 2, |_| run().floods());
        threads.add(cpus / 3, barriers);
        let mut rounds = 0u64;
        while !run().over() {
            // Threads that end after one section, and a CPU whose quiescent states are its program's ticks.
            let cpu = CpuId(rounds as u32 % cpus as u32);
            let once = spawn_on(cpu, |random| run().read_once(Section::Plain, random), rounds << 8);
            programs::compute_on(cpu);
            once.join();
            rounds += 1;
        }
        threads.join();
        sched::set_visitor(None);
        let report = run().report();
        tell(&report);
        assert_eq!(report.failures(), 0, "{report}");
        assert!(report.sections() > report.updates && report.barriers > 0 && report.flooded > 0 && rounds > 0);
    }
}

/// Whether a torture in which RCU makes `mistake` finds it: `found` says so of the report.
fn finds(mistake: Option<&'static str>, roles: fn(&mut Threads), found: fn(&Report) -> u64) {
    if Machine::cpu_count() == 1 {
        // Threads of one CPU keep no section open while another runs.
        return;
    }
    TORTURE.reset();
    UPDATES.store(20_000, Ordering::Relaxed);
    PATIENCE.store(20_000, Ordering::Relaxed);
    STOP_AT_FAILURE.store(true, Ordering::Relaxed);
    PUBLISH_FIRST.store(mistake.is_none(), Ordering::Relaxed);
    WHOLE.store(false, Ordering::Release);
    let mut threads = Threads::new();
    kernel::plant::with_mistake(mistake, || {
        roles(&mut threads);
        while !run().over() {
            Machine::park(Some(Machine::now_ns() + 1_000_000));
            // A run without a writer has no end of its own. Barriers that do not wait are many before another CPU has begun to read.
            if run().report().barriers > 50 * UPDATES.load(Ordering::Relaxed) {
                run().end();
            }
        }
    });
    WHOLE.store(true, Ordering::Release);
    threads.join();
    let report = run().report();
    tell(&report);
    assert_ne!(found(&report), 0, "{mistake:?} was not found: {report}");
}

/// Readers on the first CPU and two more, a writer on the last: the others are idle, so that grace periods are short.
fn few(threads: &mut Threads) {
    (0..Machine::cpu_count().min(3)).for_each(|cpu| threads.add(cpu, reader));
    threads.add(Machine::cpu_count() - 1, writer);
}

ktest! {
    fn a_grace_period_that_does_not_wait_for_a_cpu_is_found() {
        finds(Some("rcu-forgets-a-cpu"), few, Report::too_short);
    }
}

ktest! {
    fn a_report_from_inside_a_section_is_found() {
        finds(Some("rcu-poll-reports"), few, Report::too_short);
    }
}

ktest! {
    fn a_grace_period_that_had_begun_before_is_found() {
        finds(Some("rcu-target-too-low"), few, Report::too_short);
    }
}

ktest! {
    /// One reader that queues callbacks, and nobody else who does.
    fn a_barrier_that_skips_a_queue_is_found() {
        let roles = |threads: &mut Threads| {
            threads.add(0, reader);
            threads.add(Machine::cpu_count() - 1, barriers);
        };
        finds(Some("rcu-barrier-skips-a-queue"), roles, |report| report.barrier_failures);
    }
}

ktest! {
    fn an_element_that_is_published_before_it_is_filled_is_found() {
        finds(None, few, |report| report.unfilled);
    }
}
