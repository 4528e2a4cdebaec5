//! Grace periods across CPUs: what a reader holds is not freed, and what nobody holds is.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use kernel::ktest;
use kernel::ktest::{on_all_cpus, spawn_on};
use kernel::memory::memory;
use kernel::platform::Machine;
use kernel::sched;
use sync::alloc::try_box;
use sync::{CpuId, Platform, RcuHead};

/// Stands in a live object.
const ALIVE: u64 = 0x600d_0b1e_c700_0000;

/// Something that readers reach through a pointer. The head is its first field, so both have one address.
#[repr(C)]
struct Object {
    head: RcuHead,
    state: AtomicU64,
}

static FREED: AtomicU64 = AtomicU64::new(0);

/// # Safety
/// `head` is in an `Object` from a box that no reader can reach any more.
unsafe fn free(head: NonNull<RcuHead>) {
    // SAFETY: the head is the first field, and the object came from a box.
    let object = unsafe { alloc_box(head.cast::<Object>()) };
    // A reader that came too late, or a grace period that ended too early, sees this.
    object.state.store(0, Ordering::Relaxed);
    FREED.fetch_add(1, Ordering::Relaxed);
}

/// # Safety
/// `object` came out of [`new_object`], and is taken back once.
unsafe fn alloc_box(object: NonNull<Object>) -> Box<Object> {
    // SAFETY: the caller's promise.
    unsafe { Box::from_raw(object.as_ptr()) }
}

extern crate alloc;
use alloc::boxed::Box;

fn new_object() -> NonNull<Object> {
    let object = try_box(Object { head: RcuHead::new(), state: AtomicU64::new(ALIVE) }).expect("memory for an object");
    NonNull::from(Box::leak(object))
}

ktest! {
    /// One writer replaces an object as fast as it can; readers on all other CPUs look at it twice within a read
    /// section.
    fn readers_never_see_a_freed_object() {
        static CURRENT: AtomicPtr<Object> = AtomicPtr::new(core::ptr::null_mut());
        static STOP: AtomicBool = AtomicBool::new(false);
        const REPLACED: u64 = 2000;
        let rcu = &memory().rcu;
        FREED.store(0, Ordering::Relaxed);
        STOP.store(false, Ordering::Relaxed);
        CURRENT.store(new_object().as_ptr(), Ordering::Release);
        let mut readers = [const { None }; abi::MAX_CPUS];
        for (cpu, place) in readers.iter_mut().enumerate().take(Machine::cpu_count()).skip(1) {
            *place = Some(spawn_on(CpuId(cpu as u32), |_| {
                let mut looks = 0u64;
                while !STOP.load(Ordering::Relaxed) {
                    let guard = memory().rcu.read();
                    // SAFETY: published objects are freed a grace period after they were replaced, and this is a read
                    // section.
                    let object = unsafe { &*CURRENT.load(Ordering::Acquire) };
                    assert_eq!(object.state.load(Ordering::Relaxed), ALIVE);
                    for _ in 0..looks % 64 {
                        Machine::relax();
                    }
                    assert_eq!(object.state.load(Ordering::Relaxed), ALIVE, "freed inside a read section");
                    drop(guard);
                    looks += 1;
                    // A kernel thread that never sleeps passes its quiescent states here.
                    if looks.is_multiple_of(8) {
                        sched::yield_now();
                        memory().rcu.quiescent();
                    }
                }
            }, 0));
        }
        for _ in 0..REPLACED {
            let old = CURRENT.swap(new_object().as_ptr(), Ordering::AcqRel);
            // SAFETY: replaced just now, and replaced once; `free` fits; the head is used once.
            unsafe { rcu.defer(NonNull::new(old).expect("an object").cast(), free) };
            sched::yield_now();
            rcu.quiescent();
        }
        STOP.store(true, Ordering::Relaxed);
        readers.into_iter().flatten().for_each(sched::KernelThread::join);
        rcu.barrier();
        assert_eq!(FREED.load(Ordering::Relaxed), REPLACED, "after a barrier every deferred free has run");
        let last = NonNull::new(CURRENT.swap(core::ptr::null_mut(), Ordering::Relaxed)).expect("the last object");
        // SAFETY: no readers are left.
        drop(unsafe { alloc_box(last) });
    }
}

ktest! {
    /// `synchronize` on the first CPU must wait for a read section that is open on another one.
    fn synchronize_waits_for_a_reader_on_another_cpu() {
        static INSIDE: AtomicBool = AtomicBool::new(false);
        static DONE: AtomicBool = AtomicBool::new(false);
        static LEFT: AtomicBool = AtomicBool::new(false);
        let last = CpuId(Machine::cpu_count() as u32 - 1);
        if last == CpuId(0) {
            return;
        }
        INSIDE.store(false, Ordering::Relaxed);
        DONE.store(false, Ordering::Relaxed);
        LEFT.store(false, Ordering::Relaxed);
        let reader = spawn_on(last, |_| {
            let guard = memory().rcu.read();
            INSIDE.store(true, Ordering::Release);
            let until = Machine::now_ns() + 20_000_000;
            while Machine::now_ns() < until {
                assert!(!DONE.load(Ordering::Acquire), "a grace period ended inside a read section");
                Machine::relax();
            }
            LEFT.store(true, Ordering::Release);
            drop(guard);
        }, 0);
        while !INSIDE.load(Ordering::Acquire) {
            Machine::relax();
        }
        memory().rcu.synchronize();
        assert!(LEFT.load(Ordering::Acquire), "synchronize did not wait");
        DONE.store(true, Ordering::Release);
        reader.join();
    }
}

ktest! {
    /// All CPUs defer at once, then all callbacks run, also those of CPUs that have gone idle since.
    fn barrier_reaches_every_cpu() {
        const EACH: u64 = 300;
        FREED.store(0, Ordering::Relaxed);
        on_all_cpus(|_| {
            for _ in 0..EACH {
                // SAFETY: never published; `free` fits; the head is used once.
                unsafe { memory().rcu.defer(new_object().cast(), free) };
            }
        });
        memory().rcu.barrier();
        assert_eq!(FREED.load(Ordering::Relaxed), EACH * Machine::cpu_count() as u64);
    }
}
