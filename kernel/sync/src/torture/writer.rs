//! The writer: replaces what readers look at, and lets grace periods make it older, step by step, until it is used again.

use core::ptr::NonNull;

use super::{ELEMENTS, Element, Numbers, PIPE, Publish, Run, Torture};
use crate::primitive::Ordering;
use crate::{Platform, RcuHead};

impl<P: Platform> Run<P> {
    /// **The writer**, one only: replaces the element as often as planned, and waits for grace periods in every way. At the
    /// end it takes the last element away and waits until all have come back.
    pub fn writer(&self) {
        let mut numbers = Numbers::new(self.plan.seed, 0);
        // Those that wait for a grace period of this thread's.
        let mut removed = Removed::new();
        for number in 1..=self.plan.updates {
            if self.stopped() {
                break;
            }
            self.update(number, &mut numbers, &mut removed);
            (self.plan.around.between)(self.rcu, numbers.draw());
        }
        self.end();
        if let Some(last) = self.swap_current(0) {
            self.defer(last);
        }
        // Each barrier brings each callback one step on.
        for _ in 0..=PIPE {
            self.rcu.barrier();
            removed.age(self);
        }
        self.rcu.barrier();
        let totals = &self.torture.totals;
        totals.left.store(self.torture.elements.iter().filter(|element| element.is_taken()).count() as u64);
    }

    fn update(&self, number: u64, numbers: &mut Numbers, removed: &mut Removed) {
        let Some(index) = self.take(numbers) else {
            self.torture.totals.starved.add(1);
            self.rcu.synchronize();
            removed.age(self);
            return;
        };
        let element = &self.torture.elements[index];
        element.age.store(0, Ordering::Relaxed);
        if self.plan.publish == Publish::Filled {
            element.number.store(number, Ordering::Relaxed);
        }
        let old = self.swap_current(index + 1);
        if self.plan.publish == Publish::First {
            (0..numbers.draw() % 64).for_each(|_| P::relax());
            element.number.store(number, Ordering::Relaxed);
        }
        self.torture.totals.updates.add(1);
        let Some(old) = old else { return };
        match numbers.draw() % 8 {
            0 => {
                if removed.is_full() {
                    self.defer(old)
                } else {
                    removed.push(old)
                }
                self.rcu.synchronize();
                removed.age(self);
            }
            // Several for one grace period.
            1 if !removed.is_full() => removed.push(old),
            _ => self.defer(old),
        }
    }

    /// Publishes `next`, an element's number and one, or 0. The element that was current before is found no more.
    fn swap_current(&self, next: usize) -> Option<usize> {
        // Release: who finds the element finds it filled.
        let old = self.torture.current.swap(next, Ordering::Release).checked_sub(1)?;
        self.torture.step(old);
        Some(old)
    }

    /// An element that is out of use.
    fn take(&self, numbers: &mut Numbers) -> Option<usize> {
        let first = numbers.draw() as usize % ELEMENTS;
        let mut order = (first..ELEMENTS).chain(0..first);
        // Acquire: its last callback is over. The writer is the only taker.
        let index = order.find(|&index| !self.torture.elements[index].is_taken())?;
        self.torture.elements[index].taken.store(true, Ordering::Relaxed);
        Some(index)
    }

    /// Lets grace periods make the element at `index` older, one by one.
    fn defer(&self, index: usize) {
        let element = &self.torture.elements[index];
        element.run.store(core::ptr::from_ref(self.torture).cast_mut(), Ordering::Relaxed);
        // SAFETY: the element is a static's, was replaced, and is in no queue.
        unsafe { self.rcu.defer(NonNull::from(element).cast(), Torture::<P>::grown_older) };
    }
}

impl<P: Platform> Element<P> {
    fn is_taken(&self) -> bool {
        // Acquire: whoever gave it back has done with it.
        self.taken.load(Ordering::Acquire)
    }
}

impl<P: Platform> Torture<P> {
    /// The element at `index` is one step older; false when it has come to its end and is out of use.
    fn step(&self, index: usize) -> bool {
        let element = &self.elements[index];
        let age = element.age.load(Ordering::Relaxed) + 1;
        element.age.store(age, Ordering::Relaxed);
        self.totals.circulated[age].add(1);
        if age < PIPE {
            return true;
        }
        element.number.store(0, Ordering::Relaxed);
        // Release: the next update comes after all this.
        element.taken.store(false, Ordering::Release);
        false
    }

    /// # Safety
    /// `head` is in an element of a torture, and was deferred by [`Run::defer`].
    unsafe fn grown_older(head: NonNull<RcuHead>) {
        // SAFETY: the head is the first field.
        let element = unsafe { head.cast::<Element<P>>().as_ref() };
        // SAFETY: the writer stored it before it deferred, from a static.
        let torture = unsafe { &*element.run.load(Ordering::Relaxed) };
        // SAFETY: likewise, when the run began.
        let rcu = unsafe { &*torture.rcu.load(Ordering::Relaxed) };
        let first = torture.elements.as_ptr().addr();
        let index = (head.addr().get() - first) / size_of::<Element<P>>();
        if torture.step(index) {
            // SAFETY: as the first time; it is in no queue, because its callback runs.
            unsafe { rcu.defer(head, Self::grown_older) };
        }
    }
}

/// Replaced elements that the writer makes older itself, when it has waited for a grace period.
struct Removed {
    indices: [usize; Removed::MOST],
    len: usize,
}

impl Removed {
    const MOST: usize = 16;

    fn new() -> Removed {
        Removed { indices: [0; Removed::MOST], len: 0 }
    }

    fn is_full(&self) -> bool {
        self.len == Removed::MOST
    }

    fn push(&mut self, index: usize) {
        self.indices[self.len] = index;
        self.len += 1;
    }

    /// A grace period has passed since the last of them was replaced.
    fn age<P: Platform>(&mut self, run: &Run<P>) {
        let mut kept = 0;
        for place in 0..self.len {
            let index = self.indices[place];
            if run.torture.step(index) {
                self.indices[kept] = index;
                kept += 1;
            }
        }
        self.len = kept;
    }
}
