//! Models of what several writers do to the range tree and to page tables (slot protocol, 8.2 to 8.4).
//!
//! Shipped code here: transactions, marks, cells, slots, settling, waiting, and the spin lock of the publication section. The
//! model's: what `mm` keeps in raw memory, which loom cannot run. Each page has one atomic word in place of the range tree; VMAs
//! and tombstones are immutable entries, as `mm`'s; the entry above the table and the table's entries are atomic words. The bodies
//! follow `mm`'s `edit`, `unmap`, `map` and `fault` step by step; the mistakes that the rules forbid are mutants of the model.
//! TLBs and grace periods are not modelled here: `mm::testing` has the first, `loom_rcu` the second.
//!
//! Two pages, with one table over both.
#![cfg(loom)]

mod model;

use std::sync::Arc;

use abi::{Errno, Pair, ReadProtocol, UpdateProtocol};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use model::{explore, spawn};
use sync::primitive::mutant;
use sync::testing::Host;
use sync::{
    Abort, Class, Counters, CpuId, InterruptGuard, ReadRefused, SpinLock, Txn, UpdateLock, VmaLock, VmaLocks,
    spin_lock, update,
};

const PAGE: u64 = abi::PAGE_SIZE;
/// In the tree, in the entry above the table, and in the table: nothing.
const NONE: usize = usize::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mapping,
    Tombstone,
}

/// Immutable once published, but for its lock.
struct Vma {
    lock: VmaLock,
    kind: Kind,
    generation: usize,
}

struct World {
    space: UpdateLock<Host>,
    locks: VmaLocks<Host>,
    counters: Counters<Host>,
    /// For each page, which entry covers it.
    tree: [AtomicUsize; 2],
    /// The publication section.
    section: SpinLock<Host, ()>,
    vmas: Vec<UnsafeCell<Option<Vma>>>,
    /// Which of the tables is linked.
    parent: AtomicUsize,
    /// For each page the generation that its entry belongs to.
    tables: [[AtomicUsize; 2]; 2],
}

