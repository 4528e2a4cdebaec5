//! One open file: what it is, and where its reader stands.
//!
//! Copies of a descriptor share it, so they share the position. A file of the kernel's own is read from a **snapshot**: a read
//! at position 0 makes one, and reads further on go on in it, so that a file read in pieces says one thing. Going back to
//! the start and reading again, by `lseek` or `pread`, says what is so then.
//!
//! The position moves before bytes are copied to the program, because the copy may sleep and no lock is held over it: two
//! threads that read from one open file get different parts of it. A copy that fails gives back what it did not deliver.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::Errno;
use alloc::vec::Vec;
use mm::AddressSpace;
use sync::alloc::{AllocError, Arc};
use sync::{Class, SpinLock, spin_lock};

use crate::names::Node;
use crate::system::System;
use crate::texts;

/// An open file.
pub(crate) struct OpenFile<S: System> {
    node: Node,
    /// `O_APPEND` and the like, which only `fcntl` tells.
    status_flags: AtomicU32,
    reader: SpinLock<S, Reader>,
}

struct Reader {
    position: u64,
    snapshot: Option<Arc<Vec<u8>>>,
}

/// A part of a file.
pub(crate) struct Part {
    snapshot: Arc<Vec<u8>>,
    from: usize,
    len: usize,
}

impl Part {
    fn new(snapshot: Arc<Vec<u8>>, position: u64, limit: u64) -> Part {
        let from = usize::try_from(position).unwrap_or(usize::MAX).min(snapshot.len());
        let len = usize::try_from(limit).unwrap_or(usize::MAX).min(snapshot.len() - from);
        Part { snapshot, from, len }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.snapshot[self.from..self.from + self.len]
    }
}

/// Where a position counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whence {
    Start,
    Here,
}

impl<S: System> OpenFile<S> {
    /// A file that was just opened.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub(crate) fn new(node: Node, status_flags: u32) -> Result<Arc<Self>, AllocError> {
        let reader = Reader { position: 0, snapshot: None };
        let status_flags = AtomicU32::new(status_flags);
        Arc::try_new(OpenFile { node, status_flags, reader: spin_lock(Class::FileReader, reader) })
    }

    /// What it is.
    pub(crate) fn node(&self) -> Node {
        self.node
    }

    /// What `F_GETFL` tells besides the direction.
    pub(crate) fn status_flags(&self) -> u32 {
        self.status_flags.load(Ordering::Relaxed)
    }

    /// Changes those of the flags that are in `changeable`.
    pub(crate) fn set_status_flags(&self, flags: u32, changeable: u32) {
        let kept = self.status_flags() & !changeable;
        self.status_flags.store(kept | flags & changeable, Ordering::Relaxed);
    }

    /// At most `limit` bytes from `position`, for who reads from address space `reader`.
    ///
    /// # Errors
    /// `EISDIR`, `ENOMEM`.
    pub(crate) fn part(&self, position: u64, limit: u64, reader: &AddressSpace<S>) -> Result<Part, Errno> {
        Ok(Part::new(self.snapshot_at(position, reader)?, position, limit))
    }

    /// At most `limit` bytes from where the reader stands, which moves behind them.
    ///
    /// # Errors
    /// As [`OpenFile::part`].
    pub(crate) fn next_part(&self, limit: u64, reader: &AddressSpace<S>) -> Result<Part, Errno> {
        let position = self.reader.lock().position;
        let snapshot = self.snapshot_at(position, reader)?;
        let mut state = self.reader.lock();
        let part = Part::new(snapshot, state.position, limit);
        state.position += part.len as u64;
        Ok(part)
    }

    /// Gives back the last `count` bytes of a part that [`OpenFile::next_part`] gave out.
    pub(crate) fn give_back(&self, count: u64) {
        let mut state = self.reader.lock();
        state.position = state.position.saturating_sub(count);
    }

    /// Moves the reader, and says where it stands then.
    ///
    /// # Errors
    /// `EINVAL` for a place before the start or beyond all positions.
    pub(crate) fn seek(&self, offset: i64, whence: Whence) -> Result<u64, Errno> {
        let mut state = self.reader.lock();
        let base = match whence {
            Whence::Start => 0,
            Whence::Here => state.position as i64,
        };
        let position = base.checked_add(offset).and_then(|position| u64::try_from(position).ok());
        state.position = position.ok_or(Errno::EINVAL)?;
        Ok(state.position)
    }

    /// What a read at `position` reads from.
    fn snapshot_at(&self, position: u64, reader: &AddressSpace<S>) -> Result<Arc<Vec<u8>>, Errno> {
        let Node::File(text) = self.node else { return Err(Errno::EISDIR) };
        let kept = if position == 0 { None } else { self.reader.lock().snapshot.clone() };
        if let Some(snapshot) = kept {
            return Ok(snapshot);
        }
        let fresh = Arc::try_new(texts::contents(text, reader)?)?;
        // The old one goes outside the lock.
        let _old = self.reader.lock().snapshot.replace(fresh.clone());
        Ok(fresh)
    }
}
