//! RCU over host threads.
#![cfg(not(any(loom, shuttle)))]

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::thread;

use sync::testing::{HOST_CPUS, Host, on_cpu, run_seed, shaken};
use sync::{CpuId, Rcu, RcuHead};

#[repr(C)]
struct Object {
    head: RcuHead,
    freed: &'static AtomicUsize,
    value: u64,
}

impl Object {
    fn new(value: u64, freed: &'static AtomicUsize) -> *mut Object {
        Box::into_raw(Box::new(Object { head: RcuHead::new(), freed, value }))
    }

    /// # Safety
    /// `head` is an `Object`'s, from `new`.
    unsafe fn free(head: NonNull<RcuHead>) {
        // SAFETY: `head` is the first field of a boxed `Object`.
        let mut object = unsafe { Box::from_raw(head.cast::<Object>().as_ptr()) };
        object.value = 0;
        object.freed.fetch_add(1, Ordering::SeqCst);
    }

    fn defer(object: *mut Object, rcu: &Rcu<Host>) {
        let head = NonNull::new(object).unwrap().cast();
        // SAFETY: the tests unlink before they defer, and defer once.
        unsafe { rcu.defer(head, Object::free) };
    }
}

fn counter() -> &'static AtomicUsize {
    Box::leak(Box::default())
}

#[test]
fn a_head_is_two_words() {
    assert_eq!(size_of::<RcuHead>(), 2 * size_of::<usize>());
}

#[test]
fn a_reader_holds_the_grace_period_up() {
    let (rcu, freed) = (Rcu::<Host>::new(), counter());
    for cpu in [0, 1] {
        rcu.online(CpuId(cpu));
    }
    Object::defer(Object::new(1, freed), &rcu);
    assert!(rcu.pending());
    let reader = on_cpu(CpuId(1), || rcu.read());
    assert!(on_cpu(CpuId(1), || rcu.in_reader()));
    assert!(!rcu.in_reader());
    rcu.poll();
    rcu.quiescent();
    for _ in 0..3 {
        assert_eq!(rcu.poll(), 0);
    }
    on_cpu(CpuId(1), || {
        drop(reader);
        rcu.quiescent();
    });
    assert_eq!(rcu.poll(), 1);
    assert_eq!(freed.load(Ordering::SeqCst), 1);
    assert!(!rcu.pending());
    assert_eq!(rcu.grace_periods(CpuId(0)), 1);
}

#[test]
fn a_report_from_before_does_not_count() {
    let (rcu, freed) = (Rcu::<Host>::new(), counter());
    for cpu in [0, 1] {
        rcu.online(CpuId(cpu));
    }
    // A first object starts a grace period, for which CPU 1 reports.
    Object::defer(Object::new(1, freed), &rcu);
    rcu.poll();
    on_cpu(CpuId(1), || rcu.quiescent());
    // A second one is unlinked while CPU 1 reads.
    let reader = on_cpu(CpuId(1), || rcu.read());
    Object::defer(Object::new(2, freed), &rcu);
    rcu.quiescent();
    assert_eq!(rcu.poll(), 1);
    rcu.quiescent();
    assert_eq!(rcu.poll(), 0, "the second object waits for a grace period of its own");
    on_cpu(CpuId(1), || {
        drop(reader);
        rcu.quiescent();
    });
    assert_eq!(rcu.poll(), 1);
}

#[test]
fn idle_and_offline_cpus_hold_nothing_up() {
    let (rcu, freed) = (Rcu::<Host>::new(), counter());
    rcu.online(CpuId(0));
    rcu.online(CpuId(1));
    on_cpu(CpuId(1), || {
        rcu.idle_enter();
        // Interrupts in idle may end in a report; it must not make the CPU look busy.
        rcu.quiescent();
    });
    Object::defer(Object::new(1, freed), &rcu);
    rcu.poll();
    rcu.quiescent();
    assert_eq!(rcu.poll(), 1);
    on_cpu(CpuId(1), || rcu.idle_exit());
    let reader = on_cpu(CpuId(1), || rcu.read());
    Object::defer(Object::new(1, freed), &rcu);
    rcu.poll();
    rcu.quiescent();
    assert_eq!(rcu.poll(), 0);
    on_cpu(CpuId(1), || drop(reader));
}

