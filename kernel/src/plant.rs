//! Disasters planted on purpose (`abi::fw_cfg::PLANT`): what a report about them says is known beforehand.
//!
//! Only in kernels with debug checks; others have no trace of it. Each strikes when a program has run for a while, so that
//! there is something to tell, and once. The functions' names are what the reports must show.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

use sync::{Class, InterruptGuard, SpinLock};
use x86_64::instructions::interrupts;
use x86_64::instructions::port::Port;
use x86_64::structures::DescriptorTablePointer;

use crate::arch::{apic, ipi, percpu};
use crate::fw_cfg::planted;
use crate::machine::Machine;

/// A disaster: its bit in [`ARMED`].
#[derive(Clone, Copy)]
#[repr(u32)]
enum Disaster {
    PanicInFault = 1 << 0,
    PanicInPanic = 1 << 1,
    PanicInInterrupt = 1 << 2,
    Nmi = 1 << 3,
    TripleFault = 1 << 4,
    Reset = 1 << 5,
    Hang = 1 << 6,
    /// Waits for [`Disaster::Hang`] to hang.
    PanicBesideHang = 1 << 7,
    /// Not once but all the time: a race, which strikes by itself.
    SkipFlush = 1 << 8,
    /// The next are mistakes of RCU, each made as long as it is armed; `sync::rcu` says what it is.
    RcuForgetsACpu = 1 << 9,
    RcuTargetTooLow = 1 << 10,
    RcuPollReports = 1 << 11,
    RcuBarrierSkipsAQueue = 1 << 12,
}

/// Those that `sync` asks for by name.
const MISTAKES: u32 = Disaster::RcuForgetsACpu as u32
    | Disaster::RcuTargetTooLow as u32
    | Disaster::RcuPollReports as u32
    | Disaster::RcuBarrierSkipsAQueue as u32;

/// Their names for the launcher.
const NAMES: [(&str, Disaster); 13] = [
    ("panic-in-fault", Disaster::PanicInFault),
    ("panic-in-panic", Disaster::PanicInPanic),
    ("panic-in-interrupt", Disaster::PanicInInterrupt),
    ("nmi", Disaster::Nmi),
    ("triple-fault", Disaster::TripleFault),
    ("reset", Disaster::Reset),
    ("hang", Disaster::Hang),
    ("panic-beside-hang", Disaster::PanicBesideHang),
    ("skip-flush", Disaster::SkipFlush),
    ("rcu-forgets-a-cpu", Disaster::RcuForgetsACpu),
    ("rcu-target-too-low", Disaster::RcuTargetTooLow),
    ("rcu-poll-reports", Disaster::RcuPollReports),
    ("rcu-barrier-skips-a-queue", Disaster::RcuBarrierSkipsAQueue),
];

/// Those that are still to come.
static ARMED: AtomicU32 = AtomicU32::new(0);

/// Page faults until one strikes.
static FAULTS: AtomicU32 = AtomicU32::new(100);

/// Transactions until one strikes.
static TRANSACTIONS: AtomicU32 = AtomicU32::new(40);

/// 1 from the moment on when a CPU hangs.
static HANGING: AtomicU32 = AtomicU32::new(0);

/// What the CPU that hangs holds.
static HELD: SpinLock<Machine, ()> = sync::spin_lock(Class::PlantedSpin, ());

/// Arms what the launcher asked for. Called once, before the program starts.
pub fn init() {
    for (name, disaster) in NAMES {
        if planted(name) {
            ARMED.fetch_or(disaster as u32, Ordering::Relaxed);
        }
    }
}

/// Runs `body` while the machine, all of it, makes the mistake called `name`; with `None`, none. For guest tests.
///
/// # Panics
/// If no mistake is called so.
pub fn with_mistake(name: Option<&str>, body: impl FnOnce()) {
    let bit = name.map_or(0, |name| {
        let named = NAMES.iter().find(|(known, disaster)| *known == name && *disaster as u32 & MISTAKES != 0);
        named.expect("a mistake that can be planted").1 as u32
    });
    ARMED.fetch_or(bit, Ordering::Relaxed);
    body();
    ARMED.fetch_and(!bit, Ordering::Relaxed);
}

/// Whether the machine shall make the mistake called `name` ([`sync::Platform::planted`]).
#[inline]
pub fn makes(name: &'static str) -> bool {
    let armed = ARMED.load(Ordering::Relaxed) & MISTAKES;
    armed != 0 && NAMES.iter().any(|(known, disaster)| *known == name && armed & *disaster as u32 != 0)
}

