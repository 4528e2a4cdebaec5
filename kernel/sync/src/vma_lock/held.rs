//! Which VMA locks a transaction holds, in a list that other transactions read at any moment (`cycle-held`).
//!
//! Addresses only: nobody looks into a VMA by way of this list, so it keeps none alive. It belongs to a cell, is written by the
//! cell's owner, and keeps its memory for the next one. It may name a VMA that is gone, in whose memory another one lies now:
//! whoever acts upon it makes sure otherwise. Where memory is out the list is incomplete, and says so: a transaction that must
//! finish, such as a program's end, does not fail for want of an entry.

use core_alloc::vec::Vec;

use crate::Platform;
use crate::alloc::try_push;
use crate::order::Class;
use crate::spin::{SpinLock, spin_lock};

/// How many entries are looked at with interrupts off.
const BATCH: usize = 64;

/// The list of one cell.
pub(super) struct HeldList<P: Platform> {
    list: SpinLock<P, List>,
}

struct List {
    addresses: Vec<u64>,
    /// Something is held that `addresses` had no room for.
    is_incomplete: bool,
}

impl<P: Platform> HeldList<P> {
    /// An empty list.
    pub(super) fn new() -> Self {
        HeldList { list: spin_lock(Class::HeldLocks, List { addresses: Vec::new(), is_incomplete: false }) }
    }

    /// The owner is about to take the lock at `address`.
    pub(super) fn push(&self, address: u64) {
        let mut list = self.list.lock();
        if try_push(&mut list.addresses, address).is_err() {
            list.is_incomplete = true;
        }
    }

    /// The owner was refused the lock at `address`, which it pushed last.
    pub(super) fn pop(&self, address: u64) {
        self.list.lock().addresses.pop_if(|last| *last == address);
    }

    /// A new owner holds nothing. The memory of a long list is given back.
    pub(super) fn clear(&self) {
        let mut long = Vec::new();
        let mut list = self.list.lock();
        list.addresses.clear();
        list.is_incomplete = false;
        if list.addresses.capacity() > 4 * BATCH {
            core::mem::swap(&mut list.addresses, &mut long);
        }
        // Before `long`, which goes without the lock.
        drop(list);
    }

    /// Whether the lock at `address` is held; `None` if the list cannot tell. Its owner may add to it meanwhile.
    pub(super) fn contains(&self, address: u64) -> Option<bool> {
        let mut from = 0;
        loop {
            let list = self.list.lock();
            let rest = list.addresses.get(from..).unwrap_or(&[]);
            let batch = &rest[..rest.len().min(BATCH)];
            if batch.contains(&address) {
                return Some(true);
            }
            if batch.len() < BATCH {
                return if list.is_incomplete { None } else { Some(false) };
            }
            from += BATCH;
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::testing::{Host, fail_allocation_after};

    #[test]
    fn what_is_held_is_found_however_much_it_is() {
        let list = HeldList::<Host>::new();
        for count in 0..4 * BATCH as u64 {
            assert_eq!(list.contains(count), Some(false));
            list.push(count);
            assert!((0..=count).all(|address| list.contains(address) == Some(true)), "{count}");
        }
        let last = 4 * BATCH as u64 - 1;
        list.pop(last);
        assert_eq!((list.contains(last), list.contains(0)), (Some(false), Some(true)));
        list.clear();
        assert_eq!(list.contains(0), Some(false));
    }

    #[test]
    fn without_memory_the_list_cannot_tell() {
        let list = HeldList::<Host>::new();
        list.push(1);
        (2..100).for_each(|address| fail_allocation_after(0, || list.push(address)).0);
        assert_eq!((list.contains(1), list.contains(99)), (Some(true), None));
        list.pop(99);
        assert_eq!(list.contains(1), Some(true), "it had not been entered");
        list.clear();
        assert_eq!(list.contains(99), Some(false));
    }
}
