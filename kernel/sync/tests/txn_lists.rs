//! The classic lists for locks that are taken several at a time, over transactions that mark VMAs: what Linux's
//! `test-ww_mutex` asks of its locks. Exclusion, taking again what one has, two that want each other's (with the resolution,
//! and without it, which must hang), circles of two to eight, stress in order, out of order and on one lock, and one large
//! transaction beside a stream of small ones.
#![cfg(not(any(loom, shuttle)))]

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use abi::{Counter, Pair, ReadProtocol, UpdateProtocol};
use sync::order::Held;
use sync::order::waits::{Contexts, Graph, Seen};
use sync::testing::{Host, on_cpu, planted, run_seed, shaken};
use sync::torture::Numbers;
use sync::*;

const PAGE: u64 = 0x1000;
const THREADS: usize = 8;

/// The update protocols under which transactions meet.
const MEETING: [UpdateProtocol; 3] = [UpdateProtocol::WoundWait, UpdateProtocol::Cycle, UpdateProtocol::CycleHeld];

/// Some VMAs of one address space.
struct World {
    space: UpdateLock<Host>,
    locks: VmaLocks<Host>,
    counters: Counters<Host>,
    vmas: Vec<VmaLock>,
    /// Who has marked each VMA: a thread's number and one, or 0.
    owners: Vec<AtomicUsize>,
}

impl World {
    fn new(update: UpdateProtocol, vmas: usize) -> World {
        World::of(Pair::new(ReadProtocol::Slot, update).unwrap(), vmas)
    }

    fn of(pair: Pair, vmas: usize) -> World {
        let locks = VmaLocks::new(pair).unwrap();
        World {
            vmas: (0..vmas).map(|_| VmaLock::open(&locks)).collect(),
            owners: (0..vmas).map(|_| AtomicUsize::new(0)).collect(),
            space: UpdateLock::new(),
            locks,
            counters: Counters::new().unwrap(),
        }
    }

    fn update<T>(&self, mut body: impl FnMut(&mut Txn<'_, Host>) -> Result<T, Abort>) -> T {
        update(&self.space, &self.locks, &self.counters, |txn| body(txn)).unwrap()
    }

    fn mark(&self, txn: &mut Txn<'_, Host>, vma: usize) -> Result<(), Abort> {
        let start = vma as u64 * PAGE;
        txn.mark(&self.vmas[vma], start..start + PAGE)
    }

    /// With all `vmas` marked: that nobody else has any of them.
    fn own(&self, txn: &Txn<'_, Host>, vmas: &[usize], thread: usize) -> Result<(), Abort> {
        txn.settle()?;
        for &vma in vmas {
            let before = self.owners[vma].swap(thread + 1, Ordering::Relaxed);
            assert_eq!(before, 0, "thread {before} and thread {} have marked VMA {vma}", thread + 1);
        }
        thread::yield_now();
        for &vma in vmas {
            assert_eq!(self.owners[vma].swap(0, Ordering::Relaxed), thread + 1);
        }
        Ok(())
    }

    fn count(&self, counter: Counter) -> u64 {
        self.counters.total(counter)
    }

    fn tell(&self, what: &str) {
        let [wounds, cycles, waits, restarts] =
            [Counter::Wound, Counter::Cycle, Counter::TxnWait, Counter::Restart].map(|counter| self.count(counter));
        println!("{}, {what}: {waits} waits, {wounds} wounds, {cycles} cycles, {restarts} restarts", self.locks.pair());
        assert!(cycles <= restarts, "a circle was counted twice");
    }
}

/// Different numbers below `bound`.
fn draw(numbers: &mut Numbers, count: usize, bound: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..bound).collect();
    for place in 0..count {
        let other = place + numbers.draw() as usize % (bound - place);
        all.swap(place, other);
    }
    all.truncate(count);
    all
}

/// Threads `0..count`, each on a CPU of its own while there are CPUs.
fn threads(count: usize, body: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        for thread in 0..count {
            let body = &body;
            scope.spawn(move || on_cpu(CpuId((thread % THREADS) as u32), || body(thread)));
        }
    });
}