// SAFETY: loom checks every access to its cells.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl World {
    /// Page 0 is mapped, by VMA 0 of generation 1, and has its entry in table 0. CPUs 0 and 1 run the address space.
    fn new() -> Arc<World> {
        let pair = Pair::new(ReadProtocol::Slot, UpdateProtocol::WoundWait).unwrap();
        let none = || AtomicUsize::new(NONE);
        let world = World {
            space: UpdateLock::new(),
            locks: VmaLocks::with_cells(pair, 2).unwrap(),
            counters: Counters::new().unwrap(),
            tree: [none(), none()],
            section: spin_lock(Class::StreamIn, ()),
            vmas: (0..5).map(|_| UnsafeCell::new(None)).collect(),
            parent: AtomicUsize::new(0),
            tables: [[AtomicUsize::new(1), none()], [none(), none()]],
        };
        (0..2).for_each(|cpu| world.space.join(CpuId(cpu)));
        world
            .update(|txn| {
                world.make(txn, 0, Kind::Mapping, 1);
                world.tree[0].store(0, Ordering::Release);
                Ok(())
            })
            .unwrap();
        Arc::new(world)
    }

    fn update<T>(&self, body: impl FnMut(&mut Txn<'_, Host>) -> Result<T, Abort>) -> Result<T, Errno> {
        update(&self.space, &self.locks, &self.counters, body)
    }

    fn vma(&self, index: usize) -> &Vma {
        // SAFETY: loom checks that its maker published it; it is not written again.
        self.vmas[index].with(|vma| unsafe { (*vma).as_ref() }).expect("found in the tree")
    }

    /// Builds entry `index`, which nobody can find yet, with the transaction's mark.
    fn make(&self, txn: &Txn<'_, Host>, index: usize, kind: Kind, generation: usize) {
        let vma = Vma { lock: txn.new_lock(), kind, generation };
        // SAFETY: loom checks that nobody can find it yet.
        self.vmas[index].with_mut(|place| unsafe { *place = Some(vma) });
    }

    /// Who covers `page`.
    fn find(&self, page: usize) -> Option<usize> {
        let index = self.tree[page].load(Ordering::Acquire);
        (index != NONE).then_some(index)
    }

    /// Page 0 becomes the tombstone `tombstone`, and is emptied, as `mm`'s `bury` does. The table goes if `unlink`s.
    fn bury(&self, txn: &mut Txn<'_, Host>, tombstone: usize, unlinks: bool) -> Result<(), Abort> {
        let index = self.find(0).expect("nobody else unmaps");
        let old = self.vma(index);
        txn.mark(&old.lock, 0..PAGE)?;
        let settled = txn.settle()?;
        self.make(txn, tombstone, Kind::Tombstone, 0);
        let section = self.section.lock();
        if self.find(0) != Some(index) || !txn.has_marked(&old.lock) {
            return Err(Abort::Again);
        }
        txn.detach(&settled, &old.lock);
        let leaves_hole = mutant("hole-instead-of-tombstone");
        self.tree[0].store(if leaves_hole { NONE } else { tombstone }, Ordering::Release);
        let table = self.parent.load(Ordering::Acquire);
        let alone = self.find(1).is_none() || mutant("unlink-without-look");
        if unlinks && alone && !mutant("unlink-outside-section") {
            self.parent.store(NONE, Ordering::Release);
        }
        drop(section);
        if unlinks && alone && mutant("unlink-outside-section") {
            self.parent.store(NONE, Ordering::Release);
        }
        self.tables[table][0].swap(NONE, Ordering::AcqRel);
        Ok(())
    }

    /// `munmap` of page 0.
    fn unmap(&self, tombstone: usize) {
        let unmap = |txn: &mut Txn<'_, Host>| {
            self.bury(txn, tombstone, true)?;
            let _section = self.section.lock();
            if !mutant("hole-instead-of-tombstone") {
                self.tree[0].store(NONE, Ordering::Release);
            }
            Ok(())
        };
        self.update(unmap).unwrap();
    }

    /// `mmap` with `MAP_FIXED` over page 0.
    fn map_over(&self, tombstone: usize, index: usize, generation: usize) {
        let map = |txn: &mut Txn<'_, Host>| {
            self.bury(txn, tombstone, false)?;
            self.make(txn, index, Kind::Mapping, generation);
            let _section = self.section.lock();
            self.tree[0].store(index, Ordering::Release);
            Ok(())
        };
        self.update(map).unwrap();
    }

    /// `mmap` of `page`, if it is free, or will be.
    fn map(&self, page: usize, index: usize, generation: usize) -> Result<(), Errno> {
        self.update(|txn| {
            if let Some(found) = self.find(page) {
                let found = self.vma(found);
                if found.kind == Kind::Mapping {
                    return Err(Errno::EEXIST.into());
                }
                if !mutant("tombstone-taken-for-free") {
                    return Err(txn.wait_for(&found.lock));
                }
            }
            self.make(txn, index, Kind::Mapping, generation);
            let _section = self.section.lock();
            if self.find(page).is_some() && !mutant("tombstone-taken-for-free") {
                return Err(Abort::Again);
            }
            self.tree[page].store(index, Ordering::Release);
            let table = self.parent.load(Ordering::Acquire);
            if table != NONE {
                let entry = self.tables[table][page].load(Ordering::Acquire);
                assert_eq!(entry, NONE, "a new mapping meets the old one's entry");
            }
            Ok(())
        })
    }

    /// The fast path of a fault at `page`. Whether it was served; then the entry is made.
    fn fault(&self, page: usize) -> bool {
        let _off = InterruptGuard::<Host>::new();
        let section = self.locks.enter(page as u64 * PAGE).expect("no fault inside a fault");
        let early = mutant("table-before-checks").then(|| self.parent.load(Ordering::Acquire));
        let Some(index) = self.find(page) else { return false };
        let vma = self.vma(index);
        let _held = match vma.lock.read(&section, &self.locks, &self.counters) {
            Err(ReadRefused::Marked(_) | ReadRefused::Detached) => return false,
            Ok(held) => held,
        };
        if vma.kind != Kind::Mapping {
            return false;
        }
        // The walk starts here, after the checks.
        let mut table = early.unwrap_or_else(|| self.parent.load(Ordering::Acquire));
        if table == NONE {
            // One of its own, unless another was first.
            let made = self.parent.compare_exchange(NONE, 1, Ordering::AcqRel, Ordering::Acquire);
            table = made.map_or_else(|winner| winner, |_| 1);
        }
        let entry = &self.tables[table][page];
        let made = entry.compare_exchange(NONE, vma.generation, Ordering::AcqRel, Ordering::Acquire);
        assert_eq!(made.err().unwrap_or(vma.generation), vma.generation, "an entry of a mapping that is no more");
        true
    }

    /// The slow path's answer to a fault at `page`: whether something is mapped there.
    fn is_mapped(&self, page: usize) -> bool {
        let look = |txn: &mut Txn<'_, Host>| {
            let Some(index) = self.find(page) else { return Ok(false) };
            let vma = self.vma(index);
            if vma.kind == Kind::Tombstone {
                if mutant("tombstone-is-no-mapping") {
                    return Ok(false);
                }
                let abort = txn.wait_for(&vma.lock);
                // Ended: its place may have been taken between the two looks.
                return if abort == Abort::Again && mutant("ended-tombstone-is-no-mapping") {
                    Ok(false)
                } else {
                    Err(abort)
                };
            }
            txn.mark(&vma.lock, page as u64 * PAGE..(page as u64 + 1) * PAGE)?;
            let _settled = txn.settle()?;
            if self.find(page) != Some(index) || !txn.has_marked(&vma.lock) {
                return Err(Abort::Again);
            }
            Ok(true)
        };
        self.update(look).unwrap()
    }

    /// Whether the linked table has the entry of `page`.
    fn has_entry(&self, page: usize) -> bool {
        let table = self.parent.load(Ordering::Acquire);
        table != NONE && self.tables[table][page].load(Ordering::Acquire) != NONE
    }
}

