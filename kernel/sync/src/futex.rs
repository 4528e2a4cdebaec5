//! The futex table: threads that sleep on a user address.
//!
//! `wait` must sleep only if the user word still has the expected value, and a `wake` that follows a change of the word
//! must not miss it. The word is user memory, so it is read without locks (the read may fault and sleep). Each bucket
//! therefore counts its wakes: a waiter notes the count, has the word checked, and enters the queue only if, under the
//! bucket's lock, the count is still the same; else it checks again. So the wait takes place, as a whole, at the moment of
//! that last look, exactly as if the word had been read under the lock:
//! - a wake before the note happens before the check, which sees the changed word;
//! - a wake between note and entry changes the count;
//! - a wake after the entry finds the waiter.
//!
//! Everything is ordered by the buckets' spin locks. Waiters lie on their threads' stacks; a waker unparks them under
//! the lock of their bucket, through which they pass before they leave. `requeue` holds both buckets' locks, lower first.

use core::cell::Cell;
use core::ptr::NonNull;

use abi::Errno;

use crate::list::{List, Node};
use crate::order::{self, Class, NO_RANGE, Wait, Waiting};
use crate::primitive::{AtomicUsize, FUTEX_BUCKETS, Ordering, array_of, const_unless_loom, mutant};
use crate::spin::{SpinGuard, SpinLock, spin_lock};
use crate::{Platform, ThreadId, point};

/// Which word: an address in an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FutexKey {
    /// Identity of the address space (or of the object, for shared words).
    pub space: u64,
    /// User address of the word.
    pub addr: u64,
}

impl FutexKey {
    /// Its place in the table: shown so that tests can choose words of different buckets.
    pub fn bucket(self) -> usize {
        // Fibonacci hashing; words are 4-byte aligned, so the low bits say nothing and the high ones are taken.
        let mixed = (self.addr >> 2).wrapping_add(self.space.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize % FUTEX_BUCKETS
    }
}

struct Waiter {
    thread: ThreadId,
    bitset: u32,
    /// Under the lock of the waiter's bucket.
    key: Cell<FutexKey>,
    /// Whose queue the waiter is in, or was in last. Written by `requeue`, under the locks of both buckets, so it stands
    /// still for whoever holds the lock that it names.
    bucket: AtomicUsize,
}

struct Bucket {
    /// Wakes and requeues so far.
    wakes: u64,
    waiters: List<Waiter>,
}

const_unless_loom! {
    fn open_bucket<P: Platform>() -> SpinLock<P, Bucket> {
        spin_lock(Class::FutexBucket, Bucket { wakes: 0, waiters: List::new() })
    }
}

/// All threads that sleep on user words.
pub struct FutexTable<P: Platform> {
    buckets: [SpinLock<P, Bucket>; FUTEX_BUCKETS],
}

impl<P: Platform> FutexTable<P> {
    const_unless_loom! {
        /// A table where nobody sleeps. `const`, but not in loom models.
        pub fn new() -> Self {
            FutexTable { buckets: array_of!(open_bucket(); FUTEX_BUCKETS) }
        }
    }

    /// Sleeps on `key` until a wake whose bitset meets `bitset`. `check` says whether the word still has the expected
    /// value; it is called without locks, perhaps several times, and may sleep.
    ///
    /// # Errors
    /// `EAGAIN` if the word has changed, `ETIMEDOUT` if the deadline ([`Platform::now_ns`]'s clock) passed, `EINTR` if the
    /// thread was told to die, and what `check` says.
    pub fn wait(
        &self,
        key: FutexKey,
        bitset: u32,
        deadline_ns: Option<u64>,
        mut check: impl FnMut() -> Result<bool, Errno>,
    ) -> Result<(), Errno> {
        order::may_sleep::<P>();
        let home = key.bucket();
        let mut node = Node::new(Waiter {
            thread: P::current_thread(),
            bitset,
            key: Cell::new(key),
            bucket: AtomicUsize::new(home),
        });
        let node = NonNull::from(&mut node);
        loop {
            let noted = self.buckets[home].lock().wakes;
            point!(P, "futex-noted");
            if !check()? {
                return Err(Errno::EAGAIN);
            }
            point!(P, "futex-checked");
            let mut entry = self.buckets[home].lock();
            if entry.wakes == noted || mutant("futex-no-recheck") {
                // SAFETY: the node is in no list; `sleep` returns only when it is out of all.
                unsafe { entry.waiters.push_back(node) };
                break;
            }
        }
        self.sleep(node, deadline_ns)
    }

    /// The second half of `wait`: the node is in a queue.
    fn sleep(&self, node: NonNull<Node<Waiter>>, deadline_ns: Option<u64>) -> Result<(), Errno> {
        let address = node.as_ptr().addr() as u64;
        let _waiting = Waiting::<P>::new(Wait::Event, Class::None, address, NO_RANGE);
        loop {
            {
                let mut bucket = self.lock_bucket_of(node);
                // SAFETY: the node is ours, and in this bucket's queue or none.
                if unsafe { !bucket.waiters.is_linked(node) } {
                    return Ok(());
                }
                let error = if P::interrupted() {
                    Some(Errno::EINTR)
                } else if deadline_ns.is_some_and(|deadline| P::now_ns() >= deadline) {
                    Some(Errno::ETIMEDOUT)
                } else {
                    None
                };
                if let Some(error) = error {
                    // SAFETY: it is linked here.
                    unsafe { bucket.waiters.remove(node) };
                    return Err(error);
                }
            }
            point!(P, "futex-parking");
            P::park(deadline_ns);
        }
    }

