//! The lock-order validator: in debug builds, what each context holds, and whether it may take, sleep or wait now.
//!
//! The order itself is written in [`abi::lock`]. Locks call [`before`] when a context wants them, [`acquired`] when it
//! has them, and [`released`] at the end; whatever sleeps calls [`may_sleep`]; waits are named by [`Waiting`]. A violation
//! panics, with both locks, both places in the source, and all that the context holds. Models of concurrency and builds
//! without debug assertions compile all of it to nothing.
//!
//! A context's [`Held`] lies wherever the platform keeps it ([`Platform::with_held`]) and is written by that context alone,
//! so nothing here needs a lock. Others may read it at any time, as a hint: see [`waits`].

mod held;
mod violation;
pub mod waits;

pub use abi::lock::{Class, Context, Mode, Wait};
pub use held::Held;

use core::marker::PhantomData;
use core::ops::Range;
use core::panic::Location;

use abi::lock::{Kind, Place};

use crate::Platform;
use crate::primitive::VALIDATED;

/// Whether this build checks.
pub const CHECKED: bool = cfg!(debug_assertions) && VALIDATED;

/// The class of a lock, kept in the lock; empty in builds without debug assertions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    #[cfg(debug_assertions)]
    class: Class,
}

impl Tag {
    pub(crate) const fn new(class: Class) -> Tag {
        #[cfg(not(debug_assertions))]
        let _ = class;
        Tag {
            #[cfg(debug_assertions)]
            class,
        }
    }

    /// The class; [`Class::None`] where nobody asks.
    #[inline(always)]
    pub(crate) fn class(self) -> Class {
        #[cfg(debug_assertions)]
        return self.class;
        #[cfg(not(debug_assertions))]
        Class::None
    }
}

/// A lock of no range, for [`acquired`] and [`Waiting`].
pub const NO_RANGE: Range<u64> = 0..0;

fn place(class: Class, mode: Mode, address: u64, range: &Range<u64>, site: &Location<'_>) -> Place {
    Place {
        class,
        mode,
        address,
        start: range.start,
        end: range.end,
        file: site.file().as_ptr().addr() as u64,
        file_len: site.file().len() as u32,
        line: site.line(),
        since_ns: 0,
        count: 1,
    }
}

/// The running context wants the lock of `class` at `address`, and will wait for it if it has to.
///
/// # Panics
/// In debug builds, if it may not take it here: what it holds comes later in the order, or is that very lock; or it would
/// sleep where nobody may; or the class is not for interrupt handlers and this is one.
#[inline(always)]
#[track_caller]
pub fn before<P: Platform>(class: Class, address: u64) {
    if CHECKED {
        let site = Location::caller();
        P::with_held(|held| held.check_taking(class, address, site));
    }
}

/// The running context has it now. `range`: the user addresses that it covers ([`NO_RANGE`]: none).
///
/// # Panics
/// In debug builds, if the context holds too many.
#[inline(always)]
#[track_caller]
pub fn acquired<P: Platform>(class: Class, mode: Mode, address: u64, range: Range<u64>) {
    if CHECKED {
        let site = Location::caller();
        P::with_held(|held| {
            let mut place = place(class, mode, address, &range, site);
            // Spin locks are too many and too short to look at the clock for each.
            if class.kind() == Kind::Sleeps && class != Class::VmaWrite {
                place.since_ns = P::now_ns();
            }
            held.push(&place, site);
        });
    }
}

/// The running context gives it back: of several of that class and address, the one taken last.
///
/// # Panics
/// In debug builds, if it does not hold it.
#[inline(always)]
#[track_caller]
pub fn released<P: Platform>(class: Class, address: u64) {
    if CHECKED {
        let site = Location::caller();
        P::with_held(|held| held.remove(class, address, site));
    }
}

/// The running context's transaction `mark` ends, and with it every VMA write lock that it holds.
#[inline(always)]
#[track_caller]
pub(crate) fn released_marks<P: Platform>(mark: u64) {
    if CHECKED {
        let site = Location::caller();
        P::with_held(|held| {
            held.remove_all(Class::VmaWrite, mark);
            held.remove(Class::Transaction, mark, site);
        });
    }
}

/// What follows may sleep, or waits for other CPUs.
///
/// # Panics
/// In debug builds, with a spin lock held, in an RCU read section, in a fault's slot section, or in an interrupt handler.
#[inline(always)]
#[track_caller]
pub fn may_sleep<P: Platform>() {
    if CHECKED {
        let site = Location::caller();
        P::with_held(|held| held.check_sleeping(site));
    }
}

/// What follows touches user memory, and so may take a page fault.
///
/// # Panics
/// In debug builds, where nobody may sleep, in a transaction, and with an update lock held: the fault may wait for either.
#[inline(always)]
#[track_caller]
pub fn may_touch_user<P: Platform>() {
    if CHECKED {
        let site = Location::caller();
        P::with_held(|held| held.check_user_memory(site));
    }
}

/// The running context is at an end (of a call, of an interrupt, of a thread) and holds nothing.
///
/// # Panics
/// In debug builds, if it holds anything.
#[inline(always)]
#[track_caller]
pub fn nothing_held<P: Platform>() {
    if CHECKED {
        let site = Location::caller();
        P::with_held(|held| held.check_empty(site));
    }
}

/// The running context waits while this lives, and whoever asks ([`waits`]) learns for what and since when. May lie inside
/// another one: a sleeper that spins for its queue's lock.
#[must_use]
pub struct Waiting<P: Platform> {
    /// What the context waited for before.
    before: Option<held::Waited>,
    platform: PhantomData<*const P>,
}

impl<P: Platform> Waiting<P> {
    /// A wait for `what`: the lock, transaction or slot of `class` at `address`, over `range` (see [`Wait`]).
    #[inline(always)]
    #[track_caller]
    pub fn new(what: Wait, class: Class, address: u64, range: Range<u64>) -> Waiting<P> {
        let mut before = None;
        if CHECKED {
            let site = Location::caller();
            before = P::with_held(|held| {
                let mut place = place(class, Mode::Write, address, &range, site);
                place.since_ns = P::now_ns();
                held.begin_wait(what, &place, site)
            });
        }
        Waiting { before, platform: PhantomData }
    }
}

impl<P: Platform> Drop for Waiting<P> {
    #[inline(always)]
    fn drop(&mut self) {
        if CHECKED && let Some(before) = &self.before {
            P::with_held(|held| held.end_wait(before));
        }
    }
}
