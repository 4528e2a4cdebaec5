//! Calls on descriptors that move no data: copies, flags, positions. The streams behave like pipes.

use core::marker::PhantomData;

use abi::{Errno, nr};

use super::{Args, Caller, Entry};
use crate::files::File;
use crate::opened::Whence;
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
        (nr::lseek, lseek),
        (nr::pwrite64, pwrite64),
    ];
}

/// `O_CLOEXEC`.
pub(super) const O_CLOEXEC: u32 = 0o2_000_000;
/// `FD_CLOEXEC`.
pub(super) const FD_CLOEXEC: u32 = 1;
/// `O_APPEND`.
pub(super) const O_APPEND: u32 = 0o2_000;
/// `O_NONBLOCK`.
pub(super) const O_NONBLOCK: u32 = 0o4_000;

fn close<S: System>(caller: &Caller<'_, S>, [fd, ..]: Args) -> Result<u64, Errno> {
    let closed = caller.process().files.lock().close(fd as u32)?;
    // What nobody else has goes here, outside the lock.
    drop(closed);
    Ok(0)
}

/// A full table is `EMFILE`; the range of the new descriptor cannot be wrong here.
fn dup<S: System>(caller: &Caller<'_, S>, [fd, ..]: Args) -> Result<u64, Errno> {
    caller.process().files.lock().duplicate(fd as u32, 0, 0).map(u64::from)
}

fn dup2<S: System>(caller: &Caller<'_, S>, [fd, to, ..]: Args) -> Result<u64, Errno> {
    if fd as u32 == to as u32 {
        caller.process().files.lock().get(fd as u32)?;
    } else {
        let closed = caller.process().files.lock().duplicate_to(fd as u32, to as u32, 0)?;
        drop(closed);
    }
    Ok(u64::from(to as u32))
}

fn dup3<S: System>(caller: &Caller<'_, S>, [fd, to, flags, ..]: Args) -> Result<u64, Errno> {
    let flags = flags as u32;
    if flags & !O_CLOEXEC != 0 || fd as u32 == to as u32 {
        return Err(Errno::EINVAL);
    }
    let kept = if flags & O_CLOEXEC != 0 { FD_CLOEXEC } else { 0 };
    let closed = caller.process().files.lock().duplicate_to(fd as u32, to as u32, kept)?;
    drop(closed);
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
        F_GETFL => Ok(match &descriptor.file {
            File::In => O_RDONLY,
            File::Out(_) => O_WRONLY,
            File::Opened(file) => O_RDONLY | u64::from(file.status_flags()),
        }),
        F_SETFL => match &descriptor.file {
            File::Opened(file) => {
                file.set_status_flags(argument as u32, O_APPEND | O_NONBLOCK);
                Ok(0)
            }
            // Streams have no status flags to set (O_NONBLOCK is not there): only what changes nothing succeeds.
            File::In | File::Out(_) if argument as u32 & !0o3 == 0 => Ok(0),
            File::In | File::Out(_) => Err(Errno::EINVAL),
        },
        _ => Err(Errno::EINVAL),
    }
}

/// `ioctl(fd, request, argument)`: nothing here is a terminal or a device.
fn ioctl<S: System>(caller: &Caller<'_, S>, [fd, ..]: Args) -> Result<u64, Errno> {
    caller.process().files.lock().get(fd as u32)?;
    Err(Errno::ENOTTY)
}

const SEEK_SET: u32 = 0;
const SEEK_CUR: u32 = 1;

/// `lseek(fd, offset, whence)`: a stream has no positions. The end of a file that the kernel writes as it is read is nowhere,
/// so nothing is counted from there, as on Linux.
fn lseek<S: System>(caller: &Caller<'_, S>, [fd, offset, whence, ..]: Args) -> Result<u64, Errno> {
    let descriptor = caller.process().files.lock().get(fd as u32)?;
    match (descriptor.file, whence as u32) {
        (File::In | File::Out(_), _) => Err(Errno::ESPIPE),
        (File::Opened(file), SEEK_SET) => file.seek(offset as i64, Whence::Start),
        (File::Opened(file), SEEK_CUR) => file.seek(offset as i64, Whence::Here),
        (File::Opened(_), _) => Err(Errno::EINVAL),
    }
}

/// `pwrite64(fd, address, len, offset)`: no file here can be written at a position.
fn pwrite64<S: System>(caller: &Caller<'_, S>, [fd, _, _, offset, ..]: Args) -> Result<u64, Errno> {
    if (offset as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    let _descriptor = caller.process().files.lock().get(fd as u32)?;
    Err(Errno::ESPIPE)
}
