//! RCU under torture, in the manner of Linux's rcutorture: does any reader ever see a grace period that was too short?
//!
//! A writer replaces an element again and again. Each element that was replaced grows older by one step with each grace period,
//! [`PIPE`] steps long, and is used again then. A reader that holds an element at the end of its read section and finds it older
//! than one step has lived through a whole grace period, which must not be. (One step is right: it comes with the
//! replacement itself.) Beside it:
//! - A reader must see what was written into an element before its publication, and must not see it used again.
//! - Grace periods are awaited in every way that there is: [`Rcu::defer`], [`Rcu::synchronize`], [`Rcu::barrier`].
//! - After a barrier every callback that was queued before it has run, wherever it was queued.
//! - A flood of callbacks is worked off while readers read on, each callback once.
//! - Every element comes back: as many reach each age as were replaced.
//!
//! Nothing here knows whether its threads are a kernel's or the host's: the harness starts them, one for each role, and says what
//! a thread does between two read sections ([`Around`]). `kernel/sync/tests/rcu_torture.rs` does so on the host,
//! `tests/guest/src/torture.rs` in the booted kernel. A test that cannot fail is worth nothing: both run it with planted mistakes
//! in RCU ([`crate::primitive::mutant`]) and with an order of publication that is wrong ([`Publish::First`]), and it must find
//! them.

mod callbacks;
pub mod locks;
mod reader;
mod report;
mod writer;

pub use report::Report;

use crate::primitive::{
    AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, MAX_CPUS, Ordering, array_of, const_unless_loom,
};
use crate::{Platform, Rcu, RcuHead};
use callbacks::Post;
use report::Totals;

/// Steps from an element's replacement to its next use (`RCU_TORTURE_PIPE_LEN`).
pub const PIPE: usize = 10;
/// Elements: enough for a removal at each grace period, several times over.
const ELEMENTS: usize = 10 * PIPE;
/// Callbacks in one flood.
const FLOOD: usize = 1_000;

/// What readers look at. Its head is its first field, so both have one address.
#[repr(C)]
struct Element<P: Platform> {
    head: RcuHead,
    /// For callbacks: whose it is. Written by the writer before it defers.
    run: AtomicPtr<Torture<P>>,
    /// Steps since its replacement.
    age: AtomicUsize,
    /// The number of the update that published it; 0 while it is out of use. Written before the publication: a reader that
    /// finds 0 has found a publication, or a grace period, out of order.
    number: AtomicU64,
    taken: AtomicBool,
}

/// One torture's data. Lives for ever, because callbacks point into it.
pub struct Torture<P: Platform> {
    elements: [Element<P>; ELEMENTS],
    /// What readers find: an element's number in `elements`, and one; 0 for none.
    current: AtomicUsize,
    rcu: AtomicPtr<Rcu<P>>,
    /// One for each reader.
    posts: [Post; MAX_CPUS],
    flood: [Post; FLOOD],
    totals: Totals,
    /// The writer has done all its updates.
    done: AtomicBool,
    /// Somebody has seen what must not be.
    failed: AtomicBool,
}

impl<P: Platform> Torture<P> {
    const_unless_loom! {
        /// Nothing has happened yet. `const`, but not in loom models.
        pub fn new() -> Self {
            Torture {
                elements: array_of!(Element {
                    head: RcuHead::new(),
                    run: AtomicPtr::new(core::ptr::null_mut()),
                    age: AtomicUsize::new(0),
                    number: AtomicU64::new(0),
                    taken: AtomicBool::new(false),
                }; ELEMENTS),
                current: AtomicUsize::new(0),
                rcu: AtomicPtr::new(core::ptr::null_mut()),
                posts: array_of!(Post::new(); MAX_CPUS),
                flood: array_of!(Post::new(); FLOOD),
                totals: Totals::new(),
                done: AtomicBool::new(false),
                failed: AtomicBool::new(false),
            }
        }
    }
}

