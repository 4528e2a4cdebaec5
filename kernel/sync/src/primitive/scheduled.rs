//! The façade in shuttle's models: `core`'s atomics, and before each access shuttle's scheduler may run another thread.
//! Reached through [`super`] only.
//!
//! Not shuttle's own atomics, though they would do the same: those are larger than a word, and the kernel lays atomics into
//! tree nodes. Shuttle has no weak memory: a mistake in an ordering is loom's to find.

extern crate std;

pub use core::sync::atomic::Ordering;

pub use super::cell::UnsafeCell;
pub use super::chosen::mutant;

/// The scheduler may run another thread here. Nothing outside a model, and in a thread that is failing.
pub fn switch() {
    std::thread_local! {
        // Never written. A load of shuttle's is a switch without a hint that the thread has nothing to do, as a yield would be.
        static TURN: shuttle::sync::atomic::AtomicBool = const { shuttle::sync::atomic::AtomicBool::new(false) };
    }
    if shuttle::current::try_get_current_task().is_some() && !std::thread::panicking() {
        TURN.with(|turn| turn.load(Ordering::SeqCst));
    }
}

macro_rules! scheduled {
    ($name:ident, $value:ty $(, $generic:ident)?) => {
        /// `core`'s atomic of the same name.
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name$(<$generic>)?(core::sync::atomic::$name$(<$generic>)?);

        impl$(<$generic>)? $name$(<$generic>)? {
            /// As `core`'s.
            pub const fn new(value: $value) -> Self {
                $name(core::sync::atomic::$name::new(value))
            }

            fn word(&self) -> &core::sync::atomic::$name$(<$generic>)? {
                switch();
                &self.0
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

macro_rules! scheduled_integer {
    ($name:ident, $value:ty) => {
        scheduled!($name, $value);

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

scheduled!(AtomicBool, bool);
scheduled!(AtomicPtr, *mut T, T);
scheduled_integer!(AtomicU32, u32);
scheduled_integer!(AtomicU64, u64);
scheduled_integer!(AtomicUsize, usize);

/// Not the order of locks either: a thread that waits for ever shows as such.
pub const VALIDATED: bool = false;
/// Schedule points are switches.
pub const POINTS: bool = true;
/// Most CPUs in a model.
pub const MAX_CPUS: usize = 4;
/// Sequence cells in a model.
pub const CELLS: usize = 3;
/// Places in the table of readers (`bravo`) in a model.
pub const READER_PLACES: usize = 2;
/// Faults through a VMA's own lock (`bravo`) before its bias comes back, in a model.
pub const UNBIASED_FAULTS: u64 = 1;
/// Buckets of the futex table in a model.
pub const FUTEX_BUCKETS: usize = 2;

/// The ordering itself: shuttle knows one order of all accesses.
pub const fn weaken(name: &'static str, ordering: Ordering) -> Ordering {
    let _ = name;
    ordering
}

/// A switch; all accesses are in one order anyway.
pub fn fence_named(name: &'static str) {
    let _ = name;
    switch();
}

/// The value of a word that only the caller writes: not a step of the model.
pub fn load_own(word: &AtomicU64) -> u64 {
    word.0.load(Ordering::Relaxed)
}

/// Spins while `word` is set; `relax` yields.
pub fn wait_while_set(word: &AtomicBool, relax: fn()) {
    while word.load(Ordering::Relaxed) {
        relax();
    }
}

/// Nothing: who waits in [`wait_while_set`] looks for itself.
pub fn cleared(word: &AtomicBool) {
    let _ = word;
}

/// A plain store.
pub fn store_over_rmw(word: &AtomicU64, value: u64, ordering: Ordering) {
    word.store(value, ordering);
}

/// The place of `cpu` in the table of readers (`bravo`): the same in each run, wherever the locks lie.
pub fn reader_place(_address: u64, cpu: usize, places: usize) -> usize {
    cpu % places
}
