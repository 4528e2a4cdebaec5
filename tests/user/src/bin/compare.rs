//! What lock protocols are compared by: six workloads, one after the other, each between markers and with every content
//! checked, for `cargo run -- compare` to count.
//!
//! `compare THREADS OPERATIONS [plant]`: the threads run pinned to CPUs 1 to THREADS; the first thread only waits, asleep, on
//! CPU 0. OPERATIONS is the number of page faults of each thread in a window; of calls it is a quarter. With `plant` one
//! word is changed behind the checks' back, which must find it.
//!
//! What is not compared stays apart: each thread has a part of the address space to itself, 64 MiB from the next one's, so
//! that no two touch as VMAs, share a page table's leaf, or a line of the tables above. Each thread makes its page tables
//! before the window. Mappings stay to the end, but for those whose coming and going is what is compared: so no thread
//! clears frames that another one has written.
//!
//! It prints one line a window, `compared WINDOW KIND OPERATIONS CHECKED-BYTES WHAT`, and before it, where the kernel has such
//! a file, `counter WINDOW NAME DIFFERENCE` for each of `/proc/self/vmstat`'s lines that changed while the threads worked.

use std::collections::BTreeMap;
use std::hint::spin_loop;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use user::marker;
use user::must;
use user::pattern::Pattern;
use user::raw;
use user::region::{PAGE, Place, Region, Rights};

/// Where the threads' parts for the first window begin: nothing else is mapped there.
const BASE: usize = 0x1000_0000_0000;
/// Bytes from one window's parts to the next one's.
const WINDOW_APART: usize = 1 << 40;
/// Bytes from one thread's part to the next one's.
const APART: usize = 64 << 20;
/// Pages below one leaf of the page tables.
const LEAF: usize = 512;
/// Most operations: their pages must fit into half a part.
const MOST: u64 = (APART / 2 / PAGE / LEAF * (LEAF - 1)) as u64;
/// One word in so many is written and checked.
const STRIDE: usize = 64;
/// Pages of each mapping that comes and goes, and of each that changes its rights.
const SMALL: usize = 16;
/// Faults between two calls of a writer that has no CPU of its own.
const TURN: usize = 8;
/// Where a writer changes rights: away from the ends of its VMA, which is cut in three and merged again.
const MIDDLE: usize = 64;

/// What each window holds, and whether its threads change the address space only where no other one does.
const WINDOWS: [(u32, &str, &str); 8] = [
    (PRIVATE, "other", "fault, own VMA"),
    (SHARED, "other", "fault, one VMA for all"),
    (BESIDE, "other", "fault, own VMA, beside a writer elsewhere"),
    (ELSEWHERE, "other", "  that writer: mprotect"),
    (WITHIN, "other", "fault, one VMA, beside a writer in it"),
    (SAME, "other", "  that writer: mprotect"),
    (DISJOINT, "disjoint", "mmap, 16 faults, munmap, disjoint"),
    (PROTECT, "disjoint", "mprotect of own pages"),
];
const PRIVATE: u32 = 1;
const SHARED: u32 = 2;
const BESIDE: u32 = 3;
const ELSEWHERE: u32 = 4;
const WITHIN: u32 = 5;
const SAME: u32 = 6;
const DISJOINT: u32 = 7;
const PROTECT: u32 = 8;

/// What a thread does in one window, and before and after it.
type Workload = fn(&Worker<'_>);

/// One after the other; the window by which each goes.
const WORKLOADS: [(u32, Workload); 6] = [
    (PRIVATE, private_faults),
    (SHARED, shared_faults),
    (BESIDE, beside_elsewhere),
    (WITHIN, beside_within),
    (DISJOINT, disjoint),
    (PROTECT, protect_own),
];

/// What was done in one window, by all.
#[derive(Default)]
struct Tally {
    operations: AtomicU64,
    checked: AtomicU64,
}

/// What all threads share.
struct All {
    threads: usize,
    operations: usize,
    /// Change a word behind the checks' back.
    planted: bool,
    /// With the main thread, asleep.
    barrier: Barrier,
    /// Of the workers alone: they look, so that they begin at once.
    gate: Gate,
    /// Threads that have not yet done their faults beside a writer.
    faulting: AtomicUsize,
    tallies: [Tally; marker_windows()],
}

const fn marker_windows() -> usize {
    PROTECT as usize + 1
}

/// One thread.
struct Worker<'a> {
    me: usize,
    all: &'a All,
}

