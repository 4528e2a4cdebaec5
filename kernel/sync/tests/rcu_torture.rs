//! RCU under torture over host threads (`sync::torture`): it passes, and fails with each planted mistake.
#![cfg(not(any(loom, shuttle)))]

use std::thread;

use sync::testing::{Host, in_interrupt, interrupts_on, on_cpu, planted, run_seed, shaken};
use sync::torture::{Around, AtFailure, Numbers, Plan, Publish, Report, Run, Section, Torture};
use sync::{CpuId, Rcu};

/// CPUs of the roles.
const READERS: u32 = 4;
const WRITER: u32 = 4;
const FAKE_WRITER: u32 = 5;
const BARRIERS: u32 = 6;
const FLOODS: u32 = 7;
const UPDATES: u64 = 3_000;

/// What a CPU does between two sections: mostly what a busy one does, sometimes a halt, sometimes nothing.
fn between(rcu: &'static Rcu<Host>, random: u64) {
    match random % 16 {
        0 => {
            rcu.idle_enter();
            thread::yield_now();
            rcu.idle_exit();
        }
        1..12 => {
            rcu.quiescent();
            rcu.poll();
        }
        _ => {}
    }
}

/// A tick amid a section.
fn inside(rcu: &'static Rcu<Host>, _random: u64) {
    if interrupts_on() {
        in_interrupt(|| rcu.poll());
    }
}

const AROUND: Around<Host> = Around { between, inside, interrupt: |handler| in_interrupt(handler) };

/// Takes the CPU out of grace periods when its role is over.
struct Online(&'static Rcu<Host>);

impl Drop for Online {
    fn drop(&mut self) {
        self.0.idle_enter();
    }
}

/// Plays all roles, with `mistake` planted in all of them.
fn torture(plan: Plan<Host>, mistake: Option<&'static str>) -> Report {
    let rcu: &'static Rcu<Host> = Box::leak(Box::new(Rcu::new()));
    let run = Run::new(Box::leak(Box::new(Torture::new())), rcu, plan);
    (0..=FLOODS).for_each(|cpu| rcu.online(CpuId(cpu)));
    thread::scope(|scope| {
        let role = |cpu: u32, body: Box<dyn FnOnce() + Send>| {
            scope.spawn(move || {
                on_cpu(CpuId(cpu), || {
                    let _online = Online(rcu);
                    planted(mistake, || shaken(plan.seed, cpu.into(), body));
                });
            });
        };
        for reader in 0..READERS {
            role(reader, Box::new(move || run.reader(reader as usize)));
        }
        role(WRITER, Box::new(move || run.writer()));
        role(FAKE_WRITER, Box::new(move || run.fake_writer(0)));
        role(BARRIERS, Box::new(move || run.barriers()));
        role(FLOODS, Box::new(move || run.floods()));
    });
    let report = run.report();
    println!("{mistake:?}, {:?}:\n{report}", plan.publish);
    report
}

fn plan() -> Plan<Host> {
    Plan {
        seed: run_seed(),
        updates: UPDATES,
        patience: 100,
        publish: Publish::Filled,
        at_failure: AtFailure::GoOn,
        around: AROUND,
    }
}

/// A torture of RCU that is broken by `mistake`. It has many more updates than it needs, and ends at the first failure.
fn broken(mistake: &'static str) -> Report {
    torture(Plan { updates: 100_000, at_failure: AtFailure::Stop, ..plan() }, Some(mistake))
}

#[test]
fn no_grace_period_is_too_short() {
    let report = torture(plan(), None);
    assert_eq!(report.failures(), 0, "{report}");
    assert_eq!(report.updates + report.starved, UPDATES);
    assert!(report.sections() > report.updates);
    assert!(report.pipe[1] > 0, "no reader ever held what had been replaced");
    assert!(report.barriers > 0 && report.fake > 0 && report.flooded > 0);
}

/// Threads that read and end, one after another, while a writer waits for grace periods.
#[test]
fn threads_that_end_after_one_section_hold_nothing_up() {
    const THREADS: u64 = 300;
    let rcu: &'static Rcu<Host> = Box::leak(Box::new(Rcu::new()));
    let run = Run::new(Box::leak(Box::new(Torture::new())), rcu, Plan { updates: 1_000, ..plan() });
    rcu.online(CpuId(WRITER));
    thread::scope(|scope| {
        scope.spawn(move || on_cpu(CpuId(WRITER), || run.writer()));
        let mut numbers = Numbers::new(plan().seed, 1);
        for round in 0..THREADS {
            let burst: Vec<_> = (0..READERS)
                .map(|cpu| {
                    let random = numbers.draw();
                    scope.spawn(move || {
                        on_cpu(CpuId(cpu), || {
                            rcu.online(CpuId(cpu));
                            let _online = Online(rcu);
                            let sections =
                                [Section::Plain, Section::Nested, Section::InterruptsOff, Section::Interrupt];
                            run.read_once(sections[(round % 4) as usize], random);
                        });
                    })
                })
                .collect();
            burst.into_iter().for_each(|reader| reader.join().unwrap());
        }
    });
    let report = run.report();
    assert_eq!(report.failures(), 0, "{report}");
}

#[test]
fn a_grace_period_that_does_not_wait_for_a_cpu_is_found() {
    assert_ne!(broken("rcu-forgets-a-cpu").too_short(), 0);
}

#[test]
fn a_report_from_inside_a_section_is_found() {
    assert_ne!(broken("rcu-poll-reports").too_short(), 0);
}

#[test]
fn a_grace_period_that_had_begun_before_is_found() {
    assert_ne!(broken("rcu-target-too-low").too_short(), 0);
}

/// One reader that queues callbacks, and nobody else who does: else the barrier would wait for theirs, and ours run meanwhile.
fn barriers(mistake: Option<&'static str>) -> Report {
    // A mistake ends the run when it is found. Its barriers do not wait for the reader, which may not have begun.
    let most = if mistake.is_some() { 1_000_000 } else { 5_000 };
    let rcu: &'static Rcu<Host> = Box::leak(Box::new(Rcu::new()));
    let plan = Plan { at_failure: AtFailure::Stop, ..plan() };
    let run = Run::new(Box::leak(Box::new(Torture::new())), rcu, plan);
    thread::scope(|scope| {
        for cpu in [0, BARRIERS] {
            rcu.online(CpuId(cpu));
            scope.spawn(move || {
                on_cpu(CpuId(cpu), || {
                    let _online = Online(rcu);
                    planted(mistake, || if cpu == BARRIERS { run.barriers() } else { run.reader(0) });
                });
            });
        }
        while run.report().barriers < most && !run.over() {
            thread::yield_now();
        }
        run.end();
    });
    run.report()
}

#[test]
fn a_barrier_that_skips_a_queue_is_found() {
    assert_ne!(barriers(Some("rcu-barrier-skips-a-queue")).barrier_failures, 0);
    assert_eq!(barriers(None).failures(), 0);
}

#[test]
fn an_element_that_is_published_before_it_is_filled_is_found() {
    let plan = Plan { updates: 100_000, at_failure: AtFailure::Stop, publish: Publish::First, ..plan() };
    assert_ne!(torture(plan, None).unfilled, 0);
}
