//! Everything that a mapping can live through, over and over, by many threads at once, checked after every step.
//!
//! A round: map, fill (every page's first access must find zeros), check, make read-only, check again, make writable
//! again, discard the second half, fill that half anew, check, unmap.
//!
//! **Touches.** The loop counts its own first accesses to pages that are not present: each must be exactly one page
//! fault, and nothing else in a round faults. So the kernel's count of served faults must be this count plus what the
//! program's start and end cost, which a run of zero rounds shows.

use crate::must;
use crate::pattern::Pattern;
use crate::raw;
use crate::region::{PAGE, Place, Region, Rights};
use std::sync::Barrier;

/// Where the threads' regions lie relative to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Each thread has a fixed place, and a `PROT_NONE` page parts it from the next: every thread's VMA is its own.
    Apart,
    /// The same without the page between: neighbouring regions merge into one VMA, so that one thread's calls mark the
    /// VMA in which another one faults.
    Merged,
    /// The kernel chooses each region's place, anew in every round.
    Placed,
}

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where the regions lie.
    pub layout: Layout,
    /// Number of threads.
    pub threads: usize,
    /// Rounds of each thread.
    pub rounds: u64,
    /// Pages that each round maps; even.
    pub pages: usize,
    /// Every how many words of a page one is written and checked.
    pub stride: usize,
    /// Whether to ask for what must be refused.
    pub probes: Probes,
}

/// Whether the threads also try accesses that must be refused. Each of them is a page fault of the kernel's own, and not
/// one that is served: a run whose faults are counted makes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probes {
    /// No.
    None,
    /// In each thread's last round: a write to a read-only page, and a read of an unmapped one.
    LastRound,
}

/// What was done, by all threads together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// First accesses to pages that were not present: the page faults that had to happen.
    pub touches: u64,
    /// Bytes whose content was checked, and was right.
    pub checked: u64,
}

impl std::ops::AddAssign for Done {
    fn add_assign(&mut self, other: Done) {
        self.touches += other.touches;
        self.checked += other.checked;
    }
}

/// Carries the plan out.
///
/// Nobody else maps anything while the rounds go on (the standard library does while threads start), so the fixed places
/// stay free between an unmap and the next map; `MAP_FIXED_NOREPLACE` would notice if they did not.
pub fn run(plan: Plan) -> Done {
    let (_parting, places) = places(plan);
    let barrier = Barrier::new(plan.threads);
    let mut sum = Done::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = places
            .into_iter()
            .enumerate()
            .map(|(thread, reserved)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let place = reserved.as_ref().map_or(Place::Anywhere, |region| Place::At(region.address()));
                    // All threads run: from here on nobody else maps anything, and the place can be given free.
                    barrier.wait();
                    drop(reserved);
                    barrier.wait();
                    let mut done = Done::default();
                    for number in 0..plan.rounds {
                        done += round(plan, place, thread, number);
                    }
                    // Nobody gives back its stack, in whose place a region could land, while others still work.
                    barrier.wait();
                    done
                })
            })
            .collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => sum += done,
                Err(_) => crate::wrong(format_args!("a thread panicked")),
            }
        }
    });
    sum
}

/// Reserves a place for each thread, and the pages that part them.
fn places(plan: Plan) -> (Vec<Region>, Vec<Option<Region>>) {
    let apart = match plan.layout {
        Layout::Placed => return (Vec::new(), (0..plan.threads).map(|_| None).collect()),
        Layout::Apart => 1,
        Layout::Merged => 0,
    };
    let slice = plan.pages + apart;
    // A gap that is large enough is found by mapping it and giving it back.
    let arena = map(Place::Anywhere, plan.threads * slice + 2, Rights::None);
    let first = arena.address() + PAGE;
    let end = first + plan.threads * slice * PAGE;
    unmap(arena);
    // A page to either side parts the arena from whatever is mapped there.
    let mut parting = vec![map(Place::At(first - PAGE), 1, Rights::None), map(Place::At(end), 1, Rights::None)];
    let mut places = Vec::new();
    for thread in 0..plan.threads {
        let start = first + thread * slice * PAGE;
        places.push(Some(map(Place::At(start), plan.pages, Rights::None)));
        if apart > 0 {
            parting.push(map(Place::At(start + plan.pages * PAGE), apart, Rights::None));
        }
    }
    (parting, places)
}

/// One thread's round `number`.
fn round(plan: Plan, place: Place, thread: usize, number: u64) -> Done {
    let (pages, half) = (plan.pages, plan.pages / 2);
    let first = |page| Pattern::new(thread, 2 * number, page, plan.stride);
    let second = |page| Pattern::new(thread, 2 * number + 1, page, plan.stride);
    let probe = plan.probes == Probes::LastRound && number + 1 == plan.rounds;
    let mut done = Done::default();

    let region = map(place, pages, Rights::ReadWrite);
    for page in 0..pages {
        first(page).fill_fresh(&region, page);
        done.touches += 1;
    }
    done.checked += (0..pages).map(|page| first(page).check(&region, page)).sum::<u64>();

    protect(&region, Rights::Read);
    if probe {
        must!(region.refuses_writes(pages - 1), "a read-only page was written");
    }
    done.checked += (0..pages).map(|page| first(page).check(&region, page)).sum::<u64>();
    protect(&region, Rights::ReadWrite);

    if let Err(errno) = region.discard(half..pages) {
        crate::wrong(format_args!("madvise failed: {errno}"));
    }
    for page in half..pages {
        second(page).fill_fresh(&region, page);
        done.touches += 1;
    }
    done.checked += (0..half).map(|page| first(page).check(&region, page)).sum::<u64>();
    done.checked += (half..pages).map(|page| second(page).check(&region, page)).sum::<u64>();

    let gone = region.address();
    unmap(region);
    // Where the kernel chooses places, somebody else may be there already.
    if probe && plan.layout != Layout::Placed {
        must!(!raw::readable(gone), "an unmapped page was read");
    }
    done
}

fn map(place: Place, pages: usize, rights: Rights) -> Region {
    Region::map(place, pages, rights).unwrap_or_else(|errno| crate::wrong(format_args!("mmap failed: {errno}")))
}

fn protect(region: &Region, rights: Rights) {
    if let Err(errno) = region.protect(0..region.pages(), rights) {
        crate::wrong(format_args!("mprotect failed: {errno}"));
    }
}

fn unmap(region: Region) {
    if let Err(errno) = region.unmap() {
        crate::wrong(format_args!("munmap failed: {errno}"));
    }
}
