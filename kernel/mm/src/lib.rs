//! The memory manager: address spaces, VMAs, page faults, page tables, frames.
//!
//! | room | what it is |
//! |---|---|
//! | [`addr`] | pages and checked ranges |
//! | [`frame`] | physical frames: buddy allocator, per-CPU caches, owners |
//! | [`paging`] | page tables of programs and of the kernel |
//! | [`tree`] | the range tree: look-ups without locks, publication in one store |
//! | `vma` | what is mapped where; immutable once published |
//! | [`memory`] | what all address spaces of the machine share |
//! | [`tally`] | whose events are counted where |
//! | [`space`] | [`AddressSpace`]: its parts, making it, tearing it down |
//! | `edit` | one change of the tree: prepared, checked, published |
//! | `map`, `unmap`, `protect`, `brk`, `advise` | the calls, one verb each |
//! | `exit` | the end of a program |
//! | `placement` | where a mapping goes that asks for no address |
//! | `fault` | serving a page fault |
//! | `gather` | flush first, free after |
//! | `few` | a vector that seldom allocates |
//! | `report`, `load` | describing mappings; writing a program's first contents |
//! | `testing` | a hosted machine with a software TLB (feature `testing`) |
//!
//! Two questions, two queues. *Can any CPU still translate to this frame?* is answered by the acknowledgements of a TLB
//! shootdown: frames wait for those. *Can any CPU still hold a pointer to this?* is answered by a grace period: tree
//! nodes, VMAs and page tables wait for that.
//!
//! Lock order: the address space's update lock (in `sync::update`; sleeps), then the tree's publication section (spin,
//! interrupts off), then the buddy allocator's lock (spin, leaf). Inside the slot section of a fault only the last may be
//! taken. Nothing waits for a shootdown, a grace period or a transaction while it holds a spin lock. User memory is never
//! touched inside a transaction or a slot section.
//!
//! Called by `linux` (the calls) and `kernel` (faults, boot). No statics, no assembly, no printing.
#![no_std]

extern crate alloc;
#[cfg(any(test, feature = "testing"))]
extern crate std;

pub mod addr;
mod advise;
mod brk;
mod edit;
mod error;
mod exit;
mod fault;
mod few;
pub mod frame;
mod gather;
mod load;
mod map;
pub mod memory;
pub mod paging;
mod placement;
mod program_break;
mod protect;
mod report;
mod request;
pub mod space;
pub mod tally;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tree;
mod unmap;
mod vma;

pub use abi::{Errno, PAGE_SIZE, USER_END};

pub use self::{
    addr::{PageRange, PhysRange},
    error::{FaultError, OutOfMemory},
    frame::{Frame, Frames, Owner, Usage},
    memory::Memory,
    paging::{KernelRights, MapKernelError},
    placement::MMAP_BASE,
    request::MapRequest,
    space::{AddressSpace, MAX_MAP_COUNT},
    tally::{Snapshot, Tallies, Tally},
    vma::{Access, Attributes, Rights, VmaFlags, VmaInfo},
};
