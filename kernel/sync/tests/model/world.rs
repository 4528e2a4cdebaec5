//! What models of VMA locks change: a tree of two pages, VMAs, and what lies in the pages.
//!
//! The tree is one atomic word for each page; VMAs and pages are loom cells. A fault that is served writes its page, and so does a
//! transaction after it has settled: if exclusion is lost, loom reports two unordered accesses. Each page also carries the
//! generation of the mapping it belongs to, so that being served under an old VMA is seen even when nothing races.
// Every file of models takes what it needs.
#![allow(dead_code)]

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize as Tally;

use abi::Pair;
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use sync::primitive::mutant;
use sync::testing::{Host, on_cpu};
use sync::{
    Abort, Counters, CpuId, InterruptGuard, Mark, ReadRefused, Settled, Txn, UpdateLock, VmaLock, VmaLocks, update,
};

use crate::model::spawn;

pub(crate) const PAGE: u64 = abi::PAGE_SIZE;
/// In the tree: nothing mapped.
pub(crate) const HOLE: usize = usize::MAX;

/// Runs `body` with interrupts off, as trap handlers do.
pub(crate) fn in_trap<T>(body: impl FnOnce() -> T) -> T {
    let _guard = InterruptGuard::<Host>::new();
    body()
}

/// Immutable once published, but for its lock.
pub(crate) struct Vma {
    pub(crate) lock: VmaLock,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Served,
    Locked(Mark),
    Detached,
    Miss,
}

pub(crate) struct World {
    pub(crate) space: UpdateLock<Host>,
    pub(crate) locks: VmaLocks<Host>,
    pub(crate) counters: Counters<Host>,
    /// For each page, which VMA covers it.
    pub(crate) tree: [AtomicUsize; 2],
    vmas: [UnsafeCell<Option<Vma>>; 3],
    /// Each page's generation.
    pub(crate) pages: [UnsafeCell<u64>; 2],
}

