//! `sync::point!(P, "name")`: a named place where a race lives.
//!
//! Names stand in [`abi::point`], with what goes on there; each is used in one place. What happens at a point is the
//! platform's choice ([`Platform::point`](crate::Platform::point)):
//!
//! | build | |
//! |---|---|
//! | without debug assertions | nothing: the macro leaves no instruction |
//! | the kernel with them | nothing, or the delays and meetings that the launcher asked for (`kernel::point`) |
//! | host tests | a planned act, or now and then a pause (`sync::testing`) |
//! | shuttle | the scheduler may run another thread |
//! | loom | nothing: it switches at every access anyway |
//!
//! Points stand in code with interrupts on and off, under spin locks, and inside slot and RCU sections. So whatever happens
//! there never sleeps, ends by itself, and serves TLB flush requests meanwhile.

/// A schedule point of a platform, by a name of [`abi::point`]; a name that is not there does not compile. A third argument, a
/// `u64`, is what the point is about.
#[macro_export]
macro_rules! point {
    ($platform:ty, $name:literal) => {
        $crate::point!($platform, $name, 0)
    };
    ($platform:ty, $name:literal, $detail:expr) => {
        if $crate::primitive::POINTS {
            <$platform as $crate::Platform>::point(const { $crate::Point::named($name) }, $detail);
        }
    };
}
