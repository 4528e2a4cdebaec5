//! The page tables in use: what the kernel needs is added to the map of low memory that the entry made.

use x86_64::registers::control::Cr3;
use x86_64::structures::paging::{Mapper, OffsetPageTable, Page, PageSize, PageTable, PageTableFlags, PhysFrame};
use x86_64::{PhysAddr, VirtAddr};

use crate::memory::Memory;
use crate::refusal::Refusal;

pub(crate) use x86_64::structures::paging::{Size2MiB, Size4KiB};

/// The tables that the CPU walks.
pub(crate) struct Tables(OffsetPageTable<'static>);

impl Tables {
    /// The tables that the entry has built. Called once.
    pub(crate) fn active() -> Tables {
        let root = Cr3::read().0.start_address().as_u64() as *mut PageTable;
        // SAFETY: the entry's root table, mapped where it lies; the one reference to it, by this function's contract.
        let root = unsafe { &mut *root };
        // SAFETY: it is the active root, and all tables lie in memory that is mapped where it lies: offset 0.
        Tables(unsafe { OffsetPageTable::new(root, VirtAddr::zero()) })
    }

    /// Maps the pages of size `S` from `virt` on, `bytes` long, to contiguous memory from `phys` on. Code is not writable.
    ///
    /// # Errors
    /// An address is not aligned to `S` or not an address at all, something is mapped there, or there is no frame for a
    /// table.
    pub(crate) fn map<S>(
        &mut self,
        virt: u64,
        phys: u64,
        bytes: u64,
        flags: PageTableFlags,
        memory: &mut Memory,
    ) -> Result<(), Refusal>
    where
        S: PageSize,
        OffsetPageTable<'static>: Mapper<S>,
    {
        for offset in (0..bytes).step_by(S::SIZE as usize) {
            let address = VirtAddr::try_new(virt + offset).map_err(|_| Refusal::BadAddress(virt))?;
            let page = Page::<S>::from_start_address(address).map_err(|_| Refusal::BadAddress(virt))?;
            let frame = PhysFrame::from_start_address(PhysAddr::new(phys + offset));
            let frame = frame.map_err(|_| Refusal::BadAddress(phys))?;
            // SAFETY: upper-half addresses, which nothing of the loader's lies at, are mapped to memory that was taken for
            // them; the window sees all of it, but the loader reads and writes through one address of each only.
            let mapped = unsafe { self.0.map_to(page, frame, flags | PageTableFlags::PRESENT, memory) };
            // New translations: the TLB holds none of them.
            mapped.map_err(|_| Refusal::NotMapped(virt))?.ignore();
        }
        Ok(())
    }
}
