//! Larger models than loom can finish: more threads, more steps, schedules by chance. The shipped code, without weak memory.
//!
//! A lost wake-up shows as threads that wait for each other for ever, which shuttle reports.
#![cfg(shuttle)]

use std::ptr::NonNull;
use std::sync::Arc;

use abi::Errno;
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use sync::park::{BeginPark, Enqueue, ParkWord};
use sync::testing::{Host, explore, in_interrupt, spawn};
use sync::{
    Class, Counters, CpuId, FairRwLock, FutexKey, FutexTable, InterruptGuard, Interruptible, Platform, Rcu, RcuHead,
    ReadRefused, UpdateLock, VmaLock, VmaLocks, WaitQueue, Waited, update,
};

const SCHEDULES: usize = 4_000;

/// A counting semaphore: whoever finds one takes it.
struct Tokens {
    queue: WaitQueue<Host>,
    count: AtomicUsize,
}

impl Tokens {
    fn take(&self) -> bool {
        let less = |count: usize| count.checked_sub(1);
        self.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    fn put(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.queue.wake_one();
    }
}

/// Two waiters that do not give up, one that does, and as many tokens as the two need: one that was woken and gives up passes
/// its wake-up on.
#[test]
fn a_wake_up_reaches_one_who_stays() {
    explore(SCHEDULES, || {
        let tokens = Arc::new(Tokens { queue: WaitQueue::new(), count: AtomicUsize::new(0) });
        let waiters: Vec<_> = (0..3)
            .map(|cpu| {
                let tokens = tokens.clone();
                spawn(cpu, move || {
                    let impatient = cpu == 0;
                    let deadline = impatient.then(|| Host::now_ns() + 1);
                    let ended = tokens.queue.wait_until(|| tokens.take(), deadline, Interruptible::No);
                    if impatient && ended == Waited::Woken {
                        tokens.put();
                    }
                    assert!(impatient || ended == Waited::Woken);
                })
            })
            .collect();
        (0..2).for_each(|_| tokens.put());
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

/// A mutex as C libraries make them: 0 open, 1 taken, 2 taken and somebody may wait.
struct FutexMutex {
    table: FutexTable<Host>,
    word: AtomicUsize,
    inside: AtomicUsize,
}

const KEY: FutexKey = FutexKey { space: 1, addr: 0x1000 };

impl FutexMutex {
    fn lock(&self) {
        if self.word.compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            return;
        }
        while self.word.swap(2, Ordering::SeqCst) != 0 {
            let same = || Ok(self.word.load(Ordering::SeqCst) == 2);
            let ended = self.table.wait(KEY, u32::MAX, None, same);
            assert!(matches!(ended, Ok(()) | Err(Errno::EAGAIN)));
        }
    }

    fn unlock(&self) {
        if self.word.swap(0, Ordering::SeqCst) == 2 {
            self.table.wake(KEY, 1, u32::MAX);
        }
    }
}

#[test]
fn a_futex_mutex_excludes_and_is_never_left_asleep() {
    explore(SCHEDULES, || {
        let mutex =
            Arc::new(FutexMutex { table: FutexTable::new(), word: AtomicUsize::new(0), inside: AtomicUsize::new(0) });
        let threads: Vec<_> = (0..3)
            .map(|cpu| {
                let mutex = mutex.clone();
                spawn(cpu, move || {
                    for _ in 0..2 {
                        mutex.lock();
                        assert_eq!(mutex.inside.fetch_add(1, Ordering::SeqCst), 0, "two threads inside");
                        mutex.inside.fetch_sub(1, Ordering::SeqCst);
                        mutex.unlock();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// One thread that parks over and over, two that wake it: it is run by one CPU at a time, and never left asleep.
#[test]
fn a_parked_thread_runs_on_one_cpu_at_a_time() {
    struct Sleeper {
        word: ParkWord,
        running: AtomicUsize,
        turns: AtomicUsize,
    }

    impl Sleeper {
        /// The thread runs on the calling CPU until it sleeps, twice at most.
        fn run(&self) {
            loop {
                assert_eq!(self.running.fetch_add(1, Ordering::SeqCst), 0, "two CPUs run one thread");
                let done = self.turns.fetch_add(1, Ordering::SeqCst) == 1;
                if done {
                    return;
                }
                match self.word.begin_park() {
                    BeginPark::Notified => {
                        self.running.fetch_sub(1, Ordering::SeqCst);
                    }
                    BeginPark::Sleep => {
                        // Off its stack.
                        self.running.fetch_sub(1, Ordering::SeqCst);
                        if self.word.end_switch() == Enqueue::Other {
                            return;
                        }
                        self.word.consume();
                    }
                }
            }
        }

        fn wake(&self) {
            if self.word.notify() == Enqueue::Caller {
                self.word.consume();
                self.run();
            }
        }
    }

    explore(SCHEDULES, || {
        let sleeper =
            Arc::new(Sleeper { word: ParkWord::new(), running: AtomicUsize::new(0), turns: AtomicUsize::new(0) });
        let wakers: Vec<_> = (1..3)
            .map(|cpu| {
                let sleeper = sleeper.clone();
                spawn(cpu, move || sleeper.wake())
            })
            .collect();
        sleeper.run();
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        assert_eq!(sleeper.turns.load(Ordering::SeqCst), 2, "the thread sleeps for ever");
    });
}

/// Readers and writers of a fair lock.
#[test]
fn a_fair_lock_excludes_and_is_handed_on() {
    explore(SCHEDULES, || {
        let shared = Arc::new((FairRwLock::<Host>::new(Class::Planted), AtomicUsize::new(0)));
        let threads: Vec<_> = (0..4)
            .map(|cpu| {
                let shared = shared.clone();
                spawn(cpu, move || {
                    let (lock, inside) = &*shared;
                    if cpu % 2 == 0 {
                        let _writer = lock.write();
                        assert_eq!(inside.fetch_add(100, Ordering::SeqCst), 0, "a writer is not alone");
                        inside.fetch_sub(100, Ordering::SeqCst);
                    } else {
                        let _reader = lock.read();
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < 100, "a reader beside a writer");
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// An object that remembers that it was freed.
#[repr(C)]
struct Object {
    head: RcuHead,
    freed: AtomicUsize,
}

/// # Safety
/// `head` is in an `Object` that lives as long as the model.
unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: the head is the first field; the object is only said to be freed.
    unsafe { head.cast::<Object>().as_ref() }.freed.store(1, Ordering::SeqCst);
}

/// Readers on two CPUs, one of them now and then idle, beside a writer that replaces an object and waits for its end.
#[test]
fn nobody_reads_what_has_been_freed() {
    explore(SCHEDULES / 2, || {
        let object = |_| Object { head: RcuHead::new(), freed: AtomicUsize::new(0) };
        let world = Arc::new((Rcu::<Host>::new(), AtomicUsize::new(0), [0, 1].map(object)));
        (0..3).for_each(|cpu| world.0.online(CpuId(cpu)));
        let readers: Vec<_> = (1..3)
            .map(|cpu| {
                let world = world.clone();
                spawn(cpu, move || {
                    let (rcu, current, objects) = &*world;
                    for _ in 0..2 {
                        {
                            let _guard = rcu.read();
                            let found = &objects[current.load(Ordering::SeqCst)];
                            assert_eq!(found.freed.load(Ordering::SeqCst), 0, "read after it was freed");
                        }
                        if cpu == 1 {
                            rcu.idle_enter();
                            rcu.idle_exit();
                        }
                        rcu.quiescent();
                        rcu.poll();
                    }
                    rcu.idle_enter();
                })
            })
            .collect();
        let (rcu, current, objects) = &*world;
        current.store(1, Ordering::SeqCst);
        // SAFETY: out of reach since the store above, and alive as long as the model.
        unsafe { rcu.defer(NonNull::from(&objects[0]).cast(), free) };
        rcu.barrier();
        assert_eq!(objects[0].freed.load(Ordering::SeqCst), 1);
        rcu.idle_enter();
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
}

/// Two pages under one VMA at first; then each under one of its own, or under none.
struct World {
    space: UpdateLock<Host>,
    locks: VmaLocks<Host>,
    counters: Counters<Host>,
    vma: VmaLock,
    mapped: AtomicUsize,
    /// Who is at the page: faults count 1, a writer 100.
    inside: AtomicUsize,
}

const PAGE: u64 = abi::PAGE_SIZE;

impl World {
    fn new() -> Arc<World> {
        let (space, locks, counters) =
            (UpdateLock::new(), VmaLocks::new(abi::Pair::DEFAULT).unwrap(), Counters::new().unwrap());
        let vma = update(&space, &locks, &counters, |txn| Ok(txn.new_lock())).unwrap();
        (0..3).for_each(|cpu| space.join(CpuId(cpu)));
        let (mapped, inside) = (AtomicUsize::new(1), AtomicUsize::new(0));
        Arc::new(World { space, locks, counters, vma, mapped, inside })
    }

    /// A fault at `page`, again until it is served or finds nothing. Returns whether it was served.
    fn fault(&self, page: u64) -> bool {
        loop {
            let refused = {
                let _off = InterruptGuard::<Host>::new();
                let section = self.locks.enter(page * PAGE).expect("no fault inside a fault");
                if self.mapped.load(Ordering::SeqCst) == 0 {
                    return false;
                }
                match self.vma.read(&section, &self.locks, &self.counters) {
                    Ok(_held) => {
                        assert!(self.inside.fetch_add(1, Ordering::SeqCst) < 100, "served beside a writer");
                        assert_eq!(self.mapped.load(Ordering::SeqCst), 1, "served where nothing is mapped");
                        self.inside.fetch_sub(1, Ordering::SeqCst);
                        return true;
                    }
                    Err(refused) => refused,
                }
            };
            match refused {
                ReadRefused::Detached => return false,
                ReadRefused::Marked(mark) => self.locks.wait_for_end(mark, page * PAGE),
            }
        }
    }

    /// A call that changes the VMA and keeps it, or takes it away.
    fn change(&self, keep: usize) {
        let done = update(&self.space, &self.locks, &self.counters, |txn| {
            if self.mapped.load(Ordering::SeqCst) == 0 {
                return Ok(());
            }
            txn.mark(&self.vma, 0..2 * PAGE)?;
            let settled = txn.settle()?;
            assert_eq!(self.inside.fetch_add(100, Ordering::SeqCst), 0, "a writer beside a fault");
            self.inside.fetch_sub(100, Ordering::SeqCst);
            if keep == 0 {
                self.mapped.store(0, Ordering::SeqCst);
                txn.detach(&settled, &self.vma);
            }
            Ok(())
        });
        done.unwrap();
    }
}

/// Two CPUs fault, and change the VMA in between; a third takes it away at last. All faults end.
#[test]
fn faults_and_calls_keep_apart_and_all_end() {
    explore(SCHEDULES, || {
        let world = World::new();
        let threads: Vec<_> = (1..3)
            .map(|cpu| {
                let world = world.clone();
                spawn(cpu, move || {
                    for round in 0..3 {
                        world.fault(u64::from(cpu) - 1);
                        if round == 1 {
                            world.change(1);
                        }
                    }
                })
            })
            .collect();
        let last = world.clone();
        spawn(0, move || {
            last.fault(0);
            last.change(0);
            assert!(!last.fault(0), "served after its end");
        })
        .join()
        .unwrap();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    });
}

/// RCU's torture (`sync::torture`), small: a writer, two readers, of which one is idle now and then, and ticks amid sections.
#[test]
fn no_grace_period_is_too_short() {
    use shuttle::rand::Rng;
    use sync::torture::{Around, AtFailure, Plan, Publish, Run, Torture};

    fn between(rcu: &'static Rcu<Host>, random: u64) {
        if random.is_multiple_of(4) {
            rcu.idle_enter();
            rcu.idle_exit();
        }
        rcu.quiescent();
        rcu.poll();
        // A reader reads for as long as the writer writes: others must come by.
        Host::relax();
    }

    fn inside(rcu: &'static Rcu<Host>, _: u64) {
        in_interrupt(|| rcu.poll());
    }

    explore(SCHEDULES / 5, || {
        let rcu: &'static Rcu<Host> = Box::leak(Box::new(Rcu::new()));
        let plan = Plan {
            // The schedule's own: it is repeated with it.
            seed: shuttle::rand::thread_rng().r#gen(),
            updates: 3,
            patience: 3,
            publish: Publish::Filled,
            at_failure: AtFailure::Stop,
            around: Around { between, inside, interrupt: |handler| in_interrupt(handler) },
        };
        let run = Run::new(Box::leak(Box::new(Torture::new())), rcu, plan);
        (0..3).for_each(|cpu| rcu.online(CpuId(cpu)));
        let readers = [0, 1].map(|cpu| {
            spawn(cpu, move || {
                run.reader(cpu as usize);
                rcu.idle_enter();
            })
        });
        let writer = spawn(2, move || {
            run.writer();
            rcu.idle_enter();
        });
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        writer.join().unwrap();
        let report = run.report();
        assert_eq!(report.failures(), 0, "{report}");
    });
}
