//! The account of page frames: when a program is gone, every frame must be back with the owner that had it before.
//!
//! Its threads reaped and all grace periods over ([`settle`]), each owner must have exactly as many frames as before the program
//! was loaded, and all owners, free and cached frames together must make up the whole memory. Used after a program by
//! [`init`](crate::init) and after each guest test by [`ktest`](mod@crate::ktest).

use core::fmt::Write;

use abi::exit::{CHECK_FAILED, DONE};
use abi::wire::Kind;
use mm::{Owner, Usage};

use crate::memory::memory;
use crate::stream::Text;
use crate::{sched, stack, stream};

/// Waits until nothing of ended programs is left: their threads reaped, their deferred frees done, their kernel
/// stacks given back.
pub fn settle() {
    sched::wait_all_reaped();
    // Two, because what the first one's callbacks free may defer more.
    memory().rcu.barrier();
    memory().rcu.barrier();
    stack::drain(sched::online());
}

/// Compares the accounts and sends them; returns what goes to the debug-exit port.
pub fn check(before: &Usage, after: &Usage) -> u8 {
    let mut text = Text::new();
    for &owner in Owner::ALL {
        let _ = writeln!(text, "{} {} {}", owner.name(), before.owned_by(owner), after.owned_by(owner));
    }
    stream::send(Kind::Frames, text.bytes());
    if same_frames(before, after) {
        log::info!(
            "frames: all {} accounted for ({} free, {} cached), as before the program",
            after.total,
            after.free,
            after.cached
        );
        return DONE;
    }
    report_difference(before, after);
    CHECK_FAILED
}

/// Whether every owner has what it had, and nothing is missing.
pub fn same_frames(before: &Usage, after: &Usage) -> bool {
    after.adds_up() && after.total == before.total && after.owned == before.owned
}

/// Says in the log which owners' counts differ.
pub fn report_difference(before: &Usage, after: &Usage) {
    for &owner in Owner::ALL {
        let (had, has) = (before.owned_by(owner), after.owned_by(owner));
        if had != has {
            log::error!("frames: {} had {had} before and has {has} now", owner.name());
        }
    }
    if !after.adds_up() {
        let owned: u64 = after.owned.iter().sum();
        let Usage { total, free, cached, .. } = *after;
        log::error!("frames: {free} free, {cached} cached and {owned} owned do not make {total}");
    }
}
