//! The local APIC in its memory-mapped form (xAPIC): QEMU's emulation has no x2APIC.
//!
//! Each CPU sees its own APIC at the same physical address, mapped uncached at a fixed kernel address
//! ([`paging::LOCAL_APIC`]). Registers: SDM vol. 3, table 11-1. The interrupt command register is
//! two writes, so sending is done with interrupts off.

use core::ptr;

use sync::InterruptState;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

use super::idt::{FIRST_INTERRUPT, NMI, SPURIOUS, TIMER};
use super::{cpu, paging};

/// Byte offsets of the registers that we use.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Register {
    Id = 0x20,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    ErrorStatus = 0x280,
    CommandLow = 0x300,
    CommandHigh = 0x310,
    TimerVector = 0x320,
    Lint0 = 0x350,
    Lint1 = 0x360,
    ErrorVector = 0x370,
    TimerInitial = 0x380,
    TimerCurrent = 0x390,
    TimerDivide = 0x3e0,
}

const MASKED: u32 = 1 << 16;
const DELIVERY_NMI: u32 = 0b100 << 8;
const DELIVERY_INIT: u32 = 0b101 << 8;
const DELIVERY_STARTUP: u32 = 0b110 << 8;
const LEVEL_ASSERT: u32 = 1 << 14;
const SEND_PENDING: u32 = 1 << 12;

fn register(register: Register) -> *mut u32 {
    ptr::with_exposed_provenance_mut(paging::LOCAL_APIC as usize + register as usize)
}

fn read(from: Register) -> u32 {
    // SAFETY: the APIC's page is mapped from `paging::init` on, and the offset is one of its registers.
    unsafe { register(from).read_volatile() }
}

fn write(to: Register, value: u32) {
    // SAFETY: as in `read`; what each value does is the caller's, who lives in this file.
    unsafe { register(to).write_volatile(value) }
}

/// Physical address of the local APIC's registers, from its base MSR.
pub fn physical_base() -> u64 {
    const IA32_APIC_BASE: u32 = 0x1b;
    // SAFETY: the MSR exists wherever CPUID says that there is an APIC; reading changes nothing.
    let value = unsafe { Msr::new(IA32_APIC_BASE).read() };
    value & 0x000f_ffff_ffff_f000
}

/// This CPU's APIC id.
pub fn id() -> u32 {
    read(Register::Id) >> 24
}

/// Switches this CPU's APIC on, with everything masked but what CPUs send each other.
pub fn init() {
    const ENABLE: u32 = 1 << 8;
    write(Register::TaskPriority, 0);
    write(Register::TimerVector, MASKED | u32::from(TIMER));
    write(Register::Lint0, MASKED);
    write(Register::Lint1, DELIVERY_NMI);
    write(Register::ErrorVector, MASKED);
    write(Register::SpuriousVector, ENABLE | u32::from(SPURIOUS));
    write(Register::ErrorStatus, 0);
}

/// Masks the two legacy interrupt controllers. Called once, on the boot CPU.
pub fn mask_legacy() {
    let command = |first: u16, values: [u8; 4]| {
        let mut command = Port::<u8>::new(first);
        let mut data = Port::<u8>::new(first + 1);
        // SAFETY: the controllers' ports; interrupts are off.
        unsafe { command.write(values[0]) };
        for value in &values[1..] {
            // SAFETY: as above.
            unsafe { data.write(*value) };
        }
        // SAFETY: as above: all lines masked.
        unsafe { data.write(0xff) };
    };
    // Initialise with vectors that a spurious interrupt of theirs may use without being taken for an exception.
    command(0x20, [0x11, FIRST_INTERRUPT, 4, 1]);
    command(0xa0, [0x11, FIRST_INTERRUPT + 8, 2, 1]);
}

/// Tells the APIC that the current interrupt's handler has run.
pub fn end_of_interrupt() {
    write(Register::EndOfInterrupt, 0);
}

/// Writes the interrupt command register for one destination and waits until it has been sent.
fn command(apic_id: u32, low: u32) {
    let state = cpu::interrupts_disable();
    while read(Register::CommandLow) & SEND_PENDING != 0 {
        core::hint::spin_loop();
    }
    write(Register::CommandHigh, apic_id << 24);
    write(Register::CommandLow, low | LEVEL_ASSERT);
    cpu::interrupts_restore(state);
}

/// Sends `vector` to the CPU with that APIC id.
pub fn send(apic_id: u32, vector: u8) {
    command(apic_id, u32::from(vector));
}

/// Sends a non-maskable interrupt.
pub fn send_nmi(apic_id: u32) {
    command(apic_id, DELIVERY_NMI | u32::from(NMI));
}

/// Sends INIT: the target waits for [`send_startup`].
pub fn send_init(apic_id: u32) {
    command(apic_id, DELIVERY_INIT);
}

/// Sends start-up: a target in wait-for-SIPI begins in real mode at `page * 4096`.
pub fn send_startup(apic_id: u32, page: u8) {
    command(apic_id, DELIVERY_STARTUP | u32::from(page));
}

/// Whether this CPU has interrupts off: asserted by callers of [`timer_start`].
fn interrupts_are_off() -> bool {
    cpu::interrupt_state() == InterruptState::Off
}

/// Starts the one-shot timer: interrupt [`TIMER`] after `ticks` (0 stops it).
pub fn timer_start(ticks: u32) {
    debug_assert!(interrupts_are_off());
    const DIVIDE_BY_1: u32 = 0b1011;
    write(Register::TimerDivide, DIVIDE_BY_1);
    write(Register::TimerVector, u32::from(TIMER));
    write(Register::TimerInitial, ticks);
}

/// Lets the timer count down from its maximum without an interrupt, for calibration.
pub fn timer_start_silent() {
    const DIVIDE_BY_1: u32 = 0b1011;
    write(Register::TimerDivide, DIVIDE_BY_1);
    write(Register::TimerVector, MASKED | u32::from(TIMER));
    write(Register::TimerInitial, u32::MAX);
}

/// The timer's remaining ticks.
pub fn timer_remaining() -> u32 {
    read(Register::TimerCurrent)
}
