//! The software TLB: what each CPU remembers of each address space's tables.
//!
//! An access happens under its CPU's TLB lock, from the look-up to the touch of memory, and a shootdown takes the same
//! lock: so a shootdown that has returned means what it means on a processor, that no access by the old translation is
//! under way or will come. Shootdowns find the TLBs by the root table's address, in a table of the process.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock},
    vec::Vec,
};

use sync::{
    FlushRequest, FlushScope, Platform,
    testing::{HOST_CPUS, Host},
};

use crate::paging::Entry;

/// Translations by page address.
pub(super) type Translations = HashMap<u64, Entry>;

/// The TLBs of one address space, by CPU.
pub(super) struct Tlbs(Vec<Mutex<Translations>>);

impl Tlbs {
    pub(super) fn of(&self, cpu: usize) -> MutexGuard<'_, Translations> {
        lock(&self.0[cpu])
    }
}

static BY_ROOT: LazyLock<RwLock<HashMap<u64, Arc<Tlbs>>>> = LazyLock::new(RwLock::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A failed test has poisoned it; others go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Empty TLBs for the address space at `root`.
pub(super) fn register(root: u64) -> Arc<Tlbs> {
    let tlbs = Arc::new(Tlbs((0..HOST_CPUS).map(|_| Mutex::default()).collect()));
    BY_ROOT.write().unwrap_or_else(PoisonError::into_inner).insert(root, tlbs.clone());
    tlbs
}

/// The address space at `root` is gone.
pub(super) fn unregister(root: u64) {
    BY_ROOT.write().unwrap_or_else(PoisonError::into_inner).remove(&root);
}

/// The host's shootdown hook.
pub(super) fn shootdown(request: &FlushRequest<'_>) -> usize {
    let tlbs = BY_ROOT.read().unwrap_or_else(PoisonError::into_inner).get(&request.root).cloned();
    let Some(tlbs) = tlbs else { return 0 };
    for cpu in request.cpus.iter() {
        let mut tlb = tlbs.of(cpu.index());
        match request.scope {
            FlushScope::All => tlb.clear(),
            FlushScope::Pages(pages) => pages.iter().for_each(|page| {
                tlb.remove(page);
            }),
        }
    }
    request.cpus.without(Host::cpu()).iter().count()
}
