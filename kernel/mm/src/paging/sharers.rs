//! Which CPUs may know a translation: the *sharers* of a leaf table.
//!
//! A processor can load a translation at any time, but only by walking its own root. A leaf table stands in a CPU's own
//! tables (`view`) only from that CPU's first fault in the table's span on. So the CPUs that may hold any translation
//! of the span are those that have linked the table: one bit each, in the metadata of the table's frame.
//!
//! | who | in this order |
//! |---|---|
//! | a fault that links the table | sets its CPU's bit; full fence; stores its own level 2 entry, by which the processor then walks |
//! | a call that takes entries out | empties the entries; full fence; reads the bits |
//!
//! Either the call sees the bit, and flushes that CPU, or its fence came first: then the processor's walks, which
//! begin after the other fence, find the entries empty.
//!
//! Bits are never taken back while the table is in use: a CPU that has linked it keeps it linked until the table leaves the
//! tree of tables. A CPU's bit is set by that CPU only, so that it knows by a plain load whether it has linked the table.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use sync::{CpuId, CpuSet, Platform};

use crate::frame::Frames;

/// The CPUs whose own tables lead to one leaf table.
#[derive(Clone, Copy)]
pub(crate) struct Sharers(&'static AtomicU64);

impl Sharers {
    /// Those of the leaf table at `table`, as long as that is in use.
    pub(crate) fn of<P: Platform>(table: u64, frames: &Frames<P>) -> Sharers {
        Sharers(frames.mask_of(table))
    }

    /// Nobody: the table is new, and in no tree yet.
    #[inline]
    pub(super) fn clear(self) {
        // Relaxed: whoever finds the table has read its entry by Acquire.
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether `cpu`, the caller's own, has linked the table.
    #[inline]
    pub(super) fn contains(self, cpu: CpuId) -> bool {
        // Relaxed: the bit is this CPU's own.
        self.0.load(Ordering::Relaxed) & cpu.bit().0 != 0
    }

    /// `cpu`, the caller's own, is about to link the table.
    #[inline]
    pub(super) fn add(self, cpu: CpuId) {
        self.0.fetch_or(cpu.bit().0, Ordering::Relaxed);
        // Between the bit and the link, see above.
        fence(Ordering::SeqCst);
    }

    /// Those who had linked the table before the caller's last full fence, and perhaps others.
    #[inline]
    pub(crate) fn cpus(self) -> CpuSet {
        // Relaxed: the fence before orders it after the emptied entries.
        CpuSet(self.0.load(Ordering::Relaxed))
    }
}
