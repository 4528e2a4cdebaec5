//! An address space with TLBs, and a program's accesses on its CPUs.

use core::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use sync::{
    CpuId, InterruptGuard, Platform,
    testing::{Host, on_cpu},
};

use super::{Machine, tlbs::Registered};
use crate::{
    USER_END,
    addr::page_floor,
    error::FaultError,
    space::AddressSpace,
    vma::{Access, VmaInfo},
};

/// A program: an address space and its CPUs' TLBs. Dropped inside [`Machine::on_cpu`], like everything of the kernel's.
pub struct Process {
    /// The address space.
    pub space: AddressSpace<Host>,
    machine: &'static Machine,
    /// After `space`, whose end they must see.
    tlbs: Registered,
}

impl Process {
    /// An empty program on `machine`. Made inside [`Machine::on_cpu`] if other threads play CPUs meanwhile: whoever is on no CPU
    /// plays CPU 0.
    ///
    /// # Panics
    /// If the machine is out of memory.
    pub fn new(machine: &'static Machine) -> Process {
        Process::seeded(machine, 1)
    }

    /// As [`Process::new`]; what its TLBs load by themselves follows from `seed`.
    ///
    /// # Panics
    /// As [`Process::new`].
    pub fn seeded(machine: &'static Machine, seed: u64) -> Process {
        let space = AddressSpace::new(machine.memory, machine.kernel_root).expect("memory for an address space");
        let tlbs = Registered::new(&space, seed);
        Process { space, machine, tlbs }
    }

    /// Runs the program on `cpu` while `body` does.
    pub fn run_on<R>(&self, cpu: u32, body: impl FnOnce(&User<'_>) -> R) -> R {
        struct Leave<'a>(&'a AddressSpace<Host>);
        impl Drop for Leave<'_> {
            fn drop(&mut self) {
                self.0.leave();
            }
        }
        self.machine.on_cpu(cpu, || {
            self.space.join();
            let _leave = Leave(&self.space);
            // A new root empties the TLB, and so does the next one, before the CPU leaves this address space.
            self.tlbs.run_on(cpu as usize, || body(&User { process: self, cpu: cpu as usize }))
        })
    }

    /// All mappings.
    pub fn mappings(&self) -> Vec<VmaInfo> {
        let mut all = Vec::new();
        self.space.vmas(&mut |vma| all.push(*vma));
        all
    }

    /// Shootdowns that `cpu` got so far for this address space, its own included.
    pub fn flushes(&self, cpu: u32) -> u64 {
        self.tlbs.flushes(cpu as usize)
    }

    /// The processor of `cpu`, which runs the program, loads the translation of `page` if it can, though nobody asked it for
    /// that. Whether it could.
    pub fn preload(&self, cpu: u32, page: u64) -> bool {
        let mut tlb = self.tlbs.of(cpu as usize);
        assert!(tlb.active, "CPU {cpu} does not run the program");
        self.tlbs.walk(&mut tlb, page).is_present()
    }

    /// Fails if a TLB knows what the page tables do not say, or more than they allow. Called while nothing else happens.
    ///
    /// # Panics
    /// See above.
    pub fn check_tlbs(&self) {
        self.check_tlbs_at(0..USER_END);
    }

    /// As [`Process::check_tlbs`], for addresses that no call or fault concerns meanwhile.
    ///
    /// # Panics
    /// As [`Process::check_tlbs`].
    pub fn check_tlbs_at(&self, range: core::ops::Range<u64>) {
        self.tlbs.check(range);
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
        self.process.tlbs.touch(page);
        loop {
            {
                let tlbs = &self.process.tlbs;
                let mut tlb = tlbs.of(self.cpu);
                // A processor uses what it has, and walks the tables only when it has nothing or would fault.
                let cached = tlb.get(page).filter(|entry| entry.allows(access));
                let entry = cached.unwrap_or_else(|| tlbs.walk(&mut tlb, page));
                if entry.allows(access) {
                    tlbs.check_live(entry);
                    let word = Host::phys_to_virt(entry.phys() + (addr - page)).cast::<AtomicU64>();
                    // SAFETY: the frame is mapped, and cannot be freed before a shootdown that takes the TLB's lock;
                    // that it was not freed *already* is what these tests are about, and the arena is there for ever.
                    return Ok(touch(unsafe { &*word }));
                }
                // A fault drops the translation that caused it.
                tlb.fault(page);
            }
            // One thread may play several CPUs in turn.
            on_cpu(CpuId(self.cpu as u32), || {
                let _off = InterruptGuard::<Host>::new();
                self.process.space.fault(addr, access)
            })?;
        }
    }
}
