//! A machine on the host: real page tables in host memory, host threads as CPUs, a software TLB for each of them.
//!
//! For tests of this crate and of the crates above. [`Machine`] has the memory; [`Process`] is an address space with its
//! CPUs' TLBs; a [`User`] is the program on one CPU: its loads and stores go through the TLB, then the page tables, then
//! the fault path, as a processor's do. A TLB loads what it likes, keeps what it holds until it is flushed, and remembers upper
//! levels too (`tlb`, `tlbs`): a call that forgets a flush, or frees before it flushes, fails the test.
//!
//! The platform is [`sync::testing::Host`]; [`Machine::new`] installs its shootdown hook.

mod process;
mod tlb;
mod tlbs;

use std::{alloc::Layout, boxed::Box};

use abi::Pair;
use sync::{
    CpuId,
    testing::{Hooks, Host, on_cpu, set_hooks},
};

pub use self::process::{Process, User};
use crate::{
    addr::{PAGE_SIZE, PhysRange},
    frame::{Frames, Owner, Usage},
    memory::Memory,
    paging::new_kernel_root,
};

/// A machine's memory. Machines live for ever: make few, and many processes.
pub struct Machine {
    /// What the kernel knows of it.
    pub memory: &'static Memory<Host>,
    /// Root of the kernel's page tables: empty, for no kernel runs here.
    pub kernel_root: u64,
}

impl Machine {
    /// As [`Machine::with_pair`], with the pair of protocols that `TESSERA_PAIR` names (as `rwsem+cycle`), or the default.
    ///
    /// # Panics
    /// As [`Machine::with_pair`], and if there is no such pair.
    pub fn new(frames: usize) -> &'static Machine {
        Machine::with_pair(frames, chosen_pair())
    }

    /// A machine with `frames` frames of memory, metadata included, whose address spaces are locked by `pair`.
    ///
    /// # Panics
    /// If the host has no memory, or `frames` is too few for the metadata.
    pub fn with_pair(frames: usize, pair: Pair) -> &'static Machine {
        set_hooks(Hooks { shootdown: tlbs::shootdown, point: tlbs::point, ..Hooks::NONE });
        let bytes = frames * PAGE_SIZE as usize;
        let layout = Layout::from_size_align(bytes, 2 << 20).expect("a reasonable size");
        // SAFETY: the size is not 0.
        let arena = unsafe { std::alloc::alloc_zeroed(layout) };
        assert!(!arena.is_null(), "the host has no memory for a machine of {frames} frames");
        // The host's physical window is the identity.
        let start = arena.expose_provenance() as u64;
        let region = PhysRange { start, end: start + bytes as u64 };
        // SAFETY: fresh memory that is never freed, and nobody else knows it.
        let frames = unsafe { Frames::<Host>::new(&[region]) }.expect("room for the metadata");
        let kernel_root = new_kernel_root(&frames).expect("room for a table");
        let memory: &'static Memory<Host> = Box::leak(Box::new(Memory::new(frames, pair).expect("heap")));
        Box::leak(Box::new(Machine { memory, kernel_root }))
    }

    /// Plays `cpu` while `body` runs. The CPU is idle before and after, so grace periods do not wait for it then.
    pub fn on_cpu<R>(&self, cpu: u32, body: impl FnOnce() -> R) -> R {
        struct Idle(&'static Memory<Host>);
        impl Drop for Idle {
            fn drop(&mut self) {
                self.0.rcu.idle_enter();
            }
        }
        on_cpu(CpuId(cpu), || {
            self.memory.rcu.idle_exit();
            let _idle = Idle(self.memory);
            body()
        })
    }

    /// Waits until everything deferred so far has been freed. Called from inside [`Machine::on_cpu`].
    pub fn drain(&self) {
        self.memory.rcu.barrier();
    }

    /// How the frames are used.
    pub fn usage(&self) -> Usage {
        let usage = self.memory.frames.usage();
        assert!(usage.adds_up(), "frames are missing: {usage:?}");
        usage
    }

    /// Frames that belong to programs: pages and page tables.
    pub fn program_frames(&self) -> u64 {
        let usage = self.usage();
        usage.owned_by(Owner::Anon) + usage.owned_by(Owner::PageTable)
    }
}

/// The pair of protocols that `TESSERA_PAIR` names, or the default.
///
/// # Panics
/// If there is no such pair.
pub fn chosen_pair() -> Pair {
    let Ok(name) = std::env::var("TESSERA_PAIR") else { return Pair::DEFAULT };
    let pair = Pair::all().find(|pair| std::format!("{pair}") == name);
    pair.unwrap_or_else(|| panic!("TESSERA_PAIR={name} is no pair of protocols such as {}", Pair::DEFAULT))
}
