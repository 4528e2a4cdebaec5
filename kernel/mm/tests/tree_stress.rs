//! The range tree beside writers: readers on several CPUs look a region up while a writer replaces all of it, by anything
//! from one range to two hundred, in one publication each; another writer moves the tree around it.
//!
//! The region is covered without a gap in every tree that ever existed, so a reader must never find one. Values are
//! pointers to objects that are overwritten when they are freed, after a grace period.

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mm::tree::{Entry, RangeTree, Reserve};
use sync::testing::{Host, on_cpu, run_seed, shaken};
use sync::{CpuId, Rcu, RcuHead};

mod random;

use random::Random;

const REGION: Range<u64> = 1_000_000..1_004_096;
const READERS: u32 = 3;
const TIME: Duration = Duration::from_millis(2500);
const PATIENCE: Duration = Duration::from_secs(120);
const ALIVE: u64 = 0x0a11_7e00_0a11_7e00;
const FREED: u64 = 0xdead_dead_dead_dead;

/// What a range is mapped to.
#[repr(C)]
struct Object {
    head: RcuHead,
    magic: AtomicU64,
    start: u64,
    end: u64,
    generation: u64,
}

#[derive(Clone, Copy)]
struct Value(NonNull<Object>);

// SAFETY: objects are read by many and freed by RCU on any CPU.
unsafe impl Send for Value {}
// SAFETY: as above.
unsafe impl Sync for Value {}

type Tree = RangeTree<Host, Value>;

static FREED_OBJECTS: AtomicU64 = AtomicU64::new(0);

impl Value {
    fn entry(start: u64, end: u64, generation: u64) -> Entry<Value> {
        let object = Object { head: RcuHead::new(), magic: AtomicU64::new(ALIVE), start, end, generation };
        Entry { start, end, value: Value(NonNull::from(Box::leak(Box::new(object)))) }
    }

    /// Reads the object of an entry that a reader has found.
    fn check(entry: &Entry<Value>) -> u64 {
        // SAFETY: the caller is in a read section, and objects are freed a grace period after they leave the tree. That
        // this is so is what the test checks, as far as a program can.
        let object = unsafe { entry.value.0.as_ref() };
        assert_eq!(object.magic.load(Ordering::Relaxed), ALIVE, "a freed object was reachable");
        assert_eq!((object.start, object.end), (entry.start, entry.end), "an entry is whole");
        object.generation
    }

    /// Frees the object after a grace period. The caller has taken it out of the tree.
    fn retire(self, rcu: &Rcu<Host>) {
        // SAFETY: the head is the object's first field, the object is out of the tree, and `free` frees it.
        unsafe { rcu.defer(self.0.cast(), free) };
    }
}

/// # Safety
/// `head` is the head of an object that nobody uses.
unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: the head is the object's first field, and the caller says that nobody uses it.
    let object = unsafe { Box::from_raw(head.cast::<Object>().as_ptr()) };
    assert_eq!(object.magic.swap(FREED, Ordering::Relaxed), ALIVE, "freed twice");
    FREED_OBJECTS.fetch_add(1, Ordering::Relaxed);
}

/// Ranges that cover the region, at most `count`.
fn cover(random: &mut Random, count: u64, generation: u64) -> Vec<Entry<Value>> {
    let mut cuts: Vec<u64> =
        (1..count).map(|_| REGION.start + 1 + random.below(REGION.end - REGION.start - 1)).collect();
    cuts.extend([REGION.start, REGION.end]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2).map(|cut| Value::entry(cut[0], cut[1], generation)).collect()
}

/// Stops the threads, also when the test fails: a scope waits for all of them.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Replaces, and retires what was replaced.
fn replace(tree: &Tree, rcu: &Rcu<Host>, reserve: &mut Reserve<Value>, range: Range<u64>, with: &[Entry<Value>]) {
    let mut gone = Vec::new();
    loop {
        tree.top_up(reserve, with.len()).unwrap();
        let mut section = tree.publish();
        gone.clear();
        gone.extend(section.overlapping(range.clone()).map(|entry| entry.value));
        // The other writer may have made the tree higher since.
        if section.replace(range.clone(), with, reserve).is_ok() {
            break;
        }
    }
    for value in gone {
        value.retire(rcu);
    }
    rcu.quiescent();
    rcu.poll();
}

/// How often each thread has done what it does.
static ROUNDS: [AtomicU64; READERS as usize + 2] = [const { AtomicU64::new(0) }; READERS as usize + 2];
/// So often at least: a busy host may let a thread begin late.
const FEW: u64 = 10;

fn rounds(thread: u32) -> u64 {
    ROUNDS[thread as usize].load(Ordering::Relaxed)
}

/// The thread has done it once more.
fn done(thread: u32) {
    ROUNDS[thread as usize].fetch_add(1, Ordering::Relaxed);
}

