//! The façade in loom models: loom's atomics, looked at more thoroughly, and orderings that can be weakened by name.
//! Reached through [`super`] only.

extern crate std;

pub use loom::cell::UnsafeCell;
pub use loom::sync::atomic::Ordering;

pub use super::chosen::mutant;

/// A loom atomic beside a second one that every access touches. loom prunes schedules by each atomic's last access
/// alone: a thread that loads before it stores hides the loads of others from the search. Read-modify-writes of the
/// second word, which order nothing, put every two accesses into both orders.
macro_rules! thorough {
    ($name:ident, $value:ty $(, $generic:ident)?) => {
        /// loom's atomic of the same name.
        #[derive(Debug)]
        pub struct $name$(<$generic>)? {
            word: loom::sync::atomic::$name$(<$generic>)?,
            accesses: loom::sync::atomic::AtomicUsize,
        }

        impl$(<$generic>)? $name$(<$generic>)? {
            /// As `core`'s.
            pub fn new(value: $value) -> Self {
                $name {
                    word: loom::sync::atomic::$name::new(value),
                    accesses: loom::sync::atomic::AtomicUsize::new(0),
                }
            }

            fn word(&self) -> &loom::sync::atomic::$name$(<$generic>)? {
                self.accesses.fetch_add(1, Ordering::Relaxed);
                &self.word
            }

            /// As `core`'s.
            pub fn load(&self, order: Ordering) -> $value {
                self.word().load(order)
            }

            /// As `core`'s.
            pub fn store(&self, value: $value, order: Ordering) {
                self.word().store(value, order);
            }

            /// As `core`'s.
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                self.word().swap(value, order)
            }

            /// As `core`'s.
            ///
            /// # Errors
            /// As `core`'s.
            pub fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.word().compare_exchange(current, new, success, failure)
            }
        }
    };
}

macro_rules! thorough_integer {
    ($name:ident, $value:ty) => {
        thorough!($name, $value);

        impl $name {
            /// As `core`'s.
            pub fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                self.word().fetch_add(value, order)
            }

            /// As `core`'s.
            pub fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                self.word().fetch_sub(value, order)
            }

            /// As `core`'s.
            pub fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                self.word().fetch_max(value, order)
            }

            /// As `core`'s.
            pub fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                self.word().fetch_or(value, order)
            }

            /// As `core`'s.
            pub fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                self.word().fetch_and(value, order)
            }
        }
    };
}

thorough!(AtomicBool, bool);
thorough!(AtomicPtr, *mut T, T);
thorough_integer!(AtomicU32, u32);
thorough_integer!(AtomicU64, u64);
thorough_integer!(AtomicUsize, usize);

/// No schedule points: loom switches at every access.
pub const POINTS: bool = false;
/// Models look at one thing at a time: locks are not validated (`crate::order`).
pub const VALIDATED: bool = false;
/// Most CPUs in a model.
pub const MAX_CPUS: usize = 3;
/// Sequence cells in a model.
pub const CELLS: usize = 2;
/// Places in the table of readers (`bravo`) in a model.
pub const READER_PLACES: usize = 2;
/// Faults through a VMA's own lock (`bravo`) before its bias comes back, in a model.
pub const UNBIASED_FAULTS: u64 = 1;
/// Buckets of the futex table in a model.
pub const FUTEX_BUCKETS: usize = 2;

/// `ordering`, or `Relaxed` if this run asked for it by `name`.
pub fn weaken(name: &'static str, ordering: Ordering) -> Ordering {
    if mutant(name) { Ordering::Relaxed } else { ordering }
}

loom::lazy_static! {
    /// Touched by every fence: loom explores the orders of accesses to one word, but not those of fences as such.
    static ref FENCES: AtomicUsize = AtomicUsize::new(0);
}

/// `fence(SeqCst)`, or nothing if this run asked for it by `name`.
pub fn fence_named(name: &'static str) {
    if !mutant(name) {
        FENCES.fetch_add(1, Ordering::Relaxed);
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}

/// The value of a word that only the caller writes: not a step of the model. (A modelled load before a store of the same
/// thread also makes loom overlook other threads' loads, and with them schedules.)
pub fn load_own(word: &AtomicU64) -> u64 {
    // SAFETY: loom checks that no other thread's store is concurrent.
    unsafe { word.word.unsync_load() }
}

type Waiters = std::collections::HashMap<usize, std::vec::Vec<loom::thread::Thread>>;

/// Who waits in [`wait_while_set`], by the word's address. Not explored: loom switches at its own operations only.
fn waiters() -> std::sync::MutexGuard<'static, Waiters> {
    static WAITERS: std::sync::LazyLock<std::sync::Mutex<Waiters>> = std::sync::LazyLock::new(Default::default);
    WAITERS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A sleep until [`cleared`]: to loom, two threads that spin for a third are a path without end. Called right after
/// a compare-and-swap found the word set; nothing comes between, so the wake-up cannot be missed.
pub fn wait_while_set(word: &AtomicBool, _relax: fn()) {
    waiters().entry(core::ptr::from_ref(word).addr()).or_default().push(loom::thread::current());
    loom::thread::park();
}

/// Wakes who waits in [`wait_while_set`]. Called right after the word was cleared.
pub fn cleared(word: &AtomicBool) {
    let woken = waiters().remove(&core::ptr::from_ref(word).addr());
    for thread in woken.into_iter().flatten() {
        thread.unpark();
    }
}

/// A swap: loom lets a thread whose plain store raced with a compare-and-swap read the older value back.
pub fn store_over_rmw(word: &AtomicU64, value: u64, ordering: Ordering) {
    word.swap(value, ordering);
}

/// Nothing: loom switches at every access.
pub fn switch() {}

/// The place of `cpu` in the table of readers (`bravo`): the same in each run, wherever the locks lie.
pub fn reader_place(_address: u64, cpu: usize, places: usize) -> usize {
    cpu % places
}