/// 8.2: two writers each replace the mapping, beside a fault: no update is lost, and the fault is served under the mapping that is.
#[test]
fn no_replacement_is_lost() {
    explore("8.2: two replace", 2, || {
        let world = World::new();
        let replace = |world: &World, index: usize| {
            let replace = |txn: &mut Txn<'_, Host>| {
                let found = world.find(0).expect("always mapped");
                let old = world.vma(found);
                txn.mark(&old.lock, 0..PAGE)?;
                let settled = txn.settle()?;
                let generation = old.generation + 1;
                world.make(txn, index, Kind::Mapping, generation);
                let section = world.section.lock();
                let same = world.find(0) == Some(found) && txn.has_marked(&old.lock);
                if !same && !mutant("replace-without-look") {
                    return Err(Abort::Again);
                }
                txn.detach(&settled, &old.lock);
                world.tree[0].store(index, Ordering::Release);
                drop(section);
                world.tables[0][0].store(generation, Ordering::Release);
                Ok(())
            };
            world.update(replace).unwrap();
        };
        let other = {
            let world = world.clone();
            spawn(1, move || {
                world.fault(0);
                replace(&world, 1);
            })
        };
        replace(&world, 2);
        other.join().unwrap();
        let last = world.vma(world.find(0).unwrap()).generation;
        assert_eq!((last, world.tables[0][0].load(Ordering::Acquire)), (3, 3), "a replacement was lost");
    });
}

/// 8.3: `munmap` beside `mmap` of the same page: the new mapping finds an empty entry.
#[test]
fn a_hole_is_used_again_when_it_is_empty() {
    explore("8.3: munmap, mmap", 3, || {
        let world = World::new();
        let mapper = {
            let world = world.clone();
            spawn(1, move || world.map(0, 2, 2) == Ok(()))
        };
        world.unmap(1);
        let mapped = mapper.join().unwrap();
        assert_eq!(world.find(0).is_some(), mapped);
    });
}

/// 8.3: `MAP_FIXED` over a mapping: who asks finds the old one, or the new one, and never a hole.
#[test]
fn a_range_that_was_always_mapped_is_mapped() {
    explore("8.3: MAP_FIXED, slow path", 2, || {
        let world = World::new();
        let faulter = {
            let world = world.clone();
            spawn(1, move || assert!(world.is_mapped(0), "no mapping where there always was one"))
        };
        world.map_over(1, 2, 2);
        faulter.join().unwrap();
    });
}

/// 8.4, rule (i): page 0 is unmapped and the table goes with it; page 1 is mapped; a fault at page 1 that began before.
#[test]
fn a_fault_loads_the_table_after_its_checks() {
    explore("8.4: early walk", 3, || {
        let world = World::new();
        let faulter = {
            let world = world.clone();
            spawn(1, move || world.fault(1))
        };
        world.unmap(1);
        world.map(1, 2, 2).unwrap();
        if faulter.join().unwrap() {
            assert!(world.has_entry(1), "a page was lost in a dead table");
        }
    });
}

/// 8.4, rule (ii): page 0 is unmapped while another thread maps page 1 and faults there.
#[test]
fn a_table_goes_only_if_nobody_else_uses_it() {
    explore("8.4: new neighbour", 3, || {
        let world = World::new();
        let neighbour = {
            let world = world.clone();
            spawn(1, move || {
                world.map(1, 2, 2).unwrap();
                world.fault(1)
            })
        };
        world.unmap(1);
        assert!(neighbour.join().unwrap(), "nobody else marks page 1");
        assert!(world.has_entry(1), "a page was lost in a dead table");
    });
}
