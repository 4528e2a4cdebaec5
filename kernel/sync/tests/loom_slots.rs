//! Models of the slot protocol with sequence cells (slots, marks, settling, bulk unlock), over the shipped code.
#![cfg(loom)]

mod model;
#[path = "model/world.rs"]
mod world;

use std::sync::Arc;

use abi::Pair;
use loom::sync::atomic::{AtomicUsize, Ordering};
use model::{explore, spawn};
use sync::testing::{Host, on_cpu};
use sync::{Abort, CpuId, UpdateLock, update};
use world::{Outcome, PAGE, Seen, World, in_trap};

/// Scenario a, one CPU: `munmap` of page 0 and its neighbour against one fault.
#[test]
fn unmap_waits_for_the_fault_or_the_fault_sees_the_mark() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("a: munmap, 1 fault", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 2);
        let faulter = {
            let (world, tally) = (world.clone(), tally.clone());
            spawn(1, move || tally.note(world.fault(0)))
        };
        world.unmap(0);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

/// Scenario a, two CPUs, from an ended mark that both may clear.
#[test]
fn unmap_against_two_faults_that_clear_an_ended_mark() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("a: munmap, 2 faults, clearing", 2, move || {
        let world = World::new(Pair::DEFAULT, 3);
        let faulters: Vec<_> = [1, 2]
            .into_iter()
            .map(|cpu| {
                let (world, tally) = (world.clone(), tally.clone());
                spawn(cpu, move || tally.note(world.fault(u64::from(cpu) - 1)))
            })
            .collect();
        world.unmap(0);
        faulters.into_iter().for_each(|thread| {
            thread.join().unwrap();
        });
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

/// Scenario b: a split, as `mprotect` of page 1 makes it. The fault is at the kept page, at the changed one, or at both.
fn split(name: &str, pages: &'static [u64], preemptions: usize) {
    let seen = Seen::new();
    let tally = seen.clone();
    explore(name, preemptions, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 3);
        let faulters: Vec<_> = pages
            .iter()
            .zip(1..)
            .map(|(&page, cpu)| {
                let (world, tally) = (world.clone(), tally.clone());
                spawn(cpu, move || tally.note(world.fault(page)))
            })
            .collect();
        world.update(|txn| {
            world.lock(txn, 0, |txn, settled, old| {
                world.make(txn, 1, 0..=0, 1);
                world.make(txn, 2, 1..=1, 2);
                world.publish(1);
                world.publish(2);
                txn.detach(settled, &old.lock);
            })
        });
        faulters.into_iter().for_each(|thread| {
            thread.join().unwrap();
        });
        assert_eq!(on_cpu(CpuId(0), || [world.fault(0), world.fault(1)]), [Outcome::Served; 2]);
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached]);
}

#[test]
fn a_split_against_a_fault_at_the_kept_page() {
    split("b: split, kept page", &[0], 3);
}

#[test]
fn a_split_against_a_fault_at_the_changed_page() {
    split("b: split, changed page", &[1], 3);
}

#[test]
fn a_split_against_faults_at_both_pages() {
    split("b: split, both pages", &[0, 1], 2);
}

/// Scenario c: `munmap`, then `mmap` of the same page in a second transaction.
#[test]
fn a_new_mapping_never_meets_a_fault_of_the_old_one() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("c: munmap, mmap", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 2);
        let faulter = {
            let (world, tally) = (world.clone(), tally.clone());
            spawn(1, move || tally.note(world.fault(0)))
        };
        world.unmap(0);
        world.map(1, 0..=0, 2);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

/// A new mapping is published marked and filled afterwards: who sees the end sees the filling.
#[test]
fn the_end_of_a_transaction_publishes_all_of_it() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("n: end", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 2);
        world.unmap(0);
        let faulter = {
            let (world, tally) = (world.clone(), tally.clone());
            spawn(1, move || tally.note(world.fault(0)))
        };
        world.map(1, 0..=0, 2);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.miss]);
}

/// Scenario d: one transaction changes the VMA in place, a second one only marks it. Who sees the second mark must see
/// that its transaction runs, or all of the first.
#[test]
fn a_mark_carries_the_transactions_before_it() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("d: locked twice", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 2);
        let faulter = {
            let (world, tally) = (world.clone(), tally.clone());
            spawn(1, move || tally.note(world.fault(0)))
        };
        world.update(|txn| world.lock(txn, 0, |_, _, _| world.write_page(0, 1)));
        world.update(|txn| txn.mark(&world.vma(0).lock, 0..2 * PAGE));
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked]);
}

/// The same, the two transactions being different threads'. (Of one thread, the fence at the end of the first would do for
/// the second one's mark.)
#[test]
fn a_mark_carries_other_threads_transactions() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("d: two writers", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 3);
        let second = {
            let world = world.clone();
            spawn(1, move || world.update(|txn| txn.mark(&world.vma(0).lock, 0..2 * PAGE)))
        };
        let faulter = {
            let (world, tally) = (world.clone(), tally.clone());
            spawn(2, move || tally.note(world.fault(0)))
        };
        world.update(|txn| world.lock(txn, 0, |_, _, _| world.write_page(0, 1)));
        second.join().unwrap();
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked]);
}

/// Scenario d, full: locked and changed twice.
#[test]
fn a_vma_locked_twice_is_locked_each_time() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("d: changed twice", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 2);
        let faulter = {
            let (world, tally) = (world.clone(), tally.clone());
            spawn(1, move || tally.note(world.fault(0)))
        };
        for _ in 0..2 {
            world.update(|txn| world.lock(txn, 0, |_, _, _| world.write_page(0, 1)));
        }
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked]);
}

