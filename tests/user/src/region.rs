//! One private anonymous mapping, owned: unmapped when dropped.
//!
//! A wrong access (a write to a read-only page) is not undefined behaviour of Rust but the program's death by SIGSEGV;
//! every word is an atomic, so threads may meet in it.

use crate::raw::{self, Errno};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// Bytes in a page.
pub const PAGE: usize = 4096;

/// Words in a page.
pub const WORDS: usize = PAGE / size_of::<AtomicU64>();

/// What a page may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

impl Rights {
    fn bits(self) -> i32 {
        match self {
            Rights::None => libc::PROT_NONE,
            Rights::Read => libc::PROT_READ,
            Rights::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

/// Where a mapping goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Wherever the kernel likes.
    Anywhere,
    /// Here, and nowhere else; an error if anything is mapped there (`MAP_FIXED_NOREPLACE`).
    At(usize),
}

/// A mapping of whole pages.
#[derive(Debug)]
pub struct Region {
    start: NonNull<u8>,
    pages: usize,
}

// SAFETY: the region is plain memory that this value owns; all access goes through atomics.
unsafe impl Send for Region {}
// SAFETY: as above; the calls that change the mapping are atomic in the kernel.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `pages` pages.
    ///
    /// # Errors
    /// The kernel's, and `EEXIST` where `place` is taken.
    pub fn map(place: Place, pages: usize, rights: Rights) -> Result<Region, Errno> {
        let (address, fixed) = match place {
            Place::Anywhere => (0, 0),
            Place::At(address) => (address, libc::MAP_FIXED_NOREPLACE),
        };
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed) as usize;
        let args = [address, pages * PAGE, rights.bits() as usize, flags, usize::MAX, 0];
        // SAFETY: a new mapping that replaces none touches no memory in use.
        let start = unsafe { raw::call(libc::SYS_mmap, args) }?;
        let start = NonNull::new(start as *mut u8).unwrap_or_else(|| crate::wrong(format_args!("mmap returned 0")));
        Ok(Region { start, pages })
    }

    /// `pages` pages from `address` on, which are mapped and have been given up (`std::mem::forget`).
    ///
    /// # Safety
    /// Whoever else takes them too must not unmap them, nor drop the region, as long as this one is used.
    pub unsafe fn there(address: usize, pages: usize) -> Region {
        let start = NonNull::new(address as *mut u8).unwrap_or_else(|| crate::wrong(format_args!("a region at 0")));
        Region { start, pages }
    }

    /// Address of the first byte.
    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Word `index` of page `page`. Using it in a way that the page's rights do not allow kills the program.
    ///
    /// # Panics
    /// If there is no such word.
    pub fn word(&self, page: usize, index: usize) -> &AtomicU64 {
        assert!(page < self.pages && index < WORDS);
        // SAFETY: inside the mapping, by the assertion.
        let word = unsafe { self.start.add(page * PAGE + index * size_of::<AtomicU64>()) };
        // SAFETY: aligned, mapped as long as `self` lives, and used by nobody except as an atomic.
        unsafe { word.cast::<AtomicU64>().as_ref() }
    }

    /// Changes the rights of some pages.
    ///
    /// # Errors
    /// The kernel's.
    pub fn protect(&self, pages: Range<usize>, rights: Rights) -> Result<(), Errno> {
        let (address, len) = self.bytes(pages);
        // SAFETY: only pages of this region change, and their words are nobody's but its users'.
        unsafe { raw::call(libc::SYS_mprotect, [address, len, rights.bits() as usize, 0, 0, 0]) }.map(drop)
    }

    /// Drops the contents of some pages (`MADV_DONTNEED`): they read as zero afterwards.
    ///
    /// # Errors
    /// The kernel's.
    pub fn discard(&self, pages: Range<usize>) -> Result<(), Errno> {
        let (address, len) = self.bytes(pages);
        // SAFETY: as for `protect`.
        unsafe { raw::call(libc::SYS_madvise, [address, len, libc::MADV_DONTNEED as usize, 0, 0, 0]) }.map(drop)
    }

    /// Unmaps the region.
    ///
    /// # Errors
    /// The kernel's; the region is then given up.
    pub fn unmap(self) -> Result<(), Errno> {
        let (address, len) = self.bytes(0..self.pages);
        std::mem::forget(self);
        // SAFETY: the region's owner is gone, so nobody can reach its words.
        unsafe { raw::call(libc::SYS_munmap, [address, len, 0, 0, 0, 0]) }.map(drop)
    }

    /// Whether the kernel refuses to write into page `page` for the program. Where it does not refuse, the page's last
    /// two words are overwritten.
    pub fn refuses_writes(&self, page: usize) -> bool {
        assert!(page < self.pages);
        // SAFETY: inside the mapping, by the assertion.
        let place = unsafe { self.start.add((page + 1) * PAGE - 16) };
        // SAFETY: the words are this region's.
        !unsafe { raw::writable(place) }
    }

    /// Address and length in bytes of some of the region's pages.
    fn bytes(&self, pages: Range<usize>) -> (usize, usize) {
        assert!(pages.start <= pages.end && pages.end <= self.pages);
        (self.address() + pages.start * PAGE, pages.len() * PAGE)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        let (address, len) = self.bytes(0..self.pages);
        // SAFETY: nobody borrows the region any more.
        let answer = unsafe { raw::call(libc::SYS_munmap, [address, len, 0, 0, 0, 0]) };
        if let Err(errno) = answer {
            crate::wrong(format_args!("munmap of a whole region failed: {errno}"));
        }
    }
}
