//! Which instructions there are: each address gets a small number when QEMU first translates it.
//!
//! Written under a lock by whichever virtual CPU translates; what runs knows its number already.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

/// Most instructions that are told apart: more than any kernel and program have.
pub(crate) const MAX_SITES: usize = 1 << 22;

/// The number of an instruction.
pub(crate) type Site = u32;

#[derive(Default)]
struct Known {
    numbers: HashMap<u64, Site>,
    addresses: Vec<u64>,
}

/// All instructions that were translated since the counter was armed.
#[derive(Default)]
pub(crate) struct Sites(Mutex<Known>);

impl Sites {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The number of the instruction at `address`; none if there are too many.
    pub(crate) fn number(&self, address: u64) -> Option<Site> {
        let mut known = self.known();
        if let Some(&number) = known.numbers.get(&address) {
            return Some(number);
        }
        let number = known.addresses.len();
        if number >= MAX_SITES {
            return None;
        }
        known.addresses.push(address);
        known.numbers.insert(address, number as Site);
        Some(number as Site)
    }

    /// All addresses, by number.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        self.known().addresses.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_number() {
        let sites = Sites::default();
        assert_eq!(sites.number(0x1000), Some(0));
        assert_eq!(sites.number(0xffff_ffff_8000_0000), Some(1));
        assert_eq!(sites.number(0x1000), Some(0));
        assert_eq!(sites.addresses(), [0x1000, 0xffff_ffff_8000_0000]);
    }
}
