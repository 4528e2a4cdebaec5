//! Late starts on purpose: which CPU and which thread comes first should not be the emulator's habit.
//!
//! With a seed from the launcher (`abi::fw_cfg::START_DELAYS`) every CPU but the boot CPU goes to its first thread, and every thread takes
//! its first step, after a delay that follows from the seed and from which CPU or thread it is: none for half of them,
//! a spin of some microseconds, or a sleep in which others run. Without a seed there is none of this. Threads are
//! numbered as they come to their first step: on several CPUs their order is the emulator's, the delays are the seed's.

use core::sync::atomic::{AtomicU64, Ordering};

use sync::{CpuId, Platform};

use crate::platform::Machine;
use crate::{fw_cfg, sched};

/// The launcher's seed; 0: no delays.
static SEED: AtomicU64 = AtomicU64::new(0);

/// Threads that have come to their first step.
static THREADS: AtomicU64 = AtomicU64::new(0);

/// Longest delay of a CPU.
const CPU_NS: u64 = 20_000_000;

/// Longest spin of a thread; it keeps its CPU meanwhile.
const SPIN_NS: u64 = 50_000;

/// Longest sleep of a thread.
const SLEEP_NS: u64 = 3_000_000;

/// Reads the launcher's wish. Once, on the boot CPU, before others start.
pub fn init() {
    let mut buffer = [0; 20];
    let seed = fw_cfg::read_small(abi::fw_cfg::START_DELAYS, &mut buffer)
        .and_then(|text| core::str::from_utf8(text).ok())
        .and_then(|text| text.parse().ok());
    if let Some(seed) = seed {
        // Relaxed: the other CPUs' start-up comes after.
        SEED.store(seed, Ordering::Relaxed);
        log::info!("start delays from seed {seed}");
    }
}

/// The delay of a CPU that has set itself up and is about to run threads. Interrupts are off.
pub fn cpu(cpu: CpuId) {
    if let Some(number) = number(u64::from(cpu.0)) {
        spin(within(number >> 1, CPU_NS));
    }
}

/// The delay of a thread before its first step. Interrupts are on, and it may sleep.
pub fn thread() {
    if SEED.load(Ordering::Relaxed) == 0 {
        return;
    }
    let place = abi::MAX_CPUS as u64 + THREADS.fetch_add(1, Ordering::Relaxed);
    match number(place) {
        Some(number) if number & 1 == 0 => spin(within(number >> 1, SPIN_NS)),
        Some(number) => {
            let until = Machine::now_ns() + within(number >> 1, SLEEP_NS);
            // An unpark meanwhile is spent here: whoever unparks changed what the sleeper looks at before it parks.
            while Machine::now_ns() < until {
                sched::park(Some(until));
            }
        }
        None => {}
    }
}

/// The random number of the start at `place`; none if it begins at once.
fn number(place: u64) -> Option<u64> {
    let seed = SEED.load(Ordering::Relaxed);
    // SplitMix64, as in the launcher's `draws`.
    let mut word = seed.wrapping_add(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(place + 1));
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^= word >> 31;
    (seed != 0 && word & 1 == 1).then_some(word >> 1)
}

fn within(number: u64, most_ns: u64) -> u64 {
    number % most_ns
}

/// Serves flush requests meanwhile, as every spin must.
fn spin(ns: u64) {
    let until = Machine::now_ns() + ns;
    while Machine::now_ns() < until {
        Machine::relax();
    }
}
