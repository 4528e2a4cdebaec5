//! Descriptors: the three streams that a program starts with, files that it has opened, and copies of both.
//!
//! The streams behave like pipes, which is what they are on the other side of the wire: no position, no terminal, one
//! direction. Opened files are read only.

use alloc::boxed::Box;

use abi::Errno;
use sync::alloc::{AllocError, Arc, try_box_slice};

use crate::opened::OpenFile;
use crate::system::{Stream, System};

/// Most descriptors of a process: the limit that Linux gives programs.
pub(crate) const MAX_FILES: usize = 1024;

/// What a descriptor stands for.
pub(crate) enum File<S: System> {
    /// The standard input.
    In,
    /// The standard output or error.
    Out(Stream),
    /// A file of the tree of names.
    Opened(Arc<OpenFile<S>>),
}

impl<S: System> Clone for File<S> {
    fn clone(&self) -> Self {
        match self {
            File::In => File::In,
            File::Out(stream) => File::Out(*stream),
            File::Opened(file) => File::Opened(file.clone()),
        }
    }
}

/// One open descriptor.
pub(crate) struct Descriptor<S: System> {
    pub(crate) file: File<S>,
    /// `FD_CLOEXEC`, which matters to nothing until there is `execve`.
    pub(crate) flags: u32,
}

impl<S: System> Clone for Descriptor<S> {
    fn clone(&self) -> Self {
        Descriptor { file: self.file.clone(), flags: self.flags }
    }
}

/// A process's descriptors. What is taken out of it is dropped by the caller, outside its lock.
pub(crate) struct Files<S: System>(Box<[Option<Descriptor<S>>]>);

impl<S: System> Files<S> {
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
    pub(crate) fn get(&self, fd: u32) -> Result<Descriptor<S>, Errno> {
        self.0.get(fd as usize).cloned().flatten().ok_or(Errno::EBADF)
    }

    /// Gives `file` the lowest free descriptor.
    ///
    /// # Errors
    /// `EMFILE` if none is free.
    pub(crate) fn open(&mut self, file: File<S>, flags: u32) -> Result<u32, Errno> {
        let free = self.free_from(0)?;
        self.0[free] = Some(Descriptor { file, flags });
        Ok(free as u32)
    }

    /// The lowest free descriptor from `from` on.
    ///
    /// # Errors
    /// `EINVAL` if `from` can be no descriptor; `EMFILE` if none is free.
    pub(crate) fn free_from(&self, from: usize) -> Result<usize, Errno> {
        let candidates = self.0.get(from..).filter(|rest| !rest.is_empty()).ok_or(Errno::EINVAL)?;
        Ok(candidates.iter().position(Option::is_none).ok_or(Errno::EMFILE)? + from)
    }

    /// Closes `fd`, and returns what it was.
    ///
    /// # Errors
    /// `EBADF`.
    pub(crate) fn close(&mut self, fd: u32) -> Result<Descriptor<S>, Errno> {
        self.0.get_mut(fd as usize).and_then(Option::take).ok_or(Errno::EBADF)
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
        let free = self.free_from(from as usize)?;
        self.0[free] = Some(Descriptor { file, flags });
        Ok(free as u32)
    }

    /// Copies `fd` to `to`, and returns what that was.
    ///
    /// # Errors
    /// `EBADF` if `fd` is not open or `to` can be no descriptor.
    pub(crate) fn duplicate_to(&mut self, fd: u32, to: u32, flags: u32) -> Result<Option<Descriptor<S>>, Errno> {
        let file = self.get(fd)?.file;
        Ok(self.0.get_mut(to as usize).ok_or(Errno::EBADF)?.replace(Descriptor { file, flags }))
    }
}
