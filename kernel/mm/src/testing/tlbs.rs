//! All TLBs of one address space: who flushes them, and what makes them load something by themselves.
//!
//! Shootdowns find the TLBs by the address space, in a table of the process; each CPU walks from its own root. At every schedule point that a thread of
//! the program passes, one of the CPUs that run the program may load the translation of some page nearby, by chance:
//! in the middle of calls, with spin locks held, between the removal of an entry and its flush. The chances come from a seed.
//!
//! Every frame that is freed is looked for in every TLB (schedule point `frame-freeing`): a stale translation is found when
//! it *could* be used, not only when it is.

use core::cell::RefCell;
use core::sync::atomic::{AtomicU64, Ordering};
use std::{
    collections::HashMap,
    format,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock},
    vec::Vec,
};

use sync::{
    CpuId, FlushRequest, FlushScope, Platform, Point,
    testing::{HOST_CPUS, Host},
};

use super::tlb::{Start, Tlb, violation};
use crate::{
    addr::PAGE_SIZE,
    frame::{Frames, Owner},
    paging::Entry,
    space::AddressSpace,
};

/// Pages that a TLB may load by itself: those around the last ones touched.
const NEARBY: usize = 16;

/// The TLBs of one address space, by CPU.
pub(super) struct Tlbs {
    /// What shootdowns call the address space.
    space: u64,
    cpus: Vec<Mutex<Tlb>>,
    /// Shootdowns that each CPU got.
    flushes: Vec<AtomicU64>,
    frames: Frames<Host>,
    /// State of the random numbers.
    random: AtomicU64,
    /// Pages touched lately.
    touched: [AtomicU64; NEARBY],
}

static BY_SPACE: LazyLock<RwLock<HashMap<u64, Arc<Tlbs>>>> = LazyLock::new(RwLock::default);

std::thread_local! {
    /// The programs that this thread runs, innermost last.
    static RUNNING: RefCell<Vec<Arc<Tlbs>>> = const { RefCell::new(Vec::new()) };
}

/// TLBs that shootdowns find. Dropped after the address space.
pub(super) struct Registered(Arc<Tlbs>);

impl Registered {
    /// Empty TLBs for `space`; `seed` is where chance begins.
    pub(super) fn new(space: &AddressSpace<Host>, seed: u64) -> Registered {
        let cpus = || (0..HOST_CPUS as u32).map(CpuId);
        let name = space.tables.root();
        let tlbs = Arc::new(Tlbs {
            space: name,
            cpus: cpus().map(|cpu| Mutex::new(Tlb::new(cpu, space.root_of(cpu)))).collect(),
            flushes: cpus().map(|_| AtomicU64::new(0)).collect(),
            frames: space.memory.frames,
            random: AtomicU64::new(seed),
            touched: [const { AtomicU64::new(0) }; NEARBY],
        });
        BY_SPACE.write().unwrap_or_else(PoisonError::into_inner).insert(name, tlbs.clone());
        Registered(tlbs)
    }

    /// Runs `body` with `cpu` having the root loaded.
    pub(super) fn run_on<R>(&self, cpu: usize, body: impl FnOnce() -> R) -> R {
        struct Leave<'a>(&'a Tlbs, usize);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                RUNNING.with_borrow_mut(Vec::pop);
                self.0.of(self.1).reload(false);
            }
        }
        self.0.of(cpu).reload(true);
        RUNNING.with_borrow_mut(|running| running.push(self.0.clone()));
        let _leave = Leave(&self.0, cpu);
        body()
    }
}

impl core::ops::Deref for Registered {
    type Target = Tlbs;

    fn deref(&self) -> &Tlbs {
        &self.0
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut all = BY_SPACE.write().unwrap_or_else(PoisonError::into_inner);
        // The table's frame may be another address space's by now.
        if all.get(&self.0.space).is_some_and(|tlbs| Arc::ptr_eq(tlbs, &self.0)) {
            all.remove(&self.0.space);
        }
    }
}

impl Tlbs {
    /// The TLB of `cpu`, locked.
    pub(super) fn of(&self, cpu: usize) -> MutexGuard<'_, Tlb> {
        // A failed test has poisoned it; others go on.
        self.cpus[cpu].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Walks for `page` as `tlb`'s CPU would: from the root, or by chance from a remembered upper entry.
    pub(super) fn walk(&self, tlb: &mut Tlb, page: u64) -> Entry {
        let start = if self.chance(2) == 0 { Start::Remembered } else { Start::Root };
        tlb.load(page, &self.frames, start)
    }

    /// Shootdowns that `cpu` got so far.
    pub(super) fn flushes(&self, cpu: usize) -> u64 {
        self.flushes[cpu].load(Ordering::Relaxed)
    }

    /// A CPU touches `page`.
    pub(super) fn touch(&self, page: u64) {
        self.touched[self.chance(NEARBY as u64) as usize].store(page, Ordering::Relaxed);
    }

    /// Fails if an access by `entry` reaches a frame that is no program's page any more. Called under the TLB's lock.
    pub(super) fn check_live(&self, entry: Entry) {
        let owner = self.frames.owner_at(entry.phys());
        violation(owner == Some(Owner::Anon), || format!("an access reaches the freed frame {:#x}", entry.phys()));
    }

    /// Fails if a TLB knows of an address in `range` what the tables do not say, or more than they allow. Called when no
    /// call that concerns the range is under way.
    pub(super) fn check(&self, range: core::ops::Range<u64>) {
        for cpu in 0..HOST_CPUS {
            self.of(cpu).check(range.clone(), &self.frames);
        }
    }

    /// A number below `limit`, by chance.
    fn chance(&self, limit: u64) -> u64 {
        let state = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        // SplitMix64's output function.
        let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (state ^ (state >> 31)) % limit
    }

    /// By chance, one CPU loads what nobody asked it for.
    fn prefill(&self) {
        if self.chance(4) != 0 {
            return;
        }
        let mut tlb = self.of(self.chance(HOST_CPUS as u64) as usize);
        let near = self.touched[self.chance(NEARBY as u64) as usize].load(Ordering::Relaxed);
        if tlb.active && near != 0 {
            let page = near.wrapping_add(self.chance(5) * PAGE_SIZE).saturating_sub(2 * PAGE_SIZE);
            self.walk(&mut tlb, page);
        }
    }
}

/// The host's shootdown hook.
pub(super) fn shootdown(request: &FlushRequest<'_>) -> usize {
    let tlbs = BY_SPACE.read().unwrap_or_else(PoisonError::into_inner).get(&request.space).cloned();
    let Some(tlbs) = tlbs else { return 0 };
    for cpu in request.cpus.iter() {
        tlbs.flushes[cpu.index()].fetch_add(1, Ordering::Relaxed);
        let mut tlb = tlbs.of(cpu.index());
        match request.scope {
            FlushScope::All => tlb.flush_all(),
            FlushScope::Pages(pages) => tlb.flush_pages(pages),
        }
    }
    request.cpus.without(Host::cpu()).iter().count()
}

/// The host's schedule-point hook.
pub(super) fn point(point: Point, detail: u64) {
    if point == const { Point::named("frame-freeing") } {
        for tlbs in BY_SPACE.read().unwrap_or_else(PoisonError::into_inner).values() {
            (0..HOST_CPUS).for_each(|cpu| tlbs.of(cpu).check_freed(detail));
        }
    }
    // The innermost program alone: chance in one must not hang on what other tests do.
    if let Some(tlbs) = RUNNING.with_borrow(|running| running.last().cloned()) {
        tlbs.prefill();
    }
}
