//! Page tables: of programs (`walk`; `view`: what each CPU sees of them) and of the kernel ([`map_kernel`]).
//!
//! Entries are atomics in raw memory, reached through the physical window. A program's tables are filled by faults and
//! emptied by transactions; the rules are in `walk`. The kernel's tables are filled at boot and for kernel stacks.

mod entry;
mod kernel;
mod sharers;
pub(crate) mod table;
mod view;
mod walk;

pub use self::{
    entry::{Entry, EntryCell},
    kernel::{KernelRights, MapKernelError, map_kernel, new_kernel_root, prepare_kernel_slot, translate, unmap_kernel},
};
pub(crate) use self::{
    sharers::Sharers,
    walk::{PageTables, Unlinked},
};
