//! Descriptors: the three streams that a program starts with, and their copies.
//!
//! There are no other files yet. The streams behave like pipes, which is what they are on the other side of the wire:
//! no position, no terminal, one direction.

use alloc::boxed::Box;

use abi::Errno;
use sync::alloc::{AllocError, try_box_slice};

use crate::system::Stream;

/// Most descriptors of a process: the limit that Linux gives programs.
pub(crate) const MAX_FILES: usize = 1024;

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// The standard input.
    In,
    /// The standard output or error.
    Out(Stream),
}

/// One open descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) file: File,
    /// `FD_CLOEXEC`, which matters to nothing until there is `execve`.
    pub(crate) flags: u32,
}

/// A process's descriptors.
pub(crate) struct Files(Box<[Option<Descriptor>]>);

impl Files {
    /// 0, 1 and 2 open.
    pub(crate) fn new() -> Result<Self, AllocError> {
        let open = |file| Some(Descriptor { file, flags: 0 });
        Ok(Files(try_box_slice(MAX_FILES, |fd| match fd {
            0 => open(File::In),
            1 => open(File::Out(Stream::Out)),
            2 => open(File::Out(Stream::Err)),
            _ => None,
        })?))
    }

    /// What `fd` stands for. Descriptors are `int`s: callers cut their argument down to 32 bits.
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn get(&self, fd: u32) -> Result<Descriptor, Errno> {
        self.0.get(fd as usize).copied().flatten().ok_or(Errno::EBADF)
    }

    /// Closes `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn close(&mut self, fd: u32) -> Result<(), Errno> {
        self.get(fd)?;
        self.0[fd as usize] = None;
        Ok(())
    }

    /// Sets the descriptor flags of `fd`.
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn set_flags(&mut self, fd: u32, flags: u32) -> Result<(), Errno> {
        let descriptor = self.0.get_mut(fd as usize).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        descriptor.flags = flags;
        Ok(())
    }

    /// Copies `fd` to the lowest free descriptor from `from` on.
    ///
    /// # Errors
    /// `EBADF`; `EINVAL` if `from` can be no descriptor; `EMFILE` if none is free.
    pub(crate) fn duplicate(&mut self, fd: u32, from: u32, flags: u32) -> Result<u32, Errno> {
        let file = self.get(fd)?.file;
        let candidates = self.0.get(from as usize..).filter(|rest| !rest.is_empty()).ok_or(Errno::EINVAL)?;
        let free = candidates.iter().position(Option::is_none).ok_or(Errno::EMFILE)? + from as usize;
        self.0[free] = Some(Descriptor { file, flags });
        Ok(free as u32)
    }

    /// Copies `fd` to `to`, closing what that was.
    ///
    /// # Errors
    /// `EBADF` if `fd` is not open or `to` can be no descriptor.
    pub(crate) fn duplicate_to(&mut self, fd: u32, to: u32, flags: u32) -> Result<(), Errno> {
        let file = self.get(fd)?.file;
        *self.0.get_mut(to as usize).ok_or(Errno::EBADF)? = Some(Descriptor { file, flags });
        Ok(())
    }
}
