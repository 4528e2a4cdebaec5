//! What QEMU hands back when a watched instruction runs: its number and what is known of it, in one word.

use std::ffi::c_void;

use crate::sites::Site;

/// An instruction, as its callbacks know it: no memory has to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched(u64);

impl Watched {
    /// It locks.
    pub(crate) const LOCKED: u64 = 1 << 32;
    /// It is a string instruction that may repeat.
    pub(crate) const REPEATED: u64 = 1 << 33;
    /// It begins an interrupt.
    pub(crate) const INTERRUPT: u64 = 1 << 34;
    /// It may end one.
    pub(crate) const RETURN: u64 = 1 << 35;

    pub(crate) fn new(site: Site, flags: u64) -> Watched {
        Watched(u64::from(site) | flags)
    }

    pub(crate) fn site(self) -> Site {
        self.0 as Site
    }

    /// Whether it has this flag.
    #[inline]
    pub(crate) fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    /// For QEMU to keep.
    pub(crate) fn to_data(self) -> *mut c_void {
        std::ptr::without_provenance_mut(self.0 as usize)
    }

    /// From QEMU.
    #[inline]
    pub(crate) fn of_data(data: *mut c_void) -> Watched {
        Watched(data.addr() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_lost_on_the_way_through_qemu() {
        let watched = Watched::new(u32::MAX - 1, Watched::LOCKED | Watched::RETURN);
        let back = Watched::of_data(watched.to_data());
        assert_eq!((back, back.site()), (watched, u32::MAX - 1));
        assert!(back.has(Watched::LOCKED) && back.has(Watched::RETURN));
        assert!(!back.has(Watched::REPEATED) && !back.has(Watched::INTERRUPT));
    }
}
