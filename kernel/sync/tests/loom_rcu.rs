//! Models of RCU. Freed memory is a loom cell that the callback writes: a reader that is still inside is a reported race.
#![cfg(loom)]

mod model;

use std::ptr::NonNull;
use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use model::{explore, spawn};
use sync::testing::{Host, in_interrupt, on_cpu};
use sync::{CpuId, Rcu, RcuHead};

/// An object that readers find through `World::linked`.
#[repr(C)]
struct Object {
    head: RcuHead,
    body: UnsafeCell<u32>,
}

impl Object {
    fn new() -> Object {
        Object { head: RcuHead::new(), body: UnsafeCell::new(0) }
    }

    fn look(&self) {
        // SAFETY: loom checks that nobody frees it meanwhile.
        assert_eq!(self.body.with(|body| unsafe { *body }), 0, "read after free");
    }

    fn was_freed(&self) -> bool {
        // SAFETY: loom checks that the callback is over.
        self.body.with(|body| unsafe { *body }) == 1
    }

    /// # Safety
    /// `head` is an `Object`'s.
    unsafe fn free(head: NonNull<RcuHead>) {
        // SAFETY: `head` is the first field of an `Object`, which the model keeps until its end.
        let object = unsafe { head.cast::<Object>().as_ref() };
        // SAFETY: loom checks that nobody reads.
        object.body.with_mut(|body| unsafe { *body = 1 });
    }
}

struct World {
    rcu: Rcu<Host>,
    /// 1 while `object` can be found.
    linked: AtomicUsize,
    object: Object,
    other: Object,
}

// SAFETY: loom checks every access to the objects' bodies.
unsafe impl Send for World {}
// SAFETY: as above.
unsafe impl Sync for World {}

impl World {
    /// CPUs `0..online` take part; those in `idle` are idle.
    fn new(online: u32, idle: &[u32]) -> Arc<World> {
        let world = World { rcu: Rcu::new(), linked: AtomicUsize::new(1), object: Object::new(), other: Object::new() };
        (0..online).for_each(|cpu| world.rcu.online(CpuId(cpu)));
        idle.iter().for_each(|&cpu| on_cpu(CpuId(cpu), || world.rcu.idle_enter()));
        Arc::new(world)
    }

    /// A read section.
    fn read(&self) {
        let _guard = self.rcu.read();
        if self.linked.load(Ordering::Acquire) == 1 {
            self.object.look();
        }
    }

    fn unlink_and_defer(&self) {
        self.linked.store(0, Ordering::Release);
        self.defer(&self.object);
    }

    fn defer(&self, object: &Object) {
        // SAFETY: unlinked, or never linked; the world outlives the callback; deferred once.
        unsafe { self.rcu.defer(NonNull::from(&object.head), Object::free) };
    }
}

/// Reads, reports, reads again, while the other CPU unlinks and frees as soon as it may.
#[test]
fn reports_end_old_sections_and_new_ones_see_the_unlinking() {
    explore("rcu report", 3, || {
        let world = World::new(2, &[]);
        let reader = {
            let world = world.clone();
            spawn(0, move || {
                world.read();
                world.rcu.quiescent();
                world.read();
            })
        };
        on_cpu(CpuId(1), || {
            world.unlink_and_defer();
            for _ in 0..2 {
                world.rcu.quiescent();
                world.rcu.poll();
            }
        });
        reader.join().unwrap();
    });
}

/// A grace period that another CPU starts, while the object is being unlinked, is too early for it.
#[test]
fn a_grace_period_of_somebody_else_is_too_early() {
    explore("rcu target", 3, || {
        let world = World::new(2, &[]);
        let other = {
            let world = world.clone();
            spawn(0, move || {
                world.defer(&world.other);
                world.rcu.poll();
                world.rcu.quiescent();
                world.read();
            })
        };
        on_cpu(CpuId(1), || {
            world.unlink_and_defer();
            for _ in 0..2 {
                world.rcu.poll();
                world.rcu.quiescent();
            }
            world.rcu.poll();
        });
        other.join().unwrap();
    });
}