    /// The lock of the bucket that the caller's own `node` is in.
    fn lock_bucket_of(&self, node: NonNull<Node<Waiter>>) -> SpinGuard<'_, P, Bucket> {
        // SAFETY: the node is the caller's own, hence alive; wakers read its value and write its atomics and cells.
        let waiter = unsafe { &(*node.as_ptr()).value };
        loop {
            // Relaxed: a hint until it is confirmed under the lock that it names.
            let home = waiter.bucket.load(Ordering::Relaxed);
            let bucket = self.buckets[home].lock();
            if waiter.bucket.load(Ordering::Relaxed) == home {
                return bucket;
            }
        }
    }

    /// Wakes up to `count` threads that sleep on `key` with a bitset that meets `bitset`, longest waiting first.
    /// Returns how many.
    pub fn wake(&self, key: FutexKey, count: usize, bitset: u32) -> usize {
        point!(P, "futex-waking");
        let mut bucket = self.buckets[key.bucket()].lock();
        bucket.wakes += 1;
        bucket.wake::<P>(key, count, bitset)
    }

    /// How many threads sleep on `key` now: for reports and tests.
    pub fn sleeping(&self, key: FutexKey) -> usize {
        // Counts without touching anybody.
        self.buckets[key.bucket()].lock().first(usize::MAX, |waiter| waiter.key.get() == key, |_, _| {})
    }

    /// Wakes up to `wake` threads that sleep on `from`, and lets up to `move_` of the others sleep on `to` instead.
    /// Returns how many were woken or moved.
    pub fn requeue(&self, from: FutexKey, to: FutexKey, wake: usize, move_: usize) -> usize {
        let (source, target) = (from.bucket(), to.bucket());
        if source == target {
            let mut bucket = self.buckets[source].lock();
            bucket.wakes += 1;
            let woken = bucket.wake::<P>(from, wake, u32::MAX);
            return woken + bucket.rename(from, to, move_);
        }
        let mut low = self.buckets[source.min(target)].lock();
        let mut high = self.buckets[source.max(target)].lock();
        let (bucket, other) = if source < target { (&mut *low, &mut *high) } else { (&mut *high, &mut *low) };
        bucket.wakes += 1;
        let woken = bucket.wake::<P>(from, wake, u32::MAX);
        let moved = bucket.hand_over(from, to, move_, other);
        // In the reverse order of taking (`spin`).
        drop(high);
        drop(low);
        woken + moved
    }
}

impl<P: Platform> Default for FutexTable<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl Bucket {
    /// Wakes the first `count` waiters of `key` whose bitset meets `bitset`.
    fn wake<P: Platform>(&mut self, key: FutexKey, count: usize, bitset: u32) -> usize {
        self.first(
            count,
            |waiter| waiter.key.get() == key && waiter.bitset & bitset != 0,
            |bucket, node| {
                // SAFETY: `first` hands out linked nodes.
                unsafe { bucket.waiters.remove(node) };
                // SAFETY: the waiter passes through the bucket's lock, which our caller holds, before its node goes.
                P::unpark(unsafe { &(*node.as_ptr()).value }.thread);
            },
        )
    }

    /// Gives the first `count` waiters of `from` the key `to` of the same bucket.
    fn rename(&mut self, from: FutexKey, to: FutexKey, count: usize) -> usize {
        self.first(
            count,
            |waiter| waiter.key.get() == from,
            |_, node| {
                // SAFETY: as in `wake`.
                unsafe { &(*node.as_ptr()).value }.key.set(to);
            },
        )
    }

    /// Moves the first `count` waiters of `from` to `other`, the bucket of `to`. The caller holds both locks.
    fn hand_over(&mut self, from: FutexKey, to: FutexKey, count: usize, other: &mut Bucket) -> usize {
        self.first(
            count,
            |waiter| waiter.key.get() == from,
            |bucket, node| {
                // SAFETY: `first` hands out linked nodes.
                unsafe { bucket.waiters.remove(node) };
                // SAFETY: as in `wake`.
                let waiter = unsafe { &(*node.as_ptr()).value };
                waiter.key.set(to);
                // Relaxed: see `Waiter::bucket`.
                waiter.bucket.store(to.bucket(), Ordering::Relaxed);
                // SAFETY: it is out of our queue, and stays alive until it is out of the other.
                unsafe { other.waiters.push_back(node) };
            },
        )
    }

    /// Calls `act` with each of the first `count` waiters that `wanted` accepts. Returns how many there were.
    fn first(
        &mut self,
        count: usize,
        wanted: impl Fn(&Waiter) -> bool,
        mut act: impl FnMut(&mut Bucket, NonNull<Node<Waiter>>),
    ) -> usize {
        let mut done = 0;
        let mut cursor = self.waiters.front();
        while let Some(node) = cursor
            && done < count
        {
            // SAFETY: `node` is linked: `act` touches only nodes that the cursor has passed.
            cursor = unsafe { self.waiters.next(node) };
            // SAFETY: linked nodes are alive; their values are shared, cells under the lock that our caller holds.
            if wanted(unsafe { &(*node.as_ptr()).value }) {
                act(self, node);
                done += 1;
            }
        }
        done
    }
}
