//! The lock-order validator on the host: each kind of violation is caught and named, and what is right passes; the
//! waits-for graph of real threads that wait for each other.
#![cfg(debug_assertions)]
#![cfg(not(any(loom, shuttle)))]

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use sync::order::waits::{Contexts, Graph, Seen, overdue};
use sync::order::{self, Class, Context, Held, Mode, NO_RANGE, Wait, Waiting};
use sync::testing::{Host, in_interrupt};
use sync::*;

fn lock(class: Class) -> SpinLock<Host, ()> {
    spin_lock(class, ())
}

/// What the panic of `body` says. Panics if there is none.
fn violation(body: impl FnOnce()) -> String {
    let error = catch_unwind(AssertUnwindSafe(body)).expect_err("the validator did not mind");
    error.downcast_ref::<String>().expect("a message").clone()
}

/// That `text` has all of `parts`, in order.
#[track_caller]
fn says(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest.find(part).unwrap_or_else(|| panic!("no {part:?} after what came before, in:\n{text}"));
        rest = &rest[at + part.len()..];
    }
}

const HERE: &str = "tests/order.rs:";

#[test]
fn the_right_order_passes() {
    let (outer, inner) = (lock(Class::Publication), lock(Class::Buddy));
    let fair = FairRwLock::<Host>::new(Class::Update);
    for _ in 0..2 {
        let _update = fair.write();
        let _outer = outer.lock();
        let _inner = inner.lock();
    }
    let _inner = inner.lock();
}

#[test]
fn guards_may_go_in_any_order() {
    let (first, second) = (FairRwLock::<Host>::new(Class::Planted), FairRwLock::<Host>::new(Class::Planted));
    let one = first.write();
    let two = second.read();
    drop(one);
    drop(two);
    order::nothing_held::<Host>();
}

#[test]
fn an_inversion_names_both_locks_and_both_places() {
    let (outer, inner) = (lock(Class::Publication), lock(Class::Buddy));
    let text = violation(|| {
        let _inner = inner.lock();
        let _outer = outer.lock();
    });
    says(&text, &["wrong order", "publication section 0x", HERE, "while it holds buddy allocator 0x", HERE]);
    says(&text, &["the thread holds, outermost first", "buddy allocator", HERE]);
    // The thread goes on, and is checked again.
    says(&violation(|| drop((inner.lock(), outer.lock()))), &["wrong order"]);
}

#[test]
fn two_of_a_class_are_an_inversion_but_for_those_that_nest() {
    let pair = [lock(Class::RunQueue), lock(Class::RunQueue)];
    says(&violation(|| drop((pair[0].lock(), pair[1].lock()))), &["wrong order", "run queue", "run queue"]);
    let buckets = [lock(Class::FutexBucket), lock(Class::FutexBucket)];
    let low = buckets[0].lock();
    let high = buckets[1].lock();
    drop(high);
    drop(low);
    says(&violation(|| drop((buckets[1].lock(), buckets[0].lock()))), &["wrong order", "futex bucket"]);
}

#[test]
fn taking_a_lock_twice_is_no_hang() {
    let spin = lock(Class::Random);
    says(&violation(|| drop((spin.lock(), spin.lock()))), &["taken twice", "random numbers", HERE, "holds", HERE]);
    let fair = FairRwLock::<Host>::new(Class::Planted);
    says(&violation(|| drop((fair.read(), fair.read()))), &["taken twice", "planted lock", "(read)"]);
}

#[test]
fn nobody_sleeps_with_a_spin_lock() {
    let spin = lock(Class::WaitQueue);
    let sleep = || {
        let queue = WaitQueue::<Host>::new();
        queue.wait_until(|| true, None, Interruptible::No);
    };
    let text = violation(|| {
        let _spin = spin.lock();
        sleep();
    });
    says(&text, &["sleep where nobody may sleep", HERE, "while it holds wait queue 0x", HERE]);
    says(&violation(|| in_interrupt(sleep)), &["sleep in an interrupt handler", HERE, "interrupt handler holds"]);
    let rcu = Rcu::<Host>::new();
    rcu.online(CpuId(0));
    says(&violation(|| drop((rcu.read(), rcu.synchronize()))), &["sleep where", "RCU read section", HERE]);
    let fair = FairRwLock::<Host>::new(Class::Planted);
    says(&violation(|| drop((spin.lock(), fair.write()))), &["wrong order", "planted lock", "wait queue"]);
}