/// Looks the region up in every way until told to stop.
fn read(tree: &Tree, rcu: &Rcu<Host>, stop: &AtomicBool, thread: u32) {
    let mut random = Random::new(u64::from(thread) + 11);
    let mut newest = 0;
    while !stop.load(Ordering::Relaxed) {
        {
            let guard = rcu.read();
            for _ in 0..32 {
                let address = REGION.start + random.below(REGION.end - REGION.start);
                let found = tree.find(&guard, address).expect("the region is covered");
                assert!(found.range().contains(&address));
                let generation = Value::check(&found);
                assert!(generation >= newest, "time does not run backwards");
                newest = generation;

                let next = tree.next(&guard, address).expect("the region is covered");
                assert!(next.range().contains(&address), "no range begins above an address that is covered");
                newest = newest.max(Value::check(&next));

                let prev = tree.prev(&guard, address).expect("there is a range below the region");
                assert!(prev.end <= address);
                Value::check(&prev);
                let ends = tree.prev(&guard, REGION.end).expect("the region is covered");
                assert_eq!(ends.end, REGION.end);
            }
            let mut at = REGION.start;
            let mut generation = None;
            for entry in tree.overlapping(&guard, REGION) {
                assert_eq!(entry.start, at, "the region is covered without a gap");
                at = entry.end;
                let this = Value::check(&entry);
                assert_eq!(*generation.get_or_insert(this), this, "one publication, seen whole");
            }
            assert_eq!(at, REGION.end);
            let len = 1 + random.below(1000);
            if let Some(gap) = tree.find_gap_down(&guard, len, 0, 2 * REGION.end) {
                assert!(gap + len <= REGION.start || gap >= REGION.end, "the region has no gap");
            }
        }
        rcu.quiescent();
        done(thread);
    }
}

/// Replaces the region until told to stop.
fn rewrite(tree: &Tree, rcu: &Rcu<Host>, stop: &AtomicBool, thread: u32) {
    let mut random = Random::new(3);
    let mut reserve = Reserve::new();
    let mut generation = 0;
    while !stop.load(Ordering::Relaxed) {
        generation += 1;
        let count = random.one_of(&[1, 2, 7, 10, 11, 60, 200]);
        let with = cover(&mut random, count, generation);
        replace(tree, rcu, &mut reserve, REGION, &with);
        done(thread);
    }
}

/// Fills and empties the address space on both sides of the region until told to stop.
fn surround(tree: &Tree, rcu: &Rcu<Host>, stop: &AtomicBool, thread: u32) {
    let mut random = Random::new(5);
    let mut reserve = Reserve::new();
    while !stop.load(Ordering::Relaxed) {
        let side = if random.below(2) == 0 { 10..REGION.start } else { REGION.end..2 * REGION.end };
        let first = side.start + random.below(800) * 1000;
        let count = random.one_of(&[0, 1, 3, 30, 300]);
        let step = 1 + random.below(30);
        let with: Vec<_> = (0..count)
            .map(|n| first + n * step)
            .filter(|at| at + 1 < side.end)
            .map(|at| Value::entry(at, at + 1 + step / 3, 0))
            .take_while(|entry| entry.end <= side.end)
            .collect();
        let range = if random.below(20) == 0 {
            side
        } else {
            // All that would be in the way, whole.
            let mut range = first..with.last().map_or(first + 1000, |entry| entry.end).min(side.end);
            let section = tree.publish();
            if let Some(entry) = section.find(range.start) {
                range.start = entry.start;
            }
            if let Some(entry) = section.find(range.end - 1) {
                range.end = entry.end;
            }
            range
        };
        replace(tree, rcu, &mut reserve, range, &with);
        done(thread);
    }
}

#[test]
fn readers_never_see_a_gap_that_never_was() {
    let rcu: &'static Rcu<Host> = Box::leak(Box::new(Rcu::new()));
    for cpu in 0..READERS + 2 {
        rcu.online(CpuId(cpu));
    }
    let tree = Tree::new(rcu);
    let mut reserve = Reserve::new();
    replace(&tree, rcu, &mut reserve, REGION, &[Value::entry(REGION.start, REGION.end, 0)]);
    // Below everything, so that the region always has something below.
    replace(&tree, rcu, &mut reserve, 0..10, &[Value::entry(0, 1, 0)]);

    let seed = run_seed();
    let stop = AtomicBool::new(false);
    let (tree, stop) = (&tree, &stop);
    let role = |thread: u32| match thread {
        0..READERS => read(tree, rcu, stop, thread),
        READERS => rewrite(tree, rcu, stop, thread),
        _ => surround(tree, rcu, stop, thread),
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..READERS + 2)
            .map(|thread| {
                scope.spawn(move || {
                    on_cpu(CpuId(thread), || {
                        shaken(seed, thread.into(), || role(thread));
                        // This CPU runs nothing more; grace periods need not wait for it.
                        rcu.idle_enter();
                    })
                })
            })
            .collect();
        let _stop_at_end = StopAtEnd(stop);
        let begin = Instant::now();
        let go_on = || begin.elapsed() < TIME || (0..READERS + 2).any(|thread| rounds(thread) <= FEW);
        // One that has ended has failed.
        while go_on() && !threads.iter().any(|thread| thread.is_finished()) {
            assert!(begin.elapsed() < PATIENCE, "a thread does not get on: {ROUNDS:?}");
            thread::sleep(Duration::from_millis(100));
            // Beside the writers: the lock makes it exact.
            tree.check();
        }
    });

    rcu.online(CpuId(0));
    replace(tree, rcu, &mut reserve, 0..u64::MAX, &[]);
    tree.check();
    rcu.barrier();
    assert!(FREED_OBJECTS.load(Ordering::Relaxed) > rounds(READERS), "objects were freed all the time");
}
