//! Lists of allocated frames, linked through their metadata: any length, and no allocation.
//!
//! An unmapping collects the frames that it took out of page-table entries, and the tables that it unlinked, while
//! nothing may fail. Their metadata's links are free while they are allocated, so the list costs nothing.
//! A frame with more than one handle must not be put in a list: another list could hold it at the same time.

use core::marker::PhantomData;

use sync::Platform;

use super::{
    Frame, Frames,
    meta::{NONE, Pfn},
};

/// A stack of frame handles, each with a small number beside it.
pub(crate) struct FrameList<P: Platform> {
    frames: Frames<P>,
    head: Pfn,
    owned: PhantomData<Frame<P>>,
}

impl<P: Platform> FrameList<P> {
    pub(crate) const fn new(frames: Frames<P>) -> FrameList<P> {
        FrameList { frames, head: NONE, owned: PhantomData }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.head == NONE
    }

    /// Puts `frame` on top, and remembers `tag` with it.
    pub(crate) fn push(&mut self, frame: Frame<P>, tag: u32) {
        let zone = self.frames.zone();
        let pfn = zone.pfn(frame.into_raw());
        let meta = zone.meta(pfn);
        meta.set_links(self.head, tag);
        self.head = pfn;
    }

    /// Takes the top frame off.
    pub(crate) fn pop(&mut self) -> Option<(Frame<P>, u32)> {
        if self.is_empty() {
            return None;
        }
        let pfn = self.head;
        let zone = self.frames.zone();
        let meta = zone.meta(pfn);
        self.head = meta.link(0);
        // SAFETY: `push` made a number of the handle, and the list forgets it here.
        let frame = unsafe { self.frames.from_raw(zone.phys(pfn)) };
        Some((frame, meta.link(1)))
    }
}

impl<P: Platform> Drop for FrameList<P> {
    fn drop(&mut self) {
        while let Some((frame, _)) = self.pop() {
            drop(frame);
        }
    }
}
