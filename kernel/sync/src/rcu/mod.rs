//! RCU: when does nobody hold a pointer any more that was unlinked?
//!
//! Readers pay nothing: the kernel is not preemptible, so a CPU that is in user mode, idle, or switching threads is in
//! no read section. Such a moment is a *quiescent state*. When every CPU has passed one since an object was unlinked, a
//! *grace period* is over and the object can be freed.
//!
//! - Grace periods are numbered. `started` is the last that has begun, `completed` the last that is over; at most one
//!   runs. Each CPU notes in `seen` the last one for which it has reported; `IDLE` counts for all.
//! - [`Rcu::defer`] puts an object into its CPU's queue. Objects wait for the first grace period that *starts* after
//!   they were unlinked (`callbacks`).
//! - Nobody drives grace periods but those who wait for one: [`Rcu::poll`], [`Rcu::synchronize`], [`Rcu::barrier`].
//!
//! **Why it is right.** Let D unlink an object, fence, and read `started == g - 1`: the object waits for `g`. Let X report
//! for `g`: it reads `started >= g`, fences, stores `seen`. D's read came before X's in the order of `started`, so D's
//! fence comes before X's, and X's later sections see the unlinking. X's earlier sections come before its store, which
//! the scan of `g` acquires, hence before `completed = g`, which the freeing CPU acquires. An idle CPU reports nothing; the
//! scan fences and finds it idle, so if it leaves idle (store, fence) unseen, its fence comes after the scan's, which
//! comes after D's for the same reason.
//!
//! Callers and duties: `sched` calls `quiescent` at every thread switch and at interrupts from user mode, `idle_enter` and
//! `idle_exit` around the halt, `poll` from the tick and the idle loop.

mod callbacks;

pub use callbacks::RcuHead;

use core::marker::PhantomData;
// Not the façade's, for the nesting count alone: each CPU's own, ordered with nothing.
use core::sync::atomic::AtomicU32;

use abi::event::Kind;

use self::callbacks::Callbacks;
use crate::order::{self, Class, Mode, NO_RANGE, Wait, Waiting};
use crate::primitive::{AtomicU64, AtomicUsize, MAX_CPUS, Ordering, Padded, array_of, const_unless_loom, fence_named};
use crate::primitive::{load_own, mutant, weaken};
use crate::spin::{SpinLock, spin_lock};
use crate::{CpuId, CpuSet, Platform, point};

/// In `seen`: idle or offline, quiescent for every grace period.
const IDLE: u64 = u64::MAX;
/// In `seen`: nothing reported since idle. Grace periods start at 1.
const NOTHING: u64 = 0;
/// How long a thread that waits for a grace period sleeps before it looks again, in nanoseconds.
const PATIENCE_NS: u64 = 200_000;

/// One CPU's part.
struct CpuState<P: Platform> {
    /// The last grace period that this CPU reported for, or [`IDLE`]. Written by the CPU itself (or for it, before it
    /// runs); read by scans.
    seen: AtomicU64,
    /// Length of `callbacks`, running ones included. Written under its lock.
    queued: AtomicUsize,
    callbacks: SpinLock<P, Callbacks>,
    /// Depth of read sections on this CPU.
    nesting: AtomicU32,
    /// Grace periods that this CPU found complete.
    found: AtomicU64,
}

/// The grace periods of one machine.
pub struct Rcu<P: Platform> {
    started: Padded<AtomicU64>,
    completed: Padded<AtomicU64>,
    cpus: [Padded<CpuState<P>>; MAX_CPUS],
}

impl<P: Platform> Rcu<P> {
    const_unless_loom! {
        /// No CPU is online, nothing is queued. `const`, but not in loom models.
        pub fn new() -> Self {
            Rcu {
                started: Padded(AtomicU64::new(0)),
                completed: Padded(AtomicU64::new(0)),
                cpus: array_of!(Padded(CpuState {
                    seen: AtomicU64::new(IDLE),
                    queued: AtomicUsize::new(0),
                    callbacks: spin_lock(Class::RcuQueue, Callbacks::new()),
                    nesting: AtomicU32::new(0),
                    found: AtomicU64::new(0),
                }); MAX_CPUS),
            }
        }
    }

