//! The boot story: from the boot loader's jump to threads on every CPU.
//!
//! Each stage is one call and one line of the log. The order has reasons: traps before anything can fault, own tables
//! before memory is handed out, memory before stacks, stacks before other CPUs.

use bootloader_api::config::Mapping;
use bootloader_api::{BootInfo, BootloaderConfig};
use mm::Owner;
use sync::CpuId;

use crate::arch::gdt::INTERRUPT_STACKS;
use crate::arch::{apic, cpu, gdt, idt, paging, percpu, smp, timer};
#[cfg(not(debug_assertions))]
use crate::fw_cfg;
use crate::memory::BootMemory;
#[cfg(debug_assertions)]
use crate::point;
use crate::stack::Stack;
use crate::{acpi, console, event, exit, log as kernel_log, memory, report, sched, stack, start_delay, stream};

/// What the kernel asks of the boot loader: all memory mapped at the address where our own tables will have it, and
/// everything else in the upper half, out of the programs' way.
pub static BOOT_CONFIG: BootloaderConfig = {
    let mut config = BootloaderConfig::new_default();
    config.kernel_stack_size = 64 * 1024;
    config.mappings.kernel_stack = Mapping::FixedAddress(paging::BOOT_STACK);
    config.mappings.boot_info = Mapping::FixedAddress(paging::BOOT_INFO);
    config.mappings.physical_memory = Some(Mapping::FixedAddress(paging::WINDOW));
    config.mappings.dynamic_range_start = Some(0xffff_f000_0000_0000);
    config
};

/// Makes `main`, a `fn(u64)`, the first thread of a kernel: the boot loader's entry point.
#[macro_export]
macro_rules! entry_point {
    ($main:path) => {
        const _: () = {
            fn start(info: &'static mut $crate::bootloader_api::BootInfo) -> ! {
                $crate::boot(info, $main)
            }
            $crate::bootloader_api::entry_point!(start, config = &$crate::BOOT_CONFIG);
        };
    };
}

/// Boots the machine; then `main(0)` runs as the first thread, on CPU 0 to begin with.
pub fn boot(info: &'static mut BootInfo, main: fn(u64)) -> ! {
    percpu::install(CpuId(0));
    console::init();
    stream::init();
    kernel_log::init();
    event::init();
    log::info!("tessera {}", env!("CARGO_PKG_VERSION"));

    idt::build();
    idt::load();
    cpu::init();
    log::info!("cpu: {}", cpu::Features::read());

    let mut boot_memory = BootMemory::survey(&info.memory_regions);
    log::info!("memory: {} MiB usable in {} regions", boot_memory.usable() >> 20, boot_memory.region_count());

    let root_pointer = info.rsdp_addr.into_option();
    own_page_tables(info, &mut boot_memory);
    let low = boot_memory.take_low();

    apic::mask_legacy();
    apic::init();
    let topology = find_cpus(root_pointer);

    let usable = boot_memory.usable();
    let Some(memory) = memory::init(boot_memory) else {
        refuse(format_args!("{} MiB of memory are too little for the kernel", usable >> 20))
    };
    let usage = memory.frames.usage();
    log::info!(
        "frames: {} of 4 KiB free, {} hold the allocator's metadata; heap: {} MiB",
        usage.available(),
        usage.owned_by(Owner::Meta),
        (usage.owned_by(Owner::Heap) * abi::PAGE_SIZE) >> 20
    );

    let locks = memory.locks.pair();
    log::info!("locks: faults by {}, updates by {}", locks.read(), locks.update());

    stack::init();
    gdt::prepare(CpuId(0), interrupt_stacks());
    gdt::init();
    let frequencies = timer::calibrate(topology.pm_timer_port);
    log::info!("clock: TSC {} MHz, APIC timer {} MHz", frequencies.time_stamp_khz / 1000, frequencies.apic_khz / 1000);

    schedule_points();
    #[cfg(debug_assertions)]
    sched::watchdog::init();
    sched::init_cpu(CpuId(0));
    percpu::set_online();
    start_delay::init();
    match low {
        Some(low) => smp::start_others(&low, paging::kernel_root(), prepare_cpu, run_cpu),
        None => assert!(percpu::count() == 1, "no memory below 1 MiB to start other CPUs in"),
    }
    log::info!("{} CPUs online", percpu::online().iter().count());

    sched::spawn_kernel("main", CpuId(0).bit(), main, 0).expect("memory for the first thread");
    sched::enter_idle()
}