/// Scenario k: one CPU faults twice. The writer may see only the second fault's word, and must then know that the first is
/// over; and it waits for one fault only.
#[test]
fn a_cpu_that_faults_again_does_not_hide_its_last_fault() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("k: two faults on one CPU", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 2);
        let faulter = {
            let (world, tally) = (world.clone(), tally.clone());
            spawn(1, move || {
                tally.note(world.fault(0));
                tally.note(world.fault(0));
            })
        };
        world.unmap(0);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

/// Scenario h: a CPU joins the address space, faults and leaves while a writer settles.
#[test]
fn a_cpu_may_join_and_leave_at_any_moment() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("h: join, fault, leave", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 1);
        let faulter = {
            let (world, tally) = (world.clone(), tally.clone());
            spawn(1, move || {
                in_trap(|| world.space.join(CpuId(1)));
                tally.note(world.fault(0));
                in_trap(|| world.space.leave(CpuId(1)));
            })
        };
        world.unmap(0);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.miss]);
}

/// Scenario 8.1: one fault clears the mark of a transaction that it has seen ended; another reads the 0 and must see
/// what that transaction did. The second fault entered before the end, and outside of what the writer waits for.
#[test]
fn who_reads_a_cleared_mark_sees_what_the_clearer_saw() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("8.1: clearing", 2, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 3);
        let faulters: Vec<_> = [1, 2]
            .into_iter()
            .map(|cpu| {
                let (world, tally) = (world.clone(), tally.clone());
                // The first is at the other page, and only clears.
                spawn(cpu, move || tally.note(world.fault(2 - u64::from(cpu))))
            })
            .collect();
        world.update(|txn| world.lock(txn, 0, |_, _, _| world.write_page(0, 1)));
        faulters.into_iter().for_each(|thread| {
            thread.join().unwrap();
        });
    });
    seen.assert_all(&[&seen.served, &seen.locked]);
}

/// Scenario 8.1: two transactions, and a fault that may clear the first one's mark while the second one sets its own.
#[test]
fn clearing_never_erases_a_live_mark() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("8.1: clearing against marking", 3, move || {
        let world = World::new(Pair::DEFAULT, 2);
        let faulter = {
            let (world, tally) = (world.clone(), tally.clone());
            spawn(1, move || {
                tally.note(world.fault(0));
                tally.note(world.fault(1));
            })
        };
        world.update(|txn| {
            let own = txn.own_mark();
            world.lock(txn, 0, |_, _, vma| {
                assert_eq!(vma.lock.locked_by(&world.locks.cells), Some(own), "the mark was erased");
                world.write_page(0, 1);
                world.write_page(1, 1);
            })
        });
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked]);
}

/// A fault that meets a mark sleeps until that transaction ends, and is then served.
#[test]
fn who_sleeps_for_the_end_is_woken() {
    explore("wait_for_end", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 2);
        let faulter = {
            let world = world.clone();
            spawn(1, move || {
                if let Outcome::Locked(mark) = world.fault(0) {
                    world.locks.wait_for_end(mark, 0);
                    assert_eq!(world.fault(0), Outcome::Served);
                }
            })
        };
        world.update(|txn| world.lock(txn, 0, |_, _, _| world.write_page(0, 1)));
        faulter.join().unwrap();
    });
}

/// A cell handed from one transaction to another in a different address space: they have different names, and who still holds
/// the first one's mark sees it ended.
#[test]
fn a_cell_changes_hands_with_its_sequence() {
    explore("cells", 3, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 2);
        let other = {
            let world = world.clone();
            spawn(1, move || {
                let elsewhere = UpdateLock::<Host>::new();
                let mut names = [None; 2];
                for name in &mut names {
                    update(&elsewhere, &world.locks, &world.counters, |txn| {
                        *name = Some(txn.own_mark());
                        Ok(())
                    })
                    .unwrap();
                }
                names
            })
        };
        let mut own = None;
        world.update(|txn| {
            own = Some(txn.own_mark());
            world.lock(txn, 0, |_, _, _| world.write_page(0, 1))
        });
        let others = other.join().unwrap();
        assert!(others[0] != others[1] && !others.contains(&own), "two transactions of one name");
    });
}

/// More transactions than cells: whoever finds none free sleeps until one is.
#[test]
fn who_finds_no_free_cell_is_woken() {
    explore("starved", 2, move || {
        let world = World::with_cleared_mark(Pair::DEFAULT, 1);
        let elsewhere = UpdateLock::<Host>::new();
        let third = update(&elsewhere, &world.locks, &world.counters, |_| {
            let third = UpdateLock::<Host>::new();
            update(&third, &world.locks, &world.counters, |_| {
                let world = world.clone();
                Ok(spawn(1, move || world.update(|_| Ok(()))))
            })
            .map_err(Abort::from)
        });
        third.unwrap().join().unwrap();
    });
}

/// A CPU joins and walks the tables (as hardware does after CR3 is loaded) while an entry is removed: the shootdown asks it, or
/// its walk sees the removal.
#[test]
fn a_joining_cpu_is_asked_to_flush_or_walks_the_new_tables() {
    explore("join against shootdown", 3, move || {
        let shared = Arc::new((UpdateLock::<Host>::new(), AtomicUsize::new(1)));
        let joiner = {
            let shared = shared.clone();
            spawn(1, move || {
                shared.0.join(CpuId(1));
                shared.1.load(Ordering::Relaxed)
            })
        };
        shared.1.store(0, Ordering::Relaxed);
        let asked = shared.0.cpus_to_flush().contains(CpuId(1));
        let walked = joiner.join().unwrap();
        assert!(asked || walked == 0, "a stale translation that nobody flushes");
    });
}