    fn own(&self) -> &CpuState<P> {
        &self.cpus[P::cpu().index()].0
    }

    /// Begins a read section: pointers found inside stay valid until the guard is dropped. Sections nest. The thread must
    /// not sleep in one.
    #[inline]
    #[track_caller]
    pub fn read(&self) -> RcuGuard<'_, P> {
        let own = self.own();
        debug_assert!(load_own(&own.seen) != IDLE, "RCU read section on an idle or offline CPU");
        // Interrupt handlers' sections nest inside the store, so a plain load and store do.
        own.nesting.store(own.nesting.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        order::acquired::<P>(Class::RcuRead, Mode::Read, address_of(&own.nesting), NO_RANGE);
        RcuGuard { nesting: &own.nesting, not_send: PhantomData }
    }

    /// Whether this CPU is in a read section.
    pub fn in_reader(&self) -> bool {
        self.own().nesting.load(Ordering::Relaxed) != 0
    }

    /// `cpu` takes part from now on: called by it, or for it before it runs its first read section.
    pub fn online(&self, cpu: CpuId) {
        self.leave_idle(cpu);
    }

    /// This CPU passes a quiescent state: no read section is open on it, not even one that was interrupted. Cheap when
    /// no grace period is waiting. Without effect on an idle or offline CPU.
    #[inline]
    pub fn quiescent(&self) {
        let own = self.own();
        let started = self.started.0.load(Ordering::Relaxed);
        let seen = load_own(&own.seen);
        if seen == started || seen == IDLE {
            return;
        }
        debug_assert!(!self.in_reader(), "quiescent state inside a read section");
        self.report(own, started);
    }

    /// Reports for all grace periods up to `started` on this CPU.
    #[inline]
    fn report(&self, own: &CpuState<P>, started: u64) {
        point!(P, "rcu-reporting");
        // Before it, our sections; after it, the report (which it makes a release) and our next sections, which see all
        // that was unlinked before `started` began.
        fence_named("rcu-quiescent-fence");
        own.seen.store(started, Ordering::Relaxed);
    }

    /// This CPU goes idle: no read section until [`Rcu::idle_exit`], not in interrupt handlers either.
    pub fn idle_enter(&self) {
        debug_assert!(!self.in_reader(), "idle inside a read section");
        // Release: our sections come before any grace period that counts us as idle.
        self.own().seen.store(IDLE, weaken("rcu-idle-release", Ordering::Release));
    }

    /// This CPU is not idle any more.
    pub fn idle_exit(&self) {
        self.leave_idle(P::cpu());
    }

    fn leave_idle(&self, cpu: CpuId) {
        self.cpus[cpu.index()].0.seen.store(NOTHING, Ordering::Relaxed);
        point!(P, "rcu-waking");
        // Store buffering with the scan: either it sees that we are back, or our sections see what was unlinked.
        fence_named("rcu-idle-exit-fence");
    }

    /// Sleeps until a grace period has begun and ended: afterwards no read section is open that was open at the call.
    /// The caller is in no read section and holds no spin lock.
    ///
    /// # Panics
    /// In debug builds, where nobody may sleep ([`crate::order::may_sleep`]).
    #[track_caller]
    pub fn synchronize(&self) {
        order::may_sleep::<P>();
        let _waiting = self.waiting(self.target());
        let target = self.target();
        while !self.reached(target) {
            self.wait_a_little(target);
        }
    }

    /// The number of the last complete grace period.
    pub fn completed(&self) -> u64 {
        self.completed.0.load(Ordering::Relaxed)
    }

    /// How many grace periods `cpu` was the one to complete (`abi`'s counter `rcu_gp`).
    pub fn grace_periods(&self, cpu: CpuId) -> u64 {
        self.cpus[cpu.index()].0.found.load(Ordering::Relaxed)
    }