#[test]
fn interrupt_handlers_take_only_what_is_for_them() {
    in_interrupt(|| drop(lock(Class::RunQueue).lock()));
    let text = violation(|| in_interrupt(|| drop(lock(Class::Publication).lock())));
    says(&text, &["not for interrupt handlers", "publication section", HERE]);
    let fair = FairRwLock::<Host>::new(Class::Update);
    says(&violation(|| in_interrupt(|| drop(fair.write()))), &["not for interrupt handlers", "update lock"]);
    // What the interrupted thread holds is not the handler's.
    let _inner = lock(Class::StreamOut);
    let _held = _inner.lock();
    in_interrupt(|| drop(lock(Class::RunQueue).lock()));
}

#[test]
fn a_lock_that_is_not_held_is_not_given_back() {
    let text = violation(|| order::released::<Host>(Class::Buddy, 0x1000));
    says(&text, &["given back, but not held", "buddy allocator 0x1000", HERE, "nothing"]);
}

#[test]
fn an_end_with_a_lock_held_is_noticed() {
    let fair = FairRwLock::<Host>::new(Class::Planted);
    let text = violation(|| {
        let _held = fair.write();
        order::nothing_held::<Host>();
    });
    says(&text, &["still held at the end", HERE, "planted lock", HERE]);
}

#[test]
fn user_memory_is_out_of_reach_in_a_transaction() {
    order::may_touch_user::<Host>();
    let (space, locks) = (UpdateLock::<Host>::new(), VmaLocks::new(abi::Pair::DEFAULT).unwrap());
    let counters = Counters::new().unwrap();
    let text = violation(|| {
        let vmas: Vec<VmaLock> = (0..9).map(|_| VmaLock::open(&locks)).collect();
        let _ = update(&space, &locks, &counters, |txn| {
            for (page, vma) in (0..).zip(&vmas) {
                txn.mark(vma, 0x10_0000 * page..0x10_0000 * page + 0x1000)?;
            }
            order::may_touch_user::<Host>();
            Ok(())
        });
    });
    says(&text, &["user memory touched", HERE, "while it holds", "VMA write lock"]);
    // The record: the update lock, the transaction, marks with their ranges, and the hull of those beyond a few.
    says(&text, &["outermost first", "update lock", HERE, "transaction 0x", "VMA write lock 0x0..0x1000", HERE]);
    says(&text, &["6 VMA write locks in 0x300000..0x801000 of transaction"]);
    let text = violation(|| {
        let _section = locks.enter(0x5123);
        order::may_touch_user::<Host>();
    });
    says(&text, &["user memory touched", "VMA read lock of the fault at 0x5000"]);
}

#[test]
fn too_many_locks_are_a_violation_and_no_lost_record() {
    let locks: Vec<_> = (0..20).map(|_| FairRwLock::<Host>::new(Class::Planted)).collect();
    let text = violation(|| {
        let _all: Vec<_> = locks.iter().map(FairRwLock::write).collect();
    });
    says(&text, &["more locks than the record has room for"]);
}

#[test]
fn tools_read_what_a_context_wrote() {
    let fair = FairRwLock::<Host>::new(Class::Planted);
    let _held = fair.read();
    let record = Host::with_held(|held| held.stack().read()).unwrap();
    let place = record.places().next().copied().unwrap();
    assert_eq!((place.class, place.mode), (Class::Planted, Mode::Read));
    assert_eq!(place.address, (&raw const fair).addr() as u64);
    assert!(place.since_ns > 0);
}

/// Contexts of a test: their records are the test's own.
struct Few<'a>(&'a [(&'a str, &'a Held, Option<CpuId>)]);

impl Contexts for Few<'_> {
    fn each(&self, visit: &mut dyn FnMut(&Seen<'_>)) {
        for (name, held, cpu) in self.0 {
            visit(&Seen { held, name: name as &dyn fmt::Display, cpu: *cpu });
        }
    }
}