fn main() {
    let threads = user::number(1, 2) as usize;
    let operations = user::number(2, 64).clamp(4, MOST) as usize;
    if raw::cpus() <= threads {
        eprintln!("{threads} threads need {} CPUs, and there are {}", threads + 1, raw::cpus());
        std::process::exit(2);
    }
    pin(0);
    marker::arm();
    let all = All {
        threads,
        operations,
        planted: std::env::args().nth(3).is_some_and(|word| word == "plant"),
        barrier: Barrier::new(threads + 1),
        gate: Gate { parties: threads, arrived: AtomicUsize::new(0) },
        faulting: AtomicUsize::new(0),
        tallies: Default::default(),
    };
    std::thread::scope(|scope| {
        for me in 0..threads {
            let all = &all;
            scope.spawn(move || {
                pin(me + 1);
                let worker = Worker { me, all };
                warm_up(&worker);
                WORKLOADS.iter().for_each(|(_, workload)| workload(&worker));
            });
        }
        for (window, _) in WORKLOADS {
            all.barrier.wait(); // all is ready
            let before = counters();
            all.barrier.wait(); // go
            all.barrier.wait(); // all is done
            report(window, &before, &counters());
            all.barrier.wait(); // clear up
        }
    });
    for (window, kind, what) in WINDOWS {
        let tally = &all.tallies[window as usize];
        let [operations, checked] = [&tally.operations, &tally.checked].map(|n| n.load(Ordering::Relaxed));
        println!("compared {window} {kind} {operations} {checked} {what}");
    }
}

/// The kernel's counters of this process; none where there is no such file.
fn counters() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string("/proc/self/vmstat").unwrap_or_default();
    let pair = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(pair).collect()
}

fn report(window: u32, before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) {
    for (name, value) in after {
        let more = value.saturating_sub(before.get(name).copied().unwrap_or(0));
        if more > 0 {
            println!("counter {window} {name} {more}");
        }
    }
}

/// Runs the calling thread on this CPU from now on.
fn pin(cpu: usize) {
    let mask = 1usize << cpu;
    let args = [0, size_of::<usize>(), &raw const mask as usize, 0, 0, 0];
    // SAFETY: the call reads one word.
    let answer = unsafe { raw::call(libc::SYS_sched_setaffinity, args) };
    must!(answer.is_ok(), "cannot run on CPU {cpu}");
}

/// A place where threads wait for each other by looking. On a machine that takes its CPUs in turn each look hands on.
struct Gate {
    parties: usize,
    arrived: AtomicUsize,
}

impl Gate {
    fn meet(&self) {
        let ticket = self.arrived.fetch_add(1, Ordering::AcqRel);
        let all = (ticket / self.parties + 1) * self.parties;
        while self.arrived.load(Ordering::Acquire) < all {
            spin_loop();
        }
    }
}

impl Worker<'_> {
    /// Waits until all are ready, and begins with them.
    fn start(&self) {
        self.all.barrier.wait();
        self.all.barrier.wait();
        self.all.gate.meet();
    }

    /// Waits until all are done, and the counters read.
    fn stop(&self) {
        self.all.barrier.wait();
        self.all.barrier.wait();
    }

    /// Adds to what was done in a window.
    fn did(&self, window: u32, operations: usize, checked: u64) {
        let tally = &self.all.tallies[window as usize];
        // Relaxed: read when the threads have been joined.
        tally.operations.fetch_add(operations as u64, Ordering::Relaxed);
        tally.checked.fetch_add(checked, Ordering::Relaxed);
    }

    /// Pages that hold `operations` first touches, whole leaves of the page tables.
    fn pages(&self) -> usize {
        self.all.operations.div_ceil(LEAF - 1) * LEAF
    }

    /// Number of calls, where faults are [`All::operations`]; even.
    fn calls(&self) -> usize {
        (self.all.operations / 4).next_multiple_of(2)
    }

    /// Where this thread's part of the address space begins, of those for `window`; 0 is none's.
    fn place(&self, window: u32) -> Place {
        Place::At(self.address(window))
    }

    fn address(&self, window: u32) -> usize {
        BASE + window as usize * WINDOW_APART + self.me * APART
    }

    /// The content of page `page` in round `round`.
    fn pattern(&self, round: usize, page: usize) -> Pattern {
        Pattern::new(self.me, round as u64, page, STRIDE)
    }

    /// The first touch of a page that must be zero.
    fn fault(&self, region: &Region, page: usize) {
        self.pattern(0, page).fill_fresh(region, page);
    }

    /// What was written by all of this thread's faults from page `first` on.
    fn check_faults(&self, window: u32, region: &Region, first: usize) {
        if self.all.planted && self.me == 0 {
            region.word(first + 1, 0).fetch_xor(1, Ordering::Relaxed);
        }
        let pages = touched(first, self.all.operations);
        let checked = pages.map(|page| self.pattern(0, page).check(region, page)).sum();
        self.did(window, self.all.operations, checked);
    }
}

