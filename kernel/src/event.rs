//! Recording events: each CPU's ring of binary records, written by that CPU alone and read by the host out of a machine
//! that has stopped (`abi::report`).
//!
//! A record costs a time stamp and six plain stores; off (`abi::fw_cfg::EVENTS`), one load and a branch that always goes
//! the same way. Nothing is locked, and nothing is shared between CPUs.
//!
//! **An interrupt may come at any point**, an NMI too, and record events of its own. Taking an index is one instruction
//! ([`cpu::take_number`]), so each record has a place of its own; the interrupted one is finished after those that
//! came in between, in its older place. The machine may also stop at any point: a record's last word, which holds its
//! kind, is 0 while the others are written, so that the host never reads half a record.

use core::sync::atomic::{AtomicBool, Ordering, compiler_fence};

use abi::MAX_CPUS;
use abi::event::Kind;
use abi::report::{RING_RECORDS, Ring};
use sync::CpuId;

use crate::arch::{cpu, percpu, timer};
use crate::{fw_cfg, report};

static RINGS: [Ring; MAX_CPUS] = [const { Ring::new() }; MAX_CPUS];

/// Rings are written to: the launcher has not switched them off, and no panic has stopped them.
static ON: AtomicBool = AtomicBool::new(false);

/// Switches recording on, unless the launcher said otherwise. Called once, on the boot CPU.
pub fn init() {
    if fw_cfg::read_small(abi::fw_cfg::EVENTS, &mut [0; 4]) == Some(b"off") {
        return;
    }
    ON.store(true, Ordering::Relaxed);
    for (index, ring) in RINGS.iter().enumerate() {
        let id = CpuId(index as u32);
        let address = core::ptr::from_ref(ring).addr() as u64;
        report::cpu(id).ring.store(address, Ordering::Relaxed);
        percpu::get(id).ring.store(address, Ordering::Relaxed);
    }
}

/// Stops all CPUs' recording: what is in the rings is what a report wants to show.
pub fn freeze() {
    for index in 0..MAX_CPUS {
        percpu::get(CpuId(index as u32)).ring.store(0, Ordering::Relaxed);
    }
}

/// Records an event on this CPU. See [`sync::Platform::event`].
#[inline]
pub fn event(kind: Kind, a: u64, b: u64) {
    if percpu::ring() != 0 {
        record(kind, a, b);
    }
}

/// Out of line: many places record.
#[inline(never)]
fn record(kind: Kind, a: u64, b: u64) {
    // The kernel is not preemptible: the thread stays on this CPU.
    let ring = &RINGS[percpu::id().index()];
    let [time_word, a_word, b_word, last_word] =
        &ring.records[cpu::take_number(&ring.head) as usize & (RING_RECORDS - 1)];
    last_word.store(0, Ordering::Relaxed);
    // The reader is the host, which sees this CPU's stores in program order: the compiler alone must keep it.
    compiler_fence(Ordering::SeqCst);
    time_word.store(timer::now_ns(), Ordering::Relaxed);
    a_word.store(a, Ordering::Relaxed);
    b_word.store(b, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    last_word.store(percpu::stamp() | kind as u64, Ordering::Relaxed);
}