#[test]
fn callbacks_may_defer_and_batches_keep_their_order() {
    static ORDER: std::sync::Mutex<Vec<usize>> = std::sync::Mutex::new(Vec::new());
    #[repr(C)]
    struct Numbered {
        head: RcuHead,
        number: usize,
    }
    unsafe fn record(head: NonNull<RcuHead>) {
        // SAFETY: `head` is the first field of a boxed `Numbered`.
        let object = unsafe { Box::from_raw(head.cast::<Numbered>().as_ptr()) };
        ORDER.lock().unwrap().push(object.number);
    }
    let rcu = Rcu::<Host>::new();
    rcu.online(CpuId(0));
    for number in 0..1000 {
        let object = Box::into_raw(Box::new(Numbered { head: RcuHead::new(), number }));
        // SAFETY: never published; deferred once.
        unsafe { rcu.defer(NonNull::new(object).unwrap().cast(), record) };
    }
    let mut polls = 0;
    while rcu.pending() {
        rcu.quiescent();
        rcu.poll();
        polls += 1;
    }
    assert!(polls > 5, "batches are bounded");
    assert!(ORDER.lock().unwrap().iter().copied().eq(0..1000));
}

#[test]
fn barrier_runs_the_callbacks_of_sleeping_cpus() {
    let (rcu, freed) = (Rcu::<Host>::new(), counter());
    for cpu in 0..3 {
        rcu.online(CpuId(cpu));
        on_cpu(CpuId(cpu), || {
            for _ in 0..100 {
                Object::defer(Object::new(1, freed), &rcu);
            }
        });
    }
    for cpu in 1..3 {
        on_cpu(CpuId(cpu), || rcu.idle_enter());
    }
    rcu.barrier();
    assert_eq!(freed.load(Ordering::SeqCst), 300);
    rcu.barrier();
}

#[test]
fn synchronize_waits_for_readers() {
    static RCU: Rcu<Host> = Rcu::new();
    static DONE: AtomicBool = AtomicBool::new(false);
    RCU.online(CpuId(0));
    RCU.online(CpuId(1));
    let reader = RCU.read();
    let waiter = thread::spawn(|| {
        on_cpu(CpuId(1), || RCU.synchronize());
        DONE.store(true, Ordering::SeqCst);
    });
    thread::sleep(std::time::Duration::from_millis(20));
    assert!(!DONE.load(Ordering::SeqCst));
    drop(reader);
    while !DONE.load(Ordering::SeqCst) {
        RCU.quiescent();
        thread::yield_now();
    }
    waiter.join().unwrap();
}

/// Readers and replacing writers on every CPU, some going idle, while a barrier comes again and again.
#[test]
fn nobody_reads_what_has_been_freed() {
    static RCU: Rcu<Host> = Rcu::new();
    static SHARED: AtomicPtr<Object> = AtomicPtr::new(std::ptr::null_mut());
    static STOP: AtomicUsize = AtomicUsize::new(0);
    let (seed, freed) = (run_seed(), counter());
    const WRITES: usize = 3_000;
    let workers = HOST_CPUS as u32 - 1;
    for cpu in 0..=workers {
        RCU.online(CpuId(cpu));
    }
    SHARED.store(Object::new(1, freed), Ordering::Release);
    thread::scope(|scope| {
        for cpu in 0..workers {
            scope.spawn(move || {
                let rounds = || {
                    for round in 0..WRITES {
                        let guard = RCU.read();
                        // SAFETY: read inside a read section.
                        assert_ne!(unsafe { (*SHARED.load(Ordering::Acquire)).value }, 0);
                        drop(guard);
                        if cpu < 2 {
                            let old = SHARED.swap(Object::new(1, freed), Ordering::AcqRel);
                            Object::defer(old, &RCU);
                        }
                        RCU.quiescent();
                        RCU.poll();
                        if round % 100 == 0 {
                            RCU.idle_enter();
                            thread::yield_now();
                            RCU.idle_exit();
                        }
                    }
                    RCU.idle_enter();
                    STOP.fetch_add(1, Ordering::SeqCst);
                };
                on_cpu(CpuId(cpu), || shaken(seed, cpu.into(), rounds));
            });
        }
        on_cpu(CpuId(workers), || {
            while STOP.load(Ordering::SeqCst) < workers as usize {
                RCU.barrier();
                RCU.synchronize();
            }
            RCU.barrier();
        });
    });
    assert_eq!(freed.load(Ordering::SeqCst), 2 * WRITES);
    // SAFETY: all threads have ended.
    drop(unsafe { Box::from_raw(SHARED.load(Ordering::Acquire)) });
}
