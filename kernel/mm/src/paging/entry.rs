//! One page-table entry of x86_64 (Intel SDM volume 3, 4.5.4), as a value.
//!
//! A leaf entry of a program's tables is in one of three states:
//!
//! | state | bits | meaning |
//! |---|---|---|
//! | empty | 0 | no page; a fault makes one |
//! | parked | not present, [`Entry::PARKED`], address | a page whose mapping has no rights at all (`PROT_NONE`) |
//! | present | present, address, rights | the processor translates |

use core::sync::atomic::{AtomicU64, Ordering};

use crate::vma::{Access, Rights};

/// The value of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    /// Nothing there.
    pub const EMPTY: Entry = Entry(0);

    pub(crate) const PRESENT: u64 = 1 << 0;
    pub(crate) const WRITABLE: u64 = 1 << 1;
    pub(crate) const USER: u64 = 1 << 2;
    pub(crate) const WRITE_THROUGH: u64 = 1 << 3;
    pub(crate) const CACHE_DISABLE: u64 = 1 << 4;
    pub(crate) const ACCESSED: u64 = 1 << 5;
    pub(crate) const DIRTY: u64 = 1 << 6;
    /// In a directory entry: a large page, no table.
    pub(crate) const LARGE: u64 = 1 << 7;
    pub(crate) const GLOBAL: u64 = 1 << 8;
    /// One of the bits that the processor leaves to software.
    pub(crate) const PARKED: u64 = 1 << 9;
    pub(crate) const NO_EXECUTE: u64 = 1 << 63;
    pub(crate) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// A table below, with all rights: the leaf decides. Accessed is set at once: the processor never changes the entry.
    pub(crate) const fn table(phys: u64) -> Entry {
        Entry(phys | Entry::PRESENT | Entry::WRITABLE | Entry::USER | Entry::ACCESSED)
    }

    /// A program's page with `rights`. x86 cannot refuse reads of a present page, so any right implies reading, and
    /// none at all parks the page. Accessed and dirty are set at once, which saves the processor two locked updates.
    #[inline]
    pub(crate) fn page(phys: u64, rights: Rights) -> Entry {
        if rights.is_empty() {
            return Entry(phys | Entry::PARKED);
        }
        let mut bits = phys | Entry::PRESENT | Entry::USER | Entry::ACCESSED;
        if rights.contains(Rights::WRITE) {
            bits |= Entry::WRITABLE | Entry::DIRTY;
        }
        if !rights.contains(Rights::EXEC) {
            bits |= Entry::NO_EXECUTE;
        }
        Entry(bits)
    }

    /// Whether the processor translates through it.
    pub const fn is_present(self) -> bool {
        self.0 & Entry::PRESENT != 0
    }

    /// Whether nothing is there.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether it maps a large page.
    pub const fn is_large(self) -> bool {
        self.0 & Entry::LARGE != 0
    }

    /// Whether the processor lets user mode write.
    pub const fn is_writable(self) -> bool {
        self.0 & Entry::WRITABLE != 0
    }

    /// Whether the processor lets user mode fetch instructions.
    pub const fn is_executable(self) -> bool {
        self.0 & Entry::NO_EXECUTE == 0
    }

    /// Whether user mode may use it at all.
    pub const fn is_user(self) -> bool {
        self.0 & Entry::USER != 0
    }

    /// Whether user mode can do `access` through it without a fault.
    #[inline]
    pub fn allows(self, access: Access) -> bool {
        let granted = match access {
            Access::Read => true,
            Access::Write => self.is_writable(),
            Access::Execute => self.is_executable(),
        };
        self.is_present() && self.is_user() && granted
    }

    /// Physical address of the page or table.
    pub const fn phys(self) -> u64 {
        self.0 & Entry::ADDRESS
    }

    /// Whether a processor that still translates by `self` could do what `next` forbids: then its TLB must be flushed.
    #[inline]
    pub(crate) const fn loses_rights(self, next: Entry) -> bool {
        self.is_present()
            && (!next.is_present()
                || self.phys() != next.phys()
                || (self.is_writable() && !next.is_writable())
                || (self.is_executable() && !next.is_executable()))
    }
}

/// An entry where it lies, in a table.
#[repr(transparent)]
pub struct EntryCell(AtomicU64);

impl EntryCell {
    /// The present value. Acquire: the contents of the table or page that it points to were written before it was.
    #[inline]
    pub(crate) fn load(&self) -> Entry {
        Entry(self.0.load(Ordering::Acquire))
    }

    /// Puts `new` in place of `old`, or says what is there. Release: what `new` points to was written before.
    #[inline]
    pub(crate) fn compare_exchange(&self, old: Entry, new: Entry) -> Result<(), Entry> {
        self.0.compare_exchange(old.0, new.0, Ordering::AcqRel, Ordering::Acquire).map(|_| ()).map_err(Entry)
    }

    /// Empties the entry, and says what was there, with the bits that the processor set meanwhile.
    #[inline]
    pub(crate) fn take(&self) -> Entry {
        Entry(self.0.swap(0, Ordering::AcqRel))
    }

    /// Writes without looking: for tables that nobody else reaches, or that have one writer.
    #[inline]
    pub(crate) fn store(&self, entry: Entry) {
        self.0.store(entry.0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_grants_its_rights_and_no_others() {
        for bits in 0..8 {
            let rights = Rights::from_bits_truncate(bits);
            let entry = Entry::page(0x1234_5000, rights);
            assert_eq!(entry.phys(), 0x1234_5000);
            assert_eq!(entry.is_present(), !rights.is_empty());
            assert!(!entry.is_empty(), "even without rights it keeps its page");
            for access in [Access::Read, Access::Write, Access::Execute] {
                assert_eq!(entry.allows(access), rights.allow(access), "{rights:?} {access:?}");
            }
        }
    }

    #[test]
    fn only_a_loss_needs_a_flush() {
        let all: std::vec::Vec<Rights> = (0..8).map(Rights::from_bits_truncate).collect();
        for &before in &all {
            for &after in &all {
                let loses = Entry::page(0x1000, before).loses_rights(Entry::page(0x1000, after));
                let lost = [Access::Read, Access::Write, Access::Execute]
                    .into_iter()
                    .any(|access| before.allow(access) && !after.allow(access));
                assert_eq!(loses, lost, "{before:?} -> {after:?}");
            }
            assert_eq!(Entry::page(0x1000, before).loses_rights(Entry::page(0x2000, before)), !before.is_empty());
            assert!(!Entry::EMPTY.loses_rights(Entry::page(0x1000, before)));
        }
    }
}
