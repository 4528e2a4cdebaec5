//! Models of several writers on one address space (`wound-wait`, `cycle`), over the shipped code: transactions, marks, cells,
//! wounds, the search for circles, sleeping and waking.
//!
//! What is the model's: a VMA is a shipped lock and a plain word; what a transaction has marked and settled it adds to. If two
//! were in at a time, or one did not see what the other did, loom reports two accesses that nothing orders. A lost wake-up, a
//! wound that nobody sees and a circle that nobody breaks all end with every thread asleep, which loom reports, too.
//!
//! Clocks stand still in models: `set_clock` says how old a thread's transactions are. Threads that must begin after others have
//! marked are started from these others' bodies, so that no schedule is spent on getting there.
#![cfg(loom)]

mod model;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize as Tally, Ordering::Relaxed};

use abi::{Counter, Errno, Pair, ReadProtocol, UpdateProtocol};
use loom::cell::UnsafeCell;
use loom::thread::JoinHandle;
use model::{explore, spawn};
use sync::testing::{Host, on_cpu, set_clock};
use sync::{Abort, Counters, CpuId, Mark, Txn, UpdateLock, VmaLock, VmaLocks, update};

use UpdateProtocol::{Cycle, CycleHeld, WoundWait};

const PAGE: u64 = abi::PAGE_SIZE;

/// What a transaction protects.
struct Vma {
    lock: VmaLock,
    body: UnsafeCell<u64>,
}

struct World {
    space: UpdateLock<Host>,
    locks: VmaLocks<Host>,
    counters: Counters<Host>,
    vmas: Vec<Vma>,
    /// Threads that bodies have started.
    threads: std::sync::Mutex<Vec<JoinHandle<()>>>,
}

// SAFETY: loom checks every access to its cells.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

/// How a transaction went.
#[derive(Debug)]
struct History {
    /// Its names: one more than it had to begin again.
    names: Vec<Mark>,
    /// Whom it was told to wait for.
    told: Vec<Mark>,
}

impl World {
    /// `vmas` VMAs that nobody has marked, and `cells` cells.
    fn new(update: UpdateProtocol, cells: usize, vmas: usize) -> Arc<World> {
        let pair = Pair::new(ReadProtocol::Slot, update).unwrap();
        let locks = VmaLocks::with_cells(pair, cells).unwrap();
        let vmas = (0..vmas).map(|_| Vma { lock: VmaLock::open(&locks), body: UnsafeCell::new(0) }).collect();
        Arc::new(World {
            space: UpdateLock::new(),
            locks,
            counters: Counters::new().unwrap(),
            vmas,
            threads: std::sync::Mutex::default(),
        })
    }

