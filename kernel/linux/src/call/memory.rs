//! Memory calls: Linux's arguments, decoded for [`mm::AddressSpace`], which checks the rest and does the work.

use core::marker::PhantomData;

use abi::flags::map;
use abi::{Errno, PAGE_SIZE, nr};
use mm::MapRequest;

use super::{Args, Caller, Entry};
use crate::system::System;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] =
        &[(nr::mmap, mmap), (nr::munmap, munmap), (nr::mprotect, mprotect), (nr::madvise, madvise), (nr::brk, brk)];
}

/// `mmap(addr, len, prot, flags, fd, offset)`. Only anonymous memory can be mapped: the descriptors that exist are
/// streams, and files that the kernel writes as they are read.
fn mmap<S: System>(caller: &Caller<'_, S>, [addr, len, prot, flags, fd, offset]: Args) -> Result<u64, Errno> {
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    // Linux uses the low 32 bits of both, and ignores rights that it does not know.
    let (prot, flags) = (prot as u32, flags as u32);
    if flags & map::ANONYMOUS == 0 {
        caller.process().files.lock().get(fd as u32)?;
        return Err(Errno::ENODEV);
    }
    caller.process().space().mmap(MapRequest { addr, len, prot, flags })
}

fn munmap<S: System>(caller: &Caller<'_, S>, [addr, len, ..]: Args) -> Result<u64, Errno> {
    caller.process().space().munmap(addr, len).map(|()| 0)
}

fn mprotect<S: System>(caller: &Caller<'_, S>, [addr, len, prot, ..]: Args) -> Result<u64, Errno> {
    // Linux validates all 64 bits of the rights, so bits above the 32 known ones are no rights at all.
    let prot = u32::try_from(prot).map_err(|_| Errno::EINVAL)?;
    caller.process().space().mprotect(addr, len, prot).map(|()| 0)
}

fn madvise<S: System>(caller: &Caller<'_, S>, [addr, len, advice, ..]: Args) -> Result<u64, Errno> {
    caller.process().space().madvise(addr, len, advice as i32).map(|()| 0)
}

/// `brk(new)`: returns the heap's end as it is afterwards, whether or not it could be moved.
fn brk<S: System>(caller: &Caller<'_, S>, [new, ..]: Args) -> Result<u64, Errno> {
    Ok(caller.process().space().brk(new))
}