/// Whether it is `disaster`'s time: it is armed, and `countdown` has run out. Then it is armed no more.
fn strikes(disaster: Disaster, countdown: &AtomicU32) -> bool {
    let armed = ARMED.load(Ordering::Relaxed) & disaster as u32 != 0;
    armed
        && countdown.fetch_sub(1, Ordering::Relaxed) == 1
        && ARMED.fetch_and(!(disaster as u32), Ordering::Relaxed) & disaster as u32 != 0
}

/// Shootdowns so far.
static SHOOTDOWNS: AtomicU32 = AtomicU32::new(0);

/// In each shootdown: whether to forget the other CPUs. One time in four: most of the time nobody sees the difference.
pub fn skips_flush() -> bool {
    ARMED.load(Ordering::Relaxed) & Disaster::SkipFlush as u32 != 0
        && SHOOTDOWNS.fetch_add(1, Ordering::Relaxed) % 4 == 3
}

/// In each page fault of a program, interrupts off.
pub fn in_fault() {
    if ARMED.load(Ordering::Relaxed) == 0 {
        return;
    }
    if strikes(Disaster::PanicInFault, &FAULTS) {
        planted_panic_in_fault();
    }
    if strikes(Disaster::PanicInPanic, &FAULTS) {
        planted_panic_in_panic();
    }
}

/// In each transaction, just opened.
pub fn in_transaction() {
    if ARMED.load(Ordering::Relaxed) == 0 {
        return;
    }
    if strikes(Disaster::TripleFault, &TRANSACTIONS) {
        planted_triple_fault();
    }
    if strikes(Disaster::Reset, &TRANSACTIONS) {
        planted_reset();
    }
    if strikes(Disaster::Hang, &TRANSACTIONS) {
        planted_hang();
    }
}

/// In each tick that finds a thread running, interrupts off.
pub fn in_interrupt() {
    if ARMED.load(Ordering::Relaxed) == 0 {
        return;
    }
    if strikes(Disaster::PanicInInterrupt, &AtomicU32::new(1)) {
        planted_panic_in_interrupt();
    }
    if strikes(Disaster::Nmi, &AtomicU32::new(1)) {
        apic::send_nmi(percpu::get(percpu::id()).apic_id());
    }
}

/// In each nudge of another CPU, interrupts off.
pub fn in_nudge() {
    if HANGING.load(Ordering::Relaxed) == 1 && strikes(Disaster::PanicBesideHang, &AtomicU32::new(1)) {
        planted_panic_beside_hang();
    }
}

#[inline(never)]
fn planted_panic_in_fault() {
    inlined_panic();
}

/// Reports show it inside its caller.
#[inline(always)]
fn inlined_panic() {
    panic!("planted in a page fault"); // the line of panic-in-fault
}

#[inline(never)]
fn planted_panic_in_interrupt() {
    panic!("planted in an interrupt"); // the line of panic-in-interrupt
}

#[inline(never)]
fn planted_panic_beside_hang() {
    panic!("planted beside a hang"); // the line of panic-beside-hang
}

/// A message that cannot be formatted.
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("so far, so good")?;
        panic!("planted in a message"); // the second line of panic-in-panic
    }
}

#[inline(never)]
fn planted_panic_in_panic() {
    panic!("{Unspeakable}"); // the line of panic-in-panic
}

#[inline(never)]
fn planted_triple_fault() {
    let nothing = DescriptorTablePointer { limit: 0, base: x86_64::VirtAddr::zero() };
    interrupts::disable();
    // SAFETY: this is the fault under test: no exception can be delivered from here on.
    unsafe { x86_64::instructions::tables::lidt(&nothing) };
    // SAFETY: as above: an invalid opcode.
    unsafe { core::arch::asm!("ud2") }; // the line of triple-fault
}

#[inline(never)]
fn planted_reset() {
    // SAFETY: this is the fault under test: the keyboard controller pulses the reset line.
    unsafe { Port::<u8>::new(0x64).write(0xfe) };
    loop {
        core::hint::spin_loop(); // the line of reset
    }
}

#[inline(never)]
fn planted_hang() {
    let _off = InterruptGuard::<Machine>::new();
    let _held = HELD.lock(); // the lock of hang
    HANGING.store(1, Ordering::Relaxed);
    ipi::nudge(percpu::online());
    loop {
        core::hint::spin_loop(); // the line of hang
    }
}