    /// A transaction of age `age`.
    fn update(
        &self,
        age: u64,
        mut body: impl FnMut(&mut Txn<'_, Host>) -> Result<(), Abort>,
    ) -> (Result<(), Errno>, History) {
        set_clock(age);
        let history = RefCell::new(History { names: Vec::new(), told: Vec::new() });
        let result = update(&self.space, &self.locks, &self.counters, |txn| {
            let mut history = history.borrow_mut();
            if history.names.last() != Some(&txn.own_mark()) {
                history.names.push(txn.own_mark());
            }
            body(txn).inspect_err(|&abort| {
                if let Abort::Wait(mark) = abort {
                    history.told.push(mark);
                }
            })
        });
        (result, history.into_inner())
    }

    fn mark(&self, txn: &mut Txn<'_, Host>, vma: usize) -> Result<(), Abort> {
        let first = vma as u64 * PAGE;
        txn.mark(&self.vmas[vma].lock, first..first + PAGE)
    }

    /// Adds one to what `vma` protects; how much it was before.
    fn add(&self, vma: usize) -> u64 {
        self.vmas[vma].body.with_mut(|body| {
            // SAFETY: loom checks that nobody else is here.
            let body = unsafe { &mut *body };
            *body += 1;
            *body - 1
        })
    }

    /// Marks all of `vmas`, in this order, and changes them when it has all.
    fn mark_and_change(&self, txn: &mut Txn<'_, Host>, vmas: &[usize]) -> Result<(), Abort> {
        vmas.iter().try_for_each(|&vma| self.mark(txn, vma))?;
        let _settled = txn.settle()?;
        vmas.iter().for_each(|&vma| {
            self.add(vma);
        });
        Ok(())
    }

    /// A transaction that changes `vmas`, marked in this order. How often it had to begin again.
    fn change(&self, age: u64, vmas: &[usize]) -> usize {
        let (result, history) = self.update(age, |txn| self.mark_and_change(txn, vmas));
        assert_eq!(result, Ok(()));
        history.names.len() - 1
    }

    /// Starts a thread that `World::join` waits for.
    fn start(self: &Arc<World>, cpu: u32, body: impl FnOnce(&Arc<World>) + 'static) {
        let world = self.clone();
        let thread = spawn(cpu, move || body(&world));
        self.threads.lock().unwrap().push(thread);
    }

    fn join(&self) {
        loop {
            let thread = self.threads.lock().unwrap().pop();
            let Some(thread) = thread else { return };
            thread.join().unwrap();
        }
    }

    /// What `vma` protects, after all is over.
    fn total(&self, vma: usize) -> u64 {
        // SAFETY: loom checks that nobody writes.
        self.vmas[vma].body.with(|body| unsafe { *body })
    }
}

/// In opposite order: both finish, the older one at its first attempt.
fn opposite(update: UpdateProtocol, preemptions: usize) {
    let restarts = Arc::new(Tally::new(0));
    for ages in [[1, 2], [2, 1]] {
        let tally = restarts.clone();
        explore(&format!("{update}: opposite order"), preemptions, move || {
            let world = World::new(update, 2, 2);
            let change = |world: &World, age, vmas: &[usize], tally: &Tally| {
                let restarts = world.change(age, vmas);
                assert!(restarts <= usize::from(age == 2), "age {age}: {restarts} restarts");
                tally.fetch_add(restarts, Relaxed);
            };
            {
                let tally = tally.clone();
                world.start(2, move |world| change(world, ages[1], &[1, 0], &tally));
            }
            change(&world, ages[0], &[0, 1], &tally);
            world.join();
            assert_eq!([world.total(0), world.total(1)], [2, 2]);
        });
    }
    assert_ne!(restarts.load(Relaxed), 0, "they never met");
}

#[test]
fn in_opposite_order_the_younger_is_wounded() {
    opposite(WoundWait, 2);
}

#[test]
fn in_opposite_order_the_circle_is_found() {
    opposite(Cycle, 2);
}

#[test]
fn in_opposite_order_the_circle_is_found_in_the_lists() {
    opposite(CycleHeld, 2);
}

/// Three transactions, each of which wants what the next one has. The oldest never begins again, though its cell was that of a very
/// young one before.
fn in_a_circle(update: UpdateProtocol, preemptions: usize) {
    explore(&format!("{update}: three in a circle"), preemptions, move || {
        let world = World::new(update, 3, 3);
        world.update(9, |_| Ok(())).0.unwrap();
        world.start(1, |world| {
            world.change(2, &[1, 2]);
        });
        world.start(2, |world| {
            world.change(3, &[2, 0]);
        });
        let oldest = |txn: &mut Txn<'_, Host>| {
            world.mark(txn, 0)?;
            loom::thread::yield_now();
            world.mark_and_change(txn, &[0, 1])
        };
        let (result, history) = world.update(1, oldest);
        result.unwrap();
        assert_eq!(history.names.len(), 1, "the oldest had to begin again");
        world.join();
        assert_eq!([0, 1, 2].map(|vma| world.total(vma)), [2; 3]);
    });
}

#[test]
fn three_in_a_circle_finish_by_wounds() {
    in_a_circle(WoundWait, 1);
}

#[test]
fn three_in_a_circle_finish_by_the_search() {
    in_a_circle(Cycle, 1);
}

