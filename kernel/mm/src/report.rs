//! Describing mappings, for reports: the line about a fatal fault, and later `/proc/self/maps`.

use core::sync::atomic::Ordering;

use sync::Platform;

use crate::{
    space::AddressSpace,
    vma::{Kind, Vma, VmaInfo},
};

impl<P: Platform> AddressSpace<P> {
    /// Calls `f` with every mapping, ascending. Each is whole; beside a writer, the list is of no single moment.
    /// `f` may sleep: no lock is held while it runs.
    pub fn vmas(&self, f: &mut dyn FnMut(&VmaInfo)) {
        let mut addr = 0;
        while let Some((info, kind)) = self.next_info(addr) {
            addr = info.end;
            if kind == Kind::Anonymous {
                f(&info);
            }
        }
    }

    /// The mapping that contains `addr`.
    pub fn describe(&self, addr: u64) -> Option<VmaInfo> {
        let (info, kind) = self.next_info(addr)?;
        (kind == Kind::Anonymous && info.start <= addr).then_some(info)
    }

    fn next_info(&self, addr: u64) -> Option<(VmaInfo, Kind)> {
        let guard = self.memory.rcu.read();
        let item = self.tree.next(&guard, addr)?;
        // SAFETY: found under `guard`.
        let vma = unsafe { item.value.get() };
        Some((self.info(vma), vma.kind()))
    }

    pub(crate) fn info(&self, vma: &Vma) -> VmaInfo {
        let range = vma.range();
        let attributes = vma.attributes();
        let (heap_start, heap_end) = (self.program_break.start(), self.program_break.end());
        let stack = self.stack.load(Ordering::Relaxed);
        let name = if heap_start < heap_end && range.start < heap_end && heap_start < range.end {
            "[heap]"
        } else if stack != 0 && range.start <= stack && stack <= range.end {
            "[stack]"
        } else {
            ""
        };
        VmaInfo { start: range.start, end: range.end, rights: attributes.rights, flags: attributes.flags, name }
    }
}
