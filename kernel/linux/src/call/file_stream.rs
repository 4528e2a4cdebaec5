//! Reading and writing: the streams, and files that were opened.
//!
//! Data passes through one buffer on the kernel's stack. Copies stop at page boundaries, so that what lies before a
//! page that cannot be accessed is still transferred, and counted, as on Linux: an error is only returned if nothing
//! was.

use core::marker::PhantomData;

use abi::{Errno, nr};
use sync::alloc::Arc;

use super::{Args, Caller, Entry};
use crate::files::File;
use crate::opened::OpenFile;
use crate::system::{Stream, System};
use crate::usercopy;

pub(super) struct Calls<S>(PhantomData<S>);

impl<S: System> Calls<S> {
    pub(super) const LIST: &'static [Entry<S>] =
        &[(nr::read, read), (nr::pread64, pread64), (nr::write, write), (nr::readv, readv), (nr::writev, writev)];
}

/// Bytes of the buffer. Shorter writes reach the stream in one piece.
const BUFFER: usize = 1024;

/// Most bytes that one call moves (`MAX_RW_COUNT`).
const MAX_TRANSFER: u64 = 0x7fff_f000;

/// Most parts of a vector (`IOV_MAX`).
const MAX_PARTS: u64 = 1024;

/// The user memory of one call: one range, or a vector of them.
#[derive(Clone, Copy)]
enum Memory {
    One {
        address: u64,
        len: u64,
    },
    /// `count` of `struct iovec` at `parts`.
    Vector {
        parts: u64,
        count: u64,
    },
}

impl Memory {
    fn count(self) -> u64 {
        match self {
            Memory::One { .. } => 1,
            Memory::Vector { count, .. } => count,
        }
    }

    /// Part `index` as address and length.
    fn part<S: System>(self, index: u64) -> Result<(u64, u64), Errno> {
        match self {
            Memory::One { address, len } => Ok((address, len)),
            Memory::Vector { parts, .. } => {
                let [address, len] = usercopy::read_words::<S, 2>(parts.wrapping_add(16 * index))?;
                Ok((address, len))
            }
        }
    }

    /// Checks all parts, and returns the sum of their lengths, at most [`MAX_TRANSFER`].
    ///
    /// # Errors
    /// `EINVAL` for too many parts or a negative length; `EFAULT` if a part leaves the programs' half.
    fn checked_len<S: System>(self) -> Result<u64, Errno> {
        if self.count() > MAX_PARTS {
            return Err(Errno::EINVAL);
        }
        let mut total = 0u64;
        for index in 0..self.count() {
            let (address, len) = self.part::<S>(index)?;
            if (len as i64) < 0 {
                return Err(Errno::EINVAL);
            }
            usercopy::check_range(address, len)?;
            total = total.saturating_add(len).min(MAX_TRANSFER);
        }
        Ok(total)
    }
}

/// Calls `step(address, len)` for the pieces of `memory`, in order: none crosses a page, and together they are
/// `limit` bytes. Stops at the first error, and returns the bytes before it with it.
fn for_each_piece<S: System>(
    memory: Memory,
    limit: u64,
    mut step: impl FnMut(u64, usize) -> Result<(), Errno>,
) -> (u64, Result<(), Errno>) {
    let mut done = 0;
    for index in 0..memory.count() {
        let (mut address, mut len) = match memory.part::<S>(index) {
            Ok(part) => part,
            Err(errno) => return (done, Err(errno)),
        };
        while len > 0 && done < limit {
            let piece = (usercopy::in_page(address).min(BUFFER) as u64).min(len).min(limit - done);
            if let Err(errno) = step(address, piece as usize) {
                return (done, Err(errno));
            }
            address = address.wrapping_add(piece);
            len -= piece;
            done += piece;
        }
    }
    (done, Ok(()))
}

/// What a call returns that moved `done` bytes before it met `outcome`.
fn partial(done: u64, outcome: Result<(), Errno>) -> Result<u64, Errno> {
    match outcome {
        Err(errno) if done == 0 => Err(errno),
        _ => Ok(done),
    }
}

fn output<S: System>(caller: &Caller<'_, S>, fd: u64) -> Result<Stream, Errno> {
    let descriptor = caller.process().files.lock().get(fd as u32)?;
    match descriptor.file {
        File::Out(stream) => Ok(stream),
        File::In | File::Opened(_) => Err(Errno::EBADF),
    }
}

/// What `read` reads from.
enum Source<S: System> {
    Stdin,
    File(Arc<OpenFile<S>>),
}

