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

use crate::{
    frame::{Frames, Owner},
    paging::Entry,
};

/// Translations by page address.
pub(super) type Translations = HashMap<u64, Entry>;

/// The TLBs of one address space, by CPU.
pub(super) struct Tlbs {
    cpus: Vec<Mutex<Translations>>,
    frames: Frames<Host>,
}

impl Tlbs {
    pub(super) fn of(&self, cpu: usize) -> MutexGuard<'_, Translations> {
        lock(&self.cpus[cpu])
    }

    /// Fails if a translation, which a TLB has held until now, leads to a frame that is no program's page any more: it
    /// was freed before it was flushed. Called under that TLB's lock.
    pub(super) fn check_live(&self, entry: Entry) {
        let owner = self.frames.owner_at(entry.phys());
        assert_eq!(owner, Some(Owner::Anon), "a TLB still translates to the freed frame {:#x}", entry.phys());
    }
}

static BY_ROOT: LazyLock<RwLock<HashMap<u64, Arc<Tlbs>>>> = LazyLock::new(RwLock::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A failed test has poisoned it; others go on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Empty TLBs for the address space at `root`.
pub(super) fn register(root: u64, frames: Frames<Host>) -> Arc<Tlbs> {
    let tlbs = Arc::new(Tlbs { cpus: (0..HOST_CPUS).map(|_| Mutex::default()).collect(), frames });
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
            FlushScope::All => tlb.drain().for_each(|(_, entry)| tlbs.check_live(entry)),
            FlushScope::Pages(pages) => {
                pages.iter().filter_map(|page| tlb.remove(page)).for_each(|entry| tlbs.check_live(entry));
            }
        }
    }
    request.cpus.without(Host::cpu()).iter().count()
}
