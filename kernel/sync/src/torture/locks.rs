//! Locks under torture, in the manner of Linux's locktorture: is a writer ever beside somebody?
//!
//! Threads take one lock again and again, hold it for a moment or long, and look at two notes: that a writer is inside, and how
//! many readers are. What writers write under the lock must look whole to everybody. The notes are loaded and stored without
//! any order: the lock alone keeps them right. How often each thread had the lock is counted and told, and a lock that favours
//! some by more than two to one is told with question marks, as locktorture does; that is no failure.
//!
//! [`Busted`] is a lock that is none: a torture that it stands is worth nothing.

use core::fmt;

use super::Numbers;
use crate::primitive::{AtomicBool, AtomicU64, AtomicUsize, MAX_CPUS, Ordering, array_of, const_unless_loom};
use crate::{FairRwLock, Interruptible, Platform, SpinLock, WaitQueue};

/// Something that is taken and given back.
pub trait Contended: Sync {
    /// Runs `body` with the lock held, alone.
    fn alone(&self, body: &mut dyn FnMut());

    /// Runs `body` with the lock held, perhaps together with other readers; alone, if the lock knows no readers.
    fn together(&self, body: &mut dyn FnMut()) {
        self.alone(body);
    }
}

/// No lock at all.
pub struct Busted;

impl Contended for Busted {
    fn alone(&self, body: &mut dyn FnMut()) {
        body();
    }
}

impl<P: Platform> Contended for SpinLock<P, ()> {
    fn alone(&self, body: &mut dyn FnMut()) {
        let _guard = self.lock();
        body();
    }
}

impl<P: Platform> Contended for FairRwLock<P> {
    fn alone(&self, body: &mut dyn FnMut()) {
        let _guard = self.write();
        body();
    }

    fn together(&self, body: &mut dyn FnMut()) {
        let _guard = self.read();
        body();
    }
}

/// A lock made of a wait queue and a flag.
pub struct Queued<P: Platform> {
    taken: AtomicBool,
    queue: WaitQueue<P>,
}

impl<P: Platform> Queued<P> {
    const_unless_loom! {
        /// An open one.
        pub fn new() -> Self {
            Queued { taken: AtomicBool::new(false), queue: WaitQueue::new() }
        }
    }
}

impl<P: Platform> Default for Queued<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> Contended for Queued<P> {
    fn alone(&self, body: &mut dyn FnMut()) {
        // Acquire: what the last holder did comes before.
        let take = || self.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok();
        self.queue.wait_until(take, None, Interruptible::No);
        body();
        // Release: what we did comes before the next holder.
        self.taken.store(false, Ordering::Release);
        self.queue.wake_one();
    }
}

/// One torture's notes.
pub struct LockTorture {
    /// `lock_is_write_held`.
    writer: AtomicBool,
    /// `lock_is_read_held`: how many.
    readers: AtomicUsize,
    /// Written by writers only; equal whenever nobody writes.
    pair: [AtomicU64; 2],
    beside_writer: AtomicU64,
    torn: AtomicU64,
    met: AtomicU64,
    taken: [AtomicU64; MAX_CPUS],
    total: AtomicU64,
}

impl LockTorture {
    const_unless_loom! {
        /// Nothing has happened yet.
        pub fn new() -> Self {
            LockTorture {
                writer: AtomicBool::new(false),
                readers: AtomicUsize::new(0),
                pair: array_of!(AtomicU64::new(0); 2),
                beside_writer: AtomicU64::new(0),
                torn: AtomicU64::new(0),
                met: AtomicU64::new(0),
                taken: array_of!(AtomicU64::new(0); MAX_CPUS),
                total: AtomicU64::new(0),
            }
        }
    }

    /// **One thread**, the one number `index`: takes `lock` until all threads together have had it `goal` times. `hold` is
    /// called with a random number while the lock is held: now and then it may take long, as long as the lock allows.
    pub fn take(&self, lock: &dyn Contended, index: usize, goal: u64, seed: u64, hold: fn(u64)) {
        let mut numbers = Numbers::new(seed, index as u64);
        while self.total.fetch_add(1, Ordering::Relaxed) < goal {
            let random = numbers.draw();
            if random.is_multiple_of(4) {
                lock.alone(&mut || self.write(random >> 8, hold));
            } else {
                lock.together(&mut || self.read(random >> 8, hold));
            }
            self.taken[index % MAX_CPUS].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What a writer does with the lock held.
    pub fn write(&self, random: u64, hold: fn(u64)) {
        if self.writer.load(Ordering::Relaxed) || self.readers.load(Ordering::Relaxed) != 0 {
            self.beside_writer.fetch_add(1, Ordering::Relaxed);
        }
        self.writer.store(true, Ordering::Relaxed);
        let next = self.whole() + 1;
        self.pair[0].store(next, Ordering::Relaxed);
        hold(random);
        self.pair[1].store(next, Ordering::Relaxed);
        self.writer.store(false, Ordering::Relaxed);
    }

    /// What a reader does with the lock held.
    pub fn read(&self, random: u64, hold: fn(u64)) {
        if self.readers.fetch_add(1, Ordering::Relaxed) != 0 {
            self.met.fetch_add(1, Ordering::Relaxed);
        }
        let before = self.whole();
        hold(random);
        let after = self.whole();
        if self.writer.load(Ordering::Relaxed) || before != after {
            self.beside_writer.fetch_add(1, Ordering::Relaxed);
        }
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    /// What was written last, if it is whole.
    fn whole(&self) -> u64 {
        let [left, right] = [0, 1].map(|half: usize| self.pair[half].load(Ordering::Relaxed));
        if left != right {
            self.torn.fetch_add(1, Ordering::Relaxed);
        }
        left
    }

    /// What has been seen so far; complete when all threads have ended. `threads`: how many.
    pub fn report(&self, threads: usize) -> LockReport {
        let taken = self.taken[..threads].iter().map(|count| count.load(Ordering::Relaxed));
        LockReport {
            beside_writer: self.beside_writer.load(Ordering::Relaxed),
            torn: self.torn.load(Ordering::Relaxed),
            met: self.met.load(Ordering::Relaxed),
            written: self.pair[0].load(Ordering::Relaxed),
            total: taken.clone().sum(),
            most: taken.clone().max().unwrap_or(0),
            least: taken.min().unwrap_or(0),
        }
    }
}

impl Default for LockTorture {
    fn default() -> Self {
        Self::new()
    }
}

/// What a torture has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockReport {
    /// Times that somebody was beside a writer. A failure.
    pub beside_writer: u64,
    /// Times that something looked half written. A failure.
    pub torn: u64,
    /// Times that a reader met another.
    pub met: u64,
    /// Times that it was taken by a writer.
    pub written: u64,
    /// Times that it was taken.
    pub total: u64,
    /// By the thread that had it most often.
    pub most: u64,
    /// By the thread that had it least often.
    pub least: u64,
}

impl LockReport {
    /// All that must not be.
    pub fn failures(&self) -> u64 {
        self.beside_writer + self.torn
    }
}

impl fmt::Display for LockReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unfair = if self.most / 2 > self.least { " ???" } else { "" };
        write!(
            f,
            "taken {} times ({} to write), max/min {}/{}{unfair}, readers met {}; beside a writer {}, torn {}",
            self.total, self.written, self.most, self.least, self.met, self.beside_writer, self.torn
        )
    }
}