fn input<S: System>(caller: &Caller<'_, S>, fd: u64) -> Result<Source<S>, Errno> {
    let descriptor = caller.process().files.lock().get(fd as u32)?;
    match descriptor.file {
        File::In => Ok(Source::Stdin),
        File::Opened(file) => Ok(Source::File(file)),
        File::Out(_) => Err(Errno::EBADF),
    }
}

impl<S: System> Source<S> {
    fn read_to(&self, caller: &Caller<'_, S>, memory: Memory) -> Result<u64, Errno> {
        match self {
            Source::Stdin => read_to::<S>(memory),
            Source::File(file) => read_file(caller, file, memory),
        }
    }
}

/// Reads from where the file's reader stands, which moves behind what was delivered.
fn read_file<S: System>(caller: &Caller<'_, S>, file: &OpenFile<S>, memory: Memory) -> Result<u64, Errno> {
    let limit = memory.checked_len::<S>()?;
    let part = file.next_part(limit, caller.process().space())?;
    let (done, outcome) = copy_out::<S>(memory, part.bytes());
    file.give_back(part.bytes().len() as u64 - done);
    partial(done, outcome)
}

/// Copies `bytes`, no more than `memory` is long, to it.
fn copy_out<S: System>(memory: Memory, bytes: &[u8]) -> (u64, Result<(), Errno>) {
    let mut rest = bytes;
    for_each_piece::<S>(memory, bytes.len() as u64, |address, len| {
        let (piece, after) = rest.split_at(len);
        rest = after;
        S::copy_out(address, piece)
    })
}

fn write_from<S: System>(stream: Stream, memory: Memory) -> Result<u64, Errno> {
    let limit = memory.checked_len::<S>()?;
    let mut buffer = [0; BUFFER];
    let mut filled = 0;
    let (done, outcome) = for_each_piece::<S>(memory, limit, |address, len| {
        if filled + len > BUFFER {
            S::write_stream(stream, &buffer[..filled]);
            filled = 0;
        }
        S::copy_in(&mut buffer[filled..filled + len], address)?;
        filled += len;
        Ok(())
    });
    if filled > 0 {
        S::write_stream(stream, &buffer[..filled]);
    }
    partial(done, outcome)
}

/// Takes what the input has, at most a buffer full. Bytes that cannot be delivered because the program's memory
/// cannot be written are lost.
fn read_to<S: System>(memory: Memory) -> Result<u64, Errno> {
    let limit = memory.checked_len::<S>()?;
    if limit == 0 {
        return Ok(0);
    }
    let mut buffer = [0; BUFFER];
    let wanted = limit.min(BUFFER as u64) as usize;
    let got = S::read_stdin(&mut buffer[..wanted])?;
    let (done, outcome) = copy_out::<S>(memory, &buffer[..got]);
    partial(done, outcome)
}

/// `read(fd, address, len)`.
fn read<S: System>(caller: &Caller<'_, S>, [fd, address, len, ..]: Args) -> Result<u64, Errno> {
    input(caller, fd)?.read_to(caller, Memory::One { address, len })
}

/// `pread64(fd, address, len, offset)`: as `read`, from `offset`, and the file's reader stays where it is.
fn pread64<S: System>(caller: &Caller<'_, S>, [fd, address, len, offset, ..]: Args) -> Result<u64, Errno> {
    if (offset as i64) < 0 {
        return Err(Errno::EINVAL);
    }
    let descriptor = caller.process().files.lock().get(fd as u32)?;
    let File::Opened(file) = descriptor.file else { return Err(Errno::ESPIPE) };
    let memory = Memory::One { address, len };
    let limit = memory.checked_len::<S>()?;
    let part = file.part(offset, limit, caller.process().space())?;
    let (done, outcome) = copy_out::<S>(memory, part.bytes());
    partial(done, outcome)
}

/// `write(fd, address, len)`.
fn write<S: System>(caller: &Caller<'_, S>, [fd, address, len, ..]: Args) -> Result<u64, Errno> {
    let stream = output(caller, fd)?;
    write_from::<S>(stream, Memory::One { address, len })
}

/// `readv(fd, parts, count)`.
fn readv<S: System>(caller: &Caller<'_, S>, [fd, parts, count, ..]: Args) -> Result<u64, Errno> {
    input(caller, fd)?.read_to(caller, Memory::Vector { parts, count })
}

/// `writev(fd, parts, count)`.
fn writev<S: System>(caller: &Caller<'_, S>, [fd, parts, count, ..]: Args) -> Result<u64, Errno> {
    let stream = output(caller, fd)?;
    write_from::<S>(stream, Memory::Vector { parts, count })
}
