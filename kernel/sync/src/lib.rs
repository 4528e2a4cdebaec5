//! Everything the kernel waits with: locks, wait queues, RCU, VMA locks, update transactions, futexes.
//!
//! | module | what it is | who uses it |
//! |---|---|---|
//! | [`platform`] | what the machine must offer | everyone, as `P: Platform` |
//! | [`point`](mod@point) | named places where a race lives | everyone |
//! | [`primitive`] | atomics: `core`'s, or loom's in models | this crate and `mm` |
//! | [`alloc`] | allocation that can fail | everyone who allocates |
//! | [`order`] | the lock-order validator of debug builds, and the waits-for graph | all that locks or sleeps |
//! | [`spin`] | the spin lock, interrupts off while held | everyone |
//! | [`park`] | the word by which one thread sleeps and is woken | platforms |
//! | [`wait`] | the wait queue: sleep until a condition holds | everyone who sleeps |
//! | [`fair`] | the first-in-first-out reader-writer lock that sleeps | `txn`, long operations |
//! | [`rcu`] | grace periods: when is a pointer that was unlinked no longer held? | tree nodes, VMAs, page tables |
//! | [`counters`] | per-CPU event counts | everyone |
//! | [`extremes`] | the longest holds and waits, and their sites | `counters` |
//! | [`vma_lock`] | the read side of VMAs: slots, marks, sequence cells | `mm`'s fault path |
//! | [`txn`] | the write side: mark, settle, publish, end | `mm`'s memory calls |
//! | [`futex`] | sleeping on a user address | `linux` |
//! | `torture` | RCU under torture, for tests on the host and in the kernel (feature `torture`) | tests |
//! | `testing` | a [`Platform`] made of host threads (feature `testing`) | tests |
//!
//! No statics, no assembly, no printing: what the machine must do comes through [`Platform`].
//!
//! The lock order is written in [`abi::lock::Class`], and checked by [`order`]. No spin lock is held over a sleep.
#![no_std]

extern crate alloc as core_alloc;
#[cfg(feature = "testing")]
extern crate std;

pub mod alloc;
pub mod counters;
pub mod extremes;
pub mod fair;
pub mod futex;
mod list;
pub mod order;
pub mod park;
pub mod platform;
pub mod point;
pub mod primitive;
pub mod rcu;
pub mod spin;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "torture")]
pub mod torture;
pub mod txn;
pub mod vma_lock;
pub mod wait;

pub use abi::Point;
pub use alloc::{AllocError, Arc};
pub use counters::Counters;
pub use extremes::{Extremes, Longest};
pub use fair::FairRwLock;
pub use futex::{FutexKey, FutexTable};
pub use order::Class;
pub use platform::*;
pub use rcu::{Rcu, RcuGuard, RcuHead};
pub use spin::{InterruptGuard, SpinLock, spin_lock};
pub use txn::{Abort, Priority, Settled, Txn, UpdateLock, update, update_as};
pub use vma_lock::{Cells, FaultSection, Mark, ReadRefused, Slots, VmaLock, VmaLocks, VmaRead};
pub use wait::{Interruptible, WaitQueue, Waited};
