//! Who waits for grace periods without an element: fake writers, the barrier's checker, the flood; and what they queue.

use core::ptr::NonNull;

use super::{Numbers, Run};
use crate::primitive::{AtomicU64, MAX_CPUS, Ordering, const_unless_loom};
use crate::{Platform, Rcu, RcuHead};

/// A callback that does nothing but be counted: a barrier's, or one of a flood.
#[repr(C)]
pub(super) struct Post {
    head: RcuHead,
    /// Times that it was queued; by its owner, after `defer`.
    pub(super) queued: AtomicU64,
    /// Times that it ran.
    ran: AtomicU64,
}

impl Post {
    const_unless_loom! {
        pub(super) fn new() -> Self {
            Post { head: RcuHead::new(), queued: AtomicU64::new(0), ran: AtomicU64::new(0) }
        }
    }

    /// # Safety
    /// `head` is in a `Post` that lives for ever.
    unsafe fn run(head: NonNull<RcuHead>) {
        // SAFETY: the head is the first field.
        let post = unsafe { head.cast::<Post>().as_ref() };
        // Release: what the callback does comes before whoever sees that it ran.
        post.ran.fetch_add(1, Ordering::Release);
    }

    /// Queues it, unless it waits already.
    pub(super) fn defer<P: Platform>(&'static self, rcu: &Rcu<P>) -> bool {
        let queued = self.queued.load(Ordering::Relaxed);
        // Acquire: the callback is over before the head is used again.
        if self.ran.load(Ordering::Acquire) != queued {
            return false;
        }
        // SAFETY: the post is a static's, found by nobody else, and in no queue: its last callback is over.
        unsafe { rcu.defer(NonNull::from(self).cast(), Post::run) };
        // Release: who counts it sees it queued.
        self.queued.store(queued + 1, Ordering::Release);
        true
    }
}

impl Post {
    fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    fn is_waiting(&self) -> bool {
        // Acquire: the callback is over.
        self.ran.load(Ordering::Acquire) < self.queued()
    }
}

impl<P: Platform> Run<P> {
    /// **A fake writer**: waits for grace periods without a reason, until the writer ends. `index`: which of them.
    pub fn fake_writer(&self, index: usize) {
        let mut numbers = Numbers::new(self.plan.seed, 1_000 + index as u64);
        // Once at least.
        loop {
            if numbers.draw().is_multiple_of(4) {
                self.rcu.barrier()
            } else {
                self.rcu.synchronize()
            }
            self.torture.totals.fake.add(1);
            (self.plan.around.between)(self.rcu, numbers.draw());
            if self.over() {
                return;
            }
        }
    }

    /// **The barrier's checker**: after a barrier, whatever any reader had queued before it has run.
    pub fn barriers(&self) {
        let mut numbers = Numbers::new(self.plan.seed, 2_000);
        let mut before = [0; MAX_CPUS];
        // Once at least.
        loop {
            for (post, before) in self.torture.posts.iter().zip(&mut before) {
                // Acquire: what we count was queued.
                *before = post.queued.load(Ordering::Acquire);
            }
            self.rcu.barrier();
            let late = self.torture.posts.iter().zip(&before).filter(|(post, before)| {
                // Relaxed: the barrier orders.
                post.ran.load(Ordering::Relaxed) < **before
            });
            let late = late.count() as u64;
            self.torture.totals.barriers.add(1);
            self.torture.totals.barrier_failures.add(late);
            if late != 0 {
                self.fail();
            }
            (self.plan.around.between)(self.rcu, numbers.draw());
            if self.over() {
                return;
            }
        }
    }

    /// **The flood**: queues more callbacks at once than a batch takes, and sees that all run, once, while the readers read
    /// on; again until the writer ends. Ends when the last flood has run off.
    pub fn floods(&self) {
        let mut numbers = Numbers::new(self.plan.seed, 3_000);
        // Once at least.
        loop {
            let queued = self.torture.flood.iter().filter(|post| post.defer(self.rcu)).count();
            self.torture.totals.flooded.add(queued as u64);
            // No barrier: it must run off by itself.
            while self.torture.flood.iter().any(Post::is_waiting) {
                (self.plan.around.between)(self.rcu, numbers.draw());
            }
            let twice = self.torture.flood.iter().filter(|post| post.ran.load(Ordering::Relaxed) != post.queued());
            self.torture.totals.flood_failures.add(twice.count() as u64);
            if self.over() {
                return;
            }
        }
    }
}