/// Builds the kernel's page tables, switches to them, and checks them.
fn own_page_tables(info: &BootInfo, boot_memory: &mut BootMemory) {
    let layout = paging::Layout {
        window_end: boot_memory.window_end(),
        boot_stack: info.kernel_stack_bottom..info.kernel_stack_bottom + info.kernel_stack_len,
        local_apic: apic::physical_base(),
    };
    paging::init(&layout, || boot_memory.take_zeroed_frame());
    match paging::check(paging::kernel_root()) {
        Ok(pages) => log::info!(
            "page tables: {} KiB code, {} KiB constants, {} MiB data and window; none writable and executable",
            pages.execute * 4,
            pages.read * 4,
            pages.write / 256
        ),
        Err(address) => panic!("the kernel's page at {address:#x} is writable and executable, or open to programs"),
    }
}

/// Reads what shall happen at schedule points, in a kernel that has them.
fn schedule_points() {
    #[cfg(debug_assertions)]
    if point::init().is_err() {
        refuse(format_args!("what was asked for at schedule points is not understood"));
    }
    #[cfg(not(debug_assertions))]
    if fw_cfg::find(abi::fw_cfg::POINTS).is_some() {
        refuse(format_args!("this kernel has no schedule points: it was built without debug checks"));
    }
}

/// Asks the firmware's tables which CPUs there are.
fn find_cpus(root_pointer: Option<u64>) -> acpi::Topology {
    let topology = match acpi::read(root_pointer, apic::id()) {
        Ok(topology) => topology,
        Err(why) => refuse(format_args!("the firmware's ACPI tables are of no use: {why:?}")),
    };
    percpu::set_topology(&topology.apic_ids);
    report::init();
    log::info!("acpi: {} CPUs, power-management timer at port {:#x}", percpu::count(), topology.pm_timer_port);
    if topology.left_out > 0 {
        log::warn!("{} more CPUs stay off: the kernel runs on at most {}", topology.left_out, abi::MAX_CPUS);
    }
    topology
}

/// Stacks for the exceptions that need their own. They live as long as the machine.
fn interrupt_stacks() -> [u64; INTERRUPT_STACKS] {
    core::array::from_fn(|_| permanent_stack())
}

fn permanent_stack() -> u64 {
    let stack = Stack::try_new().expect("memory for a CPU's stacks");
    let top = stack.top();
    core::mem::forget(stack);
    top
}

/// On the boot CPU, for a CPU about to be started: its stacks. Returns the top of the one that it begins on.
fn prepare_cpu(cpu: CpuId) -> u64 {
    gdt::prepare(cpu, interrupt_stacks());
    permanent_stack()
}

/// What each other CPU does from its first line of Rust on, on its own stack: its own registers, then threads.
fn run_cpu(cpu: CpuId) -> ! {
    percpu::install(cpu);
    gdt::init();
    idt::load();
    self::cpu::init();
    apic::init();
    sched::init_cpu(cpu);
    log::info!("CPU {} online (APIC id {})", cpu.0, apic::id());
    percpu::set_online();
    start_delay::cpu(cpu);
    sched::enter_idle()
}

/// Ends the machine: what it was given cannot be run on.
fn refuse(why: core::fmt::Arguments<'_>) -> ! {
    log::error!("{why}");
    exit::exit(abi::exit::REFUSED)
}