    /// The first grace period that is sure to start after what the caller has unlinked.
    fn target(&self) -> u64 {
        fence_named("rcu-target-fence");
        let started = self.started.0.load(Ordering::Relaxed);
        if mutant("rcu-target-too-low") || P::planted("rcu-target-too-low") { started } else { started + 1 }
    }

    /// Whether grace period `target` is over; brings it nearer if not. `target` came from [`Rcu::target`].
    fn reached(&self, target: u64) -> bool {
        loop {
            // Acquire: the read sections that the grace period waited for come before what we do next.
            let completed = self.completed.0.load(weaken("rcu-completed-acquire", Ordering::Acquire));
            if completed >= target {
                return true;
            }
            // One at a time: the next begins if none runs. Relaxed: numbers alone; the fences around order the rest.
            let (from, to) = (completed, completed + 1);
            let begun = self.started.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
            let started = match begun {
                Ok(_) => {
                    P::event(Kind::GraceBegin, to, 0);
                    point!(P, "rcu-started");
                    to
                }
                Err(running) => running,
            };
            if !self.scan(started, completed) {
                return false;
            }
        }
    }

    /// Completes grace period `number`, which has started, if every CPU has reported or is idle.
    fn scan(&self, number: u64, completed: u64) -> bool {
        // Store buffering with a CPU that leaves idle.
        fence_named("rcu-scan-fence");
        if !self.laggards(number).is_empty() {
            return false;
        }
        // Release: the reports that we acquired come before whoever sees the grace period complete.
        let order = weaken("rcu-completed-release", Ordering::Release);
        if self.completed.0.compare_exchange(completed, number, order, Ordering::Relaxed).is_ok() {
            let found = &self.own().found;
            found.store(found.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            P::event(Kind::GraceEnd, number, 0);
            point!(P, "rcu-completed");
        }
        true
    }

    /// The CPUs that have not reported for grace period `number`.
    fn laggards(&self, number: u64) -> CpuSet {
        let mut laggards = CpuSet::EMPTY;
        let forgotten = usize::from(mutant("rcu-forgets-a-cpu") || P::planted("rcu-forgets-a-cpu"));
        for (index, cpu) in self.cpus.iter().enumerate().skip(forgotten) {
            // Acquire: its read sections before the report come before the end of the grace period.
            if cpu.0.seen.load(weaken("rcu-seen-acquire", Ordering::Acquire)) < number {
                laggards.0 |= CpuId(index as u32).bit().0;
            }
        }
        laggards
    }

    /// Names the wait for grace period `target`, while the result lives.
    #[track_caller]
    fn waiting(&self, target: u64) -> Waiting<P> {
        let laggards = if order::CHECKED { self.laggards(target).0 } else { 0 };
        Waiting::new(Wait::GracePeriod, Class::RcuRead, laggards, NO_RANGE)
    }

    /// Asks those who have not reported, and sleeps for a moment.
    fn wait_a_little(&self, target: u64) {
        debug_assert!(!self.in_reader(), "waiting for a grace period inside a read section");
        // We are a thread in no read section, on a CPU that runs nothing else in the kernel.
        self.quiescent();
        if self.reached(target) {
            return;
        }
        P::nudge(self.laggards(target).without(P::cpu()));
        P::park(Some(P::now_ns() + PATIENCE_NS));
    }
}

impl<P: Platform> Default for Rcu<P> {
    fn default() -> Self {
        Self::new()
    }
}

fn address_of(nesting: &AtomicU32) -> u64 {
    core::ptr::from_ref(nesting).addr() as u64
}

/// A read section is open while this lives. Not to be sent, nor kept over a sleep.
#[must_use]
pub struct RcuGuard<'a, P: Platform> {
    nesting: &'a AtomicU32,
    not_send: PhantomData<*const P>,
}

impl<P: Platform> Drop for RcuGuard<'_, P> {
    #[inline]
    fn drop(&mut self) {
        order::released::<P>(Class::RcuRead, address_of(self.nesting));
        self.nesting.store(self.nesting.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
    }
}
