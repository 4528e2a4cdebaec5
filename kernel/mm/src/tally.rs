//! Whose events are counted where: a block of counters for each address space, one for the machine, and their sum.
//!
//! What concerns one address space (faults, transactions, their waits) is counted in its block alone, so that the sum costs
//! nothing where events happen; what concerns none (switches, calls, flushes for others) in the machine's. The block of
//! an address space outlives it: the last few that ended can still be read, and what came before them is added up. So the
//! sum never falls, and no event is lost or counted twice in it.
//!
//! | part | protected by |
//! |---|---|
//! | counts | each CPU adds to its own ([`Counters`]) |
//! | the lists, and `earlier` | the spin lock of [`Tallies`] |

use core::fmt;
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use abi::counter::COUNTERS;
use abi::extreme::EXTREMES;
use abi::{Counter, Extreme};
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use sync::alloc::try_push;
use sync::{AllocError, Arc, Class, Counters, CpuId, Longest, Platform, SpinLock, spin_lock};

/// Address spaces that have ended and whose counts can still be read one by one.
pub const ENDED_KEPT: usize = 8;

/// Longest name of a program in reports, in bytes.
pub const NAME_LEN: usize = 16;

/// What was counted in one address space.
pub struct Tally<P: Platform> {
    space: u64,
    counters: Counters<P>,
    /// Number of the process, 0 before there is one.
    process: AtomicU32,
    name: [AtomicU64; NAME_LEN / 8],
}

impl<P: Platform> Tally<P> {
    fn new(space: u64) -> Result<Self, AllocError> {
        let (process, name) = (AtomicU32::new(0), [const { AtomicU64::new(0) }; NAME_LEN / 8]);
        Ok(Tally { space, counters: Counters::new()?, process, name })
    }

    /// The address space's number ([`AddressSpace::id`](crate::AddressSpace::id)).
    pub fn space(&self) -> u64 {
        self.space
    }

    /// The number of the process in it; 0 if there never was one.
    pub fn process(&self) -> u32 {
        self.process.load(Ordering::Relaxed)
    }

    /// The program's name, with NULs behind it.
    pub fn name(&self) -> [u8; NAME_LEN] {
        let mut name = [0; NAME_LEN];
        for (bytes, word) in name.chunks_exact_mut(8).zip(&self.name) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        name
    }

    /// Says whose address space it is, for reports.
    pub fn set_owner(&self, process: u32, name: &[u8; NAME_LEN]) {
        self.process.store(process, Ordering::Relaxed);
        for (bytes, word) in name.chunks_exact(8).zip(&self.name) {
            word.store(bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)), Ordering::Relaxed);
        }
    }

    /// All of it, now.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::NOTHING;
        snapshot.add(&self.counters);
        snapshot
    }
}

/// The counters of a machine and of its address spaces.
pub struct Tallies<P: Platform> {
    machine: Counters<P>,
    spaces: SpinLock<P, Spaces<P>>,
}

struct Spaces<P: Platform> {
    next_id: u64,
    /// Of address spaces that are there, by rising number.
    live: Vec<Arc<Tally<P>>>,
    /// Of the last ones that ended, the first to end first.
    ended: ArrayVec<Arc<Tally<P>>, ENDED_KEPT>,
    /// What was counted in those that ended before.
    earlier: Counters<P>,
}

impl<P: Platform> Spaces<P> {
    fn each(&self) -> impl Iterator<Item = &Arc<Tally<P>>> {
        self.live.iter().chain(&self.ended)
    }
}

