//! A vector for a handful: up to [`INLINE`] elements need no allocation, more can fail.
//!
//! Most changes of an address space concern one to three mappings. Used by `edit`.

use core::ops::{Deref, DerefMut};

use alloc::vec::Vec;
use arrayvec::ArrayVec;
use sync::{
    AllocError,
    alloc::{try_push, try_vec_with_capacity},
};

/// Elements that fit without an allocation.
const INLINE: usize = 4;

/// The elements: all of them inline, or all of them on the heap.
pub(crate) struct Few<T: Copy> {
    inline: ArrayVec<T, INLINE>,
    heap: Vec<T>,
}

impl<T: Copy> Few<T> {
    pub(crate) const fn new() -> Few<T> {
        Few { inline: ArrayVec::new_const(), heap: Vec::new() }
    }

    /// Appends `value`.
    #[expect(clippy::disallowed_methods, reason = "room has been reserved")]
    pub(crate) fn push(&mut self, value: T) -> Result<(), AllocError> {
        if self.heap.is_empty() {
            if self.inline.try_push(value).is_ok() {
                return Ok(());
            }
            let mut heap = try_vec_with_capacity(4 * INLINE)?;
            heap.extend_from_slice(&self.inline);
            self.heap = heap;
            self.inline.clear();
        }
        try_push(&mut self.heap, value)
    }
}

impl<T: Copy> Default for Few<T> {
    fn default() -> Self {
        Few::new()
    }
}

impl<T: Copy> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        if self.heap.is_empty() { &self.inline } else { &self.heap }
    }
}

impl<T: Copy> DerefMut for Few<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        if self.heap.is_empty() { &mut self.inline } else { &mut self.heap }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stay_in_order_on_the_way_to_the_heap() {
        let mut few = Few::new();
        for n in 0..100 {
            assert_eq!(few.len(), n);
            few.push(n).unwrap();
            assert!(few.iter().copied().eq(0..=n));
        }
        few[50] = 7;
        assert_eq!(few[50], 7);
    }
}
