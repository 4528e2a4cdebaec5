//! How a thread leaves: the promises made to user mode about its end, then the table of threads, and after the last one
//! the end of the process.

use core::num::NonZeroU64;

use abi::Errno;
use abi::flags::futex::BITSET_MATCH_ANY;
use sync::FutexKey;
use sync::alloc::Arc;

use crate::system::System;
use crate::thread::Thread;
use crate::usercopy;

/// Ends `thread`, which is the calling thread and has left user mode for good; its address space is still the current
/// one.
///
/// In this order: unlocks the robust futexes that it holds (`get_robust_list(2)`), clears the word at its
/// clear-child-tid address and wakes one waiter (`set_tid_address(2)`), leaves the table of threads. After the last
/// thread, the address space is emptied and [`Process::wait_exit`](crate::Process::wait_exit) returns. The empty address
/// space lives on until the last `Arc` of the process is gone, and must not be loaded on any CPU then.
///
/// Sleeps; interrupts on, no lock held.
pub fn thread_exit<S: System>(thread: &Arc<Thread<S>>) {
    thread.mark_killed();
    release_robust_futexes(thread);
    let clear = thread.clear_child_tid();
    if clear != 0 {
        // Linux ignores a bad address here too.
        let cleared = usercopy::write_u32::<S>(clear, 0);
        if cleared.is_ok() {
            wake_one(thread, clear);
        }
    }
    let process = thread.process();
    if process.remove(thread) {
        process.space().exit();
        process.finish();
    }
}

fn wake_one<S: System>(thread: &Thread<S>, address: u64) {
    let key = FutexKey { space: thread.process().space().id(), addr: address };
    S::futexes().wake(key, 1, BITSET_MATCH_ANY);
}

/// Bit 31 of a robust futex: somebody waits.
const FUTEX_WAITERS: u32 = 1 << 31;
/// Bit 30: the owner died while holding it.
const FUTEX_OWNER_DIED: u32 = 1 << 30;
/// The other bits: the owner's thread number.
const FUTEX_TID_MASK: u32 = FUTEX_OWNER_DIED - 1;

/// Most entries of a list that are looked at, so that a circular list ends (Linux's `ROBUST_LIST_LIMIT`).
const ROBUST_LIST_LIMIT: usize = 2048;

/// Walks the thread's list of robust futexes. The list is user memory, so any of it may be nonsense: the walk stops at
/// the first address that cannot be read.
fn release_robust_futexes<S: System>(thread: &Thread<S>) {
    let Some(head) = NonZeroU64::new(thread.robust_list()) else { return };
    let _ = walk_robust_list(thread, head.get());
    thread.set_robust_list(0);
}

fn walk_robust_list<S: System>(thread: &Thread<S>, head: u64) -> Result<(), Errno> {
    // struct robust_list_head: first entry, distance from an entry to its futex word, entry being taken or released.
    let [first, offset, pending] = usercopy::read_words::<S, 3>(head)?;
    let futex = |entry: u64| (entry & !1).wrapping_add(offset);
    let mut entry = first;
    for _ in 0..ROBUST_LIST_LIMIT {
        // The lowest bit marks priority-inheritance futexes, which do not exist here.
        if entry & !1 == head {
            break;
        }
        // The next pointer is read first: the word's new owner may free the entry.
        let next = usercopy::read_words::<S, 1>(entry & !1);
        if entry & !1 != pending & !1 {
            release_robust_futex(thread, futex(entry), Entry::Listed)?;
        }
        [entry] = next?;
    }
    if pending != 0 {
        release_robust_futex(thread, futex(pending), Entry::Pending)?;
    }
    Ok(())
}

/// Where an entry of the robust list was found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Entry {
    /// In the list: the thread holds the futex.
    Listed,
    /// In `list_op_pending`: it was about to take it, or had just released it.
    Pending,
}

/// Linux's `handle_futex_death`: if the word says that the dead thread owns it, says there that the owner died, and
/// wakes one waiter.
fn release_robust_futex<S: System>(thread: &Thread<S>, address: u64, entry: Entry) -> Result<(), Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::EINVAL);
    }
    usercopy::check_range(address, 4)?;
    let mut value = S::load_u32(address)?;
    // Released (0) but the wake-up had not happened yet: do it for the thread.
    if entry == Entry::Pending && value == 0 {
        wake_one(thread, address);
        return Ok(());
    }
    while value & FUTEX_TID_MASK == thread.tid() {
        let dead = (value & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
        let found = S::compare_exchange_u32(address, value, dead)?;
        if found == value {
            if value & FUTEX_WAITERS != 0 {
                wake_one(thread, address);
            }
            break;
        }
        value = found;
    }
    Ok(())
}