/// Plays a context: a thread whose record is handed to `look` while it holds and waits for what `play` says.
fn with_contexts(plays: &[fn(&dyn Fn())], look: impl FnOnce(&[&Held])) {
    let arrived = AtomicU32::new(0);
    let done = AtomicU32::new(0);
    let (send, receive) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        for (index, play) in plays.iter().enumerate() {
            let (send, arrived, done) = (send.clone(), &arrived, &done);
            scope.spawn(move || {
                play(&|| {
                    let address = Host::with_held(|held| core::ptr::from_ref(held).addr()).unwrap();
                    send.send((index, address)).unwrap();
                    arrived.fetch_add(1, Ordering::SeqCst);
                    while done.load(Ordering::SeqCst) == 0 {
                        thread::yield_now();
                    }
                });
            });
        }
        let mut addresses: Vec<(usize, usize)> = (0..plays.len()).map(|_| receive.recv().unwrap()).collect();
        addresses.sort_unstable();
        let records: Vec<&Held> = addresses
            .iter()
            // SAFETY: the records of threads that spin until `done` is set.
            .map(|&(_, address)| unsafe { &*core::ptr::with_exposed_provenance::<Held>(address) })
            .collect();
        look(&records);
        done.store(1, Ordering::SeqCst);
    });
}

fn holds(class: Class, address: u64) {
    order::acquired::<Host>(class, Mode::Write, address, NO_RANGE);
}

fn waits(what: Wait, class: Class, address: u64) -> Waiting<Host> {
    Waiting::new(what, class, address, NO_RANGE)
}

#[test]
fn a_cycle_of_waits_is_drawn_and_named() {
    let plays: [fn(&dyn Fn()); 3] = [
        |look| {
            holds(Class::Planted, 1);
            let _wait = waits(Wait::Lock, Class::Planted, 2);
            look();
        },
        |look| {
            holds(Class::Planted, 2);
            let _wait = waits(Wait::Lock, Class::Planted, 1);
            look();
        },
        |look| {
            let _wait = waits(Wait::Lock, Class::Planted, 1);
            look();
        },
    ];
    with_contexts(&plays, |held| {
        let all = [("thread a", held[0], None), ("thread b", held[1], None), ("thread c", held[2], None)];
        let contexts = Few(&all);
        let now_ns = Host::now_ns();
        // Seen from one that only waits for a member of the cycle, too.
        let graph = Graph { contexts: &contexts, from: held[2], now_ns }.to_string();
        says(&graph, &["a wait lasts too long", "thread c sleeps for planted lock 0x1, for", "at ", HERE]);
        says(&graph, &["thread c", "planted lock 0x1 is held by thread a, for", "taken at ", HERE]);
        says(
            &graph,
            &["thread a sleeps for planted lock 0x2", "held by thread b", "thread b sleeps for planted lock 0x1"],
        );
        says(&graph, &["a cycle: thread a -> thread b -> thread a"]);
    });
}

#[test]
fn a_chain_of_waits_ends_with_who_runs() {
    let plays: [fn(&dyn Fn()); 3] = [
        |look| {
            holds(Class::Update, 0xa0);
            let _wait = waits(Wait::FaultEnd, Class::VmaRead, 0xf0);
            look();
        },
        |look| {
            order::acquired::<Host>(Class::VmaRead, Mode::Read, 0xf0, 0x5000..0x6000);
            look();
        },
        |look| {
            let _outer = waits(Wait::Lock, Class::Update, 0xa0);
            // Over: what the context waited for before counts again.
            drop(waits(Wait::Lock, Class::FairLock, 0xa8));
            look();
        },
    ];
    with_contexts(&plays, |held| {
        let all = [("a", held[0], None), ("b", held[1], Some(CpuId(3))), ("c", held[2], None)];
        let contexts = Few(&all);
        let graph = Graph { contexts: &contexts, from: held[2], now_ns: Host::now_ns() }.to_string();
        says(&graph, &["c sleeps for update lock 0xa0", "held by a", "a spins until the fault"]);
        says(&graph, &["VMA read lock of the fault at 0x5000 (slot 0xf0) is held by b", "b runs on CPU 3", "no cycle"]);
    });
}