/// What one thread of a circle went through.
#[derive(Default)]
struct Tale {
    /// Its transactions: one more than it backed off.
    marks: Vec<Mark>,
}

/// `count` threads, of which each marks its own VMA, waits until all have, and then marks the next one's. Thread 0's call is
/// the oldest. Returns what became of each.
fn circle(world: &World, count: usize) -> Vec<Tale> {
    let (all_have_one, order) = (Barrier::new(count), AtomicUsize::new(0));
    let tales: Vec<Mutex<Tale>> = (0..count).map(|_| Mutex::default()).collect();
    threads(count, |thread| {
        // One call after another.
        while order.load(Ordering::SeqCst) != thread {
            thread::yield_now();
        }
        let mut first = true;
        world.update(|txn| {
            let marks = &mut tales[thread].lock().unwrap().marks;
            if marks.last() != Some(&txn.own_mark()) {
                marks.push(txn.own_mark());
            }
            world.mark(txn, thread)?;
            if std::mem::take(&mut first) {
                order.fetch_add(1, Ordering::SeqCst);
                all_have_one.wait();
            }
            let next = (thread + 1) % count;
            world.mark(txn, next)?;
            world.own(txn, &[thread, next], thread)
        });
    });
    tales.into_iter().map(|tale| tale.into_inner().unwrap()).collect()
}

#[test]
fn a_mark_excludes_all_others() {
    for &protocol in UpdateProtocol::ALL {
        let world = World::new(protocol, 1);
        let seed = run_seed();
        let rounds = |thread| {
            for _ in 0..500 {
                world.update(|txn| {
                    world.mark(txn, 0)?;
                    world.own(txn, &[0], thread)
                });
            }
        };
        threads(THREADS, |thread| shaken(seed, thread as u64, || rounds(thread)));
        world.tell("one VMA");
        assert_eq!(world.count(Counter::VmaMarked), THREADS as u64 * 500, "marked more than once");
        assert_eq!(world.count(Counter::Restart), 0, "nobody holds what another one of them could want");
    }
}

/// AA.
#[test]
fn who_has_marked_a_vma_may_mark_it_again() {
    for &protocol in UpdateProtocol::ALL {
        let world = World::new(protocol, 2);
        world.update(|txn| {
            for vma in [0, 1, 0, 1] {
                world.mark(txn, vma)?;
                txn.settle()?;
            }
            world.own(txn, &[0, 1], 0)
        });
        assert_eq!(world.count(Counter::VmaMarked), 2);
        assert_eq!(world.count(Counter::TxnWait), 0);
    }
}

/// ABBA, and longer circles. The oldest never backs off; under `cycle` one does, and nobody else.
#[test]
fn circles_of_two_to_eight_come_apart() {
    for protocol in MEETING {
        for count in 2..=THREADS {
            let world = World::new(protocol, count);
            let tales = circle(&world, count);
            world.tell(&format!("circle of {count}"));
            assert_eq!(tales[0].marks.len(), 1, "{protocol:?}: the oldest of {count} backed off");
            let restarts = world.count(Counter::Restart);
            assert_eq!(tales.iter().map(|tale| tale.marks.len() as u64 - 1).sum::<u64>(), restarts);
            if protocol == UpdateProtocol::WoundWait {
                // Each but the oldest may be in the way of every older one.
                assert!(restarts >= 1 && restarts <= (count * count) as u64, "{restarts} restarts");
                assert!(world.count(Counter::Wound) >= 1);
            } else {
                assert_eq!(restarts, 1, "{protocol:?}: one circle, one victim");
                assert_eq!(tales[count - 1].marks.len(), 2, "the youngest is the victim");
                assert!(world.count(Counter::Cycle) >= 1);
            }
        }
    }
}