impl<P: Platform> Torture<P> {
    /// After a run, all of whose roles have ended: the next one counts from 0.
    pub fn reset(&self) {
        self.totals.reset();
        self.done.store(false, Ordering::Relaxed);
        self.failed.store(false, Ordering::Relaxed);
    }
}

impl<P: Platform> Default for Torture<P> {
    fn default() -> Self {
        Self::new()
    }
}

/// What kind of read section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// [`Rcu::read`] and nothing else.
    Plain,
    /// One inside another.
    Nested,
    /// With interrupts off.
    InterruptsOff,
    /// In an interrupt handler, perhaps one that has interrupted another section.
    Interrupt,
}

/// When the writer publishes an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// When it is filled.
    Filled,
    /// Before: a mistake, which readers must see.
    First,
}

/// Whether a torture goes on when it has found something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtFailure {
    /// It does.
    GoOn,
    /// It does not: for planted mistakes.
    Stop,
}

/// What the harness does for a thread.
pub struct Around<P: Platform> {
    /// Between two read sections: passes a quiescent state, as the machine's threads do, or not; the number is random.
    pub between: fn(&'static Rcu<P>, u64),
    /// Amid a read section: what an interrupt may do there; the number is random.
    pub inside: fn(&'static Rcu<P>, u64),
    /// Calls its argument as an interrupt handler would be called.
    pub interrupt: fn(&mut dyn FnMut()),
}

/// How much, and how.
pub struct Plan<P: Platform> {
    /// Seed of all random numbers.
    pub seed: u64,
    /// Updates that the writer makes.
    pub updates: u64,
    /// Looks for which a patient reader stays in its section for a grace period to end: it never should.
    pub patience: u32,
    /// See [`Publish`].
    pub publish: Publish,
    /// See [`AtFailure`].
    pub at_failure: AtFailure,
    /// See [`Around`].
    pub around: Around<P>,
}

/// By hand, because a derived one would ask the same of `P`.
macro_rules! copy {
    ($($name:ident)*) => {
        $(
            impl<P: Platform> Clone for $name<P> {
                fn clone(&self) -> Self {
                    *self
                }
            }

            impl<P: Platform> Copy for $name<P> {}
        )*
    };
}

copy! { Around Plan Run }

/// Numbers that look random: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Clone, Copy, Debug)]
pub struct Numbers(u64);

impl Numbers {
    /// Those of `seed`; `role` tells the threads of one seed apart.
    pub fn new(seed: u64, role: u64) -> Numbers {
        let mut numbers = Numbers(seed ^ role.wrapping_mul(0xd605_1d1c_95ca_4f03));
        numbers.draw();
        numbers
    }

    /// The next one.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }
}

/// A torture that runs: each role is a method, for a thread of its own.
pub struct Run<P: Platform> {
    torture: &'static Torture<P>,
    rcu: &'static Rcu<P>,
    plan: Plan<P>,
}

impl<P: Platform> Run<P> {
    /// A run over `torture`, which nobody has used before, or which is [reset](Torture::reset). Made for each thread anew, or
    /// copied.
    pub fn new(torture: &'static Torture<P>, rcu: &'static Rcu<P>, plan: Plan<P>) -> Run<P> {
        torture.rcu.store(core::ptr::from_ref(rcu).cast_mut(), Ordering::Relaxed);
        Run { torture, rcu, plan }
    }

    /// Whether the other roles shall end: the writer has, or something was found and that is enough.
    pub fn over(&self) -> bool {
        self.torture.done.load(Ordering::Relaxed) || self.stopped()
    }

    fn stopped(&self) -> bool {
        self.plan.at_failure == AtFailure::Stop && self.torture.failed.load(Ordering::Relaxed)
    }

    /// Ends all roles: for a run without a writer.
    pub fn end(&self) {
        self.torture.done.store(true, Ordering::Relaxed);
    }

    /// What has been seen so far; complete when all roles have ended.
    pub fn report(&self) -> Report {
        self.torture.totals.report()
    }

    fn fail(&self) {
        self.torture.failed.store(true, Ordering::Relaxed);
    }
}
