//! What happens at schedule points on the host: a planned act, or a pause by chance.
//!
//! Both belong to one thread. [`at_point`] is for tests that want another thread to do something right then; [`shaken`] is for
//! stress tests: pauses widen the windows in which races live. Their random numbers come from a seed that the test prints
//! ([`run_seed`]): it repeats what each thread does by itself, though not what the host's scheduler does.

use core::cell::{Cell, RefCell};
use std::boxed::Box;
use std::println;
use std::time::{Duration, SystemTime};

use crate::Point;

/// Where to act, and how.
type Plan = (Point, Box<dyn FnOnce()>);

std::thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    /// What to do when the thread spins.
    static SPIN_PLAN: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
    /// State of the thread's random numbers; `None`: it never pauses.
    static SHAKEN: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Runs `body`; the first time that this thread comes by the schedule point `name` inside it, `act` runs there.
///
/// # Panics
/// If there is no such point, or the thread never came by: the test would test nothing.
pub fn at_point<R>(name: &'static str, act: impl FnOnce() + 'static, body: impl FnOnce() -> R) -> R {
    PLAN.set(Some((Point::named(name), Box::new(act))));
    let result = body();
    assert!(PLAN.take().is_none(), "{name} was not passed");
    result
}

/// Runs `body`; the first time that this thread spins inside it ([`Platform::relax`](crate::Platform::relax)), because what it waits
/// for has not happened, `act` runs.
///
/// # Panics
/// If the thread never spun: the test would test nothing.
pub fn at_spin<R>(act: impl FnOnce() + 'static, body: impl FnOnce() -> R) -> R {
    SPIN_PLAN.set(Some(Box::new(act)));
    let result = body();
    assert!(SPIN_PLAN.take().is_none(), "nothing was waited for");
    result
}

/// Runs `body`, in which this thread pauses at schedule points now and then: `index` tells the threads of one test apart.
pub fn shaken<R>(seed: u64, index: u64, body: impl FnOnce() -> R) -> R {
    struct Still;
    impl Drop for Still {
        fn drop(&mut self) {
            SHAKEN.set(None);
        }
    }
    let _still = Still;
    SHAKEN.set(Some(mixed(seed ^ mixed(index))));
    body()
}

/// The seed of this run of a stress test: the environment's `TESSERA_SEED`, or the clock's. Printed, so that a failed test shows
/// how to run it again.
///
/// # Panics
/// If `TESSERA_SEED` is no number.
pub fn run_seed() -> u64 {
    let seed = match std::env::var("TESSERA_SEED") {
        Ok(text) => text.parse().expect("TESSERA_SEED is a number"),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| mixed(since.as_nanos() as u64) >> 32),
    };
    println!("TESSERA_SEED={seed}");
    seed
}

/// A thread spins.
pub(super) fn spin() {
    if let Some(act) = SPIN_PLAN.take() {
        act();
    }
}

/// A thread passes `point`.
pub(super) fn pass(point: Point) {
    let planned = PLAN.with_borrow_mut(|plan| plan.take_if(|(planned, _)| *planned == point));
    if let Some((_, act)) = planned {
        return act();
    }
    crate::primitive::switch();
    let Some(state) = SHAKEN.get() else { return };
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    SHAKEN.set(Some(state));
    match mixed(state) % 1024 {
        // Long enough for others to come by.
        0..2 => std::thread::sleep(Duration::from_micros(50)),
        2..48 => std::thread::yield_now(),
        _ => {}
    }
}

/// SplitMix64's output function: every bit of the result hangs on every bit of `value`.
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
