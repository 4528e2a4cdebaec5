//! Slots: what page each CPU's fault is at.
//!
//! A fault announces itself by one store to a line that only its own CPU writes, and a full fence. The word is 0 when the
//! CPU serves no fault, else `page address | fault count in bits 1..11 | 1`: never 0, not even for page 0, and different
//! from the last one's, so a writer can wait for *this* fault and not for the next at the same page.
//!
//! Either the fault's fence comes first, and the settling writer sees the word and waits; or the writer's does, and the
//! fault sees the mark (slot protocol, lemma 1).

use core::marker::PhantomData;
use core::ops::Range;

use core_alloc::boxed::Box;

use abi::ReadProtocol;

use super::VmaLocks;
use crate::alloc::try_box_slice;
use crate::order::{self, Class, Mode, Wait, Waiting};
use crate::primitive::{AtomicU64, MAX_CPUS, Ordering, Padded, fence_named, load_own, mutant, weaken};
use crate::{AllocError, CpuId, Platform, point};

const BUSY: u64 = 1;
const COUNT_SHIFT: u32 = 1;
const COUNT_MASK: u64 = 0x7ff;
const PAGE_MASK: u64 = !(abi::PAGE_SIZE - 1);

struct Slot {
    /// The announcement. Written by its own CPU with interrupts off.
    word: AtomicU64,
    /// Faults so far. Touched by its own CPU with interrupts off only, hence Relaxed throughout.
    faults: AtomicU64,
}

impl Slot {
    /// What the lock-order validator and reports know it by.
    fn address(&self) -> u64 {
        core::ptr::from_ref(&self.word).addr() as u64
    }
}

/// Every CPU's slot.
pub struct Slots<P: Platform> {
    slots: Box<[Padded<Slot>]>,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> Slots<P> {
    pub(super) fn new() -> Result<Self, AllocError> {
        let slot = |_| Padded(Slot { word: AtomicU64::new(0), faults: AtomicU64::new(0) });
        Ok(Slots { slots: try_box_slice(MAX_CPUS, slot)?, platform: PhantomData })
    }

    fn own(&self) -> &Slot {
        &self.slots[P::cpu().index()].0
    }

    /// Waits for the fault of `cpu`, if it is in `range`, to end. The caller has marked and fenced. Returns when the
    /// wait began ([`Platform::now_ns`]), if there was one. The wait is bounded: at most one fault, which never sleeps.
    #[track_caller]
    pub(crate) fn wait_for_fault(&self, cpu: CpuId, range: &Range<u64>) -> Option<u64> {
        let word = &self.slots[cpu.index()].0.word;
        // Acquire, here and in the loop: a fault that is over happened before what the writer does next.
        let seen = word.load(weaken("slot-scan-acquire", Ordering::Acquire));
        if seen == 0 || !range.contains(&(seen & PAGE_MASK)) {
            return None;
        }
        let since_ns = P::now_ns();
        point!(P, "settle-waiting");
        let page = seen & PAGE_MASK;
        let address = core::ptr::from_ref(word).addr() as u64;
        let _waiting = Waiting::<P>::new(Wait::FaultEnd, Class::VmaRead, address, page..page + abi::PAGE_SIZE);
        // Until it *changes*: a stream of faults, perhaps of another process at the same addresses, is not waited for.
        while word.load(weaken("slot-wait-acquire", Ordering::Acquire)) == seen {
            P::relax();
        }
        Some(since_ns)
    }
}

impl<P: Platform> VmaLocks<P> {
    /// Begins a fault at the page of `addr`: interrupts are off, and stay off while the section lives. `None` if this
    /// CPU is in a section already (a fault inside a fault: not to be served, rule 7). Under other protocols than `slot`
    /// nothing is announced: the section is only the time in which VMAs are read-locked.
    ///
    /// While the section lives: no sleep, no access to user memory, no wait for anything that a transaction may hold.
    /// The CPU has joined the address space ([`crate::UpdateLock::join`]). Look-ups and checks come after this call.
    ///
    /// # Panics
    /// In debug builds, if the lock order forbids it.
    #[inline]
    #[track_caller]
    pub fn enter(&self, addr: u64) -> Option<FaultSection<'_, P>> {
        if self.pair.read() != ReadProtocol::Slot {
            return Some(FaultSection { slot: None, not_send: PhantomData, platform: PhantomData });
        }
        let slot = self.slots.own();
        if load_own(&slot.word) != 0 {
            return None;
        }
        let page = addr & PAGE_MASK;
        order::before::<P>(Class::VmaRead, slot.address());
        order::acquired::<P>(Class::VmaRead, Mode::Read, slot.address(), page..page + abi::PAGE_SIZE);
        let count = load_own(&slot.faults).wrapping_add(1);
        slot.faults.store(count, Ordering::Relaxed);
        let mut word = addr & PAGE_MASK | (count & COUNT_MASK) << COUNT_SHIFT | BUSY;
        if mutant("slot-no-busy-bit") {
            word = addr & PAGE_MASK;
        }
        // Release: a writer that waits for our last fault and sees this one's word must see that the last is over.
        slot.word.store(word, weaken("slot-enter-release", Ordering::Release));
        point!(P, "slot-stored");
        // The reader's half of the store buffering: with the fence in `Txn::settle`.
        fence_named("slot-enter-fence");
        point!(P, "slot-entered");
        Some(FaultSection { slot: Some(slot), not_send: PhantomData, platform: PhantomData })
    }
}

/// A fault that settling writers can see. Dropping it ends the fault: keep no VMA or node afterwards, unless under an RCU
/// read section.
pub struct FaultSection<'a, P: Platform> {
    slot: Option<&'a Slot>,
    not_send: PhantomData<*const ()>,
    platform: PhantomData<fn() -> P>,
}

impl<P: Platform> Drop for FaultSection<'_, P> {
    #[inline]
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        point!(P, "slot-leaving");
        order::released::<P>(Class::VmaRead, slot.address());
        // Release: all that the fault did comes before the changes of a writer that waited for it.
        slot.word.store(0, weaken("slot-clear-release", Ordering::Release));
    }
}
