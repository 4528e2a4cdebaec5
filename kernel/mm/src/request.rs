//! [`MapRequest`]: what `mmap` is asked for, and what of it can be had.

use abi::{Errno, flags::map};

use crate::vma::{Attributes, Rights, VmaFlags};

/// The arguments of `mmap`, but for the file.
#[derive(Clone, Copy, Debug)]
pub struct MapRequest {
    /// Hint, or with `MAP_FIXED` the address.
    pub addr: u64,
    /// Length in bytes; rounded up to pages.
    pub len: u64,
    /// `PROT_*`; unknown bits are ignored, as on Linux.
    pub prot: u32,
    /// `MAP_*`.
    pub flags: u32,
}

impl MapRequest {
    /// Private anonymous memory, wherever there is room.
    pub const fn anonymous(len: u64, prot: u32) -> MapRequest {
        MapRequest { addr: 0, len, prot, flags: map::PRIVATE | map::ANONYMOUS }
    }

    /// Private anonymous memory at exactly `addr`.
    pub const fn fixed(addr: u64, len: u64, prot: u32) -> MapRequest {
        MapRequest { addr, len, prot, flags: map::PRIVATE | map::ANONYMOUS | map::FIXED }
    }

    pub(crate) const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(crate) const fn is_fixed(&self) -> bool {
        self.has(map::FIXED | map::FIXED_NOREPLACE)
    }

    /// Whether it takes the place of what is mapped there.
    pub(crate) const fn replaces(&self) -> bool {
        self.has(map::FIXED) && !self.has(map::FIXED_NOREPLACE)
    }

    pub(crate) fn attributes(&self) -> Attributes {
        let flags = if self.has(map::NORESERVE) { VmaFlags::NORESERVE } else { VmaFlags::empty() };
        Attributes { rights: Rights::from_prot(self.prot), flags }
    }

    /// Only private anonymous memory can be had yet.
    pub(crate) fn check_type(&self) -> Result<(), Errno> {
        match self.flags & map::TYPE {
            map::PRIVATE if self.has(map::GROWSDOWN | map::HUGETLB) => Err(Errno::EINVAL),
            map::PRIVATE if self.has(map::ANONYMOUS) => Ok(()),
            map::PRIVATE | map::SHARED => Err(Errno::ENODEV),
            _ => Err(Errno::EINVAL),
        }
    }
}
