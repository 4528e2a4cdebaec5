//! The readers: what one sees of an element in a section, and in what kinds of section.

use super::report::Tally;
use super::{Numbers, PIPE, Run, Section};
use crate::primitive::{MAX_CPUS, Ordering};
use crate::{InterruptGuard, Platform};

impl<P: Platform> Run<P> {
    /// **A reader**: reads in all ways until the writer ends, and queues callbacks for barriers. `index`: which of the
    /// readers, from 0.
    pub fn reader(&self, index: usize) {
        let mut numbers = Numbers::new(self.plan.seed, 1 + index as u64);
        let mut tally = Tally::default();
        while !self.over() {
            let random = numbers.draw();
            match random % 8 {
                0 => self.read(Section::InterruptsOff, random, &mut tally),
                1 => self.read(Section::Interrupt, random, &mut tally),
                2 => self.read(Section::Nested, random, &mut tally),
                _ => self.read(Section::Plain, random, &mut tally),
            }
            if random % 16 == 8 {
                self.torture.posts[index % MAX_CPUS].defer(self.rcu);
            }
            (self.plan.around.between)(self.rcu, numbers.draw());
        }
        self.torture.totals.merge(&tally);
    }

    /// **A reader that comes and goes**: one section, for a thread that ends right after it, or for an interrupt handler.
    pub fn read_once(&self, section: Section, random: u64) {
        let mut tally = Tally::default();
        self.read(section, random, &mut tally);
        self.torture.totals.merge(&tally);
    }

    fn read(&self, section: Section, random: u64, tally: &mut Tally) {
        match section {
            Section::Plain => self.look(random, tally),
            Section::Nested => {
                let outer = self.rcu.read();
                self.look(random, tally);
                // The outer section alone must do as well as both.
                drop(self.rcu.read());
                (self.plan.around.inside)(self.rcu, random);
                self.look(random >> 8, tally);
                drop(outer);
            }
            Section::InterruptsOff => {
                let _off = InterruptGuard::<P>::new();
                self.look(random, tally);
            }
            Section::Interrupt => {
                // What is interrupted is a section as well.
                let _interrupted = self.rcu.read();
                (self.plan.around.interrupt)(&mut || self.look(random, tally));
            }
        }
        if tally.failures() != 0 {
            self.fail();
        }
    }

    /// One read section.
    fn look(&self, random: u64, tally: &mut Tally) {
        let torture = self.torture;
        let guard = self.rcu.read();
        let before = self.rcu.completed();
        // Acquire: the element is filled, if we find it.
        let Some(index) = torture.current.load(Ordering::Acquire).checked_sub(1) else {
            tally.nothing += 1;
            return;
        };
        let element = &torture.elements[index];
        let number = element.number.load(Ordering::Relaxed);
        if number == 0 {
            tally.unfilled += 1;
        }
        self.stay(random, before);
        if number != 0 && element.number.load(Ordering::Relaxed) != number {
            tally.reused += 1;
        }
        let age = element.age.load(Ordering::Relaxed);
        let passed = self.rcu.completed() - before;
        drop(guard);
        tally.pipe[age.min(PIPE)] += 1;
        tally.batch[(passed as usize).min(PIPE)] += 1;
    }

    /// Stays in a section: mostly not at all, sometimes a little, now and then until two grace periods have ended, which
    /// cannot be, or patience has.
    fn stay(&self, random: u64, before: u64) {
        let chance = (random >> 16) % 256;
        if chance < 4 {
            let mut left = self.plan.patience;
            while left > 0 && self.rcu.completed() < before + 2 && !self.over() {
                (self.plan.around.inside)(self.rcu, random.wrapping_add(left.into()));
                P::relax();
                left -= 1;
            }
            // Long enough, if that was too short a grace period, for what waited for it.
            if left > 0 {
                (0..32).for_each(|_| P::relax());
            }
        } else if chance < 64 {
            (0..chance).for_each(|_| P::relax());
        } else if chance < 80 {
            (self.plan.around.inside)(self.rcu, random);
        }
    }
}
