//! What the kernel reads from the firmware's ACPI tables: the CPUs (MADT) and the power-management timer's port (FADT).

use core::ptr::NonNull;

use abi::MAX_CPUS;
use acpi::fadt::Fadt;
use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use arrayvec::ArrayVec;

use crate::arch::paging;

/// What the tables say.
pub struct Topology {
    /// APIC ids of the CPUs that can be used; the one that asks comes first.
    pub apic_ids: ArrayVec<u32, MAX_CPUS>,
    /// How many more there are than the kernel can run on.
    pub left_out: usize,
    /// I/O port of the power-management timer.
    pub pm_timer_port: u16,
}

/// Why the tables are of no use.
#[derive(Clone, Copy, Debug)]
pub enum Unusable {
    /// The boot loader found no root pointer.
    NoRootPointer,
    /// The root pointer or a table is damaged.
    BadTables,
    /// There is no table of CPUs.
    NoMadt,
    /// There is no power-management timer in I/O space.
    NoTimer,
}

/// Physical memory is always mapped: the window.
#[derive(Clone, Copy)]
struct Window;

impl AcpiHandler for Window {
    unsafe fn map_physical_region<T>(&self, physical_address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let virt = NonNull::new(paging::phys_to_virt(physical_address as u64).cast()).unwrap_or(NonNull::dangling());
        // SAFETY: the window maps all physical memory for ever; the caller says that there is a `T`.
        unsafe { PhysicalMapping::new(physical_address, virt, size, size, *self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// Reads the tables. `own_id` is the APIC id of the CPU that asks.
///
/// # Errors
/// [`Unusable`], if what the kernel needs is not there.
pub fn read(root_pointer: Option<u64>, own_id: u32) -> Result<Topology, Unusable> {
    let root_pointer = root_pointer.ok_or(Unusable::NoRootPointer)?;
    // SAFETY: the boot loader got the address from the firmware.
    let tables = unsafe { AcpiTables::from_rsdp(Window, root_pointer as usize) }.map_err(|_| Unusable::BadTables)?;
    let madt = tables.find_table::<Madt>().map_err(|_| Unusable::NoMadt)?;

    let mut topology = Topology { apic_ids: ArrayVec::new(), left_out: 0, pm_timer_port: pm_timer_port(&tables)? };
    topology.apic_ids.push(own_id);
    for entry in madt.get().entries() {
        /// The flag of a processor that is ready for use.
        const ENABLED: u32 = 1;
        let (id, flags) = match entry {
            MadtEntry::LocalApic(cpu) => (u32::from(cpu.apic_id), cpu.flags),
            MadtEntry::LocalX2Apic(cpu) => (cpu.x2apic_id, cpu.flags),
            _ => continue,
        };
        if flags & ENABLED == 0 || id == own_id {
            continue;
        }
        // An xAPIC cannot address more than eight bits; 255 is everybody.
        if id >= 0xff || topology.apic_ids.try_push(id).is_err() {
            topology.left_out += 1;
        }
    }
    Ok(topology)
}

fn pm_timer_port(tables: &AcpiTables<Window>) -> Result<u16, Unusable> {
    let fadt = tables.find_table::<Fadt>().map_err(|_| Unusable::NoTimer)?;
    let block = fadt.get().pm_timer_block().map_err(|_| Unusable::BadTables)?.ok_or(Unusable::NoTimer)?;
    if block.address_space != acpi::address::AddressSpace::SystemIo {
        return Err(Unusable::NoTimer);
    }
    u16::try_from(block.address).map_err(|_| Unusable::NoTimer)
}
