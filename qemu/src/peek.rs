//! What lies at an address of a stopped machine's memory?
//!
//! Kernel addresses only: every address space maps them alike, so any CPU's page tables do. Read page by page and kept,
//! for a report reads the same stacks again and again. Whatever cannot be read is `None`, never an error: a report about a
//! machine that has gone wrong says what it has.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::monitor::Monitor;

/// Size of a page.
const PAGE: u64 = abi::PAGE_SIZE;

/// Longest piece that a report reads: whatever asks for more has read a wrong length.
const LONGEST: usize = 1 << 20;

/// A stopped machine's memory.
pub trait Memory {
    /// The `len` bytes at `address`, if all of them are the kernel's and can be read.
    fn read(&mut self, address: u64, len: usize) -> Option<Vec<u8>>;

    /// The word at `address`.
    fn word(&mut self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.read(address, 8)?.try_into().ok()?))
    }
}

/// Whether the upper half has `address`: the kernel's.
pub fn is_kernel(address: u64) -> bool {
    address >> 47 == 0x1_ffff
}

/// The memory of the machine behind a monitor.
pub struct Peek<'a> {
    monitor: &'a mut Monitor,
    /// The CPUs whose page tables serve, the likeliest first.
    cpus: Vec<u32>,
    /// QEMU writes there what it read.
    file: PathBuf,
    pages: HashMap<u64, Option<Vec<u8>>>,
}

impl<'a> Peek<'a> {
    /// Through the page tables of one of `cpus`; QEMU writes into `scratch`.
    pub fn new(monitor: &'a mut Monitor, cpus: Vec<u32>, scratch: &Path) -> Peek<'a> {
        Peek { monitor, cpus, file: scratch.join("memory"), pages: HashMap::new() }
    }

    /// One page.
    fn page(&mut self, page: u64) -> Option<&Vec<u8>> {
        if !self.pages.contains_key(&page) {
            let bytes = self.fetch(page);
            self.pages.insert(page, bytes);
        }
        self.pages[&page].as_ref()
    }

    fn fetch(&mut self, page: u64) -> Option<Vec<u8>> {
        for &cpu in &self.cpus {
            if self.monitor.save_memory(cpu, page, PAGE, &self.file).is_ok()
                && let Ok(bytes) = std::fs::read(&self.file)
                && bytes.len() as u64 == PAGE
            {
                return Some(bytes);
            }
        }
        None
    }
}

impl Memory for Peek<'_> {
    fn read(&mut self, address: u64, len: usize) -> Option<Vec<u8>> {
        let end = address.checked_add(len as u64)?;
        if !is_kernel(address) || len > LONGEST {
            return None;
        }
        let mut bytes = Vec::with_capacity(len);
        let mut at = address;
        while at < end {
            let (page, offset) = (at & !(PAGE - 1), (at % PAGE) as usize);
            let count = (PAGE as usize - offset).min((end - at) as usize);
            bytes.extend_from_slice(&self.page(page)?[offset..offset + count]);
            at += count as u64;
        }
        Some(bytes)
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! A machine's memory made of pieces.

    use std::collections::BTreeMap;

    use super::Memory;

    /// Bytes at addresses; everything else cannot be read.
    #[derive(Default)]
    pub(crate) struct Fake(BTreeMap<u64, u8>);

    impl Fake {
        pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
            self.0.extend(bytes.iter().enumerate().map(|(index, &byte)| (address + index as u64, byte)));
        }

        pub(crate) fn put_word(&mut self, address: u64, word: u64) {
            self.put(address, &word.to_le_bytes());
        }

        pub(crate) fn forget(&mut self, address: u64) {
            self.0.remove(&address);
        }
    }

    impl Memory for Fake {
        fn read(&mut self, address: u64, len: usize) -> Option<Vec<u8>> {
            (address..address.checked_add(len as u64)?).map(|at| self.0.get(&at).copied()).collect()
        }
    }
}