/// The pages of `count` faults from `first` on, which begins a leaf: all but the first of each leaf, which is there.
fn touched(first: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |fault| first + fault / (LEAF - 1) * LEAF + 1 + fault % (LEAF - 1))
}

/// Makes the leaves of the page tables below `pages` pages from `first` on.
fn make_leaves(region: &Region, first: usize, pages: usize) {
    (first..first + pages).step_by(LEAF).for_each(|page| region.word(page, 0).store(0, Ordering::Relaxed));
}

fn map(place: Place, pages: usize) -> Region {
    Region::map(place, pages, Rights::ReadWrite).unwrap_or_else(|why| user::wrong(format_args!("mmap: {why}")))
}

fn protect(region: &Region, first: usize, rights: Rights) {
    let answer = region.protect(first..first + SMALL, rights);
    must!(answer.is_ok(), "mprotect: {answer:?}");
}

fn unmap(region: Region) {
    let answer = region.unmap();
    must!(answer.is_ok(), "munmap: {answer:?}");
}

/// What every window does, once or twice: what is needed for the first time is there afterwards.
fn warm_up(worker: &Worker<'_>) {
    for _ in 0..4 {
        let region = map(worker.place(0), SMALL);
        (0..SMALL).for_each(|page| worker.fault(&region, page));
        protect(&region, 0, Rights::Read);
        protect(&region, 0, Rights::ReadWrite);
        unmap(region);
    }
}

/// Each thread faults in a VMA of its own.
fn private_faults(worker: &Worker<'_>) {
    let region = own_region(worker, PRIVATE);
    worker.start();
    marker::begin::<PRIVATE>();
    touched(0, worker.all.operations).for_each(|page| worker.fault(&region, page));
    marker::end::<PRIVATE>();
    worker.stop();
    worker.check_faults(PRIVATE, &region, 0);
    keep(region);
}

/// A VMA of this thread's own, for its faults in `window`.
fn own_region(worker: &Worker<'_>, window: u32) -> Region {
    let region = map(worker.place(window), worker.pages());
    make_leaves(&region, 0, worker.pages());
    region
}

/// Leaves the region mapped, to the end of the program.
fn keep(region: Region) {
    std::mem::forget(region);
}

/// A VMA that all threads use, of `parts` parts of [`Worker::pages`]: made by the first thread. The first page of part `own`
/// comes with it, whose page tables are made.
fn common_region(worker: &Worker<'_>, window: u32, parts: usize, own: usize) -> (Region, usize) {
    let pages = worker.pages();
    let address = Worker { me: 0, all: worker.all }.address(window);
    if worker.me == 0 {
        keep(map(Place::At(address), parts * pages));
    }
    worker.all.gate.meet();
    // SAFETY: just mapped and forgotten; nobody unmaps it, or drops it.
    let region = unsafe { Region::there(address, parts * pages) };
    make_leaves(&region, own * pages, pages);
    (region, own * pages)
}

/// All threads fault in one VMA, each under a leaf of its own.
fn shared_faults(worker: &Worker<'_>) {
    let (region, first) = common_region(worker, SHARED, worker.all.threads, worker.me);
    worker.start();
    marker::begin::<SHARED>();
    touched(first, worker.all.operations).for_each(|page| worker.fault(&region, page));
    marker::end::<SHARED>();
    worker.stop();
    worker.check_faults(SHARED, &region, first);
    keep(region);
}

/// The pages whose rights a writer changes, from page `first` of a region on, and how often it has.
struct Writer<'a> {
    worker: &'a Worker<'a>,
    region: &'a Region,
    first: usize,
    calls: usize,
    checked: u64,
}

