//! Calls on descriptors that move no data: copies, flags, positions. The streams behave like pipes.

use core::marker::PhantomData;

use abi::{Errno, nr};

use super::{Args, Caller, Entry};
use crate::files::File;
use crate::system::System;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] = &[
        (nr::close, close),
        (nr::dup, dup),
        (nr::dup2, dup2),
        (nr::dup3, dup3),
        (nr::fcntl, fcntl),
        (nr::ioctl, ioctl),
        (nr::lseek, positioned),
        (nr::pread64, positioned),
        (nr::pwrite64, positioned),
    ];
}

/// `O_CLOEXEC`.
const O_CLOEXEC: u32 = 0o2_000_000;
/// `FD_CLOEXEC`.
const FD_CLOEXEC: u32 = 1;

fn close<S: System>(caller: &Caller<'_, S>, [fd, ..]: Args) -> Result<u64, Errno> {
    caller.process().files.lock().close(fd as u32).map(|()| 0)
}

/// A full table is `EMFILE`; the range of the new descriptor cannot be wrong here.
fn dup<S: System>(caller: &Caller<'_, S>, [fd, ..]: Args) -> Result<u64, Errno> {
    caller.process().files.lock().duplicate(fd as u32, 0, 0).map(u64::from)
}

fn dup2<S: System>(caller: &Caller<'_, S>, [fd, to, ..]: Args) -> Result<u64, Errno> {
    let mut files = caller.process().files.lock();
    if fd as u32 == to as u32 {
        files.get(fd as u32)?;
    } else {
        files.duplicate_to(fd as u32, to as u32, 0)?;
    }
    Ok(u64::from(to as u32))
}

fn dup3<S: System>(caller: &Caller<'_, S>, [fd, to, flags, ..]: Args) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !O_CLOEXEC != 0 || fd as u32 == to as u32 {
        return Err(Errno::EINVAL);
    }
    let kept = if flags & O_CLOEXEC != 0 { FD_CLOEXEC } else { 0 };
    caller.process().files.lock().duplicate_to(fd as u32, to as u32, kept)?;
    Ok(u64::from(to as u32))
}

const F_DUPFD: u32 = 0;
const F_GETFD: u32 = 1;
const F_SETFD: u32 = 2;
const F_GETFL: u32 = 3;
const F_SETFL: u32 = 4;
const F_DUPFD_CLOEXEC: u32 = 1030;

const O_RDONLY: u64 = 0;
const O_WRONLY: u64 = 1;

/// `fcntl(fd, command, argument)`.
fn fcntl<S: System>(caller: &Caller<'_, S>, [fd, command, argument, ..]: Args) -> Result<u64, Errno> {
    let fd = fd as u32;
    let mut files = caller.process().files.lock();
    let descriptor = files.get(fd)?;
    match command as u32 {
        F_DUPFD => files.duplicate(fd, argument as u32, 0).map(u64::from),
        F_DUPFD_CLOEXEC => files.duplicate(fd, argument as u32, FD_CLOEXEC).map(u64::from),
        F_GETFD => Ok(u64::from(descriptor.flags)),
        F_SETFD => files.set_flags(fd, argument as u32 & FD_CLOEXEC).map(|()| 0),
        F_GETFL => Ok(match descriptor.file {
            File::In => O_RDONLY,
            File::Out(_) => O_WRONLY,
        }),
        // Streams have no status flags to set (O_NONBLOCK is not there): only what changes nothing succeeds.
        F_SETFL if argument as u32 & !0o3 == 0 => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

/// `ioctl(fd, request, argument)`: nothing here is a terminal or a device.
fn ioctl<S: System>(caller: &Caller<'_, S>, [fd, ..]: Args) -> Result<u64, Errno> {
    caller.process().files.lock().get(fd as u32)?;
    Err(Errno::ENOTTY)
}

/// `lseek`, `pread64`, `pwrite64`: a stream has no positions.
fn positioned<S: System>(caller: &Caller<'_, S>, [fd, ..]: Args) -> Result<u64, Errno> {
    caller.process().files.lock().get(fd as u32)?;
    Err(Errno::ESPIPE)
}
