//! Interrupts from CPU to CPU.
//!
//! A plain send to each target in turn: at most 64 CPUs, and xAPIC logical addressing would reach only eight. The sender's
//! earlier stores are visible to the handler: a write to the (uncached) command register is not passed by them.

use sync::{CpuSet, point};

use super::{apic, idt, percpu};
use crate::platform::Machine;

/// Asks each CPU of `cpus` but the caller's to run `sched::on_nudge` soon.
pub fn nudge(cpus: CpuSet) {
    send(cpus, idt::NUDGE);
}

/// Sends `vector` to each CPU of `cpus` but the caller's.
pub fn send(cpus: CpuSet, vector: u8) {
    point!(Machine, "ipi-sending");
    for cpu in cpus.without(percpu::id()).iter() {
        apic::send(percpu::get(cpu).apic_id(), vector);
    }
}

/// Stops all other CPUs that run, wherever they are, by NMI: see `panic`.
pub fn stop_others() {
    for cpu in percpu::online().without(percpu::id()).iter() {
        apic::send_nmi(percpu::get(cpu).apic_id());
    }
}
