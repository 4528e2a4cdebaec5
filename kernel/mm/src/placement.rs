//! Where a mapping goes: the address rules of `mmap`, as Linux has them for x86_64 without address randomisation.
//!
//! Mappings are placed top-down from [`MMAP_BASE`], below the stack; a hint is honoured where it is free; `MAP_FIXED` is
//! obeyed. Called by `map`, inside its transaction.

use core::ops::Range;

use abi::{Errno, MMAP_MIN_ADDR, USER_END, flags::map};
use sync::{Abort, Platform, RcuGuard, Txn, primitive::mutant};

use crate::{
    addr::{PAGE_SIZE, PageRange, is_page_aligned, page_ceil, page_floor},
    request::MapRequest,
    space::AddressSpace,
    vma::Kind,
};

/// The highest end of a mapping that asks for no address: 128 MiB below the top are left to the stack.
pub const MMAP_BASE: u64 = USER_END - (128 << 20);

/// Where `MAP_32BIT` mappings go.
const LOW_2G: Range<u64> = 0x4000_0000..0x8000_0000;

impl<P: Platform> AddressSpace<P> {
    /// The range for `request`, whose length is `len` in whole pages.
    ///
    /// # Errors
    /// In this order: ENOMEM (too long, or no hole), EINVAL (fixed and unaligned), EPERM (fixed and below
    /// [`MMAP_MIN_ADDR`]), EEXIST (not to be replaced, and taken).
    pub(crate) fn place(
        &self,
        txn: &Txn<'_, P>,
        guard: &RcuGuard<'_, P>,
        request: &MapRequest,
        len: u64,
    ) -> Result<PageRange, Abort> {
        if len > USER_END {
            return Err(Errno::ENOMEM.into());
        }
        let start =
            if request.is_fixed() { self.fixed(txn, guard, request, len)? } else { self.hole(guard, request, len)? };
        PageRange::new(start, start + len).ok_or(Errno::ENOMEM.into())
    }

    fn fixed(&self, txn: &Txn<'_, P>, guard: &RcuGuard<'_, P>, request: &MapRequest, len: u64) -> Result<u64, Abort> {
        let addr = request.addr;
        if addr > USER_END - len {
            return Err(Errno::ENOMEM.into());
        }
        if !is_page_aligned(addr) {
            return Err(Errno::EINVAL.into());
        }
        if addr < MMAP_MIN_ADDR {
            return Err(Errno::EPERM.into());
        }
        if request.has(map::FIXED_NOREPLACE) {
            self.check_claim(txn, guard, addr..addr + len)?;
        }
        Ok(addr)
    }

    /// Says EEXIST if something is mapped in `range`.
    fn check_claim(&self, txn: &Txn<'_, P>, guard: &RcuGuard<'_, P>, range: Range<u64>) -> Result<(), Abort> {
        let mut tombstone = None;
        for item in self.tree.overlapping(guard, range) {
            // SAFETY: found under `guard`.
            let vma = unsafe { item.value.get() };
            if vma.kind() != Kind::Tombstone || mutant("claim-trusts-tombstone") {
                return Err(Errno::EEXIST.into());
            }
            tombstone = Some(vma.lock());
        }
        // A tombstone covers holes, too, and other CPUs may still see what was mapped there: only its end tells.
        tombstone.map_or(Ok(()), |lock| Err(txn.wait_for(lock)))
    }

    fn hole(&self, guard: &RcuGuard<'_, P>, request: &MapRequest, len: u64) -> Result<u64, Errno> {
        let hint = match page_floor(request.addr) {
            0 => 0,
            hint => hint.max(MMAP_MIN_ADDR),
        };
        if request.has(map::MAP_32BIT) {
            let fits = hint != 0 && hint.checked_add(len).is_some_and(|end| end <= LOW_2G.end);
            if fits && self.is_free(guard, hint, len) {
                return Ok(hint);
            }
            return self.highest_gap(guard, len, LOW_2G).ok_or(Errno::ENOMEM);
        }
        if hint != 0 && hint <= USER_END - len && self.is_free(guard, hint, len) {
            return Ok(hint);
        }
        let below_stack = self.highest_gap(guard, len, MMAP_MIN_ADDR..MMAP_BASE);
        below_stack.or_else(|| self.highest_gap(guard, len, MMAP_MIN_ADDR..USER_END)).ok_or(Errno::ENOMEM)
    }

    /// The highest hole of `len` bytes in `within`. Beside a writer a search may miss one; before there is said to be none, it
    /// is repeated where nobody changes the tree. (One that is found wrongly is no hole any more at publication.)
    fn highest_gap(&self, guard: &RcuGuard<'_, P>, len: u64, within: Range<u64>) -> Option<u64> {
        let Range { start, end } = within;
        let found = self.tree.find_gap_down(guard, len, start, end);
        if found.is_some() || self.memory.locks.pair().has_one_writer() {
            return found;
        }
        self.tree.publish().find_gap_down(len, start, end)
    }

    /// Whether nothing is mapped in the `len` bytes from `addr` on.
    fn is_free(&self, guard: &RcuGuard<'_, P>, addr: u64, len: u64) -> bool {
        self.tree.next(guard, addr).is_none_or(|entry| entry.start >= addr + len)
    }
}

/// A length of a call in whole pages.
///
/// # Errors
/// EINVAL for 0, ENOMEM where rounding up does not fit.
pub(crate) fn whole_pages(len: u64) -> Result<u64, Errno> {
    if len == 0 {
        return Err(Errno::EINVAL);
    }
    match page_ceil(len) {
        Some(len) if len >= PAGE_SIZE => Ok(len),
        _ => Err(Errno::ENOMEM),
    }
}
