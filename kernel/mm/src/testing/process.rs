//! An address space with TLBs, and a program's accesses on its CPUs.

use core::sync::atomic::{AtomicU64, Ordering};
use std::{sync::Arc, vec::Vec};

use sync::{InterruptGuard, Platform, testing::Host};

use super::{
    Machine,
    tlb::{self, Tlbs},
};
use crate::{
    addr::page_floor,
    error::FaultError,
    paging::Entry,
    space::AddressSpace,
    vma::{Access, VmaInfo},
};

/// A program: an address space and its CPUs' TLBs. Dropped inside [`Machine::on_cpu`], like everything of the kernel's.
pub struct Process {
    /// The address space.
    pub space: AddressSpace<Host>,
    machine: &'static Machine,
    tlbs: Arc<Tlbs>,
}

impl Process {
    /// An empty program on `machine`. Made inside [`Machine::on_cpu`] if other threads play CPUs meanwhile: whoever is on no CPU
    /// plays CPU 0.
    ///
    /// # Panics
    /// If the machine is out of memory.
    pub fn new(machine: &'static Machine) -> Process {
        let space = AddressSpace::new(machine.memory, machine.kernel_root).expect("memory for an address space");
        let tlbs = tlb::register(space.root(), machine.memory.frames);
        Process { space, machine, tlbs }
    }

    /// Runs the program on `cpu` while `body` does.
    pub fn run_on<R>(&self, cpu: u32, body: impl FnOnce(&User<'_>) -> R) -> R {
        self.machine.on_cpu(cpu, || {
            self.space.join();
            // A new root empties the TLB.
            self.tlbs.of(cpu as usize).clear();
            let result = body(&User { process: self, cpu: cpu as usize });
            self.space.leave();
            result
        })
    }

    /// All mappings.
    pub fn mappings(&self) -> Vec<VmaInfo> {
        let mut all = Vec::new();
        self.space.vmas(&mut |vma| all.push(*vma));
        all
    }

    /// Fails if a TLB of a CPU that runs the program allows what the page tables do not. Called while nothing else happens.
    ///
    /// # Panics
    /// See above.
    pub fn check_tlbs(&self) {
        for cpu in self.space.cpus().iter() {
            for (&page, &cached) in self.tlbs.of(cpu.index()).iter() {
                let now = self.walk(page);
                assert!(
                    !cached.loses_rights(now),
                    "{cpu:?} still translates {page:#x} by {cached:?}, and the table has {now:?}",
                );
            }
        }
    }

    /// The leaf entry of `page`, as a processor's walk sees it.
    fn walk(&self, page: u64) -> Entry {
        // SAFETY: the caller holds the CPU's TLB lock, and tables are freed after a shootdown that takes it; or nothing
        // else happens.
        unsafe { self.space.tables.leaf(page) }.map_or(Entry::EMPTY, |cell| cell.load())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        tlb::unregister(self.space.root());
    }
}

/// A program on one CPU.
pub struct User<'a> {
    process: &'a Process,
    cpu: usize,
}

impl User<'_> {
    /// Reads the aligned word at `addr`.
    ///
    /// # Errors
    /// The fault that killed the program.
    pub fn load(&self, addr: u64) -> Result<u64, FaultError> {
        self.access(addr, Access::Read, |word| word.load(Ordering::Relaxed))
    }

    /// Writes the aligned word at `addr`.
    ///
    /// # Errors
    /// The fault that killed the program.
    pub fn store(&self, addr: u64, value: u64) -> Result<(), FaultError> {
        self.access(addr, Access::Write, |word| word.store(value, Ordering::Relaxed))
    }

    /// Fetches an instruction at `addr`.
    ///
    /// # Errors
    /// The fault that killed the program.
    pub fn fetch(&self, addr: u64) -> Result<(), FaultError> {
        self.access(addr, Access::Execute, |_| ())
    }

    /// The program enters the kernel and leaves it again: a quiescent state, and deferred work that is due.
    pub fn tick(&self) {
        let rcu = &self.process.machine.memory.rcu;
        rcu.quiescent();
        rcu.poll();
    }

    fn access<R>(&self, addr: u64, access: Access, touch: impl Fn(&AtomicU64) -> R) -> Result<R, FaultError> {
        assert!(addr.is_multiple_of(8), "an aligned word");
        let page = page_floor(addr);
        loop {
            {
                let mut tlb = self.process.tlbs.of(self.cpu);
                // A processor uses what it has, and walks the tables only when it has nothing or would fault.
                let cached = tlb.get(&page).copied().filter(|entry| entry.allows(access));
                let entry = cached.unwrap_or_else(|| self.process.walk(page));
                if entry.allows(access) {
                    tlb.insert(page, entry);
                    self.process.tlbs.check_live(entry);
                    let word = Host::phys_to_virt(entry.phys() + (addr - page)).cast::<AtomicU64>();
                    // SAFETY: the frame is mapped, and cannot be freed before a shootdown that takes the TLB's lock;
                    // that it was not freed *already* is what these tests are about, and the arena is there for ever.
                    return Ok(touch(unsafe { &*word }));
                }
                // A fault drops the translation that caused it.
                tlb.remove(&page);
            }
            let _off = InterruptGuard::<Host>::new();
            self.process.space.fault(addr, access)?;
        }
    }
}