/// Three transactions of three ages want one VMA: each gets it.
#[test]
fn nobody_waits_for_ever() {
    explore("one VMA, three writers", 1, || {
        let world = World::new(WoundWait, 3, 1);
        for cpu in [1, 2] {
            world.start(cpu, move |world| assert_eq!(world.change(u64::from(cpu) + 1, &[0]), 0));
        }
        assert_eq!(world.change(1, &[0]), 0);
        world.join();
        assert_eq!(world.total(0), 3);
    });
}

/// Each looks before it settles: what the mark's word orders must do. The cell of one of them was used before by a third thread, so
/// that an old view of the cell makes a running transaction look ended. (Of one thread, the fence at the end of its last
/// transaction would do for the next one's mark.)
#[test]
fn who_takes_a_mark_sees_the_transactions_before_it() {
    explore("marks in turn", 3, || {
        let world = World::new(WoundWait, 2, 1);
        let change = |world: &World| {
            let change = |txn: &mut Txn<'_, Host>| {
                world.mark(txn, 0)?;
                world.add(0);
                Ok(())
            };
            world.update(1, change).0.unwrap();
        };
        world.start(2, move |world| change(world));
        world.update(1, |_| Ok(())).0.unwrap();
        world.start(1, move |world| change(world));
        world.join();
        assert_eq!(world.total(0), 2);
    });
}

/// A transaction ends, and another thread takes its cell for a younger one, while one of an age in between looks at the first one's
/// age: it must not take the second one's for it. Nobody younger is in its way, so it wounds nobody.
#[test]
fn an_age_is_that_of_the_transaction_that_was_meant() {
    explore("ages", 2, || {
        let world = World::new(WoundWait, 2, 1);
        let mut started = false;
        let holding = |txn: &mut Txn<'_, Host>| {
            world.mark(txn, 0)?;
            if !std::mem::replace(&mut started, true) {
                world.start(2, |world| assert_eq!(world.change(2, &[0]), 0));
            }
            Ok(())
        };
        world.update(1, holding).0.unwrap();
        world.start(1, |world| world.update(3, |_| Ok(())).0.unwrap());
        world.join();
        assert_eq!(world.counters.total(Counter::Wound), 0, "an older transaction was wounded");
    });
}

/// A transaction that is younger than another one asks to be next, and gives up. The other one comes meanwhile: it may be told to wait for
/// who has marked the VMA, and not for the younger one that only wanted to.
#[test]
fn only_an_older_one_goes_first() {
    let waited = Arc::new(Tally::new(0));
    let tally = waited.clone();
    explore("heir", 2, move || {
        let world = World::new(WoundWait, 3, 1);
        // The cell of CPU 1 was that of a very old transaction before.
        on_cpu(CpuId(1), || world.update(1, |_| Ok(()))).0.unwrap();
        let mut started = false;
        let took = Arc::new(Tally::new(0));
        let younger = Arc::new(std::sync::Mutex::new(None));
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (result, _) = world.update(4, |txn| {
            world.mark(txn, 0)?;
            if !std::mem::replace(&mut started, true) {
                let (took, younger) = (took.clone(), younger.clone());
                world.start(1, move |world| {
                    let _ = world.update(3, |txn| {
                        *younger.lock().unwrap() = Some(txn.own_mark());
                        world.mark(txn, 0).map_err(|_| Abort::Errno(Errno::EAGAIN))?;
                        took.fetch_add(1, Relaxed);
                        Ok(())
                    });
                });
                let told = told.clone();
                world.start(2, move |world| {
                    let (result, history) = world.update(2, |txn| world.mark(txn, 0));
                    result.unwrap();
                    *told.lock().unwrap() = history.told;
                });
                loom::thread::yield_now();
            }
            Ok(())
        });
        result.unwrap();
        world.join();
        let (younger, told) = (younger.lock().unwrap().unwrap(), told.lock().unwrap());
        tally.fetch_add(told.len(), Relaxed);
        assert!(took.load(Relaxed) == 1 || !told.contains(&younger), "told to wait for a younger one that had nothing");
    });
    assert_ne!(waited.load(Relaxed), 0, "they never met");
}