// SAFETY: loom checks every access to its cells.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl World {
    /// VMA 0 covers pages 0 and 1, its maker's mark has ended, and the CPUs `0..joined` run the address space.
    pub(crate) fn new(pair: Pair, joined: u32) -> Arc<World> {
        World::of_vmas(pair, joined, &[0..=1])
    }

    /// As [`World::new`], with one VMA for each of `ranges`.
    pub(crate) fn of_vmas(pair: Pair, joined: u32, ranges: &[RangeInclusive<u64>]) -> Arc<World> {
        let world = World {
            space: UpdateLock::new(),
            locks: VmaLocks::new(pair).unwrap(),
            counters: Counters::new().unwrap(),
            tree: [AtomicUsize::new(HOLE), AtomicUsize::new(HOLE)],
            vmas: [UnsafeCell::new(None), UnsafeCell::new(None), UnsafeCell::new(None)],
            pages: [UnsafeCell::new(0), UnsafeCell::new(0)],
        };
        (0..joined).for_each(|cpu| world.space.join(CpuId(cpu)));
        world.update(|txn| {
            for (index, pages) in ranges.iter().enumerate() {
                world.make(txn, index, pages.clone(), 1);
                world.publish(index);
            }
            Ok(())
        });
        Arc::new(world)
    }

    /// As [`World::new`], and a fault has cleared the maker's mark.
    pub(crate) fn with_cleared_mark(pair: Pair, joined: u32) -> Arc<World> {
        let world = World::new(pair, joined);
        assert_eq!(on_cpu(CpuId(0), || world.fault(0)), Outcome::Served);
        world
    }

    pub(crate) fn update(&self, body: impl FnMut(&mut Txn<'_, Host>) -> Result<(), Abort>) {
        update(&self.space, &self.locks, &self.counters, body).unwrap();
    }

    pub(crate) fn vma(&self, index: usize) -> &Vma {
        // SAFETY: loom checks that its maker published it; it is written again only by who has waited for a grace period.
        self.vmas[index].with(|vma| unsafe { (*vma).as_ref() }).expect("found in the tree")
    }

    /// Builds VMA `index`, with the transaction's mark, and gives its pages a generation.
    pub(crate) fn make(&self, txn: &Txn<'_, Host>, index: usize, pages: RangeInclusive<u64>, generation: u64) {
        let vma = Vma { lock: txn.new_lock(), first: *pages.start(), last: *pages.end(), generation };
        // SAFETY: loom checks that nobody can find it yet.
        self.vmas[index].with_mut(|slot| unsafe { *slot = Some(vma) });
        pages.for_each(|page| self.write_page(page, generation));
    }

    pub(crate) fn write_page(&self, page: u64, generation: u64) {
        // SAFETY: loom checks that nobody else is at the page.
        self.pages[page as usize].with_mut(|slot| unsafe { *slot = generation });
    }

    pub(crate) fn publish(&self, index: usize) {
        let vma = self.vma(index);
        (vma.first..=vma.last).for_each(|page| self.tree[page as usize].store(index, Ordering::Release));
    }

    /// Marks VMA `index` and waits for its faults; `then` may change it.
    pub(crate) fn lock(
        &self,
        txn: &mut Txn<'_, Host>,
        index: usize,
        then: impl FnOnce(&Txn<'_, Host>, &Settled<'_>, &Vma),
    ) -> Result<(), Abort> {
        let vma = self.vma(index);
        txn.mark(&vma.lock, vma.first * PAGE..(vma.last + 1) * PAGE)?;
        let settled = txn.settle()?;
        then(txn, &settled, vma);
        Ok(())
    }

    /// Locks VMA `index` and changes its first page.
    pub(crate) fn change(&self, index: usize) {
        self.update(|txn| self.lock(txn, index, |_, _, vma| self.write_page(vma.first, vma.generation)));
    }

    /// Locks and changes what covers `page`, which other writers may replace meanwhile.
    pub(crate) fn change_at(&self, page: u64) {
        self.update(|txn| {
            let index = self.tree[page as usize].load(Ordering::Acquire);
            let mut gone = false;
            self.lock(txn, index, |_, _, vma| {
                gone = vma.lock.is_detached();
                if !gone {
                    self.write_page(page, vma.generation);
                }
            })?;
            if gone { Err(Abort::Again) } else { Ok(()) }
        });
    }

    /// `munmap` of VMA `index`: nobody may be at its pages afterwards.
    pub(crate) fn unmap(&self, index: usize) {
        self.update(|txn| {
            self.lock(txn, index, |txn, settled, vma| {
                for page in vma.first..=vma.last {
                    self.tree[page as usize].store(HOLE, Ordering::Release);
                    self.write_page(page, 0);
                }
                if !mutant("detach-after-end") {
                    txn.detach(settled, &vma.lock);
                }
            })
        });
        if mutant("detach-after-end") {
            self.update(|txn| self.lock(txn, index, |txn, settled, vma| txn.detach(settled, &vma.lock)));
        }
    }

    /// `mmap` of VMA `index`.
    pub(crate) fn map(&self, index: usize, pages: RangeInclusive<u64>, generation: u64) {
        self.update(|txn| {
            self.make(txn, index, pages.clone(), generation);
            self.publish(index);
            // A new mapping is filled under its own mark.
            pages.clone().for_each(|page| self.write_page(page, generation));
            Ok(())
        });
    }

    /// `mprotect` of page 1 in VMA 0, which becomes VMA 1 and, of another generation, VMA 2.
    pub(crate) fn split(&self) {
        self.update(|txn| {
            self.lock(txn, 0, |txn, settled, old| {
                self.make(txn, 1, 0..=0, 1);
                self.make(txn, 2, 1..=1, 2);
                self.publish(1);
                self.publish(2);
                txn.detach(settled, &old.lock);
            })
        });
    }

    /// One attempt of the fast path at `page`, on the CPU that the thread plays.
    pub(crate) fn fault(&self, page: u64) -> Outcome {
        in_trap(|| {
            let section = self.locks.enter(page * PAGE).expect("no fault inside a fault");
            let index = self.tree[page as usize].load(Ordering::Acquire);
            if index == HOLE {
                return Outcome::Miss;
            }
            let vma = self.vma(index);
            let _held = match vma.lock.read(&section, &self.locks, &self.counters) {
                Err(ReadRefused::Marked(mark)) => return Outcome::Locked(mark),
                Err(ReadRefused::Detached) => return Outcome::Detached,
                Ok(held) => held,
            };
            // Once more: loom checks that it is still there.
            let vma = self.vma(index);
            assert!((vma.first..=vma.last).contains(&page));
            // SAFETY: loom checks that nobody else is at the page.
            self.pages[page as usize].with_mut(|slot| {
                // SAFETY: as above.
                assert_eq!(unsafe { *slot }, vma.generation, "served under a VMA that is no more");
                // SAFETY: as above.
                unsafe { *slot = vma.generation };
            });
            Outcome::Served
        })
    }

    /// Starts a thread on `cpu` that faults at each of `pages` in turn.
    pub(crate) fn spawn_faults(
        self: &Arc<World>,
        seen: &Arc<Seen>,
        cpu: u32,
        pages: &'static [u64],
    ) -> loom::thread::JoinHandle<()> {
        let (world, seen) = (self.clone(), seen.clone());
        spawn(cpu, move || {
            for &page in pages {
                seen.note(world.fault(page));
            }
        })
    }
}

/// Which outcomes a scenario has seen, so that no pass is empty.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) served: Tally,
    pub(crate) locked: Tally,
    pub(crate) detached: Tally,
    pub(crate) miss: Tally,
}

impl Seen {
    pub(crate) fn new() -> Arc<Seen> {
        Arc::default()
    }

    pub(crate) fn note(&self, outcome: Outcome) -> Outcome {
        let tally = match outcome {
            Outcome::Served => &self.served,
            Outcome::Locked(_) => &self.locked,
            Outcome::Detached => &self.detached,
            Outcome::Miss => &self.miss,
        };
        tally.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        outcome
    }

    pub(crate) fn assert_all(&self, tallies: &[&Tally]) {
        for tally in tallies {
            assert_ne!(tally.load(std::sync::atomic::Ordering::Relaxed), 0, "an expected outcome never came");
        }
    }
}
