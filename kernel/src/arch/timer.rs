//! The clock ([`now_ns`], from the time stamp counter) and each CPU's one-shot timer ([`arm`]).
//!
//! Both rates are measured once, on the boot CPU, against the ACPI power-management timer (3.579545 MHz by definition).
//! Readings of it are bracketed by time stamps, and the tightest bracket of several is used, because an emulated CPU may
//! lose its host's processor at any point. Time stamp counters of all CPUs run in step (invariant TSC; QEMU: one clock).
//!
//! There is no periodic tick: the scheduler arms the timer for the next thing that it needs, and a CPU with nothing to wait
//! for sleeps.

use core::sync::atomic::{AtomicU64, Ordering};

use x86_64::instructions::port::Port;

use super::{apic, cpu};

/// Frequency of the ACPI power-management timer, in Hz.
const PM_HZ: u64 = 3_579_545;

/// How long to measure, in ticks of the power-management timer: about 20 ms.
const WINDOW: u32 = (PM_HZ / 50) as u32;

/// Nanoseconds per time stamp tick, times 2^32. 0 until calibrated.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(0);

/// APIC timer ticks per nanosecond, times 2^32.
static APIC_TICKS_PER_NS: AtomicU64 = AtomicU64::new(0);

/// The time stamp that is zero on our clock.
static ORIGIN: AtomicU64 = AtomicU64::new(0);

/// What calibration found.
#[derive(Clone, Copy, Debug)]
pub struct Frequencies {
    /// Time stamp counter, in kHz.
    pub time_stamp_khz: u64,
    /// Local APIC timer, in kHz.
    pub apic_khz: u64,
}

/// One look at all three clocks.
struct Sample {
    pm: u32,
    time_stamp: u64,
    apic: u64,
}

fn pm_read(port: u16) -> u32 {
    // SAFETY: the port that the firmware's FADT names as the power-management timer; reading has no effect.
    unsafe { Port::<u32>::new(port).read() & 0x00ff_ffff }
}

/// Reads the clocks as closely together as the host lets us: the tightest of eight tries.
fn sample(port: u16) -> Sample {
    let mut best = None;
    for _ in 0..8 {
        let before = cpu::time_stamp();
        let pm = pm_read(port);
        let apic = u64::from(u32::MAX - apic::timer_remaining());
        let after = cpu::time_stamp();
        let width = after - before;
        if best.as_ref().is_none_or(|(tightest, _)| width < *tightest) {
            best = Some((width, Sample { pm, time_stamp: before + width / 2, apic }));
        }
    }
    best.map_or(Sample { pm: 0, time_stamp: 0, apic: 0 }, |(_, sample)| sample)
}

/// Measures both clocks. `pm_timer_port` is from the ACPI tables. Called once, on the boot CPU, interrupts off.
pub fn calibrate(pm_timer_port: u16) -> Frequencies {
    apic::timer_start_silent();
    let start = sample(pm_timer_port);
    let end = loop {
        let now = pm_read(pm_timer_port);
        if now.wrapping_sub(start.pm) & 0x00ff_ffff >= WINDOW {
            break sample(pm_timer_port);
        }
        core::hint::spin_loop();
    };
    apic::timer_start(0);
    let pm_ticks = u64::from(end.pm.wrapping_sub(start.pm) & 0x00ff_ffff);
    let hz = |ticks: u64| (u128::from(ticks) * u128::from(PM_HZ) / u128::from(pm_ticks)) as u64;
    let time_stamp_hz = hz(end.time_stamp - start.time_stamp).max(1);
    let apic_hz = hz(end.apic - start.apic).max(1);
    NS_PER_TICK.store(((1_000_000_000u128 << 32) / u128::from(time_stamp_hz)) as u64, Ordering::Relaxed);
    APIC_TICKS_PER_NS.store(((u128::from(apic_hz) << 32) / 1_000_000_000) as u64, Ordering::Relaxed);
    ORIGIN.store(start.time_stamp, Ordering::Relaxed);
    Frequencies { time_stamp_khz: time_stamp_hz / 1000, apic_khz: apic_hz / 1000 }
}

/// Nanoseconds since the boot CPU calibrated the clock; 0 before. Never goes back on one CPU.
#[inline]
pub fn now_ns() -> u64 {
    // Relaxed: the calibration is done before any other CPU starts.
    let ticks = cpu::time_stamp().saturating_sub(ORIGIN.load(Ordering::Relaxed));
    scale(ticks, NS_PER_TICK.load(Ordering::Relaxed))
}

/// `value * factor / 2^32`.
fn scale(value: u64, factor: u64) -> u64 {
    ((u128::from(value) * u128::from(factor)) >> 32) as u64
}

/// Arms this CPU's timer: `sched::on_tick` runs at `deadline_ns` of [`now_ns`]'s clock, or soon after if that has passed.
/// One deadline at a time: a new one replaces the old. May fire early when the deadline is seconds away, so the handler
/// looks at the clock. Interrupts must be off.
pub fn arm(deadline_ns: u64) {
    let ticks = scale(deadline_ns.saturating_sub(now_ns()), APIC_TICKS_PER_NS.load(Ordering::Relaxed));
    // 0 would stop the timer.
    apic::timer_start(ticks.clamp(1, u64::from(u32::MAX)) as u32);
}

/// Stops this CPU's timer. An interrupt that is already pending still comes. Interrupts must be off.
pub fn disarm() {
    apic::timer_start(0);
}

/// Spins for `ns`. For the start of other CPUs and for bounded waits in a panic.
pub fn spin_ns(ns: u64) {
    let until = now_ns() + ns;
    while now_ns() < until {
        core::hint::spin_loop();
    }
}