/// `cycle-held` follows eight sleepers at most, and takes what is longer for a circle: so long ones come apart, too, and the oldest
/// still never backs off.
#[test]
fn circles_deeper_than_the_search_come_apart() {
    for count in [9, 12] {
        let world = World::new(UpdateProtocol::CycleHeld, count);
        let tales = circle(&world, count);
        world.tell(&format!("circle of {count}"));
        assert_eq!(tales[0].marks.len(), 1, "the oldest of {count} backed off");
        assert!(world.count(Counter::Restart) >= 1);
    }
}

/// Two that meet without a circle: nobody backs off under `cycle`, and the older one never does.
#[test]
fn who_only_waits_does_not_back_off() {
    for protocol in MEETING {
        let world = World::new(protocol, 2);
        let (first_has_it, second_waits) = (Barrier::new(2), AtomicBool::new(false));
        threads(2, |thread| {
            if thread == 0 {
                let mut first = true;
                world.update(|txn| {
                    world.mark(txn, 0)?;
                    if std::mem::take(&mut first) {
                        first_has_it.wait();
                        while world.count(Counter::TxnWait) == 0 {
                            thread::yield_now();
                        }
                        second_waits.store(true, Ordering::SeqCst);
                    }
                    world.own(txn, &[0], 0)
                });
            } else {
                first_has_it.wait();
                world.update(|txn| {
                    world.mark(txn, 1)?;
                    world.mark(txn, 0)?;
                    assert!(second_waits.load(Ordering::SeqCst), "it did not wait");
                    world.own(txn, &[0, 1], 1)
                });
            }
        });
        assert_eq!(world.count(Counter::Restart), 0, "{protocol:?}");
        assert_eq!(world.count(Counter::Cycle), 0, "{protocol:?}");
    }
}

/// The records of two threads of this test, which never end.
struct Two([(&'static str, &'static Held); 2]);

impl Contexts for Two {
    fn each(&self, visit: &mut dyn FnMut(&Seen<'_>)) {
        for (name, held) in &self.0 {
            visit(&Seen { held, name: name as &dyn fmt::Display, cpu: None });
        }
    }
}

/// ABBA without the resolution: the two wait for each other for ever, and whoever draws who waits for whom sees the circle. So
/// it is the resolution that saves the others.
#[test]
#[cfg(debug_assertions)]
fn without_the_resolution_two_wait_for_each_other() {
    let mistakes = [
        (UpdateProtocol::WoundWait, "never-wounds"),
        (UpdateProtocol::Cycle, "cycle-no-search"),
        (UpdateProtocol::CycleHeld, "cycle-no-search"),
    ];
    for (protocol, mistake) in mistakes {
        // The threads stay asleep until the process ends.
        let world: &'static World = Box::leak(Box::new(World::new(protocol, 2)));
        let both_have_one: &'static Barrier = Box::leak(Box::new(Barrier::new(2)));
        let (send, receive) = std::sync::mpsc::channel();
        for thread in 0..2 {
            let send = send.clone();
            let body = move || {
                let address = Host::with_held(|held| core::ptr::from_ref(held).expose_provenance()).unwrap();
                send.send((thread, address)).unwrap();
                let mut first = true;
                world.update(|txn| {
                    world.mark(txn, thread)?;
                    if std::mem::take(&mut first) {
                        both_have_one.wait();
                    }
                    world.mark(txn, 1 - thread)
                });
            };
            thread::spawn(move || on_cpu(CpuId(thread as u32), || planted(Some(mistake), body)));
        }
        let mut records = [0; 2];
        for _ in 0..2 {
            let (thread, address) = receive.recv().unwrap();
            records[thread] = address;
        }
        let held = records.map(|address| {
            // SAFETY: the record of a thread that does not end before the process does, in its locals; read as other contexts'
            // records are read, by atomics.
            unsafe { &*core::ptr::with_exposed_provenance::<Held>(address) }
        });
        while world.count(Counter::TxnWait) < 2 {
            thread::yield_now();
        }
        // Until both say that they sleep: who would back off has done so before.
        let contexts = Two([("a", held[0]), ("b", held[1])]);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let graph = Graph { contexts: &contexts, from: held[0], now_ns: Host::now_ns() }.to_string();
            if graph.contains("a cycle: a -> b -> a") {
                break;
            }
            assert!(Instant::now() < deadline, "{protocol:?}: {graph}");
            thread::yield_now();
        }
        assert_eq!(world.count(Counter::Restart), 0, "{protocol:?}");
    }
}