/// A tick amid a read section brings callbacks forward, and reports nothing.
#[test]
fn a_poll_amid_a_section_reports_nothing() {
    explore("rcu poll", 3, || {
        let world = World::new(2, &[]);
        let reader = {
            let world = world.clone();
            spawn(0, move || {
                let _guard = world.rcu.read();
                let found = world.linked.load(Ordering::Acquire) == 1;
                in_interrupt(|| world.rcu.poll());
                if found {
                    world.object.look();
                }
            })
        };
        on_cpu(CpuId(1), || {
            world.unlink_and_defer();
            for _ in 0..2 {
                world.rcu.quiescent();
                world.rcu.poll();
            }
        });
        reader.join().unwrap();
    });
}

#[test]
fn idle_cpus_are_left_alone_and_see_the_unlinking_when_they_return() {
    explore("rcu idle", 3, || {
        let world = World::new(2, &[0]);
        let idler = {
            let world = world.clone();
            spawn(0, move || {
                world.rcu.idle_exit();
                world.read();
                world.rcu.idle_enter();
            })
        };
        on_cpu(CpuId(1), || {
            world.unlink_and_defer();
            for _ in 0..2 {
                world.rcu.quiescent();
                world.rcu.poll();
            }
        });
        idler.join().unwrap();
    });
}

/// One CPU returns from idle and reads, one unlinks, and a third, which knows nothing of either, completes the grace period.
#[test]
fn a_third_cpu_finds_nobody_idle_who_has_returned() {
    explore("rcu scan", 3, || {
        // None but the idler, once it is back, can hold the grace period up.
        let world = World::new(3, &[0, 1, 2]);
        on_cpu(CpuId(2), || world.defer(&world.other));
        let idler = {
            let world = world.clone();
            spawn(0, move || {
                world.rcu.idle_exit();
                world.read();
            })
        };
        let scanner = {
            let world = world.clone();
            spawn(2, move || world.rcu.poll())
        };
        on_cpu(CpuId(1), || {
            world.unlink_and_defer();
            world.rcu.poll();
        });
        idler.join().unwrap();
        scanner.join().unwrap();
    });
}

/// The reader reports, a second CPU completes the grace period, and a third frees.
#[test]
fn the_end_of_a_grace_period_carries_the_reports_along() {
    explore("rcu completed", 3, || {
        let world = World::new(3, &[]);
        on_cpu(CpuId(2), || {
            world.unlink_and_defer();
            world.rcu.poll();
            world.rcu.quiescent();
        });
        on_cpu(CpuId(1), || {
            world.defer(&world.other);
            world.rcu.quiescent();
        });
        let reader = {
            let world = world.clone();
            spawn(0, move || {
                // It had found the object before the unlinking.
                let guard = world.rcu.read();
                world.object.look();
                drop(guard);
                world.rcu.quiescent();
            })
        };
        let freer = {
            let world = world.clone();
            spawn(2, move || world.rcu.poll())
        };
        on_cpu(CpuId(1), || world.rcu.poll());
        reader.join().unwrap();
        freer.join().unwrap();
    });
}

#[test]
fn a_barrier_returns_after_the_callbacks_of_all_cpus() {
    explore("rcu barrier", 2, || {
        let world = World::new(2, &[0]);
        on_cpu(CpuId(0), || world.defer(&world.object));
        let owner = {
            let world = world.clone();
            spawn(0, move || world.rcu.poll())
        };
        on_cpu(CpuId(1), || world.rcu.barrier());
        assert!(world.object.was_freed());
        owner.join().unwrap();
    });
}

#[test]
fn synchronize_waits_for_the_readers_of_before() {
    explore("rcu synchronize", 3, || {
        let world = World::new(2, &[]);
        let reader = {
            let world = world.clone();
            spawn(0, move || {
                world.read();
                world.rcu.quiescent();
                world.read();
                world.rcu.idle_enter();
            })
        };
        on_cpu(CpuId(1), || {
            world.linked.store(0, Ordering::Release);
            world.rcu.synchronize();
            // SAFETY: loom checks that nobody reads.
            world.object.body.with_mut(|body| unsafe { *body = 1 });
        });
        reader.join().unwrap();
    });
}
