//! Allocation that can fail, and says so by a value.
//!
//! Stable Rust's `Box::new`, `Arc::new` and `Vec::push` abort when memory is out; nothing in the portable kernel may
//! call them. All allocation of the portable kernel passes here, so one switch can make any of it fail
//! (`testing::fail_allocation_after`).
//!
//! Callers hold no particular lock; the global allocator decides where it can be called.

use core::alloc::Layout;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;

use core_alloc::boxed::Box;
use core_alloc::vec::Vec;

use crate::primitive::{AtomicUsize, Ordering, weaken};

/// There was no memory. Programs see `ENOMEM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

impl From<AllocError> for abi::Errno {
    fn from(_: AllocError) -> Self {
        abi::Errno::ENOMEM
    }
}

#[cfg(feature = "testing")]
use crate::testing::allocation_allowed;

#[cfg(not(feature = "testing"))]
fn allocation_allowed() -> bool {
    true
}

/// Uninitialised memory for a `T`, from the global allocator.
fn allocate<T>() -> Result<NonNull<T>, AllocError> {
    if !allocation_allowed() {
        return Err(AllocError);
    }
    let layout = Layout::new::<T>();
    if layout.size() == 0 {
        return Ok(NonNull::dangling());
    }
    // SAFETY: the layout's size is not 0.
    let memory = unsafe { core_alloc::alloc::alloc(layout) };
    NonNull::new(memory.cast()).ok_or(AllocError)
}

/// `value` on the heap.
///
/// # Errors
/// [`AllocError`] if memory is out; `value` is dropped then.
pub fn try_box<T>(value: T) -> Result<Box<T>, AllocError> {
    let memory = allocate::<T>()?;
    // SAFETY: `memory` is fresh (or dangling, for a type without size), aligned and large enough.
    unsafe { memory.write(value) };
    // SAFETY: the memory came from the global allocator with `T`'s layout and holds a `T`.
    Ok(unsafe { Box::from_raw(memory.as_ptr()) })
}

/// `len` elements on the heap, the `n`th made by `f(n)`.
///
/// # Errors
/// [`AllocError`] if memory is out; `f` has not been called then.
#[expect(clippy::disallowed_methods, reason = "see inside: it cannot fail here")]
pub fn try_box_slice<T>(len: usize, f: impl FnMut(usize) -> T) -> Result<Box<[T]>, AllocError> {
    let mut elements = try_vec_with_capacity(len)?;
    elements.extend((0..len).map(f));
    // The capacity may be larger than asked for; a boxed slice then shrinks, which no allocator of ours refuses, and
    // an exact one is kept as it is.
    Ok(elements.into_boxed_slice())
}

/// An empty vector that holds `capacity` elements without another allocation.
///
/// # Errors
/// [`AllocError`] if memory is out.
pub fn try_vec_with_capacity<T>(capacity: usize) -> Result<Vec<T>, AllocError> {
    let mut elements = Vec::new();
    if !allocation_allowed() {
        return Err(AllocError);
    }
    elements.try_reserve_exact(capacity).map_err(|_| AllocError)?;
    Ok(elements)
}

/// Appends `value`.
///
/// # Errors
/// [`AllocError`] if memory is out; `elements` is as it was, and `value` is dropped.
#[expect(clippy::disallowed_methods, reason = "room has been reserved")]
pub fn try_push<T>(elements: &mut Vec<T>, value: T) -> Result<(), AllocError> {
    if elements.len() == elements.capacity() {
        if !allocation_allowed() {
            return Err(AllocError);
        }
        elements.try_reserve(1).map_err(|_| AllocError)?;
    }
    elements.push(value);
    Ok(())
}

/// Appends copies of `more`.
///
/// # Errors
/// [`AllocError`] if memory is out; `elements` is as it was.
#[expect(clippy::disallowed_methods, reason = "room has been reserved")]
pub fn try_extend<T: Copy>(elements: &mut Vec<T>, more: &[T]) -> Result<(), AllocError> {
    if elements.capacity() - elements.len() < more.len() {
        if !allocation_allowed() {
            return Err(AllocError);
        }
        elements.try_reserve(more.len()).map_err(|_| AllocError)?;
    }
    elements.extend_from_slice(more);
    Ok(())
}

/// A shared owner of a `T`, counted; `core`'s `Arc`, but its making can fail.
pub struct Arc<T> {
    inner: NonNull<Inner<T>>,
    owns: PhantomData<Inner<T>>,
}

#[repr(C)]
struct Inner<T> {
    count: AtomicUsize,
    value: T,
}

// SAFETY: an `Arc` gives out `&T` on every thread that has one (`T: Sync`), and the last drops the `T` (`T: Send`).
unsafe impl<T: Send + Sync> Send for Arc<T> {}
// SAFETY: as above; `&Arc<T>` can be cloned.
unsafe impl<T: Send + Sync> Sync for Arc<T> {}

impl<T> Arc<T> {
    /// The first owner of `value`.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out; `value` is dropped then.
    pub fn try_new(value: T) -> Result<Self, AllocError> {
        let inner = try_box(Inner { count: AtomicUsize::new(1), value })?;
        Ok(Arc { inner: NonNull::from(Box::leak(inner)), owns: PhantomData })
    }

    /// Whether both own the same value.
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        a.inner == b.inner
    }

    /// The owner as a pointer; [`Arc::from_raw`] takes it back.
    pub fn into_raw(this: Self) -> *const T {
        let this = ManuallyDrop::new(this);
        // SAFETY: `inner` is alive while an owner exists, and `this` is one.
        unsafe { &raw const (*this.inner.as_ptr()).value }
    }

    /// The owner that [`Arc::into_raw`] turned into `pointer`.
    ///
    /// # Safety
    /// `pointer` came from `into_raw` of the same `T`, and each such pointer is taken back at most once.
    pub unsafe fn from_raw(pointer: *const T) -> Self {
        let offset = core::mem::offset_of!(Inner<T>, value);
        // SAFETY: the caller says that `pointer` is the `value` of an `Inner`.
        let inner = unsafe { pointer.byte_sub(offset) }.cast::<Inner<T>>().cast_mut();
        // SAFETY: it is inside an allocation, so not null.
        Arc { inner: unsafe { NonNull::new_unchecked(inner) }, owns: PhantomData }
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: the count includes `self`, so the value is alive.
        unsafe { self.inner.as_ref() }
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        // Relaxed: a new owner comes from an old one, which keeps the value alive and already sees it.
        let old = self.inner().count.fetch_add(1, Ordering::Relaxed);
        // Unreachable by honest means: 2^63 owners do not fit into memory. Leaked ones must not wrap to a free.
        assert!(old <= isize::MAX as usize, "too many owners");
        Arc { inner: self.inner, owns: PhantomData }
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        // Release: what this owner did with the value comes before the last owner's drop of it.
        if self.inner().count.fetch_sub(1, weaken("arc-drop-release", Ordering::Release)) != 1 {
            return;
        }
        // Acquire: pairs with every other owner's decrement; all of them are one release sequence.
        self.inner().count.load(weaken("arc-drop-acquire", Ordering::Acquire));
        // SAFETY: the count was 1 and ours, so no owner is left; the memory came from `try_box`.
        drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
    }
}

impl<T: core::fmt::Debug> core::fmt::Debug for Arc<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        (**self).fmt(f)
    }
}
