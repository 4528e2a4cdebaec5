//! Addresses and page ranges.
//!
//! Virtual and physical addresses are plain `u64`s named `addr` and `phys`; what deserves a type is the *checked range*:
//! holding a [`PageRange`] proves that it is page-aligned, not empty, and lies below [`USER_END`]. Every verb of
//! [`AddressSpace`](crate::AddressSpace) makes one first and works with nothing else.

use core::ops::Range;

pub use abi::{MMAP_MIN_ADDR, PAGE_SIZE, USER_END};

/// `addr` rounded down to its page.
pub const fn page_floor(addr: u64) -> u64 {
    addr & !(PAGE_SIZE - 1)
}

/// `addr` rounded up to a page, or `None` where that does not fit in 64 bits.
pub const fn page_ceil(addr: u64) -> Option<u64> {
    match addr.checked_add(PAGE_SIZE - 1) {
        Some(sum) => Some(page_floor(sum)),
        None => None,
    }
}

/// Whether `addr` is the address of a page.
pub const fn is_page_aligned(addr: u64) -> bool {
    addr & (PAGE_SIZE - 1) == 0
}

/// A non-empty range of whole pages in the user half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    start: u64,
    end: u64,
}

impl PageRange {
    /// `start..end`, or `None` unless both are page-aligned, `start < end` and `end <= USER_END`.
    pub const fn new(start: u64, end: u64) -> Option<PageRange> {
        if is_page_aligned(start) && is_page_aligned(end) && start < end && end <= USER_END {
            Some(PageRange { start, end })
        } else {
            None
        }
    }

    /// First address.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// One past the last address.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a PageRange is never empty")]
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// As `start..end`.
    pub const fn range(self) -> Range<u64> {
        self.start..self.end
    }

    /// The addresses of its pages, ascending.
    pub fn pages(self) -> impl Iterator<Item = u64> {
        (self.start..self.end).step_by(PAGE_SIZE as usize)
    }
}

/// A range of physical memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_range_is_aligned_not_empty_and_below_the_end() {
        assert!(PageRange::new(0, PAGE_SIZE).is_some());
        assert!(PageRange::new(USER_END - PAGE_SIZE, USER_END).is_some());
        assert!(PageRange::new(1, PAGE_SIZE).is_none());
        assert!(PageRange::new(PAGE_SIZE, PAGE_SIZE).is_none());
        assert!(PageRange::new(2 * PAGE_SIZE, PAGE_SIZE).is_none());
        assert!(PageRange::new(0, USER_END + PAGE_SIZE).is_none());
    }

    #[test]
    fn rounding_up_says_when_it_does_not_fit() {
        assert_eq!(page_ceil(0), Some(0));
        assert_eq!(page_ceil(1), Some(PAGE_SIZE));
        assert_eq!(page_ceil(u64::MAX), None);
        assert_eq!(page_floor(PAGE_SIZE + 7), PAGE_SIZE);
    }
}
