//! Starting the other CPUs: INIT, start-up IPI, and the way from real mode to Rust.
//!
//! The boot CPU (0) copies the [`trampoline`] to a page below 1 MiB, sends INIT to every other CPU, and then starts them one
//! after another: it fills in the page's parameters (stack, tables), sends the start-up interrupt, and waits until
//! the CPU says that it is online. One at a time keeps the parameters a plain struct, and the log in order.
//! Intel's *MultiProcessor Specification* B.4 gives the order and the delays.

mod trampoline;

use core::sync::atomic::{AtomicU32, Ordering};

use sync::CpuId;

use super::{apic, percpu, timer};
pub use trampoline::LowMemory;

/// The CPU that is being started: it learns its number from here.
static STARTING: AtomicU32 = AtomicU32::new(0);

/// What every CPU does in Rust. Set before the first start.
static MAIN: spin::Once<fn(CpuId) -> !> = spin::Once::new();

/// How long a CPU may take from its start-up interrupt to being online. Emulated ones on a busy host are slow.
const PATIENCE_NS: u64 = 10_000_000_000;

/// Starts all other CPUs; each runs `main`, which sets it up and says that it is online. `stack` gives the top of a fresh
/// stack for a CPU. Returns when all are online.
///
/// # Panics
/// If a CPU does not come.
pub fn start_others(low: &LowMemory, kernel_root: u64, mut stack: impl FnMut(CpuId) -> u64, main: fn(CpuId) -> !) {
    let others = (1..percpu::count() as u32).map(CpuId);
    if percpu::count() == 1 {
        return;
    }
    MAIN.call_once(|| main);
    let page = trampoline::install(low, kernel_root);
    for cpu in others.clone() {
        apic::send_init(percpu::get(cpu).apic_id());
    }
    timer::spin_ns(10_000_000);
    for cpu in others {
        STARTING.store(cpu.0, Ordering::Relaxed);
        page.set_stack(stack(cpu));
        let apic_id = percpu::get(cpu).apic_id();
        apic::send_startup(apic_id, page.number());
        // A second one is for CPUs that miss the first (specification, B.4); one that runs ignores it.
        if !wait_online(cpu, 200_000_000) {
            apic::send_startup(apic_id, page.number());
            assert!(wait_online(cpu, PATIENCE_NS), "CPU {} (APIC id {apic_id}) does not start", cpu.0);
        }
    }
}

fn wait_online(cpu: CpuId, patience_ns: u64) -> bool {
    let until = timer::now_ns() + patience_ns;
    while !percpu::online().contains(cpu) {
        if timer::now_ns() > until {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}

/// First Rust code of a CPU that the trampoline brought up: on its own stack, in the kernel's tables, GS not set yet.
extern "C" fn other_cpu_entry() -> ! {
    // Relaxed: stored before the start-up interrupt that led here.
    let cpu = CpuId(STARTING.load(Ordering::Relaxed));
    match MAIN.get() {
        Some(main) => main(cpu),
        None => super::cpu::halt_forever(),
    }
}
