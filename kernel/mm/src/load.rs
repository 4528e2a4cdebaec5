//! Writing a program's first contents, before it runs.
//!
//! Called by the ELF loader: it maps each segment with its final rights, then writes through the physical window, which
//! asks nobody's rights.

use abi::Errno;
use sync::{Platform, point};

use crate::{
    addr::{PAGE_SIZE, page_floor},
    error::OutOfMemory,
    space::AddressSpace,
    vma::Access,
};

impl<P: Platform> AddressSpace<P> {
    /// Writes `bytes` at `addr`, whatever the rights there; pages that are missing are made. May sleep.
    ///
    /// # Errors
    /// EFAULT if part of the range is not mapped, ENOMEM if no frame is left; part may have been written.
    pub fn write_initial(&self, addr: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < bytes.len() {
            let at = addr.checked_add(done as u64).ok_or(Errno::EFAULT)?;
            let in_page = (PAGE_SIZE - at % PAGE_SIZE) as usize;
            let chunk = &bytes[done..bytes.len().min(done + in_page)];
            self.transaction(|txn| {
                let page = page_floor(at);
                let Some(vma) = self.lock_for_fault(txn, page)? else { return Err(Errno::EFAULT.into()) };
                // SAFETY: marked and settled by `txn`. With no rights at all the page is made and parked; reading is
                // what every present page allows.
                unsafe { self.serve(page, Access::Read, vma.attributes().rights) }
                    .map_err(|OutOfMemory| Errno::ENOMEM)?;
                // SAFETY: as above.
                let window = unsafe { self.tables.window(at) }.ok_or(Errno::EFAULT)?;
                point!(P, "page-copying");
                // SAFETY: `chunk` ends within the page, and the VMA is locked, so nobody frees it. If the program runs
                // already, it sees a plain store of another thread.
                unsafe { window.copy_from_nonoverlapping(chunk.as_ptr(), chunk.len()) };
                Ok(())
            })?;
            done += chunk.len();
        }
        Ok(())
    }
}
