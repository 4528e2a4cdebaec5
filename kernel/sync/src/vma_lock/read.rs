//! [`Readers`]: the read protocol of this boot.
//!
//! | protocol | a fault | a writer that has marked |
//! |---|---|---|
//! | [`slot`](super::slot) | announces its address before the look-up | looks at all CPUs' slots, once for all marks |
//! | [`rwsem`](super::rwsem) | tries the VMA's own reader-writer lock | takes that lock and lets it go |
//! | [`refcount`](super::refcount) | adds itself to the VMA's count | freezes the count and waits for the readers |
//! | [`bravo`](super::bravo) | announces the VMA in a table, or goes to the VMA's lock | looks through the table |
//! | `mm` | holds the address space's lock for reading | holds it for writing: nobody is inside |
//!
//! Which one runs is chosen when the machine boots, and is the same branch each time.

use abi::ReadProtocol as Name;

use super::bravo::Bravo;
use super::protocol::{Drained, ReadProtocol, name_of};
use super::refcount::Refcount;
use super::rwsem::Rwsem;
use super::slot::FaultSection;
use crate::order::{self, Class, Mode, NO_RANGE};
use crate::primitive::AtomicU64;
use crate::{AllocError, Platform, point};

/// The read protocol of this boot.
pub(super) enum Readers {
    /// Nothing in the VMA.
    Mm,
    /// See [`super::rwsem`].
    Rwsem(Rwsem),
    /// See [`super::refcount`].
    Refcount(Refcount),
    /// Nothing in the VMA: see [`super::slot`].
    Slot,
    /// See [`super::bravo`].
    Bravo(Bravo),
}

/// `$body` for the protocol that has something in the VMA; `$none` for the others.
macro_rules! in_vma {
    ($readers:expr, $protocol:ident => $body:expr, else $none:expr) => {
        match $readers {
            Readers::Mm | Readers::Slot => $none,
            Readers::Rwsem($protocol) => $body,
            Readers::Refcount($protocol) => $body,
            Readers::Bravo($protocol) => $body,
        }
    };
}

fn open_word_of<P: Platform, R: ReadProtocol<P>>(_: &R) -> u64 {
    R::OPEN
}

impl Readers {
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub(super) fn new(name: Name) -> Result<Readers, AllocError> {
        Ok(match name {
            Name::Mm => Readers::Mm,
            Name::Rwsem => Readers::Rwsem(Rwsem),
            Name::Refcount => Readers::Refcount(Refcount),
            Name::Slot => Readers::Slot,
            Name::Bravo => Readers::Bravo(Bravo::new()?),
        })
    }

    pub(super) fn open_word<P: Platform>(&self) -> u64 {
        in_vma!(self, protocol => open_word_of::<P, _>(protocol), else 0)
    }

    /// See [`ReadProtocol::try_read`].
    #[inline]
    #[track_caller]
    pub(super) fn try_read<'v, P: Platform>(
        &'v self,
        word: &'v AtomicU64,
        section: &FaultSection<'v, P>,
    ) -> Option<VmaRead<'v, P>> {
        let _ = section;
        let held = in_vma!(
            self,
            protocol => {
                order::before::<P>(Class::VmaRead, name_of(word));
                let held = ReadProtocol::<P>::try_read(protocol, word)?;
                point!(P, "vma-read-counted");
                order::acquired::<P>(Class::VmaRead, Mode::Read, name_of(word), NO_RANGE);
                held
            },
            else 0
        );
        Some(VmaRead { readers: self, word, held, platform: core::marker::PhantomData })
    }

    /// See [`ReadProtocol::drain`].
    #[track_caller]
    pub(super) fn drain<P: Platform>(&self, word: &AtomicU64) -> Drained {
        in_vma!(self, protocol => ReadProtocol::<P>::drain(protocol, word), else Drained::AtOnce)
    }

    /// See [`ReadProtocol::detach`].
    pub(super) fn detach<P: Platform>(&self, word: &AtomicU64) {
        in_vma!(self, protocol => ReadProtocol::<P>::detach(protocol, word), else ());
    }
}

/// A VMA's read lock, held. Dropping it gives it back; the VMA is alive until then (an RCU read section, or interrupts off).
#[must_use]
pub struct VmaRead<'v, P: Platform> {
    readers: &'v Readers,
    word: &'v AtomicU64,
    held: usize,
    platform: core::marker::PhantomData<*const P>,
}

impl<P: Platform> Drop for VmaRead<'_, P> {
    #[inline]
    fn drop(&mut self) {
        in_vma!(
            self.readers,
            protocol => {
                order::released::<P>(Class::VmaRead, name_of(self.word));
                ReadProtocol::<P>::end_read(protocol, self.word, self.held);
            },
            else ()
        );
    }
}
