//! Models of the park word: one thread that falls asleep, and who wakes it.
#![cfg(loom)]

mod model;

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicUsize, Ordering};
use model::{explore, spawn};
use sync::park::{BeginPark, Enqueue, ParkWord};

/// A thread: its saved context, and what its wakers have for it. Loom reports accesses to these that are not ordered.
struct Sleeper {
    word: ParkWord,
    context: UnsafeCell<usize>,
    messages: [UnsafeCell<usize>; 2],
    /// Times that somebody took it out of its sleep, or that it did not sleep at all.
    ran: AtomicUsize,
}

// SAFETY: loom checks every access to the cells.
unsafe impl Send for Sleeper {}
// SAFETY: as above.
unsafe impl Sync for Sleeper {}

impl Sleeper {
    fn new() -> Arc<Sleeper> {
        Arc::new(Sleeper {
            word: ParkWord::new(),
            context: UnsafeCell::new(0),
            messages: [UnsafeCell::new(0), UnsafeCell::new(0)],
            ran: AtomicUsize::new(0),
        })
    }

    /// The thread parks once on the calling CPU, which then saves its context; runs it again if that falls to this CPU.
    fn park(&self, expected: &[usize]) {
        match self.word.begin_park() {
            BeginPark::Notified => self.awake(expected),
            BeginPark::Sleep => {
                // SAFETY: loom checks that nobody runs the thread meanwhile.
                self.context.with_mut(|context| unsafe { *context += 1 });
                if self.word.end_switch() == Enqueue::Caller {
                    self.run(expected);
                }
            }
        }
    }

    /// A waker on the calling CPU; runs the thread if that falls to it.
    fn wake(&self, message: usize, expected: &[usize]) {
        // SAFETY: loom checks that the thread does not look before it is told.
        self.messages[message].with_mut(|message| unsafe { *message = 1 });
        if self.word.notify() == Enqueue::Caller {
            self.run(expected);
        }
    }

    /// The thread runs again, from its saved context.
    fn run(&self, expected: &[usize]) {
        // SAFETY: loom checks that the context was saved before.
        self.context.with_mut(|context| unsafe { *context += 1 });
        self.word.consume();
        self.awake(expected);
    }

    /// The thread is back: it looks at what it was woken for.
    fn awake(&self, expected: &[usize]) {
        for &message in expected {
            // SAFETY: loom checks that the waker wrote before.
            assert_eq!(self.messages[message].with(|message| unsafe { *message }), 1);
        }
        self.ran.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_sleep_is_ended_by_exactly_one_side() {
    explore("park", 4, || {
        let sleeper = Sleeper::new();
        let waker = sleeper.clone();
        let waker = spawn(1, move || waker.wake(0, &[0]));
        sleeper.park(&[0]);
        waker.join().unwrap();
        assert_eq!(sleeper.ran.load(Ordering::Relaxed), 1, "the thread sleeps for ever, or runs twice");
    });
}

#[test]
fn two_wakers_end_one_sleep() {
    explore("park, two wakers", 3, || {
        let sleeper = Sleeper::new();
        let wakers: Vec<_> = (0..2)
            .map(|message| {
                let sleeper = sleeper.clone();
                spawn(message as u32 + 1, move || sleeper.wake(message, &[]))
            })
            .collect();
        sleeper.park(&[]);
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
        // The second wake-up may have found it awake: then the next park returns at once, which the word must say.
        let ran = sleeper.ran.load(Ordering::Relaxed);
        assert_eq!(ran, 1, "the thread sleeps for ever, or runs twice");
    });
}