impl<'a> Writer<'a> {
    fn new(worker: &'a Worker<'a>, region: &'a Region) -> Writer<'a> {
        let writer = Writer { worker, region, first: MIDDLE, calls: 0, checked: 0 };
        writer.pages().for_each(|page| worker.fault(region, page));
        writer
    }

    fn pages(&self) -> std::ops::Range<usize> {
        self.first..self.first + SMALL
    }

    /// One call: read-only, or writable again and written. The content stays what was written last.
    fn call(&mut self) {
        let (worker, region, round) = (self.worker, self.region, self.calls / 2);
        if self.calls.is_multiple_of(2) {
            protect(region, self.first, Rights::Read);
            self.checked += self.pages().map(|page| worker.pattern(round, page).check(region, page)).sum::<u64>();
        } else {
            protect(region, self.first, Rights::ReadWrite);
            self.pages().for_each(|page| worker.pattern(round + 1, page).overwrite(region, page));
        }
        self.calls += 1;
    }
}

/// Threads fault from page `first` of `region` on; the first one, and no other, has a `written` region, whose rights it changes
/// all the while. A single thread does both in turn.
fn beside<const FAULTS: u32, const CALLS: u32>(
    worker: &Worker<'_>,
    (region, first): (&Region, usize),
    written: Option<&Region>,
) {
    let all = worker.all;
    let alone = all.threads == 1;
    let mut writer = written.map(|region| Writer::new(worker, region));
    if writer.is_some() {
        all.faulting.store(all.threads - 1, Ordering::Relaxed);
    }
    worker.start();
    match &mut writer {
        Some(writer) if alone => {
            for (fault, page) in touched(first, all.operations).enumerate() {
                if fault % TURN == 0 {
                    marker::begin::<CALLS>();
                    writer.call();
                    marker::end::<CALLS>();
                }
                marker::begin::<FAULTS>();
                worker.fault(region, page);
                marker::end::<FAULTS>();
            }
        }
        Some(writer) => {
            marker::begin::<CALLS>();
            while all.faulting.load(Ordering::Acquire) > 0 {
                writer.call();
            }
            marker::end::<CALLS>();
        }
        None => {
            marker::begin::<FAULTS>();
            touched(first, all.operations).for_each(|page| worker.fault(region, page));
            marker::end::<FAULTS>();
            all.faulting.fetch_sub(1, Ordering::Release);
        }
    }
    worker.stop();
    if alone || writer.is_none() {
        worker.check_faults(FAULTS, region, first);
    }
    if let Some(writer) = writer {
        worker.did(CALLS, writer.calls, writer.checked);
    }
}

/// The writer's VMA is its own.
fn beside_elsewhere(worker: &Worker<'_>) {
    let region = own_region(worker, BESIDE);
    let written = (worker.me == 0).then(|| map(worker.place(ELSEWHERE), LEAF));
    beside::<BESIDE, ELSEWHERE>(worker, (&region, 0), written.as_ref());
    keep(region);
    if let Some(written) = written {
        keep(written);
    }
}

/// The writer changes rights in the VMA in which all others fault: part 0 is its, part 1 on are theirs.
fn beside_within(worker: &Worker<'_>) {
    let threads = worker.all.threads;
    let own = worker.me.max(usize::from(threads == 1));
    let (region, first) = common_region(worker, WITHIN, threads.max(2), own);
    beside::<WITHIN, SAME>(worker, (&region, first), (worker.me == 0).then_some(&region));
    keep(region);
}

/// Mappings that come and go where no other thread has any.
fn disjoint(worker: &Worker<'_>) {
    let place = worker.place(DISJOINT);
    // Keeps the tables above the leaf, on one CPU as on many, where others' mappings would.
    let anchor = map(Place::At(worker.address(DISJOINT) + APART / 2), 1);
    anchor.word(0, 0).store(1, Ordering::Relaxed);
    let mut checked = 0;
    worker.start();
    marker::begin::<DISJOINT>();
    for round in 0..worker.calls() {
        let region = map(place, SMALL);
        (0..SMALL).for_each(|page| worker.pattern(round, page).fill_fresh(&region, page));
        checked += (0..SMALL).map(|page| worker.pattern(round, page).check(&region, page)).sum::<u64>();
        unmap(region);
    }
    marker::end::<DISJOINT>();
    worker.stop();
    worker.did(DISJOINT, worker.calls(), checked);
}

/// Each thread changes the rights of a whole VMA of its own.
fn protect_own(worker: &Worker<'_>) {
    let region = map(worker.place(PROTECT), MIDDLE + SMALL);
    let around = region.protect(0..MIDDLE, Rights::None);
    must!(around.is_ok(), "mprotect: {around:?}");
    let mut writer = Writer::new(worker, &region);
    worker.start();
    marker::begin::<PROTECT>();
    (0..worker.calls()).for_each(|_| writer.call());
    marker::end::<PROTECT>();
    worker.stop();
    worker.did(PROTECT, writer.calls, writer.checked);
}
