//! Models of the read protocols that lie in VMAs (`rwsem`, `refcount`, `bravo`), over the shipped code: faults against unmapping,
//! replacement, memory that is used again, and the end of a transaction. `slot`'s are `loom_slots`; here it only meets writers that
//! meet each other. Of `mm` there is nothing in VMAs: its lock is in `loom_locks`.
//!
//! In a model each CPU has its place in `bravo`'s table by its number alone, of two, so that CPUs 0 and 2 share one.
#![cfg(loom)]

mod model;
#[path = "model/world.rs"]
mod world;

use std::sync::Arc;

use abi::{Pair, ReadProtocol, UpdateProtocol};
use model::{explore, spawn};
use sync::primitive::mutant;
use sync::testing::{Host, on_cpu};
use sync::{CpuId, Rcu};
use world::{Outcome, PAGE, Seen, World};

fn bulk(read: ReadProtocol) -> Pair {
    Pair::new(read, UpdateProtocol::Bulk).unwrap()
}

/// `munmap` against one fault: the writer waits for the fault, or the fault sees the mark.
fn unmap_against_one_fault(read: ReadProtocol) {
    let seen = Seen::new();
    let tally = seen.clone();
    explore(&format!("{read}: munmap, 1 fault"), 3, move || {
        let world = World::with_cleared_mark(bulk(read), 2);
        let faulter = world.spawn_faults(&tally, 1, &[0]);
        world.unmap(0);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

#[test]
fn rwsem_unmap_waits_for_the_fault_or_the_fault_sees_the_mark() {
    unmap_against_one_fault(ReadProtocol::Rwsem);
}

#[test]
fn refcount_unmap_waits_for_the_fault_or_the_fault_sees_the_mark() {
    unmap_against_one_fault(ReadProtocol::Refcount);
}

#[test]
fn bravo_unmap_waits_for_the_fault_or_the_fault_sees_the_mark() {
    unmap_against_one_fault(ReadProtocol::Bravo);
}

/// `munmap` against two faults, from an ended mark that both may clear.
fn unmap_against_two_faults(read: ReadProtocol, preemptions: usize) {
    let seen = Seen::new();
    let tally = seen.clone();
    explore(&format!("{read}: munmap, 2 faults, clearing"), preemptions, move || {
        let world = World::new(bulk(read), 3);
        let faulters = [world.spawn_faults(&tally, 1, &[0]), world.spawn_faults(&tally, 2, &[1])];
        world.unmap(0);
        faulters.into_iter().for_each(|thread| thread.join().unwrap());
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

#[test]
fn rwsem_unmap_waits_for_both_faults() {
    unmap_against_two_faults(ReadProtocol::Rwsem, 2);
}

#[test]
fn refcount_unmap_waits_for_both_faults() {
    unmap_against_two_faults(ReadProtocol::Refcount, 1);
}

#[test]
fn bravo_unmap_waits_for_both_faults() {
    unmap_against_two_faults(ReadProtocol::Bravo, 1);
}

/// Two transactions lock and change the VMA in turn, against two faults of one CPU.
fn two_transactions(read: ReadProtocol) {
    let seen = Seen::new();
    let tally = seen.clone();
    explore(&format!("{read}: two transactions"), 2, move || {
        let world = World::with_cleared_mark(bulk(read), 2);
        let faulter = world.spawn_faults(&tally, 1, &[0, 0]);
        world.change(0);
        world.change(0);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked]);
}

#[test]
fn rwsem_is_locked_by_each_transaction() {
    two_transactions(ReadProtocol::Rwsem);
}

#[test]
fn refcount_is_locked_by_each_transaction() {
    two_transactions(ReadProtocol::Refcount);
}

#[test]
fn bravo_is_locked_by_each_transaction() {
    two_transactions(ReadProtocol::Bravo);
}

/// A VMA is replaced by two. A fault that still finds the old one is waited for, or refused.
fn replaced(read: ReadProtocol) {
    let seen = Seen::new();
    let tally = seen.clone();
    explore(&format!("{read}: replaced"), 3, move || {
        let world = World::with_cleared_mark(bulk(read), 2);
        let faulter = world.spawn_faults(&tally, 1, &[1]);
        world.split();
        faulter.join().unwrap();
        assert_eq!(on_cpu(CpuId(0), || [world.fault(0), world.fault(1)]), [Outcome::Served; 2]);
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached]);
}

#[test]
fn rwsem_serves_nobody_under_a_replaced_vma() {
    replaced(ReadProtocol::Rwsem);
}

#[test]
fn refcount_serves_nobody_under_a_replaced_vma() {
    replaced(ReadProtocol::Refcount);
}

#[test]
fn bravo_serves_nobody_under_a_replaced_vma() {
    replaced(ReadProtocol::Bravo);
}

/// The memory of an unmapped VMA becomes another VMA, elsewhere, after a grace period. A slow fault that found the old one never
/// looks at the new one.
fn memory_used_again(read: ReadProtocol) {
    let seen = Seen::new();
    let tally = seen.clone();
    explore(&format!("{read}: memory used again"), 2, move || {
        let world = World::with_cleared_mark(bulk(read), 2);
        let rcu = Arc::new(Rcu::<Host>::new());
        (0..2).for_each(|cpu| rcu.online(CpuId(cpu)));
        let faulter = {
            let (world, tally, rcu) = (world.clone(), tally.clone(), rcu.clone());
            spawn(1, move || {
                let guard = rcu.read();
                tally.note(world.fault(0));
                drop(guard);
                rcu.idle_enter();
            })
        };
        world.unmap(0);
        if !mutant("vma-reused-early") {
            rcu.synchronize();
        }
        world.map(0, 1..=1, 2);
        assert_eq!(on_cpu(CpuId(0), || [world.fault(0), world.fault(1)]), [Outcome::Miss, Outcome::Served]);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

#[test]
fn rwsem_memory_is_used_again_after_a_grace_period() {
    memory_used_again(ReadProtocol::Rwsem);
}

#[test]
fn refcount_memory_is_used_again_after_a_grace_period() {
    memory_used_again(ReadProtocol::Refcount);
}

#[test]
fn bravo_memory_is_used_again_after_a_grace_period() {
    memory_used_again(ReadProtocol::Bravo);
}

/// A new mapping is published marked and filled afterwards: who sees the end sees the filling, and so does who reads the 0 of one
/// that saw the end.
fn end_publishes(read: ReadProtocol) {
    let seen = Seen::new();
    let tally = seen.clone();
    explore(&format!("{read}: end"), 2, move || {
        let world = World::with_cleared_mark(bulk(read), 3);
        world.unmap(0);
        let faulters = [world.spawn_faults(&tally, 1, &[0]), world.spawn_faults(&tally, 2, &[1])];
        world.map(1, 0..=1, 2);
        faulters.into_iter().for_each(|thread| thread.join().unwrap());
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.miss]);
}

#[test]
fn rwsem_the_end_of_a_transaction_publishes_all_of_it() {
    end_publishes(ReadProtocol::Rwsem);
}

#[test]
fn refcount_the_end_of_a_transaction_publishes_all_of_it() {
    end_publishes(ReadProtocol::Refcount);
}

#[test]
fn bravo_the_end_of_a_transaction_publishes_all_of_it() {
    end_publishes(ReadProtocol::Bravo);
}

/// `bravo` without its bias: faults use the lock itself.
#[test]
fn bravo_without_bias_waits_for_the_fault_or_the_fault_sees_the_mark() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("bravo: munmap, unbiased", 3, move || {
        let world = World::with_cleared_mark(bulk(ReadProtocol::Bravo), 2);
        world.change(0);
        let faulter = world.spawn_faults(&tally, 1, &[0]);
        world.unmap(0);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

/// The bias is taken away by one transaction, found gone by the next, and brought back by faults of the same CPU. The other CPU's
/// fault may have seen it before, and see it again: then it sees the second transaction's mark.
#[test]
fn bravo_whose_bias_comes_back_shows_the_mark() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("bravo: bias comes back", 2, move || {
        let world = World::with_cleared_mark(bulk(ReadProtocol::Bravo), 2);
        let faulter = world.spawn_faults(&tally, 1, &[0]);
        world.change(0);
        world.change(0);
        assert_eq!([world.fault(1), world.fault(1)], [Outcome::Served; 2]);
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked]);
}

/// CPUs 0 and 2 share a place in the table: one is announced there, the other goes to the lock. Both are waited for.
#[test]
fn bravo_waits_for_who_found_its_place_taken() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("bravo: place taken", 1, move || {
        let world = World::with_cleared_mark(bulk(ReadProtocol::Bravo), 3);
        let faulters = [world.spawn_faults(&tally, 0, &[0]), world.spawn_faults(&tally, 2, &[1])];
        // Not this thread, which would begin before them in all but a few schedules.
        let writer = {
            let world = world.clone();
            spawn(1, move || world.unmap(0))
        };
        faulters.into_iter().for_each(|thread| thread.join().unwrap());
        writer.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

/// Two VMAs, whose faults use one place in turn: a writer that finds the place left by the fault of the other VMA knows that its
/// own VMA's fault is over, too.
#[test]
fn bravo_places_hand_on_who_left_them() {
    let seen = Seen::new();
    let tally = seen.clone();
    explore("bravo: place used again", 2, move || {
        let world = World::of_vmas(bulk(ReadProtocol::Bravo), 3, &[0..=0, 1..=1]);
        let faulters = [world.spawn_faults(&tally, 0, &[0]), world.spawn_faults(&tally, 2, &[1])];
        on_cpu(CpuId(1), || world.change(0));
        faulters.into_iter().for_each(|thread| thread.join().unwrap());
    });
    seen.assert_all(&[&seen.served, &seen.locked]);
}

/// A writer marks a VMA that another has detached since it looked: nobody is inside, and it does not wait for ever.
#[test]
fn refcount_of_a_detached_vma_is_drained() {
    let pair = Pair::new(ReadProtocol::Refcount, UpdateProtocol::WoundWait).unwrap();
    let seen = Seen::new();
    let tally = seen.clone();
    explore("refcount: a writer marks a detached VMA", 1, move || {
        let world = World::with_cleared_mark(pair, 3);
        let late = {
            let world = world.clone();
            spawn(2, move || world.update(|txn| txn.mark(&world.vma(0).lock, 0..2 * PAGE)))
        };
        let faulter = world.spawn_faults(&tally, 1, &[0]);
        world.unmap(0);
        late.join().unwrap();
        faulter.join().unwrap();
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached, &seen.miss]);
}

/// `slot` where two transactions meet: each settles for itself, and the one that takes the other's ended mark keeps the fault out as
/// if it had been alone. One writer replaces the VMA; the other changes what is at page 0 by then.
#[test]
fn slot_is_locked_by_each_of_two_writers_that_meet() {
    let pair = Pair::new(ReadProtocol::Slot, UpdateProtocol::WoundWait).unwrap();
    let seen = Seen::new();
    let tally = seen.clone();
    explore("slot: a fault against two writers", 1, move || {
        let world = World::with_cleared_mark(pair, 3);
        let other = {
            let world = world.clone();
            spawn(2, move || world.change_at(0))
        };
        let faulter = world.spawn_faults(&tally, 1, &[0]);
        world.split();
        other.join().unwrap();
        faulter.join().unwrap();
        assert_eq!(on_cpu(CpuId(0), || [world.fault(0), world.fault(1)]), [Outcome::Served; 2]);
    });
    seen.assert_all(&[&seen.served, &seen.locked, &seen.detached]);
}
