//! What [`Machine`] can do for the portable crates: [`sync::Platform`] for this computer.

use abi::event::Kind;
use sync::order::Held;
use sync::{CpuId, CpuSet, FlushRequest, InterruptState, Platform, ThreadId, TransactionEdge};

use crate::arch::{cpu, ipi, paging, percpu, timer, tlb};
use crate::{event, sched};

pub use crate::machine::Machine;

impl Platform for Machine {
    #[inline]
    fn cpu() -> CpuId {
        percpu::id()
    }

    #[inline]
    fn cpu_count() -> usize {
        percpu::count()
    }

    #[inline]
    fn interrupts_disable() -> InterruptState {
        cpu::interrupts_disable()
    }

    #[inline]
    fn interrupts_restore(state: InterruptState) {
        cpu::interrupts_restore(state);
    }

    #[inline]
    fn relax() {
        core::hint::spin_loop();
        tlb::serve();
        #[cfg(debug_assertions)]
        sched::watchdog::spinning();
    }

    #[inline]
    fn now_ns() -> u64 {
        timer::now_ns()
    }

    fn current_thread() -> ThreadId {
        sched::current_id()
    }

    fn park(deadline_ns: Option<u64>) {
        sched::park(deadline_ns);
    }

    fn unpark(thread: ThreadId) {
        // SAFETY: the trait's contract: the caller guarantees that the thread has not ended.
        unsafe { sched::unpark(thread) };
    }

    fn interrupted() -> bool {
        sched::interrupted()
    }

    fn transaction(edge: TransactionEdge) {
        sched::transaction(edge);
    }

    #[inline]
    fn with_held<R>(f: impl FnOnce(&Held) -> R) -> Option<R> {
        sched::with_held(f)
    }

    #[inline]
    fn phys_to_virt(phys: u64) -> *mut u8 {
        paging::phys_to_virt(phys)
    }

    fn shootdown(request: &FlushRequest<'_>) -> usize {
        tlb::shootdown(request)
    }

    fn nudge(cpus: CpuSet) {
        ipi::nudge(cpus);
    }

    #[cfg(debug_assertions)]
    #[inline]
    fn planted(name: &'static str) -> bool {
        crate::plant::makes(name)
    }

    #[cfg(debug_assertions)]
    #[inline]
    fn point(point: sync::Point, _detail: u64) {
        crate::point::pass(point);
    }

    #[inline]
    fn event(kind: Kind, a: u64, b: u64) {
        event::event(kind, a, b);
    }

    #[inline]
    fn prefetch(pointer: *const u8) {
        // SAFETY: SSE's prefetch is part of x86_64 and a hint: it touches no register and never faults.
        unsafe { core::arch::asm!("prefetcht0 [{}]", in(reg) pointer, options(nostack, preserves_flags, readonly)) };
    }
}