/// A wound that comes late, for a transaction that has ended, must not take the place of its cell's next one's. That next one
/// is in a circle with the older one that wounded it.
#[test]
fn a_late_wound_hides_no_other() {
    explore("late wound", 2, || {
        let world = World::new(WoundWait, 3, 3);
        let mut started = false;
        // Wounded late, by one that only wants this VMA, and does not stay.
        let first = |txn: &mut Txn<'_, Host>| {
            world.mark(txn, 2)?;
            if !std::mem::replace(&mut started, true) {
                world.start(1, |world| {
                    world.change(1, &[2]);
                });
                loom::thread::yield_now();
            }
            Ok(())
        };
        world.update(3, first).0.unwrap();
        // In the same cell.
        let mut started = false;
        let second = |txn: &mut Txn<'_, Host>| {
            world.mark(txn, 0)?;
            if !std::mem::replace(&mut started, true) {
                world.start(2, |world| {
                    world.change(2, &[1, 0]);
                });
                loom::thread::yield_now();
            }
            world.mark(txn, 1)
        };
        world.update(3, second).0.unwrap();
        world.join();
    });
}

/// Three transactions and a circle of two. A third one, which sleeps for one of them, walks while the circle is broken: what it sees of
/// before and after makes a circle with itself in it, which never was. It must not begin again.
#[test]
fn no_circle_is_imagined() {
    let broken = Arc::new(Tally::new(0));
    let tally = broken.clone();
    explore("imagined circle", 1, move || {
        // 0: of the oldest; 1: the oldest wants it, too; 2: the bystander wants it; 3: of the bystander.
        let world = World::new(Cycle, 3, 4);
        let mut started = false;
        let tally = tally.clone();
        let oldest = |txn: &mut Txn<'_, Host>| {
            world.mark(txn, 0)?;
            if !std::mem::replace(&mut started, true) {
                let tally = tally.clone();
                world.start(1, move |world| {
                    let mut started = false;
                    let victim = |txn: &mut Txn<'_, Host>| {
                        world.mark(txn, 2)?;
                        world.mark(txn, 1)?;
                        if !std::mem::replace(&mut started, true) {
                            world.start(2, |world| {
                                assert_eq!(world.change(3, &[3, 2]), 0, "the bystander had to begin again");
                            });
                        }
                        world.mark(txn, 0)
                    };
                    let (result, history) = world.update(2, victim);
                    result.unwrap();
                    tally.fetch_add(history.names.len() - 1, Relaxed);
                });
                loom::thread::yield_now();
            }
            world.mark(txn, 1)?;
            world.mark(txn, 3)
        };
        let (result, history) = world.update(1, oldest);
        result.unwrap();
        assert_eq!(history.names.len(), 1, "the oldest had to begin again");
        world.join();
    });
    assert_ne!(broken.load(Relaxed), 0, "there was no circle");
}

/// Three in a circle, as above, of which one walks while it has an old view of the oldest one's age: that one must not be
/// its victim. Stopped after so many executions; the mistake is found long before.
#[test]
fn no_victim_is_chosen_by_an_old_view() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.max_branches = 2_000;
    builder.max_permutations = Some(150_000);
    builder.check(|| {
        let world = World::new(Cycle, 3, 3);
        world.update(9, |_| Ok(())).0.unwrap();
        let both = |world: &World, age, vmas: [usize; 2]| {
            let (result, history) = world.update(age, |txn| {
                world.mark(txn, vmas[0])?;
                if age == 1 {
                    loom::thread::yield_now();
                }
                world.mark(txn, vmas[1])
            });
            result.unwrap();
            history.names.len() - 1
        };
        world.start(1, move |world| {
            both(world, 2, [1, 2]);
        });
        world.start(2, move |world| {
            both(world, 3, [2, 0]);
        });
        assert_eq!(both(&world, 1, [0, 1]), 0, "the oldest had to begin again");
        world.join();
    });
}
