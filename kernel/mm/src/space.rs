//! [`AddressSpace`]: the parts, making one, tearing it down.
//!
//! | part | protected by |
//! |---|---|
//! | `tree` | look-ups: RCU; changes: a transaction, published in the tree's section |
//! | `update` | itself: the lock of `bulk`, and the set of CPUs that run this address space |
//! | `tables` | entries are atomics; filled by faults under a VMA's read lock, emptied by settled transactions |
//! | `program_break` | transactions |
//!
//! The calls are one file each: `map`, `unmap`, `protect`, `brk`, `advise`; `fault` serves faults.

use core::sync::atomic::{AtomicU64, Ordering};

use abi::{Errno, PAGE_SIZE};
use sync::{Abort, CpuId, CpuSet, Platform, Txn, UpdateLock};

use crate::{
    error::OutOfMemory,
    frame::FrameList,
    memory::Memory,
    paging::{
        PageTables, Unlinked,
        table::{ENTRIES, USER_HALF_END},
    },
    program_break::Break,
    tally::{Registered, Tally},
    tree::RangeTree,
    vma::VmaRef,
};

/// Most mappings in an address space: Linux's default `vm.max_map_count`.
pub const MAX_MAP_COUNT: usize = 65530;

/// A program's memory.
pub struct AddressSpace<P: Platform> {
    pub(crate) memory: &'static Memory<P>,
    pub(crate) tree: RangeTree<P, VmaRef>,
    pub(crate) update: UpdateLock<P>,
    pub(crate) tables: PageTables<P>,
    pub(crate) program_break: Break,
    /// Where the program's stack is, for its name in reports. 0: nowhere.
    pub(crate) stack: AtomicU64,
    /// What happens here is counted here.
    pub(crate) counters: Registered<P>,
}

impl<P: Platform> AddressSpace<P> {
    /// An empty address space, with a root table for each of the machine's CPUs, that shares the upper half of the tables
    /// under `kernel_root`.
    ///
    /// `kernel_root` is the physical address of the kernel's root table; its upper 256 entries are copied, so all that
    /// the kernel will use must be there already (see [`prepare_kernel_slot`](crate::paging::prepare_kernel_slot)).
    ///
    /// # Errors
    /// ENOMEM.
    pub fn new(memory: &'static Memory<P>, kernel_root: u64) -> Result<Self, Errno> {
        // SAFETY: the kernel's root table is never freed.
        let tables = unsafe { PageTables::new(memory.frames, kernel_root) }?;
        Ok(AddressSpace {
            memory,
            tree: RangeTree::new(&memory.rcu),
            update: UpdateLock::new(),
            tables,
            program_break: Break::new(&memory.locks),
            stack: AtomicU64::new(0),
            counters: memory.counters.register()?,
        })
    }

    /// Physical address of the calling CPU's root table, for its CR3.
    pub fn root(&self) -> u64 {
        self.root_of(P::cpu())
    }

    /// Physical address of the root table of `cpu`.
    pub fn root_of(&self, cpu: CpuId) -> u64 {
        self.tables.root_of(cpu)
    }

    /// A number that no other address space of this machine has or had: half of a futex key.
    pub fn id(&self) -> u64 {
        self.counters.tally().space()
    }

    /// What was counted here.
    pub fn tally(&self) -> &Tally<P> {
        self.counters.tally()
    }

    /// The machine's memory.
    pub fn memory(&self) -> &'static Memory<P> {
        self.memory
    }

    /// The calling CPU is about to load [`AddressSpace::root`]: called before, with interrupts off. From here on it gets
    /// this address space's shootdowns.
    pub fn join(&self) {
        self.update.join(P::cpu());
    }

    /// The calling CPU has loaded another root: called after, with interrupts off.
    pub fn leave(&self) {
        self.update.leave(P::cpu());
    }

    /// The CPUs that run this address space.
    pub fn cpus(&self) -> CpuSet {
        self.update.cpus()
    }

    /// Says where the program's initial stack is, for reports only.
    pub fn set_stack(&self, addr: u64) {
        self.stack.store(addr, Ordering::Relaxed);
    }

    /// Number of mappings.
    pub fn mapping_count(&self) -> usize {
        self.tree.len()
    }

    /// Runs `body` as a transaction on this address space.
    ///
    /// If kernel memory is out, once more after a grace period: what earlier calls replaced may have waited for that, and a
    /// full memory could not be emptied otherwise.
    #[track_caller]
    pub(crate) fn transaction<T>(&self, mut body: impl FnMut(&mut Txn<'_, P>) -> Result<T, Abort>) -> Result<T, Errno> {
        let mut last = None;
        let first = sync::update(&self.update, &self.memory.locks, &self.counters, |txn| {
            let result = body(txn);
            last = result.as_ref().err().copied();
            result
        });
        if last != Some(Abort::NoMemory) {
            return first;
        }
        self.memory.rcu.barrier();
        sync::update(&self.update, &self.memory.locks, &self.counters, body)
    }
}

impl<P: Platform> Drop for AddressSpace<P> {
    /// Gives everything back. No CPU runs the address space any more: whoever left it has loaded another root, which
    /// emptied its TLB, so nothing needs a flush; and nobody else has a reference, so nothing needs a grace period.
    fn drop(&mut self) {
        debug_assert!(self.update.cpus().is_empty(), "an address space is torn down while a CPU runs it");
        let mut next = 0;
        loop {
            let guard = self.memory.rcu.read();
            let Some(item) = self.tree.next(&guard, next) else { break };
            next = item.end;
            // SAFETY: nobody else has this address space; the tree's drop, after this, does not look into values.
            unsafe { item.value.free_now() };
        }
        let frames = self.memory.frames;
        let mut unlinked = Unlinked::new(frames);
        let half = 0..USER_HALF_END;
        // SAFETY: we are the only one left, and no TLB holds anything.
        unsafe { self.tables.unlink(half.clone(), half, &mut unlinked) };
        let mut tables = FrameList::new(frames);
        // SAFETY: a leaf entry owns its frame, and it was taken out just now.
        let free_page = &mut |entry: crate::paging::Entry| drop(unsafe { frames.from_raw(entry.phys()) });
        self.tables.dismantle(&mut unlinked, free_page, &mut tables);
        self.tables.dismantle_views();
    }
}

impl From<OutOfMemory> for sync::AllocError {
    fn from(_: OutOfMemory) -> Self {
        sync::AllocError
    }
}

const _: () = assert!(PAGE_SIZE as usize == ENTRIES * size_of::<u64>());
