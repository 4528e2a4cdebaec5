//! Kernel stacks: each in its own slot of the stacks' region, with an unmapped guard page below it.
//!
//! A stack that overflows touches its guard page; the fault cannot be pushed on that stack either, so the double-fault
//! handler, on a stack of its own, reports it by name (`arch::fault`).
//!
//! ## Where the frames go when a thread ends
//! Unmapping a kernel page needs every CPU's TLB, and a thread ends in the middle of a switch, where nothing can be
//! waited for. So a freed stack stays mapped and is the next one to be used, last in, first out (its lines are warm).
//! [`drain`] gives the frames of all unused stacks back: it unmaps them, then **visits every CPU** and drops its
//! translations there, and only then frees. It runs on the kernel's main thread after a program has ended, so that
//! the frames that a program's threads needed are accounted for like all others.
//!
//! The tables of the region are made at boot, for all slots: mapping a stack can fail for want of its own frames
//! only, and the count of `kernel_tables` never moves.

use arrayvec::ArrayVec;
use mm::{Frame, Owner};
use sync::{Class, CpuSet, SpinLock};

use crate::arch::paging::{self, Rights, STACKS};
use crate::memory::memory;
use crate::platform::Machine;
use crate::sched;

/// Most stacks at a time.
pub const MAX_STACKS: usize = 2048;

/// Pages in a slot: the guard page, then the stack.
const SLOT_PAGES: u64 = 8;

/// Pages of a stack.
const STACK_PAGES: usize = SLOT_PAGES as usize - 1;

/// Usable bytes of a stack.
pub const STACK_SIZE: u64 = STACK_PAGES as u64 * PAGE;

const PAGE: u64 = abi::PAGE_SIZE;

/// The slots that no stack uses.
struct Pool {
    /// Slots whose stack is mapped.
    mapped: ArrayVec<u16, MAX_STACKS>,
    /// Slots below `fresh` that are not mapped.
    unmapped: ArrayVec<u16, MAX_STACKS>,
    /// The first slot that was never used.
    fresh: u16,
}

static POOL: SpinLock<Machine, Pool> = sync::spin_lock(
    Class::StackPool,
    Pool { mapped: ArrayVec::new_const(), unmapped: ArrayVec::new_const(), fresh: 0 },
);

/// Why there is no stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStack {
    /// All slots are in use.
    Slots,
    /// There are no frames.
    Memory,
}

impl From<NoStack> for abi::Errno {
    fn from(why: NoStack) -> abi::Errno {
        match why {
            // What clone(2) says when a limit on the number of threads is reached.
            NoStack::Slots => abi::Errno::EAGAIN,
            NoStack::Memory => abi::Errno::ENOMEM,
        }
    }
}

/// An owned stack. Dropping it, never while it is in use, keeps it mapped for the next one.
pub struct Stack {
    slot: u16,
}

/// Where a slot begins: its guard page.
const fn base(slot: u16) -> u64 {
    STACKS + slot as u64 * SLOT_PAGES * PAGE
}

/// The pages of a slot's stack.
fn pages(slot: u16) -> impl Iterator<Item = u64> {
    (1..SLOT_PAGES).map(move |page| base(slot) + page * PAGE)
}

/// Builds the tables of the whole region. Once, at boot.
///
/// # Panics
/// Without memory.
pub fn init() {
    let end = base(0) + MAX_STACKS as u64 * SLOT_PAGES * PAGE;
    let table = || memory().frames.alloc_zeroed(Owner::KernelTables).ok().map(Frame::into_raw);
    paging::reserve_tables(STACKS..end, table).expect("memory for the tables of the kernel stacks");
}

impl Stack {
    /// A stack, its contents undefined.
    ///
    /// # Errors
    /// [`NoStack`]; nothing has changed then.
    pub fn try_new() -> Result<Stack, NoStack> {
        let slot = {
            let mut pool = POOL.lock();
            if let Some(slot) = pool.mapped.pop() {
                return Ok(Stack { slot });
            }
            match pool.unmapped.pop() {
                Some(slot) => slot,
                None if usize::from(pool.fresh) < MAX_STACKS => {
                    pool.fresh += 1;
                    pool.fresh - 1
                }
                None => return Err(NoStack::Slots),
            }
        };
        // All frames first: what has been mapped could only be unmapped with every CPU's help.
        let mut frames: ArrayVec<Frame<Machine>, STACK_PAGES> = ArrayVec::new();
        for _ in 0..STACK_PAGES {
            match memory().frames.alloc(Owner::KernelStack) {
                Ok(frame) => frames.push(frame),
                Err(_) => {
                    POOL.lock().unmapped.push(slot);
                    return Err(NoStack::Memory);
                }
            }
        }
        for (virt, frame) in pages(slot).zip(frames) {
            paging::map_page(virt, frame.into_raw(), Rights::ReadWrite, || None)
                .expect("the region's tables are made at boot");
        }
        Ok(Stack { slot })
    }

    /// One past its highest byte; a multiple of 16.
    pub fn top(&self) -> u64 {
        base(self.slot) + SLOT_PAGES * PAGE
    }

    /// Its guard page.
    pub fn guard(&self) -> u64 {
        base(self.slot)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        POOL.lock().mapped.push(self.slot);
    }
}

/// Number of stacks that are mapped and unused.
pub fn unused() -> usize {
    POOL.lock().mapped.len()
}

/// Gives the frames of all unused stacks back. Called by a kernel thread; visits every CPU of `cpus`, which are all
/// that run.
pub fn drain(cpus: CpuSet) {
    // Off the list, so nobody uses them while they go.
    let slots = core::mem::take(&mut POOL.lock().mapped);
    if slots.is_empty() {
        return;
    }
    let count = slots.len() * STACK_PAGES;
    // The frames' numbers wait inside the frames themselves: a list through their first words needs no memory.
    let mut first: Option<u64> = None;
    for virt in slots.iter().flat_map(|&slot| pages(slot)) {
        let phys = paging::unmap_page(virt);
        link(phys, first);
        first = Some(phys);
    }
    sched::visit(cpus, paging::flush_global);
    let mut freed = 0;
    while let Some(phys) = first {
        first = next(phys);
        // SAFETY: made a number by `try_new`, taken out of the tables above, and no CPU can reach it through them any
        // more.
        drop(unsafe { memory().frames.from_raw(phys) });
        freed += 1;
    }
    debug_assert_eq!(freed, count);
    POOL.lock().unmapped.extend(slots);
}

/// Notes in frame `phys`, which nothing else uses, which frame follows it.
fn link(phys: u64, next: Option<u64>) {
    // Frame 0 is never usable memory (`memory`), so it can stand for the end.
    // SAFETY: the frame is ours, and all memory is in the window.
    unsafe { paging::phys_to_virt(phys).cast::<u64>().write(next.unwrap_or(0)) };
}

/// What [`link`] noted.
fn next(phys: u64) -> Option<u64> {
    // SAFETY: as in `link`.
    let next = unsafe { paging::phys_to_virt(phys).cast::<u64>().read() };
    (next != 0).then_some(next)
}