/// How a transaction of the stress chooses its VMAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// Some, lowest first: no circle can come about.
    InOrder,
    /// Some, in any order, and in another one each time that the body runs.
    Reordered,
    /// One.
    One,
}

fn stress(pair: Pair, choice: Choice) -> World {
    const VMAS: usize = 16;
    const ROUNDS: usize = 150;
    let world = World::of(pair, VMAS);
    let seed = run_seed();
    let rounds = |thread: usize| {
        let mut numbers = Numbers::new(seed, thread as u64);
        for _ in 0..ROUNDS {
            let count = if choice == Choice::One { 1 } else { 2 + numbers.draw() as usize % 5 };
            let mut chosen = draw(&mut numbers, count, VMAS);
            world.update(|txn| {
                match choice {
                    Choice::InOrder => chosen.sort_unstable(),
                    // What is marked already may come last.
                    Choice::Reordered => chosen.rotate_left(1),
                    Choice::One => {}
                }
                for &vma in &chosen {
                    world.mark(txn, vma)?;
                }
                world.own(txn, &chosen, thread)
            });
        }
    };
    threads(THREADS, |thread| shaken(seed, thread as u64, || rounds(thread)));
    world.tell(&format!("{choice:?}"));
    assert!(
        world.vmas.iter().all(|vma| vma.locked_by(&world.locks.cells).is_none()),
        "a mark outlived its transaction"
    );
    assert_eq!(world.count(Counter::Txn), (THREADS * ROUNDS) as u64 + world.count(Counter::Restart));
    world
}

#[test]
fn stress_in_order() {
    for pair in Pair::all() {
        let world = stress(pair, Choice::InOrder);
        if matches!(pair.update(), UpdateProtocol::Cycle | UpdateProtocol::CycleHeld) {
            assert_eq!(world.count(Counter::Restart), 0, "{pair}: a circle where none can be");
        }
    }
}

#[test]
fn stress_out_of_order() {
    for pair in Pair::all() {
        stress(pair, Choice::Reordered);
    }
}

#[test]
fn stress_on_one() {
    for pair in Pair::all() {
        let world = stress(pair, Choice::One);
        assert_eq!(world.count(Counter::Cycle), 0, "{pair}");
    }
}

/// One that marks all finishes beside a stream of small ones, which ends only then.
#[test]
fn a_large_transaction_does_not_starve() {
    const VMAS: usize = 16;
    for &protocol in UpdateProtocol::ALL {
        let world = World::new(protocol, VMAS);
        let (seed, over) = (run_seed(), AtomicBool::new(false));
        let small = AtomicUsize::new(0);
        threads(THREADS, |thread| {
            let mut numbers = Numbers::new(seed, thread as u64);
            if thread == 0 {
                for _ in 0..5 {
                    let all = draw(&mut numbers, VMAS, VMAS);
                    world.update(|txn| {
                        all.iter().try_for_each(|&vma| world.mark(txn, vma))?;
                        world.own(txn, &all, thread)
                    });
                }
                over.store(true, Ordering::SeqCst);
                return;
            }
            while !over.load(Ordering::SeqCst) {
                let two = draw(&mut numbers, 2, VMAS);
                world.update(|txn| {
                    two.iter().try_for_each(|&vma| world.mark(txn, vma))?;
                    world.own(txn, &two, thread)
                });
                small.fetch_add(1, Ordering::Relaxed);
            }
        });
        world.tell(&format!("5 large ones beside {} small ones", small.load(Ordering::Relaxed)));
    }
}