impl<P: Platform> Tallies<P> {
    /// Nothing counted, no address space.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub fn new() -> Result<Self, AllocError> {
        let spaces = Spaces { next_id: 1, live: Vec::new(), ended: ArrayVec::new(), earlier: Counters::new()? };
        Ok(Tallies { machine: Counters::new()?, spaces: spin_lock(Class::Tallies, spaces) })
    }

    /// Adds `n` to this CPU's count of what concerns no address space. See [`Counters`] for interrupts.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        self.machine.add(counter, n);
    }

    /// As [`Tallies::add`], 1.
    #[inline]
    pub fn bump(&self, counter: Counter) {
        self.machine.bump(counter);
    }

    /// The sum of all blocks, for one CPU.
    pub fn get(&self, cpu: CpuId, counter: Counter) -> u64 {
        self.sum(|counters| counters.get(cpu, counter))
    }

    /// The sum of all blocks, over all CPUs.
    pub fn total(&self, counter: Counter) -> u64 {
        self.sum(|counters| counters.total(counter))
    }

    fn sum(&self, of: impl Fn(&Counters<P>) -> u64) -> u64 {
        let spaces = self.spaces.lock();
        let sum: u64 = spaces.each().map(|tally| of(&tally.counters)).sum();
        sum + of(&self.machine) + of(&spaces.earlier)
    }

    /// The sum of everything, and the longest of all holds and waits.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::NOTHING;
        let spaces = self.spaces.lock();
        for tally in spaces.each() {
            snapshot.add(&tally.counters);
        }
        snapshot.add(&self.machine);
        snapshot.add(&spaces.earlier);
        snapshot
    }

    /// The counts of the address space with the lowest number above `space`: one that is there, or one of the last
    /// [`ENDED_KEPT`] that ended. The step of a walk that holds no lock between steps.
    pub fn after(&self, space: u64) -> Option<Arc<Tally<P>>> {
        let spaces = self.spaces.lock();
        spaces.each().filter(|tally| tally.space > space).min_by_key(|tally| tally.space).cloned()
    }

    /// A block for a new address space, which gets its number with it.
    ///
    /// # Errors
    /// [`AllocError`] if memory is out.
    pub(crate) fn register(&'static self) -> Result<Registered<P>, AllocError> {
        let space = {
            let mut spaces = self.spaces.lock();
            spaces.next_id += 1;
            spaces.next_id - 1
        };
        let tally = Arc::try_new(Tally::new(space)?)?;
        let mut spaces = self.spaces.lock();
        let place = spaces.live.partition_point(|other| other.space < space);
        try_push(&mut spaces.live, tally.clone())?;
        // Numbers rise: this moves something only if another one was registered meanwhile.
        spaces.live[place..].rotate_right(1);
        drop(spaces);
        Ok(Registered { tally, tallies: self })
    }

    /// The address space has ended: its counts move to the ended ones.
    fn end(&self, tally: &Arc<Tally<P>>) {
        let mut spaces = self.spaces.lock();
        let Ok(place) = spaces.live.binary_search_by_key(&tally.space, |other| other.space) else { return };
        let oldest = if spaces.ended.is_full() { spaces.ended.pop_at(0) } else { None };
        if let Some(oldest) = &oldest {
            spaces.earlier.absorb(&oldest.counters);
        }
        let tally = spaces.live.remove(place);
        spaces.ended.push(tally);
        drop(spaces);
        // Its memory goes back outside the lock.
        drop(oldest);
    }
}

/// An address space's own block, to count in. Dropped, it goes to those of address spaces that have ended.
pub(crate) struct Registered<P: Platform> {
    tally: Arc<Tally<P>>,
    tallies: &'static Tallies<P>,
}

impl<P: Platform> Registered<P> {
    pub(crate) fn tally(&self) -> &Tally<P> {
        &self.tally
    }
}

impl<P: Platform> Deref for Registered<P> {
    type Target = Counters<P>;

    #[inline]
    fn deref(&self) -> &Counters<P> {
        &self.tally.counters
    }
}

impl<P: Platform> Drop for Registered<P> {
    fn drop(&mut self) {
        self.tallies.end(&self.tally);
    }
}

/// Counts over all CPUs, and the longest holds and waits, of one moment.
///
/// Displayed as programs read it in `/proc/vmstat`: one line a counter, `name value`; then one line for each kind of hold or
/// wait that there was, `longest_KIND_ns value site`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    counts: [u64; COUNTERS],
    longest: [Option<Longest>; EXTREMES],
}

impl Snapshot {
    const NOTHING: Snapshot = Snapshot { counts: [0; COUNTERS], longest: [None; EXTREMES] };

    fn add<P: Platform>(&mut self, counters: &Counters<P>) {
        for &counter in Counter::ALL {
            self.counts[counter as usize] += counters.total(counter);
        }
        for &kind in Extreme::ALL {
            let place = &mut self.longest[kind as usize];
            *place = [*place, counters.longest(kind)].into_iter().flatten().max_by_key(|longest| longest.ns);
        }
    }

    /// The count.
    pub fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize]
    }

    /// Sets a count that is kept elsewhere.
    pub(crate) fn set(&mut self, counter: Counter, n: u64) {
        self.counts[counter as usize] = n;
    }

    /// The longest hold or wait of a kind; `None` if there was none.
    pub fn longest(&self, kind: Extreme) -> Option<Longest> {
        self.longest[kind as usize]
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &counter in Counter::ALL {
            writeln!(f, "{} {}", counter.name(), self.get(counter))?;
        }
        for &kind in Extreme::ALL {
            if let Some(Longest { ns, site }) = self.longest(kind) {
                writeln!(f, "longest_{}_ns {ns} {}:{}", kind.name(), site.file(), site.line())?;
            }
        }
        Ok(())
    }
}
