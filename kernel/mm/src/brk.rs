//! `brk`: the program break, the old way to get memory.

use abi::USER_END;
use sync::{Abort, Platform, Txn};

use crate::{
    addr::{PAGE_SIZE, PageRange, page_ceil},
    map::Over,
    space::AddressSpace,
    vma::{Attributes, Rights, VmaFlags},
};

/// Memory below the break: read and write.
const HEAP: Attributes = Attributes { rights: Rights::READ.union(Rights::WRITE), flags: VmaFlags::empty() };

impl<P: Platform> AddressSpace<P> {
    /// Says where the heap begins; it is empty. Called once, by whoever loads the program.
    pub fn set_brk_start(&self, addr: u64) {
        self.program_break.begin(addr);
    }

    /// `brk(2)` as the kernel has it: returns the new break, or the old one if it cannot be moved there.
    pub fn brk(&self, wanted: u64) -> u64 {
        self.transaction(|txn| self.brk_in(txn, wanted)).unwrap_or_else(|_| self.program_break.end())
    }

    fn brk_in(&self, txn: &mut Txn<'_, P>, wanted: u64) -> Result<u64, Abort> {
        // No fault holds it, so there is nobody to settle with.
        txn.mark(self.program_break.lock(), 0..0)?;
        let now = self.program_break.end();
        let Some((old_end, new_end)) = page_ceil(now).zip(page_ceil(wanted)) else { return Ok(now) };
        if wanted < self.program_break.start() || new_end > USER_END {
            return Ok(now);
        }
        let guard = self.memory.rcu.read();
        // A page that stays free below the next mapping is looked at once, here: a mapping that comes there meanwhile is one that
        // came after.
        let next = self.tree.next(&guard, old_end.min(new_end)).map_or(USER_END, |item| item.start);
        if let Some(growth) = PageRange::new(old_end, new_end) {
            // A page stays free below the next mapping.
            if new_end + PAGE_SIZE > next {
                return Ok(now);
            }
            self.insert_in(txn, guard, growth, Over::Hole, HEAP)?;
        } else if let Some(cut) = PageRange::new(new_end, old_end) {
            if next >= old_end {
                return Ok(now);
            }
            self.remove_in(txn, guard, cut)?;
        }
        self.program_break.set_end(wanted);
        Ok(wanted)
    }
}
