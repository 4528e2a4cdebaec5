//! Mistakes planted on purpose, to see that a test catches them: on one thread, by name.
//!
//! The shipped code asks `primitive::mutant` where it could be wrong; outside tests the answer is a constant *no*.

use core::cell::Cell;

std::thread_local! {
    static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Runs `body`, in which this thread makes the mistake called `name`; with `None`, none.
pub fn planted<R>(name: Option<&'static str>, body: impl FnOnce() -> R) -> R {
    struct Back(Option<&'static str>);
    impl Drop for Back {
        fn drop(&mut self) {
            PLANTED.set(self.0);
        }
    }
    let _back = Back(PLANTED.replace(name));
    body()
}

/// Whether this thread makes the mistake called `name`.
pub fn is_planted(name: &str) -> bool {
    PLANTED.get() == Some(name)
}