#[test]
fn cpus_that_are_waited_for_are_edges_too() {
    let plays: [fn(&dyn Fn()); 3] = [
        |look| {
            let _wait = waits(Wait::Shootdown, Class::None, CpuId(5).bit().0);
            look();
        },
        |look| {
            let _wait = waits(Wait::Shootdown, Class::None, CpuId(2).bit().0);
            look();
        },
        |look| {
            let _wait = waits(Wait::GracePeriod, Class::RcuRead, CpuId(2).bit().0);
            look();
        },
    ];
    with_contexts(&plays, |held| {
        let all = [("a", held[0], Some(CpuId(2))), ("b", held[1], Some(CpuId(5)))];
        let graph = Graph { contexts: &Few(&all), from: held[0], now_ns: Host::now_ns() }.to_string();
        says(&graph, &["a spins until CPUs 0x20", "b spins until CPUs 0x4", "a cycle: a -> b -> a"]);

        // One that sleeps leaves its CPU to others.
        let all = [("a", held[0], Some(CpuId(2))), ("c", held[2], Some(CpuId(5)))];
        let graph = Graph { contexts: &Few(&all), from: held[2], now_ns: Host::now_ns() }.to_string();
        says(&graph, &["c sleeps until CPUs 0x4", "one of them runs a", "a spins until CPUs 0x20", "no cycle"]);
    });
}

/// Contexts of which some move on when they have been looked at so often.
struct Moving<'a> {
    before: Few<'a>,
    after: Few<'a>,
    looks: Cell<u32>,
}

impl Contexts for Moving<'_> {
    fn each(&self, visit: &mut dyn FnMut(&Seen<'_>)) {
        let left = self.looks.get();
        self.looks.set(left.saturating_sub(1));
        if left > 0 { &self.before } else { &self.after }.each(visit);
    }
}

#[test]
fn a_cycle_that_does_not_stand_still_is_none() {
    fn deadlocked(look: &dyn Fn(), mine: u64, other: u64) {
        holds(Class::Planted, mine);
        let _wait = waits(Wait::Lock, Class::Planted, other);
        look();
    }
    fn holds_only(look: &dyn Fn(), mine: u64) {
        holds(Class::Planted, mine);
        look();
    }
    let plays: [fn(&dyn Fn()); 3] =
        [|look| deadlocked(look, 1, 2), |look| deadlocked(look, 2, 1), |look| holds_only(look, 2)];
    with_contexts(&plays, |held| {
        let before = [("a", held[0], None), ("b", held[1], None)];
        let after = [("a", held[0], None), ("b", held[2], Some(CpuId(0)))];
        // Each of two contexts is shown by two looks; after that `b` has what it waited for.
        for (looks, verdict) in [(4, "no cycle"), (u32::MAX, "a cycle: a -> b -> a")] {
            let contexts = Moving { before: Few(&before), after: Few(&after), looks: Cell::new(looks) };
            let graph = Graph { contexts: &contexts, from: held[0], now_ns: Host::now_ns() }.to_string();
            says(&graph, &["a sleeps for planted lock 0x2", "b sleeps for planted lock 0x1", verdict]);
        }
    });
}

#[test]
fn a_long_wait_is_reported_once_and_an_event_never() {
    let plays: [fn(&dyn Fn()); 2] = [
        |look| {
            let _wait = waits(Wait::Lock, Class::Planted, 1);
            look();
        },
        |look| {
            let _wait = waits(Wait::Event, Class::None, 1);
            look();
        },
    ];
    with_contexts(&plays, |held| {
        let later_ns = Host::now_ns() + 2_000_000_000;
        assert!(!overdue(held[0], later_ns, 1_000_000_000_000));
        assert!(overdue(held[0], later_ns, 1_000_000_000));
        assert!(!overdue(held[0], later_ns, 1_000_000_000));
        assert!(!overdue(held[1], later_ns, 1_000_000_000));
    });
}

#[test]
fn a_record_of_an_interrupt_says_so() {
    let held = in_interrupt(|| Host::with_held(|held| held.stack().read()).unwrap());
    assert_eq!(held.context, Context::Interrupt);
}
