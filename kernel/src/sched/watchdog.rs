//! The watchdog: says in the log who waits for whom when a wait of the kernel lasts too long.
//!
//! In builds with debug assertions only. Some CPU looks through all contexts from time to time: one that ticks, the first one
//! even when it is idle, and one that spins (it may have interrupts off). Each wait is reported once. Sleeps that programs or
//! devices end are not watched (`abi::lock::Wait::is_watched`).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use sync::Platform;
use sync::order::waits::{Contexts, Graph, overdue};

use super::contexts::All;
use crate::arch::percpu::Cpu;
use crate::fw_cfg;
use crate::platform::Machine;

/// How long a wait may last if the launcher says nothing. Emulated CPUs share the host's few, so this is generous.
const DEFAULT_LIMIT_NS: u64 = 10_000_000_000;

/// Longest time between two looks.
const LONGEST_PERIOD_NS: u64 = 1_000_000_000;

/// A CPU that spins looks at the clock once in so many turns.
const SPINS: u32 = 1 << 16;

static LIMIT_NS: AtomicU64 = AtomicU64::new(DEFAULT_LIMIT_NS);

/// When somebody looked last.
static LOOKED_NS: AtomicU64 = AtomicU64::new(0);

/// How many waits have been reported.
static REPORTED: AtomicU32 = AtomicU32::new(0);

/// Takes the limit that the launcher asks for.
pub(crate) fn init() {
    let mut buffer = [0; 16];
    let limit_ms = fw_cfg::read_small(abi::fw_cfg::WAIT_LIMIT_MS, &mut buffer)
        .and_then(|bytes| core::str::from_utf8(bytes).ok())
        .and_then(|text| text.trim().parse::<u64>().ok());
    if let Some(limit_ms) = limit_ms {
        set_limit_ns(limit_ms.saturating_mul(1_000_000));
    }
}

/// Changes how long a wait may last; returns what it was. For tests.
pub fn set_limit_ns(limit_ns: u64) -> u64 {
    LIMIT_NS.swap(limit_ns, Ordering::Relaxed)
}

/// How many waits have been reported since the start.
pub fn reported() -> u32 {
    REPORTED.load(Ordering::Relaxed)
}

/// Time between two looks.
pub(super) fn period_ns() -> u64 {
    (LIMIT_NS.load(Ordering::Relaxed) / 4).min(LONGEST_PERIOD_NS)
}

/// Looks through all contexts, if the time has come and nobody else does.
pub(super) fn look(now_ns: u64) {
    let looked = LOOKED_NS.load(Ordering::Relaxed);
    if now_ns.saturating_sub(looked) < period_ns()
        || LOOKED_NS.compare_exchange(looked, now_ns, Ordering::Relaxed, Ordering::Relaxed).is_err()
    {
        return;
    }
    let Some(contexts) = All::try_now() else { return };
    let limit_ns = LIMIT_NS.load(Ordering::Relaxed);
    contexts.each(&mut |seen| {
        if overdue(seen.held, now_ns, limit_ns) {
            log::warn!("{}", Graph { contexts: &contexts, from: seen.held, now_ns });
            REPORTED.fetch_add(1, Ordering::Relaxed);
        }
    });
}

/// Called in every turn of every spin.
#[inline]
pub(crate) fn spinning() {
    let turns = &Cpu::current().spins;
    // A CPU's own, and an interrupt in between loses nothing but a turn.
    let count = turns.load(Ordering::Relaxed).wrapping_add(1);
    turns.store(count, Ordering::Relaxed);
    if count.is_multiple_of(SPINS) {
        look(Machine::now_ns());
    }
}
